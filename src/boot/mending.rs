//! What reconciliation has the rest of the program do.

use std::sync::Arc;

use async_trait::async_trait;

use crate::app::App;
use crate::app::reconcile::Helpers;
use crate::app::rights::{Rights, repair_from};
use crate::ports::StoreError;
use crate::reconcile::Report;
use crate::telemetry::metrics::Metrics;
use crate::types::{RegionId, SagaId};

pub(super) struct Mending {
    pub(super) app: Arc<App>,
    pub(super) rights: Arc<Rights>,
    pub(super) metrics: Arc<Metrics>,
}

#[async_trait]
impl Helpers for Mending {
    async fn wake_saga(&self, saga: SagaId) -> Result<bool, StoreError> {
        self.app.retry_saga(saga).await
    }

    async fn pull_rights(&self, peer: RegionId) -> Result<usize, String> {
        let ours = self.rights.digest(true).await.map_err(|error| error.to_string())?;
        let compared = repair_from(&self.rights, peer, &ours, None).await;
        compared.map(|compared| compared.repaired).map_err(|error| error.to_string())
    }

    fn found(&self, part: &Report) {
        self.metrics.reconciled(part);
    }
}
