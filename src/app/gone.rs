//! Regions that are gone for good: who asks all the others what it may have forgotten does not wait for them.
//!
//! Nothing would come of it: whoever is built anew under the name knows no more than it is told. But what only the lost region
//! and the one that asks had known must not have been forgotten by both. A region whose own database says that the other one
//! has ended remembers everything up to then, and from then on it neither told the other one anything, nor voted for it. One
//! whose database does not say so has forgotten at least that; it counts as lost together with the other one.

use std::collections::BTreeMap;

use crate::escrow::majority;
use crate::ports::{RetirementStore, StoreError};
use crate::types::{Epoch, RegionId};

/// Regions that have ended and not begun anew, each with the incarnation that ends it.
pub(super) type Ended = BTreeMap<RegionId, Epoch>;

/// As this region's database knows it.
pub(super) async fn ended(retirements: &dyn RetirementStore) -> Result<Ended, StoreError> {
    let ended = retirements.ended().await?;
    Ok(ended.into_iter().map(|retirement| (retirement.region, retirement.ends)).collect())
}

/// Those of which everybody else who has told, and somebody has, says the same. One that does not may know that it has begun anew.
fn agreed(told: &BTreeMap<RegionId, Ended>) -> Ended {
    let named = told.values().flatten().map(|(region, ends)| (*region, *ends));
    let all_say = |(region, ends): &(RegionId, Epoch)| {
        let mut others = told.iter().filter(|(by, _)| *by != region);
        others.all(|(_, said)| said.get(region) == Some(ends))
    };
    let is_own_word = |(region, ends): &(RegionId, Epoch)| {
        told.iter().all(|(by, said)| by == region || said.get(region) != Some(ends))
    };
    named.filter(|it| all_say(it) && !is_own_word(it)).collect()
}

/// Those that have ended while the own database still remembered everything: `own` is what it says, `told` what the others do.
pub(super) fn remembered(own: &Ended, told: &BTreeMap<RegionId, Ended>) -> Ended {
    let mut gone = agreed(told);
    gone.retain(|region, ends| own.get(region) == Some(ends));
    gone
}

/// Those that a region which has forgotten something need not ask, of `regions` in all.
///
/// Of those that ended behind its memory so many may be left out that every majority with its vote in it has a member that is
/// asked: what that majority has chosen is told.
pub(super) fn not_asked(own: &Ended, told: &BTreeMap<RegionId, Ended>, regions: usize) -> Ended {
    let (gone, remembered) = (agreed(told), remembered(own, told));
    let lost_together = 1 + gone.len() - remembered.len();
    if lost_together < majority(regions) { gone } else { remembered }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(names: &[(&str, u32)]) -> Ended {
        names.iter().map(|(name, ends)| (name.parse().unwrap(), Epoch(*ends))).collect()
    }

    fn told(all: &[(&str, &[(&str, u32)])]) -> BTreeMap<RegionId, Ended> {
        all.iter().map(|(by, said)| (by.parse().unwrap(), ended(said))).collect()
    }

    #[test]
    fn who_is_gone_is_what_all_others_say() {
        for (all, expected) in [
            (told(&[]), ended(&[])),
            (told(&[("b", &[("c", 2)])]), ended(&[("c", 2)])),
            (told(&[("b", &[("c", 2)]), ("d", &[("c", 2)])]), ended(&[("c", 2)])),
            (told(&[("b", &[("c", 2)]), ("d", &[])]), ended(&[])),
            (told(&[("b", &[("c", 2)]), ("d", &[("c", 4)])]), ended(&[])),
            // It is being built anew, and knows nothing yet.
            (told(&[("b", &[("c", 2)]), ("c", &[])]), ended(&[("c", 2)])),
            (told(&[("c", &[("c", 2)])]), ended(&[])),
        ] {
            assert_eq!(agreed(&all), expected, "{all:?}");
        }
    }

    #[test]
    fn what_two_have_forgotten_is_not_given_up_where_they_may_have_been_a_majority() {
        let (own, all) = (ended(&[("c", 2)]), told(&[("b", &[("c", 2)])]));
        assert_eq!(not_asked(&own, &all, 3), own, "its database remembers the end");
        for forgot in [ended(&[]), ended(&[("c", 1)])] {
            assert_eq!(not_asked(&forgot, &all, 3), ended(&[]), "they were a majority");
            assert_eq!(remembered(&forgot, &all), ended(&[]));
        }
        // Of five, a majority with two of them has a third member that remembers.
        let both: &[_] = &[("c", 2), ("d", 2)];
        let all = told(&[("a", both), ("b", both)]);
        assert_eq!(not_asked(&ended(&[]), &all, 5), ended(&[]));
        assert_eq!(not_asked(&ended(&[("c", 2)]), &all, 5), ended(both));
        assert_eq!(not_asked(&ended(both), &all, 5), ended(both));
        let all = told(&[("a", &[("c", 2)]), ("b", &[("c", 2)]), ("d", &[("c", 2)])]);
        assert_eq!(not_asked(&ended(&[]), &all, 5), ended(&[("c", 2)]));
    }
}
