//! What replication needs of this region's database.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::replication::{Envelope, Head, Position, Watermark};
use crate::types::RegionId;

/// How a batch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// All of it is in the database, the watermark with it.
    Done,
    /// Nothing was done: the watermark is not where the batch begins. Another process of this region
    /// was faster, or an earlier attempt succeeded whose answer got lost. Go on from here.
    WatermarkIsAt(Position),
}

/// Why the database could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplicationError {
    /// It did not answer in time, or the connection broke: what became of a write is unknown, and
    /// the watermark tells. Try again.
    #[error("the database did not answer: {0}")]
    Unavailable(String),
    /// A payload says something this program can't do. Nothing was applied, and trying again won't
    /// help: this origin's copy stands still until an operator has looked.
    #[error("envelope {position} of {origin} can't be applied: {reason}")]
    CantApply {
        /// Whose.
        origin: RegionId,
        /// Which.
        position: Position,
        /// Why.
        reason: String,
    },
    /// The database holds what must not be there, e.g. an outbox row without the hash it was stored
    /// with.
    #[error("the database contradicts itself: {0}")]
    Corrupt(String),
}

/// This region's database, as replication sees it.
#[async_trait]
pub trait ReplicationStore: Send + Sync {
    /// The last envelope this region wrote, with its stamp. Before the first one: position 0 of the
    /// current epoch and the stamp before all others.
    async fn head(&self) -> Result<Head, ReplicationError>;

    /// This region's own envelopes of `from.epoch` with sequences `from.sequence ..`, oldest first, at
    /// most `count` and as many as fit `PULL_ANSWER_BYTES_MAX`, but one at least if there is any.
    async fn outbox(&self, from: Position, count: u32) -> Result<Vec<Envelope>, ReplicationError>;

    /// How far every origin has been applied here.
    async fn watermarks(&self) -> Result<BTreeMap<RegionId, Watermark>, ReplicationError>;

    /// Applies a run of one origin's envelopes of one epoch, in one transaction with their inbox rows
    /// and the step of the watermark from `after`. All or nothing; safe to call again.
    async fn apply(
        &self,
        after: Position,
        batch: &[Envelope],
        now_ms: u64,
    ) -> Result<Applied, ReplicationError>;

    /// Looks again at intents copied a while ago: has this region taken one of them as well, in the
    /// moment it was copied? To be called now and then; the first call looks at everything.
    async fn find_contests(&self, now_ms: u64) -> Result<(), ReplicationError>;

    /// Keeps an envelope that can't be applied for the operator to see. It is not skipped by that.
    async fn park(
        &self,
        envelope: &Envelope,
        reason: &str,
        now_ms: u64,
    ) -> Result<(), ReplicationError>;
}
