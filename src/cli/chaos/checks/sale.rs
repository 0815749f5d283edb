//! What a flash sale must show. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::chaos::books::{Books, standing};
use crate::cli::chaos::history::Wish;
use crate::cli::chaos::verdict::Finding;
use crate::types::HlcTimestamp;

/// Wall time and monotonic time are read one after the other, each cut to milliseconds.
const CLOCKS_MS: u64 = 2;

/// From the first shopper of a sale in one region to the last unit of all regions: a round trip to the furthest region
/// (182 ms), another to the nearest for the ceiling (71 ms), once for the first few orders and once for all the others, leave
/// half of it to the orders themselves.
const RIGHTS_COME_WITHIN_MS: u64 = 1_000;

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
    let placed_ms = placed_ms(history, books);
    let last = usize::try_from(units).ok().and_then(|units| placed_ms.get(units.checked_sub(1)?));
    let mut too_early = Vec::new();
    let mut refusals = 0;
    for wish in history.iter().filter(|wish| wish.on_sale) {
        let Some(refused) = wish.outcome() else { continue };
        if !refused.tells_sold_out() {
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

/// All shoppers are in one region, and a part of the units is there: the rights to all others come within a second of the
/// first shopper. `began_ms` is the wall time at which the load began.
pub(in crate::cli::chaos) fn rights_come_within_1_s(
    history: &[Wish],
    books: &Books,
    units: u64,
    here: u64,
    began_ms: u64,
) -> Finding {
    const CHECK: &str = "eventually_rights_come_within_1_s";
    let shoppers = history.iter().filter(|wish| wish.on_sale);
    let first = shoppers.clone().filter_map(|wish| wish.tries.first()).map(|first| first.sent_ms);
    let first_ms = first.min().unwrap_or(0);
    let told = shoppers.filter_map(Wish::acknowledged).map(|told| told.at_ms - first_ms);
    let told_ms = told.max().unwrap_or(0);
    let placed_ms = placed_ms(history, books);
    let sold_ms: Vec<u64> =
        placed_ms.iter().map(|ms| (ms + CLOCKS_MS).saturating_sub(began_ms + first_ms)).collect();
    let nth_ms = |unit: u64| {
        let index = usize::try_from(unit).ok().and_then(|unit| unit.checked_sub(1));
        index.and_then(|index| sold_ms.get(index)).copied()
    };
    let (Some(own_ms), Some(all_ms)) = (nth_ms(here), nth_ms(units)) else {
        return Finding::of(CHECK, "", vec![format!("{} of {units} were sold", sold_ms.len())]);
    };
    let half_ms = nth_ms(here + (units - here).div_ceil(2)).unwrap_or(all_ms);
    let detail = format!(
        "the {here} units that were there were sold after {own_ms} ms, half of the others after {half_ms} ms, all {units} \
         after {all_ms} ms: {} % of that they waited for rights; the last shopper was told after {told_ms} ms",
        (all_ms - own_ms) * 100 / all_ms.max(1)
    );
    let late = (all_ms > RIGHTS_COME_WITHIN_MS)
        .then(|| format!("the last unit was sold after {all_ms} ms"));
    Finding::of(CHECK, detail, late.into_iter().collect())
}

/// When each order of the sale that stands was placed, by the wall clocks of the regions, in order.
fn placed_ms(history: &[Wish], books: &Books) -> Vec<u64> {
    let of_sale: BTreeSet<&str> =
        history.iter().filter(|wish| wish.on_sale).map(|wish| wish.key.as_str()).collect();
    let mut placed_ms = BTreeMap::new();
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
    placed_ms
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

    #[test]
    fn rights_that_come_late_or_not_at_all_are_found() {
        let (history, mut books) = sold();
        let judge = |books: &Books, units| rights_come_within_1_s(&history, books, units, 1, 0);
        let good = judge(&books, 2);
        assert_eq!(good.outcome, Outcome::Passed, "{good:?}");
        assert!(good.detail.contains("after 12 ms") && good.detail.contains("after 902 ms"));
        assert!(good.detail.contains("98 % of that"), "{good:?}");
        assert_eq!(judge(&books, 3).outcome, Outcome::Failed, "the third was never sold");
        let late = order("k2", "o2", "confirmed", 1_099);
        books.orders.values_mut().for_each(|orders| orders[1] = late.clone());
        assert_eq!(judge(&books, 2).outcome, Outcome::Failed, "1,001 ms after the first shopper");
    }
}
