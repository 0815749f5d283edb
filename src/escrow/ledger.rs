//! One key as one region sees it: its own row, which it alone writes, and its copies of the others'.
//!
//! Every operation is guarded: it is refused instead of taking anything below zero. Selling needs the
//! own row and `active` only; whoever receives, merges or asks loads all rows of the key.

use std::collections::{BTreeMap, BTreeSet};

use super::row::{Row, UNITS_MAX, Unsound, cap};
use crate::mutants::{Mutant, is_on};
use crate::types::{Actor, Epoch, RegionId};

/// The rights of all regions to one key, as known in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    own: Actor,
    rows: BTreeMap<Actor, Row>,
}

/// An operation that would break a rule. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There are not enough rights here; another region may hold more.
    #[error("{wanted} wanted, {spendable} may be spent here")]
    Insufficient {
        /// Asked for.
        wanted: u64,
        /// What there is.
        spendable: u64,
    },
    /// More would be released than is spent: a reservation that ends twice (I-03).
    #[error("{wanted} to release, {net_spent} spent")]
    NotSpent {
        /// Asked for.
        wanted: u64,
        /// What could be released.
        net_spent: u64,
    },
    /// A region can't give rights to itself.
    #[error("a region can't grant rights to itself")]
    GrantToItself,
    /// A cell would pass [`UNITS_MAX`].
    #[error("the quantity is more than the ledger can hold")]
    TooLarge,
}

/// What a merge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merged {
    /// The copy was newer and is now ours.
    pub changed: bool,
    /// By how much the rights that flowed to this region grew.
    pub inflow_grew: u64,
}

/// A row from a peer that must not be merged. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A peer holds a version of *our own* row that we don't have: this region's database was set back
    /// (a restored backup, a standby that lagged). Selling on would sell some units twice.
    #[error(
        "a peer holds version {theirs} of this region's own row, here it is {ours}: \
         this region's database was set back"
    )]
    Amnesia {
        /// The version of the peer's copy.
        theirs: u64,
        /// Our version.
        ours: u64,
    },
    /// Two copies of one version differ: `owner`'s database was set back, and it went on from there.
    #[error(
        "two different copies of version {version} of {owner}'s row: its database was set back"
    )]
    Fork {
        /// Whose row.
        owner: Actor,
        /// Which version.
        version: u64,
    },
    /// A newer version takes something back that its owner had written before.
    #[error("version {version} of {owner}'s row takes back what an earlier version had")]
    WentBack {
        /// Whose row.
        owner: Actor,
        /// Which version.
        version: u64,
    },
    /// No honest owner writes such a row.
    #[error("the row of {owner} is unsound: {unsound}")]
    Unsound {
        /// Whose row.
        owner: Actor,
        /// Why.
        unsound: Unsound,
    },
}

impl Ledger {
    /// The ledger of a key that nobody has written yet, in a region's incarnation.
    pub fn new(region: RegionId, epoch: Epoch) -> Self {
        Self::from_rows(Actor { region, epoch }, BTreeMap::new())
    }

    /// A ledger as it was stored. Without an own row, one is begun.
    pub fn from_rows(own: Actor, mut rows: BTreeMap<Actor, Row>) -> Self {
        rows.entry(own).or_insert_with(|| Row::new(own));
        Self { own, rows }
    }

    /// Who this ledger belongs to.
    pub fn own(&self) -> Actor {
        self.own
    }

    /// The row that this region writes.
    pub fn own_row(&self) -> &Row {
        self.rows.get(&self.own).expect("every constructor puts it there")
    }

    /// All rows known here, the own one included.
    pub fn rows(&self) -> &BTreeMap<Actor, Row> {
        &self.rows
    }

    /// The ceiling of this region's outflow.
    pub fn active(&self) -> u64 {
        self.own_row().chosen.value.ceiling
    }

    /// Everybody who is known to hold or to have held something.
    pub fn actors(&self) -> impl Iterator<Item = Actor> {
        let mut actors: BTreeSet<Actor> = self.rows.keys().copied().collect();
        for row in self.rows.values() {
            actors.extend(row.granted.keys().chain(row.chosen.value.credits.keys()));
        }
        actors.into_iter()
    }

    /// The latest incarnation of a region that is heard of in these rows.
    pub fn latest(&self, region: RegionId) -> Actor {
        let of_region = self.actors().filter(|actor| actor.region == region);
        of_region.last().unwrap_or(Actor { region, epoch: Epoch::FIRST })
    }

    /// What flowed to somebody, as far as known here: a lower bound for everybody but this region.
    pub fn inflow(&self, actor: Actor) -> u64 {
        let received = self.rows.get(&actor).map_or(0, |row| row.received);
        let came = |row: &Row| {
            u128::from(row.granted_to(actor)) + u128::from(row.chosen.value.credit_of(actor))
        };
        cap(u128::from(received) + self.rows.values().map(came).sum::<u128>())
    }

    /// What left somebody's rights, as far as known here; what was taken over is not in it.
    pub fn outflow(&self, actor: Actor) -> u64 {
        self.rows.get(&actor).map_or(0, Row::outflow)
    }

    /// What somebody may still pass on or sell, as far as known here.
    ///
    /// Zero also when a copy lags so far behind that more seems to have left than came: rows are copied
    /// one by one, so a receiver's sale can be known before the grant it rests on.
    pub fn rights(&self, actor: Actor) -> u64 {
        let credited = self.rows.get(&actor).map_or(0, |row| row.chosen.value.credited());
        self.inflow(actor).saturating_sub(self.outflow(actor)).saturating_sub(credited)
    }

    /// What this region may sell, give or withdraw now, without asking anybody.
    pub fn spendable(&self) -> u64 {
        self.active().saturating_sub(self.own_row().outflow())
    }

    /// Sells `units`: reserves them for an order.
    pub fn spend(&mut self, units: u64) -> Result<(), Refusal> {
        self.ensure_spendable(units)?;
        self.write(|row| add(&mut row.spent, units))
    }

    /// Gives `units` of a reservation back. The caller's reservation says that it is done once (I-03).
    pub fn release(&mut self, units: u64) -> Result<(), Refusal> {
        let net_spent = self.own_row().net_spent();
        if units > net_spent {
            return Err(Refusal::NotSpent { wanted: units, net_spent });
        }
        self.write(|row| add(&mut row.released, units))
    }

    /// Units came into being at a node that this region owns.
    pub fn receive(&mut self, units: u64) -> Result<(), Refusal> {
        if self.inflow(self.own).checked_add(units).is_none_or(|sum| sum > UNITS_MAX) {
            return Err(Refusal::TooLarge);
        }
        self.write(|row| add(&mut row.received, units))
    }

    /// Units vanished from the shelf. What is promised to orders, or given away, can't be taken.
    pub fn withdraw(&mut self, units: u64) -> Result<(), Refusal> {
        self.ensure_spendable(units)?;
        self.write(|row| add(&mut row.withdrawn, units))
    }

    /// Gives `to` as much of `units` as this region may spend, and tells how much that was.
    pub fn grant(&mut self, to: Actor, units: u64) -> Result<u64, Refusal> {
        if to == self.own {
            return Err(Refusal::GrantToItself);
        }
        let beyond = is_on(Mutant::GrantsBeyondItsRights);
        let granted = if beyond { units } else { units.min(self.spendable()) };
        self.write(|row| add(row.granted.entry(to).or_insert(0), granted))?;
        Ok(granted)
    }

    /// Takes a peer's copy of `owner`'s row, as far as it is newer than ours.
    ///
    /// The own cells are never taken from others: whoever has newer ones proves that this region forgot
    /// something, which the caller must not pass over. Nor is a value of the own register that this region
    /// proposed. What others proposed and had chosen is news for the owner too.
    pub fn merge(&mut self, owner: Actor, row: Row) -> Result<Merged, MergeError> {
        let version = row.version;
        row.check(owner).map_err(|unsound| MergeError::Unsound { owner, unsound })?;
        if row.is_blank() {
            return Ok(Merged::default());
        }
        let known = self.rows.get(&owner).cloned().unwrap_or_else(|| Row::new(owner));
        let forks = row.forks_from(&known);
        if owner == self.own && !is_on(Mutant::OwnRowFromOthers) {
            let own_value = row.chosen.ballot.region == owner.region;
            let newer_value = row.chosen.place() > known.chosen.place();
            if forks || version > known.version || own_value && newer_value {
                return Err(MergeError::Amnesia { theirs: version, ours: known.version });
            }
        }
        if forks {
            return Err(MergeError::Fork { owner, version });
        }
        if !row.supersedes(&known) {
            return Ok(Merged::default());
        }
        if !row.continues(&known) {
            return Err(MergeError::WentBack { owner, version });
        }
        let before = self.inflow(self.own);
        self.rows.insert(owner, row.joined(&known));
        Ok(Merged { changed: true, inflow_grew: self.inflow(self.own) - before })
    }

    /// As in a deployment of one region, whose own database is the majority: the ceiling goes to the rights.
    #[cfg(test)]
    pub(super) fn raise_alone(&mut self) {
        let inflow = self.inflow(self.own);
        let chosen = &self.own_row().chosen;
        if let Some(value) = chosen.value.raised(inflow, inflow) {
            let chosen = chosen.followed_by(chosen.ballot, value);
            let row = Row { chosen, ..self.own_row().clone() };
            self.rows.insert(self.own, row);
        }
    }

    fn ensure_spendable(&self, wanted: u64) -> Result<(), Refusal> {
        let spendable = self.spendable();
        if wanted > spendable {
            return Err(Refusal::Insufficient { wanted, spendable });
        }
        Ok(())
    }

    /// Changes the own row and raises its version, or leaves both as they were. A change of nothing is
    /// no change: it needs no new version.
    fn write(
        &mut self,
        change: impl FnOnce(&mut Row) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut row = self.own_row().clone();
        change(&mut row)?;
        row.granted.retain(|_, units| *units > 0);
        if &row == self.own_row() {
            return Ok(());
        }
        add(&mut row.version, 1)?;
        row.check(self.own).map_err(|_| Refusal::TooLarge)?;
        self.rows.insert(self.own, row);
        Ok(())
    }
}

fn add(cell: &mut u64, units: u64) -> Result<(), Refusal> {
    let sum = cell.checked_add(units).filter(|&sum| sum <= UNITS_MAX);
    *cell = sum.ok_or(Refusal::TooLarge)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::*;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn actor(name: &str) -> Actor {
        Actor { region: region(name), epoch: Epoch::FIRST }
    }

    fn stocked(own: &str, units: u64) -> Ledger {
        let mut ledger = Ledger::new(region(own), Epoch::FIRST);
        ledger.receive(units).unwrap();
        ledger.raise_alone();
        ledger
    }

    #[test]
    fn nothing_goes_below_zero() {
        let mut a = stocked("a", 10);
        assert_eq!(a.spend(11), Err(Refusal::Insufficient { wanted: 11, spendable: 10 }));
        a.spend(6).unwrap();
        assert_eq!(a.withdraw(5), Err(Refusal::Insufficient { wanted: 5, spendable: 4 }));
        assert_eq!(a.release(7), Err(Refusal::NotSpent { wanted: 7, net_spent: 6 }));
        assert_eq!(a.grant(actor("b"), 100), Ok(4));
        assert_eq!(a.spendable(), 0);
        a.release(6).unwrap();
        assert_eq!(a.release(1), Err(Refusal::NotSpent { wanted: 1, net_spent: 0 }));
        assert_eq!(a.spendable(), 6);
        assert_eq!(a.grant(actor("a"), 1), Err(Refusal::GrantToItself));
    }

    #[test]
    fn every_change_raises_the_version_and_no_change_leaves_it() {
        let mut a = stocked("a", 10);
        let mut versions = vec![a.own_row().version];
        a.spend(1).unwrap();
        versions.push(a.own_row().version);
        a.release(1).unwrap();
        versions.push(a.own_row().version);
        a.withdraw(1).unwrap();
        versions.push(a.own_row().version);
        a.grant(actor("b"), 1).unwrap();
        versions.push(a.own_row().version);
        assert_eq!(versions, [1, 2, 3, 4, 5]);
        let before = a.clone();
        assert_eq!(a.spend(0), Ok(()));
        assert_eq!(a.grant(actor("b"), 0), Ok(0));
        assert_eq!(a.grant(actor("c"), 0), Ok(0));
        assert!(a.spend(100).is_err());
        assert_eq!(a, before);
    }

    #[test]
    fn a_grant_is_spendable_once_its_row_arrives_and_once_only() {
        let mut a = stocked("a", 10);
        let mut b = Ledger::new(region("b"), Epoch::FIRST);
        a.grant(actor("b"), 4).unwrap();
        let row = a.own_row().clone();
        assert_eq!(b.merge(actor("a"), row.clone()), Ok(Merged { changed: true, inflow_grew: 4 }));
        assert_eq!(b.merge(actor("a"), row), Ok(Merged::default()), "seen twice, counts once");
        b.raise_alone();
        assert_eq!((b.spendable(), b.rights(actor("a")), b.rights(actor("b"))), (4, 6, 4));
        b.spend(4).unwrap();
        assert_eq!(a.rights(actor("b")), 4, "a lower bound of the outflow is an old belief");
    }

    #[test]
    fn a_newer_own_row_is_evidence_of_amnesia() {
        let mut a = stocked("a", 10);
        let before = a.clone();
        a.spend(3).unwrap();
        let mut forgetful = before.clone();
        let evidence = forgetful.merge(actor("a"), a.own_row().clone());
        assert_eq!(evidence, Err(MergeError::Amnesia { theirs: 2, ours: 1 }));
        assert_eq!(forgetful, before);
        forgetful.spend(4).unwrap();
        let forked = forgetful.merge(actor("a"), a.own_row().clone());
        assert_eq!(forked, Err(MergeError::Amnesia { theirs: 2, ours: 2 }));
        assert_eq!(a.merge(actor("a"), before.own_row().clone()), Ok(Merged::default()));
    }

    #[test]
    fn rows_that_contradict_what_is_known_are_refused() {
        let a = actor("a");
        let mut b = Ledger::new(region("b"), Epoch::FIRST);
        let granted = BTreeMap::from([(actor("b"), 4)]);
        let row = Row { version: 3, received: 9, granted, spent: 2, ..Row::new(actor("a")) };
        b.merge(a, row.clone()).unwrap();
        let before = b.clone();
        let fork = Row { spent: 1, ..row.clone() };
        assert_eq!(b.merge(a, fork), Err(MergeError::Fork { owner: a, version: 3 }));
        let unspent = Row { version: 4, spent: 1, ..row.clone() };
        assert_eq!(b.merge(a, unspent), Err(MergeError::WentBack { owner: a, version: 4 }));
        let taken_back = Row { version: 4, granted: BTreeMap::new(), ..row.clone() };
        assert_eq!(b.merge(a, taken_back), Err(MergeError::WentBack { owner: a, version: 4 }));
        let unsound = Row { version: 5, released: 3, ..row };
        assert!(matches!(b.merge(a, unsound), Err(MergeError::Unsound { .. })));
        assert_eq!(b, before);
    }

    #[test]
    fn hostile_quantities_are_refused_and_never_wrap() {
        let mut a = stocked("a", UNITS_MAX);
        assert_eq!(a.receive(1), Err(Refusal::TooLarge));
        assert_eq!(a.receive(u64::MAX), Err(Refusal::TooLarge));
        assert!(a.spend(u64::MAX).is_err() && a.release(u64::MAX).is_err());
        let huge = BTreeMap::from([(actor("a"), UNITS_MAX)]);
        let row = Row { version: 1, received: UNITS_MAX, granted: huge, ..Row::new(actor("a")) };
        a.merge(actor("b"), Row { chosen: Row::new(actor("b")).chosen, ..row }).unwrap();
        a.raise_alone();
        assert_eq!((a.inflow(actor("a")), a.spendable()), (UNITS_MAX, UNITS_MAX));
    }

    #[test]
    fn what_others_took_over_is_theirs_and_no_more_the_owners() {
        let (a, b) = (actor("a"), actor("b"));
        let mut owner = stocked("a", 10);
        owner.spend(3).unwrap();
        let taken = Value { ceiling: 10, credits: BTreeMap::from([(b, 4)]) };
        let ballot = owner.own_row().chosen.ballot.above(region("b"));
        let chosen = owner.own_row().chosen.followed_by(ballot, taken);
        let row = Row { chosen, ..owner.own_row().clone() };
        let mut heir = Ledger::new(region("b"), Epoch::FIRST);
        assert_eq!(heir.merge(a, row.clone()), Ok(Merged { changed: true, inflow_grew: 4 }));
        heir.raise_alone();
        assert_eq!((heir.spendable(), heir.rights(a), heir.rights(b)), (4, 3, 4));
        assert_eq!(owner.merge(a, row.clone()), Ok(Merged { changed: true, inflow_grew: 0 }));
        assert_eq!((owner.rights(a), owner.rights(b)), (3, 4));
        let lower = Value { ceiling: 9, credits: BTreeMap::from([(b, 4)]) };
        let lower = Row { chosen: row.chosen.followed_by(row.chosen.ballot, lower), ..row };
        assert_eq!(heir.merge(a, lower), Err(MergeError::WentBack { owner: a, version: 2 }));
    }

    #[test]
    fn a_value_of_ones_own_that_one_does_not_know_is_evidence_of_amnesia() {
        let mut a = stocked("a", 10);
        let chosen = a.own_row().chosen.clone();
        let newer =
            chosen.followed_by(chosen.ballot, Value { ceiling: 11, ..chosen.value.clone() });
        let row = Row { chosen: newer, ..a.own_row().clone() };
        assert!(matches!(a.merge(actor("a"), row), Err(MergeError::Amnesia { .. })));
    }

    #[test]
    fn an_earlier_incarnation_keeps_what_it_wrote() {
        let (old, b) = (actor("a"), actor("b"));
        let new = Actor { epoch: Epoch(2), ..old };
        let mut ledger = Ledger::new(region("b"), Epoch::FIRST);
        ledger.merge(old, Row { version: 4, received: 9, spent: 2, ..Row::new(old) }).unwrap();
        assert_eq!(ledger.latest(region("a")), old);
        ledger.merge(new, Row { version: 1, received: 5, ..Row::new(new) }).unwrap();
        assert_eq!((ledger.rights(old), ledger.rights(new), ledger.rights(b)), (7, 5, 0));
        assert_eq!(ledger.latest(region("a")), new);
    }
}
