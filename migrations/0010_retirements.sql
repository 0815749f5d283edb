-- Regions that two people have declared gone for good: who asked, who confirmed, when, and what came of it. Kept in every
-- region. `ends` is the incarnation that those before it gave way to; one attempt that was taken back may be followed by another.
CREATE TABLE retirements (
    region       text    NOT NULL,
    ends         integer NOT NULL CHECK (ends >= 1),
    asked_at_ms  bigint  NOT NULL,
    document     text    NOT NULL,
    PRIMARY KEY (region, ends, asked_at_ms)
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrepot_app') THEN
        GRANT SELECT, INSERT, UPDATE ON retirements TO entrepot_app;
    END IF;
END
$$;
