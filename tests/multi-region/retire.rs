//! A region is gone for good (`docs/runbooks/retire.md`).

use serde_json::Value;

use crate::world::{World, card, cart_of};

const REGION: &str = "ap-south";

#[tokio::test(flavor = "multi_thread")]
async fn two_people_end_a_region_that_is_gone_for_good() {
    let world = World::enter().await;
    let sku = world.goods("retire", [20, 20, 20]).await;
    world
        .until("ap-south acts on its orders", async || world.holds_order_lease(REGION).await)
        .await;
    world.chaos("kill ap-south");
    world.save_database(REGION, "before");
    world.chaos("start ap-south");
    world.until("it goes on", async || world.is_ready()).await;
    let epoch = world.epoch(REGION).await;
    let cart = |units| cart_of(&sku, units, &card("tok_ok"));
    let known = world.order_until_told(&world.at(REGION), &world.fresh("retire"), &cart(2)).await;
    assert_eq!(known.status, 201, "{known:?}");
    let reserved = async || world.inventory("us-east", &sku).await["reserved"].clone();
    world.until("the others have it", async || reserved().await == 2).await;
    // Nobody else ever hears of this one.
    world.links(Some(REGION), "--cut");
    let key = world.fresh("retire");
    let lost = world.order_until_told(&world.at(REGION), &key, &cart(3)).await;
    assert_eq!((lost.status, &lost.json()["status"]), (201, &"confirmed".into()), "{lost:?}");
    world.chaos("kill ap-south");
    world.links(Some(REGION), "--heal");

    let is_silent = async || world.seen("eu-west", REGION).await["status"] == "silent";
    world.until("nobody hears it any more", is_silent).await;
    let refused = async |arguments: &[&str]| {
        let refused = world.run(arguments).await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        String::from_utf8(refused.stderr).unwrap()
    };
    let retire = ["region", "retire", REGION];
    let early = refused(&retire).await;
    assert!(early.contains("not_retirable") && early.contains("fence ap-south --gone"), "{early}");
    world.entrepot(&["region", "fence", REGION, "--gone"]);
    let as_person = |person: &'static str, more: &[&'static str]| {
        let all = [&retire[..], &["--operator", person, "--json"], more].concat();
        serde_json::from_str::<Value>(&world.entrepot(&all)).unwrap()
    };
    let would = as_person("alice", &["--dry-run"]);
    assert_eq!((&would["would"], &would["asked_by"]), (&"retire".into(), &Value::Null), "{would}");
    assert!(would["units_stranded"].as_u64().unwrap() >= 3, "{would}");
    assert_eq!(as_person("alice", &[])["status"], "asked");
    let again = refused(&["region", "retire", REGION, "--operator", "alice"]).await;
    assert!(again.contains("second_person_needed") && again.contains("alice"), "{again}");
    assert_eq!(as_person("bob", &["--abort"])["status"], "withdrawn");
    assert_eq!(as_person("bob", &[])["status"], "asked", "the first word was taken back");
    let retired = as_person("alice", &[]);
    assert_eq!(retired["status"], "retired", "{retired}");
    let people = (&retired["asked_by"], &retired["confirmed_by"]);
    assert_eq!(people, (&"bob".into(), &"alice".into()), "{retired}");
    let items = retired["lost_orders"]["items"].as_array().unwrap();
    let named = items.iter().find(|item| item["order_id"] == lost.order_id().as_str());
    let named = named.unwrap_or_else(|| panic!("the lost order is named: {retired}"));
    assert_eq!(named["held"], lost.json()["total"], "{named}");
    let again = as_person("carol", &[]);
    for same in ["status", "asked_by", "confirmed_by", "units_freed", "lost_orders"] {
        assert_eq!(again[same], retired[same], "it is done once: {same}");
    }
    for other in ["us-east", "eu-west"] {
        let seen = world.seen(other, REGION).await;
        assert_eq!(seen["status"], "retired", "as {other} sees it: {seen}");
    }

    // All but the known order's units can be sold; its customer's order stands elsewhere.
    let home = world.order_at("us-east", &known.order_id()).await["home_region"].clone();
    assert_ne!(home, REGION);
    let rest =
        world.order_until_told(&world.at("us-east"), &world.fresh("retire"), &cart(55)).await;
    assert_eq!(rest.status, 201, "{rest:?}");
    let placed_again = world.order_until_told(&world.at("us-east"), &key, &cart(3)).await;
    assert_eq!(placed_again.status, 201, "{placed_again:?}");
    let none = world.order_until_told(&world.at("us-east"), &world.fresh("retire"), &cart(1)).await;
    assert_eq!(none.outcome(), (409, "insufficient_stock".to_owned()));
    assert_eq!(world.authorizations(&lost.order_id()).await.len(), 1, "charged once");

    // A region is built again under the name, from an image of before.
    world.restore_database(REGION, "before");
    world.chaos("start ap-south");
    world
        .until("it knows that it is over", async || world.own_status(REGION).await == "set_back")
        .await;
    world.entrepot(&["region", "rejoin", REGION]);
    world.until("it is back", async || world.is_ready()).await;
    assert!(world.epoch(REGION).await > epoch + 1);
    let is_there = async || world.seen("us-east", REGION).await["status"] == "ready";
    world.until("the others see that it is back", is_there).await;
    world.audit().await;
    for region in ["us-east", REGION] {
        assert_eq!(world.inventory(region, &sku).await["reserved"], 60, "as {region} sees it");
    }
}
