//! `entrepot bench`: what this machine and this deployment can do, measured from outside.
//!
//! The generator shares its cores with everything it measures, so it is built to cost little: one
//! thread, kept connections, requests prepared as bytes and patched in place.

mod connection;
mod cpu;
mod histogram;
mod load;
mod report;
mod request;
mod setup;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

/// How many connections at most: beyond, the generator itself would be the load.
const CLIENTS_MAX: u64 = 4096;

/// How many SKUs at most: their names have five digits.
const SKUS_MAX: u64 = 100_000;

/// How many lines of an order at most, as the API has it.
const LINES_MAX: u64 = 200;

/// Measures a running deployment.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Place(PlaceArgs),
}

/// Orders a second from HTTP to confirmed, and how long they take.
///
/// Makes its own SKUs with plenty of stock first. Without --rate each client sends its next order when
/// the last is answered; with it, orders are sent at that rate whatever the answers do, and latency
/// counts from when an order should have been sent. Orders whose answer is 202 are asked for until they
/// are confirmed. Exit code 2 if any order was not confirmed.
///
/// Example: entrepot bench place --seconds 30 --clients 256 --skus 10000
#[derive(Debug, Clone, clap::Args)]
struct PlaceArgs {
    /// How long to measure, after a short warm-up.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Connections, each with one order on its way; shared among the regions.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=CLIENTS_MAX))]
    clients: u64,
    /// Orders a second to send, over all clients; as fast as they are answered if left out.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
    /// How many SKUs the orders choose from, evenly.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=SKUS_MAX))]
    skus: u64,
    /// Lines of each order, of different SKUs.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=LINES_MAX))]
    lines: u64,
    /// The region to send to; `all` shares the clients among all. The first one if left out.
    #[arg(long)]
    region: Option<String>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// The local deployment.
    #[arg(long, env = "ENTREPOT_DATA_DIR", default_value = ".entrepot")]
    data_dir: PathBuf,
    /// A server to send to, instead of a local deployment's.
    #[arg(long, value_name = "URL", requires_all = ["token", "region"])]
    target: Option<String>,
    /// A bearer token of role admin, instead of one of the local issuer.
    #[arg(long, env = "ENTREPOT_TOKEN", hide_env_values = true, value_name = "JWT")]
    token: Option<String>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let What::Place(args) = args.what;
    anyhow::ensure!(
        args.lines <= args.skus,
        "--lines {} needs as many --skus: the lines of an order are of different SKUs",
        args.lines
    );
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(place(&args))
    })
    .await
    .context("the load generator panicked")?
}

async fn place(args: &PlaceArgs) -> anyhow::Result<ExitCode> {
    let targets = target::find(args)?;
    super::output::note(&format!("preparing {} SKUs in {}", args.skus, target::names(&targets)));
    setup::prepare(&targets, args).await?;
    super::output::note(&format!("measuring for {} s with {} clients", args.seconds, args.clients));
    let measured = load::run(&targets, args).await?;
    let report = report::Report::new(args, &targets, &measured);
    if args.json {
        super::output::line(&serde_json::to_string_pretty(&report)?);
    } else {
        super::output::line(report.to_string().trim_end());
    }
    Ok(if report.errors == 0 { ExitCode::SUCCESS } else { ExitCode::from(2) })
}
