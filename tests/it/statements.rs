//! Every SQL statement of the program fits the schema.

use entrepot::store::STATEMENTS;

use crate::support::postgres::Database;

#[tokio::test]
async fn every_statement_can_be_prepared_on_the_migrated_schema() {
    let database = Database::new().await;
    let mut connection = database.connection().await;
    let mut prepared = 0;
    for statement in STATEMENTS.iter().copied().flatten() {
        let prepare = format!("PREPARE statement_{prepared} AS {statement}");
        let result = sqlx::raw_sql(sqlx::AssertSqlSafe(prepare)).execute(&mut connection).await;
        assert!(result.is_ok(), "{}\nin{statement}", result.unwrap_err());
        prepared += 1;
    }
    assert!(prepared > 30, "only {prepared} statements are listed");
}
