//! Moving rights ahead of demand.
//!
//! Each region plans for itself, from its own rate of sale and what the peers' rows tell of theirs, and
//! only ever *asks*: the giver decides (`grant`). The aim is that all regions run out at the same time,
//! so each one's share is the whole stock in the proportion of the rates. Four rules keep it quiet:
//!
//! - nothing is asked for that is less than [`HYSTERESIS_PERCENT`] of what the giver has too much,
//! - where nothing sells, nothing is asked for, so idle stock stays where it is,
//! - when so little is left that a share would be a handful of units, shares make refusals: N regions
//!   need √N times the margin. The rest gathers in the one region that sells most, and the others ask
//!   it order by order. The region that holds most of it counts as the one that sells most until
//!   another sells [`GATHER_RATIO`] times as fast, so that two equals don't pass it to and fro,
//! - a giver keeps its own share, as it sees the shares ([`own_share`]): two regions that each missed
//!   some of the other's sales believe that they sell more, and would take the same units in turn.
//!
//! How often a key may be asked for is the driver's affair: once in [`PROTECTED_ROUND_MS`] per peer.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::SpendRate;
use crate::types::RegionId;

/// One round: a key is asked for at most once in it per peer, and a giver keeps what it sells in it.
pub const PROTECTED_ROUND_MS: u64 = 1_000;

/// A transfer below this part of the giver's surplus is not worth its messages.
const HYSTERESIS_PERCENT: u64 = 20;

/// Fewer units than this for each region that sells: shares are too small to be useful.
const GATHER_BELOW_PER_REGION: u64 = 4;

/// How much faster than the holder another region must sell before the last units move to it.
const GATHER_RATIO: u64 = 2;

/// One region's rights to a key and how fast it sells it, as far as known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Units it may still sell.
    pub rights: u64,
    /// How fast it sells.
    pub rate: SpendRate,
}

/// A request for units that no order needs yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Whom to ask.
    pub from: RegionId,
    /// For how many.
    pub units: u64,
}

/// What region `own` should ask for: one wish at most, the peer with the most to spare.
///
/// `standings` holds the regions that can be reached; what an unreachable one holds can't be had.
pub fn plan(own: RegionId, standings: &BTreeMap<RegionId, Standing>) -> Option<Wish> {
    let shares = shares(standings);
    let standing = standings.get(&own)?;
    let deficit = shares.get(&own)?.saturating_sub(standing.rights);
    let surplus = |region: &RegionId, peer: &Standing| {
        peer.rights.saturating_sub(shares.get(region).copied().unwrap_or(0))
    };
    let (spare, from) = standings
        .iter()
        .filter(|&(&region, _)| region != own)
        .map(|(region, peer)| (surplus(region, peer), *region))
        .max_by_key(|&(spare, region)| (spare, Reverse(region)))?;
    let units = deficit.min(spare);
    let worth_it = u128::from(units) * 100 >= u128::from(spare) * u128::from(HYSTERESIS_PERCENT);
    (units > 0 && worth_it).then_some(Wish { from, units })
}

/// What a giver keeps when it is asked for units that no order needs yet.
pub fn own_share(own: RegionId, standings: &BTreeMap<RegionId, Standing>) -> u64 {
    shares(standings).get(&own).copied().unwrap_or(0)
}

/// How many units each region should hold; empty when nobody sells, and everything stays.
fn shares(standings: &BTreeMap<RegionId, Standing>) -> BTreeMap<RegionId, u64> {
    let total: u128 = standings.values().map(|standing| u128::from(standing.rights)).sum();
    let rate = |standing: &Standing| u128::from(standing.rate.micros_per_s());
    let rates: u128 = standings.values().map(rate).sum();
    let selling = standings.values().filter(|standing| rate(standing) > 0).count();
    if rates == 0 {
        return BTreeMap::new();
    }
    let units = |share: u128| u64::try_from(share).unwrap_or(u64::MAX);
    if total < u128::from(GATHER_BELOW_PER_REGION) * selling as u128 {
        let gatherer = gatherer(standings);
        let share = |region| if Some(region) == gatherer { units(total) } else { 0 };
        return standings.keys().map(|&region| (region, share(region))).collect();
    }
    standings
        .iter()
        .map(|(&region, standing)| {
            let share = total.saturating_mul(rate(standing)) / rates;
            (region, units(share))
        })
        .collect()
}

/// Where the last units belong.
fn gatherer(standings: &BTreeMap<RegionId, Standing>) -> Option<RegionId> {
    let rate = |standing: &Standing| standing.rate.micros_per_s();
    // Among equals the first name, which is what `Reverse` says.
    let fastest = standings.iter().max_by_key(|entry| (rate(entry.1), Reverse(entry.0)))?;
    let holder = standings.iter().max_by_key(|entry| (entry.1.rights, Reverse(entry.0)))?;
    let holder_is_slow = rate(fastest.1) >= rate(holder.1).saturating_mul(GATHER_RATIO);
    Some(if holder_is_slow { *fastest.0 } else { *holder.0 })
}

#[cfg(test)]
mod tests {
    use super::super::{GiverDemand, decide_grant};
    use super::*;
    use proptest::prelude::*;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn standings(cells: &[(&str, u64, u64)]) -> BTreeMap<RegionId, Standing> {
        let standing = |&(name, rights, per_s): &(&str, u64, u64)| {
            let rate = SpendRate::from_micros_per_s(per_s * 1_000_000);
            (region(name), Standing { rights, rate })
        };
        cells.iter().map(standing).collect()
    }

    fn planned(own: &str, cells: &[(&str, u64, u64)]) -> Option<(String, u64)> {
        let wish = plan(region(own), &standings(cells))?;
        Some((wish.from.to_string(), wish.units))
    }

    #[test]
    fn time_to_exhaustion_is_evened_out() {
        let cells = [("a", 100, 3), ("b", 900, 1), ("c", 200, 2)];
        assert_eq!(planned("a", &cells), Some(("b".into(), 500)));
        assert_eq!(planned("b", &cells), None);
        assert_eq!(planned("c", &cells), Some(("b".into(), 200)));
    }

    #[test]
    fn little_corrections_and_idle_stock_are_left_alone() {
        assert_eq!(planned("a", &[("a", 1_000, 0), ("b", 0, 0)]), None);
        assert_eq!(planned("a", &[("a", 0, 0), ("b", 1_000, 5)]), None);
        assert_eq!(planned("a", &[("a", 0, 1), ("b", 1_000, 2), ("c", 0, 97)]), None);
        assert_eq!(planned("a", &[]), None);
    }

    #[test]
    fn the_last_units_gather_where_they_sell() {
        let cells = [("a", 2, 1), ("b", 2, 9), ("c", 3, 1)];
        assert_eq!(planned("b", &cells), Some(("c".into(), 3)));
        assert_eq!(planned("a", &cells), None);
        let equals = [("a", 2, 5), ("b", 3, 6)];
        assert_eq!(planned("a", &equals), None);
        assert_eq!(planned("b", &equals), Some(("a".into(), 2)));
        assert_eq!(
            planned("a", &[("a", 0, 6), ("b", 5, 5)]),
            None,
            "equals don't pass it to and fro"
        );
    }

    proptest! {
        /// Whatever the two believe of each other: after a giver has answered a wish, it has none itself
        /// to the one it gave to.
        #[test]
        fn what_was_given_to_a_wish_is_not_wished_back(
            held in (0u64..400, 0u64..400),
            giver_thinks in (0u64..20, 0u64..20),
            asker_thinks in (0u64..20, 0u64..20),
        ) {
            let (a, b) = (region("a"), region("b"));
            let beliefs = |(of_a, of_b): (u64, u64), (a, b): (u64, u64)| {
                standings(&[("a", a, of_a), ("b", b, of_b)])
            };
            if let Some(wish) = plan(a, &beliefs(asker_thinks, held)) {
                let expected = own_share(b, &beliefs(giver_thinks, held));
                let demand = GiverDemand { expected, ..GiverDemand::default() };
                let given = decide_grant(b, held.1, a, 0, wish.units, demand).units;
                let after = (held.0 + given, held.1 - given);
                let back = plan(b, &beliefs(giver_thinks, after));
                prop_assert!(given == 0 || back.is_none(), "{given} given, {back:?} wished back");
            }
        }

        /// With any steady demand, what moves is bounded by what is sold plus one evening out per
        /// region: no ping-pong, and with no sale everything comes to rest.
        #[test]
        fn what_moves_is_bounded_by_what_is_sold(
            rights in prop::collection::vec(0u64..400, 2..=5),
            rates in prop::collection::vec(0u64..20, 5),
            idle_rounds in 0usize..40,
        ) {
            let names = ["a", "b", "c", "d", "e"];
            let mut cells: Vec<(&str, u64, u64)> =
                rights.iter().enumerate().map(|(i, &units)| (names[i], units, rates[i])).collect();
            let (mut sold, mut moved, mut moved_idle_late) = (0u64, 0u64, 0u64);
            let stock: u64 = rights.iter().sum();
            for round in 0..60 + idle_rounds {
                let idle = round < idle_rounds;
                for index in 0..cells.len() {
                    if let Some(wish) = plan(region(cells[index].0), &standings(&cells)) {
                        let giver = cells.iter_mut().find(|cell| region(cell.0) == wish.from).unwrap();
                        giver.1 -= wish.units;
                        cells[index].1 += wish.units;
                        moved += wish.units;
                        if idle && round > 10 { moved_idle_late += wish.units; }
                    }
                }
                if !idle {
                    for cell in &mut cells {
                        let units = cell.1.min(cell.2);
                        cell.1 -= units;
                        sold += units;
                    }
                }
            }
            prop_assert_eq!(moved_idle_late, 0, "comes to rest");
            prop_assert!(moved <= 2 * stock + sold, "moved {moved}, sold {sold}, stock {stock}");
        }
    }
}
