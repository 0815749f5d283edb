//! Regions that are gone for good.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::encode::{from_json, signed, store_error};
use super::rejoin::{LONG_STATEMENTS, note};
use super::rights::{PgRights, epoch_column, execute};
use super::{PgStore, within};
use crate::escrow::KeyedRow;
use crate::ports::{Buried, Ending, RetirementStore, StoreError};
use crate::replication::retirement::Retirement;
use crate::types::{Actor, OrderId, RegionId};

pub(super) const STATEMENTS: &[&str] = &[LATEST, ENDED, KEEP, OF_ATTEMPT, NOTED, PAID_BY];

const LATEST: &str = "SELECT document FROM retirements WHERE region = $1 ORDER BY ends DESC, asked_at_ms DESC LIMIT 1";

const ENDED: &str = "
SELECT DISTINCT ON (r.region) r.document FROM retirements r
JOIN incarnations i ON i.region = r.region AND i.epoch = r.ends
ORDER BY r.region, r.ends DESC, r.asked_at_ms DESC";

/// Whoever keeps another one waits until this transaction ends. Only people's words come here, and pages of last rows.
const KEEP_ALONE: &str = "LOCK TABLE retirements IN SHARE ROW EXCLUSIVE MODE";

/// What is done stays done, whoever tells an older state late.
const KEEP: &str = "
INSERT INTO retirements AS r (region, ends, asked_at_ms, document) VALUES ($1, $2, $3, $4)
ON CONFLICT (region, ends, asked_at_ms) DO UPDATE SET document = excluded.document
WHERE r.document::json -> 'outcome' IS NULL OR excluded.document::json -> 'outcome' IS NOT NULL";

const OF_ATTEMPT: &str =
    "SELECT document FROM retirements WHERE region = $1 AND ends = $2 AND asked_at_ms = $3";

/// Whoever notes another one waits for the end of this transaction.
const NOTED: &str = "SELECT epoch FROM incarnations WHERE region = $1 FOR SHARE";

const PAID_BY: &str = "
SELECT payment ->> 'provider_key' AS key, o.order_id
FROM orders o, json_array_elements(o.document::json -> 'payments') AS payment
WHERE o.stands AND payment ->> 'provider_key' = ANY($1::text[])";

pub(super) async fn keep(
    connection: &mut PgConnection,
    retirement: &Retirement,
) -> Result<(), sqlx::Error> {
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

async fn of_attempt(
    connection: &mut PgConnection,
    retirement: &Retirement,
) -> Result<Option<Retirement>, sqlx::Error> {
    let ends = Actor { region: retirement.region, epoch: retirement.ends };
    let kept: Option<String> = sqlx::query_scalar(OF_ATTEMPT)
        .bind(ends.region.as_str())
        .bind(epoch_column(ends))
        .bind(signed(retirement.asked_at_ms))
        .fetch_optional(connection)
        .await?;
    kept.as_deref().map(from_json).transpose()
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

    async fn ended(&self) -> Result<Vec<Retirement>, StoreError> {
        let read = async {
            let rows = self.store.rows(sqlx::query(ENDED)).await?;
            let documents = rows.iter().map(|row| from_json(row.try_get("document")?));
            documents.collect::<Result<Vec<Retirement>, sqlx::Error>>()
        };
        let last = read.await.map_err(store_error)?;
        Ok(last.into_iter().filter(Retirement::has_ended).collect())
    }

    async fn keep_retirement(
        &self,
        read: Option<&Retirement>,
        next: &Retirement,
    ) -> Result<bool, StoreError> {
        let call = async {
            let mut lease = self.store.lease().await?;
            let kept = within(self.store.deadline, async {
                execute(&mut lease, "BEGIN").await?;
                execute(&mut lease, KEEP_ALONE).await?;
                let last = sqlx::query_scalar(LATEST).bind(next.region.as_str());
                let last: Option<String> = last.fetch_optional(&mut *lease).await?;
                let last: Option<Retirement> = last.as_deref().map(from_json).transpose()?;
                let is_same = last.as_ref() == read;
                if is_same {
                    keep(&mut lease, next).await?;
                }
                execute(&mut lease, "COMMIT").await?;
                Ok(is_same)
            });
            let kept = kept.await?;
            lease.keep();
            Ok(kept)
        };
        call.await.map_err(store_error)
    }

    async fn note_retirement(&self, retirement: &Retirement) -> Result<Ending, StoreError> {
        let ends = Actor { region: retirement.region, epoch: retirement.ends };
        let call = async {
            let mut lease = self.store.lease().await?;
            let noted = within(self.store.deadline, async {
                execute(&mut lease, "BEGIN").await?;
                let before = note(&mut lease, ends).await?;
                execute(&mut lease, KEEP_ALONE).await?;
                let known = of_attempt(&mut lease, retirement).await?;
                if known.as_ref().is_some_and(|known| known.withdrawn_by.is_some()) {
                    execute(&mut lease, "ROLLBACK").await?;
                    return Ok(Ending::TakenBack);
                }
                let is_end = known.is_some_and(|known| known.noted) || retirement.is_done();
                let is_known = is_end && before == ends.epoch;
                let is_ours = before < ends.epoch || is_known;
                if is_ours {
                    keep(&mut lease, &Retirement { noted: true, ..retirement.clone() }).await?;
                }
                execute(&mut lease, "COMMIT").await?;
                Ok(if is_ours { Ending::Noted } else { Ending::BegunAnew(before) })
            });
            let noted = noted.await?;
            lease.keep();
            Ok(noted)
        };
        call.await.map_err(store_error)
    }

    async fn bury(
        &self,
        retirement: &Retirement,
        rows: &[KeyedRow],
    ) -> Result<Option<Buried>, StoreError> {
        let ends = Actor { region: retirement.region, epoch: retirement.ends };
        let call = async {
            let mut lease = self.store.lease().await?;
            let buried = within(self.store.deadline, async {
                execute(&mut lease, "BEGIN").await?;
                let noted: Option<i32> = sqlx::query_scalar(NOTED)
                    .bind(ends.region.as_str())
                    .fetch_optional(&mut *lease)
                    .await?;
                if noted != Some(epoch_column(ends)) {
                    execute(&mut lease, "ROLLBACK").await?;
                    return Ok(None);
                }
                let report = self.merge_in(&mut lease, rows).await?;
                execute(&mut lease, KEEP_ALONE).await?;
                let known = of_attempt(&mut lease, retirement).await?;
                let retirement = retirement.freeing(known, report.credited.values().sum());
                keep(&mut lease, &retirement).await?;
                execute(&mut lease, "COMMIT").await?;
                Ok(Some(Buried { report, retirement }))
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
