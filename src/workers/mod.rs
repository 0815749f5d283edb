//! Reconcilers, one file each: woken by timer or nudge, without input, safe to run twice.
//!
//! A nudge is for latency, the timer for safety, the whole state for truth: one path serves normal
//! work, a restart and a second process. None retries inside: the next round is the retry.

mod adoption;
mod canary;
mod contested;
mod fences;
pub mod grants;
mod heartbeat;
mod order_lease;
mod publisher;
mod raiser;
mod rebalancer;
mod reconciliation;
mod replication;
mod replicator;
mod row_digest;
mod row_shipper;
mod saga_recovery;
mod stops;
mod stuck_sagas;
mod verification;

pub use adoption::adoption;
pub use canary::canary;
pub use contested::contested;
pub use order_lease::order_lease;
pub use reconciliation::reconciliation;
pub use replication::Replication;
pub use saga_recovery::saga_recovery;
pub use stops::stops;
pub use stuck_sagas::stuck_sagas;
pub use verification::verification;

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Runs `round` now and then every `pause`, until `stop`.
async fn every<F, Fut>(pause: Duration, stop: CancellationToken, mut round: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = ()>,
{
    loop {
        round().await;
        tokio::select! {
            biased;
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}
