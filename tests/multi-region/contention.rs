//! The last units, wanted in all regions at once: nothing oversold, nothing refused while there is one.

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

/// A hundred units and a hundred shoppers at once: nobody is refused, wherever the units lie.
#[tokio::test(flavor = "multi_thread")]
async fn with_links_up_every_unit_is_sold_wherever_it_is_wanted() {
    let world = World::enter().await;
    // All in one region, then most of it in one that has few, then evenly.
    for weights in [[1, 0, 0], [1, 2, 7], [1, 1, 1]] {
        let answers = sell_hundred(&world, weights, 100).await;
        for (region, answer) in &answers {
            assert_eq!(answer.status, 201, "{weights:?}, in {region}: {answer:?}");
        }
    }
}

/// The same with more shoppers than units, and with the distances between continents.
#[tokio::test(flavor = "multi_thread")]
async fn across_continents_every_unit_is_sold_and_no_more() {
    let world = World::enter().await;
    for (pair, one_way) in
        [("us-east eu-west", "34ms"), ("us-east ap-south", "91ms"), ("eu-west ap-south", "60ms")]
    {
        world.chaos(&format!("link {pair} --latency {one_way}"));
    }
    for weights in [[1, 1, 1], [0, 1, 9]] {
        let answers = sell_hundred(&world, weights, 180).await;
        let (sold, refused): (Vec<_>, Vec<_>) =
            answers.iter().partition(|(_, answer)| answer.status == 201);
        assert_eq!(sold.len(), 100, "{weights:?}");
        for (region, answer) in refused {
            assert_eq!(answer.outcome(), (409, "insufficient_stock".to_owned()), "{region}");
        }
    }
}

/// Offers 40, 30 and 30 units to shoppers who come all at once, shared out over the regions by
/// `weights`. In the end every region says that a hundred are sold, and refuses another.
async fn sell_hundred(
    world: &World,
    weights: [usize; 3],
    shoppers: usize,
) -> Vec<(&'static str, Answer)> {
    let sku = world.goods("wanted", [40, 30, 30]).await;
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    let turns: Vec<&str> = REGIONS
        .into_iter()
        .zip(weights)
        .flat_map(|(region, weight)| std::iter::repeat_n(region, weight))
        .collect();
    let place = |index: usize| {
        let (cart, region) = (&cart, turns[index % turns.len()]);
        async move {
            let key = world.fresh("wanted");
            (region, world.order_until_told(&world.at(region), &key, cart).await)
        }
    };
    let answers = join_all((0..shoppers).map(place)).await;
    for region in REGIONS {
        let late = world.fresh("late");
        let answer = world.order_until_told(&world.at(region), &late, &cart).await;
        assert_eq!(answer.outcome(), (409, "insufficient_stock".to_owned()), "{region}");
    }
    world.audit().await;
    for region in REGIONS {
        assert_eq!(world.inventory(region, &sku).await["reserved"], 100, "{region}");
    }
    answers
}
