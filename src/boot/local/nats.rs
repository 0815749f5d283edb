//! A region's NATS server with JetStream on disk.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::effective::NATS_USER;
use super::process::Spec;
use super::secrets::{private_dir, write_private};
use crate::config::Secret;

/// The server closes its streams in milliseconds.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// One look whether the server greets.
const GREET_LIMIT: Duration = Duration::from_secs(1);
/// The Go runtime collects garbage before its heap grows beyond this. The server's working set here
/// is some 20 MB, more with envelopes under way; a limit close to it makes the collector run all the
/// time: with 48 MiB a region's server spent 110 µs an order, with 80 MiB 55, with this 25. After the
/// replay of a year it is what a deployment's memory leaves for it.
const MEMORY_LIMIT: &str = "112MiB";
/// How much the heap may grow between collections, in percent of what is in use.
const HEAP_GROWTH: &str = "200";

/// One region's server.
#[derive(Debug, Clone)]
pub(crate) struct Nats {
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    pub(crate) log: PathBuf,
    pub(crate) password: Secret,
}

impl Nats {
    /// Writes its configuration.
    pub(crate) fn prepare(&self) -> anyhow::Result<()> {
        private_dir(&self.folder)?;
        write_private(&self.folder.join("nats.conf"), self.config()?.as_bytes())
    }

    /// `sync_interval`: the outbox in PostgreSQL is the truth and what is lost here is asked for
    /// again, so acknowledged messages may wait ten seconds for the disk (ADR 0012). `ping_interval`:
    /// a black hole is noticed within 15 s on this side; clients have heartbeats of their own.
    fn config(&self) -> anyhow::Result<String> {
        let store = super::effective::path_text(&self.folder)?;
        Ok(format!(
            r#"# Written by `entrepot up`.
server_name: "{region}"
listen: "127.0.0.1:{port}"
jetstream {{
  store_dir: {store}
  max_memory_store: 16MB
  max_file_store: 4GB
  sync_interval: "10s"
}}
authorization {{
  users: [{{ user: "{NATS_USER}", password: "{password}" }}]
  timeout: 5
}}
max_payload: 8MB
max_pending: 32MB
max_connections: 256
ping_interval: "5s"
ping_max: 2
write_deadline: "5s"
lame_duck_duration: "30s"
"#,
            region = self.region,
            port = self.port,
            // Its escapes are those of JSON.
            store = serde_json::to_string(&store)?,
            password = self.password.expose(),
        ))
    }

    /// How to run it.
    pub(crate) fn spec(&self) -> Spec {
        Spec {
            name: self.name.clone(),
            program: self.program.clone(),
            arguments: vec!["-c".into(), self.folder.join("nats.conf").into_os_string()],
            environment: vec![
                ("GOMEMLIMIT", MEMORY_LIMIT.to_owned()),
                ("GOGC", HEAP_GROWTH.to_owned()),
            ],
            run_as: None,
            directory: self.folder.clone(),
            log: self.log.clone(),
            stop_signal: Signal::SIGTERM,
            stop_grace: STOP_GRACE,
        }
    }

    /// Whether the server greets a client.
    pub(crate) async fn is_ready(&self) -> bool {
        let greet = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            let mut greeting = [0; 4];
            stream.read_exact(&mut greeting).await?;
            Ok::<_, std::io::Error>(&greeting == b"INFO")
        };
        matches!(tokio::time::timeout(GREET_LIMIT, greet).await, Ok(Ok(true)))
    }
}
