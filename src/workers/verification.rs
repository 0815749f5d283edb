//! Finds out whether the database remembers everything, and keeps how far it is.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::Verification;

/// Between looks, and between lines of the marker: what a database may be set back by unnoticed, where it is put back
/// without a new history and no other region can be asked.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs until `stop`.
pub async fn verification(verification: Arc<Verification>, stop: CancellationToken) {
    super::every(PAUSE, stop, || verification.look()).await;
}
