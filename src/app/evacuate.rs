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

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::rejoin::REJOIN;
use super::rights::{Rights, TransferError, transfer};
use super::{MoveOrders, Region, Stops, WriteError, Writer};
use crate::escrow::{KeyedRow, ROWS_PER_MESSAGE_MAX};
use crate::ports::store::SagaFilter;
use crate::ports::{Bus, Reader, ReplicationError, ReplicationStore, StoreError};
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

/// How far an evacuation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// New orders are turned away, those under way come to their end.
    Settling,
    /// What may still be sold goes to the other region.
    MovingRights,
    /// From here on there is no way back but another evacuation.
    MovingOrders,
    /// Everything is told; the others are asked whether they have it.
    Verifying,
    /// The region holds nothing that anybody waits for.
    Done,
    /// It can be asked for again.
    Failed,
    /// The region takes orders again.
    Aborted,
}

impl Stage {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settling => "settling",
            Self::MovingRights => "moving_rights",
            Self::MovingOrders => "moving_orders",
            Self::Verifying => "verifying",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }

    /// Nothing is done any more.
    pub fn is_over(self) -> bool {
        self >= Self::Done
    }
}

/// What an evacuation has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Names it, so that whoever asks how far it is begins no other one.
    pub run: Uuid,
    /// Who gets everything.
    pub to: RegionId,
    /// How far it is.
    pub stage: Stage,
    /// Orders that have moved.
    pub orders: u64,
    /// Units that may now be sold there.
    pub units: u64,
    /// Why it failed, or what was left out.
    pub detail: Option<String>,
}

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
    /// There is none that could be aborted.
    #[error("no evacuation is under way here")]
    NoneUnderWay,
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
    Write(#[from] WriteError),
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
    /// Commits moves.
    pub writer: Writer,
    /// Drains it.
    pub stops: Arc<Stops>,
    /// What it wrote.
    pub log: Arc<dyn ReplicationStore>,
    /// The way to the others.
    pub bus: Arc<dyn Bus>,
    /// Owner of the tasks.
    pub tasks: TaskSet,
    /// The last one that was begun in this process.
    pub run: Mutex<Option<Run>>,
}

/// One evacuation.
#[derive(Debug, Clone)]
pub struct Run {
    progress: watch::Receiver<Progress>,
    abort: CancellationToken,
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

    /// Begins, or follows what was begun: with the name of a run, only that one.
    #[expect(clippy::unwrap_in_result, reason = "nothing panics while it holds the lock")]
    pub fn begin(
        self: &Arc<Self>,
        to: Option<RegionId>,
        follows: Option<Uuid>,
    ) -> Result<watch::Receiver<Progress>, EvacuationError> {
        let mut run = self.run.lock().expect("no panic while held");
        if let Some(follows) = follows {
            let run = run.as_ref().filter(|run| run.progress.borrow().run == follows);
            return run.map(|run| run.progress.clone()).ok_or(EvacuationError::NoneUnderWay);
        }
        if let Some(run) = run.as_ref().filter(|run| !run.progress.borrow().stage.is_over()) {
            return Ok(run.progress.clone());
        }
        let to = self.heir(to)?;
        let run_id = self.region.ids.uuid();
        let begun =
            Progress { run: run_id, to, stage: Stage::Settling, orders: 0, units: 0, detail: None };
        let (told, progress) = watch::channel(begun);
        let abort = CancellationToken::new();
        *run = Some(Run { progress: progress.clone(), abort: abort.clone() });
        drop(run);
        let evacuation = Arc::clone(self);
        drop(self.tasks.spawn("evacuation", async move {
            let outcome = evacuation.carry_out(to, &told, &abort).await;
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
        }));
        Ok(progress)
    }

    /// Ends one that has not moved orders yet, and takes orders again. Rights that have moved come back as they are
    /// needed.
    pub async fn abort(&self) -> Result<Progress, EvacuationError> {
        let run = self.run.lock().expect("no panic while held").clone();
        let mut run = run.ok_or(EvacuationError::NoneUnderWay)?;
        if run.progress.borrow().stage == Stage::MovingOrders
            || run.progress.borrow().stage == Stage::Verifying
        {
            return Err(EvacuationError::PastReturn);
        }
        run.abort.cancel();
        // Dropped without an end only when the process stops.
        let ended = run.progress.wait_for(|progress| progress.stage.is_over()).await;
        let ended = ended.map_err(|_| EvacuationError::NoneUnderWay)?.clone();
        match ended.stage {
            Stage::Aborted => {
                self.stops.drain(false).await?;
                *self.run.lock().expect("no panic while held") = None;
                Ok(ended)
            }
            Stage::Settling
            | Stage::MovingRights
            | Stage::MovingOrders
            | Stage::Verifying
            | Stage::Done
            | Stage::Failed => Err(if ended.orders > 0 {
                EvacuationError::PastReturn
            } else {
                EvacuationError::NoneUnderWay
            }),
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
        to: RegionId,
        told: &watch::Sender<Progress>,
        abort: &CancellationToken,
    ) -> Result<(), EvacuationError> {
        let stage = |stage| told.send_modify(|progress| progress.stage = stage);
        self.stops.drain(true).await?;
        self.settle(abort).await?;
        stage(Stage::MovingRights);
        for _ in 0..PASSES_MAX {
            if self.hand_over_rights(to, told, abort).await? == 0 {
                break;
            }
        }
        // Whoever aborts later is told that it is too late.
        if abort.is_cancelled() {
            return Err(EvacuationError::Aborted);
        }
        stage(Stage::MovingOrders);
        let mut left = 0;
        for _ in 0..PASSES_MAX {
            left = self.move_orders(to, told).await?;
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
        to: RegionId,
        told: &watch::Sender<Progress>,
    ) -> Result<u64, EvacuationError> {
        let (mut left, mut after) = (0, None);
        loop {
            let page = self.reader.standing(self.region.id, after, ORDERS_PER_PAGE).await?;
            let Some((last, _)) = page.last().copied() else { return Ok(left) };
            let orders: Vec<OrderId> = page.into_iter().map(|(id, _)| id).collect();
            for orders in orders.chunks(ORDERS_AT_ONCE) {
                let moving = MoveOrders { orders: orders.to_vec(), to };
                let (moved, _) = self.writer.submit(moving).await?;
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
