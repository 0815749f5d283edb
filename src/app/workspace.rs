//! Where a group of commands decides: what was loaded, what has been decided so far, and the stamps.

use std::sync::Arc;

use crate::domain::idempotency::IntentRecord;
use crate::domain::inventory::StockDelta;
use crate::domain::order::{EventMaker, OrderRecord};
use crate::mutants::{Mutant, is_on};
use crate::ports::store::{OrderWrite, SagaWrite};
use crate::ports::{ChangeSet, Needs, View};
use crate::saga::SagaRecord;
use crate::types::{Hlc, HlcTimestamp, OrderId, SagaId, StockKey};

use super::Region;

/// A write: says what it needs, decides on it. May decide several times when others were faster, so it
/// must leave nothing but its changes in the workspace.
pub trait Command: Send {
    /// What it answers. Sent to the caller only once its changes are durable.
    type Answer: Send;

    /// Adds what it wants to see. `attempt` counts from 0; beyond, the decision was made on an old state.
    fn needs(&self, needs: &mut Needs, attempt: u32);

    /// Decides.
    fn decide(&self, workspace: &mut Workspace<'_>) -> Self::Answer;
}

/// One group's view and changes.
pub struct Workspace<'a> {
    /// What was loaded, as the commands of this group have left it.
    pub view: View,
    /// What is to be written.
    pub changes: ChangeSet,
    /// Who decides.
    pub region: &'a Region,
    /// Wall time of the group.
    pub now_ms: u64,
    last_stamp: Option<HlcTimestamp>,
}

impl<'a> Workspace<'a> {
    /// Begins a group.
    pub fn new(view: View, region: &'a Region) -> Self {
        let now_ms = region.clock.wall_ms();
        Self { view, changes: ChangeSet::default(), region, now_ms, last_stamp: None }
    }

    /// The next stamp.
    pub fn tick(&mut self) -> HlcTimestamp {
        let stamp = self.region.tick();
        self.last_stamp = Some(stamp);
        stamp
    }

    /// The next stamp of what is written over something stamped `seen`: later than that one too, which a
    /// region may have made whose clock is further ahead than this one follows.
    pub fn tick_after(&mut self, seen: Option<HlcTimestamp>) -> HlcTimestamp {
        let stamp = self.tick();
        if is_on(Mutant::WallClockWins) {
            return HlcTimestamp { wall_ms: self.now_ms, logical: 0, ..stamp };
        }
        let Some(seen) = seen.filter(|seen| *seen >= stamp && !is_on(Mutant::SeenStampsPassedOver))
        else {
            return stamp;
        };
        Hlc::starting_after(HlcTimestamp { region: stamp.region, ..seen }).tick(0)
    }

    /// The last stamp of the group; a fresh one if it made none.
    pub fn last_stamp(&mut self) -> HlcTimestamp {
        match self.last_stamp {
            Some(stamp) => stamp,
            None => self.tick(),
        }
    }

    /// Begins to change an order: `None` makes a new one.
    pub fn change_order(&self, id: Option<OrderId>) -> EventMaker {
        let record =
            id.and_then(|id| self.view.orders.get(&id)).map(|record| record.as_ref().clone());
        EventMaker::new(self.region.id, self.region.epoch, record)
    }

    /// Keeps what an [`EventMaker`] made.
    pub fn write_order(
        &mut self,
        made: EventMaker,
        intent: Option<IntentRecord>,
    ) -> Arc<OrderRecord> {
        let (mut record, events) = made.finish();
        if is_on(Mutant::StateBesideEvents) {
            record.order.updated_at_ms = self.now_ms + 1;
        }
        let (id, record) = (record.order.id, Arc::new(record));
        let before = self.view.orders.insert(id, Arc::clone(&record));
        let write = self.changes.orders.entry(id).or_insert_with(|| OrderWrite {
            record: Arc::clone(&record),
            expected_version: before.map_or(0, |before| before.version),
            events: Vec::new(),
            intent: None,
        });
        write.record = Arc::clone(&record);
        write.events.extend(events);
        if let Some(intent) = intent {
            self.write_intent(intent.clone());
            self.changes.orders.get_mut(&id).expect("just written").intent = Some(intent);
        }
        record
    }

    /// Keeps a saga.
    pub fn write_saga(&mut self, mut record: SagaRecord) -> SagaRecord {
        let before = self.view.sagas.get(&record.id).map_or(0, |before| before.version);
        record.version = before + 1;
        self.view.sagas.insert(record.id, record.clone());
        let write = self
            .changes
            .sagas
            .entry(record.id)
            .or_insert_with(|| SagaWrite { record: record.clone(), expected_version: before });
        write.record = record.clone();
        record
    }

    /// A stored saga.
    pub fn saga(&self, id: SagaId) -> Option<&SagaRecord> {
        self.view.sagas.get(&id)
    }

    /// Keeps an intent.
    pub fn write_intent(&mut self, intent: IntentRecord) {
        self.view.intents.entry(intent.intent.clone()).or_default().push(intent.clone());
        self.changes.intents.push(intent);
    }

    /// What was on a shelf before this group's decisions, which left it with `on_hand`.
    pub fn on_hand_before(&self, key: &StockKey, on_hand: u64) -> u64 {
        let so_far = self.changes.stock.get(key).copied().unwrap_or_default();
        (on_hand + so_far.withdrawn).saturating_sub(so_far.received)
    }

    /// Adds a change of an own rights row.
    pub fn change_stock(&mut self, key: StockKey, delta: StockDelta) {
        self.changes.stock.entry(key).or_default().add(delta);
    }
}
