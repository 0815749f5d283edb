//! A region that an operator drained stays drained, whatever happens to its server.

use std::time::Duration;

use crate::world::{World, card, cart_of};

/// A server starts within a second or two; machines that run tests are shared.
const BACK_WITHIN: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_region_that_is_killed_comes_back_drained() {
    let world = World::enter().await;
    let sku = world.goods("drained", [10, 10, 10]).await;
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    let there = world.at("eu-west");
    world.entrepot(&["region", "drain", "eu-west"]);
    world.chaos("kill eu-west --component server");
    world.chaos("start eu-west --component server");
    let key = world.fresh("drained");
    let refusal = world
        .eventually(BACK_WITHIN, "the server answers again", async || {
            world.order(&there, &key, &cart).await
        })
        .await;
    assert_eq!(refusal.outcome(), (503, "region_draining".to_owned()));
    // Shoppers of that region are served elsewhere meanwhile.
    let answer = world.order(&world.balancer(), &key, &cart).await.unwrap();
    assert!(answer.is_acknowledged());
    world.entrepot(&["region", "resume", "eu-west"]);
    world.until("eu-west is ready", async || world.is_ready()).await;
    let again = world.order(&there, &world.fresh("resumed"), &cart).await.unwrap();
    assert!(again.is_acknowledged());
    world.audit().await;
}
