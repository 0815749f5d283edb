//! Links between regions are cut: each sells what it has the right to, no more and no less, and after
//! healing all agree.

use futures::StreamExt;

use crate::world::{Answer, REGIONS, World, card, cart_of};

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_regions_sell_exactly_their_rights() {
    let world = World::enter().await;
    let shares = [40, 30, 30];
    let sku = world.goods("cut", shares).await;
    world.links(None, "--cut");
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    let place = |index: usize| {
        let (world, cart, region) = (&world, &cart, REGIONS[index % REGIONS.len()]);
        async move {
            let key = world.fresh("cut");
            (region, world.order_until_told(&world.at(region), &key, cart).await)
        }
    };
    let orders = futures::stream::iter((0..180).map(place));
    let answers: Vec<(&str, Answer)> = orders.buffer_unordered(30).collect().await;
    for (region, share) in REGIONS.into_iter().zip(shares) {
        let of_region = || answers.iter().filter(|(of, _)| *of == region).map(|(_, answer)| answer);
        let sold = of_region().filter(|answer| answer.status == 201).count();
        assert_eq!(sold as u64, share, "{region} sold {sold} of its {share}");
        for refused in of_region().filter(|answer| answer.status != 201) {
            assert_eq!(refused.outcome(), (409, "insufficient_stock".to_owned()), "{refused:?}");
        }
        // Cut off, a region knows its own sales only.
        let seen = world.inventory(region, &sku).await;
        assert_eq!(seen["available_here"], 0, "{seen}");
        assert_eq!(seen["reserved"], share, "{seen}");
    }

    world.links(None, "--heal");
    // Equal hashes, a complete inbox, and a ledger with nothing but the sold units' money.
    world.audit().await;
    for region in REGIONS {
        let stock = world.inventory(region, &sku).await;
        assert_eq!((&stock["reserved"], &stock["available"]), (&100.into(), &0.into()), "{stock}");
        let spent: Vec<_> = stock["regions"].as_array().unwrap().iter().collect();
        assert_eq!(spent.iter().map(|r| r["spent"].as_u64().unwrap()).sum::<u64>(), 100);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_cut_in_one_direction_is_seen_from_both_ends_and_heals() {
    let world = World::enter().await;
    let sku = world.goods("one-way", [20, 20, 20]).await;
    world.chaos("link us-east eu-west --cut --one-way");
    // us-east hears eu-west, which does not hear us-east; neither may count on the other.
    for (region, other) in [("us-east", "eu-west"), ("eu-west", "us-east")] {
        world
            .until(&format!("{region} sees that {other} is cut off"), async || {
                let stock = world.inventory(region, &sku).await;
                let regions = stock["regions"].as_array().cloned().unwrap_or_default();
                let status = |of: &str| {
                    let known = regions.iter().find(|known| known["region"] == of);
                    known.and_then(|known| known["status"].as_str()).unwrap_or_default().to_owned()
                };
                let seen = status(other);
                (seen == "one_way" || seen == "silent") && status("ap-south") == "ready"
            })
            .await;
    }
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    let mut confirmed = 0;
    for index in 0..60 {
        let region = REGIONS[index % REGIONS.len()];
        let key = world.fresh("one-way");
        let answer = world.order_until_told(&world.at(region), &key, &cart).await;
        match answer.outcome() {
            (201, _) => confirmed += 1,
            // Units that only an unreachable region may sell.
            outcome => assert_eq!(outcome, (409, "insufficient_stock".to_owned())),
        }
    }
    assert!(confirmed >= 50, "{confirmed} of 60 confirmed, with two of three links up");
    world.chaos("link us-east eu-west --heal");
    world.audit().await;
    for region in REGIONS {
        assert_eq!(world.inventory(region, &sku).await["reserved"], confirmed, "{region}");
    }
}
