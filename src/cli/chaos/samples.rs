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

/// The stock of the run as one region knows it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    /// Whose.
    pub(super) by: RegionId,
    /// Since the load began.
    pub(super) at_ms: u64,
    /// By the region that holds it, over all SKUs.
    pub(super) holdings: BTreeMap<RegionId, Holding>,
}

/// What one region has of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Holding {
    /// To orders.
    pub(super) promised: i64,
    /// To other regions.
    pub(super) given: i64,
    /// What it may still sell.
    pub(super) rights: i64,
    /// What it may have promised and given at most.
    pub(super) ceiling: i64,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) samples: Vec<Sample>,
    /// Those of all regions that answered.
    pub(super) accounts: Vec<Account>,
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
        let mut accounts = Vec::new();
        for _ in 0..LOOKS {
            let known = self.rights().await;
            if known.is_empty() {
                return;
            }
            let at_ms = self.clock.monotonic_ms();
            accounts = known.iter().map(|(by, rows)| account(*by, at_ms, rows)).collect();
            found = oversold(known.values().flatten(), self.stock);
            if found.is_empty() {
                break;
            }
        }
        let at_s = self.clock.monotonic_ms() / 1_000;
        let mut seen = self.seen.lock().expect("no panic while held");
        seen.stock_looks += 1;
        seen.accounts.extend(accounts);
        seen.oversold.extend(found.into_iter().map(|what| format!("at {at_s} s: {what}")));
    }

    /// By each region that answers, the rows that it knows.
    async fn rights(&self) -> BTreeMap<RegionId, Vec<RightsRow>> {
        let looks = self.auditors.iter().map(|(region, auditor)| async {
            // A frozen database is a part of the scenario.
            let look = auditor.rights(self.run);
            let rows = tokio::time::timeout(ANSWER_LIMIT, look).await.ok().and_then(Result::ok)?;
            (!rows.is_empty()).then_some((*region, rows))
        });
        futures::future::join_all(looks).await.into_iter().flatten().collect()
    }
}

fn account(by: RegionId, at_ms: u64, rows: &[RightsRow]) -> Account {
    let mut holdings: BTreeMap<RegionId, Holding> = BTreeMap::new();
    for row in rows {
        let Ok(region) = row.region.parse() else { continue };
        let holding = holdings.entry(region).or_default();
        holding.promised += row.promised;
        holding.given += row.granted_out;
        holding.rights += row.rights;
        holding.ceiling += row.ceiling;
    }
    Account { by, at_ms, holdings }
}

/// SKUs of which more is promised than there is, going by the newest row of each region that any of them has.
fn oversold<'a>(
    rows: impl IntoIterator<Item = &'a RightsRow>,
    stock: &BTreeMap<String, i64>,
) -> Vec<String> {
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
            granted_in: 0,
            granted_out: 0,
            ceiling: 0,
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
