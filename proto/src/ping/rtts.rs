//! Round trips of one target, summed up as they come, in little memory however many there are.

use std::time::Duration;

/// Linear steps within each power of two: a percentile is at most half of 1 % off.
const STEP_BITS: u32 = 7;

/// Round trips of one target. Takes no memory of its own before the second.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rtts {
    count: u32,
    sum: u128,
    min: u64,
    max: u64,
    last: u64,
    /// The estimate of RFC 3550 section 6.4.1, times 16.
    jitter_16: u64,
    /// How many fell into which bucket, in rising order.
    buckets: Vec<(u16, u32)>,
}

/// What is told of round trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The shortest.
    pub min: Duration,
    /// The mean.
    pub mean: Duration,
    /// The longest.
    pub max: Duration,
    /// The 50th percentile; percentiles are within 1 %.
    pub median: Duration,
    /// The 95th percentile.
    pub p95: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// Interarrival jitter as in RFC 3550, of round trips; 0 for one alone.
    pub jitter: Duration,
}

impl Rtts {
    /// Takes one more.
    pub fn add(&mut self, rtt: Duration) {
        let rtt = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
        match self.count {
            0 => (self.min, self.max) = (rtt, rtt),
            1 => self.put(self.last),
            _ => {}
        }
        if self.count > 0 {
            self.put(rtt);
            self.jitter_16 += rtt.abs_diff(self.last).saturating_sub((self.jitter_16 + 8) >> 4);
        }
        (self.min, self.max, self.last) = (self.min.min(rtt), self.max.max(rtt), rtt);
        self.sum += u128::from(rtt);
        self.count = self.count.saturating_add(1);
    }

    fn put(&mut self, rtt: u64) {
        let bucket = bucket(rtt);
        match self.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(place) => self.buckets[place].1 = self.buckets[place].1.saturating_add(1),
            Err(place) => self.buckets.insert(place, (bucket, 1)),
        }
    }

    /// How many there are.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// All of them summed up; `None` if there is none.
    pub fn summary(&self) -> Option<Summary> {
        let count = u128::from(self.count);
        let mean = self.sum.checked_div(count)?;
        Some(Summary {
            min: Duration::from_nanos(self.min),
            mean: Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX)),
            max: Duration::from_nanos(self.max),
            median: self.percentile(50),
            p95: self.percentile(95),
            p99: self.percentile(99),
            jitter: Duration::from_nanos(self.jitter_16 >> 4),
        })
    }

    /// The smallest that at least so many per cent do not exceed (the nearest rank).
    fn percentile(&self, percent: u64) -> Duration {
        let rank = (u64::from(self.count) * percent).div_ceil(100);
        let mut seen = 0;
        let at_rank = self.buckets.iter().find(|(_, count)| {
            seen += u64::from(*count);
            seen >= rank
        });
        let nanos = at_rank.map_or(self.max, |(bucket, _)| middle(*bucket));
        Duration::from_nanos(nanos.clamp(self.min, self.max))
    }
}

/// Values below 2^(STEP_BITS + 1) have a bucket each, larger ones share one with their neighbours.
fn bucket(value: u64) -> u16 {
    let magnitude = (u64::BITS - value.leading_zeros()).saturating_sub(STEP_BITS + 1);
    let step = value >> magnitude;
    // At most 56 magnitudes of 128 steps.
    u16::try_from((u64::from(magnitude) << STEP_BITS) + step).unwrap_or(u16::MAX)
}

/// The value in the middle of a bucket.
fn middle(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    let magnitude = (bucket >> STEP_BITS).saturating_sub(1);
    let low = (bucket - (magnitude << STEP_BITS)) << magnitude;
    low + ((1_u64 << magnitude) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(nanos: &[u64]) -> Rtts {
        let mut rtts = Rtts::default();
        nanos.iter().for_each(|nanos| rtts.add(Duration::from_nanos(*nanos)));
        rtts
    }

    #[test]
    fn nothing_has_no_summary_and_one_is_exact() {
        assert_eq!(Rtts::default().summary(), None);
        let one = of(&[123_457]).summary().expect("one");
        for exact in [one.min, one.mean, one.max, one.median, one.p95, one.p99] {
            assert_eq!(exact, Duration::from_nanos(123_457));
        }
        assert_eq!(one.jitter, Duration::ZERO);
    }

    #[test]
    fn jitter_is_that_of_rfc_3550() {
        // J = J + (|D| - J)/16 for the differences 160, 160, 0.
        let jitter = of(&[1_000, 1_160, 1_000, 1_000]).summary().expect("four").jitter;
        let expected = [160.0, 160.0, 0.0].iter().fold(0.0_f64, |j, d| j + (d - j) / 16.0);
        assert!((jitter.as_nanos() as f64 - expected).abs() <= 1.0, "{jitter:?} {expected}");
    }

    #[test]
    fn every_bucket_holds_its_middle() {
        for bucket_number in 0..=bucket(u64::MAX) {
            assert_eq!(bucket(middle(bucket_number)), bucket_number);
        }
    }

    proptest! {
        #[test]
        fn percentiles_are_within_one_per_cent(mut nanos in prop::collection::vec(0_u64..60_000_000_000, 1..400)) {
            let summary = of(&nanos).summary().expect("some");
            nanos.sort_unstable();
            for (percent, found) in [(50, summary.median), (95, summary.p95), (99, summary.p99)] {
                let exact = nanos[(nanos.len() * percent).div_ceil(100) - 1];
                let found = u64::try_from(found.as_nanos()).expect("small");
                prop_assert!(found.abs_diff(exact) * 100 <= exact, "{percent}: {found} {exact}");
            }
            prop_assert!(summary.min <= summary.median && summary.median <= summary.p95);
            prop_assert!(summary.p95 <= summary.p99 && summary.p99 <= summary.max && summary.mean <= summary.max);
        }
    }
}
