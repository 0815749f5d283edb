//! A whole deployment of its own for each test, driven as a user would: by the command line and HTTP.

pub(crate) mod http;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use entrepot::ports::Clock;
use entrepot::runtime::SystemClock;
use nix::unistd::Uid;
use serde_json::Value;

pub(crate) use http::Answer;

/// Anything that has not happened by then never will.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);
/// Ports of one deployment, with room.
const PORTS: u16 = 400;
/// Below the ports that the kernel gives to clients (from 32768).
const PORT_FIRST: u16 = 12_000;
const DEPLOYMENTS_MAX: u16 = 50;

/// Tests of one process must not try the same ports.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A running deployment, stopped and removed when dropped. After a failed test its
/// files stay.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) folder: PathBuf,
    pub(crate) base_port: u16,
    pub(crate) clock: SystemClock,
    /// Which regions; without, those of `region-config/local.toml`.
    config: Option<PathBuf>,
    /// Held as long as the test runs.
    turn: Option<File>,
}

impl Deployment {
    /// Brings up the three regions of `region-config/local.toml`.
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// Brings up the regions of a configuration.
    pub(crate) fn start_with(config: Option<&Path>) -> Self {
        let turn = take_turn();
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("entrepot test {} {count}", std::process::id()));
        let start =
            (u16::try_from(std::process::id() % 50).expect("below 50") + count) % DEPLOYMENTS_MAX;
        for attempt in 0..DEPLOYMENTS_MAX {
            let base_port = PORT_FIRST + (start + attempt) % DEPLOYMENTS_MAX * PORTS;
            let clock = SystemClock::new();
            let (folder, config) = (folder.clone(), config.map(Path::to_owned));
            let mut deployment = Self { folder, base_port, clock, config, turn: None };
            let up = deployment.up();
            let said = String::from_utf8_lossy(&up.stderr).into_owned();
            if up.status.success() {
                deployment.turn = Some(turn);
                return deployment;
            }
            assert!(said.contains("--base-port"), "{said}");
            std::mem::forget(deployment);
        }
        panic!("all ports from {PORT_FIRST} are taken");
    }

    /// `entrepot up --detach` on this deployment's data.
    pub(crate) fn up(&self) -> Output {
        let port = self.base_port.to_string();
        let mut arguments = vec!["up", "--detach", "--base-port", &port];
        if let Some(config) = &self.config {
            arguments.extend(["--config", config.to_str().expect("a path that is text")]);
        }
        self.entrepot(&arguments)
    }

    /// Runs a command on this deployment.
    pub(crate) fn entrepot(&self, arguments: &[&str]) -> Output {
        entrepot(&self.folder, arguments)
    }

    /// Runs a command that must succeed, and gives what it printed.
    pub(crate) fn entrepot_ok(&self, arguments: &[&str]) -> String {
        let output = self.entrepot(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "entrepot {}: {said}", arguments.join(" "));
        String::from_utf8(output.stdout).expect("text")
    }

    /// `entrepot status --json`.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.entrepot_ok(&["status", "--json"])).expect("JSON")
    }

    /// One region of the status.
    pub(crate) fn region(&self, name: &str) -> Value {
        let status = self.status();
        let regions = status["regions"].as_array().expect("regions");
        regions.iter().find(|region| region["name"] == name).expect("a known region").clone()
    }

    /// Asks the load balancer.
    pub(crate) fn get(&self, path: &str, headers: &[(&str, &str)]) -> Option<Answer> {
        http::call(self.base_port, "GET", path, headers, None)
    }

    /// Waits for something to become true.
    pub(crate) fn eventually(&self, what: &str, is_true: impl FnMut(&Self) -> bool) {
        self.within(DEADLINE, what, is_true);
    }

    /// Waits for something to become true, for a time that is part of the test.
    pub(crate) fn within(
        &self,
        limit: Duration,
        what: &str,
        mut is_true: impl FnMut(&Self) -> bool,
    ) {
        let limit_ms = u64::try_from(limit.as_millis()).expect("short");
        let started_ms = self.clock.monotonic_ms();
        while !is_true(self) {
            let waited_ms = self.clock.monotonic_ms() - started_ms;
            assert!(waited_ms < limit_ms, "not within {limit_ms} ms: {what}\n{}", self.status());
            std::thread::sleep(POLL);
        }
    }

    /// Waits until all regions are ready.
    pub(crate) fn wait_ready(&self) {
        self.eventually("all regions are ready", |deployment| {
            let status = deployment.status();
            let regions = status["regions"].as_array().expect("regions");
            regions.iter().all(|region| region["state"] == "ready")
        });
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let down = self.entrepot(&["down"]);
        if std::thread::panicking() {
            let folder = self.folder.display();
            #[expect(clippy::print_stdout, reason = "for whoever looks into the failure")]
            {
                println!("the deployment's files are in {folder}");
            }
            return;
        }
        assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
        std::fs::remove_dir_all(&self.folder).expect("nothing uses it any more");
    }
}

/// One deployment under test at a time is as much as two cores carry: waits until no other test has
/// its turn. Under nextest tests are processes, so the lock is on a file.
pub(crate) fn take_turn() -> File {
    let name = format!("entrepot-regions-{}.turn", Uid::effective());
    let turn = File::create(std::env::temp_dir().join(name)).expect("a file to lock");
    turn.lock().expect("a lock");
    turn
}

/// Runs a command on a data directory, from a directory that has no configuration.
pub(crate) fn entrepot(data_dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_entrepot"))
        .args(arguments)
        .env("ENTREPOT_DATA_DIR", data_dir)
        .current_dir(std::env::temp_dir())
        .output()
        .expect("the program runs")
}
