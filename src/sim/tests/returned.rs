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

/// What it wrote when it returned the first time is no sign that it was not given up again.
#[tokio::test(start_paused = true)]
async fn a_region_that_was_lost_twice_acts_for_its_orders_as_soon_as_after_the_first_time() {
    let world = world().await;
    let acts = || server(&world, LOST).app.region.holds_order_lease(0);
    for _ in 0..2 {
        drop(world.act(Action::Crash { region: LOST, down_ms: 20_000 }));
        pass(1_000).await;
        world.act(Action::Fence { by: BY, lost: LOST }).await.unwrap();
        pass(20_000).await;
        assert!(!acts());
        server(&world, LOST).rights.come_back().await.unwrap();
        pass(3_000).await;
        assert!(acts());
    }
    assert_eq!(world.shared.checks.violation(), None);
    world.end();
}
