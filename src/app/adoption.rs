//! Carrying on the orders of a lost region.
//!
//! ```text
//! fence ──► a majority renews its order lease no more ──► its last lease is over ──► steward, chosen by a majority
//!                                                                                       │
//!             its orders, as all that live know them, move here ◄───────────────────────┘
//!                                    │
//!             what is undecided is asked of the payment provider by key, and goes on
//! ```
//!
//! Orders that the lost region took alone and had not decided stay where they are, unless a person says that the region is
//! gone for good: it may be deciding them this very moment. What it did with the others that nobody saw is set aside when it
//! comes back, in `parted`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::joining::{JoinError, Joining};
use super::move_orders::move_order;
use super::rights::{FenceError, ProposeError, Proposer, Rights, TakenOver};
use super::{Region, Signals, Workspace};
use crate::domain::order::OrderStatus;
use crate::escrow::{
    KeyedSlot, Purpose, appointed, leases_are_over, order_register, steward_key, steward_keys,
    steward_of,
};
use crate::mutants::{Mutant, is_on};
use crate::ports::store::NO_STEWARD;
use crate::ports::{Bus, CommitError, Needs, Reader, RejoinStore, Stamp, Store, StoreError};
use crate::saga::SagaRecord;
use crate::types::{OrderId, RegionId, SagaId};

/// Orders in one transaction: each is told whole, some 10 KiB.
const ORDERS_AT_ONCE: usize = 50;
/// Orders listed at once.
const ORDERS_PER_PAGE: u32 = 1_000;
/// How often a group of moves is decided again because something changed meanwhile.
const DECISIONS_MAX: u32 = 20;
/// Between two looks at a region's orders once all that were known have moved: it reads the list of all orders. What
/// comes then was on its way, or is told by a region that was away as well.
const LOOK_AGAIN_MS: u64 = 30_000;

/// Why orders were not taken over. The next round does it.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The registers.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The moves could not be committed.
    #[error("orders could not be moved here: {0}")]
    Commit(String),
    /// Another region acts for them, or the lost one is back.
    #[error("{0}: another region acts for its orders now, or it is back")]
    Over(RegionId),
}

/// One lost region.
#[derive(Debug, Clone)]
struct Lost {
    proposer: Proposer,
    /// When a majority had promised to renew no lease, by the own clock.
    promised_ms: u64,
    /// A person says that it is gone for good.
    is_gone: bool,
    /// A majority has stored that this region acts for its orders.
    chosen: bool,
    /// When its orders are looked at next.
    next_ms: u64,
}

/// Takes over.
pub struct Adoption {
    /// This region.
    pub region: Arc<Region>,
    /// Its rights, and the registers.
    pub rights: Arc<Rights>,
    /// Its database.
    pub store: Arc<dyn Store>,
    /// The same, for what others know.
    pub known: Arc<dyn RejoinStore>,
    /// The same, to read.
    pub reader: Arc<dyn Reader>,
    /// The way to the others.
    pub bus: Arc<dyn Bus>,
    /// Whom to wake.
    pub signals: Signals,
    lost: Mutex<BTreeMap<RegionId, Lost>>,
    /// What was begun before this process is read once.
    resumed: tokio::sync::OnceCell<()>,
}

impl Adoption {
    /// Nothing is taken over yet.
    pub fn new(
        region: Arc<Region>,
        rights: Arc<Rights>,
        store: Arc<dyn Store>,
        known: Arc<dyn RejoinStore>,
        reader: Arc<dyn Reader>,
        bus: Arc<dyn Bus>,
        signals: Signals,
    ) -> Self {
        let (lost, resumed) = Default::default();
        Self { region, rights, store, known, reader, bus, signals, lost, resumed }
    }

    /// Declares a region dead: takes over what it had not sold, and begins to take over its orders. `is_gone`: a person says
    /// that none of its processes will ever act again, so nothing needs to be waited for.
    pub async fn fence(&self, region: RegionId, is_gone: bool) -> Result<TakenOver, FenceError> {
        let taken = self.rights.fence(region).await?;
        let known = self.lost.lock().expect("no panic while held").get(&region).cloned();
        let promised = self.rights.registers.stewardship(region).await;
        let promised = promised.map_err(ProposeError::from)?.promised;
        let still =
            known.filter(|lost| promised.fenced && promised.ballot == lost.proposer.ballot());
        let lost = match still {
            Some(lost) => Lost { is_gone: lost.is_gone || is_gone, ..lost },
            None => {
                let owner = order_register(region);
                let proposer = Proposer::prepare(&self.rights, owner, Purpose::Fence).await?;
                self.lost(proposer, is_gone)
            }
        };
        self.lost.lock().expect("no panic while held").insert(region, lost);
        Ok(taken)
    }

    fn lost(&self, proposer: Proposer, is_gone: bool) -> Lost {
        let promised_ms = self.region.clock.monotonic_ms();
        Lost { proposer, promised_ms, is_gone, chosen: false, next_ms: 0 }
    }

    /// Goes on with every lost region that this one fenced. For a worker.
    pub async fn go_on(&self) -> Result<(), AdoptError> {
        if !self.region.may_write() {
            return Ok(());
        }
        self.resumed.get_or_try_init(|| self.resume()).await?;
        let lost = self.lost.lock().expect("no panic while held").clone();
        let mut first = Ok(());
        for (region, mut lost) in lost {
            let ballot = lost.proposer.ballot();
            let done = self.go_on_with(region, &mut lost).await;
            let mut all = self.lost.lock().expect("no panic while held");
            let is_over = matches!(
                done,
                Err(AdoptError::Over(_) | AdoptError::Propose(ProposeError::Preempted { .. }))
            );
            if let Some(now) = all.get_mut(&region).filter(|now| now.proposer.ballot() == ballot) {
                if is_over {
                    all.remove(&region);
                } else {
                    let is_gone = now.is_gone || lost.is_gone;
                    *now = Lost { is_gone, ..lost };
                }
            }
            first = first.and(done);
        }
        first
    }

    /// What was fenced before this process began is waited for once more.
    async fn resume(&self) -> Result<(), StoreError> {
        for peer in self.bus.peers() {
            let promised = self.rights.registers.stewardship(peer).await?.promised;
            if promised.fenced && promised.ballot.region == self.region.id {
                let proposer = Proposer::resume(order_register(peer), promised.ballot);
                let lost = self.lost(proposer, false);
                self.lost.lock().expect("no panic while held").entry(peer).or_insert(lost);
            }
        }
        Ok(())
    }

    async fn go_on_with(&self, region: RegionId, lost: &mut Lost) -> Result<(), AdoptError> {
        let now_ms = self.region.clock.monotonic_ms();
        let is_over =
            now_ms >= leases_are_over(lost.promised_ms) || is_on(Mutant::LeaseNotWaitedOut);
        if !lost.chosen {
            if !lost.is_gone && !is_over {
                return Ok(());
            }
            // Who heard nothing of the fence goes on renewing; a majority has heard of it.
            lost.proposer.tell(&self.rights, Purpose::Fence).await?;
            lost.chosen = self.become_steward(region, &lost.proposer).await?;
            if !lost.chosen {
                return Ok(());
            }
            tracing::warn!(%region, "this region acts for the orders of {region}");
        }
        if now_ms < lost.next_ms {
            return Ok(());
        }
        self.learn(region).await;
        let moved = self.move_here(region, lost).await?;
        if moved > 0 {
            tracing::warn!(%region, orders = moved, "{moved} orders of {region} have moved here");
        }
        lost.next_ms = self.region.clock.monotonic_ms() + LOOK_AGAIN_MS;
        Ok(())
    }

    async fn become_steward(
        &self,
        region: RegionId,
        proposer: &Proposer,
    ) -> Result<bool, ProposeError> {
        let mut values = proposer.values(&self.rights, &steward_keys()).await?;
        let from = values.remove(&steward_key());
        let value = from.as_ref().map(|slot| slot.value.clone()).unwrap_or_default();
        let own = self.region.id;
        let is_steward = steward_of(region, Some(&value)) == own;
        let value = if is_steward { value } else { appointed(&value, own) };
        let slot = proposer.follow(from.as_ref(), value);
        let chosen =
            proposer.propose(&self.rights, vec![KeyedSlot { key: steward_key(), slot }]).await?;
        Ok(!chosen.is_empty())
    }

    /// Takes over what the other regions know of the orders, as far as they answer.
    async fn learn(&self, region: RegionId) {
        let reachable: BTreeSet<RegionId> =
            self.rights.reachability.reachable().into_iter().collect();
        for peer in reachable.into_iter().filter(|peer| *peer != region) {
            match self.learn_from(region, peer).await {
                Ok(0) => {}
                Ok(orders) => {
                    tracing::warn!(%region, %peer, orders, "{peer} knew more of {orders} orders")
                }
                Err(error) => {
                    tracing::warn!(%region, %peer, %error, "what {peer} knows is asked again later: {error}");
                }
            }
        }
    }

    async fn learn_from(&self, region: RegionId, peer: RegionId) -> Result<usize, JoinError> {
        let (own, store, bus) = (&self.region, self.known.as_ref(), self.bus.as_ref());
        let joining = Joining { region: own, store, bus, of: region };
        let differences = joining.compare(peer).await?;
        let (mut rest, mut learned) = (differences.differing.as_slice(), 0);
        while !rest.is_empty() {
            let (told, mut news) = joining.ask_histories(peer, rest).await?;
            rest = &rest[told..];
            // What has moved is told by its home.
            news.learned.retain(|it| !it.replaces && it.record.order.home_region == region);
            for order in news.learned {
                learned += usize::from(store.learn(&[order]).await?);
            }
        }
        Ok(learned)
    }

    /// Answers how many orders have moved.
    async fn move_here(&self, region: RegionId, lost: &Lost) -> Result<u64, AdoptError> {
        let (mut moved, mut after) = (0, None);
        loop {
            let page = self.reader.standing(region, after, ORDERS_PER_PAGE).await?;
            let Some((last, _)) = page.last().copied() else { return Ok(moved) };
            let ids: Vec<OrderId> = page.into_iter().map(|(id, _)| id).collect();
            for orders in ids.chunks(ORDERS_AT_ONCE) {
                moved += self.move_some(region, lost, orders).await?;
            }
            after = Some(last);
        }
    }

    /// A transaction of its own, that holds only while this region is the steward: shoppers' orders must not wait
    /// for it, nor fail with it.
    async fn move_some(
        &self,
        region: RegionId,
        lost: &Lost,
        orders: &[OrderId],
    ) -> Result<u64, AdoptError> {
        let mut needs = Needs::default();
        needs.orders.extend(orders.iter().copied());
        needs.sagas.extend(orders.iter().map(|id| SagaId(id.0)));
        let mut last = String::new();
        for _ in 0..DECISIONS_MAX {
            let view = self.store.load(&needs).await?;
            let mut workspace = Workspace::new(view, &self.region);
            let moved = adopt(&mut workspace, region, orders, lost.is_gone);
            if workspace.changes.is_empty() {
                return Ok(0);
            }
            workspace.changes.as_steward = Some((region, lost.proposer.ballot()));
            let stamp = Stamp {
                epoch: self.region.epoch,
                hlc: workspace.last_stamp(),
                now_ms: workspace.now_ms,
            };
            match self.store.commit(&workspace.changes, stamp).await {
                Ok(_) => {
                    self.signals.outbox.notify_one();
                    return Ok(moved);
                }
                Err(CommitError::Conflict(NO_STEWARD)) => return Err(AdoptError::Over(region)),
                Err(CommitError::Conflict(what)) => what.clone_into(&mut last),
                // Decided again on what is there now: what has moved is passed over.
                Err(CommitError::Unknown(why)) => last = why,
                Err(
                    error @ (CommitError::Unavailable(_)
                    | CommitError::Fenced
                    | CommitError::Broken(_)),
                ) => return Err(AdoptError::Commit(error.to_string())),
            }
        }
        Err(AdoptError::Commit(last))
    }
}

/// Answers how many of them move.
fn adopt(workspace: &mut Workspace<'_>, from: RegionId, orders: &[OrderId], is_gone: bool) -> u64 {
    let to = workspace.region.id;
    let mut moved = 0;
    for id in orders {
        let may_move = workspace.view.orders.get(id).is_some_and(|record| {
            let order = &record.order;
            let is_under_way = order.alone && order.status() == OrderStatus::Pending;
            let is_spared = is_under_way && !is_gone && !is_on(Mutant::AloneAdopted);
            order.home_region == from && order.status() != OrderStatus::Cancelled && !is_spared
        });
        if may_move {
            let record = move_order(workspace, *id, from, to);
            let saga = SagaRecord::taken_up(&record.order, workspace.now_ms);
            workspace.write_saga(saga);
            moved += 1;
        }
    }
    moved
}
