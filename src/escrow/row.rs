//! One owner's cells of one key, and what was chosen of its register.
//!
//! Only the owner writes its cells, and every change raises `version` in the same transaction, so a copy
//! is either equal to, older than or newer than another; there is nothing to combine cell by cell. What
//! was chosen of the owner's register may have been proposed by others; it has an order of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::register::Slot;
use crate::mutants::{Mutant, is_on};
use crate::types::Actor;

/// The most units a cell, and any sum of cells of one row, can hold: PostgreSQL stores `bigint`. What
/// would go beyond is refused, so that no input, however hostile, makes arithmetic wrap.
pub const UNITS_MAX: u64 = i64::MAX.unsigned_abs();

/// Versions of rows that were put together after their owner forgot. An owner that wrote one key a thousand times
/// a second for three months would come here by itself.
const BURIED_FROM: u64 = 1 << 33;

/// The cells that one region replicates of one key. All grow only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Raised with every change. Zero: the owner has never written this key.
    pub version: u64,
    /// Units brought into being here: receipts at nodes that the owner owns, returns put back on the shelf.
    pub received: u64,
    /// Units whose right the owner gave away, by receiver.
    pub granted: BTreeMap<Actor, u64>,
    /// Units reserved for orders.
    pub spent: u64,
    /// Units given back by orders; never more than `spent`.
    pub released: u64,
    /// Units taken off the shelf: shrinkage.
    pub withdrawn: u64,
    /// The newest value of the owner's register that is known to be chosen: its ceiling, which for the owner
    /// itself is what it may spend up to, and what others took over.
    pub chosen: Slot,
}

/// Units that must not be given away with the rest of what an owner had left, though no copy of its row shows why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unsold {
    /// Known orders hold them, whose sale may be in no copy.
    pub held: u64,
    /// It may have given them to somebody who is gone as well.
    pub withheld: u64,
}

/// What [`Row::retired`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// The last row.
    pub row: Row,
    /// Units that the heir may sell now.
    pub freed: u64,
    /// Units that orders hold and nobody has: sold or given again after a cancellation that nobody else saw.
    pub uncovered: u64,
    /// Of what was to be withheld, so many units: they stay below its ceiling.
    pub withheld: u64,
}

/// No honest owner writes such a row: a bug, or an attack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// A cell or a sum of cells is beyond [`UNITS_MAX`].
    #[error("a cell, or the sum of the cells, is more than a bigint can hold")]
    TooLarge,
    /// More was released than had been spent.
    #[error("released {released} is more than spent {spent}")]
    ReleasedBeyondSpent {
        /// Given back.
        released: u64,
        /// Reserved in all.
        spent: u64,
    },
    /// The owner gave to itself.
    #[error("the owner grants to itself")]
    GrantToItself,
}

impl Row {
    /// The row of an owner that has not written anything yet.
    pub fn new(owner: Actor) -> Self {
        Self {
            version: 0,
            received: 0,
            granted: BTreeMap::new(),
            spent: 0,
            released: 0,
            withdrawn: 0,
            chosen: Slot::birth(owner.region),
        }
    }

    /// Nothing was ever written or chosen: such a row exists nowhere.
    pub fn is_blank(&self) -> bool {
        self.version == 0 && self.chosen.sequence == 0
    }

    /// Does this copy know of something that `other` doesn't?
    pub fn supersedes(&self, other: &Self) -> bool {
        self.version > other.version || self.chosen.place() > other.chosen.place()
    }

    /// The same version with other cells, or the same place with another value: the owner, or a
    /// proposer, used one twice, which happens only when its database was set back.
    pub fn forks_from(&self, other: &Self) -> bool {
        let cells = |row: &Self| Self { chosen: other.chosen.clone(), ..row.clone() };
        self.version == other.version && cells(self) != *other
            || self.chosen.place() == other.chosen.place() && self.chosen != other.chosen
    }

    /// The newer cells and the newer value of the two.
    #[must_use]
    pub fn joined(self, other: &Self) -> Self {
        let chosen = if self.chosen.place() >= other.chosen.place() {
            self.chosen.clone()
        } else {
            other.chosen.clone()
        };
        let cells = if self.version >= other.version { self } else { other.clone() };
        Self { chosen, ..cells }
    }

    /// The last row of an owner whose database was set back: of every cell the most that anybody has heard of,
    /// and with that no more than was true. Written by the region's next incarnation, under a version that no
    /// message on its way can reach; nothing is ever sold or given under it again.
    ///
    /// `copies` are all that are known, the forgetful owner's own included.
    pub fn buried(owner: Actor, copies: impl IntoIterator<Item = Self>) -> Self {
        let mut last = Self::new(owner);
        for copy in copies {
            last.version = last.version.max(copy.version);
            last.received = last.received.max(copy.received);
            last.spent = last.spent.max(copy.spent);
            last.released = last.released.max(copy.released);
            last.withdrawn = last.withdrawn.max(copy.withdrawn);
            for (actor, units) in copy.granted {
                let granted = last.granted.entry(actor).or_insert(0);
                *granted = units.max(*granted);
            }
            if copy.chosen.place() > last.chosen.place() {
                last.chosen = copy.chosen;
            }
        }
        // Two histories may have released more than either has spent.
        last.released = last.released.min(last.spent);
        last.version = last.version.saturating_add(BURIED_FROM);
        last
    }

    /// The last row of an owner that is gone for good: [`Self::buried`], and what lies below its ceiling and is not known to have
    /// left it is given to `heir`.
    pub fn retired(
        owner: Actor,
        copies: impl IntoIterator<Item = Self>,
        unsold: Unsold,
        heir: Actor,
    ) -> Retired {
        let mut row = Self::buried(owner, copies);
        let held = if is_on(Mutant::HeldUnitsRetired) { 0 } else { unsold.held };
        // An order whose cancellation nobody saw may hold what the owner has sold or given again.
        let ceiling = row.chosen.value.ceiling;
        let others = row.withdrawn.saturating_add(row.granted_total());
        let covered = held.min(ceiling.saturating_sub(others));
        row.spent = row.spent.max(row.released.saturating_add(covered));
        let left = ceiling.saturating_sub(row.outflow());
        let withheld = unsold.withheld.min(left);
        let freed = left - withheld;
        if freed > 0 {
            let granted = row.granted.entry(heir).or_insert(0);
            *granted = granted.saturating_add(freed);
        }
        Retired { uncovered: held.saturating_sub(row.net_spent()), row, freed, withheld }
    }

    /// The owner's incarnation is over, and what is known of it was put together.
    pub fn is_buried(&self) -> bool {
        self.version >= BURIED_FROM
    }

    /// What is taken of a row whose owner is over, unless it is the last one: what was chosen.
    #[must_use]
    pub fn chosen_only(&self, owner: Actor) -> Self {
        Self { chosen: self.chosen.clone(), ..Self::new(owner) }
    }

    /// What the owner gave to `actor`.
    pub fn granted_to(&self, actor: Actor) -> u64 {
        self.granted.get(&actor).copied().unwrap_or(0)
    }

    /// What the owner gave away in all.
    pub fn granted_total(&self) -> u64 {
        cap(self.granted.values().map(|&units| u128::from(units)).sum())
    }

    /// What is reserved or sold: spent and not released.
    pub fn net_spent(&self) -> u64 {
        self.spent.saturating_sub(self.released)
    }

    /// What has left the owner's rights.
    pub fn outflow(&self) -> u64 {
        let sum = u128::from(self.net_spent())
            + u128::from(self.withdrawn)
            + u128::from(self.granted_total());
        let forgotten = if is_on(Mutant::GrantsAreNoOutflow) { self.granted_total() } else { 0 };
        cap(sum - u128::from(forgotten))
    }

    /// Checks what every row of an honest `owner` satisfies. Rows from the network pass here first.
    pub fn check(&self, owner: Actor) -> Result<(), Unsound> {
        let granted: u128 = self.granted.values().map(|&units| u128::from(units)).sum();
        let sums = [
            u128::from(self.version),
            u128::from(self.received),
            u128::from(self.spent),
            granted + u128::from(self.net_spent()) + u128::from(self.withdrawn),
            u128::from(self.chosen.sequence),
            u128::from(self.chosen.value.ceiling) + u128::from(self.chosen.value.credited()),
        ];
        if sums.into_iter().any(|sum| sum > u128::from(UNITS_MAX)) {
            return Err(Unsound::TooLarge);
        }
        if self.released > self.spent {
            return Err(Unsound::ReleasedBeyondSpent {
                released: self.released,
                spent: self.spent,
            });
        }
        if self.granted.contains_key(&owner) || self.chosen.value.credits.contains_key(&owner) {
            return Err(Unsound::GrantToItself);
        }
        Ok(())
    }

    /// Does a newer copy take nothing back?
    pub(super) fn continues(&self, older: &Self) -> bool {
        let cells_grow = self.received >= older.received
            && self.spent >= older.spent
            && self.released >= older.released
            && self.withdrawn >= older.withdrawn
            && older.granted.iter().all(|(&actor, &units)| self.granted_to(actor) >= units);
        let is_newer = self.chosen.place() > older.chosen.place();
        (self.version <= older.version || cells_grow)
            && (!is_newer || self.chosen.value.covers(&older.chosen.value))
    }
}

/// A sum as units, at most [`UNITS_MAX`].
pub(super) fn cap(sum: u128) -> u64 {
    u64::try_from(sum).unwrap_or(UNITS_MAX).min(UNITS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(name: &str) -> Actor {
        Actor { region: name.parse().unwrap(), epoch: crate::types::Epoch::FIRST }
    }

    #[test]
    fn the_newer_half_of_each_wins() {
        let a = Row { version: 3, spent: 1, ..Row::new(actor("a")) };
        let raised = Slot { sequence: 1, ..a.chosen.clone() };
        let b = Row { version: 2, chosen: raised.clone(), ..Row::new(actor("a")) };
        assert!(a.supersedes(&b) && b.supersedes(&a) && !a.supersedes(&a));
        let joined = Row { chosen: raised, ..a.clone() };
        assert_eq!((a.clone().joined(&b), b.clone().joined(&a)), (joined.clone(), joined));
        assert!(!a.forks_from(&b) && a.forks_from(&Row { spent: 2, ..a.clone() }));
    }

    #[test]
    fn rows_that_no_honest_owner_writes_are_told_apart() {
        let a = actor("a");
        let honest = Row { version: 1, received: 5, spent: 3, released: 3, ..Row::new(actor("a")) };
        assert_eq!(honest.check(a), Ok(()));
        let released = Row { released: 4, ..honest.clone() };
        assert_eq!(released.check(a), Err(Unsound::ReleasedBeyondSpent { released: 4, spent: 3 }));
        let own = Row { granted: BTreeMap::from([(a, 0)]), ..honest.clone() };
        assert_eq!(own.check(a), Err(Unsound::GrantToItself));
        for huge in [
            Row { received: u64::MAX, ..honest.clone() },
            Row { spent: u64::MAX, released: u64::MAX, ..honest.clone() },
            Row { version: u64::MAX, ..honest.clone() },
            Row {
                granted: BTreeMap::from([(actor("b"), UNITS_MAX), (actor("c"), 1)]),
                ..honest.clone()
            },
        ] {
            assert_eq!(huge.check(a), Err(Unsound::TooLarge));
            assert!(huge.outflow() <= UNITS_MAX, "sums are capped, they don't wrap");
        }
    }
}
