//! How fast a region sells a key: a moving average in integers, so that it is the same everywhere.

/// Over how many milliseconds the average forgets: long enough that one large order is no trend, short
/// enough that a sale campaign is followed within a minute.
const FORGET_MS: u64 = 20_000;

/// Below this the rate counts as nothing: less than a unit an hour or so is no demand to move stock for,
/// and the tail of an average would otherwise be compared with another's tail.
const FLOOR_MICROS: u64 = 250;

/// Net units sold a second, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpendRate {
    micros_per_s: u64,
}

impl SpendRate {
    /// A rate that is known otherwise.
    pub fn from_micros_per_s(micros_per_s: u64) -> Self {
        Self { micros_per_s }
    }

    /// Millionths of a unit a second; zero when hardly anything sells.
    pub fn micros_per_s(self) -> u64 {
        if self.micros_per_s < FLOOR_MICROS { 0 } else { self.micros_per_s }
    }

    /// Takes in that `units` were sold during the last `elapsed_ms`.
    pub fn observe(&mut self, units: u64, elapsed_ms: u64) {
        self.observe_over(FORGET_MS, units, elapsed_ms);
    }

    /// The same for an average that forgets over `forget_ms`: what looks far ahead must look far back, or one
    /// order is taken for the demand of an hour.
    pub fn observe_over(&mut self, forget_ms: u64, units: u64, elapsed_ms: u64) {
        if elapsed_ms == 0 {
            return;
        }
        let elapsed = u128::from(elapsed_ms);
        let seen = u128::from(units) * 1_000_000_000 / elapsed;
        let forget = u128::from(forget_ms);
        let mean = (u128::from(self.micros_per_s) * forget + seen * elapsed) / (forget + elapsed);
        self.micros_per_s = u64::try_from(mean).unwrap_or(u64::MAX);
    }

    /// Units that sell within `ms` at this rate, rounded up.
    pub fn units_within(self, ms: u64) -> u64 {
        let units = (u128::from(self.micros_per_s()) * u128::from(ms)).div_ceil(1_000_000_000);
        u64::try_from(units).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_and_forgets() {
        let mut rate = SpendRate::default();
        for _ in 0..120 {
            rate.observe(10, 1_000);
        }
        assert!((9_900_000..=10_000_000).contains(&rate.micros_per_s()), "{rate:?}");
        assert_eq!(rate.units_within(1_000), 10);
        for _ in 0..600 {
            rate.observe(0, 1_000);
        }
        assert_eq!(rate.micros_per_s(), 0);
        rate.observe(u64::MAX, 1);
        rate.observe(5, 0);
        assert!(rate.units_within(u64::MAX) > 0);
    }
}
