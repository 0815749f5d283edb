//! The load balancer follows what the regions have agreed on (`docs/adr/0016-routing.md`).

use crate::world::{Call, World};

/// Who come again and again.
const SHOPPERS: usize = 40;

/// How many of some shoppers of `ap-south` each region serves.
async fn served_by(world: &World, region: &str) -> usize {
    let mut served = 0;
    for number in 0..SHOPPERS {
        let token = world.token("customer", &format!("routed-{number}"), Some("ap-south"));
        let call = Call::get(format!("{}/api/v1/products", world.balancer())).token(&token);
        let answer = world.http.send(call).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        served += usize::from(answer.header("x-region") == Some(region));
    }
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn shoppers_leave_a_region_that_the_others_gave_up_and_come_back_in_steps() {
    let world = World::enter().await;
    assert_eq!(served_by(&world, "ap-south").await, SHOPPERS);
    world.chaos("link us-east ap-south --cut");
    world.chaos("link eu-west ap-south --cut");
    world.entrepot(&["region", "fence", "ap-south", "--by", "us-east"]);
    world
        .until("its shoppers go to who took over", async || {
            world.routing()["ap-south"]["share"] == 0
                && served_by(&world, "us-east").await == SHOPPERS
        })
        .await;
    // It was not told, and would serve them.
    assert_eq!(world.own_status("ap-south").await, "ready");

    // The last one that is there serves all the same: within its ceilings it may.
    for region in ["us-east", "eu-west"] {
        world.chaos(&format!("kill {region} --component server"));
    }
    let token = world.token("customer", "routed-0", Some("ap-south"));
    let call = Call::get(format!("{}/api/v1/products", world.balancer())).token(&token);
    world
        .until("the lost region is the last resort", async || {
            let answer = world.http.send(call.clone()).await;
            answer.is_some_and(|answer| answer.header("x-region") == Some("ap-south"))
        })
        .await;
    assert_eq!(world.routing()["ap-south"]["share"], 0, "it does not speak for itself");
    for region in ["us-east", "eu-west"] {
        world.chaos(&format!("start {region} --component server"));
    }
    world
        .until("its shoppers go to who took over again", async || {
            world.is_ready() && served_by(&world, "us-east").await == SHOPPERS
        })
        .await;

    world.chaos("link us-east ap-south --heal");
    world.chaos("link eu-west ap-south --heal");
    // It may not have heard yet that it was given up: its peers are asked.
    world
        .until("it rejoins", async || {
            world.entrepot(&["region", "rejoin", "ap-south"]);
            world.routing()["ap-south"]["fenced"] == false
        })
        .await;
    let (mut shares, mut of_half) = (Vec::new(), None);
    while shares.last() != Some(&100) {
        let share = world.routing()["ap-south"]["share"].as_u64().unwrap();
        if shares.last() != Some(&share) {
            shares.push(share);
        }
        if share == 50 && of_half.is_none() {
            let served = served_by(&world, "ap-south").await;
            let is_still = world.routing()["ap-south"]["share"] == 50;
            of_half = is_still.then_some(served);
        }
    }
    assert!(shares.is_sorted() && shares.len() > 2, "{shares:?}");
    if let Some(served) = of_half {
        assert!((SHOPPERS / 4..SHOPPERS).contains(&served), "{served} of {SHOPPERS}");
    }
    world
        .until("all of its shoppers are back", async || {
            served_by(&world, "ap-south").await == SHOPPERS
        })
        .await;
    world.audit().await;
}
