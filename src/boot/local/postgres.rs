//! A region's PostgreSQL: its cluster, how it is run, and its roles.
//!
//! Three roles share the work. `entrepot_owner` owns the schema and is used by migrations only;
//! `entrepot_app` serves and gets what the migrations grant it; `entrepot_auditor` reads the schema
//! `evidence` and nothing else. The superuser exists for this module.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, User};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use super::process::{RunAs, Spec};
use super::programs::PostgresBin;
use crate::config::Secret;

/// The database of a region.
pub(crate) const DATABASE: &str = "entrepot";
const SUPERUSER: &str = "postgres";
/// Fast shutdown writes a checkpoint: at most `max_wal_size` of changes.
const STOP_GRACE: Duration = Duration::from_secs(20);
/// One attempt to connect; the server is on this machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Settings of a local server. Durability is PostgreSQL's default and is repeated here so that no
/// file in a data directory can turn it off. Memory is small because three servers share a machine
/// with everything else: the hot rows of a region fit in 48 MB, the rest is in the kernel's cache.
const SETTINGS: &[&str] = &[
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=40",
    "superuser_reserved_connections=3",
    "shared_buffers=48MB",
    "work_mem=4MB",
    "maintenance_work_mem=32MB",
    // Of each worker, which would take ten times as much for its first look at a table that grew by itself.
    "autovacuum_work_mem=4MB",
    "wal_buffers=4MB",
    "min_wal_size=128MB",
    "max_wal_size=1GB",
    "checkpoint_timeout=5min",
    "max_wal_senders=0",
    "max_worker_processes=2",
    "max_parallel_workers=0",
    "autovacuum_max_workers=2",
    "autovacuum_naptime=15s",
    "jit=off",
    "password_encryption=scram-sha-256",
    "idle_in_transaction_session_timeout=10s",
    "tcp_keepalives_idle=10",
    "timezone=UTC",
    "log_timezone=UTC",
    "log_destination=stderr",
    "logging_collector=off",
    "log_checkpoints=off",
    "log_min_duration_statement=1s",
    "log_line_prefix=%m [%p] %u ",
];

/// One region's cluster.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    pub(crate) name: String,
    pub(crate) bin: PostgresBin,
    pub(crate) setpriv: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) port: u16,
    pub(crate) log: PathBuf,
    pub(crate) superuser_password: Secret,
}

/// Passwords of the roles that log in.
#[derive(Debug, Clone)]
pub(crate) struct RolePasswords {
    pub(crate) owner: Secret,
    pub(crate) app: Secret,
    pub(crate) auditor: Secret,
}

impl Postgres {
    /// Makes the cluster if there is none yet.
    pub(crate) async fn prepare(&self) -> anyhow::Result<()> {
        if let Ok(version) = std::fs::read_to_string(self.data.join("PG_VERSION")) {
            anyhow::ensure!(
                version.trim() == self.bin.major.to_string(),
                "{} was made by PostgreSQL {}, and {} is PostgreSQL {}. Install version {0} again and \
                 name its folder as postgres_bin under [programs], or use another --data-dir",
                version.trim(),
                self.data.display(),
                self.bin.folder.display(),
                self.bin.major
            );
            return Ok(());
        }
        // Made beside and renamed: a half-made cluster is never mistaken for one.
        let partial = self.data.with_extension("partial");
        if partial.exists() {
            std::fs::remove_dir_all(&partial)
                .with_context(|| format!("cannot remove {}", partial.display()))?;
        }
        let run_as = self.run_as()?;
        std::fs::create_dir_all(&partial)
            .with_context(|| format!("cannot create {}", partial.display()))?;
        let password_file = partial.with_extension("password");
        super::secrets::write_private(&password_file, self.superuser_password.expose().as_bytes())?;
        std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(0o700))?;
        if let Some(user) = &run_as {
            let (uid, gid) = (Some(user.uid), Some(user.gid));
            std::os::unix::fs::chown(&partial, uid, gid)?;
            std::os::unix::fs::chown(&password_file, uid, gid)?;
        }
        let arguments = [
            "--pgdata".into(),
            partial.clone().into_os_string(),
            "--username".into(),
            SUPERUSER.into(),
            "--pwfile".into(),
            password_file.clone().into_os_string(),
            "--auth=scram-sha-256".into(),
            "--encoding=UTF8".into(),
            "--no-locale".into(),
            "--data-checksums".into(),
            "--no-instructions".into(),
        ];
        let made = self.spec_of("initdb", arguments.into(), run_as).run_once(&self.setpriv).await;
        std::fs::remove_file(&password_file)?;
        made.context("making a PostgreSQL cluster")?;
        std::fs::rename(&partial, &self.data)?;
        Ok(())
    }

    /// How to run the server.
    pub(crate) fn spec(&self) -> anyhow::Result<Spec> {
        let mut arguments: Vec<OsString> =
            vec!["-D".into(), self.data.clone().into_os_string(), "-p".into()];
        arguments.push(self.port.to_string().into());
        for setting in SETTINGS {
            arguments.extend(["-c".into(), setting.into()]);
        }
        Ok(self.spec_of("postgres", arguments, self.run_as()?))
    }

    fn spec_of(&self, program: &str, arguments: Vec<OsString>, run_as: Option<RunAs>) -> Spec {
        Spec {
            name: self.name.clone(),
            program: self.bin.program(program),
            arguments,
            environment: vec![("LC_ALL", "C".to_owned())],
            run_as,
            directory: PathBuf::from("/"),
            log: self.log.clone(),
            // Fast shutdown: clients are cut off, the checkpoint is written.
            stop_signal: Signal::SIGINT,
            stop_grace: STOP_GRACE,
        }
    }

    /// PostgreSQL refuses to run as root; then it runs as `postgres`, or `nobody` where there is none.
    fn run_as(&self) -> anyhow::Result<Option<RunAs>> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let user = match User::from_name("postgres")? {
            Some(user) => Some(user),
            None => User::from_name("nobody")?,
        };
        let user = user.context(
            "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`: create \
             one, or run this as another user than root",
        )?;
        let (uid, gid) = match std::fs::metadata(&self.data) {
            // An existing cluster keeps its owner.
            Ok(data) if data.uid() != 0 => (Uid::from_raw(data.uid()), Gid::from_raw(data.gid())),
            Ok(_) | Err(_) => (user.uid, user.gid),
        };
        let parent = self.data.parent().unwrap_or(Path::new("/"));
        let passes_closed_folders = parent.ancestors().any(|folder| {
            std::fs::metadata(folder).is_ok_and(|folder| folder.permissions().mode() & 0o001 == 0)
        });
        Ok(Some(RunAs { uid: uid.as_raw(), gid: gid.as_raw(), passes_closed_folders }))
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port)
            .username(SUPERUSER)
            .password(self.superuser_password.expose())
            .database(database)
            .ssl_mode(PgSslMode::Disable)
            // Statements here hold passwords, which must not reach the server's log.
            .options([
                ("log_statement", "none"),
                ("log_min_duration_statement", "-1"),
                ("log_min_error_statement", "panic"),
            ])
            .disable_statement_logging()
    }

    /// Whether the server takes connections.
    pub(crate) async fn is_ready(&self) -> bool {
        let connect = async {
            let connection = self.options("postgres").connect().await?;
            connection.close().await
        };
        matches!(tokio::time::timeout(CONNECT_LIMIT, connect).await, Ok(Ok(())))
    }

    /// Creates the database and the roles that are missing.
    pub(crate) async fn create_roles(&self, passwords: &RolePasswords) -> anyhow::Result<()> {
        let context = || format!("creating the roles of {}", self.name);
        let mut server = self.options("postgres").connect().await.with_context(context)?;
        let roles = [
            ("entrepot_owner", &passwords.owner),
            ("entrepot_app", &passwords.app),
            ("entrepot_auditor", &passwords.auditor),
        ];
        for (role, password) in roles {
            // Passwords are hexadecimal and roles are ours, so nothing here needs quoting.
            let create = format!(
                "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN \
                 CREATE ROLE {role} LOGIN PASSWORD '{}'; END IF; END $$",
                password.expose()
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(create))
                .execute(&mut server)
                .await
                .with_context(context)?;
        }
        for grant in [
            // The owner may act as the others, so that it can show what they may see.
            "GRANT entrepot_app, entrepot_auditor TO entrepot_owner",
            "ALTER ROLE entrepot_auditor SET default_transaction_read_only = on",
        ] {
            sqlx::raw_sql(grant).execute(&mut server).await.with_context(context)?;
        }
        let exists: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_database WHERE datname = 'entrepot')",
        )
        .fetch_one(&mut server)
        .await
        .with_context(context)?;
        if !exists {
            sqlx::raw_sql("CREATE DATABASE entrepot OWNER entrepot_owner")
                .execute(&mut server)
                .await
                .with_context(context)?;
            sqlx::raw_sql(
                "REVOKE ALL ON DATABASE entrepot FROM PUBLIC; \
                 GRANT CONNECT ON DATABASE entrepot TO entrepot_app, entrepot_auditor",
            )
            .execute(&mut server)
            .await
            .with_context(context)?;
        }
        server.close().await.with_context(context)
    }
}
