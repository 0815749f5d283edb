//! What takes a region out of traffic outlives its server.

use std::sync::Arc;

use entrepot::app::{Region, Stops};
use entrepot::ports::{CommitError, Reader as _, StopStore, Store as _, StoreError};
use entrepot::runtime::{RandomIds, SystemClock, TaskSet};
use entrepot::store::PgStore;
use entrepot::types::{Epoch, RegionNumber};

use crate::support::postgres::Database;
use crate::support::{eventually, writes};

/// One server's life on a database.
struct Life {
    store: PgStore,
    region: Arc<Region>,
    stops: Stops,
}

async fn begin(database: &Database) -> Life {
    let store = database.store("a");
    let number = RegionNumber(std::num::NonZeroU8::MIN);
    let start = store.start(number).await.unwrap();
    let clock = SystemClock::new();
    let id = "a".parse().unwrap();
    let region = Region::new(
        id,
        [(id, number)].into(),
        start.epoch,
        start.floor,
        Arc::new(clock),
        Arc::new(RandomIds::new(clock)),
    );
    let region = Arc::new(region);
    let kept = Arc::new(store.clone());
    let stops =
        Stops::new(region.clone(), kept, TaskSet::new(), start.draining, start.set_back.as_deref());
    Life { store, region, stops }
}

#[tokio::test]
async fn a_drained_region_is_drained_after_a_restart_until_it_is_resumed() {
    let database = Database::new().await;
    let first = begin(&database).await;
    assert!(!first.region.is_draining());
    assert!(first.stops.drain(true).await.unwrap());
    let second = begin(&database).await;
    assert!(second.region.is_draining());
    assert!(second.stops.drain(false).await.unwrap() && !second.region.is_draining());
    assert!(!begin(&database).await.region.is_draining());
}

#[tokio::test]
async fn a_region_whose_database_was_set_back_takes_no_orders_whoever_resumes_it() {
    let database = Database::new().await;
    let first = begin(&database).await;
    first.stops.set_back("a peer knows more".to_owned());
    assert!(first.region.is_draining(), "at once");
    let number = RegionNumber(std::num::NonZeroU8::MIN);
    let stored = || async { first.store.start(number).await.unwrap().set_back };
    let proof = eventually("the proof is stored", stored).await;
    assert_eq!(proof, "a peer knows more");
    assert!(!first.stops.drain(false).await.unwrap() && first.region.is_draining());
    let second = begin(&database).await;
    assert!(!second.stops.drain(false).await.unwrap());
    assert!(second.region.is_draining() && second.region.is_set_back());
}

#[tokio::test]
async fn another_incarnation_has_no_say() {
    let database = Database::new().await;
    let life = begin(&database).await;
    let error = life.store.set_draining(Epoch(2), true).await.unwrap_err();
    assert!(matches!(error, StoreError::Broken(_)), "{error}");
    assert!(!begin(&database).await.region.is_draining());
}

/// The columns are taken away again, and added with what an older version has left behind.
#[tokio::test]
async fn what_an_older_version_left_drained_is_told_apart() {
    let database = Database::new().await;
    drop(begin(&database).await);
    let mut connection = database.connection().await;
    let mut migrated = async |draining: bool, last: Option<(&str, bool, u64)>, set_back: bool| {
        let evacuation = last.map_or_else(String::new, |(stage, is_over, orders)| {
            let run = "00000000-0000-0000-0000-000000000001";
            let document = format!(
                r#"{{"run":"{run}","to":"b","stage":"{stage}","orders":{orders},"units":0,"detail":null}}"#
            );
            format!(
                "INSERT INTO evacuation (run, may_abort, is_over, told_at_ms, document)
                 VALUES ('{run}', true, {is_over}, 1, '{document}');"
            )
        });
        let proof = if set_back { "'a peer knows more'" } else { "NULL" };
        let before = format!(
            "ALTER TABLE outbox_head DROP COLUMN is_stopped, DROP COLUMN evacuating, DROP COLUMN set_back;
             DELETE FROM evacuation; {evacuation}
             UPDATE outbox_head SET draining = {draining};
             UPDATE region_identity SET set_back = {proof};"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(before)).execute(&mut connection).await.unwrap();
        let migration = include_str!("../../migrations/0015_stops.sql");
        sqlx::raw_sql(migration).execute(&mut connection).await.unwrap();
        let found = "SELECT draining, evacuating, is_stopped, (SELECT may_abort FROM evacuation) FROM outbox_head";
        let found: (bool, bool, bool, Option<bool>) =
            sqlx::query_as(found).fetch_one(&mut connection).await.unwrap();
        found
    };
    assert_eq!(migrated(false, None, false).await, (false, false, false, None));
    assert_eq!(migrated(true, None, false).await, (true, false, true, None));
    assert_eq!(migrated(true, None, true).await, (false, false, true, None));
    for (stage, orders) in [("done", 3), ("done", 0), ("failed", 2), ("failed", 0)] {
        let last = Some((stage, true, orders));
        let may_abort = Some(orders == 0);
        assert_eq!(migrated(true, last, false).await, (false, true, true, may_abort), "{stage}");
        let resumed = migrated(false, last, false).await;
        assert_eq!(resumed, (false, false, false, may_abort), "{stage}");
    }
    let under_way = Some(("moving_rights", false, 0));
    assert_eq!(migrated(true, under_way, false).await, (false, true, true, Some(true)));
    let aborted = Some(("aborted", true, 0));
    assert_eq!(migrated(true, aborted, false).await, (true, false, true, Some(true)));
}

/// A commit that waits for the lock of whoever drains the region decides by what is there afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_meets_a_drain_is_committed_before_it_or_not_at_all() {
    let database = Database::new().await;
    let life = begin(&database).await;
    let (id, time) = (writes::order_id(1, 1), 1);
    let mut draining = database.connection().await;
    let drain = "BEGIN; UPDATE outbox_head SET draining = true";
    sqlx::raw_sql(drain).execute(&mut draining).await.unwrap();
    let order = writes::orders([writes::placed(life.region.id, id, time)]);
    let stamp = writes::stamp(life.region.id, time);
    let through = async {
        eventually("the commit waits for the lock", || async {
            let mut connection = database.connection().await;
            let waiting = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND wait_event_type = 'Lock'";
            let waiting: i64 =
                sqlx::query_scalar(waiting).fetch_one(&mut connection).await.unwrap();
            (waiting > 0).then_some(())
        })
        .await;
        sqlx::raw_sql("COMMIT").execute(&mut draining).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(life.store.commit(&order, stamp), through);
    assert_eq!(outcome, Err(CommitError::Draining));
    assert!(life.store.order(id).await.unwrap().is_none());
}
