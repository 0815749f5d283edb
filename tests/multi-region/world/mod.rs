//! Three regions as real processes, as `entrepot up` runs them, and what a test can do to them.
//!
//! Bringing a deployment up takes longer than most tests, and a system that is used on after every
//! fault is tested better than one that is thrown away: all tests of a run share one deployment, one
//! after the other, and every test ends with [`World::audit`]. A test that fails takes its deployment
//! with it, so that the next one begins with a whole one.
//!
//! Under nextest each test is a process, under `cargo test` a thread. A lock on a file lets one test
//! at a time in, and a guardian process that waits for the end of the run stops the deployment, also
//! when the run is killed.

mod audit;
mod client;
mod evidence;
mod shop;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use entrepot::ports::{Clock, Ids};
use entrepot::runtime::{RandomIds, SystemClock};
use nix::unistd::Uid;
use serde_json::Value;

use crate::support::take_turn;

pub(crate) use client::{Answer, Call, Http};
pub(crate) use evidence::Held;
pub(crate) use shop::{card, cards, cart_of};

/// The regions of `region-config/local.toml`.
pub(crate) const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-south"];

/// How long a condition may take that has no deadline of its own. Machines are shared: a test that
/// fails here has waited for something that does not come.
const PATIENCE: Duration = Duration::from_mins(1);

/// What took longer is said, for whoever wonders why a test is slow.
const REMARKABLE_MS: u64 = 1_000;

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(50);

/// What the tests' regions have that `region-config/local.toml` has not: a saga of a process that
/// died is taken over sooner, and one that is back gets its shoppers, so that a test of it takes seconds.
const SETTINGS: &str = "\n[orders]\nsaga_lease_ms = 3000\n[routing]\ncanary_step_ms = 1000\n";

/// Where base ports are looked for: below the ports that clients are given.
const PORTS_FROM: u16 = 20_000;
/// Distance between two candidates; a deployment takes less.
const PORTS_STEP: u16 = 400;
/// Candidates.
const PORTS_TRIES: u16 = 30;

/// The deployment, entered by one test at a time.
pub(crate) struct World {
    data_dir: PathBuf,
    status: Value,
    pub(crate) http: Http,
    pub(crate) clock: SystemClock,
    ids: RandomIds,
    tokens: Mutex<BTreeMap<String, String>>,
    /// Held as long as the test runs.
    _turn: File,
}

impl World {
    /// Waits for this test's turn. All regions are ready, all links are up.
    pub(crate) async fn enter() -> Self {
        let turn = take_turn();
        let run = run_folder();
        std::fs::create_dir_all(&run).expect("a folder for temporary files");
        let data_dir = run.join("data");
        let clock = SystemClock::new();
        if !data_dir.join("up").exists() {
            bring_up(&run, &data_dir);
        }
        let mut world = Self {
            data_dir,
            status: Value::Null,
            http: Http::new(),
            clock,
            ids: RandomIds::new(clock),
            tokens: Mutex::default(),
            _turn: turn,
        };
        world.status = world.read_status();
        world.until("all regions are ready", async || world.is_ready()).await;
        world.until("each serves all of its shoppers", async || world.is_whole()).await;
        world
    }

    /// A name that no other test uses.
    pub(crate) fn fresh(&self, name: &str) -> String {
        let id = self.ids.uuid().simple().to_string();
        format!("{name}-{}", &id[20..])
    }

    /// Where a region's server listens.
    pub(crate) fn at(&self, region: &str) -> String {
        self.region(region)["url"].as_str().expect("a URL").to_owned()
    }

    /// Where shoppers go.
    pub(crate) fn balancer(&self) -> String {
        self.status["load_balancer"].as_str().expect("a URL").to_owned()
    }

    fn simulator(&self) -> String {
        self.status["payment_simulator"].as_str().expect("a URL").to_owned()
    }

    fn region(&self, region: &str) -> &Value {
        let regions = self.status["regions"].as_array().expect("regions");
        regions.iter().find(|known| known["name"] == region).expect("a region of the deployment")
    }

    /// `entrepot status --json`, as it is now.
    pub(crate) fn read_status(&self) -> Value {
        let output = self.entrepot(&["status", "--json"]);
        serde_json::from_str(&output).expect("status is JSON")
    }

    /// `entrepot routing --json`: by region, who serves its shoppers.
    pub(crate) fn routing(&self) -> Value {
        let output = self.entrepot(&["routing", "--json"]);
        let told: Value = serde_json::from_str(&output).expect("routing is JSON");
        told["regions"].clone()
    }

    /// Whether every region serves all of its shoppers.
    fn is_whole(&self) -> bool {
        let routing = self.routing();
        REGIONS.iter().all(|region| routing[region]["share"] == 100)
    }

    /// Whether every region is.
    pub(crate) fn is_ready(&self) -> bool {
        let status = self.read_status();
        status["regions"]
            .as_array()
            .is_some_and(|regions| regions.iter().all(|region| region["state"] == "ready"))
    }

    /// What a region says of its status in `entrepot regions`; empty while it can't be asked.
    pub(crate) async fn own_status(&self, region: &str) -> String {
        self.own_view(region).await["status"].as_str().unwrap_or_default().to_owned()
    }

    /// Whether a majority lets a region act on its orders.
    pub(crate) async fn holds_order_lease(&self, region: &str) -> bool {
        self.own_view(region).await["order_lease"] == true
    }

    /// Which incarnation a region is.
    pub(crate) async fn epoch(&self, region: &str) -> i64 {
        self.eventually(Duration::from_secs(30), "the region answers", async || {
            self.own_view(region).await["epoch"].as_i64()
        })
        .await
    }

    async fn own_view(&self, region: &str) -> Value {
        self.seen(region, region).await
    }

    /// What one region says of another in `entrepot regions`.
    pub(crate) async fn seen(&self, from: &str, region: &str) -> Value {
        let answer = self.run(&["regions", "--json"]).await;
        let seen: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
        let views = seen["regions"].as_array().into_iter().flatten();
        let view = views.filter(|view| view["seen_from"] == from);
        let mut sees = view.filter_map(|view| view["sees"].as_array()).flatten();
        sees.find(|seen| seen["region"] == region).cloned().unwrap_or_default()
    }

    /// Runs a command of the project on this deployment, and gives what it printed.
    pub(crate) fn entrepot(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_entrepot"))
            .args(arguments)
            .args(["--data-dir".as_ref(), self.data_dir.as_os_str()])
            .output()
            .expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "entrepot {}: {said}", arguments.join(" "));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command of the project beside the test, whatever it ends with.
    pub(crate) async fn run(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_entrepot"));
        command.args(arguments).args(["--data-dir".as_ref(), self.data_dir.as_os_str()]);
        let ended = tokio::task::spawn_blocking(move || command.output());
        ended.await.expect("no panic").expect("the program runs")
    }

    /// `entrepot chaos …`.
    pub(crate) fn chaos(&self, arguments: &str) {
        let mut all = vec!["chaos"];
        all.extend(arguments.split(' '));
        self.entrepot(&all);
    }

    /// Every link, or every link of one region, both ways: `--cut` or `--heal`.
    pub(crate) fn links(&self, of: Option<&str>, change: &str) {
        for (index, from) in REGIONS.iter().enumerate() {
            for to in &REGIONS[index + 1..] {
                if of.is_none_or(|region| region == *from || region == *to) {
                    self.chaos(&format!("link {from} {to} {change}"));
                }
            }
        }
    }

    /// The next server of any region that comes to this point of a saga dies there.
    pub(crate) fn crash_at(&self, point: &str) {
        std::fs::write(self.crash_file(), point).expect("a file");
    }

    /// Whether somebody died at the point named last.
    pub(crate) fn has_crashed(&self) -> bool {
        !self.crash_file().exists()
    }

    fn crash_file(&self) -> PathBuf {
        self.data_dir.join("crash-point")
    }

    /// JetStream of a region has lost everything. Its NATS server must be down, here and below.
    pub(crate) fn wipe_broker(&self, region: &str) {
        std::fs::remove_dir_all(self.jetstream(region)).expect("JetStream's files");
    }

    /// Keeps a copy of what JetStream of a region has.
    pub(crate) fn save_broker(&self, region: &str) {
        copy(&self.jetstream(region), &self.saved_jetstream(region));
    }

    /// JetStream of a region has what it had when it was saved, and has lost the rest.
    pub(crate) fn restore_broker(&self, region: &str) {
        self.wipe_broker(region);
        copy(&self.saved_jetstream(region), &self.jetstream(region));
    }

    /// Keeps a copy of a region's database under a name. Its PostgreSQL must be down, here and below.
    pub(crate) fn save_database(&self, region: &str, name: &str) {
        copy(&self.postgres(region), &self.saved_postgres(region, name));
    }

    /// A region's database is what it was when it was saved under that name.
    pub(crate) fn restore_database(&self, region: &str, name: &str) {
        let place = self.postgres(region);
        std::fs::remove_dir_all(&place).expect("PostgreSQL's files");
        std::fs::rename(self.saved_postgres(region, name), &place).expect("a saved database");
        // The server that wrote it was killed with its region, and another one may have its number by now.
        let left = place.join("postmaster.pid");
        if left.exists() {
            std::fs::remove_file(left).expect("a file");
        }
    }

    fn postgres(&self, region: &str) -> PathBuf {
        self.data_dir.join("regions").join(region).join("postgres")
    }

    fn saved_postgres(&self, region: &str, name: &str) -> PathBuf {
        self.data_dir.join(format!("{region}.postgres.{name}"))
    }

    fn jetstream(&self, region: &str) -> PathBuf {
        self.data_dir.join("regions").join(region).join("nats/jetstream")
    }

    fn saved_jetstream(&self, region: &str) -> PathBuf {
        self.data_dir.join(format!("{region}.jetstream"))
    }

    /// A token of the local issuer.
    pub(crate) fn token(&self, role: &str, subject: &str, home: Option<&str>) -> String {
        let name = format!("{role} {subject} {home:?}");
        if let Some(token) = self.tokens.lock().expect("no panic while held").get(&name) {
            return token.clone();
        }
        let mut arguments = vec!["token", "--role", role, "--customer", subject];
        arguments.extend(home.iter().flat_map(|home| ["--home-region", *home]));
        let token = self.entrepot(&arguments).trim().to_owned();
        let mut tokens = self.tokens.lock().expect("no panic while held");
        tokens.insert(name, token.clone());
        token
    }

    /// The token of whoever runs the shop.
    pub(crate) fn admin(&self) -> String {
        self.token("admin", "tests", None)
    }

    /// Looks again and again until a condition holds.
    pub(crate) async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        self.eventually(PATIENCE, what, async || condition().await.then_some(())).await;
    }

    /// Looks again and again until there is a value, within a deadline. Says how long it took.
    pub(crate) async fn eventually<T>(
        &self,
        deadline: Duration,
        what: &str,
        mut look: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let started_ms = self.clock.monotonic_ms();
        let poll = async {
            loop {
                if let Some(value) = look().await {
                    return value;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let Ok(value) = tokio::time::timeout(deadline, poll).await else {
            panic!("within {deadline:?} it did not come true that {what}");
        };
        let took_ms = self.clock.monotonic_ms() - started_ms;
        if took_ms >= REMARKABLE_MS {
            println!("{what}: after {took_ms} ms");
        }
        value
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", logs(&self.data_dir));
            stop(&self.data_dir);
        }
    }
}

/// One folder a run: the runner's under nextest, which starts a process for each test.
fn run_folder() -> PathBuf {
    let name = format!("entrepot-regions-{}-{}", Uid::effective(), run_pid());
    std::env::temp_dir().join(name)
}

fn run_pid() -> i32 {
    let under_nextest = entrepot::runtime::environment("NEXTEST").is_some();
    let pid = if under_nextest { nix::unistd::getppid() } else { nix::unistd::getpid() };
    pid.as_raw()
}

fn bring_up(run: &Path, data_dir: &Path) {
    guard(run, data_dir);
    let config = run.join("regions.toml");
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("region-config/local.toml");
    let local = std::fs::read_to_string(local).expect("region-config/local.toml");
    std::fs::write(&config, local + SETTINGS).expect("a file");
    let port = free_ports();
    let output = Command::new(env!("CARGO_BIN_EXE_entrepot"))
        .args(["up", "--detach", "--base-port", &port.to_string(), "--config"])
        .args([&config, Path::new("--data-dir"), data_dir])
        .env("ENTREPOT_CRASH_FILE", data_dir.join("crash-point"))
        .output()
        .expect("the program runs");
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let logs = logs(data_dir);
        stop(data_dir);
        panic!("entrepot up: {said}\n{logs}");
    }
    println!("{}", String::from_utf8_lossy(&output.stdout));
    std::fs::write(data_dir.join("up"), "").expect("a file");
}

/// Stops the deployment when the run is over, however it ended.
fn guard(run: &Path, data_dir: &Path) {
    const SCRIPT: &str = r#"
        while kill -0 "$1" 2>/dev/null; do sleep 0.2; done
        "$2" down --data-dir "$3"
        rm -rf "$4"
    "#;
    let begun = run.join("guarded");
    if begun.exists() {
        return;
    }
    std::fs::write(&begun, "").expect("a file");
    let guardian = Command::new("setsid")
        .args(["sh", "-c", SCRIPT, "guardian", &run_pid().to_string()])
        .args([Path::new(env!("CARGO_BIN_EXE_entrepot")), data_dir, run])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    drop(guardian.expect("setsid of util-linux"));
}

/// Stops a deployment and forgets its data.
fn stop(data_dir: &Path) {
    let down = Command::new(env!("CARGO_BIN_EXE_entrepot"))
        .args([Path::new("down"), Path::new("--data-dir"), data_dir])
        .output()
        .expect("the program runs");
    if !down.status.success() {
        println!("entrepot down: {}", String::from_utf8_lossy(&down.stderr));
    }
    drop(std::fs::remove_dir_all(data_dir));
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp runs");
    assert!(copied.success(), "{} can't be copied", from.display());
}

/// What the programs said last, for whoever has to find out why a test failed.
fn logs(data_dir: &Path) -> String {
    const LINES: usize = 60;
    let mut text = String::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(data_dir.join("logs"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    for file in files {
        let log = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        text += "\n---- ";
        text += &file.to_string_lossy();
        text.push('\n');
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// A base port with nobody on any port of the deployment.
fn free_ports() -> u16 {
    let start = u16::try_from(std::process::id() % u32::from(PORTS_TRIES)).expect("below 30");
    (0..PORTS_TRIES)
        .map(|attempt| PORTS_FROM + (start + attempt) % PORTS_TRIES * PORTS_STEP)
        .find(|base| {
            let bind = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
            (*base..base + 150).all(bind)
        })
        .expect("a free block of ports")
}
