//! What a giver gives.
//!
//! What the asker *needs* comes first: it has an order that would be refused, and no order is refused
//! for a unit that any region still holds. What it *wants* beyond that, to save itself the next
//! request, comes out of the giver's surplus only, half of it at most, so that the giver does not have
//! to ask for it back a moment later.
//!
//! One thing goes before a peer's need: orders of the giver's own that are waiting for the very same
//! key. Without that rule two regions that race for the last unit take it from each other for ever.
//! With it alone they could both sit on too little and wait for each other; so a giver whose own
//! orders can't be served by what it holds gives way to every region whose name sorts before its own.
//!
//! What an operator has pinned stays, also when an order elsewhere is refused for it: that is what a pin is for.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::mutants::{Mutant, is_on};
use crate::types::RegionId;

/// The giver's own demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GiverDemand {
    /// Units that orders need which are waiting in the giver's region right now.
    pub waiting: u64,
    /// Units it expects to sell within one round of rebalancing.
    pub expected: u64,
    /// Units that an operator keeps there, whoever needs them.
    pub pinned: u64,
}

/// What a giver decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Units to give.
    pub units: u64,
    /// The giver kept units for waiting orders of its own; what they leave is known in a moment, so it
    /// is worth asking again.
    pub busy: bool,
}

/// How much giver `own`, which may spend `spendable`, gives to `asker`, which needs `need` units now
/// and would like `want` in all.
pub fn decide_grant(
    own: RegionId,
    spendable: u64,
    asker: RegionId,
    need: u64,
    want: u64,
    demand: GiverDemand,
) -> Grant {
    let serves_itself = spendable >= demand.waiting;
    let gives_way = !serves_itself && asker < own;
    let waited_for = if gives_way { 0 } else { demand.waiting.min(spendable) };
    let pinned = if is_on(Mutant::PinsIgnored) { 0 } else { demand.pinned.min(spendable) };
    let free = spendable - waited_for.max(pinned);
    let needed = need.min(free);
    let own_demand = demand.waiting.saturating_add(demand.expected).max(pinned);
    let surplus = (spendable - needed).saturating_sub(own_demand);
    let extra = want.saturating_sub(needed).min(surplus / 2);
    Grant { units: needed + extra, busy: waited_for > pinned && needed < need }
}

/// Spreads a grant over the keys (the nodes of a SKU) that hold the units: the fullest first, so that
/// as few rows as possible change. `spendable` must add up to `units` at least.
pub fn spread<K: Ord + Clone>(units: u64, spendable: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let mut fullest_first: Vec<(&K, u64)> =
        spendable.iter().map(|(key, &held)| (key, held)).collect();
    fullest_first.sort_by_key(|&(key, held)| (Reverse(held), key));
    let mut left = units;
    let mut shares = BTreeMap::new();
    for (key, held) in fullest_first {
        let share = left.min(held);
        if share > 0 {
            shares.insert(key.clone(), share);
            left -= share;
        }
    }
    debug_assert_eq!(left, 0, "the caller grants what is spendable");
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decide(held: u64, asker: &str, need: u64, want: u64, demand: GiverDemand) -> Grant {
        decide_grant("m".parse().unwrap(), held, asker.parse().unwrap(), need, want, demand)
    }

    #[test]
    fn a_grant_comes_from_as_few_keys_as_possible() {
        let held = BTreeMap::from([("x", 3), ("y", 9), ("z", 5)]);
        assert_eq!(spread(8, &held), BTreeMap::from([("y", 8)]));
        assert_eq!(spread(16, &held), BTreeMap::from([("x", 2), ("y", 9), ("z", 5)]));
        assert_eq!(spread(0, &held), BTreeMap::new());
    }

    #[test]
    fn what_a_giver_gives() {
        // asker, held, waiting, expected, need, want → units, busy
        let cases = [
            ("a", 10, 0, 0, 3, 3, 3, false),
            ("a", 10, 0, 0, 30, 30, 10, false), // need first, down to the last unit
            ("a", 10, 0, 9, 10, 10, 10, false), // expected sales don't go before a waiting order
            ("a", 10, 0, 0, 2, 100, 6, false),  // then half of the surplus
            ("a", 10, 0, 6, 2, 100, 3, false),  // of what its own demand leaves
            ("a", 10, 0, 0, 0, 5, 5, false),
            ("a", 0, 0, 0, 1, 1, 0, false),
            ("a", 10, 4, 0, 8, 8, 6, true), // own waiting orders are served first
            ("z", 10, 12, 0, 8, 8, 0, true), // too little for both: the later name waits
            ("a", 10, 12, 0, 8, 8, 8, false), // and gives way to the earlier one
        ];
        for (asker, held, waiting, expected, need, want, units, busy) in cases {
            let demand = GiverDemand { waiting, expected, pinned: 0 };
            let grant = decide(held, asker, need, want, demand);
            assert_eq!(grant, Grant { units, busy }, "{asker} {held} {demand:?} {need} {want}");
        }
    }

    proptest! {
        #[test]
        fn a_grant_is_covered_serves_the_need_and_spares_the_giver(
            held in 0u64..50, waiting in 0u64..60, expected in 0u64..60, need in 0u64..60, more in 0u64..60,
            pinned in prop_oneof![Just(0_u64), 0_u64..60],
        ) {
            let demand = GiverDemand { waiting, expected, pinned };
            for asker in ["a", "z"] {
                let grant = decide(held, asker, need, need + more, demand);
                prop_assert!(grant.units <= held.min(need + more));
                prop_assert!(held - grant.units >= pinned.min(held), "what is pinned stays");
                prop_assert!(grant.units >= need.min(held.saturating_sub(waiting.max(pinned))));
                if grant.units > need {
                    prop_assert!(held - grant.units >= waiting + expected, "extra is surplus only");
                }
                let is_pinned = pinned > 0 && held - grant.units <= pinned;
                prop_assert!(grant.units >= need || grant.busy || grant.units == held || is_pinned, "a unit kept back is told");
            }
        }
    }
}
