//! The first look at the database: is it this region's, and where did it leave off?

use sqlx::Row;

use crate::types::{Epoch, HlcTimestamp, RegionId, RegionNumber};

use super::{PgStore, within};

pub(super) const STATEMENTS: &[&str] =
    &[CLAIM_IDENTITY, COUNT_BOOT, FIRST_HEAD, IS_STOPPED, HIGHEST_STAMP, DURABILITY];

const CLAIM_IDENTITY: &str = "
INSERT INTO region_identity (region, number, epoch) VALUES ($1, $2, 1) ON CONFLICT DO NOTHING";

const COUNT_BOOT: &str = "
UPDATE region_identity SET boots = boots + 1 RETURNING region, number, epoch, boots, set_back, hlc_floor";

const FIRST_HEAD: &str = "
INSERT INTO outbox_head (epoch, seq) VALUES ($1, 0) ON CONFLICT DO NOTHING";

const IS_STOPPED: &str = "SELECT is_stopped FROM outbox_head";

/// Stamps of one region are fixed in width, so the greatest text is the greatest stamp. Groups commit
/// nearly in the order of their stamps; the last few hold the highest.
const HIGHEST_STAMP: &str = "
SELECT max(hlc) FROM (SELECT hlc FROM outbox ORDER BY epoch DESC, seq DESC LIMIT 64) AS latest";

const DURABILITY: &str = "
SELECT current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on'
   AND current_setting('synchronous_commit') IN ('on', 'remote_apply', 'remote_write', 'local') AS durable";

/// What the database says of this region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Its incarnation.
    pub epoch: Epoch,
    /// The highest stamp it has stored.
    pub floor: HlcTimestamp,
    /// No process of this incarnation ran before.
    pub is_first: bool,
    /// An operator has drained it, it is given up, or it was set back.
    pub draining: bool,
    /// The proof that it forgot what it had written.
    pub set_back: Option<String>,
}

/// Why the server must not start on this database.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Can't be asked.
    #[error("cannot read the database: {0}")]
    Database(#[from] sqlx::Error),
    /// Another region's.
    #[error("this database belongs to region {found}, not to {wanted}: check `database_url`")]
    OtherRegion {
        /// Stored.
        found: String,
        /// Configured.
        wanted: RegionId,
    },
    /// An acknowledged order could be lost with the power.
    #[error(
        "the database is not durable: `fsync` and `full_page_writes` must be on, or acknowledged orders can be lost"
    )]
    NotDurable,
}

impl PgStore {
    /// Claims an empty database for this region, or recognizes its own.
    pub async fn start(&self, number: RegionNumber) -> Result<Start, StartError> {
        let mut lease = self.lease().await?;
        let start = within(self.deadline, async {
            sqlx::query(CLAIM_IDENTITY)
                .bind(self.region.as_str())
                .bind(i16::from(number.0.get()))
                .execute(&mut *lease)
                .await?;
            let identity = sqlx::query(COUNT_BOOT).fetch_one(&mut *lease).await?;
            let epoch: i32 = identity.try_get("epoch")?;
            sqlx::query(FIRST_HEAD).bind(epoch).execute(&mut *lease).await?;
            let draining: bool = sqlx::query_scalar(IS_STOPPED).fetch_one(&mut *lease).await?;
            let stamp: Option<String> =
                sqlx::query_scalar(HIGHEST_STAMP).fetch_one(&mut *lease).await?;
            let durable: bool = sqlx::query_scalar(DURABILITY).fetch_one(&mut *lease).await?;
            Ok((identity, epoch, draining, stamp, durable))
        });
        let (identity, epoch, draining, stamp, durable) = start.await?;
        lease.keep();
        let found: String = identity.try_get("region")?;
        let found_number: i16 = identity.try_get("number")?;
        if found != self.region.as_str() || found_number != i16::from(number.0.get()) {
            let found = format!("{found} (number {found_number})");
            return Err(StartError::OtherRegion { found, wanted: self.region });
        }
        if !durable {
            return Err(StartError::NotDurable);
        }
        let learned: Option<String> = identity.try_get("hlc_floor")?;
        let floor = stamp.max(learned).and_then(|stamp| stamp.parse().ok());
        Ok(Start {
            epoch: Epoch(u32::try_from(epoch).expect("checked by the table")),
            floor: floor.unwrap_or_else(|| HlcTimestamp::origin(self.region)),
            is_first: identity.try_get::<i64, _>("boots")? == 1,
            draining,
            set_back: identity.try_get("set_back")?,
        })
    }
}
