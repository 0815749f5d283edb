//! Regions that are gone for good: who waits for them, and who does not any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::app::rejoin::RejoinError;
use crate::app::retire::Retire;
use crate::ports::{GatewayError, LedgerPage, PaymentLedger, RejoinStore as _};
use crate::sim::memory::MemoryRights;
use crate::sim::plan::{Action, Knobs, Plan};
use crate::sim::server::Server;
use crate::sim::world::World;
use crate::types::{Epoch, RegionId};

// By their places among the regions: who ends the lost one, who is beside, and the lost one.
pub(super) const BY: usize = 0;
pub(super) const OTHER: usize = 1;
pub(super) const LOST: usize = 2;
const FOR_EVER_MS: u64 = 1_000_000_000;

pub(super) async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Three regions that hear each other, and nothing breaks but what a test breaks.
pub(super) async fn world() -> Arc<World> {
    world_of(3).await
}

pub(super) async fn world_of(regions: usize) -> Arc<World> {
    let (knobs, stock, entries) = (Knobs::default(), vec![vec![10; regions]], Vec::new());
    let plan =
        Plan { seed: 1, regions, witness: false, storm_ms: FOR_EVER_MS, knobs, stock, entries };
    let world = World::begin(&plan, false).await;
    pass(5_000).await;
    world
}

pub(super) fn server(world: &World, region: usize) -> Arc<Server> {
    world.server(region).expect("it runs")
}

pub(super) fn name(world: &World, region: usize) -> RegionId {
    world.sites()[region].region
}

/// The lost region is ended, and away for ever.
pub(super) async fn retire(world: &Arc<World>) {
    let retired = world.act(Action::Retired { region: LOST, by: BY, down_ms: 60_000 });
    retired.await.unwrap();
    drop(world.act(Action::Crash { region: LOST, down_ms: FOR_EVER_MS }));
    pass(2_000).await;
    for region in [BY, OTHER] {
        let ended = world.sites()[region].memory.tables().ended();
        assert!(ended.iter().any(|it| it.region == name(world, LOST) && it.is_done()), "{ended:?}");
    }
}

/// What is written meanwhile is forgotten.
async fn set_back(world: &Arc<World>, region: usize) {
    let back = world.act(Action::SetBack { region, after_ms: 1_000 });
    world.act(Action::Adjust { region, sku: 0, by: 3 }).await.unwrap();
    back.await.unwrap();
    pass(8_000).await;
    assert!(server(world, region).app.region.is_set_back());
}

pub(super) fn end(world: &World) {
    assert_eq!(world.shared.checks.violation(), None);
    world.end();
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_region_that_is_gone_is_compared_until_that_is_done() {
    let world = world().await;
    let asked = || world.shared.traffic().get("rejoin").map_or(0, |sum| sum.messages);
    world.act(Action::Fence { by: BY, lost: LOST }).await.unwrap();
    drop(world.act(Action::Crash { region: LOST, down_ms: FOR_EVER_MS }));
    pass(60_000).await;
    let before = asked();
    pass(120_000).await;
    assert!(asked() > before, "while the region may come back");
    retire(&world).await;
    let before = asked();
    pass(120_000).await;
    assert_eq!(asked(), before);
    end(&world);
}

#[tokio::test(start_paused = true)]
async fn a_start_without_a_marker_does_not_wait_for_a_region_that_is_gone() {
    let world = world().await;
    drop(world.act(Action::Crash { region: LOST, down_ms: FOR_EVER_MS }));
    let restored = Action::SetBack { region: OTHER, after_ms: 0 };
    let is_in_doubt = || server(&world, OTHER).app.region.is_in_doubt();
    world.act(restored.clone()).await.unwrap();
    pass(30_000).await;
    assert!(is_in_doubt(), "it may have told the region that is away what it forgot");
    server(&world, OTHER).verification.trust();
    retire(&world).await;
    world.act(restored).await.unwrap();
    assert!(is_in_doubt());
    pass(30_000).await;
    assert!(!is_in_doubt());
    end(&world);
}

#[tokio::test(start_paused = true)]
async fn a_region_begins_anew_without_one_whose_end_it_remembers_and_that_one_after_it() {
    let world = world().await;
    retire(&world).await;
    set_back(&world, OTHER).await;
    let begun = server(&world, OTHER).rejoin.begin().await.unwrap();
    assert_eq!(begun.epoch, Epoch(2));
    world.rejoin().await;
    pass(10_000).await;
    assert!(server(&world, OTHER).app.region.may_write());
    // It is built anew on an empty database.
    world.heal().await;
    pass(8_000).await;
    for _ in 0..2 {
        world.rejoin().await;
        pass(8_000).await;
    }
    let lost = server(&world, LOST);
    assert!(lost.app.region.may_write() && lost.app.region.epoch == Epoch(3));
    assert_eq!(world.sites()[OTHER].memory.tables().ended(), []);
    end(&world);
}

/// What the two had told each other, and nobody else, both have forgotten.
#[tokio::test(start_paused = true)]
async fn a_region_that_forgot_the_end_of_another_one_waits_for_it() {
    let world = world().await;
    let backup = world.sites()[OTHER].memory.tables().clone();
    retire(&world).await;
    let tables = std::mem::replace(&mut *world.sites()[OTHER].memory.tables(), backup);
    drop(tables);
    pass(8_000).await;
    let other = server(&world, OTHER);
    assert!(other.app.region.is_set_back());
    let refused = other.rejoin.begin().await;
    let lost = name(&world, LOST);
    assert!(matches!(refused, Err(RejoinError::LostTogether(it)) if it == lost));
    world.end();
}

/// The provider's books never end.
#[derive(Default)]
struct Endless(AtomicUsize);

#[async_trait]
impl PaymentLedger for Endless {
    async fn page(&self, _: Option<&str>) -> Result<LedgerPage, GatewayError> {
        pass(300).await;
        let next = self.0.fetch_add(1, Ordering::Relaxed).to_string();
        Ok(LedgerPage { entries: Vec::new(), next: Some(next) })
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_retirement_would_come_to_is_counted_for_some_seconds() {
    let world = world().await;
    let (region, running) = (name(&world, LOST), server(&world, BY));
    let own = &running.retire;
    let retire = Retire {
        region: Arc::clone(&own.region),
        rights: Arc::clone(&own.rights),
        adoption: Arc::clone(&own.adoption),
        store: Arc::clone(&own.store),
        known: Arc::clone(&own.known),
        records: Arc::clone(&own.records),
        ledger: Arc::new(Endless::default()),
        bus: Arc::clone(&own.bus),
        alone: tokio::sync::Mutex::default(),
        failure: std::sync::Mutex::default(),
    };
    let began_ms = world.shared.time.now_ms();
    let prospect = retire.weigh(region).await.unwrap();
    assert!(!prospect.has_more_units);
    assert!(prospect.lost.not_read.is_some_and(|why| why.contains("only the first")));
    assert!(world.shared.time.now_ms() - began_ms < 3_000);
    // As many incarnations as nobody counts in the time.
    let database = MemoryRights::new(world.sites()[BY].memory.clone(), Epoch::FIRST);
    database.note_incarnation(region, Epoch(9_000)).await.unwrap();
    let began_ms = world.shared.time.now_ms();
    assert!(retire.weigh(region).await.unwrap().has_more_units);
    assert!(world.shared.time.now_ms() - began_ms < 3_000);
    world.end();
}
