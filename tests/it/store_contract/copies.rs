//! What is applied of another region.

use bytes::Bytes;
use entrepot::domain::order::{ChainVerdict, EventBody, verify_chain};
use entrepot::ports::{Applied, ChangeSet, ReplicationError};
use entrepot::replication::{Envelope, NewEnvelope, PULL_ENVELOPES_MAX, Position, SCHEMA_VERSION};
use entrepot::types::Epoch;

use super::{Kind, Subject, two};
use crate::support::writes::{
    self, hlc, order_id, orders, placed, placed_for, product, referenced, stamp,
};

fn at(sequence: u64) -> Position {
    Position { epoch: Epoch::FIRST, sequence }
}

async fn write(subject: &Subject, changes: &ChangeSet, time: u64) {
    subject.store.commit(changes, stamp(subject.region, time)).await.unwrap();
}

async fn outbox(subject: &Subject) -> Vec<Envelope> {
    subject.store.outbox(at(1), PULL_ENVELOPES_MAX).await.unwrap()
}

async fn watermark(b: &Subject, a: &Subject) -> Option<Position> {
    let watermarks = b.store.watermarks().await.unwrap();
    watermarks.get(&a.region).map(|watermark| watermark.position)
}

fn made(a: &Subject, sequence: u64, payload: Bytes) -> Envelope {
    Envelope::seal(NewEnvelope {
        origin: a.region,
        position: at(sequence),
        follows: None,
        hlc: hlc(a.region, sequence),
        schema_version: SCHEMA_VERSION,
        payload,
    })
    .unwrap()
}

pub(super) async fn a_batch_is_applied_once_and_in_order(kind: Kind) {
    let (a, b) = two(kind).await;
    let id = order_id(1, 1);
    let first = placed(a.region, id, 1);
    write(&a, &orders([first.clone()]), 1).await;
    for time in 2..=5 {
        write(&a, &product(a.region, &format!("sku-{time}"), time), time).await;
    }
    let cancelled =
        EventBody::Cancelled(serde_json::from_str("{\"code\":\"c\",\"detail\":\"d\"}").unwrap());
    let second = writes::next(a.region, Some(first.record.as_ref().clone()), 6, cancelled);
    write(&a, &orders([second]), 6).await;
    let envelopes = outbox(&a).await;
    assert_eq!(b.store.apply(at(0), &[], 1).await, Ok(Applied::Done));
    assert_eq!(watermark(&b, &a).await, None);
    assert_eq!(b.store.apply(at(0), &envelopes[..3], 100).await, Ok(Applied::Done));
    // The same again, as after a commit whose answer got lost; and past the watermark.
    let again = b.store.apply(at(0), &envelopes[..3], 101).await;
    assert_eq!(again, Ok(Applied::WatermarkIsAt(at(3))));
    let early = b.store.apply(at(4), &envelopes[4..], 102).await;
    assert_eq!(early, Ok(Applied::WatermarkIsAt(at(3))));
    let rest = &envelopes[3..];
    let (one, other) =
        tokio::join!(b.store.apply(at(3), rest, 103), b.store.apply(at(3), rest, 103));
    let mut outcomes = [one.unwrap(), other.unwrap()];
    outcomes.sort_by_key(|outcome| *outcome != Applied::Done);
    assert_eq!(outcomes, [Applied::Done, Applied::WatermarkIsAt(at(6))]);
    assert_eq!(watermark(&b, &a).await, Some(at(6)));

    assert_eq!(b.store.order(id).await.unwrap(), a.store.order(id).await.unwrap());
    let events = b.store.events(id, 0, 9).await.unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(verify_chain(id, &events), ChainVerdict::Intact);
    assert_eq!(b.store.products(None, 9).await.unwrap().len(), 4);
    // Nothing of it is told on: everybody hears it from its origin.
    assert_eq!(b.store.head().await.unwrap().position, at(0));
}

pub(super) async fn what_does_not_fit_leaves_nothing(kind: Kind) {
    let (a, b) = two(kind).await;
    let first = placed(a.region, order_id(1, 1), 1);
    write(&a, &orders([first.clone()]), 1).await;
    let envelopes = outbox(&a).await;
    let cant = |outcome: Result<Applied, ReplicationError>, sequence: u64| {
        let Err(ReplicationError::CantApply { position, reason, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(position, at(sequence), "{reason}");
        reason
    };
    let unknown = made(&a, 2, Bytes::from_static(b"{\"changes\":[{\"mood\":\"good\"}]}"));
    cant(b.store.apply(at(0), &[envelopes[0].clone(), unknown.clone()], 1).await, 2);
    b.store.park(&unknown, "unknown", 1).await.unwrap();
    b.store.park(&unknown, "unknown", 2).await.unwrap();

    // An event whose predecessor is missing, and an order of somebody else's.
    let cancelled =
        EventBody::Cancelled(serde_json::from_str("{\"code\":\"c\",\"detail\":\"d\"}").unwrap());
    let second = writes::next(a.region, Some(first.record.as_ref().clone()), 2, cancelled);
    write(&a, &orders([second]), 2).await;
    let payload = outbox(&a).await[1].payload.clone();
    cant(b.store.apply(at(0), &[made(&a, 1, payload)], 3).await, 1);
    let foreign = placed("c".parse().unwrap(), order_id(3, 1), 3);
    write(&a, &orders([foreign]), 3).await;
    let payload = outbox(&a).await[2].payload.clone();
    let reason = cant(b.store.apply(at(0), &[made(&a, 1, payload)], 5).await, 1);
    assert!(reason.contains("I-13"), "{reason}");
    assert_eq!(watermark(&b, &a).await, None);
    assert_eq!(b.store.order(order_id(1, 1)).await.unwrap(), None);
    assert_eq!(b.store.order(order_id(3, 1)).await.unwrap(), None);
}

pub(super) async fn an_intent_that_two_regions_took_is_contested(kind: Kind) {
    let (a, b) = two(kind).await;
    let (other, own) = (order_id(1, 1), order_id(2, 1));
    write(&a, &placed_for(a.region, other, "k", 1), 1).await;
    write(&b, &placed_for(b.region, own, "k", 2), 2).await;
    write(&b, &placed_for(b.region, order_id(2, 2), "l", 3), 3).await;
    b.store.apply(at(0), &outbox(&a).await, 9).await.unwrap();
    let contested = async || {
        let pairs = b.store.contested(None, 9).await.unwrap();
        pairs.iter().map(|pair| (pair.own.order.id, pair.other.order.id)).collect::<Vec<_>>()
    };
    assert_eq!(contested().await, [(own, other)]);
    assert_eq!(b.store.contested(Some((own, other)), 9).await.unwrap().len(), 0);
    b.store.find_contests(60_000).await.unwrap();
    assert_eq!(contested().await, [(own, other)], "once");
    b.store.settled(own, other).await.unwrap();
    b.store.find_contests(120_000).await.unwrap();
    assert_eq!(contested().await, [], "and not again once it is settled");
    let key = entrepot::domain::idempotency::IntentKey {
        principal: "customer:c1".to_owned(),
        key: "k".to_owned(),
    };
    assert_eq!(b.store.intents(&key).await.unwrap().len(), 2, "one a region");
}

pub(super) async fn a_reference_that_two_regions_took_is_contested_for_one_customer(kind: Kind) {
    let (a, b) = two(kind).await;
    for (serial, customer) in [(1, "c"), (2, "d")] {
        let name = format!("r{serial}");
        let ours = referenced(b.region, order_id(2, serial), 2, &name, "c");
        write(&b, &orders([ours]), 2).await;
        let theirs = referenced(a.region, order_id(1, serial), 1, &name, customer);
        write(&a, &orders([theirs]), serial).await;
    }
    b.store.apply(at(0), &outbox(&a).await, 9).await.unwrap();
    let pairs = b.store.contested(None, 9).await.unwrap();
    let pairs: Vec<_> = pairs.iter().map(|it| (it.own.order.id, it.other.order.id)).collect();
    assert_eq!(pairs, [(order_id(2, 1), order_id(1, 1))], "two customers keep their orders");
}
