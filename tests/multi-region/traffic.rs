//! Where requests go: the load balancer's choice, its way round a failure, and the links.

use std::time::Duration;

use serde_json::json;

use crate::support::{Deployment, http};

/// What the load balancer promises.
const FAIL_OVER: Duration = Duration::from_secs(3);
/// Longer than a healthy link takes by far.
const SILENCE: Duration = Duration::from_millis(500);

fn answered_by(deployment: &Deployment, headers: &[(&str, &str)]) -> Option<String> {
    let answer = deployment.get("/livez", headers)?;
    (answer.status == 200).then(|| answer.header("x-region").expect("who answered").to_owned())
}

#[test]
fn shoppers_go_home_and_around_a_dead_or_frozen_region() {
    let deployment = Deployment::start();
    let token =
        deployment.entrepot_ok(&["token", "--role", "customer", "--home-region", "ap-south"]);
    let bearer = format!("Bearer {}", token.trim());
    let home = [("Authorization", bearer.as_str()), ("X-Country", "GB")];
    let is_answered_by = |headers: &[(&str, &str)], region: &str| {
        answered_by(&deployment, headers).as_deref() == Some(region)
    };
    assert!(is_answered_by(&home, "ap-south"), "the token's home comes before the country");
    assert!(is_answered_by(&[("X-Country", "GB")], "eu-west"));
    assert!(is_answered_by(&[("CF-IPCountry", "in")], "ap-south"));
    assert!(is_answered_by(&[("X-Country", "ZZ")], "us-east"));
    assert!(is_answered_by(&[], "us-east"));
    let readiness = deployment.get("/readyz", &home).unwrap();
    assert!(readiness.json().is_object(), "{readiness:?}");
    let broken = [("Authorization", "Bearer not.a.token")];
    assert!(is_answered_by(&broken, "us-east"));

    for fault in ["kill", "stop"] {
        deployment.entrepot_ok(&["chaos", fault, "ap-south"]);
        // The nearest neighbor by the measured latencies.
        deployment.within(FAIL_OVER, "eu-west answers for ap-south", |_| {
            is_answered_by(&home, "eu-west")
        });
        deployment.entrepot_ok(&["chaos", "start", "ap-south"]);
        deployment.eventually("ap-south answers again", |_| is_answered_by(&home, "ap-south"));
    }
}

#[test]
fn a_link_is_cut_in_one_direction_or_both_and_healed() {
    let deployment = Deployment::start();
    // The ports at which us-east finds eu-west's HTTP server, and eu-west finds us-east's.
    let config = std::fs::read_to_string(deployment.folder.join("region-config.toml")).unwrap();
    let (there, back) = (deployment.base_port + 102, deployment.base_port + 120);
    for port in [there, back] {
        assert!(config.contains(&format!("http://127.0.0.1:{port}")), "{port} in {config}");
    }
    let passes = |port: u16| {
        http::call_within(SILENCE, port, "GET", "/livez", &[], None)
            .is_some_and(|answer| answer.status == 200)
    };
    assert!(passes(there) && passes(back));
    for arguments in [
        &["chaos", "link", "us-east", "eu-west", "--cut"][..],
        &["chaos", "link", "us-east", "eu-west", "--cut", "--one-way"],
        &["chaos", "link", "eu-west", "us-east", "--cut", "--one-way"],
    ] {
        deployment.entrepot_ok(arguments);
        // A request needs both directions, so a one-way cut stops either side's.
        assert!(!passes(there) && !passes(back), "{arguments:?}");
        let faults = deployment.status()["link_faults"].as_array().unwrap().len();
        assert_eq!(faults, if arguments.contains(&"--one-way") { 1 } else { 2 });
        deployment.entrepot_ok(&["chaos", "link", "us-east", "eu-west", "--heal"]);
        // Not in the first half second on a machine that has other work.
        deployment.eventually("the link is healed", |_| passes(there) && passes(back));
        assert_eq!(deployment.status()["link_faults"], json!([]));
    }
    let nowhere = deployment.entrepot(&["chaos", "link", "us-east", "mars", "--cut"]);
    let said = String::from_utf8_lossy(&nowhere.stderr).into_owned();
    assert!(said.contains("no region mars") && said.contains("ap-south"), "{said}");
}
