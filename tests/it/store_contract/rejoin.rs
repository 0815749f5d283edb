//! A region that begins a new incarnation, and those that tell it what they know.

use std::collections::BTreeMap;

use entrepot::domain::change::{Change, OrderChange};
use entrepot::domain::inventory::StockDelta;
use entrepot::domain::order::{Event, EventBody, OrderRecord};
use entrepot::escrow::{Ballot, KeyedRow, KeyedSlot, Promised, Row, Slot, Value, Voter};
use entrepot::ports::store::OrderWrite;
use entrepot::ports::{
    Applied, Beginning, ChangeSet, CommitError, Learned, Learning, Needs, ReplicationError, Stamp,
    Stopped,
};
use entrepot::replication::rejoin::{History, Votes};
use entrepot::replication::{Envelope, PULL_ENVELOPES_MAX, Position};
use entrepot::saga::SagaRecord;
use entrepot::types::{Actor, Epoch, OrderId, RegionId, RegionNumber};

use super::retirements::done;
use super::stock::{change, key, put_node};
use super::{Kind, Subject, two};
use crate::support::writes::{
    self, hlc, order_id, orders, placed, placed_for, product, referenced, stamp, unpaid,
};

const SECOND: Epoch = Epoch(2);

fn number(number: u8) -> RegionNumber {
    RegionNumber(std::num::NonZeroU8::new(number).unwrap())
}

fn at(epoch: u32, sequence: u64) -> Position {
    Position { epoch: Epoch(epoch), sequence }
}

async fn write(subject: &Subject, changes: &ChangeSet, time: u64) {
    subject.store.commit(changes, stamp(subject.region, time)).await.unwrap();
}

async fn outbox(subject: &Subject, epoch: u32) -> Vec<Envelope> {
    subject.store.outbox(at(epoch, 1), PULL_ENVELOPES_MAX).await.unwrap()
}

fn cancelled(region: RegionId, before: &OrderWrite, time: u64, why: &str) -> OrderWrite {
    let text = format!("{{\"code\":\"{why}\",\"detail\":\"d\"}}");
    let body = EventBody::Cancelled(serde_json::from_str(&text).unwrap());
    writes::next(region, Some(before.record.as_ref().clone()), time, body)
}

fn learned(write: &OrderWrite, commits: &[&OrderWrite], replaces: bool) -> Learned {
    let events: usize = commits.iter().map(|write| write.events.len()).sum();
    let known = if replaces { 2 } else { write.record.version - events as u64 };
    let commits = commits.iter().map(|write| write.events.clone()).collect();
    let record: OrderRecord = write.record.as_ref().clone();
    let saga = SagaRecord::taken_up(&record.order, 7);
    Learned { record, known, commits, replaces, intent: None, saga: Some(saga) }
}

async fn events(subject: &Subject, id: OrderId) -> Vec<Event> {
    subject.store.events(id, 0, 99).await.unwrap()
}

fn hashes(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.chain_hash.as_str()).collect()
}

pub(super) async fn a_noted_incarnation_ends_the_one_before(kind: Kind) {
    let (a, b) = two(kind).await;
    write(&a, &product(a.region, "x", 1), 1).await;
    write(&a, &product(a.region, "y", 2), 2).await;
    let envelopes = outbox(&a, 1).await;
    b.store.apply(at(1, 0), &envelopes[..1], 1).await.unwrap();
    assert_eq!(b.rejoin.applied(a.region).await.unwrap(), Some(at(1, 1)));
    assert_eq!(b.rejoin.note_incarnation(a.region, SECOND).await.unwrap(), Epoch::FIRST);
    assert_eq!(b.rejoin.note_incarnation(a.region, SECOND).await.unwrap(), SECOND);
    assert_eq!(b.rejoin.note_incarnation(a.region, Epoch::FIRST).await.unwrap(), SECOND);
    assert_eq!(b.rejoin.incarnations().await.unwrap(), [(a.region, SECOND)].into());
    assert_eq!(b.registers.latest(a.region).await.unwrap(), SECOND);
    let late = b.store.apply(at(1, 1), &envelopes[1..], 2).await;
    assert_eq!(late, Ok(Applied::WatermarkIsAt(at(2, 0))));
    assert_eq!(b.store.products(None, 9).await.unwrap().len(), 1);
    // Of one that was never heard of as well.
    let c = "c".parse().unwrap();
    assert_eq!(b.rejoin.note_incarnation(c, SECOND).await.unwrap(), Epoch::FIRST);
    assert_eq!(b.rejoin.applied(c).await.unwrap(), Some(at(2, 0)));
}

pub(super) async fn what_is_known_of_a_home_is_told_in_pages(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let ids: Vec<OrderId> = (1..=3).map(|serial| order_id(1, serial)).collect();
    write(&a, &placed_for(a.region, ids[0], "k", 1), 1).await;
    let second = placed(a.region, ids[1], 2);
    write(&a, &orders([second.clone(), placed(a.region, ids[2], 2)]), 2).await;
    write(&a, &orders([cancelled(a.region, &second, 3, "c")]), 3).await;
    let marks = a.rejoin.marks(a.region, number(1), None, 2).await.unwrap();
    assert_eq!(
        marks.iter().map(|mark| (mark.id, mark.version)).collect::<Vec<_>>(),
        [(ids[0], 1), (ids[1], 2)]
    );
    let rest = a.rejoin.marks(a.region, number(1), Some(ids[1]), 2).await.unwrap();
    assert_eq!(rest.iter().map(|mark| mark.id).collect::<Vec<_>>(), [ids[2]]);
    let unknown = order_id(1, 9);
    assert!(a.rejoin.marks("b".parse().unwrap(), number(2), None, 9).await.unwrap().is_empty());
    let told = a.rejoin.histories(None, &[ids[0], ids[1], unknown]).await.unwrap();
    let keys = |history: &History| history.intent.as_ref().map(|it| it.intent.key.clone());
    assert_eq!(
        told.iter().map(|it| (it.id, keys(it))).collect::<Vec<_>>(),
        [(ids[0], Some("k".to_owned())), (ids[1], None)]
    );
    assert_eq!(told[1].commits.concat().len(), 2);
    assert!(a.rejoin.histories(Some("b".parse().unwrap()), &ids).await.unwrap().is_empty());
}

pub(super) async fn what_others_know_of_an_order_is_taken_over(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let [new, longer, parted] = [1, 2, 3].map(|serial| order_id(1, serial));
    let of_longer = placed(a.region, longer, 1);
    let of_parted = placed(a.region, parted, 1);
    write(&a, &orders([of_longer.clone(), of_parted.clone()]), 1).await;
    write(&a, &orders([cancelled(a.region, &of_parted, 5, "ours")]), 5).await;
    let of_new = unpaid(a.region, new, 1);
    let more = cancelled(a.region, &of_longer, 2, "c");
    let theirs = cancelled(a.region, &of_parted, 2, "theirs");
    let saga = SagaRecord::taken_up(&of_new.record.order, 7);
    let all = [
        learned(&of_new, &[&of_new], false),
        learned(&more, &[&more], false),
        learned(&theirs, &[&of_parted, &theirs], true),
    ];
    assert_eq!(a.rejoin.learn(&all, 7).await.unwrap(), Learning::Done);
    for (id, expected) in [(new, &of_new), (longer, &more), (parted, &theirs)] {
        assert_eq!(a.store.order(id).await.unwrap().as_deref(), Some(expected.record.as_ref()));
    }
    let expected = [of_longer.events.clone(), more.events.clone()].concat();
    assert_eq!(hashes(&events(&a, longer).await), hashes(&expected));
    let expected = [of_parted.events.clone(), theirs.events.clone()].concat();
    assert_eq!(hashes(&events(&a, parted).await), hashes(&expected));
    assert_eq!(a.store.sagas_of(new).await.unwrap(), std::slice::from_ref(&saga));
    assert_eq!(a.store.claim(7, 8, 9).await.unwrap(), [saga], "it is due");
    // An order that nobody works on any more is found, once.
    let left = unpaid(a.region, order_id(1, 4), 6);
    write(&a, &orders([left.clone()]), 6).await;
    let found = a.rejoin.abandoned(None, 9).await.unwrap();
    assert_eq!(found, [left.record.as_ref().clone()]);
    let saga = SagaRecord::taken_up(&left.record.order, 9);
    a.rejoin.add_sagas(&[saga]).await.unwrap();
    assert!(a.rejoin.abandoned(None, 9).await.unwrap().is_empty());
}

pub(super) async fn a_reference_that_still_stands_puts_a_batch_off(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let (first, second) = (order_id(1, 1), order_id(1, 2));
    let ours = referenced(a.region, first, 1, "r", "c");
    write(&a, &orders([ours.clone()]), 1).await;
    let theirs = referenced(a.region, second, 2, "r", "c");
    let news = [learned(&theirs, &[&theirs], false)];
    assert_eq!(a.rejoin.learn(&news, 7).await.unwrap(), Learning::PutOff);
    assert_eq!(a.store.order(second).await.unwrap(), None);
    let gone = cancelled(a.region, &ours, 2, "c");
    let gone = [learned(&gone, &[&gone], false)];
    assert_eq!(a.rejoin.learn(&gone, 7).await.unwrap(), Learning::Done);
    assert_eq!(a.rejoin.learn(&news, 7).await.unwrap(), Learning::Done);
}

pub(super) async fn an_incarnation_begins_once_and_tells_what_was_prepared(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let (own, b) = (Actor { region: a.region, epoch: Epoch::FIRST }, "b".parse().unwrap());
    let x = key("x", "n");
    change(&a, &x, StockDelta { received: 5, ..StockDelta::default() }).await.unwrap();
    write(&a, &orders([placed(a.region, order_id(1, 1), 90)]), 90).await;
    let told = |time| product_change(a.region, time);
    a.rejoin.tell(SECOND, told(1), hlc(a.region, 91), 91).await.unwrap();
    a.rejoin.forget_telling().await.unwrap();
    for time in [2, 3] {
        a.rejoin.tell(SECOND, told(time), hlc(a.region, 90 + time), 91).await.unwrap();
    }
    let (follows, owner) = (at(1, 1), Actor { region: b, epoch: Epoch::FIRST });
    assert_eq!(a.store.head().await.unwrap().position, follows, "nothing of it counts yet");
    let ballot = Ballot { round: 2, region: b };
    let slot = Slot { ballot, sequence: 1, value: Value { ceiling: 4, ..Value::default() } };
    let slot = KeyedSlot { key: x.clone(), slot };
    let (gone, back) = ("c".parse().unwrap(), "d".parse().unwrap());
    let ended = done(gone, 2);
    let votes = Votes {
        promises: vec![(owner, Promised { ballot, fenced: true })],
        slots: vec![(owner, slot)],
        incarnations: [(b, Epoch(3)), (gone, Epoch(2)), (back, Epoch(4))].into(),
        retirements: vec![ended.clone(), ended.clone(), done(back, 2)],
        voters: [
            (b, Voter { epoch: Epoch(3), votes: 2 }),
            (a.region, Voter { epoch: Epoch(1), votes: 9 }),
        ]
        .into(),
    };
    let known = Row { version: 7, received: 6, spent: 2, ..Row::new(own) };
    let rows = a.rejoin.rows_of(a.region, None, 9).await.unwrap();
    let copies = rows.into_iter().map(|row| row.row).chain([known]);
    let row = Row::buried(own, copies);
    let rows = vec![KeyedRow { key: x.clone(), owner: own, row: row.clone() }];
    let beginning =
        Beginning { epoch: SECOND, follows, rows, votes, gone: [(gone, Epoch(2))].into() };
    assert!(!a.rejoin.begin(&beginning).await.unwrap(), "it was not set back");
    a.store.set_back(Epoch::FIRST, "a peer knows more").await.unwrap();
    let elsewhere = Beginning { follows: at(1, 0), ..beginning.clone() };
    assert!(!a.rejoin.begin(&elsewhere).await.unwrap(), "something was written since");
    assert!(a.rejoin.begin(&beginning).await.unwrap());
    assert!(!a.rejoin.begin(&beginning).await.unwrap(), "once");

    let mark = a.rejoin.mark().await.unwrap();
    assert_eq!((mark.head, mark.voter), (at(2, 2), Voter { epoch: SECOND, votes: 0 }));
    let of_others = [(b, Voter { epoch: Epoch(3), votes: 2 })].into();
    assert_eq!(a.registers.voters().await.unwrap(), of_others, "its own votes are over");
    let envelopes = outbox(&a, 2).await;
    assert_eq!(envelopes.iter().map(Envelope::position).collect::<Vec<_>>(), [at(2, 1), at(2, 2)]);
    assert_eq!(a.registers.promised(owner).await.unwrap(), ballot);
    assert_eq!(a.registers.fenced().await.unwrap(), [owner].into());
    let rows = a.rejoin.rows_of(a.region, None, 9).await.unwrap();
    assert_eq!(rows.iter().map(|row| (row.owner, &row.row)).collect::<Vec<_>>(), [(own, &row)]);
    let noted = a.rejoin.incarnations().await.unwrap();
    let of_others = [(b, Epoch(3)), (gone, Epoch(2)), (back, Epoch(4))];
    assert_eq!(noted, [(a.region, SECOND)].into_iter().chain(of_others).collect());
    assert_eq!(a.retirements.ended().await.unwrap(), [ended], "but not of who began anew since");
    assert_eq!(a.rejoin.applied(gone).await.unwrap(), Some(at(2, 0)), "nothing more of it");
    assert_eq!(a.rejoin.applied(back).await.unwrap(), None, "its own outbox tells the rest");
    let votes = a.rejoin.votes(None, 9).await.unwrap();
    assert_eq!((votes.promises.len(), votes.slots.len()), (1, 1));
    let late = a.store.commit(&product(a.region, "y", 4), stamp(a.region, 4)).await;
    assert_eq!(late, Err(CommitError::Fenced));
    let now = Stamp { epoch: SECOND, ..stamp(a.region, 95) };
    a.store.commit(&product(a.region, "y", 95), now).await.unwrap();
    assert!(!a.store.set_draining(SECOND, false).await.unwrap(), "nothing is known against it");
}

/// A person has said it, and takes it back; also while it is out of traffic anyway.
pub(super) async fn a_region_that_an_operator_drained_begins_anew_drained(kind: Kind) {
    for said in [vec![], vec![true], vec![true, false]] {
        let a = Subject::empty(kind, "a", 1).await;
        if said.len() == 1 {
            a.store.set_draining(Epoch::FIRST, true).await.unwrap();
        }
        a.store.set_back(Epoch::FIRST, "a peer knows more").await.unwrap();
        if said.len() > 1 {
            for draining in &said {
                assert!(a.store.set_draining(Epoch::FIRST, *draining).await.unwrap());
            }
        }
        assert!(a.store.stopped(Epoch::FIRST).await.unwrap().draining);
        let (epoch, follows) = (SECOND, at(1, 0));
        let (rows, votes, gone) = (Vec::new(), Votes::default(), [].into());
        let beginning = Beginning { epoch, follows, rows, votes, gone };
        assert!(a.rejoin.begin(&beginning).await.unwrap());
        let draining = said.last().copied().unwrap_or(false);
        let stopped = a.store.stopped(SECOND).await.unwrap();
        assert_eq!(stopped, Stopped { draining, set_back: None }, "{said:?}");
        a.store.set_draining(SECOND, false).await.unwrap();
        assert_eq!(a.store.stopped(SECOND).await.unwrap(), Stopped::default());
    }
}

fn product_change(region: RegionId, time: u64) -> Vec<Change> {
    let changes = product(region, "told", time).products;
    changes.into_values().map(Change::Product).collect()
}

pub(super) async fn an_order_told_again_is_continued_or_set_aside(kind: Kind) {
    let (a, b) = two(kind).await;
    let [new, known, behind, parted] = [1, 2, 3, 4].map(|serial| order_id(1, serial));
    let first: BTreeMap<OrderId, OrderWrite> =
        [known, behind, parted].map(|id| (id, placed(a.region, id, 1))).into();
    write(&a, &orders(first.values().cloned()), 1).await;
    let other = cancelled(a.region, &first[&parted], 2, "other");
    write(&a, &orders([other]), 2).await;
    b.store.apply(at(1, 0), &outbox(&a, 1).await, 1).await.unwrap();
    b.rejoin.note_incarnation(a.region, SECOND).await.unwrap();
    let of_new = placed(a.region, new, 3);
    let more = cancelled(a.region, &first[&behind], 3, "more");
    let theirs = cancelled(a.region, &first[&parted], 3, "theirs");
    let retold = |writes: &[&OrderWrite]| {
        let commits: Vec<_> = writes.iter().map(|write| write.events.clone()).collect();
        let id = writes[0].record.order.id;
        Change::Order(OrderChange::retelling(id, None, &commits))
    };
    let changes = vec![
        retold(&[&of_new]),
        retold(&[&first[&known]]),
        retold(&[&first[&behind], &more]),
        retold(&[&first[&parted], &theirs]),
    ];
    a.rejoin.tell(SECOND, changes, hlc(a.region, 4), 4).await.unwrap();
    let envelopes = outbox(&a, 2).await;
    assert_eq!(b.store.apply(at(2, 0), &envelopes, 5).await, Ok(Applied::Done));
    for expected in [&of_new, &first[&known], &more, &theirs] {
        let id = expected.record.order.id;
        let copy = b.store.order(id).await.unwrap();
        assert_eq!(copy.as_deref(), Some(expected.record.as_ref()));
        assert_eq!(events(&b, id).await.len() as u64, expected.record.version);
    }
    let commits = b.rejoin.histories(Some(a.region), &[behind]).await.unwrap().remove(0).commits;
    assert_eq!(commits.concat().len(), 2);
    // One that is told again and does not begin at the beginning is refused like any other.
    let Change::Order(mut broken) = retold(&[&first[&behind], &more]) else { unreachable!() };
    broken.order_id = order_id(1, 9);
    a.rejoin.tell(SECOND, vec![Change::Order(broken)], hlc(a.region, 6), 6).await.unwrap();
    let refused = b.store.apply(at(2, 1), &outbox(&a, 2).await[1..], 7).await;
    assert!(matches!(refused, Err(ReplicationError::CantApply { .. })), "{refused:?}");
}

pub(super) async fn what_lies_on_a_shelf_outlives_the_incarnation(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    put_node(&a, "n", "a", true, 1).await;
    let (own, x) = (Actor { region: a.region, epoch: Epoch::FIRST }, key("x", "n"));
    change(&a, &x, StockDelta { received: 5, ..StockDelta::default() }).await.unwrap();
    a.open(&x).await;
    a.store.set_back(Epoch::FIRST, "a peer knows more").await.unwrap();
    let copies = a.rejoin.rows_of(a.region, None, 9).await.unwrap();
    let row = Row::buried(own, copies.into_iter().map(|row| row.row));
    let rows = vec![KeyedRow { key: x.clone(), owner: own, row }];
    let follows = a.store.head().await.unwrap().position;
    let (votes, gone) = (Votes::default(), [].into());
    let beginning = Beginning { epoch: SECOND, follows, rows, votes, gone };
    assert!(a.rejoin.begin(&beginning).await.unwrap());
    let mut needs = Needs::default();
    needs.shelves.insert(x.clone());
    let shelf = a.store.load(&needs).await.unwrap().shelves[&x];
    assert_eq!((shelf.on_hand, shelf.spendable), (5, 0), "what was forgotten may be sold");
    let count = |from, units| StockDelta {
        received: units,
        counted_from: Some(from),
        ..StockDelta::default()
    };
    let now = Stamp { epoch: SECOND, ..stamp(a.region, 9) };
    let stocktake = async |from, units| {
        let stock = [(x.clone(), count(from, units))].into();
        let changes = ChangeSet { stock, ..ChangeSet::default() };
        a.store.commit(&changes, now).await.map(drop)
    };
    assert!(matches!(stocktake(0, 3).await, Err(CommitError::Conflict(_))));
    stocktake(5, 3).await.unwrap();
    assert_eq!(a.store.load(&needs).await.unwrap().shelves[&x].on_hand, 8);
}
