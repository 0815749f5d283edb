//! One run: the plan is played, everything is healed, and comes to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::escrow::majority;
use crate::runtime::spawn_named;
use crate::types::InvariantId;

use super::checks::{Violation, are_equal, catch_panics, is_idle};
use super::memory::Memory;
use super::plan::{Action, Plan};
use super::shared::Traffic;
use super::shopper;
use super::world::World;

/// Between looks at whether everything has come to rest.
const LOOK: Duration = Duration::from_millis(250);
/// Between the shoppers who ask once more.
const BETWEEN_SHOPPERS: Duration = Duration::from_millis(5);
/// I-16: a saga ends within so long, or is on the stuck list; here nothing is broken any more, so it ends.
const SAGAS_END_MS: u64 = 300_000;
/// I-20: so long after the last change regions are equal.
const EQUAL_MS: u64 = 30_000;

/// Rights may go on moving ahead of demand while the memory of it fades, so long and no longer.
const REST_MS: u64 = 300_000;
/// After so long a region whose database was set back has compared its rows with every peer twice.
const NOTICED_MS: u64 = 15_000;

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The first rule that was broken.
    pub violation: Option<Violation>,
    /// Lines of the trace.
    pub lines: u64,
    /// Their hash: equal for equal runs.
    pub hash: String,
    /// The lines, if they were asked for.
    pub trace: Vec<String>,
    /// How much virtual time it took.
    pub virtual_ms: u64,
    /// What shoppers were told, and how often.
    pub tally: BTreeMap<String, u64>,
    /// A region's database was set back and nobody could let it begin anew, since two had forgotten what they told each
    /// other. What it forgot is missing in every sum, so that only its having noticed was looked at in the end.
    pub is_left_to_people: bool,
    /// What regions sent each other until the storm was over, by what it was.
    pub traffic: BTreeMap<&'static str, Traffic>,
}

/// Plays a plan in this thread, which must not belong to an async runtime.
pub fn run(plan: &Plan, keep_trace: bool) -> Outcome {
    catch_panics();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the machine");
    runtime.block_on(play(plan, keep_trace))
}

async fn play(plan: &Plan, keep_trace: bool) -> Outcome {
    let world = World::begin(plan, keep_trace).await;
    let shoppers = storm(&world, plan).await;
    let traffic = world.shared.traffic();
    if world.shared.checks.violation().is_none() {
        world.heal().await;
        settle(&world, &shoppers).await;
        // Where a region forgot its orders, what it answers is no measure.
        let checks = &world.shared.checks;
        if checks.forgot().is_empty() && checks.violation().is_none() {
            let again = ask_again(&world, plan).await;
            settle(&world, &again).await;
        }
    }
    if world.shared.checks.violation().is_none() {
        world.shared.checks.at_rest(&world.provider.books());
    }
    world.end();
    let violation = world.shared.checks.violation();
    if let Some(violation) = &violation {
        world.shared.note("world", format_args!("{violation}"));
    }
    let (lines, hash, trace) = world.shared.trace.finish();
    let (virtual_ms, tally) = (world.shared.time.now_ms(), world.shared.checks.tally());
    let is_left_to_people = !world.shared.checks.forgot().is_empty();
    Outcome { violation, lines, hash, trace, virtual_ms, tally, is_left_to_people, traffic }
}

/// Everything that the plan says. Answers the shoppers, who may still be at it.
async fn storm(world: &Arc<World>, plan: &Plan) -> Vec<JoinHandle<()>> {
    let mut shoppers = Vec::new();
    for entry in &plan.entries {
        wait_until(world, entry.at_ms).await;
        if world.shared.checks.violation().is_some() {
            return shoppers;
        }
        let is_order = matches!(entry.action, Action::Order(_));
        let going_on = world.act(entry.action.clone());
        if is_order {
            shoppers.push(going_on);
        }
    }
    wait_until(world, plan.storm_ms).await;
    shoppers
}

/// Every intent once more.
async fn ask_again(world: &Arc<World>, plan: &Plan) -> Vec<JoinHandle<()>> {
    let mut asked = BTreeSet::new();
    let mut shoppers = Vec::new();
    for entry in &plan.entries {
        if let Action::Order(shopping) = &entry.action
            && asked.insert(shopping.key)
        {
            let again = shopper::ask_again(Arc::clone(world), shopping.clone());
            shoppers.push(spawn_named("ask again", again));
            tokio::time::sleep(BETWEEN_SHOPPERS).await;
        }
    }
    shoppers
}

async fn wait_until(world: &World, at_ms: u64) {
    let left = at_ms.saturating_sub(world.shared.time.now_ms());
    if left > 0 {
        tokio::time::sleep(Duration::from_millis(left)).await;
    }
}

/// Liveness: with nothing broken, everything ends and becomes equal.
async fn settle(world: &Arc<World>, shoppers: &[JoinHandle<()>]) {
    let healed_ms = world.shared.time.now_ms();
    let mut idle_since_ms = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let checks = &world.shared.checks;
        if checks.violation().is_some() {
            return;
        }
        world.rejoin().await;
        let now_ms = world.shared.time.now_ms();
        let (forgot, memories) = (checks.forgot(), checks.sound());
        let has_ended = shoppers.iter().all(JoinHandle::is_finished) && world.is_sure();
        // Without a majority a region keeps its hands off its older orders.
        let may_act = memories.len() >= majority(world.regions());
        if !(has_ended && (!may_act || is_idle(&memories, forgot.is_empty()))) {
            idle_since_ms = None;
            if now_ms - healed_ms > SAGAS_END_MS {
                checks.broken(InvariantId::NoSagaWaitsForEver, unfinished(&memories));
            }
            continue;
        }
        let idle_ms = now_ms - *idle_since_ms.get_or_insert(now_ms);
        let rest_ms = idle_ms.min(now_ms - checks.moved_ms());
        match are_equal(&memories) {
            // Whether something was forgotten is compared now and then.
            Ok(()) if forgot.is_empty() || idle_ms > NOTICED_MS => return,
            Err(difference) if rest_ms > EQUAL_MS || idle_ms > REST_MS => {
                checks.broken(InvariantId::RegionsConverge, difference);
            }
            Ok(()) | Err(_) => {}
        }
    }
}

fn unfinished(memories: &[Memory]) -> String {
    let open = |memory: &Memory| {
        let tables = memory.tables();
        let open = tables.sagas.values().filter(|(saga, _)| !saga.state.is_over());
        let ids: Vec<String> = open.map(|(saga, _)| saga.id.to_string()).collect();
        let contests = tables.open_contests(memory.region());
        format!("{}: open sagas {ids:?}, contests {contests}", memory.region())
    };
    memories.iter().map(open).collect::<Vec<_>>().join("; ")
}
