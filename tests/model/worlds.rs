//! Which worlds are looked at, and how large they are.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::Duration;

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use crate::rules::Rule;
use crate::world::World;

/// One owner with three units, of which it may sell one, who raises its ceiling and comes back when it was
/// taken over; one take-over, by one of the two others. Every other world is a change of this one.
const ONE_OWNER: World<3, 3> = World {
    dropped: None,
    stock: [(3, 1), (0, 0), (0, 0)],
    rounds: 2,
    crashes: 0,
    crashers: 0b111,
    fences: 1,
    fenced: 0b001,
    fencers: 0b110,
    raisers: 0b001,
    grants: 0,
    releases: 0,
    sells: false,
    loses_database: false,
    ceiling_max: 2,
};

/// The owner crashes, or one of those who take over.
const CRASH: World<3, 3> = World { crashes: 1, ..ONE_OWNER };
/// Two regions take over at once, or one after the other.
const RIVALS: World<3, 3> = World { fences: 2, ..ONE_OWNER };
/// Who took over raises its own ceiling and sells what it got, while the owner goes on.
const HEIR: World<3, 3> = World { raisers: 0b101, fencers: 0b100, ..ONE_OWNER };
/// Two owners who sell at once and give to each other.
const OWNERS: World<3, 3> = World {
    grants: 1,
    stock: [(2, 1), (1, 1), (0, 0)],
    raisers: 0b011,
    fencers: 0b100,
    ..ONE_OWNER
};
/// Sales and a release, which no message depends on.
const RELEASE: World<3, 3> = World { sells: true, releases: 1, fencers: 0b100, ..ONE_OWNER };

/// Two releases of one sale, where every unit can be sold at once.
const TWO_RELEASES: World<3, 3> =
    World { stock: [(1, 1), (0, 0), (0, 0)], releases: 2, fences: 0, ..RELEASE };

/// Any region loses its database: as an acceptor it is seeded again, as an owner it comes back as another
/// incarnation, which may take over what the old one's ceiling leaves, as the others may.
const LOSS: World<3, 4> = World {
    dropped: None,
    stock: [(3, 1), (0, 0), (0, 0)],
    rounds: 2,
    crashes: 0,
    crashers: 0,
    fences: 1,
    fenced: 0b0001,
    fencers: 0b111,
    raisers: 0b001,
    grants: 0,
    releases: 0,
    sells: true,
    loses_database: true,
    ceiling_max: 2,
};

/// A database that is set back, and nobody looks.
const SET_BACK: World<3, 3> = World { sells: true, loses_database: true, fences: 0, ..ONE_OWNER };

/// Five acceptors, two take-overs of one owner.
const FIVE: World<5, 5> = World {
    dropped: None,
    stock: [(3, 1), (0, 0), (0, 0), (0, 0), (0, 0)],
    rounds: 2,
    crashes: 0,
    crashers: 0,
    fences: 2,
    fenced: 0b00001,
    fencers: 0b00110,
    raisers: 0b00001,
    grants: 0,
    releases: 0,
    sells: false,
    loses_database: false,
    ceiling_max: 2,
};

/// Everything at once.
const ALL: World<3, 4> = World {
    stock: [(2, 1), (1, 1), (0, 0)],
    crashes: 1,
    crashers: 0b111,
    fences: 2,
    fenced: 0b0011,
    raisers: 0b111,
    grants: 1,
    releases: 1,
    ..LOSS
};

type Discoveries<M> = BTreeMap<&'static str, Path<<M as Model>::State, <M as Model>::Action>>;

/// What a look at a world found.
#[derive(Debug, Default)]
struct Found {
    /// What must always hold and doesn't, with the number of steps it takes.
    broken: Vec<(&'static str, usize)>,
    /// What should be reachable and is.
    reached: usize,
}

/// What should be reachable: a look that reaches less proves less than it seems to.
const REACHABLE: usize = 3;

/// Looks at every state, or at those within `limit`, and prints how many there were.
fn check<const N: usize, const A: usize>(
    name: &str,
    world: &World<N, A>,
    limit: Option<Duration>,
) -> Found {
    let until = HasDiscoveries::AnyFailures;
    let checker = world.clone().checker().threads(2).finish_when(until);
    let (discoveries, looked_at) = match limit {
        Some(limit) => seen(&checker.timeout(limit).spawn_dfs().join()),
        None => seen(&checker.spawn_bfs().join()),
    };
    let mut found = Found::default();
    for property in world.properties() {
        let Some(path) = discoveries.get(property.name) else { continue };
        if matches!(property.expectation, Expectation::Sometimes) {
            found.reached += 1;
            continue;
        }
        let steps = path.clone().into_actions();
        if world.dropped.is_none() {
            println!("{name}: `{}` is broken by {steps:?}", property.name);
        }
        found.broken.push((property.name, steps.len()));
    }
    let all = if limit.is_some() || !found.broken.is_empty() { ", not all" } else { ", all" };
    println!("{name}: {looked_at}{all}");
    found
}

/// What a checker that has ended discovered, and how much it looked at.
fn seen<M: Model>(checker: &impl Checker<M>) -> (Discoveries<M>, String)
where
    M::State: Clone + PartialEq + Hash,
    M::Action: Clone + PartialEq,
{
    let looked_at = format!(
        "{} states, {} different, {} steps deep",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    (checker.discoveries().into_iter().collect(), looked_at)
}

fn holds<const N: usize, const A: usize>(name: &str, world: &World<N, A>) {
    let fences = world.fences;
    let found = check(name, world, None);
    assert_eq!(found.broken, [], "{name}");
    assert!(fences == 0 || found.reached == REACHABLE, "{name}: only {} reached", found.reached);
}

#[test]
fn one_owner_and_one_take_over() {
    holds("one owner", &ONE_OWNER);
}

#[test]
fn a_crash_of_the_owner_or_of_who_takes_over() {
    holds("crash", &CRASH);
}

#[test]
fn two_that_take_over_at_once() {
    holds("rivals", &RIVALS);
}

#[test]
fn an_heir_that_sells_while_the_owner_goes_on() {
    holds("heir", &HEIR);
}

#[test]
fn two_owners_and_a_grant() {
    holds("two owners", &OWNERS);
}

#[test]
fn sales_and_releases() {
    holds("release", &RELEASE);
    holds("two releases", &TWO_RELEASES);
}

#[test]
fn a_lost_database() {
    holds("lost database", &LOSS);
}

/// Each rule is needed: without it a property breaks, in the smallest world that shows it.
#[test]
fn without_any_single_rule_a_property_breaks() {
    let mut unneeded = Vec::new();
    for rule in Rule::ALL {
        let without = |world: World<3, 3>| World { dropped: Some(rule), ..world };
        let name = format!("without {rule:?}");
        let found = match rule {
            Rule::MajorityDecides
            | Rule::ActivateWhenChosen
            | Rule::PromisesHold
            | Rule::OwnVoteObeysPromise
            | Rule::CeilingCountsAsSold
            | Rule::AdoptTheNewest
            | Rule::CreditsCountOnRaise => check(&name, &without(ONE_OWNER), None),
            Rule::GrantWithinCeiling => check(&name, &without(OWNERS), None),
            Rule::CountWhenChosen | Rule::LearnWhatWasChosen => check(&name, &without(HEIR), None),
            Rule::CreditsAreAdopted => check(&name, &without(RIVALS), None),
            Rule::StoreBeforeSending => check(&name, &without(CRASH), None),
            Rule::NoticeAmnesia => check(&name, &without(SET_BACK), None),
            Rule::ReleaseOnce => check(&name, &without(TWO_RELEASES), None),
            Rule::DeadCeilingCountsAsSold | Rule::SilentUntilSeeded | Rule::SeedingPrepares => {
                check(&name, &World { dropped: Some(rule), ..LOSS }, None)
            }
        };
        match found.broken.iter().min_by_key(|(_, steps)| *steps) {
            Some((property, steps)) => println!("{name}: `{property}` breaks in {steps} steps"),
            None => unneeded.push(rule),
        }
    }
    assert_eq!(unneeded, [], "these rules could be dropped, or the worlds are too small");
}

/// As far as the minutes in `ENTREPOT_MODEL_MINUTES` go; without it, as far as one second goes.
#[test]
fn worlds_that_are_too_large_to_see_the_end_of() {
    let minutes = std::env::var("ENTREPOT_MODEL_MINUTES").ok().and_then(|text| text.parse().ok());
    let limit =
        minutes.map_or(Duration::from_secs(1), |minutes: u64| Duration::from_secs(60 * minutes));
    assert_eq!(check("five regions", &FIVE, Some(limit)).broken, []);
    assert_eq!(check("everything", &ALL, Some(limit)).broken, []);
}
