//! What `entrepot up` keeps alive, and what it leaves behind: nothing.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::Deployment;

const PROGRAMS: [&str; 3] = ["server", "postgres", "nats"];

fn pid(region: &Value, program: &str) -> Option<i32> {
    region["pids"][program].as_i64().map(|pid| i32::try_from(pid).expect("a pid"))
}

fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

#[test]
fn what_dies_comes_back_and_what_was_killed_on_purpose_stays_down() {
    let deployment = Deployment::start();
    let before = deployment.region("eu-west");
    assert_eq!(before["state"], "ready");
    for program in PROGRAMS {
        kill(Pid::from_raw(pid(&before, program).unwrap()), Signal::SIGKILL).unwrap();
    }
    deployment.eventually("eu-west's programs were started again", |deployment| {
        let now = deployment.region("eu-west");
        PROGRAMS.iter().all(|program| {
            pid(&now, program).is_some() && pid(&now, program) != pid(&before, program)
        })
    });
    deployment.wait_ready();
    let deaths = deployment.region("eu-west")["deaths"].as_array().unwrap().clone();
    assert!(deaths.len() == PROGRAMS.len(), "{deaths:?}");
    // A server may have died again because its database was not back yet.
    for death in deaths.iter().filter(|death| death["program"] != "server") {
        assert!(death["last"].as_str().unwrap().contains("SIGKILL"), "{death}");
    }

    deployment.entrepot_ok(&["chaos", "kill", "eu-west"]);
    let down = deployment.region("eu-west");
    assert!(PROGRAMS.iter().all(|program| pid(&down, program).is_none()), "{down}");
    let states = deployment.status();
    assert_eq!(states["regions"][0]["state"], "ready", "{states}");
    deployment.entrepot_ok(&["chaos", "start", "eu-west"]);
    deployment.wait_ready();

    deployment.entrepot_ok(&["chaos", "stop", "eu-west", "--component", "postgres"]);
    assert_eq!(deployment.region("eu-west")["state"], "postgres is frozen");
    deployment.entrepot_ok(&["chaos", "start", "eu-west", "--component", "postgres"]);
    deployment.wait_ready();
}

#[test]
fn a_killed_supervisor_leaves_nothing_and_the_next_one_goes_on_as_it_was() {
    let deployment = Deployment::start();
    let status = deployment.status();
    let mut pids: Vec<i32> = ["load_balancer_pid", "payment_simulator_pid"]
        .iter()
        .map(|part| i32::try_from(status[part].as_i64().unwrap()).unwrap())
        .collect();
    for region in status["regions"].as_array().unwrap() {
        pids.extend(PROGRAMS.iter().map(|program| pid(region, program).unwrap()));
    }
    assert!(pids.iter().all(|pid| is_alive(*pid)), "{pids:?}");

    let second = deployment.up();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("entrepot down"), "{said}");

    let supervisor = i32::try_from(status["supervisor_pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(supervisor), Signal::SIGKILL).unwrap();
    let started = deployment.clock;
    while pids.iter().any(|pid| is_alive(*pid)) {
        use entrepot::ports::Clock;
        assert!(started.monotonic_ms() < 60_000, "{pids:?} outlive their supervisor");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let status = deployment.entrepot(&["status"]);
    assert!(String::from_utf8_lossy(&status.stderr).contains("entrepot up"), "{status:?}");

    let again = deployment.up();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    deployment.wait_ready();

    // A region that takes no orders is no reason to leave the others down.
    deployment.entrepot_ok(&["region", "drain", "eu-west"]);
    deployment.entrepot_ok(&["down"]);
    let drained = deployment.up();
    assert!(drained.status.success(), "{}", String::from_utf8_lossy(&drained.stderr));
    assert_eq!(deployment.region("eu-west")["state"], "draining");
    deployment.entrepot_ok(&["region", "resume", "eu-west"]);
    deployment.wait_ready();
}
