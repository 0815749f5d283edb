//! The orders of this region, as it and the others know them.

use std::collections::BTreeSet;

use super::{Begun, Rejoin, RejoinError};
use crate::app::joining::Joining;
use crate::ports::{Learned, StoreError};
use crate::types::{OrderId, RegionId};

/// Orders that were put off, because another one stood under their channel's reference.
type PutOff = Vec<Learned>;

impl Rejoin {
    /// Takes over what others know. Answers the orders that are to be told again: those of which somebody lacks something,
    /// and those that this region itself had forgotten, which its outbox lacks.
    pub(super) async fn join_orders(
        &self,
        peers: &[RegionId],
        begun: &mut Begun,
    ) -> Result<BTreeSet<OrderId>, RejoinError> {
        let (mut to_tell, mut learned) = (BTreeSet::new(), BTreeSet::new());
        let mut put_off = PutOff::new();
        let (region, store, bus) = (&self.region, self.store.as_ref(), self.bus.as_ref());
        let joining = Joining { region, store, bus, of: region.id };
        for peer in peers {
            let differences = joining.compare(*peer).await?;
            to_tell.extend(differences.lacking);
            let mut rest = differences.differing.as_slice();
            while !rest.is_empty() {
                let (told, news) = joining.ask_histories(*peer, rest).await?;
                rest = &rest[told..];
                to_tell.extend(news.we_know_more);
                learned.extend(news.learned.iter().map(|learned| learned.record.order.id));
                let parted = news.learned.iter().filter(|learned| learned.replaces);
                begun.parted += parted.count() as u64;
                self.take_over(news.learned, &mut put_off).await?;
            }
        }
        self.learn_put_off(put_off).await?;
        begun.learned = learned.len() as u64;
        // Also those that all others know: whoever is built again reads what this region wrote, and nothing else.
        to_tell.extend(learned);
        Ok(to_tell)
    }

    async fn learn(&self, orders: &[Learned]) -> Result<bool, StoreError> {
        self.store.learn(orders, self.region.clock.wall_ms()).await
    }

    async fn take_over(
        &self,
        orders: Vec<Learned>,
        put_off: &mut PutOff,
    ) -> Result<(), RejoinError> {
        if orders.is_empty() || self.learn(&orders).await? {
            return Ok(());
        }
        for order in orders {
            if !self.learn(std::slice::from_ref(&order)).await? {
                put_off.push(order);
            }
        }
        Ok(())
    }

    /// An order that stood under a reference may have been cancelled by what was learned since.
    async fn learn_put_off(&self, mut put_off: PutOff) -> Result<(), RejoinError> {
        while !put_off.is_empty() {
            let before = put_off.len();
            let mut still = PutOff::new();
            for order in put_off {
                if !self.learn(std::slice::from_ref(&order)).await? {
                    still.push(order);
                }
            }
            if still.len() == before {
                let ids = still.iter().map(|order| order.record.order.id).collect();
                return Err(RejoinError::References(ids));
            }
            put_off = still;
        }
        Ok(())
    }
}
