//! What the network does with a message: late, twice, out of order, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use crate::types::RegionId;

use super::dice::Dice;
use super::plan::Knobs;

/// Round trips between regions of a cloud in milliseconds, rounded, from measured pings; `region-config/local.toml` has
/// those of its three. Pairs that are not here take the longest.
const ROUND_TRIPS_MS: &[(&str, &str, u64)] = &[
    ("us-east", "eu-west", 71),
    ("us-east", "ap-south", 182),
    ("us-east", "us-west", 73),
    ("us-east", "ap-northeast", 152),
    ("us-east", "sa-east", 113),
    ("us-east", "eu-north", 105),
    ("eu-west", "ap-south", 118),
    ("eu-west", "us-west", 127),
    ("eu-west", "ap-northeast", 204),
    ("eu-west", "sa-east", 184),
    ("eu-west", "eu-north", 36),
    ("ap-south", "us-west", 223),
    ("ap-south", "ap-northeast", 137),
    ("ap-south", "sa-east", 299),
    ("ap-south", "eu-north", 131),
    ("us-west", "ap-northeast", 101),
    ("us-west", "sa-east", 180),
    ("us-west", "eu-north", 157),
    ("ap-northeast", "sa-east", 268),
    ("ap-northeast", "eu-north", 265),
    ("sa-east", "eu-north", 217),
];

/// All links between regions.
#[derive(Debug)]
pub struct Network(Mutex<State>);

#[derive(Debug)]
struct State {
    knobs: Knobs,
    healed: bool,
    cut: BTreeSet<(RegionId, RegionId)>,
    /// By link: a message takes so many times as long.
    slow: BTreeMap<(RegionId, RegionId), u64>,
    dice: BTreeMap<(RegionId, RegionId), Dice>,
    seed: u64,
}

impl Network {
    /// Whole, but as unreliable as the knobs say.
    pub fn new(seed: u64, knobs: &Knobs) -> Self {
        Self(Mutex::new(State {
            knobs: knobs.clone(),
            healed: false,
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            dice: BTreeMap::new(),
            seed,
        }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no panic while held")
    }

    /// Nothing goes this way any more, or everything does again.
    pub fn set_cut(&self, from: RegionId, to: RegionId, cut: bool) {
        let mut state = self.state();
        if cut {
            state.cut.insert((from, to));
        } else {
            state.cut.remove(&(from, to));
        }
    }

    /// Messages this way take `factor` times as long.
    pub fn set_slow(&self, from: RegionId, to: RegionId, factor: u64) {
        self.state().slow.insert((from, to), factor);
    }

    /// Every fault is over; what remains is the distance.
    pub fn heal(&self) {
        let mut state = self.state();
        state.healed = true;
        state.cut.clear();
        state.slow.clear();
    }

    /// When the copies of a message arrive that is sent now: none when it is lost.
    pub fn carry(&self, from: RegionId, to: RegionId) -> Vec<Duration> {
        let mut state = self.state();
        let state = &mut *state;
        if state.cut.contains(&(from, to)) {
            return Vec::new();
        }
        let slow = state.slow.get(&(from, to)).copied().unwrap_or(1);
        let seed = state.seed;
        let dice = state
            .dice
            .entry((from, to))
            .or_insert_with(|| Dice::of(seed, &format!("link {from} {to}")));
        let knobs = &state.knobs;
        if !state.healed && dice.chance(knobs.drop_permille) {
            return Vec::new();
        }
        let copies = if !state.healed && dice.chance(knobs.double_permille) { 2 } else { 1 };
        let one_way_ms = one_way_ms(from, to);
        let mut delays = Vec::with_capacity(copies);
        for _ in 0..copies {
            let mut delay_ms = (one_way_ms + dice.below(one_way_ms / 10 + 1)) * slow;
            if !state.healed && dice.chance(knobs.reorder_permille) {
                delay_ms += dice.below(knobs.reorder_ms_max + 1);
            }
            delays.push(Duration::from_millis(delay_ms));
        }
        delays
    }
}

/// How long a message takes at least.
pub fn one_way_ms(from: RegionId, to: RegionId) -> u64 {
    let names = [from.as_str(), to.as_str()];
    let longest = ROUND_TRIPS_MS.iter().map(|(.., ms)| *ms).max().unwrap_or(0);
    let link = ROUND_TRIPS_MS.iter().find(|(a, b, _)| names == [*a, *b] || names == [*b, *a]);
    link.map_or(longest, |(.., ms)| *ms) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The measured figures stand in the configuration; these are the same, rounded.
    #[test]
    fn round_trips_are_the_measured_ones() {
        let text = include_str!("../../region-config/local.toml");
        let config: toml::Value = toml::from_str(text).unwrap();
        let links = config["link_latencies"].as_array().unwrap();
        assert_eq!(links.len(), 3);
        for link in links {
            let name = |field: &str| link[field].as_str().unwrap().to_owned();
            let (between, and) = (name("between"), name("and"));
            let measured_us = link["round_trip_us"].as_integer().unwrap();
            let known = ROUND_TRIPS_MS.iter().find(|(a, b, _)| *a == between && *b == and);
            let (.., ms) = known.unwrap();
            assert_eq!((measured_us + 500) / 1_000, i64::try_from(*ms).unwrap(), "{between} {and}");
        }
    }
}
