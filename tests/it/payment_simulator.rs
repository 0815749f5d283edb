//! The payment simulator as a process that is killed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(ledger: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_entrepot"))
            .args(["payment-simulator", "--listen", "127.0.0.1:0", "--ledger"])
            .arg(ledger)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, rest) = line.split_once("http://").unwrap();
        let (address, _) = rest.split_once(',').unwrap();
        Self { child, address: address.parse().unwrap() }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn scratch() -> PathBuf {
    let name = format!("entrepot-it-payments-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// One request on a connection of its own; none, if there was no whole answer.
fn call(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    write!(stream, "{head}content-length: {length}\r\n\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.to_owned())
}

fn authorize(address: SocketAddr, key: &str) -> bool {
    let body = format!(
        r#"{{"idempotency_key":"{key}","token":"tok_ok","order_reference":"o","amount":{{"amount":5,"currency":"EUR"}}}}"#
    );
    call(address, "POST", "/v1/authorizations", &body)
        .is_some_and(|answer| answer.contains(r#""state":"authorized""#))
}

/// Killed at any moment, the provider still knows every authorization that it has answered.
#[test]
fn every_answered_authorization_survives_being_killed() {
    let directory = scratch();
    let ledger = directory.join("ledger.jsonl");
    let mut answered = Vec::new();
    for round in 0..5 {
        let process = Process::start(&ledger);
        let (address, stop) = (process.address, AtomicBool::new(false));
        let in_round: Vec<Vec<String>> = std::thread::scope(|scope| {
            let client = |number: usize| {
                let stop = &stop;
                move || {
                    let keys = (0..).map(|serial| format!("r{round}-c{number}-{serial}"));
                    let running = |_: &String| !stop.load(Ordering::Relaxed);
                    keys.take_while(running).filter(|key| authorize(address, key)).collect()
                }
            };
            let clients: Vec<_> = (0..4).map(|number| scope.spawn(client(number))).collect();
            // Killed in full run, at another point each time.
            while !authorize(address, &format!("r{round}-ready")) {}
            for serial in 0..20 * (round + 1) {
                assert!(authorize(address, &format!("r{round}-main-{serial}")));
            }
            process.kill();
            stop.store(true, Ordering::Relaxed);
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        answered.extend(in_round.into_iter().flatten());
    }
    assert!(answered.len() > 100, "{} answered under load", answered.len());
    let process = Process::start(&ledger);
    for key in &answered {
        let known = call(process.address, "GET", &format!("/v1/authorizations/{key}"), "");
        assert!(known.is_some_and(|known| known.contains("authorized")), "{key} is lost");
    }
    process.kill();
    std::fs::remove_dir_all(directory).unwrap();
}
