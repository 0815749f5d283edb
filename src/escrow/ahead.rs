//! How far a ceiling runs ahead of what is sold.
//!
//! A region sells up to its ceiling without asking anybody, and only what lies above can be taken over when it
//! is lost. So the distance between the two is what a region can sell alone, and what a dead one strands.

use super::{Ledger, SpendRate};

/// The one real choice of the protocol, made in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Autonomy {
    /// Units that a key may sell alone however seldom it sells.
    pub units_least: u64,
    /// For how many milliseconds a region sells on alone at the present rate.
    pub time_ms: u64,
}

impl Autonomy {
    /// Units that should be open ahead of what was sold.
    pub fn ahead(self, rate: SpendRate) -> u64 {
        rate.units_within(self.time_ms).max(self.units_least)
    }

    /// The ceiling to propose for this region's own row so that `need` units are open, or `None` where that
    /// many are open already or nothing more can be. Then it is opened as far ahead as the rate says beyond that:
    /// others sell of the key while the orders that need it decide again.
    ///
    /// Without a need it is raised when half of what should be ahead is used up: each raise asks a majority,
    /// and this one in the background.
    pub fn wanted(self, ledger: &Ledger, rate: SpendRate, need: u64) -> Option<u64> {
        let ahead = self.ahead(rate);
        let open = ledger.spendable();
        if open >= need.max(ahead / 2) {
            return None;
        }
        let outflow = ledger.own_row().outflow();
        let most = ledger.rights(ledger.own()).saturating_add(outflow);
        let wanted = outflow.saturating_add(ahead).saturating_add(need).min(most);
        (wanted > ledger.active()).then_some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value;
    use super::*;
    use crate::types::{Actor, Epoch};
    use std::collections::BTreeMap;

    const AUTONOMY: Autonomy = Autonomy { units_least: 10, time_ms: 60_000 };

    fn ledger(received: u64, spent: u64, ceiling: u64, taken: u64) -> Ledger {
        let own = Actor { region: "a".parse().unwrap(), epoch: Epoch::FIRST };
        let heir = Actor { region: "b".parse().unwrap(), epoch: Epoch::FIRST };
        let mut row =
            super::super::Row { version: 1, received, spent, ..super::super::Row::new(own) };
        row.chosen.value = Value { ceiling, credits: BTreeMap::from([(heir, taken)]) };
        Ledger::from_rows(own, BTreeMap::from([(own, row)]))
    }

    #[test]
    fn a_ceiling_runs_ahead_by_the_rate_within_the_rights() {
        let idle = SpendRate::default();
        let busy = SpendRate::from_micros_per_s(1_000_000);
        assert_eq!(AUTONOMY.wanted(&ledger(100, 0, 0, 0), idle, 0), Some(10));
        assert_eq!(AUTONOMY.wanted(&ledger(100, 4, 10, 0), idle, 0), None, "half is still open");
        assert_eq!(AUTONOMY.wanted(&ledger(100, 6, 10, 0), idle, 0), Some(16));
        assert_eq!(AUTONOMY.wanted(&ledger(100, 6, 10, 0), busy, 0), Some(66), "a minute at 1/s");
        assert_eq!(AUTONOMY.wanted(&ledger(20, 6, 10, 0), busy, 0), Some(20), "all there is");
        assert_eq!(
            AUTONOMY.wanted(&ledger(20, 6, 10, 5), busy, 0),
            Some(15),
            "but what was taken over"
        );
        assert_eq!(AUTONOMY.wanted(&ledger(20, 6, 20, 0), busy, 0), None);
    }

    #[test]
    fn what_an_order_needs_is_opened() {
        let idle = SpendRate::default();
        assert_eq!(AUTONOMY.wanted(&ledger(100, 0, 10, 0), idle, 10), None);
        assert_eq!(AUTONOMY.wanted(&ledger(100, 0, 10, 0), idle, 40), Some(50));
        assert_eq!(AUTONOMY.wanted(&ledger(30, 0, 10, 0), idle, 40), Some(30), "what there is");
        assert_eq!(AUTONOMY.wanted(&ledger(30, 0, 30, 0), idle, 40), None);
    }
}
