//! The safe repairs: copies are replaced by what their origin holds. An own truth is never touched.

use sqlx::PgConnection;

use super::{PgStore, within};
use crate::domain::catalogue::{Node, Product};
use crate::domain::order::{Event, OrderRecord};
use crate::store::commit::{upsert_nodes, upsert_products};
use crate::store::encode::{EventColumns, OrderColumns};

/// A copy of the same home that is not newer. Its stamps and columns come along, whatever they were.
pub(super) const REPLACE_COPY: &str = "
INSERT INTO orders (order_id, home_region, customer_id, channel, channel_order_ref, status, payment_status,
                    fulfillment_status, version, currency, total_minor, created_hlc, updated_hlc, chain_hash,
                    document)
SELECT a, b, c, d, e, f, g, h, i, j, k, l, m, n, o
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::bigint[], $10::text[], $11::bigint[], $12::text[], $13::text[], $14::text[], $15::text[])
     AS u(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)
WHERE b <> (SELECT region FROM region_identity)
ON CONFLICT (order_id) DO UPDATE
SET customer_id = excluded.customer_id, channel = excluded.channel, channel_order_ref = excluded.channel_order_ref,
    status = excluded.status, payment_status = excluded.payment_status,
    fulfillment_status = excluded.fulfillment_status, version = excluded.version, currency = excluded.currency,
    total_minor = excluded.total_minor, created_hlc = excluded.created_hlc, updated_hlc = excluded.updated_hlc,
    chain_hash = excluded.chain_hash, document = excluded.document
WHERE orders.version <= excluded.version AND orders.home_region = excluded.home_region";

/// Events that are there stay as they are: what has happened is only added to.
pub(super) const ADD_EVENTS: &str = "
INSERT INTO order_events (order_id, first_seq, last_seq, events)
SELECT a, b, c, d FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[]) AS u(a, b, c, d)
ON CONFLICT DO NOTHING";

pub(super) async fn replace_copy(
    store: &PgStore,
    record: &OrderRecord,
    commits: &[Vec<Event>],
) -> Result<bool, sqlx::Error> {
    let mut order = OrderColumns::default();
    order.push(record, 0);
    let mut events = EventColumns::default();
    for commit in commits {
        let json = serde_json::to_string(commit).expect("our own type always serializes");
        events.push(record.order.id, commit, json);
    }
    let mut lease = store.lease().await?;
    let write = async {
        sqlx::query("BEGIN").execute(&mut *lease).await?;
        let replaced = order.insert(REPLACE_COPY, &mut lease).await? == 1;
        if replaced {
            events.insert_with(ADD_EVENTS, &mut lease).await?;
        }
        sqlx::query("COMMIT").execute(&mut *lease).await?;
        Ok(replaced)
    };
    let replaced = within(store.deadline, write).await?;
    lease.keep();
    Ok(replaced)
}

pub(super) async fn take_product(store: &PgStore, product: &Product) -> Result<(), sqlx::Error> {
    let mut lease = store.lease().await?;
    let connection: &mut PgConnection = &mut lease;
    within(store.deadline, upsert_products(connection, std::iter::once(product))).await?;
    lease.keep();
    Ok(())
}

pub(super) async fn take_node(store: &PgStore, node: &Node) -> Result<(), sqlx::Error> {
    let mut lease = store.lease().await?;
    let connection: &mut PgConnection = &mut lease;
    within(store.deadline, upsert_nodes(connection, std::iter::once(node))).await?;
    lease.keep();
    Ok(())
}
