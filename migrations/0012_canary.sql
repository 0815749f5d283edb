-- A region that comes back gets its shoppers again in steps: how many it has taken. NULL when they are all its own.
ALTER TABLE region_identity ADD COLUMN canary smallint CHECK (canary >= 0);
