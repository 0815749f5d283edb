//! `entrepot chaos`: faults on a running deployment, one by one or as a scenario with load and checks.

mod books;
mod checks;
mod disk;
mod faults;
mod history;
mod judge;
mod library;
mod run;
mod samples;
mod scenario;
mod shoppers;
mod stock;
mod timeline;
mod tokens;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::output;
use crate::boot::local::{self, Action, Component, LinkChange, Request};
use crate::types::RegionId;

/// The longest latency one can ask for: beyond it, everything times out as if the link were cut.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Faults on a running deployment.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  entrepot chaos kill eu-west\n  entrepot chaos start eu-west\n  \
                  entrepot chaos link us-east eu-west --cut --one-way\n  \
                  entrepot chaos link us-east eu-west --heal\n  \
                  entrepot chaos run region-killed"
)]
pub(super) struct Args {
    #[command(subcommand)]
    fault: Fault,
    /// The deployment's folder.
    #[arg(
        long,
        env = "ENTREPOT_DATA_DIR",
        default_value = ".entrepot",
        value_name = "DIR",
        global = true
    )]
    data_dir: PathBuf,
    /// Prints one JSON object: the deployment's state afterwards, a run's verdict.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Fault {
    Run(run::RunArgs),
    /// Kills programs of a region (kill -9); they stay down until `start`.
    Kill(Target),
    /// Freezes programs of a region (SIGSTOP); they stay frozen until `start`.
    Stop(Target),
    /// Starts or thaws programs of a region.
    Start(Target),
    /// Slows, breaks or heals the link between two regions.
    Link(Link),
}

#[derive(Debug, clap::Args)]
struct Target {
    /// The region.
    region: RegionId,
    /// Which of its programs.
    #[arg(long, value_enum, default_value_t = Component::All)]
    component: Component,
}

/// Faults add up until they are healed.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true)
    .args(["cut", "latency", "jitter", "loss", "heal"]))]
struct Link {
    /// One end.
    from: RegionId,
    /// The other end.
    to: RegionId,
    /// Nothing passes: data are held, new connections stay silent.
    #[arg(long)]
    cut: bool,
    /// Everything arrives later, each way: `80ms`, `1.5s`.
    #[arg(long, value_name = "TIME", value_parser = parse_time_us)]
    latency: Option<u64>,
    /// The latency varies by up to this much more.
    #[arg(long, value_name = "TIME", value_parser = parse_time_us)]
    jitter: Option<u64>,
    /// This share of the data arrives only when it is sent again: `5%`.
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    loss: Option<u32>,
    /// Back to how the deployment was started.
    #[arg(long, conflicts_with_all = ["cut", "latency", "jitter", "loss"])]
    heal: bool,
    /// Only what travels from the first region to the second.
    #[arg(long)]
    one_way: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let component = |target: Target, action| Request::Component {
        region: target.region,
        component: target.component,
        action,
    };
    let request = match args.fault {
        Fault::Run(run) => return run::run(run, &args.data_dir, args.json).await,
        Fault::Kill(target) => component(target, Action::Kill),
        Fault::Stop(target) => component(target, Action::Stop),
        Fault::Start(target) => component(target, Action::Start),
        Fault::Link(link) => {
            anyhow::ensure!(link.from != link.to, "a link has two different ends");
            let change = LinkChange {
                heal: link.heal,
                cut: link.cut,
                latency_us: link.latency,
                jitter_us: link.jitter,
                loss_per_10_000: link.loss,
            };
            Request::Link { from: link.from, to: link.to, one_way: link.one_way, change }
        }
    };
    let report = local::request(&args.data_dir, &request).await?;
    if args.json {
        output::line(&serde_json::to_string_pretty(&report)?);
    } else {
        output::line(report.table().trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

/// A time with a unit, in microseconds.
fn parse_time_us(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is not a time up to 60 s: write it like 80ms, 500us or 1.5s");
    let (number, unit_us) =
        match text.find(|c: char| c.is_ascii_alphabetic()).map(|at| text.split_at(at)) {
            Some((number, "us")) => (number, 1),
            Some((number, "ms")) => (number, 1_000),
            Some((number, "s")) => (number, 1_000_000),
            Some(_) | None => return Err(bad()),
        };
    let time_us = scaled(number, unit_us).ok_or_else(bad)?;
    if time_us <= LATENCY_US_MAX { Ok(time_us) } else { Err(bad()) }
}

/// A percentage, in ten thousandths.
fn parse_share(text: &str) -> Result<u32, String> {
    let bad = || format!("`{text}` is not a share of 0% to 100%: write it like 5% or 0.5%");
    let share = text.strip_suffix('%').and_then(|number| scaled(number, 100)).ok_or_else(bad)?;
    u32::try_from(share).ok().filter(|share| *share <= 10_000).ok_or_else(bad)
}

/// A decimal number times `unit`, a power of ten, without rounding.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| -> Option<u64> {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    let parts = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction = digits(fraction)?.checked_mul(unit)?;
    if !fraction.is_multiple_of(parts) {
        return None;
    }
    digits(whole)?.checked_mul(unit)?.checked_add(fraction / parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_are_exact_or_refused() {
        assert_eq!(parse_time_us("80ms"), Ok(80_000));
        assert_eq!(parse_time_us("1.5s"), Ok(1_500_000));
        assert_eq!(parse_time_us("35.25ms"), Ok(35_250));
        assert_eq!(parse_share("5%"), Ok(500));
        assert_eq!(parse_share("0.25%"), Ok(25));
        assert_eq!(parse_share("100%"), Ok(10_000));
        for bad in [
            "",
            "80",
            "ms",
            "-1ms",
            "1e3ms",
            "61s",
            "0.1us",
            "80 ms",
            "1.s",
            "99999999999999999999s",
        ] {
            assert!(parse_time_us(bad).is_err(), "{bad}");
        }
        for bad in ["", "5", "%", "101%", "-1%", "0.001%"] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
    }
}
