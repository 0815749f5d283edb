//! Callers that go away in the middle, and a database that stops answering.

use std::time::Duration;

use entrepot::ports::{CommitError, Reader, ReplicationStore, Store};
use entrepot::types::{RegionId, RegionNumber};

use crate::support::postgres::Database;
use crate::support::{eventually, writes};

/// Of the store whose database freezes.
const DEADLINE: Duration = Duration::from_secs(3);

/// A future that is dropped inside a transaction must not hand its connection to the next caller
/// (transact-rs/sqlx #4385): that one's writes would be acknowledged, and then rolled back.
#[tokio::test]
async fn whatever_was_acknowledged_is_there_although_others_hang_up_at_every_millisecond() {
    let database = Database::new().await;
    let region: RegionId = "a".parse().unwrap();
    let store = database.store("a");
    store.start(RegionNumber(std::num::NonZeroU8::MIN)).await.unwrap();
    let mut acknowledged = Vec::new();
    let mut hung_up = 0;
    let mut wait_us = 0;
    for time in 1.. {
        let changes = writes::product(region, &format!("sku-{time}"), time);
        let commit = store.commit(&changes, writes::stamp(region, time));
        if let Ok(outcome) = tokio::time::timeout(Duration::from_micros(wait_us), commit).await {
            acknowledged.push(outcome.unwrap().sequence.unwrap());
            wait_us /= 2;
        } else {
            hung_up += 1;
            wait_us += 200 + wait_us / 10;
        }
        // Somebody patient comes next, and may get the same connection.
        let patient = format!("patient-{time}");
        let patient = writes::product(region, &patient, time);
        let outcome = store.commit(&patient, writes::stamp(region, time)).await;
        acknowledged.push(outcome.unwrap().sequence.unwrap());
        if hung_up >= 60 {
            break;
        }
    }
    let mut connection = database.connection().await;
    let durable: Vec<i64> = sqlx::query_scalar("SELECT seq FROM outbox ORDER BY seq")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    let durable: Vec<u64> = durable.into_iter().map(|seq| seq.try_into().unwrap()).collect();
    for sequence in &acknowledged {
        assert!(durable.contains(sequence), "{sequence} was acknowledged and is not there");
    }
    let gap_free: Vec<u64> = (1..=durable.len() as u64).collect();
    assert_eq!(durable, gap_free);
    // Those who hung up have left neither a transaction nor a lock behind.
    eventually("no transaction is left open", || async {
        let mut connection = database.connection().await;
        let open = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        let open: i64 = sqlx::query_scalar(open).fetch_one(&mut connection).await.unwrap();
        (open == 0).then_some(())
    })
    .await;
}

/// Whether it was carried out can't be seen from the answer to a COMMIT: an error may come after it was.
#[tokio::test]
async fn a_commit_that_answers_with_an_error_is_unknown() {
    let database = Database::new().await;
    let region: RegionId = "a".parse().unwrap();
    let store = database.store("a");
    store.start(RegionNumber(std::num::NonZeroU8::MIN)).await.unwrap();
    // Deferred: it strikes in the COMMIT.
    let broken = "CREATE FUNCTION strike() RETURNS trigger LANGUAGE plpgsql
                  AS $$ BEGIN RAISE EXCEPTION 'struck'; END $$;
                  CREATE CONSTRAINT TRIGGER strike AFTER INSERT ON outbox
                  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION strike()";
    let mut connection = database.connection().await;
    sqlx::raw_sql(broken).execute(&mut connection).await.unwrap();
    let changes = writes::product(region, "sku", 1);
    let outcome = store.commit(&changes, writes::stamp(region, 1)).await;
    assert!(matches!(outcome, Err(CommitError::Unknown(_))), "{outcome:?}");
}

/// `statement_timeout` is the server's and does nothing when the server is frozen: each call has a
/// deadline of ours. What became of a commit is unknown then, and says so.
#[tokio::test]
async fn a_frozen_database_fails_every_call_in_time_and_is_used_again_when_it_thaws() {
    let database = Database::new().await;
    let region: RegionId = "a".parse().unwrap();
    let store = database.store_that_waits("a", DEADLINE);
    store.start(RegionNumber(std::num::NonZeroU8::MIN)).await.unwrap();
    let commit = async |time: u64| {
        let changes = writes::product(region, "sku", time);
        store.commit(&changes, writes::stamp(region, time)).await
    };
    eventually("the first commit", || async { commit(1).await.ok() }).await;

    database.freeze();
    // A commit has two deadlines: one for its writes, one for the commit itself.
    let bound = 2 * DEADLINE + Duration::from_secs(5);
    let calls = async {
        let (written, read, head) = tokio::join!(commit(2), store.ping(), store.head());
        let refusal = written.unwrap_err();
        assert!(
            matches!(refusal, CommitError::Unavailable(_) | CommitError::Unknown(_)),
            "{refusal}"
        );
        read.unwrap_err();
        head.unwrap_err();
    };
    let in_time = tokio::time::timeout(bound, calls).await;
    database.thaw();
    in_time.expect("every call ends within its deadline");
    eventually("the database is used again", || async { commit(3).await.ok() }).await;
}
