//! A connection that goes back to the pool only when its work ended well.
//!
//! A future that is dropped half-way (a time-out, a task that ends) leaves its connection in an unknown
//! state: inside a transaction, or with an answer still to come. sqlx 0.9 would hand such a connection
//! to the next borrower, whose writes would be acknowledged and then rolled back (transact-rs/sqlx
//! #4385). So a connection is closed unless [`Lease::keep`] was called. No transaction is ever begun
//! with `pool.begin()`, and no raw time-out stands around a database future: [`within`] is the one helper.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

use crate::mutants::{Mutant, is_on};

/// A borrowed connection.
pub(crate) struct Lease {
    connection: Option<PoolConnection<Postgres>>,
}

impl Lease {
    /// Borrows. Waits for a free one at most as long as the pool is set to.
    pub(crate) async fn take(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self { connection: Some(pool.acquire().await?) })
    }

    /// The work ended well and no transaction is open: back to the pool.
    pub(crate) fn keep(mut self) {
        drop(self.connection.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if is_on(Mutant::ConnectionsKept) {
            return;
        }
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("taken only when the lease ends")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("taken only when the lease ends")
    }
}

/// Bounds a database call: a server that is frozen answers nothing, `statement_timeout` or not. The
/// caller must let its lease go without [`Lease::keep`] when this fails.
pub(crate) async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(deadline, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("no answer within {} ms", deadline.as_millis()),
        ))),
    }
}
