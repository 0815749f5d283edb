//! `entrepot serve`: one region's server, as production runs it.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::boot::server::Ended;
use crate::config::Config;
use crate::runtime::{environment, spawn_named};
use crate::telemetry::{self, LogFormat};
use crate::types::RegionId;

/// Runs one region's server until it is told to stop (Ctrl-C or SIGTERM), then drains.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: entrepot serve --config region-config/production-eu-west.toml --region eu-west"
)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Which of its regions this is.
    #[arg(long, value_name = "NAME")]
    region: RegionId,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "human")]
    log_format: LogFormat,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    telemetry::start(args.log_format, environment("RUST_LOG").as_deref())?;
    let config = Config::load(&args.config)?.for_region(args.region)?;
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let stopper = stop.clone();
    drop(spawn_named("signals", async move {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => drop(interrupted),
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping");
        stopper.cancel();
    }));
    match crate::boot::server::run(config, stop).await? {
        Ended::Stopped => Ok(ExitCode::SUCCESS),
        // No success: whoever watches over the process is to start it again.
        Ended::IncarnationOver => anyhow::bail!(
            "a new incarnation of {} has begun: its server is to be started again",
            args.region
        ),
    }
}
