//! Percentiles of how long things took.

/// Latencies of a run, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    ms: Vec<u32>,
}

impl Latencies {
    /// Takes note of one.
    pub(super) fn add(&mut self, ms: u64) {
        self.ms.push(u32::try_from(ms).unwrap_or(u32::MAX));
    }

    /// The smallest latency that `percent` of all stay within; zero when there is none.
    pub(super) fn percentile(&mut self, percent: usize) -> u32 {
        self.ms.sort_unstable();
        let rank = (self.ms.len() * percent).div_ceil(100);
        self.ms.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(99), 0);
        (1..=200).rev().for_each(|ms| latencies.add(ms));
        assert_eq!((latencies.percentile(50), latencies.percentile(99)), (100, 198));
    }
}
