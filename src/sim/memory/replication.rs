//! Outbox, inbox and watermarks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::change::{Change, OrderChange, Payload};
use crate::domain::inventory::StockDelta;
use crate::domain::order::{Event, OrderRecord, Take, fold_copy, released, take_new, take_whole};
use crate::mutants::{Mutant, is_on};
use crate::ports::{Applied, ReplicationError, ReplicationStore};
use crate::replication::{Envelope, Head, PULL_ANSWER_BYTES_MAX, Position, Watermark};
use crate::saga::SagaRecord;
use crate::types::{Epoch, HlcTimestamp, OrderId, RegionId};

use super::{Memory, Tables, stands};

#[async_trait]
impl ReplicationStore for Memory {
    async fn head(&self) -> Result<Head, ReplicationError> {
        let tables = self.tables();
        let written = tables.outbox.get(&tables.head).map(|envelope| envelope.hlc);
        let hlc = written.unwrap_or_else(|| HlcTimestamp::origin(self.own));
        Ok(Head { position: tables.head, hlc })
    }

    async fn outbox(&self, from: Position, count: u32) -> Result<Vec<Envelope>, ReplicationError> {
        let tables = self.tables();
        let end = Position { epoch: Epoch(from.epoch.0.saturating_add(1)), sequence: 0 };
        let mut bytes = 0;
        let mut run: Vec<Envelope> = Vec::new();
        for envelope in tables.outbox.range(from..end).map(|(_, envelope)| envelope) {
            bytes += envelope.payload.len() + 128;
            let is_full = run.len() == usize::try_from(count).unwrap_or(usize::MAX);
            if is_full || (!run.is_empty() && bytes > PULL_ANSWER_BYTES_MAX) {
                break;
            }
            run.push(envelope.clone());
        }
        if let Some(first) = run.first_mut().filter(|first| first.sequence == 1) {
            let begin = first.position();
            first.follows = tables.outbox.range(..begin).next_back().map(|(at, _)| *at);
        }
        Ok(run)
    }

    async fn watermarks(&self) -> Result<BTreeMap<RegionId, Watermark>, ReplicationError> {
        Ok(self.tables().watermarks.clone())
    }

    async fn apply(
        &self,
        after: Position,
        batch: &[Envelope],
        now_ms: u64,
    ) -> Result<Applied, ReplicationError> {
        let Some(last) = batch.last() else { return Ok(Applied::Done) };
        let payloads = batch.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let mut tables = self.tables();
        let stands_at = tables.watermarks.get(&last.origin).copied();
        let position = stands_at.map_or(Position::START, |stands_at| stands_at.position);
        if position != after && !is_on(Mutant::InboxAppliedTwice) {
            return Ok(Applied::WatermarkIsAt(position));
        }
        let copies = tables.fold(last.origin, batch, &payloads)?;
        tables.keep_copies(self.own, copies, payloads, now_ms);
        for envelope in batch {
            let at = (envelope.origin, envelope.position());
            tables.inbox.insert(at, envelope.event_hash());
            tables.parked.remove(&at);
        }
        let hlc = stands_at.map_or(last.hlc, |before| before.hlc.max(last.hlc));
        tables.watermarks.insert(last.origin, Watermark { position: last.position(), hlc });
        Ok(Applied::Done)
    }

    /// Looks at everything each time; commits can't be under way unseen here.
    async fn find_contests(&self, _now_ms: u64) -> Result<(), ReplicationError> {
        self.look_for_contests();
        Ok(())
    }

    async fn park(
        &self,
        envelope: &Envelope,
        reason: &str,
        _now_ms: u64,
    ) -> Result<(), ReplicationError> {
        let at = (envelope.origin, envelope.position());
        self.tables().parked.entry(at).or_insert_with(|| reason.to_owned());
        Ok(())
    }
}

fn read(envelope: &Envelope) -> Result<Payload, ReplicationError> {
    serde_json::from_slice(&envelope.payload).map_err(|error| ReplicationError::CantApply {
        origin: envelope.origin,
        position: envelope.position(),
        reason: format!("its payload can't be read by this version: {error}"),
    })
}

/// Orders as they are after a batch.
#[derive(Default)]
struct Copies {
    records: BTreeMap<OrderId, OrderRecord>,
    /// Events that are new here.
    events: BTreeMap<OrderId, Vec<Event>>,
    /// Orders of which another history was told.
    parted: BTreeSet<OrderId>,
}

impl Tables {
    /// The copies as they are after a batch; nothing is stored yet.
    fn fold(
        &self,
        origin: RegionId,
        batch: &[Envelope],
        payloads: &[Payload],
    ) -> Result<Copies, ReplicationError> {
        let mut copies = Copies::default();
        for (envelope, payload) in batch.iter().zip(payloads) {
            let orders = payload.changes.iter().filter_map(|change| match change {
                Change::Order(change) => Some(change),
                Change::Product(_) | Change::Node(_) => None,
            });
            for change in orders {
                let position = envelope.position();
                let cant = |reason: String| {
                    let reason = format!("order {}: {reason}", change.order_id);
                    ReplicationError::CantApply { origin, position, reason }
                };
                self.fold_one(origin, change, &mut copies).map_err(cant)?;
            }
        }
        self.references_stay_single(&copies)?;
        Ok(copies)
    }

    fn fold_one(
        &self,
        origin: RegionId,
        change: &OrderChange,
        copies: &mut Copies,
    ) -> Result<(), String> {
        let id = change.order_id;
        let is_whole = !change.retold.is_empty();
        let stored = || self.orders.get(&id).map(|it| it.as_ref().clone());
        let before = copies.records.get(&id).cloned().or_else(stored);
        let mut ours = Vec::new();
        if is_whole && !copies.parted.contains(&id) {
            ours.extend(self.events.get(&id).into_iter().flatten().cloned());
        }
        if is_whole {
            ours.extend(copies.events.get(&id).into_iter().flatten().cloned());
        }
        let take = if is_whole {
            take_whole(&ours, &change.events)
        } else {
            take_new(before.as_ref(), origin)
        };
        let before = match take {
            Take::Nothing => return Ok(()),
            Take::Append => before,
            Take::Replace => {
                copies.parted.insert(id);
                ours.clear();
                None
            }
        };
        let have = before.as_ref().map_or(0, |record| record.version);
        let new = &change.events[change.events.partition_point(|event| event.seq <= have)..];
        if new.is_empty() {
            return Ok(());
        }
        let record =
            fold_copy(before, id, new).map_err(|error| error.to_string())?.ok_or("no events")?;
        let home = record.order.home_region;
        let is_last = change.events.last().is_some_and(|last| last.region == origin);
        if home != origin && !is_last && !is_on(Mutant::ForeignOrdersCopied) {
            return Err(format!("its home is {home}, {origin} may not write it (I-13)"));
        }
        copies.records.insert(id, record);
        copies.events.entry(id).or_default().extend(new.iter().cloned());
        Ok(())
    }

    /// What follows here from an order that has a home elsewhere, or has come from there.
    pub(super) fn keep_move(&mut self, own: RegionId, after: &OrderRecord, now_ms: u64) {
        let owner = self.actor(own);
        let before = self.orders.get(&after.order.id).cloned();
        let is_given_back = self.is_given_back(after.order.id);
        let released = released(before.as_deref(), after, owner);
        for (key, units) in released.into_iter().filter(|_| !is_given_back) {
            let delta = StockDelta { released: units, ..StockDelta::default() };
            self.rights.change(owner, &[(key, delta)].into());
        }
        self.sagas.retain(|_, (saga, _)| saga.order_id != after.order.id);
        if after.order.home_region == own {
            self.replace_saga(&SagaRecord::taken_up(&after.order, now_ms));
        }
    }

    /// A cancellation was set aside: what the order held was given back when this region wrote that.
    pub fn is_given_back(&self, id: OrderId) -> bool {
        let of_order = self.parted.iter().filter(|((order, _), _)| *order == id);
        of_order.flat_map(|(_, events)| events).any(|event| event.kind == "order.cancelled")
    }

    /// What the unique index of a database refuses.
    fn references_stay_single(&self, copies: &Copies) -> Result<(), ReplicationError> {
        let mut claimed = BTreeSet::new();
        let unmoved = |copy: &&OrderRecord| stands(copy) && copy.order.moved.is_none();
        for copy in copies.records.values().filter(unmoved) {
            let order = &copy.order;
            let Some(name) = order.channel_order_ref.clone() else { continue };
            let reference = (order.channel.clone(), name);
            let other = self.standing(&reference).any(|other| {
                other.order.moved.is_none()
                    && other.order.home_region == order.home_region
                    && other.order.id != order.id
                    && copies.records.get(&other.order.id).is_none_or(stands)
            });
            if other || !claimed.insert((reference, order.home_region)) {
                let reason = format!("two orders stand under the reference of {}", order.id);
                return Err(ReplicationError::Corrupt(reason));
            }
        }
        Ok(())
    }

    fn keep_copies(&mut self, own: RegionId, copies: Copies, payloads: Vec<Payload>, now_ms: u64) {
        let references: Vec<(String, String)> = copies
            .records
            .values()
            .filter_map(|copy| {
                Some((copy.order.channel.clone(), copy.order.channel_order_ref.clone()?))
            })
            .collect();
        let moved = copies.records.values().filter(|copy| copy.order.moved.is_some());
        for copy in moved.cloned().collect::<Vec<_>>() {
            self.keep_move(own, &copy, now_ms);
        }
        for id in copies.parted {
            self.set_aside(id);
        }
        for copy in copies.records.into_values() {
            self.keep_order(Arc::new(copy));
        }
        for (id, events) in copies.events {
            self.events.entry(id).or_default().extend(events);
        }
        let mut intents = Vec::new();
        for change in payloads.into_iter().flat_map(|payload| payload.changes) {
            match change {
                Change::Order(change) => {
                    if let Some(intent) = change.intent {
                        intents.push(intent.intent.clone());
                        self.keep_intent(intent);
                    }
                }
                Change::Product(product) => {
                    self.keep_catalogue(std::iter::once(&product), std::iter::empty());
                }
                Change::Node(node) => {
                    self.keep_catalogue(std::iter::empty(), std::iter::once(&node));
                }
            }
        }
        self.find_contests(own, intents.iter(), references.iter());
    }
}
