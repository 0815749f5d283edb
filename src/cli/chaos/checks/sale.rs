//! What a flash sale must show. Pure.

use crate::cli::chaos::books::{Books, standing};
use crate::cli::chaos::history::{Told, Wish};
use crate::cli::chaos::verdict::Finding;
use crate::types::HlcTimestamp;

/// Wall time and monotonic time are read one after the other, each cut to milliseconds.
const CLOCKS_MS: u64 = 2;

/// Every unit finds a shopper.
pub(in crate::cli::chaos) fn all_units_are_sold(
    history: &[Wish],
    books: &Books,
    units: u64,
) -> Finding {
    let statuses = books.statuses();
    let keys = history.iter().filter(|wish| wish.on_sale).map(|wish| wish.key.as_str());
    let sold: u64 =
        keys.filter_map(|key| statuses.get(key)).map(|orders| standing(orders).len() as u64).sum();
    let broken = if sold == units { Vec::new() } else { vec![format!("{sold} were sold")] };
    Finding::of("finally_all_units_on_sale_are_sold", format!("{sold} of {units} units"), broken)
}

/// A refusal is true: when it was told, every unit was promised to somebody. `began_ms` is the wall time at which
/// the load began; regions stamp orders by the same clock.
pub(in crate::cli::chaos) fn none_refused_while_one_was_left(
    history: &[Wish],
    books: &Books,
    units: u64,
    began_ms: u64,
) -> Finding {
    const CHECK: &str = "finally_none_refused_while_one_was_left";
    let mut placed_ms = std::collections::BTreeMap::new();
    let of_sale: std::collections::BTreeSet<&str> =
        history.iter().filter(|wish| wish.on_sale).map(|wish| wish.key.as_str()).collect();
    for intent in books.orders.values().flatten() {
        let order = intent.order.as_ref().filter(|_| of_sale.contains(intent.key.as_str()));
        if let Some(order) = order.filter(|order| order.status != "cancelled")
            && let Ok(stamp) = order.created_hlc.parse::<HlcTimestamp>()
        {
            placed_ms.insert(intent.order_id.as_str(), stamp.wall_ms);
        }
    }
    let mut placed_ms: Vec<u64> = placed_ms.into_values().collect();
    placed_ms.sort_unstable();
    let last = usize::try_from(units).ok().and_then(|units| placed_ms.get(units.checked_sub(1)?));
    let mut too_early = Vec::new();
    let mut refusals = 0;
    for wish in history.iter().filter(|wish| wish.on_sale) {
        let Some(refused) = wish.outcome() else { continue };
        if !matches!(&refused.told, Told::Refused { code, .. } if code == "insufficient_stock") {
            continue;
        }
        refusals += 1;
        let told_ms = began_ms + refused.ended_ms + CLOCKS_MS;
        match last {
            Some(last) if told_ms >= *last => {}
            Some(last) => too_early.push(format!(
                "key {}: refused {} ms before the last unit was sold",
                wish.key,
                last - told_ms
            )),
            None => too_early.push(format!("key {}: refused, and a unit is left", wish.key)),
        }
    }
    if refusals == 0 {
        return Finding::skipped(CHECK, "nobody was refused");
    }
    Finding::of(CHECK, format!("{refusals} shoppers were refused"), too_early)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::chaos::checks::testing::{acknowledged, order, refused, wish};
    use crate::cli::chaos::verdict::Outcome;

    /// Two units; the second is sold at 1,000 ms.
    fn sold() -> (Vec<Wish>, Books) {
        let sale = |key: &str, told| Wish { on_sale: true, ..wish(key, vec![told]) };
        let history = vec![
            sale("k1", acknowledged("o1", 100)),
            sale("k2", acknowledged("o2", 990)),
            sale("k3", refused(409, "insufficient_stock", 1_200)),
        ];
        let orders =
            vec![order("k1", "o1", "confirmed", 110), order("k2", "o2", "confirmed", 1_000)];
        let orders = [("a".parse().unwrap(), orders)].into();
        (history, Books { orders, ..Books::default() })
    }

    #[test]
    fn a_unit_that_is_left_and_a_refusal_that_came_too_early_are_found() {
        let (mut history, mut books) = sold();
        assert_eq!(all_units_are_sold(&history, &books, 2).outcome, Outcome::Passed);
        assert_eq!(
            none_refused_while_one_was_left(&history, &books, 2, 0).outcome,
            Outcome::Passed
        );
        assert_eq!(all_units_are_sold(&history, &books, 3).outcome, Outcome::Failed);
        assert_eq!(
            none_refused_while_one_was_left(&history, &books, 3, 0).outcome,
            Outcome::Failed
        );

        history[2].tries[0].ended_ms = 900;
        let early = none_refused_while_one_was_left(&history, &books, 2, 0);
        assert_eq!(early.outcome, Outcome::Failed);
        assert_eq!(early.counter_examples, ["key k3: refused 98 ms before the last unit was sold"]);

        let twice = order("k1", "o9", "confirmed", 120);
        books.orders.values_mut().for_each(|orders| orders.push(twice.clone()));
        assert_eq!(all_units_are_sold(&history, &books, 2).outcome, Outcome::Failed, "oversold");
    }
}
