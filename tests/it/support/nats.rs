//! A NATS server with JetStream, that can be killed, started again, and lose its disk.

use std::path::PathBuf;

use entrepot::config::{NatsAddress, NatsLogin};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::process::{self, Server};
use super::{eventually, free_port, programs};

/// One region's broker.
pub(crate) struct Nats {
    folder: PathBuf,
    port: u16,
    server: Option<Server>,
}

impl Nats {
    pub(crate) async fn start() -> Self {
        let folder = process::folder("nats");
        let mut nats = Self { folder, port: free_port(), server: None };
        nats.start_again().await;
        nats
    }

    /// Starts on the same port, with what is on disk.
    pub(crate) async fn start_again(&mut self) {
        let config = self.folder.join("nats.conf");
        let text = format!(
            "listen: \"127.0.0.1:{}\"\nmax_payload: 8MB\nmax_pending: 32MB\n\
             jetstream {{ store_dir: \"{}\", max_memory_store: 16MB, max_file_store: 4GB }}\n",
            self.port,
            self.folder.join("store").display()
        );
        std::fs::write(&config, text).expect("a configuration file");
        let arguments = vec!["-c".to_owned(), config.display().to_string()];
        let log = self.folder.join("log");
        let server = Server::start(programs::nats_server(), arguments, "KILL", &log);
        self.server = Some(server);
        eventually("the broker greets", || self.greets()).await;
    }

    async fn greets(&self) -> Option<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting).await.ok()?;
        (&greeting == b"INFO").then_some(())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.server = None;
    }

    /// kill -9, and the disk is gone.
    pub(crate) fn kill_and_wipe(&mut self) {
        self.kill();
        let store = self.folder.join("store");
        std::fs::remove_dir_all(store).expect("the store is there");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> NatsAddress {
        address(self.port)
    }
}

/// A broker without a login on this machine.
pub(crate) fn address(port: u16) -> NatsAddress {
    NatsAddress { url: format!("nats://127.0.0.1:{port}"), login: NatsLogin::None }
}
