//! Moments, and the two clocks of a round trip: the kernel stamps answers by the wall clock, which may step.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// A moment on the clock that never steps, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// So much later.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }

    /// So much earlier.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }

    /// How long ago `earlier` was; zero if it was not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// On the clock that never steps.
    pub at: Moment,
    /// On the wall clock, in nanoseconds since 1970.
    pub wall: u64,
}

/// More apart than this, the two clocks did not only drift while they were read.
const STEP: Duration = Duration::from_micros(200);

impl Stamp {
    /// Now.
    pub fn now() -> Self {
        let at = Moment(clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, of));
        Self { at, wall: clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, of) }
    }

    /// The round trip of what was sent at this moment, was stamped by the kernel with `arrived`, and is looked at now.
    /// The stamp is better than now, unless the wall clock stepped in between.
    pub fn round_trip(self, arrived: Option<u64>, now: Self) -> Duration {
        let elapsed = now.at.since(self.at);
        let stepped = Duration::from_nanos(now.wall.abs_diff(self.wall.saturating_add(nanos(elapsed))));
        let exact = arrived.and_then(|arrived| arrived.checked_sub(self.wall)).map(Duration::from_nanos);
        match exact {
            Some(exact) if exact <= elapsed && stepped < STEP => exact,
            _ => elapsed,
        }
    }
}

/// Nanoseconds; 584 years and more are as good as that.
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds of a time stamp; none is before 1970.
pub fn of(time: TimeSpec) -> u64 {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(at: u64, wall: u64) -> Stamp {
        Stamp { at: Moment(at), wall }
    }

    #[test]
    fn the_kernels_stamp_counts_unless_the_wall_clock_stepped() {
        let (sent, hour) = (stamp(1_000_000, 50_000_000), 3_600_000_000_000);
        let exact = Duration::from_nanos(30_000);
        let elapsed = Duration::from_nanos(90_000);
        for (arrived, now, trip) in [
            (Some(50_030_000), stamp(1_090_000, 50_090_000), exact),
            (None, stamp(1_090_000, 50_090_000), elapsed),
            // Back before the answer came, forth before it came, and either between its coming and our looking.
            (Some(20_000_000), stamp(1_090_000, 20_060_000), elapsed),
            (Some(hour), stamp(1_090_000, hour + 60_000), elapsed),
            (Some(50_030_000), stamp(1_090_000, 20_000_000), elapsed),
            (Some(50_030_000), stamp(1_090_000, hour), elapsed),
        ] {
            assert_eq!(sent.round_trip(arrived, now), trip, "{arrived:?} {now:?}");
        }
    }
}
