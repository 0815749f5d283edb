//! A whole region is killed under load and started again: nothing acknowledged is lost, nothing is
//! charged twice, and the others hardly notice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use entrepot::ports::Clock;
use entrepot::runtime::spawn_named;
use futures::future::join_all;
use serde_json::Value;
use std::sync::Arc;

use crate::world::{Answer, Call, REGIONS, World, card, cart_of};

/// Orders of the load, and the pause between two: 20 a second for 15 seconds.
const ORDERS: usize = 300;
const PACE: Duration = Duration::from_millis(50);
/// The region dies when so many orders are under way, and is started when so many are.
const KILL_AT: usize = 60;
const START_AT: usize = 160;
/// What the load balancer promises.
const FAIL_OVER: Duration = Duration::from_secs(3);
/// A shopper whose order got no answer tries again with the same key, so often at most.
const TRIES_MAX: usize = 60;
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How a shopper's order went.
struct Outcome {
    key: String,
    /// Where it was sent: a region's own address, or the load balancer.
    via: &'static str,
    /// The first answer, if there was one.
    first: Option<Answer>,
    /// The answer that acknowledged it, at the first try or a later one.
    acknowledged: Option<Answer>,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_killed_under_load_and_comes_back() {
    let world = Arc::new(World::enter().await);
    let sku = world.goods("killed", [10_000, 10_000, 10_000]).await;
    let cart = Arc::new(cart_of(&sku, 1, &card("tok_ok")));
    // Tokens are made by a command; not while the load runs.
    for home in [None, Some("eu-west")] {
        world.token("customer", "alice", home);
    }
    let begun = Arc::new(AtomicUsize::new(0));
    let load = spawn_named("load", run_load(world.clone(), cart.clone(), begun.clone()));
    let reached = |count: usize| {
        let begun = begun.clone();
        async move || begun.load(Ordering::Relaxed) >= count
    };

    world.until("the load runs", reached(KILL_AT)).await;
    world.chaos("kill eu-west");
    let died_ms = world.clock.monotonic_ms();
    // A shopper of the dead region, who asks again and again with one key.
    let key = world.fresh("fail-over");
    let answer = world
        .eventually(FAIL_OVER, "the load balancer goes around the dead region", async || {
            let answer = order_at_home(&world, &key, &cart).await?;
            answer.is_acknowledged().then_some(answer)
        })
        .await;
    let fail_over_ms = world.clock.monotonic_ms() - died_ms;
    assert_ne!(answer.header("x-region"), Some("eu-west"), "after {fail_over_ms} ms");
    world.until("the load goes on", reached(START_AT)).await;
    world.chaos("start eu-west");
    let outcomes = load.await.unwrap();
    world.until("eu-west is ready", async || world.is_ready()).await;

    // The other regions answered as if nothing had happened.
    let direct: Vec<_> = outcomes.iter().filter(|outcome| outcome.via != "balancer").collect();
    let normal = |outcome: &&&Outcome| outcome.first.as_ref().is_some_and(Answer::is_acknowledged);
    let normal = direct.iter().filter(normal).count();
    println!("{normal} of {} answered as normal by the other regions", direct.len());
    assert!(normal * 100 >= direct.len() * 99, "{normal} of {}", direct.len());
    let unanswered = outcomes.iter().filter(|outcome| outcome.acknowledged.is_none()).count();
    assert_eq!(unanswered, 0, "a retry with the same key gets through once a region is up");

    world.audit().await;
    let ledger = world.ledger().await;
    let mut statuses = BTreeMap::new();
    for region in REGIONS {
        statuses.insert(region, world.statuses(region).await);
    }
    let of_keys = world.orders_of_keys("us-east").await;
    for outcome in &outcomes {
        let orders = of_keys.get(&outcome.key).cloned().unwrap_or_default();
        let stands = |id: &&String| statuses["us-east"][*id] == "confirmed";
        let standing: Vec<_> = orders.iter().filter(stands).collect();
        assert_eq!(standing.len(), 1, "{}: {orders:?}", outcome.key);
        // What was promised first is what stands, or yielded to the other order of its key.
        let acknowledged = outcome.acknowledged.as_ref().map(Answer::order_id).unwrap();
        assert!(orders.contains(&acknowledged), "{acknowledged} is lost");
        for region in REGIONS {
            assert_eq!(statuses[region].get(standing[0]).map(String::as_str), Some("confirmed"));
        }
        let held = ledger
            .iter()
            .filter(|entry| entry.operation == "authorize" && entry.state == "authorized")
            .filter(|entry| {
                let reference = entry.order_reference.as_deref();
                orders.iter().any(|id| reference == Some(id))
            })
            .count();
        assert_eq!(held, 1, "the money of {} is held once", outcome.key);
    }
}

/// One order after the other at a steady pace, whatever happens to the earlier ones.
async fn run_load(world: Arc<World>, cart: Arc<Value>, begun: Arc<AtomicUsize>) -> Vec<Outcome> {
    let mut pace = tokio::time::interval(PACE);
    let mut shoppers = Vec::new();
    for index in 0..ORDERS {
        pace.tick().await;
        begun.fetch_add(1, Ordering::Relaxed);
        let (world, cart) = (world.clone(), cart.clone());
        // Half of them through the load balancer, the others straight to a region that lives on.
        let via = ["balancer", "us-east", "balancer", "ap-south"][index % 4];
        shoppers.push(spawn_named("shopper", async move { shop(&world, &cart, via).await }));
    }
    join_all(shoppers).await.into_iter().map(Result::unwrap).collect()
}

async fn shop(world: &World, cart: &Value, via: &'static str) -> Outcome {
    let key = world.fresh("load");
    let mut outcome = Outcome { key, via, first: None, acknowledged: None };
    for attempt in 0..TRIES_MAX {
        let answer = match via {
            "balancer" => order_at_home(world, &outcome.key, cart).await,
            region => world.order(&world.at(region), &outcome.key, cart).await,
        };
        if attempt == 0 {
            outcome.first = answer.clone();
        }
        if let Some(answer) = answer.filter(Answer::is_acknowledged) {
            outcome.acknowledged = Some(answer);
            break;
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
    outcome
}

/// As a shopper of eu-west, through the load balancer.
async fn order_at_home(world: &World, key: &str, cart: &Value) -> Option<Answer> {
    let token = world.token("customer", "alice", Some("eu-west"));
    let url = format!("{}/api/v1/orders", world.balancer());
    world.http.send(Call::post(url, cart).token(&token).key(key)).await
}
