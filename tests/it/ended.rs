//! An incarnation that is noted to be over while its rows are on their way into the database.

use entrepot::escrow::{KeyedRow, Row};
use entrepot::ports::{Beginning, RejoinStore, ReplicationStore, RightsStore, StopStore};
use entrepot::replication::rejoin::Votes;
use entrepot::store::{PgRights, PgStore};
use entrepot::types::{Actor, Epoch, RegionNumber, StockKey};

use crate::support::eventually;
use crate::support::postgres::Database;

/// A started region.
async fn region(database: &Database) -> (PgStore, PgRights) {
    let store = database.store("a");
    store.start(RegionNumber(std::num::NonZeroU8::MIN)).await.unwrap();
    (store.clone(), PgRights::new(store, Epoch::FIRST))
}

/// Somebody waits to look at the incarnations, or to note one.
async fn waits(database: &Database, what: &str) {
    let sql =
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'incarnations'::regclass";
    eventually(what, async || {
        let mut connection = database.connection().await;
        let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        (waiting == 1).then_some(())
    })
    .await;
}

/// Another process of the region stores a row while one notes the end: the row is there before it, or not at all.
#[tokio::test]
async fn no_row_is_stored_after_the_end_of_its_owner_was_noted() {
    let database = Database::new().await;
    let (_, rights) = region(&database).await;
    let mut beside = database.connection().await;
    let region = "b".parse().unwrap();
    // One that is being stored holds up whoever notes the end.
    sqlx::raw_sql("BEGIN; SELECT FROM incarnations FOR SHARE").execute(&mut beside).await.unwrap();
    let (noted, ()) = tokio::join!(rights.note_incarnation(region, Epoch(2)), async {
        waits(&database, "the end waits for rows that are being stored").await;
        sqlx::raw_sql("COMMIT").execute(&mut beside).await.unwrap();
    });
    assert_eq!(noted, Ok(Epoch::FIRST));
    // And one that comes while the end is being noted sees it.
    let noted = "BEGIN; LOCK TABLE incarnations IN EXCLUSIVE MODE; UPDATE incarnations SET epoch = 3 WHERE region = 'b'";
    sqlx::raw_sql(noted).execute(&mut beside).await.unwrap();
    let owner = Actor { region, epoch: Epoch(2) };
    let key = StockKey { sku: "x".parse().unwrap(), node: "n".parse().unwrap() };
    let row = Row { version: 1, received: 4, ..Row::new(owner) };
    let rows = [KeyedRow { key: key.clone(), owner, row }];
    let (stored, ()) = tokio::join!(rights.merge(&rows, &[]), async {
        waits(&database, "rows wait while the end is being noted").await;
        sqlx::raw_sql("COMMIT").execute(&mut beside).await.unwrap();
    });
    stored.unwrap();
    assert_eq!(rights.rows(&[key].into()).await.unwrap(), []);
}

/// Likewise where a region that begins anew is told of the end.
#[tokio::test]
async fn an_incarnation_begins_behind_rows_that_are_being_stored() {
    let database = Database::new().await;
    let (store, rights) = region(&database).await;
    store.set_back(Epoch::FIRST, "a peer knows more").await.unwrap();
    let follows = store.head().await.unwrap().position;
    let incarnations = [("b".parse().unwrap(), Epoch(2))].into();
    let votes = Votes { incarnations, ..Votes::default() };
    let (epoch, rows, gone) = (Epoch(2), Vec::new(), [].into());
    let beginning = Beginning { epoch, follows, rows, votes, gone };
    let mut beside = database.connection().await;
    sqlx::raw_sql("BEGIN; SELECT FROM incarnations FOR SHARE").execute(&mut beside).await.unwrap();
    let (begun, ()) = tokio::join!(rights.begin(&beginning), async {
        waits(&database, "the beginning waits for rows that are being stored").await;
        sqlx::raw_sql("COMMIT").execute(&mut beside).await.unwrap();
    });
    assert_eq!(begun, Ok(true));
}
