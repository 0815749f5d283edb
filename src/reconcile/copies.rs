//! Copies against their origin: sums of ranges first, entries where the sums differ, and a judgement that what
//! is under way can't mislead.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::types::RegionId;

/// Entries under one sum: a difference of one costs a message of a thousand, some 100 KiB, and a million orders
/// take a thousand sums.
pub const RANGE_ROWS: usize = 1_000;

/// What is copied between regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Orders of one home: the home's, or copies. The stamp is the version.
    Orders,
    /// Rows of rights of one owner. The stamp is incarnation and version.
    Rights,
    /// The outbox of one origin, or the inbox of what came from there. No stamp: an envelope never changes.
    Envelopes,
    /// Products, whoever wrote them last. The stamp is the HLC.
    Products,
    /// Nodes, likewise.
    Nodes,
}

impl Kind {
    /// In the order in which they are compared: a saga of what differs is easier to read from its cause.
    pub const ALL: &'static [Self] =
        &[Self::Envelopes, Self::Orders, Self::Rights, Self::Products, Self::Nodes];

    /// The asked region is the only one that writes these, so nobody can hold a newer one.
    pub fn has_one_writer(self) -> bool {
        matches!(self, Self::Orders | Self::Rights | Self::Envelopes)
    }

    /// The word for one of them.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Orders => "order",
            Self::Rights => "rights",
            Self::Envelopes => "envelope",
            Self::Products => "product",
            Self::Nodes => "node",
        }
    }
}

/// One thing that is copied, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Sorts as text; what it names depends on the kind.
    pub key: String,
    /// Grows with every change; sorts as text.
    pub stamp: String,
    /// Of the content.
    pub hash: String,
}

/// The keys after `after` up to and with `upto`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Of what.
    pub kind: Kind,
    /// Whose.
    pub owner: RegionId,
    /// Not included; empty for the beginning.
    pub after: String,
    /// Included; without one, to the end.
    pub upto: Option<String>,
}

/// The sum of a range. The order of its entries does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sum {
    /// How many.
    pub rows: u64,
    /// Of keys, stamps and contents.
    pub hash: u64,
}

impl Sum {
    /// Takes in entries.
    pub fn add(&mut self, entries: &[Entry]) {
        for Entry { key, stamp, hash } in entries {
            let mut sum = Sha256::new();
            for part in [key, stamp, hash] {
                sum.update((part.len() as u64).to_be_bytes());
                sum.update(part);
            }
            let sum = sum.finalize();
            let short = u64::from_be_bytes(sum[..8].try_into().expect("a hash has 32 bytes"));
            self.rows += 1;
            self.hash = self.hash.wrapping_add(short);
        }
    }

    /// Of some entries.
    pub fn of(entries: &[Entry]) -> Self {
        let mut sum = Self::default();
        sum.add(entries);
        sum
    }
}

/// A key whose two entries are not equal: suspect until it is looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Which.
    pub key: String,
    /// Of the copy.
    pub ours: Option<Entry>,
    /// Of the origin.
    pub theirs: Option<Entry>,
}

/// The keys at which two lists differ, in order of keys.
pub fn compare(ours: &[Entry], theirs: &[Entry]) -> Vec<Mismatch> {
    let mut keys: BTreeMap<&str, (Option<&Entry>, Option<&Entry>)> = BTreeMap::new();
    for entry in ours {
        keys.entry(&entry.key).or_default().0 = Some(entry);
    }
    for entry in theirs {
        keys.entry(&entry.key).or_default().1 = Some(entry);
    }
    let differ = keys.into_iter().filter(|(_, (ours, theirs))| ours != theirs);
    let mismatch = |(key, (ours, theirs)): (&str, (Option<&Entry>, Option<&Entry>))| Mismatch {
        key: key.to_owned(),
        ours: ours.cloned(),
        theirs: theirs.cloned(),
    };
    differ.map(mismatch).collect()
}

/// What is true of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is what its origin holds, or held a moment ago.
    Equal,
    /// It has changed while it was looked at, and must have been right to do so: look again.
    Moving,
    /// There is none, and there should be one.
    Missing,
    /// It stays behind.
    Behind,
    /// Same stamp, other content.
    Differs,
    /// The only writer does not know it, or not so far.
    Forgotten,
}

/// Judges one copy by three looks, in this order: `before` at the copy, `theirs` at the origin, and `after` at the
/// copy again, once all that the origin had written by then is applied (or the time for that is over).
///
/// Whatever `before` shows was written by the origin earlier than `theirs`, so an origin with less has forgotten.
/// Whatever `theirs` shows has been applied before `after`, so a copy with less has lost it. Anything else is
/// under way.
pub fn judge(
    kind: Kind,
    before: Option<&Entry>,
    theirs: Option<&Entry>,
    after: Option<&Entry>,
) -> Verdict {
    let stamp = |entry: Option<&Entry>| entry.map(|entry| entry.stamp.clone());
    if kind.has_one_writer() && stamp(before) > stamp(theirs) {
        return Verdict::Forgotten;
    }
    match (theirs, after) {
        (None, _) => Verdict::Equal,
        (Some(_), None) => Verdict::Missing,
        (Some(theirs), Some(after)) => match after.stamp.cmp(&theirs.stamp) {
            std::cmp::Ordering::Less => Verdict::Behind,
            std::cmp::Ordering::Equal if after.hash == theirs.hash => Verdict::Equal,
            std::cmp::Ordering::Equal => Verdict::Differs,
            std::cmp::Ordering::Greater if kind.has_one_writer() => Verdict::Moving,
            std::cmp::Ordering::Greater => Verdict::Equal,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(key: &str, stamp: u64, hash: &str) -> Entry {
        Entry { key: key.to_owned(), stamp: format!("{stamp:04}"), hash: hash.to_owned() }
    }

    #[test]
    fn sums_see_every_part_and_no_order() {
        let (a, b) = (entry("a", 1, "x"), entry("b", 2, "y"));
        assert_eq!(Sum::of(&[a.clone(), b.clone()]), Sum::of(&[b.clone(), a.clone()]));
        for other in [entry("c", 1, "x"), entry("a", 2, "x"), entry("a", 1, "z")] {
            assert_ne!(Sum::of(&[a.clone(), b.clone()]), Sum::of(&[other, b.clone()]));
        }
        assert_ne!(Sum::of(std::slice::from_ref(&a)), Sum::of(&[a.clone(), a]));
    }

    #[test]
    fn each_verdict() {
        use Verdict::{Behind, Differs, Equal, Forgotten, Missing, Moving};
        let (one, two, other) = (entry("k", 1, "x"), entry("k", 2, "y"), entry("k", 1, "z"));
        let (one, two, other) = (Some(&one), Some(&two), Some(&other));
        for (kind, before, theirs, after, verdict) in [
            (Kind::Orders, None, one, one, Equal),
            (Kind::Orders, None, one, None, Missing),
            (Kind::Orders, one, two, one, Behind),
            (Kind::Orders, other, one, other, Differs),
            (Kind::Orders, one, None, one, Forgotten),
            (Kind::Orders, two, one, two, Forgotten),
            (Kind::Orders, one, one, two, Moving),
            // Written between the looks.
            (Kind::Orders, None, None, one, Equal),
            // A product may be newer here: its writer need not be the one that was asked.
            (Kind::Products, two, one, two, Equal),
            (Kind::Products, one, None, one, Equal),
            (Kind::Products, one, two, one, Behind),
        ] {
            let judged = judge(kind, before, theirs, after);
            assert_eq!(judged, verdict, "{kind:?} {before:?} {theirs:?} {after:?}");
        }
    }

    /// An origin that writes versions of a few keys, and a copy that applies them in order.
    #[derive(Debug, Clone)]
    struct World {
        written: Vec<(usize, u64)>,
        applied: usize,
        lost: Option<usize>,
        corrupt: Option<usize>,
    }

    impl World {
        fn new() -> Self {
            Self { written: Vec::new(), applied: 0, lost: None, corrupt: None }
        }

        fn write(&mut self, key: usize) {
            let version = self.written.iter().filter(|(of, _)| *of == key).count() as u64 + 1;
            self.written.push((key, version));
        }

        fn apply(&mut self, count: usize) {
            self.applied = (self.applied + count).min(self.written.len());
        }

        fn origin(&self, key: usize) -> Option<Entry> {
            let last = self.written.iter().rev().find(|(of, _)| *of == key)?;
            Some(entry(&key.to_string(), last.1, &format!("{key}@{}", last.1)))
        }

        fn copy(&self, key: usize) -> Option<Entry> {
            let applied = self.written[..self.applied].iter().enumerate();
            let mut kept =
                applied.filter(|(place, (of, _))| *of == key && self.lost != Some(*place));
            let (_, (_, version)) = kept.next_back()?;
            let hash = if self.corrupt == Some(key) {
                "changed".to_owned()
            } else {
                format!("{key}@{version}")
            };
            Some(entry(&key.to_string(), *version, &hash))
        }
    }

    #[derive(Debug, Clone)]
    enum Happens {
        Write(usize),
        Apply(usize),
    }

    fn happens() -> impl Strategy<Value = Vec<Happens>> {
        let one = prop_oneof![
            (0usize..4).prop_map(Happens::Write),
            (1usize..4).prop_map(Happens::Apply),
        ];
        prop::collection::vec(one, 0..12)
    }

    fn go_on(world: &mut World, events: &[Happens]) {
        for event in events {
            match event {
                Happens::Write(key) => world.write(*key),
                Happens::Apply(count) => world.apply(*count),
            }
        }
    }

    proptest! {
        /// Whatever is written and applied between the looks: a healthy copy is never called different.
        #[test]
        fn what_is_under_way_is_not_a_difference(
            first in happens(), second in happens(), third in happens(), fourth in happens(), key in 0usize..4,
        ) {
            let mut world = World::new();
            go_on(&mut world, &first);
            let before = world.copy(key);
            go_on(&mut world, &second);
            let theirs = world.origin(key);
            go_on(&mut world, &third);
            let head = world.written.len();
            go_on(&mut world, &fourth);
            world.apply(head.saturating_sub(world.applied));
            let after = world.copy(key);
            let verdict = judge(Kind::Orders, before.as_ref(), theirs.as_ref(), after.as_ref());
            prop_assert!(matches!(verdict, Verdict::Equal | Verdict::Moving), "{verdict:?}");
        }

        /// At rest, every loss and every change shows, and nothing else does.
        #[test]
        fn at_rest_every_difference_shows(
            first in happens(), lose in any::<prop::sample::Index>(), corrupt in 0usize..4, loses: bool,
        ) {
            let mut world = World::new();
            go_on(&mut world, &first);
            world.apply(usize::MAX / 2);
            if loses && !world.written.is_empty() {
                world.lost = Some(lose.index(world.written.len()));
            } else if world.copy(corrupt).is_some() {
                world.corrupt = Some(corrupt);
            }
            for key in 0..4 {
                let (copy, origin) = (world.copy(key), world.origin(key));
                let verdict = judge(Kind::Orders, copy.as_ref(), origin.as_ref(), copy.as_ref());
                prop_assert_eq!(verdict == Verdict::Equal, copy == origin);
            }
        }
    }
}
