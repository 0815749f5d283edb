use super::*;
use crate::cli::chaos::books::Hold;
use crate::cli::chaos::checks::testing::{acknowledged, order, refused, wish};
use crate::cli::chaos::verdict::Outcome;
use crate::store::{PaymentRow, RightsRow};
use crate::types::RegionId;

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

/// One unit of `s`, of which there are five, sold under key `k` in region `a`; `b` has copies.
fn good() -> (Vec<Wish>, Books, BTreeMap<String, i64>) {
    let rights = RightsRow {
        sku: "s".to_owned(),
        node: "n".to_owned(),
        region: "a".to_owned(),
        epoch: 1,
        version: 1,
        received: 5,
        promised: 1,
        withdrawn: 0,
        rights: 4,
        granted_in: 0,
        granted_out: 0,
        ceiling: 5,
    };
    let payment = PaymentRow {
        order_id: "o".to_owned(),
        provider_key: "p".to_owned(),
        amount_minor: PRICE,
        state: "authorized".to_owned(),
    };
    let hold =
        Hold { provider_key: "p".to_owned(), order: Some("o".to_owned()), amount_minor: PRICE };
    let books = Books {
        orders: ["a", "b"].map(|name| (region(name), vec![order("k", "o", "confirmed", 1)])).into(),
        rights: ["a", "b"].map(|name| (region(name), vec![rights.clone()])).into(),
        reserved: [(region("a"), [("s".to_owned(), 1)].into())].into(),
        payments: vec![payment],
        held: vec![hold],
        transfers: BTreeMap::new(),
    };
    (vec![wish("k", vec![acknowledged("o", 0)])], books, [("s".to_owned(), 5)].into())
}

/// The checks that fail, by their names.
fn failing(history: &[Wish], books: &Books, stock: &BTreeMap<String, i64>) -> Vec<&'static str> {
    let findings = [
        acknowledged_orders_are_there(history, books, &BTreeSet::new()),
        one_standing_order_per_key(history, books),
        provider_agrees(history, books),
        units_are_conserved(history, books, stock, &BTreeSet::new()),
    ];
    let failed = findings.into_iter().filter(|finding| finding.outcome == Outcome::Failed);
    failed.map(|finding| finding.check).collect()
}

const THERE: &str = "finally_acknowledged_orders_are_there";
const ONE: &str = "finally_one_standing_order_per_key";
const MONEY: &str = "finally_provider_agrees";
const UNITS: &str = "finally_units_are_conserved";

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let (history, books, stock) = good();
    assert_eq!(failing(&history, &books, &stock), [""; 0]);
}

/// A way to break what is good, and the checks that must see it.
type Damage = (&'static str, fn(&mut Vec<Wish>, &mut Books), &'static [&'static str]);

#[test]
fn each_damage_is_found_by_the_checks_that_are_for_it() {
    let damages: &[Damage] = &[
        (
            "a copy is missing",
            |_, books| books.orders.insert(region("b"), Vec::new()).map_or((), drop),
            &[THERE],
        ),
        (
            "a confirmed order was cancelled everywhere, and its money is still held",
            |_, books| {
                for intents in books.orders.values_mut() {
                    *intents = vec![order("k", "o", "cancelled", 1)];
                }
            },
            &[THERE, MONEY, UNITS],
        ),
        (
            "two orders of a key stand",
            |_, books| {
                for intents in books.orders.values_mut() {
                    intents.push(order("k", "o2", "confirmed", 2));
                }
            },
            &[ONE],
        ),
        (
            "an order stands for somebody who was refused",
            |history, _| history[0].tries = vec![refused(409, "insufficient_stock", 0)],
            &[ONE],
        ),
        ("the provider holds nothing", |_, books| books.held.clear(), &[MONEY]),
        ("the provider holds twice", |_, books| books.held.push(books.held[0].clone()), &[MONEY]),
        (
            "the provider holds something else beside it",
            |_, books| {
                let other = Hold { provider_key: "q".to_owned(), ..books.held[0].clone() };
                books.held.push(other);
            },
            &[MONEY],
        ),
        (
            "a payment is not held at home",
            |_, books| books.payments[0].state = "voided".to_owned(),
            &[MONEY],
        ),
        (
            "the price is wrong",
            |_, books| {
                books.payments[0].amount_minor = 1;
                books.held[0].amount_minor = 1;
            },
            &[MONEY],
        ),
        (
            "a unit vanished by one region's account",
            |_, books| books.rights.values_mut().last().unwrap()[0].rights = 3,
            &[UNITS],
        ),
        (
            "rights are negative",
            |_, books| {
                for rows in books.rights.values_mut() {
                    (rows[0].rights, rows[0].promised) = (-1, 6);
                }
            },
            &[UNITS],
        ),
        ("a reservation is gone", |_, books| books.reserved.clear(), &[UNITS]),
    ];
    for (what, damage, expected) in damages {
        let (mut history, mut books, stock) = good();
        damage(&mut history, &mut books);
        assert_eq!(failing(&history, &books, &stock), *expected, "{what}");
    }
}

#[test]
fn a_reconciliation_that_found_or_left_out_something_fails() {
    let report = |differences: Value, not_compared: Value, status: &str| {
        let checked = serde_json::json!({"orders": 1, "keys": 1, "payments": 1, "copies": 1});
        reconciles(&serde_json::json!({
            "status": status, "differences": differences, "not_compared": not_compared, "checked": checked,
        }))
        .outcome
    };
    let none = || serde_json::json!([]);
    assert_eq!(report(none(), none(), "finished"), Outcome::Passed);
    assert_eq!(
        report(serde_json::json!([{"class": "oversold"}]), none(), "finished"),
        Outcome::Failed
    );
    assert_eq!(report(none(), serde_json::json!([{"what": "a"}]), "finished"), Outcome::Failed);
    assert_eq!(report(none(), none(), "failed"), Outcome::Failed);
}
