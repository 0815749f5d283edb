//! What one region's server needs, in one plain struct with the secrets read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    Auth, Config, DATABASE_PASSWORD_VARIABLE, DatabaseLocation, Escrow, Limits,
    MIGRATION_PASSWORD_VARIABLE, NATS_PASSWORD_VARIABLE, NatsLocation, Orders, Reconciliation,
    Replication, Routing, Secret, WEBHOOK_SECRET_VARIABLE,
};
use crate::types::{RegionId, RegionNumber};

/// Everything `entrepot serve` and `entrepot migrate` need to know.
#[derive(Debug, Clone)]
pub struct RegionConfig {
    /// The deployment's name.
    pub deployment: String,
    /// This region.
    pub region: RegionId,
    /// This region's number.
    pub number: RegionNumber,
    /// Every region of the deployment with its number, this one included.
    pub regions: BTreeMap<RegionId, RegionNumber>,
    /// The one of them that only votes.
    pub witness: Option<RegionId>,
    /// Where requests without a home region or country go.
    pub default_region: RegionId,
    /// Country codes and the region that serves them.
    pub countries: BTreeMap<String, RegionId>,
    /// Where the HTTP server listens.
    pub http_listen: SocketAddr,
    /// How others reach it.
    pub http_url: String,
    /// The database, as the role that serves.
    pub database: DatabaseAddress,
    /// The database, as the role that owns the schema.
    pub migration: DatabaseAddress,
    /// Connections to the database.
    pub database_connections: u32,
    /// The region's own NATS server.
    pub nats: NatsAddress,
    /// Where the server keeps, outside of its database, how far that is; without one every other region has to confirm
    /// at each start that the database remembers everything.
    pub marker_file: Option<PathBuf>,
    /// Every other region, in the order of the file.
    pub peers: Vec<Peer>,
    /// Whose tokens count.
    pub auth: Auth,
    /// The payment provider's base address.
    pub payments_url: String,
    /// The secret that signs its webhooks.
    pub webhook_secret: Secret,
    /// For an answer of the provider.
    pub payments_answer_timeout: Duration,
    /// What clients may ask.
    pub limits: Limits,
    /// Group commit and sagas.
    pub orders: Orders,
    /// Between regions.
    pub replication: Replication,
    /// Moving rights.
    pub escrow: Escrow,
    /// How often a region compares everything.
    pub reconciliation: Reconciliation,
    /// The way back into traffic.
    pub routing: Routing,
}

/// A database and its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseAddress {
    /// `postgres://user@host:port/database`, without a password.
    pub url: String,
    /// The password; `None` where the server asks for none.
    pub password: Option<Secret>,
}

/// A NATS server and how to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsAddress {
    /// `nats://host:port` or `tls://host:port`.
    pub url: String,
    /// How to log in.
    pub login: NatsLogin,
}

/// How to log in to a NATS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatsLogin {
    /// The server asks for nothing.
    None,
    /// User and password.
    Password {
        /// The user.
        user: String,
        /// Its password.
        password: Secret,
    },
    /// A credentials file of NATS itself.
    Credentials(PathBuf),
}

/// Another region, as reached from this one: over the link, never past it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: RegionId,
    /// Its number.
    pub number: RegionNumber,
    /// Its HTTP server, for forwarded requests.
    pub http_url: String,
    /// Its NATS server.
    pub nats: NatsAddress,
}

impl Config {
    /// What the server of one region needs, with its secrets read.
    pub fn for_region(&self, name: RegionId) -> anyhow::Result<RegionConfig> {
        let file = self.file.display();
        let Some(region) = self.region(name) else {
            let known: Vec<_> = self.regions.iter().map(|region| region.name.as_str()).collect();
            anyhow::bail!("{file} has no region {name}; it has {}", known.join(", "));
        };
        let (Some(server), Some(auth), Some(payments)) =
            (&region.server, &self.auth, &self.payments)
        else {
            anyhow::bail!(
                "{file} doesn't say how to run {name} (no addresses). For a local deployment use \
                 `entrepot up`, which writes region-config.toml into its data directory"
            );
        };
        let peers = server
            .peers
            .iter()
            .map(|peer| {
                let number = self.region(peer.name).expect("peers were checked").number;
                let nats = nats_address(&peer.nats)?;
                Ok(Peer { name: peer.name, number, http_url: peer.http_url.clone(), nats })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let webhook_secret = match &payments.webhook_secret_file {
            Some(path) => read_secret(path)?,
            None => Secret::from_environment(WEBHOOK_SECRET_VARIABLE).ok_or_else(|| {
                anyhow::anyhow!(
                    "no secret for payment webhooks: set `webhook_secret_file` in [payments] of \
                     {file}, or the environment variable {WEBHOOK_SECRET_VARIABLE}"
                )
            })?,
        };
        Ok(RegionConfig {
            deployment: self.deployment.clone(),
            region: name,
            number: region.number,
            regions: self.regions.iter().map(|region| (region.name, region.number)).collect(),
            witness: self.regions.iter().find(|region| region.witness).map(|witness| witness.name),
            default_region: self.default_region,
            countries: self.countries.clone(),
            http_listen: server.http_listen,
            http_url: server.http_url.clone(),
            database: database_address(&server.database, DATABASE_PASSWORD_VARIABLE)?,
            migration: if server.migration == server.database {
                database_address(&server.database, DATABASE_PASSWORD_VARIABLE)?
            } else {
                database_address(&server.migration, MIGRATION_PASSWORD_VARIABLE)?
            },
            database_connections: server.database_connections,
            nats: nats_address(&server.nats)?,
            marker_file: server.marker_file.clone(),
            peers,
            auth: auth.clone(),
            payments_url: payments.url.clone(),
            webhook_secret,
            payments_answer_timeout: payments.answer_timeout,
            limits: self.limits.clone(),
            orders: self.orders.clone(),
            replication: self.replication.clone(),
            escrow: self.escrow.clone(),
            reconciliation: self.reconciliation.clone(),
            routing: self.routing.clone(),
        })
    }
}

fn read_secret(path: &Path) -> anyhow::Result<Secret> {
    Secret::from_file(path).map_err(anyhow::Error::msg)
}

fn database_address(
    location: &DatabaseLocation,
    variable: &str,
) -> anyhow::Result<DatabaseAddress> {
    let password = match &location.password_file {
        Some(path) => Some(read_secret(path)?),
        None => Secret::from_environment(variable),
    };
    Ok(DatabaseAddress { url: location.url.clone(), password })
}

fn nats_address(location: &NatsLocation) -> anyhow::Result<NatsAddress> {
    let login = match (&location.credentials_file, &location.user) {
        (Some(path), _) => NatsLogin::Credentials(path.clone()),
        (None, None) => NatsLogin::None,
        (None, Some(user)) => {
            let password = match &location.password_file {
                Some(path) => read_secret(path)?,
                None => Secret::from_environment(NATS_PASSWORD_VARIABLE).ok_or_else(|| {
                    anyhow::anyhow!(
                        "no password for the NATS user {user}: set `nats_password_file`, or the \
                         environment variable {NATS_PASSWORD_VARIABLE}"
                    )
                })?,
            };
            NatsLogin::Password { user: user.clone(), password }
        }
    };
    Ok(NatsAddress { url: location.url.clone(), login })
}
