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

/// Right after a catalogue was filled there are no statistics, and connections have kept their plans from
/// before. Sales must find their rows by key all the same.
#[tokio::test]
async fn a_table_without_statistics_is_not_read_whole_by_a_sale() {
    let database = Database::new().await;
    let mut connection = database.connection().await;
    // As the server's connections have it.
    for setting in ["enable_seqscan = off", "enable_hashjoin = off", "enable_mergejoin = off"] {
        run(&mut connection, format!("SET {setting}")).await.unwrap();
    }
    run(&mut connection, "ALTER TABLE rights SET (autovacuum_enabled = off)".to_owned())
        .await
        .unwrap();
    let fill = "INSERT INTO rights (sku, node, owner, epoch, version)
                SELECT 'sku-' || n, 'node', owner, 1, 1 FROM generate_series(1, 3000) AS n,
                       unnest(ARRAY['a', 'b', 'c']) AS owner";
    run(&mut connection, fill.to_owned()).await.unwrap();
    let skus = (1..=200).map(|n| format!("'sku-{n}'")).collect::<Vec<_>>().join(", ");
    let list = format!("ARRAY[{skus}]");
    let nodes = "array_fill('node'::text, ARRAY[200])";
    let ones = "array_fill(1::bigint, ARRAY[200])";
    let none = "array_fill(NULL::bigint, ARRAY[200])";
    for (beginning, parameters) in [
        (
            "WITH change AS",
            format!("'a', 1, {list}, {nodes}, {ones}, {ones}, {ones}, {ones}, {none}"),
        ),
        ("SELECT u.sku, u.node, r.on_hand", format!("'a', {list}, {nodes}")),
        ("SELECT r.version\nFROM (SELECT * FROM unnest", format!("'a', 1, {list}, {nodes}")),
    ] {
        let mut statements = STATEMENTS.iter().copied().flatten();
        let statement = statements.find(|text| text.trim().starts_with(beginning)).unwrap();
        run(&mut connection, format!("PREPARE s AS {statement}")).await.unwrap();
        let explain = format!("EXPLAIN EXECUTE s({parameters})");
        let plan: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(explain))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        run(&mut connection, "DEALLOCATE s".to_owned()).await.unwrap();
        let conditions: Vec<&String> =
            plan.iter().filter(|line| line.contains("Index Cond")).collect();
        assert!(!conditions.is_empty(), "{plan:#?}");
        for condition in conditions {
            // All incarnations of one owner, which are a handful.
            let one_key =
                ["sku =", "node =", "owner ="].iter().all(|part| condition.contains(part));
            assert!(one_key, "{condition}\nin {plan:#?}");
        }
    }
}
