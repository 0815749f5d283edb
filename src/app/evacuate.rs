//! Giving a region up while it lives: the planned way out.
//!
//! ```text
//! drain ──► settle: open sagas end ──► hand over rights ──► move orders ──► verify: the others have all of it
//! └──────────── can be aborted ─────────────────────────┘   └── goes to its end ──┘
//! ```
//!
//! One other region gets everything; rebalancing moves rights on to where they sell. Each step can be done again, so
//! what was interrupted is begun again from the beginning, also by another process of the region. Nothing here is
//! needed for safety: a region that is lost half-way is fenced like any other.
//!
//! One process carries it out, and tells the database how far it is; whichever process is asked reads it there, and asks
//! there for its end. That and the first order that moves are told in one row, so one of the two comes first. Each transaction
//! that moves orders looks at that row: a process that stood still, and was taken for gone, moves nothing beside what was
//! begun since.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::move_orders::{MoveError, Moves, move_away};
use super::rejoin::REJOIN;
use super::rights::{Rights, TransferError, transfer};
use super::{NOTICED_WITHIN, Region, Signals, Stops, Workspace};
use crate::domain::evacuation::{Evacuating, LOST_AFTER_MS, Progress, Stage};
use crate::escrow::{KeyedRow, ROWS_PER_MESSAGE_MAX};
use crate::ports::store::{Mandate, SagaFilter};
use crate::ports::{
    Bus, EvacuationStore, Reader, ReplicationError, ReplicationStore, Store, StoreError,
};
use crate::replication::Position;
use crate::replication::rejoin::{Answer, Ask, ITEMS_MAX};
use crate::runtime::TaskSet;
use crate::types::{OrderId, RegionId, StockKey, TransferId};

/// A payment that a provider decides later takes minutes: such an order is told, and people decide.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// Replication takes seconds at the worst.
const VERIFIED_WITHIN: Duration = Duration::from_secs(30);
/// Between looks.
const LOOK: Duration = Duration::from_millis(100);
/// How often the process that carries it out tells how far it is: often enough that it is soon known to be gone
/// ([`LOST_AFTER_MS`]), and that whoever aborts it does not wait.
const TELL: Duration = Duration::from_millis(500);
/// How long whoever aborts it waits for its end: a page of transfers takes seconds where peers are slow.
const ABORTED_WITHIN: Duration = Duration::from_secs(10);
/// For one question to a peer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Orders in one transaction: each is told whole, some 10 KiB.
const ORDERS_AT_ONCE: usize = 50;
/// Orders listed at once.
const ORDERS_PER_PAGE: u32 = 1_000;
/// Transfers under way at once: one transaction each.
const TRANSFERS_AT_ONCE: usize = 8;
/// How often all keys are gone through: rights that were on their way here arrive meanwhile.
const PASSES_MAX: usize = 3;

/// What an evacuation would have to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burden {
    /// Who would get everything.
    pub to: RegionId,
    /// Orders that would move.
    pub orders: u64,
    /// Orders that are on their way, and would be waited for.
    pub undecided: u64,
    /// Units that would move.
    pub units: u64,
}

/// Why an evacuation did not go through. What was done by then stands; asked again, the rest is done.
#[derive(Debug, thiserror::Error)]
pub enum EvacuationError {
    /// Nobody who could take over.
    #[error("no other region that could take over is in reach")]
    NobodyThere,
    /// The region that was named.
    #[error("{0} can't take over: it is not in reach, or was fenced")]
    NotThere(RegionId),
    /// This region's database is not to be trusted.
    #[error("this region's database was set back, or may have been: it hands nothing over")]
    NotTrusted,
    /// Some orders don't come to an end.
    #[error("orders are on their way that were not decided within {} s: see `GET /admin/sagas`", SETTLED_WITHIN.as_secs())]
    Undecided,
    /// It was aborted.
    #[error("it was aborted")]
    Aborted,
    /// Orders that this region may not move.
    #[error(
        "{0} orders are still here: they are undecided or being undone, or no majority lets this region act on its orders"
    )]
    Left(u64),
    /// A region does not have everything.
    #[error("{region} has not applied everything within {} s", VERIFIED_WITHIN.as_secs())]
    NotApplied {
        /// Which.
        region: RegionId,
    },
    /// There is none that could be aborted. What has ended by itself has left the region without orders.
    #[error(
        "no evacuation is under way here: where one has ended and {0} takes no orders, `entrepot region resume {0}` puts it \
         back into traffic"
    )]
    NoneUnderWay(RegionId),
    /// This process told nothing for so long that another one has begun anew, or an operator had the region take orders again.
    #[error(
        "this server stood still, and an evacuation was begun anew or the region was resumed meanwhile: it hands over nothing \
         more, what it had handed over stays where it is"
    )]
    Ended,
    /// It is too late.
    #[error(
        "orders have moved already: let it go to its end, and evacuate the other region if they are to come back"
    )]
    PastReturn,
    /// Rights could not be moved.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// Orders could not be moved.
    #[error(transparent)]
    Move(MoveError),
    /// The own database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The own outbox.
    #[error(transparent)]
    Log(#[from] ReplicationError),
}

/// See the module.
pub struct Evacuation {
    /// This region.
    pub region: Arc<Region>,
    /// What it may sell.
    pub rights: Arc<Rights>,
    /// Its database, to read.
    pub reader: Arc<dyn Reader>,
    /// The same, to move orders.
    pub store: Arc<dyn Store>,
    /// Whom to wake.
    pub signals: Signals,
    /// Whether it takes orders.
    pub stops: Arc<Stops>,
    /// What it wrote.
    pub log: Arc<dyn ReplicationStore>,
    /// The way to the others.
    pub bus: Arc<dyn Bus>,
    /// Owner of the tasks.
    pub tasks: TaskSet,
    /// What the region's processes know of it.
    pub known: Arc<dyn EvacuationStore>,
    /// One word to them at a time: the last one told is the latest.
    pub telling: tokio::sync::Mutex<()>,
}

impl Evacuation {
    /// What an evacuation would have to do now. Changes nothing.
    pub async fn weigh(&self, to: Option<RegionId>) -> Result<Burden, EvacuationError> {
        let to = self.heir(to)?;
        let (mut burden, mut after) = (Burden { to, orders: 0, undecided: 0, units: 0 }, None);
        loop {
            let page = self.reader.standing(self.region.id, after, ORDERS_PER_PAGE).await?;
            for (_, is_decided) in &page {
                burden.orders += u64::from(*is_decided);
                burden.undecided += u64::from(!is_decided);
            }
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
        }
        let mut after = None;
        loop {
            let page = self.keys(after.as_ref()).await?;
            let Some(last) = page.last().cloned() else { return Ok(burden) };
            burden.units += self.held(&page).await?.iter().map(|(_, units)| units).sum::<u64>();
            after = Some(last);
        }
    }

    /// Begins one, or follows what was begun, whichever process carries it out: with the name of a run, only that one.
    /// Answers how far it is when it has ended, or after `patience`.
    pub async fn follow(
        self: &Arc<Self>,
        to: Option<RegionId>,
        follows: Option<Uuid>,
        patience: Duration,
    ) -> Result<Progress, EvacuationError> {
        let run = match follows {
            Some(run) => run,
            None => self.begin(to).await?,
        };
        self.wait_for(run, patience).await
    }

    /// How far one is that something is being done about, whichever process carries it out.
    pub async fn under_way(&self) -> Result<Option<Progress>, StoreError> {
        let now_ms = self.region.clock.wall_ms();
        let known = self.known.evacuation().await?;
        Ok(known.filter(|known| known.is_under_way(now_ms)).map(|known| known.progress))
    }

    /// Ends one that has not moved orders yet, and takes orders again unless an operator has drained the region. Rights that
    /// have moved come back as they are needed. With the name of a run, only that one; asked again, it tells how it ended.
    pub async fn abort(&self, follows: Option<Uuid>) -> Result<Progress, EvacuationError> {
        let known = self.known.evacuation().await?;
        let none = || EvacuationError::NoneUnderWay(self.region.id);
        let known = known.ok_or_else(none)?.into_progress(self.region.clock.wall_ms());
        if follows.is_some_and(|run| run != known.run) {
            return Err(none());
        }
        let has_aborted = follows.is_some() && known.stage == Stage::Aborted;
        if !has_aborted
            && (known.stage.is_over() || !self.known.abort_evacuation(known.run).await?)
        {
            let is_under_way = !known.stage.is_over();
            return Err(if is_under_way || known.orders > 0 {
                EvacuationError::PastReturn
            } else {
                none()
            });
        }
        let now = self.wait_for(known.run, ABORTED_WITHIN).await?;
        self.stops.look().await?;
        match now.stage {
            Stage::Done | Stage::Failed if now.orders > 0 => Err(EvacuationError::PastReturn),
            Stage::Done | Stage::Failed => Err(none()),
            Stage::Aborted
            | Stage::Settling
            | Stage::MovingRights
            | Stage::MovingOrders
            | Stage::Verifying => Ok(now),
        }
    }

    async fn wait_for(&self, run: Uuid, patience: Duration) -> Result<Progress, EvacuationError> {
        let begun_ms = self.region.clock.monotonic_ms();
        loop {
            let known = self.known.evacuation().await?.filter(|known| known.progress.run == run);
            let known = known.ok_or(EvacuationError::NoneUnderWay(self.region.id))?;
            let now = known.into_progress(self.region.clock.wall_ms());
            let waited_ms = self.region.clock.monotonic_ms().saturating_sub(begun_ms);
            if now.stage.is_over() || Duration::from_millis(waited_ms) >= patience {
                return Ok(now);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Answers the name of what is under way now.
    async fn begin(self: &Arc<Self>, to: Option<RegionId>) -> Result<Uuid, EvacuationError> {
        let now_ms = self.region.clock.wall_ms();
        let known = self.known.evacuation().await?;
        if let Some(known) = known.filter(|known| known.is_under_way(now_ms)) {
            return Ok(known.progress.run);
        }
        let (run, to) = (self.region.ids.uuid(), self.heir(to)?);
        let begun = Progress { run, to, stage: Stage::Settling, orders: 0, units: 0, detail: None };
        let lost_ms = now_ms.saturating_sub(LOST_AFTER_MS);
        let Evacuating { progress: now, .. } =
            self.known.begin_evacuation(self.region.epoch, &begun, now_ms, lost_ms).await?;
        if now.run == run {
            let evacuation = Arc::clone(self);
            drop(self.tasks.spawn("evacuation", async move { evacuation.run(begun).await }));
        }
        Ok(now.run)
    }

    async fn run(&self, begun: Progress) {
        let (run, to, abort) = (begun.run, begun.to, CancellationToken::new());
        let (told, _) = watch::channel(begun);
        let outcome = tokio::select! {
            biased;
            outcome = self.carry_out(run, to, &told, &abort) => outcome,
            ended = self.keep_telling(&told, &abort) => Err(ended),
        };
        let (stage, why) = match outcome {
            Ok(()) => (Stage::Done, None),
            Err(EvacuationError::Aborted) => (Stage::Aborted, None),
            Err(error) => (Stage::Failed, Some(error.to_string())),
        };
        tracing::warn!(%to, stage = stage.as_str(), why, "the evacuation of this region has ended");
        told.send_modify(|progress| {
            progress.stage = stage;
            progress.detail = why.or(progress.detail.take());
        });
        // Who is not told by then takes this process for gone, and the evacuation for failed. Where another one was begun since,
        // nobody asks for this one.
        let until_told = async {
            while !matches!(self.tell(&told).await, Ok(_) | Err(EvacuationError::Ended)) {
                tokio::time::sleep(LOOK).await;
            }
        };
        drop(tokio::time::timeout(Duration::from_millis(LOST_AFTER_MS), until_told).await);
    }

    /// Tells the region's processes how far it is. Answers whether its end was asked for before that.
    async fn tell(&self, told: &watch::Sender<Progress>) -> Result<bool, EvacuationError> {
        let _alone = self.telling.lock().await;
        let progress = told.borrow().clone();
        let now_ms = self.region.clock.wall_ms();
        let abort = self.known.tell_evacuation(&progress, now_ms).await?;
        abort.ok_or(EvacuationError::Ended)
    }

    /// Ends when another process has begun anew, or the region was resumed.
    async fn keep_telling(
        &self,
        told: &watch::Sender<Progress>,
        abort: &CancellationToken,
    ) -> EvacuationError {
        loop {
            match self.tell(told).await {
                Ok(true) => abort.cancel(),
                Ok(false) => {}
                Err(EvacuationError::Ended) => return EvacuationError::Ended,
                Err(error) => {
                    tracing::debug!(%error, "how far the evacuation is is told later: {error}");
                }
            }
            tokio::time::sleep(TELL).await;
        }
    }

    /// The region that gets everything: the one that was named, or the first in reach.
    fn heir(&self, named: Option<RegionId>) -> Result<RegionId, EvacuationError> {
        if !self.region.may_write() {
            return Err(EvacuationError::NotTrusted);
        }
        let fit = |region: &RegionId| {
            self.region.is_seller(*region) && !self.rights.is_fenced_region(*region)
        };
        let mut there = self.rights.reachability.reachable().into_iter().filter(fit);
        match named {
            Some(named) if there.any(|region| region == named) => Ok(named),
            Some(named) => Err(EvacuationError::NotThere(named)),
            None => there.next().ok_or(EvacuationError::NobodyThere),
        }
    }

    async fn carry_out(
        &self,
        run: Uuid,
        to: RegionId,
        told: &watch::Sender<Progress>,
        abort: &CancellationToken,
    ) -> Result<(), EvacuationError> {
        let stage = |stage| told.send_modify(|progress| progress.stage = stage);
        self.stops.look().await?;
        // Another process of the region may not know it yet, and ask for rights.
        tokio::time::sleep(NOTICED_WITHIN).await;
        self.settle(abort).await?;
        stage(Stage::MovingRights);
        for _ in 0..PASSES_MAX {
            if self.hand_over_rights(to, told, abort).await? == 0 {
                break;
            }
        }
        stage(Stage::MovingOrders);
        // Whoever aborts later is told that it is too late.
        if self.tell(told).await? {
            return Err(EvacuationError::Aborted);
        }
        let mut left = 0;
        for _ in 0..PASSES_MAX {
            left = self.move_orders(run, to, told).await?;
            if left == 0 {
                break;
            }
            self.settle(&CancellationToken::new()).await?;
        }
        if left > 0 {
            return Err(EvacuationError::Left(left));
        }
        stage(Stage::Verifying);
        self.verify(to, told).await
    }

    /// Waits until no order is on its way any more.
    async fn settle(&self, abort: &CancellationToken) -> Result<(), EvacuationError> {
        let settled = async {
            loop {
                if abort.is_cancelled() {
                    return Err(EvacuationError::Aborted);
                }
                let mut open = 0;
                for filter in [SagaFilter::Running, SagaFilter::Compensating] {
                    open += self.reader.sagas(filter, None, 1).await?.len();
                }
                if open == 0 {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(SETTLED_WITHIN, settled)
            .await
            .unwrap_or(Err(EvacuationError::Undecided))
    }

    async fn keys(&self, after: Option<&StockKey>) -> Result<Vec<StockKey>, StoreError> {
        self.rights.store.held_by(self.rights.own, after, ROWS_PER_MESSAGE_MAX).await
    }

    /// What this region may pass on of some keys, above and below its ceilings.
    async fn held(&self, keys: &[StockKey]) -> Result<Vec<(StockKey, u64)>, StoreError> {
        let rows = self.rights.store.rows(&keys.iter().cloned().collect()).await?;
        let ledgers = self.rights.ledgers_by_key(&rows).into_iter();
        let held = ledgers.map(|(key, ledger)| (key, ledger.rights(self.rights.own)));
        Ok(held.filter(|(_, units)| *units > 0).collect())
    }

    /// One pass over all keys. Answers the units that were moved.
    async fn hand_over_rights(
        &self,
        to: RegionId,
        told: &watch::Sender<Progress>,
        abort: &CancellationToken,
    ) -> Result<u64, EvacuationError> {
        let (mut moved, mut after) = (0, None);
        loop {
            if abort.is_cancelled() {
                return Err(EvacuationError::Aborted);
            }
            let page = self.keys(after.as_ref()).await?;
            let Some(last) = page.last().cloned() else { return Ok(moved) };
            let held = self.held(&page).await?;
            self.rights.raise(held.iter().cloned()).await;
            let transfers = held.into_iter().map(|(key, units)| self.hand_over(key, to, units));
            let mut transfers =
                futures::stream::iter(transfers).buffer_unordered(TRANSFERS_AT_ONCE);
            while let Some(units) = transfers.next().await {
                let units = units?;
                moved += units;
                told.send_modify(|progress| progress.units += units);
            }
            after = Some(last);
        }
    }

    /// What could not be raised, because no majority is in reach, is moved as far as it is open.
    async fn hand_over(
        &self,
        key: StockKey,
        to: RegionId,
        units: u64,
    ) -> Result<u64, TransferError> {
        let id = TransferId(self.region.ids.uuid());
        let open = match transfer(&self.rights, id, &key, to, units).await {
            Ok(_) => return Ok(units),
            Err(TransferError::Insufficient { spendable }) => spendable,
            Err(error) => return Err(error),
        };
        if open == 0 {
            return Ok(0);
        }
        let id = TransferId(self.region.ids.uuid());
        match transfer(&self.rights, id, &key, to, open).await {
            Ok(_) => Ok(open),
            Err(TransferError::Insufficient { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// One pass over all orders. Answers how many could not be moved.
    async fn move_orders(
        &self,
        run: Uuid,
        to: RegionId,
        told: &watch::Sender<Progress>,
    ) -> Result<u64, EvacuationError> {
        let moves = Moves {
            region: &self.region,
            store: self.store.as_ref(),
            signals: &self.signals,
            mandate: Mandate::Evacuation(run),
        };
        let (mut left, mut after) = (0, None);
        loop {
            let page = self.reader.standing(self.region.id, after, ORDERS_PER_PAGE).await?;
            let Some((last, _)) = page.last().copied() else { return Ok(left) };
            let orders: Vec<OrderId> = page.into_iter().map(|(id, _)| id).collect();
            for orders in orders.chunks(ORDERS_AT_ONCE) {
                // What is decided on what was forgotten parts from what the others know.
                if !self.region.may_write() {
                    return Err(EvacuationError::NotTrusted);
                }
                let move_away = |workspace: &mut Workspace<'_>| move_away(workspace, orders, to);
                let moved = moves.commit(orders, move_away).await.map_err(|error| match error {
                    MoveError::NoMandate => EvacuationError::Ended,
                    error @ (MoveError::Store(_) | MoveError::Commit(_)) => {
                        EvacuationError::Move(error)
                    }
                })?;
                left += (orders.len() as u64).saturating_sub(moved);
                told.send_modify(|progress| progress.orders += moved);
            }
            after = Some(last);
        }
    }

    /// The heir must have everything; of the others those that are in reach.
    async fn verify(
        &self,
        to: RegionId,
        told: &watch::Sender<Progress>,
    ) -> Result<(), EvacuationError> {
        let head = self.log.head().await?.position;
        for peer in self.bus.peers() {
            let has_all = async {
                while !(self.has_applied(peer, head).await && self.has_rows(peer, to).await?) {
                    tokio::time::sleep(LOOK).await;
                }
                Ok::<_, StoreError>(())
            };
            match tokio::time::timeout(VERIFIED_WITHIN, has_all).await {
                Ok(looked) => looked?,
                Err(_) if peer == to => return Err(EvacuationError::NotApplied { region: peer }),
                Err(_) => {
                    let left = format!("{peer} has not applied everything yet");
                    told.send_modify(|progress| progress.detail = Some(left));
                }
            }
        }
        Ok(())
    }

    async fn has_applied(&self, peer: RegionId, head: Position) -> bool {
        matches!(self.ask(peer, &Ask::Known).await, Some(Answer::Known { applied, .. }) if applied >= head)
    }

    /// Has the heir this region's rows as they are? Others come to them by comparisons.
    async fn has_rows(&self, peer: RegionId, to: RegionId) -> Result<bool, StoreError> {
        let mut after = None;
        if peer != to {
            return Ok(true);
        }
        loop {
            let Some(Answer::Rows(page)) = self.ask(peer, &Ask::Rows(self.region.id, after)).await
            else {
                return Ok(false);
            };
            let keys = page.iter().map(|row| row.key.clone()).collect();
            let rows = self.rights.store.rows(&keys).await?;
            let is_old = |theirs: &KeyedRow| {
                let mut ours =
                    rows.iter().filter(|row| row.owner == theirs.owner && row.key == theirs.key);
                ours.any(|ours| ours.row.version > theirs.row.version)
            };
            if page.iter().any(is_old) {
                return Ok(false);
            }
            if page.len() < ITEMS_MAX {
                return Ok(true);
            }
            after = page.last().map(|row| (row.key.clone(), row.owner.epoch));
        }
    }

    async fn ask(&self, peer: RegionId, ask: &Ask) -> Option<Answer> {
        let request = Bytes::from(serde_json::to_vec(ask).expect("our own types have a JSON form"));
        let answer = self.bus.request(peer, REJOIN, request, ANSWER_LIMIT).await.ok()?;
        serde_json::from_slice(&answer).ok()
    }
}
