//! The schema: embedded in the program, applied by `entrepot migrate`, checked by `entrepot serve`.

use std::borrow::Cow;
use std::time::Duration;

use sqlx::migrate::{Migrate, Migration, MigrationType, Migrator};
use sqlx::{ConnectOptions, Connection, SqlSafeStr};

use crate::config::DatabaseAddress;

use super::within;

/// Version, name, SQL.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "core", include_str!("../../migrations/0001_core.sql")),
    (2, "evidence", include_str!("../../migrations/0002_evidence.sql")),
    (3, "rights bucket", include_str!("../../migrations/0003_rights_bucket.sql")),
    (4, "rights of grantees", include_str!("../../migrations/0004_rights_of_grantees.sql")),
    (5, "actors", include_str!("../../migrations/0005_actors.sql")),
    (6, "reconciliations", include_str!("../../migrations/0006_reconciliations.sql")),
    (7, "registers", include_str!("../../migrations/0007_registers.sql")),
    (8, "incarnations", include_str!("../../migrations/0008_incarnations.sql")),
    (9, "moved_orders", include_str!("../../migrations/0009_moved_orders.sql")),
    (10, "retirements", include_str!("../../migrations/0010_retirements.sql")),
    (11, "pins", include_str!("../../migrations/0011_pins.sql")),
    (12, "canary", include_str!("../../migrations/0012_canary.sql")),
    (13, "processes", include_str!("../../migrations/0013_processes.sql")),
    (14, "voters", include_str!("../../migrations/0014_voters.sql")),
    (15, "stops", include_str!("../../migrations/0015_stops.sql")),
];

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database can't be reached or refuses the log-in.
    #[error("cannot connect to the database; is it running, and are the URL and password right?")]
    Connect(#[source] sqlx::Error),
    /// A migration failed; those before it are applied, it is not.
    #[error("a migration failed and was rolled back")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

/// How the database's schema compares with this program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// The same.
    Current,
    /// Migrations are missing: run `entrepot migrate`.
    Older,
    /// A newer program has migrated it, or one of the migrations was another text.
    NewerOrForeign,
}

fn migrator() -> Migrator {
    let migration = |&(version, name, sql): &(i64, &'static str, &'static str)| {
        let kind = MigrationType::Simple;
        Migration::new(version, Cow::Borrowed(name), kind, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(MIGRATIONS.iter().map(migration).collect())
}

/// For a connection and for each look at the schema. A server that is frozen must not hold up a start
/// for ever: whoever starts us sees why and tries again.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

async fn connect(address: &DatabaseAddress) -> Result<sqlx::PgConnection, MigrateError> {
    let options = super::options(address).map_err(MigrateError::Connect)?;
    // Building an index on a large table takes longer than any call of the server may.
    let options = options.options([("statement_timeout", "0")]);
    within(CONNECT_LIMIT, options.connect()).await.map_err(MigrateError::Connect)
}

/// Applies what is missing, under a lock against other processes. Answers the schema's version.
pub async fn migrate(address: &DatabaseAddress) -> Result<i64, MigrateError> {
    let mut connection = connect(address).await?;
    migrator().run(&mut connection).await?;
    connection.close().await.map_err(MigrateError::Connect)?;
    Ok(MIGRATIONS.last().map_or(0, |(version, _, _)| *version))
}

/// Compares, changes nothing.
pub async fn schema_state(address: &DatabaseAddress) -> Result<SchemaState, MigrateError> {
    let mut connection = connect(address).await?;
    let exists = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut connection);
    let exists: bool = within(CONNECT_LIMIT, exists).await.map_err(MigrateError::Connect)?;
    if !exists {
        return Ok(SchemaState::Older);
    }
    let applied = connection.list_applied_migrations("_sqlx_migrations").await?;
    let migrator = migrator();
    let ours: Vec<_> = migrator.iter().map(|known| (known.version, &known.checksum)).collect();
    let theirs: Vec<_> = applied.iter().map(|done| (done.version, &done.checksum)).collect();
    Ok(if theirs == ours {
        SchemaState::Current
    } else if ours.starts_with(&theirs) {
        SchemaState::Older
    } else {
        SchemaState::NewerOrForeign
    })
}
