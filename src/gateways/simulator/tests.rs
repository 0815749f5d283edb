//! The real simulator on a loopback port, asked through the real client.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::gateways::webhook::{Headers, Secret, verify};
use crate::gateways::{SimulatorClient, simulator};
use crate::ports::{Authorization, AuthorizeRequest, Clock as _, GatewayError, PaymentGateway};
use crate::runtime::{RandomIds, SystemClock, Trust, spawn_named};
use crate::types::Money;

use super::{Options, Simulator};

/// Long for an answer that comes, short for one that doesn't.
const TIMEOUT: Duration = Duration::from_millis(300);

/// A new directory of this test's own.
pub(super) fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("entrepot-payments-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// A simulator, its ledger's directory and a client.
struct Scene {
    simulator: Option<Simulator>,
    directory: PathBuf,
    client: Arc<SimulatorClient>,
}

impl Scene {
    async fn new() -> Self {
        Self::in_directory(scratch(), Vec::new()).await
    }

    async fn in_directory(directory: PathBuf, webhooks: Vec<(hyper::Uri, Secret)>) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let options = Options { listen, ledger: directory.join("ledger.jsonl"), webhooks };
        let clock = SystemClock::new();
        let ids = Arc::new(RandomIds::new(clock));
        let simulator = Simulator::start(options, Arc::new(clock), ids).await.unwrap();
        let url = format!("http://{}", simulator.address);
        let client = Arc::new(SimulatorClient::new(&url, TIMEOUT, 64, &Trust::nobody()).unwrap());
        Self { simulator: Some(simulator), directory, client }
    }

    async fn restarted(mut self) -> Self {
        self.simulator.take().unwrap().stop().await;
        unlocked(&self.ledger()).await;
        let directory = std::mem::take(&mut self.directory);
        Self::in_directory(directory, Vec::new()).await
    }

    fn ledger(&self) -> PathBuf {
        self.directory.join("ledger.jsonl")
    }

    async fn authorize(&self, key: &str, token: &str) -> Result<Authorization, GatewayError> {
        self.client.authorize(&request(key, token, 1999)).await
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let address = self.simulator.as_ref().unwrap().address;
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{address}{path}"))
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn items(&self, query: &str) -> Vec<Value> {
        let (status, body) = self.call("GET", &format!("/ledger{query}"), "").await;
        assert_eq!(status, 200, "{body}");
        body["items"].as_array().unwrap().clone()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !self.directory.as_os_str().is_empty() {
            drop(std::fs::remove_dir_all(&self.directory));
        }
    }
}

fn request(key: &str, token: &str, amount: i64) -> AuthorizeRequest {
    AuthorizeRequest {
        provider_key: key.to_owned(),
        token: token.to_owned(),
        method: "card".to_owned(),
        amount: Money::new(amount, "EUR".parse().unwrap()),
        order_reference: "order-1".to_owned(),
    }
}

fn is_authorized(answer: &Result<Authorization, GatewayError>) -> bool {
    matches!(answer, Ok(Authorization::Authorized { .. }))
}

fn states(items: &[Value]) -> Vec<(&str, &str)> {
    let text =
        |item: &'_ Value, field: &str| item[field].as_str().unwrap().to_owned().leak() as &str;
    items.iter().map(|item| (text(item, "operation"), text(item, "state"))).collect()
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let clock = SystemClock::new();
    while !condition().await {
        assert!(clock.monotonic_ms() < 10_000, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn plain_tokens_hold_or_decline() {
    let scene = Scene::new().await;
    assert!(is_authorized(&scene.authorize("ok", "tok_ok").await));
    let declines = [
        ("tok_declined", "declined"),
        ("tok_insufficient_funds", "insufficient_funds"),
        ("tok_fraud", "fraud"),
        ("tok_nobody_knows", "invalid_token"),
    ];
    for (token, code) in declines {
        let declined = Ok(Authorization::Declined { code: code.to_owned() });
        assert_eq!(scene.authorize(token, token).await, declined);
        assert_eq!(scene.client.look_up(token).await, declined);
        assert_eq!(scene.client.void(token).await, declined, "nothing to release");
    }
    let items = scene.items("").await;
    let mut expected = vec![("authorize", "authorized")];
    expected.extend([("authorize", "declined"); 4]);
    assert_eq!(states(&items), expected);
    assert_eq!(items[0]["amount"], json!({"amount": 1999, "currency": "EUR"}));
    assert_eq!(items[0]["idempotency_key"], "ok");
    assert_eq!(items[0]["order_reference"], "order-1");
}

#[tokio::test]
async fn after_a_timeout_the_key_tells_what_happened() {
    let scene = Scene::new().await;
    let lost = scene.authorize("lost", "tok_timeout_lost").await;
    assert!(matches!(lost, Err(GatewayError::NoAnswer(_))), "{lost:?}");
    assert_eq!(scene.client.look_up("lost").await, Ok(Authorization::Unknown));

    let charged = scene.authorize("charged", "tok_timeout_charged").await;
    assert!(matches!(charged, Err(GatewayError::NoAnswer(_))), "{charged:?}");
    assert!(is_authorized(&scene.client.look_up("charged").await));
    assert!(
        is_authorized(&scene.authorize("charged", "tok_timeout_charged").await),
        "known by now"
    );
    assert_eq!(states(&scene.items("").await), [("authorize", "authorized")]);
}

#[tokio::test]
async fn a_closed_key_is_dead_for_a_late_authorization() {
    let scene = Scene::new().await;
    let slow = scene.authorize("late", "tok_slow_600").await;
    assert!(matches!(slow, Err(GatewayError::NoAnswer(_))));
    assert!(matches!(scene.client.void("late").await, Ok(Authorization::Voided { .. })));
    assert!(matches!(scene.authorize("late", "tok_ok").await, Ok(Authorization::Voided { .. })));
    // The slow authorization, whose client has long gone, still comes, and must find the key dead: when
    // a second slow one that was sent later has been carried out, the first has as well.
    drop(scene.authorize("later", "tok_slow_600").await);
    eventually("the slow authorization is carried out", || async {
        is_authorized(&scene.client.look_up("later").await)
    })
    .await;
    assert_eq!(states(&scene.items("?key=late").await), [("void", "voided")]);
}

#[tokio::test]
async fn a_void_releases_what_is_held_once() {
    let scene = Scene::new().await;
    assert!(is_authorized(&scene.authorize("a", "tok_ok").await));
    for _ in 0..3 {
        assert!(matches!(scene.client.void("a").await, Ok(Authorization::Voided { .. })));
    }
    assert!(matches!(scene.client.look_up("a").await, Ok(Authorization::Voided { .. })));
    let items = scene.items("").await;
    assert_eq!(states(&items), [("authorize", "voided"), ("void", "voided")]);
    assert_eq!(items[1]["amount"]["amount"], 1999);
}

#[tokio::test]
async fn flaky_tokens_fail_as_often_as_they_say() {
    let scene = Scene::new().await;
    for key in ["a", "b"] {
        for _ in 0..2 {
            let failed = scene.authorize(key, "tok_flaky_2").await;
            assert!(matches!(failed, Err(GatewayError::Unavailable(_))), "{failed:?}");
        }
        assert!(is_authorized(&scene.authorize(key, "tok_flaky_2").await));
    }
    assert_eq!(scene.items("").await.len(), 2);
}

#[tokio::test]
async fn slow_tokens_are_answered_late() {
    let scene = Scene::new().await;
    assert!(is_authorized(&scene.authorize("a", "tok_slow_20").await));
}

#[tokio::test]
async fn two_hundred_at_once_under_one_key_hold_money_once() {
    let scene = Scene::new().await;
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let client = Arc::clone(&scene.client);
            spawn_named("racer", async move { client.authorize(&request("k", "tok_ok", 5)).await })
        })
        .collect();
    for task in tasks {
        match task.await.unwrap() {
            Ok(Authorization::Authorized { reference }) => assert_eq!(reference, "auth_00000001"),
            // On a busy machine two hundred at once may take longer than a client waits.
            Err(GatewayError::NoAnswer(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(is_authorized(&scene.client.authorize(&request("k", "tok_ok", 5)).await));
    assert_eq!(std::fs::read_to_string(scene.ledger()).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_key_stands_for_one_amount() {
    let scene = Scene::new().await;
    assert!(is_authorized(&scene.authorize("a", "tok_ok").await));
    let other = scene.client.authorize(&request("a", "tok_ok", 2000)).await;
    let Err(GatewayError::Refused(reason)) = other else { panic!("{other:?}") };
    assert!(reason.contains("422") && reason.contains("idempotency_key_reused"), "{reason}");
    assert_eq!(scene.items("").await.len(), 1);
}

#[tokio::test]
async fn a_restart_knows_everything_but_the_torn_end() {
    let mut scene = Scene::new().await;
    for number in 0..50 {
        assert!(is_authorized(&scene.authorize(&format!("k{number}"), "tok_ok").await));
    }
    assert!(matches!(scene.client.void("k7").await, Ok(Authorization::Voided { .. })));
    let path = scene.ledger();
    let whole = std::fs::read(&path).unwrap();
    let torn = [&whole, &whole[..40]].concat();
    scene.simulator.take().unwrap().stop().await;
    unlocked(&path).await;
    std::fs::write(&path, &torn).unwrap();
    let directory = std::mem::take(&mut scene.directory);
    let scene = Scene::in_directory(directory, Vec::new()).await;
    assert_eq!(scene.simulator.as_ref().unwrap().cut_bytes, 40);
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    assert!(is_authorized(&scene.client.look_up("k0").await));
    assert!(matches!(scene.authorize("k7", "tok_ok").await, Ok(Authorization::Voided { .. })));
    let Ok(Authorization::Authorized { reference }) = scene.authorize("new", "tok_ok").await else {
        panic!("a restarted provider works")
    };
    assert_eq!(reference, "auth_00000052", "references go on, none is used twice");
    assert_eq!(scene.items("").await.len(), 52);
    let scene = scene.restarted().await;
    assert_eq!(scene.items("").await.len(), 52);
}

/// Waits until the stopped simulator has let go of its file: a listing may read on for a moment.
async fn unlocked(path: &Path) {
    eventually("the ledger is unlocked", || async {
        std::fs::File::open(path).unwrap().try_lock().is_ok()
    })
    .await;
}

#[tokio::test]
async fn captures_and_refunds_stay_within_what_is_held() {
    let scene = Scene::new().await;
    assert!(is_authorized(&scene.authorize("a", "tok_ok").await));
    let body = |key: &str, amount: i64| {
        json!({"idempotency_key": key, "amount": {"amount": amount, "currency": "EUR"}}).to_string()
    };
    let captures = "/v1/authorizations/a/captures";
    let refunds = "/v1/authorizations/a/refunds";
    assert_eq!(scene.call("POST", refunds, &body("r0", 1)).await.1["code"], "exceeds_captured");
    for _ in 0..2 {
        assert_eq!(scene.call("POST", captures, &body("c1", 1500)).await.1["captured"], 1500);
    }
    assert_eq!(
        scene.call("POST", captures, &body("c2", 500)).await.1["code"],
        "exceeds_authorized"
    );
    assert_eq!(scene.call("POST", captures, &body("c1", 1)).await.0, 422);
    assert_eq!(scene.call("POST", refunds, &body("c1", 1500)).await.0, 422);
    assert_eq!(scene.call("POST", refunds, &body("r1", 1501)).await.1["code"], "exceeds_captured");
    assert_eq!(scene.call("POST", refunds, &body("r1", 1500)).await.1["refunded"], 1500);
    assert_eq!(scene.call("POST", captures, &body("c3", -1)).await.1["code"], "bad_amount");
    assert!(matches!(scene.client.void("a").await, Ok(Authorization::Voided { .. })));
    assert_eq!(scene.call("POST", captures, &body("c4", 1)).await.1["code"], "nothing_held");
    let scene = scene.restarted().await;
    assert_eq!(scene.call("POST", captures, &body("c1", 1500)).await.1["refunded"], 1500);
    let items = scene.items("?key=a").await;
    let kinds: Vec<_> = states(&items).into_iter().map(|(operation, _)| operation).collect();
    assert_eq!(kinds, ["authorize", "capture", "refund", "void"]);
    assert_eq!(items[3]["amount"]["amount"], 499, "what was left");
}

#[tokio::test]
async fn the_ledger_is_listed_whole_filtered_or_in_pages() {
    let scene = Scene::new().await;
    for number in 0..7 {
        let mut request = request(&format!("k/{number}"), "tok_ok", 1);
        request.order_reference = format!("o{}", number % 2);
        assert!(is_authorized(&scene.client.authorize(&request).await));
        assert!(is_authorized(&scene.client.look_up(&request.provider_key).await));
    }
    assert_eq!(scene.items("").await.len(), 7);
    assert_eq!(scene.items("?order=o1").await.len(), 3);
    assert_eq!(scene.items("?key=k%2F3").await.len(), 1);
    assert_eq!(scene.items("?key=none").await.len(), 0);
    let (mut cursor, mut seen) = (String::new(), 0);
    loop {
        let (_, page) = scene.call("GET", &format!("/ledger?limit=3{cursor}"), "").await;
        seen += page["items"].as_array().unwrap().len();
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, 7);
    assert_eq!(scene.call("GET", "/ledger?page=1", "").await.0, 422);
}

#[tokio::test]
async fn nonsense_is_refused_and_leaves_nothing() {
    let scene = Scene::new().await;
    let good = json!({"idempotency_key": "k", "token": "tok_ok", "order_reference": "o",
        "amount": {"amount": 1, "currency": "EUR"}});
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body.to_string()
    };
    let bad = [
        "{".to_owned(),
        with("surprise", json!(1)),
        with("idempotency_key", json!("")),
        with("idempotency_key", json!("k".repeat(256))),
        with("token", json!("t".repeat(256))),
        with("amount", json!({"amount": 0, "currency": "EUR"})),
        with("amount", json!({"amount": -5, "currency": "EUR"})),
        with("amount", json!({"amount": 1, "currency": "EURO"})),
        with("amount", json!({"amount": 1.5, "currency": "EUR"})),
    ];
    for body in bad {
        assert_eq!(scene.call("POST", "/v1/authorizations", &body).await.0, 422, "{body}");
    }
    let large = with("order_reference", json!("o".repeat(20_000)));
    assert_eq!(scene.call("POST", "/v1/authorizations", &large).await.0, 413);
    for path in
        ["/", "/v1/authorizations/k/voids", "/v1/authorizations/k/void/x", "/v1/authorizations/%F"]
    {
        assert_eq!(scene.call("POST", path, "").await.1["code"], "no_such_route", "{path}");
    }
    assert_eq!(scene.items("").await.len(), 0);
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = SimulatorClient::new(&url, TIMEOUT, 1, &Trust::nobody()).unwrap();
    let answer = client.look_up("k").await;
    assert!(matches!(answer, Err(GatewayError::Unavailable(_))), "{answer:?}");
    for bad in ["", "localhost", "ftp://h:1", "http://h/path", "https://h?x"] {
        assert!(SimulatorClient::new(bad, TIMEOUT, 1, &Trust::nobody()).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn the_provider_is_asked_over_tls_if_its_certificate_is_trusted() {
    let scene = Scene::new().await;
    let plain = scene.simulator.as_ref().unwrap().address;
    let (url, trust) = crate::runtime::tls_front_of(plain).await;
    let client = SimulatorClient::new(&url, TIMEOUT, 1, &trust).unwrap();
    let answer = client.authorize(&request("k", "tok_ok", 1999)).await;
    assert!(matches!(answer, Ok(Authorization::Authorized { .. })), "{answer:?}");
    let wary = SimulatorClient::new(&url, TIMEOUT, 1, &Trust::nobody()).unwrap();
    let answer = wary.authorize(&request("other", "tok_ok", 1999)).await;
    assert!(matches!(answer, Err(GatewayError::Unavailable(_))), "{answer:?}");
}

#[tokio::test]
async fn async_tokens_end_by_a_signed_webhook_that_is_tried_again() {
    let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/webhooks", listener.local_addr().unwrap()).parse().unwrap();
    let (sender, mut received) = mpsc::channel(16);
    spawn_named("receiver", receive(listener, sender, secret.clone()));

    let scene = Scene::in_directory(scratch(), vec![(url, secret)]).await;
    let answer = scene.authorize("later", "tok_async").await;
    assert!(matches!(answer, Ok(Authorization::Pending { .. })), "{answer:?}");
    let (first_id, _) = received.recv().await.unwrap();
    let (second_id, body) = received.recv().await.unwrap();
    assert_eq!(first_id, second_id, "one message, tried twice");
    assert_eq!(body["type"], "payment.authorized");
    assert_eq!(body["data"]["idempotency_key"], "later");
    assert!(is_authorized(&scene.client.look_up("later").await));
    assert_eq!(states(&scene.items("").await), [("authorize", "authorized")]);
}

#[tokio::test]
async fn what_was_pending_at_the_end_is_settled_at_the_start() {
    let scene = Scene::new().await;
    assert!(matches!(scene.authorize("k", "tok_async").await, Ok(Authorization::Pending { .. })));
    let scene = scene.restarted().await;
    eventually("settled", || async { is_authorized(&scene.client.look_up("k").await) }).await;
}

/// Refuses the first delivery, checks all signatures, hands everything on.
async fn receive(listener: TcpListener, sender: mpsc::Sender<(String, Value)>, secret: Secret) {
    let count = AtomicU32::new(0);
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(|request: Request<Incoming>| {
            let (sender, secret, count) = (&sender, &secret, &count);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let header = |name: &str| head.headers[name].to_str().unwrap().to_owned();
                let id = header("webhook-id");
                let (timestamp, signature) =
                    (header("webhook-timestamp"), header("webhook-signature"));
                let headers = Headers { id: &id, timestamp: &timestamp, signature: &signature };
                verify(secret, &headers, &body, SystemClock::new().wall_ms()).unwrap();
                sender.send((id, serde_json::from_slice(&body).unwrap())).await.unwrap();
                let status = if count.fetch_add(1, Ordering::Relaxed) == 0 { 503 } else { 200 };
                Ok::<_, hyper::Error>(
                    Response::builder().status(status).body(Full::new(Bytes::new())).unwrap(),
                )
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        drop(connection.await);
    }
}

#[test]
fn a_simulator_that_cannot_start_says_what_to_do() {
    let missing = simulator::OpenError::Io {
        path: "/nowhere/ledger".into(),
        error: std::io::ErrorKind::NotFound.into(),
    };
    assert!(missing.to_string().contains("check that the directory exists"));
}
