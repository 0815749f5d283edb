//! Typed configuration, checked as a whole before anything starts.
//!
//! One schema serves the local deployment and production. A file names every region of the
//! deployment (a region must know the number of each other to read where an order's home is) and
//! says how to *run* one or more of them: locally one file runs all three, in production each region
//! has its own file. The part that runs a region (addresses, database, peers) is all or nothing.
//!
//! [`Config::load`] reports every problem at once, as `file:line: message`. Secrets never stand in
//! the file: it names files, relative to its own folder, or the environment has them
//! (`ENTREPOT_DATABASE_PASSWORD`, `ENTREPOT_MIGRATION_PASSWORD`, `ENTREPOT_NATS_PASSWORD`,
//! `ENTREPOT_WEBHOOK_SECRET`).

mod check;
mod decode;
mod reader;
mod region;
mod secret;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::types::{RegionId, RegionNumber};

pub use reader::Problem;
pub use region::{DatabaseAddress, NatsAddress, NatsLogin, Peer, RegionConfig};
pub use secret::Secret;
pub use settings::{Escrow, Limits, Orders, Reconciliation, Replication, Routing};

/// Environment variable with the database password, where no file is named.
pub const DATABASE_PASSWORD_VARIABLE: &str = "ENTREPOT_DATABASE_PASSWORD";
/// Environment variable with the password of the role that migrates, where no file is named.
pub const MIGRATION_PASSWORD_VARIABLE: &str = "ENTREPOT_MIGRATION_PASSWORD";
/// Environment variable with the NATS password, where no file is named.
pub const NATS_PASSWORD_VARIABLE: &str = "ENTREPOT_NATS_PASSWORD";
/// Environment variable with the secret that signs payment webhooks, where no file is named.
pub const WEBHOOK_SECRET_VARIABLE: &str = "ENTREPOT_WEBHOOK_SECRET";

/// A whole configuration file.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// The deployment's name, for logs.
    pub deployment: String,
    /// Where a request goes that names neither a home region nor a country.
    pub default_region: RegionId,
    /// Who issues tokens; needed to run a region.
    pub auth: Option<Auth>,
    /// The payment provider; needed to run a region.
    pub payments: Option<Payments>,
    /// ISO 3166 country codes and the region that serves them.
    pub countries: BTreeMap<String, RegionId>,
    /// The load balancer that `entrepot up` starts.
    pub load_balancer: Option<SocketAddr>,
    /// Measured latencies for `entrepot up --latency-profile wan`.
    pub link_latencies: Vec<LinkLatency>,
    /// Programs to use instead of those found on the machine.
    pub programs: Programs,
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
    /// Every region of the deployment, in the order of the file (nearest first for a fail-over).
    pub regions: Vec<Region>,
}

/// `[auth]`: whose tokens count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The claim `iss`.
    pub issuer: String,
    /// The claim `aud`.
    pub audience: String,
    /// The issuer's public keys (JWKS).
    pub jwks_file: PathBuf,
}

/// `[payments]`: the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payments {
    /// Base address of its API.
    pub url: String,
    /// File with the secret that signs its webhooks.
    pub webhook_secret_file: Option<PathBuf>,
    /// For an answer; after it the outcome is unknown and the provider is asked by key. Providers
    /// answer 99.9 % within 3 s, and the shopper waits 2 s before she gets a 202.
    pub answer_timeout: Duration,
}

/// `[[link_latencies]]`: how far two regions are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkLatency {
    /// One region.
    pub between: RegionId,
    /// The other.
    pub and: RegionId,
    /// There and back.
    pub round_trip: Duration,
}

/// `[programs]`: paths of programs; what is left out is looked for on the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Programs {
    /// The folder with `postgres`, `initdb` and `psql`.
    pub postgres_bin: Option<PathBuf>,
    /// The executable `nats-server`.
    pub nats_server: Option<PathBuf>,
    /// The executable `haproxy`.
    pub haproxy: Option<PathBuf>,
}

/// `[[regions]]`: one region.
#[derive(Debug, Clone)]
pub struct Region {
    /// Its name.
    pub name: RegionId,
    /// Its number, in every order id.
    pub number: RegionNumber,
    /// It votes and keeps copies, and sells nothing: what two regions need to go on without each other.
    pub witness: bool,
    /// How to run it; `None` where another file says so.
    pub server: Option<Server>,
}

/// The part of a region that runs it.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where its HTTP server listens.
    pub http_listen: SocketAddr,
    /// How the load balancer reaches it.
    pub http_url: String,
    /// Its database, as the role that serves.
    pub database: DatabaseLocation,
    /// Its database, as the role that owns the schema; the same as `database` when not given.
    pub migration: DatabaseLocation,
    /// Connections to the database.
    pub database_connections: u32,
    /// Its own NATS server.
    pub nats: NatsLocation,
    /// Where it keeps, outside of its database, how far that is.
    pub marker_file: Option<PathBuf>,
    /// How it reaches each other region.
    pub peers: Vec<PeerLocation>,
}

/// A database and where its password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseLocation {
    /// `postgres://user@host:port/database`, without a password.
    pub url: String,
    /// File with the password.
    pub password_file: Option<PathBuf>,
}

/// A NATS server and where its credentials are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsLocation {
    /// `nats://host:port` or `tls://host:port`.
    pub url: String,
    /// User name, with a password from `password_file` or the environment.
    pub user: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// A NATS credentials file (JWT and seed), instead of user and password.
    pub credentials_file: Option<PathBuf>,
}

/// `[[regions.peers]]`: how a region reaches one other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerLocation {
    /// The other region.
    pub name: RegionId,
    /// Its HTTP server, for forwarded requests.
    pub http_url: String,
    /// Its NATS server.
    pub nats: NatsLocation,
}

/// A configuration that can't be used, with everything that is wrong with it.
#[derive(Debug, Clone)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong, in the order of the file; never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}: {}", self.file.display(), problem.line, problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks a file; the error has every problem of it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            file: path.to_owned(),
            problems: vec![Problem {
                line: 1,
                message: format!("cannot read this file: {error}; name one with --config FILE"),
            }],
        })?;
        Self::parse(&text, path)
    }

    /// Checks a text as if it stood in the file `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        decode::decode(text, path)
            .map_err(|problems| ConfigError { file: path.to_owned(), problems })
    }

    /// Regions that sell: all but the witness.
    pub fn sellers(&self) -> impl Iterator<Item = &Region> {
        self.regions.iter().filter(|region| !region.witness)
    }

    /// The region named `name`.
    pub fn region(&self, name: RegionId) -> Option<&Region> {
        self.regions.iter().find(|region| region.name == name)
    }
}
