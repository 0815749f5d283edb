//! A region dies while it works on an order, and the shopper tries again in another one: one order
//! stands, and its money is held once (I-07).

use std::time::Duration;

use crate::world::{Answer, Call, REGIONS, World, card, cart_of};

/// For the two orders of one intent to become one, once the regions see each other.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_elsewhere_while_the_first_region_is_dead_and_unheard() {
    let world = World::enter().await;
    for point in ["before_authorize", "after_authorize"] {
        let sku = world.goods("retried", [10, 10, 10]).await;
        let cart = cart_of(&sku, 1, &card("tok_ok"));
        let key = world.fresh("retry");
        // Nobody else hears of the first order before its region dies.
        world.links(Some("eu-west"), "--cut");
        world.crash_at(point);
        let lost = world.order(&world.at("eu-west"), &key, &cart).await;
        assert!(lost.is_none(), "the server died at {point}: {lost:?}");
        assert!(world.has_crashed());
        world.chaos("kill eu-west");

        let answer = world.order_until_told(&world.at("us-east"), &key, &cart).await;
        assert_eq!(answer.status, 201, "{point}: {answer:?}");
        world.links(Some("eu-west"), "--heal");
        world.chaos("start eu-west");

        one_order_stands(&world, point, &key).await;
        let again = again_everywhere(&world, &key, &cart).await;
        println!("{point}: {} stands", again[0]);
        world.audit().await;
        assert_eq!(world.inventory("us-east", &sku).await["reserved"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_through_the_load_balancer_when_the_region_just_died() {
    let world = World::enter().await;
    let sku = world.goods("retried", [10, 10, 10]).await;
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    let key = world.fresh("retry");
    world.crash_at("after_authorize");
    let token = world.token("customer", "alice", Some("eu-west"));
    let url = format!("{}/api/v1/orders", world.balancer());
    let call = Call::post(url, &cart).token(&token).key(&key);
    let lost = world.http.send(call.clone()).await;
    assert!(lost.as_ref().is_none_or(|answer| answer.status >= 500), "{lost:?}");
    assert!(world.has_crashed());
    world.chaos("kill eu-west");
    // The copy of the order may have arrived; only its home may say more than "taken" then.
    let answer = world
        .eventually(SETTLED_WITHIN, "the retry is answered", async || {
            world.http.send(call.clone()).await.filter(Answer::is_acknowledged)
        })
        .await;
    assert_ne!(answer.header("x-region"), Some("eu-west"));
    world.chaos("start eu-west");
    one_order_stands(&world, "after_authorize", &key).await;
    again_everywhere(&world, &key, &cart).await;
    world.audit().await;
    assert_eq!(world.inventory("us-east", &sku).await["reserved"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_elsewhere_while_the_first_region_is_alive_and_far_away() {
    let world = World::enter().await;
    let sku = world.goods("retried", [10, 10, 10]).await;
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    let key = world.fresh("retry");
    // The copy of the order takes longer than the shopper.
    world.links(Some("us-east"), "--latency 200ms");
    let first = world.order_until_told(&world.at("us-east"), &key, &cart).await;
    assert_eq!(first.status, 201, "{first:?}");
    // As the load balancer sends it when us-east is busy for a moment: the token names no region.
    let token = world.token("customer", "alice", None);
    let url = format!("{}/api/v1/orders", world.at("eu-west"));
    let call = Call::post(url, &cart).token(&token).key(&key);
    let again = world.http.send(call.header("x-preferred-region", "us-east")).await.unwrap();
    world.links(Some("us-east"), "--heal");
    assert_eq!((again.status, again.order_id()), (201, first.order_id()), "{again:?}");
    assert!(again.is_replayed(), "{again:?}");
    assert_eq!(again.header("x-region"), Some("us-east"), "its home answers");
    world.audit().await;
    assert_eq!(world.inventory("us-east", &sku).await["reserved"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reference_in_two_regions_that_are_cut_off_has_one_order_in_the_end() {
    let world = World::enter().await;
    let sku = world.goods("referenced", [10, 10, 10]).await;
    let mut cart = cart_of(&sku, 1, &card("tok_ok"));
    cart["channel_order_ref"] = world.fresh("ref").into();
    world.links(None, "--cut");
    let mut orders = Vec::new();
    for region in ["us-east", "eu-west"] {
        let answer = world.order_until_told(&world.at(region), &world.fresh("k"), &cart).await;
        assert_eq!(answer.status, 201, "{region}: {answer:?}");
        orders.push(answer.order_id());
    }
    world.links(None, "--heal");
    let held = async |id: &str| {
        let holds = world.authorizations(id).await;
        holds.iter().filter(|hold| hold.state == "authorized").count()
    };
    world
        .eventually(SETTLED_WITHIN, "the later order yields with its money", async || {
            let statuses = world.statuses("ap-south").await;
            let stays = statuses.get(&orders[0])? == "confirmed";
            let yields = statuses.get(&orders[1])? == "cancelled" && held(&orders[1]).await == 0;
            (stays && yields).then_some(())
        })
        .await;
    assert_eq!(held(&orders[0]).await, 1);
    for region in REGIONS {
        let answer = world.order_until_told(&world.at(region), &world.fresh("k"), &cart).await;
        assert_eq!((answer.status, answer.order_id()), (201, orders[0].clone()), "{region}");
        assert!(answer.is_replayed(), "{region}: {answer:?}");
    }
    world.audit().await;
    assert_eq!(world.inventory("us-east", &sku).await["reserved"], 1);
}

/// Exactly one order of the key is confirmed in every region's eyes; the others are cancelled as
/// duplicates, and the money is held once.
async fn one_order_stands(world: &World, point: &str, key: &str) {
    world.until("all regions are ready", async || world.is_ready()).await;
    // Only then does every region know every order of the key.
    world.converge().await;
    for region in REGIONS {
        world
            .eventually(SETTLED_WITHIN, "one order of the key stands", async || {
                let ids = world.orders_of_keys(region).await.remove(key)?;
                let statuses = world.statuses(region).await;
                let with = |status: &str| ids.iter().filter(|id| statuses[*id] == status).count();
                let settled = with("confirmed") == 1 && with("cancelled") == ids.len() - 1;
                settled.then_some(())
            })
            .await;
    }
    let ids = world.orders_of_keys("us-east").await.remove(key).unwrap();
    let mut authorized = 0;
    for id in &ids {
        let order = world.show("us-east", id).await.json();
        if order["status"] == "cancelled" {
            assert_eq!(order["cancellation"]["code"], "duplicate", "{point}: {order}");
        }
        authorized += world.authorizations(id).await.len();
    }
    assert_eq!(authorized, 1, "{point}: one authorization for {ids:?}");
}

/// The key is answered with the order that stands, wherever it is asked again.
async fn again_everywhere(world: &World, key: &str, cart: &serde_json::Value) -> Vec<String> {
    let mut ids = Vec::new();
    for region in REGIONS {
        let answer = world.order_until_told(&world.at(region), key, cart).await;
        assert_eq!(answer.status, 201, "{region}: {answer:?}");
        assert!(answer.is_replayed(), "{region}: {answer:?}");
        let order = world.show(region, &answer.order_id()).await.json();
        assert_eq!(order["status"], "confirmed", "{region}");
        ids.push(answer.order_id());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    ids
}
