-- How far each other acceptor had voted when its votes were last counted: one that knows less of itself was set back.
CREATE TABLE voters (
    region text PRIMARY KEY,
    epoch integer NOT NULL,
    votes bigint NOT NULL
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrepot_app') THEN
        GRANT SELECT, INSERT, UPDATE ON voters TO entrepot_app;
    END IF;
END
$$;
