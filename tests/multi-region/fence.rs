//! A region is lost and fenced: the others sell what it had not sold above its ceilings, and it comes back.

use serde_json::{Value, json};

use crate::world::{REGIONS, World, card, cart_of};

/// What each region has, far above the least that ceilings run ahead.
const SHARE: u64 = 300;

#[tokio::test(flavor = "multi_thread")]
async fn the_others_sell_what_a_lost_region_had_above_its_ceiling_and_it_comes_back() {
    let world = World::enter().await;
    let sku = world.goods("fence", [SHARE; 3]).await;
    let lost = "ap-south";
    let cart = cart_of(&sku, 5, &card("tok_ok"));
    let first = world.order_until_told(&world.at(lost), &world.fresh("fence"), &cart).await;
    assert_eq!(first.status, 201, "{first:?}");
    let of_lost = |stock: &Value| {
        let regions = stock["regions"].as_array().unwrap();
        regions.iter().find(|region| region["region"] == lost).unwrap().clone()
    };
    world
        .until("the others know of the sale", async || {
            of_lost(&world.inventory("us-east", &sku).await)["spent"] == 5
        })
        .await;
    let ceiling = of_lost(&world.inventory("us-east", &sku).await)["ceiling"].as_u64().unwrap();
    assert!((5..SHARE).contains(&ceiling), "it must not hold everything: {ceiling}");

    world.chaos("kill ap-south");
    let told = world.entrepot(&["region", "fence", lost, "--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["status"], "fenced", "{told}");
    let of_others = told["taken_over"]["units"].as_u64().unwrap();
    assert!(of_others >= SHARE - ceiling, "{told}");
    assert!(told["stranded_units"].as_u64().unwrap() >= ceiling - 5, "{told}");
    let stranded = || -> Value {
        let told = world.entrepot(&["region", "stranded", lost, "--json"]);
        serde_json::from_str(&told).unwrap()
    };
    let listed = stranded();
    let of_sku = |items: &Value| -> Vec<Value> {
        items.as_array().unwrap().iter().filter(|item| item["sku"] == *sku).cloned().collect()
    };
    let [item] = &of_sku(&listed["items"])[..] else { panic!("{listed}") };
    let expected = (&json!("fenced"), &json!(ceiling - 5), &json!(ceiling));
    assert_eq!((&item["reason"], &item["units"], &item["ceiling"]), expected, "{item}");
    // Of one SKU a region tells it as well.
    let stock = of_lost(&world.inventory("us-east", &sku).await);
    assert_eq!((&stock["status"], stock["rights"].as_u64()), (&"fenced".into(), Some(ceiling - 5)));
    let again = world.entrepot(&["region", "fence", lost, "--json"]);
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["taken_over"]["units"], 0, "nothing is taken twice: {again}");

    let sell_out = async |regions: &[&str]| {
        let mut sold: u64 = 0;
        for (units, index) in [50, 10, 1].iter().flat_map(|units| (0..60).map(move |i| (units, i)))
        {
            let region = regions[index % regions.len()];
            let cart = cart_of(&sku, *units, &card("tok_ok"));
            let key = world.fresh("fence");
            let answer = world.order_until_told(&world.at(region), &key, &cart).await;
            match answer.outcome() {
                (201, _) => sold += u64::from(*units),
                outcome => {
                    assert_eq!(outcome, (409, "insufficient_stock".to_owned()));
                    if *units == 1 {
                        break;
                    }
                }
            }
        }
        sold
    };
    let sold = sell_out(&["us-east", "eu-west"]).await;
    assert_eq!(sold, 3 * SHARE - ceiling, "everything above its ceiling, and nothing below");

    world.chaos("start ap-south");
    world
        .until("it learns that it was fenced", async || world.own_status(lost).await == "fenced")
        .await;
    world.entrepot(&["region", "rejoin", lost]);
    world.until("it is back", async || world.own_status(lost).await == "ready").await;
    assert!(of_sku(&stranded()["items"]).is_empty(), "nothing is stranded any more");
    assert_eq!(sell_out(&REGIONS).await, ceiling - 5, "what it had left is sold now");
    world.audit().await;
    for region in REGIONS {
        let stock = world.inventory(region, &sku).await;
        assert_eq!(stock["reserved"], 3 * SHARE, "as {region} sees it: {stock}");
        assert_eq!(stock["available"], 0, "as {region} sees it: {stock}");
    }
}
