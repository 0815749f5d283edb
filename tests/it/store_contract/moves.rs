//! Orders that move to another home.

use entrepot::domain::inventory::StockDelta;
use entrepot::domain::order::{EventBody, OrderRecord};
use entrepot::escrow::{Ballot, Prepare, Purpose, order_register};
use entrepot::ports::store::{Mandate, NO_MANDATE, OrderWrite};
use entrepot::ports::{Applied, CommitError, Learned, Learning, ReplicationError};
use entrepot::replication::{Envelope, PULL_ENVELOPES_MAX, Position};
use entrepot::saga::SagaState;
use entrepot::types::{Epoch, OrderId, RegionId, SagaId, StockKey};

use super::stock::{change, key, put_node};
use super::{Kind, Subject, two};
use crate::support::writes::{self, order_id, orders, placed_with, stamp};

fn at(sequence: u64) -> Position {
    Position { epoch: Epoch::FIRST, sequence }
}

pub(super) async fn write(subject: &Subject, order: &OrderWrite, time: u64) {
    let changes = orders([order.clone()]);
    subject.store.commit(&changes, stamp(subject.region, time)).await.unwrap();
}

async fn outbox(subject: &Subject) -> Vec<Envelope> {
    subject.store.outbox(at(1), PULL_ENVELOPES_MAX).await.unwrap()
}

async fn applies(subject: &Subject, from: &Subject, after: u64) {
    let envelopes = outbox(from).await;
    let rest = &envelopes[usize::try_from(after).unwrap()..];
    assert_eq!(subject.store.apply(at(after), rest, 9).await, Ok(Applied::Done));
}

/// A new order that holds two units and is paid for.
pub(super) fn held(region: RegionId, id: OrderId, time: u64) -> OrderWrite {
    let allocation =
        serde_json::json!({"reservation_id": id, "node": "n", "quantity": 2, "state": "held"});
    let line = serde_json::json!({
        "id": id, "sku": "x", "quantity": 2, "unit_minor": 0, "allocations": [allocation],
    });
    placed_with(region, id, time, serde_json::json!({"lines": [line]}))
}

pub(super) fn after(
    subject: &Subject,
    before: &OrderWrite,
    time: u64,
    body: EventBody,
) -> OrderWrite {
    writes::next(subject.region, Some(before.record.as_ref().clone()), time, body)
}

/// Five units that the region may sell.
async fn five_units(subject: &Subject) -> StockKey {
    let x = key("x", "n");
    put_node(subject, "n", subject.region.as_str(), true, 1).await;
    change(subject, &x, StockDelta { received: 5, ..StockDelta::default() }).await.unwrap();
    subject.open(&x).await;
    x
}

/// Cells of the region's own row.
async fn spent_and_released(subject: &Subject, key: &StockKey) -> (u64, u64) {
    let rows = subject.store.rights_of(&key.sku).await.unwrap();
    let own = rows.iter().find(|row| row.owner.region == subject.region).unwrap();
    (own.row.spent, own.row.released)
}

pub(super) fn moved(from: &Subject, to: &Subject) -> EventBody {
    EventBody::Moved { from: from.region, to: to.region }
}

fn cancelled() -> EventBody {
    EventBody::Cancelled(serde_json::from_str("{\"code\":\"c\",\"detail\":\"d\"}").unwrap())
}

async fn stored(subject: &Subject, id: OrderId) -> OrderRecord {
    subject.store.order(id).await.unwrap().unwrap().as_ref().clone()
}

/// The new home writes on; who hears of that before the move itself misses nothing, and hears the rest once.
pub(super) async fn a_moved_order_is_told_whole_and_takes_nothing_more_of_the_home_before(
    kind: Kind,
) {
    let (a, b) = two(kind).await;
    let c = Subject::empty(kind, "c", 3).await;
    let id = order_id(1, 1);
    let placed = held(a.region, id, 1);
    write(&a, &placed, 1).await;
    let gone = after(&a, &placed, 2, moved(&a, &b));
    write(&a, &gone, 2).await;
    assert_eq!(stored(&a, id).await.order.home_region, b.region);
    assert!(a.store.standing(a.region, None, 9).await.unwrap().is_empty());
    applies(&b, &a, 0).await;
    assert_eq!(b.store.standing(b.region, None, 9).await.unwrap(), [(id, true)]);
    let saga = b.store.saga(SagaId(id.0)).await.unwrap().expect("its new home can tell of it");
    assert_eq!(saga.state, SagaState::Completed);
    let ended = after(&b, &gone, 3, cancelled());
    write(&b, &ended, 3).await;
    // The later home is heard first.
    applies(&c, &b, 0).await;
    applies(&c, &a, 0).await;
    for subject in [&b, &c] {
        let record = stored(subject, id).await;
        assert_eq!(record, *ended.record, "{}", subject.region);
        assert_eq!(subject.store.events(id, 0, 9).await.unwrap().len(), 3);
    }
    assert_eq!(c.store.saga(SagaId(id.0)).await.unwrap(), None);
}

/// Units are given back under the rights that they were taken under, once.
pub(super) async fn units_of_a_moved_order_are_given_back_by_who_placed_it(kind: Kind) {
    let (a, b) = two(kind).await;
    let x = five_units(&a).await;
    change(&a, &x, StockDelta { spent: 2, ..StockDelta::default() }).await.unwrap();
    let id = order_id(1, 1);
    let placed = held(a.region, id, 2);
    write(&a, &placed, 2).await;
    let gone = after(&a, &placed, 3, moved(&a, &b));
    write(&a, &gone, 3).await;
    applies(&b, &a, 0).await;
    let ended = after(&b, &gone, 4, cancelled());
    write(&b, &ended, 4).await;
    assert_eq!(spent_and_released(&a, &x).await, (2, 0));
    applies(&a, &b, 0).await;
    assert_eq!(spent_and_released(&a, &x).await, (2, 2));
    // Told again, as after a move back: nothing more.
    let back = after(&b, &ended, 5, moved(&b, &a));
    write(&b, &back, 5).await;
    applies(&a, &b, 1).await;
    assert_eq!(spent_and_released(&a, &x).await, (2, 2));
    assert_eq!(stored(&a, id).await.order.home_region, a.region);
}

/// A home that did not know that its order was taken over wrote on: its history is set aside, whichever is heard first.
pub(super) async fn the_history_with_more_moves_stands(kind: Kind) {
    let (a, b) = two(kind).await;
    let c = Subject::empty(kind, "c", 3).await;
    let id = order_id(1, 1);
    let placed = held(a.region, id, 1);
    write(&a, &placed, 1).await;
    applies(&b, &a, 0).await;
    let unseen = after(&a, &placed, 2, cancelled());
    write(&a, &unseen, 2).await;
    let taken = after(&b, &placed, 3, moved(&a, &b));
    write(&b, &taken, 3).await;
    applies(&c, &a, 0).await;
    applies(&c, &b, 0).await;
    applies(&b, &a, 1).await;
    applies(&a, &b, 0).await;
    for subject in [&a, &b, &c] {
        assert_eq!(stored(subject, id).await, *taken.record, "{}", subject.region);
        assert_eq!(subject.store.events(id, 0, 9).await.unwrap().len(), 2);
    }
}

/// I-13: nobody else writes.
pub(super) async fn who_is_not_its_home_can_neither_change_nor_move_an_order(kind: Kind) {
    let (a, b) = two(kind).await;
    let id = order_id(1, 1);
    let placed = held(a.region, id, 1);
    write(&a, &placed, 1).await;
    applies(&b, &a, 0).await;
    let foreign = after(&b, &placed, 2, cancelled());
    write(&b, &foreign, 2).await;
    let refused = a.store.apply(at(0), &outbox(&b).await, 3).await;
    assert!(matches!(refused, Err(ReplicationError::CantApply { .. })), "{refused:?}");
    assert_eq!(stored(&a, id).await, *placed.record);
}

/// What a region learned from another one comes again from its origin.
pub(super) async fn an_order_that_was_learned_is_applied_once(kind: Kind) {
    let (a, b) = two(kind).await;
    let id = order_id(1, 1);
    let placed = held(a.region, id, 1);
    write(&a, &placed, 1).await;
    let record: OrderRecord = placed.record.as_ref().clone();
    let commits = vec![placed.events.clone()];
    let learned = Learned { record, known: 0, commits, replaces: false, intent: None, saga: None };
    let first = b.rejoin.learn(std::slice::from_ref(&learned), 2).await.unwrap();
    assert_eq!(first, Learning::Done);
    // What is known by now is not learned again.
    assert_eq!(b.rejoin.learn(&[learned], 2).await.unwrap(), Learning::Changed(id));
    let ended = after(&a, &placed, 3, cancelled());
    write(&a, &ended, 3).await;
    applies(&b, &a, 0).await;
    assert_eq!(stored(&b, id).await, *ended.record);
    assert_eq!(b.store.events(id, 0, 9).await.unwrap().len(), 2);
}

/// A home that cancelled an order and gave its units back, and that nobody heard, gives nothing back again.
pub(super) async fn units_that_were_given_back_unseen_are_not_given_back_again(kind: Kind) {
    let (a, b) = two(kind).await;
    let x = five_units(&a).await;
    // Another order holds as many.
    change(&a, &x, StockDelta { spent: 4, ..StockDelta::default() }).await.unwrap();
    let id = order_id(1, 1);
    let placed = held(a.region, id, 2);
    write(&a, &placed, 2).await;
    applies(&b, &a, 0).await;
    let unseen = after(&a, &placed, 3, cancelled());
    let mut changes = orders([unseen]);
    changes.stock = [(x.clone(), StockDelta { released: 2, ..StockDelta::default() })].into();
    a.store.commit(&changes, stamp(a.region, 3)).await.unwrap();
    let taken = after(&b, &placed, 4, moved(&a, &b));
    write(&b, &taken, 4).await;
    applies(&a, &b, 0).await;
    let ended = after(&b, &taken, 5, cancelled());
    write(&b, &ended, 5).await;
    applies(&a, &b, 1).await;
    assert_eq!(stored(&a, id).await, *ended.record);
    assert_eq!(spent_and_released(&a, &x).await, (4, 2));
}

/// The cancellation of a moved order may be heard later than the next order under its reference.
pub(super) async fn a_moved_order_keeps_no_reference_from_the_next_one(kind: Kind) {
    let (a, b) = two(kind).await;
    let c = Subject::empty(kind, "c", 3).await;
    let first = writes::referenced(a.region, order_id(1, 1), 1, "r", "alice");
    write(&a, &first, 1).await;
    let gone = after(&a, &first, 2, moved(&a, &b));
    write(&a, &gone, 2).await;
    applies(&b, &a, 0).await;
    let ended = after(&b, &gone, 3, cancelled());
    write(&b, &ended, 3).await;
    applies(&a, &b, 0).await;
    let next = writes::referenced(a.region, order_id(1, 2), 4, "r", "alice");
    write(&a, &next, 4).await;
    applies(&c, &a, 0).await;
    applies(&c, &b, 0).await;
    assert_eq!(stored(&c, order_id(1, 1)).await, *ended.record);
    assert_eq!(stored(&c, order_id(1, 2)).await, *next.record);
}

/// Two regions that both took an order over, which the registers prevent, end with one history all the same.
pub(super) async fn of_two_moves_everybody_keeps_the_later(kind: Kind) {
    let (a, b) = two(kind).await;
    let c = Subject::empty(kind, "c", 3).await;
    let id = order_id(1, 1);
    let placed = held(a.region, id, 1);
    write(&a, &placed, 1).await;
    applies(&b, &a, 0).await;
    applies(&c, &a, 0).await;
    let early = after(&b, &placed, 2, moved(&a, &b));
    write(&b, &early, 2).await;
    let late = after(&c, &placed, 3, moved(&a, &c));
    write(&c, &late, 3).await;
    applies(&b, &c, 0).await;
    applies(&c, &b, 0).await;
    applies(&a, &c, 0).await;
    applies(&a, &b, 0).await;
    for subject in [&a, &b, &c] {
        assert_eq!(stored(subject, id).await, *late.record, "{}", subject.region);
    }
}

/// I-13: a steward writes only while its own acceptor has promised nothing else.
pub(super) async fn a_steward_that_was_outbid_moves_nothing(kind: Kind) {
    let (a, b) = two(kind).await;
    let id = order_id(1, 1);
    let placed = held(a.region, id, 1);
    write(&a, &placed, 1).await;
    applies(&b, &a, 0).await;
    let owner = order_register(a.region);
    let promise = async |ballot: Ballot, purpose: Purpose| {
        let request = Prepare { owner, ballot, purpose, keys: Vec::new() };
        b.registers.prepare(&request).await.unwrap();
        b.registers.stewardship(a.region).await.unwrap()
    };
    let ours = Ballot { round: 1, region: b.region };
    assert!(!promise(ours, Purpose::Fence).await.grants(a.region));
    let take_over = async |ballot: Ballot| {
        let mut changes = orders([after(&b, &placed, 2, moved(&a, &b))]);
        changes.mandate = Some(Mandate::Steward(a.region, ballot));
        b.store.commit(&changes, stamp(b.region, 2)).await
    };
    let other = Ballot { round: 2, region: b.region };
    assert_eq!(take_over(other).await.map(drop), Err(CommitError::Conflict(NO_MANDATE)));
    let back = Ballot { round: 2, region: a.region };
    assert!(promise(back, Purpose::Return).await.grants(a.region));
    assert_eq!(take_over(ours).await.map(drop), Err(CommitError::Conflict(NO_MANDATE)));
    let again = Ballot { round: 3, region: b.region };
    promise(again, Purpose::Fence).await;
    take_over(again).await.unwrap();
    assert_eq!(stored(&b, id).await.order.home_region, b.region);
    // It is no incarnation.
    assert_eq!(b.registers.latest(a.region).await.unwrap(), Epoch::FIRST);
}
