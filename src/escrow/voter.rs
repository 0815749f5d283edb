//! Whether an acceptor still knows what it voted, and a proposer still is who it says.
//!
//! What is agreed on rests on the votes of a majority being remembered. A database that was set back has forgotten
//! votes, also where it has forgotten nothing else; so each acceptor counts its votes, proposers remember the
//! highest count they were told, and show it with every request. Whose count is lower has forgotten. And a
//! region that began anew tells every other before it does: from then on the incarnation before has neither vote nor
//! proposal, even if its database, with everything in it, is put back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{Epoch, RegionId};

/// An acceptor, as far as it is known to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Voter {
    /// Its incarnation.
    pub epoch: Epoch,
    /// How often it has voted in it.
    pub votes: u64,
}

impl Voter {
    /// Nothing was heard.
    pub const UNKNOWN: Self = Self { epoch: Epoch::FIRST, votes: 0 };
}

/// Of every region, one's own included, what is known.
pub type Voters = BTreeMap<RegionId, Voter>;

/// A request for a vote, with what the proposer knows of whom it asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked<T> {
    /// What it knows.
    pub voters: Voters,
    /// The request.
    pub request: T,
}

/// A vote, with the acceptor's count after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voted<T> {
    /// Who voted how often.
    pub voter: Voter,
    /// The answer.
    pub answer: T,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// The proposer's incarnation is over.
    #[error("the proposer's incarnation is over: the region has begun anew since")]
    Proposer,
    /// The proposer remembers more of this acceptor than it does itself.
    #[error("this region's database has forgotten votes")]
    Acceptor,
    /// The proposer takes this acceptor for an earlier incarnation: its own database was set back.
    #[error("this region has begun anew, and the proposer does not know")]
    Unaware,
}

/// Looks at a request of `from` for a vote of `own`, which stands at `after` with it. `known` are the incarnations
/// that this acceptor has noted.
pub fn check(
    own: RegionId,
    after: Voter,
    known: &Voters,
    from: RegionId,
    told: &Voters,
) -> Result<(), Stale> {
    let told_of = |region: RegionId| told.get(&region).copied().unwrap_or(Voter::UNKNOWN);
    let noted = known.get(&from).map_or(Epoch::FIRST, |noted| noted.epoch);
    if told_of(from).epoch < noted {
        return Err(Stale::Proposer);
    }
    let of_us = told_of(own);
    if of_us.epoch < after.epoch {
        Err(Stale::Unaware)
    } else if of_us >= after {
        Err(Stale::Acceptor)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_forgot_is_told_from_who_has_begun_anew() {
        let region = |name: &str| -> RegionId { name.parse().unwrap() };
        let (a, b) = (region("a"), region("b"));
        let at = |epoch, votes| Voter { epoch: Epoch(epoch), votes };
        let seen = |of_a, of_b| Voters::from([(a, of_a), (b, of_b)]);
        let known = seen(at(1, 0), at(2, 0));
        let judge = |after, told: &Voters| check(a, after, &known, b, told);
        assert_eq!(judge(at(1, 5), &seen(at(1, 4), at(2, 0))), Ok(()));
        assert_eq!(judge(at(1, 5), &seen(at(1, 0), at(3, 0))), Ok(()));
        assert_eq!(judge(at(1, 5), &seen(at(1, 5), at(2, 0))), Err(Stale::Acceptor));
        assert_eq!(judge(at(1, 5), &seen(at(2, 0), at(2, 0))), Err(Stale::Acceptor));
        assert_eq!(judge(at(2, 1), &seen(at(1, 9), at(2, 0))), Err(Stale::Unaware));
        assert_eq!(judge(at(1, 5), &seen(at(1, 4), at(1, 0))), Err(Stale::Proposer));
        assert_eq!(judge(at(1, 1), &Voters::new()), Err(Stale::Proposer));
    }
}
