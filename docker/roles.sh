#!/bin/sh
# Runs once, when a region's PostgreSQL makes its cluster: the roles that the migrations grant to.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    --set owner="$ENTREPOT_MIGRATION_PASSWORD" \
    --set app="$ENTREPOT_DATABASE_PASSWORD" \
    --set auditor="$ENTREPOT_AUDITOR_PASSWORD" <<'SQL'
CREATE ROLE entrepot_owner LOGIN PASSWORD :'owner';
CREATE ROLE entrepot_app LOGIN PASSWORD :'app';
CREATE ROLE entrepot_auditor LOGIN PASSWORD :'auditor';
GRANT entrepot_app, entrepot_auditor TO entrepot_owner;
ALTER ROLE entrepot_auditor SET default_transaction_read_only = on;
CREATE DATABASE entrepot OWNER entrepot_owner;
REVOKE ALL ON DATABASE entrepot FROM PUBLIC;
GRANT CONNECT ON DATABASE entrepot TO entrepot_app, entrepot_auditor;
SQL
