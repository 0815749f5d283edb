//! A region's database is put back from an older copy, and then from the one that remembers
//! (`docs/runbooks/restore.md`).

use crate::world::{World, card, cart_of};

const REGION: &str = "ap-south";

#[tokio::test(flavor = "multi_thread")]
async fn a_region_with_an_older_database_stays_out_of_traffic_until_the_newest_is_put_back() {
    let world = World::enter().await;
    let sku = world.goods("restore", [20, 20, 20]).await;
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    world.chaos("kill ap-south");
    world.save_database(REGION, "older");
    world.chaos("start ap-south");
    world.until("it goes on", async || world.is_ready()).await;
    let key = world.fresh("restore");
    let forgotten = world.order_until_told(&world.at(REGION), &key, &cart).await;
    assert_eq!(forgotten.status, 201, "{forgotten:?}");
    world
        .until("the others have it", async || {
            world.inventory("us-east", &sku).await["reserved"] == 1
        })
        .await;

    world.chaos("kill ap-south");
    world.save_database(REGION, "newest");
    world.restore_database(REGION, "older");
    world.chaos("start ap-south");
    world
        .until("it knows that it was set back", async || {
            world.own_status(REGION).await == "set_back"
        })
        .await;
    let resumed = world.run(&["region", "resume", REGION]).await;
    assert_eq!(resumed.status.code(), Some(1));
    let said = String::from_utf8(resumed.stderr).unwrap();
    assert!(said.contains("database") && said.contains(REGION), "{said}");
    let key = world.fresh("restore");
    let elsewhere = world.order_until_told(&world.balancer(), &key, &cart).await;
    assert_eq!(elsewhere.status, 201, "its shoppers are served elsewhere: {elsewhere:?}");
    assert_ne!(elsewhere.json()["home_region"], REGION);

    world.chaos("kill ap-south");
    world.restore_database(REGION, "newest");
    world.chaos("start ap-south");
    world.until("it is back with all it knew", async || world.is_ready()).await;
    let key = world.fresh("restore");
    let after = world.order_until_told(&world.at(REGION), &key, &cart).await;
    assert_eq!(after.status, 201, "{after:?}");
    world.audit().await;
    for region in ["us-east", REGION] {
        assert_eq!(world.inventory(region, &sku).await["reserved"], 3, "as {region} sees it");
    }
}
