//! Which deployment a command talks to, and with whose tokens.
//!
//! A local deployment is found by its data directory: `region-config.toml` in it names the regions,
//! their countries and the load balancer, and its issuer signs the tokens. Another deployment is given
//! by `--target`, `--token` and a `--config` file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use super::client::ApiClient;
use crate::config::Config;
use crate::http::auth::{Role, issuer};
use crate::ports::Clock;
use crate::runtime::SystemClock;
use crate::types::RegionId;

/// How long the tokens of one command are good: longer than any replay, not for ever.
const TOKEN_TTL: Duration = Duration::from_hours(24);

/// The file that `entrepot up` writes into the data directory.
const EFFECTIVE_CONFIG: &str = "region-config.toml";

/// The options of every command that talks to a deployment.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct TargetArgs {
    /// Data directory of the local deployment
    #[arg(long, env = "ENTREPOT_DATA_DIR", default_value = ".entrepot", value_name = "DIR")]
    data_dir: PathBuf,
    /// Address of another load balancer, http://host:port; needs --token and --config
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// Bearer token (roles service and admin) instead of the local issuer's
    #[arg(long, env = "ENTREPOT_TOKEN", hide_env_values = true, value_name = "JWT")]
    token: Option<String>,
    /// Region configuration: regions and their countries [default: the data directory's]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl TargetArgs {
    /// A local deployment.
    pub(super) fn local(data_dir: PathBuf) -> Self {
        Self { data_dir, target: None, token: None, config: None }
    }
}

/// A deployment, ready to be called.
#[derive(Debug)]
pub(super) struct Target {
    /// Of the load balancer.
    pub(super) client: ApiClient,
    /// Its address.
    pub(super) address: String,
    /// Those that sell, in order of their names.
    pub(super) regions: Vec<RegionId>,
    /// The one that only votes.
    witness: Option<RegionId>,
    /// ISO 3166 codes and who serves them.
    pub(super) countries: BTreeMap<String, RegionId>,
    /// Serves the other countries.
    pub(super) default_region: RegionId,
    /// Each region's own server, past the load balancer; where the configuration names none (a
    /// deployment elsewhere) the load balancer is all there is.
    pub(super) servers: BTreeMap<RegionId, String>,
    admin_tokens: BTreeMap<RegionId, String>,
    service_tokens: BTreeMap<RegionId, String>,
}

impl Target {
    /// Finds the deployment and makes the tokens. `subject` names who acts, for the audit trail.
    pub(super) fn find(args: &TargetArgs, subject: &str) -> anyhow::Result<Self> {
        let file = args.config.clone().unwrap_or_else(|| args.data_dir.join(EFFECTIVE_CONFIG));
        if args.config.is_none() && !file.exists() {
            bail!(
                "{} holds no local deployment: start one with `entrepot up`, name its directory with \
                 --data-dir, or give --target, --token and --config of another deployment",
                args.data_dir.display()
            );
        }
        let config = Config::load(&file)?;
        let address = match (&args.target, config.load_balancer) {
            (Some(target), _) => target.clone(),
            (None, Some(address)) => format!("http://{address}"),
            (None, None) => bail!("{} names no load balancer: give --target", file.display()),
        };
        let mut regions: Vec<RegionId> = config.sellers().map(|region| region.name).collect();
        regions.sort_unstable();
        let witness = config.regions.iter().find(|region| region.witness).map(|it| it.name);
        let all: Vec<RegionId> = regions.iter().copied().chain(witness).collect();
        let tokens = |role| tokens_of(args, role, subject, &all);
        let server = |region: &crate::config::Region| {
            Some((region.name, region.server.as_ref()?.http_url.clone()))
        };
        let servers = match args.target {
            Some(_) => BTreeMap::new(),
            None => config.regions.iter().filter_map(server).collect(),
        };
        let (admin_tokens, service_tokens) = (tokens(Role::Admin)?, tokens(Role::Service)?);
        Ok(Self {
            client: ApiClient::new(&address)?,
            address,
            regions,
            witness,
            countries: config.countries,
            default_region: config.default_region,
            servers,
            admin_tokens,
            service_tokens,
        })
    }

    /// Every region, the witness as well.
    pub(super) fn all(&self) -> impl Iterator<Item = RegionId> {
        self.regions.iter().copied().chain(self.witness)
    }

    /// A token of role `admin`, that the load balancer sends to a region.
    pub(super) fn admin(&self, region: RegionId) -> &str {
        &self.admin_tokens[&region]
    }

    /// A token of role `service`, that the load balancer sends to a region.
    pub(super) fn service(&self, region: RegionId) -> &str {
        &self.service_tokens[&region]
    }
}

fn tokens_of(
    args: &TargetArgs,
    role: Role,
    subject: &str,
    regions: &[RegionId],
) -> anyhow::Result<BTreeMap<RegionId, String>> {
    let now_s = SystemClock::new().wall_ms() / 1_000;
    let directory = issuer::directory(&args.data_dir);
    let token = |&region: &RegionId| {
        if let Some(token) = &args.token {
            return Ok((region, token.clone()));
        }
        let mint = issuer::Mint {
            role,
            subject: subject.to_owned(),
            home_region: Some(region),
            ttl: TOKEN_TTL,
        };
        let token = issuer::mint(&directory, &mint, now_s).context(
            "the local issuer can't sign a token; for a deployment elsewhere give --token",
        )?;
        Ok((region, token))
    };
    regions.iter().map(token).collect()
}

#[cfg(test)]
impl Target {
    /// A deployment at `address` whose tokens are the names of its regions.
    pub(super) fn for_tests(address: &str, regions: &[&str]) -> Self {
        let regions: Vec<RegionId> = regions.iter().map(|name| name.parse().unwrap()).collect();
        let tokens: BTreeMap<RegionId, String> =
            regions.iter().map(|region| (*region, region.to_string())).collect();
        Self {
            client: ApiClient::new(address).unwrap(),
            address: address.to_owned(),
            countries: BTreeMap::new(),
            default_region: regions[0],
            regions,
            witness: None,
            servers: BTreeMap::new(),
            admin_tokens: tokens.clone(),
            service_tokens: tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_deployment_is_told_with_what_to_do() {
        let args = TargetArgs {
            data_dir: PathBuf::from("/nonexistent/entrepot"),
            target: None,
            token: None,
            config: None,
        };
        let error = Target::find(&args, "seed").unwrap_err().to_string();
        assert!(error.contains("`entrepot up`") && error.contains("--target"), "{error}");
    }
}
