//! A PostgreSQL cluster for each process of tests, and a database for each test.
//!
//! Making a cluster takes a second, and the tests of one run are dozens of processes. So one cluster
//! is made once and kept with the migrated schema as a template database; a process copies its files,
//! and a test copies its database. A change of a migration makes another template.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use entrepot::config::DatabaseAddress;
use entrepot::store::PgStore;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection};

use super::process::{self, Server};
use super::{eventually, free_port, programs};

/// How long a store of a test waits for the database: machines that run tests are busy.
const DEADLINE: Duration = Duration::from_secs(30);

/// The database the others are copied from.
const TEMPLATE: &str = "entrepot_template";

/// Durable, as `serve` insists on, and small.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "shared_buffers=16MB",
    "max_connections=60",
    "autovacuum=off",
    "max_wal_senders=0",
    "log_min_messages=error",
];

/// A running cluster.
struct Cluster {
    port: u16,
    server: Mutex<Server>,
}

/// Copies of one template must not be made at once.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A test's own database with the current schema.
pub(crate) struct Database {
    name: String,
    cluster: &'static Cluster,
}

impl Database {
    /// A fresh copy of the template.
    pub(crate) async fn new() -> Self {
        Self::copy_of(TEMPLATE).await
    }

    /// An empty one.
    pub(crate) async fn unmigrated() -> Self {
        Self::copy_of("template0").await
    }

    async fn copy_of(template: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let cluster = cluster().await;
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let turn = ONE_AT_A_TIME.lock().await;
        let mut connection = connect(cluster.port, "postgres").await;
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        drop(turn);
        Self { name, cluster }
    }

    pub(crate) fn address(&self) -> DatabaseAddress {
        address(self.cluster.port, &self.name)
    }

    /// A connection beside the store's, to look at what is there.
    pub(crate) async fn connection(&self) -> PgConnection {
        connect(self.cluster.port, &self.name).await
    }

    /// A store of this database.
    pub(crate) fn store(&self, region: &str) -> PgStore {
        self.store_that_waits(region, DEADLINE)
    }

    /// One with another patience.
    pub(crate) fn store_that_waits(&self, region: &str, deadline: Duration) -> PgStore {
        let region = region.parse().unwrap();
        PgStore::connect(region, &self.address(), 8, deadline).unwrap()
    }

    /// Freezes the whole cluster, as a machine that swaps or a disk that hangs does.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// The postmaster and all of its children.
    fn signal(&self, signal: Signal) {
        let server = self.cluster.server.lock().unwrap();
        for pid in server.family() {
            let sent = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
            // A backend may have ended in between.
            assert!(sent.is_ok() || sent == Err(nix::errno::Errno::ESRCH), "{sent:?}");
        }
    }
}

/// The cluster of this process.
async fn cluster() -> &'static Cluster {
    static CLUSTER: tokio::sync::OnceCell<Cluster> = tokio::sync::OnceCell::const_new();
    CLUSTER.get_or_init(start).await
}

async fn start() -> Cluster {
    let data = process::folder("postgres");
    copy(&template().await, &data);
    run(&data).await
}

async fn run(data: &Path) -> Cluster {
    let port = free_port();
    let mut arguments = vec!["-D".to_owned(), data.display().to_string()];
    arguments.extend(["-p".to_owned(), port.to_string()]);
    for setting in SETTINGS {
        arguments.extend(["-c".to_owned(), (*setting).to_owned()]);
    }
    let program = programs::postgres_bin().join("postgres");
    let log = data.with_extension("log");
    // SIGQUIT ends a cluster at once, its children with it.
    let server = Server::start(program, arguments, "QUIT", &log);
    let options = address(port, "postgres").url;
    eventually("PostgreSQL answers", || async { PgConnection::connect(&options).await.ok() }).await;
    Cluster { port, server: Mutex::new(server) }
}

/// The files of a cluster with the migrated template database; made by whoever comes first.
async fn template() -> PathBuf {
    let scratch = process::scratch();
    let template = scratch.join(format!("template-{}", fingerprint()));
    let lock = std::fs::File::create(scratch.join("template.lock")).unwrap();
    let locked = tokio::task::spawn_blocking(move || Flock::lock(lock, FlockArg::LockExclusive));
    let _held_until_the_template_is_there = locked.await.unwrap().unwrap();
    if template.is_dir() {
        return template;
    }
    let data = process::folder("template");
    let mut initdb =
        programs::postgres_bin().join("initdb").into_os_string().into_string().unwrap();
    initdb.push_str(" --username=postgres --auth=trust --encoding=UTF8 --no-locale --no-sync -D ");
    initdb.push_str(data.to_str().unwrap());
    let arguments = vec!["-c".to_owned(), initdb];
    let log = data.with_extension("initdb.log");
    let mut made = Server::start("/bin/sh".into(), arguments, "KILL", &log);
    eventually("initdb is done", || std::future::ready(made.has_ended().then_some(()))).await;
    let cluster = run(&data).await;
    let mut connection = connect(cluster.port, "postgres").await;
    let create = format!("CREATE DATABASE {TEMPLATE}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    entrepot::store::migrate(&address(cluster.port, TEMPLATE)).await.unwrap();
    let mut server = cluster.server.into_inner().unwrap();
    server.signal(Signal::SIGINT);
    eventually("PostgreSQL has stopped", || std::future::ready(server.has_ended().then_some(())))
        .await;
    std::fs::rename(&data, &template).unwrap();
    template
}

/// Of everything that makes the template what it is.
fn fingerprint() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut hash = Sha256::new();
    hash.update(programs::postgres_bin().to_str().unwrap());
    for file in files {
        hash.update(std::fs::read(file).unwrap());
    }
    hex::encode(&hash.finalize()[..8])
}

fn copy(from: &Path, to: &Path) {
    std::fs::remove_dir(to).unwrap();
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success(), "can't copy {} to {}", from.display(), to.display());
}

fn address(port: u16, database: &str) -> DatabaseAddress {
    DatabaseAddress {
        url: format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable"),
        password: None,
    }
}

async fn connect(port: u16, database: &str) -> PgConnection {
    PgConnection::connect(&address(port, database).url).await.unwrap()
}
