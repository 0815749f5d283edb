-- Stable views for auditors, reconciliation and acceptance tests: the same in every region.
CREATE SCHEMA evidence;

CREATE VIEW evidence.v_orders AS
SELECT order_id::text, home_region, customer_id AS customer_ref, channel, channel_order_ref, status,
       payment_status, fulfillment_status, version, currency, total_minor, created_hlc
FROM public.orders;

CREATE VIEW evidence.v_order_lines AS
SELECT o.order_id::text,
       line ->> 'id' AS line_id,
       line ->> 'sku' AS sku,
       (line ->> 'quantity')::bigint AS quantity,
       (line ->> 'unit_minor')::bigint AS unit_minor,
       0::bigint AS quantity_shipped,
       coalesce((line ->> 'cancelled')::bigint, 0) AS quantity_cancelled,
       0::bigint AS quantity_returned,
       0::bigint AS quantity_backordered
FROM public.orders o, json_array_elements(o.document::json -> 'lines') AS line;

CREATE VIEW evidence.v_events AS
SELECT e.order_id::text,
       (event ->> 'seq')::bigint AS seq,
       event ->> 'type' AS type,
       event ->> 'from_status' AS from_status,
       event ->> 'to_status' AS to_status,
       event ->> 'region' AS region,
       (event ->> 'epoch')::integer AS epoch,
       event ->> 'hlc' AS hlc,
       event ->> 'payload_hash' AS payload_hash,
       event ->> 'chain_hash' AS chain_hash
FROM public.order_events e, json_array_elements(e.events::json) AS event;

-- Reservations of this region's own orders: a copy of an order is no second hold.
CREATE VIEW evidence.v_reservations AS
SELECT allocation ->> 'reservation_id' AS reservation_id,
       o.order_id::text,
       line ->> 'id' AS line_id,
       line ->> 'sku' AS sku,
       allocation ->> 'node' AS node,
       (allocation ->> 'quantity')::bigint AS quantity,
       o.home_region AS region,
       allocation ->> 'state' AS state,
       NULL::timestamptz AS expires_at
FROM public.orders o,
     json_array_elements(o.document::json -> 'lines') AS line,
     json_array_elements(line -> 'allocations') AS allocation
WHERE o.home_region = (SELECT region FROM public.region_identity);

CREATE VIEW evidence.v_rights AS
WITH credited AS (
    SELECT r.sku, r.node, g.key AS region, sum(g.value::bigint)::bigint AS units
    FROM public.rights r, jsonb_each_text(r.granted) AS g
    GROUP BY r.sku, r.node, g.key
)
SELECT r.sku AS key,
       r.node,
       r.owner AS region,
       r.epoch,
       r.version,
       r.received,
       coalesce(c.units, 0) AS granted_in,
       r.granted_total AS granted_out,
       0::bigint AS credit_in,
       0::bigint AS credit_out,
       r.spent,
       r.released,
       r.withdrawn,
       CASE WHEN r.owner = i.region THEN r.active ELSE r.received + coalesce(c.units, 0) END AS active,
       r.received + coalesce(c.units, 0) AS ceiling,
       r.received + coalesce(c.units, 0) - r.granted_total - r.spent + r.released - r.withdrawn AS rights
FROM public.rights r
CROSS JOIN public.region_identity i
LEFT JOIN credited c ON c.sku = r.sku AND c.node = r.node AND c.region = r.owner;

CREATE VIEW evidence.v_transfers AS
SELECT transfer_id::text, sku AS key, node, from_region, to_region, quantity, state
FROM public.transfers;

CREATE VIEW evidence.v_payments AS
SELECT payment ->> 'id' AS payment_id,
       o.order_id::text,
       payment ->> 'method' AS method,
       payment ->> 'gateway' AS gateway,
       'authorize'::text AS operation,
       payment ->> 'provider_key' AS provider_key,
       (payment ->> 'amount_minor')::bigint AS amount_minor,
       o.currency,
       CASE WHEN json_typeof(payment -> 'state') = 'string' THEN payment ->> 'state' ELSE 'declined' END AS state,
       payment ->> 'reference' AS provider_ref,
       o.home_region AS region,
       (SELECT epoch FROM public.region_identity) AS epoch
FROM public.orders o, json_array_elements(o.document::json -> 'payments') AS payment
WHERE o.home_region = (SELECT region FROM public.region_identity);

CREATE VIEW evidence.v_idempotency AS
SELECT i.principal, i.key, i.body_hash,
       CASE WHEN i.order_id IS NULL OR o.status <> 'pending' THEN 'completed' ELSE 'in_flight' END AS state,
       i.order_id::text, to_timestamp(i.first_at_ms / 1000.0) AS first_at
FROM public.idempotency i LEFT JOIN public.orders o USING (order_id);

CREATE VIEW evidence.v_sagas AS
SELECT saga_id::text, order_id::text, 'place_order'::text AS kind, step, state, attempts,
       to_timestamp(updated_at_ms / 1000.0) AS updated_at
FROM public.sagas;

CREATE VIEW evidence.v_outbox AS
SELECT i.region AS origin, o.epoch, o.seq, o.event_hash, to_timestamp(o.committed_at_ms / 1000.0) AS committed_at
FROM public.outbox o CROSS JOIN public.region_identity i;

CREATE VIEW evidence.v_inbox AS
SELECT origin, epoch, seq, event_hash, to_timestamp(applied_at_ms / 1000.0) AS applied_at
FROM public.inbox;

-- What every region must agree on, hashed by range (I-20): orders by home region, rights by owner, and
-- the catalogue. The rows' hashes combined by XOR do not depend on the rows' order.
CREATE VIEW evidence.v_state_hash AS
SELECT 'orders/' || home_region AS range,
       to_hex(bit_xor(hashtextextended(order_id::text || ' ' || version || ' ' || chain_hash, 0))) AS hash,
       count(*) AS rows
FROM public.orders GROUP BY home_region
UNION ALL
SELECT 'rights/' || owner,
       to_hex(bit_xor(hashtextextended(concat_ws(' ', sku, node, epoch, version, received, granted, spent,
                                                 released, withdrawn), 0))),
       count(*)
FROM public.rights WHERE version > 0 GROUP BY owner
UNION ALL
SELECT 'products', to_hex(bit_xor(hashtextextended(sku || ' ' || hlc, 0))), count(*) FROM public.products
UNION ALL
SELECT 'nodes', to_hex(bit_xor(hashtextextended(node || ' ' || hlc, 0))), count(*) FROM public.nodes;

-- Least privilege: the server may do what its statements do and no more, auditors read the evidence. What has
-- happened (events, intents, transfers, outbox, inbox) is only added to: no fault of the server rewrites it. The roles are made by
-- whoever runs the cluster; where they don't exist (a test's database), the owner is all there is.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrepot_app') THEN
        GRANT USAGE ON SCHEMA public, evidence TO entrepot_app;
        GRANT SELECT ON ALL TABLES IN SCHEMA public TO entrepot_app;
        GRANT INSERT ON region_identity, orders, order_events, sagas, idempotency, contested, rights, transfers,
                        products, nodes, outbox_head, outbox, inbox, watermarks, parked TO entrepot_app;
        GRANT UPDATE ON region_identity, orders, sagas, contested, rights, products, nodes, outbox_head,
                        watermarks TO entrepot_app;
        GRANT DELETE ON parked TO entrepot_app;
        GRANT SELECT ON ALL TABLES IN SCHEMA evidence TO entrepot_app;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrepot_auditor') THEN
        GRANT USAGE ON SCHEMA evidence TO entrepot_auditor;
        GRANT SELECT ON ALL TABLES IN SCHEMA evidence TO entrepot_auditor;
    END IF;
END
$$;
