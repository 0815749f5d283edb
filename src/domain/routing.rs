//! Which region serves a region's shoppers: what a load balancer follows.
//!
//! Each region tells what its own database holds of every region's order register ([`crate::escrow::Stewardship`]): a
//! ballot that only rises, whether the region is fenced under it, and who acts for its orders. So the ballot is the version
//! of a route. Whoever follows keeps the highest it has seen, and what a region says that was cut off, or set back,
//! never wins against what the others have agreed on since.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::escrow::{Ballot, Stewardship, steward_of};
use crate::types::RegionId;

/// Of how many in a hundred of its shoppers a region has charge that comes back, step by step; then of all.
const CANARY: [u8; 3] = [5, 25, 50];

/// How many in a hundred of its shoppers a region serves after so many steps of its way back; `None` is the end.
pub fn share_after(steps: Option<u8>) -> u8 {
    steps.and_then(|steps| CANARY.get(usize::from(steps)).copied()).unwrap_or(100)
}

/// The step after this one; `None` is the end.
pub fn next_step(steps: u8) -> Option<u8> {
    let next = steps.saturating_add(1);
    (usize::from(next) < CANARY.len()).then_some(next)
}

/// What one region knows of who serves a region's shoppers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Whose shoppers.
    pub region: RegionId,
    /// What it promised last about that region's orders.
    pub ballot: Ballot,
    /// Counts the stewards under this ballot.
    pub sequence: u64,
    /// The region is lost.
    pub fenced: bool,
    /// Who acts for its orders.
    pub steward: RegionId,
    /// Of the region that tells: how many in a hundred of its shoppers it serves itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<u8>,
}

impl Route {
    /// What an acceptor's database says.
    pub fn of(region: RegionId, known: &Stewardship, share: Option<u8>) -> Self {
        let Stewardship { promised, slot } = known;
        let current = slot.as_ref().filter(|slot| slot.ballot == promised.ballot);
        Self {
            region,
            ballot: promised.ballot,
            sequence: current.map_or(0, |slot| slot.sequence),
            fenced: promised.fenced,
            steward: steward_of(region, slot.as_ref().map(|slot| &slot.value)),
            share,
        }
    }

    fn version(&self) -> (Ballot, u64) {
        (self.ballot, self.sequence)
    }
}

/// What one region tells of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Who tells.
    pub region: RegionId,
    /// It takes orders.
    pub ready: bool,
    /// One for each region.
    pub routes: Vec<Route>,
}

/// Where a region's shoppers go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The version: never followed by a lower one.
    pub ballot: Ballot,
    /// See [`Route::sequence`].
    pub sequence: u64,
    /// It serves nobody, whatever it says of itself.
    pub fenced: bool,
    /// How many in a hundred it serves.
    pub share: u8,
    /// Who serves the rest; `None`: whoever is nearest.
    pub successor: Option<RegionId>,
}

/// Where all shoppers go, as far as is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places(pub BTreeMap<RegionId, Place>);

impl Places {
    /// Takes in what the regions that could be asked say.
    pub fn learn(&mut self, told: &[Told]) {
        let about: BTreeMap<RegionId, Vec<(RegionId, &Route)>> =
            told.iter().fold(BTreeMap::new(), |mut about, told| {
                for route in &told.routes {
                    about.entry(route.region).or_default().push((told.region, route));
                }
                about
            });
        for (region, routes) in about {
            if let Some(place) = place(region, &routes, self.0.get(&region)) {
                self.0.insert(region, place);
            }
        }
    }
}

/// `None` where what is known stays.
fn place(region: RegionId, told: &[(RegionId, &Route)], known: Option<&Place>) -> Option<Place> {
    let (_, latest) = told.iter().max_by_key(|(_, route)| route.version())?;
    if known.is_some_and(|known| (known.ballot, known.sequence) > latest.version()) {
        return None;
    }
    let own = told.iter().find(|(by, _)| *by == region).map(|(_, route)| *route);
    if latest.fenced {
        // One that tried to fence and reached no majority is alone with that. The region itself may have been away.
        let says_so = |route: &Route| route.ballot == latest.ballot && route.fenced;
        let others = told.iter().filter(|(by, _)| *by != region);
        let (all, yes) = others
            .fold((0, 0), |(all, yes), (_, route)| (all + 1, yes + usize::from(says_so(route))));
        if 2 * yes <= all && !own.is_some_and(says_so) {
            return None;
        }
    }
    let share = match own.and_then(|own| own.share) {
        _ if latest.fenced => 0,
        Some(share) => share.min(100),
        // It answers nobody, and whether it is up is for the balancer to see.
        None => known.filter(|known| !known.fenced).map_or(100, |known| known.share),
    };
    let steward = if latest.steward == region { latest.ballot.region } else { latest.steward };
    Some(Place {
        ballot: latest.ballot,
        sequence: latest.sequence,
        fenced: latest.fenced,
        share,
        successor: (latest.fenced && steward != region).then_some(steward),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    fn route(of: &str, round: u32, by: &str, fenced: bool, steward: &str) -> Route {
        Route {
            region: region(of),
            ballot: Ballot { round, region: region(by) },
            sequence: 0,
            fenced,
            steward: region(steward),
            share: None,
        }
    }

    fn told(by: &str, mut route: Route) -> Told {
        let share = route.share.unwrap_or(100);
        route.share = (by == route.region.as_str()).then_some(share);
        Told { region: region(by), ready: true, routes: vec![route] }
    }

    fn learns(places: &mut Places, told: &[Told]) -> bool {
        let before = places.clone();
        places.learn(told);
        *places != before
    }

    fn of_c(places: &Places) -> (bool, u8, Option<RegionId>) {
        let place = &places.0[&region("c")];
        (place.fenced, place.share, place.successor)
    }

    #[test]
    fn a_lost_region_that_does_not_know_it_serves_nobody() {
        let mut places = Places::default();
        let fine = |by| told(by, route("c", 0, "c", false, "c"));
        assert!(learns(&mut places, &[fine("a"), fine("b"), fine("c")]));
        assert_eq!(of_c(&places), (false, 100, None));
        assert!(!learns(&mut places, &[fine("a"), fine("b"), fine("c")]), "no news");
        let lost = |by| told(by, route("c", 1, "a", true, "c"));
        assert!(learns(&mut places, &[lost("a"), lost("b"), fine("c")]));
        assert_eq!(of_c(&places), (true, 0, Some(region("a"))), "who fenced it takes its shoppers");
        let followed = |by| told(by, Route { sequence: 1, ..route("c", 1, "a", true, "b") });
        assert!(learns(&mut places, &[followed("a"), lost("b"), fine("c")]));
        assert_eq!(of_c(&places), (true, 0, Some(region("b"))), "until it has a steward");
        assert!(!learns(&mut places, &[fine("c")]), "when only the lost one can be asked");
        assert!(
            !learns(&mut places, &[lost("b"), fine("c")]),
            "an earlier state of the same fence"
        );
    }

    #[test]
    fn a_fence_that_reached_no_majority_moves_nobody() {
        let mut places = Places::default();
        let fine = |by| told(by, route("c", 0, "c", false, "c"));
        assert!(learns(&mut places, &[fine("a"), fine("b"), fine("c")]));
        let lost = |by| told(by, route("c", 1, "a", true, "c"));
        assert!(!learns(&mut places, &[lost("a"), fine("b"), fine("c")]));
        assert!(learns(&mut places, &[lost("a"), fine("c")]), "the only one that can be asked");
    }

    #[test]
    fn a_region_that_is_back_gets_its_shoppers_in_steps() {
        let mut places = Places::default();
        let lost = |by| told(by, route("c", 1, "a", true, "a"));
        assert!(learns(&mut places, &[lost("a"), lost("b")]));
        let mut step = Some(0);
        for share in [5, 25, 50, 100] {
            let back = Route { share: Some(share_after(step)), ..route("c", 2, "c", false, "a") };
            assert!(learns(&mut places, &[told("c", back), lost("a")]));
            assert_eq!(of_c(&places), (false, share, None));
            step = step.and_then(next_step);
        }
        assert_eq!(step, None);
        assert!(!learns(&mut places, &[lost("a"), lost("b")]), "who did not hear of its return");
    }

    proptest! {
        #[test]
        fn an_older_version_never_wins(
            rounds in prop::collection::vec(
                prop::collection::vec((0_usize..3, 0_u32..5, 0_usize..3, 0_u64..3), 1..4), 1..12),
        ) {
            let names = ["a", "b", "c"];
            let mut places = Places::default();
            for answers in rounds {
                let told: Vec<Told> = answers.into_iter().map(|(by, round, proposer, sequence)| {
                    let by_other = round > 0 && proposer != 2;
                    let route = route("c", round, if round == 0 { "c" } else { names[proposer] }, by_other, "c");
                    told(names[by], Route { sequence, ..route })
                }).collect();
                let before = places.0.get(&region("c")).cloned();
                places.learn(&told);
                if let (Some(before), Some(now)) = (before, places.0.get(&region("c"))) {
                    prop_assert!((now.ballot, now.sequence) >= (before.ballot, before.sequence));
                    prop_assert!(now.ballot != before.ballot || now.fenced == before.fenced);
                    prop_assert!(!now.fenced || now.share == 0);
                }
            }
        }
    }
}
