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
