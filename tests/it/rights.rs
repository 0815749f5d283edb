//! Rights between three regions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use entrepot::app::rights::{TRANSFER, TransferError, ask_peer, transfer};
use entrepot::domain::inventory::{Shortage, StockDelta};
use entrepot::escrow::{KeyedRow, bucket_of};
use entrepot::ports::store::Spendable;
use entrepot::ports::{CommitError, Reader, RightsSource};
use entrepot::runtime::TaskSet;
use entrepot::types::{StockKey, TransferId};

use crate::support::eventually;
use crate::support::world::{OTHER_NODE, PATIENCE, World, actor, key, key_at, sku};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_unit_sells_wherever_it_is_and_no_unit_twice() {
    let world = World::start().await;
    for (region, units) in world.regions.iter().zip([40, 0, 60]) {
        region.receive("x", units).await;
    }
    let mut sold = 0;
    for region in world.regions.iter().cycle() {
        if !region.sell("x", 3).await {
            break;
        }
        sold += 3;
    }
    assert_eq!(sold, 99, "refused while units were left");
    let mut last = 0;
    for region in &world.regions {
        last += u64::from(region.sell("x", 1).await);
    }
    assert_eq!(last, 1, "the hundredth unit");
    world.check_conserved("x", 100).await;
    world.converge().await;
    assert!(world.regions.iter().all(|region| region.amnesia.load(Ordering::Relaxed) == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_shoppers_race_for_the_last_units() {
    let world = World::start().await;
    for (name, units) in [("one", 1), ("seven", 7)] {
        world.regions[2].receive(name, units).await;
        let shoppers = (0..50).map(|shopper| world.regions[shopper % 3].sell(name, 1));
        let sold = futures::future::join_all(shoppers).await;
        let sold = sold.into_iter().filter(|&sold| sold).count() as u64;
        assert_eq!(sold, units, "of {name}");
        world.check_conserved(name, units).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_links_cut_each_region_sells_exactly_what_it_holds() {
    let world = World::start().await;
    for (region, units) in world.regions.iter().zip([40, 30, 30]) {
        region.receive("x", units).await;
    }
    world.converge().await;
    let [a, b, c] = [0, 1, 2].map(|index| world.regions[index].id);
    for (one, other) in [(a, b), (b, c), (a, c)] {
        world.hub.cut(one, other);
    }
    // What the rebalancer may have moved before the cut counts where it is now.
    let mut held = BTreeMap::new();
    for region in &world.regions {
        held.insert(region.id, region.spendable("x").await);
    }
    for region in &world.regions {
        let mut sold = 0;
        for _ in 0..60 {
            sold += u64::from(region.sell("x", 1).await);
        }
        assert_eq!(sold, held[&region.id], "in {}", region.id);
    }
    world.hub.heal();
    world.converge().await;
    for region in &world.regions {
        let rows = region.rights.store.rows(&BTreeSet::from([key("x")])).await.unwrap();
        let sold: u64 = rows.iter().map(|row| row.row.net_spent()).sum();
        assert_eq!(sold, 100, "{} knows of all sales", region.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_heard_twice_grants_once() {
    let world = World::start().await;
    world.regions[0].receive("x", 100).await;
    world.hub.deliver_twice(true);
    let request = world.regions[1].request("x", 10).await;
    for _ in 0..3 {
        ask_peer(&world.regions[1].rights, world.regions[0].id, &request).await.unwrap();
    }
    assert_eq!(world.regions[0].cell("x", "granted_total").await, 10);
    let raised = || async { (world.regions[1].spendable("x").await == 10).then_some(()) };
    eventually("what came may be sold", raised).await;
    let id = request.request.0;
    for (region, state) in world.regions.iter().zip(["granted", "credited"]) {
        let mut connection = region.database.connection().await;
        let statement = "SELECT transfer_id, quantity, state FROM transfers";
        let books: Vec<(uuid::Uuid, i64, String)> =
            sqlx::query_as(statement).fetch_all(&mut connection).await.unwrap();
        assert_eq!(books, [(id, 10, state.to_owned())], "in {}", region.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_under_way_to_a_peer_that_does_not_know_are_found() {
    let world = World::with_workers(false).await;
    let [a, b, c] = &world.regions[..] else { unreachable!("three regions") };
    b.receive("x", 1).await;
    b.rights
        .store
        .transfer(TransferId(a.rights.ids.uuid()), &key("x"), actor(c.id), 1)
        .await
        .unwrap();
    let handlers = [TaskSet::new(), TaskSet::new()];
    for (region, tasks) in [b, c].into_iter().zip(&handlers) {
        let (rights, stop) = (Arc::clone(&region.rights), tasks.stopping());
        drop(tasks.spawn("serve", async move {
            let giver = Arc::new(entrepot::app::rights::Giver::new(Arc::clone(&rights)));
            rights.bus.serve(TRANSFER, giver, stop).await;
        }));
        let (rights, stop) = (Arc::clone(&region.rights), tasks.stopping());
        drop(tasks.spawn("accept", async move {
            let acceptor = Arc::new(entrepot::app::rights::AcceptHandler::new(Arc::clone(&rights)));
            rights.bus.serve(entrepot::app::rights::ACCEPT, acceptor, stop).await;
        }));
    }
    for region in [a, c] {
        let rights = Arc::clone(&region.rights);
        drop(region.tasks.spawn("raise", async move {
            loop {
                rights.raises.wanted().await;
                rights.raise_round().await.unwrap();
            }
        }));
    }
    let sold = || async { a.sell("x", 1).await.then_some(()) };
    eventually("the unit sells once both peers answer", sold).await;
    assert_eq!(c.cell("x", "granted_total").await, 1, "it came by way of c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_whose_answer_got_lost_arrives_with_the_rows() {
    let world = World::start().await;
    world.regions[0].receive("x", 5).await;
    world.hub.lose_answers(true);
    world.hub.lose_rows(true);
    let request = world.regions[1].request("x", 5).await;
    assert!(ask_peer(&world.regions[1].rights, world.regions[0].id, &request).await.is_none());
    assert_eq!(world.regions[0].cell("x", "granted_total").await, 5);
    assert_eq!(world.regions[1].spendable("x").await, 0);
    world.hub.lose_answers(false);
    let credited = || async { (world.regions[1].spendable("x").await == 5).then_some(()) };
    eventually("the digests bring the grant", credited).await;
    world.converge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sales_and_grants_of_one_row_at_once_never_exceed_what_was_received() {
    let world = World::start().await;
    world.regions[0].receive("x", 200).await;
    let sales = (0..120).map(|_| world.regions[0].sell("x", 1));
    let grants = (0..120).map(|_| world.regions[1].sell("x", 1));
    let (here, there) =
        tokio::join!(futures::future::join_all(sales), futures::future::join_all(grants));
    let sold = here.into_iter().chain(there).filter(|&sold| sold).count();
    assert_eq!(sold, 200);
    world.check_conserved("x", 200).await;
    world.converge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_move_to_where_they_sell_before_they_are_short() {
    let world = World::start().await;
    world.regions[0].receive("x", 300).await;
    world.converge().await;
    // An order asks for what it lacks and no more; what comes on top was moved ahead of demand.
    let moved = || async {
        assert!(world.regions[1].sell("x", 1).await);
        (world.regions[1].spendable("x").await >= 50).then_some(())
    };
    eventually("the selling region holds stock for more than one order", moved).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_moves_budget_once_and_not_more_than_there_is() {
    let world = World::start().await;
    let [a, b, _] = &world.regions[..] else { unreachable!("three regions") };
    a.receive("x", 10).await;
    let id = TransferId(a.rights.ids.uuid());
    for replayed in [false, true] {
        assert_eq!(transfer(&a.rights, id, &key("x"), b.id, 7).await, Ok(replayed));
    }
    let arrived = || async { (b.spendable("x").await == 7).then_some(()) };
    eventually("the rights arrive by themselves", arrived).await;
    let more = TransferId(a.rights.ids.uuid());
    let refusal = transfer(&a.rights, more, &key("x"), b.id, 4).await.unwrap_err();
    assert!(refusal.to_string().contains("may give 3 units"), "{refusal}");
    assert!(transfer(&a.rights, more, &key("x"), a.id, 1).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_region_knows_what_each_may_sell_alone() {
    let world = World::start().await;
    let [a, b, c] = &world.regions[..] else { unreachable!("three regions") };
    a.receive("x", 10).await;
    a.receive("y", 5).await;
    // Of what only one region has, so that nobody asks another one for more.
    assert!(a.sell("y", 1).await);
    let id = TransferId(a.rights.ids.uuid());
    assert_eq!(transfer(&a.rights, id, &key("x"), b.id, 2).await, Ok(false));
    let raised = || async { (b.spendable("x").await == 2).then_some(()) };
    eventually("what came may be sold", raised).await;
    world.converge().await;
    let spendable = |units, keys| Spendable { units, keys };
    for region in [a, b, c] {
        let alone = region.store.may_sell_alone().await.unwrap();
        assert_eq!(alone[&a.id], spendable(12, 2), "as {} sees it", region.id);
        assert_eq!(alone[&b.id], spendable(2, 1), "as {} sees it", region.id);
        assert!(!alone.contains_key(&c.id), "as {} sees it", region.id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfers_name_stands_for_one_transfer() {
    let world = World::with_workers(false).await;
    let [a, b, c] = &world.regions[..] else { unreachable!("three regions") };
    let received = StockDelta { received: 10, ..StockDelta::default() };
    for key in [key("x"), key_at("x", OTHER_NODE), key("y")] {
        a.commit_at(key, received).await.unwrap();
    }
    let id = TransferId(a.rights.ids.uuid());
    assert_eq!(transfer(&a.rights, id, &key("x"), b.id, 7).await, Ok(false));
    let others = [
        (key("y"), b.id, 7),
        (key_at("x", OTHER_NODE), b.id, 7),
        (key("x"), c.id, 7),
        (key("x"), b.id, 1),
    ];
    for (key, to, units) in &others {
        let other = transfer(&a.rights, id, key, *to, *units).await;
        assert_eq!(other, Err(TransferError::OtherTransfer), "{key:?} {units} to {to}");
    }
    let granted = async || {
        let mut connection = a.database.connection().await;
        let statement = "SELECT sum(granted_total)::bigint FROM rights WHERE owner = 'a'";
        sqlx::query_scalar::<_, i64>(statement).fetch_one(&mut connection).await.unwrap()
    };
    assert_eq!(granted().await, 7);
    // What could not be given leaves the name free; of all that come at once under it, one is done.
    let id = TransferId(a.rights.ids.uuid());
    let refused = transfer(&a.rights, id, &key("x"), b.id, 4).await;
    assert_eq!(refused, Err(TransferError::Insufficient { spendable: 3 }));
    let at_once = others.iter().map(|(key, to, _)| transfer(&a.rights, id, key, *to, 3));
    let outcomes = futures::future::join_all(at_once).await;
    let done = outcomes.iter().filter(|outcome| **outcome == Ok(false)).count();
    assert_eq!(done, 1, "{outcomes:?}");
    assert_eq!(granted().await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_of_one_node_are_called_back_though_another_is_full() {
    let world = World::start().await;
    let [a, b, c] = &world.regions[..] else { unreachable!("three regions") };
    let received = |units| StockDelta { received: units, ..StockDelta::default() };
    a.commit_at(key("x"), received(5)).await.unwrap();
    a.commit_at(key_at("x", OTHER_NODE), received(50)).await.unwrap();
    for peer in [b, c] {
        let id = TransferId(a.rights.ids.uuid());
        assert_eq!(transfer(&a.rights, id, &key("x"), peer.id, 2).await, Ok(false));
    }
    assert!(a.granter.recall(&key("x"), 5, 1, PATIENCE).await);
    let ledgers = a.rights.store.ledgers(&sku("x")).await.unwrap();
    assert_eq!(ledgers[&key("x").node].spendable(), 5);
    assert!(!a.granter.recall(&key("x"), 6, 5, PATIENCE).await, "there are only five");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stocktake_is_written_only_over_the_number_it_was_computed_from() {
    let world = World::start().await;
    let a = &world.regions[0];
    let counted = |counted_from, received| StockDelta {
        received,
        counted_from: Some(counted_from),
        ..StockDelta::default()
    };
    a.commit("x", counted(0, 10)).await.unwrap();
    // Two said "there are 100" when there were 10: the second finds 100.
    a.commit("x", counted(10, 90)).await.unwrap();
    let again = a.commit("x", counted(10, 90)).await;
    assert!(matches!(again, Err(CommitError::Conflict(_))), "{again:?}");
    assert_eq!(a.spendable("x").await, 100);
}

/// An order that must come from one node lacks units though the region holds as many in all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_that_lie_at_the_wrong_node_do_not_keep_from_asking() {
    let world = World::start().await;
    let [a, b, _] = &world.regions[..] else { unreachable!("three regions") };
    a.receive("x", 5).await;
    b.receive("x", 5).await;
    let short = Shortage { sku: sku("x"), wanted: 5, available_here: 0, held_here: 5 };
    let short = std::slice::from_ref(&short);
    assert!(a.granter.obtain(short, PATIENCE).await.gained);
    assert_eq!(a.spendable("x").await, 10);
    let short = [Shortage { held_here: 10, ..short[0].clone() }];
    assert!(!a.granter.obtain(&short, PATIENCE).await.gained, "there are no more");
}

/// A crowd waits for one round trip to a region far away, not for those of all who came before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_search_does_not_wait_for_one_that_takes_long() {
    let world = World::start().await;
    let [a, b, c] = &world.regions[..] else { unreachable!("three regions") };
    b.receive("x", 100).await;
    world.converge().await;
    // A search that takes too long asks somebody else as well.
    world.hub.cut(a.id, c.id);
    let release = world.hub.hold_answers(TRANSFER);
    let short = |wanted| [Shortage { sku: sku("x"), wanted, available_here: 0, held_here: 0 }];
    let (first, second) = (short(5), short(40));
    let asked_for = |requests| {
        let world = &world;
        move || async move { (world.hub.carried_out(TRANSFER) >= requests).then_some(()) }
    };
    let asked = async {
        eventually("the first search asks", asked_for(1)).await;
        let others = async {
            eventually("the second asks beside it", asked_for(2)).await;
            release.send(true).unwrap();
        };
        tokio::join!(a.granter.obtain(&second, PATIENCE), others).0
    };
    let (first, second) = tokio::join!(a.granter.obtain(&first, PATIENCE), asked);
    assert!(first.gained && second.gained);
    assert!(a.spendable("x").await >= 45, "each brings what its own orders need");
}

/// One order that nobody can serve would otherwise bring all units to where it was placed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_all_together_cannot_serve_moves_nothing() {
    let world = World::start().await;
    let [a, b, c] = &world.regions[..] else { unreachable!("three regions") };
    a.receive("x", 5).await;
    b.receive("x", 5).await;
    world.converge().await;
    let short = |wanted| Shortage { sku: sku("x"), wanted, available_here: 5, held_here: 5 };
    let found = a.granter.obtain(&[short(16)], PATIENCE).await;
    assert_eq!((found.gained, found.elsewhere[&sku("x")]), (false, 5));
    assert_eq!((a.spendable("x").await, b.spendable("x").await), (5, 5));
    // What was received a moment ago, and nobody has heard of, counts.
    world.hub.lose_rows(true);
    c.receive("x", 5).await;
    assert!(a.granter.obtain(&[short(15)], PATIENCE).await.gained);
    assert_eq!(a.spendable("x").await, 15);
}

/// Orders that can't be served keep nothing from those that can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_unit_is_not_set_aside_for_orders_of_two() {
    let world = World::start().await;
    // The first by name gives way to nobody.
    let [a, b, _] = &world.regions[..] else { unreachable!("three regions") };
    a.receive("x", 1).await;
    world.converge().await;
    let short = [Shortage { sku: sku("x"), wanted: 2, available_here: 1, held_here: 1 }];
    let is_over = AtomicBool::new(false);
    let in_vain = async || {
        while !is_over.load(Ordering::Relaxed) {
            a.granter.obtain(&short, PATIENCE).await;
        }
    };
    let sold = async {
        let sold = b.sell("x", 1).await;
        is_over.store(true, Ordering::Relaxed);
        sold
    };
    let (sold, (), (), ()) = tokio::join!(sold, in_vain(), in_vain(), in_vain());
    assert!(sold, "refused while one was left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_set_back_is_noticed() {
    let world = World::start().await;
    let [a, b, c] = &world.regions[..] else { unreachable!("three regions") };
    a.receive("x", 10).await;
    assert!(a.sell("x", 4).await);
    world.converge().await;
    a.sql("UPDATE rights SET spent = 0, version = 1 WHERE owner = 'a'").await;
    let alarmed = || async { (a.amnesia.load(Ordering::Relaxed) > 0).then_some(()) };
    eventually("the digests tell", alarmed).await;
    assert_eq!(b.amnesia.load(Ordering::Relaxed) + c.amnesia.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_are_the_same_in_sql_and_here() {
    let world = World::with_workers(false).await;
    let region = &world.regions[0];
    let keys: Vec<StockKey> = ["x", "y", "é", "85123A", "a b"].map(key).into();
    for key in &keys {
        region.receive(key.sku.as_str(), 1).await;
    }
    let mut found: Vec<KeyedRow> = Vec::new();
    for bucket in keys.iter().map(bucket_of).collect::<BTreeSet<_>>() {
        let rows = region.rights.store.rows_in(actor(region.id), bucket, None, 10).await.unwrap();
        assert!(rows.iter().all(|row| bucket_of(&row.key) == bucket));
        found.extend(rows);
    }
    assert_eq!(found.len(), keys.len());
}
