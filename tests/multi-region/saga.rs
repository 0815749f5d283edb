//! A server dies at each step of the saga, is started again by the supervisor, and carries the saga
//! on: the end is the same as without the crash.

use std::time::Duration;

use serde_json::Value;

use crate::world::{REGIONS, World, card, cards, cart_of};

/// The restart, the lease of the saga's dead owner, and the rest of the saga.
const RESUMED_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_order_survives_a_crash_at_each_step() {
    let world = World::enter().await;
    let sku = world.goods("resumed", [10, 10, 10]).await;
    for (turn, point) in ["before_authorize", "after_authorize"].into_iter().enumerate() {
        for (payments, holds) in [(card("tok_ok"), 1), (cards("tok_ok", "tok_ok"), 2)] {
            let cart = cart_of(&sku, 1, &payments);
            let (id, order) = crash_and_resume(&world, REGIONS[turn], point, &cart).await;
            assert_eq!(order["status"], "confirmed", "{point}: {order}");
            let ledger = world.authorizations(&id).await;
            assert_eq!(ledger.len(), holds, "{point}: {ledger:?}");
            assert!(ledger.iter().all(|entry| entry.state == "authorized"), "{ledger:?}");
        }
    }
    world.audit().await;
    assert_eq!(world.inventory("us-east", &sku).await["reserved"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_order_is_undone_over_a_crash_at_each_step() {
    let world = World::enter().await;
    let sku = world.goods("undone", [10, 10, 10]).await;
    let points = ["before_authorize", "after_authorize", "before_void", "after_void"];
    for (turn, point) in points.into_iter().enumerate() {
        // The first payment is held, the second declined: the first must be given back.
        let cart = cart_of(&sku, 1, &cards("tok_ok", "tok_declined"));
        let region = REGIONS[turn % REGIONS.len()];
        let (id, order) = crash_and_resume(&world, region, point, &cart).await;
        assert_eq!(order["status"], "cancelled", "{point}: {order}");
        assert_eq!(order["cancellation"]["code"], "payment_declined", "{point}: {order}");
        let ledger = world.authorizations(&id).await;
        let held: Vec<_> = ledger.iter().filter(|entry| entry.state == "authorized").collect();
        assert!(held.is_empty(), "{point}: {held:?}");
        let ends: Vec<_> = order["payments"]
            .as_array()
            .unwrap()
            .iter()
            .map(|payment| &payment["status"])
            .collect();
        assert_eq!(ends, ["voided", "declined"], "{point}: the order says what the provider says");
        let saga = world.show(region, &format!("{id}/saga")).await.json();
        assert_eq!(saga["status"], "compensated", "{point}: {saga}");
    }
    world.audit().await;
    assert_eq!(world.inventory("us-east", &sku).await["available"], 30);
}

/// Places an order whose server dies at a point of its saga; the order as it is when the saga is over.
async fn crash_and_resume(
    world: &World,
    region: &str,
    point: &str,
    cart: &Value,
) -> (String, Value) {
    let key = world.fresh("crash");
    world.crash_at(point);
    let answer = world.order(&world.at(region), &key, cart).await;
    assert!(answer.is_none(), "the server died at {point}: {answer:?}");
    assert!(world.has_crashed(), "somebody died at {point}");
    let settled = world
        .eventually(RESUMED_WITHIN, "the saga is carried on", async || {
            let ids = world.orders_of_keys(region).await.remove(&key)?;
            let id = ids.first()?.clone();
            let status = world.statuses(region).await.remove(&id)?;
            (status != "pending").then_some(id)
        })
        .await;
    world
        .until("the server is back", async || {
            let again = world.order(&world.at(region), &key, cart).await;
            again.is_some_and(|answer| answer.is_replayed() && matches!(answer.status, 201 | 402))
        })
        .await;
    let order = world.show(region, &settled).await.json();
    (settled, order)
}
