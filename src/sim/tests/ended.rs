//! The end of a region that is gone for good, where some have not heard of it or have forgotten it.

use std::sync::Arc;

use crate::app::retire::RetireError;
use crate::ports::RejoinStore as _;
use crate::replication::retirement::Retirement;
use crate::sim::memory::{MemoryRights, Tables};
use crate::sim::plan::{Action, Entry, Knobs, Plan};
use crate::sim::run;
use crate::sim::world::World;
use crate::types::Epoch;

use super::gone::{BY, LOST, OTHER, end, name, pass, retire, server, world, world_of};

/// Beside the others where there are four.
const THIRD: usize = 3;

fn ended(world: &World, region: usize) -> Vec<Retirement> {
    world.sites()[region].memory.tables().ended()
}

/// The region is retired, and one that forgot that begins anew: of four, every majority with these two in it has a
/// third member, which tells.
async fn begin_anew_after(world: &Arc<World>, forgot: usize) {
    let backup: Tables = world.sites()[forgot].memory.tables().clone();
    retire(world).await;
    *world.sites()[forgot].memory.tables() = backup;
    pass(8_000).await;
    assert!(server(world, forgot).app.region.is_set_back());
    server(world, forgot).rejoin.begin().await.unwrap();
    world.rejoin().await;
    pass(10_000).await;
    assert!(server(world, forgot).app.region.may_write());
}

#[tokio::test(start_paused = true)]
async fn who_forgot_an_end_is_told_it_when_it_begins_anew() {
    let world = world_of(4).await;
    begin_anew_after(&world, OTHER).await;
    assert_eq!(ended(&world, OTHER), ended(&world, BY));
    let again = server(&world, BY).retire.retire(name(&world, LOST), "carol").await;
    assert!(again.unwrap().is_done());
    end(&world);
}

/// Orders that it had moved may be known to nobody else, and it moves them again.
#[tokio::test(start_paused = true)]
async fn who_carried_an_end_out_and_forgot_that_does_not_take_it_for_done() {
    let world = world_of(4).await;
    begin_anew_after(&world, BY).await;
    assert_eq!(ended(&world, BY), []);
    assert_eq!(ended(&world, OTHER), ended(&world, THIRD));
    let by = server(&world, BY);
    by.retire.retire(name(&world, LOST), "alice").await.unwrap();
    let again = by.retire.retire(name(&world, LOST), "bob").await.unwrap();
    assert!(again.is_done() && again.ends == Epoch(3));
    assert_eq!(ended(&world, OTHER), [again]);
    end(&world);
}

#[tokio::test(start_paused = true)]
async fn what_is_done_is_not_taken_back_when_it_is_said_once_more() {
    let world = world().await;
    retire(&world).await;
    let records = || -> Vec<Retirement> {
        world.sites()[BY].memory.tables().retirements.values().cloned().collect()
    };
    let done = records();
    let database = MemoryRights::new(world.sites()[OTHER].memory.clone(), Epoch::FIRST);
    database.note_incarnation(name(&world, LOST), Epoch(3)).await.unwrap();
    let again = server(&world, BY).retire.retire(name(&world, LOST), "carol").await;
    assert!(matches!(again, Err(RetireError::BegunAnew(Epoch(3)))), "{again:?}");
    assert_eq!(records(), done);
    // If it is gone after all, people say so of what it has begun.
    let by = server(&world, BY);
    by.retire.retire(name(&world, LOST), "alice").await.unwrap();
    let again = by.retire.retire(name(&world, LOST), "bob").await.unwrap();
    assert!(again.is_done() && again.ends == Epoch(4), "{again:?}");
    end(&world);
}

/// One that is in doubt does nothing for anybody until all others say that the lost region has ended.
#[tokio::test(start_paused = true)]
async fn an_end_that_was_told_by_half_is_told_to_those_behind_one_in_doubt() {
    let world = world_of(4).await;
    retire(&world).await;
    world.sites()[THIRD].memory.tables().retirements.clear();
    world.act(Action::SetBack { region: OTHER, after_ms: 0 }).await.unwrap();
    let is_in_doubt = || server(&world, OTHER).app.region.is_in_doubt();
    pass(30_000).await;
    assert!(is_in_doubt(), "one that has not heard of the end may know that it has begun anew");
    let again = async || server(&world, BY).retire.retire(name(&world, LOST), "carol").await;
    let refused = again().await;
    assert!(matches!(refused, Err(RetireError::NoLease)), "without it: {refused:?}");
    pass(5_000).await;
    assert!(!is_in_doubt());
    assert!(again().await.unwrap().is_done());
    end(&world);
}

/// Two begin anew, one after the other: the second one, of whom nobody has noted the first one's number, follows by what that
/// one writes. The witness has nothing to tell.
#[test]
fn an_incarnation_that_has_nothing_to_tell_is_followed_all_the_same() {
    let entry = |at_ms, action| Entry { at_ms, action };
    let plan = Plan {
        seed: 1,
        regions: 3,
        witness: true,
        storm_ms: 15_000,
        knobs: Knobs::default(),
        stock: vec![vec![10, 10]],
        entries: vec![
            entry(5_800, Action::Retired { region: 0, by: 1, down_ms: 14_000 }),
            entry(9_750, Action::SetBack { region: 2, after_ms: 1_500 }),
        ],
    };
    assert_eq!(run(&plan, false).violation, None);
}
