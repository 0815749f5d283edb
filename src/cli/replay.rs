//! `entrepot replay`: a real order history through the load balancer.
//!
//! Four steps, each its own module and the first three without any network: `parse` reads the file,
//! `plan` decides what becomes an order, `drive` places the orders, `report` accounts for
//! everything. `docs/REPLAY.md` has the rules in words.

mod account;
mod cancellations;
mod countries;
mod date;
mod drive;
mod homes;
mod number;
mod parse;
mod plan;
mod read;
mod report;
mod rows;
mod stocking;

use std::path::PathBuf;
use std::process::ExitCode;

use self::drive::{Driver, Pace, drive};
use self::homes::Homes;
use super::seed::{load, progress_bar, told};
use super::target::{Target, TargetArgs};
use crate::ports::Clock;
use crate::runtime::SystemClock;

/// Replays a real order history through the load balancer.
///
/// Reads invoice lines (number, stock code, quantity, time, price, customer, country), creates the products, a node a region and enough stock, places the orders, and accounts for
/// every line of the file. A second replay of the same file places nothing twice. Exit code 2: an
/// order was refused, or the revenue differs from the file's.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    entrepot replay --file online_retail_2010-12_2011-12.csv.zst\n  \
    entrepot replay --file orders.csv --speed 3600 --json")]
pub(super) struct Args {
    /// The history: CSV, plain or packed with gzip or zstd
    #[arg(long, value_name = "ORDERS")]
    file: PathBuf,
    /// So many times faster than the shop was [default: as fast as the answers come]
    #[arg(long, value_name = "X", conflicts_with = "rate", value_parser = clap::value_parser!(u64).range(1..))]
    speed: Option<u64>,
    /// Invoices a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Invoices on their way at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let clock = SystemClock::new();
    let target = Target::find(&args.target, "replay")?;
    let homes = Homes {
        regions: target.regions.clone(),
        countries: target.countries.clone(),
        default_region: target.default_region,
    };
    let history = parse::parse(&read::text_of(&args.file)?)?;
    for example in &history.examples {
        super::output::note(&format!("skipped: {}: {example}", args.file.display()));
    }
    let plan = plan::plan(&history, &homes);
    anyhow::ensure!(plan.account.adds_up(), "a line of the file is not accounted for: a bug");

    let stocking = stocking::stocking(&history, &plan, &homes.regions);
    let progress = progress_bar(stocking.requests(), "stocking");
    let loaded = load::load(&target, &stocking, &progress).await?;
    progress.finish_and_clear();
    super::output::note(&told(&loaded));

    let progress = progress_bar(plan.jobs.len() as u64, "invoices");
    let driver = Driver {
        client: &target.client,
        tokens: homes.regions.iter().map(|&region| target.service(region)).collect(),
        clock: &clock,
        progress: &progress,
        clients: usize::from(args.clients),
        pace: match (args.rate, args.speed) {
            (Some(rate), _) => Pace::Rate(rate),
            (None, Some(speed)) => Pace::Speed(speed),
            (None, None) => Pace::Free,
        },
    };
    let started_ms = clock.monotonic_ms();
    let mut results = drive(&driver, &history, &plan).await;
    progress.finish_and_clear();
    let elapsed_ms = clock.monotonic_ms() - started_ms;
    for example in results.examples.iter().chain(&results.differing) {
        super::output::note(&format!("refused or different: {example}"));
    }
    let summary = report::summary(&history, &plan, &mut results, elapsed_ms);
    if summary.all_were_there() {
        super::output::note(
            "Nothing was placed: an earlier replay of this file has placed every order.",
        );
    }
    if args.json {
        super::output::line(&serde_json::to_string_pretty(&summary)?);
    } else {
        super::output::line(&format!("{summary}"));
    }
    Ok(if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}
