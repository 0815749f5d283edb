//! Sagas: new ones, and those that are due.

use async_trait::async_trait;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::mutants::{Mutant, is_on};
use crate::ports::{SagaQueue, StoreError};
use crate::saga::SagaRecord;

use super::encode::{from_json, signed, store_error};
use super::{PgStore, within};

pub(super) const STATEMENTS: &[&str] = &[CLAIM, INSERT];

/// SKIP LOCKED: two workers that claim at once take different sagas instead of waiting for each other.
/// The document keeps its own due time and version: the claim is no step of the saga.
const CLAIM: &str = "
UPDATE sagas SET due_at_ms = $2
WHERE saga_id IN (
    SELECT saga_id FROM sagas
    WHERE state IN ('running', 'compensating') AND due_at_ms <= $1
    ORDER BY due_at_ms LIMIT $3 FOR UPDATE SKIP LOCKED
)
RETURNING document";

const INSERT: &str = "
INSERT INTO sagas (saga_id, order_id, state, step, attempts, created_at_ms, updated_at_ms, due_at_ms, version, document)
SELECT a, b, c, d, e, f, g, h, i, j
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::bigint[],
            $8::bigint[], $9::bigint[], $10::text[]) AS u(a, b, c, d, e, f, g, h, i, j)";

#[async_trait]
impl SagaQueue for PgStore {
    async fn claim(
        &self,
        now_ms: u64,
        due_again_ms: u64,
        limit: u32,
    ) -> Result<Vec<SagaRecord>, StoreError> {
        let claim = async {
            let mut lease = self.lease().await?;
            let query = sqlx::query(CLAIM)
                .bind(if is_on(Mutant::LeasesIgnored) { i64::MAX } else { signed(now_ms) })
                .bind(signed(due_again_ms))
                .bind(i64::from(limit));
            let rows = within(self.deadline, query.fetch_all(&mut *lease)).await?;
            lease.keep();
            rows.iter()
                .map(|row| from_json(row.try_get("document")?))
                .collect::<Result<_, sqlx::Error>>()
        };
        claim.await.map_err(store_error)
    }
}

/// Stores new sagas. One that is there already refuses them all.
pub(super) async fn insert(
    connection: &mut PgConnection,
    new: &[&SagaRecord],
) -> Result<(), sqlx::Error> {
    if new.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&SagaRecord) -> u64| -> Vec<i64> {
        new.iter().map(|saga| signed(of(saga))).collect()
    };
    let document =
        |saga: &&SagaRecord| serde_json::to_string(saga).expect("our own types serialize");
    sqlx::query(INSERT)
        .bind(new.iter().map(|saga| saga.id.0).collect::<Vec<Uuid>>())
        .bind(new.iter().map(|saga| saga.order_id.0).collect::<Vec<Uuid>>())
        .bind(new.iter().map(|saga| saga.state.as_str()).collect::<Vec<_>>())
        .bind(new.iter().map(|saga| saga.step.as_str()).collect::<Vec<_>>())
        .bind(new.iter().map(|saga| attempts(saga)).collect::<Vec<_>>())
        .bind(column(|saga| saga.created_at_ms))
        .bind(column(|saga| saga.updated_at_ms))
        .bind(column(|saga| saga.due_at_ms))
        .bind(column(|saga| saga.version))
        .bind(new.iter().map(document).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) fn attempts(saga: &SagaRecord) -> i32 {
    i32::try_from(saga.attempts).unwrap_or(i32::MAX)
}
