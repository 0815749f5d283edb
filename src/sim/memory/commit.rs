//! One commit: everything or nothing. All guards are looked at before the first change.

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::change::{Change, OrderChange, Payload};
use crate::domain::idempotency::IntentRecord;
use crate::escrow::order_register;
use crate::mutants::{Mutant, is_on};
use crate::ports::store::{Mandate, NO_MANDATE, OrderWrite, View};
use crate::ports::{ChangeSet, CommitError, Committed, Needs, Stamp, Store, StoreError};
use crate::replication::{Envelope, NewEnvelope, SCHEMA_VERSION};
use crate::types::{Actor, RegionId};

use super::{Memory, Tables, stands};

const TAKEN: CommitError = CommitError::Conflict("written by somebody else");

#[async_trait]
impl Store for Memory {
    async fn load(&self, needs: &Needs) -> Result<View, StoreError> {
        Ok(self.tables().view(self.own, needs))
    }

    async fn commit(&self, changes: &ChangeSet, stamp: Stamp) -> Result<Committed, CommitError> {
        let mut tables = self.tables();
        if stamp.epoch != tables.head.epoch && !is_on(Mutant::NoEpochCheck) {
            return Err(CommitError::Fenced);
        }
        if tables.is_stopped() && changes.places_orders() {
            return Err(CommitError::Draining);
        }
        tables.check(self.own, changes)?;
        let payload = tables.payload(changes);
        tables.write(self.own, changes, stamp);
        let sequence = (!payload.changes.is_empty()).then(|| {
            let position = tables.head.next();
            let sealed = seal(self.own, &payload, stamp, position);
            tables.head = position;
            tables.outbox.insert(position, sealed);
            position.sequence
        });
        Ok(Committed { sequence })
    }
}

pub(super) fn seal(
    origin: RegionId,
    payload: &Payload,
    stamp: Stamp,
    position: crate::replication::Position,
) -> Envelope {
    let text = serde_json::to_vec(payload).expect("our own types always serialize");
    let payload = Bytes::from(text);
    let (hlc, schema_version) = (stamp.hlc, SCHEMA_VERSION);
    Envelope::seal(NewEnvelope { origin, position, follows: None, hlc, schema_version, payload })
        .expect("groups in memory stay far below the limit")
}

impl Tables {
    /// What the others are told. Orders that are cancelled come first: they leave their channel references
    /// to others of the group, here and where this is copied. Those that have moved are told whole.
    fn payload(&self, changes: &ChangeSet) -> Payload {
        let mut writes: Vec<_> = changes.orders.iter().collect();
        writes.sort_by_key(|(_, write)| write.record.order.cancellation.is_none());
        let told = |write: &OrderWrite| stands(&write.record) || !is_on(Mutant::LostOutboxRow);
        let orders = writes.into_iter().filter(|(_, write)| told(write)).map(|(id, write)| {
            let (intent, events) = (write.intent.clone(), write.events.clone());
            if write.record.order.moved.is_none() {
                let retold = Vec::new();
                return Change::Order(OrderChange { order_id: *id, intent, events, retold });
            }
            let before = self.events.get(id).cloned().unwrap_or_default();
            let commits: Vec<_> =
                [before, events].into_iter().filter(|it| !it.is_empty()).collect();
            let placed = self.intents.values().flatten().find(|it| it.order_id == Some(*id));
            Change::Order(OrderChange::retelling(*id, placed.cloned().or(intent), &commits))
        });
        let products = changes.products.values().cloned().map(Change::Product);
        let nodes = changes.nodes.values().cloned().map(Change::Node);
        Payload { changes: orders.chain(products).chain(nodes).collect() }
    }

    fn still_holds(&self, mandate: Mandate) -> bool {
        match mandate {
            Mandate::Steward(of, ballot) => {
                let (owner, registers) = (order_register(of), &self.registers);
                let is_held =
                    registers.promised(owner) == ballot && registers.fenced().contains(&owner);
                is_held || is_on(Mutant::OutbidStewardMoves)
            }
            Mandate::Evacuation(run) => self.still_moves(run),
        }
    }

    fn check(&self, own: RegionId, changes: &ChangeSet) -> Result<(), CommitError> {
        if changes.mandate.is_some_and(|mandate| !self.still_holds(mandate)) {
            return Err(CommitError::Conflict(NO_MANDATE));
        }
        for (id, write) in &changes.orders {
            let stored = self.orders.get(id).map(|record| record.version);
            let is_old =
                stored != Some(write.expected_version) && !is_on(Mutant::VersionsNotChecked);
            if write.expected_version > 0 && is_old {
                return Err(CommitError::Conflict("an order changed meanwhile"));
            }
            if write.expected_version == 0 && stored.is_some() {
                return Err(TAKEN);
            }
        }
        for (id, write) in &changes.sagas {
            let stored = self.sagas.get(id).map(|(saga, _)| saga.version);
            if write.expected_version > 0 && stored != Some(write.expected_version) {
                return Err(CommitError::Conflict("a saga changed meanwhile"));
            }
            if write.expected_version == 0 && stored.is_some() {
                return Err(TAKEN);
            }
        }
        let known = |intent: &IntentRecord| {
            let records = self.intents.get(&intent.intent).into_iter().flatten();
            records.clone().any(|record| record.region == intent.region)
        };
        let is_taken = changes.intents.iter().any(known) && !is_on(Mutant::IntentsNotUnique);
        if is_taken || !self.references_are_free(changes) {
            return Err(TAKEN);
        }
        let product = |sku| self.products.get(sku).map(|product| product.hlc);
        let node = |id| self.nodes.get(id).map(|node| node.hlc);
        let is_old = changes.products_seen.iter().any(|(sku, seen)| product(sku) != Some(*seen))
            || changes.nodes_seen.iter().any(|(id, seen)| node(id) != Some(*seen));
        if is_old {
            return Err(CommitError::Conflict("the catalogue changed meanwhile"));
        }
        if !is_on(Mutant::UnguardedReserve) && !self.rights.admits(self.actor(own), &changes.stock)
        {
            return Err(CommitError::Conflict("stock was taken meanwhile"));
        }
        Ok(())
    }

    /// A channel's reference has one standing order of each region.
    fn references_are_free(&self, changes: &ChangeSet) -> bool {
        let mut claimed = std::collections::BTreeSet::new();
        let unmoved =
            |write: &&OrderWrite| stands(&write.record) && write.record.order.moved.is_none();
        changes.orders.values().filter(unmoved).all(|write| {
            let order = &write.record.order;
            let Some(name) = order.channel_order_ref.clone() else { return true };
            let reference = (order.channel.clone(), name);
            let taken = self.standing(&reference).any(|other| {
                let leaves =
                    changes.orders.get(&other.order.id).is_some_and(|write| !stands(&write.record));
                other.order.moved.is_none()
                    && other.order.home_region == order.home_region
                    && other.order.id != order.id
                    && !leaves
            });
            claimed.insert((reference, order.home_region)) && !taken
        })
    }

    fn write(&mut self, own: RegionId, changes: &ChangeSet, stamp: Stamp) {
        for (id, write) in &changes.orders {
            self.keep_order(std::sync::Arc::clone(&write.record));
            self.events.entry(*id).or_default().extend(write.events.iter().cloned());
        }
        for (id, write) in &changes.sagas {
            self.sagas.insert(*id, (write.record.clone(), write.record.due_at_ms));
        }
        for intent in &changes.intents {
            self.keep_intent(intent.clone());
        }
        self.keep_catalogue(changes.products.values(), changes.nodes.values());
        self.rights.change(Actor { region: own, epoch: stamp.epoch }, &changes.stock);
    }

    /// One that is there already stays as it is.
    pub(super) fn keep_intent(&mut self, intent: IntentRecord) {
        let records = self.intents.entry(intent.intent.clone()).or_default();
        if records.iter().all(|record| record.region != intent.region) {
            records.push(intent);
            records.sort_by_key(|record| (record.first_at_ms, record.region));
        }
    }

    /// The last writer wins by stamp.
    pub(super) fn keep_catalogue<'a>(
        &mut self,
        products: impl Iterator<Item = &'a crate::domain::catalogue::Product>,
        nodes: impl Iterator<Item = &'a crate::domain::catalogue::Node>,
    ) {
        for product in products {
            let known = self.products.get(&product.sku);
            if known.is_none_or(|known| known.hlc < product.hlc) || is_on(Mutant::LastToArriveWins)
            {
                self.products.insert(product.sku.clone(), product.clone());
            }
        }
        for node in nodes {
            let known = self.nodes.get(&node.id);
            if known.is_none_or(|known| known.hlc < node.hlc) {
                self.nodes.insert(node.id.clone(), node.clone());
            }
        }
    }
}
