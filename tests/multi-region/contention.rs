//! The last units, wanted in all regions at once: nothing oversold, nothing refused while there is one.

use futures::StreamExt;
use futures::future::join_all;

use crate::world::{Answer, REGIONS, World, card, cart_of};

#[tokio::test(flavor = "multi_thread")]
async fn fifty_shoppers_race_for_the_last_unit() {
    let world = World::enter().await;
    // The unit lies in each region once.
    for lies_in in 0..REGIONS.len() {
        let mut units = [0; 3];
        units[lies_in] = 1;
        let sku = world.goods("last", units).await;
        let cart = cart_of(&sku, 1, &card("tok_ok"));
        let shoppers = (0..50).map(|shopper| {
            let (world, cart) = (&world, &cart);
            async move {
                let base = world.at(REGIONS[shopper % REGIONS.len()]);
                world.order_until_told(&base, &world.fresh("race"), cart).await
            }
        });
        let answers: Vec<Answer> = join_all(shoppers).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 201);
        assert_eq!(won.len(), 1, "{:?}", won.iter().map(|a| a.outcome()).collect::<Vec<_>>());
        for answer in lost {
            assert_eq!(answer.outcome(), (409, "insufficient_stock".to_owned()), "{answer:?}");
            let shortage = &answer.json()["shortages"][0];
            assert_eq!((&shortage["sku"], &shortage["wanted"]), (&sku.clone().into(), &1.into()));
        }
        let id = won[0].order_id();
        let ledger = world.ledger().await;
        let authorizations: Vec<_> = ledger
            .iter()
            .filter(|entry| entry.order_reference.as_deref() == Some(id.as_str()))
            .collect();
        assert_eq!(authorizations.len(), 1, "{authorizations:?}");
        // What else the provider holds would belong to no standing order, which the audit refuses.
        world.audit().await;
        for region in REGIONS {
            let stock = world.inventory(region, &sku).await;
            assert_eq!((&stock["reserved"], &stock["available"]), (&1.into(), &0.into()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_links_up_every_unit_is_sold_wherever_it_is_wanted() {
    let world = World::enter().await;
    // All in one region, then most of it in one that has few, then evenly.
    for weights in [[1, 0, 0], [1, 2, 7], [1, 1, 1]] {
        let sku = world.goods("wanted", [40, 30, 30]).await;
        let cart = cart_of(&sku, 1, &card("tok_ok"));
        let turns: Vec<&str> = REGIONS
            .into_iter()
            .zip(weights)
            .flat_map(|(region, weight)| std::iter::repeat_n(region, weight))
            .collect();
        let place = |index: usize| {
            let (world, cart, region) = (&world, &cart, turns[index % turns.len()]);
            async move {
                let key = world.fresh("wanted");
                (region, world.order_until_told(&world.at(region), &key, cart).await)
            }
        };
        // Ten at a time: no more wants are open at once than there are units left to the end.
        let answers: Vec<_> =
            futures::stream::iter((0..100).map(place)).buffer_unordered(10).collect().await;
        for (region, answer) in &answers {
            assert_eq!(answer.status, 201, "{weights:?}, in {region}: {answer:?}");
        }
        for region in REGIONS {
            let late = world.fresh("late");
            let answer = world.order_until_told(&world.at(region), &late, &cart).await;
            assert_eq!(answer.outcome(), (409, "insufficient_stock".to_owned()), "{region}");
        }
        world.audit().await;
        for region in REGIONS {
            assert_eq!(world.inventory(region, &sku).await["reserved"], 100, "{region}");
        }
    }
}
