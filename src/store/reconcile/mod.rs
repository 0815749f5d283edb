//! What reconciliation reads and mends in this region's database.

mod entries;
mod mend;
mod reports;
mod snapshot;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::domain::catalogue::{Node, Product};
use crate::domain::order::{Event, OrderRecord};
use crate::ports::{Claim, ClaimCursor, ClaimsPage, ReconcileStore, Snapshot, StoreError, Turn};
use crate::reconcile::{Entry, Kind, Range, Report, StoredOrder};
use crate::types::{OrderId, RegionId, ReportId};

use super::encode::{from_json, parsed, store_error, unsigned};
use super::{Lease, PgStore, within};

pub(super) const STATEMENTS: &[&str] = &[
    entries::ORDERS,
    entries::ORDERS_OF,
    entries::RIGHTS,
    entries::RIGHTS_OF,
    entries::OUTBOX,
    entries::OUTBOX_OF,
    entries::INBOX,
    entries::INBOX_OF,
    entries::PRODUCTS,
    entries::PRODUCTS_OF,
    entries::NODES,
    entries::NODES_OF,
    snapshot::ORDERS,
    snapshot::EVENTS,
    snapshot::RIGHTS,
    mend::REPLACE_COPY,
    mend::ADD_EVENTS,
    reports::KEEP,
    reports::REPORT,
    reports::FAIL,
    reports::FORGET,
    TURN,
    STORED,
    RIVALS,
    COMMITS,
    DOUBLE_INTENTS,
    DOUBLE_REFERENCES,
];

/// A lock of the session: it ends with the connection, so a process that dies leaves none behind.
const TURN: &str = "SELECT pg_try_advisory_lock($1)";

/// Of this program's advisory locks, the one of reconciliation: "entrepot" in ASCII.
const TURN_KEY: i64 = 0x656e_7472_6570_6f74;

macro_rules! stored {
    ($($rest:literal),+ $(,)?) => {
        concat!(
            "SELECT o.order_id, o.home_region, o.status, o.payment_status, o.version, o.chain_hash, ",
            "o.created_hlc, o.updated_hlc, o.document, ",
            "coalesce(s.state IN ('running', 'compensating'), false) AS saga_open ",
            "FROM orders o LEFT JOIN sagas s ON s.saga_id = o.order_id ",
            $($rest),+
        )
    };
}
pub(super) use stored;

const STORED: &str = stored!("WHERE o.order_id = ANY($1::uuid[])");

const RIVALS: &str =
    stored!("JOIN contested c ON c.other_order_id = o.order_id WHERE c.order_id = $1");

const COMMITS: &str = "SELECT events FROM order_events WHERE order_id = $1 ORDER BY first_seq";

/// A page of all records; the other order only where this region's own stands, so that each pair shows once.
const DOUBLE_INTENTS: &str = "
SELECT p.principal AS a, p.key AS b, p.region AS c, p.order_id AS own,
       CASE WHEN p.region = $1 AND EXISTS (SELECT FROM orders o WHERE o.order_id = p.order_id AND o.stands)
            THEN (SELECT o.order_id FROM idempotency i JOIN orders o ON o.order_id = i.order_id AND o.stands
                  WHERE i.principal = p.principal AND i.key = p.key AND i.region > p.region
                  ORDER BY i.region LIMIT 1) END AS other
FROM (SELECT principal, key, region, order_id FROM idempotency
      WHERE (principal, key, region) > ($2, $3, $4) ORDER BY principal, key, region LIMIT $5) AS p";

/// See [`DOUBLE_INTENTS`].
const DOUBLE_REFERENCES: &str = "
SELECT p.channel AS a, p.channel_order_ref AS b, p.home_region AS c, p.order_id AS own,
       CASE WHEN p.home_region = $1
            THEN (SELECT o.order_id FROM orders o
                  WHERE o.channel = p.channel AND o.channel_order_ref = p.channel_order_ref AND o.stands
                    AND o.home_region > p.home_region AND o.customer_id IS NOT DISTINCT FROM p.customer_id
                  ORDER BY o.home_region LIMIT 1) END AS other
FROM (SELECT channel, channel_order_ref, home_region, customer_id, order_id FROM orders
      WHERE channel_order_ref IS NOT NULL AND stands AND (channel, channel_order_ref, home_region) > ($2, $3, $4)
      ORDER BY channel, channel_order_ref, home_region LIMIT $5) AS p";

/// The columns of `stored!`.
fn stored_order(row: &PgRow) -> Result<StoredOrder, sqlx::Error> {
    let document: &str = row.try_get("document")?;
    Ok(StoredOrder {
        id: OrderId(row.try_get("order_id")?),
        home: parsed(row, "home_region")?,
        status: row.try_get("status")?,
        payment_status: row.try_get("payment_status")?,
        version: unsigned(row, "version")?,
        chain_hash: row.try_get("chain_hash")?,
        stamps: (row.try_get("created_hlc")?, row.try_get("updated_hlc")?),
        document: serde_json::from_str(document).map_err(|error| error.to_string()),
        saga_open: row.try_get("saga_open")?,
    })
}

/// The connection whose session holds the lock. It is never given back to the pool.
struct Locked(#[expect(dead_code, reason = "held")] tokio::sync::Mutex<Lease>);

impl Turn for Locked {}

#[async_trait]
impl ReconcileStore for PgStore {
    async fn turn(&self) -> Result<Option<Box<dyn Turn>>, StoreError> {
        let attempt = async {
            let mut lease = self.lease().await?;
            let query = sqlx::query_scalar(TURN).bind(TURN_KEY).fetch_one(&mut *lease);
            let locked: bool = within(self.deadline, query).await?;
            if locked {
                return Ok(Some(Box::new(Locked(tokio::sync::Mutex::new(lease))) as Box<dyn Turn>));
            }
            lease.keep();
            Ok(None)
        };
        attempt.await.map_err(store_error)
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(snapshot::begin(self).await.map_err(store_error)?))
    }

    async fn entries(&self, range: &Range, limit: usize) -> Result<Vec<Entry>, StoreError> {
        entries::read(self, range, limit).await.map_err(store_error)
    }

    async fn entries_of(
        &self,
        kind: Kind,
        owner: RegionId,
        keys: &[String],
    ) -> Result<Vec<Entry>, StoreError> {
        entries::read_keys(self, kind, owner, keys).await.map_err(store_error)
    }

    async fn stored_orders(&self, ids: &[OrderId]) -> Result<Vec<StoredOrder>, StoreError> {
        let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
        let rows = self.rows(sqlx::query(STORED).bind(ids)).await.map_err(store_error)?;
        rows.iter().map(stored_order).collect::<Result<_, _>>().map_err(store_error)
    }

    async fn rivals(&self, order: OrderId) -> Result<Vec<StoredOrder>, StoreError> {
        let rows = self.rows(sqlx::query(RIVALS).bind(order.0)).await.map_err(store_error)?;
        rows.iter().map(stored_order).collect::<Result<_, _>>().map_err(store_error)
    }

    async fn doubles(
        &self,
        claim: Claim,
        after: &ClaimCursor,
        limit: u32,
    ) -> Result<ClaimsPage, StoreError> {
        let statement = match claim {
            Claim::Intent => DOUBLE_INTENTS,
            Claim::Reference => DOUBLE_REFERENCES,
        };
        let (a, b, c) = after;
        let query = sqlx::query(statement)
            .bind(self.region.as_str())
            .bind(a)
            .bind(b)
            .bind(c)
            .bind(i64::from(limit));
        let rows = self.rows(query).await.map_err(store_error)?;
        claims(&rows, limit).map_err(store_error)
    }

    async fn commits(&self, order: OrderId) -> Result<Vec<Vec<Event>>, StoreError> {
        let rows = self.rows(sqlx::query(COMMITS).bind(order.0)).await.map_err(store_error)?;
        let commits = rows.iter().map(|row| from_json(row.try_get("events")?));
        commits.collect::<Result<_, sqlx::Error>>().map_err(store_error)
    }

    async fn replace_copy(
        &self,
        record: &OrderRecord,
        commits: &[Vec<Event>],
    ) -> Result<bool, StoreError> {
        mend::replace_copy(self, record, commits).await.map_err(store_error)
    }

    async fn take_product(&self, product: &Product) -> Result<(), StoreError> {
        mend::take_product(self, product).await.map_err(store_error)
    }

    async fn take_node(&self, node: &Node) -> Result<(), StoreError> {
        mend::take_node(self, node).await.map_err(store_error)
    }

    async fn keep(&self, report: &Report) -> Result<(), StoreError> {
        reports::keep(self, report).await.map_err(store_error)
    }

    async fn report(&self, id: ReportId) -> Result<Option<Report>, StoreError> {
        reports::read(self, id).await.map_err(store_error)
    }

    async fn tidy(&self, begun_before_ms: u64, kept: u32) -> Result<(), StoreError> {
        reports::tidy(self, begun_before_ms, kept).await.map_err(store_error)
    }
}

fn claims(rows: &[PgRow], limit: u32) -> Result<ClaimsPage, sqlx::Error> {
    let mut page = ClaimsPage::default();
    for row in rows {
        let own: Option<uuid::Uuid> = row.try_get("own")?;
        let other: Option<uuid::Uuid> = row.try_get("other")?;
        page.pairs.extend(own.zip(other).map(|(own, other)| (OrderId(own), OrderId(other))));
    }
    let is_full = u32::try_from(rows.len()).is_ok_and(|count| count == limit);
    if let Some(last) = rows.last().filter(|_| is_full) {
        page.next = Some((last.try_get("a")?, last.try_get("b")?, last.try_get("c")?));
    }
    Ok(page)
}
