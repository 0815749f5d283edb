-- Who keeps the region from taking new orders: each has a word of its own, so that whoever takes it back speaks for nobody else.
-- `draining` is the operator's, and outlives an evacuation that is aborted and an incarnation that is over.
ALTER TABLE outbox_head
    ADD COLUMN evacuating boolean NOT NULL DEFAULT false,
    ADD COLUMN set_back   boolean NOT NULL DEFAULT false;

-- An evacuation had drained the region in the operator's name. Where both may have said it, it counts as the evacuation's: the
-- region takes no orders either way, until an operator resumes it.
UPDATE outbox_head SET evacuating = true, draining = false
WHERE draining AND EXISTS (SELECT FROM evacuation WHERE document::json->>'stage' <> 'aborted');

-- What was over counted as one that can be aborted. The next one may go on with it: what has moved has still moved.
UPDATE evacuation SET may_abort = (document::json->>'orders')::bigint = 0 WHERE is_over;

-- What the operator of a region that was set back had said is not known.
UPDATE outbox_head SET set_back = true, draining = false WHERE EXISTS (SELECT FROM region_identity WHERE set_back IS NOT NULL);

ALTER TABLE outbox_head
    ADD COLUMN is_stopped boolean GENERATED ALWAYS AS (draining OR evacuating OR set_back) STORED;
