//! Reports, a bounded number of them.

use sqlx::Row;

use super::{PgStore, within};
use crate::reconcile::Report;
use crate::store::encode::{from_json, signed};
use crate::types::ReportId;

/// A run that was given up as failed stays so.
pub(super) const KEEP: &str = "
INSERT INTO reconciliations (report_id, status, asked_by, started_at_ms, document) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (report_id) DO UPDATE SET status = excluded.status, document = excluded.document";

pub(super) const REPORT: &str = "SELECT document, status FROM reconciliations WHERE report_id = $1";

pub(super) const FAIL: &str =
    "UPDATE reconciliations SET status = 'failed' WHERE status = 'running' AND started_at_ms < $1";

pub(super) const FORGET: &str = "
DELETE FROM reconciliations WHERE report_id IN (
    SELECT report_id FROM reconciliations ORDER BY started_at_ms DESC, report_id DESC OFFSET $1)";

pub(super) async fn keep(store: &PgStore, report: &Report) -> Result<(), sqlx::Error> {
    let document = serde_json::to_string(report).expect("our own type always serializes");
    let query = sqlx::query(KEEP)
        .bind(report.id.0)
        .bind(report.status.as_str())
        .bind(&report.asked_by)
        .bind(signed(report.started_at_ms))
        .bind(document);
    store.rows(query).await.map(|_| ())
}

pub(super) async fn read(store: &PgStore, id: ReportId) -> Result<Option<Report>, sqlx::Error> {
    let rows = store.rows(sqlx::query(REPORT).bind(id.0)).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let mut report: Report = from_json(row.try_get("document")?)?;
    let status: &str = row.try_get("status")?;
    if status == "failed" && report.status != crate::reconcile::Status::Failed {
        report.status = crate::reconcile::Status::Failed;
        report.error.get_or_insert("its process ended before the run did; run it again".to_owned());
    }
    Ok(Some(report))
}

pub(super) async fn tidy(
    store: &PgStore,
    begun_before_ms: u64,
    kept: u32,
) -> Result<(), sqlx::Error> {
    let mut lease = store.lease().await?;
    let tidy = async {
        sqlx::query(FAIL).bind(signed(begun_before_ms)).execute(&mut *lease).await?;
        sqlx::query(FORGET).bind(i64::from(kept)).execute(&mut *lease).await?;
        Ok(())
    };
    within(store.deadline, tidy).await?;
    lease.keep();
    Ok(())
}
