//! Randomness that belongs to a seed: the same on every machine, in every release.

/// A stream of numbers (`SplitMix64`, Steele et al. 2014). Each user has a stream of its own, so that one
/// who draws more does not change what the others get.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The stream `name` of a seed.
    pub fn of(seed: u64, name: &str) -> Self {
        // FNV-1a.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut dice = Self(seed ^ hash);
        dice.number();
        dice
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 when that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.number() % end }
    }

    /// A number from `first` to `last`.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below((last + 1).saturating_sub(first))
    }

    /// True so often in a thousand times.
    pub fn chance(&mut self, permille: u64) -> bool {
        permille > 0 && self.below(1_000) < permille
    }

    /// One of several.
    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        let index = self.index(choices.len());
        choices[index].clone()
    }

    /// A place in a list of so many.
    pub fn index(&mut self, count: usize) -> usize {
        let index = self.below(u64::try_from(count).expect("a list in memory"));
        usize::try_from(index).expect("below a length")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        let mut dice = Dice::of(7, "x");
        assert_eq!([dice.below(1_000), dice.below(1_000), dice.below(1_000)], KNOWN);
        assert_ne!(Dice::of(7, "y").number(), Dice::of(7, "x").number());
        assert_ne!(Dice::of(8, "x").number(), Dice::of(7, "x").number());
    }

    /// A release that changes these makes every recorded seed useless.
    const KNOWN: [u64; 3] = [547, 555, 464];
}
