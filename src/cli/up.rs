//! `entrepot up`: a whole deployment on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output;
use crate::boot::local::{self, Options};
use crate::telemetry::{self, LogFormat};

/// The supervisor tells what people must know; the programs' logs have the rest.
const LOG_FILTER: &str = "warn";

/// Starts a whole deployment on this machine and keeps it running.
///
/// For each region its own PostgreSQL, NATS server and `entrepot serve`; the links between regions, the
/// payment simulator and the load balancer. Whatever dies is started again. Ctrl-C stops everything in
/// order; a second `up` on the same data goes on where the first stopped.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  entrepot up --data-dir /tmp/shop --base-port 9000 --detach")]
pub(super) struct Args {
    /// The regions [default: region-config/local.toml here, else a built-in copy of it].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is kept.
    #[arg(long, env = "ENTREPOT_DATA_DIR", default_value = ".entrepot", value_name = "DIR")]
    data_dir: PathBuf,
    /// The load balancer's port; all others are at fixed distances above it.
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    base_port: u16,
    /// Runs in the background, and returns when everything is ready.
    #[arg(long)]
    detach: bool,
    /// How slow the links between regions are.
    #[arg(long, value_enum, default_value_t = LatencyProfile::None)]
    latency_profile: LatencyProfile,
    /// The clocks of regions can be set (`entrepot chaos run clock-ahead`); needs libfaketime.
    #[arg(long)]
    fake_clocks: bool,
}

/// How slow the links between regions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LatencyProfile {
    /// As fast as this machine.
    None,
    /// As measured between the regions of a cloud (`[[link_latencies]]` of the configuration).
    Wan,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let options = Options {
        config: args.config,
        data_dir: args.data_dir,
        base_port: args.base_port,
        wan: args.latency_profile == LatencyProfile::Wan,
        fake_clocks: args.fake_clocks,
        first_start: |data_dir| Box::pin(super::seed::sample(data_dir)),
    };
    if args.detach {
        local::detach(&options, output::line).await?;
    } else {
        telemetry::start(LogFormat::Human, Some(LOG_FILTER))?;
        local::run(&options, output::line).await?;
    }
    Ok(ExitCode::SUCCESS)
}
