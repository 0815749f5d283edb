//! The region's database, as the core sees it: load what a decision needs, commit what it decided.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::catalogue::{Node, Product};
use crate::domain::evacuation::{Evacuating, Progress};
use crate::domain::idempotency::{IntentKey, IntentRecord};
use crate::domain::inventory::{StockDeltas, StockView};
use crate::domain::order::{Event, OrderRecord};
use crate::escrow::{Ballot, KeyedRow};
use crate::mutants::{Mutant, is_on};
use crate::saga::SagaRecord;
use crate::types::{
    CustomerId, Epoch, HlcTimestamp, NodeId, OrderId, RegionId, SagaId, Sku, StockKey,
};

/// What a group of decisions wants to see.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Products and this region's spendable stock of them.
    pub skus: BTreeSet<Sku>,
    /// What is known of these intents, in any region.
    pub intents: BTreeSet<IntentKey>,
    /// Orders by id.
    pub orders: BTreeSet<OrderId>,
    /// Sagas by id.
    pub sagas: BTreeSet<SagaId>,
    /// Orders by channel and the channel's own reference.
    pub channel_refs: BTreeSet<(String, String)>,
    /// Nodes by id.
    pub nodes: BTreeSet<NodeId>,
    /// What lies on the shelf, by this region's own rows.
    pub shelves: BTreeSet<StockKey>,
}

/// One key by this region's own row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shelf {
    /// Received less withdrawn: what is on hand at a node that this region owns.
    pub on_hand: u64,
    /// What this region may still promise or take away.
    pub spendable: u64,
}

/// What was there. Decisions of one group change it as they go, so that later ones see earlier ones.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// By SKU; an unknown one is absent.
    pub products: BTreeMap<Sku, Product>,
    /// Spendable here, active nodes only.
    pub stock: StockView,
    /// One record a region that took the intent.
    pub intents: BTreeMap<IntentKey, Vec<IntentRecord>>,
    /// Own orders and copies.
    pub orders: BTreeMap<OrderId, Arc<OrderRecord>>,
    /// Own sagas.
    pub sagas: BTreeMap<SagaId, SagaRecord>,
    /// Orders that stand under a channel's reference: one a region that took it.
    pub channel_refs: BTreeMap<(String, String), Vec<OrderId>>,
    /// Nodes, active or not.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Absent where nothing was ever received or granted.
    pub shelves: BTreeMap<StockKey, Shelf>,
}

/// What is to become of one order.
#[derive(Debug, Clone)]
pub struct OrderWrite {
    /// The order after all events.
    pub record: Arc<OrderRecord>,
    /// Its version before; 0 for a new one. Guards the write.
    pub expected_version: u64,
    /// The new events, in order.
    pub events: Vec<Event>,
    /// The intent that placed it, for a new one.
    pub intent: Option<IntentRecord>,
}

/// What is to become of one saga.
#[derive(Debug, Clone)]
pub struct SagaWrite {
    /// After.
    pub record: SagaRecord,
    /// Its version before; 0 for a new one. Guards the write.
    pub expected_version: u64,
}

/// What lets a commit give orders another home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mandate {
    /// As the steward of another region's orders, under this ballot: until this acceptor promises another one, or that the
    /// region is back.
    Steward(RegionId, Ballot),
    /// By this evacuation of the region: from when it has told that it moves orders, until it is over, another one is begun
    /// or an operator has resumed the region.
    Evacuation(Uuid),
}

/// Why a commit is refused whose [`Mandate`] is over.
pub const NO_MANDATE: &str = "whoever moves these orders may not do so any more";

/// Everything a group of decisions wants written, in one transaction or not at all.
#[derive(Debug, Clone, Default)]
pub struct ChangeSet {
    /// By order.
    pub orders: BTreeMap<OrderId, OrderWrite>,
    /// By saga.
    pub sagas: BTreeMap<SagaId, SagaWrite>,
    /// New intents; one that exists already refuses the commit.
    pub intents: Vec<IntentRecord>,
    /// Changes of own rights rows.
    pub stock: StockDeltas,
    /// Products as they are to be.
    pub products: BTreeMap<Sku, Product>,
    /// The stamps of those that were there when they were changed; another one refuses the commit.
    pub products_seen: BTreeMap<Sku, HlcTimestamp>,
    /// Nodes as they are to be.
    pub nodes: BTreeMap<NodeId, Node>,
    /// See [`Self::products_seen`].
    pub nodes_seen: BTreeMap<NodeId, HlcTimestamp>,
    /// Where it is over, the commit is refused.
    pub mandate: Option<Mandate>,
}

impl ChangeSet {
    /// There is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
            && self.sagas.is_empty()
            && self.intents.is_empty()
            && self.stock.is_empty()
            && self.products.is_empty()
            && self.nodes.is_empty()
    }

    /// There are new orders in it: nothing that a drained region writes.
    pub fn places_orders(&self) -> bool {
        let places = self.orders.values().any(|write| write.expected_version == 0);
        places && !is_on(Mutant::DrainedTakesOrders)
    }
}

/// Who writes, and when: stamped on the outbox row.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// This region's incarnation; an older one is refused (I-13).
    pub epoch: Epoch,
    /// Not before any stamp of the group.
    pub hlc: HlcTimestamp,
    /// Wall time.
    pub now_ms: u64,
}

/// A commit that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The outbox sequence, if there was something to tell the others.
    pub sequence: Option<u64>,
}

/// A read that failed. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No connection, no answer in time, or the database is shutting down. Try later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// The database holds what this program can't read, or refuses a statement: a bug or a wrong schema.
    #[error("the database answered what was not expected: {0}")]
    Broken(String),
}

/// A commit that did not answer "durable".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Somebody else changed what the decision rested on. Nothing was written; load and decide again.
    #[error("decided on an old state ({0})")]
    Conflict(&'static str),
    /// It may be written or not: look, by idempotency key and version, before doing anything again.
    #[error("the outcome of the commit is not known: {0}")]
    Unknown(String),
    /// Nothing was written. Try later.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// This incarnation of the region may not write any more (I-13).
    #[error("this region was fenced: its epoch is over")]
    Fenced,
    /// It places orders, and the region is drained, whatever the process knew. Nothing was written; decide again.
    #[error("this region is drained and takes no new orders")]
    Draining,
    /// The database refuses the data of some change of the group: a bug. Nothing was written.
    #[error("the database refuses the change: {0}")]
    Broken(String),
}

/// Load and commit.
#[async_trait]
pub trait Store: Send + Sync {
    /// What a group of decisions wants to see.
    async fn load(&self, needs: &Needs) -> Result<View, StoreError>;

    /// Writes everything or nothing. Durable when it answers `Ok`.
    async fn commit(&self, changes: &ChangeSet, stamp: Stamp) -> Result<Committed, CommitError>;
}

/// Which orders a list shows.
#[derive(Debug, Clone, Default)]
pub struct OrderFilter {
    /// Only this customer's.
    pub customer_id: Option<CustomerId>,
    /// Only in this status.
    pub status: Option<String>,
    /// Only of this channel.
    pub channel: Option<String>,
    /// Only created at or after, in wall milliseconds.
    pub since_ms: Option<u64>,
    /// Only older ones than this id: where the last page ended.
    pub before: Option<OrderId>,
    /// At most so many.
    pub limit: u32,
}

/// What a region may sell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spendable {
    /// Over all SKUs and nodes.
    pub units: u64,
    /// Of how many SKUs at how many nodes.
    pub keys: u64,
}

/// Which sagas a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SagaFilter {
    /// Not over, going forward.
    Running,
    /// Not over, undoing.
    Compensating,
    /// Not over, and begun before this wall time.
    OpenSince(u64),
}

/// Reads that decide nothing.
#[async_trait]
pub trait Reader: Send + Sync {
    /// An order or the copy of one.
    async fn order(&self, id: OrderId) -> Result<Option<Arc<OrderRecord>>, StoreError>;
    /// Newest first.
    async fn orders(&self, filter: &OrderFilter) -> Result<Vec<OrderRecord>, StoreError>;
    /// Events of an order after a sequence, oldest first, at most `limit`.
    async fn events(&self, id: OrderId, after: u64, limit: u32) -> Result<Vec<Event>, StoreError>;
    /// Orders of a home that are not cancelled, by id, after the given one, and whether each is decided.
    async fn standing(
        &self,
        home: RegionId,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<(OrderId, bool)>, StoreError>;
    /// The sagas of an order, oldest first.
    async fn sagas_of(&self, id: OrderId) -> Result<Vec<SagaRecord>, StoreError>;
    /// One saga.
    async fn saga(&self, id: SagaId) -> Result<Option<SagaRecord>, StoreError>;
    /// Oldest first, after the given one, at most `limit`.
    async fn sagas(
        &self,
        filter: SagaFilter,
        after: Option<SagaId>,
        limit: u32,
    ) -> Result<Vec<SagaRecord>, StoreError>;
    /// What is known of an intent, in any region.
    async fn intents(&self, intent: &IntentKey) -> Result<Vec<IntentRecord>, StoreError>;
    /// Every row known of a SKU.
    async fn rights_of(&self, sku: &Sku) -> Result<Vec<KeyedRow>, StoreError>;
    /// What each region may still sell without asking anybody, as far as it is known here. A region that is
    /// absent may sell nothing.
    async fn may_sell_alone(&self) -> Result<BTreeMap<RegionId, Spendable>, StoreError>;
    /// One product.
    async fn product(&self, sku: &Sku) -> Result<Option<Product>, StoreError>;
    /// By SKU, after the given one.
    async fn products(&self, after: Option<&Sku>, limit: u32) -> Result<Vec<Product>, StoreError>;
    /// One node.
    async fn node(&self, id: &NodeId) -> Result<Option<Node>, StoreError>;
    /// By id, after the given one.
    async fn nodes(&self, after: Option<&NodeId>, limit: u32) -> Result<Vec<Node>, StoreError>;
    /// Intents that two regions took and that are not settled yet, at most `limit`, in the order of the
    /// two orders' ids, after a pair.
    async fn contested(
        &self,
        after: Option<(OrderId, OrderId)>,
        limit: u32,
    ) -> Result<Vec<Contested>, StoreError>;
    /// Nothing is left to decide between this order of ours and that one.
    async fn settled(&self, own: OrderId, other: OrderId) -> Result<(), StoreError>;
    /// The database answers.
    async fn ping(&self) -> Result<(), StoreError>;
}

/// An intent that two regions took.
#[derive(Debug, Clone)]
pub struct Contested {
    /// Ours.
    pub own: OrderRecord,
    /// The other region's, as far as it was copied.
    pub other: OrderRecord,
}

/// Why a region takes no new orders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stopped {
    /// An operator has drained it, it is given up, or it was set back.
    pub draining: bool,
    /// The proof that its database was.
    pub set_back: Option<String>,
}

/// Why a region takes no new orders, or not all that it could, kept over restarts and the same for all its processes.
/// What is written by an incarnation `epoch` that is over is refused.
#[async_trait]
pub trait StopStore: Send + Sync {
    /// What is stored.
    async fn stopped(&self, epoch: Epoch) -> Result<Stopped, StoreError>;
    /// An operator drains or resumes the region; resumes it also where it was given up. Once it is drained, no
    /// [commit](Store::commit) places an order, of whichever process. A region whose database was set back stays out of
    /// traffic, whatever the operator says (`true`); what is said last holds once it has begun a new incarnation.
    async fn set_draining(&self, epoch: Epoch, draining: bool) -> Result<bool, StoreError>;
    /// Keeps the proof that this database was set back; the first one counts.
    async fn set_back(&self, epoch: Epoch, proof: &str) -> Result<(), StoreError>;
    /// How many steps a region that is back has taken towards all of its shoppers; `None` when it serves them all.
    async fn canary(&self) -> Result<Option<u8>, StoreError>;
    /// It has taken none, however many it had.
    async fn begin_canary(&self, epoch: Epoch) -> Result<(), StoreError>;
    /// Takes it from one to another. `false`: it was another already.
    async fn set_canary(&self, epoch: Epoch, from: u8, to: Option<u8>) -> Result<bool, StoreError>;
}

/// An evacuation of this region, for all its processes: one carries it out, whichever is asked tells how far it is.
#[async_trait]
pub trait EvacuationStore: Send + Sync {
    /// The last one that was begun.
    async fn evacuation(&self) -> Result<Option<Evacuating>, StoreError>;
    /// Begins one, unless another is under way and was told of since `lost_ms`: the region takes no orders from then on, until
    /// it is aborted or an operator resumes the region. Begun before either of that, the next one goes on with what the last
    /// one began: where orders have moved, it can't be aborted. Answers which one is under way now. Fails for an incarnation
    /// that is over: the next one is not given up by it.
    async fn begin_evacuation(
        &self,
        epoch: Epoch,
        begun: &Progress,
        now_ms: u64,
        lost_ms: u64,
    ) -> Result<Evacuating, StoreError>;
    /// Tells how far one is. Answers whether its end was asked for; nothing where another was begun since, or an operator
    /// has resumed the region: then only its end is told. Of one that was aborted: the region is as an operator has left it.
    async fn tell_evacuation(
        &self,
        progress: &Progress,
        now_ms: u64,
    ) -> Result<Option<bool>, StoreError>;
    /// Asks for the end of one. `false`: it has told that it moves orders, or is over.
    async fn abort_evacuation(&self, run: Uuid) -> Result<bool, StoreError>;
}

/// Work that survives a crash.
#[async_trait]
pub trait SagaQueue: Send + Sync {
    /// Takes open sagas that are due, and makes them due again at `due_again_ms`, so that no other
    /// worker takes them meanwhile.
    async fn claim(
        &self,
        now_ms: u64,
        due_again_ms: u64,
        limit: u32,
    ) -> Result<Vec<SagaRecord>, StoreError>;
}
