//! How two regions find the rows in which they differ without sending them all.
//!
//! Keys fall into [`BUCKETS`] by a stable hash. For each owner and bucket a region sums up its rows as
//! (count, highest version, hash). Two regions that agree on a sum hold equal rows there; where they
//! differ, the bucket is pulled, and since merging takes the newer row only, pulling too much is
//! harmless. The hash covers the cells, not just the versions, so that two copies of one version that
//! differ are found as well.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::Row;
use crate::types::{Actor, StockKey};

/// Into how many buckets keys fall: with 100,000 keys a difference of one row pulls 1,600, a few
/// hundred kilobytes, and a full comparison of twelve owners is under 20 kB.
pub const BUCKETS: u8 = 64;

/// The bucket of a key, the same in every region and release; the store's SQL computes it as well.
pub fn bucket_of(key: &StockKey) -> u8 {
    let hash = key_hash(key).finalize();
    hash[0] % BUCKETS
}

/// The sum of one owner's rows in one bucket. The order in which rows are added does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct BucketDigest {
    /// How many rows.
    pub count: u64,
    /// The highest version of any of them.
    pub newest: u64,
    /// Sum of the rows' hashes.
    pub hash: u64,
    /// Sum of the hashes of values that others than the owner proposed: what was taken over.
    #[serde(default)]
    pub taken: u64,
}

impl BucketDigest {
    /// Takes in one row.
    pub fn add(&mut self, key: &StockKey, owner: Actor, row: &Row) {
        self.count += 1;
        self.newest = self.newest.max(row.version);
        self.hash = self.hash.wrapping_add(row_hash(key, row));
        if row.chosen.ballot.region != owner.region {
            let cells = Row { chosen: row.chosen.clone(), ..Row::new(owner) };
            self.taken = self.taken.wrapping_add(row_hash(key, &cells));
        }
    }
}

/// The sums of all rows that a region holds, by owner and bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Digest {
    sums: BTreeMap<(Actor, u8), BucketDigest>,
}

/// Where a peer's rows differ from ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Differences {
    /// Owners and buckets to pull from the peer. Never our own: nobody else writes those.
    pub pull: BTreeSet<(Actor, u8)>,
    /// Buckets in which the peer may know more of *our own* rows than we do: pull them. The merge will tell
    /// whether this region forgot something, or whether others took over from it. A peer that merely lags
    /// in our rows is not listed; it pulls them itself.
    pub own_suspect: BTreeSet<u8>,
}

impl Digest {
    /// Takes in one row. Blank ones exist nowhere and don't count.
    pub fn add(&mut self, key: &StockKey, owner: Actor, row: &Row) {
        if !row.is_blank() {
            self.sums.entry((owner, bucket_of(key))).or_default().add(key, owner, row);
        }
    }

    /// Sums that arrived over the network.
    pub fn from_sums(sums: impl IntoIterator<Item = ((Actor, u8), BucketDigest)>) -> Self {
        let legal =
            |&((_, bucket), sum): &((Actor, u8), BucketDigest)| bucket < BUCKETS && sum.count > 0;
        Self { sums: sums.into_iter().filter(legal).collect() }
    }

    /// The sums, to be sent.
    pub fn sums(&self) -> impl Iterator<Item = ((Actor, u8), BucketDigest)> {
        self.sums.iter().map(|(&place, &sum)| (place, sum))
    }

    /// Compares with what region `own`'s peer holds. What only we hold is the peer's to pull.
    pub fn differences(&self, own: Actor, peers: &Self) -> Differences {
        let mut differences = Differences::default();
        for (&(owner, bucket), theirs) in &peers.sums {
            let ours = self.sums.get(&(owner, bucket)).copied().unwrap_or_default();
            if ours == *theirs {
                continue;
            }
            if owner != own {
                differences.pull.insert((owner, bucket));
            } else if theirs.newest >= ours.newest
                || theirs.count > ours.count
                || theirs.taken != ours.taken
            {
                differences.own_suspect.insert(bucket);
            }
        }
        differences
    }

    /// Takes out of `differences` what has changed in these sums since `before`, and tells whether
    /// there was any. Rows of such a bucket are on their way anyhow: under broad load every bucket
    /// differs at every moment by what is under way, and pulling them all would be many times the
    /// traffic. A row that got lost stays as it is, and its bucket with it as soon as the others rest.
    /// What makes this region suspect itself is never put off.
    pub fn put_off_moving(&self, before: &Self, differences: &mut Differences) -> bool {
        let all = differences.pull.len();
        differences.pull.retain(|place| self.sums.get(place) == before.sums.get(place));
        differences.pull.len() < all
    }
}

/// Ids hold no control characters, so a NUL keeps the two apart.
fn key_hash(key: &StockKey) -> Sha256 {
    let mut hash = Sha256::new();
    hash.update(key.sku.as_str());
    hash.update([0]);
    hash.update(key.node.as_str());
    hash
}

fn row_hash(key: &StockKey, row: &Row) -> u64 {
    let mut hash = key_hash(key);
    hash.update([0]);
    let chosen = &row.chosen;
    let place = [u64::from(chosen.ballot.round), chosen.sequence, chosen.value.ceiling];
    let cells = [row.version, row.received, row.spent, row.released, row.withdrawn];
    for cell in cells.into_iter().chain(place) {
        hash.update(cell.to_le_bytes());
    }
    hash.update(chosen.ballot.region.as_str());
    for units in [&row.granted, &chosen.value.credits] {
        hash.update([0]);
        for (actor, units) in units {
            hash.update([0]);
            hash.update(actor.region.as_str());
            hash.update([0]);
            hash.update(actor.epoch.0.to_le_bytes());
            hash.update(units.to_le_bytes());
        }
    }
    let bytes = hash.finalize();
    u64::from_le_bytes(bytes[..8].try_into().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    fn actor(name: &str) -> Actor {
        Actor { region: name.parse().unwrap(), epoch: Epoch::FIRST }
    }

    fn key(sku: &str) -> StockKey {
        StockKey { sku: sku.parse().unwrap(), node: "n".parse().unwrap() }
    }

    fn row(version: u64, spent: u64) -> Row {
        Row { version, received: 9, spent, ..Row::new(actor("b")) }
    }

    fn digest(rows: &[(&str, &str, Row)]) -> Digest {
        let mut digest = Digest::default();
        for (sku, owner, row) in rows {
            digest.add(&key(sku), actor(owner), row);
        }
        digest
    }

    #[test]
    fn buckets_are_stable_and_spread() {
        assert_eq!(bucket_of(&key("85123A")), bucket_of(&key("85123A")));
        let used: BTreeSet<u8> = (0..2_000).map(|n| bucket_of(&key(&n.to_string()))).collect();
        assert_eq!(used.len(), usize::from(BUCKETS));
        // Known answers: a release that changes them would compare different buckets with its peers.
        assert_eq!(["85123A", "71053", "22423"].map(|sku| bucket_of(&key(sku))), [4, 41, 11]);
    }

    #[test]
    fn equal_rows_agree_in_any_order_and_every_cell_counts() {
        let ours = digest(&[("x", "b", row(2, 1)), ("y", "b", row(7, 1)), ("x", "c", row(1, 0))]);
        let same = digest(&[("x", "c", row(1, 0)), ("y", "b", row(7, 1)), ("x", "b", row(2, 1))]);
        assert_eq!(ours.differences(actor("a"), &same), Differences::default());
        let other = digest(&[("x", "b", row(2, 3)), ("y", "b", row(7, 1)), ("x", "c", row(1, 0))]);
        let pull = BTreeSet::from([(actor("b"), bucket_of(&key("x")))]);
        assert_eq!(ours.differences(actor("a"), &other).pull, pull);
        let granted = Row { granted: BTreeMap::from([(actor("c"), 1)]), ..row(2, 1) };
        let other = digest(&[("x", "b", granted), ("y", "b", row(7, 1)), ("x", "c", row(1, 0))]);
        assert_eq!(ours.differences(actor("a"), &other).pull, pull);
    }

    #[test]
    fn a_newer_own_row_at_a_peer_is_reported_an_older_one_is_the_peers_to_pull() {
        let (old, new) = (digest(&[("x", "a", row(1, 0))]), digest(&[("x", "a", row(2, 1))]));
        let bucket = bucket_of(&key("x"));
        let found = old.differences(actor("a"), &new);
        assert_eq!(
            found,
            Differences { own_suspect: BTreeSet::from([bucket]), ..Default::default() }
        );
        assert_eq!(new.differences(actor("a"), &old), Differences::default());
        let pull = BTreeSet::from([(actor("a"), bucket)]);
        assert_eq!(old.differences(actor("b"), &new).pull, pull);
    }

    #[test]
    fn a_bucket_that_is_moving_is_put_off_until_it_rests() {
        let before = digest(&[("x", "b", row(2, 1)), ("y", "b", row(7, 1)), ("x", "a", row(1, 0))]);
        let ours = digest(&[("x", "b", row(2, 1)), ("y", "b", row(8, 2)), ("x", "a", row(1, 0))]);
        let theirs = digest(&[("x", "b", row(3, 2)), ("y", "b", row(9, 3)), ("x", "a", row(2, 1))]);
        let own = actor("a");
        let mut differences = ours.differences(own, &theirs);
        assert_eq!((differences.pull.len(), differences.own_suspect.len()), (2, 1));
        assert!(ours.put_off_moving(&before, &mut differences));
        assert_eq!(differences.pull, BTreeSet::from([(actor("b"), bucket_of(&key("x")))]));
        assert_eq!(differences.own_suspect.len(), 1);
        assert!(!ours.put_off_moving(&ours, &mut differences));
    }

    #[test]
    fn rows_never_written_do_not_count_and_foreign_sums_are_checked() {
        assert_eq!(digest(&[("x", "a", row(0, 0))]), Digest::default());
        let sum = BucketDigest { count: 1, newest: 1, hash: 1, taken: 0 };
        let foreign = Digest::from_sums([((actor("a"), 64), sum), ((actor("a"), 63), sum)]);
        assert_eq!(foreign.sums().count(), 1);
    }
}
