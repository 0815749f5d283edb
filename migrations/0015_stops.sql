-- Who keeps the region from taking new orders: each has a word of its own, so that whoever takes it back speaks for nobody else.
-- `draining` is the operator's, and outlives an evacuation that is aborted and an incarnation that is over.
ALTER TABLE outbox_head
    ADD COLUMN evacuating boolean NOT NULL DEFAULT false,
    ADD COLUMN set_back   boolean NOT NULL DEFAULT false;

-- What the operator of a region that was set back had said is not known.
UPDATE outbox_head SET set_back = true, draining = false WHERE EXISTS (SELECT FROM region_identity WHERE set_back IS NOT NULL);

ALTER TABLE outbox_head
    ADD COLUMN is_stopped boolean GENERATED ALWAYS AS (draining OR evacuating OR set_back) STORED;
