-- The tables of one region. Times are wall milliseconds since 1970 unless a view says otherwise;
-- money is in minor units; region, epoch and HLC stamps are text and numbers as in the envelope.

-- Which region this database belongs to: serve refuses to start on another's.
CREATE TABLE region_identity (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    region     text   NOT NULL,
    number     smallint NOT NULL CHECK (number BETWEEN 1 AND 255),
    epoch      integer NOT NULL CHECK (epoch >= 1),
    boots      bigint NOT NULL DEFAULT 0,
    -- An operator has drained the region: it takes no new orders, after a restart neither.
    draining   boolean NOT NULL DEFAULT false,
    -- The proof that this database forgot what it had written. Nothing in the program clears it: selling on
    -- could oversell (I-01), and the way out is another database, that remembers.
    set_back   text
);

-- Orders of this region and copies of the others' (home_region tells). The state of an order is one
-- document, written and read as a whole; the columns beside it are what lists and guards look at.
CREATE TABLE orders (
    order_id            uuid   PRIMARY KEY,
    home_region         text   NOT NULL,
    customer_id         text,
    channel             text   NOT NULL,
    channel_order_ref   text,
    status              text   NOT NULL,
    payment_status      text   NOT NULL,
    fulfillment_status  text   NOT NULL,
    version             bigint NOT NULL CHECK (version >= 1),
    currency            text   NOT NULL,
    total_minor         bigint NOT NULL CHECK (total_minor >= 0),
    created_hlc         text   NOT NULL,
    updated_hlc         text   NOT NULL,
    chain_hash          text   NOT NULL,
    document            text   NOT NULL,
    -- Changes once in the life of few orders, unlike the status: an index over it leaves the other updates
    -- heap-only.
    stands              boolean NOT NULL GENERATED ALWAYS AS (status <> 'cancelled') STORED
) WITH (fillfactor = 50);
-- An order is written again soon after it was placed, within half a page of room for it (HOT). Documents
-- are JSON of a kilobyte or more: lz4 is a quarter of pglz's CPU for nearly its size.
ALTER TABLE orders ALTER COLUMN document SET COMPRESSION lz4;
CREATE INDEX orders_by_customer ON orders (customer_id, order_id DESC) WHERE customer_id IS NOT NULL;
-- A reference of a channel has one standing order in each region; two regions' are settled (`contested`).
CREATE UNIQUE INDEX orders_by_channel_ref ON orders (channel, channel_order_ref, home_region)
    WHERE channel_order_ref IS NOT NULL AND stands;

-- One row per commit to an order: its events in a JSON array, each payload to the byte as it was hashed.
CREATE TABLE order_events (
    order_id   uuid   NOT NULL,
    first_seq  bigint NOT NULL CHECK (first_seq >= 1),
    last_seq   bigint NOT NULL CHECK (last_seq >= first_seq),
    events     text   NOT NULL,
    PRIMARY KEY (order_id, first_seq)
);
ALTER TABLE order_events ALTER COLUMN events SET COMPRESSION lz4;

-- Long transactions of this region's orders. The saga that places an order has the order's id.
CREATE TABLE sagas (
    saga_id        uuid   PRIMARY KEY,
    order_id       uuid   NOT NULL,
    state          text   NOT NULL CHECK (state IN ('running', 'compensating', 'completed', 'compensated')),
    step           text   NOT NULL,
    attempts       integer NOT NULL,
    created_at_ms  bigint NOT NULL,
    updated_at_ms  bigint NOT NULL,
    due_at_ms      bigint NOT NULL,
    version        bigint NOT NULL,
    document       text   NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX sagas_open ON sagas (due_at_ms) WHERE state IN ('running', 'compensating');

-- One client's intent, inserted in the transaction that carries it out (I-07). Records of other regions
-- come with their orders; one intent taken by two regions has a row of each until one order yields.
CREATE TABLE idempotency (
    principal    text   NOT NULL,
    key          text   NOT NULL,
    region       text   NOT NULL,
    body_hash    text   NOT NULL,
    order_id     uuid,
    answer       text,
    first_at_ms  bigint NOT NULL,
    PRIMARY KEY (principal, key, region)
);

-- Orders of ours whose intent or channel reference another region took as well, until one of the two has
-- yielded.
CREATE TABLE contested (
    order_id        uuid NOT NULL,
    other_order_id  uuid NOT NULL,
    settled         boolean NOT NULL DEFAULT false,
    PRIMARY KEY (order_id, other_order_id)
);
CREATE INDEX contested_open ON contested (order_id) WHERE NOT settled;

-- The escrow ledger: one row per key and owner; only the owner's region writes it, peers hold copies.
-- outflow = spent - released + withdrawn + granted_total; the guard of every sale is outflow <= active.
CREATE TABLE rights (
    sku            text   NOT NULL,
    node           text   NOT NULL,
    owner          text   NOT NULL,
    epoch          integer NOT NULL,
    version        bigint NOT NULL,
    received       bigint NOT NULL DEFAULT 0 CHECK (received >= 0),
    granted        jsonb  NOT NULL DEFAULT '{}',
    granted_total  bigint NOT NULL DEFAULT 0 CHECK (granted_total >= 0),
    spent          bigint NOT NULL DEFAULT 0 CHECK (spent >= 0),
    released       bigint NOT NULL DEFAULT 0 CHECK (released >= 0 AND released <= spent),
    withdrawn      bigint NOT NULL DEFAULT 0 CHECK (withdrawn >= 0),
    -- The ceiling this region has activated for its own rows; 0 and without meaning in copies.
    active         bigint NOT NULL DEFAULT 0 CHECK (active >= 0),
    PRIMARY KEY (sku, node, owner)
) WITH (fillfactor = 50);

-- Movements of rights, as the giver and as the receiver saw them. The giver's row makes a request
-- that is heard twice grant once.
CREATE TABLE transfers (
    transfer_id  uuid   PRIMARY KEY,
    sku          text   NOT NULL,
    node         text   NOT NULL,
    from_region  text   NOT NULL,
    to_region    text   NOT NULL,
    quantity     bigint NOT NULL CHECK (quantity >= 0),
    state        text   NOT NULL CHECK (state IN ('granted', 'credited')),
    at_ms        bigint NOT NULL
);

-- The catalogue and the nodes: replicated, the last writer wins by HLC.
CREATE TABLE products (
    sku       text PRIMARY KEY,
    hlc       text NOT NULL,
    document  text NOT NULL
);
CREATE TABLE nodes (
    node      text PRIMARY KEY,
    region    text NOT NULL,
    active    boolean NOT NULL,
    hlc       text NOT NULL,
    document  text NOT NULL
);

-- What this region has decided, in the order of its commits: one row per commit group, numbered without a gap.
CREATE TABLE outbox_head (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch     integer NOT NULL,
    seq       bigint  NOT NULL
);
CREATE TABLE outbox (
    epoch            integer NOT NULL,
    seq              bigint  NOT NULL CHECK (seq >= 1),
    hlc              text    NOT NULL,
    event_hash       text    NOT NULL,
    payload          bytea   NOT NULL,
    committed_at_ms  bigint  NOT NULL,
    PRIMARY KEY (epoch, seq)
);
ALTER TABLE outbox ALTER COLUMN payload SET COMPRESSION lz4;

-- What was applied of the others, in order, each once; and how far without a gap.
CREATE TABLE inbox (
    origin         text    NOT NULL,
    epoch          integer NOT NULL,
    seq            bigint  NOT NULL,
    event_hash     text    NOT NULL,
    applied_at_ms  bigint  NOT NULL,
    PRIMARY KEY (origin, epoch, seq)
);
CREATE TABLE watermarks (
    origin  text    PRIMARY KEY,
    epoch   integer NOT NULL,
    seq     bigint  NOT NULL,
    hlc     text    NOT NULL
);

-- Envelopes of a schema this version does not know: kept until one that does is deployed, never dropped.
CREATE TABLE parked (
    origin       text    NOT NULL,
    epoch        integer NOT NULL,
    seq          bigint  NOT NULL,
    reason       text    NOT NULL,
    payload      bytea   NOT NULL,
    parked_at_ms bigint  NOT NULL,
    PRIMARY KEY (origin, epoch, seq)
);
