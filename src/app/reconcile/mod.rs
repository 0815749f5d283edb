//! Runs reconciliation: each region looks at its own data and at the copies it holds; whoever is asked for a
//! report has all regions do so and adds up what they find.
//!
//! ```text
//!  POST ─► run ──┬─ own part:  copies against their origins ─► snapshot ─► payments ─► claims, sagas
//!                └─ Start ──► each peer, its own part ◄── Part (asked again until it is over)
//! ```
//!
//! A region's part has one process at a time and is safe to run twice. What a difference is, is decided in
//! [`crate::reconcile`]; here it is fetched, looked at again, and mended where that is safe.

mod catch_up;
mod claims;
mod copies;
mod mend;
mod money;
mod own;
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::ports::{
    Bus, PaymentGateway, PaymentLedger, Reachability, Reader, ReconcileStore, ReplicationStore,
    RequestKind, RetirementStore, StoreError, Turn,
};
use crate::reconcile::{Answer, Ask, Found, Report, Status};
use crate::replication::retirement::Retirement;
use crate::runtime::TaskSet;
use crate::types::{OrderId, RegionId, ReportId, SagaId};

use super::Region;

pub use server::ReconcileHandler;

/// Regions ask each other under this name.
pub const RECONCILE_REQUEST: RequestKind = RequestKind::named("reconcile");

/// For one answer of a peer: it reads up to 16,000 entries for it.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(200);

/// Why a region is not compared that is gone for good.
const GONE: &str = "it is gone for good, and what was known of it is with the others";

/// How long a run waits for another run of its region, and for the parts of the peers. What is not done by then is
/// named as not compared.
const PATIENCE: Duration = Duration::from_mins(15);

/// Reports that are kept: at one each five minutes, three and a half days.
pub const REPORTS_KEPT: u32 = 1_000;

/// A run that began so long ago and has not ended never will.
const RUN_MS_MAX: u64 = 3_600_000;

/// What reconciliation has others do.
#[async_trait]
pub trait Helpers: Send + Sync {
    /// Takes an open saga up now. `false`: it is over.
    async fn wake_saga(&self, saga: SagaId) -> Result<bool, StoreError>;
    /// Pulls the rows of rights in which a peer is ahead, and says how many.
    async fn pull_rights(&self, peer: RegionId) -> Result<usize, String>;
    /// Is told what each part found.
    fn found(&self, part: &Report);
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct ReconcileTimes {
    /// For a copy to arrive, before it counts as lost: regions must be equal within 30 s (I-20).
    pub catch_up: Duration,
    /// After which an open saga is stuck (I-16).
    pub saga_stuck: Duration,
}

/// How much a run looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// For somebody who asked.
    Everything,
    /// Of what never changes again, the next part only: what was compared in an earlier round stays compared.
    Round,
}

/// How far the rounds of this process have come. A new process begins anew, and so does every run that is asked
/// for, so nothing rests on it.
#[derive(Debug, Default)]
pub struct Progress {
    folded: Option<OrderId>,
    envelopes: BTreeMap<RegionId, String>,
}

/// One region's reconciliation.
pub struct Reconciler {
    /// Who we are.
    pub region: Arc<Region>,
    /// This region's database.
    pub store: Arc<dyn ReconcileStore>,
    /// Its outbox and watermarks.
    pub replication: Arc<dyn ReplicationStore>,
    /// Its sagas and catalogue.
    pub reader: Arc<dyn Reader>,
    /// The way to the peers.
    pub bus: Arc<dyn Bus>,
    /// Which of them are there.
    pub reachability: Arc<dyn Reachability>,
    /// Which of them are gone for good.
    pub retirements: Arc<dyn RetirementStore>,
    /// Says what it holds under a key, and lets go.
    pub gateway: Arc<dyn PaymentGateway>,
    /// The provider's books.
    pub ledger: Arc<dyn PaymentLedger>,
    /// What others do.
    pub helpers: Arc<dyn Helpers>,
    /// Owner of the tasks.
    pub tasks: TaskSet,
    /// How long things may take.
    pub times: ReconcileTimes,
    /// What the next round goes on with.
    pub progress: Mutex<Progress>,
}

impl Reconciler {
    /// Begins a run over all regions and answers at once; [`Self::report`] tells how it stands.
    pub async fn begin(
        self: &Arc<Self>,
        asked_by: &str,
        repair: bool,
    ) -> Result<Report, StoreError> {
        let id = ReportId(self.region.order_id().0);
        let report = Report::begin(id, asked_by, repair, self.region.clock.wall_ms());
        self.store.keep(&report).await?;
        let (reconciler, run) = (Arc::clone(self), report.clone());
        let stop = self.tasks.stopping();
        drop(self.tasks.spawn("reconcile", async move {
            let stopped = run.clone();
            if stop.run_until_cancelled(reconciler.run_everywhere(run)).await.is_none() {
                reconciler.give_up(stopped).await;
            }
        }));
        Ok(report)
    }

    /// A run that was begun here.
    pub async fn report(&self, id: ReportId) -> Result<Option<Report>, StoreError> {
        self.store.report(id).await
    }

    /// One round of this region by itself, unless somebody else of it is at it.
    pub async fn round(&self) -> Result<(), StoreError> {
        let Some(turn) = self.store.turn().await? else { return Ok(()) };
        let id = ReportId(self.region.order_id().0);
        let mut report = Report::begin(id, "timer", false, self.region.clock.wall_ms());
        self.part(&mut report, Scope::Round).await;
        drop(turn);
        self.store.keep(&report).await?;
        let before_ms = self.region.clock.wall_ms().saturating_sub(RUN_MS_MAX);
        self.store.tidy(before_ms, REPORTS_KEPT).await
    }

    async fn run_everywhere(&self, mut report: Report) {
        let (own, others) =
            tokio::join!(self.run_own(report.clone()), self.parts_of_peers(&report));
        report.absorb(own);
        for part in others {
            report.absorb(part);
        }
        report.regions.sort_unstable();
        report.not_compared.sort();
        self.end(&mut report);
        if let Err(error) = self.store.keep(&report).await {
            tracing::warn!(%error, "a reconciliation's report could not be stored");
        }
    }

    /// The process ends before the run does.
    async fn give_up(&self, mut report: Report) {
        report.status = Status::Failed;
        report.error = Some("its server was stopped; run it again".to_owned());
        self.end(&mut report);
        if let Err(error) = self.store.keep(&report).await {
            tracing::warn!(%error, "that a reconciliation was given up could not be stored");
        }
    }

    fn end(&self, report: &mut Report) {
        report.finished_at_ms = Some(self.region.clock.wall_ms());
        if report.status == Status::Running {
            report.status = Status::Finished;
        }
    }

    /// This region's part, once it is its turn.
    async fn run_own(&self, mut report: Report) -> Report {
        let wait = tokio::time::timeout(PATIENCE, self.wait_for_turn());
        match wait.await {
            Ok(Ok(_turn)) => self.part(&mut report, Scope::Everything).await,
            Ok(Err(error)) => {
                report.status = Status::Failed;
                report.error = Some(error.to_string());
            }
            Err(_) => {
                let why = "another run of this region does not end";
                report.leave_out(self.region.id, self.region.id.to_string(), why);
            }
        }
        report
    }

    async fn wait_for_turn(&self) -> Result<Box<dyn Turn>, StoreError> {
        loop {
            if let Some(turn) = self.store.turn().await? {
                return Ok(turn);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Looks at everything of this region. An error of its database ends the part, and is in the report.
    async fn part(&self, report: &mut Report, scope: Scope) {
        if let Err(error) = self.look(report, scope).await {
            report.status = Status::Failed;
            report.error = Some(format!("{}: {error}", self.region.id));
        }
        self.end(report);
        report.regions.push(self.region.id);
        for difference in &report.differences {
            tracing::error!(
                class = difference.class.code(), invariant = difference.class.invariant().code(),
                subject = difference.subject, expected = difference.expected, found = difference.found,
                peer.region = ?difference.peer, repair = ?difference.repair,
                "a difference: {} ({})", difference.class, difference.subject
            );
        }
        self.helpers.found(report);
    }

    async fn look(&self, report: &mut Report, scope: Scope) -> Result<(), StoreError> {
        let gone = self.gone().await?;
        for peer in self.bus.peers() {
            if gone.contains(&peer) {
                report.leave_out(self.region.id, peer.to_string(), GONE);
            } else {
                self.compare_with(report, scope, peer).await?;
            }
        }
        let ledger = self.read_ledger(report).await?;
        let counted_on = self.scan(report, scope, &ledger).await?;
        self.settle_money(report, ledger, counted_on).await?;
        self.look_at_claims(report).await?;
        self.look_at_sagas(report).await
    }

    /// Peers that are gone for good, and of which all that is known was put together: nothing that is not here, or with
    /// one of the others, will ever be heard of them. A database that may have forgotten something may not know that one is back.
    async fn gone(&self) -> Result<BTreeSet<RegionId>, StoreError> {
        if !self.region.may_write() {
            return Ok(BTreeSet::new());
        }
        let ended = self.retirements.ended().await?;
        Ok(ended.into_iter().filter(Retirement::is_done).map(|it| it.region).collect())
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("no panic while held")
    }

    /// Has each peer run its part.
    async fn parts_of_peers(&self, report: &Report) -> Vec<Report> {
        // Where that can't be read nobody is passed over.
        let gone = self.gone().await.unwrap_or_default();
        let peers = self.bus.peers().into_iter().filter(|peer| !gone.contains(peer));
        let parts = peers.map(|peer| async move {
            match tokio::time::timeout(PATIENCE, self.part_of(peer, report)).await {
                Ok(Ok(part)) => part,
                Ok(Err(why)) => self.left_out(report, peer, &why),
                Err(_) => self.left_out(report, peer, "its part does not end"),
            }
        });
        futures::future::join_all(parts).await
    }

    fn left_out(&self, report: &Report, peer: RegionId, why: &str) -> Report {
        let Report { id, asked_by, repair, started_at_ms, .. } = report;
        let mut part = Report::begin(*id, asked_by, *repair, *started_at_ms);
        part.leave_out(self.region.id, peer.to_string(), why);
        part
    }

    async fn part_of(&self, peer: RegionId, report: &Report) -> Result<Report, String> {
        let (run, repair, asked_by) = (report.id, report.repair, report.asked_by.clone());
        self.ask(peer, &Ask::Start { run, repair, asked_by }).await?;
        loop {
            let Answer::Part(Some(part)) = self.ask(peer, &Ask::Part(run)).await? else {
                return Err("it does not know of the run any more".to_owned());
            };
            if part.status != Status::Running {
                return Ok(*part);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks a peer. The error says why there is no answer.
    async fn ask(&self, peer: RegionId, ask: &Ask) -> Result<Answer, String> {
        let request = serde_json::to_vec(ask).map_err(|error| error.to_string())?;
        if !self.reachability.reachable().contains(&peer) {
            return Err("it can't be reached".to_owned());
        }
        let request = Bytes::from(request);
        let answer = self.bus.request(peer, RECONCILE_REQUEST, request, ANSWER_LIMIT).await;
        let answer = answer.map_err(|error| error.to_string())?;
        serde_json::from_slice(&answer)
            .map_err(|error| format!("its answer is of another version: {error}"))
    }

    /// Enters a difference; with `repair` asked for, `mend` is done about it.
    async fn enter<F>(&self, report: &mut Report, found: Found, mend: F)
    where
        F: Future<Output = Result<String, String>>,
    {
        let repair = report.repair;
        if let Some(entry) = report.add(self.region.id, found)
            && repair
        {
            entry.repair =
                Some(mend.await.unwrap_or_else(|why| format!("could not be repaired: {why}")));
        }
    }
}
