//! Which region serves a region's shoppers: what a load balancer follows.
//!
//! Each region tells what its own database holds of every region's order register ([`crate::escrow::Stewardship`]): a
//! ballot that only rises, whether the region is fenced under it, and who acts for its orders. So the ballot is the version
//! of a route. Whoever follows keeps the highest it has seen, and what a region says that was cut off, or set back,
//! never wins against what the others have agreed on since.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::escrow::{Ballot, Stewardship, majority, steward_of};
use crate::mutants::{Mutant, is_on};
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
    /// Takes in what those of `all` regions that could be asked say. What is said of others, or by them, does not count.
    pub fn learn(&mut self, all: &BTreeSet<RegionId>, told: &[Told]) {
        self.0.retain(|region, _| all.contains(region));
        for &region in all {
            // Whoever says something twice has said it once.
            let by = told.iter().filter(|told| all.contains(&told.region)).filter_map(|told| {
                let route = told.routes.iter().find(|route| route.region == region)?;
                Some((told.region, route))
            });
            let mut place = place(region, &by.collect(), self.0.get(&region), majority(all.len()));
            if let Some(place) = &mut place {
                place.successor = place.successor.filter(|successor| all.contains(successor));
            }
            self.0.extend(place.map(|place| (region, place)));
        }
    }
}

/// What is told of one region, by whom.
type About<'a> = BTreeMap<RegionId, &'a Route>;

/// `None` where what is known stays.
fn place(
    region: RegionId,
    told: &About<'_>,
    known: Option<&Place>,
    majority: usize,
) -> Option<Place> {
    if told.is_empty() {
        return None;
    }
    // Nobody need have promised the first one.
    let ballots = told.values().map(|route| route.ballot).chain([Ballot::birth(region)]);
    let ballot = ballots.filter(|ballot| is_agreed(*ballot, told, majority)).max()?;
    let under = || told.values().filter(|route| route.ballot == ballot);
    let latest = under().max_by_key(|route| route.sequence);
    let sequence = latest.map_or(0, |route| route.sequence);
    let is_old = known.is_some_and(|known| (known.ballot, known.sequence) > (ballot, sequence));
    if is_old && !is_on(Mutant::OldRouteWins) {
        return None;
    }
    // Another region proposes here only by a fence; who was asked for a steward before it heard of that does not know it.
    let fenced = ballot.region != region;
    // What a region says of itself that has missed the latest is older than that.
    let own = told.get(&region).filter(|own| own.ballot >= ballot).and_then(|own| own.share);
    let share = match (own, known) {
        _ if fenced => 0,
        (Some(share), _) => share.min(100),
        // It answers nobody, and whether it is up is for the balancer to see.
        (None, Some(known)) if !known.fenced => known.share,
        (None, None) if ballot.round == 0 => 100,
        // Others say that it is back: it is about to begin.
        (None, _) => share_after(Some(0)),
    };
    // Before there is a steward, whoever fenced it.
    let steward = latest.filter(|route| route.sequence > 0).map(|route| route.steward);
    let successor = steward.filter(|steward| *steward != region).unwrap_or(ballot.region);
    let successor = Some(successor).filter(|successor| fenced && *successor != region);
    Some(Place { ballot, sequence, fenced, share, successor })
}

/// Did a majority promise this ballot? Whoever asked for promises and did not get them has promised itself, and may
/// hold to that for ever: a fence that failed, or the return of a region that nobody hears. A value is proposed only
/// by who has the promises, so whoever holds one proves them.
fn is_agreed(ballot: Ballot, told: &About<'_>, majority: usize) -> bool {
    let under = || told.values().filter(|route| route.ballot == ballot);
    let is_proposed = under().any(|route| route.sequence > 0);
    ballot.round == 0 || is_proposed || under().count() >= majority
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

    fn all() -> BTreeSet<RegionId> {
        ["a", "b", "c"].map(region).into()
    }

    fn learns(places: &mut Places, told: &[Told]) -> bool {
        let before = places.clone();
        places.learn(&all(), told);
        *places != before
    }

    fn fine(by: &str) -> Told {
        told(by, route("c", 0, "c", false, "c"))
    }

    /// `a` fences `c`.
    fn lost(by: &str) -> Told {
        told(by, route("c", 1, "a", true, "c"))
    }

    /// `a` fences `c`, and is its steward.
    fn followed(by: &str) -> Told {
        told(by, Route { sequence: 1, ..route("c", 1, "a", true, "a") })
    }

    /// `c` returns, so many steps ago.
    fn back(by: &str, steps: Option<u8>) -> Told {
        told(by, Route { share: Some(share_after(steps)), ..route("c", 2, "c", false, "a") })
    }

    fn of_c(places: &Places) -> (bool, u8, Option<RegionId>) {
        let place = &places.0[&region("c")];
        (place.fenced, place.share, place.successor)
    }

    #[test]
    fn a_lost_region_that_does_not_know_it_serves_nobody() {
        let mut places = Places::default();
        assert!(learns(&mut places, &[fine("a"), fine("b"), fine("c")]));
        assert_eq!(of_c(&places), (false, 100, None));
        assert!(!learns(&mut places, &[fine("a"), fine("b"), fine("c")]), "no news");
        assert!(learns(&mut places, &[lost("a"), lost("b"), fine("c")]));
        assert_eq!(of_c(&places), (true, 0, Some(region("a"))), "who fenced it takes its shoppers");
        assert!(learns(&mut places, &[followed("a"), lost("b"), fine("c")]));
        assert_eq!(of_c(&places), (true, 0, Some(region("a"))));
        assert!(!learns(&mut places, &[]), "when nobody can be asked");
        assert!(!learns(&mut places, &[fine("c")]), "when only the lost one can be asked");
        assert!(
            !learns(&mut places, &[lost("b"), lost("c")]),
            "an earlier state of the same fence"
        );
    }

    #[test]
    fn a_steward_of_an_earlier_fence_does_not_take_over_under_a_later_one() {
        let mut places = Places::default();
        let again = |by| told(by, route("c", 3, "b", true, "a"));
        assert!(learns(&mut places, &[again("a"), again("b")]));
        assert_eq!(of_c(&places), (true, 0, Some(region("b"))));
    }

    #[test]
    fn a_fence_that_reached_no_majority_moves_nobody() {
        let mut places = Places::default();
        assert!(learns(&mut places, &[fine("a"), fine("b"), fine("c")]));
        assert!(!learns(&mut places, &[lost("a"), fine("b"), fine("c")]));
        assert!(!learns(&mut places, &[lost("a")]), "nor when nobody else can be asked");
        assert!(!learns(&mut places, &[lost("a"), lost("a")]), "nor when it is said twice");
        let stranger = Told { region: region("x"), ..lost("a") };
        assert!(!learns(&mut places, &[lost("a"), stranger]), "nor when a stranger says it");
        assert!(learns(&mut places, &[followed("a")]), "its steward needed the majority");
        assert_eq!(of_c(&places), (true, 0, Some(region("a"))));
    }

    #[test]
    fn whoever_did_not_hear_what_a_ballot_was_for_does_not_end_the_fence() {
        let mut places = Places::default();
        let asked = told("b", route("c", 1, "a", false, "c"));
        assert!(learns(&mut places, &[followed("a"), asked.clone()]));
        assert!(!learns(&mut places, &[asked, followed("a")]));
        assert_eq!(of_c(&places), (true, 0, Some(region("a"))));
        // Also when nobody else can be asked, and it has stored who acts for the orders.
        let unaware = told("b", Route { sequence: 1, ..route("c", 1, "a", false, "a") });
        assert!(!learns(&mut places, &[unaware]));
    }

    #[test]
    fn a_return_that_nobody_heard_of_brings_nobody_back() {
        let mut places = Places::default();
        let alone = back("c", Some(0));
        assert!(learns(&mut places, &[alone.clone(), lost("a"), lost("b")]));
        assert_eq!(of_c(&places), (true, 0, Some(region("a"))));
        assert!(!learns(&mut places, std::slice::from_ref(&alone)));
        assert!(!learns(&mut places, &[alone.clone(), lost("a")]));
        assert!(learns(&mut places, &[alone, back("a", None), lost("b")]));
        assert_eq!(of_c(&places), (false, 5, None));
    }

    #[test]
    fn a_region_that_is_back_gets_its_shoppers_in_steps() {
        let mut places = Places::default();
        assert!(learns(&mut places, &[lost("a"), lost("b")]));
        assert!(learns(&mut places, &[back("a", None), back("b", None)]));
        assert_eq!(of_c(&places), (false, 5, None), "also while it can't be asked itself");
        let mut step = Some(0).and_then(next_step);
        for share in [25, 50, 100] {
            assert!(learns(&mut places, &[back("c", step), back("b", None), lost("a")]));
            assert_eq!(of_c(&places), (false, share, None));
            step = step.and_then(next_step);
        }
        assert_eq!(step, None);
        assert!(!learns(&mut places, &[lost("a"), lost("b")]), "who did not hear of its return");
        assert!(!learns(&mut places, &[back("a", None), back("b", None)]), "nor when it is silent");
        let forgot = told("c", Route { share: Some(5), ..route("c", 0, "c", false, "c") });
        let heard = [back("a", None), back("b", None), forgot];
        assert!(!learns(&mut places, &heard), "what it says of itself must not be older");
    }

    #[test]
    fn nobody_is_followed_whom_the_deployment_does_not_have() {
        let mut places = Places::default();
        let of_stranger = |by| told(by, route("x", 1, "a", true, "a"));
        assert!(!learns(&mut places, &[of_stranger("a"), of_stranger("b")]));
        let to_stranger = |by| told(by, Route { sequence: 1, ..route("c", 1, "x", true, "x") });
        assert!(learns(&mut places, &[to_stranger("a"), to_stranger("b")]));
        assert_eq!(of_c(&places), (true, 0, None));
        places.learn(&["a", "b"].map(region).into(), &[]);
        assert_eq!(places, Places::default(), "a region that was taken out of the configuration");
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
                places.learn(&all(), &told);
                let heard = |ballot| told.iter().filter(move |told| told.routes[0].ballot == ballot);
                if let Some(now) = places.0.get(&region("c")).filter(|now| before.as_ref() != Some(now)) {
                    let by: BTreeSet<RegionId> = heard(now.ballot).map(|told| told.region).collect();
                    let is_proposed = heard(now.ballot).any(|told| told.routes[0].sequence > 0);
                    prop_assert!(now.ballot.round == 0 || is_proposed || by.len() >= 2);
                }
                if let (Some(before), Some(now)) = (before, places.0.get(&region("c"))) {
                    prop_assert!((now.ballot, now.sequence) >= (before.ballot, before.sequence));
                    prop_assert!(now.ballot != before.ballot || now.fenced == before.fenced);
                    prop_assert!(!now.fenced || now.share == 0);
                }
            }
        }
    }
}
