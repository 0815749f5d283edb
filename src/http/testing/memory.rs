//! A region's database in memory: enough for the use cases behind the handlers.

#![expect(clippy::unwrap_in_result, clippy::unnecessary_wraps, reason = "a fake that never fails")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::domain::catalogue::{Node, Product};
use crate::domain::idempotency::{IntentKey, IntentRecord};
use crate::domain::inventory::NodeStock;
use crate::domain::order::{Event, OrderRecord, OrderStatus};
use crate::escrow::Row;
use crate::ports::store::{Contested, KnownRow, OrderFilter, SagaFilter, Shelf, Spendable};
use crate::ports::{
    ChangeSet, CommitError, Committed, Needs, Reader, SagaQueue, Stamp, StopStore, Store,
    StoreError, View,
};
use crate::saga::{SagaRecord, SagaState};
use crate::types::{Epoch, NodeId, OrderId, RegionId, SagaId, Sku, StockKey};

#[derive(Default)]
pub(in crate::http) struct Tables {
    pub(in crate::http) orders: BTreeMap<OrderId, Arc<OrderRecord>>,
    events: BTreeMap<OrderId, Vec<Event>>,
    sagas: BTreeMap<SagaId, SagaRecord>,
    intents: BTreeMap<IntentKey, Vec<IntentRecord>>,
    rows: BTreeMap<StockKey, Row>,
    products: BTreeMap<Sku, Product>,
    nodes: BTreeMap<NodeId, Node>,
    commits: u64,
    set_back: bool,
}

pub(in crate::http) struct Memory {
    own: RegionId,
    pub(in crate::http) tables: Mutex<Tables>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "for `filter`")]
fn stands(record: &&Arc<OrderRecord>) -> bool {
    record.order.status() != OrderStatus::Cancelled
}

fn spendable(row: &Row) -> u64 {
    row.received + row.released - row.spent - row.withdrawn
}

impl Memory {
    pub(in crate::http) fn new(own: RegionId) -> Self {
        Self { own, tables: Mutex::new(Tables::default()) }
    }

    /// Units come in.
    pub(in crate::http) fn receive(&self, key: &StockKey, units: u64) {
        let mut tables = self.tables.lock().unwrap();
        let row = tables.rows.entry(key.clone()).or_insert_with(|| Row::new(Epoch::FIRST));
        row.received += units;
    }

    fn read<T>(&self, look: impl FnOnce(&Tables) -> T) -> Result<T, StoreError> {
        Ok(look(&self.tables.lock().unwrap()))
    }
}

#[async_trait]
impl Store for Memory {
    async fn load(&self, needs: &Needs) -> Result<View, StoreError> {
        self.read(|tables| {
            let mut view = View::default();
            let wanted = |key: &StockKey| needs.skus.contains(&key.sku);
            for (key, row) in tables.rows.iter().filter(|(key, _)| wanted(key)) {
                let stock = NodeStock { node: key.node.clone(), spendable: spendable(row) };
                view.stock.add(key.sku.clone(), stock);
            }
            for key in &needs.shelves {
                if let Some(row) = tables.rows.get(key) {
                    let on_hand = row.received - row.withdrawn;
                    view.shelves.insert(key.clone(), Shelf { on_hand, spendable: spendable(row) });
                }
            }
            let pick = |sku: &Sku| Some((sku.clone(), tables.products.get(sku)?.clone()));
            view.products = needs.skus.iter().filter_map(pick).collect();
            let pick = |id: &NodeId| Some((id.clone(), tables.nodes.get(id)?.clone()));
            view.nodes = needs.nodes.iter().filter_map(pick).collect();
            let pick = |key: &IntentKey| Some((key.clone(), tables.intents.get(key)?.clone()));
            view.intents = needs.intents.iter().filter_map(pick).collect();
            let of_intents = view.intents.values().flatten().filter_map(|intent| intent.order_id);
            let ids = needs.orders.iter().copied().chain(of_intents.collect::<Vec<_>>());
            view.orders =
                ids.filter_map(|id| Some((id, tables.orders.get(&id)?.clone()))).collect();
            let pick = |id: &SagaId| Some((*id, tables.sagas.get(id)?.clone()));
            view.sagas = needs.sagas.iter().filter_map(pick).collect();
            for order in tables.orders.values().filter(stands) {
                let reference = order.order.channel_order_ref.clone();
                let key = reference.map(|reference| (order.order.channel.clone(), reference));
                if let Some(key) = key.filter(|key| needs.channel_refs.contains(key)) {
                    view.channel_refs.entry(key).or_default().push(order.order.id);
                    view.orders.insert(order.order.id, order.clone());
                }
            }
            view
        })
    }

    async fn commit(&self, changes: &ChangeSet, _: Stamp) -> Result<Committed, CommitError> {
        let mut tables = self.tables.lock().unwrap();
        for (id, write) in &changes.orders {
            if tables.orders.get(id).map_or(0, |order| order.version) != write.expected_version {
                return Err(CommitError::Conflict("order"));
            }
        }
        let known = |sku: &Sku| tables.products.get(sku).map(|product| product.hlc);
        if changes.products_seen.iter().any(|(sku, seen)| known(sku) != Some(*seen)) {
            return Err(CommitError::Conflict("product"));
        }
        for (id, write) in &changes.orders {
            tables.orders.insert(*id, write.record.clone());
            tables.events.entry(*id).or_default().extend(write.events.clone());
        }
        for (id, write) in &changes.sagas {
            tables.sagas.insert(*id, write.record.clone());
        }
        for intent in &changes.intents {
            tables.intents.entry(intent.intent.clone()).or_default().push(intent.clone());
        }
        for (key, delta) in &changes.stock {
            let row = tables.rows.entry(key.clone()).or_insert_with(|| Row::new(Epoch::FIRST));
            row.version += 1;
            row.received += delta.received;
            row.spent += delta.spent;
            row.released += delta.released;
            row.withdrawn += delta.withdrawn;
        }
        tables.products.extend(changes.products.clone());
        tables.nodes.extend(changes.nodes.clone());
        tables.commits += 1;
        Ok(Committed { sequence: Some(tables.commits) })
    }
}

#[async_trait]
impl Reader for Memory {
    async fn order(&self, id: OrderId) -> Result<Option<Arc<OrderRecord>>, StoreError> {
        self.read(|tables| tables.orders.get(&id).cloned())
    }

    async fn orders(&self, filter: &OrderFilter) -> Result<Vec<OrderRecord>, StoreError> {
        let fits = |record: &&Arc<OrderRecord>| {
            let order = &record.order;
            let is =
                |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|it| it == is);
            (filter.customer_id.is_none() || filter.customer_id == order.customer_id)
                && is(&filter.status, order.status().as_str())
                && is(&filter.channel, &order.channel)
                && filter.since_ms.is_none_or(|since| order.created_at_ms >= since)
                && filter.before.is_none_or(|before| order.id < before)
        };
        let limit = usize::try_from(filter.limit).unwrap();
        self.read(|tables| {
            let fitting = tables.orders.values().rev().filter(fits).take(limit);
            fitting.map(|record| record.as_ref().clone()).collect()
        })
    }

    async fn events(&self, id: OrderId, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let limit = usize::try_from(limit).unwrap();
        self.read(|tables| {
            let events = tables.events.get(&id).into_iter().flatten();
            events.filter(|event| event.seq > after).take(limit).cloned().collect()
        })
    }

    async fn sagas_of(&self, id: OrderId) -> Result<Vec<SagaRecord>, StoreError> {
        let of = |saga: &&SagaRecord| saga.order_id == id;
        self.read(|tables| tables.sagas.values().filter(of).cloned().collect())
    }

    async fn saga(&self, id: SagaId) -> Result<Option<SagaRecord>, StoreError> {
        self.read(|tables| tables.sagas.get(&id).cloned())
    }

    async fn sagas(
        &self,
        filter: SagaFilter,
        after: Option<SagaId>,
        limit: u32,
    ) -> Result<Vec<SagaRecord>, StoreError> {
        let later = |saga: &&SagaRecord| after.is_none_or(|after| saga.id > after);
        let fits = |saga: &&SagaRecord| match filter {
            SagaFilter::Running => saga.state == SagaState::Running,
            SagaFilter::Compensating => saga.state == SagaState::Compensating,
            SagaFilter::OpenSince(ms) => !saga.state.is_over() && saga.created_at_ms < ms,
        };
        let limit = usize::try_from(limit).unwrap();
        self.read(|tables| {
            tables.sagas.values().filter(later).filter(fits).take(limit).cloned().collect()
        })
    }

    async fn intents(&self, intent: &IntentKey) -> Result<Vec<IntentRecord>, StoreError> {
        self.read(|tables| tables.intents.get(intent).cloned().unwrap_or_default())
    }

    async fn rights_of(&self, sku: &Sku) -> Result<Vec<KnownRow>, StoreError> {
        let known = |(key, row): (&StockKey, &Row)| KnownRow {
            key: key.clone(),
            owner: self.own,
            row: row.clone(),
            active: row.received,
        };
        self.read(|tables| {
            tables.rows.iter().filter(|(key, _)| key.sku == *sku).map(known).collect()
        })
    }

    async fn may_sell_alone(&self) -> Result<BTreeMap<RegionId, Spendable>, StoreError> {
        self.read(|tables| {
            let left = tables.rows.values().map(spendable).filter(|units| *units > 0);
            let sum = left.fold(Spendable::default(), |sum, units| Spendable {
                units: sum.units + units,
                keys: sum.keys + 1,
            });
            [(self.own, sum)].into()
        })
    }

    async fn product(&self, sku: &Sku) -> Result<Option<Product>, StoreError> {
        self.read(|tables| tables.products.get(sku).cloned())
    }

    async fn products(&self, after: Option<&Sku>, limit: u32) -> Result<Vec<Product>, StoreError> {
        let limit = usize::try_from(limit).unwrap();
        let later = |product: &&Product| after.is_none_or(|after| product.sku > *after);
        self.read(|tables| tables.products.values().filter(later).take(limit).cloned().collect())
    }

    async fn node(&self, id: &NodeId) -> Result<Option<Node>, StoreError> {
        self.read(|tables| tables.nodes.get(id).cloned())
    }

    async fn nodes(&self, after: Option<&NodeId>, limit: u32) -> Result<Vec<Node>, StoreError> {
        let limit = usize::try_from(limit).unwrap();
        let later = |node: &&Node| after.is_none_or(|after| node.id > *after);
        self.read(|tables| tables.nodes.values().filter(later).take(limit).cloned().collect())
    }

    async fn contested(
        &self,
        _: Option<(OrderId, OrderId)>,
        _: u32,
    ) -> Result<Vec<Contested>, StoreError> {
        let named = |record: &OrderRecord| {
            let order = &record.order;
            (order.channel.clone(), order.channel_order_ref.clone(), order.customer_id.clone())
        };
        self.read(|tables| {
            let (own, others): (Vec<_>, Vec<_>) = tables
                .orders
                .values()
                .filter(|record| record.order.channel_order_ref.is_some())
                .partition(|record| record.order.home_region == self.own);
            let pairs = own.iter().flat_map(|own| others.iter().map(move |other| (own, other)));
            let same = pairs.filter(|(own, other)| named(own) == named(other));
            same.map(|(own, other)| Contested {
                own: own.as_ref().clone(),
                other: other.as_ref().clone(),
            })
            .collect()
        })
    }

    async fn settled(&self, _: OrderId, _: OrderId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl SagaQueue for Memory {
    async fn claim(&self, now_ms: u64, _: u64, _: u32) -> Result<Vec<SagaRecord>, StoreError> {
        let due = |saga: &&SagaRecord| !saga.state.is_over() && saga.due_at_ms <= now_ms;
        self.read(|tables| tables.sagas.values().filter(due).cloned().collect())
    }
}

#[async_trait]
impl StopStore for Memory {
    async fn set_draining(&self, _: Epoch, _: bool) -> Result<bool, StoreError> {
        self.read(|tables| tables.set_back)
    }

    async fn set_back(&self, _: Epoch, _: &str) -> Result<(), StoreError> {
        self.tables.lock().unwrap().set_back = true;
        Ok(())
    }
}
