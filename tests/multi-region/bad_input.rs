//! What shoppers and scripts get wrong: each is told what, and nothing is left behind.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{Call, REGIONS, World, card, cart_of};

/// A body that arrives this slowly takes longer than the server waits (10 s).
const DRIP: std::time::Duration = std::time::Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_order_is_told_what_is_wrong_and_leaves_nothing_behind() {
    let world = World::enter().await;
    let sku = world.goods("bad", [10, 10, 10]).await;
    world.converge().await;
    let before = everything(&world).await;
    for (what, change, status, code, field) in bad_orders(&sku) {
        let mut cart = cart_of(&sku, 1, &card("tok_ok"));
        change(&mut cart);
        let key = world.fresh("bad");
        let answer = world.order_until_told(&world.balancer(), &key, &cart).await;
        assert_eq!(answer.outcome(), (status, code.to_owned()), "{what}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
        let problem = answer.json();
        for member in ["type", "title", "status", "detail", "trace_id"] {
            assert!(!problem[member].is_null(), "{what}: no `{member}` in {problem}");
        }
        if !field.is_empty() {
            let errors = problem["errors"].as_array().cloned().unwrap_or_default();
            let named = errors
                .iter()
                .any(|error| error["field"].as_str().is_some_and(|named| named.contains(field)));
            assert!(named, "{what}: `{field}` is not named in {problem}");
        }
    }
    for (what, call, status, code) in bad_requests(&world, &sku) {
        let answer = world.http.send(call).await.unwrap();
        assert_eq!(answer.outcome(), (status, code.to_owned()), "{what}: {answer:?}");
    }
    assert_eq!(everything(&world).await, before, "a refusal left something behind");
    world.audit().await;
}

type Change = Box<dyn Fn(&mut Value)>;

/// What is wrong, how, and what must be answered, naming which field.
fn bad_orders(sku: &str) -> Vec<(&'static str, Change, u16, &'static str, &'static str)> {
    let line = |name: &'static str, value: Value| -> Change {
        Box::new(move |cart| cart["lines"][0][name] = value.clone())
    };
    let top = |name: &'static str, value: Value| -> Change {
        Box::new(move |cart| cart[name] = value.clone())
    };
    let invalid = "validation_failed";
    let twice = json!([{"sku": sku, "quantity": 20}, {"sku": sku, "quantity": 20}]);
    let pounds = json!([{"method": "card", "token": "tok_ok", "amount": {"amount": 1_000, "currency": "GBP"}}]);
    let pan = json!([{"method": "card", "token": "4111111111111111"}]);
    let many: Vec<Value> = (0..201).map(|_| json!({"sku": sku, "quantity": 1})).collect();
    vec![
        ("an unknown field", top("colour", json!("red")), 422, invalid, "colour"),
        ("an unknown field of a line", line("colour", json!("red")), 422, invalid, "colour"),
        (
            "NUL",
            Box::new(|cart| cart["shipping_address"]["name"] = json!("a\0b")),
            422,
            invalid,
            "name",
        ),
        ("a negative quantity", line("quantity", json!(-1)), 422, invalid, "quantity"),
        ("no quantity", line("quantity", json!(0)), 422, invalid, "quantity"),
        ("a huge quantity", line("quantity", json!(10_001)), 422, invalid, "quantity"),
        (
            "a quantity beyond any number",
            line("quantity", json!(u64::MAX)),
            422,
            invalid,
            "quantity",
        ),
        ("half a unit", line("quantity", json!(0.5)), 422, invalid, "quantity"),
        ("an unknown SKU", line("sku", json!("no-such-thing")), 422, invalid, "sku"),
        ("no lines", top("lines", json!([])), 422, invalid, "lines"),
        ("too many lines", top("lines", json!(many)), 422, invalid, "lines"),
        ("two currencies", top("payments", pounds), 422, invalid, "currency"),
        ("a currency without a price", top("currency", json!("JPY")), 422, invalid, "sku"),
        ("a card number", top("payments", pan), 422, invalid, "token"),
        ("somebody else's order", top("customer_id", json!("bob")), 422, invalid, "customer_id"),
        // Two lines of one SKU are one demand: 40 of 30.
        ("more than there is, over two lines", top("lines", twice), 409, "insufficient_stock", ""),
        ("a declined card", top("payments", card("tok_declined")), 402, "payment_declined", ""),
    ]
}

fn bad_requests(world: &World, sku: &str) -> Vec<(&'static str, Call, u16, &'static str)> {
    let url = format!("{}/api/v1/orders", world.balancer());
    let token = world.token("customer", "alice", None);
    let cart = cart_of(sku, 1, &card("tok_ok"));
    let post = || Call::post(url.clone(), &cart).token(&token);
    let half = &cart.to_string()[..40];
    let big = "x".repeat(300 * 1024);
    let key = || world.fresh("bad");
    let nowhere = format!("{url}/0190163d-8694-739b-aea5-966c26f8ad91");
    vec![
        ("no key", post(), 400, "idempotency_key_required"),
        ("no token", Call::post(url.clone(), &cart).key(&key()), 401, "unauthenticated"),
        (
            "half a body",
            Call::post_bytes(url.clone(), half.to_owned()).token(&token).key(&key()),
            400,
            "malformed_json",
        ),
        (
            "a huge body",
            Call::post_bytes(url.clone(), big).token(&token).key(&key()),
            413,
            "payload_too_large",
        ),
        ("an order of nowhere", Call::get(nowhere).token(&token), 404, "not_found"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_customers_order_does_not_exist() {
    let world = World::enter().await;
    let sku = world.goods("foreign", [5, 5, 5]).await;
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    let key = world.fresh("own");
    let answer = world.order_until_told(&world.at("us-east"), &key, &cart).await;
    let id = answer.order_id();
    world.converge().await;
    let mallory = world.token("customer", "mallory", None);
    for region in REGIONS {
        for path in ["", "/events", "/saga", "?consistency=strong"] {
            let url = format!("{}/api/v1/orders/{id}{path}", world.at(region));
            let answer = world.http.send(Call::get(url).token(&mallory)).await.unwrap();
            assert_eq!(answer.outcome(), (404, "not_found".to_owned()), "{region} {path}");
        }
        let list = format!("{}/api/v1/orders", world.at(region));
        let answer = world.http.send(Call::get(list).token(&mallory)).await.unwrap();
        assert_eq!(answer.json()["items"], json!([]), "{region}");
    }
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_cut_off_and_holds_up_nobody() {
    let world = World::enter().await;
    let before = everything(&world).await;
    let address = world.at("us-east").trim_start_matches("http://").to_owned();
    let token = world.token("customer", "alice", None);
    let key = world.fresh("drip");
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /api/v1/orders HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Idempotency-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reads, mut writes) = stream.into_split();
    let drip = async {
        let mut pace = tokio::time::interval(DRIP);
        loop {
            pace.tick().await;
            if writes.write_all(b" ").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut said = Vec::new();
    let answer = tokio::time::timeout(std::time::Duration::from_secs(30), async {
        tokio::select! {
            read = reads.read_to_end(&mut said) => read,
            () = drip => unreachable!("it drips for ever"),
        }
    });
    drop(answer.await.expect("the server ends it"));
    let said = String::from_utf8_lossy(&said);
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    assert!(said.contains("request_timeout"), "{said}");
    assert_eq!(everything(&world).await, before);
    world.audit().await;
}

/// All that a refusal could leave behind: orders, units, money, sagas. (What an intent was answered may
/// be kept, so that a retry is answered alike.)
async fn everything(world: &World) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for region in REGIONS {
        let standing: Vec<_> = world
            .statuses(region)
            .await
            .into_iter()
            .filter(|(_, status)| status != "cancelled")
            .collect();
        all.insert(format!("{region} orders"), format!("{standing:?}"));
        all.insert(format!("{region} reserved"), format!("{:?}", world.reserved(region).await));
        all.insert(format!("{region} sagas"), world.open_sagas(region).await.to_string());
    }
    all.insert("held".to_owned(), format!("{:?}", world.held().await));
    all
}
