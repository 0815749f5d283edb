//! Compares all rights rows with each peer, now and then and whenever a peer comes back, and pulls
//! what differs. Any peer may answer for any owner, so that those who survive a region complete what
//! they know of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::rights::{Rights, repair_from};
use crate::types::RegionId;

/// How often to look whether a peer is due or has come back.
const LOOK: Duration = Duration::from_millis(250);

/// Compares until `stop`.
pub(super) async fn run(rights: Arc<Rights>, interval: Duration, stop: CancellationToken) {
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    // A peer that can't be reached is not in here: it is due once it is back.
    let mut due_at_ms: BTreeMap<RegionId, u64> = BTreeMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let reachable = rights.reachability.reachable();
        due_at_ms.retain(|peer, _| reachable.contains(peer));
        for peer in reachable {
            let now_ms = rights.clock.monotonic_ms();
            if due_at_ms.get(&peer).is_some_and(|&due_ms| now_ms < due_ms) {
                continue;
            }
            match repair_from(&rights, peer).await {
                Ok(repaired) => {
                    tracing::debug!(%peer, repaired, "rights rows compared with {peer}");
                    due_at_ms.insert(peer, now_ms.saturating_add(interval_ms));
                }
                Err(error) => {
                    tracing::info!(%peer, %error, "rights rows not compared with {peer}: {error}");
                }
            }
        }
    }
}
