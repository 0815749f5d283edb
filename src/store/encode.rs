//! Between domain types and columns.

use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::domain::order::{Event, OrderRecord};
use crate::ports::StoreError;
use crate::types::OrderId;

/// A read that failed, in the port's words.
#[expect(clippy::wildcard_enum_match_arm, reason = "any other fault is one of the connection")]
pub(crate) fn store_error(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(ref inner) if !is_passing(inner.code().as_deref()) => {
            StoreError::Broken(error.to_string())
        }
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnNotFound(_) => StoreError::Broken(error.to_string()),
        error => StoreError::Unavailable(error.to_string()),
    }
}

/// SQLSTATE classes that pass by themselves: connection, resources, operator's intervention, lock not
/// available, deadlock and serialization.
pub(crate) fn is_passing(code: Option<&str>) -> bool {
    let passing = ["08", "53", "57", "55P03", "40", "58"];
    code.is_some_and(|code| passing.iter().any(|class| code.starts_with(class)))
}

/// A document out of a text column.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// A checked text (id, stamp, region) out of a column.
pub(crate) fn parsed<T>(row: &PgRow, column: &str) -> Result<T, sqlx::Error>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// A number that the schema keeps from being negative.
pub(crate) fn unsigned(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Units and versions never come near this bound; a value beyond it is a bug and must not wrap.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Columns of an order row, for the statements below: `order_id, version, chain_hash, created_hlc,
/// updated_hlc, document`.
pub(crate) fn order_record(row: &PgRow) -> Result<OrderRecord, sqlx::Error> {
    let document: &str = row.try_get("document")?;
    Ok(OrderRecord {
        order: from_json(document)?,
        version: unsigned(row, "version")?,
        chain_hash: row.try_get("chain_hash")?,
        created_hlc: parsed(row, "created_hlc")?,
        updated_hlc: parsed(row, "updated_hlc")?,
    })
}

/// Orders as columns, for one multi-row statement.
#[derive(Debug, Default)]
pub(crate) struct OrderColumns {
    order_id: Vec<Uuid>,
    home_region: Vec<String>,
    customer_id: Vec<Option<String>>,
    channel: Vec<String>,
    channel_order_ref: Vec<Option<String>>,
    status: Vec<&'static str>,
    payment_status: Vec<&'static str>,
    fulfillment_status: Vec<&'static str>,
    version: Vec<i64>,
    expected_version: Vec<i64>,
    currency: Vec<String>,
    total_minor: Vec<i64>,
    created_hlc: Vec<String>,
    updated_hlc: Vec<String>,
    chain_hash: Vec<String>,
    document: Vec<String>,
}

impl OrderColumns {
    /// Adds an order and the version it had before.
    pub(crate) fn push(&mut self, record: &OrderRecord, expected_version: u64) {
        let order = &record.order;
        self.order_id.push(order.id.0);
        self.home_region.push(order.home_region.to_string());
        self.customer_id.push(order.customer_id.as_ref().map(ToString::to_string));
        self.channel.push(order.channel.clone());
        self.channel_order_ref.push(order.channel_order_ref.clone());
        self.status.push(order.status().as_str());
        self.payment_status.push(order.payment_status().as_str());
        self.fulfillment_status.push(order.fulfillment_status().as_str());
        self.version.push(signed(record.version));
        self.expected_version.push(signed(expected_version));
        self.currency.push(order.currency.to_string());
        self.total_minor.push(order.total_minor());
        self.created_hlc.push(record.created_hlc.to_string());
        self.updated_hlc.push(record.updated_hlc.to_string());
        self.chain_hash.push(record.chain_hash.clone());
        self.document.push(serde_json::to_string(order).expect("our own type always serializes"));
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.order_id.len()
    }

    /// Runs [`INSERT_ORDERS`] or a statement with its parameters. Answers the rows written.
    pub(crate) async fn insert(
        &self,
        statement: &'static str,
        connection: &mut sqlx::PgConnection,
    ) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(statement)
            .bind(&self.order_id)
            .bind(&self.home_region)
            .bind(&self.customer_id)
            .bind(&self.channel)
            .bind(&self.channel_order_ref)
            .bind(&self.status)
            .bind(&self.payment_status)
            .bind(&self.fulfillment_status)
            .bind(&self.version)
            .bind(&self.currency)
            .bind(&self.total_minor)
            .bind(&self.created_hlc)
            .bind(&self.updated_hlc)
            .bind(&self.chain_hash)
            .bind(&self.document)
            .execute(connection)
            .await?;
        Ok(done.rows_affected())
    }

    /// Runs [`UPDATE_ORDERS`]. Answers the rows written; fewer than [`Self::len`] is a conflict.
    pub(crate) async fn update(
        &self,
        connection: &mut sqlx::PgConnection,
    ) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(UPDATE_ORDERS)
            .bind(&self.order_id)
            .bind(&self.expected_version)
            .bind(&self.status)
            .bind(&self.payment_status)
            .bind(&self.fulfillment_status)
            .bind(&self.version)
            .bind(&self.total_minor)
            .bind(&self.updated_hlc)
            .bind(&self.chain_hash)
            .bind(&self.document)
            .bind(&self.home_region)
            .execute(connection)
            .await?;
        Ok(done.rows_affected())
    }
}

pub(crate) const INSERT_ORDERS: &str = "
INSERT INTO orders (order_id, home_region, customer_id, channel, channel_order_ref, status, payment_status,
                    fulfillment_status, version, currency, total_minor, created_hlc, updated_hlc, chain_hash,
                    document)
SELECT a, b, c, d, e, f, g, h, i, j, k, l, m, n, o
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::bigint[], $10::text[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::text[])
     AS u(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)";

/// A copy only moves forward.
pub(crate) const UPSERT_COPIES: &str = "
INSERT INTO orders (order_id, home_region, customer_id, channel, channel_order_ref, status, payment_status,
                    fulfillment_status, version, currency, total_minor, created_hlc, updated_hlc, chain_hash,
                    document)
SELECT a, b, c, d, e, f, g, h, i, j, k, l, m, n, o
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::bigint[], $10::text[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::text[])
     AS u(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)
ON CONFLICT (order_id) DO UPDATE
SET home_region = excluded.home_region, status = excluded.status, payment_status = excluded.payment_status,
    fulfillment_status = excluded.fulfillment_status, version = excluded.version,
    total_minor = excluded.total_minor, updated_hlc = excluded.updated_hlc, chain_hash = excluded.chain_hash,
    document = excluded.document
WHERE orders.version < excluded.version";

pub(crate) const UPDATE_ORDERS: &str = "
UPDATE orders AS r
SET status = u.c, payment_status = u.d, fulfillment_status = u.e, version = u.f, total_minor = u.g,
    updated_hlc = u.h, chain_hash = u.i, document = u.j, home_region = u.k
FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
            $8::text[], $9::text[], $10::text[], $11::text[]) AS u(a, b, c, d, e, f, g, h, i, j, k)
WHERE r.order_id = u.a AND r.version = u.b";

/// A second row for the same first sequence would be a fork of the order's history: refused by the key.
pub(crate) const INSERT_EVENTS: &str = "
INSERT INTO order_events (order_id, first_seq, last_seq, events)
SELECT a, b, c, d FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[]) AS u(a, b, c, d)";

/// Events as columns, for one multi-row statement.
#[derive(Debug, Default)]
pub(crate) struct EventColumns {
    order_id: Vec<Uuid>,
    first_seq: Vec<i64>,
    last_seq: Vec<i64>,
    events: Vec<String>,
}

impl EventColumns {
    /// Adds the events of one commit to an order, and their JSON array.
    pub(crate) fn push(&mut self, order_id: OrderId, events: &[Event], json: String) {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
        self.order_id.push(order_id.0);
        self.first_seq.push(signed(first.seq));
        self.last_seq.push(signed(last.seq));
        self.events.push(json);
    }

    /// Runs [`INSERT_EVENTS`].
    pub(crate) async fn insert(
        &self,
        connection: &mut sqlx::PgConnection,
    ) -> Result<(), sqlx::Error> {
        self.insert_with(INSERT_EVENTS, connection).await
    }

    /// Runs a statement with the parameters of [`INSERT_EVENTS`].
    pub(crate) async fn insert_with(
        &self,
        statement: &'static str,
        connection: &mut sqlx::PgConnection,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(statement)
            .bind(&self.order_id)
            .bind(&self.first_seq)
            .bind(&self.last_seq)
            .bind(&self.events)
            .execute(connection)
            .await?;
        Ok(())
    }
}
