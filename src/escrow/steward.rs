//! Which region acts for the orders of a region: that region itself, until others have agreed that it is lost.
//!
//! Stock needs no clock: what a lost region may still sell is below its ceilings. Orders do: two regions that act on
//! one order charge, ship or cancel it twice. So a region acts on its orders only while it holds an *order lease*, which a
//! majority of the regions renews, and another one becomes its *steward* when
//!
//! 1. a majority has promised not to renew the lease (a fence of the region's order register), and
//! 2. the longest lease that any of them may have given before is over, by the other region's clock and a bound on how
//!    differently clocks run, or a person says that the region is gone for good, and
//! 3. a majority has stored it as the steward: one value of one register, so there is one.
//!
//! The register is one like those of ceilings, of an owner that is no incarnation. Its value only grows: each change
//! of the steward is numbered, and `credits` holds by region the number of the change that made it the steward.
//! Leases after Gray and Cheriton, "Leases: An Efficient Fault-Tolerant Mechanism for Distributed File Cache
//! Consistency", SOSP 1989.

use std::collections::BTreeSet;

use super::register::{Promised, Slot, Value};
use crate::types::{Actor, Epoch, RegionId, StockKey};

/// How long a lease lasts, from when it was asked for. A region that is cut off goes on with what it had begun for so
/// long; whoever takes over waits for so long.
pub const ORDER_LEASE_MS: u64 = 10_000;

/// Two clocks that count the same time differ by one part in so many at the most. Quartz is off by one in 10,000.
pub const CLOCK_DRIFT_PARTS: u64 = 50;

/// Until when a lease lasts that was asked for at `asked_ms` by the own clock.
pub fn lease_ends(asked_ms: u64) -> u64 {
    asked_ms.saturating_add(ORDER_LEASE_MS)
}

/// With less than this left of a lease nothing is begun any more: what it takes to ask a provider, and to commit what
/// it said.
pub const ORDER_LEASE_MARGIN_MS: u64 = 3_000;

/// When every lease is over that others gave before `promised_ms`, by the own clock: twice the drift, since one clock may
/// be slow and the other fast.
pub fn leases_are_over(promised_ms: u64) -> u64 {
    promised_ms.saturating_add(ORDER_LEASE_MS + 2 * ORDER_LEASE_MS / CLOCK_DRIFT_PARTS)
}

/// Whose register tells who acts for a region's orders: no incarnation of it.
pub fn order_register(region: RegionId) -> Actor {
    Actor { region, epoch: Epoch::NONE }
}

/// The only key of such a register.
pub fn steward_key() -> StockKey {
    let fixed = "orders";
    StockKey {
        sku: fixed.parse().expect("a short text"),
        node: fixed.parse().expect("a short text"),
    }
}

/// See [`steward_key`].
pub fn steward_keys() -> BTreeSet<StockKey> {
    [steward_key()].into()
}

/// Who acts for the orders of `region`.
pub fn steward_of(region: RegionId, value: Option<&Value>) -> RegionId {
    let credits = value.into_iter().flat_map(|value| &value.credits);
    credits.max_by_key(|(_, change)| **change).map_or(region, |(steward, _)| steward.region)
}

/// The value that makes `steward` the steward.
#[must_use]
pub fn appointed(value: &Value, steward: RegionId) -> Value {
    let last = value.credits.values().copied().max().unwrap_or(0);
    let mut next = value.clone();
    next.credits.insert(order_register(steward), last.saturating_add(1));
    next
}

/// What an acceptor knows of who acts for a region's orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stewardship {
    /// What it promised.
    pub promised: Promised,
    /// What it stored; nothing where nobody ever asked.
    pub slot: Option<Slot>,
}

impl Stewardship {
    /// May the lease of `region` be renewed, as far as this acceptor goes?
    pub fn grants(&self, region: RegionId) -> bool {
        let value = self.slot.as_ref().map(|slot| &slot.value);
        !self.promised.fenced && steward_of(region, value) == region
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    #[test]
    fn the_last_change_counts_and_nothing_is_taken_back() {
        let (a, b, c) = (region("a"), region("b"), region("c"));
        let mut value = Value::default();
        assert_eq!(steward_of(a, None), a);
        assert_eq!(steward_of(a, Some(&value)), a);
        for steward in [b, a, c, b, a] {
            let next = appointed(&value, steward);
            assert!(next.covers(&value), "{next:?} {value:?}");
            assert_eq!(steward_of(a, Some(&next)), steward);
            value = next;
        }
    }

    #[test]
    fn whoever_waits_waits_longer_than_any_lease_lasts() {
        // The owner's clock runs slow by half the bound, the other's fast.
        let lasts = ORDER_LEASE_MS * (2 * CLOCK_DRIFT_PARTS + 1) / (2 * CLOCK_DRIFT_PARTS);
        let waits = leases_are_over(0) * (2 * CLOCK_DRIFT_PARTS - 1) / (2 * CLOCK_DRIFT_PARTS);
        assert!(lease_ends(0) <= lasts && waits >= lasts, "{waits} {lasts}");
    }
}
