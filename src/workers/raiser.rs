//! Raises this region's ceilings ahead of what it sells.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::rights::{ProposeError, Rights};

/// After a round that failed. The region sells up to its ceilings meanwhile, so nothing is gained by asking a
/// majority that isn't there more often.
const RETRY: Duration = Duration::from_millis(500);

/// Runs until `stop`.
pub(super) async fn run(rights: Arc<Rights>, stop: CancellationToken) {
    let mut failing = false;
    while stop.run_until_cancelled(rights.raises.wanted()).await.is_some() {
        match rights.raise_round().await {
            Ok(()) => {
                if failing {
                    tracing::info!("ceilings are raised again");
                }
                failing = false;
                continue;
            }
            Err(ProposeError::Amnesia { peer }) => {
                rights.forgot(format!(
                    "{peer} holds a proposal of this region that its database does not know"
                ));
                return;
            }
            Err(error) => {
                if let ProposeError::Fenced { owner } = error {
                    rights.note_fenced(owner, true);
                }
                if !failing {
                    tracing::warn!(%error, "ceilings can't be raised; this region sells up to them: {error}");
                }
                failing = true;
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
}
