//! Against a server of our own that keeps what it is given, as a deployment does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method as HttpMethod, StatusCode};
use axum::response::{IntoResponse, Response};

use super::*;
use crate::cli::seed::places::warehouse;
use crate::runtime::spawn_named;

#[derive(Default)]
struct Shop {
    /// First answers by idempotency key.
    answered: BTreeMap<String, u16>,
    /// Nodes and products.
    resources: Vec<String>,
    units: BTreeMap<String, u64>,
    /// Looks at a resource that are answered 404 before replication has brought it.
    late_looks: u32,
    /// Calls that are answered 503 first.
    unavailable: u32,
    receipts_before_everything_was_known: bool,
    looked: bool,
}

type Shared = Arc<Mutex<Shop>>;

async fn serve(
    State(shop): State<Shared>,
    method: HttpMethod,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let path = request.uri().path().trim_start_matches("/api/v1/").to_owned();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let mut shop = shop.lock().unwrap();
    if method == HttpMethod::GET {
        if shop.late_looks > 0 {
            shop.late_looks -= 1;
            return StatusCode::NOT_FOUND.into_response();
        }
        shop.looked = true;
        let known = shop.resources.contains(&path);
        return if known { "{}".into_response() } else { StatusCode::NOT_FOUND.into_response() };
    }
    if shop.unavailable > 0 {
        shop.unavailable -= 1;
        return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "0")]).into_response();
    }
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    if let Some(&status) = shop.answered.get(&key) {
        let status = StatusCode::from_u16(status).unwrap();
        return (status, [("idempotency-replayed", "true")], "{}").into_response();
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let status = if let Some(sku) = path.strip_suffix("/adjustments") {
        shop.receipts_before_everything_was_known |= !shop.looked;
        let delta = body["delta"].as_u64().unwrap();
        *shop.units.entry(sku.to_owned()).or_default() += delta;
        200
    } else {
        let id = body["sku"].as_str().or(body["id"].as_str()).unwrap();
        let resource = format!("{path}/{id}");
        if shop.resources.contains(&resource) {
            409
        } else {
            shop.resources.push(resource);
            201
        }
    };
    shop.answered.insert(key, status);
    (StatusCode::from_u16(status).unwrap(), "{}").into_response()
}

async fn served(shop: Shop) -> (Target, Shared, tokio::task::JoinHandle<()>) {
    let shop = Arc::new(Mutex::new(shop));
    let router = Router::new().fallback(serve).with_state(shop.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = spawn_named("shop", async move { axum::serve(listener, router).await.unwrap() });
    (Target::for_tests(&base, &["eu-west", "us-east"]), shop, server)
}

fn stocking(price: i64) -> Stocking {
    let region: RegionId = "eu-west".parse().unwrap();
    let node = warehouse("wh-", region);
    let products = ["A", "B/1", "C"].map(|sku| ProductSpec {
        sku: sku.to_owned(),
        body: json!({"sku": sku, "prices": [{"amount": price, "currency": "EUR"}]}),
    });
    let receipt = |product: &ProductSpec| Receipt {
        sku: product.sku.clone(),
        node: node.id.clone(),
        region,
        units: 10,
    };
    let receipts = products.iter().map(receipt).collect();
    Stocking { source: "test".to_owned(), nodes: vec![node], products: products.to_vec(), receipts }
}

#[tokio::test]
async fn a_second_run_adds_nothing_twice() {
    let (target, shop, server) = served(Shop { late_looks: 3, ..Shop::default() }).await;
    let progress = ProgressBar::hidden();
    let first = load(&target, &stocking(100), &progress).await.unwrap();
    assert_eq!((first.nodes, first.products, first.units), (1, 3, 30));
    assert!(!shop.lock().unwrap().receipts_before_everything_was_known);

    let second = load(&target, &stocking(100), &progress).await.unwrap();
    assert_eq!((second.nodes, second.products, second.units), (0, 0, 0));
    let there = (second.nodes_already_there, second.products_already_there);
    assert_eq!((there, second.units_already_there), ((1, 3), 30));

    // A product with another price stays as it is.
    let third = load(&target, &stocking(200), &progress).await.unwrap();
    assert_eq!((third.products, third.products_already_there), (0, 3));
    assert_eq!(shop.lock().unwrap().units["inventory/B%2F1"], 10);
    server.abort();
}

#[tokio::test]
async fn a_region_that_is_away_for_a_moment_is_asked_again() {
    let (target, _, server) = served(Shop { unavailable: 4, ..Shop::default() }).await;
    let loaded = load(&target, &stocking(100), &ProgressBar::hidden()).await.unwrap();
    assert_eq!((loaded.nodes, loaded.products, loaded.units), (1, 3, 30));
    server.abort();
}

/// The load balancer answers for a returned region out of what others know.
#[tokio::test]
async fn a_region_is_asked_at_its_own_server() {
    let (mut target, elsewhere, balancer) = served(Shop::default()).await;
    let (at_home, own, server) = served(Shop { late_looks: 3, ..Shop::default() }).await;
    target.servers = target.regions.iter().map(|&it| (it, at_home.address.clone())).collect();
    load(&target, &stocking(100), &ProgressBar::hidden()).await.unwrap();
    assert!(!own.lock().unwrap().receipts_before_everything_was_known);
    assert_eq!(own.lock().unwrap().units.len(), 3);
    let elsewhere = elsewhere.lock().unwrap();
    assert!(!elsewhere.looked && elsewhere.answered.is_empty(), "went past the region's server");
    balancer.abort();
    server.abort();
}

#[tokio::test]
async fn a_deployment_that_is_down_is_told() {
    let target = Target::for_tests("http://127.0.0.1:9", &["eu-west"]);
    tokio::time::pause();
    let error = load(&target, &stocking(100), &ProgressBar::hidden()).await.unwrap_err();
    assert!(format!("{error:#}").contains("is eu-west up?"), "{error:#}");
}
