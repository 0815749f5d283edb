//! A deployment on this machine: its programs, its links, and what can be done to them while it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;

use super::control::{Action, Component, LinkChange, Request};
use super::layout::{Layout, Ports};
use super::links::{Fault, Links, Way};
use super::postgres::{DATABASE, Postgres};
use super::probe;
use super::process::{Registry, Spec, log_tail};
use super::programs::Programs;
use super::status::{Death, LinkReport, Phase, Pids, RegionReport, Report};
use super::supervise::{Child, Order, State};
use crate::config::{Config, Secret};
use crate::ports::Clock;
use crate::runtime::{SystemClock, TaskSet};
use crate::types::RegionId;

/// A program that died this often while it was started will not come up.
const DEATHS_AT_START_MAX: u32 = 3;
/// Between two looks whether a program is ready.
const READY_POLL: Duration = Duration::from_millis(25);
/// How long the start of a whole region waits for its database before it starts the server anyway.
const DATABASE_WAIT: Duration = Duration::from_secs(10);
/// Lines of progress kept for `--detach`; a start of ten regions has fewer.
const PROGRESS_MAX: usize = 200;

/// A program of the deployment, in the order in which they are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// Keeps the load balancer on the newest routes.
    Follower,
    LoadBalancer,
    Server(RegionId),
    PaymentSimulator,
    Nats(RegionId),
    Postgres(RegionId),
}

impl Part {
    /// Parts of one rank are stopped together, ranks one after the other.
    fn rank(self) -> u8 {
        match self {
            Self::Follower | Self::LoadBalancer => 0,
            Self::Server(_) => 1,
            Self::PaymentSimulator => 2,
            Self::Nats(_) => 3,
            Self::Postgres(_) => 4,
        }
    }
}

/// A deployment while it runs.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) layout: Layout,
    pub(crate) ports: Ports,
    /// The effective configuration.
    pub(crate) config: Config,
    pub(crate) programs: Programs,
    pub(crate) links: Links,
    pub(crate) link_tasks: TaskSet,
    registry: Arc<Registry>,
    children: Mutex<BTreeMap<Part, Arc<Child>>>,
    databases: Mutex<BTreeMap<RegionId, Arc<Postgres>>>,
    phase: Mutex<Phase>,
    progress: Mutex<Vec<String>>,
    clock: SystemClock,
    show_progress: fn(&str),
}

impl Deployment {
    pub(crate) fn new(
        layout: Layout,
        ports: Ports,
        config: Config,
        programs: Programs,
        registry: Registry,
        links: Links,
        show_progress: fn(&str),
    ) -> Self {
        Self {
            layout,
            ports,
            config,
            programs,
            links,
            link_tasks: TaskSet::new(),
            registry: Arc::new(registry),
            children: Mutex::default(),
            databases: Mutex::default(),
            phase: Mutex::new(Phase::Starting),
            progress: Mutex::default(),
            clock: SystemClock::new(),
            show_progress,
        }
    }

    /// Tells whoever waits for the start what has been done.
    pub(crate) fn progress(&self, what: &str) {
        let ms = self.clock.monotonic_ms();
        let line = format!("{:>3}.{} s  {what}", ms / 1_000, ms % 1_000 / 100);
        (self.show_progress)(&line);
        let mut progress = self.progress.lock().expect("no panic while held");
        if progress.len() < PROGRESS_MAX {
            progress.push(line);
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        *self.phase.lock().expect("no panic while held") = phase;
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().expect("no panic while held")
    }

    fn progress_so_far(&self) -> Vec<String> {
        self.progress.lock().expect("no panic while held").clone()
    }

    /// Remembers how to ask a region's database whether it is ready.
    pub(crate) fn remember_database(&self, region: RegionId, database: Arc<Postgres>) {
        let mut databases = self.databases.lock().expect("no panic while held");
        drop(databases.insert(region, database));
    }

    fn database(&self, region: RegionId) -> Option<Arc<Postgres>> {
        self.databases.lock().expect("no panic while held").get(&region).cloned()
    }

    fn adopt(&self, part: Part, child: &Arc<Child>) {
        let mut children = self.children.lock().expect("no panic while held");
        drop(children.insert(part, Arc::clone(child)));
    }

    fn children(&self) -> BTreeMap<Part, Arc<Child>> {
        self.children.lock().expect("no panic while held").clone()
    }

    fn child(&self, part: Part) -> anyhow::Result<Arc<Child>> {
        self.children().remove(&part).context("it has not been started yet; try again in a moment")
    }

    /// Starts a program and waits until `is_ready` says so.
    pub(crate) async fn start<F>(
        &self,
        part: Part,
        spec: Spec,
        limit: Duration,
        is_ready: F,
    ) -> anyhow::Result<()>
    where
        F: AsyncFn() -> bool,
    {
        let setpriv = self.programs.setpriv.clone();
        let child = Arc::new(Child::start(spec, setpriv, Arc::clone(&self.registry)));
        self.adopt(part, &child);
        let spec = &child.spec;
        let wait = async {
            loop {
                let status = child.status();
                if let Some(death) = &status.last_death
                    && status.deaths >= DEATHS_AT_START_MAX
                {
                    anyhow::bail!(
                        "{} does not start ({death}):\n{}",
                        spec.name,
                        log_tail(&spec.log)
                    );
                }
                if status.state.pid().is_some() && is_ready().await {
                    return Ok(());
                }
                tokio::time::sleep(READY_POLL).await;
            }
        };
        tokio::time::timeout(limit, wait).await.unwrap_or_else(|_| {
            anyhow::bail!(
                "{} runs but is not ready after {} s:\n{}",
                spec.name,
                limit.as_secs(),
                log_tail(&spec.log)
            )
        })
    }

    /// Stops everything in order: first who takes requests, last who keeps the data.
    pub(crate) async fn stop(&self) {
        self.set_phase(Phase::Stopping);
        let children = self.children();
        for rank in 0..=Part::Postgres(self.config.default_region).rank() {
            let stopping = children
                .iter()
                .filter(|(part, _)| part.rank() == rank)
                .map(|(_, child)| child.tell(Order::Stop));
            futures::future::join_all(stopping).await;
            if rank == Part::PaymentSimulator.rank() {
                self.link_tasks.shut_down(Duration::from_secs(1)).await;
            }
        }
    }

    /// Kills everything at once. Databases recover at the next start.
    pub(crate) async fn kill(&self) {
        let children = self.children();
        futures::future::join_all(children.values().map(|child| child.tell(Order::Kill))).await;
    }

    /// Carries out a fault.
    pub(crate) async fn inflict(&self, request: Request) -> anyhow::Result<()> {
        match request {
            Request::Link { from, to, one_way, change } => {
                self.change_link(Way { from, to }, one_way, change)
            }
            Request::Component { region, component, action } => {
                self.change_component(region, component, action).await
            }
            Request::Status | Request::Down => Ok(()),
        }
    }

    fn change_link(&self, way: Way, one_way: bool, change: LinkChange) -> anyhow::Result<()> {
        for region in [way.from, way.to] {
            self.check_region(region)?;
        }
        self.links.change(way, one_way, |fault, base| change.apply(fault, base))
    }

    fn check_region(&self, region: RegionId) -> anyhow::Result<()> {
        let names: Vec<_> = self.config.regions.iter().map(|region| region.name.as_str()).collect();
        anyhow::ensure!(
            self.config.region(region).is_some(),
            "there is no region {region}; this deployment has {}",
            names.join(", ")
        );
        Ok(())
    }

    async fn change_component(
        &self,
        region: RegionId,
        component: Component,
        action: Action,
    ) -> anyhow::Result<()> {
        self.check_region(region)?;
        let parts = match component {
            Component::Server => vec![Part::Server(region)],
            Component::Postgres => vec![Part::Postgres(region)],
            Component::Nats => vec![Part::Nats(region)],
            Component::All => {
                vec![Part::Server(region), Part::Postgres(region), Part::Nats(region)]
            }
        };
        let children =
            parts.into_iter().map(|part| self.child(part)).collect::<anyhow::Result<Vec<_>>>()?;
        let order = match action {
            Action::Kill => Order::Kill,
            Action::Stop => Order::Freeze,
            Action::Start => Order::Start,
        };
        // A server that starts without its database dies and comes back later than it needs to.
        let (first, last) = match (order, children.split_first()) {
            (Order::Start, Some((server, stores))) if component == Component::All => {
                (stores, Some(server))
            }
            _ => (&children[..], None),
        };
        futures::future::join_all(first.iter().map(|child| child.tell(order))).await;
        if let Some(server) = last {
            self.wait_for_database(region).await;
            server.tell(order).await;
        }
        Ok(())
    }

    /// Waits until a region's database is ready; a server whose database isn't is restarted until it is.
    async fn wait_for_database(&self, region: RegionId) {
        let Some(database) = self.database(region) else { return };
        let ready = async {
            while !database.is_ready().await {
                tokio::time::sleep(READY_POLL).await;
            }
        };
        if tokio::time::timeout(DATABASE_WAIT, ready).await.is_err() {
            tracing::warn!(%region, "the database of {region} is not ready yet");
        }
    }

    /// What runs where, and how it is.
    pub(crate) async fn report(&self) -> anyhow::Result<Report> {
        let children = self.children();
        let pid = |part: Part| children.get(&part).and_then(|child| child.status().state.pid());
        let names = self.config.regions.iter().map(|region| region.name);
        let regions = names.enumerate().map(|(index, name)| self.region(index, name, &children));
        let load_balancer = format!("http://127.0.0.1:{}", self.ports.load_balancer());
        Ok(Report {
            console: format!("{load_balancer}/console"),
            load_balancer,
            payment_simulator: format!("http://127.0.0.1:{}", self.ports.payment_simulator()),
            data_dir: self.layout.data_dir().display().to_string(),
            phase: self.phase(),
            supervisor_pid: std::process::id(),
            load_balancer_pid: pid(Part::LoadBalancer),
            payment_simulator_pid: pid(Part::PaymentSimulator),
            regions: futures::future::try_join_all(regions).await?,
            link_faults: self.link_faults(),
            progress: self.progress_so_far(),
        })
    }

    fn link_faults(&self) -> Vec<LinkReport> {
        self.links
            .faults()
            .into_iter()
            .filter(|(_, fault)| *fault != Fault::default())
            .map(|(way, fault)| LinkReport {
                from: way.from.to_string(),
                to: way.to.to_string(),
                cut: fault.cut,
                latency_us: fault.latency_us,
                jitter_us: fault.jitter_us,
                loss_per_10_000: fault.loss_per_10_000,
            })
            .collect()
    }

    async fn region(
        &self,
        index: usize,
        name: RegionId,
        children: &BTreeMap<Part, Arc<Child>>,
    ) -> anyhow::Result<RegionReport> {
        let parts = [
            ("server", Part::Server(name)),
            ("postgres", Part::Postgres(name)),
            ("nats", Part::Nats(name)),
        ];
        let mut state = None;
        let mut deaths = Vec::new();
        let mut pids = Vec::new();
        for (program, part) in parts {
            let status = children.get(&part).map(|child| child.status());
            pids.push(status.as_ref().and_then(|status| status.state.pid()));
            let trouble = match status.as_ref().map(|status| status.state) {
                Some(State::Running(_)) => None,
                Some(State::Frozen(_)) => Some(format!("{program} is frozen")),
                Some(State::Restarting) => Some(format!("{program} is restarting")),
                Some(State::Down) => Some(format!("{program} is stopped")),
                None => Some("starting".to_owned()),
            };
            state = state.or(trouble);
            if let Some(last) = status.as_ref().and_then(|status| status.last_death.clone()) {
                let count = status.map_or(0, |status| status.deaths);
                deaths.push(Death { program: program.to_owned(), count, last });
            }
        }
        let state = match state {
            Some(trouble) => trouble,
            None => probe::readiness(self.ports.http(index)).await,
        };
        let database = |role: &str, secret: PathBuf| -> anyhow::Result<String> {
            let password = Secret::from_file(&secret).map_err(anyhow::Error::msg)?;
            let port = self.ports.postgres(index);
            Ok(format!("postgres://{role}:{}@127.0.0.1:{port}/{DATABASE}", password.expose()))
        };
        let nats_password = Secret::from_file(&self.layout.region_secret(name, "nats"))
            .map_err(anyhow::Error::msg)?;
        Ok(RegionReport {
            name: name.to_string(),
            url: format!("http://127.0.0.1:{}", self.ports.http(index)),
            database_url: database("entrepot_owner", self.layout.region_secret(name, "owner"))?,
            auditor_database_url: database(
                "entrepot_auditor",
                self.layout.region_secret(name, "auditor"),
            )?,
            nats_url: format!(
                "nats://{}:{}@127.0.0.1:{}",
                super::effective::NATS_USER,
                nats_password.expose(),
                self.ports.nats(index)
            ),
            pids: Pids { server: pids[0], postgres: pids[1], nats: pids[2] },
            state,
            deaths,
        })
    }
}
