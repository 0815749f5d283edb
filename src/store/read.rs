//! Reads that decide nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::query::Query;
use sqlx::{Postgres, Row};

use crate::domain::catalogue::{Node, Product};
use crate::domain::idempotency::{IntentKey, IntentRecord};
use crate::domain::order::{Event, OrderRecord};
use crate::escrow::KeyedRow;
use crate::ports::store::{Contested, OrderFilter, SagaFilter, Spendable};
use crate::ports::{Reader, StoreError};
use crate::saga::SagaRecord;
use crate::types::{NodeId, OrderId, RegionId, SagaId, Sku};

use super::encode::{from_json, order_record, parsed, signed, store_error, unsigned};
use super::{PgStore, load, within};

pub(super) const STATEMENTS: &[&str] = &[
    ORDER,
    LIST_ORDERS,
    STANDING,
    EVENTS,
    SAGA,
    OPEN_SAGAS,
    RIGHTS,
    PRODUCT,
    PRODUCTS,
    NODE,
    NODES,
    CONTESTED,
    SETTLED,
    MAY_SELL_ALONE,
];

const ORDER: &str = "
SELECT order_id, version, chain_hash, created_hlc, updated_hlc, document
FROM orders WHERE order_id = $1";

/// Ids are time-ordered, so newest first is by id.
const LIST_ORDERS: &str = "
SELECT order_id, version, chain_hash, created_hlc, updated_hlc, document
FROM orders
WHERE ($1::text IS NULL OR customer_id = $1)
  AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR channel = $3)
  AND ($4::text IS NULL OR created_hlc >= $4)
  AND ($5::uuid IS NULL OR order_id < $5)
ORDER BY order_id DESC LIMIT $6";

const STANDING: &str = "
SELECT order_id, status <> 'pending' AS is_decided FROM orders
WHERE home_region = $1 AND ($2::uuid IS NULL OR order_id > $2) AND stands ORDER BY order_id LIMIT $3";

/// A row has one event or more, so that so many rows are enough.
const EVENTS: &str = "
SELECT events FROM order_events WHERE order_id = $1 AND last_seq > $2 ORDER BY first_seq LIMIT $3";

const SAGA: &str = "
SELECT document FROM sagas WHERE saga_id = $1";

const OPEN_SAGAS: &str = "
SELECT document FROM sagas
WHERE state IN ('running', 'compensating')
  AND ($1::text IS NULL OR state = $1)
  AND created_at_ms <= $2
  AND ($3::uuid IS NULL OR saga_id > $3)
ORDER BY saga_id LIMIT $4";

const RIGHTS: &str = "
SELECT sku, node, owner, epoch, version, received, granted::text AS granted, spent, released, withdrawn,
       ballot_round, ballot_region, sequence, ceiling, credits::text AS credits
FROM rights WHERE sku = $1 ORDER BY node, owner, epoch";

const PRODUCT: &str = "SELECT document FROM products WHERE sku = $1";

const PRODUCTS: &str = "
SELECT document FROM products WHERE ($1::text IS NULL OR sku > $1) ORDER BY sku LIMIT $2";

const NODE: &str = "SELECT document FROM nodes WHERE node = $1";

const NODES: &str = "
SELECT document FROM nodes WHERE ($1::text IS NULL OR node > $1) ORDER BY node LIMIT $2";

const CONTESTED: &str = "
SELECT own.order_id, own.version, own.chain_hash, own.created_hlc, own.updated_hlc, own.document,
       other.version AS other_version, other.chain_hash AS other_chain_hash, other.created_hlc AS other_created_hlc,
       other.updated_hlc AS other_updated_hlc, other.document AS other_document
FROM contested c
JOIN orders own ON own.order_id = c.order_id
                AND own.home_region = (SELECT region FROM region_identity)
JOIN orders other ON other.order_id = c.other_order_id
WHERE NOT c.settled AND ($1::uuid IS NULL OR (c.order_id, c.other_order_id) > ($1, $2))
ORDER BY c.order_id, c.other_order_id LIMIT $3";

const SETTLED: &str =
    "UPDATE contested SET settled = true WHERE order_id = $1 AND other_order_id = $2";

/// Up to their ceilings; of the others as the rows say that have arrived.
const MAY_SELL_ALONE: &str = "
SELECT owner, sum(units)::bigint AS units, count(*) AS keys
FROM (SELECT owner, ceiling - granted_total - spent + released - withdrawn AS units FROM rights) AS cells
WHERE units > 0 GROUP BY owner";

impl PgStore {
    pub(super) async fn rows(
        &self,
        query: Query<'_, Postgres, sqlx::postgres::PgArguments>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut lease = self.lease().await?;
        let rows = within(self.deadline, query.fetch_all(&mut *lease)).await?;
        lease.keep();
        Ok(rows)
    }

    async fn documents<T: serde::de::DeserializeOwned>(
        &self,
        query: Query<'_, Postgres, sqlx::postgres::PgArguments>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.rows(query).await.map_err(store_error)?;
        let documents = rows.iter().map(|row| from_json(row.try_get("document")?));
        documents.collect::<Result<_, sqlx::Error>>().map_err(store_error)
    }
}

#[async_trait]
impl Reader for PgStore {
    async fn order(&self, id: OrderId) -> Result<Option<Arc<OrderRecord>>, StoreError> {
        let rows = self.rows(sqlx::query(ORDER).bind(id.0)).await.map_err(store_error)?;
        let record = rows.first().map(order_record).transpose().map_err(store_error)?;
        Ok(record.map(Arc::new))
    }

    async fn orders(&self, filter: &OrderFilter) -> Result<Vec<OrderRecord>, StoreError> {
        let since = filter.since_ms.map(|since_ms| format!("{since_ms:016}"));
        let query = sqlx::query(LIST_ORDERS)
            .bind(filter.customer_id.as_ref().map(crate::types::CustomerId::as_str))
            .bind(filter.status.as_deref())
            .bind(filter.channel.as_deref())
            .bind(since)
            .bind(filter.before.map(|id| id.0))
            .bind(i64::from(filter.limit));
        let rows = self.rows(query).await.map_err(store_error)?;
        rows.iter().map(order_record).collect::<Result<_, _>>().map_err(store_error)
    }

    async fn standing(
        &self,
        home: RegionId,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<(OrderId, bool)>, StoreError> {
        let query = sqlx::query(STANDING)
            .bind(home.as_str())
            .bind(after.map(|id| id.0))
            .bind(i64::from(limit));
        let rows = self.rows(query).await.map_err(store_error)?;
        let standing =
            |row: &PgRow| Ok((OrderId(row.try_get("order_id")?), row.try_get("is_decided")?));
        rows.iter().map(standing).collect::<Result<_, sqlx::Error>>().map_err(store_error)
    }

    async fn events(&self, id: OrderId, after: u64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let query = sqlx::query(EVENTS).bind(id.0).bind(signed(after)).bind(i64::from(limit));
        let rows = self.rows(query).await.map_err(store_error)?;
        let mut events = Vec::new();
        for row in rows {
            let text: &str = row.try_get("events").map_err(store_error)?;
            events.extend(from_json::<Vec<Event>>(text).map_err(store_error)?);
        }
        events.retain(|event| event.seq > after);
        events.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(events)
    }

    async fn sagas_of(&self, id: OrderId) -> Result<Vec<SagaRecord>, StoreError> {
        // The saga that places an order has its id.
        self.documents(sqlx::query(SAGA).bind(id.0)).await
    }

    async fn saga(&self, id: SagaId) -> Result<Option<SagaRecord>, StoreError> {
        Ok(self.documents(sqlx::query(SAGA).bind(id.0)).await?.pop())
    }

    async fn sagas(
        &self,
        filter: SagaFilter,
        after: Option<SagaId>,
        limit: u32,
    ) -> Result<Vec<SagaRecord>, StoreError> {
        let (state, before_ms) = match filter {
            SagaFilter::Running => (Some("running"), i64::MAX),
            SagaFilter::Compensating => (Some("compensating"), i64::MAX),
            SagaFilter::OpenSince(before_ms) => (None, signed(before_ms)),
        };
        let query = sqlx::query(OPEN_SAGAS)
            .bind(state)
            .bind(before_ms)
            .bind(after.map(|id| id.0))
            .bind(i64::from(limit));
        self.documents(query).await
    }

    async fn intents(&self, intent: &IntentKey) -> Result<Vec<IntentRecord>, StoreError> {
        let read = async {
            let mut lease = self.lease().await?;
            let wanted = std::iter::once(intent);
            let records = within(self.deadline, load::intents(&mut lease, wanted)).await?;
            lease.keep();
            Ok(records)
        };
        read.await.map_err(store_error)
    }

    async fn rights_of(&self, sku: &Sku) -> Result<Vec<KeyedRow>, StoreError> {
        let rows = self.rows(sqlx::query(RIGHTS).bind(sku.as_str())).await.map_err(store_error)?;
        rows.iter().map(super::rights::keyed_row).collect::<Result<_, _>>().map_err(store_error)
    }

    async fn may_sell_alone(&self) -> Result<BTreeMap<RegionId, Spendable>, StoreError> {
        let rows = self.rows(sqlx::query(MAY_SELL_ALONE)).await.map_err(store_error)?;
        let one = |row: &PgRow| {
            let (units, keys) = (unsigned(row, "units")?, unsigned(row, "keys")?);
            Ok((parsed(row, "owner")?, Spendable { units, keys }))
        };
        rows.iter().map(one).collect::<Result<_, sqlx::Error>>().map_err(store_error)
    }

    async fn product(&self, sku: &Sku) -> Result<Option<Product>, StoreError> {
        Ok(self.documents(sqlx::query(PRODUCT).bind(sku.as_str())).await?.pop())
    }

    async fn products(&self, after: Option<&Sku>, limit: u32) -> Result<Vec<Product>, StoreError> {
        self.documents(sqlx::query(PRODUCTS).bind(after.map(Sku::as_str)).bind(i64::from(limit)))
            .await
    }

    async fn node(&self, id: &NodeId) -> Result<Option<Node>, StoreError> {
        Ok(self.documents(sqlx::query(NODE).bind(id.as_str())).await?.pop())
    }

    async fn nodes(&self, after: Option<&NodeId>, limit: u32) -> Result<Vec<Node>, StoreError> {
        self.documents(sqlx::query(NODES).bind(after.map(NodeId::as_str)).bind(i64::from(limit)))
            .await
    }

    async fn contested(
        &self,
        after: Option<(OrderId, OrderId)>,
        limit: u32,
    ) -> Result<Vec<Contested>, StoreError> {
        let query = sqlx::query(CONTESTED)
            .bind(after.map(|(own, _)| own.0))
            .bind(after.map(|(_, other)| other.0))
            .bind(i64::from(limit));
        let rows = self.rows(query).await.map_err(store_error)?;
        rows.iter().map(contested).collect::<Result<_, _>>().map_err(store_error)
    }

    async fn settled(&self, own: OrderId, other: OrderId) -> Result<(), StoreError> {
        self.rows(sqlx::query(SETTLED).bind(own.0).bind(other.0)).await.map_err(store_error)?;
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.rows(sqlx::query("SELECT 1")).await.map_err(store_error)?;
        Ok(())
    }
}

fn contested(row: &PgRow) -> Result<Contested, sqlx::Error> {
    let document: &str = row.try_get("other_document")?;
    let other = OrderRecord {
        order: from_json(document)?,
        version: unsigned(row, "other_version")?,
        chain_hash: row.try_get("other_chain_hash")?,
        created_hlc: parsed(row, "other_created_hlc")?,
        updated_hlc: parsed(row, "other_updated_hlc")?,
    };
    Ok(Contested { own: order_record(row)?, other })
}
