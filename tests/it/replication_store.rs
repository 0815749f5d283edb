//! Outbox, inbox and watermark in PostgreSQL: what I-18 rests on.

use std::time::Duration;

use bytes::Bytes;
use entrepot::domain::order::{EventBody, verify_chain};
use entrepot::ports::{Applied, ChangeSet, Reader, ReplicationError, ReplicationStore, Store};
use entrepot::replication::{
    Envelope, NewEnvelope, PAYLOAD_BYTES_MAX, PULL_ENVELOPES_MAX, Position, SCHEMA_VERSION,
};
use entrepot::store::PgStore;
use entrepot::types::{Epoch, RegionId, RegionNumber};
use sqlx::{PgConnection, Row};

use crate::support::postgres::Database;
use crate::support::writes;

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn at(sequence: u64) -> Position {
    Position { epoch: Epoch::FIRST, sequence }
}

/// Region `a`, that writes, and region `b`, that applies.
struct Two {
    a_database: Database,
    b_database: Database,
    a: PgStore,
    b: PgStore,
}

impl Two {
    async fn start() -> Self {
        let (a_database, b_database) = (Database::new().await, Database::new().await);
        let (a, b) = (a_database.store("a"), b_database.store("b"));
        for (store, number) in [(&a, 1), (&b, 2)] {
            let number = RegionNumber(std::num::NonZeroU8::new(number).unwrap());
            store.start(number).await.unwrap();
        }
        Self { a_database, b_database, a, b }
    }

    /// Commits at `a`.
    async fn write(&self, changes: &ChangeSet, time: u64) {
        self.a.commit(changes, writes::stamp(region("a"), time)).await.unwrap();
    }

    /// Commits `count` products at `a` and reads them from its outbox.
    async fn written(&self, count: u64) -> Vec<Envelope> {
        for time in 1..=count {
            self.write(&writes::product(region("a"), &format!("sku-{time}"), time), time).await;
        }
        self.outbox().await
    }

    async fn outbox(&self) -> Vec<Envelope> {
        self.a.outbox(at(1), PULL_ENVELOPES_MAX).await.unwrap()
    }

    /// `b`'s inbox, oldest first.
    async fn inbox(&self) -> Vec<(i32, i64, String)> {
        let rows = sqlx::query("SELECT epoch, seq, event_hash FROM inbox ORDER BY epoch, seq")
            .fetch_all(&mut self.b_database.connection().await)
            .await
            .unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    }

    async fn watermark(&self) -> Option<Position> {
        let watermarks = self.b.watermarks().await.unwrap();
        watermarks.get(&region("a")).map(|watermark| watermark.position)
    }
}

async fn count(connection: &mut PgConnection, from: &'static str) -> i64 {
    let query = format!("SELECT count(*) FROM {from}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(connection).await.unwrap()
}

fn made(epoch: u32, sequence: u64, follows: Option<Position>, payload: &str) -> Envelope {
    Envelope::seal(NewEnvelope {
        origin: region("a"),
        position: Position { epoch: Epoch(epoch), sequence },
        follows,
        hlc: writes::hlc(region("a"), sequence),
        schema_version: SCHEMA_VERSION,
        payload: Bytes::from(payload.to_owned()),
    })
    .unwrap()
}

#[tokio::test]
async fn the_outbox_is_gap_free_and_holds_what_was_hashed() {
    let two = Two::start().await;
    let head = two.a.head().await.unwrap();
    assert_eq!(head.position, at(0));
    let envelopes = two.written(5).await;
    let positions: Vec<_> = envelopes.iter().map(Envelope::position).collect();
    assert_eq!(positions, (1..=5).map(at).collect::<Vec<_>>());
    let head = two.a.head().await.unwrap();
    assert_eq!((head.position, head.hlc), (at(5), writes::hlc(region("a"), 5)));
    // A commit that tells nobody anything takes no place.
    let nothing = two.a.commit(&ChangeSet::default(), writes::stamp(region("a"), 9)).await.unwrap();
    assert_eq!(nothing.sequence, None);
    assert_eq!(two.a.outbox(at(4), 1).await.unwrap(), envelopes[3..4]);
    assert_eq!(two.a.outbox(at(6), 9).await.unwrap(), []);

    let tampered = "UPDATE outbox SET payload = 'other' WHERE seq = 3";
    sqlx::query(tampered).execute(&mut two.a_database.connection().await).await.unwrap();
    let refusal = two.a.outbox(at(1), 9).await.unwrap_err();
    assert!(matches!(refusal, ReplicationError::Corrupt(_)), "{refusal}");
}

#[tokio::test]
async fn a_batch_is_applied_once_with_its_inbox_rows_whoever_tries_again() {
    let two = Two::start().await;
    let envelopes = two.written(6).await;
    assert_eq!(two.b.apply(at(0), &envelopes[..3], 100).await, Ok(Applied::Done));
    // The same again, as after a commit whose answer got lost.
    let again = two.b.apply(at(0), &envelopes[..3], 101).await;
    assert_eq!(again, Ok(Applied::WatermarkIsAt(at(3))));
    // Past the watermark.
    let early = two.b.apply(at(4), &envelopes[4..], 102).await;
    assert_eq!(early, Ok(Applied::WatermarkIsAt(at(3))));
    // Two processes at the same moment.
    let rest = &envelopes[3..];
    let (one, other) = tokio::join!(two.b.apply(at(3), rest, 103), two.b.apply(at(3), rest, 103));
    let mut outcomes = [one.unwrap(), other.unwrap()];
    outcomes.sort_by_key(|outcome| *outcome != Applied::Done);
    assert_eq!(outcomes, [Applied::Done, Applied::WatermarkIsAt(at(6))]);

    let expected: Vec<_> = envelopes
        .iter()
        .map(|envelope| (1, i64::try_from(envelope.sequence).unwrap(), envelope.event_hash()))
        .collect();
    assert_eq!(two.inbox().await, expected);
    assert_eq!(two.watermark().await, Some(at(6)));
    let mut b = two.b_database.connection().await;
    assert_eq!(count(&mut b, "products").await, 6);
}

#[tokio::test]
async fn a_new_epoch_begins_at_one_and_names_the_end_of_the_old_one() {
    let two = Two::start().await;
    let envelopes = two.written(2).await;
    two.b.apply(at(0), &envelopes, 100).await.unwrap();
    let next_epoch = "
        UPDATE outbox_head SET epoch = 2, seq = 1;
        INSERT INTO outbox SELECT 2, 1, hlc, event_hash, payload, committed_at_ms FROM outbox WHERE seq = 2";
    sqlx::raw_sql(next_epoch).execute(&mut two.a_database.connection().await).await.unwrap();
    let begin = Position { epoch: Epoch(2), sequence: 1 };
    let first = two.a.outbox(begin, 9).await.unwrap();
    assert_eq!(first[0].follows, Some(at(2)));

    assert_eq!(two.b.apply(at(2), &first, 101).await, Ok(Applied::Done));
    assert_eq!(two.watermark().await, Some(begin));
    // The old incarnation is over.
    let late = made(1, 3, None, "{\"changes\":[]}");
    let refused = two.b.apply(at(2), &[late], 102).await;
    assert_eq!(refused, Ok(Applied::WatermarkIsAt(begin)));
}

#[tokio::test]
async fn what_cant_be_read_or_does_not_fit_stands_still_and_leaves_nothing() {
    let two = Two::start().await;
    let a = region("a");
    let id = writes::order_id(1, 1);
    let first = writes::placed(a, id, 1);
    two.write(&writes::orders([first.clone()]), 1).await;
    let envelopes = two.outbox().await;

    let unknown = made(1, 2, None, "{\"changes\":[{\"mood\":\"good\"}]}");
    let refusal =
        two.b.apply(at(0), &[envelopes[0].clone(), unknown.clone()], 1).await.unwrap_err();
    assert!(
        matches!(&refusal, ReplicationError::CantApply { position, .. } if *position == at(2)),
        "{refusal}"
    );
    assert_eq!(two.watermark().await, None);
    two.b.park(&unknown, "unknown", 1).await.unwrap();
    two.b.park(&unknown, "unknown", 2).await.unwrap();
    let mut b = two.b_database.connection().await;
    assert_eq!(count(&mut b, "parked").await, 1);

    // An event in front of a missing one, and an order of somebody else's.
    let cancelled =
        EventBody::Cancelled(serde_json::from_str("{\"code\":\"c\",\"detail\":\"d\"}").unwrap());
    let second = writes::next(a, Some(first.record.as_ref().clone()), 2, cancelled);
    two.write(&writes::orders([second]), 2).await;
    let envelopes = two.outbox().await;
    let gap = two.b.apply(at(0), &[made_like(&envelopes[1], 1)], 3).await.unwrap_err();
    assert!(gap.to_string().contains(&id.to_string()), "{gap}");
    assert_eq!(count(&mut b, "orders").await, 0);
    assert_eq!(two.watermark().await, None);

    // What fits goes on, and nothing is parked any more.
    assert_eq!(two.b.apply(at(0), &envelopes, 4).await, Ok(Applied::Done));
    assert_eq!(count(&mut b, "parked").await, 0);
    let copy = two.b.order(id).await.unwrap().unwrap();
    assert_eq!(copy, two.a.order(id).await.unwrap().unwrap());
    let events = two.b.events(id, 0, 9).await.unwrap();
    assert_eq!(events.len(), 2);
    let seqs = async |after, limit| {
        let page = two.b.events(id, after, limit).await.unwrap();
        page.iter().map(|event| event.seq).collect::<Vec<_>>()
    };
    assert_eq!((seqs(0, 1).await, seqs(1, 9).await, seqs(2, 9).await), (vec![1], vec![2], vec![]));
    assert_eq!(verify_chain(id, &events), entrepot::domain::order::ChainVerdict::Intact);

    let foreign = writes::placed(region("c"), writes::order_id(3, 1), 3);
    two.write(&writes::orders([foreign]), 3).await;
    let envelopes = two.outbox().await;
    let refusal = two.b.apply(at(2), &envelopes[2..], 5).await.unwrap_err();
    assert!(refusal.to_string().contains("I-13"), "{refusal}");
}

/// The payload of an envelope at another place.
fn made_like(envelope: &Envelope, sequence: u64) -> Envelope {
    made(1, sequence, None, std::str::from_utf8(&envelope.payload).unwrap())
}

#[tokio::test]
async fn a_group_too_large_for_one_envelope_becomes_several() {
    let two = Two::start().await;
    let a = region("a");
    let text = "x".repeat(300 * 1024);
    let mut changes = ChangeSet::default();
    for number in 0..20 {
        let sku = format!("sku-{number}");
        changes.products.extend(writes::described(a, &sku, 1, &text).products);
    }
    let committed = two.a.commit(&changes, writes::stamp(a, 1)).await.unwrap();
    let last = committed.sequence.unwrap();
    assert!(last > 1, "6 MiB in {last} envelopes");
    let mut after = at(0);
    while after.sequence < last {
        let batch = two.a.outbox(after.next(), PULL_ENVELOPES_MAX).await.unwrap();
        let bytes: usize = batch.iter().map(Envelope::encoded_len).sum();
        assert!(batch.len() == 1 || bytes <= PAYLOAD_BYTES_MAX + 1024, "{bytes} bytes");
        two.b.apply(after, &batch, 1).await.unwrap();
        after = batch.last().unwrap().position();
    }
    assert_eq!(count(&mut two.b_database.connection().await, "products").await, 20);
}

#[tokio::test]
async fn a_product_that_changed_since_it_was_read_refuses_the_commit() {
    let two = Two::start().await;
    let a = region("a");
    two.write(&writes::product(a, "x", 1), 1).await;
    two.write(&writes::product(a, "x", 2), 2).await;
    for (seen, accepted) in [(1, false), (2, true)] {
        let mut changes = writes::product(a, "x", 3);
        changes.products_seen.insert("x".parse().unwrap(), writes::hlc(a, seen));
        let committed = two.a.commit(&changes, writes::stamp(a, 3)).await;
        assert_eq!(committed.is_ok(), accepted, "{committed:?}");
    }
}

#[tokio::test]
async fn an_intent_that_two_regions_took_is_found_also_when_both_took_it_at_once() {
    let two = Two::start().await;
    let (a, b) = (region("a"), region("b"));
    two.b.find_contests(1_000).await.unwrap();
    let key = "one-intent";
    two.write(&writes::placed_for(a, writes::order_id(1, 1), key, 1), 1).await;
    let envelopes = two.outbox().await;

    // b's own commit is under way: its rows can't be seen when the copy arrives.
    let mut under_way = two.b_database.connection().await;
    let (own_id, placed) = (writes::order_id(2, 1), writes::order_id(2, 1).0);
    let begin = "BEGIN";
    sqlx::raw_sql(begin).execute(&mut under_way).await.unwrap();
    sqlx::query(
        "INSERT INTO idempotency (principal, key, region, body_hash, order_id, first_at_ms)
         VALUES ('customer:c1', $1, 'b', 'same', $2, 1)",
    )
    .bind(key)
    .bind(placed)
    .execute(&mut under_way)
    .await
    .unwrap();
    two.b.apply(at(0), &envelopes, 2_000).await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut under_way).await.unwrap();
    let order = writes::orders([writes::placed(b, own_id, 1)]);
    two.b.commit(&order, writes::stamp(b, 1)).await.unwrap();
    assert_eq!(two.b.contested(None, 9).await.unwrap().len(), 0, "not seen yet");

    two.b.find_contests(2_001).await.unwrap();
    assert_eq!(two.b.contested(None, 9).await.unwrap().len(), 0, "others may still be under way");
    two.b.find_contests(60_000).await.unwrap();
    let contested = two.b.contested(None, 9).await.unwrap();
    assert_eq!(contested.len(), 1);
    assert_eq!(contested[0].own.order.id, own_id);
    assert_eq!(contested[0].other.order.id, writes::order_id(1, 1));

    // A new process looks at everything once.
    let forget = "DELETE FROM contested";
    sqlx::raw_sql(forget).execute(&mut two.b_database.connection().await).await.unwrap();
    let restarted = two.b_database.store("b");
    restarted.find_contests(1).await.unwrap();
    assert_eq!(restarted.contested(None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_dropped_apply_leaves_all_or_nothing_at_every_moment() {
    let two = Two::start().await;
    let envelopes = two.written(30).await;
    let mut after = 0_usize;
    let mut cut_short = 0;
    let mut wait_us = 0;
    while after < envelopes.len() {
        let batch = &envelopes[after..(after + 2).min(30)];
        let from = at(after.try_into().unwrap());
        let apply = two.b.apply(from, batch, 1);
        match tokio::time::timeout(Duration::from_micros(wait_us), apply).await {
            Ok(outcome) => match outcome.unwrap() {
                Applied::Done => {
                    after += batch.len();
                    wait_us /= 2;
                }
                // An earlier attempt had reached its commit.
                Applied::WatermarkIsAt(position) => after = position.sequence.try_into().unwrap(),
            },
            Err(_elapsed) => {
                cut_short += 1;
                wait_us += 100 + wait_us / 8;
            }
        }
        // Everything that a reader sees belongs to the watermark it sees.
        let mut b = two.b_database.connection().await;
        let row = sqlx::query(
            "SELECT coalesce((SELECT seq FROM watermarks), 0), (SELECT count(*) FROM inbox),
                    (SELECT count(*) FROM products)",
        )
        .fetch_one(&mut b)
        .await
        .unwrap();
        let (seq, inbox, products): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!((seq, seq), (inbox, products));
    }
    assert!(cut_short > 5, "only {cut_short} attempts were cut short");
    assert_eq!(two.watermark().await, Some(at(30)));
}
