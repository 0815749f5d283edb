-- Rights that an operator keeps in this region: of a SKU so many units are never given to another one.
CREATE TABLE pins (
    sku    text   PRIMARY KEY,
    units  bigint NOT NULL CHECK (units > 0)
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrepot_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON pins TO entrepot_app;
    END IF;
END
$$;
