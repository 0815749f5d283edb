//! Asks for rights ahead of demand, so that regions run out of a key at the same time and orders seldom
//! wait for a peer. What to ask for is decided in [`crate::escrow`], what is given by the giver.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::rights::{KeyWish, Rights, ask_peer};
use crate::escrow::TransferRequest;
use crate::types::TransferId;

/// Looks at the rates every `interval` until `stop`. A key and peer is left alone for `quiet` after each
/// request.
pub(super) async fn run(
    rights: Arc<Rights>,
    interval: Duration,
    quiet: Duration,
    stop: CancellationToken,
) {
    let quiet_ms = u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let now_ms = rights.clock.monotonic_ms();
        rights.waiting.sweep(now_ms);
        if !(rights.takes_orders)() {
            continue;
        }
        let wishes = rights.board.wishes(&rights.sellers(), now_ms, quiet_ms);
        let asked = wishes.into_iter().map(|wish| ask(&rights, wish));
        futures::future::join_all(asked).await;
    }
}

async fn ask(rights: &Rights, wish: KeyWish) {
    let request = TransferRequest {
        request: TransferId(rights.ids.uuid()),
        asker: rights.own,
        sku: wish.key.sku,
        node: Some(wish.key.node),
        need: 0,
        want: wish.units,
        rows: wish.rows,
    };
    if let Some(answer) = ask_peer(rights, wish.from, &request).await {
        let units: u64 = answer.grants.values().map(|grant| grant.units).sum();
        tracing::debug!(sku = %request.sku, peer = %wish.from, units, "rights moved ahead of demand");
    }
}
