//! What handlers can reach.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use axum::extract::FromRef;
use axum::http::HeaderValue;
use axum::response::Response;
use serde::Serialize;

use crate::ports::{Clock, Ids, ReplicationStore};
use crate::replication::LinkState;
use crate::telemetry::metrics::Metrics;
use crate::types::RegionId;

use crate::app::App;
use crate::app::Routing;
use crate::app::Verification;
use crate::app::adoption::Adoption;
use crate::app::evacuate::Evacuation;
use crate::app::reconcile::Reconciler;
use crate::app::rejoin::Rejoin;
use crate::app::retire::Retire;
use crate::app::rights::Rights;
use crate::gateways::webhook;

use super::auth::Verifier;
use super::forward::{ANSWER_TIMEOUT, DOUBTFUL_TIMEOUT, Forwarder, Origin};
use super::json::BodyLimits;
use super::problem::Problem;
use super::rate_limit::RateLimiter;

/// One thing the region needs to do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Dependency {
    /// `ok`, or what is wrong.
    pub status: String,
    /// Whether the region must not take traffic without it.
    pub required: bool,
}

/// Whether the region is fit for traffic, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct HealthReport {
    /// `ready`, `draining`, `set_back`, `in_doubt`, `fenced` or `not_ready`.
    pub status: String,
    /// Whether the load balancer may send traffic.
    pub ready: bool,
    /// Each dependency by name.
    pub dependencies: BTreeMap<String, Dependency>,
}

/// Knows the state of the region.
#[async_trait]
pub trait Health: Send + Sync {
    /// The state now. Must answer within a second whatever hangs: load balancers ask all the time.
    async fn report(&self) -> HealthReport;
}

/// What a context is made of.
pub struct ContextParts {
    /// This region.
    pub region: RegionId,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Trace ids.
    pub ids: Arc<dyn Ids>,
    /// Checks tokens.
    pub verifier: Verifier,
    /// Counts requests of clients.
    pub limiter: RateLimiter,
    /// Counts everything else.
    pub metrics: Arc<Metrics>,
    /// Does what is asked for.
    pub app: Arc<App>,
    /// Moves rights to other regions; `None` where there are none.
    pub rights: Option<Arc<Rights>>,
    /// Knows where this region's outbox ends; `None` where there are no other regions.
    pub outbox: Option<Arc<dyn ReplicationStore>>,
    /// Begins a new incarnation; `None` where there are no other regions.
    pub rejoin: Option<Arc<Rejoin>>,
    /// Takes over from lost regions; `None` where there are no other regions.
    pub adoption: Option<Arc<Adoption>>,
    /// Gives the region up; `None` where there are no other regions.
    pub evacuation: Option<Arc<Evacuation>>,
    /// Ends regions that are gone for good; `None` where there are no other regions.
    pub retire: Option<Arc<Retire>>,
    /// Knows who serves whose shoppers; `None` where there are no other regions.
    pub routing: Option<Arc<Routing>>,
    /// Knows whether the database is to be trusted; `None` where there are no other regions.
    pub verification: Option<Arc<Verification>>,
    /// Compares what must agree; `None` where there are no other regions.
    pub reconciler: Option<Arc<Reconciler>>,
    /// Asks the other regions.
    pub forwarder: Forwarder,
    /// By payment gateway: the secret that signs its webhooks.
    pub webhook_secrets: BTreeMap<String, webhook::Secret>,
    /// How long `POST /orders` waits for the saga when the client doesn't say.
    pub order_wait: Duration,
    /// The region's state.
    pub health: Arc<dyn Health>,
    /// What a body may take.
    pub body_limits: BodyLimits,
}

pub(super) struct Inner {
    pub(super) parts: ContextParts,
    pub(super) region_header: HeaderValue,
    pub(super) openapi: std::sync::OnceLock<Bytes>,
}

/// The state of the router: one allocation, shared by every request.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

impl Context {
    /// Puts the parts together.
    pub fn new(parts: ContextParts) -> Self {
        let region_header = HeaderValue::from_str(parts.region.as_str()).expect("a-z, 0-9 and -");
        Self(Arc::new(Inner { parts, region_header, openapi: std::sync::OnceLock::new() }))
    }

    /// Has another region answer a request. One that was not heard lately gets little time.
    pub(super) async fn ask(
        &self,
        region: RegionId,
        origin: &Origin,
        body: Bytes,
        wait: Duration,
    ) -> Result<Response, Problem> {
        let now_ms = self.clock.monotonic_ms();
        let link = {
            let peers = self.app.peers.lock().expect("nothing panics while it holds the lock");
            peers.link(region, now_ms)
        };
        let patience = match link {
            LinkState::Up | LinkState::NeverHeard => ANSWER_TIMEOUT + wait,
            LinkState::Silent | LinkState::OneWay => DOUBTFUL_TIMEOUT,
        };
        self.forwarder.ask(region, origin, body, patience).await
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("region", &self.region).finish_non_exhaustive()
    }
}

impl std::ops::Deref for Context {
    type Target = ContextParts;

    fn deref(&self) -> &ContextParts {
        &self.0.parts
    }
}

impl FromRef<Context> for BodyLimits {
    fn from_ref(context: &Context) -> Self {
        context.body_limits
    }
}
