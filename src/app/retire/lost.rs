//! Orders that a region had acknowledged and that nobody else has heard of, as the payment provider shows them.

use std::collections::BTreeMap;

use super::Retire;
use crate::ports::{GatewayError, LedgerEntry, Needs, StoreError};
use crate::reconcile::Provided;
use crate::replication::retirement::{LostOrder, LostOrders, NAMED_MAX};
use crate::types::{OrderId, RegionId};

/// What could not be read.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Ledger(#[from] GatewayError),
    #[error(transparent)]
    Orders(#[from] StoreError),
    #[error("only the first {0} entries were read in the time; retiring the region reads them all")]
    Late(usize),
}

impl Retire {
    /// Payments that are held, or may come to be, for orders that the region placed and this one does not know. What can't be
    /// read is told.
    pub(super) async fn lost_orders(&self, region: RegionId) -> LostOrders {
        let mut lost = LostOrders::default();
        let read = async {
            self.read_ledger(region, &mut lost, None).await?;
            Ok::<_, Unread>(self.find_again(&mut lost).await?)
        };
        let read = read.await;
        lost.not_read = read.err().map(|error| error.to_string());
        lost
    }

    /// The same, as far as it can be read until then. Which of them were placed again is not looked for: that reads all orders.
    pub(super) async fn first_lost_orders(&self, region: RegionId, until_ms: u64) -> LostOrders {
        let mut lost = LostOrders::default();
        let read = self.read_ledger(region, &mut lost, Some(until_ms)).await;
        lost.not_read = read.err().map(|error| error.to_string());
        lost
    }

    async fn read_ledger(
        &self,
        region: RegionId,
        lost: &mut LostOrders,
        until_ms: Option<u64>,
    ) -> Result<(), Unread> {
        let (mut cursor, mut entries): (Option<String>, usize) = (None, 0);
        loop {
            if until_ms.is_some_and(|until_ms| self.region.clock.monotonic_ms() >= until_ms) {
                return Err(Unread::Late(entries));
            }
            let page = self.ledger.page(cursor.as_deref()).await?;
            entries += page.entries.len();
            let named = self.named_for(region, page.entries);
            let orders = named.keys().copied().collect();
            let view = self.store.load(&Needs { orders, ..Needs::default() }).await?;
            let unknown = named.into_iter().filter(|(order, _)| !view.orders.contains_key(order));
            for (order, entries) in unknown {
                for LedgerEntry { provider_key, provided, .. } in entries {
                    lost.count += 1;
                    let held = match provided {
                        Provided::Held(held) => held,
                        Provided::Pending | Provided::NotHeld | Provided::Unknown => None,
                    };
                    if lost.named.len() < NAMED_MAX {
                        let placed_again_as = None;
                        lost.named.push(LostOrder { order, provider_key, held, placed_again_as });
                    }
                }
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// What is or may be held for orders that the region placed.
    fn named_for(
        &self,
        region: RegionId,
        entries: Vec<LedgerEntry>,
    ) -> BTreeMap<OrderId, Vec<LedgerEntry>> {
        let mut named: BTreeMap<OrderId, Vec<LedgerEntry>> = BTreeMap::new();
        for entry in entries {
            let may_hold = matches!(entry.provided, Provided::Held(_) | Provided::Pending);
            let order = entry.order_reference.as_deref().and_then(|text| text.parse().ok());
            let is_its = |order: &OrderId| self.region.placed_in(*order) == Some(region);
            if let Some(order) = order.filter(is_its).filter(|_| may_hold) {
                named.entry(order).or_default().push(entry);
            }
        }
        named
    }

    /// A client that repeats its order elsewhere, with the same key, gets one that stands on the same hold.
    async fn find_again(&self, lost: &mut LostOrders) -> Result<(), StoreError> {
        if lost.named.is_empty() {
            return Ok(());
        }
        let keys: Vec<String> = lost.named.iter().map(|it| it.provider_key.clone()).collect();
        let again: BTreeMap<String, OrderId> =
            self.records.paid_by(&keys).await?.into_iter().collect();
        for order in &mut lost.named {
            order.placed_again_as = again.get(&order.provider_key).copied();
        }
        Ok(())
    }
}
