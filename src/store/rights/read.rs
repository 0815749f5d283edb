//! Reading rights rows.

use futures::TryStreamExt as _;

use super::{PgRights, StoredRow, epoch_column, nodes, skus, stored_row};
use crate::escrow::{Digest, KeyedRow};
use crate::store::encode::parsed;
use crate::store::within;
use crate::types::{Actor, Sku, StockKey};

macro_rules! select_rights {
    ($rest:literal) => {
        concat!(
            "SELECT r.sku, r.node, r.owner, r.epoch, r.version, r.received, r.granted::text AS granted, ",
            "r.spent, r.released, r.withdrawn, r.ballot_round, r.ballot_region, r.sequence, r.ceiling, ",
            "r.credits::text AS credits, n.active AS node_active ",
            "FROM rights r LEFT JOIN nodes n ON n.node = r.node ",
            $rest
        )
    };
}

pub(super) const OF_KEYS: &str = select_rights!(
    "JOIN unnest($1::text[], $2::text[]) AS u(sku, node) ON r.sku = u.sku AND r.node = u.node"
);

pub(super) const OF_SKU: &str = select_rights!("WHERE r.sku = $1");

/// Rows in one page of a scan; each page is one statement with a deadline of its own.
const PAGE_ROWS: i64 = 5_000;

/// For sums only: whether a node is switched off does not count, and looking that up for each row would
/// be half the cost.
pub(super) const PAGE: &str = "
SELECT sku, node, owner, epoch, version, received, granted::text AS granted, spent, released, withdrawn,
       ballot_round, ballot_region, sequence, ceiling, credits::text AS credits, true AS node_active
FROM rights WHERE (sku, node, owner, epoch) > ($1, $2, $3, $4) ORDER BY sku, node, owner, epoch LIMIT $5";

/// The bucket of a key as [`crate::escrow::bucket_of`] computes it; a test holds them together.
pub(super) const OF_BUCKET: &str = select_rights!(
    "WHERE r.owner = $1 AND r.epoch = $2 AND rights_bucket(r.sku, r.node) = $3 AND (r.version > 0 OR r.sequence > 0)
AND (r.sku, r.node) > ($4, $5) ORDER BY r.sku, r.node LIMIT $6"
);

/// Also where the owner has written nothing yet. `$3` is the owner as grants and credits name it.
pub(super) const HELD_BY: &str = "
SELECT DISTINCT sku, node FROM rights
WHERE (sku, node) > ($4, $5) AND (owner = $1 AND epoch = $2 OR granted ? $3 OR credits ? $3)
ORDER BY sku, node LIMIT $6";

impl PgRights {
    pub(super) async fn read_held_by(
        &self,
        owner: Actor,
        after: Option<&StockKey>,
        limit: usize,
    ) -> Result<Vec<StockKey>, sqlx::Error> {
        let mut lease = self.store.lease().await?;
        let query = sqlx::query(HELD_BY)
            .bind(owner.region.as_str())
            .bind(epoch_column(owner))
            .bind(owner.to_string())
            .bind(after.map_or("", |key| key.sku.as_str()))
            .bind(after.map_or("", |key| key.node.as_str()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = within(self.store.deadline, query.fetch_all(&mut *lease)).await?;
        lease.keep();
        let key = |row| Ok(StockKey { sku: parsed(row, "sku")?, node: parsed(row, "node")? });
        rows.iter().map(key).collect()
    }

    pub(super) async fn read_sku(&self, sku: &Sku) -> Result<Vec<StoredRow>, sqlx::Error> {
        let mut lease = self.store.lease().await?;
        let query = sqlx::query(OF_SKU).bind(sku.as_str()).fetch_all(&mut *lease);
        let rows = within(self.store.deadline, query).await?;
        lease.keep();
        rows.iter().map(stored_row).collect()
    }

    pub(super) async fn read_keys(
        &self,
        keys: impl Iterator<Item = &StockKey> + Clone,
    ) -> Result<Vec<StoredRow>, sqlx::Error> {
        let mut lease = self.store.lease().await?;
        let query = sqlx::query(OF_KEYS).bind(skus(keys.clone())).bind(nodes(keys));
        let rows = within(self.store.deadline, query.fetch_all(&mut *lease)).await?;
        lease.keep();
        rows.iter().map(stored_row).collect()
    }

    /// Sums up all rows, page by page. Rows that change meanwhile are in with one of their values:
    /// a comparison that finds them different pulls rows that turn out to be known.
    pub(super) async fn read_digest(&self) -> Result<Digest, sqlx::Error> {
        let mut digest = Digest::default();
        let mut after = (String::new(), String::new(), String::new(), 0);
        loop {
            let mut lease = self.store.lease().await?;
            let page = async {
                let mut rows = sqlx::query(PAGE)
                    .bind(&after.0)
                    .bind(&after.1)
                    .bind(&after.2)
                    .bind(after.3)
                    .bind(PAGE_ROWS)
                    .fetch(&mut *lease);
                let (mut count, mut last) = (0, None);
                while let Some(row) = rows.try_next().await? {
                    let KeyedRow { key, owner, row } = stored_row(&row)?.keyed;
                    digest.add(&key, owner, &row);
                    count += 1;
                    last = Some((key, owner));
                }
                Ok((count, last))
            };
            let (count, last) = within(self.store.deadline, page).await?;
            lease.keep();
            match last {
                Some((key, owner)) if count == PAGE_ROWS => {
                    let (sku, node) = (key.sku.to_string(), key.node.to_string());
                    after = (sku, node, owner.region.to_string(), epoch_column(owner));
                }
                _ => return Ok(digest),
            }
        }
    }

    pub(super) async fn read_bucket(
        &self,
        owner: Actor,
        bucket: u8,
        after: Option<&StockKey>,
        limit: usize,
    ) -> Result<Vec<KeyedRow>, sqlx::Error> {
        let mut lease = self.store.lease().await?;
        let query = sqlx::query(OF_BUCKET)
            .bind(owner.region.as_str())
            .bind(epoch_column(owner))
            .bind(i32::from(bucket))
            .bind(after.map_or("", |key| key.sku.as_str()))
            .bind(after.map_or("", |key| key.node.as_str()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = within(self.store.deadline, query.fetch_all(&mut *lease)).await?;
        lease.keep();
        rows.iter().map(|row| Ok(stored_row(row)?.keyed)).collect()
    }
}
