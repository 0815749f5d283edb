//! Every SQL statement of the program fits the schema.

use entrepot::store::STATEMENTS;
use sqlx::PgConnection;

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

/// The roles are the cluster's, and each process of tests has a cluster of its own.
async fn run(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await.map(|_| ())
}

#[tokio::test]
async fn the_server_may_do_what_its_statements_do_and_no_more() {
    let database = Database::unmigrated().await;
    let mut connection = database.connection().await;
    for role in ["entrepot_app", "entrepot_auditor"] {
        run(&mut connection, format!("CREATE ROLE {role}")).await.unwrap();
    }
    entrepot::store::migrate(&database.address()).await.unwrap();
    run(&mut connection, "SET ROLE entrepot_app".to_owned()).await.unwrap();
    for (number, statement) in STATEMENTS.iter().copied().flatten().enumerate() {
        run(&mut connection, format!("PREPARE s{number} AS {statement}")).await.unwrap();
        let parameters: i32 = sqlx::query_scalar(
            "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = $1",
        )
        .bind(format!("s{number}"))
        .fetch_one(&mut connection)
        .await
        .unwrap();
        let nulls = vec!["NULL"; usize::try_from(parameters).unwrap()].join(", ");
        let parameters = if nulls.is_empty() { nulls } else { format!("({nulls})") };
        // Explaining checks the privileges and does nothing.
        let explained =
            run(&mut connection, format!("EXPLAIN EXECUTE s{number}{parameters}")).await;
        assert!(explained.is_ok(), "{}\nin{statement}", explained.unwrap_err());
    }
    for forbidden in [
        "UPDATE order_events SET last_seq = 1",
        "UPDATE idempotency SET body_hash = ''",
        "UPDATE transfers SET quantity = 0",
        "UPDATE outbox SET seq = 1",
        "UPDATE inbox SET seq = 1",
        "UPDATE _sqlx_migrations SET success = true",
        "DELETE FROM orders",
        "DELETE FROM outbox",
        "TRUNCATE parked",
    ] {
        let refused = run(&mut connection, forbidden.to_owned()).await.unwrap_err();
        assert!(refused.to_string().contains("permission denied"), "{forbidden}: {refused}");
    }
    run(&mut connection, "SET ROLE entrepot_auditor".to_owned()).await.unwrap();
    run(&mut connection, "SELECT * FROM evidence.v_orders".to_owned()).await.unwrap();
    let refused = run(&mut connection, "SELECT * FROM public.orders".to_owned()).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied"), "{refused}");
}
