//! Latencies in a fixed amount of memory, at a known precision.

/// Each power of two is divided into this many buckets, as a power of two: values are known to 1.6 %.
const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;
const DOUBLINGS: usize = 34;

/// Buckets up to 2^40 µs, some twelve days; longer values count as the last.
const BUCKETS: usize = DOUBLINGS << SUB_BITS;

/// A distribution of microseconds.
#[derive(Debug, Clone)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }
}

/// Values below 2·SUB have a bucket of their own; from there on each doubling has SUB buckets.
fn bucket(value: u64) -> usize {
    let doublings = (value | SUB).ilog2() - SUB_BITS;
    let index = u64::from(doublings) * SUB + (value >> doublings);
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let doublings = (bucket / SUB).saturating_sub(1);
    ((bucket - doublings * SUB + 1) << doublings) - 1
}

impl Histogram {
    pub(super) fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// The value that `per_mille` of the values don't exceed, never understated; 0 of nothing.
    pub(super) fn quantile(&self, per_mille: u64) -> u64 {
        let rank = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(bucket).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_close_and_never_understated(mut values in prop::collection::vec(0u64..1_000_000_000, 1..200), per_mille in 1u64..=1000) {
            let mut histogram = Histogram::default();
            for &value in &values {
                histogram.record(value);
            }
            values.sort_unstable();
            let rank = (values.len() as u64 * per_mille).div_ceil(1000).max(1);
            let exact = values[usize::try_from(rank).unwrap() - 1];
            let told = histogram.quantile(per_mille);
            prop_assert!(told >= exact && told <= exact + exact / SUB + 1, "{exact} told as {told}");
        }

        #[test]
        fn buckets_are_in_order(value in 0u64..1 << 50) {
            let index = bucket(value);
            prop_assert!(index + 1 == BUCKETS || (upper(index) >= value && (index == 0 || upper(index - 1) < value)));
        }
    }

    #[test]
    fn nothing_has_no_latency() {
        assert_eq!(Histogram::default().quantile(990), 0);
    }
}
