//! Reconciles this region by itself, every few minutes (I-01 to I-20).

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::reconcile::Reconciler;

/// Runs until `stop`. The first round comes after the first pause: a region that starts has more to do.
pub async fn reconciliation(reconciler: Arc<Reconciler>, pause: Duration, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let round = stop.run_until_cancelled(reconciler.round()).await;
        if let Some(Err(error)) = round {
            tracing::warn!(%error, "this region could not be reconciled; the next round tries again");
        }
    }
}
