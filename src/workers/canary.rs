//! Gives a region that is back its shoppers, step by step.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::Routing;

/// Between two looks: a small part of the shortest step anybody sets.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until `stop`.
pub async fn canary(routing: Arc<Routing>, stop: CancellationToken) {
    super::every(LOOK, stop, || async {
        if let Err(error) = routing.go_on().await {
            tracing::debug!(%error, "how far this region is back is looked at again later: {error}");
        }
    })
    .await;
}
