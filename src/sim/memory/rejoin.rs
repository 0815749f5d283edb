//! Beginning a new incarnation.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::catalogue::{Node, Product};
use crate::domain::change::{Change, Payload};
use crate::domain::order::{OrderRecord, OrderStatus};
use crate::escrow::{KeyedRow, Voter};
use crate::mutants::{Mutant, is_on};
use crate::ports::{Beginning, Learned, Learning, Mark, RejoinStore, Stamp, StoreError};
use crate::replication::Position;
use crate::replication::rejoin::{History, OrderMark, Votes};
use crate::saga::SagaRecord;
use crate::types::{Actor, Epoch, HlcTimestamp, OrderId, RegionId, RegionNumber, StockKey};

use super::commit::seal;
use super::{MemoryRights, Tables};

impl Tables {
    /// Nothing that an incarnation before this one wrote is applied any more.
    fn close_watermark(&mut self, region: RegionId, epoch: Epoch) {
        let applied = self.watermarks.get(&region).copied();
        if applied.map(|applied| applied.position.epoch) < Some(epoch) {
            let hlc = applied.map_or(HlcTimestamp::origin(region), |applied| applied.hlc);
            let position = Position { epoch, sequence: 0 };
            self.watermarks.insert(region, crate::replication::Watermark { position, hlc });
        }
    }

    /// What is known of an order gives way to another history.
    pub(super) fn set_aside(&mut self, id: OrderId) {
        let Some(record) = self.orders.remove(&id) else { return };
        let events = self.events.remove(&id).unwrap_or_default();
        self.parted.entry((id, record.chain_hash.clone())).or_insert(events);
    }

    fn of_home(&self, home: RegionId) -> impl Iterator<Item = (&OrderId, &Arc<OrderRecord>)> {
        self.orders.iter().filter(move |(_, record)| record.order.home_region == home)
    }

    fn is_worked_on(&self, id: OrderId) -> bool {
        self.sagas.values().any(|(saga, _)| saga.order_id == id && !saga.state.is_over())
    }

    pub(super) fn replace_saga(&mut self, saga: &SagaRecord) {
        self.sagas.insert(saga.id, (saga.clone(), saga.due_at_ms));
    }
}

fn mark((id, record): (&OrderId, &Arc<OrderRecord>)) -> OrderMark {
    OrderMark { id: *id, version: record.version, chain_hash: record.chain_hash.clone() }
}

#[async_trait]
impl RejoinStore for MemoryRights {
    async fn incarnations(&self) -> Result<BTreeMap<RegionId, Epoch>, StoreError> {
        Ok(self.database.tables().incarnations.clone())
    }

    async fn note_incarnation(&self, region: RegionId, epoch: Epoch) -> Result<Epoch, StoreError> {
        let mut tables = self.database.tables();
        let applied = tables.watermarks.get(&region).map(|applied| applied.position.epoch);
        let noted = tables.incarnations.get(&region).copied();
        let before = noted.max(applied).unwrap_or(Epoch::FIRST);
        if noted < Some(epoch) {
            tables.incarnations.insert(region, epoch);
        }
        if !is_on(Mutant::OldIncarnationApplied) {
            tables.close_watermark(region, epoch);
        }
        Ok(before)
    }

    async fn mark(&self) -> Result<Mark, StoreError> {
        let tables = self.database.tables();
        let votes = tables.registers.voted();
        let voter = Voter { epoch: tables.head.epoch, votes };
        Ok(Mark { database: tables.history.to_string(), head: tables.head, voter })
    }

    async fn applied(&self, origin: RegionId) -> Result<Option<Position>, StoreError> {
        let tables = self.database.tables();
        Ok(tables.watermarks.get(&origin).map(|watermark| watermark.position))
    }

    async fn votes(
        &self,
        after: Option<&(Actor, StockKey)>,
        limit: usize,
    ) -> Result<Votes, StoreError> {
        Ok(self.database.tables().registers.votes(after, limit))
    }

    async fn rows_of(
        &self,
        region: RegionId,
        after: Option<&(StockKey, Epoch)>,
        limit: usize,
    ) -> Result<Vec<KeyedRow>, StoreError> {
        let tables = self.database.tables();
        let all = tables
            .rights
            .rows()
            .iter()
            .flat_map(|(key, rows)| rows.iter().map(move |(owner, row)| (key, *owner, row)));
        let wanted = all.filter(|(key, owner, row)| {
            let is_behind = after.is_none_or(|after| (*key, owner.epoch) > (&after.0, after.1));
            owner.region == region && is_behind && !row.is_blank()
        });
        let keyed =
            wanted.map(|(key, owner, row)| KeyedRow { key: key.clone(), owner, row: row.clone() });
        Ok(keyed.take(limit).collect())
    }

    async fn marks(
        &self,
        of: RegionId,
        _number: RegionNumber,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderMark>, StoreError> {
        let tables = self.database.tables();
        let theirs = tables
            .orders
            .iter()
            .filter(|(_, record)| record.order.home_region == of || record.order.placed_in() == of);
        let behind = theirs.filter(|(id, _)| after.is_none_or(|after| **id > after));
        Ok(behind.take(limit).map(mark).collect())
    }

    async fn marks_of(&self, ids: &[OrderId]) -> Result<Vec<OrderMark>, StoreError> {
        let tables = self.database.tables();
        let known = tables.orders.iter().filter(|(id, _)| ids.contains(id));
        Ok(known.map(mark).collect())
    }

    async fn histories(
        &self,
        home: Option<RegionId>,
        ids: &[OrderId],
    ) -> Result<Vec<History>, StoreError> {
        let tables = self.database.tables();
        let history = |(id, _): (&OrderId, &Arc<OrderRecord>)| {
            let of_order =
                |record: &&crate::domain::idempotency::IntentRecord| record.order_id == Some(*id);
            History {
                id: *id,
                intent: tables.intents.values().flatten().find(of_order).cloned(),
                commits: vec![tables.events.get(id).cloned().unwrap_or_default()],
            }
        };
        let is_meant = |(id, record): &(&OrderId, &Arc<OrderRecord>)| {
            ids.contains(id) && home.is_none_or(|home| record.order.home_region == home)
        };
        Ok(tables.orders.iter().filter(is_meant).map(history).collect())
    }

    async fn learn(&self, orders: &[Learned], now_ms: u64) -> Result<Learning, StoreError> {
        let mut kept = self.database.tables();
        let mut tables = kept.clone();
        for learned in orders {
            let id = learned.record.order.id;
            if tables.orders.get(&id).map_or(0, |record| record.version) != learned.known {
                return Ok(Learning::Changed(id));
            }
            let has_moved = learned.record.order.moved.is_some() && !tables.is_set_back();
            if has_moved {
                tables.keep_move(self.own.region, &learned.record, now_ms);
            }
            if learned.replaces {
                tables.set_aside(id);
            }
            tables.keep_order(Arc::new(learned.record.clone()));
            tables.events.entry(id).or_default().extend(learned.commits.concat());
            if let Some(intent) = learned.intent.clone() {
                tables.keep_intent(intent);
            }
            if has_moved {
                continue;
            }
            tables.sagas.retain(|_, (saga, _)| saga.order_id != id);
            if let Some(saga) = &learned.saga {
                tables.replace_saga(saga);
            }
        }
        let doubled = orders.iter().any(|learned| {
            let order = &learned.record.order;
            let Some(name) = order.channel_order_ref.clone() else { return false };
            let reference = (order.channel.clone(), name);
            let standing = tables.standing(&reference);
            order.moved.is_none()
                && standing
                    .filter(|it| {
                        it.order.moved.is_none() && it.order.home_region == order.home_region
                    })
                    .count()
                    > 1
        });
        if doubled {
            return Ok(Learning::PutOff);
        }
        *kept = tables;
        Ok(Learning::Done)
    }

    async fn abandoned(
        &self,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderRecord>, StoreError> {
        let tables = self.database.tables();
        let left = tables.of_home(self.own.region).filter(|(id, record)| {
            after.is_none_or(|after| **id > after)
                && record.order.status() == OrderStatus::Pending
                && !tables.is_worked_on(**id)
        });
        Ok(left.take(limit).map(|(_, record)| record.as_ref().clone()).collect())
    }

    async fn add_sagas(&self, sagas: &[SagaRecord]) -> Result<(), StoreError> {
        let mut tables = self.database.tables();
        for saga in sagas {
            tables.replace_saga(saga);
        }
        Ok(())
    }

    async fn take_catalogue(&self, products: &[Product], nodes: &[Node]) -> Result<(), StoreError> {
        self.database.tables().keep_catalogue(products.iter(), nodes.iter());
        Ok(())
    }

    async fn forget_telling(&self) -> Result<(), StoreError> {
        let mut tables = self.database.tables();
        let epoch = tables.head.epoch;
        tables.outbox.retain(|at, _| at.epoch <= epoch);
        Ok(())
    }

    async fn tell(
        &self,
        epoch: Epoch,
        changes: Vec<Change>,
        hlc: HlcTimestamp,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let mut tables = self.database.tables();
        let last = tables.outbox.keys().rfind(|at| at.epoch == epoch).copied();
        let position = last.unwrap_or(Position { epoch, sequence: 0 }).next();
        let payload = Payload { changes };
        let sealed = seal(self.own.region, &payload, Stamp { epoch, hlc, now_ms }, position);
        tables.outbox.insert(position, sealed);
        Ok(())
    }

    async fn begin(&self, beginning: &Beginning) -> Result<bool, StoreError> {
        let mut tables = self.database.tables();
        let (own, epoch) = (self.own.region, beginning.epoch);
        if tables.head != beginning.follows || tables.set_back.is_none() {
            return Ok(false);
        }
        for KeyedRow { key, owner, row } in &beginning.rows {
            tables.rights.join(key, *owner, row.clone());
        }
        if !is_on(Mutant::ForgottenVotesCounted) {
            tables.registers.take_over(own, &beginning.votes);
        }
        let noted = beginning.votes.incarnations.iter().chain([(&own, &epoch)]);
        for (region, epoch) in noted {
            let known = tables.incarnations.entry(*region).or_insert(*epoch);
            *known = (*known).max(*epoch);
        }
        for (region, epoch) in &beginning.gone {
            tables.close_watermark(*region, *epoch);
        }
        for retirement in &beginning.votes.retirements {
            tables.keep_retirement(retirement);
        }
        let last = tables.outbox.keys().rfind(|at| at.epoch == epoch).copied();
        tables.head = last.unwrap_or(Position { epoch, sequence: 0 });
        let stamped = tables.of_home(own).map(|(_, record)| record.updated_hlc);
        tables.floor = stamped.filter(|stamp| stamp.region == own).max();
        (tables.boots, tables.set_back) = (0, None);
        tables.canary = Some(0);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;
    use crate::escrow::{Ballot, KeyedSlot, Prepare, Promise, Promised, Purpose, Slot, Value};
    use crate::ports::{RegisterStore as _, StopStore as _};

    #[tokio::test]
    async fn a_new_incarnation_goes_on_from_what_the_others_voted() {
        let (own, other) = ("a".parse().unwrap(), "b".parse().unwrap());
        let actor = Actor { region: other, epoch: Epoch::FIRST };
        let memory = Memory::new(own);
        memory.set_back(Epoch::FIRST, "a peer knows more").await.unwrap();
        let ballot = Ballot { round: 4, region: other };
        let key = StockKey { sku: "s".parse().unwrap(), node: "n".parse().unwrap() };
        let value = Value { ceiling: 3, ..Value::default() };
        let slot = KeyedSlot { key: key.clone(), slot: Slot { ballot, sequence: 2, value } };
        let votes = Votes {
            promises: vec![(actor, Promised { ballot, fenced: true })],
            slots: vec![(actor, slot.clone())],
            incarnations: [(other, Epoch(3))].into(),
            retirements: Vec::new(),
            voters: [(other, Voter { epoch: Epoch(3), votes: 2 })].into(),
        };
        let follows = memory.tables().head();
        let beginning =
            Beginning { epoch: Epoch(2), follows, rows: Vec::new(), votes, gone: BTreeMap::new() };
        let store = MemoryRights::new(memory.clone(), Epoch::FIRST);
        assert!(store.begin(&beginning).await.unwrap());
        assert!(!store.begin(&beginning).await.unwrap(), "once");
        let now = MemoryRights::new(memory, Epoch(2));
        assert_eq!(now.incarnations().await.unwrap(), [(own, Epoch(2)), (other, Epoch(3))].into());
        assert_eq!(now.promised(actor).await.unwrap(), ballot);
        let later = Ballot { round: 5, region: own };
        let asked =
            Prepare { owner: actor, ballot: later, purpose: Purpose::Propose, keys: vec![key] };
        let promise = now.prepare(&asked).await.unwrap();
        assert_eq!(promise.voter, Voter { epoch: Epoch(2), votes: 1 });
        let expected = Promise::Promised { fenced: true, contested: false, slots: vec![slot] };
        assert_eq!(promise.answer, expected);
    }
}
