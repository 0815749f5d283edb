//! Whether the region is fit for traffic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::app::App;
use crate::http::{Dependency, Health, HealthReport};

/// A load balancer asks several times a second and gives up after one.
const PATIENCE: Duration = Duration::from_millis(500);

/// The region's database is required. Peers, brokers and the payment provider are not: a region serves
/// shoppers when all of them are gone.
pub(super) struct RegionHealth {
    pub(super) app: Arc<App>,
}

#[async_trait]
impl Health for RegionHealth {
    async fn report(&self) -> HealthReport {
        let database = match tokio::time::timeout(PATIENCE, self.app.reader.ping()).await {
            Ok(Ok(())) => "ok".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} ms", PATIENCE.as_millis()),
        };
        let works = database == "ok";
        let region = &self.app.region;
        let draining = region.is_draining();
        let mut dependencies = BTreeMap::new();
        dependencies.insert("database".to_owned(), Dependency { status: database, required: true });
        for region in self.app.regions().into_iter().filter(|region| !region.own) {
            let is_well = ["ready", "witness"].contains(&region.status);
            let status = if is_well { "ok" } else { region.status };
            let dependency = Dependency { status: status.to_owned(), required: false };
            dependencies.insert(format!("region/{}", region.region), dependency);
        }
        let status = match (works, draining) {
            (false, _) => "not_ready",
            (true, true) if region.is_set_back() => "set_back",
            (true, true) if region.is_in_doubt() => "in_doubt",
            (true, true) if region.is_fenced() => "fenced",
            (true, true) if region.is_witness() => "witness",
            (true, true) => "draining",
            (true, false) => "ready",
        };
        HealthReport { status: status.to_owned(), ready: works && !draining, dependencies }
    }
}
