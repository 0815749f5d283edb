//! What a region's server last saw of its database, kept outside of it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::escrow::Voter;
use crate::replication::Position;

/// How far a database is. One that is less far later was set back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Names the database and its history: another one after it was restored to a point in time, or replaced by its
    /// standby.
    pub database: String,
    /// The end of its outbox.
    pub head: Position,
    /// How often it voted.
    pub voter: Voter,
}

/// Why a marker can't be used. The region asks the others instead.
#[derive(Debug, thiserror::Error)]
#[error("the marker {place}: {reason}")]
pub struct MarkerError {
    /// Which.
    pub place: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Keeps a [`Mark`], durably.
#[async_trait]
pub trait Marker: Send + Sync {
    /// What was kept last; `None` where nothing ever was.
    async fn read(&self) -> Result<Option<Mark>, MarkerError>;

    /// Keeps it in place of the last.
    async fn write(&self, mark: &Mark) -> Result<(), MarkerError>;
}
