//! PostgreSQL: all SQL of the program, one file per aggregate.
//!
//! Domain types in and out; a row never leaves this module. Statements are constants, listed in
//! [`STATEMENTS`], so that one test can prepare every one of them on the migrated schema.

mod commit;
mod contests;
mod copies;
mod encode;
mod evacuation;
mod evidence;
mod lease;
mod load;
mod migrate;
mod read;
mod reconcile;
mod registers;
mod rejoin;
mod replication;
mod retirement;
mod rights;
mod sagas;
mod start;
mod stops;

pub use migrate::{MigrateError, SchemaState, migrate, schema_state};
pub use rights::PgRights;
pub use start::{Start, StartError};

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use crate::config::DatabaseAddress;
use crate::types::RegionId;

#[cfg(test)]
pub(crate) use evidence::IntentOrder;
pub(crate) use evidence::{Auditor, Intent, PaymentRow, RightsRow, TransferRow};
pub(crate) use lease::{Lease, within};

/// Every statement of this module.
pub const STATEMENTS: &[&[&str]] = &[
    commit::STATEMENTS,
    contests::STATEMENTS,
    copies::STATEMENTS,
    evacuation::STATEMENTS,
    evidence::STATEMENTS,
    load::STATEMENTS,
    read::STATEMENTS,
    reconcile::STATEMENTS,
    replication::STATEMENTS,
    registers::STATEMENTS,
    rejoin::STATEMENTS,
    retirement::STATEMENTS,
    rights::STATEMENTS,
    sagas::STATEMENTS,
    start::STATEMENTS,
    stops::STATEMENTS,
];

/// One region's database.
#[derive(Debug, Clone)]
pub struct PgStore {
    pool: sqlx::PgPool,
    region: RegionId,
    deadline: Duration,
    recent_claims: Arc<Mutex<contests::RecentClaims>>,
}

impl PgStore {
    /// A pool of at most `connections`, opened as they are needed. `deadline` bounds every call.
    pub fn connect(
        region: RegionId,
        address: &DatabaseAddress,
        connections: u32,
        deadline: Duration,
    ) -> Result<Self, sqlx::Error> {
        let options = options(address)?;
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(deadline)
            // A dead connection shows at its first statement, and every caller can take that; a ping
            // before each use would double the round trips.
            .test_before_acquire(false)
            .connect_lazy_with(options);
        Ok(Self { pool, region, deadline, recent_claims: Arc::default() })
    }

    /// Closes every connection. Waits for those in use.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn lease(&self) -> Result<Lease, sqlx::Error> {
        Lease::take(&self.pool).await
    }
}

/// How to reach a database: durable commits asserted, and the server's own time-outs behind ours, so
/// that a transaction whose client was lost does not hold its locks.
///
/// Every statement finds its rows by key, and connections keep their plans. A plan made while a table
/// was empty, or for a list of unknown length, joins by reading the whole table, and goes on doing so
/// when it has a million rows; so such plans are not offered.
fn options(address: &DatabaseAddress) -> Result<PgConnectOptions, sqlx::Error> {
    let options: PgConnectOptions = address.url.parse()?;
    let options = options.application_name("entrepot").options([
        ("synchronous_commit", "on"),
        ("statement_timeout", "10s"),
        ("lock_timeout", "5s"),
        ("idle_in_transaction_session_timeout", "10s"),
        ("jit", "off"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("random_page_cost", "1.1"),
    ]);
    Ok(match &address.password {
        Some(password) => options.password(password.expose()),
        None => options,
    })
}
