//! What holds while things are broken, read from what shoppers were told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::chaos::faults::Window;
use crate::cli::chaos::history::{Told, Try, Wish};
use crate::cli::chaos::samples::Seen;
use crate::cli::chaos::scenario::Fault;
use crate::cli::chaos::verdict::Finding;
use crate::cli::latency::Latencies;
use crate::types::RegionId;

/// Regions that are not hit answer so many of a hundred first tries as if nothing were.
const NORMAL_PERCENT: usize = 99;

/// And nearly all of them within this.
const P99_MS_MAX: u32 = 1_000;

/// Refusals that tell a shopper the truth.
const LEGAL_REFUSALS: &[&str] = &["insufficient_stock", "payment_declined", "fraud_rejected"];

/// How long after healing a region may take to start, to answer and to be heard again.
const RECOVERED_WITHIN_MS: u64 = 10_000;

/// I-07: the answers to one key name one order, and an order belongs to one key. While something is broken, a region that
/// can't ask the other takes the order as well; that only one stands is seen at the end.
pub(in crate::cli::chaos) fn one_order_per_key(history: &[Wish], windows: &[Window]) -> Finding {
    let excused = |wish: &Wish| {
        let (Some(first), Some(last)) = (wish.tries.first(), wish.tries.last()) else {
            return true;
        };
        windows.iter().any(|window| {
            let to_ms = window.to_ms.map(|to_ms| to_ms + RECOVERED_WITHIN_MS);
            window.from_ms <= last.ended_ms && to_ms.is_none_or(|to_ms| to_ms >= first.sent_ms)
        })
    };
    let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let (mut broken, mut told, mut again) = (Vec::new(), 0, 0);
    for wish in history {
        let orders = wish.orders();
        for order in &orders {
            keys.entry(order).or_default().insert(&wish.key);
        }
        told += usize::from(!orders.is_empty());
        again += usize::from(wish.tries.iter().filter_map(Try::order).count() > 1);
        if orders.len() > 1 && !excused(wish) {
            broken.push(format!("key {}: {orders:?}", wish.key));
        }
    }
    let shared = keys.into_iter().filter(|(_, keys)| keys.len() > 1);
    broken.extend(shared.map(|(order, keys)| format!("order {order}: {keys:?}")));
    let detail = format!("{told} keys were acknowledged, {again} of them again in another region");
    Finding::of("anytime_one_order_per_key", detail, broken)
}

/// Nobody is told anything that the API does not promise.
pub(in crate::cli::chaos) fn only_documented_answers(history: &[Wish]) -> Finding {
    let tries = history.iter().flat_map(|wish| wish.tries.iter().map(move |one| (wish, one)));
    let mut strange = Vec::new();
    let mut count = 0;
    for (wish, one) in tries {
        count += 1;
        if let Told::Refused { status, code, .. } = &one.told
            && !LEGAL_REFUSALS.contains(&code.as_str())
        {
            strange.push(format!("key {}: {status} {code} by way of {}", wish.key, one.via));
        }
    }
    Finding::of("anytime_only_documented_answers", format!("{count} tries"), strange)
}

/// I-01: never is more promised than there is.
pub(in crate::cli::chaos) fn never_oversold(seen: &Seen) -> Finding {
    const CHECK: &str = "anytime_never_oversold";
    if seen.stock_looks == 0 {
        return Finding::skipped(CHECK, "no region's database could be looked at");
    }
    let detail = format!("{} looks at all regions' rights", seen.stock_looks);
    Finding::of(CHECK, detail, seen.oversold.clone())
}

/// While a fault is there, regions that nothing is done to answer as ever. Where the stock may sell out, that there is none is
/// such an answer.
pub(in crate::cli::chaos) fn regions_not_hit_answer(
    history: &[Wish],
    faults: &[Fault],
    windows: &[Window],
    is_scarce: bool,
) -> Finding {
    const CHECK: &str = "anytime_regions_not_hit_answer";
    let is_open = |window: &Window, at_ms: u64, after_ms: u64| {
        window.from_ms <= at_ms && window.to_ms.is_none_or(|to_ms| at_ms < to_ms + after_ms)
    };
    let broken = |at_ms: u64| windows.iter().any(|window| is_open(window, at_ms, 0));
    let hit = |region: RegionId, at_ms: u64| {
        let mut hits =
            windows.iter().filter(|window| faults[window.fault].inflict.hits() == Some(region));
        hits.any(|window| is_open(window, at_ms, RECOVERED_WITHIN_MS))
    };
    let mut latencies = Latencies::default();
    let (mut normal, mut others) = (0, Vec::new());
    for wish in history.iter().filter(|wish| wish.card == "tok_ok" && !wish.on_sale) {
        let Some(first) = wish.tries.first().filter(|first| broken(first.sent_ms)) else {
            continue;
        };
        if hit(wish.home, first.sent_ms) || first.told == Told::HungUp {
            continue;
        }
        latencies.add(first.ended_ms - first.sent_ms);
        if first.order().is_some() || (is_scarce && first.tells_sold_out()) {
            normal += 1;
        } else {
            let (via, at_s) = (first.via, first.sent_ms / 1_000);
            others.push(format!("key {} by way of {via} at {at_s} s: {:?}", wish.key, first.told));
        }
    }
    let all = normal + others.len();
    if all == 0 {
        return Finding::skipped(
            CHECK,
            "no order went to such a region while something was broken",
        );
    }
    let p99_ms = latencies.percentile(99);
    let detail = format!(
        "{normal} of {all} first tries answered as ever, p50 {} ms, p99 {p99_ms} ms",
        latencies.percentile(50)
    );
    let mut counter_examples = Vec::new();
    if normal * 100 < all * NORMAL_PERCENT {
        counter_examples = others;
    }
    if p99_ms >= P99_MS_MAX {
        counter_examples.push(format!("p99 is {p99_ms} ms, and must be below {P99_MS_MAX} ms"));
    }
    Finding::of(CHECK, detail, counter_examples)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::chaos::checks::testing::{acknowledged, refused, wish};
    use crate::cli::chaos::verdict::Outcome;

    fn killed(region: &str) -> Vec<Fault> {
        let text = format!(
            "title = \"t\"\nseconds = 20\n[load]\norders_per_second = 1\n\
             [[faults]]\nfrom = 1\nto = 2\ninflict.kill = {{ region = \"{region}\" }}"
        );
        crate::cli::chaos::scenario::Scenario::parse("t", &text).unwrap().faults
    }

    const WINDOW: Window = Window { fault: 0, from_ms: 1_000, to_ms: Some(2_000) };

    #[test]
    fn two_orders_of_one_key_and_two_keys_of_one_order_are_found() {
        let one_order_per_key = |history: &[Wish]| one_order_per_key(history, &[WINDOW]);
        let good =
            [wish("k1", vec![acknowledged("o1", 0)]), wish("k2", vec![acknowledged("o2", 0)])];
        assert_eq!(one_order_per_key(&good).outcome, Outcome::Passed);
        let twice = [wish("k1", vec![acknowledged("o1", 0), acknowledged("o2", 5)])];
        assert_eq!(one_order_per_key(&twice).outcome, Outcome::Failed);
        let shared =
            [wish("k1", vec![acknowledged("o", 0)]), wish("k2", vec![acknowledged("o", 0)])];
        assert_eq!(one_order_per_key(&shared).outcome, Outcome::Failed);
    }

    #[test]
    fn a_region_that_can_not_ask_may_take_an_order_again_for_a_while() {
        let judge = |ms| {
            let twice = wish("k", vec![acknowledged("o1", ms), acknowledged("o2", ms + 5)]);
            one_order_per_key(&[twice], &[WINDOW]).outcome
        };
        assert_eq!(judge(500), Outcome::Failed, "nothing is broken yet");
        assert_eq!((judge(1_500), judge(11_000)), (Outcome::Passed, Outcome::Passed));
        assert_eq!(judge(13_000), Outcome::Failed, "the region is heard again");
    }

    #[test]
    fn an_answer_that_nobody_promised_is_found() {
        let good = [wish("k", vec![refused(409, "insufficient_stock", 0)])];
        assert_eq!(only_documented_answers(&good).outcome, Outcome::Passed);
        let bad = [wish("k", vec![refused(500, "internal", 0)])];
        assert_eq!(only_documented_answers(&bad).outcome, Outcome::Failed);
    }

    #[test]
    fn a_region_is_excused_only_while_and_where_it_is_hit() {
        let failing = |at_ms| [wish("k", vec![refused(503, "dependency_unavailable", at_ms)])];
        let judge = |history: &[Wish], region: &str| {
            regions_not_hit_answer(history, &killed(region), &[WINDOW], false).outcome
        };
        assert_eq!(judge(&failing(1_500), "b"), Outcome::Failed);
        assert_eq!(judge(&failing(1_500), "a"), Outcome::Skipped, "its own region is hit");
        assert_eq!(judge(&failing(500), "b"), Outcome::Skipped, "nothing is broken yet");
        let long = Window { to_ms: Some(60_000), ..WINDOW };
        let (hit, other) = (killed("a"), killed("b"));
        let both = [hit, other].concat();
        let healed = |at_ms| {
            let windows = [WINDOW, Window { fault: 1, ..long }];
            regions_not_hit_answer(&failing(at_ms), &both, &windows, false).outcome
        };
        assert_eq!(healed(11_500), Outcome::Skipped, "it may still recover");
        assert_eq!(healed(12_500), Outcome::Failed, "another one is hit by now");
        let sold_out = [wish("k", vec![refused(409, "insufficient_stock", 1_500)])];
        assert_eq!(judge(&sold_out, "b"), Outcome::Failed, "there was more than enough");
        let scarce = regions_not_hit_answer(&sold_out, &killed("b"), &[WINDOW], true);
        assert_eq!(scarce.outcome, Outcome::Passed);
        let slow = |ms| {
            let mut told = acknowledged("o", 1_500);
            told.ended_ms = told.sent_ms + ms;
            [wish("k", vec![told])]
        };
        assert_eq!(judge(&slow(200), "b"), Outcome::Passed);
        assert_eq!(judge(&slow(1_000), "b"), Outcome::Failed, "p99");
    }

    #[test]
    fn stock_that_nobody_looked_at_is_not_passed() {
        let mut seen = Seen::default();
        assert_eq!(never_oversold(&seen).outcome, Outcome::Skipped);
        seen.stock_looks = 1;
        assert_eq!(never_oversold(&seen).outcome, Outcome::Passed);
        seen.oversold.push("3 of 2".to_owned());
        assert_eq!(never_oversold(&seen).outcome, Outcome::Failed);
    }
}
