//! Why this region takes no new orders, beside who it is.

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::ports::{StopStore, Stopped, StoreError};
use crate::types::Epoch;

use super::encode::store_error;
use super::{PgStore, within};

pub(super) const STATEMENTS: &[&str] =
    &[STOPPED, SET_DRAINING, SET_BACK, CANARY, BEGIN_CANARY, SET_CANARY];

/// Nothing found, here and below, is another epoch: this incarnation has no say any more (I-13).
const STOPPED: &str = "
SELECT h.is_stopped, i.set_back FROM outbox_head h, region_identity i WHERE h.epoch = $1";

/// A region whose database was set back stays out of traffic, whoever resumes it. Whoever does speaks of an evacuation as
/// well. The head's lock is that of every commit: those before it are through, those after it see the change.
const SET_DRAINING: &str = "
WITH i AS (SELECT set_back IS NOT NULL AS is_back FROM region_identity WHERE epoch = $1 FOR UPDATE)
UPDATE outbox_head SET draining = $2, evacuating = evacuating AND $2 FROM i WHERE epoch = $1 RETURNING i.is_back";

/// The first proof is kept: later ones are its consequences.
const SET_BACK: &str = "
WITH i AS (UPDATE region_identity SET set_back = coalesce(set_back, $2) WHERE epoch = $1 RETURNING true)
UPDATE outbox_head SET set_back = true FROM i WHERE epoch = $1 RETURNING true";

const CANARY: &str = "SELECT canary FROM region_identity";

const BEGIN_CANARY: &str = "
UPDATE region_identity SET canary = 0 WHERE epoch = $1 RETURNING true";

/// Answers whether it was done; nothing where the incarnation is over.
const SET_CANARY: &str = "
UPDATE region_identity SET canary = CASE WHEN canary = $2 THEN $3 ELSE canary END WHERE epoch = $1
RETURNING canary IS NOT DISTINCT FROM $3";

#[async_trait]
impl StopStore for PgStore {
    async fn stopped(&self, epoch: Epoch) -> Result<Stopped, StoreError> {
        let call = async {
            let mut lease = self.lease().await?;
            let query = sqlx::query(STOPPED).bind(epoch_column(epoch)).fetch_optional(&mut *lease);
            let row = within(self.deadline, query).await?;
            lease.keep();
            let stopped = |row: PgRow| {
                let (draining, set_back) = (row.try_get("is_stopped")?, row.try_get("set_back")?);
                Ok(Stopped { draining, set_back })
            };
            row.map(stopped).transpose()
        };
        let found: Option<Stopped> = call.await.map_err(store_error)?;
        found.ok_or_else(is_over)
    }

    async fn set_draining(&self, epoch: Epoch, draining: bool) -> Result<bool, StoreError> {
        self.stop(sqlx::query_scalar(SET_DRAINING).bind(epoch_column(epoch)).bind(draining)).await
    }

    async fn set_back(&self, epoch: Epoch, proof: &str) -> Result<(), StoreError> {
        self.stop(sqlx::query_scalar(SET_BACK).bind(epoch_column(epoch)).bind(proof)).await?;
        Ok(())
    }

    async fn canary(&self) -> Result<Option<u8>, StoreError> {
        let call = async {
            let mut lease = self.lease().await?;
            let query = sqlx::query_scalar::<_, Option<i16>>(CANARY).fetch_optional(&mut *lease);
            let found = within(self.deadline, query).await?;
            lease.keep();
            Ok(found.flatten())
        };
        let steps = call.await.map_err(store_error)?;
        Ok(steps.map(|steps| u8::try_from(steps).unwrap_or(u8::MAX)))
    }

    async fn begin_canary(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.stop(sqlx::query_scalar(BEGIN_CANARY).bind(epoch_column(epoch))).await?;
        Ok(())
    }

    async fn set_canary(&self, epoch: Epoch, from: u8, to: Option<u8>) -> Result<bool, StoreError> {
        let (from, to) = (i16::from(from), to.map(i16::from));
        self.stop(sqlx::query_scalar(SET_CANARY).bind(epoch_column(epoch)).bind(from).bind(to))
            .await
    }
}

type Flag<'q> = sqlx::query::QueryScalar<'q, sqlx::Postgres, bool, sqlx::postgres::PgArguments>;

impl PgStore {
    async fn stop(&self, query: Flag<'_>) -> Result<bool, StoreError> {
        let call = async {
            let mut lease = self.lease().await?;
            let found = within(self.deadline, query.fetch_optional(&mut *lease)).await?;
            lease.keep();
            Ok(found)
        };
        let found: Option<bool> = call.await.map_err(store_error)?;
        found.ok_or_else(is_over)
    }
}

pub(super) fn is_over() -> StoreError {
    StoreError::Broken("this region was fenced: its epoch is over".into())
}

pub(super) fn epoch_column(epoch: Epoch) -> i32 {
    i32::try_from(epoch.0).expect("epochs are counted by people")
}
