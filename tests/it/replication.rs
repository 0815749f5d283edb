//! Replication as a whole: two regions, each with its PostgreSQL and its NATS, over cables.
//!
//! Whatever happens to brokers, links and processes, in the end the peer's inbox is the origin's
//! outbox, and what readers see is the same (I-18, I-20).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use entrepot::app::{Region, Stops};
use entrepot::bus::{NatsAddresses, NatsBus};
use entrepot::ports::{Bus, Clock, ReplicationStore, Store};
use entrepot::replication::{LinkState, Peers, Position};
use entrepot::runtime::{RandomIds, SystemClock, TaskSet};
use entrepot::store::PgStore;
use entrepot::types::{Epoch, HlcTimestamp, RegionId, RegionNumber};
use entrepot::workers::Replication;
use sqlx::Row;
use tokio::sync::Notify;

use crate::support::cable::Cable;
use crate::support::eventually;
use crate::support::nats::{Nats, address};
use crate::support::postgres::Database;
use crate::support::writes;

const HEARTBEAT: Duration = Duration::from_millis(100);

/// The replication of one region, without anything else of it.
struct Site {
    id: RegionId,
    region: Arc<Region>,
    database: Database,
    store: PgStore,
    nudge: Arc<Notify>,
    peers: Arc<Mutex<Peers>>,
    bus: Arc<NatsBus>,
    clock: SystemClock,
    tasks: TaskSet,
}

impl Site {
    async fn start(name: &str, database: Database, addresses: NatsAddresses) -> Self {
        let id: RegionId = name.parse().unwrap();
        let store = database.store(name);
        let numbers = [("a".parse().unwrap(), number(1)), ("b".parse().unwrap(), number(2))];
        let numbers = std::collections::BTreeMap::from(numbers);
        let start = store.start(numbers[&id]).await.unwrap();
        let clock = SystemClock::new();
        let region = Region::new(
            id,
            numbers.clone(),
            start.epoch,
            start.floor,
            Arc::new(clock),
            Arc::new(RandomIds::new(clock)),
        );
        let bus = Arc::new(NatsBus::connect(addresses).await.unwrap());
        let peers = Arc::new(Mutex::new(Peers::new(id, numbers.into_keys(), 1_000)));
        let nudge = Arc::new(Notify::new());
        let tasks = TaskSet::new();
        let region = Arc::new(region);
        let kept = Arc::new(store.clone());
        let set_back = start.set_back.as_deref();
        let stops = Stops::new(region.clone(), kept, tasks.clone(), start.draining, set_back);
        let replication = Replication {
            region: Arc::clone(&region),
            bus: Arc::clone(&bus) as Arc<dyn Bus>,
            store: Arc::new(store.clone()),
            peers: Arc::clone(&peers),
            stops: Arc::new(stops),
        };
        replication.start(&tasks, Arc::clone(&nudge), HEARTBEAT).unwrap();
        Self { id, region, database, store, nudge, peers, bus, clock, tasks }
    }

    async fn stop(self) -> Database {
        assert!(self.tasks.shut_down(Duration::from_secs(30)).await, "all tasks end");
        self.store.close().await;
        self.database
    }

    /// Commits products `from ..= to`, one commit each.
    async fn write(&self, from: u64, to: u64) {
        for time in from..=to {
            let changes = writes::product(self.id, &format!("{}-{time}", self.id), time);
            self.store.commit(&changes, writes::stamp(self.id, time)).await.unwrap();
            self.nudge.notify_one();
        }
    }

    /// What this region applied of another: `(seq, hash)` from `inbox`, or wrote itself.
    async fn log(&self, query: &'static str) -> Vec<(i64, String)> {
        let mut connection = self.database.connection().await;
        let rows = sqlx::query(query).fetch_all(&mut connection).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn outbox(&self) -> Vec<(i64, String)> {
        self.log("SELECT seq, event_hash FROM outbox ORDER BY epoch, seq").await
    }

    async fn inbox(&self) -> Vec<(i64, String)> {
        self.log("SELECT seq, event_hash FROM inbox ORDER BY epoch, seq").await
    }

    async fn applied(&self, origin: &str) -> u64 {
        let watermarks = self.store.watermarks().await.unwrap();
        watermarks.get(&origin.parse().unwrap()).map_or(0, |mark| mark.position.sequence)
    }

    async fn has_published(&self, sequence: u64) {
        eventually("all is in the stream", || async {
            (self.bus.published().await.ok().flatten()?.sequence >= sequence).then_some(())
        })
        .await;
    }

    async fn proof_of_a_setback(&self) -> String {
        let stopped = || async { self.region.is_set_back().then_some(()) };
        eventually("the region has stopped", stopped).await;
        assert!(self.region.is_draining());
        let stored = || async { self.store.start(number(1)).await.unwrap().set_back };
        eventually("the proof is stored", stored).await
    }

    fn link(&self, peer: RegionId) -> LinkState {
        self.peers.lock().unwrap().link(peer, self.clock.monotonic_ms())
    }
}

fn number(number: u8) -> RegionNumber {
    RegionNumber(std::num::NonZeroU8::new(number).unwrap())
}

/// Both regions and what lies between.
struct World {
    a_broker: Nats,
    b_broker: Nats,
    /// Over which b reaches a's broker.
    to_a: Cable,
    /// Over which a reaches b's broker.
    to_b: Cable,
}

impl World {
    async fn start() -> (Self, Site, Site) {
        let (a_broker, b_broker) = (Nats::start().await, Nats::start().await);
        let to_a = Cable::to(a_broker.port()).await;
        let to_b = Cable::to(b_broker.port()).await;
        let world = Self { a_broker, b_broker, to_a, to_b };
        let a = Site::start("a", Database::new().await, world.a_addresses()).await;
        let b = Site::start("b", Database::new().await, world.b_addresses()).await;
        (world, a, b)
    }

    fn a_addresses(&self) -> NatsAddresses {
        NatsAddresses {
            region: "a".parse().unwrap(),
            own: self.a_broker.address(),
            peers: [("b".parse().unwrap(), address(self.to_b.port()))].into(),
        }
    }

    fn b_addresses(&self) -> NatsAddresses {
        NatsAddresses {
            region: "b".parse().unwrap(),
            own: self.b_broker.address(),
            peers: [("a".parse().unwrap(), address(self.to_a.port()))].into(),
        }
    }
}

/// As if an older backup had been put back, that ends with the second envelope.
async fn forgotten(database: Database) -> Database {
    let forget = "DELETE FROM outbox WHERE seq > 2; UPDATE outbox_head SET seq = 2";
    sqlx::raw_sql(forget).execute(&mut database.connection().await).await.unwrap();
    database
}

async fn caught_up(site: &Site, origin: &str, sequence: u64) {
    eventually("all is applied", || async {
        (site.applied(origin).await >= sequence).then_some(())
    })
    .await;
}

#[tokio::test]
async fn both_ways_over_a_cut_link_a_lost_stream_and_a_restart() {
    let (mut world, a, b) = World::start().await;
    a.write(1, 20).await;
    b.write(1, 5).await;
    caught_up(&b, "a", 20).await;
    caught_up(&a, "b", 5).await;

    // A cut: both go on for themselves.
    world.to_a.cut();
    world.to_b.cut();
    a.write(21, 40).await;
    b.write(6, 9).await;
    eventually("the silence is noticed", || async {
        let silent = [a.link(b.id), b.link(a.id)] == [LinkState::Silent; 2];
        silent.then_some(())
    })
    .await;
    assert_eq!(b.applied("a").await, 20);
    world.to_a.heal();
    world.to_b.heal();
    caught_up(&b, "a", 40).await;
    caught_up(&a, "b", 9).await;

    // The broker loses its disk with messages nobody has read; b's process is down meanwhile.
    let b_database = b.stop().await;
    a.write(41, 60).await;
    a.has_published(60).await;
    world.a_broker.kill_and_wipe();
    a.write(61, 70).await;
    world.a_broker.start_again().await;
    let b = Site::start("b", b_database, world.b_addresses()).await;
    caught_up(&b, "a", 70).await;
    a.write(71, 80).await;
    caught_up(&b, "a", 80).await;

    assert_eq!(b.inbox().await, a.outbox().await);
    assert_eq!(a.inbox().await, b.outbox().await);
    let products = "SELECT 0::bigint, sku || document FROM products ORDER BY sku";
    assert_eq!(a.log(products).await, b.log(products).await);
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn a_database_behind_its_own_stream_takes_no_orders_any_more() {
    let (world, a, b) = World::start().await;
    b.stop().await;
    // A publisher leaves out what was there before it found its stream empty.
    let written = AtomicU64::new(0);
    eventually("the stream has more than will be remembered", || async {
        let next = written.fetch_add(1, Relaxed) + 1;
        a.write(next, next).await;
        (a.bus.published().await.ok().flatten()?.sequence > 2).then_some(())
    })
    .await;

    let a = Site::start("a", forgotten(a.stop().await).await, world.a_addresses()).await;
    let proof = a.proof_of_a_setback().await;
    assert!(proof.contains("the stream ends with"), "{proof}");
    let a = Site::start("a", a.stop().await, world.a_addresses()).await;
    assert!(a.region.is_set_back(), "after a restart as well");
    a.stop().await;
}

#[tokio::test]
async fn a_database_behind_what_a_peer_has_applied_takes_no_orders_any_more() {
    let (mut world, a, b) = World::start().await;
    a.write(1, 5).await;
    caught_up(&b, "a", 5).await;
    let database = forgotten(a.stop().await).await;
    world.a_broker.kill_and_wipe();
    world.a_broker.start_again().await;

    let a = Site::start("a", database, world.a_addresses()).await;
    let proof = a.proof_of_a_setback().await;
    assert!(proof.contains("a peer has applied"), "{proof}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn heartbeats_tell_watermarks_freshness_and_round_trips() {
    let (_world, a, b) = World::start().await;
    a.write(1, 3).await;
    let third = Position { epoch: Epoch::FIRST, sequence: 3 };
    eventually("a hears that b holds its writes", || async {
        a.peers.lock().unwrap().held_elsewhere(third).then_some(())
    })
    .await;
    eventually("b's copies are fresh, and get fresher while a is idle", || async {
        let peers = b.peers.lock().unwrap();
        let view = peers.view(a.id, 0).unwrap();
        let fresh: HlcTimestamp = view.fresh_as_of?;
        let idle = fresh.wall_ms > 1_000_000_000_000;
        (view.applied == third && idle && view.round_trip_ms.is_some()).then_some(())
    })
    .await;
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn three_thousand_envelopes_are_pulled_when_the_stream_has_none_of_them() {
    let (world, a, b) = World::start().await;
    let b_database = b.stop().await;
    let fill = "
        INSERT INTO outbox SELECT 1, n, '0000000000000001-00000001-a',
            encode(sha256('{\"changes\":[]}'), 'hex'), '{\"changes\":[]}', 0
        FROM generate_series(1, 3000) AS n;
        UPDATE outbox_head SET seq = 3000";
    sqlx::raw_sql(fill).execute(&mut a.database.connection().await).await.unwrap();
    let b = Site::start("b", b_database, world.b_addresses()).await;
    caught_up(&b, "a", 3_000).await;
    assert_eq!(b.inbox().await.len(), 3_000);
    b.stop().await;
    a.stop().await;
}
