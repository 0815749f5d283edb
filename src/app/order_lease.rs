//! May this region act on its orders? A majority says so, for some seconds at a time ([`crate::escrow::Stewardship`]).
//!
//! Without a lease the region goes on selling: a new order is its own until it is decided, marked so that nobody takes
//! it over by waiting. Of everything older it keeps its hands off, since another region may have been made its steward.
//! A region that was lost and is back asks the steward to stop, applies all that it did, and is the steward of its own
//! orders again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::Region;
use super::rights::{ProposeError, Proposer, Rights, needed};
use crate::escrow::{
    Ballot, KeyedSlot, ORDER_LEASE_MARGIN_MS, Purpose, Slot, appointed, lease_ends,
    leases_are_over, order_register, steward_key, steward_keys, steward_of,
};
use crate::mutants::{Mutant, is_on};
use crate::ports::{
    Bus, ReplicationError, ReplicationStore, RequestHandler, RequestKind, StoreError,
};
use crate::replication::Position;
use crate::types::{Actor, Epoch, RegionId, StockKey};

/// A region asks for its lease, or its steward to stop.
pub const ORDER_LEASE: RequestKind = RequestKind::named("order-lease");

/// A question.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseAsk {
    /// May I, in this incarnation, act on my orders?
    Renew(Epoch),
    /// You act for a region's orders, and a majority has promised this ballot since: how far did you come?
    HandBack(RegionId, Ballot),
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseAnswer {
    /// To [`LeaseAsk::Renew`].
    Renewed {
        /// Yes.
        granted: bool,
        /// The incarnation that asks was fenced, and has not returned.
        fenced: bool,
    },
    /// To [`LeaseAsk::HandBack`]: nothing is done behind this place. `None`: the promise has not arrived here yet.
    HandedBack(Option<Position>),
}

/// Why the orders are not this region's own again. It is tried again with the next renewal.
#[derive(Debug, thiserror::Error)]
enum ReclaimError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    #[error("{0}, which acts for this region's orders, does not answer yet")]
    Steward(RegionId),
    #[error("what {0} did with this region's orders is not applied here yet")]
    Behind(RegionId),
}

/// Keeps the lease.
pub struct OrderLease {
    region: Arc<Region>,
    rights: Arc<Rights>,
    log: Arc<dyn ReplicationStore>,
    bus: Arc<dyn Bus>,
    /// The steward that has stopped, under which ballot of ours, and where.
    stopped: Mutex<Option<(RegionId, Ballot, Position)>>,
    /// Since when stewards are known to be lost themselves.
    lost_ms: Mutex<BTreeMap<RegionId, u64>>,
}

impl OrderLease {
    /// There is none yet.
    pub fn new(
        region: Arc<Region>,
        rights: Arc<Rights>,
        log: Arc<dyn ReplicationStore>,
        bus: Arc<dyn Bus>,
    ) -> Self {
        region.set_order_lease(0);
        let (stopped, lost_ms) = Default::default();
        Self { region, rights, log, bus, stopped, lost_ms }
    }

    /// This region acts on its orders.
    pub fn is_held(&self) -> bool {
        self.region.holds_order_lease(ORDER_LEASE_MARGIN_MS)
    }

    /// Asks everybody once. For a worker, several times within a lease.
    pub async fn renew(&self) {
        if !self.region.may_write() {
            self.region.set_order_lease(0);
            return;
        }
        // Counted from before anybody is asked: no acceptor's count ends before it.
        let asked_ms = self.region.clock.monotonic_ms();
        let (own, epoch) = (self.region.id, self.region.epoch);
        let mine = match answer(&self.rights, own, epoch).await {
            Ok(mine) => mine,
            Err(error) => {
                tracing::debug!(%error, "the order lease is not renewed: {error}");
                return;
            }
        };
        let asked = self.bus.peers().into_iter().map(|peer| self.ask(peer, LeaseAsk::Renew(epoch)));
        let answers = join_all(asked).await;
        let (mut yes, mut no, mut fenced) = (0, 0, 0);
        for said in answers.into_iter().flatten().chain([mine]) {
            let LeaseAnswer::Renewed { granted, fenced: is_fenced } = said else { continue };
            *(if granted { &mut yes } else { &mut no }) += 1;
            fenced += usize::from(is_fenced);
        }
        let needed = needed(&self.rights);
        let held = self.region.holds_order_lease(0);
        if yes >= needed {
            if !held {
                tracing::info!("a majority lets this region act on its orders");
            }
            self.region.set_order_lease(lease_ends(asked_ms));
        } else if no > 0 && yes + no - fenced >= needed && !self.region.is_fenced() {
            // Others were told that this region is lost, and it has returned since.
            match self.reclaim().await {
                Ok(()) => tracing::warn!("this region acts for its own orders again"),
                Err(error) => {
                    tracing::warn!(%error, "this region does not act on its orders: {error}");
                }
            }
        } else if !held {
            tracing::debug!(yes, no, fenced, "this region acts on new orders only");
        }
    }

    /// Another region says that this one was given up, and has not returned.
    pub async fn is_fenced_elsewhere(&self) -> bool {
        let epoch = self.region.epoch;
        let asked = self.bus.peers().into_iter().map(|peer| self.ask(peer, LeaseAsk::Renew(epoch)));
        let mut answers = join_all(asked).await.into_iter().flatten();
        answers.any(|said| matches!(said, LeaseAnswer::Renewed { fenced: true, .. }))
    }

    async fn reclaim(&self) -> Result<(), ReclaimError> {
        let own = self.region.id;
        let (proposer, mut values) = self.prepare().await?;
        let from = values.remove(&steward_key());
        let value = from.as_ref().map(|slot| slot.value.clone()).unwrap_or_default();
        let steward = steward_of(own, Some(&value));
        let next = if steward == own {
            value
        } else {
            self.steward_has_stopped(steward, &proposer).await?;
            appointed(&value, own)
        };
        let slot = proposer.follow(from.as_ref(), next);
        let keyed = KeyedSlot { key: steward_key(), slot };
        if proposer.propose(&self.rights, vec![keyed]).await?.is_empty() {
            return Err(ReclaimError::Steward(steward));
        }
        Ok(())
    }

    /// Goes on under the ballot that was prepared before, as long as nobody outbids it.
    async fn prepare(&self) -> Result<(Proposer, BTreeMap<StockKey, Slot>), ProposeError> {
        let register = order_register(self.region.id);
        let promised = self.rights.registers.stewardship(self.region.id).await?.promised;
        if promised.ballot.region == self.region.id && promised.ballot.round > 0 {
            let proposer = Proposer::resume(register, promised.ballot);
            // What was stored here under it tells nothing: the region may have been given up once more since.
            match proposer.confirm(&self.rights, Purpose::Return).await {
                Ok(()) => {
                    let values = proposer.values(&self.rights, &steward_keys()).await?;
                    return Ok((proposer, values));
                }
                Err(ProposeError::Preempted { .. } | ProposeError::Fenced { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let proposer = Proposer::prepare(&self.rights, register, Purpose::Return).await?;
        let values = proposer.values(&self.rights, &steward_keys()).await?;
        Ok((proposer, values))
    }

    /// Whoever acted for this region's orders has stopped, and all that it did is applied here.
    async fn steward_has_stopped(
        &self,
        steward: RegionId,
        proposer: &Proposer,
    ) -> Result<(), ReclaimError> {
        // It stops once: what it is asked again is where it is by now, which may be ahead of us for ever.
        let stopped = *self.stopped.lock().expect("no panic while held");
        let is_known = |(of, ballot, _): &(RegionId, Ballot, Position)| {
            (*of, *ballot) == (steward, proposer.ballot())
        };
        let upto = match stopped.filter(is_known) {
            Some((.., upto)) => upto,
            None => match self.hand_back(steward, self.region.id, proposer.ballot()).await {
                Some(upto) => upto,
                None if self.is_lost_for_long(steward) || is_on(Mutant::HandedBackUnasked) => {
                    return Ok(());
                }
                None => {
                    proposer.tell(&self.rights, Purpose::Return).await?;
                    return Err(ReclaimError::Steward(steward));
                }
            },
        };
        let stopped = Some((steward, proposer.ballot(), upto));
        *self.stopped.lock().expect("no panic while held") = stopped;
        let applied = self.log.watermarks().await?.get(&steward).map(|mark| mark.position);
        if !is_applied(upto, applied) {
            return Err(ReclaimError::Behind(steward));
        }
        Ok(())
    }

    /// A steward that was fenced itself acts for nobody once its own lease is over. What it did that nobody heard of comes
    /// with its return, like what any lost region did.
    pub(super) fn is_lost_for_long(&self, steward: RegionId) -> bool {
        let mut lost = self.lost_ms.lock().expect("no panic while held");
        if !self.rights.is_fenced(order_register(steward)) {
            lost.remove(&steward);
            return false;
        }
        let now_ms = self.region.clock.monotonic_ms();
        now_ms >= leases_are_over(*lost.entry(steward).or_insert(now_ms))
    }

    /// Has a region stop acting for the orders of another one, for whoever was promised `ballot`. Answers the end of
    /// what it did.
    pub(super) async fn hand_back(
        &self,
        steward: RegionId,
        of: RegionId,
        ballot: Ballot,
    ) -> Option<Position> {
        match self.ask(steward, LeaseAsk::HandBack(of, ballot)).await {
            Some(LeaseAnswer::HandedBack(upto)) => upto,
            Some(LeaseAnswer::Renewed { .. }) | None => None,
        }
    }

    async fn ask(&self, peer: RegionId, ask: LeaseAsk) -> Option<LeaseAnswer> {
        let request = serde_json::to_vec(&ask).expect("our own types have a JSON form");
        let timeout = self.rights.request_timeout;
        let answer = self.bus.request(peer, ORDER_LEASE, request.into(), timeout).await;
        let read = answer
            .map_err(|error| error.to_string())
            .and_then(|answer| serde_json::from_slice(&answer).map_err(|error| error.to_string()));
        read.inspect_err(
            |why| tracing::debug!(%peer, why, "no answer about the order lease: {why}"),
        )
        .ok()
    }
}

/// All that a steward did up to there is applied here.
fn is_applied(upto: Position, applied: Option<Position>) -> bool {
    let is_there = upto.sequence == 0 || applied.is_some_and(|applied| applied >= upto);
    is_there || is_on(Mutant::HandedBackUnseen)
}

/// What this region's acceptor says of another region's lease.
async fn answer(
    rights: &Rights,
    region: RegionId,
    epoch: Epoch,
) -> Result<LeaseAnswer, StoreError> {
    let granted = rights.registers.stewardship(region).await?.grants(region);
    let fenced = !granted && rights.registers.fenced().await?.contains(&Actor { region, epoch });
    Ok(LeaseAnswer::Renewed { granted, fenced })
}

/// Answers the others.
pub struct LeaseHandler {
    /// This region's acceptor.
    pub rights: Arc<Rights>,
    /// What it wrote.
    pub log: Arc<dyn ReplicationStore>,
}

#[async_trait]
impl RequestHandler for LeaseHandler {
    async fn handle(&self, from: RegionId, request: Bytes) -> Result<Bytes, String> {
        let ask: LeaseAsk = serde_json::from_slice(&request)
            .map_err(|error| format!("not about an order lease: {error}"))?;
        // What was forgotten here may have been the promise not to renew it.
        if !(self.rights.may_give)() {
            return Err("this region's database may have forgotten what it promised".to_owned());
        }
        let answer = match ask {
            LeaseAsk::Renew(epoch) => answer(&self.rights, from, epoch).await,
            LeaseAsk::HandBack(of, ballot) => self.hand_back(of, ballot).await,
        };
        let answer = answer.map_err(|error| error.to_string())?;
        serde_json::to_vec(&answer).map(Bytes::from).map_err(|error| error.to_string())
    }
}

impl LeaseHandler {
    /// Whatever this region does as a steward is committed while its acceptor has promised nothing else: once it has,
    /// the end of the outbox is behind all of it.
    async fn hand_back(&self, of: RegionId, ballot: Ballot) -> Result<LeaseAnswer, StoreError> {
        let promised = self.rights.registers.stewardship(of).await?.promised;
        let own = self.rights.own.region;
        if promised.ballot < ballot || promised.fenced && promised.ballot.region == own {
            return Ok(LeaseAnswer::HandedBack(None));
        }
        let head = self.log.head().await;
        let head = head.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(LeaseAnswer::HandedBack(Some(head.position)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_was_done_is_applied_up_to_the_end_of_it() {
        let at = |epoch, sequence| Position { epoch: Epoch(epoch), sequence };
        for (upto, applied, expected) in [
            (at(1, 0), None, true),
            (at(1, 3), None, false),
            (at(1, 3), Some(at(1, 2)), false),
            (at(1, 3), Some(at(1, 3)), true),
            (at(2, 1), Some(at(1, 9)), false),
            (at(1, 3), Some(at(2, 0)), true),
        ] {
            assert_eq!(is_applied(upto, applied), expected, "{upto} {applied:?}");
        }
    }
}
