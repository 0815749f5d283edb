//! The stuck-saga detector (I-16): a saga that is still open after five minutes needs a person.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::ports::store::SagaFilter;

/// Between looks; the list itself (`GET /admin/sagas?status=stuck`) is always fresh.
const PAUSE: Duration = Duration::from_secs(15);
/// Named one by one in the log up to so many; beyond, somebody is looking already.
const LOGGED_MAX: u32 = 20;

/// Runs until `stop`.
pub async fn stuck_sagas(app: Arc<App>, stop: CancellationToken) {
    super::every(PAUSE, stop, || async {
        let stuck_ms = u64::try_from(app.settings.saga_stuck.as_millis()).unwrap_or(u64::MAX);
        let before_ms = app.region.clock.wall_ms().saturating_sub(stuck_ms);
        match app.reader.sagas(SagaFilter::OpenSince(before_ms), None, LOGGED_MAX).await {
            Ok(stuck) => {
                for saga in stuck {
                    tracing::error!(
                        saga = %saga.id, order = %saga.order_id, step = saga.step.as_str(),
                        "saga is stuck (I-16): see `GET /api/v1/admin/sagas?status=stuck`"
                    );
                }
            }
            Err(error) => tracing::warn!(%error, "stuck sagas can't be looked up"),
        }
    })
    .await;
}
