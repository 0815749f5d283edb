//! Raw over TCP: what well-behaved clients never send.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use utoipa_axum::routes;

use super::super::json::StrictJson;
use super::super::operations;
use super::super::routes::{Access, Routes};
use super::super::testing::Fixture;
use super::{Limits, serve};

/// No test waits longer than this for the server.
const DEADLINE: Duration = Duration::from_secs(20);

/// Only one test asks for `/slow`.
static SLOW_BEGUN: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Deserialize)]
struct Number {
    number: u32,
}

#[utoipa::path(post, path = "/double", responses((status = 200, description = "Twice as much")))]
async fn double(body: StrictJson<Number>) -> Bytes {
    (body.value.number * 2).to_string().into()
}

#[utoipa::path(get, path = "/slow", responses((status = 200, description = "After a while")))]
async fn slow() -> &'static str {
    SLOW_BEGUN.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    "done"
}

#[utoipa::path(get, path = "/large", responses((status = 200, description = "More than fits in the buffers of sockets")))]
async fn large() -> Bytes {
    vec![b'x'; 64 * 1024 * 1024].into()
}

#[utoipa::path(get, path = "/panic", responses((status = 500, description = "Always")))]
async fn panics() -> &'static str {
    panic!("a bug, for the test")
}

struct Running {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
    fixture: Fixture,
}

async fn start(limits: Limits) -> Running {
    let fixture = Fixture::new();
    let routes = operations::add(Routes::new(fixture.context.clone()))
        .add(Access::Public, routes!(double))
        .add(Access::Public, routes!(slow))
        .add(Access::Public, routes!(large))
        .add(Access::Public, routes!(panics));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = serve(listener, routes.finish(), limits, stop.clone());
    let ended = crate::runtime::spawn_named("test server", serving);
    Running { address, stop, ended, fixture }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads until the server closes.
    async fn exchange(&self, bytes: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        to_end(&mut stream).await
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.fixture.context.metrics.text();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

async fn to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes)).await;
    // A reset after the answer is as good as an end.
    drop(read.expect("the server closes the connection"));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn impatient() -> Limits {
    let short = Duration::from_millis(300);
    Limits { head_read: short, idle: short, ..Limits::default() }
}

#[tokio::test]
async fn a_whole_request_is_answered_with_the_region() {
    let server = start(Limits::default()).await;
    let answer = server
        .exchange("POST /double HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"number\": 4}")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("x-region: eu-west") && answer.ends_with('8'), "{answer}");
}

#[tokio::test]
async fn both_lengths_are_refused_whichever_comes_first() {
    let server = start(Limits::default()).await;
    for lengths in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "content-length: 0\r\nTRANSFER-ENCODING: chunked\r\n",
    ] {
        let answer = server
            .exchange(&format!(
                "POST /double HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{lengths}\r\n\
                 d\r\n{{\"number\": 4}}\r\n0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{lengths}{answer}");
        assert!(answer.contains("malformed_request") && !answer.contains("alive"), "{answer}");
    }
    assert_eq!(server.metric("entrepot_http_ambiguous_requests_total"), 3);
}

#[tokio::test]
async fn chunked_alone_is_fine_and_closes() {
    let server = start(Limits::default()).await;
    let answer = server
        .exchange("POST /double HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n{\"number\": 4}\r\n0\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with('8'), "{answer}");
}

#[tokio::test]
async fn a_body_that_trickles_gets_408_and_never_reaches_the_handler() {
    let server = start(Limits::default()).await;
    let mut stream = server.connect().await;
    let (mut read, mut write) = stream.split();
    let trickle = async {
        let head = "POST /double HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n";
        write.write_all(head.as_bytes()).await.unwrap();
        // Until the server hangs up.
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answer = async {
        let mut bytes = vec![0; 4096];
        let count = read.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let answer = tokio::time::timeout(DEADLINE, async {
        tokio::select! {
            answer = answer => answer,
            () = trickle => String::new(),
        }
    })
    .await
    .unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
}

#[tokio::test]
async fn heads_that_trickle_are_cut_off_long_before_idle_connections() {
    let server = start(Limits { head_read: Duration::from_millis(300), ..Limits::default() }).await;
    let mut trickling = server.connect().await;
    trickling
        .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost")
        .await
        .unwrap();
    assert_eq!(to_end(&mut trickling).await.matches("alive").count(), 1);
}

#[tokio::test]
async fn heads_that_trickle_and_idle_connections_are_closed() {
    let server = start(impatient()).await;
    let mut trickling = server.connect().await;
    trickling.write_all(b"GET /livez HTTP/1.1\r\nHost").await.unwrap();
    let mut idle = server.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(!to_end(&mut trickling).await.contains("alive"));
    assert!(to_end(&mut idle).await.contains("alive"));
    server.until("all closed", |server| server.metric("entrepot_http_connections{") == 0).await;
}

#[tokio::test]
async fn bodies_and_heads_have_a_size() {
    let server = start(Limits::default()).await;
    let length = 256 * 1024 + 1;
    let answer = server
        .exchange(&format!("POST /double HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{}", " ".repeat(length)))
        .await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let answer = server
        .exchange(&format!("GET /livez HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(100_000)))
        .await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn beyond_the_cap_a_connection_is_turned_away_at_once() {
    let server = start(Limits { connections: 2, ..Limits::default() }).await;
    let held = [server.connect().await, server.connect().await];
    server.until("two open", |server| server.metric("entrepot_http_connections{") == 2).await;
    let answer = server.exchange("").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("overloaded"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("x-region: eu-west") && head.contains("Retry-After: 1"), "{head}");
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["trace_id"].as_str().map(str::len), Some(32), "{problem}");
    drop(held);
    server.until("none open", |server| server.metric("entrepot_http_connections{") == 0).await;
    let answer =
        server.exchange("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("alive"), "{answer}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped() {
    let limits = Limits { write_stall: Duration::from_millis(300), ..Limits::default() };
    let server = start(limits).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    server.until("open", |server| server.metric("entrepot_http_connections{") == 1).await;
    server.until("dropped", |server| server.metric("entrepot_http_connections{") == 0).await;
}

#[tokio::test]
async fn stopping_answers_what_has_begun_and_takes_nothing_new() {
    let server = start(Limits::default()).await;
    let mut idle = server.connect().await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    server.until("both open", |server| server.metric("entrepot_http_connections{") == 2).await;
    server.until("the request has begun", |_| SLOW_BEGUN.load(Ordering::Relaxed)).await;
    server.stop.cancel();
    assert!(to_end(&mut busy).await.ends_with("done"));
    assert_eq!(to_end(&mut idle).await, "");
    tokio::time::timeout(DEADLINE, server.ended).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn the_drain_has_a_deadline() {
    let server = start(Limits { drain: Duration::from_millis(100), ..Limits::default() }).await;
    let mut stuck = server.connect().await;
    stuck.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    server.until("open", |server| server.metric("entrepot_http_connections{") == 1).await;
    server.stop.cancel();
    tokio::time::timeout(DEADLINE, server.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_in_a_handler_is_a_500_and_the_connection_goes_on() {
    let server = start(impatient()).await;
    let answer = server
        .exchange("GET /panic HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("internal"), "{answer}");
    assert!(answer.contains("alive"), "{answer}");
}
