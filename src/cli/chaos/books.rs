//! What regions and the payment provider have on record of a run, read once it is over.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;

use crate::gateways::SimulatorClient;
use crate::ports::PaymentLedger;
use crate::reconcile::Provided;
use crate::runtime::Trust;
use crate::store::{Auditor, Intent, PaymentRow, RightsRow, TransferRow};
use crate::types::RegionId;

/// For one page of the provider's ledger; a scenario may just have let it go on.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that the last checks look at.
#[derive(Debug, Clone, Default)]
pub(super) struct Books {
    /// Orders under this run's keys, as each region knows them.
    pub(super) orders: BTreeMap<RegionId, Vec<Intent>>,
    /// Rights to this run's SKUs, as each region knows them.
    pub(super) rights: BTreeMap<RegionId, Vec<RightsRow>>,
    /// Units of this run's SKUs that each region's own orders hold.
    pub(super) reserved: BTreeMap<RegionId, BTreeMap<String, i64>>,
    /// Transfers of rights to this run's SKUs by their ids, in whoever's books they stand.
    pub(super) transfers: BTreeMap<String, TransferRow>,
    /// Payments of this run's orders at their homes.
    pub(super) payments: Vec<PaymentRow>,
    /// What the provider holds.
    pub(super) held: Vec<Hold>,
}

/// Money that the provider holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) provider_key: String,
    pub(super) order: Option<String>,
    pub(super) amount_minor: i64,
}

impl Books {
    /// Reads everything. `run` begins the keys and SKUs.
    pub(super) async fn read(
        auditors: &BTreeMap<RegionId, Auditor>,
        provider: &str,
        run: &str,
    ) -> anyhow::Result<Self> {
        let mut books = Self { held: held(provider).await?, ..Self::default() };
        for (region, auditor) in auditors {
            let unread = || format!("the evidence of {region} can't be read");
            let orders = auditor.intents(run).await.with_context(unread)?;
            let ids = orders.iter().map(|intent| intent.order_id.clone()).collect();
            books.payments.extend(auditor.payments(ids).await.with_context(unread)?);
            drop(books.orders.insert(*region, orders));
            drop(books.rights.insert(*region, auditor.rights(run).await.with_context(unread)?));
            let transfers = auditor.transfers(run).await.with_context(unread)?;
            let named = transfers.into_iter().map(|row| (row.transfer_id.clone(), row));
            books.transfers.extend(named);
            let reserved = auditor.reserved(run).await.with_context(unread)?;
            drop(books.reserved.insert(*region, reserved));
        }
        Ok(books)
    }

    /// By key, each order of it with its status, going by all regions together.
    pub(super) fn statuses(&self) -> BTreeMap<&str, BTreeMap<&str, &str>> {
        let mut keys: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
        for intent in self.orders.values().flatten() {
            let status = intent.order.as_ref().map_or("unknown", |order| &order.status);
            let orders = keys.entry(&intent.key).or_default();
            let known = orders.entry(&intent.order_id).or_insert(status);
            if *known == "unknown" {
                *known = status;
            }
        }
        keys
    }
}

/// Orders of a key that stand.
pub(super) fn standing<'a>(orders: &BTreeMap<&'a str, &str>) -> Vec<&'a str> {
    let stands = orders.iter().filter(|(_, status)| !matches!(**status, "cancelled" | "unknown"));
    stands.map(|(order, _)| *order).collect()
}

async fn held(provider: &str) -> anyhow::Result<Vec<Hold>> {
    // The simulator of a local deployment is spoken to in the clear.
    let ledger = SimulatorClient::new(provider, LEDGER_TIMEOUT, 1, &Trust::nobody())?;
    let mut held = Vec::new();
    let mut cursor = None;
    loop {
        let page = ledger.page(cursor.as_deref()).await.context("the provider's ledger")?;
        held.extend(page.entries.into_iter().filter_map(|entry| match entry.provided {
            Provided::Held(amount) => Some(Hold {
                provider_key: entry.provider_key,
                order: entry.order_reference,
                amount_minor: amount.map_or(0, |amount| amount.amount),
            }),
            Provided::Pending | Provided::NotHeld | Provided::Unknown => None,
        }));
        cursor = page.next;
        if cursor.is_none() {
            return Ok(held);
        }
    }
}
