//! One moment of the database, read page by page.
//!
//! Orders, events, sagas and rights change in one transaction, so in one snapshot they must agree to the unit,
//! however busy the region is. The price: while it is open, old versions of rows are kept.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{Lease, PgStore, stored, stored_order, within};
use crate::domain::order::Event;
use crate::ports::{Part, ScannedOrder, Snapshot, StoreError};
use crate::reconcile::RightsLine;
use crate::store::encode::{parsed, store_error};
use crate::types::{Actor, Epoch, OrderId, RegionId, StockKey};

pub(super) const ORDERS: &str = stored!(
    "WHERE o.order_id > $1 AND ($2::text IS NULL OR o.home_region = $2 OR get_byte(uuid_send(o.order_id), 15) = ",
    "(SELECT number FROM region_identity)) ORDER BY o.order_id LIMIT $3"
);

pub(super) const EVENTS: &str = "
SELECT order_id, events FROM order_events WHERE order_id = ANY($1::uuid[]) ORDER BY order_id, first_seq";

pub(super) const RIGHTS: &str = "
SELECT sku, node, owner, epoch, received, spent - released AS net_spent, withdrawn, granted_total,
       (SELECT coalesce(sum(g.value::bigint), 0)::bigint FROM jsonb_each_text(granted) AS g) AS granted_sum, ceiling
FROM rights WHERE (sku, node, owner, epoch) > ($1, $2, $3, $4) ORDER BY sku, node, owner, epoch LIMIT $5";

/// A connection inside a read-only transaction. Dropped, it is closed, and the transaction with it.
pub(super) struct PgSnapshot {
    lease: Lease,
    region: RegionId,
    deadline: std::time::Duration,
}

pub(super) async fn begin(store: &PgStore) -> Result<PgSnapshot, sqlx::Error> {
    let mut lease = store.lease().await?;
    let begin = sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *lease);
    within(store.deadline, begin).await?;
    Ok(PgSnapshot { lease, region: store.region, deadline: store.deadline })
}

impl PgSnapshot {
    async fn read_events(
        &mut self,
        ids: Vec<Uuid>,
    ) -> Result<BTreeMap<Uuid, Result<Vec<Event>, String>>, sqlx::Error> {
        let query = sqlx::query(EVENTS).bind(ids).fetch_all(&mut *self.lease);
        let mut by_order: BTreeMap<Uuid, Result<Vec<Event>, String>> = BTreeMap::new();
        for row in within(self.deadline, query).await? {
            let read = serde_json::from_str::<Vec<Event>>(row.try_get("events")?);
            let log = by_order.entry(row.try_get("order_id")?).or_insert_with(|| Ok(Vec::new()));
            match (log.as_mut(), read) {
                (Ok(log), Ok(events)) => log.extend(events),
                (Ok(_), Err(error)) => *log = Err(error.to_string()),
                (Err(_), _) => {}
            }
        }
        Ok(by_order)
    }
}

#[async_trait]
impl Snapshot for PgSnapshot {
    async fn orders(
        &mut self,
        after: Option<OrderId>,
        part: Part,
        limit: u32,
    ) -> Result<Vec<ScannedOrder>, StoreError> {
        let own = (part == Part::Own).then(|| self.region.to_string());
        let query = sqlx::query(ORDERS)
            .bind(after.map_or(Uuid::nil(), |id| id.0))
            .bind(own)
            .bind(i64::from(limit))
            .fetch_all(&mut *self.lease);
        let rows = within(self.deadline, query).await.map_err(store_error)?;
        let orders = rows.iter().map(stored_order).collect::<Result<Vec<_>, _>>();
        let orders = orders.map_err(store_error)?;
        let mut logs = BTreeMap::new();
        if part == Part::WithCopiesAndEvents {
            let ids = orders.iter().map(|order| order.id.0).collect();
            logs = self.read_events(ids).await.map_err(store_error)?;
        }
        let scanned = orders.into_iter().map(|stored| {
            let events = logs.remove(&stored.id.0).unwrap_or(Ok(Vec::new()));
            ScannedOrder { stored, events }
        });
        Ok(scanned.collect())
    }

    async fn rights(
        &mut self,
        after: Option<&(StockKey, Actor)>,
        limit: u32,
    ) -> Result<Vec<RightsLine>, StoreError> {
        let query = sqlx::query(RIGHTS)
            .bind(after.map_or("", |(key, _)| key.sku.as_str()))
            .bind(after.map_or("", |(key, _)| key.node.as_str()))
            .bind(after.map_or("", |(_, owner)| owner.region.as_str()))
            .bind(after.map_or(0, |(_, owner)| i32::try_from(owner.epoch.0).unwrap_or(i32::MAX)))
            .bind(i64::from(limit))
            .fetch_all(&mut *self.lease);
        let rows = within(self.deadline, query).await.map_err(store_error)?;
        rows.iter().map(rights_line).collect::<Result<_, _>>().map_err(store_error)
    }
}

fn rights_line(row: &PgRow) -> Result<RightsLine, sqlx::Error> {
    let epoch: i32 = row.try_get("epoch")?;
    let epoch = Epoch(u32::try_from(epoch).map_err(|error| sqlx::Error::Decode(Box::new(error)))?);
    Ok(RightsLine {
        key: StockKey { sku: parsed(row, "sku")?, node: parsed(row, "node")? },
        owner: Actor { region: parsed(row, "owner")?, epoch },
        received: row.try_get("received")?,
        net_spent: row.try_get("net_spent")?,
        withdrawn: row.try_get("withdrawn")?,
        granted_total: row.try_get("granted_total")?,
        granted_sum: row.try_get("granted_sum")?,
        ceiling: row.try_get("ceiling")?,
    })
}
