-- Rights belong to a region in one incarnation: what an earlier one wrote stays its own for ever, so that
-- nothing it sold can be counted as unsold. And each row carries what was chosen of its owner's register: a
-- ceiling that the owner never passes, and what others took over above it.
DROP INDEX rights_by_bucket;
DROP VIEW evidence.v_rights;

ALTER TABLE rights DROP CONSTRAINT rights_pkey;
ALTER TABLE rights ADD PRIMARY KEY (sku, node, owner, epoch);
ALTER TABLE rights RENAME COLUMN active TO ceiling;
ALTER TABLE rights
    ADD COLUMN ballot_round   integer NOT NULL DEFAULT 0,
    ADD COLUMN ballot_region  text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN sequence       bigint  NOT NULL DEFAULT 0,
    ADD COLUMN credits        jsonb   NOT NULL DEFAULT '{}',
    ADD COLUMN credited_total bigint  NOT NULL DEFAULT 0 CHECK (credited_total >= 0);
UPDATE rights SET ballot_region = owner, sequence = (ceiling > 0)::integer,
    granted = (SELECT coalesce(jsonb_object_agg(key || '.1', value), '{}') FROM jsonb_each(granted));

CREATE INDEX rights_by_bucket ON rights (rights_bucket(sku, node), owner, epoch, sku, node);

-- What somebody was granted or took over shows also where that somebody has written nothing yet.
CREATE VIEW evidence.v_rights AS
WITH flows AS (
    SELECT r.sku, r.node, split_part(g.key, '.', 1) AS region, split_part(g.key, '.', 2)::integer AS epoch,
           g.value::bigint AS granted, 0 AS credited
    FROM public.rights r, jsonb_each_text(r.granted) AS g
    UNION ALL
    SELECT r.sku, r.node, split_part(c.key, '.', 1), split_part(c.key, '.', 2)::integer, 0, c.value::bigint
    FROM public.rights r, jsonb_each_text(r.credits) AS c
), came AS (
    SELECT sku, node, region, epoch, sum(granted)::bigint AS granted, sum(credited)::bigint AS credited
    FROM flows GROUP BY sku, node, region, epoch
)
SELECT sku AS key,
       node,
       region,
       epoch,
       coalesce(r.version, 0) AS version,
       coalesce(r.received, 0) AS received,
       coalesce(came.granted, 0) AS granted_in,
       coalesce(r.granted_total, 0) AS granted_out,
       coalesce(came.credited, 0) AS credit_in,
       coalesce(r.credited_total, 0) AS credit_out,
       coalesce(r.spent, 0) AS spent,
       coalesce(r.released, 0) AS released,
       coalesce(r.withdrawn, 0) AS withdrawn,
       coalesce(r.ceiling, 0) AS active,
       coalesce(r.ceiling, 0) AS ceiling,
       coalesce(r.received - r.granted_total - r.spent + r.released - r.withdrawn - r.credited_total, 0)
           + coalesce(came.granted + came.credited, 0) AS rights
FROM (SELECT sku, node, owner AS region, epoch, version, received, granted_total, spent, released, withdrawn,
             ceiling, credited_total
      FROM public.rights) AS r
FULL JOIN came USING (sku, node, region, epoch);

CREATE OR REPLACE VIEW evidence.v_state_hash AS
SELECT 'orders/' || home_region AS range,
       to_hex(bit_xor(hashtextextended(order_id::text || ' ' || version || ' ' || chain_hash, 0))) AS hash,
       count(*) AS rows
FROM public.orders GROUP BY home_region
UNION ALL
SELECT 'rights/' || owner,
       to_hex(bit_xor(hashtextextended(concat_ws(' ', sku, node, epoch, version, received, granted, spent,
                                                 released, withdrawn, ballot_round, ballot_region, sequence,
                                                 ceiling, credits), 0))),
       count(*)
FROM public.rights WHERE version > 0 OR sequence > 0 GROUP BY owner
UNION ALL
SELECT 'products', to_hex(bit_xor(hashtextextended(sku || ' ' || hlc, 0))), count(*) FROM public.products
UNION ALL
SELECT 'nodes', to_hex(bit_xor(hashtextextended(node || ' ' || hlc, 0))), count(*) FROM public.nodes;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrepot_app') THEN
        GRANT SELECT ON evidence.v_rights TO entrepot_app;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrepot_auditor') THEN
        GRANT SELECT ON evidence.v_rights TO entrepot_auditor;
    END IF;
END
$$;
