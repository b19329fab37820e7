//! The clocks of a host: the wall for what was signed, and one that counts suspend and cannot be set for how long. Read
//! together they tell when the wall was set, when the host was suspended, and how far it is from the controller's.

use muster_proto::limits::CLOCK_SKEW_MAX;
use muster_proto::time::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

/// Clocks that part by more than this between two looks were set, or the host stood still.
const LEAP: Duration = Duration::from_secs(5);

/// An agent looks at its clocks at least this often, so that it can tell when it stood still itself.
pub(crate) const PULSE: Duration = Duration::from_secs(5);

/// The clocks of this host.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// Milliseconds.
    set_by: Arc<AtomicI64>,
}

/// What the clocks show at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The wall: what was signed is measured by it.
    pub wall: Timestamp,
    /// Time since the kernel started, suspend included.
    pub uptime: Duration,
    /// The same without suspend.
    pub awake: Duration,
}

impl Clock {
    /// Reads all of them.
    pub fn read(&self) -> Reading {
        let wall = Timestamp::from(SystemTime::now()).as_millis();
        Reading {
            wall: Timestamp::from_millis(wall.saturating_add(self.set_by.load(Ordering::Relaxed))),
            uptime: since_start(ClockId::Boottime),
            awake: since_start(ClockId::Monotonic),
        }
    }

    /// The wall alone.
    pub fn now(&self) -> Timestamp {
        self.read().wall
    }

    /// Sets the wall of this clock and its clones, as date(1) sets the host's: so many milliseconds ahead of the host's,
    /// or behind. For tests.
    pub fn set_ahead(&self, millis: i64) {
        self.set_by.store(millis, Ordering::Relaxed);
    }
}

fn since_start(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().unwrap_or(Duration::ZERO)
}

impl Reading {
    /// Somebody who looks every [`PULSE`] has not looked for longer: stopped by a signal, a freezer or a disk.
    pub fn stood_still_since(&self, earlier: &Self) -> bool {
        self.uptime.saturating_sub(earlier.uptime) > PULSE + LEAP
    }

    /// The wall was set since the earlier reading, or the host was suspended, or is a copy that was set going.
    pub fn leapt_since(&self, earlier: &Self) -> bool {
        let passed = self.uptime.saturating_sub(earlier.uptime);
        let by_the_wall = self.wall.as_millis().saturating_sub(earlier.wall.as_millis());
        let awake = self.awake.saturating_sub(earlier.awake);
        by_the_wall.abs_diff(millis(passed)) > millis(LEAP).unsigned_abs() || passed.saturating_sub(awake) > LEAP
    }
}

/// How far the host's wall is from the controller's. It follows when the host's is set.
#[derive(Debug, Clone, Copy)]
pub struct Offset {
    controller: Timestamp,
    at: Reading,
}

impl Offset {
    /// The controller told its time at this moment.
    pub const fn measure(controller: Timestamp, at: Reading) -> Self {
        Self { controller, at }
    }

    /// The controller's time.
    pub fn controller_now(&self, now: Reading) -> Timestamp {
        self.controller + now.uptime.saturating_sub(self.at.uptime)
    }

    /// Why a host with this clock takes no tasks, if so: one line with what to do.
    pub fn refusal(&self, now: Reading) -> Option<String> {
        let controller = self.controller_now(now);
        let (ahead, behind) = (controller.until(now.wall), now.wall.until(controller));
        let (skew, direction) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
        (skew > CLOCK_SKEW_MAX).then(|| {
            format!(
                "clock skew: this host's clock is {} {direction} the controller's, more than {}: set it right \
                 (timedatectl, chrony)",
                spoken(skew),
                spoken(CLOCK_SKEW_MAX)
            )
        })
    }
}

/// A span as people say it, to the second: `10 min 3 s`.
fn spoken(span: Duration) -> String {
    let seconds = span.as_secs();
    let parts = [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let told: Vec<_> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count} {unit}")).collect();
    if told.is_empty() { "0 s".to_owned() } else { told.join(" ") }
}

/// Until when a task may start: its target's window, and the deadline that was signed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    closes: Duration,
    start_before: Timestamp,
}

impl Window {
    /// Opens now, for `ttl`.
    pub(crate) fn open(ttl: Duration, start_before: Timestamp, now: Reading) -> Self {
        Self { closes: now.uptime.saturating_add(ttl), start_before }
    }

    /// What is left of it: zero once it is closed.
    pub(crate) fn left(&self, now: Reading) -> Duration {
        let signed = now.wall.until(self.start_before + CLOCK_SKEW_MAX);
        self.closes.saturating_sub(now.uptime).min(signed)
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Reading = Reading {
        wall: Timestamp::from_millis(1_800_000_000_000),
        uptime: Duration::from_secs(1_000),
        awake: Duration::from_secs(900),
    };

    /// So much later, with the wall set by so many milliseconds meanwhile.
    fn later(span: Duration, set_by: i64) -> Reading {
        let wall = Timestamp::from_millis((START.wall + span).as_millis().saturating_add(set_by));
        Reading { wall, uptime: START.uptime + span, awake: START.awake + span }
    }

    #[test]
    fn a_wall_that_was_set_and_a_host_that_slept_are_leaps() {
        for hour in [0, 1, 1_000] {
            let span = Duration::from_hours(hour);
            for (set_by, leapt) in [(0, false), (5_000, false), (-5_000, false), (5_001, true), (-5_001, true)] {
                assert_eq!(later(span, set_by).leapt_since(&START), leapt, "{hour} h, {set_by} ms");
            }
            assert_eq!(later(span, 0).stood_still_since(&START), hour > 0, "{hour} h");
            let slept = Reading { awake: START.awake, ..later(Duration::from_secs(6), 0) };
            assert!(slept.leapt_since(&START));
        }
    }

    #[test]
    fn a_skew_of_two_minutes_is_told_and_heals_when_the_clock_is_set() {
        for (ahead, told) in [
            (120_000, None),
            (-120_000, None),
            (603_000, Some("clock skew: this host's clock is 10 min 3 s ahead of the controller's, more than 2 min: ")),
            (-90_061_000, Some("clock skew: this host's clock is 1 d 1 h 1 min 1 s behind the controller's, ")),
        ] {
            let controller = Timestamp::from_millis(START.wall.as_millis() - ahead);
            let offset = Offset::measure(controller, START);
            let refusal = |now| offset.refusal(now);
            let span = Duration::from_hours(5);
            for now in [START, later(span, 0)] {
                match (refusal(now), told) {
                    (None, None) => {}
                    (Some(text), Some(start)) => assert!(text.starts_with(start), "{text}"),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(refusal(later(span, -ahead)), None, "it was set right");
        }
    }

    proptest! {
        #[test]
        fn no_span_is_negative_whatever_the_wall_says(
            wall in any::<i64>(), controller in any::<i64>(), start_before in any::<i64>(),
            ttl in any::<u32>(), passed in any::<u32>(),
        ) {
            let at = |uptime, wall| Reading { wall: Timestamp::from_millis(wall), uptime, awake: uptime };
            let (begin, end) = (START.uptime, START.uptime + Duration::from_secs(passed.into()));
            let ttl = Duration::from_secs(ttl.into());
            let window = Window::open(ttl, Timestamp::from_millis(start_before), at(begin, wall));
            let (first, last) = (window.left(at(begin, wall)), window.left(at(end, wall)));
            prop_assert!(first <= ttl && last <= first);
            prop_assert!(passed < u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX) || last.is_zero());
            let offset = Offset::measure(Timestamp::from_millis(controller), at(begin, wall));
            prop_assert!(offset.controller_now(at(end, wall)) >= Timestamp::from_millis(controller));
            let _ = offset.refusal(at(end, wall));
            let _ = at(end, controller).leapt_since(&at(begin, wall));
        }
    }
}
