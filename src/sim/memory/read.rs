//! Reads that decide nothing, due sagas, and why the region takes no orders.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::catalogue::{Node, Product};
use crate::domain::idempotency::{IntentKey, IntentRecord};
use crate::domain::order::{Event, OrderRecord, OrderStatus};
use crate::escrow::KeyedRow;
use crate::mutants::{Mutant, is_on};
use crate::ports::store::{Contested, OrderFilter, SagaFilter, Spendable};
use crate::ports::{Reader, SagaQueue, StopStore, Stopped, StoreError};
use crate::saga::{SagaRecord, SagaState};
use crate::types::{Epoch, NodeId, OrderId, RegionId, SagaId, Sku};

use super::{Memory, stands};

fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[async_trait]
impl Reader for Memory {
    async fn order(&self, id: OrderId) -> Result<Option<Arc<OrderRecord>>, StoreError> {
        Ok(self.tables().orders.get(&id).cloned())
    }

    async fn orders(&self, filter: &OrderFilter) -> Result<Vec<OrderRecord>, StoreError> {
        let fits = |record: &&Arc<OrderRecord>| {
            let order = &record.order;
            let is =
                |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|it| it == is);
            (filter.customer_id.is_none() || filter.customer_id == order.customer_id)
                && is(&filter.status, order.status().as_str())
                && is(&filter.channel, &order.channel)
                && filter.since_ms.is_none_or(|since| record.created_hlc.wall_ms >= since)
                && filter.before.is_none_or(|before| order.id < before)
        };
        let tables = self.tables();
        let fitting = tables.orders.values().rev().filter(fits).take(count(filter.limit));
        Ok(fitting.map(|record| record.as_ref().clone()).collect())
    }

    async fn standing(
        &self,
        home: RegionId,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<(OrderId, bool)>, StoreError> {
        let tables = self.tables();
        let behind =
            tables.orders.values().filter(|it| after.is_none_or(|after| it.order.id > after));
        let standing = behind.filter(|it| it.order.home_region == home && stands(it));
        let listed = standing.map(|it| (it.order.id, it.order.status() != OrderStatus::Pending));
        Ok(listed.take(count(limit)).collect())
    }

    async fn events(&self, id: OrderId, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let tables = self.tables();
        let events = tables.events.get(&id).into_iter().flatten();
        Ok(events.filter(|event| event.seq > after).take(count(limit)).cloned().collect())
    }

    async fn sagas_of(&self, id: OrderId) -> Result<Vec<SagaRecord>, StoreError> {
        let tables = self.tables();
        let sagas = tables.sagas.values().map(|(saga, _)| saga);
        Ok(sagas.filter(|saga| saga.order_id == id).cloned().collect())
    }

    async fn saga(&self, id: SagaId) -> Result<Option<SagaRecord>, StoreError> {
        Ok(self.tables().sagas.get(&id).map(|(saga, _)| saga.clone()))
    }

    async fn sagas(
        &self,
        filter: SagaFilter,
        after: Option<SagaId>,
        limit: u32,
    ) -> Result<Vec<SagaRecord>, StoreError> {
        let fits = |saga: &&SagaRecord| {
            let wanted = match filter {
                SagaFilter::Running => saga.state == SagaState::Running,
                SagaFilter::Compensating => saga.state == SagaState::Compensating,
                SagaFilter::OpenSince(ms) => !saga.state.is_over() && saga.created_at_ms <= ms,
            };
            wanted && after.is_none_or(|after| saga.id > after)
        };
        let tables = self.tables();
        let sagas = tables.sagas.values().map(|(saga, _)| saga);
        Ok(sagas.filter(fits).take(count(limit)).cloned().collect())
    }

    async fn intents(&self, intent: &IntentKey) -> Result<Vec<IntentRecord>, StoreError> {
        Ok(self.tables().intents.get(intent).cloned().unwrap_or_default())
    }

    async fn rights_of(&self, sku: &Sku) -> Result<Vec<KeyedRow>, StoreError> {
        Ok(self.tables().rights.known_rows(sku))
    }

    async fn may_sell_alone(&self) -> Result<BTreeMap<RegionId, Spendable>, StoreError> {
        let tables = self.tables();
        Ok(tables.rights.may_sell_alone())
    }

    async fn product(&self, sku: &Sku) -> Result<Option<Product>, StoreError> {
        Ok(self.tables().products.get(sku).cloned())
    }

    async fn products(&self, after: Option<&Sku>, limit: u32) -> Result<Vec<Product>, StoreError> {
        let later = |product: &&Product| after.is_none_or(|after| product.sku > *after);
        let tables = self.tables();
        Ok(tables.products.values().filter(later).take(count(limit)).cloned().collect())
    }

    async fn node(&self, id: &NodeId) -> Result<Option<Node>, StoreError> {
        Ok(self.tables().nodes.get(id).cloned())
    }

    async fn nodes(&self, after: Option<&NodeId>, limit: u32) -> Result<Vec<Node>, StoreError> {
        let later = |node: &&Node| after.is_none_or(|after| node.id > *after);
        let tables = self.tables();
        Ok(tables.nodes.values().filter(later).take(count(limit)).cloned().collect())
    }

    async fn contested(
        &self,
        after: Option<(OrderId, OrderId)>,
        limit: u32,
    ) -> Result<Vec<Contested>, StoreError> {
        let tables = self.tables();
        let open = tables
            .contested
            .iter()
            .filter(|(pair, settled)| !**settled && after.is_none_or(|after| **pair > after));
        let record = |id| tables.orders.get(id).map(|record| record.as_ref().clone());
        let pairs = open.filter_map(|((own, other), _)| {
            let own = record(own).filter(|own| own.order.home_region == self.own)?;
            Some(Contested { own, other: record(other)? })
        });
        Ok(pairs.take(count(limit)).collect())
    }

    async fn settled(&self, own: OrderId, other: OrderId) -> Result<(), StoreError> {
        if let Some(settled) = self.tables().contested.get_mut(&(own, other)) {
            *settled = true;
        }
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl SagaQueue for Memory {
    async fn claim(
        &self,
        now_ms: u64,
        due_again_ms: u64,
        limit: u32,
    ) -> Result<Vec<SagaRecord>, StoreError> {
        let mut tables = self.tables();
        let due = tables.sagas.values().filter(|(saga, due)| {
            !saga.state.is_over() && (*due <= now_ms || is_on(Mutant::LeasesIgnored))
        });
        let mut due: Vec<(u64, SagaId)> = due.map(|(saga, due)| (*due, saga.id)).collect();
        due.sort_unstable();
        due.truncate(count(limit));
        let claimed = due.into_iter().filter_map(|(_, id)| {
            let (saga, due) = tables.sagas.get_mut(&id)?;
            *due = due_again_ms;
            Some(saga.clone())
        });
        Ok(claimed.collect())
    }
}

#[async_trait]
impl StopStore for Memory {
    async fn stopped(&self, epoch: Epoch) -> Result<Stopped, StoreError> {
        let tables = self.tables();
        if epoch != tables.head.epoch {
            return Err(fenced());
        }
        Ok(Stopped { draining: tables.is_stopped(), set_back: tables.set_back.clone() })
    }

    async fn set_draining(&self, epoch: Epoch, draining: bool) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        if epoch != tables.head.epoch {
            return Err(fenced());
        }
        tables.draining = draining;
        tables.evacuating &= draining;
        Ok(tables.set_back.is_some())
    }

    async fn set_back(&self, epoch: Epoch, proof: &str) -> Result<(), StoreError> {
        let mut tables = self.tables();
        if epoch != tables.head.epoch {
            return Err(fenced());
        }
        tables.set_back.get_or_insert_with(|| proof.to_owned());
        Ok(())
    }

    async fn canary(&self) -> Result<Option<u8>, StoreError> {
        Ok(self.tables().canary)
    }

    async fn begin_canary(&self, epoch: Epoch) -> Result<(), StoreError> {
        let mut tables = self.tables();
        if epoch != tables.head.epoch {
            return Err(fenced());
        }
        tables.canary = Some(0);
        Ok(())
    }

    async fn set_canary(&self, epoch: Epoch, from: u8, to: Option<u8>) -> Result<bool, StoreError> {
        let mut tables = self.tables();
        if epoch != tables.head.epoch {
            return Err(fenced());
        }
        if tables.canary == Some(from) {
            tables.canary = to;
        }
        Ok(tables.canary == to)
    }
}

pub(super) fn fenced() -> StoreError {
    StoreError::Broken("this region was fenced: its epoch is over".to_owned())
}
