//! Merging rows of peers.
//!
//! Most rows that arrive tell of sales elsewhere and bring this region nothing: they are one guarded
//! statement, which takes no lock that a sale here would wait for. Only keys with new credit for this
//! region go the longer way, under the lock of the own row, whose ceiling is raised in the same
//! transaction that stores the grant.

use std::collections::BTreeSet;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Ledgers, PgRights, StoredRow, execute, granted_json, nodes, read, signed, skus};
use crate::escrow::KeyedRow;
use crate::ports::{Credit, MergeReport};
use crate::store::within;
use crate::types::{RegionId, StockKey};

/// A row of version 0 carries the ceiling of an owner that has not written anything yet.
pub(super) const FIRST_OWN: &str = "
INSERT INTO rights (sku, node, owner, epoch, version)
SELECT a, b, $1, $2, 0 FROM unnest($3::text[], $4::text[]) AS u(a, b)
ON CONFLICT DO NOTHING";

pub(super) const LOCK_OWN: &str = "
SELECT r.version
FROM (SELECT * FROM unnest($2::text[], $3::text[]) AS u(sku, node) ORDER BY sku, node) AS u CROSS JOIN LATERAL (
    SELECT r.version FROM rights r WHERE r.sku = u.sku AND r.node = u.node AND r.owner = $1
    LIMIT 1 FOR UPDATE
) AS r";

/// Newest value wins. Never an own row: `$1` is this region.
pub(super) const UPSERT_COPIES: &str = "
INSERT INTO rights (sku, node, owner, epoch, version, received, granted, granted_total, spent, released, withdrawn)
SELECT a, b, c, d, e, f, g::jsonb, h, i, j, k
FROM unnest($2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::bigint[], $8::text[],
            $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[]) AS u(a, b, c, d, e, f, g, h, i, j, k)
WHERE c <> $1
ON CONFLICT (sku, node, owner) DO UPDATE
SET epoch = excluded.epoch, version = excluded.version, received = excluded.received, granted = excluded.granted,
    granted_total = excluded.granted_total, spent = excluded.spent, released = excluded.released,
    withdrawn = excluded.withdrawn
WHERE (rights.epoch, rights.version) < (excluded.epoch, excluded.version)";

pub(super) const RAISE_ACTIVE: &str = "
UPDATE rights AS r SET active = u.active
FROM unnest($2::text[], $3::text[], $4::bigint[]) AS u(sku, node, active)
WHERE r.owner = $1 AND r.sku = u.sku AND r.node = u.node AND r.active < u.active";

pub(super) const RECORD_TRANSFERS: &str = "
INSERT INTO transfers (transfer_id, sku, node, from_region, to_region, quantity, state, at_ms)
SELECT a, b, c, d, e, f, $1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[]) AS u(a, b, c, d, e, f)
ON CONFLICT DO NOTHING";

/// One movement of rights, for the books.
pub(super) struct Movement<'a> {
    pub(super) transfer: Uuid,
    pub(super) key: &'a StockKey,
    pub(super) from: RegionId,
    pub(super) to: RegionId,
    pub(super) units: u64,
}

impl PgRights {
    pub(super) async fn merge_rows(
        &self,
        rows: &[KeyedRow],
        credits: &[Credit],
    ) -> Result<MergeReport, sqlx::Error> {
        let keys: BTreeSet<&StockKey> = rows.iter().map(|row| &row.key).collect();
        if keys.is_empty() {
            return Ok(MergeReport::default());
        }
        if !credits.is_empty() {
            // An answer to a request: a few rows of one SKU, and some of them are for us for sure.
            let rows: Vec<&KeyedRow> = rows.iter().collect();
            return self.merge_credit(&rows, credits).await;
        }
        let known = self.read_keys(keys.iter().copied()).await?;
        let report = merge(&mut self.ledgers_of(&known, keys), rows);
        let (for_us, for_others): (Vec<&KeyedRow>, Vec<&KeyedRow>) =
            report.changed.iter().partition(|row| report.credited.contains_key(&row.key));
        if !for_others.is_empty() {
            let mut lease = self.store.lease().await?;
            let upsert = upsert_copies(&mut lease, self.own(), &for_others);
            within(self.store.deadline, upsert).await?;
            lease.keep();
        }
        if for_us.is_empty() {
            return Ok(report);
        }
        let credited = self.merge_credit(&for_us, &[]).await?;
        Ok(MergeReport { credited: credited.credited, ..report })
    }

    /// Merges rows that bring this region something, and records the movements that it asked for.
    async fn merge_credit(
        &self,
        rows: &[&KeyedRow],
        credits: &[Credit],
    ) -> Result<MergeReport, sqlx::Error> {
        let rows: Vec<KeyedRow> = rows.iter().map(|&row| row.clone()).collect();
        let mut lease = self.store.lease().await?;
        let report = within(self.store.deadline, async {
            execute(&mut lease, "BEGIN").await?;
            let keys: BTreeSet<&StockKey> = rows.iter().map(|row| &row.key).collect();
            let mut ledgers = self.lock(&mut lease, &keys).await?;
            let report = merge(&mut ledgers, &rows);
            let changed: Vec<&KeyedRow> = report.changed.iter().collect();
            upsert_copies(&mut lease, self.own(), &changed).await?;
            if !report.credited.is_empty() {
                raise_active(&mut lease, self.own(), &ledgers).await?;
            }
            let movements: Vec<Movement<'_>> = credits
                .iter()
                .map(|credit| Movement {
                    transfer: credit.transfer.0,
                    key: &credit.key,
                    from: credit.from,
                    to: self.own(),
                    units: credit.units,
                })
                .collect();
            record(&mut lease, "credited", &movements).await?;
            execute(&mut lease, "COMMIT").await?;
            Ok(report)
        })
        .await?;
        lease.keep();
        Ok(report)
    }

    /// Locks the own rows of some keys, makes those that are missing, and reads all rows of the keys:
    /// in a statement of its own, so that it sees what the former holders of the locks have stored.
    pub(super) async fn lock(
        &self,
        connection: &mut PgConnection,
        keys: &BTreeSet<&StockKey>,
    ) -> Result<Ledgers, sqlx::Error> {
        self.make_own(connection, keys).await?;
        sqlx::query(LOCK_OWN)
            .bind(self.own().as_str())
            .bind(skus(keys.iter().copied()))
            .bind(nodes(keys.iter().copied()))
            .fetch_all(&mut *connection)
            .await?;
        let rows = sqlx::query(read::OF_KEYS)
            .bind(skus(keys.iter().copied()))
            .bind(nodes(keys.iter().copied()))
            .fetch_all(connection)
            .await?;
        let rows = rows.iter().map(super::stored_row).collect::<Result<Vec<StoredRow>, _>>()?;
        Ok(self.ledgers_of(&rows, []))
    }

    pub(super) async fn make_own(
        &self,
        connection: &mut PgConnection,
        keys: &BTreeSet<&StockKey>,
    ) -> Result<(), sqlx::Error> {
        if keys.is_empty() {
            return Ok(());
        }
        sqlx::query(FIRST_OWN)
            .bind(self.own().as_str())
            .bind(self.epoch_column())
            .bind(skus(keys.iter().copied()))
            .bind(nodes(keys.iter().copied()))
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// Merges rows into the ledgers of their keys, and tells what that did.
pub(super) fn merge(ledgers: &mut Ledgers, rows: &[KeyedRow]) -> MergeReport {
    let mut report = MergeReport::default();
    for KeyedRow { key, owner, row } in rows {
        let Some(ledger) = ledgers.get_mut(key) else { continue };
        match ledger.merge(*owner, row.clone()) {
            Ok(merged) => {
                if merged.inflow_grew > 0 {
                    *report.credited.entry(key.clone()).or_default() += merged.inflow_grew;
                }
                if merged.changed {
                    let row = row.clone();
                    report.changed.push(KeyedRow { key: key.clone(), owner: *owner, row });
                }
            }
            Err(error) => report.refused.push((key.clone(), error)),
        }
    }
    report
}

/// Stores copies. Of several rows of one key and owner only the newest may be among them.
pub(super) async fn upsert_copies(
    connection: &mut PgConnection,
    own: RegionId,
    rows: &[&KeyedRow],
) -> Result<(), sqlx::Error> {
    let rows = newest(rows);
    if rows.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&crate::escrow::Row) -> u64| -> Vec<i64> {
        rows.iter().map(|row| signed(of(&row.row))).collect()
    };
    let epoch = |row: &&KeyedRow| i32::try_from(row.row.epoch.0).unwrap_or(i32::MAX);
    sqlx::query(UPSERT_COPIES)
        .bind(own.as_str())
        .bind(skus(rows.iter().map(|row| &row.key)))
        .bind(nodes(rows.iter().map(|row| &row.key)))
        .bind(rows.iter().map(|row| row.owner.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(epoch).collect::<Vec<_>>())
        .bind(column(|row| row.version))
        .bind(column(|row| row.received))
        .bind(rows.iter().map(|row| granted_json(&row.row)).collect::<Vec<_>>())
        .bind(column(crate::escrow::Row::granted_total))
        .bind(column(|row| row.spent))
        .bind(column(|row| row.released))
        .bind(column(|row| row.withdrawn))
        .execute(connection)
        .await?;
    Ok(())
}

/// The newest row of each key and owner, in that order: a statement can't change one row twice, and
/// two statements that change rows in one order don't wait for each other in a circle.
fn newest<'a>(rows: &[&'a KeyedRow]) -> Vec<&'a KeyedRow> {
    let mut newest = std::collections::BTreeMap::new();
    for &row in rows {
        let kept = newest.entry((&row.key, row.owner)).or_insert(row);
        if row.row.supersedes(&kept.row) {
            *kept = row;
        }
    }
    newest.into_values().collect()
}

pub(super) async fn raise_active(
    connection: &mut PgConnection,
    own: RegionId,
    ledgers: &Ledgers,
) -> Result<(), sqlx::Error> {
    sqlx::query(RAISE_ACTIVE)
        .bind(own.as_str())
        .bind(skus(ledgers.keys()))
        .bind(nodes(ledgers.keys()))
        .bind(ledgers.values().map(|ledger| signed(ledger.active())).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// Enters movements in this region's books; those that are there already stay as they are. Answers how
/// many are new.
pub(super) async fn record(
    connection: &mut PgConnection,
    state: &'static str,
    movements: &[Movement<'_>],
) -> Result<u64, sqlx::Error> {
    if movements.is_empty() {
        return Ok(0);
    }
    let done = sqlx::query(RECORD_TRANSFERS)
        .bind(state)
        .bind(movements.iter().map(|movement| movement.transfer).collect::<Vec<_>>())
        .bind(skus(movements.iter().map(|movement| movement.key)))
        .bind(nodes(movements.iter().map(|movement| movement.key)))
        .bind(movements.iter().map(|movement| movement.from.as_str()).collect::<Vec<_>>())
        .bind(movements.iter().map(|movement| movement.to.as_str()).collect::<Vec<_>>())
        .bind(movements.iter().map(|movement| signed(movement.units)).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}
