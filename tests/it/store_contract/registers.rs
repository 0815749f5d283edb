//! A region's database as an acceptor of ceilings.

use std::collections::BTreeMap;

use entrepot::domain::inventory::StockDelta;
use entrepot::escrow::{
    Accept, Accepted, Ballot, KeyedSlot, Prepare, Promise, Purpose, Slot, Value, Voter, Voters,
};
use entrepot::types::{Actor, Epoch, StockKey};

use super::stock::{change, key};
use super::{Kind, Subject};

fn actor(name: &str) -> Actor {
    Actor { region: name.parse().unwrap(), epoch: Epoch::FIRST }
}

fn ballot(round: u32, name: &str) -> Ballot {
    Ballot { round, region: name.parse().unwrap() }
}

fn slot(key: &StockKey, ballot: Ballot, sequence: u64, ceiling: u64) -> KeyedSlot {
    let value = Value { ceiling, credits: BTreeMap::from([(actor("c"), 2)]) };
    KeyedSlot { key: key.clone(), slot: Slot { ballot, sequence, value } }
}

async fn prepare(subject: &Subject, owner: Actor, ballot: Ballot, keys: &[StockKey]) -> Promise {
    let request = Prepare { owner, ballot, purpose: Purpose::Propose, keys: keys.to_vec() };
    subject.registers.prepare(&request).await.unwrap().answer
}

async fn accept(subject: &Subject, owner: Actor, slots: &[KeyedSlot]) -> Accepted {
    let request = Accept { owner, slots: slots.to_vec() };
    subject.registers.accept(&request).await.unwrap().answer
}

fn stored(keys: &[&StockKey], forked: &[&StockKey]) -> Accepted {
    let owned = |keys: &[&StockKey]| keys.iter().map(|&key| key.clone()).collect();
    Accepted::Answered { stored: owned(keys), forked: owned(forked) }
}

pub(super) async fn an_acceptor_keeps_its_promises_and_its_newest_value(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let (b, x, y) = (actor("b"), key("x", "n"), key("y", "n"));
    let birth = Ballot::birth(b.region);
    assert_eq!(a.registers.promised(b).await.unwrap(), birth);
    let first = slot(&x, birth, 1, 5);
    assert_eq!(
        accept(&a, b, &[first.clone(), slot(&y, birth, 1, 1)]).await,
        stored(&[&x, &y], &[])
    );
    assert_eq!(accept(&a, b, std::slice::from_ref(&first)).await, stored(&[&x], &[]));
    assert_eq!(accept(&a, b, &[slot(&x, birth, 1, 6)]).await, stored(&[], &[&x]));
    let second = slot(&x, birth, 2, 7);
    assert_eq!(accept(&a, b, std::slice::from_ref(&second)).await, stored(&[&x], &[]));
    assert_eq!(accept(&a, b, std::slice::from_ref(&first)).await, stored(&[], &[]), "replaced");
    let promise = prepare(&a, b, ballot(2, "b"), std::slice::from_ref(&x)).await;
    let expected =
        Promise::Promised { fenced: false, contested: false, slots: vec![second.clone()] };
    assert_eq!(promise, expected);
    assert_eq!(prepare(&a, b, ballot(2, "b"), std::slice::from_ref(&x)).await, expected);
    assert!(matches!(prepare(&a, b, ballot(1, "c"), &[]).await, Promise::Refused { .. }));
    let late = accept(&a, b, &[slot(&x, birth, 3, 9)]).await;
    assert!(matches!(late, Accepted::Refused { fenced: false, .. }), "{late:?}");
    assert_eq!(a.registers.promised(b).await.unwrap(), ballot(2, "b"));
    // Another incarnation is another owner.
    let reborn = Actor { epoch: Epoch(2), ..b };
    assert_eq!(a.registers.promised(reborn).await.unwrap(), birth);
}

pub(super) async fn what_others_proposed_is_told_to_who_comes_after(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let (b, x) = (actor("b"), key("x", "n"));
    let taken = slot(&x, ballot(3, "c"), 1, 5);
    // Nobody prepared here: storing a value promises its ballot.
    assert_eq!(accept(&a, b, std::slice::from_ref(&taken)).await, stored(&[&x], &[]));
    assert_eq!(a.registers.promised(b).await.unwrap(), ballot(3, "c"));
    let promise = prepare(&a, b, ballot(4, "b"), &[x, key("y", "n")]).await;
    assert_eq!(promise, Promise::Promised { fenced: false, contested: true, slots: vec![taken] });
}

pub(super) async fn a_value_under_a_fence_is_not_stored(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let (b, x) = (actor("b"), key("x", "n"));
    let (ballot_of_c, purpose) = (ballot(1, "c"), Purpose::Fence);
    let fence = Prepare { owner: b, ballot: ballot_of_c, purpose, keys: Vec::new() };
    let promise = a.registers.prepare(&fence).await.unwrap().answer;
    assert!(matches!(promise, Promise::Promised { fenced: true, .. }), "{promise:?}");
    assert_eq!(a.registers.fenced().await.unwrap(), [b].into());
    let raise = accept(&a, b, &[slot(&x, Ballot::birth(b.region), 1, 5)]).await;
    assert!(matches!(raise, Accepted::Refused { fenced: true, .. }), "{raise:?}");
    // A fence outlives the ballot it came with, until the owner says that it is back.
    let later = prepare(&a, b, ballot(2, "a"), &[]).await;
    assert!(matches!(later, Promise::Promised { fenced: true, .. }), "{later:?}");
    let unknowing = prepare(&a, b, ballot(3, "b"), &[]).await;
    assert!(matches!(unknowing, Promise::Refused { fenced: true, .. }), "{unknowing:?}");
    let back = Prepare { ballot: ballot(3, "b"), purpose: Purpose::Return, ..fence.clone() };
    let back = a.registers.prepare(&back).await.unwrap().answer;
    assert!(matches!(back, Promise::Promised { fenced: false, .. }), "{back:?}");
    assert_eq!(a.registers.fenced().await.unwrap(), [].into());
    // Who was fenced again and did not hear of the return learns of it from what the owner proposes.
    let again = Prepare { ballot: ballot(4, "c"), purpose: Purpose::Fence, ..fence };
    a.registers.prepare(&again).await.unwrap();
    assert_eq!(a.registers.fenced().await.unwrap(), [b].into());
    assert_eq!(accept(&a, b, &[slot(&x, ballot(5, "b"), 1, 5)]).await, stored(&[&x], &[]));
    assert_eq!(a.registers.fenced().await.unwrap(), [].into());
}

pub(super) async fn what_is_chosen_raises_the_ceiling_and_stays(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let (own, b, x) = (actor("a"), actor("b"), key("x", "n"));
    change(&a, &x, StockDelta { received: 9, ..StockDelta::default() }).await.unwrap();
    let spend = |spent| StockDelta { spent, ..StockDelta::default() };
    let newer = slot(&x, Ballot::birth(own.region), 2, 4);
    a.registers.choose(own, std::slice::from_ref(&newer), &Voters::new()).await.unwrap();
    a.registers
        .choose(own, &[slot(&x, Ballot::birth(own.region), 1, 3)], &Voters::new())
        .await
        .unwrap();
    change(&a, &x, spend(4)).await.unwrap();
    assert!(change(&a, &x, spend(1)).await.is_err());
    // Of another owner, whose row need not be known.
    let theirs = slot(&x, ballot(1, "a"), 1, 3);
    a.registers.choose(b, std::slice::from_ref(&theirs), &Voters::new()).await.unwrap();
    let rows = a.rights.rows(&[x].into()).await.unwrap();
    let chosen: BTreeMap<_, _> = rows.into_iter().map(|row| (row.owner, row.row.chosen)).collect();
    assert_eq!(chosen, [(own, newer.slot), (b, theirs.slot)].into());
}

pub(super) async fn how_far_others_voted_is_kept_and_never_goes_back(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let (b, c) = (actor("b").region, actor("c").region);
    let voter = |epoch, votes| Voter { epoch: Epoch(epoch), votes };
    assert_eq!(a.registers.voters().await.unwrap(), Voters::new());
    a.registers.note_voters(&[(b, voter(1, 7)), (c, voter(1, 3))].into()).await.unwrap();
    a.registers.note_voters(&[(b, voter(1, 6)), (c, voter(2, 0))].into()).await.unwrap();
    let noted = [(b, voter(1, 7)), (c, voter(2, 0))].into();
    assert_eq!(a.registers.voters().await.unwrap(), noted);
    // With what was chosen on these votes.
    a.registers.choose(actor("a"), &[], &[(b, voter(1, 9))].into()).await.unwrap();
    assert_eq!(a.registers.voters().await.unwrap()[&b], voter(1, 9));
    a.registers.note_voters(&Voters::new()).await.unwrap();
}

pub(super) async fn the_word_that_a_region_is_gone_ends_with_its_fence(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let (b, first, second) = ("b".parse().unwrap(), ballot(1, "a"), ballot(2, "a"));
    let gone = async |ballot| a.registers.is_gone(b, ballot).await.unwrap();
    assert!(!gone(first).await);
    for _ in 0..2 {
        a.registers.keep_gone(b, first).await.unwrap();
        assert!(gone(first).await && !gone(second).await && !gone(ballot(1, "c")).await);
    }
    assert!(!a.registers.is_gone("c".parse().unwrap(), first).await.unwrap());
    a.registers.keep_gone(b, second).await.unwrap();
    assert!(gone(second).await && !gone(first).await);
}
