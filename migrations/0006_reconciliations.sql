-- What reconciliation found, newest first; the program keeps a bounded number.
CREATE TABLE reconciliations (
    report_id      uuid   PRIMARY KEY,
    status         text   NOT NULL CHECK (status IN ('running', 'finished', 'failed')),
    asked_by       text   NOT NULL,
    started_at_ms  bigint NOT NULL,
    document       text   NOT NULL
);
CREATE INDEX reconciliations_by_age ON reconciliations (started_at_ms);

-- For auditors: who asked, and how much was found.
CREATE VIEW evidence.v_reconciliations AS
SELECT report_id::text, status, asked_by, to_timestamp(started_at_ms / 1000.0) AS started_at,
       difference ->> 'class' AS class, difference ->> 'region' AS region, difference ->> 'subject' AS subject
FROM public.reconciliations r LEFT JOIN json_array_elements(r.document::json -> 'differences') AS difference ON true;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrepot_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON reconciliations TO entrepot_app;
        GRANT SELECT ON evidence.v_reconciliations TO entrepot_app;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'entrepot_auditor') THEN
        GRANT SELECT ON evidence.v_reconciliations TO entrepot_auditor;
    END IF;
END
$$;
