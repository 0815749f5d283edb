//! Carries out the faults of a scenario, by the socket that `entrepot chaos kill|stop|start|link` uses, and
//! takes all of them back, also when the run is interrupted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;

use super::disk;
use super::scenario::{Fault, ForgetBroker, Forgotten, Inflict, Step, steps};
use crate::boot::local::{self, Action, Component, LinkChange, Request};
use crate::cli::region::{begin_anew, come_back, fence, give_up, resume};
use crate::cli::target::Target;
use crate::config::LinkLatency;
use crate::ports::Clock as _;
use crate::runtime::SystemClock;
use crate::types::RegionId;

/// From one region to another.
type Way = (RegionId, RegionId);

/// When a fault was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Its place in the scenario.
    pub(super) fault: usize,
    /// Since the load began.
    pub(super) from_ms: u64,
    /// When it began to be healed: starting a region again is a part of what takes time.
    pub(super) to_ms: Option<u64>,
}

/// The faults of a run.
pub(super) struct Faults<'a> {
    data_dir: &'a Path,
    /// For what operators do about it.
    target: &'a Target,
    pub(super) regions: &'a [RegionId],
    /// How slow links are as measured.
    latencies: &'a [LinkLatency],
    planned: &'a [Fault],
    /// Since the load began.
    clock: SystemClock,
    /// Told what happens, for people.
    tell: &'a (dyn Fn(&str) + Send + Sync),
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: BTreeSet<usize>,
    windows: Vec<Window>,
    links: BTreeMap<Way, LinkChange>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(
        data_dir: &'a Path,
        target: &'a Target,
        latencies: &'a [LinkLatency],
        planned: &'a [Fault],
        clock: SystemClock,
        tell: &'a (dyn Fn(&str) + Send + Sync),
    ) -> Self {
        let state = Mutex::default();
        let regions = &target.regions;
        Self { data_dir, target, regions, latencies, planned, clock, tell, state }
    }

    /// Plays all steps in time.
    pub(super) async fn play(&self) -> anyhow::Result<()> {
        for step in steps(self.planned) {
            let left_ms = step.at_ms.saturating_sub(self.clock.monotonic_ms());
            tokio::time::sleep(Duration::from_millis(left_ms)).await;
            let fault = &self.planned[step.fault].inflict;
            self.note(step);
            self.take(step).await.with_context(|| {
                let what = if step.on { "inflicted" } else { "healed" };
                format!("`{fault}` could not be {what}")
            })?;
        }
        Ok(())
    }

    /// When which fault was there, so far.
    pub(super) fn windows(&self) -> Vec<Window> {
        self.state().windows.clone()
    }

    /// What is broken now.
    pub(super) fn open(&self) -> Vec<&'a Inflict> {
        self.state().open.iter().map(|index| &self.planned[*index].inflict).collect()
    }

    /// Takes everything back that was ever begun, whether or not it was taken back already.
    pub(super) async fn heal(&self) -> anyhow::Result<()> {
        let begun: BTreeSet<usize> = self.windows().iter().map(|window| window.fault).collect();
        let mut failed = Ok(());
        for fault in begun {
            let at_ms = self.clock.monotonic_ms();
            let step = Step { at_ms, fault, on: false, again: false };
            if self.state().open.contains(&fault) {
                self.note(step);
            }
            if let Err(error) = self.take(step).await {
                failed = Err(error.context(
                    "not everything could be healed: `entrepot status` shows what is broken, \
                     `entrepot chaos start REGION` and `entrepot chaos link A B --heal` mend it",
                ));
            }
        }
        failed
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn note(&self, step: Step) {
        let now_ms = self.clock.monotonic_ms();
        let mut state = self.state();
        if step.on {
            state.open.insert(step.fault);
        } else {
            state.open.remove(&step.fault);
        }
        if step.again {
            return;
        }
        if step.on {
            state.windows.push(Window { fault: step.fault, from_ms: now_ms, to_ms: None });
        } else {
            let mut windows = state.windows.iter_mut().rev();
            if let Some(window) = windows.find(|window| window.fault == step.fault) {
                window.to_ms.get_or_insert(now_ms);
            }
        }
        drop(state);
        let what = if step.on { "begins" } else { "is healed" };
        (self.tell)(&format!(
            "{:>5} s  {what}: {}",
            now_ms / 1_000,
            self.planned[step.fault].inflict
        ));
    }

    async fn take(&self, step: Step) -> anyhow::Result<()> {
        match &self.planned[step.fault].inflict {
            Inflict::Kill(of) => {
                let action = if step.on { Action::Kill } else { Action::Start };
                self.programs(of.region, of.component, action).await
            }
            Inflict::Freeze(of) => {
                let action = if step.on { Action::Stop } else { Action::Start };
                self.programs(of.region, of.component, action).await
            }
            Inflict::Cut(_) | Inflict::Slow(_) => self.set_links().await,
            Inflict::ForgetBroker(broker) => self.forget(*broker, step.on).await,
            Inflict::FillDisk(of) => {
                let (data_dir, region, on) = (self.data_dir.to_owned(), of.region, step.on);
                let change = move || {
                    if on { disk::fill(&data_dir, region) } else { disk::free(&data_dir, region) }
                };
                tokio::task::spawn_blocking(change).await.context("changing a disk")?
            }
            Inflict::Image(of) => self.image(of.region, step.on).await,
            Inflict::Destroy(of) if step.on => self.destroy(of.region).await,
            Inflict::Destroy(of) => self.build_again(of.region).await,
            Inflict::Lose(of) if step.on => {
                self.programs(of.region, Component::All, Action::Kill).await?;
                fence(self.target, of.region).await
            }
            Inflict::Lose(of) => {
                self.programs(of.region, Component::All, Action::Start).await?;
                come_back(self.target, of.region).await
            }
            Inflict::Evacuate(of) if step.on => give_up(self.target, of.region).await,
            Inflict::Evacuate(of) => resume(self.target, of.region).await,
            Inflict::SetClock(clock) => {
                let ahead_s = if step.on { clock.ahead_s } else { 0 };
                local::clocks::set(self.data_dir, clock.region, ahead_s)
            }
            Inflict::PayWith(_) => Ok(()),
        }
    }

    async fn programs(
        &self,
        region: RegionId,
        component: Component,
        action: Action,
    ) -> anyhow::Result<()> {
        let request = Request::Component { region, component, action };
        local::request(self.data_dir, &request).await?;
        Ok(())
    }

    /// Makes every link what the open faults want it to be.
    async fn set_links(&self) -> anyhow::Result<()> {
        let wanted = wanted(&self.open(), self.regions, self.latencies);
        for (way, change) in wanted {
            if self.state().links.get(&way).copied().unwrap_or(HEALED) == change {
                continue;
            }
            let (from, to) = way;
            local::request(self.data_dir, &Request::Link { from, to, one_way: true, change })
                .await?;
            self.state().links.insert(way, change);
        }
        Ok(())
    }

    async fn image(&self, region: RegionId, on: bool) -> anyhow::Result<()> {
        if on {
            self.programs(region, Component::Postgres, Action::Kill).await?;
            let (data, _) = local::database_files(self.data_dir, region)?;
            files(move || {
                let image = data.with_extension("image");
                remove(&image).and_then(|()| copy_folder(&data, &image))
            })
            .await
        } else {
            self.programs(region, Component::Postgres, Action::Start).await
        }
    }

    async fn destroy(&self, region: RegionId) -> anyhow::Result<()> {
        self.programs(region, Component::All, Action::Kill).await?;
        let (data, marker) = local::database_files(self.data_dir, region)?;
        let store = local::broker_store(self.data_dir, region)?;
        files(move || {
            remove(&data)?;
            remove(&store)?;
            match std::fs::remove_file(marker) {
                // A marker need not be there yet.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(error).context("taking the marker away")
                }
                _ => Ok(()),
            }
        })
        .await?;
        fence(self.target, region).await
    }

    async fn build_again(&self, region: RegionId) -> anyhow::Result<()> {
        let (data, _) = local::database_files(self.data_dir, region)?;
        let image = data.with_extension("image");
        if image.exists() {
            self.programs(region, Component::All, Action::Kill).await?;
            files(move || {
                remove(&data)?;
                std::fs::rename(&image, &data).context("putting the image in place")
            })
            .await?;
            self.programs(region, Component::All, Action::Start).await?;
            return begin_anew(self.target, region).await;
        }
        // It is back already, or was never gone.
        self.programs(region, Component::All, Action::Start).await
    }

    /// A broker is down while its files change. To lose a tail it runs on from a copy that is put back.
    async fn forget(&self, broker: ForgetBroker, on: bool) -> anyhow::Result<()> {
        let ForgetBroker { region, what } = broker;
        let store = local::broker_store(self.data_dir, region)?;
        let copy = store.with_extension("before-the-tail");
        self.programs(region, Component::Nats, Action::Kill).await?;
        let changed = tokio::task::spawn_blocking(move || match (what, on) {
            (Forgotten::All, true) => remove(&store),
            (Forgotten::All, false) => Ok(()),
            (Forgotten::Tail, true) => remove(&copy).and_then(|()| copy_folder(&store, &copy)),
            (Forgotten::Tail, false) if !copy.exists() => Ok(()),
            (Forgotten::Tail, false) => {
                remove(&store)?;
                std::fs::rename(&copy, &store).context("putting the older store back")
            }
        });
        let changed = changed.await.context("changing a broker's files")?;
        if what == Forgotten::Tail || !on {
            self.programs(region, Component::Nats, Action::Start).await?;
        }
        changed
    }
}

/// Changes files aside.
async fn files(change: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(change).await.context("changing files")?
}

/// Why a scenario can't be played on this deployment.
pub(super) fn obstacle(faults: &[Fault], data_dir: &Path) -> Option<String> {
    faults.iter().find_map(|fault| match &fault.inflict {
        Inflict::FillDisk(of) => disk::obstacle(data_dir, of.region),
        Inflict::SetClock(clock) => {
            let can_be_set = local::clocks::can_be_set(data_dir, clock.region);
            (!can_be_set).then(|| {
                "the regions' clocks are the machine's; start the deployment with \
                 `entrepot up --fake-clocks`"
                    .to_owned()
            })
        }
        Inflict::Kill(_)
        | Inflict::Freeze(_)
        | Inflict::Cut(_)
        | Inflict::Slow(_)
        | Inflict::ForgetBroker(_)
        | Inflict::Image(_)
        | Inflict::Destroy(_)
        | Inflict::Lose(_)
        | Inflict::Evacuate(_)
        | Inflict::PayWith(_) => None,
    })
}

/// A link as the deployment was started.
const HEALED: LinkChange =
    LinkChange { heal: true, cut: false, latency_us: None, jitter_us: None, loss_per_10_000: None };

/// What each direction is to be while these faults are open.
fn wanted(
    open: &[&Inflict],
    regions: &[RegionId],
    latencies: &[LinkLatency],
) -> BTreeMap<Way, LinkChange> {
    let mut ways = BTreeMap::new();
    for from in regions {
        for to in regions.iter().filter(|to| *to != from) {
            let mut change = HEALED;
            for fault in open {
                match fault {
                    Inflict::Cut(cut) => {
                        let there = cut.between.contains(from) && cut.and.contains(to);
                        let back = cut.between.contains(to) && cut.and.contains(from);
                        change.cut |= there || (back && !cut.one_way);
                    }
                    Inflict::Slow(slow) => {
                        if slow.wan {
                            change.latency_us = measured_us(latencies, (*from, *to));
                        }
                        if slow.jitter_ms > 0 {
                            change.jitter_us = Some(slow.jitter_ms * 1_000);
                        }
                        if slow.loss_percent > 0 {
                            change.loss_per_10_000 = Some(slow.loss_percent * 100);
                        }
                    }
                    Inflict::Kill(_)
                    | Inflict::Freeze(_)
                    | Inflict::ForgetBroker(_)
                    | Inflict::FillDisk(_)
                    | Inflict::Image(_)
                    | Inflict::Destroy(_)
                    | Inflict::Lose(_)
                    | Inflict::Evacuate(_)
                    | Inflict::SetClock(_)
                    | Inflict::PayWith(_) => {}
                }
            }
            ways.insert((*from, *to), change);
        }
    }
    ways
}

/// Half of the measured round trip.
fn measured_us(latencies: &[LinkLatency], way: Way) -> Option<u64> {
    let link = latencies
        .iter()
        .find(|link| (link.between, link.and) == way || (link.and, link.between) == way)?;
    u64::try_from((link.round_trip / 2).as_micros()).ok()
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Files keep their owners: PostgreSQL refuses another's.
fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    let copied =
        Command::new("cp").arg("-a").arg(from).arg(to).output().context("cannot run cp")?;
    let said = String::from_utf8_lossy(&copied.stderr);
    anyhow::ensure!(copied.status.success(), "cannot copy {}: {said}", from.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::chaos::scenario::{Cut, Slow};

    fn regions() -> Vec<RegionId> {
        ["a", "b", "c"].map(|name| name.parse().unwrap()).to_vec()
    }

    fn cut(between: &str, and: &[&str], one_way: bool) -> Inflict {
        let and = and.iter().map(|name| name.parse().unwrap()).collect();
        Inflict::Cut(Cut { between: vec![between.parse().unwrap()], and, one_way, flap_ms: None })
    }

    fn cut_ways(open: &[&Inflict]) -> String {
        let wanted = wanted(open, &regions(), &[]);
        let cut = wanted.iter().filter(|(_, change)| change.cut);
        cut.map(|((from, to), _)| format!("{from}{to}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn cuts_are_of_whole_groups_and_add_up() {
        assert_eq!(cut_ways(&[]), "");
        assert_eq!(cut_ways(&[&cut("a", &["b", "c"], false)]), "ab ac ba ca");
        assert_eq!(cut_ways(&[&cut("a", &["b"], true)]), "ab");
        assert_eq!(cut_ways(&[&cut("a", &["b"], true), &cut("c", &["b"], true)]), "ab cb");
    }

    #[test]
    fn a_link_that_is_healed_of_one_fault_keeps_the_other() {
        let [a, b, _] = regions()[..] else { panic!("three") };
        let far = LinkLatency { between: b, and: a, round_trip: Duration::from_millis(80) };
        let slow = Inflict::Slow(Slow { wan: true, jitter_ms: 5, loss_percent: 2 });
        let both = wanted(&[&slow, &cut("a", &["b"], false)], &regions(), &[far]);
        let left = wanted(&[&slow], &regions(), &[far]);
        let slowed = LinkChange {
            latency_us: Some(40_000),
            jitter_us: Some(5_000),
            loss_per_10_000: Some(200),
            ..HEALED
        };
        assert_eq!(left[&(a, b)], slowed);
        assert_eq!(both[&(a, b)], LinkChange { cut: true, ..slowed });
    }
}
