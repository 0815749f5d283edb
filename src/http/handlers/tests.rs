//! The contract, request by request, against a region whose database is in memory.

mod elsewhere;
mod payments;
mod reconciliations;
mod references;

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::{Request, Response};
use serde_json::{Value, json};

use super::super::auth::Role;
use super::super::testing::{
    Choices, Fixture, Turn, WEBHOOK_SECRET, json_of, order_body, request, send, stock,
};
use super::super::{FrontDoor, door};
use crate::domain::inventory::StockDelta;
use crate::gateways::webhook;
use crate::ports::{Clock as _, StopStore as _};
use crate::runtime::{SystemClock, Trust};
use crate::types::{Epoch, StockKey};

const ORDERS: &str = "/api/v1/orders";

struct Shop {
    fixture: Fixture,
    door: FrontDoor,
    alice: String,
}

async fn shop(units: u64) -> Shop {
    let fixture = Fixture::new();
    let door = door(fixture.context.clone());
    stock(&fixture, &door, "A-1", units).await;
    let alice = fixture.token(Role::Customer, "alice");
    Shop { fixture, door, alice }
}

impl Shop {
    async fn place(&self, key: &str, body: &Value) -> Response<Body> {
        self.door.answer(send("POST", ORDERS, &self.alice, key, body)).await
    }

    async fn get(&self, path: &str, token: &str) -> Response<Body> {
        self.door.answer(request("GET", path, Some(token))).await
    }

    async fn available(&self) -> u64 {
        let staff = self.fixture.token(Role::Staff, "clerk");
        let answer = json_of(self.get("/api/v1/inventory/A-1", &staff).await).await;
        answer["available_here"].as_u64().unwrap()
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn an_order_is_confirmed_and_can_be_read() {
    let shop = shop(10).await;
    let answer = shop.place("k1", &order_body("A-1", 2, "tok_ok")).await;
    assert_eq!(answer.status(), 201);
    assert_eq!(
        (header(&answer, "x-home-region"), header(&answer, "x-region")),
        ("eu-west", "eu-west")
    );
    let location = header(&answer, "location").to_owned();
    let etag = header(&answer, "etag").to_owned();
    let placed = json_of(answer).await;
    assert_eq!(
        (&placed["status"], &placed["payment_status"]),
        (&json!("confirmed"), &json!("authorized"))
    );
    assert_eq!(placed["saga"]["status"], "completed");
    assert_eq!(placed["total"], json!({"amount": 500, "currency": "EUR"}));
    assert_eq!(placed["lines"][0]["allocations"], json!([{"node": "w-1", "quantity": 2}]));
    let answer = shop.get(&location, &shop.alice).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "etag")), (200, etag.as_str()));
    assert_eq!(json_of(answer).await, placed);
    let events = json_of(shop.get(&format!("{location}/events"), &shop.alice).await).await;
    let kinds: Vec<_> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["order.placed", "payment.authorized", "order.confirmed"]);
    let (mut path, mut seqs) = (format!("{location}/events?limit=2"), Vec::new());
    loop {
        let page = json_of(shop.get(&path, &shop.alice).await).await;
        let items = page["items"].as_array().unwrap().iter();
        seqs.push(items.map(|event| event["seq"].clone()).collect::<Vec<_>>());
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("{location}/events?limit=2&cursor={cursor}");
    }
    assert_eq!(seqs, [vec![json!(1), json!(2)], vec![json!(3)]]);
    let saga = json_of(shop.get(&format!("{location}/saga"), &shop.alice).await).await;
    assert_eq!(saga["status"], "completed");
    assert!(!saga.to_string().contains("tok_ok"), "payment tokens stay inside");
    assert_eq!(shop.available().await, 8);
}

#[tokio::test]
async fn the_same_key_gives_the_first_answer_again() {
    let shop = shop(10).await;
    let body = order_body("A-1", 2, "tok_ok");
    let first = shop.place("k1", &body).await;
    let again = shop.place("k1", &body).await;
    assert_eq!((first.status(), again.status()), (again.status(), first.status()));
    assert_eq!(
        (header(&first, "idempotency-replayed"), header(&again, "idempotency-replayed")),
        ("", "true")
    );
    assert_eq!(json_of(first).await, json_of(again).await);
    let other = shop.place("k1", &order_body("A-1", 3, "tok_ok")).await;
    assert_eq!(other.status(), 422);
    assert_eq!(json_of(other).await["code"], "idempotency_key_reused");
    let bob = shop.fixture.token(Role::Customer, "bob");
    let other = shop.door.answer(send("POST", ORDERS, &bob, "k1", &body)).await;
    assert_eq!(
        (other.status().as_u16(), header(&other, "idempotency-replayed")),
        (201, ""),
        "keys are each client's own"
    );
    assert_eq!(shop.fixture.gateway.asked.load(Ordering::Relaxed), 2);
    let mut keyless = send("POST", ORDERS, &shop.alice, "x", &body);
    keyless.headers_mut().remove("idempotency-key");
    let answer = shop.door.answer(keyless).await;
    assert_eq!(answer.status(), 400);
    assert_eq!(json_of(answer).await["code"], "idempotency_key_required");
}

#[tokio::test]
async fn refusals_leave_nothing_behind() {
    let shop = shop(3).await;
    for (quantity, token, status, code) in [
        (4, "tok_ok", 409, "insufficient_stock"),
        (1, "tok_declined", 402, "payment_declined"),
        (1, "tok_fraud", 422, "fraud_rejected"),
    ] {
        for replayed in ["", "true"] {
            let answer = shop.place(code, &order_body("A-1", quantity, token)).await;
            assert_eq!(
                (answer.status().as_u16(), header(&answer, "idempotency-replayed")),
                (status, replayed),
                "{code}"
            );
            assert_eq!(header(&answer, "content-type"), "application/problem+json");
            assert_eq!(json_of(answer).await["code"], code);
        }
        assert_eq!(shop.available().await, 3, "{code}");
    }
    let answer = shop.place("short", &order_body("A-1", 4, "tok_ok")).await;
    let shortages = json_of(answer).await["shortages"].clone();
    assert_eq!(
        shortages,
        json!([{"sku": "A-1", "wanted": 4, "available_here": 3, "available_elsewhere": 0}])
    );
    let answer = shop.place("unknown", &order_body("B-1", 1, "tok_ok")).await;
    assert_eq!(answer.status(), 422);
    assert_eq!(json_of(answer).await["errors"][0]["field"], "lines[0].sku");
    let orders = shop.fixture.store.tables().orders.len();
    assert_eq!(orders, 2, "only those that the provider was asked about");
}

#[tokio::test]
async fn two_lines_of_one_sku_are_added_up() {
    let shop = shop(3).await;
    let mut body = order_body("A-1", 2, "tok_ok");
    body["lines"] = json!([{"sku": "A-1", "quantity": 2}, {"sku": "A-1", "quantity": 2}]);
    assert_eq!(shop.place("k1", &body).await.status(), 409);
    body["lines"][1]["quantity"] = json!(1);
    assert_eq!(shop.place("k2", &body).await.status(), 201);
    assert_eq!(shop.available().await, 0);
}

#[tokio::test]
async fn others_orders_do_not_exist() {
    let shop = shop(10).await;
    let answer = shop.place("k1", &order_body("A-1", 1, "tok_ok")).await;
    let location = header(&answer, "location").to_owned();
    let bob = shop.fixture.token(Role::Customer, "bob");
    for path in [location.clone(), format!("{location}/events"), format!("{location}/saga")] {
        let foreign = shop.get(&path, &bob).await;
        assert_eq!(foreign.status(), 404, "{path}");
        let mut foreign = json_of(foreign).await;
        let mut absent =
            json_of(shop.get(&path.replace("/orders/0", "/orders/1"), &bob).await).await;
        (foreign["trace_id"], absent["trace_id"]) = (Value::Null, Value::Null);
        assert_eq!(foreign, absent, "looks like one that does not exist");
    }
    for path in [ORDERS.to_owned(), format!("{ORDERS}?customer_id=alice")] {
        assert_eq!(json_of(shop.get(&path, &bob).await).await["items"], json!([]), "{path}");
    }
    let mut foreign = order_body("A-1", 1, "tok_ok");
    foreign["customer_id"] = json!("bob");
    let answer = shop.place("k2", &foreign).await;
    assert_eq!(json_of(answer).await["errors"][0]["field"], "customer_id");
    let staff = shop.fixture.token(Role::Staff, "clerk");
    assert_eq!(shop.get(&location, &staff).await.status(), 200);
    for bad in ["/api/v1/orders/x", "/api/v1/orders/00000000-0000-0000-0000-000000000000"] {
        assert_eq!(shop.get(bad, &staff).await.status(), 404, "{bad}");
    }
}

#[tokio::test]
async fn lists_are_paged_newest_first() {
    let shop = shop(10).await;
    let mut placed = Vec::new();
    for number in 0..5 {
        let answer = shop.place(&format!("k{number}"), &order_body("A-1", 1, "tok_ok")).await;
        placed.insert(0, json_of(answer).await["id"].clone());
    }
    let mut seen = Vec::new();
    let mut path =
        format!("{ORDERS}?limit=2&status=confirmed&channel=web&since=2020-01-01T00:00:00Z");
    loop {
        let page = json_of(shop.get(&path, &shop.alice).await).await;
        seen.extend(page["items"].as_array().unwrap().iter().map(|order| order["id"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("{ORDERS}?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, placed);
    for (query, field) in [
        ("limit=0", "limit"),
        ("status=lost", "status"),
        ("since=now", "since"),
        ("cursor=!", "cursor"),
        ("page=2", "page"),
    ] {
        let answer = shop.get(&format!("{ORDERS}?{query}"), &shop.alice).await;
        assert_eq!(answer.status(), 422, "{query}");
        assert_eq!(json_of(answer).await["errors"][0]["field"], field);
    }
}

fn with_prefer(mut asked: Request<Body>, prefer: &'static str) -> Request<Body> {
    asked.headers_mut().insert("prefer", prefer.parse().unwrap());
    asked
}

#[tokio::test]
async fn what_takes_longer_is_accepted_and_a_signed_webhook_ends_it() {
    let shop = shop(10).await;
    let body = order_body("A-1", 1, "tok_async");
    let asked = with_prefer(send("POST", ORDERS, &shop.alice, "k1", &body), "respond-async");
    let answer = shop.door.answer(asked).await;
    assert_eq!(answer.status(), 202);
    let location = header(&answer, "location").to_owned();
    let order = json_of(answer).await;
    assert_eq!(
        (&order["status"], &order["saga"]["status"]),
        (&json!("pending"), &json!("running"))
    );
    shop.fixture.gateway.authorize_all();
    let message =
        json!({"type": "payment.authorized", "data": {"order_reference": order["id"]}}).to_string();
    let post = |signature: String, message: &str, gateway: &str| {
        let path = format!("/api/v1/webhooks/payments/{gateway}");
        let mut asked = request("POST", &path, None);
        let now_s = SystemClock::new().wall_ms() / 1_000;
        let headers = asked.headers_mut();
        headers.insert("webhook-id", "msg_1".parse().unwrap());
        headers.insert("webhook-timestamp", now_s.into());
        headers.insert("webhook-signature", signature.parse().unwrap());
        *asked.body_mut() = Body::from(message.to_owned());
        shop.door.answer(asked)
    };
    let secret: webhook::Secret = WEBHOOK_SECRET.parse().unwrap();
    let sign = |message: &str| {
        webhook::sign(&secret, "msg_1", SystemClock::new().wall_ms() / 1_000, message.as_bytes())
    };
    let forged = post("v1,AAAA".to_owned(), &message, "simulator").await;
    assert_eq!(forged.status(), 401);
    assert_eq!(json_of(forged).await["code"], "invalid_signature");
    assert_eq!(post(sign(&message), &message, "nobody").await.status(), 404);
    let foreign = json!({"type": "x", "data": {"order_reference": "other"}}).to_string();
    assert_eq!(post(sign(&foreign), &foreign, "simulator").await.status(), 202);
    for _ in 0..2 {
        assert_eq!(
            post(sign(&message), &message, "simulator").await.status(),
            200,
            "replays are harmless"
        );
    }
    let waiting = async {
        while json_of(shop.get(&location, &shop.alice).await).await["status"] != "confirmed" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await.unwrap();
}

#[tokio::test]
async fn what_no_other_region_holds_yet_is_only_accepted() {
    let shop = shop(10).await;
    let mut body = order_body("A-1", 1, "tok_ok");
    body["durability"] = json!("remote");
    let answer = shop.place("k1", &body).await;
    assert_eq!(answer.status(), 202, "there is nobody else");
    assert_eq!(json_of(answer).await["status"], "confirmed");
}

#[tokio::test]
async fn promised_stock_stays() {
    let shop = shop(5).await;
    shop.place("k1", &order_body("A-1", 3, "tok_ok")).await;
    let staff = shop.fixture.token(Role::Staff, "clerk");
    let change = |key: &'static str, body: Value| {
        shop.door.answer(send("POST", "/api/v1/inventory/A-1/adjustments", &staff, key, &body))
    };
    let answer = change("a1", json!({"node": "w-1", "delta": -3, "reason": "shrinkage"})).await;
    assert_eq!(answer.status(), 409);
    let problem = json_of(answer).await;
    assert_eq!((&problem["code"], &problem["removable"]), (&json!("stock_is_promised"), &json!(2)));
    for replayed in ["", "true"] {
        let answer = change("a2", json!({"node": "w-1", "delta": -2, "reason": "shrinkage"})).await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, "idempotency-replayed")),
            (200, replayed)
        );
    }
    let count = |on_hand: u64| {
        let body = json!({"node": "w-1", "on_hand": on_hand, "reason": "stocktake"});
        shop.door.answer(send(
            "PUT",
            "/api/v1/inventory/A-1",
            &staff,
            &format!("c{on_hand}"),
            &body,
        ))
    };
    assert_eq!(count(2).await.status(), 409);
    let counted = count(7).await;
    assert_eq!(json_of(counted).await["delta"], 4);
    let view = json_of(shop.get("/api/v1/inventory/A-1", &staff).await).await;
    assert_eq!(
        (&view["on_hand"], &view["reserved"], &view["available"]),
        (&json!(7), &json!(3), &json!(4))
    );
    let regions = view["regions"].as_array().unwrap();
    let own = regions.iter().find(|region| region["region"] == "eu-west").unwrap();
    assert_eq!((&own["status"], &own["rights"]), (&json!("ready"), &json!(4)));
    // The others hold nothing, and are listed.
    let zeros = regions.iter().filter(|region| region["rights"] == 0 && region["spent"] == 0);
    assert_eq!((regions.len(), zeros.count()), (3, 2));
    for (body, field) in [
        (json!({"node": "nowhere", "delta": 1, "reason": "receipt"}), "node"),
        (json!({"node": "w-1", "delta": 0, "reason": "receipt"}), "delta"),
        (json!({"node": "w-1", "delta": 1, "reason": "gift"}), "reason"),
    ] {
        let answer = change("a3", body).await;
        assert_eq!(answer.status(), 422, "{field}");
        assert_eq!(json_of(answer).await["errors"][0]["field"], field);
    }
    assert_eq!(shop.get("/api/v1/inventory/B-1", &staff).await.status(), 404);
}

#[tokio::test]
async fn a_draining_region_takes_no_new_orders_but_repeats_old_answers() {
    let shop = shop(5).await;
    let body = order_body("A-1", 1, "tok_ok");
    shop.place("k1", &body).await;
    let admin = shop.fixture.token(Role::Admin, "op");
    let lever = |lever: &str| {
        shop.door.answer(request(
            "POST",
            &format!("/api/v1/admin/regions/eu-west/{lever}"),
            Some(&admin),
        ))
    };
    assert_eq!(json_of(lever("drain").await).await["status"], "draining");
    let answer = shop.place("k2", &body).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (503, "1"));
    assert_eq!(json_of(answer).await["code"], "region_draining");
    assert_eq!(shop.place("k1", &body).await.status(), 201);
    assert_eq!(json_of(lever("resume").await).await["status"], "ready");
    assert_eq!(shop.place("k2", &body).await.status(), 201);
    let regions = json_of(shop.get("/api/v1/admin/regions", &admin).await).await;
    assert_eq!(regions["items"][0]["region"], "eu-west");
    // Five came in, two orders took one each.
    assert_eq!(regions["items"][0]["may_sell_alone"], json!({"units": 3, "keys": 1}));
    let nowhere = request("POST", "/api/v1/admin/regions/mars/drain", Some(&admin));
    assert_eq!(shop.door.answer(nowhere).await.status(), 404);
}

#[tokio::test]
async fn a_region_that_another_process_drained_takes_no_new_orders() {
    let shop = shop(5).await;
    shop.fixture.store.set_draining(Epoch::FIRST, true).await.unwrap();
    let answer = shop.place("k1", &order_body("A-1", 1, "tok_ok")).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "retry-after")), (503, "1"));
    assert_eq!(json_of(answer).await["code"], "region_draining");
    assert_eq!(shop.available().await, 5, "nothing is held");
}

#[tokio::test]
async fn nobody_resumes_a_region_whose_database_was_set_back() {
    let shop = shop(5).await;
    let admin = shop.fixture.token(Role::Admin, "op");
    shop.fixture.context.app.stops.set_back("a peer knows version 7, the database 3".to_owned());
    let answer = shop.place("k1", &order_body("A-1", 1, "tok_ok")).await;
    assert_eq!(json_of(answer).await["code"], "region_draining");
    let resume = request("POST", "/api/v1/admin/regions/eu-west/resume", Some(&admin));
    let answer = shop.door.answer(resume).await;
    assert_eq!(answer.status(), 409);
    assert_eq!(json_of(answer).await["code"], "region_set_back");
    let regions = json_of(shop.get("/api/v1/admin/regions", &admin).await).await;
    assert_eq!(regions["items"][0]["status"], "set_back");
}

#[tokio::test]
async fn regions_are_a_list_like_the_others() {
    let peers = [("us-east", 1), ("ap-south", 2)]
        .map(|(name, port)| (name.parse().unwrap(), format!("http://127.0.0.1:{port}")));
    let fixture = Fixture::with(Choices { peers: peers.into(), ..Choices::default() });
    let door = door(fixture.context.clone());
    let admin = fixture.token(Role::Admin, "op");
    let list = async |query: &str| {
        let path = format!("/api/v1/admin/regions{query}");
        door.answer(request("GET", &path, Some(&admin))).await
    };
    let first = json_of(list("?limit=2").await).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = json_of(list(&format!("?limit=2&cursor={cursor}")).await).await;
    let pages = [&first, &second].map(|page| page["items"].as_array().unwrap().clone()).concat();
    let names: Vec<_> = pages.iter().map(|region| region["region"].as_str().unwrap()).collect();
    assert_eq!(names, ["eu-west", "ap-south", "us-east"]);
    assert_eq!(second["next_cursor"], Value::Null);
    assert_eq!(list("?colour=red").await.status(), 422);
}

#[tokio::test]
async fn the_catalogue_is_created_once_and_changed() {
    let shop = shop(1).await;
    let staff = shop.fixture.token(Role::Staff, "clerk");
    let body = json!({"sku": "A-1", "name": "Other", "prices": []});
    let answer = shop.door.answer(send("POST", "/api/v1/products", &staff, "other", &body)).await;
    assert_eq!(answer.status(), 409);
    assert_eq!(json_of(answer).await["code"], "already_exists");
    let patch = send("PATCH", "/api/v1/products/A-1", &staff, "-", &json!({"name": "New"}));
    assert_eq!(json_of(shop.door.answer(patch).await).await["name"], "New");
    let patch = send("PATCH", "/api/v1/nodes/w-1", &staff, "-", &json!({"active": false}));
    assert_eq!(json_of(shop.door.answer(patch).await).await["active"], false);
    let patch = send("PATCH", "/api/v1/nodes/w-2", &staff, "-", &json!({"active": false}));
    assert_eq!(shop.door.answer(patch).await.status(), 404);
    let page = json_of(shop.get("/api/v1/nodes", &staff).await).await;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["next_cursor"]), (1, &Value::Null));
}

#[tokio::test]
async fn changes_of_one_product_or_node_at_once_are_all_kept() {
    let shop = shop(1).await;
    let staff = shop.fixture.token(Role::Staff, "clerk");
    let patch = async |path: &str, body: Value| {
        let answer = shop.door.answer(send("PATCH", path, &staff, "-", &body)).await;
        assert_eq!(answer.status(), 200, "{path}");
    };
    let product = "/api/v1/products/A-1";
    tokio::join!(
        patch(product, json!({"name": "New"})),
        patch(product, json!({"category": "Mugs"})),
        patch(product, json!({"weight_grams": 7})),
    );
    let product = json_of(shop.get(product, &staff).await).await;
    assert_eq!(
        (&product["name"], &product["category"], &product["weight_grams"]),
        (&json!("New"), &json!("Mugs"), &json!(7))
    );
    let node = "/api/v1/nodes/w-1";
    tokio::join!(patch(node, json!({"backlog": 7})), patch(node, json!({"active": false})));
    let node = json_of(shop.get(node, &staff).await).await;
    assert_eq!((&node["backlog"], &node["active"]), (&json!(7), &json!(false)));
}

#[tokio::test]
async fn a_repeated_creation_gets_the_first_answer() {
    let shop = shop(1).await;
    let staff = shop.fixture.token(Role::Staff, "clerk");
    let body = json!({"sku": "B-1", "name": "First", "prices": []});
    let create = || shop.door.answer(send("POST", "/api/v1/products", &staff, "b", &body));
    let first = json_of(create().await).await;
    let patch = send("PATCH", "/api/v1/products/B-1", &staff, "-", &json!({"name": "Second"}));
    assert_eq!(shop.door.answer(patch).await.status(), 200);
    let again = create().await;
    assert_eq!((again.status().as_u16(), header(&again, "idempotency-replayed")), (201, "true"));
    assert_eq!(json_of(again).await, first);
}

#[tokio::test]
async fn sagas_are_listed_and_tried_again() {
    let shop = shop(5).await;
    let body = order_body("A-1", 1, "tok_async");
    let asked = with_prefer(send("POST", ORDERS, &shop.alice, "k1", &body), "respond-async");
    let order = json_of(shop.door.answer(asked).await).await;
    let admin = shop.fixture.token(Role::Admin, "op");
    let asked = with_prefer(send("POST", ORDERS, &shop.alice, "k2", &body), "respond-async");
    let second = json_of(shop.door.answer(asked).await).await;
    let running = json_of(shop.get("/api/v1/admin/sagas?status=running", &admin).await).await;
    assert_eq!(running["items"][0]["order_id"], order["id"]);
    for status in ["stuck", "compensating", "failed"] {
        let page =
            json_of(shop.get(&format!("/api/v1/admin/sagas?status={status}"), &admin).await).await;
        assert_eq!(page["items"], json!([]), "{status}");
    }
    let (mut path, mut seen) =
        ("/api/v1/admin/sagas?status=running&limit=1".to_owned(), Vec::new());
    loop {
        let page = json_of(shop.get(&path, &admin).await).await;
        seen.extend(page["items"].as_array().unwrap().iter().map(|saga| saga["id"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/api/v1/admin/sagas?status=running&limit=1&cursor={cursor}");
    }
    assert_eq!(seen, [order["id"].clone(), second["id"].clone()]);
    let id = running["items"][0]["id"].as_str().unwrap();
    let retry = || {
        shop.door.answer(request("POST", &format!("/api/v1/admin/sagas/{id}/retry"), Some(&admin)))
    };
    assert_eq!(retry().await.status(), 200);
}

fn at_w_1(sku: &str) -> StockKey {
    StockKey { sku: sku.parse().unwrap(), node: "w-1".parse().unwrap() }
}

#[tokio::test]
async fn an_order_is_refused_only_for_what_was_looked_for_in_vain() {
    let shop = shop(1).await;
    stock(&shop.fixture, &shop.door, "B-1", 2).await;
    let nothing = StockDelta::default();
    let (received, spent) =
        (StockDelta { received: 1, ..nothing }, StockDelta { spent: 1, ..nothing });
    let took = std::time::Duration::from_millis(1);
    // While A-1 is looked for in vain an order gives one back, and another order takes one of B-1.
    let stock = vec![(at_w_1("A-1"), received), (at_w_1("B-1"), spent)];
    let in_vain = Turn { stock, took, gained: false };
    let found = Turn { stock: vec![(at_w_1("B-1"), received)], took, gained: true };
    shop.fixture.others.turns.lock().unwrap().extend([in_vain, found]);
    let mut body = order_body("A-1", 2, "tok_ok");
    body["lines"].as_array_mut().unwrap().push(json!({"sku": "B-1", "quantity": 2}));
    let placed = shop.place("k1", &body).await;
    assert_eq!(placed.status(), 201, "{}", json_of(placed).await);
    let refused = json_of(shop.place("k2", &body).await).await;
    assert_eq!(refused["code"], "insufficient_stock", "now there is nothing left: {refused}");
}

#[tokio::test]
async fn an_order_that_others_are_always_faster_than_is_refused_in_the_end() {
    let shop = shop(1).await;
    let three_s = std::time::Duration::from_secs(3);
    let turn = || Turn { stock: Vec::new(), took: three_s, gained: true };
    shop.fixture.others.turns.lock().unwrap().extend((0..9).map(|_| turn()));
    let answer = shop.place("k1", &order_body("A-1", 2, "tok_ok")).await;
    assert_eq!(json_of(answer).await["code"], "insufficient_stock");
    let left = shop.fixture.others.turns.lock().unwrap().len();
    assert_eq!(left, 8, "then more than twice `grant_wait` is over, and nobody is asked any more");
}

#[tokio::test]
async fn an_order_is_not_refused_for_what_nobody_was_asked_for() {
    let shop = shop(1).await;
    let grant_wait = std::time::Duration::from_millis(10);
    let faster = Turn { stock: Vec::new(), took: grant_wait, gained: true };
    let one = StockDelta { received: 1, ..StockDelta::default() };
    let found = Turn { stock: vec![(at_w_1("A-1"), one)], took: grant_wait / 2, gained: true };
    shop.fixture.others.turns.lock().unwrap().extend([faster, found]);
    let answer = shop.place("k1", &order_body("A-1", 2, "tok_ok")).await;
    assert_eq!(answer.status(), 201, "{}", json_of(answer).await);
}

#[tokio::test]
async fn what_was_spent_on_finding_units_is_not_waited_again() {
    let shop = shop(1).await;
    let ten_s = std::time::Duration::from_secs(10);
    let one = StockDelta { received: 1, ..StockDelta::default() };
    let turn = Turn { stock: vec![(at_w_1("A-1"), one)], took: ten_s, gained: true };
    shop.fixture.others.turns.lock().unwrap().push_back(turn);
    // The provider decides later, so the answer takes as long as it may.
    let body = order_body("A-1", 2, "tok_async");
    let asked = with_prefer(send("POST", ORDERS, &shop.alice, "k1", &body), "wait=10");
    let answer = tokio::time::timeout(ten_s / 2, shop.door.answer(asked)).await.unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(json_of(answer).await["saga"]["status"], "running");
}

#[tokio::test]
async fn a_peer_is_asked_over_tls_if_its_certificate_is_trusted() {
    let there = shop(10).await;
    let placed = there.place("k1", &order_body("A-1", 1, "tok_ok")).await;
    let location = header(&placed, "location").to_owned();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, trust) = crate::runtime::tls_front_of(listener.local_addr().unwrap()).await;
    let limits = super::super::server::Limits::default();
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = super::super::server::serve(listener, there.door.clone(), limits, stop.clone());
    let serving = crate::runtime::spawn_named("test peer", serving);
    for (trust, status) in [(trust, 200), (Trust::nobody(), 503)] {
        let issuer = Some(there.fixture.dir.path().to_owned());
        let peers = [("eu-west".parse().unwrap(), url.clone())].into();
        let choices = Choices { region: "us-east", peers, trust, issuer, ..Choices::default() };
        let here = Fixture::with(choices);
        let asked = request("GET", &location, Some(&there.alice));
        assert_eq!(door(here.context.clone()).answer(asked).await.status(), status);
    }
    stop.cancel();
    serving.await.unwrap();
}
