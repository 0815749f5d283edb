//! Keeps taking over from the regions that this one fenced: rights can be on their way to them for a while.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::rights::Rights;

/// Between two looks. What is on its way to a lost region is known within one comparison of rows (30 s); a look
/// reads rows only where something is fenced.
const INTERVAL: Duration = Duration::from_secs(5);

/// Runs until `stop`.
pub(super) async fn run(rights: Arc<Rights>, stop: CancellationToken) {
    super::every(INTERVAL, stop, || async {
        if let Err(error) = rights.read_fences().await {
            tracing::warn!(%error, "who is fenced is read again later: {error}");
        }
        if let Err(error) = rights.take_over_late().await {
            tracing::warn!(%error, "what flows to a fenced region is taken over later: {error}");
        }
    })
    .await;
}
