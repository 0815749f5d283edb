//! Reading rights rows.

use futures::TryStreamExt as _;

use super::{PgRights, StoredRow, nodes, skus, stored_row};
use crate::escrow::{Digest, KeyedRow};
use crate::store::within;
use crate::types::{RegionId, Sku, StockKey};

macro_rules! select_rights {
    ($rest:literal) => {
        concat!(
            "SELECT r.sku, r.node, r.owner, r.epoch, r.version, r.received, r.granted::text AS granted, ",
            "r.spent, r.released, r.withdrawn, r.active, n.active AS node_active ",
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
       active, true AS node_active
FROM rights WHERE (sku, node, owner) > ($1, $2, $3) ORDER BY sku, node, owner LIMIT $4";

/// The bucket of a key as [`crate::escrow::bucket_of`] computes it; a test holds them together.
pub(super) const OF_BUCKET: &str = select_rights!(
    "WHERE r.owner = $1 AND rights_bucket(r.sku, r.node) = $2 AND r.version > 0
AND (r.sku, r.node) > ($3, $4) ORDER BY r.sku, r.node LIMIT $5"
);

impl PgRights {
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
        let mut after = (String::new(), String::new(), String::new());
        loop {
            let mut lease = self.store.lease().await?;
            let page = async {
                let mut rows = sqlx::query(PAGE)
                    .bind(&after.0)
                    .bind(&after.1)
                    .bind(&after.2)
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
                    after = (key.sku.to_string(), key.node.to_string(), owner.to_string());
                }
                _ => return Ok(digest),
            }
        }
    }

    pub(super) async fn read_bucket(
        &self,
        owner: RegionId,
        bucket: u8,
        after: Option<&StockKey>,
        limit: usize,
    ) -> Result<Vec<KeyedRow>, sqlx::Error> {
        let mut lease = self.store.lease().await?;
        let query = sqlx::query(OF_BUCKET)
            .bind(owner.as_str())
            .bind(i32::from(bucket))
            .bind(after.map_or("", |key| key.sku.as_str()))
            .bind(after.map_or("", |key| key.node.as_str()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = within(self.store.deadline, query.fetch_all(&mut *lease)).await?;
        lease.keep();
        rows.iter().map(|row| Ok(stored_row(row)?.keyed)).collect()
    }
}
