-- A region that was granted rights and has done nothing with them yet has no row that travels: what it
-- holds follows from the rows of those who granted, so that rights add up wherever one looks (I-04).
CREATE OR REPLACE VIEW evidence.v_rights AS
WITH credited AS (
    SELECT r.sku, r.node, g.key AS region, sum(g.value::bigint)::bigint AS units
    FROM public.rights r, jsonb_each_text(r.granted) AS g
    GROUP BY r.sku, r.node, g.key
)
SELECT sku AS key,
       node,
       region,
       coalesce(r.epoch, 1) AS epoch,
       coalesce(r.version, 0) AS version,
       coalesce(r.received, 0) AS received,
       coalesce(c.units, 0) AS granted_in,
       coalesce(r.granted_total, 0) AS granted_out,
       0::bigint AS credit_in,
       0::bigint AS credit_out,
       coalesce(r.spent, 0) AS spent,
       coalesce(r.released, 0) AS released,
       coalesce(r.withdrawn, 0) AS withdrawn,
       CASE WHEN region = i.own AND r.active IS NOT NULL THEN r.active
            ELSE coalesce(r.received, 0) + coalesce(c.units, 0) END AS active,
       coalesce(r.received, 0) + coalesce(c.units, 0) AS ceiling,
       coalesce(r.received - r.granted_total - r.spent + r.released - r.withdrawn, 0)
           + coalesce(c.units, 0) AS rights
FROM (SELECT sku, node, owner AS region, epoch, version, received, granted_total, spent, released,
             withdrawn, active
      FROM public.rights) AS r
FULL JOIN credited AS c USING (sku, node, region)
CROSS JOIN (SELECT region AS own FROM public.region_identity) AS i;
