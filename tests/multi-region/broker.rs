//! A broker loses everything it had acknowledged, and comes back empty: regions sell on meanwhile, and
//! what was lost is pulled from where it was written (I-18). Late and doubled messages change nothing.

use futures::StreamExt;

use crate::world::{Answer, REGIONS, World, card, cart_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgets_everything_is_made_up_for() {
    let world = World::enter().await;
    let sku = world.goods("broker", [100, 100, 100]).await;
    // What eu-west writes now its broker acknowledges, and nobody has fetched it yet.
    world.links(Some("eu-west"), "--cut");
    let mut confirmed = place(&world, &sku, 30).await;
    world.chaos("kill eu-west --component nats");
    // Without its broker a region still sells.
    confirmed += place(&world, &sku, 30).await;
    world.wipe_broker("eu-west");
    world.chaos("start eu-west --component nats");
    world.links(Some("eu-west"), "--heal");
    confirmed += place(&world, &sku, 30).await;
    assert_eq!(confirmed, 90);
    world.audit().await;
    for region in REGIONS {
        assert_eq!(world.inventory(region, &sku).await["reserved"], 90, "{region}");
    }
}

/// Its last messages, as after a power loss: what follows would close the gap in silence, if regions
/// counted what a broker counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgets_what_it_acknowledged_last_is_made_up_for() {
    let world = World::enter().await;
    let sku = world.goods("tail", [100, 100, 100]).await;
    let mut confirmed = place(&world, &sku, 30).await;
    world.audit().await;
    world.chaos("kill eu-west --component nats");
    world.save_broker("eu-west");
    world.chaos("start eu-west --component nats");
    world.links(Some("eu-west"), "--cut");
    confirmed += place(&world, &sku, 30).await;
    world.chaos("kill eu-west --component nats");
    world.restore_broker("eu-west");
    world.chaos("start eu-west --component nats");
    world.links(Some("eu-west"), "--heal");
    confirmed += place(&world, &sku, 30).await;
    assert_eq!(confirmed, 90);
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_lossy_links_change_nothing_in_the_end() {
    let world = World::enter().await;
    let sku = world.goods("slow", [100, 100, 100]).await;
    world.links(None, "--latency 40ms --jitter 60ms --loss 5%");
    let mut confirmed = place(&world, &sku, 30).await;
    // Cut and healed in the middle of the traffic: what was sent and not acknowledged comes twice.
    world.chaos("link us-east ap-south --cut");
    confirmed += place(&world, &sku, 30).await;
    world.chaos("link us-east ap-south --heal");
    confirmed += place(&world, &sku, 30).await;
    assert_eq!(confirmed, 90);
    world.links(None, "--heal");
    world.audit().await;
    for region in REGIONS {
        assert_eq!(world.inventory(region, &sku).await["reserved"], 90, "{region}");
    }
}

/// Orders in all regions, ten at a time. Answers how many were confirmed.
async fn place(world: &World, sku: &str, orders: usize) -> usize {
    let cart = cart_of(sku, 1, &card("tok_ok"));
    let place = |index: usize| {
        let (world, cart, region) = (world, &cart, REGIONS[index % REGIONS.len()]);
        async move { world.order_until_told(&world.at(region), &world.fresh("broker"), cart).await }
    };
    let answers: Vec<Answer> =
        futures::stream::iter((0..orders).map(place)).buffer_unordered(10).collect().await;
    answers.iter().filter(|answer| answer.status == 201).count()
}
