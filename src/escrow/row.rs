//! One owner's cells of one key.
//!
//! Only the owner writes its row, and every change raises `version` in the same transaction, so a copy
//! is either equal to, older than or newer than another; there is nothing to combine cell by cell.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{Epoch, RegionId};

/// The most units a cell, and any sum of cells of one row, can hold: PostgreSQL stores `bigint`. What
/// would go beyond is refused, so that no input, however hostile, makes arithmetic wrap.
pub const UNITS_MAX: u64 = i64::MAX.unsigned_abs();

/// The cells that one region replicates of one key. All grow only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The owner's incarnation.
    pub epoch: Epoch,
    /// Raised with every change. Zero: the owner has never written this key.
    pub version: u64,
    /// Units brought into being here: receipts at nodes that the owner owns, returns put back on the shelf.
    pub received: u64,
    /// Units whose right the owner gave away, by receiver.
    pub granted: BTreeMap<RegionId, u64>,
    /// Units reserved for orders.
    pub spent: u64,
    /// Units given back by orders; never more than `spent`.
    pub released: u64,
    /// Units taken off the shelf: shrinkage.
    pub withdrawn: u64,
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
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            version: 0,
            received: 0,
            granted: BTreeMap::new(),
            spent: 0,
            released: 0,
            withdrawn: 0,
        }
    }

    /// Is this copy newer than `other`? A later incarnation of the owner wins whatever its version.
    pub fn supersedes(&self, other: &Self) -> bool {
        (self.epoch, self.version) > (other.epoch, other.version)
    }

    /// Same incarnation and version, yet other cells: the owner used one version twice, which happens
    /// only when its database was set back.
    pub fn forks_from(&self, other: &Self) -> bool {
        (self.epoch, self.version) == (other.epoch, other.version) && self != other
    }

    /// What the owner gave to `region`.
    pub fn granted_to(&self, region: RegionId) -> u64 {
        self.granted.get(&region).copied().unwrap_or(0)
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
        cap(sum)
    }

    /// Checks what every row of an honest `owner` satisfies. Rows from the network pass here first.
    pub fn check(&self, owner: RegionId) -> Result<(), Unsound> {
        let granted: u128 = self.granted.values().map(|&units| u128::from(units)).sum();
        let sums = [
            u128::from(self.version),
            u128::from(self.received),
            u128::from(self.spent),
            granted + u128::from(self.net_spent()) + u128::from(self.withdrawn),
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
        if self.granted.contains_key(&owner) {
            return Err(Unsound::GrantToItself);
        }
        Ok(())
    }

    /// Does a newer copy take nothing back? Cells grow within an incarnation, and grants grow even
    /// across incarnations, because their receivers may have sold them.
    pub(super) fn continues(&self, older: &Self) -> bool {
        let grants_grow =
            older.granted.iter().all(|(&region, &units)| self.granted_to(region) >= units);
        let cells_grow = self.received >= older.received
            && self.spent >= older.spent
            && self.released >= older.released
            && self.withdrawn >= older.withdrawn;
        grants_grow && (cells_grow || self.epoch > older.epoch)
    }
}

/// A sum as units, at most [`UNITS_MAX`].
pub(super) fn cap(sum: u128) -> u64 {
    u64::try_from(sum).unwrap_or(UNITS_MAX).min(UNITS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    #[test]
    fn a_later_incarnation_wins_whatever_its_version() {
        let old = Row { version: 900, ..Row::new(Epoch(1)) };
        let new = Row { version: 1, ..Row::new(Epoch(2)) };
        assert!(new.supersedes(&old) && !old.supersedes(&new));
        assert!(!old.supersedes(&old.clone()));
    }

    #[test]
    fn rows_that_no_honest_owner_writes_are_told_apart() {
        let a = region("a");
        let honest = Row { version: 1, received: 5, spent: 3, released: 3, ..Row::new(Epoch(1)) };
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
                granted: BTreeMap::from([(region("b"), UNITS_MAX), (region("c"), 1)]),
                ..honest.clone()
            },
        ] {
            assert_eq!(huge.check(a), Err(Unsound::TooLarge));
            assert!(huge.outflow() <= UNITS_MAX, "sums are capped, they don't wrap");
        }
    }
}
