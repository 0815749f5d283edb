//! Regions that two people have declared gone for good.

use entrepot::domain::inventory::StockDelta;
use entrepot::escrow::{Ballot, KeyedRow, Retired, Row, Unsold};
use entrepot::replication::retirement::{Retirement, RetirementOutcome};
use entrepot::types::{Actor, Epoch, RegionId};

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
        withdrawn_by: None,
        outcome: None,
    }
}

pub(super) async fn the_last_attempt_is_told_and_what_is_done_stays(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let (b, c) = ("b".parse().unwrap(), "c".parse().unwrap());
    let last = async || a.retirements.retirement(b).await.unwrap();
    assert_eq!(last().await, None);
    let first = asked(b, 2, 10);
    let withdrawn = Retirement { withdrawn_by: Some("bob".to_owned()), ..first.clone() };
    let second = asked(b, 2, 20);
    let confirmed = Retirement { confirmed_by: Some("bob".to_owned()), ..second.clone() };
    let outcome = Some(RetirementOutcome { units_freed: 3, ..RetirementOutcome::default() });
    let done = Retirement { outcome, ..confirmed.clone() };
    for told in
        [&first, &asked(c, 9, 99), &withdrawn, &second, &confirmed, &done, &confirmed, &first]
    {
        a.retirements.keep_retirement(told).await.unwrap();
    }
    assert_eq!(last().await, Some(done));
    let later = asked(b, 4, 5);
    a.retirements.keep_retirement(&later).await.unwrap();
    assert_eq!(last().await, Some(later));
    assert_eq!(a.retirements.retirement(c).await.unwrap(), Some(asked(c, 9, 99)));
}

/// The number of a retirement and of an incarnation that begins are one: who is second gives way.
pub(super) async fn a_number_is_a_retirements_or_an_incarnations(kind: Kind) {
    let a = Subject::empty(kind, "a", 1).await;
    let b = "b".parse().unwrap();
    let note =
        async |ends, at_ms| a.retirements.note_retirement(&asked(b, ends, at_ms)).await.unwrap();
    a.retirements.keep_retirement(&asked(b, 2, 10)).await.unwrap();
    assert_eq!(note(2, 10).await, (Epoch(2), true));
    assert!(a.retirements.retirement(b).await.unwrap().unwrap().noted);
    assert_eq!(note(2, 10).await, (Epoch(2), true), "heard twice");
    assert_eq!(note(2, 11).await, (Epoch(2), false), "another attempt");
    assert_eq!(a.rejoin.note_incarnation(b, Epoch(3)).await.unwrap(), Epoch(2));
    assert_eq!(note(2, 10).await, (Epoch(3), false));
    assert_eq!(note(3, 12).await, (Epoch(3), false), "it is the incarnation's");
    assert_eq!(note(4, 13).await, (Epoch(4), true));
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
    let bury = async || a.retirements.bury(b.region, Epoch(2), &last).await.unwrap();
    assert_eq!(bury().await, None, "nobody has noted that it is over");
    a.rejoin.note_incarnation(b.region, Epoch(2)).await.unwrap();
    let report = bury().await.unwrap();
    assert_eq!((report.credited.get(&x), report.refused), (Some(&7), Vec::new()));
    assert_eq!(bury().await.unwrap().credited, [].into(), "once");
    a.rejoin.note_incarnation(b.region, Epoch(3)).await.unwrap();
    assert_eq!(bury().await, None, "another incarnation has begun");
    a.open(&x).await;
    change(&a, &x, StockDelta { spent: 7, ..StockDelta::default() }).await.unwrap();
    assert!(change(&a, &x, StockDelta { spent: 1, ..StockDelta::default() }).await.is_err());
}
