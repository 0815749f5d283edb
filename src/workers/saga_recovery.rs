//! Takes over sagas that are due: their process died, or the provider wanted to be asked later.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::SagaRunner;

/// Between looks at the due sagas: one indexed query that finds nothing nearly always. Half a second
/// is little beside the lease that a crashed worker's saga waits for anyway.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs until `stop`.
pub async fn saga_recovery(runner: Arc<SagaRunner>, stop: CancellationToken) {
    super::every(PAUSE, stop, || async {
        match runner.recover().await {
            Ok(0) => {}
            Ok(taken) => tracing::info!(taken, "sagas were due and are carried on"),
            Err(error) => tracing::warn!(%error, "due sagas can't be looked up"),
        }
    })
    .await;
}
