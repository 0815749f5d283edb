//! An order through the load balancer: confirmed, seen everywhere, paid once, and repeated without harm.

use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::world::{Call, REGIONS, World, card, cart_of};

/// For an order to be copied to every region; it takes well under a second.
const COPIED_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_confirmed_and_known_everywhere() {
    let world = World::enter().await;
    let sku = world.goods("placed", [10, 10, 10]).await;
    let cart = cart_of(&sku, 2, &card("tok_ok"));
    let token = world.token("customer", "alice", Some("ap-south"));
    let call = Call::post(format!("{}/api/v1/orders", world.balancer()), &cart);
    let answer = world.http.send(call.token(&token).key(&world.fresh("k"))).await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("x-region"), Some("ap-south"), "a shopper's token names the region");
    let order = answer.json();
    assert_eq!(order["status"], "confirmed");
    assert_eq!(order["payment_status"], "authorized");
    assert_eq!(order["home_region"], "ap-south");
    assert_eq!(order["total"], json!({"amount": 2_000, "currency": "EUR"}));
    let id = answer.order_id();

    for region in REGIONS {
        let shown = world
            .eventually(COPIED_WITHIN, "the order is copied", async || {
                let url = format!("{}/api/v1/orders/{id}", world.at(region));
                let shown = world.http.send(Call::get(url).token(&token)).await?;
                // Until the copy is there, the home answers.
                let is_here = shown.status == 200 && shown.header("x-region") == Some(region);
                (is_here && shown.json()["status"] == "confirmed").then_some(shown)
            })
            .await;
        assert_eq!(shown.header("x-home-region"), Some("ap-south"));
        assert_eq!(shown.header("etag"), answer.header("etag"));
        let mut copy = shown.json();
        let stale_as_of = copy.as_object_mut().unwrap().remove("stale_as_of");
        assert_eq!(stale_as_of.is_some(), region != "ap-south", "{region}: {stale_as_of:?}");
        assert_eq!(copy, order, "{region} shows the same order");
        let events = world.show(region, &format!("{id}/events")).await;
        let types = verify_chain(&id, &events.body);
        assert_eq!(types.first().map(String::as_str), Some("order.placed"), "{types:?}");
        assert_eq!(types.last().map(String::as_str), Some("order.confirmed"), "{types:?}");
        let saga = world.show(region, &format!("{id}/saga")).await.json();
        assert_eq!(saga["status"], "completed", "{saga}");
    }
    let holds = world.authorizations(&id).await;
    assert_eq!(holds.len(), 1, "{holds:?}");
    assert_eq!((holds[0].state.as_str(), holds[0].amount.amount), ("authorized", 2_000));
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_gets_the_first_answer_in_every_region() {
    let world = World::enter().await;
    let sku = world.goods("repeated", [10, 10, 10]).await;
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    let key = world.fresh("k");
    let first = world.order_until_told(&world.at("us-east"), &key, &cart).await;
    assert_eq!(first.status, 201, "{first:?}");

    let again = world.order_until_told(&world.at("us-east"), &key, &cart).await;
    assert!(again.is_replayed());
    assert_eq!((again.status, again.json()), (201, first.json()));
    for region in ["eu-west", "ap-south"] {
        let answer = world
            .eventually(COPIED_WITHIN, "the intent is known", async || {
                let known = world.orders_of_keys(region).await;
                if !known.contains_key(&key) {
                    return None;
                }
                Some(world.order_until_told(&world.at(region), &key, &cart).await)
            })
            .await;
        assert!(answer.is_replayed(), "{region}: {answer:?}");
        assert_eq!((answer.status, answer.order_id()), (201, first.order_id()));
    }

    // White space and the order of the fields make no other request.
    let spread = serde_json::to_string_pretty(&cart).unwrap();
    let url = format!("{}/api/v1/orders", world.at("us-east"));
    let token = world.token("customer", "alice", None);
    let call = Call::post_bytes(url.clone(), spread).token(&token).key(&key);
    assert_eq!(world.http.send(call).await.unwrap().order_id(), first.order_id());

    let other = cart_of(&sku, 2, &card("tok_ok"));
    for region in REGIONS {
        let reused = world.order_until_told(&world.at(region), &key, &other).await;
        assert_eq!(reused.outcome(), (422, "idempotency_key_reused".to_owned()), "{region}");
    }
    let keyless = world.http.send(Call::post(url, &cart).token(&token)).await.unwrap();
    assert_eq!(keyless.outcome(), (400, "idempotency_key_required".to_owned()));
    assert_eq!(world.authorizations(&first.order_id()).await.len(), 1);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_payment_token_ends_as_the_contract_says() {
    let world = World::enter().await;
    let sku = world.goods("tokens", [100, 0, 0]).await;
    let base = world.at("us-east");
    for (token, status, code) in [
        ("tok_declined", 402, "payment_declined"),
        ("tok_insufficient_funds", 402, "payment_declined"),
        ("tok_fraud", 422, "fraud_rejected"),
        ("tok_flaky_2", 201, ""),
        ("tok_slow_300", 201, ""),
    ] {
        let cart = cart_of(&sku, 1, &card(token));
        let answer = world.order_until_told(&base, &world.fresh("k"), &cart).await;
        assert_eq!(answer.outcome(), (status, code.to_owned()), "{token}: {answer:?}");
    }
    // Nobody knows for a while whether the money is held; in the end it is, exactly once.
    for token in ["tok_timeout_charged", "tok_async"] {
        let cart = cart_of(&sku, 1, &card(token));
        let key = world.fresh("k");
        let answer = world.order_until_told(&base, &key, &cart).await;
        assert!(answer.is_acknowledged(), "{token}: {answer:?}");
        let id = answer.order_id();
        let settled = world
            .eventually(Duration::from_secs(45), token, async || {
                let order = world.show("us-east", &id).await.json();
                (order["status"] != "pending").then_some(order)
            })
            .await;
        assert_eq!(settled["status"], "confirmed", "{token}: {settled}");
        let holds = world.authorizations(&id).await;
        let held: Vec<_> = holds.iter().filter(|hold| hold.state == "authorized").collect();
        assert_eq!(held.len(), 1, "{token}: {holds:?}");
    }
    // Refusals gave their units back.
    world.audit().await;
    assert_eq!(world.inventory("us-east", &sku).await["available"], 96);
}

/// Checks the hash chain of an audit trail as an auditor would, from what the answer says alone.
fn verify_chain(order_id: &str, body: &[u8]) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Trail<'a> {
        #[serde(borrow)]
        items: Vec<&'a RawValue>,
    }
    #[derive(serde::Deserialize)]
    struct Payload<'a> {
        #[serde(borrow)]
        data: &'a RawValue,
    }
    let hash = |text: &str| hex::encode(Sha256::digest(text));
    let trail: Trail<'_> = serde_json::from_slice(body).unwrap();
    let (mut previous, mut hlc) = (String::new(), String::new());
    let mut types = Vec::new();
    for (index, item) in trail.items.iter().enumerate() {
        let event: Value = serde_json::from_str(item.get()).unwrap();
        let payload: Payload<'_> = serde_json::from_str(item.get()).unwrap();
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(event["seq"], index + 1, "numbered without a gap (I-17)");
        assert!(text("hlc") > hlc, "stamps go forward (I-17)");
        hlc = text("hlc");
        assert_eq!(hash(payload.data.get()), text("payload_hash"), "{event}");
        let link = format!(
            "{previous}\n{order_id}\n{}\n{}\n{}\n{}\n{}\n{}\n{hlc}\n{}\n",
            event["seq"],
            text("type"),
            text("from_status"),
            text("to_status"),
            text("region"),
            event["epoch"],
            text("payload_hash"),
        );
        assert_eq!(hash(&link), text("chain_hash"), "the chain breaks at {event} (I-28)");
        previous = text("chain_hash");
        types.push(text("type"));
    }
    types
}
