-- This database as an acceptor of the registers of ceilings: what it promised and stored in answer to proposals.
-- One promise for all keys of an owner; `fenced` when a survivor asked for it to end the owner's raises for good.
CREATE TABLE promises (
    owner          text    NOT NULL,
    epoch          integer NOT NULL,
    ballot_round   integer NOT NULL,
    ballot_region  text    NOT NULL,
    fenced         boolean NOT NULL DEFAULT false,
    PRIMARY KEY (owner, epoch)
);

CREATE TABLE slots (
    owner          text    NOT NULL,
    epoch          integer NOT NULL,
    sku            text    NOT NULL,
    node           text    NOT NULL,
    ballot_round   integer NOT NULL,
    ballot_region  text    NOT NULL,
    sequence       bigint  NOT NULL,
    ceiling        bigint  NOT NULL CHECK (ceiling >= 0),
    credits        jsonb   NOT NULL DEFAULT '{}',
    PRIMARY KEY (owner, epoch, sku, node)
) WITH (fillfactor = 50);
-- An owner that comes back must know whether anybody else proposed for it.
CREATE INDEX slots_of_others ON slots (owner, epoch) WHERE ballot_region <> owner;

-- Ceilings of before were chosen by their owners alone: they stand as stored by each owner's own acceptor.
INSERT INTO slots (owner, epoch, sku, node, ballot_round, ballot_region, sequence, ceiling, credits)
SELECT owner, epoch, sku, node, ballot_round, ballot_region, sequence, ceiling, credits
FROM rights WHERE sequence > 0;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrepot_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON promises, slots TO entrepot_app;
    END IF;
END
$$;
