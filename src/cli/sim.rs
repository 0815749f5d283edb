//! `entrepot sim …`: the deterministic simulator.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context as _;
use serde_json::json;

use crate::ports::Clock as _;
use crate::runtime::{SystemClock, secret_bytes};
use crate::sim::checks::Violation;
use crate::sim::plan::{Plan, REGIONS_USUAL, Size};
use crate::sim::{Outcome, run, shrink};

use super::output::{line, note};

/// Simulates whole deployments: crashes, cut links, lost messages and impatient shoppers, from a seed.
///
/// The same seed does the same, to the byte. A rule that breaks (exit code 2) prints its seed, is made
/// smaller, and is written to a file that `replay` plays again.
///
/// Example: entrepot sim soak --seeds 1000
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Plays one seed.
    ///
    /// Example: entrepot sim run --seed 42 --trace
    Run(RunArgs),
    /// Plays many seeds, on all processors, until one fails.
    ///
    /// Example: entrepot sim soak --seeds 1000 --first 1
    Soak(SoakArgs),
    /// Plays each seed twice and compares the two traces byte for byte.
    ///
    /// Example: entrepot sim meta --seeds 100
    Meta(SoakArgs),
    /// Plays a recorded failure again.
    ///
    /// Example: entrepot sim replay sim-42.json --trace
    Replay(ReplayArgs),
}

#[derive(Debug, clap::Args)]
struct SizeArgs {
    /// Orders in one run.
    #[arg(long, default_value_t = 200)]
    orders: usize,
    /// Regions, at most seven.
    #[arg(long, default_value_t = REGIONS_USUAL)]
    regions: usize,
    /// The last region is a witness in every world: it votes, and sells nothing. Without, in an eighth of those of three.
    #[arg(long)]
    witness: bool,
}

impl SizeArgs {
    fn size(&self) -> Size {
        Size { regions: self.regions, orders: self.orders, witness: self.witness }
    }
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Which.
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    size: SizeArgs,
    /// Prints every event: virtual milliseconds, where, what.
    #[arg(long)]
    trace: bool,
    /// Where a failure is written to.
    #[arg(long, value_name = "DIR", default_value = ".")]
    failures: PathBuf,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct SoakArgs {
    /// How many.
    #[arg(long)]
    seeds: u64,
    /// The first one; a random one when it is left out.
    #[arg(long)]
    first: Option<u64>,
    #[command(flatten)]
    size: SizeArgs,
    /// Where a failure is written to.
    #[arg(long, value_name = "DIR", default_value = ".")]
    failures: PathBuf,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ReplayArgs {
    /// What a failure was written to.
    file: PathBuf,
    /// Prints every event.
    #[arg(long)]
    trace: bool,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

/// What "ran, and found something wrong" answers.
const FOUND: u8 = 2;

pub(super) async fn run_command(args: Args) -> anyhow::Result<ExitCode> {
    // A world makes a runtime of its own, in a thread that has none.
    tokio::task::spawn_blocking(|| match args.command {
        Command::Run(args) => one(&args),
        Command::Soak(args) => many(&args, |plan| run(plan, false)),
        Command::Meta(args) => many(&args, twice),
        Command::Replay(args) => again(&args),
    })
    .await
    .context("the simulator itself panicked")?
}

fn one(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let plan = Plan::draw(args.seed, args.size.size());
    let outcome = run(&plan, args.trace);
    show(&outcome, args.seed, args.json);
    match &outcome.violation {
        None => Ok(ExitCode::SUCCESS),
        Some(violation) => report(&plan, violation, &args.failures),
    }
}

fn again(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(&args.file)
        .with_context(|| format!("cannot read {}", args.file.display()))?;
    let plan: Plan = serde_json::from_str(&text).with_context(|| {
        format!("{} is not a failure that `entrepot sim` wrote", args.file.display())
    })?;
    plan.check().map_err(|why| anyhow::anyhow!("{}: {why}", args.file.display()))?;
    let outcome = run(&plan, args.trace);
    show(&outcome, plan.seed, args.json);
    match outcome.violation {
        None => Ok(ExitCode::SUCCESS),
        Some(violation) => {
            note(&violation.to_string());
            Ok(ExitCode::from(FOUND))
        }
    }
}

fn show(outcome: &Outcome, seed: u64, as_json: bool) {
    for event in &outcome.trace {
        line(event);
    }
    let Outcome { violation, lines, hash, virtual_ms, tally, traffic, .. } = outcome;
    if as_json {
        let violation = violation.as_ref().map(ToString::to_string);
        let summary = json!({
            "seed": seed, "trace_hash": hash, "events": lines, "virtual_ms": virtual_ms,
            "answers": tally, "traffic": traffic, "violation": violation,
        });
        line(&summary.to_string());
    } else {
        let answers: Vec<String> = tally.iter().map(|(name, n)| format!("{n} {name}")).collect();
        let verdict = if violation.is_some() { "broken" } else { "good" };
        line(&format!(
            "seed {seed}: {verdict}, {lines} events in {virtual_ms} virtual ms, trace {hash}; {}",
            answers.join(", ")
        ));
    }
}

/// Plays a plan twice; a trace that does not repeat itself is a finding of its own.
fn twice(plan: &Plan) -> Outcome {
    let (first, second) = (run(plan, true), run(plan, true));
    let differs = first.trace.iter().zip(&second.trace).find(|(a, b)| a != b);
    let what = match differs {
        Some((a, b)) => Some(format!("the trace does not repeat itself: `{a}`, then `{b}`")),
        None if first.lines != second.lines || first.hash != second.hash => {
            Some(format!("the trace has {} events, then {}", first.lines, second.lines))
        }
        None => None,
    };
    let differs = what.map(|what| Violation { invariant: None, what });
    Outcome { violation: differs.or(first.violation), trace: Vec::new(), ..second }
}

/// What the threads of a soak share.
struct Soak {
    next: AtomicU64,
    stop: AtomicBool,
    events: AtomicU64,
    virtual_ms: AtomicU64,
    left_to_people: AtomicU64,
    failed: Mutex<Option<(Plan, Violation)>>,
}

fn many(args: &SoakArgs, play: fn(&Plan) -> Outcome) -> anyhow::Result<ExitCode> {
    // Small enough to be typed.
    let first = args.first.unwrap_or_else(|| u64::from(u32::from_be_bytes(secret_bytes())));
    let size = args.size.size();
    note(&format!("seeds {first} to {}", first.saturating_add(args.seeds.saturating_sub(1))));
    let soak = Soak {
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        events: AtomicU64::new(0),
        virtual_ms: AtomicU64::new(0),
        left_to_people: AtomicU64::new(0),
        failed: Mutex::new(None),
    };
    let clock = SystemClock::new();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| soak.play(first, args.seeds, size, play));
        }
    });
    let ms = clock.monotonic_ms().max(1);
    let seeds = soak.next.load(Ordering::Relaxed).min(args.seeds);
    let (events, virtual_s) =
        (soak.events.load(Ordering::Relaxed), soak.virtual_ms.load(Ordering::Relaxed) / 1_000);
    let left_to_people = soak.left_to_people.load(Ordering::Relaxed);
    let failed = soak.first_failure();
    if args.json {
        let failed = failed
            .as_ref()
            .map(|(plan, it)| json!({"seed": plan.seed, "violation": it.to_string()}));
        let summary = json!({
            "first": first, "seeds": seeds, "seconds": ms / 1_000, "seeds_per_minute": seeds * 60_000 / ms,
            "events": events, "virtual_s": virtual_s, "left_to_people": left_to_people, "failed": failed,
        });
        line(&summary.to_string());
    } else {
        line(&format!(
            "{seeds} seeds from {first}: {} in {} s ({} a minute), {events} events in {virtual_s} virtual s; \
             in {left_to_people} a database stayed set back, which only people can mend",
            if failed.is_some() { "one failed" } else { "all good" },
            ms / 1_000,
            seeds * 60_000 / ms,
        ));
    }
    match failed {
        None => Ok(ExitCode::SUCCESS),
        Some((plan, violation)) => report(&plan, &violation, &args.failures),
    }
}

impl Soak {
    fn first_failure(self) -> Option<(Plan, Violation)> {
        self.failed.into_inner().expect("no panic while held")
    }

    fn play(&self, first: u64, seeds: u64, size: Size, play: fn(&Plan) -> Outcome) {
        while !self.stop.load(Ordering::Relaxed) {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= seeds {
                return;
            }
            let plan = Plan::draw(first.wrapping_add(index), size);
            let outcome = play(&plan);
            self.events.fetch_add(outcome.lines, Ordering::Relaxed);
            self.virtual_ms.fetch_add(outcome.virtual_ms, Ordering::Relaxed);
            self.left_to_people.fetch_add(u64::from(outcome.is_left_to_people), Ordering::Relaxed);
            if let Some(violation) = outcome.violation {
                self.stop.store(true, Ordering::Relaxed);
                let mut failed = self.failed.lock().expect("no panic while held");
                failed.get_or_insert((plan, violation));
            }
        }
    }
}

/// Says what broke, makes it smaller and writes it down.
fn report(plan: &Plan, violation: &Violation, folder: &Path) -> anyhow::Result<ExitCode> {
    note(&format!("seed {} breaks {violation}", plan.seed));
    note("making it smaller …");
    let (small, violation) = shrink(plan, violation, |plan| run(plan, false).violation);
    let file = folder.join(format!("sim-{}.json", plan.seed));
    let text = serde_json::to_string_pretty(&small)?;
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    note(&format!(
        "{} of {} entries are enough: {violation}\nplay it again with: entrepot sim replay {} --trace",
        small.entries.len(),
        plan.entries.len(),
        file.display()
    ));
    Ok(ExitCode::from(FOUND))
}
