//! What clients get from the load balancer itself, and what it keeps from the regions.

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;

use crate::world::{Answer, Call, REGIONS, World, card, cart_of};

/// More than one shopper may ask for at once, and within the time this takes.
const BURST: usize = 1_500;
/// The balancer looks every 200 ms and believes two failures.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

/// A problem of the contract.
fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.outcome(), (status, code.to_owned()), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    assert_eq!(problem["trace_id"].as_str().map(str::len), Some(32), "{problem}");
    for member in ["type", "title", "detail"] {
        assert!(problem[member].is_string(), "{member}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_region_answers_is_a_problem_too() {
    let world = World::enter().await;
    let address = world.balancer();
    for region in REGIONS {
        world.chaos(&format!("kill {region} --component server"));
    }
    let call = Call::get(format!("{address}/api/v1/products")).token(&world.admin());
    let refusal = world
        .eventually(NOTICED_WITHIN, "the balancer has given every region up", async || {
            world.http.send(call.clone()).await.filter(|answer| answer.status == 503)
        })
        .await;
    assert_problem(&refusal, 503, "dependency_unavailable");
    assert_eq!(refusal.header("retry-after"), Some("1"));
    for region in REGIONS {
        world.chaos(&format!("start {region} --component server"));
    }
    world.until("all regions are ready", async || world.is_ready()).await;
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_between_regions_and_operators_does_not_pass() {
    let world = World::enter().await;
    let balancer = world.balancer();
    let metrics = world.http.send(Call::get(format!("{balancer}/metrics"))).await.unwrap();
    assert_problem(&metrics, 404, "not_found");
    let own = world.http.send(Call::get(format!("{}/metrics", world.at("eu-west")))).await.unwrap();
    assert_eq!(own.status, 200);

    // Marked as forwarded, a request that only another region can answer would be refused.
    let sku = world.goods("forged", [5, 5, 5]).await;
    let cart = cart_of(&sku, 1, &card("tok_ok"));
    let placed = world.order_until_told(&world.at("eu-west"), &world.fresh("forged"), &cart).await;
    let url = format!("{balancer}/api/v1/orders/{}?consistency=strong", placed.order_id());
    let token = world.token("customer", "alice", Some("us-east"));
    let forged = Call::get(url).token(&token).header("x-entrepot-forwarded", "ap-south");
    let answer = world.http.send(forged).await.unwrap();
    assert_eq!((answer.status, answer.header("x-region")), (200, Some("eu-west")), "{answer:?}");
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shopper_who_asks_without_end_is_held_back_and_nobody_else() {
    let world = World::enter().await;
    let url = format!("{}/api/v1/products", world.balancer());
    let greedy = Call::get(url.clone()).token(&world.token("customer", "greedy", None));
    let answers = join_all((0..BURST).map(|_| world.http.send(greedy.clone()))).await;
    let refused: Vec<_> = answers.iter().flatten().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty(), "{BURST} requests at once");
    assert_problem(refused[0], 429, "rate_limited");
    let wait: u32 = refused[0].header("retry-after").unwrap().parse().unwrap();
    assert!(wait >= 1);
    let other = Call::get(url).token(&world.token("customer", "patient", None));
    let page = world.http.send(other).await.unwrap();
    assert_eq!(page.status, 200);
    assert!(matches!(page.json()["items"], Value::Array(_)));
}
