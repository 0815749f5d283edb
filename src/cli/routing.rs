//! `entrepot routing`: who serves whose shoppers.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::output;
use crate::boot::follow::{self, Follower};
use crate::config::Config;
use crate::domain::routing::{Place, Places};
use crate::runtime::{environment, spawn_named};
use crate::telemetry::{self, LogFormat};
use crate::types::RegionId;

/// Shows who serves whose shoppers, or keeps a load balancer on it.
///
/// Beside each `HAProxy` runs one of these with --follow: it asks the regions, takes the newest of what they agreed on, and
/// tells `HAProxy` whom a lost region's shoppers go to, and how many a region serves that is back. `entrepot up` starts one.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  entrepot routing --json\n  entrepot routing --config region-config.toml --follow \
                  haproxy.sock --state routing.json"
)]
pub(super) struct Args {
    /// The deployment's folder.
    #[arg(long, env = "ENTREPOT_DATA_DIR", default_value = ".entrepot", value_name = "DIR")]
    data_dir: PathBuf,
    /// The configuration file [default: the data directory's]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What was followed last [default: the data directory's]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Keeps the `HAProxy` that takes commands at this socket on the newest routes.
    #[arg(long, value_name = "SOCKET")]
    follow: Option<PathBuf>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "human")]
    log_format: LogFormat,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let file = args.config.clone().unwrap_or_else(|| args.data_dir.join("region-config.toml"));
    let config = Config::load(&file).with_context(|| match args.config {
        Some(_) => format!("{} can't be used", file.display()),
        None => format!(
            "{} holds no deployment: name its folder with --data-dir, or the file with --config",
            args.data_dir.display()
        ),
    })?;
    let state = args.state.unwrap_or_else(|| args.data_dir.join("routing.json"));
    let Some(socket) = args.follow else {
        if let Err(error) = follow::read(&state) {
            output::note(&format!("{error:#}: what the regions say now is shown"));
        }
        let mut follower = Follower::new(&config, PathBuf::new(), state)?;
        let places = follower.look().await;
        let silent = follower.silent();
        if args.json {
            let told = serde_json::json!({ "regions": places, "silent": silent });
            output::line(&told.to_string());
        } else {
            output::line(&table(&places));
            for region in silent {
                output::note(&format!(
                    "{region} does not answer: what the others say of it is shown, and what was followed last"
                ));
            }
        }
        return Ok(ExitCode::SUCCESS);
    };
    telemetry::start(args.log_format, environment("RUST_LOG").as_deref())?;
    let follower = Follower::new(&config, socket, state)?;
    let stop = CancellationToken::new();
    let (mut terminate, stopper) = (signal(SignalKind::terminate())?, stop.clone());
    drop(spawn_named("signals", async move {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => drop(interrupted),
            _ = terminate.recv() => {}
        }
        stopper.cancel();
    }));
    follower.run(stop).await;
    Ok(ExitCode::SUCCESS)
}

fn table(places: &Places) -> String {
    let head = format!("{:<16} {:>6}  {:<10} {:>6}", "REGION", "SHARE", "THE REST", "ROUND");
    let line = |(region, place): (&RegionId, &Place)| {
        let rest = match (place.successor, place.share) {
            (Some(successor), _) => successor.to_string(),
            (None, 100) => "-".to_owned(),
            (None, _) => "nearest".to_owned(),
        };
        let (share, round) = (place.share, place.ballot.round);
        format!("{:<16} {share:>4} %  {rest:<10} {round:>6}", region.as_str())
    };
    let lines: Vec<String> = [head].into_iter().chain(places.0.iter().map(line)).collect();
    lines.join("\n")
}
