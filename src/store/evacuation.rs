//! The evacuation of this region, as all its processes know it.

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::domain::evacuation::{Evacuating, Progress, Stage};
use crate::ports::{EvacuationStore, StoreError};
use crate::types::Epoch;

use super::encode::{from_json, signed, store_error, unsigned};
use super::stops::{epoch_column, is_over};
use super::{PgStore, within};

pub(super) const STATEMENTS: &[&str] = &[EVACUATION, BEGIN, TELL, ABORT, STILL_MOVES];

const EVACUATION: &str = "SELECT told_at_ms, document FROM evacuation";

/// Nothing is begun beside one that is under way, and whose process lives. Where the region has taken no orders since the last
/// one, this one goes on with it: orders that have moved then have still moved. Nothing found is another epoch: who the region
/// is does not change before this is through.
const BEGIN: &str = "
WITH here AS (
    SELECT true FROM region_identity WHERE epoch = $5 FOR SHARE
), begun AS (
    INSERT INTO evacuation AS e (run, may_abort, is_over, told_at_ms, document)
    SELECT $1::uuid, true, false, $2::bigint, $3::text FROM here
    ON CONFLICT (only_row) DO UPDATE
    SET run = excluded.run, may_abort = e.may_abort OR NOT (SELECT evacuating FROM outbox_head), is_over = false,
        abort = false, told_at_ms = excluded.told_at_ms, document = excluded.document
    WHERE e.is_over OR e.told_at_ms < $4
    RETURNING true
), drained AS (
    UPDATE outbox_head SET evacuating = true FROM begun WHERE epoch = $5
)
SELECT true FROM here";

/// What moves orders ($2) can't be aborted from then on, unless it was before. What was aborted ($3) keeps the region from
/// nothing any more. In a region that was resumed nothing is given up: only the end ($4) is told.
const TELL: &str = "
WITH told AS (
    UPDATE evacuation SET may_abort = may_abort AND (abort OR NOT $2), is_over = $4, told_at_ms = $5, document = $6
    WHERE run = $1 AND ($4 OR (SELECT evacuating FROM outbox_head)) RETURNING abort
), freed AS (
    UPDATE outbox_head SET evacuating = false FROM told WHERE $3
)
SELECT abort FROM told";

const ABORT: &str =
    "UPDATE evacuation SET abort = true WHERE run = $1 AND may_abort AND NOT is_over";

/// Until the commit is through, no other one begins.
pub(super) const STILL_MOVES: &str = "
SELECT true FROM evacuation
WHERE run = $1 AND NOT may_abort AND NOT is_over AND (SELECT evacuating FROM outbox_head) FOR SHARE";

#[async_trait]
impl EvacuationStore for PgStore {
    async fn evacuation(&self) -> Result<Option<Evacuating>, StoreError> {
        let call = async {
            let mut lease = self.lease().await?;
            let query = sqlx::query(EVACUATION).fetch_optional(&mut *lease);
            let row = within(self.deadline, query).await?;
            lease.keep();
            row.as_ref().map(evacuating).transpose()
        };
        call.await.map_err(store_error)
    }

    async fn begin_evacuation(
        &self,
        epoch: Epoch,
        begun: &Progress,
        now_ms: u64,
        lost_ms: u64,
    ) -> Result<Evacuating, StoreError> {
        let call = async {
            let mut lease = self.lease().await?;
            let row = within(self.deadline, async {
                let query = sqlx::query_scalar(BEGIN).bind(begun.run).bind(signed(now_ms));
                let query = query.bind(document(begun)).bind(signed(lost_ms));
                let query = query.bind(epoch_column(epoch));
                let here: Option<bool> = query.fetch_optional(&mut *lease).await?;
                if here.is_none() {
                    return Ok(None);
                }
                sqlx::query(EVACUATION).fetch_one(&mut *lease).await.map(Some)
            });
            let row = row.await?;
            lease.keep();
            row.as_ref().map(evacuating).transpose()
        };
        let now: Option<Evacuating> = call.await.map_err(store_error)?;
        now.ok_or_else(is_over)
    }

    async fn tell_evacuation(
        &self,
        progress: &Progress,
        now_ms: u64,
    ) -> Result<Option<bool>, StoreError> {
        let call = async {
            let mut lease = self.lease().await?;
            let query = sqlx::query_scalar(TELL)
                .bind(progress.run)
                .bind(progress.stage.moves_orders())
                .bind(progress.stage == Stage::Aborted)
                .bind(progress.stage.is_over())
                .bind(signed(now_ms))
                .bind(document(progress))
                .fetch_optional(&mut *lease);
            let abort: Option<bool> = within(self.deadline, query).await?;
            lease.keep();
            Ok(abort)
        };
        call.await.map_err(store_error)
    }

    async fn abort_evacuation(&self, run: Uuid) -> Result<bool, StoreError> {
        let call = async {
            let mut lease = self.lease().await?;
            let query = sqlx::query(ABORT).bind(run).execute(&mut *lease);
            let done = within(self.deadline, query).await?;
            lease.keep();
            Ok(done.rows_affected() > 0)
        };
        call.await.map_err(store_error)
    }
}

fn document(progress: &Progress) -> String {
    serde_json::to_string(progress).expect("our own types have a JSON form")
}

fn evacuating(row: &PgRow) -> Result<Evacuating, sqlx::Error> {
    let progress = from_json(row.try_get("document")?)?;
    Ok(Evacuating { progress, told_at_ms: unsigned(row, "told_at_ms")? })
}
