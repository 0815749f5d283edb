//! What the tests of this module share: a region with its database in memory, tokens, requests.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::app::{
    App, AppSettings, Completions, Region, SagaRunner, Signals, Stops, Writer, WriterSettings,
};
use crate::domain::inventory::{Shortage, StockDelta};
use crate::domain::order::OrderRecord;
use crate::ports::{
    Authorization, AuthorizeRequest, ChangeSet, Clock, GatewayError, Obtained, PaymentGateway,
    RightsSource, Stamp, Store as _,
};
use crate::replication::Peers;
use crate::runtime::{RandomIds, SystemClock, TaskSet, Trust};
use crate::sim::memory::Memory;
use crate::telemetry::metrics::Metrics;
use crate::types::{Epoch, HlcTimestamp, RegionId, RegionNumber, StockKey};

use super::auth::issuer::{self, Mint};
use super::auth::{Role, Verifier};
use super::json::BodyLimits;
use super::rate_limit::{RateLimiter, Rates};
use super::{Context, ContextParts, Forwarder, FrontDoor, Health, HealthReport};

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
        HealthReport { status, ready, dependencies: BTreeMap::new() }
    }
}

/// Decides by the token, and counts.
#[derive(Default)]
pub(super) struct Gateway {
    answers: Mutex<BTreeMap<String, Authorization>>,
    pub(super) asked: AtomicU32,
}

#[async_trait]
impl PaymentGateway for Gateway {
    async fn authorize(&self, request: &AuthorizeRequest) -> Result<Authorization, GatewayError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let reference = format!("ref-{}", request.provider_key);
        if request.token == "tok_refused" {
            return Err(GatewayError::Refused("422: bad_amount".to_owned()));
        }
        let answer = match request.token.as_str() {
            "tok_ok" => Authorization::Authorized { reference },
            "tok_fraud" => Authorization::Declined { code: "fraud".to_owned() },
            "tok_async" => Authorization::Pending { reference },
            _ => Authorization::Declined { code: "declined".to_owned() },
        };
        let key = request.provider_key.clone();
        Ok(self.answers.lock().unwrap().entry(key).or_insert(answer).clone())
    }

    async fn look_up(&self, key: &str) -> Result<Authorization, GatewayError> {
        Ok(self.answers.lock().unwrap().get(key).cloned().unwrap_or(Authorization::Unknown))
    }

    async fn void(&self, key: &str) -> Result<Authorization, GatewayError> {
        let mut answers = self.answers.lock().unwrap();
        let answer = match answers.get(key) {
            Some(declined @ Authorization::Declined { .. }) => declined.clone(),
            _ => Authorization::Voided { reference: format!("ref-{key}") },
        };
        answers.insert(key.to_owned(), answer.clone());
        Ok(answer)
    }
}

impl Gateway {
    /// Money is held under the key.
    pub(super) fn holds(&self, key: &str) -> bool {
        matches!(self.answers.lock().unwrap().get(key), Some(Authorization::Authorized { .. }))
    }

    /// What is pending is held from now on.
    pub(super) fn authorize_all(&self) {
        for answer in self.answers.lock().unwrap().values_mut() {
            if let Authorization::Pending { reference } = answer.clone() {
                *answer = Authorization::Authorized { reference };
            }
        }
    }
}

/// The other regions: they have nothing to give, but for what a test puts there.
#[derive(Default)]
pub(super) struct Others {
    /// What comes of asking, one after the other.
    pub(super) turns: Mutex<VecDeque<Turn>>,
}

/// What comes of asking once.
pub(super) struct Turn {
    /// What happens to the stock here meanwhile, whoever does it.
    pub(super) stock: Vec<(StockKey, StockDelta)>,
    /// By the region's clock.
    pub(super) took: Duration,
    /// Whoever asks is told that it brought something.
    pub(super) gained: bool,
}

struct Asking {
    others: Arc<Others>,
    store: Arc<Memory>,
    clock: Arc<TestClock>,
}

#[async_trait]
impl RightsSource for Asking {
    /// Without patience nobody is asked.
    async fn obtain(&self, _: &[Shortage], patience: Duration) -> Obtained {
        let next = || self.others.turns.lock().unwrap().pop_front();
        let turn = if patience.is_zero() { None } else { next() };
        let gained = turn.as_ref().is_some_and(|turn| turn.gained);
        if let Some(turn) = turn {
            for (key, delta) in turn.stock {
                change(&self.store, key, delta).await;
            }
            self.clock.advance(turn.took);
        }
        Obtained { gained, elsewhere: BTreeMap::new() }
    }

    async fn open(&self, _: &StockKey) {
        self.store.open_all();
    }
}

async fn change(store: &Memory, key: StockKey, delta: StockDelta) {
    let changes = ChangeSet { stock: [(key, delta)].into(), ..ChangeSet::default() };
    let hlc = HlcTimestamp::origin(store.region());
    let stamp = Stamp { epoch: Epoch::FIRST, hlc, now_ms: 0 };
    store.commit(&changes, stamp).await.unwrap();
    store.open_all();
}

/// The machine's time, which a test can let pass.
pub(super) struct TestClock {
    system: SystemClock,
    ahead_ms: AtomicU64,
}

impl TestClock {
    fn advance(&self, by: Duration) {
        self.ahead_ms.fetch_add(by.as_millis().try_into().unwrap(), Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall_ms(&self) -> u64 {
        self.system.wall_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.system.monotonic_ms() + self.ahead_ms.load(Ordering::Relaxed)
    }
}

/// The secret of the payment gateway's webhooks.
pub(super) const WEBHOOK_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

pub(super) struct Fixture {
    pub(super) dir: TestDir,
    pub(super) health: Arc<Switch>,
    pub(super) store: Arc<Memory>,
    pub(super) gateway: Arc<Gateway>,
    pub(super) others: Arc<Others>,
    pub(super) context: Context,
    tasks: TaskSet,
}

/// What a test may choose.
pub(super) struct Choices {
    pub(super) region: &'static str,
    pub(super) rates: Rates,
    pub(super) body_timeout: Duration,
    pub(super) peers: BTreeMap<RegionId, String>,
    /// Whose certificates count.
    pub(super) trust: Trust,
    /// Another region's issuer.
    pub(super) issuer: Option<PathBuf>,
}

impl Default for Choices {
    fn default() -> Self {
        let body_timeout = Duration::from_millis(300);
        let peers = BTreeMap::new();
        let (rates, trust) = (Rates::default(), Trust::nobody());
        Self { region: "eu-west", rates, body_timeout, peers, trust, issuer: None }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(Choices::default())
    }

    pub(super) fn with(choices: Choices) -> Self {
        let dir = TestDir::new();
        issuer::create(dir.path()).unwrap();
        let issuer = choices.issuer.unwrap_or_else(|| dir.path().to_owned());
        let own: RegionId = choices.region.parse().unwrap();
        let clock = Arc::new(TestClock { system: SystemClock::new(), ahead_ms: 0.into() });
        let ids = Arc::new(RandomIds::new(SystemClock::new()));
        let number = |number| RegionNumber(NonZeroU8::new(number).unwrap());
        let numbers = [("us-east", 1), ("eu-west", 2), ("ap-south", 3)];
        let numbers = numbers.map(|(name, n)| (name.parse().unwrap(), number(n))).into();
        let floor = HlcTimestamp::origin(own);
        let region =
            Arc::new(Region::new(own, numbers, Epoch::FIRST, floor, clock.clone(), ids.clone()));
        let tasks = TaskSet::new();
        let store = Arc::new(Memory::new(own));
        let settings = WriterSettings { group_max: 16, writers: 1, queue_max: 1_000 };
        let writer =
            Writer::start(&tasks, region.clone(), store.clone(), Signals::default(), settings);
        let gateway = Arc::new(Gateway::default());
        let sagas = Arc::new(SagaRunner {
            region: region.clone(),
            writer: writer.clone(),
            gateway: gateway.clone(),
            reader: store.clone(),
            queue: store.clone(),
            completions: Arc::new(Completions::default()),
            tasks: tasks.clone(),
            running: Arc::new(Semaphore::new(1_000)),
            lease: Duration::from_secs(10),
        });
        let others = Arc::new(Others::default());
        let asking =
            Arc::new(Asking { others: others.clone(), store: store.clone(), clock: clock.clone() });
        let peers = choices.peers.keys().copied();
        let peers = Arc::new(Mutex::new(Peers::new(own, peers, 1_000)));
        let settings = AppSettings {
            grant_wait: Duration::from_millis(10),
            saga_lease: Duration::from_secs(10),
            saga_stuck: Duration::from_mins(5),
        };
        let stops = Arc::new(Stops::new(region.clone(), store.clone(), tasks.clone(), false, None));
        let app =
            App::new(region, store.clone(), writer, sagas, asking, peers, stops, None, settings);
        let health = Arc::new(Switch(AtomicBool::new(true)));
        let context = Context::new(ContextParts {
            region: own,
            clock: clock.clone(),
            ids,
            verifier: Verifier::new(issuer::settings(&issuer), clock).unwrap(),
            limiter: RateLimiter::new(choices.rates),
            metrics: Arc::new(Metrics::new(own.as_str())),
            app: Arc::new(app),
            rights: None,
            outbox: None,
            reconciler: None,
            rejoin: None,
            adoption: None,
            evacuation: None,
            retire: None,
            routing: None,
            verification: None,
            forwarder: Forwarder::new(own, choices.peers, &choices.trust),
            webhook_secrets: [("simulator".to_owned(), WEBHOOK_SECRET.parse().unwrap())].into(),
            order_wait: Duration::from_secs(10),
            health: health.clone(),
            body_limits: BodyLimits { timeout: choices.body_timeout, ..BodyLimits::default() },
        });
        Self { dir, health, store, gateway, others, context, tasks }
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

/// A request with a JSON body and an idempotency key.
pub(super) fn send(
    method: &str,
    path: &str,
    token: &str,
    key: &str,
    body: &Value,
) -> Request<Body> {
    let mut request = request(method, path, Some(token));
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    request.headers_mut().insert("idempotency-key", key.parse().unwrap());
    *request.body_mut() = Body::from(body.to_string());
    request
}

pub(super) async fn json_of(response: Response<Body>) -> Value {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

/// A product, a node and stock, by the API.
pub(super) async fn stock(fixture: &Fixture, door: &FrontDoor, sku: &str, units: u64) {
    let staff = fixture.token(Role::Staff, "clerk");
    let region = fixture.context.region;
    let node = json!({"id": "w-1", "kind": "warehouse", "country": "DE", "region": region});
    let answer = door.answer(send("POST", "/api/v1/nodes", &staff, "node", &node)).await;
    assert_eq!(answer.status(), 201, "{:?}", json_of(answer).await);
    let product = json!({"sku": sku, "name": "A", "prices": [{"amount": 250, "currency": "EUR"}]});
    let answer = door.answer(send("POST", "/api/v1/products", &staff, sku, &product)).await;
    assert_eq!(answer.status(), 201, "{:?}", json_of(answer).await);
    let receipt = json!({"node": "w-1", "delta": units, "reason": "receipt"});
    let path = format!("/api/v1/inventory/{sku}/adjustments");
    let key = format!("stock-{sku}");
    let answer = door.answer(send("POST", &path, &staff, &key, &receipt)).await;
    assert_eq!(answer.status(), 200, "{:?}", json_of(answer).await);
}

/// The body of an order.
pub(super) fn order_body(sku: &str, quantity: u32, token: &str) -> Value {
    json!({
        "currency": "EUR", "lines": [{"sku": sku, "quantity": quantity}],
        "shipping_address": {"name": "A", "line1": "B 1", "city": "C", "postal_code": "1", "country": "DE"},
        "payments": [{"method": "card", "token": token}],
    })
}

/// An order with a fixed id, as it would be stored.
pub(super) fn confirmed_order() -> OrderRecord {
    let order = json!({
        "id": "01999999-9999-7000-8000-000000000002", "number": "2-ABC", "home_region": "eu-west",
        "channel": "web", "customer_id": "alice", "currency": "EUR",
        "lines": [{"id": "01999999-9999-7000-8000-000000000003", "sku": "A-1", "quantity": 2, "unit_minor": 250,
                   "allocations": [{"reservation_id": "01999999-9999-7000-8000-000000000004", "node": "w-1",
                                    "quantity": 2, "state": "held"}]}],
        "shipping_option": "standard",
        "shipping_address": {"name": "A", "line1": "B 1", "city": "C", "postal_code": "1", "country": "DE"},
        "payments": [{"id": "01999999-9999-7000-8000-000000000005", "method": "card", "gateway": "simulator",
                      "provider_key": "k", "amount_minor": 500, "state": "authorized", "reference": "r"}],
        "allow_split": true, "created_at_ms": 1_790_000_000_000_u64, "updated_at_ms": 1_790_000_000_007_u64,
    });
    let region = "eu-west".parse().unwrap();
    let stamp = |wall_ms| HlcTimestamp { wall_ms, logical: 0, region };
    OrderRecord {
        order: serde_json::from_value(order).unwrap(),
        version: 3,
        chain_hash: "c".to_owned(),
        created_hlc: stamp(1_790_000_000_000),
        updated_hlc: stamp(1_790_000_000_007),
    }
}
