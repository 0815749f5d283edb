//! Tells the peers which rights rows of this region changed, and takes in what they tell.
//!
//! Newest values only: a key that sells a thousand times between two messages is in the second one
//! once. Nothing here has to arrive. What gets lost is found by comparing digests (`row_digest`), and
//! what an order needs urgently comes with the answer to a transfer request.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::app::rights::Rights;
use crate::domain::inventory::{StockDelta, StockDeltas};
use crate::escrow::{ROWS_PER_MESSAGE_MAX, Rows};
use crate::types::{RegionId, StockKey};

/// From how many changed keys on rows are gathered for longer: then the load is broad, no single key
/// is scarce because of a late row, and every key that sells again meanwhile saves a row everywhere.
const MANY_KEYS: usize = 64;

/// How long rows are gathered under broad load. Far below the 30 s within which copies must agree.
const GATHER_MANY: Duration = Duration::from_millis(500);

/// The pause after a row could not be read or sent, e.g. because the database restarts.
const RETRY: Duration = Duration::from_millis(500);

/// Messages of a peer that are merged together: a backlog after a pause is mostly old values of the
/// same keys.
const BACKLOG_MAX: usize = 32;

/// Ships own rows as they change, until `stop`.
pub(super) async fn ship(rights: Arc<Rights>, gather: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = rights.dirty.marked() => {}
        }
        tokio::time::sleep(gather).await;
        let changed = rights.dirty.take();
        let keys: Vec<StockKey> = changed.into_keys().collect();
        for chunk in keys.chunks(ROWS_PER_MESSAGE_MAX) {
            if let Err(error) = ship_chunk(&rights, chunk).await {
                tracing::warn!(%error, rows = chunk.len(), "rights rows wait to be shipped: {error}");
                let again = |key: &StockKey| (key.clone(), StockDelta::default());
                rights.dirty.mark(&chunk.iter().map(again).collect::<StockDeltas>());
                tokio::time::sleep(RETRY).await;
            }
        }
        if keys.len() >= MANY_KEYS {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(GATHER_MANY) => {}
            }
        }
    }
}

async fn ship_chunk(rights: &Rights, keys: &[StockKey]) -> anyhow::Result<()> {
    let keys: BTreeSet<StockKey> = keys.iter().cloned().collect();
    let mut rows = rights.store.rows(&keys).await?;
    let now_ms = rights.clock.monotonic_ms();
    // The own row first: it puts the key on the board.
    rows.sort_by_key(|row| row.owner != rights.own);
    for row in &rows {
        rights.board.saw(row, now_ms);
    }
    rights.look_ahead(&rows);
    rows.retain(|row| row.owner == rights.own);
    if !rows.is_empty() {
        let message = serde_json::to_vec(&Rows { rows, more: false })?;
        rights.bus.publish_rows(message.into()).await?;
    }
    Ok(())
}

/// Takes in the rows of one peer, until `stop`.
pub(super) async fn receive(rights: Arc<Rights>, peer: RegionId, stop: CancellationToken) {
    let messages = match rights.bus.rows(peer) {
        Ok(messages) => messages,
        Err(error) => {
            tracing::error!(%peer, %error, "rows of {peer} don't come in: {error}");
            return;
        }
    };
    let mut backlog = messages.ready_chunks(BACKLOG_MAX);
    loop {
        let messages = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            messages = backlog.next() => messages,
        };
        let Some(messages) = messages else { return };
        let rows = decode(peer, &messages);
        for chunk in rows.chunks(ROWS_PER_MESSAGE_MAX) {
            if let Err(error) = rights.learn(chunk, &[]).await {
                tracing::warn!(%peer, %error, "rows of {peer} are left to the digests: {error}");
            }
        }
    }
}

fn decode(peer: RegionId, messages: &[Bytes]) -> Vec<crate::escrow::KeyedRow> {
    let mut rows = Vec::new();
    for message in messages {
        match serde_json::from_slice::<Rows>(message) {
            Ok(message) => rows.extend(message.rows),
            Err(error) => {
                tracing::warn!(%peer, %error, "a message with rows can't be read: {error}");
            }
        }
    }
    rows
}
