//! What is copied between regions, in short: key, stamp and hash, in order of keys.
//!
//! Keys are texts on the wire and columns here; every statement has the same parameters: owner, after, up to,
//! limit, or owner and keys. A content's hash is of its text as it is stored: where only that differs, as between
//! two versions of the program, the comparison reads what it means.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PgStore;
use crate::reconcile::{Entry, Kind, Range};
use crate::types::RegionId;

macro_rules! of_orders {
    ($rest:literal) => {
        concat!(
            "SELECT order_id::text AS key, lpad(version::text, 20, '0') AS stamp, ",
            "md5(concat_ws(' ', chain_hash, status, payment_status, fulfillment_status, document)) AS hash ",
            "FROM orders WHERE home_region = $1 AND ",
            $rest
        )
    };
}

pub(super) const ORDERS: &str = of_orders!(
    "order_id > coalesce(nullif($2::text, ''), '00000000-0000-0000-0000-000000000000')::uuid
AND ($3::text IS NULL OR order_id <= $3::text::uuid) ORDER BY order_id LIMIT $4"
);
pub(super) const ORDERS_OF: &str =
    of_orders!("order_id = ANY($2::text[]::uuid[]) ORDER BY order_id");

/// SKU and node hold no control characters, so one keeps them and the incarnation apart.
macro_rules! rights_entry {
    () => {
        "sku || E'\\x1f' || node || E'\\x1f' || epoch AS key,
       concat_ws('.', lpad(version::text, 20, '0'), lpad(ballot_round::text, 10, '0'), ballot_region,
                 lpad(sequence::text, 20, '0')) AS stamp,
       md5(concat_ws(' ', received, granted::text, spent, released, withdrawn, ceiling, credits::text)) AS hash
FROM rights WHERE owner = $1 AND (version > 0 OR sequence > 0)"
    };
}

pub(super) const RIGHTS: &str = concat!(
    "SELECT ",
    rights_entry!(),
    "
  AND (sku, node, epoch) > (split_part($2, E'\\x1f', 1), split_part($2, E'\\x1f', 2),
                            coalesce(nullif(split_part($2, E'\\x1f', 3), ''), '0')::integer)
  AND ($3::text IS NULL OR (sku, node, epoch) <= (split_part($3, E'\\x1f', 1), split_part($3, E'\\x1f', 2),
                                                  split_part($3, E'\\x1f', 3)::integer))
ORDER BY sku, node, epoch LIMIT $4"
);
/// One look-up by primary key each, also in a table that has no statistics yet.
pub(super) const RIGHTS_OF: &str = concat!(
    "SELECT r.key, r.stamp, r.hash FROM unnest($2::text[]) AS k CROSS JOIN LATERAL (SELECT ",
    rights_entry!(),
    "
  AND sku = split_part(k, E'\\x1f', 1) AND node = split_part(k, E'\\x1f', 2)
  AND epoch = split_part(k, E'\\x1f', 3)::integer LIMIT 1) AS r"
);

/// Fixed widths make the text of a key sort like its numbers.
macro_rules! log_range {
    ($table:literal) => {
        concat!(
            "SELECT lpad(epoch::text, 10, '0') || '/' || lpad(seq::text, 20, '0') AS key, ",
            "'' AS stamp, event_hash AS hash FROM ",
            $table,
            " AND (epoch, seq) > (coalesce(nullif(split_part($2, '/', 1), ''), '0')::integer,
                coalesce(nullif(split_part($2, '/', 2), ''), '0')::bigint)
AND ($3::text IS NULL OR (epoch, seq) <= (split_part($3, '/', 1)::integer, split_part($3, '/', 2)::bigint))
ORDER BY epoch, seq LIMIT $4"
        )
    };
}

/// See [`RIGHTS_OF`].
macro_rules! log_keys {
    ($table:literal) => {
        concat!(
            "SELECT k AS key, '' AS stamp, r.event_hash AS hash FROM unnest($2::text[]) AS k CROSS JOIN LATERAL ",
            "(SELECT event_hash FROM ",
            $table,
            " AND epoch = split_part(k, '/', 1)::integer AND seq = split_part(k, '/', 2)::bigint LIMIT 1) AS r"
        )
    };
}

/// Whose outbox it is needs no column.
pub(super) const OUTBOX: &str = log_range!("outbox WHERE $1::text IS NOT NULL");
pub(super) const OUTBOX_OF: &str = log_keys!("outbox WHERE $1::text IS NOT NULL");
pub(super) const INBOX: &str = log_range!("inbox WHERE origin = $1");
pub(super) const INBOX_OF: &str = log_keys!("inbox WHERE origin = $1");

pub(super) const PRODUCTS: &str = "
SELECT sku AS key, hlc AS stamp, md5(document) AS hash FROM products
WHERE $1::text IS NOT NULL AND sku > $2 AND ($3::text IS NULL OR sku <= $3) ORDER BY sku LIMIT $4";
pub(super) const PRODUCTS_OF: &str = "
SELECT sku AS key, hlc AS stamp, md5(document) AS hash FROM products
WHERE $1::text IS NOT NULL AND sku = ANY($2::text[]) ORDER BY sku";

pub(super) const NODES: &str = "
SELECT node AS key, hlc AS stamp, md5(document) AS hash FROM nodes
WHERE $1::text IS NOT NULL AND node > $2 AND ($3::text IS NULL OR node <= $3) ORDER BY node LIMIT $4";
pub(super) const NODES_OF: &str = "
SELECT node AS key, hlc AS stamp, md5(document) AS hash FROM nodes
WHERE $1::text IS NOT NULL AND node = ANY($2::text[]) ORDER BY node";

pub(super) async fn read(
    store: &PgStore,
    range: &Range,
    limit: usize,
) -> Result<Vec<Entry>, sqlx::Error> {
    let statement = match range.kind {
        Kind::Orders => ORDERS,
        Kind::Rights => RIGHTS,
        Kind::Envelopes if range.owner == store.region => OUTBOX,
        Kind::Envelopes => INBOX,
        Kind::Products => PRODUCTS,
        Kind::Nodes => NODES,
    };
    let query = sqlx::query(statement)
        .bind(range.owner.as_str())
        .bind(&range.after)
        .bind(range.upto.as_deref())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX));
    store.rows(query).await?.iter().map(entry).collect()
}

pub(super) async fn read_keys(
    store: &PgStore,
    kind: Kind,
    owner: RegionId,
    keys: &[String],
) -> Result<Vec<Entry>, sqlx::Error> {
    let statement = match kind {
        Kind::Orders => ORDERS_OF,
        Kind::Rights => RIGHTS_OF,
        Kind::Envelopes if owner == store.region => OUTBOX_OF,
        Kind::Envelopes => INBOX_OF,
        Kind::Products => PRODUCTS_OF,
        Kind::Nodes => NODES_OF,
    };
    let rows = store.rows(sqlx::query(statement).bind(owner.as_str()).bind(keys)).await?;
    rows.iter().map(entry).collect()
}

fn entry(row: &PgRow) -> Result<Entry, sqlx::Error> {
    Ok(Entry { key: row.try_get("key")?, stamp: row.try_get("stamp")?, hash: row.try_get("hash")? })
}
