//! Numbers that look random and come again with the same seed (SplitMix64: Steele, Lea, Flood 2014).

use std::time::Duration;

/// A stream of numbers.
pub(super) struct Random(u64);

impl Random {
    /// The stream of this number among those of a seed.
    pub(super) const fn new(seed: u64, number: u64) -> Self {
        Self(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95))
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, not including, 1.
    pub(super) fn unit(&mut self) -> f64 {
        // 53 bits are what an f64 holds exactly.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A span with this mean, as of events that know nothing of each other.
    pub(super) fn around(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.unit()).ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_the_mean_that_was_asked_for_and_come_again_with_the_seed() {
        let total = |seed| {
            let mut random = Random::new(seed, 3);
            (0..10_000).map(|_| random.around(Duration::from_secs(1)).as_secs_f64()).sum::<f64>()
        };
        assert!((9_500.0..10_500.0).contains(&total(1)), "{}", total(1));
        assert!(total(1) == total(1) && total(1) != total(2));
    }
}
