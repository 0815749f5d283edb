//! An incarnation that is noted to be over while its rows are on their way into the database.

use entrepot::escrow::{KeyedRow, Row};
use entrepot::ports::{RejoinStore, RightsStore};
use entrepot::store::PgRights;
use entrepot::types::{Actor, Epoch, RegionNumber, StockKey};

use crate::support::eventually;
use crate::support::postgres::Database;

/// Another process of the region stores a row while one notes the end: the row is there before it, or not at all.
#[tokio::test]
async fn no_row_is_stored_after_the_end_of_its_owner_was_noted() {
    let database = Database::new().await;
    let store = database.store("a");
    store.start(RegionNumber(std::num::NonZeroU8::MIN)).await.unwrap();
    let rights = PgRights::new(store, Epoch::FIRST);
    let waits = async |what: &str| {
        let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'incarnations'::regclass";
        eventually(what, async || {
            let mut connection = database.connection().await;
            let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
            (waiting == 1).then_some(())
        })
        .await;
    };
    let mut beside = database.connection().await;
    let region = "b".parse().unwrap();
    // One that is being stored holds up whoever notes the end.
    sqlx::raw_sql("BEGIN; SELECT FROM incarnations FOR SHARE").execute(&mut beside).await.unwrap();
    let (noted, ()) = tokio::join!(rights.note_incarnation(region, Epoch(2)), async {
        waits("the end waits for rows that are being stored").await;
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
        waits("rows wait while the end is being noted").await;
        sqlx::raw_sql("COMMIT").execute(&mut beside).await.unwrap();
    });
    stored.unwrap();
    assert_eq!(rights.rows(&[key].into()).await.unwrap(), []);
}
