-- An order may move to another home region. Its id goes on telling who placed it, under whose rights its units are held.

-- A region takes a channel's reference once. What has moved does not count: its cancellation comes from another region, and
-- perhaps later than the next order under its reference. The document is our own JSON, in which a quote inside of a text is
-- always escaped: nothing that people write looks like the name of a field.
ALTER TABLE orders ADD COLUMN moved boolean NOT NULL GENERATED ALWAYS AS (document LIKE '%"moved":{%') STORED;
DROP INDEX orders_by_channel_ref;
-- One index: the same finds an order by its reference.
CREATE UNIQUE INDEX orders_by_channel_ref ON orders
    (channel, channel_order_ref, home_region,
     (CASE WHEN moved THEN order_id ELSE '00000000-0000-0000-0000-000000000000'::uuid END))
    WHERE channel_order_ref IS NOT NULL AND stands;

-- Beside the rights under which the units are held.
CREATE OR REPLACE VIEW evidence.v_reservations AS
SELECT allocation ->> 'reservation_id' AS reservation_id,
       o.order_id::text,
       line ->> 'id' AS line_id,
       line ->> 'sku' AS sku,
       allocation ->> 'node' AS node,
       (allocation ->> 'quantity')::bigint AS quantity,
       (SELECT region FROM public.region_identity) AS region,
       allocation ->> 'state' AS state,
       NULL::timestamptz AS expires_at
FROM public.orders o,
     json_array_elements(o.document::json -> 'lines') AS line,
     json_array_elements(line -> 'allocations') AS allocation
WHERE get_byte(uuid_send(o.order_id), 15) = (SELECT number FROM public.region_identity);

-- An order that has moved, or that a region has forgotten, is told together with the intent that placed it. Ids rise with time,
-- so the index grows at its end.
CREATE INDEX idempotency_by_order ON idempotency (order_id) WHERE order_id IS NOT NULL;
