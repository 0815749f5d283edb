//! The orders of a lost region are carried on by another one (`docs/runbooks/lost-region.md`).

use std::time::Duration;

use entrepot::escrow::{CLOCK_DRIFT_PARTS, ORDER_LEASE_MS};
use entrepot::ports::Clock as _;

use crate::world::{Answer, Call, World, card, cart_of};

/// The lease, and what the fence and the moves take on a busy machine.
const TAKEN_OVER_WITHIN: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn another_region_carries_on_the_orders_of_a_lost_one() {
    let world = World::enter().await;
    let sku = world.goods("adoption", [20, 20, 20]).await;
    world
        .until("ap-south acts on its orders", async || world.holds_order_lease("ap-south").await)
        .await;
    let (lost, key) = (world.at("ap-south"), world.fresh("adoption"));
    let cart = cart_of(&sku, 2, &card("tok_ok"));
    let standing = world.order_until_told(&lost, &key, &cart).await;
    assert_eq!(standing.status, 201, "{standing:?}");
    // The provider holds the money of this one, and its region does not hear of it before it is killed.
    let slow_key = world.fresh("adoption");
    let slow = cart_of(&sku, 1, &card("tok_timeout_charged"));
    let call = Call::post(format!("{lost}/api/v1/orders"), &slow);
    let shopper = world.token("customer", "alice", None);
    let call = call.token(&shopper).key(&slow_key).header("prefer", "respond-async");
    let pending = world.http.send(call).await.unwrap();
    assert_eq!(pending.status, 202, "{pending:?}");
    let ids = [standing.order_id(), pending.order_id()];
    let read = async |at: &str, id: &str, rest: &str| {
        let url = format!("{}/api/v1/orders/{id}{rest}", world.at(at));
        world.http.send(Call::get(url).token(&world.admin())).await.unwrap()
    };
    world
        .until("both are known elsewhere", async || {
            let mut known = 0;
            for id in &ids {
                known += usize::from(read("us-east", id, "").await.status == 200);
            }
            known == ids.len()
        })
        .await;
    world.chaos("kill ap-south");
    world
        .until("the money of the undecided one is held", async || {
            !world.authorizations(&ids[1]).await.is_empty()
        })
        .await;

    // Nobody writes them until the region is fenced; copies are read.
    for id in &ids {
        let strong = read("us-east", id, "?consistency=strong").await;
        assert_eq!(strong.outcome(), (503, "home_region_unavailable".to_owned()));
        assert!(strong.header("retry-after").is_some());
        let copy = read("us-east", id, "").await.json();
        assert_eq!(copy["home_region"], "ap-south");
        assert!(copy["stale_as_of"].is_string(), "{copy}");
    }
    // The first of the others carries the fence out.
    let heir = "eu-west";
    let fenced_ms = world.clock.monotonic_ms();
    world.entrepot(&["region", "fence", "ap-south"]);
    let home = async |id: &str| read("us-east", id, "").await.json()["home_region"].clone();
    world
        .eventually(TAKEN_OVER_WITHIN, "another region is their home", async || {
            let homes = [home(&ids[0]).await, home(&ids[1]).await];
            homes.iter().all(|home| *home == heir).then_some(())
        })
        .await;
    let took_ms = world.clock.monotonic_ms() - fenced_ms;
    let lease_ms = ORDER_LEASE_MS - ORDER_LEASE_MS / CLOCK_DRIFT_PARTS;
    assert!(took_ms > lease_ms, "its lease may have lasted: {took_ms} ms");
    println!("the orders of a lost region have another home after {took_ms} ms");
    world
        .until("the undecided one is decided", async || {
            read("us-east", &ids[1], "?consistency=strong").await.json()["status"] == "confirmed"
        })
        .await;
    assert_eq!(world.authorizations(&ids[1]).await.len(), 1, "it is charged once");
    let again = async |key: &str, cart: &serde_json::Value| -> Answer {
        world.order_until_told(&world.balancer(), key, cart).await
    };
    for (key, cart, id) in [(&key, &cart, &ids[0]), (&slow_key, &slow, &ids[1])] {
        let answer = again(key, cart).await;
        assert_eq!((answer.order_id(), answer.is_replayed()), (id.clone(), true), "{answer:?}");
    }

    // It comes back, and learns that they are not its own any more.
    world.chaos("start ap-south");
    world
        .until("it learns that it was fenced", async || {
            world.own_status("ap-south").await == "fenced"
        })
        .await;
    world.entrepot(&["region", "rejoin", "ap-south"]);
    world.until("it is back", async || world.own_status("ap-south").await == "ready").await;
    let new = world.order_until_told(&lost, &world.fresh("adoption"), &cart).await;
    assert_eq!(new.status, 201, "{new:?}");
    assert_eq!(new.json()["home_region"], "ap-south");
    world.audit().await;
    for id in &ids {
        let there = read("ap-south", id, "?consistency=strong").await;
        assert_eq!(there.json()["home_region"], heir, "{there:?}");
        assert_eq!(there.json()["status"], "confirmed");
    }
}
