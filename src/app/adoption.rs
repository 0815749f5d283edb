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
use super::move_orders::{MoveError, Moves, move_order};
use super::rights::{FenceError, ProposeError, Proposer, Rights, TakenOver};
use super::{OrderLease, Region, Signals, Workspace};
use crate::domain::order::OrderStatus;
use crate::escrow::{
    KeyedSlot, ORDER_LEASE_MARGIN_MS, Purpose, appointed, leases_are_over, order_register,
    steward_key, steward_keys, steward_of,
};
use crate::mutants::{Mutant, is_on};
use crate::ports::store::Mandate;
use crate::ports::{Bus, Learned, Reader, RejoinStore, RetirementStore, Store, StoreError};
use crate::saga::SagaRecord;
use crate::types::{OrderId, RegionId};

/// Orders in one transaction: each is told whole, some 10 KiB.
const ORDERS_AT_ONCE: usize = 50;
/// Orders listed at once.
const ORDERS_PER_PAGE: u32 = 1_000;
/// How long a steward waits for every other region to tell what it knows: one that is cut off may know of a cancellation,
/// or that an order has moved already; the lost region's shoppers wait meanwhile.
const ASKED_WITHIN_MS: u64 = 30_000;
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
    /// Another region has to tell what it knows of the orders of one that is gone for good.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The moves could not be committed.
    #[error(transparent)]
    Move(MoveError),
    /// Another region acts for them, or the lost one is back.
    #[error("{0}: another region acts for its orders now, or it is back")]
    Over(RegionId),
}

/// One lost region.
#[derive(Debug, Clone)]
pub struct Lost {
    proposer: Proposer,
    /// When a majority had promised to renew no lease, by the own clock. `None`: a process before this one asked, and it
    /// is not known how many answered.
    promised_ms: Option<u64>,
    /// A person says that it is gone for good.
    is_gone: bool,
    /// A majority has stored that this region acts for its orders.
    chosen: bool,
    /// When its orders are looked at next.
    next_ms: u64,
    /// Until when every other region is to be asked first.
    asked_by_ms: u64,
}

impl Lost {
    fn new(proposer: Proposer, promised_ms: Option<u64>) -> Self {
        let (is_gone, chosen, next_ms, asked_by_ms) = Default::default();
        Self { proposer, promised_ms, is_gone, chosen, next_ms, asked_by_ms }
    }
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
    /// The same, where it is kept who is gone for good.
    pub retirements: Arc<dyn RetirementStore>,
    /// The same, to read.
    pub reader: Arc<dyn Reader>,
    /// The way to the others.
    pub bus: Arc<dyn Bus>,
    /// Whom to wake.
    pub signals: Signals,
    /// The way to other regions' stewards.
    pub lease: Arc<OrderLease>,
    /// What this process takes over; nothing at first.
    pub lost: Mutex<BTreeMap<RegionId, Lost>>,
    /// Two that propose the same steward at once replace each other's proposal, and each takes that for a refusal.
    pub alone: tokio::sync::Mutex<()>,
}

impl Adoption {
    /// Declares a region dead: takes over what it had not sold, and begins to take over its orders. `is_gone`: a person says
    /// that none of its processes will ever act again, so nothing needs to be waited for. That word is kept, as long as
    /// the fence lasts.
    pub async fn fence(&self, region: RegionId, is_gone: bool) -> Result<TakenOver, FenceError> {
        // Two regions that act on one order are worse than a wait.
        let is_seller = self.rights.witness != Some(region);
        if is_gone && is_seller && self.rights.reachability.heard_by_anybody(region) {
            return Err(FenceError::Heard(region));
        }
        let taken = self.rights.fence(region).await?;
        let known = self.lost.lock().expect("no panic while held").get(&region).cloned();
        let promised = self.rights.registers.stewardship(region).await;
        let promised = promised.map_err(ProposeError::from)?.promised;
        let still =
            known.filter(|lost| promised.fenced && promised.ballot == lost.proposer.ballot());
        let mut lost = if let Some(lost) = still {
            lost
        } else {
            let owner = order_register(region);
            let proposer = Proposer::prepare(&self.rights, owner, Purpose::Fence).await?;
            Lost::new(proposer, Some(self.region.clock.monotonic_ms()))
        };
        if is_gone {
            let kept = self.rights.registers.keep_gone(region, lost.proposer.ballot()).await;
            kept.map_err(ProposeError::from)?;
            // What was left with it so far is taken over now.
            (lost.is_gone, lost.next_ms) = (true, 0);
        }
        self.lost.lock().expect("no panic while held").insert(region, lost);
        Ok(taken)
    }

    /// Goes on with every lost region that this one fenced. For a worker.
    pub async fn go_on(&self) -> Result<(), AdoptError> {
        if !self.region.may_write() {
            return Ok(());
        }
        let _alone = self.alone.lock().await;
        self.resume().await?;
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
                    // The word was given meanwhile: what was left with it is taken over now.
                    let is_news = now.is_gone && !lost.is_gone;
                    let next_ms = if is_news { 0 } else { lost.next_ms };
                    *now = Lost { is_gone: now.is_gone || lost.is_gone, next_ms, ..lost };
                }
            }
            first = first.and(done);
        }
        first
    }

    /// What another process of this region has fenced is waited for once more by this one.
    async fn resume(&self) -> Result<(), StoreError> {
        for peer in self.bus.peers() {
            let is_known = self.lost.lock().expect("no panic while held").contains_key(&peer);
            let owner = order_register(peer);
            if is_known || !self.rights.is_fenced(owner) {
                continue;
            }
            let promised = self.rights.registers.stewardship(peer).await?.promised;
            if promised.fenced && promised.ballot.region == self.region.id {
                let lost = Lost::new(Proposer::resume(owner, promised.ballot), None);
                self.lost.lock().expect("no panic while held").entry(peer).or_insert(lost);
            }
        }
        Ok(())
    }

    async fn go_on_with(&self, region: RegionId, lost: &mut Lost) -> Result<(), AdoptError> {
        let now_ms = self.region.clock.monotonic_ms();
        if now_ms < lost.next_ms {
            return Ok(());
        }
        if self.is_done_with(region).await? {
            lost.next_ms = now_ms + LOOK_AGAIN_MS;
            return Ok(());
        }
        let Some(promised_ms) = lost.promised_ms else {
            lost.proposer.confirm(&self.rights, Purpose::Fence).await?;
            lost.promised_ms = Some(self.region.clock.monotonic_ms());
            return Ok(());
        };
        // The word may have been given to another process of this region, or to one before this.
        if !lost.is_gone {
            let ballot = lost.proposer.ballot();
            lost.is_gone = self.rights.registers.is_gone(region, ballot).await?;
        }
        let is_over = now_ms >= leases_are_over(promised_ms) || is_on(Mutant::LeaseNotWaitedOut);
        // The word was not so, or is not any more.
        lost.is_gone &= !self.rights.reachability.heard_by_anybody(region);
        if !(lost.chosen || lost.is_gone || is_over) {
            return Ok(());
        }
        // Who did not hear of the fence does.
        lost.proposer.tell(&self.rights, Purpose::Fence).await?;
        if !lost.chosen {
            lost.chosen = self.become_steward(region, &lost.proposer).await?;
            if !lost.chosen {
                return Ok(());
            }
            tracing::warn!(%region, "this region acts for the orders of {region}");
            lost.asked_by_ms = now_ms + ASKED_WITHIN_MS;
        }
        let all_told = self.learn(region).await;
        // Who acts for others must be sure that nobody acts for it.
        let may_act = self.region.holds_order_lease(ORDER_LEASE_MARGIN_MS);
        if !may_act || !all_told && now_ms < lost.asked_by_ms {
            return Ok(());
        }
        let moved = self.move_here(region, lost).await?;
        if moved > 0 {
            tracing::warn!(%region, orders = moved, "{moved} orders of {region} have moved here");
        }
        lost.next_ms = self.region.clock.monotonic_ms() + LOOK_AGAIN_MS;
        Ok(())
    }

    /// The region is gone for good, and all that is known of its orders has moved: nothing more is heard of them. Until it is
    /// built anew there is nothing to compare, and nobody to tell.
    async fn is_done_with(&self, region: RegionId) -> Result<bool, StoreError> {
        let ended = self.retirements.ended().await?;
        Ok(ended.iter().any(|it| it.region == region && it.is_done()))
    }

    async fn become_steward(
        &self,
        region: RegionId,
        proposer: &Proposer,
    ) -> Result<bool, ProposeError> {
        let mut values = proposer.values(&self.rights, &steward_keys()).await?;
        let from = values.remove(&steward_key());
        let value = from.as_ref().map(|slot| slot.value.clone()).unwrap_or_default();
        let (own, before) = (self.region.id, steward_of(region, Some(&value)));
        // Who acted for it so far must stop first.
        let has_stopped = before == own
            || before == region
            || self.lease.hand_back(before, region, proposer.ballot()).await.is_some()
            || self.lease.is_lost_for_long(before);
        if !has_stopped {
            tracing::warn!(%region, steward = %before, "{before} acts for the orders of {region}, and was not heard to stop");
            return Ok(false);
        }
        let value = if before == own { value } else { appointed(&value, own) };
        let slot = proposer.follow(from.as_ref(), value);
        let chosen =
            proposer.propose(&self.rights, vec![KeyedSlot { key: steward_key(), slot }]).await?;
        Ok(!chosen.is_empty())
    }

    /// Takes over what the other regions know of the orders. `false`: one that is not lost did not tell.
    async fn learn(&self, region: RegionId) -> bool {
        let mut all_told = true;
        let reachable = self.rights.reachability.reachable();
        for peer in self.bus.peers().into_iter().filter(|peer| *peer != region) {
            if !reachable.contains(&peer) {
                all_told &= self.rights.is_fenced_region(peer);
                continue;
            }
            match self.learn_from(region, peer).await {
                Ok(0) => {}
                Ok(orders) => {
                    tracing::warn!(%region, %peer, orders, "{peer} knew more of {orders} orders");
                }
                Err(error) => {
                    tracing::warn!(%region, %peer, %error, "what {peer} knows is asked again later: {error}");
                    all_told &= self.rights.is_fenced_region(peer);
                }
            }
        }
        all_told
    }

    async fn learn_from(&self, region: RegionId, peer: RegionId) -> Result<usize, JoinError> {
        let (own, store, bus) = (&self.region, self.known.as_ref(), self.bus.as_ref());
        // Shoppers' orders wait for no more than one.
        let joining = Joining { region: own, store, bus, of: region, at_once: 1 };
        let differences = joining.compare(peer).await?;
        let (mut rest, mut learned) = (differences.differing.as_slice(), 0);
        while !rest.is_empty() {
            // Of two histories that part one gives way only to one that has moved.
            let wanted = |it: &Learned| !it.replaces || it.record.order.moved.is_some();
            let taken = joining.take_over(peer, rest, wanted).await?;
            rest = &rest[taken.told..];
            learned += taken.learned.len();
        }
        Ok(learned)
    }

    /// Takes over everything that `others` know of the orders of a region that is gone for good. All of them have to tell.
    pub(super) async fn complete(
        &self,
        region: RegionId,
        others: &[RegionId],
    ) -> Result<Proposer, AdoptError> {
        let _alone = self.alone.lock().await;
        self.resume().await?;
        let lost = self.lost.lock().expect("no panic while held").get(&region).cloned();
        let lost = lost.ok_or(AdoptError::Over(region))?;
        if !lost.chosen && !self.become_steward(region, &lost.proposer).await? {
            return Err(AdoptError::Over(region));
        }
        for peer in others {
            self.learn_from(region, *peer).await?;
        }
        self.move_here(region, &lost).await?;
        // The others have it all from its home of now: also what was cancelled, where they do not know that.
        let (own, store, bus) = (&self.region, self.known.as_ref(), self.bus.as_ref());
        let joining = Joining { region: own, store, bus, of: region, at_once: 1 };
        let mut unknown = BTreeSet::new();
        for peer in others {
            let differences = joining.compare(*peer).await?;
            unknown.extend(differences.lacking.into_iter().chain(differences.differing));
        }
        let unknown: Vec<OrderId> = unknown.into_iter().collect();
        for orders in unknown.chunks(ORDERS_AT_ONCE) {
            self.move_some(region, &lost, orders, Which::All).await?;
        }
        Ok(lost.proposer)
    }

    /// Answers how many orders have moved.
    async fn move_here(&self, region: RegionId, lost: &Lost) -> Result<u64, AdoptError> {
        let (mut moved, mut after) = (0, None);
        loop {
            let page = self.reader.standing(region, after, ORDERS_PER_PAGE).await?;
            let Some((last, _)) = page.last().copied() else { return Ok(moved) };
            let ids: Vec<OrderId> = page.into_iter().map(|(id, _)| id).collect();
            for orders in ids.chunks(ORDERS_AT_ONCE) {
                moved += self.move_some(region, lost, orders, Which::Standing).await?;
            }
            after = Some(last);
        }
    }

    /// Holds only while this region is the steward.
    async fn move_some(
        &self,
        region: RegionId,
        lost: &Lost,
        orders: &[OrderId],
        which: Which,
    ) -> Result<u64, AdoptError> {
        let moves = Moves {
            region: &self.region,
            store: self.store.as_ref(),
            signals: &self.signals,
            mandate: Mandate::Steward(region, lost.proposer.ballot()),
        };
        let adopt =
            |workspace: &mut Workspace<'_>| adopt(workspace, region, orders, lost.is_gone, which);
        moves.commit(orders, adopt).await.map_err(|error| match error {
            MoveError::NoMandate => AdoptError::Over(region),
            error @ (MoveError::Store(_) | MoveError::Commit(_)) => AdoptError::Move(error),
        })
    }
}

/// Which of some orders move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// Those that something is left to do for.
    Standing,
    /// Also those that were cancelled.
    All,
}

/// Answers how many of them move.
fn adopt(
    workspace: &mut Workspace<'_>,
    from: RegionId,
    orders: &[OrderId],
    is_gone: bool,
    which: Which,
) -> u64 {
    let to = workspace.region.id;
    let mut moved = 0;
    for id in orders {
        let may_move = workspace.view.orders.get(id).is_some_and(|record| {
            let order = &record.order;
            let is_under_way = order.alone && order.status() == OrderStatus::Pending;
            let is_spared = is_under_way && !is_gone && !is_on(Mutant::AloneAdopted);
            let may = order.status() != OrderStatus::Cancelled || which == Which::All;
            order.home_region == from && may && !is_spared
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
