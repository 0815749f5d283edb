//! Carries on the orders of regions that are lost.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::adoption::Adoption;

/// Between two looks at what is lost; a look reads memory while nothing is.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until `stop`.
pub async fn adoption(adoption: Arc<Adoption>, stop: CancellationToken) {
    super::every(LOOK, stop, || async {
        if let Err(error) = adoption.go_on().await {
            tracing::warn!(%error, "the orders of a lost region are taken over later: {error}");
        }
    })
    .await;
}
