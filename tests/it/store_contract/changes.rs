//! The outbox, incarnations, the catalogue, and why a region takes no orders.

use entrepot::domain::inventory::StockDelta;
use entrepot::domain::order::EventBody;
use entrepot::ports::{ChangeSet, CommitError, Stamp, Stopped};
use entrepot::replication::{Envelope, PULL_ENVELOPES_MAX, Position};
use entrepot::types::Epoch;

use super::{Kind, Subject, stock};
use crate::support::writes::{self, hlc, product, stamp};

fn at(sequence: u64) -> Position {
    Position { epoch: Epoch::FIRST, sequence }
}

pub(super) async fn the_outbox_is_numbered_without_a_gap(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    assert_eq!(a.store.head().await.unwrap().position, at(0));
    for time in 1..=5 {
        let changes = product(a.region, &format!("sku-{time}"), time);
        let committed = a.store.commit(&changes, stamp(a.region, time)).await.unwrap();
        assert_eq!(committed.sequence, Some(time));
    }
    // A commit that tells nobody anything takes no place.
    let nothing = a.store.commit(&ChangeSet::default(), stamp(a.region, 9)).await.unwrap();
    assert_eq!(nothing.sequence, None);
    let head = a.store.head().await.unwrap();
    assert_eq!((head.position, head.hlc), (at(5), hlc(a.region, 5)));
    let all = a.store.outbox(at(1), PULL_ENVELOPES_MAX).await.unwrap();
    let positions: Vec<_> = all.iter().map(Envelope::position).collect();
    assert_eq!(positions, (1..=5).map(at).collect::<Vec<_>>());
    assert!(all.iter().all(|envelope| envelope.origin == a.region && envelope.follows.is_none()));
    assert_eq!(a.store.outbox(at(4), 1).await.unwrap(), all[3..4]);
    assert_eq!(a.store.outbox(at(6), 9).await.unwrap(), []);
    let other = Position { epoch: Epoch(2), sequence: 1 };
    assert_eq!(a.store.outbox(other, 9).await.unwrap(), []);
}

pub(super) async fn an_incarnation_that_is_over_writes_nothing(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let other = Stamp { epoch: Epoch(2), ..stamp(a.region, 1) };
    let refused = a.store.commit(&product(a.region, "x", 1), other).await;
    assert_eq!(refused, Err(CommitError::Fenced));
    assert_eq!(a.store.product(&"x".parse().unwrap()).await.unwrap(), None);
    assert!(a.store.set_draining(Epoch(2), true).await.is_err());
    // Neither what nobody is told of.
    let mut changes = ChangeSet::default();
    let received = StockDelta { received: 1, ..StockDelta::default() };
    changes.stock.insert(stock::key("x", "n"), received);
    assert_eq!(a.store.commit(&changes, other).await, Err(CommitError::Fenced));
    assert_eq!(a.store.rights_of(&"x".parse().unwrap()).await.unwrap(), []);
}

pub(super) async fn the_catalogue_keeps_the_newest_and_refuses_what_was_decided_on_an_old_one(
    kind: Kind,
) {
    let a = Subject::empty(kind, "a", 1).await;
    let sku = "x".parse().unwrap();
    for time in [2, 1] {
        a.store.commit(&product(a.region, "x", time), stamp(a.region, 9)).await.unwrap();
        let stored = a.store.product(&sku).await.unwrap().unwrap();
        assert_eq!(stored.hlc, hlc(a.region, 2), "the last writer wins by stamp");
    }
    for (seen, accepted) in [(1, false), (2, true)] {
        let mut changes = product(a.region, "x", 3);
        changes.products_seen.insert(sku.clone(), hlc(a.region, seen));
        let committed = a.store.commit(&changes, stamp(a.region, 3)).await;
        assert_eq!(committed.is_ok(), accepted, "{committed:?}");
    }
}

pub(super) async fn a_region_that_was_set_back_stays_out_of_traffic(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    assert!(!a.store.set_draining(Epoch::FIRST, true).await.unwrap());
    assert!(!a.store.set_draining(Epoch::FIRST, false).await.unwrap());
    a.store.set_back(Epoch::FIRST, "a proof").await.unwrap();
    assert!(a.store.set_draining(Epoch::FIRST, false).await.unwrap());
    a.store.ping().await.unwrap();
}

pub(super) async fn a_drained_region_places_no_order_whatever_its_process_knows(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let (x, y) = (writes::order_id(1, 1), writes::order_id(1, 2));
    let old = writes::placed(a.region, x, 1);
    a.store.commit(&writes::orders([old.clone()]), stamp(a.region, 1)).await.unwrap();
    a.store.set_draining(Epoch::FIRST, true).await.unwrap();
    assert!(a.store.stopped(Epoch::FIRST).await.unwrap().draining);
    let refused =
        a.store.commit(&writes::placed_for(a.region, y, "k", 2), stamp(a.region, 2)).await;
    assert_eq!(refused, Err(CommitError::Draining));
    assert_eq!(a.store.order(y).await.unwrap(), None, "nothing was written");
    assert_eq!(a.store.head().await.unwrap().position, at(1));
    // What it has taken it goes on with, and with all that is no order.
    let moved = EventBody::Moved { from: a.region, to: "b".parse().unwrap() };
    let next = writes::next(a.region, Some(old.record.as_ref().clone()), 3, moved);
    a.store.commit(&writes::orders([next]), stamp(a.region, 3)).await.unwrap();
    a.store.commit(&product(a.region, "x", 4), stamp(a.region, 4)).await.unwrap();
    a.store.set_draining(Epoch::FIRST, false).await.unwrap();
    let placed = a.store.commit(&writes::placed_for(a.region, y, "k", 5), stamp(a.region, 5)).await;
    assert_eq!(placed.unwrap().sequence, Some(4));
    assert_eq!(a.store.stopped(Epoch::FIRST).await.unwrap(), Stopped::default());
    assert!(a.store.stopped(Epoch(2)).await.is_err(), "another incarnation");
    // A region that was set back takes no orders either.
    a.store.set_back(Epoch::FIRST, "a proof").await.unwrap();
    let stopped = Stopped { draining: true, set_back: Some("a proof".to_owned()) };
    assert_eq!(a.store.stopped(Epoch::FIRST).await.unwrap(), stopped);
    let late = writes::orders([writes::placed(a.region, writes::order_id(1, 3), 6)]);
    let refused = a.store.commit(&late, stamp(a.region, 6)).await;
    assert_eq!(refused, Err(CommitError::Draining));
}

pub(super) async fn the_way_back_into_traffic_is_taken_step_by_step(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let take = async |from, to| a.store.set_canary(Epoch::FIRST, from, to).await.unwrap();
    assert_eq!(a.store.canary().await.unwrap(), None, "it serves all of its shoppers");
    assert!(!take(0, Some(1)).await, "it is on no way back");
    a.store.begin_canary(Epoch::FIRST).await.unwrap();
    assert!(take(0, Some(1)).await);
    assert!(!take(0, Some(2)).await, "another process was first");
    assert_eq!(a.store.canary().await.unwrap(), Some(1));
    a.store.begin_canary(Epoch::FIRST).await.unwrap();
    assert_eq!(a.store.canary().await.unwrap(), Some(0), "lost again half-way");
    assert!(take(0, None).await);
    assert_eq!(a.store.canary().await.unwrap(), None);
    assert!(a.store.set_canary(Epoch(2), 0, None).await.is_err(), "another incarnation");
    assert!(a.store.begin_canary(Epoch(2)).await.is_err());
}
