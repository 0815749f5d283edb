//! Why this region takes no new orders. Two reasons, and both outlive the process and hold for every process of the region:
//!
//! - An operator drained it, and resumes it; or it is given up ([`super::evacuate`]), which ends when that is aborted or an
//!   operator resumes the region. Who takes one of them back leaves the other as it was.
//! - Its database was set back: a peer, or this region's own stream, proves that it wrote more than its
//!   database remembers (an older backup, a standby that was promoted too early). What it sold since is
//!   forgotten, so selling on could oversell (I-01). Nobody resumes that: the database that remembers
//!   is put back, and brings a record without this stop along, or the region begins a new incarnation ([`super::rejoin`]).
//!
//! A process that has not noticed yet commits no order all the same: the database refuses it
//! ([`CommitError::Draining`](crate::ports::CommitError::Draining)). What it does besides, it stops doing within
//! [`NOTICED_WITHIN`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use super::Region;
use crate::mutants::{Mutant, is_on};
use crate::ports::{StopStore, Stopped, StoreError};
use crate::runtime::TaskSet;

/// Every process of the region follows within this time what another one has stored, as long as its database answers:
/// until then its `/readyz` says yes, and it may ask for rights ahead of demand.
pub const NOTICED_WITHIN: Duration = Duration::from_secs(1);

/// What an operator does about a database that was set back.
const WAY_OUT: &str = "stop the region, put back the database that knows everything it wrote (the newest \
     backup with its log replayed to the end) and start it again; where there is none, let the region rejoin as a new \
     incarnation (`entrepot region rejoin`). Until then the other regions serve its shoppers";

/// See the module.
pub struct Stops {
    region: Arc<Region>,
    store: Arc<dyn StopStore>,
    tasks: TaskSet,
    /// The proof is in the database.
    proof_kept: Arc<AtomicBool>,
    /// One operator at a time: what this process follows is what was stored last.
    draining: Mutex<()>,
}

impl Stops {
    /// `draining` and `set_back` are what the database said at the start.
    pub fn new(
        region: Arc<Region>,
        store: Arc<dyn StopStore>,
        tasks: TaskSet,
        draining: bool,
        set_back: Option<&str>,
    ) -> Self {
        region.set_draining(draining);
        if let Some(proof) = set_back {
            region.stop_for_good();
            tracing::error!(
                proof,
                "this region's database was set back; no orders are taken: {WAY_OUT}"
            );
        } else if draining {
            tracing::warn!("this region is drained; no orders are taken until it is resumed");
        }
        let proof_kept = Arc::new(AtomicBool::new(set_back.is_some()));
        Self { region, store, tasks, proof_kept, draining: Mutex::new(()) }
    }

    /// An operator drains or resumes the region. `false` where it stays out of traffic, because its
    /// database was set back.
    pub async fn drain(&self, draining: bool) -> Result<bool, StoreError> {
        let _alone = self.draining.lock().await;
        let set_back = self.store.set_draining(self.region.epoch, draining).await?;
        // Another process of this region may have learned it.
        if set_back {
            self.region.stop_for_good();
        }
        self.region.set_draining(draining || self.region.is_set_back());
        Ok(draining || !self.region.is_set_back())
    }

    /// Follows what is stored: by another process of this region, or by an evacuation. For a worker.
    pub async fn look(&self) -> Result<(), StoreError> {
        let _alone = self.draining.lock().await;
        let Stopped { draining, set_back } = self.store.stopped(self.region.epoch).await?;
        if let Some(proof) = set_back {
            self.proof_kept.store(true, Ordering::Relaxed);
            self.stop_for_good(&proof);
        }
        if self.region.is_drained() != draining {
            tracing::warn!(
                draining,
                "whether this region takes orders has changed: draining {draining}"
            );
            self.region.set_draining(draining);
        }
        Ok(())
    }

    fn stop_for_good(&self, proof: &str) {
        if self.region.stop_for_good() {
            tracing::error!(
                proof,
                "this region's database was set back; no more orders are taken: {WAY_OUT}"
            );
        }
    }

    /// The database was set back, as `proof` says. Stops at once, and keeps the proof; where that
    /// fails, the next proof is the retry, and comparisons with the peers bring one.
    pub fn set_back(&self, proof: String) {
        if is_on(Mutant::AmnesiaPassedOver) {
            return;
        }
        self.stop_for_good(&proof);
        if self.proof_kept.load(Ordering::Relaxed) {
            return;
        }
        let (store, kept) = (Arc::clone(&self.store), Arc::clone(&self.proof_kept));
        let epoch = self.region.epoch;
        self.tasks.spawn("keep the stop", async move {
            match store.set_back(epoch, &proof).await {
                Ok(()) => kept.store(true, Ordering::Relaxed),
                Err(error) => tracing::error!(
                    %error,
                    "that the database was set back could not be stored: a restart before it is would take orders"
                ),
            }
        });
    }
}
