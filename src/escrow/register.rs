//! The register of an owner's ceilings: what a majority of regions has agreed to, and never goes down.
//!
//! A region that is gone may have sold more than anybody knows. It never sells beyond its *ceiling*,
//! and a ceiling is a number that a majority of *acceptors* (the regions' databases) has stored; so
//! what lies above it can be taken over, without a clock, a lease, or knowing what was sold. For each
//! owner and key there is one register; its values are [`Value`]s, proposed under [`Ballot`]s by the
//! owner (to raise its ceiling) or by survivors (to take over). This is Paxos (Lamport, "The Part-Time
//! Parliament", 1998) with one promise for all keys of an owner, and a sequence of values under one
//! ballot.
//!
//! What makes it safe, in one line each:
//!
//! - a promise of a majority ends every write under a lower ballot ([`answer_prepare`], [`answer_accept`]);
//! - who has those promises goes on from the newest value any of them had stored ([`newest`]);
//! - a ballot and sequence never name two values: the proposer stores a value before it sends it;
//! - values only grow ([`Value::covers`]), and a proposal keeps `ceiling + Σ credits` within what the
//!   proposer knows to have flowed to the owner ([`Value::raised`], [`Value::taken_over`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::row::cap;
use crate::mutants::{Mutant, is_on};
use crate::types::{Actor, RegionId};

/// Who proposes, and how late: of two ballots the higher one wins. Two regions never have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// Zero only for an owner's first process: from birth it need not ask anybody for promises.
    pub round: u32,
    /// The proposer.
    pub region: RegionId,
}

impl Ballot {
    /// The ballot that a register is born with.
    pub fn birth(owner: RegionId) -> Self {
        Self { round: 0, region: owner }
    }

    /// The lowest ballot of `region` above this one.
    #[must_use]
    pub fn above(self, region: RegionId) -> Self {
        let later = self.round > 0 && region > self.region;
        Self { round: if later { self.round } else { self.round.saturating_add(1) }, region }
    }
}

/// What a register holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Value {
    /// The owner's outflow never passes it.
    pub ceiling: u64,
    /// Rights of the owner that others took over.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credits: BTreeMap<Actor, u64>,
}

impl Value {
    /// What others took over in all.
    pub fn credited(&self) -> u64 {
        cap(self.credits.values().map(|&units| u128::from(units)).sum())
    }

    /// What `actor` took over.
    pub fn credit_of(&self, actor: Actor) -> u64 {
        self.credits.get(&actor).copied().unwrap_or(0)
    }

    /// Does this value take nothing back that `older` had?
    pub fn covers(&self, older: &Self) -> bool {
        let credits = older.credits.iter().all(|(&actor, &units)| self.credit_of(actor) >= units);
        self.ceiling >= older.ceiling && credits
    }

    /// The owner's proposal: a ceiling of `wanted`, or as near as what flowed to it allows. `None` where
    /// that is no higher. Credits count: what others took over is not the owner's any more.
    pub fn raised(&self, inflow: u64, wanted: u64) -> Option<Self> {
        let credited = if is_on(Mutant::CreditsIgnoredOnRaise) { 0 } else { self.credited() };
        let ceiling = wanted.min(inflow.saturating_sub(credited));
        (ceiling > self.ceiling).then(|| Self { ceiling, credits: self.credits.clone() })
    }

    /// A survivor's proposal: the same ceiling, and everything above it that is known to have flowed to
    /// the owner for the `heirs`, in proportion to their shares, the first ones first where it can't be
    /// divided. `None` where nothing is left to take.
    ///
    /// The whole ceiling counts as sold, whatever the owner's row says: a copy of a row is old.
    pub fn taken_over(&self, inflow: u64, heirs: &BTreeMap<Actor, u64>) -> Option<Self> {
        let sold = if is_on(Mutant::CeilingNotCountedAsSold) { 0 } else { self.ceiling };
        let held = u128::from(sold) + u128::from(self.credited());
        let left = u64::try_from(u128::from(inflow).checked_sub(held)?).ok()?;
        let mut shares: u128 = heirs.values().map(|&share| u128::from(share)).sum();
        if left == 0 || shares == 0 {
            return None;
        }
        let (mut credits, mut left) = (self.credits.clone(), u128::from(left));
        for (&heir, &share) in heirs {
            if share > 0 {
                let units = (left * u128::from(share)).div_ceil(shares);
                *credits.entry(heir).or_insert(0) += cap(units);
                left -= units;
                shares -= u128::from(share);
            }
        }
        credits.retain(|_, units| *units > 0);
        Some(Self { ceiling: self.ceiling, credits })
    }
}

/// A value with its place in the order of values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// Under which it was proposed.
    pub ballot: Ballot,
    /// Counts the values of one key under one ballot.
    pub sequence: u64,
    /// What was proposed.
    pub value: Value,
}

impl Slot {
    /// What every acceptor holds of a key that was never proposed.
    pub fn birth(owner: RegionId) -> Self {
        Self { ballot: Ballot::birth(owner), sequence: 0, value: Value::default() }
    }

    /// Its place in the order of values.
    pub fn place(&self) -> (Ballot, u64) {
        (self.ballot, self.sequence)
    }

    /// The next value, under a ballot that is not lower. The caller stores it before it sends it.
    #[must_use]
    pub fn followed_by(&self, ballot: Ballot, value: Value) -> Self {
        let sequence = if ballot == self.ballot { self.sequence + 1 } else { 1 };
        Self { ballot, sequence, value }
    }
}

/// The newest of what a majority had stored: what a proposer goes on from.
pub fn newest<'a>(slots: impl IntoIterator<Item = &'a Slot>) -> Option<&'a Slot> {
    slots.into_iter().max_by_key(|slot| slot.place())
}

/// How many of the acceptors decide.
pub fn majority(acceptors: usize) -> usize {
    acceptors / 2 + 1
}

/// A higher ballot was promised: the proposer is not the newest any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("round {} was promised to {}", promised.round, promised.region)]
pub struct Preempted {
    /// To whom.
    pub promised: Ballot,
}

/// An acceptor's answer to "take no more under a lower ballot": the ballot to promise. Heard twice, it
/// promises once.
pub fn answer_prepare(promised: Ballot, asked: Ballot) -> Result<Ballot, Preempted> {
    if asked >= promised { Ok(asked) } else { Err(Preempted { promised }) }
}

/// Why somebody asks for promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To propose, as whoever may.
    #[default]
    Propose,
    /// A survivor ends the owner's raises, until it returns.
    Fence,
    /// The owner is back: it goes on from what others have chosen meanwhile.
    Return,
}

/// What an acceptor has promised of one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// Nothing under a lower one is stored.
    pub ballot: Ballot,
    /// A survivor has ended the owner's raises, and the owner has not returned.
    pub fenced: bool,
}

impl Promised {
    /// Of an owner that nobody has asked about.
    pub fn birth(owner: RegionId) -> Self {
        Self { ballot: Ballot::birth(owner), fenced: false }
    }

    /// [`answer_prepare`], and what becomes of a fence: an owner that was fenced is refused until it says
    /// that it knows.
    pub fn answer(
        self,
        owner: RegionId,
        asked: Ballot,
        purpose: Purpose,
    ) -> Result<Self, Preempted> {
        let is_unaware = self.fenced && purpose == Purpose::Propose && asked.region == owner;
        if is_unaware && !is_on(Mutant::FenceForgotten) {
            return Err(Preempted { promised: self.ballot });
        }
        let ballot = answer_prepare(self.ballot, asked)?;
        let fenced = match purpose {
            Purpose::Propose => self.fenced,
            Purpose::Fence => true,
            Purpose::Return => false,
        };
        Ok(Self { ballot, fenced })
    }

    /// Of two promises of one acceptor, or of two, the later: what an acceptor that forgot its own takes over from
    /// the others.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if other.ballot > self.ballot { other } else { self }
    }

    /// After a value was stored under `ballot`: it is promised. The owner proposes above a fence only when a
    /// majority has heard of its return, so an acceptor that has not learns of it here.
    #[must_use]
    pub fn stored(self, owner: RegionId, ballot: Ballot) -> Self {
        if ballot <= self.ballot {
            return self;
        }
        Self { ballot, fenced: self.fenced && ballot.region != owner }
    }
}

/// What an acceptor does with a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// Store it, with its ballot as the promise, and answer that it is stored.
    Store,
    /// It is stored already: answer so.
    Stored,
    /// A late copy of a proposal that a newer one of the same proposer has replaced: no answer helps.
    Replaced,
    /// Another value stands under this ballot and sequence: the proposer's database was set back.
    /// Refuse, and say so.
    Forked,
    /// A higher ballot was promised.
    Preempted(Preempted),
}

/// An acceptor's answer to a proposal, with what it has promised and stored.
pub fn answer_accept(promised: Ballot, stored: &Slot, proposed: &Slot) -> Acceptance {
    if proposed.ballot < promised && !is_on(Mutant::PromisesIgnored) {
        return Acceptance::Preempted(Preempted { promised });
    }
    match proposed.place().cmp(&stored.place()) {
        std::cmp::Ordering::Greater => Acceptance::Store,
        std::cmp::Ordering::Less => Acceptance::Replaced,
        std::cmp::Ordering::Equal if proposed.value == stored.value => Acceptance::Stored,
        std::cmp::Ordering::Equal => Acceptance::Forked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn actor(name: &str) -> Actor {
        Actor { region: region(name), epoch: Epoch::FIRST }
    }

    fn ballot(round: u32, name: &str) -> Ballot {
        Ballot { round, region: region(name) }
    }

    fn value(ceiling: u64, credits: &[(&str, u64)]) -> Value {
        let credits = credits.iter().map(|&(name, units)| (actor(name), units)).collect();
        Value { ceiling, credits }
    }

    #[test]
    fn a_later_ballot_is_above_and_is_the_lowest_of_its_region() {
        for (from, to, expected) in [
            (ballot(0, "b"), "a", ballot(1, "a")),
            (ballot(0, "b"), "c", ballot(1, "c")),
            (ballot(0, "b"), "b", ballot(1, "b")),
            (ballot(1, "b"), "c", ballot(1, "c")),
            (ballot(1, "b"), "a", ballot(2, "a")),
            (ballot(1, "b"), "b", ballot(2, "b")),
        ] {
            assert_eq!(from.above(region(to)), expected);
            assert!(from.above(region(to)) > from);
        }
    }

    #[test]
    fn a_ceiling_is_raised_within_inflow_and_credits() {
        assert_eq!(value(5, &[]).raised(20, 12), Some(value(12, &[])));
        assert_eq!(value(5, &[]).raised(9, 12), Some(value(9, &[])));
        assert_eq!(value(5, &[("b", 3)]).raised(9, 12), Some(value(6, &[("b", 3)])));
        assert_eq!(value(5, &[("b", 4)]).raised(9, 12), None, "what was taken over is gone");
        assert_eq!(value(5, &[]).raised(20, 5), None);
    }

    #[test]
    fn a_take_over_names_every_heir_and_leaves_the_ceiling() {
        let heirs = |shares: &[(&str, u64)]| -> BTreeMap<Actor, u64> {
            shares.iter().map(|&(name, share)| (actor(name), share)).collect()
        };
        let both = heirs(&[("b", 1), ("c", 1)]);
        assert_eq!(value(5, &[]).taken_over(12, &both), Some(value(5, &[("b", 4), ("c", 3)])));
        assert_eq!(value(5, &[("b", 6)]).taken_over(12, &both), Some(value(5, &[("b", 7)])));
        assert_eq!(value(5, &[("b", 7)]).taken_over(12, &both), None, "nothing is left");
        assert_eq!(value(5, &[]).taken_over(4, &both), None, "an old belief takes nothing");
        assert_eq!(value(5, &[]).taken_over(12, &heirs(&[("b", 0)])), None);
        let uneven = value(0, &[]).taken_over(100, &heirs(&[("b", 3), ("c", 1), ("d", 0)]));
        assert_eq!(uneven, Some(value(0, &[("b", 75), ("c", 25)])));
    }

    #[test]
    fn who_was_fenced_is_refused_until_it_says_that_it_is_back() {
        let (owner, other) = (region("b"), region("a"));
        let birth = Promised::birth(owner);
        let fenced = birth.answer(owner, ballot(1, "a"), Purpose::Fence).unwrap();
        assert_eq!(fenced, Promised { ballot: ballot(1, "a"), fenced: true });
        let late = fenced.answer(owner, ballot(9, "b"), Purpose::Propose);
        assert_eq!(late, Err(Preempted { promised: ballot(1, "a") }));
        // Take-overs go on, also by somebody else.
        let on =
            fenced.answer(owner, Ballot { round: 2, region: other }, Purpose::Propose).unwrap();
        assert!(on.fenced);
        assert!(on.answer(owner, ballot(1, "b"), Purpose::Return).is_err(), "too low");
        let back = on.answer(owner, ballot(2, "b"), Purpose::Return).unwrap();
        assert_eq!(back, Promised { ballot: ballot(2, "b"), fenced: false });
    }

    #[test]
    fn who_missed_a_return_learns_of_it_from_what_the_owner_proposes() {
        let (owner, fence) = (region("b"), ballot(3, "a"));
        let fenced = Promised { ballot: fence, fenced: true };
        assert_eq!(fenced.stored(owner, fence), fenced);
        let of_another = Promised { ballot: ballot(4, "c"), fenced: true };
        assert_eq!(fenced.stored(owner, ballot(4, "c")), of_another);
        let back = Promised { ballot: ballot(3, "b"), fenced: false };
        assert_eq!(fenced.stored(owner, ballot(3, "b")), back);
    }

    #[test]
    fn an_acceptor_keeps_its_promises_and_its_newest_value() {
        let slot = |round, name, sequence, ceiling| Slot {
            ballot: ballot(round, name),
            sequence,
            value: value(ceiling, &[]),
        };
        assert_eq!(answer_prepare(ballot(1, "b"), ballot(1, "b")), Ok(ballot(1, "b")));
        let refused = Preempted { promised: ballot(1, "b") };
        assert_eq!(answer_prepare(ballot(1, "b"), ballot(0, "a")), Err(refused));
        let stored = slot(1, "b", 2, 7);
        for (promised, proposed, expected) in [
            (ballot(1, "b"), slot(0, "a", 9, 9), Acceptance::Preempted(refused)),
            (ballot(1, "b"), slot(1, "b", 3, 9), Acceptance::Store),
            (ballot(1, "b"), slot(2, "a", 1, 9), Acceptance::Store),
            (ballot(1, "b"), slot(1, "b", 2, 7), Acceptance::Stored),
            (ballot(1, "b"), slot(1, "b", 2, 8), Acceptance::Forked),
            (ballot(1, "b"), slot(1, "b", 1, 6), Acceptance::Replaced),
        ] {
            assert_eq!(answer_accept(promised, &stored, &proposed), expected, "{proposed:?}");
        }
    }
}
