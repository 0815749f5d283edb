//! Which region, and in which incarnation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name of a region, in bytes: long enough for every cloud's names, short enough to be `Copy`.
pub const REGION_NAME_BYTES_MAX: usize = 15;

/// The name of a region: 1 to [`REGION_NAME_BYTES_MAX`] of `a-z`, `0-9` and `-`, beginning with a letter.
///
/// Fixed for the life of a deployment: it is in every event, every right and every envelope.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId {
    /// Padded with zeros, so that the derived order is the order of the names.
    bytes: [u8; REGION_NAME_BYTES_MAX],
    length: u8,
}

/// A text is not the name of a region.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a region's name: 1 to 15 of a-z, 0-9 and -, beginning with a letter")]
pub struct BadRegionId(String);

impl RegionId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).expect("ASCII by construction")
    }
}

impl FromStr for RegionId {
    type Err = BadRegionId;

    #[expect(clippy::unwrap_in_result, reason = "the length was checked")]
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let starts_well = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
        if !starts_well || text.len() > REGION_NAME_BYTES_MAX || !text.bytes().all(legal) {
            return Err(BadRegionId(text.to_owned()));
        }
        let mut bytes = [0; REGION_NAME_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        let length = u8::try_from(text.len()).expect("checked above");
        Ok(Self { bytes, length })
    }
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for RegionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RegionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The number of a region (1..=255): stands in every order id, so that its home is read without a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RegionNumber(pub std::num::NonZeroU8);

/// A region's incarnation: raised when it comes back from a fence or from amnesia. Writes of an older one are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// A region's first incarnation.
    pub const FIRST: Self = Self(1);
    /// No incarnation: of registers that belong to a region whichever it is in.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A region in one incarnation: who writes a row of rights, and whose ceilings a register holds. What an
/// earlier incarnation wrote stays its own for ever, so that nothing it sold can be counted as unsold.
///
/// As text `eu-west.2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor {
    /// The region.
    pub region: RegionId,
    /// Its incarnation.
    pub epoch: Epoch,
}

/// A text is not an actor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a region's name, a dot and the number of its incarnation")]
pub struct BadActor(String);

impl FromStr for Actor {
    type Err = BadActor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let actor = || {
            let (region, epoch) = text.split_once('.')?;
            let canonical = epoch == "0" || !epoch.starts_with(['0', '+']);
            let epoch = epoch.parse().ok().filter(|_| canonical)?;
            Some(Self { region: region.parse().ok()?, epoch: Epoch(epoch) })
        };
        actor().ok_or_else(|| BadActor(text.to_owned()))
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.region, self.epoch)
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Actor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_sort_like_text() {
        for bad in ["", "1a", "-a", "Us", "a_b", "a23456789012345x", "a\0"] {
            assert!(bad.parse::<RegionId>().is_err(), "{bad:?}");
        }
        let a: RegionId = "ap-south".parse().unwrap();
        let b: RegionId = "eu".parse().unwrap();
        let c: RegionId = "eu-west".parse().unwrap();
        assert!(a < b && b < c);
        assert_eq!(serde_json::to_string(&c).unwrap(), "\"eu-west\"");
        assert_eq!(serde_json::from_str::<RegionId>("\"eu-west\"").unwrap(), c);
    }

    #[test]
    fn an_actor_is_written_as_region_and_incarnation() {
        let actor = Actor { region: "eu-west".parse().unwrap(), epoch: Epoch(2) };
        assert_eq!(serde_json::to_string(&actor).unwrap(), "\"eu-west.2\"");
        assert_eq!(serde_json::from_str::<Actor>("\"eu-west.2\"").unwrap(), actor);
        for bad in ["eu-west", "eu-west.", "eu-west.02", "eu-west.+2", "eu-west.-1", ".2"] {
            assert!(bad.parse::<Actor>().is_err(), "{bad}");
        }
    }
}
