//! What the tests of this module share: a directory, a context, a door, tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::ports::Clock as _;
use crate::runtime::{RandomIds, SystemClock};
use crate::telemetry::metrics::Metrics;

use super::auth::issuer::{self, Mint};
use super::auth::{Role, Verifier};
use super::json::BodyTimeout;
use super::rate_limit::{RateLimiter, Rates};
use super::{Context, ContextParts, Health, HealthReport};

/// A directory that goes away with the test.
pub(crate) struct TestDir(PathBuf);

impl TestDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("entrepot-http-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Ready or not, as the test says.
pub(super) struct Switch(pub(super) AtomicBool);

#[async_trait]
impl Health for Switch {
    async fn report(&self) -> HealthReport {
        let ready = self.0.load(Ordering::Relaxed);
        let status = if ready { "ready" } else { "draining" }.to_owned();
        HealthReport { status, ready, dependencies: std::collections::BTreeMap::new() }
    }
}

pub(super) struct Fixture {
    pub(super) dir: TestDir,
    pub(super) health: Arc<Switch>,
    pub(super) context: Context,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(Rates::default(), Duration::from_millis(300))
    }

    pub(super) fn with(rates: Rates, body_timeout: Duration) -> Self {
        let dir = TestDir::new();
        issuer::create(dir.path()).unwrap();
        let clock = Arc::new(SystemClock::new());
        let health = Arc::new(Switch(AtomicBool::new(true)));
        let context = Context::new(ContextParts {
            region: "eu-west".parse().unwrap(),
            clock: clock.clone(),
            ids: Arc::new(RandomIds::new(SystemClock::new())),
            verifier: Verifier::new(issuer::settings(dir.path()), clock).unwrap(),
            limiter: RateLimiter::new(rates),
            metrics: Arc::new(Metrics::new("eu-west")),
            health: health.clone(),
            body_timeout: BodyTimeout(body_timeout),
        });
        Self { dir, health, context }
    }

    pub(super) fn token(&self, role: Role, subject: &str) -> String {
        let mint = Mint {
            role,
            subject: subject.to_owned(),
            home_region: None,
            ttl: Duration::from_mins(10),
        };
        issuer::mint(self.dir.path(), &mint, SystemClock::new().wall_ms() / 1_000).unwrap()
    }
}

pub(super) fn request(method: &str, path: &str, token: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Body::empty()).unwrap()
}

pub(super) async fn json_of(response: Response<Body>) -> Value {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}
