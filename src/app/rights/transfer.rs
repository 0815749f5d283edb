//! An operator moves budget from this region to another.

use crate::domain::inventory::{StockDelta, StockDeltas};
use crate::ports::{Moved, StoreError};
use crate::types::{Actor, RegionId, StockKey, TransferId};

use super::Rights;

/// Why nothing was moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The receiver is this region, the witness, or none of the deployment.
    #[error("rights can be moved to another region of the deployment: {}", .regions.iter().map(RegionId::as_str).collect::<Vec<_>>().join(", "))]
    NotAPeer {
        /// Who could be meant.
        regions: Vec<RegionId>,
    },
    /// This region may not spend as much.
    #[error("this region may give {spendable} units")]
    Insufficient {
        /// What it may give.
        spendable: u64,
    },
    /// This region's database was set back.
    #[error("this region's database forgot what it sold, or may have; it gives nothing away")]
    SetBack,
    /// Nobody knows in which incarnation the receiver runs: it was never heard.
    #[error("{to} was never heard by this region; what is moved there could be lost")]
    NeverHeard {
        /// The receiver.
        to: RegionId,
    },
    /// The receiver was fenced.
    #[error("{to} was fenced; what is moved there would be stranded")]
    Fenced {
        /// The receiver.
        to: Actor,
    },
    /// The id belongs to another transfer.
    #[error("another transfer was made under this id")]
    OtherTransfer,
    /// The database could not do it. With the same idempotency key it can be asked again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Gives exactly `units` of a key, once per `id`. Answers whether that was done before. The receiver may
/// sell them as soon as the row has arrived there, which is at once while it can be reached.
pub async fn transfer(
    rights: &Rights,
    id: TransferId,
    key: &StockKey,
    to: RegionId,
    units: u64,
) -> Result<bool, TransferError> {
    let mut regions = rights.bus.peers();
    regions.retain(|region| rights.witness != Some(*region));
    if !regions.contains(&to) {
        return Err(TransferError::NotAPeer { regions });
    }
    if !(rights.may_give)() {
        return Err(TransferError::SetBack);
    }
    let Some(epoch) = rights.reachability.epoch_of(to) else {
        return Err(TransferError::NeverHeard { to });
    };
    let to = Actor { region: to, epoch };
    if rights.is_fenced(to) {
        return Err(TransferError::Fenced { to });
    }
    let mut moved = rights.store.transfer(id, key, to, units).await?;
    if let Moved::Insufficient { .. } = moved {
        // It may lie above the ceiling.
        rights.raise([(key.clone(), units)]).await;
        moved = rights.store.transfer(id, key, to, units).await?;
    }
    match moved {
        Moved::Done | Moved::Replayed => {
            rights.dirty.mark(&StockDeltas::from([(key.clone(), StockDelta::default())]));
            Ok(moved == Moved::Replayed)
        }
        Moved::OtherTransfer => Err(TransferError::OtherTransfer),
        Moved::Insufficient { spendable } => Err(TransferError::Insufficient { spendable }),
    }
}
