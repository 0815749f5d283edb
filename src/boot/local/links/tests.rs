//! The link against a real TCP server that sends back what it gets.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{End, Fault, Links, Way};
use crate::ports::Clock;
use crate::runtime::{SystemClock, TaskSet, spawn_named};

/// Silence for this long proves nothing passes; a healthy loopback answers in under a millisecond.
const SILENCE: Duration = Duration::from_millis(150);
/// Anything slower than this is broken.
const DEADLINE: Duration = Duration::from_secs(10);

struct Rig {
    links: Links,
    tasks: TaskSet,
    port: u16,
    clock: SystemClock,
}

fn way() -> Way {
    Way { from: "a".parse().unwrap(), to: "b".parse().unwrap() }
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(spawn_named("echo", async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(spawn_named("echo-connection", async move {
                let (mut reads, mut writes) = stream.into_split();
                drop(tokio::io::copy(&mut reads, &mut writes).await);
            }));
        }
    }));
    port
}

impl Rig {
    async fn new() -> Self {
        let links = Links::new(&[way().from, way().to], |_| Fault::default());
        let tasks = TaskSet::new();
        let (target, port) = (echo_server().await, free_port().await);
        links.open(End { way: way(), port, target }, &tasks).await.unwrap();
        Self { links, tasks, port, clock: SystemClock::new() }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    fn set(&self, way: Way, fault: Fault) {
        self.links.change(way, true, |_, _| fault).unwrap();
    }

    /// Sends a byte and waits for it to come back, in milliseconds.
    async fn round_trip(&self, stream: &mut TcpStream) -> u64 {
        let started = self.clock.monotonic_ms();
        stream.write_all(b"x").await.unwrap();
        let mut answer = [0];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        self.clock.monotonic_ms() - started
    }
}

const CUT: Fault = Fault { cut: true, latency_us: 0, jitter_us: 0, loss_per_10_000: 0 };

async fn is_silent(stream: &mut TcpStream) -> bool {
    let mut answer = [0];
    tokio::time::timeout(SILENCE, stream.read_exact(&mut answer)).await.is_err()
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 16];
    let read = tokio::time::timeout(DEADLINE, stream.read(&mut answer)).await.unwrap();
    matches!(read, Ok(0) | Err(_))
}

#[tokio::test]
async fn a_healthy_link_carries_bytes_and_ends() {
    let rig = Rig::new().await;
    let mut stream = rig.connect().await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (mut reads, mut writes) = stream.split();
    let mut received = Vec::new();
    let write = async {
        writes.write_all(&sent).await.unwrap();
        writes.shutdown().await.unwrap();
    };
    let _count = tokio::join!(write, async { reads.read_to_end(&mut received).await.unwrap() });
    assert!(sent == received, "{} of {} bytes", received.len(), sent.len());
    assert!(rig.tasks.shut_down(DEADLINE).await);
}

#[tokio::test]
async fn latency_is_added_each_way_and_does_not_limit_throughput() {
    let rig = Rig::new().await;
    let slow = Fault { latency_us: 50_000, ..Fault::default() };
    rig.links.change(way(), false, |_, _| slow).unwrap();
    let mut stream = rig.connect().await;
    // The first byte waits for the handshake too.
    let first_ms = rig.round_trip(&mut stream).await;
    assert!(first_ms >= 200, "{first_ms} ms");
    let second_ms = rig.round_trip(&mut stream).await;
    assert!((100..190).contains(&second_ms), "{second_ms} ms");
    // 200 pieces one after the other would take 10 s each way.
    let started = rig.clock.monotonic_ms();
    let data = vec![7; 200 * 16 * 1024];
    let (mut reads, mut writes) = stream.split();
    let mut received = vec![0; data.len()];
    let (sent, got) = tokio::join!(writes.write_all(&data), reads.read_exact(&mut received));
    sent.unwrap();
    got.unwrap();
    let took_ms = rig.clock.monotonic_ms() - started;
    assert!(took_ms < 2_000, "{took_ms} ms");
}

#[tokio::test]
async fn a_cut_holds_everything_and_healing_closes_what_stalled() {
    let rig = Rig::new().await;
    let (mut stalled, mut idle) = (rig.connect().await, rig.connect().await);
    rig.round_trip(&mut stalled).await;
    rig.round_trip(&mut idle).await;
    rig.links.change(way(), false, |_, _| CUT).unwrap();
    stalled.write_all(b"x").await.unwrap();
    assert!(is_silent(&mut stalled).await);
    let mut new = rig.connect().await;
    new.write_all(b"x").await.unwrap();
    assert!(is_silent(&mut new).await, "a new connection got through a cut");
    rig.links.change(way(), false, |_, base| base).unwrap();
    assert!(is_closed(&mut stalled).await);
    rig.round_trip(&mut idle).await;
    let mut answer = [0];
    tokio::time::timeout(DEADLINE, new.read_exact(&mut answer)).await.unwrap().unwrap();
}

#[tokio::test]
async fn each_way_is_cut_alone() {
    for cut in [way(), way().back()] {
        let rig = Rig::new().await;
        let mut stream = rig.connect().await;
        rig.round_trip(&mut stream).await;
        rig.set(cut, CUT);
        stream.write_all(b"x").await.unwrap();
        assert!(is_silent(&mut stream).await, "{cut:?}");
        let faults: Vec<_> = rig.links.faults().iter().map(|(_, fault)| fault.cut).collect();
        assert_eq!(faults.iter().filter(|cut| **cut).count(), 1);
        rig.set(cut, Fault::default());
        assert!(is_closed(&mut stream).await);
        let mut again = rig.connect().await;
        rig.round_trip(&mut again).await;
    }
}

#[tokio::test]
async fn a_server_that_is_down_closes_the_connection() {
    let rig = Rig::new().await;
    let (port, nobody) = (free_port().await, free_port().await);
    rig.links.open(End { way: way(), port, target: nobody }, &rig.tasks).await.unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert!(is_closed(&mut stream).await);
}

#[tokio::test]
async fn a_link_that_does_not_exist_is_refused() {
    let rig = Rig::new().await;
    let nowhere = Way { from: way().from, to: "mars".parse().unwrap() };
    let error = rig.links.change(nowhere, true, |_, _| CUT).unwrap_err();
    assert_eq!(error.to_string(), "no link from a to mars");
}
