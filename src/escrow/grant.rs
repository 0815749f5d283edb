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

use super::Ledger;
use crate::types::RegionId;

/// The giver's own demand for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GiverDemand {
    /// Units that orders need which are waiting in the giver's region right now.
    pub waiting: u64,
    /// Units it expects to sell within one round of rebalancing.
    pub expected: u64,
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

/// How much to give to `asker`, which needs `need` units now and would like `want` in all.
pub fn decide_grant(
    ledger: &Ledger,
    asker: RegionId,
    need: u64,
    want: u64,
    demand: GiverDemand,
) -> Grant {
    let spendable = ledger.spendable();
    let serves_itself = spendable >= demand.waiting;
    let gives_way = !serves_itself && asker < ledger.own();
    let kept = if gives_way { 0 } else { demand.waiting.min(spendable) };
    let free = spendable - kept;
    let needed = need.min(free);
    let own_demand = demand.waiting.saturating_add(demand.expected);
    let surplus = (spendable - needed).saturating_sub(own_demand);
    let extra = want.saturating_sub(needed).min(surplus / 2);
    Grant { units: needed + extra, busy: kept > 0 && needed < need }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;
    use proptest::prelude::*;

    fn holding(units: u64) -> Ledger {
        let mut ledger = Ledger::new("m".parse().unwrap(), Epoch::FIRST);
        ledger.receive(units).unwrap();
        ledger
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
            let demand = GiverDemand { waiting, expected };
            let grant = decide_grant(&holding(held), asker.parse().unwrap(), need, want, demand);
            assert_eq!(grant, Grant { units, busy }, "{asker} {held} {demand:?} {need} {want}");
        }
    }

    proptest! {
        #[test]
        fn a_grant_is_covered_serves_the_need_and_spares_the_giver(
            held in 0u64..50, waiting in 0u64..60, expected in 0u64..60, need in 0u64..60, more in 0u64..60,
        ) {
            let demand = GiverDemand { waiting, expected };
            for asker in ["a", "z"] {
                let grant = decide_grant(&holding(held), asker.parse().unwrap(), need, need + more, demand);
                prop_assert!(grant.units <= held.min(need + more));
                prop_assert!(grant.units >= need.min(held.saturating_sub(waiting)));
                if grant.units > need {
                    prop_assert!(held - grant.units >= waiting + expected, "extra is surplus only");
                }
                prop_assert!(grant.units >= need || grant.busy || grant.units == held, "a unit kept back is told");
            }
        }
    }
}
