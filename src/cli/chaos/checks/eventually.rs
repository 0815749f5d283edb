//! What comes true once everything is healed, within a time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::chaos::books::{Books, standing};
use crate::cli::chaos::faults::Window;
use crate::cli::chaos::history::Wish;
use crate::cli::chaos::scenario::Fault;
use crate::cli::chaos::verdict::Finding;
use crate::ports::Clock as _;
use crate::runtime::SystemClock;
use crate::store::Auditor;
use crate::types::RegionId;

/// From healing to the first order that the region takes.
const FIRST_ORDER_WITHIN_MS: u64 = 10_000;

/// I-20: from healing, or the last change if that is later, to equal states.
const AGREE_WITHIN_MS: u64 = 30_000;

/// From the same moment to the end of every saga: a saga of a process that died waits for its lease (10 s), a payment
/// whose answer was lost for the questions by its key.
const SAGAS_WITHIN_MS: u64 = 60_000;

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// Each region that was broken takes orders again; where the stock may sell out, it may tell so instead. Pure.
pub(in crate::cli::chaos) fn first_order_within_10_s(
    history: &[Wish],
    faults: &[Fault],
    windows: &[Window],
    is_scarce: bool,
) -> Finding {
    const CHECK: &str = "eventually_first_order_within_10_s";
    let mut slowest_ms = None;
    let mut late = Vec::new();
    for window in windows {
        let fault = &faults[window.fault].inflict;
        let Some(healed_ms) = window.to_ms else {
            late.push(format!("{fault}: was never healed"));
            continue;
        };
        for region in fault.regions() {
            let told = history.iter().filter_map(Wish::outcome);
            let by_it = told.filter(|told| told.by() == Some(region) && told.sent_ms >= healed_ms);
            let served =
                by_it.filter(|told| told.order().is_some() || (is_scarce && told.tells_sold_out()));
            match served.map(|told| told.ended_ms - healed_ms).min() {
                Some(ms) if ms <= FIRST_ORDER_WITHIN_MS => slowest_ms = slowest_ms.max(Some(ms)),
                Some(ms) => late.push(format!("{region} after {ms} ms ({fault})")),
                None => late.push(format!("{region} took no order any more ({fault})")),
            }
        }
    }
    match slowest_ms {
        None if late.is_empty() => Finding::skipped(CHECK, "no region was broken"),
        Some(ms) => Finding::of(CHECK, format!("the slowest after {ms} ms"), late),
        None => Finding::of(CHECK, "none", late),
    }
}

/// Nobody is left without an answer. Pure.
pub(in crate::cli::chaos) fn every_shopper_is_told(history: &[Wish]) -> Finding {
    let untold = history.iter().filter(|wish| wish.outcome().is_none());
    let untold = untold.map(|wish| {
        let last = wish.tries.last().map(|last| format!("{:?} from {}", last.told, last.via));
        format!("key {}: {} tries, last {}", wish.key, wish.tries.len(), last.unwrap_or_default())
    });
    let again = history.iter().filter(|wish| wish.tries.len() > 1).count();
    let detail = format!("{} shoppers, {again} of them asked more than once", history.len());
    Finding::of("eventually_every_shopper_is_told", detail, untold.collect())
}

/// Every region's state has the same hash (I-20). Asked when no saga changes anything any more.
pub(in crate::cli::chaos) async fn regions_agree_within_30_s(
    auditors: &BTreeMap<RegionId, Auditor>,
    clock: SystemClock,
) -> Finding {
    const CHECK: &str = "eventually_regions_agree_within_30_s";
    let at_rest_ms = clock.monotonic_ms();
    let deadline_ms = at_rest_ms + AGREE_WITHIN_MS;
    loop {
        let looks = auditors.iter().map(|(region, auditor)| async move {
            let hashes = auditor.hashes().await.map_err(|error| format!("{region}: {error}"))?;
            Ok::<_, String>((*region, hashes))
        });
        let hashes = futures::future::try_join_all(looks).await;
        let differing = hashes.map_or_else(|error| vec![error], |hashes| differences(&hashes));
        let now_ms = clock.monotonic_ms();
        if differing.is_empty() || now_ms >= deadline_ms {
            let detail =
                format!("{} ms after the last order and the last saga", now_ms - at_rest_ms);
            return Finding::of(CHECK, detail, differing);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

type Hashes = BTreeMap<String, (Option<String>, i64)>;

/// Ranges that are not the same everywhere.
fn differences(hashes: &[(RegionId, Hashes)]) -> Vec<String> {
    let Some(((first, one), others)) = hashes.split_first() else { return Vec::new() };
    let mut differing = Vec::new();
    for (region, other) in others {
        let ranges = one.keys().chain(other.keys().filter(|range| !one.contains_key(*range)));
        for range in ranges.filter(|range| one.get(*range) != other.get(*range)) {
            let rows = |of: &Hashes| of.get(range).map_or(0, |(_, rows)| *rows);
            differing.push(format!(
                "{range}: {} rows in {first}, {} in {region}, not the same",
                rows(one),
                rows(other)
            ));
        }
    }
    differing
}

/// Where two regions took one wish because they could not talk, all but one of its orders are cancelled (I-07).
pub(in crate::cli::chaos) async fn duplicates_yield_within_30_s(
    auditors: &BTreeMap<RegionId, Auditor>,
    run: &str,
    healed_ms: u64,
    clock: SystemClock,
) -> Finding {
    let deadline_ms = healed_ms + AGREE_WITHIN_MS;
    loop {
        let mut books = Books::default();
        let mut standing_twice = Vec::new();
        for (region, auditor) in auditors {
            match auditor.intents(run).await {
                Ok(orders) => drop(books.orders.insert(*region, orders)),
                Err(error) => standing_twice.push(format!("{region} could not be asked: {error}")),
            }
        }
        let statuses = books.statuses();
        let twice = statuses.values().filter(|orders| orders.len() > 1).count();
        standing_twice.extend(statuses.iter().filter_map(|(key, orders)| {
            let stands = standing(orders);
            (stands.len() > 1).then(|| format!("key {key}: {} stand", stands.join(" and ")))
        }));
        let now_ms = clock.monotonic_ms();
        if standing_twice.is_empty() || now_ms >= deadline_ms {
            let ms = now_ms - healed_ms;
            let detail = format!("{twice} keys were taken twice; {ms} ms after healing");
            return Finding::of("eventually_duplicates_yield_within_30_s", detail, standing_twice);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// No saga is left behind (I-16).
pub(in crate::cli::chaos) async fn sagas_end_within_60_s(
    auditors: &BTreeMap<RegionId, Auditor>,
    healed_ms: u64,
    clock: SystemClock,
) -> Finding {
    let deadline_ms = healed_ms + SAGAS_WITHIN_MS;
    loop {
        let mut open = Vec::new();
        for (region, auditor) in auditors {
            match auditor.open_sagas().await {
                Ok(sagas) => open.extend(
                    sagas
                        .into_iter()
                        .map(|(order, step)| format!("order {order} of {region}: {step}")),
                ),
                Err(error) => open.push(format!("{region} could not be asked: {error}")),
            }
        }
        let now_ms = clock.monotonic_ms();
        if open.is_empty() || now_ms >= deadline_ms {
            let detail = format!("{} ms after healing and the last order", now_ms - healed_ms);
            return Finding::of("eventually_sagas_end_within_60_s", detail, open);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::chaos::checks::testing::{acknowledged, refused, wish};
    use crate::cli::chaos::scenario::Scenario;
    use crate::cli::chaos::verdict::Outcome;

    #[test]
    fn a_region_that_comes_back_late_or_never_is_named() {
        let text = "title = \"t\"\nseconds = 20\n[load]\norders_per_second = 1\n\
                    [[faults]]\nfrom = 1\nto = 2\ninflict.kill = { region = \"a\" }";
        let faults = Scenario::parse("t", text).unwrap().faults;
        let healed = [Window { fault: 0, from_ms: 1_000, to_ms: Some(2_000) }];
        let judge = |sent_ms: u64| {
            let history = [wish("k", vec![acknowledged("o", sent_ms)])];
            first_order_within_10_s(&history, &faults, &healed, false).outcome
        };
        assert_eq!(judge(2_500), Outcome::Passed);
        assert_eq!(judge(1_500), Outcome::Failed, "only before it was healed");
        assert_eq!(judge(12_500), Outcome::Failed, "too late");
        let never = [Window { to_ms: None, ..healed[0] }];
        assert_eq!(first_order_within_10_s(&[], &faults, &never, false).outcome, Outcome::Failed);
        assert_eq!(first_order_within_10_s(&[], &faults, &[], false).outcome, Outcome::Skipped);
        let sold_out = [wish("k", vec![refused(409, "insufficient_stock", 2_500)])];
        for (is_scarce, expected) in [(false, Outcome::Failed), (true, Outcome::Passed)] {
            let finding = first_order_within_10_s(&sold_out, &faults, &healed, is_scarce);
            assert_eq!(finding.outcome, expected);
        }
    }

    #[test]
    fn a_shopper_without_an_answer_is_named() {
        let told = wish("k", vec![refused(409, "insufficient_stock", 0)]);
        assert_eq!(every_shopper_is_told(std::slice::from_ref(&told)).outcome, Outcome::Passed);
        assert_eq!(every_shopper_is_told(&[told, wish("l", vec![])]).outcome, Outcome::Failed);
    }

    #[test]
    fn a_range_that_one_region_lacks_or_has_otherwise_is_named() {
        let region = |name: &str| name.parse::<RegionId>().unwrap();
        let hash = |text: &str| (Some(text.to_owned()), 1);
        let one = BTreeMap::from([("orders/a".to_owned(), hash("x"))]);
        let other = BTreeMap::from([("orders/a".to_owned(), hash("y"))]);
        let more =
            BTreeMap::from([("orders/a".to_owned(), hash("x")), ("nodes".to_owned(), hash("z"))]);
        let count =
            |b: &Hashes| differences(&[(region("a"), one.clone()), (region("b"), b.clone())]).len();
        assert_eq!((count(&one), count(&other), count(&more)), (0, 1, 1));
    }
}
