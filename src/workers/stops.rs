//! Follows what another process of the region has stored of why it takes no orders.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::Stops;

/// Between two looks: two within the time that is promised ([`NOTICED_WITHIN`](crate::app::NOTICED_WITHIN)), since a look
/// takes some of it. It reads two rows.
const LOOK: Duration = Duration::from_millis(500);

/// Runs until `stop`.
pub async fn stops(stops: Arc<Stops>, stop: CancellationToken) {
    super::every(LOOK, stop, || async {
        if let Err(error) = stops.look().await {
            tracing::debug!(%error, "whether this region takes orders is read again later: {error}");
        }
    })
    .await;
}
