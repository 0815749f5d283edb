-- Pulling one bucket of rights must not read them all: under load every bucket differs between two
-- regions most of the time, and 64 scans of 10,000 rows a comparison cost a third of a processor.

-- The bucket of a key, as escrow::bucket_of computes it. Immutable because the encoding of a database
-- never changes; convert_to alone is only stable and could not be indexed.
CREATE FUNCTION rights_bucket(sku text, node text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT get_byte(sha256(convert_to(sku, 'UTF8') || '\x00'::bytea || convert_to(node, 'UTF8')), 0) % 64 $$;

-- None of its columns ever changes, so updates of rights stay heap-only. The bucket comes first: an index
-- that began with the owner would be taken for sales as well while the table is young, and read whole.
CREATE INDEX rights_by_bucket ON rights (rights_bucket(sku, node), owner, sku, node);
