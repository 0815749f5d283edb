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

#[tokio::test(flavor = "multi_thread")]
async fn a_region_whose_newest_database_is_lost_begins_anew_with_what_the_others_know() {
    let world = World::enter().await;
    let sku = world.goods("rejoin", [20, 20, 20]).await;
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    let order = async |region: &str, key: &str| {
        let answer = world.order_until_told(&world.at(region), key, &cart).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer
    };
    let remembered = order(REGION, &world.fresh("rejoin")).await.order_id();
    world.chaos("kill ap-south");
    world.save_database(REGION, "old");
    world.chaos("start ap-south");
    world.until("it goes on", async || world.is_ready()).await;
    let epoch = world.epoch(REGION).await;
    let key = world.fresh("rejoin");
    let forgotten = order(REGION, &key).await.order_id();
    world
        .until("the others have it", async || {
            world.inventory("us-east", &sku).await["reserved"] == 2
        })
        .await;

    // It stands alone when it comes up: what it forgot shows all the same.
    world.links(Some(REGION), "--cut");
    world.chaos("kill ap-south");
    world.restore_database(REGION, "old");
    world.chaos("start ap-south");
    world
        .until("it knows that it was set back", async || {
            world.own_status(REGION).await == "set_back"
        })
        .await;
    let alone = world.run(&["region", "rejoin", REGION]).await;
    assert_eq!(alone.status.code(), Some(1));
    let said = String::from_utf8(alone.stderr).unwrap();
    assert!(said.contains("did not answer"), "{said}");
    world.links(Some(REGION), "--heal");
    let rejoined = world.run(&["region", "rejoin", REGION, "--json"]).await;
    let said = String::from_utf8_lossy(&rejoined.stderr).into_owned();
    assert_eq!(rejoined.status.code(), Some(0), "{said}");
    let told: serde_json::Value = serde_json::from_slice(&rejoined.stdout).unwrap();
    assert_eq!(told["status"], "ready", "{told}");
    assert!(world.epoch(REGION).await > epoch);

    for id in [&remembered, &forgotten] {
        let order = world.order_at(REGION, id).await;
        assert_eq!(
            (&order["status"], &order["home_region"]),
            (&"confirmed".into(), &REGION.into())
        );
    }
    let again = order(REGION, &key).await;
    assert!(again.is_replayed() && again.order_id() == forgotten, "{again:?}");
    let sold = async || world.inventory("us-east", &sku).await["reserved"].as_u64().unwrap();
    assert_eq!(sold().await, 2);
    let new = order(REGION, &world.fresh("rejoin")).await;
    assert_eq!(new.json()["home_region"], REGION);
    world.until("the others have that, too", async || sold().await == 3).await;
    world.audit().await;
    let compared = world.run(&["reconcile", "--json"]).await;
    let said = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert_eq!(compared.status.code(), Some(0), "{said}");
}
