//! The two clocks: the wall for what was signed, and one that counts suspend and cannot be set for how long.

use muster_proto::limits::CLOCK_SKEW_MAX;
use muster_proto::time::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime};

/// The wall clock.
pub(super) fn now() -> Timestamp {
    SystemTime::now().into()
}

/// Time since the kernel started, suspend included.
fn uptime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Until when a task may start: its target's window, and the deadline that was signed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    closes: Duration,
    start_before: Timestamp,
}

impl Window {
    /// Opens now, for `ttl`.
    pub(super) fn open(ttl: Duration, start_before: Timestamp) -> Self {
        Self { closes: uptime().saturating_add(ttl), start_before }
    }

    /// What is left of it: zero once it is closed.
    pub(super) fn left(&self) -> Duration {
        let signed = now().until(self.start_before + CLOCK_SKEW_MAX);
        self.closes.saturating_sub(uptime()).min(signed)
    }
}
