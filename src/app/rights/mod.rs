//! Rights between regions: obtaining them on demand, giving them, copying the rows.
//!
//! ```text
//!  order is short ─► Granter ── TRANSFER ──► Giver of a peer ─► its database, once per request
//!                      │  ◄── rows, grant ───┘
//!                      ▼
//!                    learn ─► this region's database ─► Raises ── PREPARE, ACCEPT ──► a majority's databases
//!                      ▲  ▲
//!  peers' rows ────────┘  └──── pulled rows, where digests differ
//! ```
//!
//! What arrives is stored by [`Rights::learn`] and nowhere else; the decisions are in
//! [`crate::escrow`], the transactions in [`crate::ports::RightsStore`].

mod acceptor;
mod board;
mod fence;
mod giver;
mod granter;
mod peers_rows;
mod proposer;
mod raises;
mod transfer;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::escrow::{Digest, KeyedRow, MergeError, Voter, Voters, of_living};
use crate::mutants::{Mutant, is_on};
use crate::ports::{
    Bus, Clock, Credit, Ids, MergeReport, Reachability, RegisterStore, RequestKind, RightsStore,
    StoreError,
};
use crate::types::{Actor, Epoch, RegionId};

pub use acceptor::{AcceptHandler, PrepareHandler};
pub use board::{Board, KeyWish};
pub use fence::{FenceError, TakenOver};
pub use giver::Giver;
pub use granter::{Granter, ask_peer};
pub use peers_rows::{Compared, DigestHandler, PullHandler, repair_from};
pub(crate) use proposer::needed;
pub use proposer::{ProposeError, Proposer};
pub use raises::{Raises, ledgers_by_key};
pub use transfer::{TransferError, transfer};
pub use waiting::Waiting;

use super::DirtyRows;

/// A peer asks for rights.
pub const TRANSFER: RequestKind = RequestKind::named("transfer-rights");
/// A peer asks for the sums of all rows.
pub const ROWS_DIGEST: RequestKind = RequestKind::named("rows-digest");
/// A peer asks for rows in which it differs.
pub const ROWS_PULL: RequestKind = RequestKind::named("rows-pull");

/// A proposer asks for promises.
pub const PREPARE: RequestKind = RequestKind::named("registers-prepare");
/// A proposer asks for values to be stored.
pub const ACCEPT: RequestKind = RequestKind::named("registers-accept");

/// Called with the evidence that this region's database was set back. Selling on could oversell.
pub type AmnesiaAlarm = dyn Fn(String) + Send + Sync;

/// What everything about rights shares in one process.
pub struct Rights {
    /// This region, in its incarnation.
    pub own: Actor,
    /// The region that votes and sells nothing: nobody gives it anything, and it takes over from nobody.
    pub witness: Option<RegionId>,
    /// Its database.
    pub store: Arc<dyn RightsStore>,
    /// The registers of ceilings in it.
    pub registers: Arc<dyn RegisterStore>,
    /// The way to the peers.
    pub bus: Arc<dyn Bus>,
    /// Which of them are worth asking.
    pub reachability: Arc<dyn Reachability>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names of requests.
    pub ids: Arc<dyn Ids>,
    /// Own rows to ship.
    pub dirty: Arc<DirtyRows>,
    /// What sells how fast, here and elsewhere.
    pub board: Board,
    /// What orders here wait for.
    pub waiting: Waiting,
    /// Ceilings to raise.
    pub raises: Raises,
    /// Incarnations whose raises a survivor has ended, as far as this region knows: nothing is given to them.
    pub fenced: Mutex<BTreeSet<Actor>>,
    /// How far each acceptor is known to have voted.
    pub voters: Mutex<Voters>,
    /// The latest incarnation of each region that began anew. Of an earlier one only its last row is taken: what comes
    /// otherwise is no news and no proof of anything. The database sees to it when it stores rows, whatever is known here.
    pub latest: Mutex<BTreeMap<RegionId, Epoch>>,
    /// Those that this process has fenced, and goes on taking over from.
    pub fences: Mutex<BTreeMap<Actor, Proposer>>,
    /// The sums of all rows and when the scan for them began and ended, shared by this region's comparisons and those of
    /// its peers: they read the whole table.
    pub sums: tokio::sync::Mutex<Option<(u64, u64, Arc<Digest>)>>,
    /// Whether this region takes orders: one that does not asks for no rights ahead of demand.
    pub takes_orders: Box<dyn Fn() -> bool + Send + Sync>,
    /// Whether rights may be given away: not when this region's database forgot what it sold.
    pub may_give: Box<dyn Fn() -> bool + Send + Sync>,
    /// How old they may be.
    pub sums_age: Duration,
    /// How long a peer may take to answer.
    pub request_timeout: Duration,
    /// Whom to tell that this region itself was fenced, or is not any more.
    pub on_fenced: Box<dyn Fn(bool) + Send + Sync>,
    /// Whom to tell of amnesia.
    pub on_amnesia: Box<AmnesiaAlarm>,
}

impl Rights {
    /// Peers that sell, and hear this region as it hears them.
    pub fn sellers(&self) -> Vec<RegionId> {
        let mut reachable = self.reachability.reachable();
        let all = is_on(Mutant::WitnessInherits);
        reachable.retain(|region| all || self.witness != Some(*region));
        reachable
    }

    /// Stores what peers' rows bring, and looks into what must not be merged.
    pub async fn learn(
        &self,
        rows: &[KeyedRow],
        credits: &[Credit],
    ) -> Result<MergeReport, StoreError> {
        let rows = {
            let latest = self.latest.lock().expect("no panic while held");
            of_living(rows, &latest)
        };
        let report = self.store.merge(&rows, credits).await?;
        self.take_note(&report);
        Ok(report)
    }

    /// How far the acceptors are known to have voted when a process starts: as `noted`, and in their latest incarnations.
    pub fn voters_of(latest: &BTreeMap<RegionId, Epoch>, mut noted: Voters) -> Voters {
        for (region, epoch) in latest {
            let known = noted.entry(*region).or_insert(Voter::UNKNOWN);
            *known = Voter { epoch: *epoch, votes: 0 }.max(*known);
        }
        noted
    }

    /// Another region's incarnation begins.
    pub fn note_incarnation(&self, region: RegionId, epoch: Epoch) {
        let mut latest = self.latest.lock().expect("no panic while held");
        let known = latest.entry(region).or_insert(epoch);
        *known = epoch.max(*known);
        drop(latest);
        self.heard_vote(region, Voter { epoch, votes: 0 });
    }

    /// The sums of all rows that this region holds, of now or a little earlier: a comparison with old
    /// sums pulls rows that turn out to be known, or finds a difference the next time.
    /// `fresh` ones are not older than the call.
    pub async fn digest(&self, fresh: bool) -> Result<Arc<Digest>, StoreError> {
        let asked_ms = self.clock.monotonic_ms();
        let mut sums = self.sums.lock().await;
        let now_ms = self.clock.monotonic_ms();
        // Who waited for another's scan that began later than the question takes its result.
        if let Some((begun_ms, _, digest)) = sums.as_ref()
            && *begun_ms >= asked_ms
        {
            return Ok(Arc::clone(digest));
        }
        if let Some((_, made_ms, digest)) = sums.as_ref()
            && !fresh
            && Duration::from_millis(now_ms.saturating_sub(*made_ms)) < self.sums_age
        {
            return Ok(Arc::clone(digest));
        }
        let digest = Arc::new(self.store.digest().await?);
        *sums = Some((now_ms, self.clock.monotonic_ms(), Arc::clone(&digest)));
        Ok(digest)
    }

    /// There is proof that this region's database was set back.
    pub fn forgot(&self, proof: String) {
        (self.on_amnesia)(proof);
    }

    /// A survivor has ended an incarnation's raises, or it is back.
    pub fn note_fenced(&self, owner: Actor, is_fenced: bool) {
        let is_news = {
            let mut fenced = self.fenced.lock().expect("no panic while held");
            if is_fenced { fenced.insert(owner) } else { fenced.remove(&owner) }
        };
        if !is_news || owner.epoch == Epoch::NONE {
            return;
        }
        if owner == self.own {
            (self.on_fenced)(is_fenced);
        } else if is_fenced {
            tracing::warn!(%owner, "{owner} is fenced: what it had not sold is taken over");
        } else {
            tracing::info!(%owner, "{owner} is back");
        }
    }

    /// Notes which peers are fenced by what this region's acceptor has promised; promises given at once may have
    /// been noted in another order. Of itself a region learns from its own proposals and its return only.
    pub async fn read_fences(&self) -> Result<(), StoreError> {
        let promised = self.registers.fenced().await?;
        let noted = self.fenced.lock().expect("no panic while held").clone();
        // Another process of this region may have been told.
        for peer in self.bus.peers() {
            let latest = self.registers.latest(peer).await?;
            if latest > Epoch::FIRST {
                self.note_incarnation(peer, latest);
            }
        }
        for owner in promised.symmetric_difference(&noted).filter(|owner| **owner != self.own) {
            self.note_fenced(*owner, promised.contains(owner));
        }
        Ok(())
    }

    /// Does this region know that somebody was fenced?
    pub fn is_fenced(&self, actor: Actor) -> bool {
        self.fenced.lock().expect("no panic while held").contains(&actor)
    }

    /// Was the latest known incarnation of a region fenced?
    pub fn is_fenced_region(&self, region: RegionId) -> bool {
        let fenced = self.fenced.lock().expect("no panic while held");
        let is_of = |actor: &&Actor| actor.region == region && actor.epoch != Epoch::NONE;
        let latest = fenced.iter().rfind(is_of);
        let heard = self.reachability.epoch_of(region);
        latest.is_some_and(|actor| heard.is_none_or(|heard| heard <= actor.epoch))
    }

    /// Draws the conclusions from a merge.
    pub(super) fn take_note(&self, report: &MergeReport) {
        let now_ms = self.clock.monotonic_ms();
        for row in &report.changed {
            self.board.saw(row, now_ms);
        }
        // What came in lets the ceilings run further ahead.
        self.raises.want(report.credited.keys().map(|key| (key.clone(), 0)));
        for (key, error) in &report.refused {
            let (sku, node) = (&key.sku, &key.node);
            tracing::error!(%sku, %node, %error, "a peer's row is not merged: {error}");
            if matches!(error, MergeError::Amnesia { .. }) {
                self.forgot(format!("{sku} at {node}: {error}"));
            }
        }
    }
}
