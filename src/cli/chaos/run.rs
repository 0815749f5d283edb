//! `entrepot chaos run`: plays a scenario on a running deployment and judges what came of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::faults::{Faults, Window, obstacle};
use super::history::{Recorder, Wish};
use super::samples::{Sampler, Seen};
use super::scenario::Scenario;
use super::shoppers::Shop;
use super::timeline::Timeline;
use super::tokens::Tokens;
use super::verdict::{self, Finding};
use super::{judge, library, stock};
use crate::boot::local::{self, Report};
use crate::cli::output;
use crate::cli::region::server_of;
use crate::cli::target::{Target, TargetArgs};
use crate::config::{Config, LinkLatency};
use crate::ports::{Clock as _, Ids as _};
use crate::runtime::{RandomIds, SystemClock};
use crate::store::Auditor;
use crate::types::RegionId;

/// Ran, and found something wrong.
const FOUND_SOMETHING: u8 = 2;

/// For one look at a region's evidence once nothing is broken any more.
const LOOK_LIMIT: Duration = Duration::from_secs(20);

/// Plays a scenario on the running deployment and checks what must hold.
///
/// Exit code 0 when every check held, 2 when one did not, 1 when it could not be run. What was broken is healed
/// before it ends, also on Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  entrepot chaos run --list\n  entrepot chaos run region-killed\n  \
                  entrepot chaos run my-scenario.toml --report /tmp/report --json"
)]
pub(super) struct RunArgs {
    /// A scenario of `--list`, or a file.
    #[arg(required_unless_present = "list")]
    scenario: Option<String>,
    /// Lists the scenarios.
    #[arg(long)]
    list: bool,
    /// Where timeline.svg, verdict.json and history.jsonl are written [default: chaos/SCENARIO in the
    /// deployment's folder].
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
}

pub(super) async fn run(args: RunArgs, data_dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let Some(name) = args.scenario.filter(|_| !args.list) else {
        return list(json);
    };
    let scenario = library::find(&name)?;
    let stem = Path::new(&name).file_stem().unwrap_or(name.as_ref());
    let folder = args.report.unwrap_or_else(|| data_dir.join("chaos").join(stem));
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let before = local::report(data_dir).await?;
    if let Some(why) = obstacle(&scenario.faults, data_dir) {
        let verdict = json!({"scenario": name, "passed": false, "skipped": why});
        write(&folder.join("verdict.json"), &serde_json::to_string_pretty(&verdict)?)?;
        if json {
            output::line(&serde_json::to_string_pretty(&verdict)?);
        }
        bail!("skipped, not passed: {why}");
    }
    let stage = Stage::set(data_dir, scenario, &before)?;
    let played = stage.play().await?;
    let picture = folder.join("timeline.svg");
    let verdict = json!({
        "scenario": name,
        "title": stage.scenario.title,
        "passed": !verdict::any_failed(&played.findings),
        "checks": played.findings,
        "faults": played.windows.iter().map(|window| json!({
            "what": stage.scenario.faults[window.fault].inflict.to_string(),
            "from_ms": window.from_ms,
            "to_ms": window.to_ms,
        })).collect::<Vec<_>>(),
        "orders": played.history.iter().filter(|wish| wish.acknowledged().is_some()).count(),
        "seconds": played.end_ms / 1_000,
        "timeline": picture,
    });
    write(&picture, &stage.timeline(&played).svg())?;
    write(&folder.join("verdict.json"), &serde_json::to_string_pretty(&verdict)?)?;
    let lines: Result<Vec<_>, _> = played.history.iter().map(serde_json::to_string).collect();
    write(&folder.join("history.jsonl"), &lines?.join("\n"))?;
    if json {
        output::line(&serde_json::to_string_pretty(&verdict)?);
    } else {
        output::line(&verdict::table(&played.findings));
        output::line(&format!("timeline: {}", picture.display()));
    }
    let failed = verdict::any_failed(&played.findings);
    Ok(if failed { ExitCode::from(FOUND_SOMETHING) } else { ExitCode::SUCCESS })
}

fn list(json: bool) -> anyhow::Result<ExitCode> {
    let scenarios = library::list()?;
    if json {
        let items = scenarios.iter().map(|(name, title)| json!({"name": name, "title": title}));
        output::line(&serde_json::to_string_pretty(&items.collect::<Vec<_>>())?);
    } else {
        let width = scenarios.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, title) in scenarios {
            output::line(&format!("{name:width$}  {title}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Everything that a scenario is played on.
pub(super) struct Stage {
    pub(super) scenario: Scenario,
    pub(super) target: Target,
    pub(super) auditors: BTreeMap<RegionId, Auditor>,
    /// The payment simulator's address.
    pub(super) provider: String,
    /// Begins every key and SKU of this run.
    pub(super) run: String,
    /// Units of each SKU of this run.
    pub(super) stock: BTreeMap<String, i64>,
    data_dir: PathBuf,
    latencies: Vec<LinkLatency>,
}

/// What came of it.
struct Played {
    history: Vec<Wish>,
    windows: Vec<Window>,
    seen: Seen,
    findings: Vec<Finding>,
    end_ms: u64,
}

impl Stage {
    /// Finds the deployment and looks whether the scenario can be played on it.
    fn set(data_dir: &Path, scenario: Scenario, report: &Report) -> anyhow::Result<Self> {
        if !report.is_ready() || !report.link_faults.iter().all(|link| !link.cut) {
            bail!(
                "a scenario begins with a deployment that is well; this one isn't:\n{}\
                 `entrepot chaos start REGION` and `entrepot chaos link A B --heal` mend it",
                report.table()
            );
        }
        let target = Target::find(&TargetArgs::local(data_dir.to_owned()), "chaos")?;
        let names: Vec<_> = target.regions.iter().map(ToString::to_string).collect();
        if let Some(unknown) =
            scenario.regions().into_iter().find(|region| !target.regions.contains(region))
        {
            bail!("the scenario is about {unknown}, and the deployment has {}", names.join(", "));
        }
        let auditor = |region: &local::RegionReport| {
            let auditor = Auditor::new(&region.auditor_database_url, LOOK_LIMIT)?;
            anyhow::Ok((region.name.parse()?, auditor))
        };
        let auditors = report.regions.iter().map(auditor).collect::<Result<_, _>>()?;
        let config = Config::load(&data_dir.join("region-config.toml"))?;
        let id = RandomIds::new(SystemClock::new()).uuid().simple().to_string();
        let run = format!("chaos-{}", &id[id.len() - 8..]);
        let stock = stock::wanted(&scenario, &target.regions, &run);
        Ok(Self {
            scenario,
            target,
            auditors,
            provider: report.payment_simulator.clone(),
            run,
            stock,
            data_dir: data_dir.to_owned(),
            latencies: config.link_latencies,
        })
    }

    /// Plays it, and heals what it broke, whatever happens.
    async fn play(&self) -> anyhow::Result<Played> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        output::note(&format!("{}: {} s", self.scenario.title, self.scenario.seconds));
        tokio::select! {
            prepared = stock::prepare(self) => prepared?,
            _ = interrupt.recv() => bail!("interrupted before anything was broken"),
        }
        let bar = ProgressBar::new_spinner()
            .with_style(ProgressStyle::with_template("{msg}").expect("the template is a constant"));
        let tell = |text: &str| {
            if bar.is_hidden() {
                output::note(text);
            } else {
                bar.println(text);
            }
        };
        let tokens = Tokens::new(&self.data_dir);
        tokens.prepare(&self.scenario, &self.target.regions)?;
        let clock = SystemClock::new();
        let (target, all) = (&self.target, &self.scenario.faults);
        let faults = Faults::new(&self.data_dir, target, &self.latencies, all, clock, &tell);
        let ended = tokio::select! {
            played = self.load_and_break(&faults, &tokens, &bar, clock) => Some(played),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        };
        bar.finish_and_clear();
        faults.heal().await?;
        ended.context("interrupted; what was broken is healed")?
    }

    async fn load_and_break(
        &self,
        faults: &Faults<'_>,
        tokens: &Tokens<'_>,
        bar: &ProgressBar,
        clock: SystemClock,
    ) -> anyhow::Result<Played> {
        let began_ms = clock.wall_ms();
        let recorder = Recorder::default();
        let seen = Mutex::default();
        let cards = || {
            let open = faults.open();
            open.into_iter().filter_map(|fault| fault.cards()).flatten().cloned().collect()
        };
        let entrance = |region: &RegionId| Ok((*region, server_of(&self.target, *region)?));
        let entrances: BTreeMap<_, _> =
            self.target.regions.iter().map(entrance).collect::<anyhow::Result<_>>()?;
        let shop = Shop {
            balancer: self.target.client.clone(),
            entrances: &entrances,
            tokens,
            regions: &self.target.regions,
            run: &self.run,
            recorder: &recorder,
            clock,
            cards: &cards,
            remote: self.scenario.load.is_some_and(|load| load.remote),
        };
        let sampler = Sampler {
            target: &self.target,
            auditors: &self.auditors,
            clock,
            stock: &self.stock,
            run: &self.run,
            seen: &seen,
        };
        let seconds = self.scenario.seconds;
        let steady = async {
            if let Some(load) = self.scenario.load {
                shop.steady(load, seconds).await;
            }
        };
        let sale = async {
            if let Some(sale) = self.scenario.sale {
                shop.sale(sale, seconds).await;
            }
        };
        let course = async {
            let (((), ()), ()) =
                futures::try_join!(async { Ok(tokio::join!(steady, sale)) }, faults.play())?;
            let (history, windows) = (recorder.history(), faults.windows());
            let course = judge::Course { history, windows, clock, began_ms };
            let findings = judge::judge(self, &course, &seen).await?;
            anyhow::Ok((course, findings))
        };
        let (course, findings) = tokio::select! {
            judged = course => judged?,
            () = show(bar, &recorder, faults, clock) => unreachable!("it shows until it is dropped"),
            () = sampler.run() => unreachable!("it looks until it is dropped"),
        };
        Ok(Played {
            history: course.history,
            windows: course.windows,
            seen: seen.into_inner().expect("no panic while held"),
            findings,
            end_ms: clock.monotonic_ms(),
        })
    }

    fn timeline<'a>(&'a self, played: &'a Played) -> Timeline<'a> {
        Timeline {
            title: &self.scenario.title,
            regions: &self.target.regions,
            faults: &self.scenario.faults,
            windows: &played.windows,
            history: &played.history,
            samples: &played.seen.samples,
            end_ms: played.end_ms,
        }
    }
}

/// The running line: time, orders in the last second by region, what is broken.
#[expect(clippy::infinite_loop, reason = "it shows until it is dropped")]
async fn show(bar: &ProgressBar, recorder: &Recorder, faults: &Faults<'_>, clock: SystemClock) {
    let mut before = BTreeMap::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let now = recorder.acknowledged();
        let rates = faults.regions.iter().map(|region| {
            let count = |at: &BTreeMap<RegionId, u64>| at.get(region).copied().unwrap_or(0);
            format!("{region} {}/s", count(&now) - count(&before))
        });
        let rates = rates.collect::<Vec<_>>().join("  ");
        let broken: Vec<_> = faults.open().into_iter().map(ToString::to_string).collect();
        let broken =
            if broken.is_empty() { "nothing broken".to_owned() } else { broken.join("; ") };
        bar.set_message(format!("{:>5} s  {rates}  |  {broken}", clock.monotonic_ms() / 1_000));
        before = now;
    }
}
