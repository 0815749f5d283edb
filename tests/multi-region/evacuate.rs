//! A region is given up while it lives, under load (`docs/runbooks/evacuate.md`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use entrepot::ports::Clock as _;
use serde_json::Value;

use crate::world::{Call, World, card, cart_of};

/// What an operator is promised.
const WITHIN_MS: u64 = 60_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_given_up_under_load_and_everything_it_had_lives_on() {
    let world = World::enter().await;
    let sku = world.goods("evacuate", [400, 400, 400]).await;
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    let there = world.at("eu-west");
    let key = world.fresh("evacuate");
    let before = world.order_until_told(&there, &key, &cart).await;
    assert_eq!(before.status, 201, "{before:?}");
    let id = before.order_id();

    let would = world.entrepot(&["region", "evacuate", "eu-west", "--dry-run", "--json"]);
    let would: Value = serde_json::from_str(&would).unwrap();
    assert!(would["orders"].as_u64().unwrap() >= 1, "{would}");
    assert!(would["units"].as_u64().unwrap() >= 399, "{would}");
    assert_eq!(world.own_status("eu-west").await, "ready", "nothing was done");

    // Shoppers go on ordering at the balancer and at the region itself; each request is answered.
    let ends = AtomicBool::new(false);
    let shoppers = async {
        let mut placed = 0;
        while !ends.load(Ordering::Relaxed) {
            for at in [world.balancer(), there.clone()] {
                let key = world.fresh("evacuate");
                let answer = world.order(&at, &key, &cart).await.expect("an answer");
                match answer.outcome() {
                    (201 | 202, _) => placed += 1,
                    (503, code) => {
                        assert_eq!(code, "region_draining");
                        assert!(answer.header("retry-after").is_some());
                        let again = world.order_until_told(&world.balancer(), &key, &cart).await;
                        assert_eq!(again.status, 201, "{again:?}");
                        placed += 1;
                    }
                    outcome => panic!("{outcome:?}"),
                }
            }
        }
        placed
    };
    let evacuation = async {
        let began_ms = world.clock.monotonic_ms();
        let done = world.run(&["region", "evacuate", "eu-west", "--to", "us-east", "--json"]).await;
        let took_ms = world.clock.monotonic_ms() - began_ms;
        ends.store(true, Ordering::Relaxed);
        (done, took_ms)
    };
    let (placed, (done, took_ms)) = tokio::join!(shoppers, evacuation);
    assert!(done.status.success(), "{done:?}");
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&done["status"], &done["detail"]), (&"done".into(), &Value::Null), "{done}");
    assert!(done["orders_moved"].as_u64().unwrap() >= 1, "{done}");
    assert!(done["units_moved"].as_u64().unwrap() > 0, "{done}");
    assert!(took_ms < WITHIN_MS, "{took_ms} ms");
    println!("would: {would}");
    println!("evacuated in {took_ms} ms while {placed} orders were placed: {done}");
    let rights = world.inventory("us-east", &sku).await;
    let of = |region: &str| {
        let regions = rights["regions"].as_array().unwrap();
        regions.iter().find(|it| it["region"] == region).unwrap()["rights"].as_u64().unwrap()
    };
    assert_eq!(of("eu-west"), 0, "{rights}");

    // Without it nothing is missing.
    world.chaos("kill eu-west");
    let read = |at: &str, rest: &str| {
        Call::get(format!("{}/api/v1/orders/{id}{rest}", world.at(at))).token(&world.admin())
    };
    let order = world.http.send(read("ap-south", "?consistency=strong")).await.unwrap();
    assert_eq!(order.outcome().0, 200, "{order:?}");
    assert_eq!(order.json()["home_region"], "us-east");
    assert_eq!(order.header("x-home-region"), Some("us-east"));
    assert_eq!(order.json()["saga"]["status"], before.json()["saga"]["status"]);
    let saga = world.http.send(read("ap-south", "/saga")).await.unwrap();
    assert_eq!(saga.status, 200, "{saga:?}");
    let events = world.http.send(read("ap-south", "/events")).await.unwrap().json();
    let last = events["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["type"], "order.moved", "{events}");
    let again = world.order_until_told(&world.balancer(), &key, &cart).await;
    assert_eq!((again.order_id(), again.is_replayed()), (id, true), "{again:?}");

    world.chaos("start eu-west");
    world
        .eventually(Duration::from_mins(1), "it is back, and drained", async || {
            (world.own_status("eu-west").await == "draining").then_some(())
        })
        .await;
    world.entrepot(&["region", "resume", "eu-west"]);
    world.until("it is ready", async || world.is_ready()).await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evacuation_that_waits_is_aborted_and_one_that_is_over_is_not() {
    let world = World::enter().await;
    let sku = world.goods("abort", [10, 10, 10]).await;
    // Its provider takes its time: the evacuation waits for it.
    let cart = cart_of(&sku, 1, &card("tok_slow_2500"));
    let (there, key) = (world.at("ap-south"), world.fresh("abort"));
    let slow = world.order(&there, &key, &cart);
    let abort = async {
        world
            .until("it is drained", async || world.own_status("ap-south").await == "draining")
            .await;
        let resumed = world.run(&["region", "resume", "ap-south"]).await;
        let aborted = world.run(&["region", "evacuate", "ap-south", "--abort", "--json"]).await;
        (resumed, aborted)
    };
    let start = async {
        // As soon as the order is there.
        world
            .until("an order is on its way", async || world.open_sagas("ap-south").await > 0)
            .await;
        world.run(&["region", "evacuate", "ap-south", "--json"]).await
    };
    let (slow, started, (resumed, aborted)) = tokio::join!(slow, start, abort);
    assert!(slow.unwrap().is_acknowledged());
    let why = String::from_utf8_lossy(&resumed.stderr).into_owned();
    assert!(why.contains("evacuation_under_way"), "no orders while it is being given up: {why}");
    for output in [&started, &aborted] {
        assert!(output.status.success(), "{output:?}");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["status"], "aborted", "{told}");
        assert_eq!(told["orders_moved"], 0, "{told}");
    }
    world.until("it is ready", async || world.is_ready()).await;
    let refused = world.run(&["region", "evacuate", "ap-south", "--abort"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("no_evacuation"), "{why}");
    world.audit().await;
}
