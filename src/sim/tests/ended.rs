//! The end of a region that is gone for good, where some have not heard of it or have forgotten it.

use std::sync::Arc;

use crate::replication::retirement::Retirement;
use crate::sim::memory::Tables;
use crate::sim::world::World;
use crate::types::Epoch;

use super::gone::{BY, LOST, OTHER, end, name, pass, retire, server, world_of};

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
