//! A region's database as its server sees it: calls take time, fail, and lose their answers; a commit
//! whose answer got lost may be there or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::catalogue::{Node, Product};
use crate::domain::change::Change;
use crate::domain::evacuation::{Evacuating, Progress};
use crate::domain::idempotency::{IntentKey, IntentRecord};
use crate::domain::order::{Event, OrderRecord};
use crate::escrow::{
    Accept, Accepted, Ballot, Digest, GiverDemand, KeyedRow, KeyedSlot, Prepare, Promise, Purpose,
    Stewardship, TransferRequest, Voted, Voters,
};
use crate::ports::store::{Contested, Mandate, OrderFilter, SagaFilter, Spendable};
use crate::ports::{
    Applied, Beginning, Buried, ChangeSet, CommitError, Committed, Credit, Ending, EvacuationStore,
    Given, Learned, Learning, Mark, MergeReport, Moved, Needs, Reader, RegisterStore, RejoinStore,
    ReplicationError, ReplicationStore, RetirementStore, RightsStore, SagaQueue, SkuLedgers, Stamp,
    StopStore, Stopped, Store, StoreError, View,
};
use crate::replication::rejoin::{History, OrderMark, Votes};
use crate::replication::retirement::Retirement;
use crate::replication::{Envelope, Head, Position, Watermark};
use crate::saga::SagaRecord;
use crate::types::{
    Actor, Epoch, HlcTimestamp, NodeId, OrderId, RegionId, RegionNumber, SagaId, Sku, StockKey,
    TransferId,
};

use super::checks::granted;
use super::dice::Dice;
use super::life::Life;
use super::memory::{Memory, MemoryRights};
use super::shared::Shared;

/// A call takes this long at most when nothing is wrong.
const CALL_MS_MAX: u64 = 3;
/// How long a caller waits for a database that doesn't answer (`database_deadline_ms`).
const DEADLINE: Duration = Duration::from_secs(3);

/// What is wrong with one region's database. Outlives the server's processes.
#[derive(Debug)]
pub struct Condition {
    down: AtomicBool,
    /// Raised whenever it goes down: connections that were open then are broken.
    breaks: AtomicU64,
    slow: AtomicU64,
    dice: Mutex<Dice>,
}

impl Condition {
    /// All is well.
    pub fn new(dice: Dice) -> Self {
        Self {
            down: AtomicBool::new(false),
            breaks: AtomicU64::new(0),
            slow: AtomicU64::new(1),
            dice: Mutex::new(dice),
        }
    }

    /// It is gone, or back.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
        if down {
            self.breaks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A call takes `factor` times as long.
    pub fn set_slow(&self, factor: u64) {
        self.slow.store(factor, Ordering::Relaxed);
    }

    fn roll(&self, permille: u64) -> bool {
        self.dice.lock().expect("no panic while held").chance(permille)
    }

    fn call_ms(&self) -> u64 {
        let ms = self.dice.lock().expect("no panic while held").below(CALL_MS_MAX + 1);
        ms * self.slow.load(Ordering::Relaxed)
    }
}

/// The connections of one process to its region's database.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
    condition: Arc<Condition>,
    life: Life,
    memory: Memory,
    rights: MemoryRights,
}

/// How a call went that did not answer well.
enum Trouble {
    /// It was not carried out.
    NotDone(&'static str),
    /// It was, but nobody knows.
    AnswerLost,
}

impl Trouble {
    fn why(&self) -> String {
        match self {
            Self::NotDone(why) => (*why).to_owned(),
            Self::AnswerLost => "the connection broke".to_owned(),
        }
    }
}

impl Database {
    /// Connects a process in incarnation `epoch` of its region.
    pub fn new(
        shared: Arc<Shared>,
        condition: Arc<Condition>,
        life: Life,
        memory: Memory,
        epoch: Epoch,
    ) -> Self {
        let rights = MemoryRights::new(memory.clone(), epoch);
        Self { shared, condition, life, memory, rights }
    }

    fn region(&self) -> RegionId {
        self.memory.region()
    }

    /// The way of a call to the database. Answers how often it broke by then.
    async fn arrive(&self) -> Result<u64, Trouble> {
        self.life.go_on().await;
        let before = self.condition.breaks.load(Ordering::Relaxed);
        let time = Duration::from_millis(self.condition.call_ms());
        self.life.pass(time.min(DEADLINE)).await;
        if time >= DEADLINE {
            return Err(Trouble::NotDone("no answer within the deadline"));
        }
        let down = self.condition.down.load(Ordering::Relaxed);
        if down || self.condition.breaks.load(Ordering::Relaxed) != before {
            return Err(Trouble::NotDone("there is no connection"));
        }
        if self.condition.roll(self.shared.now_and_then(|knobs| knobs.database_error_permille)) {
            return Err(Trouble::NotDone("too many connections"));
        }
        Ok(before)
    }

    /// The way of the answer back.
    async fn depart(&self, breaks: u64) -> Result<(), Trouble> {
        let time = Duration::from_millis(self.condition.call_ms());
        self.life.pass(time.min(DEADLINE)).await;
        let lost =
            self.condition.roll(self.shared.now_and_then(|knobs| knobs.unknown_commit_permille));
        if lost || time >= DEADLINE || self.condition.breaks.load(Ordering::Relaxed) != breaks {
            return Err(Trouble::AnswerLost);
        }
        Ok(())
    }

    async fn reads(&self) -> Result<(), StoreError> {
        let arrived = self.arrive().await;
        arrived.map(drop).map_err(|trouble| StoreError::Unavailable(trouble.why()))
    }

    async fn writes(&self) -> Result<u64, StoreError> {
        self.arrive().await.map_err(|trouble| StoreError::Unavailable(trouble.why()))
    }

    async fn reaches(&self) -> Result<u64, ReplicationError> {
        self.arrive().await.map_err(|trouble| ReplicationError::Unavailable(trouble.why()))
    }

    async fn answers(&self, breaks: u64) -> Result<(), StoreError> {
        let departed = self.depart(breaks).await;
        departed.map_err(|trouble| StoreError::Unavailable(trouble.why()))
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.shared.note(self.region().as_str(), what);
    }
}

#[async_trait]
impl Store for Database {
    async fn load(&self, needs: &Needs) -> Result<View, StoreError> {
        self.reads().await?;
        self.memory.load(needs).await
    }

    async fn commit(&self, changes: &ChangeSet, stamp: Stamp) -> Result<Committed, CommitError> {
        let arrived = self.arrive().await;
        let breaks = arrived.map_err(|trouble| CommitError::Unavailable(trouble.why()))?;
        if self.condition.roll(self.shared.now_and_then(|knobs| knobs.unknown_commit_permille)) {
            self.note(format_args!("a commit gets lost"));
            return Err(CommitError::Unknown("the connection broke".to_owned()));
        }
        let outcome = self.memory.commit(changes, stamp).await;
        match &outcome {
            Ok(committed) => {
                let sequence = committed.sequence.unwrap_or(0);
                let (orders, sagas) = (changes.orders.len(), changes.sagas.len());
                let hash = self.shared.checks.committed(&self.memory, changes, stamp);
                if let Some(Mandate::Steward(of, _)) = changes.mandate {
                    self.note(format_args!("takes over {orders} orders of {of}"));
                }
                self.note(format_args!(
                    "commits {sequence}: {orders} orders, {sagas} sagas, {} rows, {hash}",
                    changes.stock.len()
                ));
            }
            Err(error) => self.note(format_args!("does not commit: {error}")),
        }
        let departed = self.depart(breaks).await;
        departed.map_err(|trouble| CommitError::Unknown(trouble.why()))?;
        outcome
    }
}

#[async_trait]
impl Reader for Database {
    async fn order(&self, id: OrderId) -> Result<Option<Arc<OrderRecord>>, StoreError> {
        self.reads().await?;
        self.memory.order(id).await
    }

    async fn orders(&self, filter: &OrderFilter) -> Result<Vec<OrderRecord>, StoreError> {
        self.reads().await?;
        self.memory.orders(filter).await
    }

    async fn standing(
        &self,
        home: RegionId,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<(OrderId, bool)>, StoreError> {
        self.reads().await?;
        self.memory.standing(home, after, limit).await
    }

    async fn events(&self, id: OrderId, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.reads().await?;
        self.memory.events(id, after, limit).await
    }

    async fn sagas_of(&self, id: OrderId) -> Result<Vec<SagaRecord>, StoreError> {
        self.reads().await?;
        self.memory.sagas_of(id).await
    }

    async fn saga(&self, id: SagaId) -> Result<Option<SagaRecord>, StoreError> {
        self.reads().await?;
        self.memory.saga(id).await
    }

    async fn sagas(
        &self,
        filter: SagaFilter,
        after: Option<SagaId>,
        limit: u32,
    ) -> Result<Vec<SagaRecord>, StoreError> {
        self.reads().await?;
        self.memory.sagas(filter, after, limit).await
    }

    async fn intents(&self, intent: &IntentKey) -> Result<Vec<IntentRecord>, StoreError> {
        self.reads().await?;
        self.memory.intents(intent).await
    }

    async fn rights_of(&self, sku: &Sku) -> Result<Vec<KeyedRow>, StoreError> {
        self.reads().await?;
        self.memory.rights_of(sku).await
    }

    async fn may_sell_alone(&self) -> Result<BTreeMap<RegionId, Spendable>, StoreError> {
        self.reads().await?;
        self.memory.may_sell_alone().await
    }

    async fn product(&self, sku: &Sku) -> Result<Option<Product>, StoreError> {
        self.reads().await?;
        self.memory.product(sku).await
    }

    async fn products(&self, after: Option<&Sku>, limit: u32) -> Result<Vec<Product>, StoreError> {
        self.reads().await?;
        self.memory.products(after, limit).await
    }

    async fn node(&self, id: &NodeId) -> Result<Option<Node>, StoreError> {
        self.reads().await?;
        self.memory.node(id).await
    }

    async fn nodes(&self, after: Option<&NodeId>, limit: u32) -> Result<Vec<Node>, StoreError> {
        self.reads().await?;
        self.memory.nodes(after, limit).await
    }

    async fn contested(
        &self,
        after: Option<(OrderId, OrderId)>,
        limit: u32,
    ) -> Result<Vec<Contested>, StoreError> {
        self.reads().await?;
        self.memory.contested(after, limit).await
    }

    async fn settled(&self, own: OrderId, other: OrderId) -> Result<(), StoreError> {
        self.reads().await?;
        self.note(format_args!("settles {own} beside {other}"));
        self.memory.settled(own, other).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.reads().await
    }
}

#[async_trait]
impl SagaQueue for Database {
    async fn claim(
        &self,
        now_ms: u64,
        due_again_ms: u64,
        limit: u32,
    ) -> Result<Vec<SagaRecord>, StoreError> {
        self.reads().await?;
        let claimed = self.memory.claim(now_ms, due_again_ms, limit).await?;
        if !claimed.is_empty() {
            self.note(format_args!("takes over {} sagas", claimed.len()));
        }
        Ok(claimed)
    }
}

#[async_trait]
impl StopStore for Database {
    async fn stopped(&self, epoch: Epoch) -> Result<Stopped, StoreError> {
        self.reads().await?;
        self.memory.stopped(epoch).await
    }

    async fn set_draining(&self, epoch: Epoch, draining: bool) -> Result<bool, StoreError> {
        self.reads().await?;
        self.memory.set_draining(epoch, draining).await
    }

    async fn set_back(&self, epoch: Epoch, proof: &str) -> Result<(), StoreError> {
        self.reads().await?;
        self.note(format_args!("was set back: {proof}"));
        // A process whose incarnation is over stops alone: the database is that of the next one.
        self.memory.set_back(epoch, proof).await?;
        self.shared.checks.noticed(self.region());
        Ok(())
    }

    async fn canary(&self) -> Result<Option<u8>, StoreError> {
        self.reads().await?;
        self.memory.canary().await
    }

    async fn begin_canary(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.reads().await?;
        self.memory.begin_canary(epoch).await
    }

    async fn set_canary(&self, epoch: Epoch, from: u8, to: Option<u8>) -> Result<bool, StoreError> {
        self.reads().await?;
        self.memory.set_canary(epoch, from, to).await
    }
}

#[async_trait]
impl EvacuationStore for Database {
    async fn evacuation(&self) -> Result<Option<Evacuating>, StoreError> {
        self.reads().await?;
        self.memory.evacuation().await
    }

    async fn begin_evacuation(
        &self,
        epoch: Epoch,
        begun: &Progress,
        now_ms: u64,
        lost_ms: u64,
    ) -> Result<Evacuating, StoreError> {
        let breaks = self.writes().await?;
        let evacuating = self.memory.begin_evacuation(epoch, begun, now_ms, lost_ms).await?;
        self.answers(breaks).await?;
        Ok(evacuating)
    }

    async fn tell_evacuation(
        &self,
        progress: &Progress,
        now_ms: u64,
    ) -> Result<Option<bool>, StoreError> {
        let breaks = self.writes().await?;
        let abort = self.memory.tell_evacuation(progress, now_ms).await?;
        self.answers(breaks).await?;
        Ok(abort)
    }

    async fn abort_evacuation(&self, run: Uuid) -> Result<bool, StoreError> {
        self.reads().await?;
        self.memory.abort_evacuation(run).await
    }
}

#[async_trait]
impl ReplicationStore for Database {
    async fn head(&self) -> Result<Head, ReplicationError> {
        self.reaches().await?;
        self.memory.head().await
    }

    async fn outbox(&self, from: Position, count: u32) -> Result<Vec<Envelope>, ReplicationError> {
        self.reaches().await?;
        ReplicationStore::outbox(&self.memory, from, count).await
    }

    async fn watermarks(&self) -> Result<BTreeMap<RegionId, Watermark>, ReplicationError> {
        self.reaches().await?;
        self.memory.watermarks().await
    }

    async fn apply(
        &self,
        after: Position,
        batch: &[Envelope],
        now_ms: u64,
    ) -> Result<Applied, ReplicationError> {
        let breaks = self.reaches().await?;
        let applied = self.memory.apply(after, batch, now_ms).await;
        if let Some(last) = batch.last() {
            let (origin, count, to) = (last.origin, batch.len(), last.position());
            match &applied {
                Ok(Applied::Done) => {
                    self.shared.checks.applied(&self.memory, after, batch);
                    self.note(format_args!("applies {count} of {origin} up to {to}"));
                }
                Ok(Applied::WatermarkIsAt(at)) => {
                    self.note(format_args!("does not apply {origin} {to}: it is at {at}"));
                }
                Err(error) => self.note(format_args!("can't apply {origin} {to}: {error}")),
            }
        }
        let departed = self.depart(breaks).await;
        departed.map_err(|trouble| ReplicationError::Unavailable(trouble.why()))?;
        applied
    }

    async fn find_contests(&self, now_ms: u64) -> Result<(), ReplicationError> {
        self.reaches().await?;
        self.memory.find_contests(now_ms).await
    }

    async fn park(
        &self,
        envelope: &Envelope,
        reason: &str,
        now_ms: u64,
    ) -> Result<(), ReplicationError> {
        self.reaches().await?;
        self.shared.checks.parked(self.region(), envelope, reason);
        self.memory.park(envelope, reason, now_ms).await
    }
}

#[async_trait]
impl RightsStore for Database {
    async fn ledgers(&self, sku: &Sku) -> Result<SkuLedgers, StoreError> {
        self.reads().await?;
        self.rights.ledgers(sku).await
    }

    async fn rows(&self, keys: &BTreeSet<StockKey>) -> Result<Vec<KeyedRow>, StoreError> {
        self.reads().await?;
        self.rights.rows(keys).await
    }

    async fn merge(
        &self,
        rows: &[KeyedRow],
        credits: &[Credit],
    ) -> Result<MergeReport, StoreError> {
        self.reads().await?;
        let report = self.rights.merge(rows, credits).await?;
        self.shared.checks.learned(&self.memory, &report);
        for (key, units) in &report.credited {
            self.note(format_args!("is given {units} {} at {}", key.sku, key.node));
        }
        Ok(report)
    }

    async fn give(
        &self,
        request: &TransferRequest,
        demand: GiverDemand,
    ) -> Result<Given, StoreError> {
        let arrived = self.arrive().await;
        let breaks = arrived.map_err(|trouble| StoreError::Unavailable(trouble.why()))?;
        let before = granted(&self.memory, &request.sku, request.asker);
        let given = self.rights.give(request, demand).await?;
        let units = granted(&self.memory, &request.sku, request.asker) - before;
        self.shared.checks.moved_under(self.region(), request.request, units);
        self.shared.checks.learned(&self.memory, &given.learned);
        for (node, grant) in &given.grants {
            self.note(format_args!(
                "gives {} {} {} at {node}",
                request.asker, grant.units, request.sku
            ));
            let key = StockKey { sku: request.sku.clone(), node: node.clone() };
            self.shared.checks.moved(&key);
        }
        self.answers(breaks).await?;
        Ok(given)
    }

    async fn pin(&self, sku: &Sku, units: u64) -> Result<(), StoreError> {
        self.reads().await?;
        self.rights.pin(sku, units).await
    }

    async fn pinned(&self, sku: &Sku) -> Result<u64, StoreError> {
        self.reads().await?;
        self.rights.pinned(sku).await
    }

    async fn transfer(
        &self,
        id: TransferId,
        key: &StockKey,
        to: Actor,
        units: u64,
    ) -> Result<Moved, StoreError> {
        let arrived = self.arrive().await;
        let breaks = arrived.map_err(|trouble| StoreError::Unavailable(trouble.why()))?;
        let before = granted(&self.memory, &key.sku, to);
        let moved = self.rights.transfer(id, key, to, units).await?;
        let has_moved = granted(&self.memory, &key.sku, to) - before;
        self.shared.checks.moved_under(self.region(), id, has_moved);
        self.note(format_args!("moves {units} {} at {} to {to}: {moved:?}", key.sku, key.node));
        self.shared.checks.moved(key);
        self.answers(breaks).await?;
        Ok(moved)
    }

    async fn held_by(
        &self,
        owner: Actor,
        after: Option<&StockKey>,
        limit: usize,
    ) -> Result<Vec<StockKey>, StoreError> {
        self.reads().await?;
        self.rights.held_by(owner, after, limit).await
    }

    async fn digest(&self) -> Result<Digest, StoreError> {
        self.reads().await?;
        self.rights.digest().await
    }

    async fn rows_in(
        &self,
        owner: Actor,
        bucket: u8,
        after: Option<&StockKey>,
        limit: usize,
    ) -> Result<Vec<KeyedRow>, StoreError> {
        self.reads().await?;
        self.rights.rows_in(owner, bucket, after, limit).await
    }
}

#[async_trait]
impl RegisterStore for Database {
    async fn promised(&self, owner: Actor) -> Result<Ballot, StoreError> {
        self.reads().await?;
        RegisterStore::promised(&self.rights, owner).await
    }

    async fn prepare(&self, request: &Prepare) -> Result<Voted<Promise>, StoreError> {
        let breaks = self.writes().await?;
        let promise = self.rights.prepare(request).await?;
        let (owner, ballot) = (request.owner, request.ballot);
        let what = match request.purpose {
            Purpose::Propose => "",
            Purpose::Fence => "a fence of ",
            Purpose::Return => "the return of ",
        };
        let refused = if matches!(promise.answer, Promise::Refused { .. }) {
            "does not promise"
        } else {
            "promises"
        };
        self.note(format_args!("{refused} {what}{owner} to {} {}", ballot.round, ballot.region));
        self.answers(breaks).await?;
        Ok(promise)
    }

    async fn accept(&self, request: &Accept) -> Result<Voted<Accepted>, StoreError> {
        let breaks = self.writes().await?;
        let accepted = self.rights.accept(request).await?;
        self.answers(breaks).await?;
        Ok(accepted)
    }

    async fn choose(
        &self,
        owner: Actor,
        chosen: &[KeyedSlot],
        voters: &Voters,
    ) -> Result<(), StoreError> {
        let breaks = self.writes().await?;
        self.rights.choose(owner, chosen, voters).await?;
        for KeyedSlot { key, slot } in chosen {
            let value = &slot.value;
            self.note(format_args!(
                "{owner} may sell {} and lost {} of {} at {}",
                value.ceiling,
                value.credited(),
                key.sku,
                key.node
            ));
            self.shared.checks.moved(key);
        }
        self.answers(breaks).await
    }

    async fn note_voters(&self, voters: &Voters) -> Result<(), StoreError> {
        let breaks = self.writes().await?;
        self.rights.note_voters(voters).await?;
        self.answers(breaks).await
    }

    async fn voters(&self) -> Result<Voters, StoreError> {
        self.reads().await?;
        self.rights.voters().await
    }

    async fn latest(&self, region: RegionId) -> Result<Epoch, StoreError> {
        self.reads().await?;
        self.rights.latest(region).await
    }

    async fn stewardship(&self, region: RegionId) -> Result<Stewardship, StoreError> {
        self.reads().await?;
        self.rights.stewardship(region).await
    }

    async fn fenced(&self) -> Result<BTreeSet<Actor>, StoreError> {
        self.reads().await?;
        self.rights.fenced().await
    }

    async fn keep_gone(&self, region: RegionId, ballot: Ballot) -> Result<(), StoreError> {
        let breaks = self.writes().await?;
        self.rights.keep_gone(region, ballot).await?;
        self.answers(breaks).await
    }

    async fn is_gone(&self, region: RegionId, ballot: Ballot) -> Result<bool, StoreError> {
        self.reads().await?;
        self.rights.is_gone(region, ballot).await
    }
}

#[async_trait]
impl RejoinStore for Database {
    async fn incarnations(&self) -> Result<BTreeMap<RegionId, Epoch>, StoreError> {
        self.reads().await?;
        self.rights.incarnations().await
    }

    async fn mark(&self) -> Result<Mark, StoreError> {
        self.reads().await?;
        self.rights.mark().await
    }

    async fn applied(&self, origin: RegionId) -> Result<Option<Position>, StoreError> {
        self.reads().await?;
        self.rights.applied(origin).await
    }

    async fn note_incarnation(&self, region: RegionId, epoch: Epoch) -> Result<Epoch, StoreError> {
        let breaks = self.writes().await?;
        let before = self.rights.note_incarnation(region, epoch).await?;
        self.note(format_args!("notes incarnation {epoch} of {region} after {before}"));
        self.shared.checks.noted(self.region(), region, epoch);
        self.answers(breaks).await?;
        Ok(before)
    }

    async fn votes(
        &self,
        after: Option<&(Actor, StockKey)>,
        limit: usize,
    ) -> Result<Votes, StoreError> {
        self.reads().await?;
        self.rights.votes(after, limit).await
    }

    async fn rows_of(
        &self,
        region: RegionId,
        after: Option<&(StockKey, Epoch)>,
        limit: usize,
    ) -> Result<Vec<KeyedRow>, StoreError> {
        self.reads().await?;
        self.rights.rows_of(region, after, limit).await
    }

    async fn marks(
        &self,
        of: RegionId,
        number: RegionNumber,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderMark>, StoreError> {
        self.reads().await?;
        self.rights.marks(of, number, after, limit).await
    }

    async fn marks_of(&self, ids: &[OrderId]) -> Result<Vec<OrderMark>, StoreError> {
        self.reads().await?;
        self.rights.marks_of(ids).await
    }

    async fn histories(
        &self,
        home: Option<RegionId>,
        ids: &[OrderId],
    ) -> Result<Vec<History>, StoreError> {
        self.reads().await?;
        self.rights.histories(home, ids).await
    }

    async fn learn(&self, orders: &[Learned], now_ms: u64) -> Result<Learning, StoreError> {
        let breaks = self.writes().await?;
        let learned = self.rights.learn(orders, now_ms).await?;
        self.note(format_args!("learns {} of its orders: {learned:?}", orders.len()));
        self.answers(breaks).await?;
        Ok(learned)
    }

    async fn abandoned(
        &self,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderRecord>, StoreError> {
        self.reads().await?;
        self.rights.abandoned(after, limit).await
    }

    async fn add_sagas(&self, sagas: &[SagaRecord]) -> Result<(), StoreError> {
        let breaks = self.writes().await?;
        self.rights.add_sagas(sagas).await?;
        self.answers(breaks).await
    }

    async fn take_catalogue(&self, products: &[Product], nodes: &[Node]) -> Result<(), StoreError> {
        let breaks = self.writes().await?;
        self.rights.take_catalogue(products, nodes).await?;
        self.answers(breaks).await
    }

    async fn forget_telling(&self) -> Result<(), StoreError> {
        let breaks = self.writes().await?;
        self.rights.forget_telling().await?;
        self.answers(breaks).await
    }

    async fn tell(
        &self,
        epoch: Epoch,
        changes: Vec<Change>,
        hlc: HlcTimestamp,
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let breaks = self.writes().await?;
        self.note(format_args!("will tell {} changes in incarnation {epoch}", changes.len()));
        self.rights.tell(epoch, changes, hlc, now_ms).await?;
        self.answers(breaks).await
    }

    async fn begin(&self, beginning: &Beginning) -> Result<bool, StoreError> {
        let breaks = self.writes().await?;
        let begun = self.rights.begin(beginning).await?;
        let (epoch, rows) = (beginning.epoch, beginning.rows.len());
        self.note(format_args!("begins incarnation {epoch} with {rows} rows of before: {begun}"));
        if begun {
            self.shared.checks.reborn(&self.memory);
        }
        self.answers(breaks).await?;
        Ok(begun)
    }
}

#[async_trait]
impl RetirementStore for Database {
    async fn retirement(&self, region: RegionId) -> Result<Option<Retirement>, StoreError> {
        self.reads().await?;
        self.rights.retirement(region).await
    }

    async fn ended(&self) -> Result<Vec<Retirement>, StoreError> {
        self.reads().await?;
        self.rights.ended().await
    }

    async fn keep_retirement(
        &self,
        read: Option<&Retirement>,
        next: &Retirement,
    ) -> Result<bool, StoreError> {
        let breaks = self.writes().await?;
        let kept = self.rights.keep_retirement(read, next).await?;
        self.answers(breaks).await?;
        Ok(kept)
    }

    async fn note_retirement(&self, retirement: &Retirement) -> Result<Ending, StoreError> {
        let breaks = self.writes().await?;
        let ending = self.rights.note_retirement(retirement).await?;
        let (region, ends) = (retirement.region, retirement.ends);
        self.note(format_args!("notes that {region} is gone before {ends}: {ending:?}"));
        if ending != Ending::TakenBack {
            self.shared.checks.noted(self.region(), region, ends);
        }
        self.answers(breaks).await?;
        Ok(ending)
    }

    async fn bury(
        &self,
        retirement: &Retirement,
        rows: &[KeyedRow],
    ) -> Result<Option<Buried>, StoreError> {
        let breaks = self.writes().await?;
        let region = retirement.region;
        let buried = self.rights.bury(retirement, rows).await?;
        let units: u64 = buried.iter().flat_map(|it| it.report.credited.values()).sum();
        self.note(format_args!("buries {} rows of {region}: {units} units are free", rows.len()));
        if let Some(Buried { report, .. }) = &buried {
            self.shared.checks.learned(&self.memory, report);
        }
        self.answers(breaks).await?;
        Ok(buried)
    }

    async fn paid_by(&self, keys: &[String]) -> Result<Vec<(String, OrderId)>, StoreError> {
        self.reads().await?;
        self.rights.paid_by(keys).await
    }
}
