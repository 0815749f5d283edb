//! `entrepot chaos run` as an operator runs it: a scenario that holds, and one that finds what was damaged.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::world::World;

const BROKEN_DATABASE: &str = r#"
title = "A database is killed under load"
seconds = 18
[load]
orders_per_second = 15
hang_up_percent = 10
[[faults]]
from = 2
to = 6
inflict.kill = { region = "eu-west", component = "postgres" }
"#;

const STOCK_LOST: &str = r#"
title = "A region with a third of the stock is lost while another one sells it out"
seconds = 40
[load]
orders_per_second = 12
skus = 1
units = 450
moves_on_s = 20
[[faults]]
from = 2
to = 20
inflict.lose = { region = "eu-west" }
"#;

const NOTHING_BROKEN: &str = r#"
title = "Nothing is broken"
seconds = 2
[load]
orders_per_second = 5
"#;

/// Plays a scenario. Its exit code, its verdict, and where its report is.
async fn play(world: &World, scenario: &str) -> (Option<i32>, Value, PathBuf) {
    let folder = std::env::temp_dir().join(world.fresh("entrepot chaos"));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("scenario.toml");
    std::fs::write(&file, scenario).unwrap();
    let (file, report) = (file.to_str().unwrap(), folder.to_str().unwrap());
    let output = world.run(&["chaos", "run", file, "--report", report, "--json"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let verdict = serde_json::from_slice(&output.stdout);
    let verdict = verdict.unwrap_or_else(|error| panic!("{error}: {said}"));
    (output.status.code(), verdict, folder)
}

/// The checks that failed, but for the one on latencies: this build is not optimized and the machine is shared.
fn failed(verdict: &Value) -> Vec<&str> {
    let mut failed = checks(verdict, "failed");
    failed.retain(|check| *check != "anytime_regions_not_hit_answer");
    failed
}

/// The checks that came to this.
fn checks<'a>(verdict: &'a Value, outcome: &str) -> Vec<&'a str> {
    let all = verdict["checks"].as_array().unwrap();
    let such = all.iter().filter(|check| check["outcome"] == outcome);
    such.map(|check| check["check"].as_str().unwrap()).collect()
}

/// An order that was confirmed in us-east.
fn order_of_us_east(folder: &Path) -> String {
    let history = std::fs::read_to_string(folder.join("history.jsonl")).unwrap();
    let wishes = history.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut told = wishes.filter_map(|wish| {
        let told = wish["tries"].as_array()?.last()?["told"]["acknowledged"].clone();
        (told["by"] == "us-east").then(|| told["order_id"].as_str().unwrap().to_owned())
    });
    told.next_back().expect("us-east took orders")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scenario_is_played_and_judged() {
    let world = World::enter().await;
    let (code, verdict, folder) = play(&world, BROKEN_DATABASE).await;
    assert_eq!(failed(&verdict), [""; 0], "{verdict:#}");
    assert_eq!(code == Some(0), verdict["passed"] == true, "{verdict:#}");
    for check in ["anytime_never_oversold", "finally_acknowledged_orders_are_there"] {
        assert!(checks(&verdict, "passed").contains(&check), "{verdict:#}");
    }
    assert_eq!(verdict["faults"][0]["what"], "eu-west's PostgreSQL killed");
    let picture = std::fs::read_to_string(folder.join("timeline.svg")).unwrap();
    assert!(picture.contains("eu-west's PostgreSQL killed") && picture.contains("</svg>"));
    world.audit().await;

    // A scenario that passes whatever is wrong would prove nothing.
    let order = order_of_us_east(&folder);
    world.damage_copy("ap-south", &order).await;
    let (code, verdict, damaged) = play(&world, NOTHING_BROKEN).await;
    assert_eq!((code, checks(&verdict, "failed")), (Some(2), vec!["finally_reconciles"]));
    let found = verdict["checks"].to_string();
    assert!(found.contains("order_copy_differs") && found.contains(&order), "{verdict:#}");
    world.run(&["reconcile", "--repair"]).await;
    let (code, verdict, mended) = play(&world, NOTHING_BROKEN).await;
    assert_eq!((code, checks(&verdict, "failed")), (Some(0), vec![]), "{verdict:#}");
    for folder in [folder, damaged, mended] {
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_region_leaves_is_sold_and_it_comes_back() {
    let world = World::enter().await;
    let (_, verdict, folder) = play(&world, STOCK_LOST).await;
    assert_eq!(failed(&verdict), [""; 0], "{verdict:#}");
    for check in [
        "eventually_others_sell_what_it_left_within_60_s",
        "eventually_no_more_is_stranded_than_was_open",
        "finally_units_are_conserved",
        "finally_rights_do_not_wander",
    ] {
        assert!(checks(&verdict, "passed").contains(&check), "{verdict:#}");
    }
    std::fs::remove_dir_all(folder).unwrap();
    world.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_played_is_refused_and_breaks_nothing() {
    let world = World::enter().await;
    for (arguments, reason) in [
        (&["chaos", "run", "volcano"][..], "--list"),
        (&["chaos", "run", "/nonexistent/volcano.toml"], "cannot read"),
        (&["chaos", "run"], "SCENARIO"),
    ] {
        let output = world.run(arguments).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(reason), "{said}");
    }
    let output = world.run(&["chaos", "run", "--list"]).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("region-killed"));
    world.chaos("kill ap-south --component nats");
    let output = world.run(&["chaos", "run", "region-killed"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nats is down") || said.contains("nats is stopped"), "{said}");
    world.chaos("start ap-south --component nats");
    world.audit().await;
}
