//! `entrepot migrate`: brings one region's schema up to date.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::Config;
use crate::store;
use crate::types::RegionId;

/// Applies the migrations that one region's database lacks. Safe to run again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: entrepot migrate --config region-config/production-eu-west.toml --region eu-west"
)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which of its regions.
    #[arg(long, value_name = "NAME")]
    region: RegionId,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(&args.config)?.for_region(args.region)?;
    let version = store::migrate(&config.migration).await?;
    super::output::line(&format!("region {}: the schema is at version {version}", args.region));
    Ok(ExitCode::SUCCESS)
}
