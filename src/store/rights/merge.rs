//! Merging rows of peers.
//!
//! Most rows that arrive tell of sales elsewhere and bring this region nothing: they are one guarded
//! statement, which takes no lock that a sale here would wait for. Only keys with new credit for this
//! region go the longer way, under the lock of the own row, whose ceiling is raised in the same
//! transaction that stores the grant.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Ledgers, PgRights, StoredRow, epoch_column, execute, nodes, read, signed, skus, units_json,
};
use crate::escrow::{KeyedRow, KeyedSlot, Ledger, Row, Slot, Voters};
use crate::ports::{Credit, MergeReport};
use crate::store::registers::keep_voters;
use crate::store::within;
use crate::types::{Actor, RegionId, StockKey};

/// A row of version 0 carries the ceiling of an owner that has not written anything yet.
pub(super) const FIRST_OWN: &str = "
INSERT INTO rights (sku, node, owner, epoch, version, ballot_region)
SELECT a, b, $1, $2, 0, $1 FROM unnest($3::text[], $4::text[]) AS u(a, b)
ON CONFLICT DO NOTHING";

pub(super) const LOCK_OWN: &str = "
SELECT r.version
FROM (SELECT * FROM unnest($3::text[], $4::text[]) AS u(sku, node) ORDER BY sku, node) AS u CROSS JOIN LATERAL (
    SELECT r.version FROM rights r WHERE r.sku = u.sku AND r.node = u.node AND r.owner = $1 AND r.epoch = $2
    LIMIT 1 FOR UPDATE
) AS r";

/// The newer cells win, and the newer chosen value. Never an own row: `$1` and `$2` are this region and its
/// incarnation. Of an incarnation that is over only the last row brings cells (`$20`), whatever this process has heard of
/// that: whoever notes an end waits for the lock on the table that this takes, and then it is seen here.
pub(in crate::store) const UPSERT_COPIES: &str = "
WITH ended AS (
    SELECT i.region, i.epoch FROM incarnations i
    WHERE EXISTS (SELECT FROM unnest($5::text[], $6::integer[], $20::boolean[]) AS t(owner, epoch, is_last)
                  WHERE t.owner = i.region AND t.epoch < i.epoch AND NOT t.is_last)
    FOR SHARE
), told AS (
    SELECT u.*, ended.region IS NOT NULL AS is_over
    FROM unnest($3::text[], $4::text[], $5::text[], $6::integer[], $7::bigint[], $8::bigint[], $9::text[],
                $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::integer[], $15::text[], $16::bigint[],
                $17::bigint[], $18::text[], $19::bigint[], $20::boolean[])
         AS u(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, is_last)
    LEFT JOIN ended ON ended.region = u.c AND u.d < ended.epoch AND NOT u.is_last
)
INSERT INTO rights AS r (sku, node, owner, epoch, version, received, granted, granted_total, spent, released, withdrawn,
                         ballot_round, ballot_region, sequence, ceiling, credits, credited_total)
SELECT a, b, c, d,
       CASE WHEN is_over THEN 0 ELSE e END, CASE WHEN is_over THEN 0 ELSE f END,
       CASE WHEN is_over THEN '{}' ELSE g::jsonb END, CASE WHEN is_over THEN 0 ELSE h END,
       CASE WHEN is_over THEN 0 ELSE i END, CASE WHEN is_over THEN 0 ELSE j END, CASE WHEN is_over THEN 0 ELSE k END,
       l, m, n, o, p::jsonb, q
FROM told
WHERE (c, d) <> ($1, $2) AND NOT (is_over AND n = 0)
ON CONFLICT (sku, node, owner, epoch) DO UPDATE
SET (version, received, granted, granted_total, spent, released, withdrawn) = (
        SELECT newer.* FROM (SELECT excluded.version, excluded.received, excluded.granted, excluded.granted_total,
                                    excluded.spent, excluded.released, excluded.withdrawn
                             UNION ALL
                             SELECT r.version, r.received, r.granted, r.granted_total, r.spent, r.released, r.withdrawn
                            ) AS newer ORDER BY version DESC LIMIT 1),
    (ballot_round, ballot_region, sequence, ceiling, credits, credited_total) = (
        SELECT newer.* FROM (SELECT excluded.ballot_round, excluded.ballot_region COLLATE \"C\" AS region,
                                    excluded.sequence, excluded.ceiling, excluded.credits, excluded.credited_total
                             UNION ALL
                             SELECT r.ballot_round, r.ballot_region COLLATE \"C\", r.sequence, r.ceiling, r.credits,
                                    r.credited_total
                            ) AS newer ORDER BY ballot_round DESC, region DESC, sequence DESC LIMIT 1)
WHERE r.version < excluded.version
   OR (r.ballot_round, r.ballot_region, r.sequence) < (excluded.ballot_round, excluded.ballot_region, excluded.sequence)";

/// What was chosen of own registers.
pub(super) const CHOOSE_OWN: &str = "
UPDATE rights AS r
SET ballot_round = u.ballot_round, ballot_region = u.ballot_region, sequence = u.sequence, ceiling = u.ceiling,
    credits = u.credits::jsonb, credited_total = u.credited_total
FROM (SELECT *, $1::text AS owner, $2::integer AS epoch
      FROM unnest($3::text[], $4::text[], $5::integer[], $6::text[], $7::bigint[], $8::bigint[], $9::text[], $10::bigint[])
           AS u(sku, node, ballot_round, ballot_region, sequence, ceiling, credits, credited_total)) AS u
WHERE r.sku = u.sku AND r.node = u.node AND r.owner = u.owner AND r.epoch = u.epoch
  AND (r.ballot_round, r.ballot_region, r.sequence) < (u.ballot_round, u.ballot_region, u.sequence)";

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
        let (for_us, for_others): (Vec<&KeyedRow>, Vec<&KeyedRow>) = report
            .changed
            .iter()
            .partition(|row| row.owner == self.own || report.credited.contains_key(&row.key));
        if !for_others.is_empty() {
            let mut lease = self.store.lease().await?;
            let upsert = upsert_copies(&mut lease, self.own, &for_others);
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
            let report = self.merge_in(&mut lease, &rows).await?;
            let movements: Vec<Movement<'_>> = credits
                .iter()
                .map(|credit| Movement {
                    transfer: credit.transfer.0,
                    key: &credit.key,
                    from: credit.from,
                    to: self.own.region,
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

    /// Inside the caller's transaction, under the lock of the own rows.
    pub(in crate::store) async fn merge_in(
        &self,
        connection: &mut PgConnection,
        rows: &[KeyedRow],
    ) -> Result<MergeReport, sqlx::Error> {
        let keys: BTreeSet<&StockKey> = rows.iter().map(|row| &row.key).collect();
        let mut ledgers = self.lock(connection, &keys).await?;
        let report = merge(&mut ledgers, rows);
        let changed: Vec<&KeyedRow> = report.changed.iter().collect();
        upsert_copies(connection, self.own, &changed).await?;
        choose_own(connection, self.own, &ledgers).await?;
        Ok(report)
    }

    /// Locks the own rows of some keys, makes those that are missing, and reads all rows of the keys:
    /// in a statement of its own, so that it sees what the former holders of the locks have stored.
    pub(super) async fn lock(
        &self,
        connection: &mut PgConnection,
        keys: &BTreeSet<&StockKey>,
    ) -> Result<Ledgers, sqlx::Error> {
        self.lock_own(connection, keys).await?;
        let rows = sqlx::query(read::OF_KEYS)
            .bind(skus(keys.iter().copied()))
            .bind(nodes(keys.iter().copied()))
            .fetch_all(connection)
            .await?;
        let rows = rows.iter().map(super::stored_row).collect::<Result<Vec<StoredRow>, _>>()?;
        Ok(self.ledgers_of(&rows, []))
    }

    async fn lock_own(
        &self,
        connection: &mut PgConnection,
        keys: &BTreeSet<&StockKey>,
    ) -> Result<(), sqlx::Error> {
        self.make_own(connection, keys).await?;
        sqlx::query(LOCK_OWN)
            .bind(self.own.region.as_str())
            .bind(epoch_column(self.own))
            .bind(skus(keys.iter().copied()))
            .bind(nodes(keys.iter().copied()))
            .fetch_all(connection)
            .await?;
        Ok(())
    }

    /// Stores values that a majority has: where they are newer than what is known to be chosen.
    pub(in crate::store) async fn choose_values(
        &self,
        owner: Actor,
        chosen: &[KeyedSlot],
        voters: &Voters,
    ) -> Result<(), sqlx::Error> {
        let row = |slot: &KeyedSlot| {
            let row = Row { chosen: slot.slot.clone(), ..Row::new(owner) };
            KeyedRow { key: slot.key.clone(), owner, row }
        };
        let rows: Vec<KeyedRow> = chosen.iter().map(row).collect();
        let mut lease = self.store.lease().await?;
        let choose = async {
            execute(&mut lease, "BEGIN").await?;
            if owner == self.own {
                let keys: BTreeSet<&StockKey> = rows.iter().map(|row| &row.key).collect();
                self.lock_own(&mut lease, &keys).await?;
                let known = |row: &KeyedRow| (row.key.clone(), [(owner, row.row.clone())].into());
                let ledgers = rows.iter().map(known);
                let ledgers = ledgers.map(|(key, rows)| (key, Ledger::from_rows(owner, rows)));
                choose_own(&mut lease, owner, &ledgers.collect()).await?;
            } else {
                let rows: Vec<&KeyedRow> = rows.iter().collect();
                upsert_copies(&mut lease, self.own, &rows).await?;
            }
            keep_voters(&mut lease, voters).await?;
            execute(&mut lease, "COMMIT").await
        };
        within(self.store.deadline, choose).await?;
        lease.keep();
        Ok(())
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
            .bind(self.own.region.as_str())
            .bind(epoch_column(self.own))
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
pub(in crate::store) async fn upsert_copies(
    connection: &mut PgConnection,
    own: Actor,
    rows: &[&KeyedRow],
) -> Result<(), sqlx::Error> {
    let rows = newest(rows);
    if rows.is_empty() {
        return Ok(());
    }
    let column =
        |of: fn(&Row) -> u64| -> Vec<i64> { rows.iter().map(|row| signed(of(&row.row))).collect() };
    let chosen = ChosenColumns::of(rows.iter().map(|row| &row.row));
    sqlx::query(UPSERT_COPIES)
        .bind(own.region.as_str())
        .bind(epoch_column(own))
        .bind(skus(rows.iter().map(|row| &row.key)))
        .bind(nodes(rows.iter().map(|row| &row.key)))
        .bind(rows.iter().map(|row| row.owner.region.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| epoch_column(row.owner)).collect::<Vec<_>>())
        .bind(column(|row| row.version))
        .bind(column(|row| row.received))
        .bind(rows.iter().map(|row| units_json(&row.row.granted)).collect::<Vec<_>>())
        .bind(column(Row::granted_total))
        .bind(column(|row| row.spent))
        .bind(column(|row| row.released))
        .bind(column(|row| row.withdrawn))
        .bind(chosen.rounds)
        .bind(chosen.regions)
        .bind(chosen.sequences)
        .bind(chosen.ceilings)
        .bind(chosen.credits)
        .bind(chosen.credited)
        .bind(rows.iter().map(|row| row.row.is_buried()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// The chosen values of rows, as columns.
struct ChosenColumns<'a> {
    rounds: Vec<i32>,
    regions: Vec<&'a str>,
    sequences: Vec<i64>,
    ceilings: Vec<i64>,
    credits: Vec<String>,
    credited: Vec<i64>,
}

impl<'a> ChosenColumns<'a> {
    fn of(rows: impl Iterator<Item = &'a Row> + Clone) -> Self {
        let slots = rows.map(|row| &row.chosen);
        let round = |slot: &Slot| i32::try_from(slot.ballot.round).unwrap_or(i32::MAX);
        Self {
            rounds: slots.clone().map(round).collect(),
            regions: slots.clone().map(|slot| slot.ballot.region.as_str()).collect(),
            sequences: slots.clone().map(|slot| signed(slot.sequence)).collect(),
            ceilings: slots.clone().map(|slot| signed(slot.value.ceiling)).collect(),
            credits: slots.clone().map(|slot| units_json(&slot.value.credits)).collect(),
            credited: slots.map(|slot| signed(slot.value.credited())).collect(),
        }
    }
}

/// One row of each key and owner, the newer halves of them joined, in that order: a statement can't
/// change one row twice, and two statements that change rows in one order don't wait for each other in a
/// circle.
fn newest(rows: &[&KeyedRow]) -> Vec<KeyedRow> {
    let mut newest: BTreeMap<(&StockKey, Actor), KeyedRow> = BTreeMap::new();
    for &row in rows {
        let kept = newest.entry((&row.key, row.owner)).or_insert_with(|| row.clone());
        kept.row = row.row.clone().joined(&kept.row);
    }
    newest.into_values().collect()
}

/// Stores what is chosen of the own registers, where that is newer.
pub(super) async fn choose_own(
    connection: &mut PgConnection,
    own: Actor,
    ledgers: &Ledgers,
) -> Result<(), sqlx::Error> {
    let chosen = ChosenColumns::of(ledgers.values().map(Ledger::own_row));
    sqlx::query(CHOOSE_OWN)
        .bind(own.region.as_str())
        .bind(epoch_column(own))
        .bind(skus(ledgers.keys()))
        .bind(nodes(ledgers.keys()))
        .bind(chosen.rounds)
        .bind(chosen.regions)
        .bind(chosen.sequences)
        .bind(chosen.ceilings)
        .bind(chosen.credits)
        .bind(chosen.credited)
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
