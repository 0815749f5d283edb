//! `entrepot reconcile` as an operator runs it: while shoppers order in all regions, after it, and when something
//! is broken.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;

use crate::world::{REGIONS, World, card, cart_of};

/// Shoppers at once, and runs of reconciliation beside them.
const SHOPPERS: usize = 6;
const RUNS: usize = 3;

/// A run and its exit code.
async fn reconcile(world: &World, arguments: &[&str]) -> (i32, Value) {
    let mut all = vec!["reconcile", "--json"];
    all.extend(arguments);
    let output = world.run(&all).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout);
    let report: Value = report.unwrap_or_else(|error| panic!("{error}: {said}"));
    (output.status.code().expect("it ended by itself"), report)
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_under_load_do_not_differ_and_a_damaged_copy_is_found_and_mended() {
    let world = World::enter().await;
    let sku = world.goods("reconciled", [200, 100, 0]).await;
    let (done, placed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let cards = ["tok_ok", "tok_ok", "tok_declined", "tok_slow_300"];
    let shop = |shopper: usize| {
        let (world, sku, done, placed) = (&world, &sku, &done, &placed);
        async move {
            let mut order = None;
            while !done.load(Ordering::Relaxed) {
                let turn = placed.fetch_add(1, Ordering::Relaxed);
                let cart = cart_of(sku, 1, &card(cards[turn % cards.len()]));
                let region = REGIONS[(shopper + turn) % REGIONS.len()];
                let key = world.fresh("reconciled");
                let answer = world.order_until_told(&world.at(region), &key, &cart).await;
                if answer.status == 201 && region == "us-east" {
                    order = Some(answer.order_id());
                }
            }
            order
        }
    };
    let runs = async {
        for run in 0..RUNS {
            let (code, report) = reconcile(&world, &[]).await;
            assert_eq!(code, 0, "run {run} under load: {report:#}");
            assert_eq!(report["regions"].as_array().unwrap().len(), 3, "{report:#}");
        }
        done.store(true, Ordering::Relaxed);
    };
    let shoppers = futures::future::join_all((0..SHOPPERS).map(shop));
    let ((), orders) = tokio::join!(runs, shoppers);
    println!("{} orders were placed beside {RUNS} runs", placed.load(Ordering::Relaxed));
    world.audit().await;
    let (code, report) = reconcile(&world, &[]).await;
    assert_eq!((code, &report["not_compared"]), (0, &serde_json::json!([])), "{report:#}");

    let id = orders.into_iter().flatten().next().expect("somebody ordered in us-east");
    world.damage_copy("eu-west", &id).await;
    let (code, report) = reconcile(&world, &[]).await;
    assert_eq!(code, 2, "{report:#}");
    let found = report["differences"].as_array().unwrap();
    assert_eq!(found.len(), 1, "{report:#}");
    assert_eq!(found[0]["class"], "order_copy_differs", "{report:#}");
    assert_eq!((&found[0]["region"], &found[0]["peer"]), (&"eu-west".into(), &"us-east".into()));
    assert_eq!(found[0]["subject"], format!("order {id}"));

    // While a region is away the others are compared, and what can be mended is.
    world.links(Some("ap-south"), "--cut");
    world
        .until("ap-south is not heard", async || {
            let (_, report) = reconcile(&world, &[]).await;
            report["regions"].as_array().is_some_and(|regions| regions.len() == 2)
        })
        .await;
    let (code, report) = reconcile(&world, &["--repair"]).await;
    assert_eq!(code, 2, "{report:#}");
    let away = report["not_compared"].as_array().unwrap();
    assert!(away.iter().any(|left_out| left_out["what"] == "ap-south"), "{report:#}");
    world.links(Some("ap-south"), "--heal");
    world.converge().await;
    let (code, report) = reconcile(&world, &[]).await;
    assert_eq!(code, 0, "{report:#}");
    world.audit().await;
}
