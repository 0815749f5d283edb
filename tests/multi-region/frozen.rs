//! A region's database freezes for twenty seconds: it neither answers nor dies. The region says so
//! instead of hanging, loses nothing it acknowledged, and goes on by itself.

use std::time::Duration;

use entrepot::ports::Clock;

use crate::world::{Answer, Call, REGIONS, World, card, cart_of};

/// How long the database is frozen.
const FROZEN_MS: u64 = 20_000;
/// A shopper is told within this: the deadline of a database call (3 s), the look whether it was done
/// after all, and a loaded machine.
const TOLD_WITHIN_MS: u64 = 10_000;
/// For a region that works again.
const HEALED_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_database_is_told_and_outlived() {
    let world = World::enter().await;
    let sku = world.goods("frozen", [100, 100, 100]).await;
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    let server = |status: &serde_json::Value| status["regions"][1]["pids"]["server"].clone();
    let server_before = server(&world.read_status());
    world.chaos("stop eu-west --component postgres");
    let frozen_ms = world.clock.monotonic_ms();
    let ready_url = format!("{}/readyz", world.at("eu-west"));
    world
        .eventually(Duration::from_secs(3), "eu-west says that it is not ready", async || {
            let answer = world.http.send(Call::get(ready_url.clone())).await?;
            (answer.status == 503).then_some(())
        })
        .await;

    let mut tried = Vec::new();
    while world.clock.monotonic_ms() - frozen_ms < FROZEN_MS {
        let key = world.fresh("frozen");
        let asked_ms = world.clock.monotonic_ms();
        let answer = world.order(&world.at("eu-west"), &key, &cart).await;
        let took_ms = world.clock.monotonic_ms() - asked_ms;
        let answer = answer.expect("an answer from a server that lives");
        assert_eq!(answer.status, 503, "after {took_ms} ms: {answer:?}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        assert!(took_ms <= TOLD_WITHIN_MS, "told after {took_ms} ms");
        tried.push(key);
        // Its neighbors, and its shoppers by way of the load balancer, are served.
        for base in [world.at("us-east"), world.balancer()] {
            let answer = world.order_until_told(&base, &world.fresh("near"), &cart).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    }
    world.chaos("start eu-west --component postgres");
    world
        .eventually(HEALED_WITHIN, "eu-west is ready again", async || {
            let answer = world.http.send(Call::get(ready_url.clone())).await?;
            (answer.status == 200).then_some(())
        })
        .await;
    assert_eq!(server(&world.read_status()), server_before, "the server outlived it");
    // What was not acknowledged may have been done or not: the same key tells, and does it once.
    for key in &tried {
        let answer = world
            .eventually(HEALED_WITHIN, "the retry is answered", async || {
                let answer = world.order(&world.at("eu-west"), key, &cart).await;
                answer.filter(Answer::is_acknowledged)
            })
            .await;
        assert!(answer.is_acknowledged());
    }
    world.audit().await;
    let known = world.orders_of_keys("eu-west").await;
    for key in &tried {
        assert_eq!(known[key].len(), 1, "one order of {key}");
    }
    assert_eq!(REGIONS[1], "eu-west");
}
