//! Hybrid logical clock: one order of events that respects causality and stays close to wall time.
//!
//! After Kulkarni et al., "Logical Physical Clocks" (2014). For order, display and last-writer-wins
//! only: no right, epoch or lease rests on it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::RegionId;
use crate::mutants::{Mutant, is_on};

/// How far a peer's stamp may be ahead of our own wall clock before it is left out. Cloud clocks are
/// within a few milliseconds; half a second is a broken clock, and following it would drag every
/// region into its future.
pub const HLC_DRIFT_MS_MAX: u64 = 500;

/// A stamp. Sorted by wall time, then logical counter, then region, so that two regions never make the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HlcTimestamp {
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// Tells events of one millisecond apart.
    pub logical: u32,
    /// Who made it.
    pub region: RegionId,
}

impl HlcTimestamp {
    /// The stamp before all others of a region.
    pub fn origin(region: RegionId) -> Self {
        Self { wall_ms: 0, logical: 0, region }
    }
}

/// Fixed width, so that the text sorts like the stamp: `0001790000000000-00000007-eu-west`.
impl fmt::Display for HlcTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016}-{:08}-{}", self.wall_ms, self.logical, self.region)
    }
}

/// A text is not a stamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an HLC stamp")]
pub struct BadHlc(String);

impl FromStr for HlcTimestamp {
    type Err = BadHlc;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.splitn(3, '-');
            let wall_ms = parts.next()?.parse().ok()?;
            let logical = parts.next()?.parse().ok()?;
            let region = parts.next()?.parse().ok()?;
            Some(Self { wall_ms, logical, region })
        };
        parse().ok_or_else(|| BadHlc(text.to_owned()))
    }
}

impl Serialize for HlcTimestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HlcTimestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The clock of one region. Pure: wall time comes in as a parameter.
#[derive(Debug, Clone)]
pub struct Hlc {
    last: HlcTimestamp,
}

/// A peer's stamp is further ahead than [`HLC_DRIFT_MS_MAX`]; our clock was not moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stamp of {from} is {ahead_ms} ms ahead of this region's clock")]
pub struct ClockDrift {
    /// The region whose clock is ahead, or whose stamp was relayed.
    pub from: RegionId,
    /// How far.
    pub ahead_ms: u64,
}

impl Hlc {
    /// A clock that never goes back behind `floor`, the highest stamp this region has stored (I-17).
    pub fn starting_after(floor: HlcTimestamp) -> Self {
        Self { last: floor }
    }

    /// The next stamp of an own event. Higher than every stamp made or received before.
    pub fn tick(&mut self, now_ms: u64) -> HlcTimestamp {
        let (wall_ms, logical) = if now_ms > self.last.wall_ms || is_on(Mutant::ClockWithoutMemory)
        {
            (now_ms, 0)
        } else if self.last.logical == u32::MAX {
            (self.last.wall_ms + 1, 0)
        } else {
            (self.last.wall_ms, self.last.logical + 1)
        };
        self.last = HlcTimestamp { wall_ms, logical, region: self.last.region };
        self.last
    }

    /// Takes a peer's stamp into account, so that what we do next sorts after what we have seen.
    pub fn observe(&mut self, seen: HlcTimestamp, now_ms: u64) -> Result<(), ClockDrift> {
        let ahead_ms = seen.wall_ms.saturating_sub(now_ms);
        if ahead_ms > HLC_DRIFT_MS_MAX && !is_on(Mutant::AnyClockFollowed) {
            return Err(ClockDrift { from: seen.region, ahead_ms });
        }
        if (seen.wall_ms, seen.logical) > (self.last.wall_ms, self.last.logical) {
            self.last = HlcTimestamp { region: self.last.region, ..seen };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn region(name: &str) -> RegionId {
        name.parse().unwrap()
    }

    #[test]
    fn text_round_trips_and_sorts() {
        let early = HlcTimestamp { wall_ms: 999, logical: 70, region: region("us-east") };
        let late = HlcTimestamp { wall_ms: 1000, logical: 9, region: region("eu-west") };
        assert!(early.to_string() < late.to_string());
        assert_eq!(late.to_string().parse::<HlcTimestamp>().unwrap(), late);
    }

    #[test]
    fn a_stamp_from_the_far_future_does_not_move_the_clock() {
        let mut hlc = Hlc::starting_after(HlcTimestamp::origin(region("a")));
        let far = HlcTimestamp { wall_ms: 4_102_444_800_000, logical: 0, region: region("b") };
        assert_eq!(hlc.observe(far, 1_000).unwrap_err().from, region("b"));
        assert_eq!(hlc.tick(1_001).wall_ms, 1_001);
    }

    proptest! {
        /// I-17: whatever the wall clock does and whatever peers send, stamps only go up.
        #[test]
        fn stamps_only_go_up(steps in prop::collection::vec((0u64..2_000, prop::option::of((0u64..3_000, 0u32..5))), 1..100)) {
            let mut hlc = Hlc::starting_after(HlcTimestamp { wall_ms: 500, logical: 3, region: region("a") });
            let mut last = HlcTimestamp { wall_ms: 500, logical: 3, region: region("a") };
            for (now_ms, seen) in steps {
                let mut floor = last;
                if let Some((wall_ms, logical)) = seen {
                    let stamp = HlcTimestamp { wall_ms, logical, region: region("b") };
                    if hlc.observe(stamp, now_ms).is_ok() { floor = floor.max(stamp); }
                }
                let next = hlc.tick(now_ms);
                prop_assert!((next.wall_ms, next.logical) > (floor.wall_ms, floor.logical));
                prop_assert!(next > last);
                last = next;
            }
        }
    }
}
