//! Regions that are gone for good.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::encode::{from_json, signed, store_error};
use super::rejoin::{LONG_STATEMENTS, note};
use super::rights::{PgRights, epoch_column, execute};
use super::{PgStore, within};
use crate::escrow::KeyedRow;
use crate::ports::{MergeReport, RetirementStore, StoreError};
use crate::replication::retirement::Retirement;
use crate::types::{Actor, Epoch, OrderId, RegionId};

pub(super) const STATEMENTS: &[&str] = &[LATEST, KEEP, IS_NOTED, NOTED, PAID_BY];

const LATEST: &str = "SELECT document FROM retirements WHERE region = $1 ORDER BY ends DESC, asked_at_ms DESC LIMIT 1";

/// What is done stays done, whoever tells an older state late.
const KEEP: &str = "
INSERT INTO retirements AS r (region, ends, asked_at_ms, document) VALUES ($1, $2, $3, $4)
ON CONFLICT (region, ends, asked_at_ms) DO UPDATE SET document = excluded.document
WHERE r.document::json -> 'outcome' IS NULL OR excluded.document::json -> 'outcome' IS NOT NULL";

const IS_NOTED: &str = "
SELECT coalesce((document::json ->> 'noted')::boolean, false) FROM retirements
WHERE region = $1 AND ends = $2 AND asked_at_ms = $3";

/// Whoever notes another one waits for the end of this transaction.
const NOTED: &str = "SELECT epoch FROM incarnations WHERE region = $1 FOR SHARE";

const PAID_BY: &str = "
SELECT payment ->> 'provider_key' AS key, o.order_id
FROM orders o, json_array_elements(o.document::json -> 'payments') AS payment
WHERE o.stands AND payment ->> 'provider_key' = ANY($1::text[])";

async fn keep(connection: &mut PgConnection, retirement: &Retirement) -> Result<(), sqlx::Error> {
    let document = serde_json::to_string(retirement).expect("our own types have a JSON form");
    let ends = Actor { region: retirement.region, epoch: retirement.ends };
    sqlx::query(KEEP)
        .bind(retirement.region.as_str())
        .bind(epoch_column(ends))
        .bind(signed(retirement.asked_at_ms))
        .bind(document)
        .execute(connection)
        .await?;
    Ok(())
}

impl PgStore {
    async fn orders_paid_by(&self, keys: &[String]) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut lease = self.lease().await?;
        let rows = within(super::rejoin::BEGIN_DEADLINE, async {
            execute(&mut lease, "BEGIN READ ONLY").await?;
            execute(&mut lease, LONG_STATEMENTS).await?;
            let rows = sqlx::query(PAID_BY).bind(keys).fetch_all(&mut *lease).await?;
            execute(&mut lease, "COMMIT").await?;
            Ok(rows)
        });
        let rows = rows.await?;
        lease.keep();
        Ok(rows)
    }
}

#[async_trait]
impl RetirementStore for PgRights {
    async fn retirement(&self, region: RegionId) -> Result<Option<Retirement>, StoreError> {
        let read = async {
            let rows = self.store.rows(sqlx::query(LATEST).bind(region.as_str())).await?;
            rows.first().map(|row| from_json(row.try_get("document")?)).transpose()
        };
        read.await.map_err(store_error)
    }

    async fn keep_retirement(&self, retirement: &Retirement) -> Result<(), StoreError> {
        let call = async {
            let mut lease = self.store.lease().await?;
            within(self.store.deadline, keep(&mut lease, retirement)).await?;
            lease.keep();
            Ok(())
        };
        call.await.map_err(store_error)
    }

    async fn note_retirement(&self, retirement: &Retirement) -> Result<(Epoch, bool), StoreError> {
        let ends = Actor { region: retirement.region, epoch: retirement.ends };
        let call = async {
            let mut lease = self.store.lease().await?;
            let noted = within(self.store.deadline, async {
                execute(&mut lease, "BEGIN").await?;
                let before = note(&mut lease, ends).await?;
                let known: Option<bool> = sqlx::query_scalar(IS_NOTED)
                    .bind(ends.region.as_str())
                    .bind(epoch_column(ends))
                    .bind(signed(retirement.asked_at_ms))
                    .fetch_optional(&mut *lease)
                    .await?;
                let is_ours = before < ends.epoch || before == ends.epoch && known == Some(true);
                if is_ours {
                    keep(&mut lease, &Retirement { noted: true, ..retirement.clone() }).await?;
                }
                execute(&mut lease, "COMMIT").await?;
                Ok((before.max(ends.epoch), is_ours))
            });
            let noted = noted.await?;
            lease.keep();
            Ok(noted)
        };
        call.await.map_err(store_error)
    }

    async fn bury(
        &self,
        region: RegionId,
        ends: Epoch,
        rows: &[KeyedRow],
    ) -> Result<Option<MergeReport>, StoreError> {
        let ends = Actor { region, epoch: ends };
        let call = async {
            let mut lease = self.store.lease().await?;
            let buried = within(self.store.deadline, async {
                execute(&mut lease, "BEGIN").await?;
                let noted: Option<i32> = sqlx::query_scalar(NOTED)
                    .bind(region.as_str())
                    .fetch_optional(&mut *lease)
                    .await?;
                if noted != Some(epoch_column(ends)) {
                    execute(&mut lease, "ROLLBACK").await?;
                    return Ok(None);
                }
                let report = self.merge_in(&mut lease, rows).await?;
                execute(&mut lease, "COMMIT").await?;
                Ok(Some(report))
            });
            let buried = buried.await?;
            lease.keep();
            Ok(buried)
        };
        call.await.map_err(store_error)
    }

    async fn paid_by(&self, keys: &[String]) -> Result<Vec<(String, OrderId)>, StoreError> {
        let rows = self.store.orders_paid_by(keys).await.map_err(store_error)?;
        let pair = |row: &PgRow| Ok((row.try_get("key")?, OrderId(row.try_get("order_id")?)));
        rows.iter().map(pair).collect::<Result<_, sqlx::Error>>().map_err(store_error)
    }
}
