//! Regions that two people have declared gone for good.

use entrepot::domain::inventory::StockDelta;
use entrepot::escrow::{
    Ballot, GiverDemand, KeyedRow, Retired, Row, Slot, TransferRequest, Unsold, Value,
};
use entrepot::ports::{Buried, Ending};
use entrepot::replication::retirement::{Retirement, RetirementOutcome};
use entrepot::types::{Actor, Epoch, RegionId, StockKey, TransferId};

use super::stock::{change, key};
use super::{Kind, Subject, two};
use crate::support::writes::{order_id, orders, stamp, unpaid};

fn asked(region: RegionId, ends: u32, at_ms: u64) -> Retirement {
    Retirement {
        region,
        ends: Epoch(ends),
        fence: Ballot { round: 1, region: "a".parse().unwrap() },
        asked_by: "alice".to_owned(),
        asked_at_ms: at_ms,
        confirmed_by: None,
        confirmed_at_ms: None,
        noted: false,
        units_freed: 0,
        withdrawn_by: None,
        outcome: None,
    }
}

pub(super) fn done(region: RegionId, ends: u32) -> Retirement {
    let outcome = Some(RetirementOutcome::default());
    Retirement { noted: true, outcome, ..asked(region, ends, 10) }
}

/// Two requests that have read the same say different things: the first counts, and the other one knows.
pub(super) async fn what_people_say_follows_on_what_they_have_read(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let b = "b".parse().unwrap();
    let keep = async |read: Option<&Retirement>, next: &Retirement| {
        a.retirements.keep_retirement(read, next).await.unwrap()
    };
    let first = asked(b, 2, 10);
    assert!(keep(None, &first).await);
    assert!(!keep(None, &asked(b, 2, 11)).await, "two that ask first");
    let confirmed = Retirement { confirmed_by: Some("bob".to_owned()), ..first.clone() };
    let withdrawn = Retirement { withdrawn_by: Some("carol".to_owned()), ..first.clone() };
    assert!(keep(Some(&first), &withdrawn).await);
    assert!(!keep(Some(&first), &confirmed).await, "it was taken back");
    assert_eq!(a.retirements.note_retirement(&confirmed).await.unwrap(), Ending::TakenBack);
    assert_eq!(a.rejoin.incarnations().await.unwrap(), [].into(), "nothing has ended");
    let second = asked(b, 2, 20);
    assert!(keep(Some(&withdrawn), &second).await);
    assert!(keep(None, &asked("c".parse().unwrap(), 9, 99)).await, "another region");
    assert_eq!(a.retirements.retirement(b).await.unwrap(), Some(second.clone()));
    let confirmed = Retirement { confirmed_by: Some("bob".to_owned()), ..second.clone() };
    assert!(keep(Some(&second), &confirmed).await);
    assert_eq!(a.retirements.note_retirement(&confirmed).await.unwrap(), Ending::Noted);
    let withdrawn = Retirement { withdrawn_by: Some("carol".to_owned()), ..confirmed.clone() };
    assert!(!keep(Some(&confirmed), &withdrawn).await, "it has ended");
    let later = asked(b, 4, 5);
    let noted = Retirement { noted: true, ..confirmed };
    assert!(keep(Some(&noted), &later).await);
    assert_eq!(a.retirements.retirement(b).await.unwrap(), Some(later));
}

pub(super) async fn what_is_done_stays_done_until_the_region_begins_anew(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let (b, c) = ("b".parse().unwrap(), "c".parse().unwrap());
    let note = async |told: &Retirement| a.retirements.note_retirement(told).await.unwrap();
    let ended = async || a.retirements.ended().await.unwrap();
    assert!(a.retirements.keep_retirement(None, &asked(c, 2, 1)).await.unwrap());
    assert_eq!(ended().await, [], "people have only asked");
    let told = Retirement { confirmed_by: Some("bob".to_owned()), ..asked(b, 2, 10) };
    assert_eq!(note(&told).await, Ending::Noted);
    let noted = Retirement { noted: true, ..told.clone() };
    assert_eq!(ended().await, std::slice::from_ref(&noted));
    let outcome = Some(RetirementOutcome { units_uncovered: 3, ..RetirementOutcome::default() });
    let done = Retirement { outcome, units_freed: 5, ..noted };
    for told in [&done, &told] {
        assert_eq!(note(told).await, Ending::Noted);
        assert_eq!(ended().await, std::slice::from_ref(&done), "whoever tells an older state late");
    }
    a.rejoin.note_incarnation(b, Epoch(3)).await.unwrap();
    assert_eq!(ended().await, []);
}

/// The number of a retirement and of an incarnation that begins are one: who is second gives way.
pub(super) async fn a_number_is_a_retirements_or_an_incarnations(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let b = "b".parse().unwrap();
    let note =
        async |ends, at_ms| a.retirements.note_retirement(&asked(b, ends, at_ms)).await.unwrap();
    assert!(a.retirements.keep_retirement(None, &asked(b, 2, 10)).await.unwrap());
    assert_eq!(note(2, 10).await, Ending::Noted);
    assert!(a.retirements.retirement(b).await.unwrap().unwrap().noted);
    assert_eq!(note(2, 10).await, Ending::Noted, "heard twice");
    assert_eq!(note(2, 11).await, Ending::BegunAnew(Epoch(2)), "another attempt");
    assert_eq!(a.rejoin.note_incarnation(b, Epoch(3)).await.unwrap(), Epoch(2));
    assert_eq!(note(2, 10).await, Ending::BegunAnew(Epoch(3)));
    assert_eq!(note(3, 12).await, Ending::BegunAnew(Epoch(3)), "it is the incarnation's");
    assert_eq!(note(4, 13).await, Ending::Noted);
    // Done it is only once everybody has noted the number as the end's: who knows nothing but the number was told it.
    let c = "c".parse().unwrap();
    assert_eq!(a.rejoin.note_incarnation(c, Epoch(2)).await.unwrap(), Epoch::FIRST);
    let done = done(c, 2);
    assert_eq!(a.retirements.note_retirement(&done).await.unwrap(), Ending::Noted);
    assert!(a.retirements.ended().await.unwrap().contains(&done));
    a.rejoin.note_incarnation(c, Epoch(3)).await.unwrap();
    let again = a.retirements.note_retirement(&done).await.unwrap();
    assert_eq!(again, Ending::BegunAnew(Epoch(3)));
}

pub(super) async fn orders_are_found_by_what_they_count_on(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let write = unpaid(a.region, order_id(1, 1), 3);
    let paid = write.record.order.payments[0].provider_key.clone();
    let id = write.record.order.id;
    a.store.commit(&orders([write]), stamp(a.region, 3)).await.unwrap();
    let keys = ["nobodys".to_owned(), paid.clone()];
    assert_eq!(a.retirements.paid_by(&keys).await.unwrap(), [(paid, id)]);
    assert_eq!(a.retirements.paid_by(&keys[..1]).await.unwrap(), []);
}

/// What is left below the ceiling of an owner that is gone for good flows to the one who put its last row together.
pub(super) async fn the_last_row_of_an_owner_gives_what_it_had_left(kind: Kind) {
    let (a, b) = two(kind).await;
    let (owner, heir) = ("b.1".parse::<Actor>().unwrap(), "a.1".parse().unwrap());
    let x = key("x", "n");
    change(&b, &x, StockDelta { received: 9, ..StockDelta::default() }).await.unwrap();
    b.open(&x).await;
    change(&b, &x, StockDelta { spent: 2, ..StockDelta::default() }).await.unwrap();
    let rows = b.rights.rows(&[x.clone()].into()).await.unwrap();
    let theirs = rows.into_iter().find(|row| row.owner == owner).unwrap();
    a.rights.merge(std::slice::from_ref(&theirs), &[]).await.unwrap();
    let Retired { row, freed, .. } =
        Row::retired(owner, [theirs.row], Unsold { held: 2, withheld: 0 }, heir);
    assert_eq!(freed, 7);
    let last = [KeyedRow { key: x.clone(), owner, row: row.clone() }];
    let noted = Retirement { noted: true, ..asked(b.region, 2, 10) };
    let bury = async || a.retirements.bury(&noted, &last).await.unwrap();
    assert_eq!(bury().await, None, "nobody has noted that it is over");
    assert_eq!(a.retirements.retirement(b.region).await.unwrap(), None);
    a.rejoin.note_incarnation(b.region, Epoch(2)).await.unwrap();
    let Buried { report, retirement: freed } = bury().await.unwrap();
    assert_eq!(freed, Retirement { units_freed: 7, ..noted.clone() });
    assert_eq!((report.credited.get(&x), report.refused), (Some(&7), Vec::new()));
    assert_eq!(
        a.retirements.ended().await.unwrap(),
        std::slice::from_ref(&freed),
        "told with the rows"
    );
    let again = bury().await.unwrap();
    assert_eq!(again.report.credited, [].into(), "once");
    assert_eq!(
        again.retirement.units_freed, 7,
        "and counted once, also by one that has read none of them"
    );
    let kept = a.retirements.retirement(b.region).await.unwrap();
    assert_eq!(kept, Some(again.retirement));
    a.rejoin.note_incarnation(b.region, Epoch(3)).await.unwrap();
    assert_eq!(bury().await, None, "another incarnation has begun");
    a.open(&x).await;
    change(&a, &x, StockDelta { spent: 7, ..StockDelta::default() }).await.unwrap();
    assert!(change(&a, &x, StockDelta { spent: 1, ..StockDelta::default() }).await.is_err());
}

/// Also when the process that stores it has not heard that it is over.
pub(super) async fn of_an_owner_that_is_over_only_the_last_row_is_taken(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let owner = "b.1".parse::<Actor>().unwrap();
    let (x, y) = (key("x", "n"), key("y", "n"));
    let row = |version, received, sequence| {
        let value = Value { ceiling: received, ..Value::default() };
        let chosen = Slot { sequence, value, ..Slot::birth(owner.region) };
        Row { version, received, chosen, ..Row::new(owner) }
    };
    let merge = async |key: &StockKey, row: Row| {
        let row = KeyedRow { key: key.clone(), owner, row };
        a.rights.merge(&[row], &[]).await.unwrap()
    };
    let known = async |key: &StockKey| {
        let rows = a.rights.rows(&[key.clone()].into()).await.unwrap();
        rows.into_iter().find(|row| row.owner == owner).map(|known| known.row)
    };
    merge(&x, row(1, 4, 1)).await;
    a.rejoin.note_incarnation(owner.region, Epoch(2)).await.unwrap();
    merge(&x, row(2, 9, 1)).await;
    assert_eq!(known(&x).await, Some(row(1, 4, 1)), "it comes too late");
    merge(&x, row(3, 9, 2)).await;
    let chosen = row(3, 9, 2).chosen;
    assert_eq!(known(&x).await, Some(Row { chosen, ..row(1, 4, 1) }), "what was chosen stands");
    merge(&y, row(1, 4, 0)).await;
    assert_eq!(known(&y).await, None, "nothing is known of it");
    let request = TransferRequest {
        request: TransferId(uuid::Uuid::from_u128(1)),
        asker: "c.1".parse().unwrap(),
        sku: x.sku.clone(),
        node: None,
        need: 1,
        want: 1,
        rows: [(x.node.clone(), [(owner, row(4, 9, 2))].into())].into(),
    };
    a.rights.give(&request, GiverDemand::default()).await.unwrap();
    assert_eq!(known(&x).await.map(|row| row.version), Some(1), "nor what an asker tells");
    let last = Row::buried(owner, [row(3, 9, 2)]);
    merge(&x, last.clone()).await;
    assert_eq!(known(&x).await, Some(last));
}
