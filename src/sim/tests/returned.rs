//! A region that was lost and is back.

use crate::sim::plan::Action;

use super::gone::{BY, LOST, name, pass, server, world};

/// Who acts for its orders lives, and the two do not hear each other.
#[tokio::test(start_paused = true)]
async fn a_region_that_returns_waits_until_who_acts_for_its_orders_has_stopped() {
    let world = world().await;
    let (by, lost) = (name(&world, BY), name(&world, LOST));
    let cut = |cut| {
        world.network.set_cut(by, lost, cut);
        world.network.set_cut(lost, by, cut);
    };
    let acts = || server(&world, LOST).app.region.holds_order_lease(0);
    assert!(acts());
    cut(true);
    world.act(Action::Fence { by: BY, lost: LOST }).await.unwrap();
    pass(20_000).await;
    assert!(!acts());
    server(&world, LOST).rights.come_back().await.unwrap();
    pass(20_000).await;
    assert!(!acts(), "it was not heard to stop");
    cut(false);
    pass(10_000).await;
    assert!(acts());
    assert_eq!(world.shared.checks.violation(), None);
    world.end();
}
