//! Compares all rights rows with each peer, now and then and whenever a peer comes back, and pulls
//! what differs. Any peer may answer for any owner, so that those who survive a region complete what
//! they know of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::rights::{Compared, Rights, repair_from};
use crate::escrow::Digest;
use crate::mutants::{Mutant, is_on};
use crate::types::RegionId;

/// How often to look whether a peer is due or has come back.
const LOOK: Duration = Duration::from_millis(250);

/// Another look after one that put off what was changing comes so many times sooner. A row that got
/// lost under load is then repaired within the 30 s in which copies must agree after it.
const SOONER: u64 = 3;

/// What is known of the last comparison with a peer.
struct Last {
    ours: Arc<Digest>,
    next_ms: u64,
}

/// Compares until `stop`.
pub(super) async fn run(rights: Arc<Rights>, interval: Duration, stop: CancellationToken) {
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    // A peer that can't be reached is not in here: it is due once it is back.
    let mut last: BTreeMap<RegionId, Last> = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let reachable = rights.reachability.reachable();
        last.retain(|peer, _| reachable.contains(peer));
        let now_ms = rights.clock.monotonic_ms();
        let due = |peer: &RegionId| last.get(peer).is_none_or(|last| now_ms >= last.next_ms);
        let due: Vec<RegionId> = reachable.into_iter().filter(due).collect();
        if due.is_empty() || is_on(Mutant::RowsNotCompared) {
            continue;
        }
        let first = due.iter().any(|peer| !last.contains_key(peer));
        let ours = match rights.digest(first).await {
            Ok(digest) => digest,
            Err(error) => {
                tracing::info!(%error, "rights rows can't be summed up: {error}");
                continue;
            }
        };
        for peer in due {
            let before = last.get(&peer).map(|last| Arc::clone(&last.ours));
            match repair_from(&rights, peer, &ours, before.as_deref()).await {
                Ok(Compared { repaired, put_off }) => {
                    tracing::debug!(%peer, repaired, put_off, "rights rows compared with {peer}");
                    let pause_ms = if put_off { interval_ms / SOONER } else { interval_ms };
                    let next_ms = now_ms.saturating_add(pause_ms);
                    last.insert(peer, Last { ours: Arc::clone(&ours), next_ms });
                }
                Err(error) => {
                    tracing::info!(%peer, %error, "rights rows not compared with {peer}: {error}");
                }
            }
        }
    }
}
