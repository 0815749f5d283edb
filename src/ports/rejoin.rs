//! What beginning a new incarnation takes of a database: of those that still know, and of the one that forgot.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{Mark, StoreError};
use crate::domain::catalogue::{Node, Product};
use crate::domain::change::Change;
use crate::domain::idempotency::IntentRecord;
use crate::domain::order::{Event, OrderRecord};
use crate::escrow::KeyedRow;
use crate::replication::Position;
use crate::replication::rejoin::{History, OrderMark, Votes};
use crate::saga::SagaRecord;
use crate::types::{Actor, Epoch, HlcTimestamp, OrderId, RegionId, RegionNumber, StockKey};

/// An own order as the others know it.
#[derive(Debug, Clone)]
pub struct Learned {
    /// As it is after what is learned.
    pub record: OrderRecord,
    /// How many of its events were known here when this was put together; none of an unknown order.
    pub known: u64,
    /// The commits that are missing here; where `replaces`, all of them.
    pub commits: Vec<Vec<Event>>,
    /// What is here is another history: it is set aside for people.
    pub replaces: bool,
    /// What placed it.
    pub intent: Option<IntentRecord>,
    /// In place of the saga that is here; `None` of an order that has another home.
    pub saga: Option<SagaRecord>,
}

/// What came of taking over what others know of some orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learning {
    /// It is stored.
    Done,
    /// Nothing was done: one of them has a channel's reference that another order still stands under here.
    PutOff,
    /// Nothing was done: more is known of this one by now than [was then](Learned::known). To be compared again.
    Changed(OrderId),
}

/// A new incarnation.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// Its number.
    pub epoch: Epoch,
    /// Where the outbox of the incarnation before ended when what it wrote was read.
    pub follows: Position,
    /// The last rows of the incarnations before ([`crate::escrow::Row::buried`]).
    pub rows: Vec<KeyedRow>,
    /// What the other acceptors have voted, and which regions they know to be over.
    pub votes: Votes,
    /// Regions that are gone for good, with the incarnation that ends each: nothing that they wrote is applied from now on, as
    /// by everybody else. Of regions that live it is: what they wrote before they began anew is told by their own outbox only.
    pub gone: BTreeMap<RegionId, Epoch>,
}

/// This region's database, when a region begins anew.
#[async_trait]
pub trait RejoinStore: Send + Sync {
    /// The latest incarnation of every region that ever began anew.
    async fn incarnations(&self) -> Result<BTreeMap<RegionId, Epoch>, StoreError>;

    /// Notes that another region's incarnation begins, unless as late a one is noted: from then on nothing of an
    /// earlier one is applied. Answers the latest before.
    async fn note_incarnation(&self, region: RegionId, epoch: Epoch) -> Result<Epoch, StoreError>;

    /// How far this database is.
    async fn mark(&self) -> Result<Mark, StoreError>;

    /// How far a region's outbox was applied here.
    async fn applied(&self, origin: RegionId) -> Result<Option<Position>, StoreError>;

    /// What this acceptor voted, in order of keys, after one; promises with the first page only.
    async fn votes(
        &self,
        after: Option<&(Actor, StockKey)>,
        limit: usize,
    ) -> Result<Votes, StoreError>;

    /// The rows of all incarnations of a region, in order of keys, after one.
    async fn rows_of(
        &self,
        region: RegionId,
        after: Option<&(StockKey, Epoch)>,
        limit: usize,
    ) -> Result<Vec<KeyedRow>, StoreError>;

    /// Orders whose home a region is, or that it placed, in order of ids, after one.
    async fn marks(
        &self,
        of: RegionId,
        number: RegionNumber,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderMark>, StoreError>;

    /// How far these orders are known, in order of ids. Absent ones are left out.
    async fn marks_of(&self, ids: &[OrderId]) -> Result<Vec<OrderMark>, StoreError>;

    /// All that is known of these orders, or of those among them that have this home, in order of ids. Absent ones
    /// are left out.
    async fn histories(
        &self,
        home: Option<RegionId>,
        ids: &[OrderId],
    ) -> Result<Vec<History>, StoreError>;

    /// Takes over what others know of orders, in one transaction.
    async fn learn(&self, orders: &[Learned], now_ms: u64) -> Result<Learning, StoreError>;

    /// Own orders that nobody works on though something is left to do, in order of ids, after one.
    async fn abandoned(
        &self,
        after: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<OrderRecord>, StoreError>;

    /// Stores sagas beside those that are there.
    async fn add_sagas(&self, sagas: &[SagaRecord]) -> Result<(), StoreError>;

    /// Takes newer products and nodes.
    async fn take_catalogue(&self, products: &[Product], nodes: &[Node]) -> Result<(), StoreError>;

    /// Forgets what was prepared to be told by an incarnation that never began.
    async fn forget_telling(&self) -> Result<(), StoreError>;

    /// Prepares an envelope of an incarnation that is to begin, behind the ones before.
    async fn tell(
        &self,
        epoch: Epoch,
        changes: Vec<Change>,
        hlc: HlcTimestamp,
        now_ms: u64,
    ) -> Result<(), StoreError>;

    /// Begins the incarnation: from the next start of the server on this database is that one, remembers what it
    /// has learned, and takes orders. `false`: nothing was done, because the database is not set back any more, or
    /// something was written since.
    async fn begin(&self, beginning: &Beginning) -> Result<bool, StoreError>;
}
