//! Regions that are gone for good, as this region's database keeps them.

use async_trait::async_trait;

use super::{MergeReport, StoreError};
use crate::escrow::KeyedRow;
use crate::replication::retirement::Retirement;
use crate::types::{Epoch, OrderId, RegionId};

/// What this region's database keeps of it.
#[async_trait]
pub trait RetirementStore: Send + Sync {
    /// The last one of a region.
    async fn retirement(&self, region: RegionId) -> Result<Option<Retirement>, StoreError>;

    /// Keeps one, in place of what was kept of the same attempt.
    async fn keep_retirement(&self, retirement: &Retirement) -> Result<(), StoreError>;

    /// Notes that all incarnations before a retirement's number are over ([`super::RejoinStore::note_incarnation`]) and keeps it,
    /// at once. `false`: the number is somebody else's, an incarnation that begins. Answers the latest that is noted, too.
    async fn note_retirement(&self, retirement: &Retirement) -> Result<(Epoch, bool), StoreError>;

    /// Stores the last rows of a region's incarnations, as [`super::RightsStore::merge`] does. `None`: nothing was stored, because
    /// another incarnation than `ends` is noted as the latest; whoever notes a later one waits for this.
    async fn bury(
        &self,
        region: RegionId,
        ends: Epoch,
        rows: &[KeyedRow],
    ) -> Result<Option<MergeReport>, StoreError>;

    /// Standing orders that count on these provider keys. Reads all orders.
    async fn paid_by(&self, keys: &[String]) -> Result<Vec<(String, OrderId)>, StoreError>;
}
