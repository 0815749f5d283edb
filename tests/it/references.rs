//! References of channels in PostgreSQL: one standing order in a region, and two regions' are found.

use std::collections::BTreeSet;

use entrepot::domain::order::EventBody;
use entrepot::ports::{Applied, CommitError, Needs, Reader, ReplicationStore, Store};
use entrepot::replication::{Envelope, PULL_ENVELOPES_MAX, Position};
use entrepot::store::PgStore;
use entrepot::types::{Epoch, OrderId, RegionId, RegionNumber};

use crate::support::postgres::Database;
use crate::support::writes;

fn region(name: &str) -> RegionId {
    name.parse().unwrap()
}

fn at(sequence: u64) -> Position {
    Position { epoch: Epoch::FIRST, sequence }
}

async fn start(database: &Database, name: &str, number: u8) -> PgStore {
    let store = database.store(name);
    store.start(RegionNumber(std::num::NonZeroU8::new(number).unwrap())).await.unwrap();
    store
}

async fn standing(store: &PgStore, reference: &str) -> Vec<OrderId> {
    let key = ("web".to_owned(), reference.to_owned());
    let needs = Needs { channel_refs: BTreeSet::from([key.clone()]), ..Needs::default() };
    let view = store.load(&needs).await.unwrap();
    let ids = view.channel_refs.get(&key).cloned().unwrap_or_default();
    assert!(ids.iter().all(|id| view.orders.contains_key(id)), "loaded as well");
    ids
}

async fn outbox(store: &PgStore) -> Vec<Envelope> {
    store.outbox(at(1), PULL_ENVELOPES_MAX).await.unwrap()
}

#[tokio::test]
async fn a_cancelled_order_leaves_its_reference_to_one_of_the_same_commit_here_and_in_copies() {
    let (a_database, b_database) = (Database::new().await, Database::new().await);
    let (a, b) = (start(&a_database, "a", 1).await, start(&b_database, "b", 2).await);
    let home = region("a");
    let [smaller, id, late] = [1, 2, 3].map(|serial| writes::order_id(1, serial));
    let first = writes::referenced(home, id, 1, "r", "c");
    a.commit(&writes::orders([first.clone()]), writes::stamp(home, 1)).await.unwrap();
    let second = writes::referenced(home, late, 2, "r", "c");
    let refused = a.commit(&writes::orders([second]), writes::stamp(home, 2)).await;
    assert!(matches!(refused, Err(CommitError::Conflict(_))), "{refused:?}");
    assert_eq!(b.apply(at(0), &outbox(&a).await, 1).await, Ok(Applied::Done));
    for store in [&a, &b] {
        assert_eq!(standing(store, "r").await, [id]);
    }
    let cancellation = serde_json::from_str("{\"code\":\"c\",\"detail\":\"d\"}").unwrap();
    let before = Some(first.record.as_ref().clone());
    let cancelled = writes::next(home, before, 3, EventBody::Cancelled(cancellation));
    // Ids are not always in the order of the commits.
    let second = writes::referenced(home, smaller, 3, "r", "c");
    a.commit(&writes::orders([cancelled, second]), writes::stamp(home, 3)).await.unwrap();
    assert_eq!(b.apply(at(1), &outbox(&a).await[1..], 2).await, Ok(Applied::Done));
    for store in [&a, &b] {
        assert_eq!(standing(store, "r").await, [smaller]);
    }
}

#[tokio::test]
async fn confirming_an_order_leaves_the_indexes_alone() {
    let database = Database::new().await;
    let mut connection = database.connection().await;
    let changes = "
        BEGIN;
        INSERT INTO orders VALUES (gen_random_uuid(), 'a', 'c', 'web', 'r', 'pending', '', '', 1, 'EUR', 0, '', '', '', '{}');
        UPDATE orders SET status = 'confirmed', payment_status = 'authorized', version = 2, document = '[]'";
    sqlx::raw_sql(changes).execute(&mut connection).await.unwrap();
    let heap_only = "SELECT pg_stat_get_xact_tuples_hot_updated('orders'::regclass)";
    let heap_only: i64 = sqlx::query_scalar(heap_only).fetch_one(&mut connection).await.unwrap();
    assert_eq!(heap_only, 1, "an index covers what every order changes");
}

#[tokio::test]
async fn an_order_is_found_by_its_reference_without_reading_all() {
    let database = Database::new().await;
    let mut connection = database.connection().await;
    sqlx::raw_sql("SET enable_seqscan = off").execute(&mut connection).await.unwrap();
    let look = "EXPLAIN SELECT order_id FROM orders
                WHERE channel = 'web' AND channel_order_ref = 'r' AND stands";
    let plan: Vec<String> = sqlx::query_scalar(look).fetch_all(&mut connection).await.unwrap();
    let plan = plan.join("\n");
    assert!(plan.contains("orders_by_channel_ref"), "{plan}");
}

#[tokio::test]
async fn a_reference_that_two_regions_took_is_found_also_when_both_took_it_at_once() {
    let (a_database, b_database) = (Database::new().await, Database::new().await);
    let (a, b) = (start(&a_database, "a", 1).await, start(&b_database, "b", 2).await);
    let (home, own) = (region("a"), region("b"));
    b.find_contests(1_000).await.unwrap();
    for (serial, reference) in [(1, "early"), (2, "late"), (3, "foreign")] {
        let write = writes::referenced(home, writes::order_id(1, serial), serial, reference, "c");
        a.commit(&writes::orders([write]), writes::stamp(home, serial)).await.unwrap();
    }
    let place = async |serial: u64, reference: &str, customer: &str| {
        let id = writes::order_id(2, serial);
        let write = writes::referenced(own, id, serial, reference, customer);
        b.commit(&writes::orders([write]), writes::stamp(own, serial)).await.unwrap();
    };
    let found = async || {
        let contested = b.contested(None, 9).await.unwrap();
        contested.iter().map(|pair| (pair.own.order.id, pair.other.order.id)).collect::<Vec<_>>()
    };
    let pair = |serial| (writes::order_id(2, serial), writes::order_id(1, serial));
    place(1, "early", "c").await;
    place(3, "foreign", "d").await;
    b.apply(at(0), &outbox(&a).await, 2_000).await.unwrap();
    assert_eq!(found().await, [pair(1)], "another customer's order is another order");
    // As one that was under way when the copy arrived.
    place(2, "late", "c").await;
    assert_eq!(found().await, [pair(1)], "not seen yet");
    b.find_contests(60_000).await.unwrap();
    assert_eq!(found().await, [pair(1), pair(2)]);

    // A new process looks at everything once.
    let forget = "DELETE FROM contested";
    sqlx::raw_sql(forget).execute(&mut b_database.connection().await).await.unwrap();
    b_database.store("b").find_contests(1).await.unwrap();
    assert_eq!(found().await, [pair(1), pair(2)]);
}
