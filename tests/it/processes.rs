//! Several server processes of one region on one database: what one of them is told, all of them know; and a region's way
//! back into traffic, of which all of them take steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use entrepot::app::adoption::Adoption;
use entrepot::app::evacuate::{Evacuation, EvacuationError};

use entrepot::app::rights::{FenceError, Rights};
use entrepot::app::{
    Command, OrderLease, Region, Routing, Signals, Stops, Workspace, WriteError, Writer,
    WriterSettings,
};
use entrepot::domain::evacuation::Stage;
use entrepot::domain::order::EventBody;
use entrepot::escrow::steward_of;
use entrepot::ports::store::SagaWrite;
use entrepot::ports::{Clock, Needs, Reader as _, StopStore as _, Store as _};
use entrepot::runtime::{RandomIds, SystemClock, TaskSet};
use entrepot::saga::SagaRecord;
use entrepot::store::PgRights;
use entrepot::types::{Epoch, HlcTimestamp, OrderId, RegionNumber, SagaId};
use uuid::Uuid;

use crate::support::world::{NAMES, World, actor};
use crate::support::{eventually, writes};

/// A server's process, without its workers.
struct Process {
    region: Arc<Region>,
    rights: Arc<Rights>,
    stops: Arc<Stops>,
    writer: Writer,
    evacuation: Arc<Evacuation>,
    adoption: Adoption,
    tasks: TaskSet,
}

impl Process {
    fn of(world: &World, index: usize) -> Self {
        let at = &world.regions[index];
        let (clock, tasks, signals) = (SystemClock::new(), TaskSet::new(), Signals::default());
        let number = |number| RegionNumber(std::num::NonZeroU8::new(number).unwrap());
        let numbers = (1..).map(number).zip(NAMES);
        let region = Arc::new(Region::new(
            at.id,
            numbers.map(|(number, name)| (name.parse().unwrap(), number)).collect(),
            Epoch::FIRST,
            HlcTimestamp::origin(at.id),
            Arc::new(clock),
            Arc::new(RandomIds::new(clock)),
        ));
        let (rights, store) = (at.another_process(), Arc::new(at.store.clone()));
        let stops = Stops::new(Arc::clone(&region), store.clone(), tasks.clone(), false, None);
        let stops = Arc::new(stops);
        let settings = WriterSettings { group_max: 8, writers: 1, queue_max: 8 };
        let writer =
            Writer::start(&tasks, Arc::clone(&region), store.clone(), signals.clone(), settings);
        let evacuation = Arc::new(Evacuation {
            region: Arc::clone(&region),
            rights: Arc::clone(&rights),
            reader: store.clone(),
            store: store.clone(),
            signals: signals.clone(),
            stops: Arc::clone(&stops),
            log: store.clone(),
            bus: Arc::clone(&rights.bus),
            tasks: tasks.clone(),
            known: store.clone(),
            telling: tokio::sync::Mutex::default(),
        });
        let (own, bus) = (Arc::clone(&region), Arc::clone(&rights.bus));
        let lease = OrderLease::new(own, Arc::clone(&rights), store.clone(), bus);
        let adoption = Adoption {
            region: Arc::clone(&region),
            rights: Arc::clone(&rights),
            store: store.clone(),
            known: Arc::new(PgRights::new(at.store.clone(), Epoch::FIRST)),
            retirements: Arc::new(PgRights::new(at.store.clone(), Epoch::FIRST)),
            reader: store,
            bus: Arc::clone(&rights.bus),
            signals,
            lease: Arc::new(lease),
            lost: std::sync::Mutex::default(),
            alone: tokio::sync::Mutex::default(),
        };
        Self { region, rights, stops, writer, evacuation, adoption, tasks }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.tasks.stopping().cancel();
    }
}

/// Places an order unless the region is known to be drained.
struct Place(OrderId);

impl Command for Place {
    type Answer = bool;

    fn needs(&self, needs: &mut Needs, _attempt: u32) {
        needs.orders.insert(self.0);
    }

    fn decide(&self, workspace: &mut Workspace<'_>) -> bool {
        if workspace.region.is_draining() {
            return false;
        }
        let region = workspace.region.id;
        let placed = writes::placed(region, self.0, workspace.now_ms);
        let mut made = workspace.change_order(None);
        let stamp = workspace.tick();
        made.push(stamp, EventBody::Placed(Box::new(placed.record.order.clone()))).unwrap();
        workspace.write_order(made, None);
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_not_told_places_no_order_in_a_drained_region() {
    let world = World::with_workers(false).await;
    let (told, other) = (Process::of(&world, 0), Process::of(&world, 0));
    let store = &world.regions[0].store;
    let place = async |process: &Process, serial| -> Result<bool, WriteError> {
        let (placed, _) = process.writer.submit(Place(writes::order_id(1, serial))).await?;
        let there = store.order(writes::order_id(1, serial)).await.unwrap().is_some();
        assert_eq!(there, placed);
        Ok(placed)
    };
    assert_eq!(place(&other, 1).await, Ok(true));
    assert!(told.stops.drain(true).await.unwrap());
    assert!(!other.region.is_draining(), "it was not told");
    assert_eq!(place(&other, 2).await, Ok(false));
    assert!(other.region.is_draining(), "it is now");

    // The other way round nothing is refused, so it looks.
    assert!(told.stops.drain(false).await.unwrap());
    assert!(other.region.is_draining());
    other.stops.look().await.unwrap();
    assert_eq!(place(&other, 3).await, Ok(true));
    assert!(told.stops.drain(true).await.unwrap());
    other.stops.look().await.unwrap();
    assert!(other.region.is_draining(), "also without an order");
    told.stops.set_back("a peer knows more".to_owned());
    let noticed = || async {
        other.stops.look().await.unwrap();
        other.region.is_set_back().then_some(())
    };
    eventually("it learns that the database was set back", noticed).await;
}

/// As one that is under way keeps an evacuation from going on.
async fn an_order_that_is_not_decided(world: &World) {
    let at = &world.regions[0];
    let id = writes::order_id(1, 1);
    let order = writes::unpaid(at.id, id, 1);
    let saga = SagaRecord::taken_up(&order.record.order, 1);
    let saga = SagaWrite { record: SagaRecord { version: 1, ..saga }, expected_version: 0 };
    let mut changes = writes::orders([order]);
    changes.sagas.insert(SagaId(id.0), saga);
    at.store.commit(&changes, writes::stamp(at.id, 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evacuation_is_told_and_aborted_by_any_process() {
    let world = World::with_workers(false).await;
    an_order_that_is_not_decided(&world).await;
    let (carries_out, other) = (Process::of(&world, 0), Process::of(&world, 0));
    let now = Duration::ZERO;
    let begun = carries_out.evacuation.follow(None, None, now).await.unwrap();
    assert_eq!(begun.stage, Stage::Settling);
    let drained = || async { carries_out.region.is_draining().then_some(()) };
    eventually("it is drained", drained).await;

    let seen = other.evacuation.follow(None, None, now).await.unwrap();
    assert_eq!((seen.run, seen.to, seen.stage), (begun.run, begun.to, Stage::Settling));
    let seen = other.evacuation.follow(None, Some(begun.run), now).await.unwrap();
    assert_eq!(seen.stage, Stage::Settling);
    let unknown = other.evacuation.follow(None, Some(Uuid::nil()), now).await;
    assert!(matches!(unknown, Err(EvacuationError::NoneUnderWay(_))), "{unknown:?}");
    let unknown = other.evacuation.abort(Some(Uuid::nil())).await;
    assert!(matches!(unknown, Err(EvacuationError::NoneUnderWay(_))), "{unknown:?}");

    let ended = other.evacuation.abort(None).await.unwrap();
    assert_eq!((ended.run, ended.stage), (begun.run, Stage::Aborted));
    carries_out.stops.look().await.unwrap();
    assert!(!carries_out.region.is_draining(), "it takes orders again");
    let known = carries_out.evacuation.follow(None, Some(begun.run), now).await.unwrap();
    assert_eq!(known.stage, Stage::Aborted);
    let again = other.evacuation.abort(Some(begun.run)).await.unwrap();
    assert_eq!(again.stage, Stage::Aborted, "asked again, it tells");
    let nothing = other.evacuation.abort(None).await;
    assert!(matches!(nothing, Err(EvacuationError::NoneUnderWay(_))), "{nothing:?}");

    // What an operator has said holds beyond it.
    assert!(other.stops.drain(true).await.unwrap());
    other.evacuation.follow(None, None, now).await.unwrap();
    assert_eq!(other.evacuation.abort(None).await.unwrap().stage, Stage::Aborted);
    assert!(other.region.is_draining(), "it was drained before");

    // Whoever resumes the region ends it, whatever is under way.
    let begun = carries_out.evacuation.follow(None, None, now).await.unwrap();
    assert!(other.stops.drain(false).await.unwrap());
    let limit = Duration::from_secs(10);
    let ended = other.evacuation.follow(None, Some(begun.run), limit).await.unwrap();
    assert_eq!(ended.stage, Stage::Failed);
    assert!(ended.detail.is_some_and(|why| why.contains("was resumed meanwhile")));
    other.stops.look().await.unwrap();
    assert!(!other.region.is_draining());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_word_that_a_region_is_gone_outlives_the_process_that_was_told() {
    let world = World::start().await;
    let lost = world.regions[2].id;
    let steward = async |of: &Process| {
        let known = of.rights.registers.stewardship(lost).await.unwrap();
        steward_of(lost, known.slot.as_ref().map(|slot| &slot.value))
    };
    // Another process confirms the promises, then acts.
    let goes_on = async |process: &Process| {
        process.rights.read_fences().await.unwrap();
        for _ in 0..2 {
            process.adoption.go_on().await.unwrap();
        }
    };
    let first = Process::of(&world, 0);
    // Not of one that is heard.
    assert_eq!(first.adoption.fence(lost, true).await, Err(FenceError::Heard(lost)));
    assert!(!first.rights.is_fenced(actor(lost)));
    // Nor of one that only others hear.
    world.hub.cut(world.regions[0].id, lost);
    assert_eq!(first.adoption.fence(lost, true).await, Err(FenceError::Heard(lost)));
    world.hub.cut(world.regions[1].id, lost);
    first.adoption.fence(lost, true).await.unwrap();
    drop(first);
    let next = Process::of(&world, 0);
    goes_on(&next).await;
    assert_eq!(steward(&next).await, world.regions[0].id, "no lease is waited out");

    // It was said of that fence, and not of the next one.
    let again = Process::of(&world, 0);
    let outbid = Process::of(&world, 1);
    outbid.adoption.fence(lost, false).await.unwrap();
    again.adoption.fence(lost, false).await.unwrap();
    let promised = again.rights.registers.stewardship(lost).await.unwrap().promised;
    assert_eq!(promised.ballot.region, world.regions[0].id);
    assert!(!again.rights.registers.is_gone(lost, promised.ballot).await.unwrap());
}

/// Stands still until it is set.
#[derive(Default)]
struct Still(AtomicU64);

impl Clock for Still {
    fn wall_ms(&self) -> u64 {
        self.monotonic_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_back_takes_its_steps_while_it_is_well() {
    const STEP: Duration = Duration::from_mins(1);
    const STEP_MS: u64 = 60_000;
    let world = World::with_workers(false).await;
    let (at, clock) = (&world.regions[0], Arc::new(Still::default()));
    let number = RegionNumber(std::num::NonZeroU8::MIN);
    let numbers = world.regions.iter().map(|region| (region.id, number)).collect();
    let (now, ids) = (Arc::clone(&clock) as Arc<dyn Clock>, RandomIds::new(SystemClock::new()));
    let origin = HlcTimestamp::origin(at.id);
    let region = Arc::new(Region::new(at.id, numbers, Epoch::FIRST, origin, now, Arc::new(ids)));
    let store = Arc::new(at.store.clone());
    let stops = Stops::new(Arc::clone(&region), store.clone(), TaskSet::new(), false, None);
    let routing = Routing {
        region,
        rights: at.another_process(),
        store: store.clone(),
        step: STEP,
        since: std::sync::Mutex::default(),
        told: tokio::sync::Mutex::default(),
    };
    let goes_on_after = async |ms: u64| {
        clock.0.fetch_add(ms, Ordering::Relaxed);
        routing.go_on().await.unwrap();
        store.canary().await.unwrap()
    };
    let told = async || {
        let told = routing.tell().await.unwrap();
        let own = told.routes.iter().find(|route| route.region == at.id).unwrap();
        (told.routes.len(), told.ready, own.share.unwrap())
    };
    assert_eq!(told().await, (3, true, 100));
    routing.begin_canary().await.unwrap();
    stops.drain(true).await.unwrap();
    assert_eq!(told().await, (3, true, 100), "whoever asks again at once is told the same");
    clock.0.fetch_add(1_000, Ordering::Relaxed);
    assert_eq!(told().await, (3, false, 5));
    assert_eq!(goes_on_after(10 * STEP_MS).await, Some(0), "it takes no orders");
    stops.drain(false).await.unwrap();
    assert_eq!(goes_on_after(STEP_MS - 1).await, Some(0));
    assert_eq!(goes_on_after(1).await, Some(1));
    assert_eq!(goes_on_after(1).await, Some(1));
    assert_eq!(goes_on_after(STEP_MS).await, Some(2));
    // Lost again: from the first step on, for all of its time.
    routing.begin_canary().await.unwrap();
    assert_eq!(goes_on_after(STEP_MS - 1).await, Some(0));
    assert_eq!(goes_on_after(STEP_MS).await, Some(1));
    assert_eq!(goes_on_after(1).await, Some(1));
    assert_eq!(goes_on_after(STEP_MS).await, Some(2));
    assert_eq!(goes_on_after(1).await, Some(2));
    assert_eq!(goes_on_after(STEP_MS).await, None);
    clock.0.fetch_add(1_000, Ordering::Relaxed);
    assert_eq!(told().await, (3, true, 100));
}
