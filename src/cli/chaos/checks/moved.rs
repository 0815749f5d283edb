//! How much rights moved between regions for what was sold. Pure.

use std::collections::BTreeMap;

use crate::cli::chaos::books::Books;
use crate::cli::chaos::verdict::Finding;
use crate::store::RightsRow;

/// Units that moved for a hundred that were sold. A unit lies in the wrong region at most once, and goes where it is sold.
const UNITS_MAX: i64 = 100;

/// Transfers for a hundred units that were sold. A search brings what the orders need that wait for it and eight more, as long
/// as the giver can spare them; only the last units go one by one.
const TRANSFERS_MAX: i64 = 25;

/// Units that moved to and fro for a hundred that were sold. Demand that moves on is followed, and two regions that race for
/// the last units take some from each other, up to every fourth in a flash sale; more than every second says that rights are
/// sent where they are not sold.
const TO_AND_FRO_MAX: i64 = 50;

/// What became of the rights to one SKU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Moved {
    transfers: i64,
    /// Units that went from one region to another, as often as they did.
    units: i64,
    /// Of which others went the other way: without both, each region would have the same.
    to_and_fro: i64,
    sold: i64,
}

/// Rights go to where they are sold, and stay there. `on_purpose`: an operator has moved some.
pub(in crate::cli::chaos) fn rights_do_not_wander(books: &Books, on_purpose: bool) -> Finding {
    const CHECK: &str = "finally_rights_do_not_wander";
    if on_purpose {
        return Finding::skipped(CHECK, "an operator moved rights on purpose");
    }
    let skus = moved(books);
    let sum = |part: fn(&Moved) -> i64| skus.values().map(part).sum::<i64>();
    let sold = sum(|moved| moved.sold);
    if sold == 0 {
        return Finding::skipped(CHECK, "nothing was sold");
    }
    let mut broken = Vec::new();
    let mut of_hundred = |what: &str, count: i64, max: i64| {
        let tenths = count * 1_000 / sold;
        if tenths > max * 10 {
            broken.push(format!("{what}: {count} for {sold} units, and {max} for 100 at most"));
        }
        format!("{}.{} {what}", tenths / 10, tenths % 10)
    };
    let detail = format!(
        "for 100 units sold {}, {}, {}",
        of_hundred("units moved", sum(|moved| moved.units), UNITS_MAX),
        of_hundred("transfers", sum(|moved| moved.transfers), TRANSFERS_MAX),
        of_hundred("units to and fro", sum(|moved| moved.to_and_fro), TO_AND_FRO_MAX),
    );
    Finding::of(CHECK, detail, broken)
}

fn moved(books: &Books) -> BTreeMap<&str, Moved> {
    let mut newest: BTreeMap<_, &RightsRow> = BTreeMap::new();
    for row in books.rights.values().flatten() {
        let place = newest.entry((&row.sku, &row.node, &row.region, row.epoch)).or_insert(row);
        if row.version > place.version {
            *place = row;
        }
    }
    let mut skus: BTreeMap<&str, Moved> = BTreeMap::new();
    let mut gained: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for row in newest.values() {
        let moved = skus.entry(&row.sku).or_default();
        moved.units += row.granted_out;
        moved.sold += row.promised;
        *gained.entry((&row.sku, &row.region)).or_default() += row.granted_in - row.granted_out;
    }
    for moved in skus.values_mut() {
        moved.to_and_fro = moved.units;
    }
    for ((sku, _), units) in gained {
        if let Some(moved) = skus.get_mut(sku) {
            moved.to_and_fro -= units.max(0);
        }
    }
    for transfer in books.transfers.values() {
        if let Some(moved) = skus.get_mut(transfer.sku.as_str()) {
            moved.transfers += 1;
        }
    }
    skus
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::chaos::verdict::Outcome;
    use crate::store::TransferRow;

    /// A region by how much it got, gave and sold.
    type Flow<'a> = (&'a str, i64, i64, i64);

    fn books(flows: &[Flow<'_>], transfers: usize) -> Books {
        let row = |&(region, granted_in, granted_out, promised): &Flow<'_>| RightsRow {
            sku: "s".to_owned(),
            node: "n".to_owned(),
            region: region.to_owned(),
            epoch: 1,
            version: 1,
            received: 100,
            promised,
            withdrawn: 0,
            rights: 0,
            granted_in,
            granted_out,
            ceiling: 100,
        };
        let rows: Vec<_> = flows.iter().map(row).collect();
        let transfer = |number: usize| TransferRow {
            transfer_id: number.to_string(),
            sku: "s".to_owned(),
            units: 1,
        };
        Books {
            // Every region knows the same: each unit counts once.
            rights: ["a", "b"].map(|by| (by.parse().unwrap(), rows.clone())).into(),
            transfers: (0..transfers).map(|it| (it.to_string(), transfer(it))).collect(),
            ..Books::default()
        }
    }

    #[test]
    fn rights_that_go_where_they_are_sold_are_told_from_those_that_wander() {
        let judge =
            |flows: &[Flow<'_>], transfers| rights_do_not_wander(&books(flows, transfers), false);
        let good = judge(&[("a", 60, 0, 100), ("b", 0, 60, 0)], 3);
        assert_eq!(good.outcome, Outcome::Passed, "{good:?}");
        assert_eq!(
            good.detail,
            "for 100 units sold 60.0 units moved, 3.0 transfers, 0.0 units to and fro"
        );
        let still = judge(&[("a", 0, 0, 100), ("b", 0, 0, 0)], 0);
        assert_eq!(still.outcome, Outcome::Passed);
        let too_much = judge(&[("a", 101, 0, 100), ("b", 0, 101, 0)], 3);
        assert_eq!(too_much.outcome, Outcome::Failed, "more moved than was sold");
        let one_by_one = judge(&[("a", 60, 0, 100), ("b", 0, 60, 0)], 26);
        assert_eq!(one_by_one.outcome, Outcome::Failed, "in too many transfers");
        let back = judge(&[("a", 40, 34, 100), ("b", 34, 40, 0)], 3);
        assert_eq!(back.outcome, Outcome::Failed, "most of it came back");
        assert!(back.counter_examples[0].starts_with("units to and fro: 68"), "{back:?}");
        let around = judge(&[("a", 20, 20, 100), ("b", 20, 20, 0), ("c", 20, 20, 0)], 3);
        assert_eq!(around.outcome, Outcome::Failed, "in a circle");
        let idle = judge(&[("a", 0, 0, 0)], 0);
        assert_eq!(idle.outcome, Outcome::Skipped);
        let on_purpose = rights_do_not_wander(&books(&[("a", 500, 0, 1)], 1), true);
        assert_eq!(on_purpose.outcome, Outcome::Skipped);
    }
}
