//! Keeps this region's order lease.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::OrderLease;

/// Between two renewals: a lease outlives four that fail.
const RENEW: Duration = Duration::from_secs(2);
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
