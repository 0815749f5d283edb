//! The bus on real brokers: what it must survive, and how soon it notices.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use entrepot::bus::{NatsAddresses, NatsBus};
use entrepot::ports::{Bus, BusError, RequestHandler, RequestKind};
use entrepot::replication::{
    Envelope, Head, Heartbeat, NewEnvelope, PAYLOAD_BYTES_MAX, Position, SCHEMA_VERSION,
};
use entrepot::types::{Epoch, HlcTimestamp, RegionId};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::support::cable::Cable;
use crate::support::nats::{Nats, address};
use crate::support::{eventually, soon};

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn envelope(sequence: u64, bytes: usize) -> Envelope {
    Envelope::seal(NewEnvelope {
        origin: region("a"),
        position: Position { epoch: Epoch(1), sequence },
        follows: None,
        hlc: HlcTimestamp { wall_ms: sequence, logical: 0, region: region("a") },
        schema_version: SCHEMA_VERSION,
        payload: vec![b'x'; bytes].into(),
    })
    .unwrap()
}

fn heartbeat(sent_ms: u64) -> Heartbeat {
    Heartbeat {
        region: region("a"),
        sent_ms,
        head: Head { position: Position::START, hlc: HlcTimestamp::origin(region("a")) },
        watermarks: [].into(),
        hearing: [].into(),
        draining: false,
    }
}

/// Region `a` with a broker, and region `b` that reaches it over a cable.
struct Pair {
    broker: Nats,
    cable: Cable,
    a: NatsBus,
    b: NatsBus,
}

impl Pair {
    async fn start() -> Box<Self> {
        Box::pin(Self::start_here()).await
    }

    async fn start_here() -> Box<Self> {
        let broker = Nats::start().await;
        let cable = Cable::to(broker.port()).await;
        let a = NatsBus::connect(NatsAddresses {
            region: region("a"),
            own: broker.address(),
            peers: [].into(),
        });
        // b's own broker plays no part in what a publishes.
        let b = NatsBus::connect(NatsAddresses {
            region: region("b"),
            own: broker.address(),
            peers: [(region("a"), address(cable.port()))].into(),
        });
        let (a, b) = (a.await.unwrap(), b.await.unwrap());
        let pair = Self { broker, cable, a, b };
        pair.published().await;
        Box::new(pair)
    }

    async fn published(&self) -> Option<Position> {
        eventually("the broker answers", || async { self.a.published().await.ok() }).await
    }

    async fn publish(&self, envelopes: &[Envelope]) {
        eventually("the broker confirms", || async { self.a.publish(envelopes).await.ok() }).await;
    }
}

fn at(sequence: u64) -> Position {
    Position { epoch: Epoch(1), sequence }
}

#[tokio::test]
async fn what_is_published_arrives_in_order_and_copies_are_dropped() {
    let pair = Pair::start().await;
    assert_eq!(pair.published().await, None);
    let sent: Vec<_> = (1..=100).map(|sequence| envelope(sequence, 1_000)).collect();
    pair.publish(&sent).await;
    assert_eq!(pair.published().await, Some(at(100)));

    let mut envelopes = pair.b.envelopes(region("a")).unwrap();
    for expected in &sent {
        let delivery = soon("an envelope arrives", envelopes.next()).await.unwrap();
        assert_eq!(delivery.envelope, *expected);
        delivery.ack.acknowledge().await;
    }
    // Published twice within the window of de-duplication: the broker keeps one.
    pair.publish(&sent[98..]).await;
    pair.publish(&[envelope(101, 10)]).await;
    let delivery = soon("the next arrives", envelopes.next()).await.unwrap();
    assert_eq!(delivery.envelope.sequence, 101);
}

#[tokio::test]
async fn the_largest_envelope_passes() {
    let pair = Pair::start().await;
    let sent: Vec<_> = (1..=4).map(|sequence| envelope(sequence, PAYLOAD_BYTES_MAX)).collect();
    pair.publish(&sent).await;
    let mut envelopes = pair.b.envelopes(region("a")).unwrap();
    for expected in &sent {
        let delivery = soon("a large envelope arrives", envelopes.next()).await.unwrap();
        assert_eq!(delivery.envelope, *expected);
        delivery.ack.acknowledge().await;
    }
}

#[tokio::test]
async fn reading_goes_on_after_a_restart_of_the_broker_and_after_the_loss_of_its_disk() {
    let mut pair = Pair::start().await;
    let mut envelopes = pair.b.envelopes(region("a")).unwrap();
    pair.publish(&[envelope(1, 10)]).await;
    let delivery = soon("the first arrives", envelopes.next()).await.unwrap();
    delivery.ack.acknowledge().await;

    pair.broker.kill();
    pair.broker.start_again().await;
    pair.publish(&[envelope(2, 10)]).await;
    soon("the second arrives", async {
        while envelopes.next().await.unwrap().envelope.sequence != 2 {}
    })
    .await;

    pair.broker.kill_and_wipe();
    pair.broker.start_again().await;
    assert_eq!(pair.published().await, None, "the stream is made again, and empty");
    pair.publish(&[envelope(3, 10)]).await;
    soon("the third arrives", async {
        while envelopes.next().await.unwrap().envelope.sequence != 3 {}
    })
    .await;
}

struct Echo;

#[async_trait]
impl RequestHandler for Echo {
    async fn handle(&self, from: RegionId, request: Bytes) -> Result<Bytes, String> {
        match request.as_ref() {
            b"refuse" => Err("no".to_owned()),
            b"panic" => panic!("a bug in a handler"),
            b"sleep" => {
                tokio::time::sleep(Duration::from_secs(3)).await;
                Ok(Bytes::new())
            }
            other => Ok([format!("{from}: ").as_bytes(), other].concat().into()),
        }
    }
}

const KIND: RequestKind = RequestKind::named("echo");

async fn ask(bus: &NatsBus, question: &'static str) -> Result<Bytes, BusError> {
    let limit = Duration::from_millis(300);
    bus.request(region("a"), KIND, question.into(), limit).await
}

async fn answered(bus: &NatsBus) {
    let answer =
        eventually("a request is answered", || async { ask(bus, "hello").await.ok() }).await;
    assert_eq!(answer, "b: hello");
}

#[tokio::test]
async fn a_request_is_answered_refused_or_fails_in_time() {
    let pair = Arc::new(Pair::start().await);
    let refusal = ask(&pair.b, "hello").await.unwrap_err();
    assert!(matches!(refusal, BusError::Unreachable { .. }), "nobody serves: {refusal}");
    assert!(!refusal.outcome_is_unknown());

    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    let (server, stopped) = (pair.clone(), stop.clone());
    tasks.spawn(async move { server.a.serve(KIND, Arc::new(Echo), stopped).await });
    answered(&pair.b).await;
    let refusal = ask(&pair.b, "refuse").await.unwrap_err();
    assert_eq!(refusal, BusError::Refused { peer: region("a"), reason: "no".to_owned() });
    // Printing a panic takes its time.
    let limit = Duration::from_secs(30);
    let bug = pair.b.request(region("a"), KIND, "panic".into(), limit).await;
    assert!(matches!(bug, Err(BusError::Refused { .. })), "{bug:?}");
    let late = ask(&pair.b, "sleep").await.unwrap_err();
    assert_eq!(late, BusError::NoAnswer { peer: region("a") });
    assert!(late.outcome_is_unknown());
    // Slow ones hold up nobody, and a panic has ended nothing.
    answered(&pair.b).await;
    let stranger = pair.b.request(region("c"), KIND, Bytes::new(), Duration::from_secs(1)).await;
    assert_eq!(stranger, Err(BusError::NotAPeer(region("c"))));

    stop.cancel();
    soon("serving ends when told to", tasks.join_next()).await;
}

#[tokio::test]
async fn a_black_hole_blocks_nothing_is_found_and_all_goes_on_after_it() {
    let pair = Arc::new(Pair::start().await);
    let mut tasks = tokio::task::JoinSet::new();
    let server = pair.clone();
    tasks
        .spawn(async move { server.a.serve(KIND, Arc::new(Echo), CancellationToken::new()).await });
    let speaker = pair.clone();
    tasks.spawn(async move {
        for beat in 1.. {
            drop(speaker.a.publish_heartbeat(&heartbeat(beat)).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let (heard, mut last_heard) = tokio::sync::watch::channel(0);
    let mut beats = pair.b.heartbeats(region("a")).unwrap();
    tasks.spawn(async move {
        while let Some(beat) = beats.next().await {
            heard.send_replace(beat.sent_ms);
        }
    });
    let mut envelopes = pair.b.envelopes(region("a")).unwrap();
    soon("a heartbeat arrives", last_heard.wait_for(|beat| *beat > 0)).await.unwrap();
    answered(&pair.b).await;

    for one_way in [false, true] {
        if one_way {
            pair.cable.cut_to_client();
        } else {
            pair.cable.cut();
        }
        let late = soon("the request fails in time", ask(&pair.b, "hello")).await.unwrap_err();
        assert_eq!(late, BusError::NoAnswer { peer: region("a") });
        let sequence = 1 + 2 * u64::from(one_way);
        soon("what a does goes on", pair.a.publish(&[envelope(sequence, 10)])).await.unwrap();
        // TCP says nothing; the missing heartbeats lead to it.
        eventually("the connection is found dead", || async {
            matches!(ask(&pair.b, "hello").await, Err(BusError::Unreachable { .. })).then_some(())
        })
        .await;
        pair.cable.heal();
        let before = *last_heard.borrow();
        soon("heartbeats go on", last_heard.wait_for(|beat| *beat > before)).await.unwrap();
        // What the broker sent into the hole it sends again after 30 s; a pull is faster, and what
        // comes after the cut doesn't wait for either.
        pair.publish(&[envelope(sequence + 1, 10)]).await;
        soon("envelopes go on", async {
            while envelopes.next().await.unwrap().envelope.sequence != sequence + 1 {}
        })
        .await;
        answered(&pair.b).await;
    }
}

#[tokio::test]
async fn rows_arrive_from_now_on_and_a_stranger_is_no_peer() {
    let pair = Pair::start().await;
    let mut rows = pair.b.rows(region("a")).unwrap();
    // The consumer is made when the first row is asked for, and begins with what comes then.
    let sent = async {
        loop {
            drop(pair.a.publish_rows("rows".into()).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let arrived = soon("a row arrives", rows.next());
    tokio::select! {
        () = sent => {}
        row = arrived => assert_eq!(row.unwrap(), "rows"),
    }
    assert!(pair.b.envelopes(region("c")).is_err());
    assert_eq!(pair.b.peers(), [region("a")]);
}
