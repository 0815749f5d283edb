-- What one process of a region is told, and all of them must know.

-- Whether new orders are taken stands in the row that every commit writes: once the region is drained, no process of it
-- commits a new order, whatever it knows.
ALTER TABLE outbox_head ADD COLUMN draining boolean NOT NULL DEFAULT false;
UPDATE outbox_head SET draining = (SELECT draining FROM region_identity);
ALTER TABLE region_identity DROP COLUMN draining;

-- A person's word that no process of a region will ever act again; it ends with the fence that the ballot names.
CREATE TABLE gone (
    region         text    PRIMARY KEY,
    ballot_round   integer NOT NULL,
    ballot_region  text    NOT NULL
);

-- The last evacuation of this region that was begun: how far it is, told by the process that carries it out.
CREATE TABLE evacuation (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    run         uuid    NOT NULL,
    -- It can be aborted, or it is over.
    may_abort   boolean NOT NULL,
    is_over     boolean NOT NULL,
    -- Its end was asked for.
    abort       boolean NOT NULL DEFAULT false,
    told_at_ms  bigint  NOT NULL,
    document    text    NOT NULL
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrepot_app') THEN
        GRANT SELECT, INSERT, UPDATE ON gone, evacuation TO entrepot_app;
    END IF;
END
$$;
