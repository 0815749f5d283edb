//! A region is gone for good.
//!
//! ```text
//! fenced ──► a person asks ──► another one confirms ──► its orders have moved here ──► one executor, chosen by a majority
//!                                                                                              │
//!     payments for orders that nobody knows are named ◄── what it had not sold is freed ◄── every region ends it
//! ```
//!
//! Two people attest that its database can never be read again. Only then may anybody touch what lies below its ceilings
//! ([`crate::escrow::Row::retired`]). Every other region has to tell what it knows: a sale that is not heard of is sold
//! again. What was interrupted is gone on with when it is asked for again. A region may be built anew under the name; it
//! begins a new incarnation, like one whose database was set back.

mod lost;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Region;
use super::adoption::{AdoptError, Adoption};
use super::joining::{self, JoinError};
use super::rights::{FenceError, ProposeError, Proposer, Rights};
use crate::escrow::{
    KeyedRow, KeyedSlot, ROWS_PER_MESSAGE_MAX, Row, executed_by, executor_of, retirement_key,
    steward_of,
};
use crate::ports::{
    Bus, BusError, Needs, PaymentLedger, RejoinStore, RetirementStore, Store, StoreError,
};
use crate::replication::rejoin::{Answer, Ask, ITEMS_MAX, MARKS_MAX};
use crate::replication::retirement::{LostOrders, Retirement, RetirementOutcome};
use crate::types::{Actor, Epoch, OrderId, RegionId, StockKey};

/// How long the first person's word waits for the second one's.
const ASKED_FOR_MS: u64 = 24 * 60 * 60 * 1_000;

/// Why a region was not retired. What was done by then stands, and is gone on with.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    /// Nobody has taken over from it.
    #[error("{0} is not fenced: `entrepot region fence {0} --gone` comes first")]
    NotFenced(RegionId),
    /// It is heard.
    #[error("{0} is heard: it is not gone")]
    Heard(RegionId),
    /// The first person can't be the second one.
    #[error(
        "{asked_by} has asked for it: another person has to confirm that {region} is gone for good, by the same command \
         with a token of theirs"
    )]
    SecondPersonNeeded {
        /// Which region.
        region: RegionId,
        /// The first person.
        asked_by: String,
    },
    /// There is nothing to take back.
    #[error(
        "nobody has asked for {0} to be retired, or it is confirmed: there is nothing to take back"
    )]
    NothingToWithdraw(RegionId),
    /// One at a time.
    #[error("another region is being retired at this moment")]
    UnderWay,
    /// Another incarnation has begun to.
    #[error("{0} has begun to retire it, and only that one can go on")]
    Taken(Actor),
    /// It came back meanwhile.
    #[error("incarnation {0} of it has begun: it is not gone")]
    BegunAnew(Epoch),
    /// This region itself is not to be trusted, or a majority does not let it act.
    #[error("a majority does not let this region act on orders at the moment")]
    NoLease,
    /// Taking over its orders.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// Taking over above its ceilings.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The registers.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// Another region has to tell what it knows.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The own broker.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The own database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What retiring a region would come to, as far as this region knows.
#[derive(Debug, Clone)]
pub struct Prospect {
    /// Who has asked for it.
    pub asked_by: Option<String>,
    /// Units below its ceilings.
    pub units: u64,
    /// Payments for orders that nobody knows.
    pub lost: LostOrders,
}

/// See the module.
pub struct Retire {
    /// This region.
    pub region: Arc<Region>,
    /// Its rights, and the registers.
    pub rights: Arc<Rights>,
    /// Takes the orders over.
    pub adoption: Arc<Adoption>,
    /// Its database.
    pub store: Arc<dyn Store>,
    /// The same, for what others know.
    pub known: Arc<dyn RejoinStore>,
    /// The same, where this is kept.
    pub records: Arc<dyn RetirementStore>,
    /// What the payment provider knows.
    pub ledger: Arc<dyn PaymentLedger>,
    /// The way to the others.
    pub bus: Arc<dyn Bus>,
    /// One at a time.
    pub alone: tokio::sync::Mutex<()>,
}

impl Retire {
    /// Which region has to be asked: the one that fenced it last.
    pub async fn executor(&self, region: RegionId) -> Result<RegionId, RetireError> {
        let known = self.rights.registers.stewardship(region).await?;
        let is_back = steward_of(region, known.slot.as_ref().map(|slot| &slot.value)) == region
            && !known.promised.fenced;
        let promised = known.promised;
        if is_back || !promised.fenced || promised.ballot.region == region {
            return Err(RetireError::NotFenced(region));
        }
        Ok(promised.ballot.region)
    }

    /// What it would come to. Changes nothing.
    pub async fn weigh(&self, region: RegionId) -> Result<Prospect, RetireError> {
        let asked = self.current(region).await?.filter(|asked| self.is_waiting(asked));
        let units = self.rights.stranded(region).await?;
        let lost = self.lost_orders(region).await?;
        Ok(Prospect { asked_by: asked.map(|asked| asked.asked_by), units, lost })
    }

    /// The last attempt, if the region has not been built anew since.
    pub async fn current(&self, region: RegionId) -> Result<Option<Retirement>, RetireError> {
        let latest = self.latest(region).await?;
        let last = self.records.retirement(region).await?;
        Ok(last.filter(|last| last.ends >= latest))
    }

    async fn latest(&self, region: RegionId) -> Result<Epoch, RetireError> {
        let latest = self.rights.registers.latest(region).await?;
        let heard = self.rights.reachability.epoch_of(region);
        Ok(heard.map_or(latest, |heard| heard.max(latest)))
    }

    /// It waits for a second person, and not for too long.
    fn is_waiting(&self, asked: &Retirement) -> bool {
        let age_ms = self.region.clock.wall_ms().saturating_sub(asked.asked_at_ms);
        asked.is_open() && asked.confirmed_by.is_none() && age_ms <= ASKED_FOR_MS
    }

    /// Takes the first person's word back.
    pub async fn withdraw(&self, region: RegionId, who: &str) -> Result<Retirement, RetireError> {
        let _alone = self.alone.lock().await;
        let asked = self.current(region).await?.filter(|asked| self.is_waiting(asked));
        let mut asked = asked.ok_or(RetireError::NothingToWithdraw(region))?;
        asked.withdrawn_by = Some(who.to_owned());
        self.records.keep_retirement(&asked).await?;
        Ok(asked)
    }

    /// The first person asks; with the word of a second one it is carried out; after that anybody may have it gone on with.
    pub async fn retire(&self, region: RegionId, who: &str) -> Result<Retirement, RetireError> {
        let Ok(_alone) = self.alone.try_lock() else {
            let current = self.current(region).await?;
            return current.ok_or(RetireError::UnderWay);
        };
        if self.rights.reachability.reachable().contains(&region) {
            return Err(RetireError::Heard(region));
        }
        let now_ms = self.region.clock.wall_ms();
        let current = self.current(region).await?;
        let mut retirement = match current {
            Some(done) if done.outcome.is_some() => return Ok(done),
            Some(confirmed) if confirmed.is_open() && confirmed.confirmed_by.is_some() => confirmed,
            Some(asked) if self.is_waiting(&asked) => {
                if asked.asked_by == who {
                    let asked_by = asked.asked_by;
                    return Err(RetireError::SecondPersonNeeded { region, asked_by });
                }
                let (confirmed_by, confirmed_at_ms) = (Some(who.to_owned()), Some(now_ms));
                let confirmed = Retirement { confirmed_by, confirmed_at_ms, ..asked };
                self.records.keep_retirement(&confirmed).await?;
                confirmed
            }
            _ => {
                let asked = Retirement {
                    region,
                    ends: Epoch(self.latest(region).await?.0.saturating_add(1)),
                    executor: self.rights.own,
                    asked_by: who.to_owned(),
                    asked_at_ms: now_ms,
                    confirmed_by: None,
                    confirmed_at_ms: None,
                    noted: false,
                    withdrawn_by: None,
                    outcome: None,
                };
                self.records.keep_retirement(&asked).await?;
                return Ok(asked);
            }
        };
        match self.carry_out(&mut retirement).await {
            Ok(outcome) => retirement.outcome = Some(outcome),
            Err(error @ RetireError::BegunAnew(latest)) => {
                // What two people said is not so, or not any more.
                self.known.note_incarnation(region, latest).await?;
                self.rights.note_incarnation(region, latest).await;
                retirement.withdrawn_by = Some(region.to_string());
                self.records.keep_retirement(&retirement).await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        self.records.keep_retirement(&retirement).await?;
        for peer in self.others(region).await? {
            // Who does not hear of the end has heard of the rest.
            drop(self.tell(peer, &retirement).await);
        }
        Ok(retirement)
    }

    /// Everybody who may know something: all but those that are gone for good as well.
    async fn others(&self, region: RegionId) -> Result<Vec<RegionId>, RetireError> {
        let mut others = Vec::new();
        for peer in self.bus.peers().into_iter().filter(|peer| *peer != region) {
            let is_gone = |it: &Retirement| it.confirmed_by.is_some();
            if !self.current(peer).await?.is_some_and(|it| is_gone(&it)) {
                others.push(peer);
            }
        }
        Ok(others)
    }

    async fn carry_out(
        &self,
        retirement: &mut Retirement,
    ) -> Result<RetirementOutcome, RetireError> {
        let (region, ends) = (retirement.region, retirement.ends);
        let others = self.others(region).await?;
        let reachable = self.rights.reachability.reachable();
        if let Some(away) = others.iter().find(|peer| !reachable.contains(peer)) {
            return Err(JoinError::Unreachable(*away).into());
        }
        if !self.region.holds_order_lease(0) {
            return Err(RetireError::NoLease);
        }
        self.adoption.fence(region, true).await?;
        let proposer = self.adoption.complete(region, &others).await?;
        self.become_executor(&proposer, ends).await?;
        self.note(retirement).await?;
        for peer in &others {
            self.tell(*peer, retirement).await?;
        }
        let mut outcome = self.free(region, ends, &others).await?;
        outcome.lost = self.lost_orders(region).await?;
        outcome.done_at_ms = self.region.clock.wall_ms();
        let (freed, lost) = (outcome.units_freed, outcome.lost.count);
        tracing::warn!(%region, %ends, freed, lost, "{region} is retired: {freed} units are free, {lost} payments are for orders that nobody knows");
        Ok(outcome)
    }

    /// Takes the number of the incarnation that ends those before. One that begins at this moment takes one, too, and of the
    /// two who is second gives way.
    async fn note(&self, retirement: &mut Retirement) -> Result<(), RetireError> {
        let (region, ends) = (retirement.region, retirement.ends);
        let before = self.known.note_incarnation(region, ends).await?;
        self.rights.note_incarnation(region, ends.max(before)).await;
        if before > ends || before == ends && !retirement.noted {
            return Err(RetireError::BegunAnew(before));
        }
        retirement.noted = true;
        Ok(self.records.keep_retirement(retirement).await?)
    }

    async fn become_executor(&self, proposer: &Proposer, ends: Epoch) -> Result<(), RetireError> {
        let key = retirement_key(ends);
        let mut values = proposer.values(&self.rights, &[key.clone()].into()).await?;
        let from = values.remove(&key);
        let first = executor_of(from.as_ref().map(|slot| &slot.value));
        let executor = first.unwrap_or(self.rights.own);
        let slot = proposer.follow(from.as_ref(), executed_by(executor));
        let chosen = proposer.propose(&self.rights, vec![KeyedSlot { key, slot }]).await?;
        if chosen.is_empty() {
            return Err(RetireError::NoLease);
        }
        if executor == self.rights.own { Ok(()) } else { Err(RetireError::Taken(executor)) }
    }

    async fn tell(&self, peer: RegionId, retirement: &Retirement) -> Result<(), RetireError> {
        let ask = Ask::Retire(Box::new(retirement.clone()));
        let Answer::Noted { latest, now } = joining::ask(self.bus.as_ref(), peer, &ask).await?
        else {
            return Err(JoinError::Unreachable(peer).into());
        };
        if now && latest == retirement.ends { Ok(()) } else { Err(RetireError::BegunAnew(latest)) }
    }

    /// Puts the last rows of the region together, and takes what is left in them.
    async fn free(
        &self,
        region: RegionId,
        ends: Epoch,
        others: &[RegionId],
    ) -> Result<RetirementOutcome, RetireError> {
        let mut copies: BTreeMap<(StockKey, Actor), Vec<Row>> = BTreeMap::new();
        let mut own = BTreeMap::new();
        for teller in others.iter().map(Some).chain([None]) {
            let (mut after, mut is_last) = (None, false);
            while !is_last {
                let page = match teller {
                    Some(peer) => self.ask_rows(*peer, region, after).await?,
                    None => self.known.rows_of(region, after.as_ref(), ITEMS_MAX).await?,
                };
                is_last = page.len() < ITEMS_MAX;
                after = page.last().map(|row| (row.key.clone(), row.owner.epoch));
                for KeyedRow { key, owner, row } in
                    page.into_iter().filter(|it| it.owner.epoch < ends)
                {
                    if teller.is_none() {
                        own.insert((key.clone(), owner), row.clone());
                    }
                    copies.entry((key, owner)).or_default().push(row);
                }
            }
        }
        let mut held = self.held(region).await?;
        let mut outcome = RetirementOutcome::default();
        let mut rows = Vec::new();
        for ((key, owner), copies) in copies {
            let units = held.remove(&(owner, key.clone())).unwrap_or(0);
            let known = own.get(&(key.clone(), owner));
            let retired = Row::retired(owner, copies, units, self.rights.own);
            outcome.units_uncovered += retired.uncovered;
            // What was put together before stands.
            let is_done = known.is_some_and(Row::is_buried) && retired.freed == 0;
            if !is_done {
                rows.push(KeyedRow { key, owner, row: retired.row });
            }
        }
        outcome.units_uncovered += held.into_values().sum::<u64>();
        for page in rows.chunks(ROWS_PER_MESSAGE_MAX) {
            // Whoever begins anew asks for these rows once it has taken a later number: from then on none is written.
            let Some(report) = self.records.bury(region, ends, page).await? else {
                let latest = self.latest(region).await?;
                return Err(RetireError::BegunAnew(latest.max(Epoch(ends.0 + 1))));
            };
            outcome.units_freed += report.credited.values().sum::<u64>();
            outcome.keys_freed += report.credited.len() as u64;
            self.rights.take_note(&report);
            self.rights.tell_rows(page.to_vec()).await?;
        }
        Ok(outcome)
    }

    async fn ask_rows(
        &self,
        peer: RegionId,
        of: RegionId,
        after: Option<(StockKey, Epoch)>,
    ) -> Result<Vec<KeyedRow>, RetireError> {
        let ask = Ask::Rows(of, after);
        let Answer::Rows(page) = joining::ask(self.bus.as_ref(), peer, &ask).await? else {
            return Err(JoinError::Unreachable(peer).into());
        };
        Ok(page)
    }

    /// Units that the orders which the region placed hold of it.
    async fn held(
        &self,
        region: RegionId,
    ) -> Result<BTreeMap<(Actor, StockKey), u64>, RetireError> {
        let mut held = BTreeMap::new();
        let Some(number) = self.region.numbers.get(&region) else { return Ok(held) };
        let latest = self.latest(region).await?;
        let mut after = None;
        loop {
            let marks = self.known.marks(region, *number, after, MARKS_MAX).await?;
            let Some(last) = marks.last().map(|mark| mark.id) else { return Ok(held) };
            let orders: BTreeSet<OrderId> = marks.iter().map(|mark| mark.id).collect();
            let view = self.store.load(&Needs { orders, ..Needs::default() }).await?;
            for record in view.orders.values() {
                for epoch in (1..=latest.0).map(Epoch) {
                    let owner = Actor { region, epoch };
                    for (key, units) in record.order.held_under(owner) {
                        *held.entry((owner, key)).or_default() += units;
                    }
                }
            }
            after = Some(last);
        }
    }
}
