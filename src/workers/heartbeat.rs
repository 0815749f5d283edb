//! Tells the peers several times a second that this region is there, and hears them.
//!
//! Sending reads memory only: a database that hangs must not make a region look dead, since its peers
//! would draw the wrong conclusion about the link. The head is read beside it, and while it can't be
//! read, the last one is told again; its age shows.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use super::Replication;
use crate::replication::{Head, Heartbeat};
use crate::types::HlcTimestamp;

/// How long a commit may take between its stamp and its place in the outbox. What is older than this
/// and not in the outbox was never written. A commit that takes longer makes copies claim to be
/// fresher than they are, by its delay; freshness is for display.
const COMMIT_MS_MAX: u64 = 2_000;

/// Speaks, until `stop`.
pub(super) async fn heartbeat(ctx: Replication, pause: Duration, stop: CancellationToken) {
    super::every(pause, stop, || async {
        let now_ms = ctx.region.clock.monotonic_ms();
        let beat = {
            let peers = ctx.peers();
            // Without a head nothing true can be said yet.
            let Some(head) = peers.last_own_head() else { return };
            Heartbeat {
                region: ctx.region.id,
                sent_ms: now_ms,
                head,
                watermarks: peers.watermarks(),
                hearing: peers.hearing(now_ms),
                draining: ctx.region.is_draining(),
            }
        };
        if let Err(error) = ctx.bus.publish_heartbeat(&beat).await {
            tracing::debug!(%error, "a heartbeat could not be sent");
        }
    })
    .await;
}

/// Keeps what heartbeats tell of this region's head, until `stop`. A head behind what a peer has
/// applied shows that the database was set back.
pub(super) async fn watch_head(ctx: Replication, pause: Duration, stop: CancellationToken) {
    super::every(pause, stop, || async {
        let idle_since_ms = ctx.region.clock.wall_ms().saturating_sub(COMMIT_MS_MAX);
        // Before the head is read: a peer may apply at any moment what was just written.
        let elsewhere = ctx.peers().furthest_elsewhere();
        match ctx.store.head().await {
            Ok(Head { position, hlc }) => {
                if let Some(applied) = elsewhere.filter(|applied| *applied > position) {
                    let proof = format!(
                        "a peer has applied {applied}, but the database only knows {position}"
                    );
                    ctx.stops.set_back(proof);
                }
                let idle =
                    HlcTimestamp { wall_ms: idle_since_ms, logical: 0, region: ctx.region.id };
                ctx.peers().own_head(Head { position, hlc: hlc.max(idle) });
            }
            Err(error) => tracing::debug!(%error, "the head of the outbox can't be read"),
        }
    })
    .await;
}

/// Listens to one peer, until `stop`.
pub(super) async fn hear(
    ctx: Replication,
    mut beats: BoxStream<'static, Heartbeat>,
    stop: CancellationToken,
) {
    while let Some(Some(beat)) = stop.run_until_cancelled(beats.next()).await {
        let now_ms = ctx.region.clock.monotonic_ms();
        ctx.peers().heard(beat, now_ms);
    }
}
