-- A region whose database was set back begins a new incarnation. Every other region notes that before it begins, and
-- applies nothing older from then on; its own database as well, when it has begun.
CREATE TABLE incarnations (
    region  text    PRIMARY KEY,
    epoch   integer NOT NULL CHECK (epoch >= 1)
);

ALTER TABLE region_identity
    -- How often this acceptor has voted: whoever is told a higher number than the database holds knows that it forgot.
    ADD COLUMN votes      bigint NOT NULL DEFAULT 0,
    -- The highest stamp of what a new incarnation learned of itself: its own begin above it.
    ADD COLUMN hlc_floor  text;

-- Histories of orders that were given up for another one that the other regions know: a person looks at both.
CREATE TABLE parted (
    order_id     uuid   NOT NULL,
    chain_hash   text   NOT NULL,
    events       text   NOT NULL,
    parted_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, chain_hash)
);

-- What the server may do of this and no more: it deletes neither events nor envelopes otherwise.
CREATE FUNCTION set_histories_aside(ids uuid[]) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = public AS $$
    INSERT INTO parted (order_id, chain_hash, events)
    SELECT o.order_id, o.chain_hash,
           (SELECT '[' || string_agg(e.events, ',' ORDER BY e.first_seq) || ']' FROM order_events e
            WHERE e.order_id = o.order_id)
    FROM orders o WHERE o.order_id = ANY(ids)
    ON CONFLICT DO NOTHING;
    DELETE FROM order_events WHERE order_id = ANY(ids);
    DELETE FROM orders WHERE order_id = ANY(ids);
$$;
CREATE FUNCTION drop_sagas(ids uuid[]) RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = public AS $$
    DELETE FROM sagas WHERE saga_id = ANY(ids);
$$;
CREATE FUNCTION forget_telling() RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = public AS $$
    DELETE FROM outbox WHERE epoch > (SELECT epoch FROM outbox_head);
$$;
REVOKE ALL ON FUNCTION set_histories_aside(uuid[]), drop_sagas(uuid[]), forget_telling() FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrepot_app') THEN
        GRANT SELECT, INSERT, UPDATE ON incarnations TO entrepot_app;
        GRANT SELECT ON parted TO entrepot_app;
        GRANT EXECUTE ON FUNCTION set_histories_aside(uuid[]), drop_sagas(uuid[]), forget_telling() TO entrepot_app;
    END IF;
END
$$;
