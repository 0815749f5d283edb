//! Proposes values of one owner's registers to all acceptors: the owner its ceilings, a survivor a take-over.
//!
//! ```text
//! prepare ──► promises of a majority ──► values: the newest any of them stored ──► propose ──► chosen by a majority
//! ```
//!
//! The own acceptor always comes first: what is sent has been stored here, so that no ballot and sequence ever
//! names two values, also after a crash.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::{ACCEPT, PREPARE, Rights};
use crate::escrow::{
    Accept, Accepted, Asked, Ballot, KeyedSlot, Prepare, Promise, Purpose, ROWS_PER_MESSAGE_MAX,
    Slot, Voted, majority,
};
use crate::mutants::{Mutant, is_on};
use crate::ports::{RequestKind, StoreError};
use crate::types::{Actor, Epoch, RegionId, StockKey};

/// How often a higher ballot is tried when others turn out to be ahead. Two survivors that outbid each other do
/// so at their own pace; who loses comes again later.
const BALLOTS_TRIED_MAX: usize = 4;

/// Why nothing was chosen. Asked again, the same is done again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too few acceptors answered.
    #[error("{answered} of {needed} regions agreed; the others can't be reached")]
    NoMajority {
        /// How many did, this region included.
        answered: usize,
        /// How many it takes.
        needed: usize,
    },
    /// Another region proposes for the same owner now.
    #[error("{} proposes for it", .by.region)]
    Preempted {
        /// Its ballot.
        by: Ballot,
    },
    /// A survivor has ended the owner's raises for good.
    #[error("{owner} was fenced")]
    Fenced {
        /// Whom.
        owner: Actor,
    },
    /// A peer holds a promise or a value of this region's own that its database does not know.
    #[error("{peer} holds what this region's database has forgotten to have proposed")]
    Amnesia {
        /// Who.
        peer: RegionId,
    },
    /// This region's own database was set back, or may have been: what it forgot may have been a promise.
    #[error(
        "this region's database was set back, or may have been: it has no vote, and proposes nothing"
    )]
    SetBack,
    /// This region's database could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// May propose values of one owner under one ballot, which a majority has promised.
#[derive(Debug, Clone)]
pub struct Proposer {
    owner: Actor,
    ballot: Ballot,
    /// What others have stored must be looked at: somebody else has proposed for this owner.
    adopts: bool,
}

impl Proposer {
    /// The owner's first process needs no promises: the lowest ballot is its own from birth.
    pub fn by_birth(owner: Actor) -> Self {
        Self { owner, ballot: Ballot::birth(owner.region), adopts: false }
    }

    /// Goes on under a ballot that another process of this region has prepared, or begun to: what others have
    /// stored is asked for.
    pub fn resume(owner: Actor, ballot: Ballot) -> Self {
        Self { owner, ballot, adopts: true }
    }

    /// The ballot.
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// Asks for promises of a higher ballot than any known.
    pub async fn prepare(
        rights: &Rights,
        owner: Actor,
        purpose: Purpose,
    ) -> Result<Self, ProposeError> {
        rights.may_vote()?;
        let own = rights.own.region;
        let mut ballot = rights.registers.promised(owner).await?.above(own);
        for _ in 0..BALLOTS_TRIED_MAX {
            let request = Prepare { owner, ballot, purpose, keys: Vec::new() };
            match ask_promises(rights, &request).await? {
                Promises::Given(promises) => {
                    let adopts =
                        owner != rights.own || promises.iter().any(|promise| promise.contested);
                    return Ok(Self { owner, ballot, adopts });
                }
                Promises::Behind(higher) => ballot = higher.above(own),
            }
        }
        Err(ProposeError::Preempted { by: ballot })
    }

    /// A majority has promised this very ballot: asks them again.
    pub async fn confirm(&self, rights: &Rights, purpose: Purpose) -> Result<(), ProposeError> {
        let (owner, ballot) = (self.owner, self.ballot);
        let request = Prepare { owner, ballot, purpose, keys: Vec::new() };
        match ask_promises(rights, &request).await? {
            Promises::Given(_) => Ok(()),
            Promises::Behind(by) => Err(ProposeError::Preempted { by }),
        }
    }

    /// Asks once more for the promises of a fence or a return, so that who did not hear of it does.
    pub async fn tell(&self, rights: &Rights, purpose: Purpose) -> Result<(), ProposeError> {
        let (owner, ballot) = (self.owner, self.ballot);
        let request = Prepare { owner, ballot, purpose, keys: Vec::new() };
        let mut answers = ask_all::<Promise>(rights, PREPARE, &request);
        while let Some((_, answer)) = answers.next().await {
            if let Some(Promise::Refused { preempted, .. }) = answer {
                return Err(ProposeError::Preempted { by: preempted.promised });
            }
        }
        Ok(())
    }

    /// What to go on from, by key: the newest value that any of a majority has stored. Keys without one have
    /// their value of birth.
    pub async fn values(
        &self,
        rights: &Rights,
        keys: &BTreeSet<StockKey>,
    ) -> Result<BTreeMap<StockKey, Slot>, ProposeError> {
        // For an earlier incarnation of its own a region asks as a survivor does: the owner itself is refused.
        let is_own = self.owner.region == rights.own.region;
        let is_buried = is_own && self.owner != rights.own && self.owner.epoch != Epoch::NONE;
        let purpose = if is_buried { Purpose::Fence } else { Purpose::Propose };
        let request =
            |keys: Vec<StockKey>| Prepare { owner: self.owner, ballot: self.ballot, purpose, keys };
        let mine = request(keys.iter().cloned().collect());
        let promise = given(rights.registers.prepare(&mine).await?.answer, self.owner)?;
        let mut values: BTreeMap<StockKey, Slot> =
            promise.slots.into_iter().map(|keyed| (keyed.key, keyed.slot)).collect();
        let is_blind = self.owner == rights.own && is_on(Mutant::CreditsNotAdopted);
        if !self.adopts || is_blind {
            return Ok(values);
        }
        // What was proposed under this very ballot began with the newest of a majority.
        let is_ours =
            |key: &StockKey| values.get(key).is_some_and(|slot| slot.ballot == self.ballot);
        let rest: Vec<StockKey> = keys.iter().filter(|key| !is_ours(key)).cloned().collect();
        if rest.is_empty() {
            return Ok(values);
        }
        match ask_promises(rights, &request(rest)).await? {
            Promises::Given(promises) => {
                for keyed in promises.into_iter().flat_map(|promise| promise.slots) {
                    let known = values.entry(keyed.key).or_insert_with(|| keyed.slot.clone());
                    if keyed.slot.place() > known.place() {
                        *known = keyed.slot;
                    }
                }
                Ok(values)
            }
            Promises::Behind(by) => Err(ProposeError::Preempted { by }),
        }
    }

    /// The next value of a register.
    pub fn follow(&self, from: Option<&Slot>, value: crate::escrow::Value) -> Slot {
        let birth = Slot::birth(self.owner.region);
        from.unwrap_or(&birth).followed_by(self.ballot, value)
    }

    /// Proposes values and answers those that a majority has stored. They are noted as chosen here.
    pub async fn propose(
        &self,
        rights: &Rights,
        slots: Vec<KeyedSlot>,
    ) -> Result<Vec<KeyedSlot>, ProposeError> {
        debug_assert!(slots.len() <= ROWS_PER_MESSAGE_MAX, "the caller cuts them into messages");
        rights.may_vote()?;
        let request = Accept { owner: self.owner, slots };
        let mine = match rights.registers.accept(&request).await?.answer {
            Accepted::Answered { stored, .. } => stored,
            Accepted::Refused { preempted, fenced } => {
                return Err(refused(self.owner, preempted.promised, fenced));
            }
        };
        // Another process of this region may have proposed at the same time: what it stored first stands.
        let mine: BTreeSet<StockKey> = mine.into_iter().collect();
        let slots: Vec<KeyedSlot> =
            request.slots.into_iter().filter(|keyed| mine.contains(&keyed.key)).collect();
        if slots.is_empty() {
            return Ok(slots);
        }
        let request = Accept { owner: self.owner, slots };
        let chosen = self.ask_acceptors(rights, &request).await?;
        let chosen: Vec<KeyedSlot> =
            request.slots.into_iter().filter(|keyed| chosen.contains(&keyed.key)).collect();
        // Only of ceilings anybody keeps what is known to be chosen.
        let voters = rights.others_votes();
        if !chosen.is_empty() && self.owner.epoch != Epoch::NONE {
            rights.registers.choose(self.owner, &chosen, &voters).await?;
        } else {
            rights.registers.note_voters(&voters).await?;
        }
        Ok(chosen)
    }

    async fn ask_acceptors(
        &self,
        rights: &Rights,
        request: &Accept,
    ) -> Result<BTreeSet<StockKey>, ProposeError> {
        let needed = needed(rights);
        rights.read_voters().await?;
        let mut votes: BTreeMap<&StockKey, usize> =
            request.slots.iter().map(|keyed| (&keyed.key, 1)).collect();
        let (mut answered, mut preempted) = (1, None);
        let mut answers = ask_all::<Accepted>(rights, ACCEPT, request);
        while votes.values().any(|&count| count < needed) {
            let Some((peer, answer)) = answers.next().await else { break };
            match answer {
                Some(Accepted::Answered { stored, forked }) => {
                    if !forked.is_empty() && self.owner == rights.own {
                        return Err(ProposeError::Amnesia { peer });
                    }
                    answered += 1;
                    for key in &stored {
                        if let Some(count) = votes.get_mut(key) {
                            *count += 1;
                        }
                    }
                }
                Some(Accepted::Refused { preempted: by, fenced }) => {
                    preempted = preempted.max(Some((by.promised, fenced)));
                }
                None => {}
            }
        }
        let chosen: BTreeSet<StockKey> = votes
            .into_iter()
            .filter(|&(_, count)| count >= needed)
            .map(|(key, _)| key.clone())
            .collect();
        match (chosen.is_empty(), preempted) {
            (false, _) => Ok(chosen),
            (true, Some((by, fenced))) => Err(refused(self.owner, by, fenced)),
            (true, None) => Err(ProposeError::NoMajority { answered, needed }),
        }
    }
}

struct Given {
    contested: bool,
    slots: Vec<KeyedSlot>,
}

enum Promises {
    /// Of a majority, this region included.
    Given(Vec<Given>),
    /// Somebody has promised more.
    Behind(Ballot),
}

async fn ask_promises(rights: &Rights, request: &Prepare) -> Result<Promises, ProposeError> {
    let owner = request.owner;
    let mut given_so_far = match rights.registers.prepare(request).await?.answer {
        Promise::Promised { contested, slots, .. } => vec![Given { contested, slots }],
        Promise::Refused { preempted, fenced } if fenced && request.purpose == Purpose::Propose => {
            return Err(refused(owner, preempted.promised, fenced));
        }
        Promise::Refused { preempted, .. } => return Ok(Promises::Behind(preempted.promised)),
    };
    let needed = needed(rights);
    rights.read_voters().await?;
    let (mut behind, mut fenced_by_any) = (None, false);
    let mut answers = ask_all::<Promise>(rights, PREPARE, request);
    while given_so_far.len() < needed {
        let Some((peer, answer)) = answers.next().await else { break };
        match answer {
            Some(Promise::Promised { contested, slots, .. }) => {
                given_so_far.push(Given { contested, slots });
            }
            Some(Promise::Refused { preempted, fenced }) => {
                let by = preempted.promised;
                // Whatever this region promised itself it has stored before it asked anybody.
                if by.region == rights.own.region && rights.registers.promised(owner).await? < by {
                    return Err(ProposeError::Amnesia { peer });
                }
                // One that missed this region's return does not keep a majority from promising.
                fenced_by_any |= fenced && request.purpose == Purpose::Propose;
                behind = behind.max(Some(by));
            }
            None => {}
        }
    }
    // What is done on these promises stands only while they are remembered.
    rights.registers.note_voters(&rights.others_votes()).await?;
    match (given_so_far.len() >= needed, behind) {
        (true, _) => Ok(Promises::Given(given_so_far)),
        (false, Some(_)) if fenced_by_any && owner == rights.own => {
            Err(ProposeError::Fenced { owner })
        }
        (false, Some(by)) => Ok(Promises::Behind(by)),
        (false, None) => Err(ProposeError::NoMajority { answered: given_so_far.len(), needed }),
    }
}

fn given(promise: Promise, owner: Actor) -> Result<Given, ProposeError> {
    match promise {
        Promise::Promised { contested, slots, .. } => Ok(Given { contested, slots }),
        Promise::Refused { preempted, fenced } => Err(refused(owner, preempted.promised, fenced)),
    }
}

fn refused(owner: Actor, by: Ballot, fenced: bool) -> ProposeError {
    if fenced { ProposeError::Fenced { owner } } else { ProposeError::Preempted { by } }
}

/// How many acceptors decide.
pub(crate) fn needed(rights: &Rights) -> usize {
    majority(rights.bus.peers().len() + 1)
}

type Answers<'a, T> = FuturesUnordered<futures::future::BoxFuture<'a, (RegionId, Option<T>)>>;

/// Asks every peer at once; `None` for those that give no usable answer in time.
fn ask_all<'a, T: serde::de::DeserializeOwned + Send + 'a>(
    rights: &'a Rights,
    kind: RequestKind,
    request: &impl serde::Serialize,
) -> Answers<'a, T> {
    let asked = Asked { voters: rights.voters(), request };
    let bytes = Bytes::from(serde_json::to_vec(&asked).expect("our own types have a JSON form"));
    let ask = |peer: RegionId| {
        let bytes = bytes.clone();
        let asked: futures::future::BoxFuture<'a, _> = Box::pin(async move {
            let answer = rights.bus.request(peer, kind, bytes, rights.request_timeout).await;
            let read = answer.map(|answer| serde_json::from_slice::<Voted<T>>(&answer));
            match read {
                Ok(Ok(vote)) => {
                    rights.heard_vote(peer, vote.voter);
                    (peer, Some(vote.answer))
                }
                Ok(Err(error)) => {
                    tracing::warn!(%peer, %error, "a peer's answer can't be read: {error}");
                    (peer, None)
                }
                Err(error) => {
                    tracing::debug!(%peer, %error, "no answer from an acceptor: {error}");
                    (peer, None)
                }
            }
        });
        asked
    };
    rights.bus.peers().into_iter().map(ask).collect()
}
