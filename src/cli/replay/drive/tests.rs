//! Against a server of our own on a loopback socket, that answers what a test tells it to.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::*;
use crate::cli::replay::homes::testing::three_regions;
use crate::cli::replay::parse::parse;
use crate::cli::replay::plan::plan;
use crate::runtime::{SystemClock, spawn_named};

const HEADER: &str =
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

/// What the server was asked, and what it is to answer to the first calls of each reference.
#[derive(Default)]
struct Script {
    /// `(idempotency key, token, body)` of every placement, in order.
    placed: Vec<(String, String, Value)>,
    /// Status and body of the first answers to a reference, the last first.
    answers: BTreeMap<String, Vec<(u16, Value)>>,
    /// How often an order stays pending when asked for.
    pending_looks: u32,
}

type Shared = Arc<Mutex<Script>>;

fn total_of(body: &Value) -> i64 {
    let lines = body["lines"].as_array().unwrap();
    let amount = |line: &Value| {
        line["quantity"].as_i64().unwrap() * line["unit_price"]["amount"].as_i64().unwrap()
    };
    lines.iter().map(amount).sum()
}

fn order(id: &str, status: &str, amount: i64) -> Value {
    json!({"id": id, "status": status, "total": {"amount": amount, "currency": "GBP"}, "more": 1})
}

async fn place(State(script): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    let body: Value = serde_json::from_str(&body).unwrap();
    let (key, token) = (text("idempotency-key"), text("authorization"));
    let mut script = script.lock().unwrap();
    let again = script.placed.iter().any(|(known, ..)| *known == key);
    script.placed.push((key, token, body.clone()));
    let reference = body["channel_order_ref"].as_str().unwrap();
    let told = script.answers.get_mut(reference).and_then(Vec::pop);
    let (status, answer) = told.unwrap_or((201, order(reference, "confirmed", total_of(&body))));
    let status = StatusCode::from_u16(status).unwrap();
    let replayed = if again && status.is_success() { "true" } else { "false" };
    let headers = [("idempotency-replayed", replayed), ("retry-after", "0")];
    (status, headers, answer.to_string()).into_response()
}

async fn look(State(script): State<Shared>, Path(id): Path<String>) -> String {
    let mut script = script.lock().unwrap();
    if script.pending_looks > 0 {
        script.pending_looks -= 1;
        return order(&id, "pending", 100).to_string();
    }
    order(&id, "confirmed", 100).to_string()
}

/// Replays rows (`invoice,quantity,price,customer,country`) against a scripted server.
async fn replayed(rows: &[&str], script: Script) -> (Results, Vec<(String, String, Value)>) {
    let mut text = HEADER.to_owned();
    for row in rows {
        let [invoice, quantity, price, customer, country] = row.split(',').collect::<Vec<_>>()[..]
        else {
            panic!("five fields: {row}")
        };
        let date = "2010-12-01 08:26:00";
        let fields = [invoice, "85123A", "HEART", quantity, date, price, customer, country];
        text.push_str(&fields.join(","));
        text.push('\n');
    }
    let history = parse(text.as_bytes()).unwrap();
    let plan = plan(&history, &three_regions());
    let script = Arc::new(Mutex::new(script));
    let router = Router::new()
        .route("/api/v1/orders", post(place))
        .route("/api/v1/orders/{id}", get(look))
        .with_state(script.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = spawn_named("scripted server", async move {
        axum::serve(listener, router).await.unwrap();
    });
    let driver = Driver {
        client: &ApiClient::new(&base).unwrap(),
        tokens: vec!["asia", "europe", "america"],
        clock: &SystemClock::new(),
        progress: &ProgressBar::hidden(),
        clients: 4,
        pace: Pace::Free,
    };
    let results = drive(&driver, &history, &plan).await;
    server.abort();
    let placed = std::mem::take(&mut script.lock().unwrap().placed);
    (results, placed)
}

fn problem(code: &str) -> Value {
    json!({"code": code, "title": "No", "detail": "for a reason", "status": 0})
}

#[tokio::test]
async fn an_order_says_everything_and_goes_to_its_region() {
    let (results, placed) = replayed(&["536365,6,2.55,12583.0,France"], Script::default()).await;
    assert_eq!((results.confirmed, results.revenue_minor), (1, 1_530));
    assert_eq!(results.file_revenue_minor, 1_530);
    let (key, token, body) = &placed[0];
    assert!(key.starts_with("replay-") && key.ends_with("-536365"), "{key}");
    assert_eq!(token, "Bearer europe");
    let expected = json!({
        "channel": "marketplace:online-retail",
        "channel_order_ref": "536365",
        "customer_id": "12583",
        "currency": "GBP",
        "lines": [{"sku": "85123A", "quantity": 6,
                   "unit_price": {"amount": 255, "currency": "GBP"}}],
        "shipping_option": "standard",
        "shipping_address": {"name": "Customer 12583", "line1": "1 Market Street", "city": "Paris",
                             "postal_code": "75002", "country": "FR"},
        "payments": [{"method": "card", "token": "tok_ok"}],
        "allow_split": true,
    });
    assert_eq!(body, &expected);
}

#[tokio::test]
async fn parts_of_an_invoice_are_placed_one_after_the_other() {
    let rows = vec!["536544,1,1.00,,United Kingdom"; 401];
    let (results, placed) = replayed(&rows, Script::default()).await;
    let references: Vec<_> =
        placed.iter().map(|(.., body)| body["channel_order_ref"].as_str().unwrap()).collect();
    assert_eq!(references, ["536544", "536544/2", "536544/3"]);
    assert_eq!((results.confirmed, results.revenue_minor), (3, 40_100));
    assert_eq!(placed[0].2["customer_id"], Value::Null);
}

#[tokio::test]
async fn a_region_that_is_down_is_asked_again_under_the_same_key() {
    let answers = vec![
        (409, problem("idempotency_in_flight")),
        (503, problem("region_draining")),
        (502, json!("<html>")),
    ];
    let answers = BTreeMap::from([("1".to_owned(), answers)]);
    let script = Script { answers, ..Script::default() };
    let (results, placed) = replayed(&["1,1,1.00,12583,France"], script).await;
    assert_eq!((results.confirmed, results.confirmed_before, placed.len()), (1, 0, 4));
    let retries = [("http_502", 1), ("idempotency_in_flight", 1), ("region_draining", 1)];
    assert_eq!(results.retries, retries.map(|(why, n)| (why.to_owned(), n)).into());
    assert!(placed.iter().all(|(key, ..)| *key == placed[0].0));
}

#[tokio::test]
async fn a_refusal_stands_and_its_amount_is_in_neither_sum() {
    let answers = BTreeMap::from([("1".to_owned(), vec![(409, problem("insufficient_stock"))])]);
    let script = Script { answers, ..Script::default() };
    let rows = ["1,1,1.00,12583,France", "2,1,2.00,12583,France"];
    let (results, placed) = replayed(&rows, script).await;
    assert_eq!(placed.len(), 2);
    assert_eq!(results.refused, BTreeMap::from([("insufficient_stock".to_owned(), 1)]));
    assert_eq!((results.revenue_minor, results.file_revenue_minor), (200, 200));
    assert_eq!(results.examples, ["1: insufficient_stock: for a reason"]);
}

#[tokio::test]
async fn an_order_that_is_still_running_is_awaited() {
    let answers = BTreeMap::from([("1".to_owned(), vec![(202, order("x", "pending", 100))])]);
    let script = Script { answers, pending_looks: 2, ..Script::default() };
    let (results, _) = replayed(&["1,1,1.00,12583,France"], script).await;
    assert_eq!((results.confirmed, results.revenue_minor), (1, 100));
}

#[tokio::test]
async fn a_total_that_differs_from_the_files_is_told() {
    let answers = BTreeMap::from([("1".to_owned(), vec![(201, order("x", "confirmed", 99))])]);
    let script = Script { answers, ..Script::default() };
    let (results, _) = replayed(&["1,1,1.00,12583,France"], script).await;
    assert_eq!((results.revenue_minor, results.file_revenue_minor), (99, 100));
    assert!(results.differing[0].starts_with("1 costs 99"), "{:?}", results.differing);
}
