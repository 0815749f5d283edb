//! An operator moves rights to where they will be sold (`docs/runbooks/rebalance.md`).

use serde_json::{Value, json};

use crate::world::{Call, World, card, cart_of};

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_an_operator_moved_are_sold_where_they_went() {
    let world = World::enter().await;
    let sku = world.goods("rebalance", [300, 0, 0]).await;
    let url = format!("{}/api/v1/inventory/{sku}/rights-transfers", world.at("us-east"));
    let body = json!({"to_region": "eu-west", "quantity": 200, "node": "w-us-east"});
    let call = Call::post(url, &body).token(&world.admin()).key(&world.fresh("rebalance"));
    let moved = world.http.send(call.clone()).await.unwrap();
    assert_eq!(moved.status, 200, "also what lies above the giver's ceiling: {moved:?}");
    let again = world.http.send(call).await.unwrap();
    assert!(again.is_replayed(), "{again:?}");

    let at_eu_west = async || {
        let stock = world.inventory("eu-west", &sku).await;
        let regions = stock["regions"].as_array().cloned().unwrap_or_default();
        regions.into_iter().find(|known| known["region"] == "eu-west").unwrap_or_default()
    };
    let open = world
        .eventually(std::time::Duration::from_secs(30), "it may sell of them", async || {
            let known: Value = at_eu_west().await;
            let open = known["ceiling"].as_u64().filter(|open| *open > 0)?;
            (known["rights"] == 200).then_some(open)
        })
        .await;
    world.links(Some("eu-west"), "--cut");
    let cart = cart_of(&sku, u32::try_from(open).unwrap(), &card("tok_ok"));
    let key = world.fresh("rebalance");
    let alone = world.order_until_told(&world.at("eu-west"), &key, &cart).await;
    assert_eq!(alone.status, 201, "what is open there is sold alone: {alone:?}");
    world.links(Some("eu-west"), "--heal");
    world.audit().await;
    assert_eq!(world.inventory("us-east", &sku).await["reserved"], open);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_an_operator_pinned_stay_where_they_are() {
    let world = World::enter().await;
    let sku = world.goods("pin", [20, 0, 0]).await;
    let pin = async |quantity: u64| {
        // Asked of any region, it is done by the one that is named.
        let url = format!("{}/api/v1/inventory/{sku}/rights-pins", world.at("ap-south"));
        let call = Call::put(url, &json!({"region": "us-east", "quantity": quantity}));
        let answer = world.http.send(call.token(&world.admin())).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(world.inventory("us-east", &sku).await["pinned_here"], quantity);
    };
    let order = async |region: &str, units: u32| {
        let cart = cart_of(&sku, units, &card("tok_ok"));
        world.order_until_told(&world.at(region), &world.fresh("pin"), &cart).await.outcome()
    };
    pin(15).await;
    let refused = (409, "insufficient_stock".to_owned());
    assert_eq!(order("eu-west", 6).await, refused);
    assert_eq!(order("eu-west", 5).await.0, 201);
    assert_eq!(order("eu-west", 1).await, refused);
    assert_eq!(order("us-east", 5).await.0, 201);
    pin(0).await;
    assert_eq!(order("eu-west", 10).await.0, 201);
    world.audit().await;
}
