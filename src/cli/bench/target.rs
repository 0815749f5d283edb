//! Which servers are measured, and as whom.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::config::Config;
use crate::http::auth::Role;
use crate::http::auth::issuer::{self, Mint};
use crate::ports::Clock as _;
use crate::runtime::SystemClock;

use super::PlaceArgs;

/// How long our token is good: longer than the longest run with its preparation.
const TOKEN_TTL: Duration = Duration::from_hours(4);

/// One region's server, asked directly and not through the load balancer.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) region: String,
    pub(super) authority: String,
    pub(super) token: String,
}

/// The servers to send to.
pub(super) fn find(args: &PlaceArgs) -> anyhow::Result<Vec<Target>> {
    if let (Some(url), Some(token), Some(region)) = (&args.target, &args.token, &args.region) {
        let (region, token) = (region.clone(), token.clone());
        return Ok(vec![Target { region, authority: authority(url)?, token }]);
    }
    let file = args.data_dir.join("region-config.toml");
    anyhow::ensure!(
        file.exists(),
        "no local deployment in {}: start one with `entrepot up`, name its --data-dir, or give --target",
        args.data_dir.display()
    );
    let config = Config::load(&file)?;
    let token = match &args.token {
        Some(token) => token.clone(),
        None => own_token(&args.data_dir)?,
    };
    let servers = config.sellers().filter_map(|region| {
        let server = region.server.as_ref()?;
        Some((region.name.as_str(), server.http_url.as_str()))
    });
    let mut targets = Vec::new();
    for (region, url) in servers {
        let wanted = match args.region.as_deref() {
            None => targets.is_empty(),
            Some(name) => name == "all" || name == region,
        };
        if wanted {
            let (region, token) = (region.to_owned(), token.clone());
            targets.push(Target { region, authority: authority(url)?, token });
        }
    }
    let known = || config.sellers().map(|region| region.name.as_str()).collect::<Vec<_>>();
    anyhow::ensure!(
        !targets.is_empty(),
        "--region {}: the deployment has {} (or `all`)",
        args.region.as_deref().unwrap_or_default(),
        known().join(", ")
    );
    Ok(targets)
}

/// The names of the regions, for people.
pub(super) fn names(targets: &[Target]) -> String {
    targets.iter().map(|target| target.region.as_str()).collect::<Vec<_>>().join(", ")
}

fn authority(url: &str) -> anyhow::Result<String> {
    let uri: hyper::Uri = url.parse().with_context(|| format!("{url} is no URL"))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
    let authority = authority.with_context(|| format!("{url}: must be http://HOST:PORT"))?;
    Ok(authority.to_string())
}

fn own_token(data_dir: &Path) -> anyhow::Result<String> {
    let mint =
        Mint { role: Role::Admin, subject: "bench".to_owned(), home_region: None, ttl: TOKEN_TTL };
    issuer::mint(&issuer::directory(data_dir), &mint, SystemClock::new().wall_ms() / 1000)
}
