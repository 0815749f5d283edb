//! A PostgreSQL cluster of the test's own, with as many databases as it wants regions.
//!
//! `initdb` takes a second, copying what it made a twentieth of that: the first process of a run makes
//! a template under a lock, all others copy it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use entrepot::config::DatabaseAddress;
use sqlx::Connection;

use super::process::{self, Server};
use super::{eventually, free_port, programs};

/// A cluster, killed when it is dropped.
pub(crate) struct Postgres {
    folder: PathBuf,
    port: u16,
    server: Server,
    databases: AtomicU32,
}

impl Postgres {
    pub(crate) async fn start() -> Self {
        let folder = process::folder("postgres");
        let data = folder.join("data");
        let from = template();
        let copied = std::process::Command::new("cp").arg("-a").arg(&from).arg(&data).status();
        assert!(copied.expect("cp runs").success(), "{} can't be copied", from.display());
        let port = free_port();
        let server = serve(&folder, port);
        let postgres = Self { folder, port, server, databases: AtomicU32::new(0) };
        postgres.answers().await;
        postgres
    }

    /// kill -9, then a start on what is on disk.
    pub(crate) async fn crash_and_restart(&mut self) {
        self.server.kill();
        self.server = serve(&self.folder, self.port);
        self.answers().await;
    }

    /// A migrated database for one region.
    pub(crate) async fn database(&self) -> DatabaseAddress {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let mut connection = self.connect("postgres").await.expect("it answered");
        let statement = format!("CREATE DATABASE region_{number}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        let address = self.address(&format!("region_{number}"));
        entrepot::store::migrate(&address).await.unwrap();
        address
    }

    async fn answers(&self) {
        eventually("PostgreSQL answers", || async { self.connect("postgres").await.ok() }).await;
    }

    async fn connect(&self, database: &str) -> Result<sqlx::PgConnection, sqlx::Error> {
        sqlx::PgConnection::connect(&self.address(database).url).await
    }

    fn address(&self, database: &str) -> DatabaseAddress {
        let url = format!("postgres://entrepot@127.0.0.1:{}/{database}", self.port);
        DatabaseAddress { url, password: None }
    }
}

/// fsync is off: a test's cluster is killed, the machine is not.
fn serve(folder: &Path, port: u16) -> Server {
    let settings = [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        "unix_socket_directories=".to_owned(),
        "fsync=off".to_owned(),
        "max_connections=200".to_owned(),
        "shared_buffers=32MB".to_owned(),
    ];
    let mut arguments = vec!["-D".to_owned(), folder.join("data").display().to_string()];
    for setting in settings {
        arguments.extend(["-c".to_owned(), setting]);
    }
    let program = programs::postgres_bin().join("postgres");
    Server::start(program, arguments, "QUIT", &folder.join("log"))
}

/// The prepared data directory, made once for all processes of this user.
fn template() -> PathBuf {
    let place = process::scratch().join("template");
    std::fs::create_dir_all(&place).expect("a folder for the template");
    process::give_away(&place);
    let lock = std::fs::File::create(place.join("lock")).expect("a lock file");
    lock.lock().expect("a lock");
    let data = place.join("data");
    if !place.join("done").exists() {
        drop(std::fs::remove_dir_all(&data));
        let arguments = ["-A", "trust", "-U", "entrepot", "-N", "-E", "UTF8", "--locale=C", "-D"];
        let mut arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        arguments.push(data.display().to_string());
        let initdb = programs::postgres_bin().join("initdb");
        let mut made = Server::start(initdb, arguments, "KILL", &place.join("log"));
        while !made.has_ended() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(data.join("PG_VERSION").exists(), "initdb failed: see {}/log", place.display());
        std::fs::write(place.join("done"), "").expect("a mark");
    }
    data
}
