//! What regions say of themselves while a scenario runs: replication lag and rights, once a second, and how much
//! of the stock is promised.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;

use crate::cli::client::ApiClient;
use crate::cli::region::server_of;
use crate::cli::target::Target;
use crate::ports::Clock as _;
use crate::runtime::SystemClock;
use crate::store::{Auditor, RightsRow};
use crate::types::RegionId;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// A region that takes longer to say how it is isn't well, and its place in the picture stays empty.
const ANSWER_LIMIT: Duration = Duration::from_millis(900);

/// Looks before more promised than there is counts: rows of several regions are not read at one moment.
const LOOKS: u32 = 3;

/// One look at one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) region: RegionId,
    /// Since the load began.
    pub(super) at_ms: u64,
    /// How far it is behind the peer that it is furthest behind.
    pub(super) lag_ms: u64,
    /// What it may sell without asking.
    pub(super) rights: Option<u64>,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) samples: Vec<Sample>,
    /// Looks at the stock that at least one region answered.
    pub(super) stock_looks: u64,
    /// Each time more was promised than there is.
    pub(super) oversold: Vec<String>,
}

/// Looks at all regions.
pub(super) struct Sampler<'a> {
    pub(super) target: &'a Target,
    pub(super) auditors: &'a BTreeMap<RegionId, Auditor>,
    /// Since the load began.
    pub(super) clock: SystemClock,
    /// Units there are, by SKU.
    pub(super) stock: &'a BTreeMap<String, i64>,
    /// Begins every SKU of this run.
    pub(super) run: &'a str,
    pub(super) seen: &'a Mutex<Seen>,
}

impl Sampler<'_> {
    /// Looks until it is dropped.
    #[expect(clippy::infinite_loop, reason = "it looks until it is dropped")]
    pub(super) async fn run(&self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let regions = self.target.regions.iter().map(|region| self.look(*region));
            let (samples, ()) = tokio::join!(futures::future::join_all(regions), self.stock());
            let mut seen = self.seen.lock().expect("no panic while held");
            seen.samples.extend(samples.into_iter().flatten());
        }
    }

    async fn look(&self, region: RegionId) -> Option<Sample> {
        let client: ApiClient = server_of(self.target, region).ok()?;
        let asked = client.get::<Value>("/api/v1/admin/regions", self.target.admin(region));
        let answer = tokio::time::timeout(ANSWER_LIMIT, asked).await.ok()?.ok()?;
        let items = answer["items"].as_array()?;
        let lag_ms = items.iter().filter_map(|item| item["lag_ms"].as_u64()).max()?;
        let own = items.iter().find(|item| item["own"] == true)?;
        let rights = own["may_sell_alone"]["units"].as_u64();
        Some(Sample { region, at_ms: self.clock.monotonic_ms(), lag_ms, rights })
    }

    /// I-01 while things break.
    async fn stock(&self) {
        let mut found = Vec::new();
        for _ in 0..LOOKS {
            let Some(rows) = self.rights().await else { return };
            found = oversold(&rows, self.stock);
            if found.is_empty() {
                break;
            }
        }
        let at_s = self.clock.monotonic_ms() / 1_000;
        let mut seen = self.seen.lock().expect("no panic while held");
        seen.stock_looks += 1;
        seen.oversold.extend(found.into_iter().map(|what| format!("at {at_s} s: {what}")));
    }

    async fn rights(&self) -> Option<Vec<RightsRow>> {
        let looks = self.auditors.values().map(|auditor| async {
            // A frozen database is a part of the scenario.
            let look = auditor.rights(self.run);
            tokio::time::timeout(ANSWER_LIMIT, look).await.ok().and_then(Result::ok)
        });
        let answers = futures::future::join_all(looks).await;
        let rows: Vec<_> = answers.into_iter().flatten().flatten().collect();
        (!rows.is_empty()).then_some(rows)
    }
}

/// SKUs of which more is promised than there is, going by the newest row of each region that any of them has.
fn oversold(rows: &[RightsRow], stock: &BTreeMap<String, i64>) -> Vec<String> {
    let mut newest: BTreeMap<_, &RightsRow> = BTreeMap::new();
    for row in rows {
        let place = newest.entry((&row.sku, &row.node, &row.region, row.epoch)).or_insert(row);
        if row.version > place.version {
            *place = row;
        }
    }
    let mut promised: BTreeMap<&str, i64> = BTreeMap::new();
    for row in newest.values() {
        *promised.entry(&row.sku).or_default() += row.promised + row.withdrawn;
    }
    let more = promised.into_iter().filter(|(sku, units)| stock.get(*sku).unwrap_or(&0) < units);
    more.map(|(sku, units)| {
        let there_are = stock.get(sku).unwrap_or(&0);
        format!("{units} units of {sku} are promised, there are {there_are}")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(region: &str, version: i64, promised: i64) -> RightsRow {
        RightsRow {
            sku: "s".to_owned(),
            node: "n".to_owned(),
            region: region.to_owned(),
            epoch: 1,
            version,
            received: 10,
            promised,
            withdrawn: 0,
            rights: 0,
        }
    }

    #[test]
    fn only_the_newest_row_of_each_region_counts() {
        let stock = BTreeMap::from([("s".to_owned(), 10)]);
        let fits = [row("a", 2, 6), row("a", 1, 9), row("b", 1, 4)];
        assert_eq!(oversold(&fits, &stock), Vec::<String>::new());
        let too_much = [row("a", 2, 6), row("a", 3, 7), row("b", 1, 4)];
        assert_eq!(oversold(&too_much, &stock), ["11 units of s are promised, there are 10"]);
    }
}
