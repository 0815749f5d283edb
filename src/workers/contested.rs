//! Settles intents that two regions took (I-07).

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::{App, settle_contested};

/// Between looks; the table is empty but after a region was cut off or died.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until `stop`.
pub async fn contested(app: Arc<App>, stop: CancellationToken) {
    super::every(PAUSE, stop, || async {
        if !app.region.may_write() {
            return;
        }
        match settle_contested(app.reader.as_ref(), &app.writer).await {
            Ok(0) => {}
            Ok(yielded) => tracing::info!(yielded, "orders yielded to those of another region"),
            Err(error) => tracing::warn!(%error, "contested orders can't be looked up"),
        }
    })
    .await;
}
