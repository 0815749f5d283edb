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

mod carry_out;
mod lost;

use std::sync::{Arc, Mutex};

use super::Region;
use super::adoption::{AdoptError, Adoption};
use super::joining::JoinError;
use super::rights::{FenceError, ProposeError, Rights};
use crate::ports::{Bus, BusError, PaymentLedger, RejoinStore, RetirementStore, Store, StoreError};
use crate::replication::retirement::{LostOrders, Retirement};
use crate::types::{Actor, Epoch, RegionId};

/// How long the first person's word waits for the second one's.
const ASKED_FOR_MS: u64 = 24 * 60 * 60 * 1_000;

/// How long a look goes on at what retiring a region would come to: a call waits about as long for anything. It shows whether
/// there is much to lose; what is not counted by then is told as such, and retiring the region counts all of it. One call to the
/// database or the provider may be under way at the end, each with a limit of its own.
const WEIGH_MS_MAX: u64 = 2_000;

/// Why a region was not retired. What was done by then stands, and is gone on with.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    /// Nobody has taken over from it.
    #[error("{0} is not fenced: `entrepot region fence {0} --gone` comes first")]
    NotFenced(RegionId),
    /// It is heard.
    #[error("{0} is heard, here or by another region: it is not gone")]
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
        "nobody has asked for {0} to be retired, or it has ended: there is nothing to take back"
    )]
    NothingToWithdraw(RegionId),
    /// One at a time.
    #[error("another region is being retired at this moment")]
    UnderWay,
    /// Two requests at once, or two servers.
    #[error(
        "somebody else has said something about {0} at the same moment; nothing was changed by this request: repeat it"
    )]
    Overtaken(RegionId),
    /// Another incarnation has begun to.
    #[error(
        "{0} has begun to retire it, and only that one can go on: fence the region again by that one (`--by`), and repeat it there"
    )]
    Taken(Actor),
    /// It came back meanwhile, or has tried to.
    #[error(
        "incarnation {0} of it is known: it has begun anew, or has tried to. Both people's words are over; if it is gone after all, they say so again"
    )]
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
    /// What was put together is not what the database knows.
    #[error("{0} rows of it could not be put together; the log names them")]
    Refused(usize),
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
    /// There may be more: not all keys were counted in the time.
    pub has_more_units: bool,
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
    /// Why the last attempt failed, if nobody has been told.
    pub failure: Mutex<Option<(RegionId, RetireError)>>,
}

impl Retire {
    /// Which region has to be asked: the one that fenced it last.
    pub async fn executor(&self, region: RegionId) -> Result<RegionId, RetireError> {
        let promised = self.rights.registers.stewardship(region).await?.promised;
        if !promised.fenced || promised.ballot.region == region {
            return Err(RetireError::NotFenced(region));
        }
        Ok(promised.ballot.region)
    }

    /// What it would come to, as far as that can be counted in some seconds. Changes nothing.
    pub async fn weigh(&self, region: RegionId) -> Result<Prospect, RetireError> {
        let asked = self.current(region).await?.filter(|asked| self.is_waiting(asked));
        let until_ms = self.region.clock.monotonic_ms() + WEIGH_MS_MAX;
        // Neither has to wait for the other's turn to be counted at all.
        let (stranded, lost) = tokio::join!(
            self.rights.stranded(region, until_ms),
            self.first_lost_orders(region, until_ms)
        );
        let (units, has_more_units) = stranded?;
        let asked_by = asked.map(|asked| asked.asked_by);
        Ok(Prospect { asked_by, units, has_more_units, lost })
    }

    /// The last attempt, if it is still about the region as it is: people speak of one loss. When the region has returned
    /// since, or has been built anew, their words are over.
    pub async fn current(&self, region: RegionId) -> Result<Option<Retirement>, RetireError> {
        let latest = self.latest(region).await?;
        let promised = self.rights.registers.stewardship(region).await?.promised;
        let is_same = |last: &Retirement| {
            let is_fenced = promised.fenced && promised.ballot == last.fence;
            last.ends > latest && is_fenced || last.noted && last.ends == latest
        };
        Ok(self.records.retirement(region).await?.filter(is_same))
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

    /// Takes the people's words back, as long as nothing has ended.
    pub async fn withdraw(&self, region: RegionId, who: &str) -> Result<Retirement, RetireError> {
        let _alone = self.alone.lock().await;
        let asked = self.current(region).await?.filter(|asked| asked.is_open() && !asked.noted);
        let asked = asked.ok_or(RetireError::NothingToWithdraw(region))?;
        let withdrawn = Retirement { withdrawn_by: Some(who.to_owned()), ..asked.clone() };
        self.keep(Some(&asked), withdrawn).await
    }

    /// Keeps what follows from what was read, unless another process or request was first.
    async fn keep(
        &self,
        read: Option<&Retirement>,
        next: Retirement,
    ) -> Result<Retirement, RetireError> {
        let is_kept = self.records.keep_retirement(read, &next).await?;
        if is_kept { Ok(next) } else { Err(RetireError::Overtaken(next.region)) }
    }

    /// The first person asks; with the word of a second one it is carried out; after that anybody may have it gone on with.
    pub async fn retire(&self, region: RegionId, who: &str) -> Result<Retirement, RetireError> {
        let Ok(_alone) = self.alone.try_lock() else {
            let current = self.current(region).await?;
            let is_under_way = |it: &Retirement| it.is_open() && it.confirmed_by.is_some();
            return current.filter(is_under_way).ok_or(RetireError::UnderWay);
        };
        if let Some(failure) = self.take_failure(region) {
            return Err(failure);
        }
        if self.rights.reachability.heard_by_anybody(region) {
            return Err(RetireError::Heard(region));
        }
        let current = self.current(region).await?;
        let confirmed = match current.filter(|it| it.withdrawn_by.is_none()) {
            // Also one that is done: what has come to be known since is taken.
            Some(confirmed) if confirmed.confirmed_by.is_some() => confirmed,
            Some(asked) if self.is_waiting(&asked) => self.confirm(asked, who).await?,
            Some(_) | None => return self.ask(region, who).await,
        };
        self.go_on_with(confirmed).await
    }

    async fn ask(&self, region: RegionId, who: &str) -> Result<Retirement, RetireError> {
        let last = self.records.retirement(region).await?;
        let asked = Retirement {
            region,
            ends: Epoch(self.latest(region).await?.0.saturating_add(1)),
            fence: self.rights.registers.stewardship(region).await?.promised.ballot,
            asked_by: who.to_owned(),
            asked_at_ms: self.region.clock.wall_ms(),
            confirmed_by: None,
            confirmed_at_ms: None,
            noted: false,
            units_freed: 0,
            withdrawn_by: None,
            outcome: None,
        };
        self.keep(last.as_ref(), asked).await
    }

    async fn confirm(&self, asked: Retirement, who: &str) -> Result<Retirement, RetireError> {
        if asked.asked_by == who {
            let Retirement { region, asked_by, .. } = asked;
            return Err(RetireError::SecondPersonNeeded { region, asked_by });
        }
        let confirmed = Retirement {
            confirmed_by: Some(who.to_owned()),
            confirmed_at_ms: Some(self.region.clock.wall_ms()),
            ..asked.clone()
        };
        self.keep(Some(&asked), confirmed).await
    }

    async fn go_on_with(&self, mut retirement: Retirement) -> Result<Retirement, RetireError> {
        let region = retirement.region;
        let outcome = match self.carry_out(&mut retirement).await {
            Ok(outcome) => outcome,
            Err(error) => {
                if let RetireError::BegunAnew(latest) = error {
                    // What two people said is not so, or not any more. What is done stays done; what they say next is of the
                    // incarnation that a peer knows.
                    self.known.note_incarnation(region, latest).await?;
                    let read = self.records.retirement(region).await?;
                    let withdrawn_by = Some(region.to_string());
                    let is_it = |read: &&Retirement| read.is_attempt_of(&retirement);
                    let open = read.as_ref().filter(is_it).filter(|read| read.is_open());
                    if let Some(read) = open {
                        let withdrawn = Retirement { withdrawn_by, ..read.clone() };
                        self.keep(Some(read), withdrawn).await?;
                    }
                }
                return Err(error);
            }
        };
        let done = Retirement { outcome: Some(outcome), ..retirement.clone() };
        let retirement = match self.keep(Some(&retirement), done).await {
            // Another process of this region has done the same at the same time.
            Err(RetireError::Overtaken(_)) => {
                let current = self.current(region).await?.filter(Retirement::is_done);
                current.ok_or(RetireError::Overtaken(region))?
            }
            kept => kept?,
        };
        for peer in self.others(region).await? {
            // Who does not hear of the end has heard of the rest.
            drop(self.tell(peer, &retirement).await);
        }
        Ok(retirement)
    }

    /// Keeps why an attempt failed whose caller had not waited, for the next one who asks.
    pub fn note_failure(&self, region: RegionId, error: RetireError) {
        *self.failure.lock().expect("no panic while held") = Some((region, error));
    }

    fn take_failure(&self, region: RegionId) -> Option<RetireError> {
        let mut failure = self.failure.lock().expect("no panic while held");
        failure.take_if(|(of, _)| *of == region).map(|(_, error)| error)
    }
}
