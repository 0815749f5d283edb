//! Regions that are gone for good, as this region's database keeps them.

use async_trait::async_trait;

use super::{MergeReport, StoreError};
use crate::escrow::KeyedRow;
use crate::replication::retirement::Retirement;
use crate::types::{Epoch, OrderId, RegionId};

/// What came of noting that a region is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is over.
    Noted,
    /// The number is somebody else's: this incarnation begins, or has been tried to.
    BegunAnew(Epoch),
    /// The people have taken back their words. Nothing was noted.
    TakenBack,
}

/// What came of burying rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buried {
    /// What was stored.
    pub report: MergeReport,
    /// As it is kept now.
    pub retirement: Retirement,
}

/// What this region's database keeps of it.
#[async_trait]
pub trait RetirementStore: Send + Sync {
    /// The last one of a region.
    async fn retirement(&self, region: RegionId) -> Result<Option<Retirement>, StoreError>;

    /// Those that have ended a region which has not begun anew since, as far as this database knows.
    async fn ended(&self) -> Result<Vec<Retirement>, StoreError>;

    /// Keeps one, where the last one of its region is still what was read. `false`: it is not, and nothing was kept: another
    /// process of this region, or another request, was first.
    async fn keep_retirement(
        &self,
        read: Option<&Retirement>,
        next: &Retirement,
    ) -> Result<bool, StoreError>;

    /// Notes that all incarnations before a retirement's number are over ([`super::RejoinStore::note_incarnation`]) and keeps it,
    /// at once. Where the number is known already and the retirement is not, it is the number of this end only if that is done:
    /// everybody had to note it as such for that.
    async fn note_retirement(&self, retirement: &Retirement) -> Result<Ending, StoreError>;

    /// Stores the last rows of a region's incarnations, as [`super::RightsStore::merge`] does, and counts at once the units that
    /// they bring, beside what was counted by then: of two processes at the same rows, one brings them. `None`: nothing was stored, because another incarnation than the one
    /// that ends it is noted as the latest; whoever notes a later one waits for this.
    async fn bury(
        &self,
        retirement: &Retirement,
        rows: &[KeyedRow],
    ) -> Result<Option<Buried>, StoreError>;

    /// Standing orders that count on these provider keys. Reads all orders.
    async fn paid_by(&self, keys: &[String]) -> Result<Vec<(String, OrderId)>, StoreError>;
}
