//! Rights, as the program asks for them and stores them.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::StoreError;
use crate::escrow::{
    Digest, GiverDemand, KeyedRow, Ledger, MergeError, NamedGrant, SkuRows, TransferRequest,
};
use crate::types::{Actor, Epoch, NodeId, RegionId, Sku, StockKey, TransferId};

/// The rows of one SKU as this region knows them, by node. Only nodes that are not switched off.
pub type SkuLedgers = BTreeMap<NodeId, Ledger>;

/// What merging rows of peers did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MergeReport {
    /// Rows that were newer than ours and are now stored.
    pub changed: Vec<KeyedRow>,
    /// Units that this region may sell in addition, by key.
    pub credited: BTreeMap<StockKey, u64>,
    /// Rows that must not be merged. Nothing of them was stored; the others were.
    pub refused: Vec<(StockKey, MergeError)>,
}

/// A right that came to this region under a request of its own; recorded with the merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credit {
    /// The movement.
    pub transfer: TransferId,
    /// Of what.
    pub key: StockKey,
    /// From whom.
    pub from: RegionId,
    /// Units.
    pub units: u64,
}

/// What a giver did with a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// By node, now or when the request was heard first.
    pub grants: BTreeMap<NodeId, NamedGrant>,
    /// Units were kept for orders under way here.
    pub busy: bool,
    /// Every row of the SKU, after the grant.
    pub rows: SkuRows,
    /// What learning the asker's rows did.
    pub learned: MergeReport,
}

/// What an operator's transfer came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// Done.
    Done,
    /// Done when it was asked for the first time.
    Replayed,
    /// The id belongs to another transfer. Nothing was moved.
    OtherTransfer,
    /// This region may not spend as much.
    Insufficient {
        /// What it could give.
        spendable: u64,
    },
}

/// The rights rows of this region's database, but for selling, which is [`super::Store`]'s.
#[async_trait]
pub trait RightsStore: Send + Sync {
    /// What is known of a SKU.
    async fn ledgers(&self, sku: &Sku) -> Result<SkuLedgers, StoreError>;

    /// Every owner's rows of these keys.
    async fn rows(&self, keys: &BTreeSet<StockKey>) -> Result<Vec<KeyedRow>, StoreError>;

    /// Stores the rows that are newer than the copies here and raises the ceilings of what flowed to
    /// this region, in one transaction. Safe to repeat.
    async fn merge(&self, rows: &[KeyedRow], credits: &[Credit])
    -> Result<MergeReport, StoreError>;

    /// Carries out a peer's request: learns its rows, decides, grants, and records the movement, in
    /// one transaction and once per request id.
    async fn give(
        &self,
        request: &TransferRequest,
        demand: GiverDemand,
    ) -> Result<Given, StoreError>;

    /// Keeps so many units of a SKU in this region, whoever asks for them; none ends that. What an operator moves is moved all
    /// the same.
    async fn pin(&self, sku: &Sku, units: u64) -> Result<(), StoreError>;

    /// How many units of a SKU are kept here.
    async fn pinned(&self, sku: &Sku) -> Result<u64, StoreError>;

    /// Gives exactly `units` of a key to a region, once per id, or nothing.
    async fn transfer(
        &self,
        id: TransferId,
        key: &StockKey,
        to: Actor,
        units: u64,
    ) -> Result<Moved, StoreError>;

    /// Keys of which something flowed to `owner`, in key order, after `after`, at most `limit`.
    async fn held_by(
        &self,
        owner: Actor,
        after: Option<&StockKey>,
        limit: usize,
    ) -> Result<Vec<StockKey>, StoreError>;

    /// The sums of all rows.
    async fn digest(&self) -> Result<Digest, StoreError>;

    /// An owner's rows of one bucket in key order, after `after`, at most `limit`.
    async fn rows_in(
        &self,
        owner: Actor,
        bucket: u8,
        after: Option<&StockKey>,
        limit: usize,
    ) -> Result<Vec<KeyedRow>, StoreError>;
}

/// Which peers are worth asking.
pub trait Reachability: Send + Sync {
    /// Peers that are heard and hear us.
    fn reachable(&self) -> Vec<RegionId>;

    /// Peers that are heard, whether they hear us or not.
    fn heard(&self) -> Vec<RegionId> {
        self.reachable()
    }

    /// A region is heard, here or by a peer that is heard here.
    fn heard_by_anybody(&self, region: RegionId) -> bool;

    /// The incarnation in which a peer was heard last.
    fn epoch_of(&self, peer: RegionId) -> Option<Epoch>;
}
