//! From the outbox into this region's stream, in order.
//!
//! Remembers nothing that matters: after a start, and after any doubt, it asks the stream what it
//! ends with and goes on from there. If the stream is empty, because the broker lost its disk, it
//! goes on with what the peer that is furthest behind still needs; with what came before, nobody
//! can be helped by a stream, and who needs it asks the outbox.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Replication;
use crate::replication::Position;

/// Rows read and confirmed together. With a broker that syncs each write, 64 at once are 26 times as
/// fast as one after another.
const BATCH: u32 = 64;
/// Between looks at the outbox when nobody nudges: another process of this region may have committed.
const PAUSE: Duration = Duration::from_secs(1);
/// After a failure. Nudges don't shorten it, or a busy region would ask a dead broker at each commit.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);

/// Runs until `stop`.
pub(super) async fn publisher(ctx: Replication, nudge: Arc<Notify>, stop: CancellationToken) {
    let mut published: Option<Position> = None;
    let mut failing = false;
    while !stop.is_cancelled() {
        // A stop during this drops reads and unconfirmed messages, both of which may be repeated.
        let Some(round) = stop.run_until_cancelled(round(&ctx, &mut published)).await else {
            return;
        };
        match round {
            Ok(()) => {
                if failing {
                    tracing::info!("the outbox is published again");
                }
                failing = false;
                tokio::select! {
                    biased;
                    () = nudge.notified() => {}
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stop.cancelled() => {}
                }
            }
            Err(reason) => {
                if !failing {
                    tracing::warn!(
                        reason,
                        "the outbox can't be published; peers will pull from it"
                    );
                }
                failing = true;
                published = None;
                stop.run_until_cancelled(tokio::time::sleep(PAUSE_AFTER_FAILURE)).await;
            }
        }
    }
}

/// Publishes everything there is.
async fn round(ctx: &Replication, published: &mut Option<Position>) -> Result<(), String> {
    let mut at = match *published {
        Some(at) => at,
        None => where_to_begin(ctx).await?,
    };
    loop {
        let batch = ctx.store.outbox(at.next(), BATCH).await.map_err(|error| error.to_string())?;
        let Some(last) = batch.last() else { break };
        ctx.bus.publish(&batch).await.map_err(|error| error.to_string())?;
        at = last.position();
        tracing::trace!(rows = batch.len(), position = %at, "published");
    }
    *published = Some(at);
    Ok(())
}

async fn where_to_begin(ctx: &Replication) -> Result<Position, String> {
    // In this order: another process of this region may publish what was written in between.
    let stream = ctx.bus.published().await.map_err(|error| error.to_string())?;
    let head = ctx.store.head().await.map_err(|error| error.to_string())?.position;
    match stream {
        Some(end) if end > head => {
            let proof = format!("the stream ends with {end}, but the database only knows {head}");
            ctx.stops.set_back(proof.clone());
            Err(proof)
        }
        Some(end) if end.epoch == head.epoch => Ok(end),
        // What the former epoch left unpublished is pulled by who needs it.
        Some(_older) => Ok(Position { sequence: 0, ..head }),
        None => {
            let needed = ctx.peers().lowest_watermark_elsewhere(head.epoch);
            let sequence = needed.unwrap_or(head.sequence).min(head.sequence);
            Ok(Position { sequence, ..head })
        }
    }
}
