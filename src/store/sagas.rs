//! Due sagas.

use async_trait::async_trait;
use sqlx::Row;

use crate::mutants::{Mutant, is_on};
use crate::ports::{SagaQueue, StoreError};
use crate::saga::SagaRecord;

use super::encode::{from_json, signed, store_error};
use super::{PgStore, within};

pub(super) const STATEMENTS: &[&str] = &[CLAIM];

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
