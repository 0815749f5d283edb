//! What reconciliation reads, and the little that it writes.

use async_trait::async_trait;

use super::{GatewayError, StoreError};
use crate::domain::catalogue::{Node, Product};
use crate::domain::order::{Event, OrderRecord};
use crate::reconcile::{Entry, Kind, Provided, Range, Report, RightsLine, StoredOrder};
use crate::types::{Actor, OrderId, RegionId, ReportId, StockKey};

/// An order, and the events of the same moment.
#[derive(Debug, Clone)]
pub struct ScannedOrder {
    /// As stored.
    pub stored: StoredOrder,
    /// All of them in order, or why they can't be read; none where they were not asked for.
    pub events: Result<Vec<Event>, String>,
}

/// What of the orders is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Those of this region.
    Own,
    /// Copies as well, and the events of each.
    WithCopiesAndEvents,
}

/// The database as it was at one moment, read page by page. A page that fails ends it.
#[async_trait]
pub trait Snapshot: Send {
    /// Orders in order of ids.
    async fn orders(
        &mut self,
        after: Option<OrderId>,
        part: Part,
        limit: u32,
    ) -> Result<Vec<ScannedOrder>, StoreError>;

    /// Every owner's rows in order of keys and owners.
    async fn rights(
        &mut self,
        after: Option<&(StockKey, Actor)>,
        limit: u32,
    ) -> Result<Vec<RightsLine>, StoreError>;
}

/// Held by the one process of a region that reconciles; given back by dropping it.
pub trait Turn: Send + Sync {}

/// What two orders may not both stand under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// A client's idempotency key.
    Intent,
    /// A channel's reference.
    Reference,
}

/// Where a scan of claims goes on.
pub type ClaimCursor = (String, String, String);

/// A page of claims.
#[derive(Debug, Clone, Default)]
pub struct ClaimsPage {
    /// Pairs that both stand; each pair is seen in one region.
    pub pairs: Vec<(OrderId, OrderId)>,
    /// `None` after the last page.
    pub next: Option<ClaimCursor>,
}

/// This region's database, as reconciliation sees it.
#[async_trait]
pub trait ReconcileStore: Send + Sync {
    /// Tries to become the one process of this region that reconciles.
    async fn turn(&self) -> Result<Option<Box<dyn Turn>>, StoreError>;

    /// The database as it is now.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;

    /// Entries of a range in order of keys, at most `limit`.
    async fn entries(&self, range: &Range, limit: usize) -> Result<Vec<Entry>, StoreError>;

    /// Entries of these keys.
    async fn entries_of(
        &self,
        kind: Kind,
        owner: RegionId,
        keys: &[String],
    ) -> Result<Vec<Entry>, StoreError>;

    /// Orders as they are stored now. Absent ones are left out.
    async fn stored_orders(&self, ids: &[OrderId]) -> Result<Vec<StoredOrder>, StoreError>;

    /// The orders with which one is contested.
    async fn rivals(&self, order: OrderId) -> Result<Vec<StoredOrder>, StoreError>;

    /// Pairs of standing orders under one claim, in order of claims.
    async fn doubles(
        &self,
        claim: Claim,
        after: &ClaimCursor,
        limit: u32,
    ) -> Result<ClaimsPage, StoreError>;

    /// The events of an order, commit by commit.
    async fn commits(&self, order: OrderId) -> Result<Vec<Vec<Event>>, StoreError>;

    /// Puts this in place of the copy of an order, events that are missing included. `false`: the copy is newer by
    /// now, or an order of our own.
    async fn replace_copy(
        &self,
        record: &OrderRecord,
        commits: &[Vec<Event>],
    ) -> Result<bool, StoreError>;

    /// Takes a newer product, or none.
    async fn take_product(&self, product: &Product) -> Result<(), StoreError>;

    /// Takes a newer node, or none.
    async fn take_node(&self, node: &Node) -> Result<(), StoreError>;

    /// Keeps a report, in place of what was kept under its id.
    async fn keep(&self, report: &Report) -> Result<(), StoreError>;

    /// A report that is kept.
    async fn report(&self, id: ReportId) -> Result<Option<Report>, StoreError>;

    /// Marks runs as failed that began before and never ended, and forgets all but the newest `kept`.
    async fn tidy(&self, begun_before_ms: u64, kept: u32) -> Result<(), StoreError>;
}

/// An authorization in a provider's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Our key.
    pub provider_key: String,
    /// What we told the provider about whose it is.
    pub order_reference: Option<String>,
    /// As it stands now.
    pub provided: Provided,
}

/// A page of a ledger.
#[derive(Debug, Clone, Default)]
pub struct LedgerPage {
    /// Authorizations; other operations are left out.
    pub entries: Vec<LedgerEntry>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// A provider's own books, where it lets us read them.
#[async_trait]
pub trait PaymentLedger: Send + Sync {
    /// Authorizations oldest first, from a cursor on, or from the beginning.
    async fn page(&self, cursor: Option<&str>) -> Result<LedgerPage, GatewayError>;
}
