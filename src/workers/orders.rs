//! Keeps this region's order lease, and carries on the orders of regions that are lost.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::OrderLease;
use crate::app::adoption::Adoption;

/// Between two renewals: a lease outlives four that fail.
const RENEW: Duration = Duration::from_secs(2);
/// Between two looks at what is lost; a look reads memory while nothing is.
const LOOK: Duration = Duration::from_secs(1);

/// Between two attempts while there is no lease: orders that are placed meanwhile nobody takes over by waiting.
const OBTAIN: Duration = Duration::from_millis(250);

/// Runs until `stop`.
pub async fn order_lease(lease: Arc<OrderLease>, stop: CancellationToken) {
    loop {
        lease.renew().await;
        let pause = if lease.is_held() { RENEW } else { OBTAIN };
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// Runs until `stop`.
pub async fn adoption(adoption: Arc<Adoption>, stop: CancellationToken) {
    super::every(LOOK, stop, || async {
        if let Err(error) = adoption.go_on().await {
            tracing::warn!(%error, "the orders of a lost region are taken over later: {error}");
        }
    })
    .await;
}
