//! What a group of decisions wants to see: a handful of statements for the whole group.

use std::sync::Arc;

use sqlx::Row;
use uuid::Uuid;

use crate::domain::idempotency::{IntentKey, IntentRecord};
use crate::domain::inventory::NodeStock;
use crate::ports::store::{Needs, Shelf, View};
use crate::types::{OrderId, StockKey};

use super::encode::{from_json, order_record, parsed, unsigned};
use super::{Lease, PgStore, within};

pub(super) const STATEMENTS: &[&str] =
    &[INTENTS, CHANNEL_REFS, ORDERS, PRODUCTS, STOCK, NODES, SHELVES, SAGAS];

pub(super) const INTENTS: &str = "
SELECT i.principal, i.key, i.region, i.body_hash, i.order_id, i.answer, i.first_at_ms
FROM idempotency i JOIN unnest($1::text[], $2::text[]) AS u(principal, key)
     ON i.principal = u.principal AND i.key = u.key
ORDER BY i.first_at_ms, i.region";

const CHANNEL_REFS: &str = "
SELECT o.order_id, o.channel, o.channel_order_ref
FROM orders o JOIN unnest($1::text[], $2::text[]) AS u(channel, channel_order_ref)
     ON o.channel = u.channel AND o.channel_order_ref = u.channel_order_ref AND o.stands";

pub(crate) const ORDERS: &str = "
SELECT order_id, version, chain_hash, created_hlc, updated_hlc, document
FROM orders WHERE order_id = ANY($1::uuid[])";

const PRODUCTS: &str = "
SELECT document FROM products WHERE sku = ANY($1::text[])";

/// Own nodes first: shipping from home is the default until the router weighs more.
const STOCK: &str = "
SELECT r.sku, r.node, r.ceiling - (r.spent - r.released + r.withdrawn + r.granted_total) AS spendable
FROM rights r JOIN nodes n ON n.node = r.node AND n.active
WHERE r.owner = $1 AND r.epoch = (SELECT epoch FROM region_identity) AND r.sku = ANY($2::text[])
ORDER BY (n.region = $1) DESC, r.node";

const NODES: &str = "
SELECT document FROM nodes WHERE node = ANY($1::text[])";

/// What lies there is what all incarnations received; only the present one's rights can be spent. One look-up by
/// primary key a shelf; see the sale in `commit`.
const SHELVES: &str = "
SELECT u.sku, u.node, r.on_hand, r.spendable
FROM unnest($2::text[], $3::text[]) AS u(sku, node) CROSS JOIN LATERAL (
    SELECT coalesce(sum(r.received - r.withdrawn), 0)::bigint AS on_hand,
           coalesce(sum(r.ceiling - (r.spent - r.released + r.withdrawn + r.granted_total))
                    FILTER (WHERE r.epoch = (SELECT epoch FROM region_identity)), 0)::bigint AS spendable
    FROM rights r WHERE r.sku = u.sku AND r.node = u.node AND r.owner = $1
    HAVING count(*) > 0
) AS r";

const SAGAS: &str = "
SELECT document FROM sagas WHERE saga_id = ANY($1::uuid[])";

impl PgStore {
    pub(super) async fn load_view(&self, needs: &Needs) -> Result<View, sqlx::Error> {
        let mut lease = self.lease().await?;
        let mut view = View::default();
        within(self.deadline, async {
            self.load_intents(&mut lease, needs, &mut view).await?;
            self.load_orders(&mut lease, needs, &mut view).await?;
            self.load_stock(&mut lease, needs, &mut view).await
        })
        .await?;
        lease.keep();
        Ok(view)
    }

    async fn load_intents(
        &self,
        lease: &mut Lease,
        needs: &Needs,
        view: &mut View,
    ) -> Result<(), sqlx::Error> {
        if !needs.intents.is_empty() {
            for record in intents(lease, needs.intents.iter()).await? {
                view.intents.entry(record.intent.clone()).or_default().push(record);
            }
        }
        if !needs.channel_refs.is_empty() {
            let rows = sqlx::query(CHANNEL_REFS)
                .bind(needs.channel_refs.iter().map(|(channel, _)| channel).collect::<Vec<_>>())
                .bind(needs.channel_refs.iter().map(|(_, own)| own).collect::<Vec<_>>())
                .fetch_all(&mut **lease)
                .await?;
            for row in rows {
                let key = (row.try_get("channel")?, row.try_get("channel_order_ref")?);
                let id = OrderId(row.try_get("order_id")?);
                view.channel_refs.entry(key).or_default().push(id);
            }
        }
        Ok(())
    }

    async fn load_orders(
        &self,
        lease: &mut Lease,
        needs: &Needs,
        view: &mut View,
    ) -> Result<(), sqlx::Error> {
        let of_intents = view.intents.values().flatten().filter_map(|record| record.order_id);
        let of_refs = view.channel_refs.values().flatten().copied();
        let wanted = needs.orders.iter().copied().chain(of_intents).chain(of_refs);
        let mut ids: Vec<Uuid> = wanted.map(|id| id.0).collect();
        ids.sort_unstable();
        ids.dedup();
        if !ids.is_empty() {
            for row in sqlx::query(ORDERS).bind(ids).fetch_all(&mut **lease).await? {
                let record = order_record(&row)?;
                view.orders.insert(record.order.id, Arc::new(record));
            }
        }
        if !needs.sagas.is_empty() {
            let ids: Vec<Uuid> = needs.sagas.iter().map(|id| id.0).collect();
            for row in sqlx::query(SAGAS).bind(ids).fetch_all(&mut **lease).await? {
                let saga: crate::saga::SagaRecord = from_json(row.try_get("document")?)?;
                view.sagas.insert(saga.id, saga);
            }
        }
        Ok(())
    }

    async fn load_stock(
        &self,
        lease: &mut Lease,
        needs: &Needs,
        view: &mut View,
    ) -> Result<(), sqlx::Error> {
        if !needs.skus.is_empty() {
            let skus: Vec<&str> = needs.skus.iter().map(crate::types::Sku::as_str).collect();
            for row in sqlx::query(PRODUCTS).bind(&skus).fetch_all(&mut **lease).await? {
                let product: crate::domain::catalogue::Product =
                    from_json(row.try_get("document")?)?;
                view.products.insert(product.sku.clone(), product);
            }
            let stock = sqlx::query(STOCK).bind(self.region.as_str()).bind(&skus);
            for row in stock.fetch_all(&mut **lease).await? {
                let node = parsed(&row, "node")?;
                let spendable = unsigned(&row, "spendable")?;
                view.stock.add(parsed(&row, "sku")?, NodeStock { node, spendable });
            }
        }
        if !needs.nodes.is_empty() {
            let ids: Vec<&str> = needs.nodes.iter().map(crate::types::NodeId::as_str).collect();
            for row in sqlx::query(NODES).bind(ids).fetch_all(&mut **lease).await? {
                let node: crate::domain::catalogue::Node = from_json(row.try_get("document")?)?;
                view.nodes.insert(node.id.clone(), node);
            }
        }
        if !needs.shelves.is_empty() {
            let shelves = sqlx::query(SHELVES)
                .bind(self.region.as_str())
                .bind(needs.shelves.iter().map(|key| key.sku.as_str()).collect::<Vec<_>>())
                .bind(needs.shelves.iter().map(|key| key.node.as_str()).collect::<Vec<_>>());
            for row in shelves.fetch_all(&mut **lease).await? {
                let key = StockKey { sku: parsed(&row, "sku")?, node: parsed(&row, "node")? };
                let (on_hand, spendable) =
                    (unsigned(&row, "on_hand")?, unsigned(&row, "spendable")?);
                view.shelves.insert(key, Shelf { on_hand, spendable });
            }
        }
        Ok(())
    }
}

/// What is known of some intents.
pub(super) async fn intents<'a>(
    lease: &mut Lease,
    wanted: impl Iterator<Item = &'a IntentKey> + Clone,
) -> Result<Vec<IntentRecord>, sqlx::Error> {
    let rows = sqlx::query(INTENTS)
        .bind(wanted.clone().map(|intent| intent.principal.as_str()).collect::<Vec<_>>())
        .bind(wanted.map(|intent| intent.key.as_str()).collect::<Vec<_>>())
        .fetch_all(&mut **lease)
        .await?;
    rows.iter().map(intent_record).collect()
}

/// The columns of an intent.
pub(super) fn intent_record(row: &sqlx::postgres::PgRow) -> Result<IntentRecord, sqlx::Error> {
    let answer: Option<&str> = row.try_get("answer")?;
    Ok(IntentRecord {
        intent: IntentKey { principal: row.try_get("principal")?, key: row.try_get("key")? },
        region: parsed(row, "region")?,
        body_hash: row.try_get("body_hash")?,
        order_id: row.try_get::<Option<Uuid>, _>("order_id")?.map(OrderId),
        answer: answer.map(from_json).transpose()?,
        first_at_ms: unsigned(row, "first_at_ms")?,
    })
}
