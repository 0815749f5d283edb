//! Outbox, inbox and watermarks.
//!
//! A batch of another region's envelopes is applied in one transaction: the watermark moves first,
//! under a guard that names where it must stand. The guard is what makes applying exactly-once: a
//! second process, a copy of a message, a commit whose answer got lost all find the watermark
//! elsewhere and do nothing. The moved row stays locked until the commit, so that batches of one
//! origin queue up behind each other.

use std::collections::BTreeMap;
use std::sync::MutexGuard;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::mutants::{Mutant, is_on};
use crate::ports::{Applied, ReplicationError, ReplicationStore};
use crate::replication::{
    Envelope, Head, NewEnvelope, PULL_ANSWER_BYTES_MAX, Position, SCHEMA_VERSION, Watermark,
};
use crate::types::{Epoch, HlcTimestamp, RegionId};

use super::contests::RecentClaims;
use super::copies::{self, CopyProblem};
use super::encode::{is_passing, parsed, signed, unsigned};
use super::{PgStore, within};

pub(super) const STATEMENTS: &[&str] = &[
    HEAD,
    OUTBOX_RANGE,
    END_OF_EPOCH_BEFORE,
    WATERMARKS,
    FIRST_WATERMARK,
    MOVE_WATERMARK,
    WATERMARK,
    INSERT_INBOX,
    PARK,
    UNPARK,
];

const HEAD: &str = "
SELECT h.epoch, h.seq, o.hlc
FROM outbox_head h LEFT JOIN outbox o ON o.epoch = h.epoch AND o.seq = h.seq";

/// The first row always, then as many as fit. The length of a payload is known without reading it.
const OUTBOX_RANGE: &str = "
SELECT seq, hlc, event_hash, payload
FROM (
    SELECT seq, hlc, event_hash, payload, octet_length(payload) AS bytes,
           sum(octet_length(payload) + 128) OVER (ORDER BY seq) AS total
    FROM (SELECT * FROM outbox WHERE epoch = $1 AND seq >= $2 ORDER BY seq LIMIT $3) AS wanted
) AS summed
WHERE total <= $4 OR total = bytes + 128
ORDER BY seq";

const END_OF_EPOCH_BEFORE: &str = "
SELECT epoch, seq FROM outbox WHERE epoch < $1 ORDER BY epoch DESC, seq DESC LIMIT 1";

const WATERMARKS: &str = "SELECT origin, epoch, seq, hlc FROM watermarks";

const FIRST_WATERMARK: &str = "
INSERT INTO watermarks (origin, epoch, seq, hlc) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";

/// The guard: one step from exactly there, or nothing.
const MOVE_WATERMARK: &str = "
UPDATE watermarks SET epoch = $4, seq = $5, hlc = greatest(hlc, $6)
WHERE origin = $1 AND epoch = $2 AND seq = $3";

const WATERMARK: &str = "SELECT epoch, seq FROM watermarks WHERE origin = $1";

const INSERT_INBOX: &str = "
INSERT INTO inbox (origin, epoch, seq, event_hash, applied_at_ms)
SELECT $1, $2, a, b, $5 FROM unnest($3::bigint[], $4::text[]) AS u(a, b)";

const PARK: &str = "
INSERT INTO parked (origin, epoch, seq, reason, payload, parked_at_ms)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";

const UNPARK: &str = "DELETE FROM parked WHERE origin = $1 AND epoch = $2 AND seq <= $3";

#[async_trait]
impl ReplicationStore for PgStore {
    async fn head(&self) -> Result<Head, ReplicationError> {
        let mut lease = self.lease().await.map_err(unavailable)?;
        let query = sqlx::query(HEAD).fetch_one(&mut *lease);
        let row = within(self.deadline, query).await.map_err(unavailable)?;
        lease.keep();
        let stamp: Option<String> = row.try_get("hlc").map_err(corrupt)?;
        let hlc = match stamp {
            Some(_) => parsed(&row, "hlc").map_err(corrupt)?,
            None => HlcTimestamp::origin(self.region),
        };
        Ok(Head { position: position(&row).map_err(corrupt)?, hlc })
    }

    async fn outbox(&self, from: Position, count: u32) -> Result<Vec<Envelope>, ReplicationError> {
        let mut lease = self.lease().await.map_err(unavailable)?;
        let bytes_max = i64::try_from(PULL_ANSWER_BYTES_MAX).expect("a few MiB");
        let read = async {
            let rows = sqlx::query(OUTBOX_RANGE)
                .bind(epoch_column(from.epoch))
                .bind(signed(from.sequence))
                .bind(i64::from(count))
                .bind(bytes_max)
                .fetch_all(&mut *lease)
                .await?;
            let begins_epoch = from.sequence <= 1 && from.epoch > Epoch::FIRST;
            let follows = if begins_epoch {
                sqlx::query(END_OF_EPOCH_BEFORE)
                    .bind(epoch_column(from.epoch))
                    .fetch_optional(&mut *lease)
                    .await?
            } else {
                None
            };
            Ok((rows, follows))
        };
        let (rows, follows) = within(self.deadline, read).await.map_err(unavailable)?;
        lease.keep();
        let follows = follows.map(|row| position(&row)).transpose().map_err(corrupt)?;
        rows.iter().map(|row| self.envelope(from.epoch, follows, row)).collect()
    }

    async fn watermarks(&self) -> Result<BTreeMap<RegionId, Watermark>, ReplicationError> {
        let mut lease = self.lease().await.map_err(unavailable)?;
        let query = sqlx::query(WATERMARKS).fetch_all(&mut *lease);
        let rows = within(self.deadline, query).await.map_err(unavailable)?;
        lease.keep();
        let watermark = |row: &PgRow| {
            let at = Watermark { position: position(row)?, hlc: parsed(row, "hlc")? };
            Ok((parsed(row, "origin")?, at))
        };
        rows.iter().map(watermark).collect::<Result<_, _>>().map_err(corrupt)
    }

    async fn apply(
        &self,
        after: Position,
        batch: &[Envelope],
        now_ms: u64,
    ) -> Result<Applied, ReplicationError> {
        let Some(last) = batch.last() else { return Ok(Applied::Done) };
        // Everything that needs no connection comes before one is taken.
        let mut copies = copies::read(batch).map_err(|problem| refusal(last.origin, problem))?;
        let mut lease = self.lease().await.map_err(unavailable)?;
        let work = async {
            sqlx::query("BEGIN").execute(&mut *lease).await?;
            if let Some(elsewhere) = move_watermark(&mut lease, after, last).await?
                && !is_on(Mutant::InboxAppliedTwice)
            {
                sqlx::query("ROLLBACK").execute(&mut *lease).await?;
                return Ok(Ok(Applied::WatermarkIsAt(elsewhere)));
            }
            insert_inbox(&mut lease, batch, now_ms).await?;
            if let Err(problem) = copies.write(&mut lease, self.region, last.origin, now_ms).await {
                sqlx::query("ROLLBACK").execute(&mut *lease).await?;
                return Ok(Err(problem));
            }
            sqlx::query(UNPARK)
                .bind(last.origin.as_str())
                .bind(epoch_column(last.epoch))
                .bind(signed(last.sequence))
                .execute(&mut *lease)
                .await?;
            sqlx::query("COMMIT").execute(&mut *lease).await?;
            Ok(Ok(Applied::Done))
        };
        let done = within(self.deadline, work).await.map_err(unavailable)?;
        lease.keep();
        let applied = done.map_err(|problem| refusal(last.origin, problem))?;
        if applied == Applied::Done {
            self.recent_claims().copied(copies.claims(), now_ms);
            if copies.came_here {
                self.recent_claims().moved(now_ms);
            }
        }
        Ok(applied)
    }

    async fn find_contests(&self, now_ms: u64) -> Result<(), ReplicationError> {
        let look = self.recent_claims().due(now_ms);
        if look.is_empty() {
            return Ok(());
        }
        let found = async {
            let mut lease = self.lease().await?;
            within(self.deadline, look.run(&mut lease, self.region)).await?;
            lease.keep();
            Ok(())
        };
        match found.await {
            Ok(()) => {
                self.recent_claims().done(&look);
                Ok(())
            }
            Err(error) => {
                self.recent_claims().failed(look);
                Err(unavailable(error))
            }
        }
    }

    async fn park(
        &self,
        envelope: &Envelope,
        reason: &str,
        now_ms: u64,
    ) -> Result<(), ReplicationError> {
        let mut lease = self.lease().await.map_err(unavailable)?;
        let query = sqlx::query(PARK)
            .bind(envelope.origin.as_str())
            .bind(epoch_column(envelope.epoch))
            .bind(signed(envelope.sequence))
            .bind(reason)
            .bind(envelope.payload.as_ref())
            .bind(signed(now_ms))
            .execute(&mut *lease);
        within(self.deadline, query).await.map_err(unavailable)?;
        lease.keep();
        Ok(())
    }
}

impl PgStore {
    pub(super) fn recent_claims(&self) -> MutexGuard<'_, RecentClaims> {
        self.recent_claims.lock().expect("no panic while held")
    }

    fn envelope(
        &self,
        epoch: Epoch,
        follows: Option<Position>,
        row: &PgRow,
    ) -> Result<Envelope, ReplicationError> {
        let sequence = unsigned(row, "seq").map_err(corrupt)?;
        let payload: Vec<u8> = row.try_get("payload").map_err(corrupt)?;
        let stored_hash: &str = row.try_get("event_hash").map_err(corrupt)?;
        let envelope = Envelope::seal(NewEnvelope {
            origin: self.region,
            position: Position { epoch, sequence },
            follows: follows.filter(|_| sequence == 1),
            hlc: parsed(row, "hlc").map_err(corrupt)?,
            schema_version: SCHEMA_VERSION,
            payload: Bytes::from(payload),
        })
        .map_err(|error| ReplicationError::Corrupt(error.to_string()))?;
        if envelope.event_hash() == stored_hash {
            return Ok(envelope);
        }
        Err(ReplicationError::Corrupt(format!(
            "outbox row {} does not have the payload that was hashed when it was written",
            envelope.position()
        )))
    }
}

/// Moves the watermark from `after` to the end of the batch, or says where it stands instead.
async fn move_watermark(
    connection: &mut PgConnection,
    after: Position,
    last: &Envelope,
) -> Result<Option<Position>, sqlx::Error> {
    if after == Position::START {
        sqlx::query(FIRST_WATERMARK)
            .bind(last.origin.as_str())
            .bind(epoch_column(after.epoch))
            .bind(signed(after.sequence))
            .bind(HlcTimestamp::origin(last.origin).to_string())
            .execute(&mut *connection)
            .await?;
    }
    let moved = sqlx::query(MOVE_WATERMARK)
        .bind(last.origin.as_str())
        .bind(epoch_column(after.epoch))
        .bind(signed(after.sequence))
        .bind(epoch_column(last.epoch))
        .bind(signed(last.sequence))
        .bind(last.hlc.to_string())
        .execute(&mut *connection)
        .await?;
    if moved.rows_affected() == 1 {
        return Ok(None);
    }
    let stands = sqlx::query(WATERMARK).bind(last.origin.as_str());
    let row = stands.fetch_optional(connection).await?;
    row.map_or(Ok(Some(Position::START)), |row| position(&row).map(Some))
}

async fn insert_inbox(
    connection: &mut PgConnection,
    batch: &[Envelope],
    now_ms: u64,
) -> Result<(), sqlx::Error> {
    let Some(first) = batch.first() else { return Ok(()) };
    sqlx::query(INSERT_INBOX)
        .bind(first.origin.as_str())
        .bind(epoch_column(first.epoch))
        .bind(batch.iter().map(|envelope| signed(envelope.sequence)).collect::<Vec<_>>())
        .bind(batch.iter().map(Envelope::event_hash).collect::<Vec<_>>())
        .bind(signed(now_ms))
        .execute(connection)
        .await?;
    Ok(())
}

fn position(row: &PgRow) -> Result<Position, sqlx::Error> {
    let epoch: i32 = row.try_get("epoch")?;
    let epoch = u32::try_from(epoch).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(Position { epoch: Epoch(epoch), sequence: unsigned(row, "seq")? })
}

/// An epoch beyond the column's range matches nothing.
fn epoch_column(epoch: Epoch) -> i32 {
    i32::try_from(epoch.0).unwrap_or(i32::MAX)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unavailable(error: sqlx::Error) -> ReplicationError {
    let refused = error.as_database_error();
    if refused.is_some_and(|refused| !is_passing(refused.code().as_deref())) {
        ReplicationError::Corrupt(error.to_string())
    } else {
        ReplicationError::Unavailable(error.to_string())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn corrupt(error: sqlx::Error) -> ReplicationError {
    ReplicationError::Corrupt(error.to_string())
}

fn refusal(origin: RegionId, problem: CopyProblem) -> ReplicationError {
    match problem {
        CopyProblem::Sql(error @ (sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })) => {
            corrupt(error)
        }
        CopyProblem::Sql(error) => unavailable(error),
        CopyProblem::CantApply { position, reason } => {
            ReplicationError::CantApply { origin, position, reason }
        }
    }
}
