//! When the next packet may leave: a token bucket that stays small, and steps back when this machine drops answers.

use crate::clock::{Moment, nanos};
use std::num::NonZeroU32;
use std::time::Duration;

/// Packets between two looks at what came back.
const BURST: u64 = 64;
/// Time that may be caught up with when a thread was late.
const SLACK: Duration = Duration::from_millis(5);
/// Packets that are due within this time leave together: a thousand wakings a second are cheap.
const TICK: Duration = Duration::from_millis(1);
/// How often the rate is halved at most.
const HALVINGS_MAX: u32 = 3;
/// After so long without a drop the rate is doubled again.
const RECOVERY: Duration = Duration::from_secs(10);

/// The pace of a sweep.
#[derive(Debug)]
pub struct Pace {
    /// Nanoseconds from one packet to the next; 0 where no rate was asked for.
    wished: u64,
    /// The same, while it is slower because of drops.
    interval: u64,
    next: Moment,
    begun: Option<Moment>,
    sent: u64,
    halvings: u32,
    changed: Moment,
}

impl Pace {
    /// So many packets a second, or as many as can be sent.
    pub fn new(rate: Option<NonZeroU32>) -> Self {
        let wished = rate.map_or(0, |rate| 1_000_000_000 / u64::from(rate.get()));
        let zero = Moment(0);
        Self { wished, interval: wished, next: zero, begun: None, sent: 0, halvings: 0, changed: zero }
    }

    /// So many packets a second from now on.
    pub fn set(&mut self, rate: NonZeroU32) {
        self.wished = 1_000_000_000 / u64::from(rate.get());
        let interval = self.wished << self.halvings;
        self.next = Moment(self.next.0.saturating_sub(self.interval).saturating_add(interval));
        self.interval = interval;
    }

    /// When the next packets may leave; it may have passed.
    pub fn ready_at(&self) -> Moment {
        let together = (nanos(TICK) / self.interval.max(1)).clamp(1, self.burst());
        Moment(self.next.0 + (together - 1) * self.interval)
    }

    /// Whether a packet may leave now.
    pub fn allows(&self, now: Moment) -> bool {
        self.next <= now
    }

    /// Packets between two looks at what came back: fewer while there are drops.
    pub const fn burst(&self) -> u64 {
        BURST >> (2 * self.halvings)
    }

    /// A packet left.
    pub fn spend(&mut self, now: Moment) {
        let earliest = if self.begun.is_some() { now.minus(SLACK) } else { now };
        self.begun.get_or_insert(now);
        self.sent += 1;
        self.next = Moment(self.next.max(earliest).0 + self.interval);
    }

    /// The kernel dropped something. Once in `window` that is a reason to send half as fast.
    pub fn slow_down(&mut self, now: Moment, window: Duration) {
        let settled = self.halvings == 0 || now.since(self.changed) >= window;
        if settled && self.halvings < HALVINGS_MAX {
            let elapsed = self.begun.map_or(0, |begun| nanos(now.since(begun)));
            let achieved = elapsed.checked_div(self.sent).unwrap_or(0).clamp(1, nanos(TICK));
            self.interval = 2 * if self.interval > 0 { self.interval } else { achieved };
            self.halvings += 1;
        }
        if settled || self.halvings == HALVINGS_MAX {
            self.changed = now;
        }
    }

    /// Goes back towards the rate that was asked for, if it has been quiet for long.
    pub fn recover(&mut self, now: Moment) {
        if self.halvings > 0 && now.since(self.changed) >= RECOVERY {
            self.halvings -= 1;
            self.interval = if self.halvings == 0 { self.wished } else { self.interval / 2 };
            self.changed = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets that leave within a second when the clock is looked at so often.
    fn in_a_second(pace: &mut Pace, from: u64, look: u64) -> u64 {
        let mut sent = 0;
        for now in (from..from + 1_000_000_000).step_by(usize::try_from(look).expect("small")) {
            while pace.allows(Moment(now)) && sent < 1_000_000 {
                pace.spend(Moment(now));
                sent += 1;
            }
        }
        sent
    }

    #[test]
    fn the_rate_is_kept_and_drops_halve_it_for_a_while() {
        let second = 1_000_000_000;
        let mut pace = Pace::new(NonZeroU32::new(40_000));
        let near = |sent: u64, rate: u64| sent.abs_diff(rate) <= rate / 100 + 160;
        assert!(near(in_a_second(&mut pace, second, 1_000_000), 40_000));
        for (round, rate) in [(2, 20_000), (3, 10_000), (4, 5_000), (5, 5_000)] {
            // Many drops in one window are one reason.
            (0..9).for_each(|_| pace.slow_down(Moment(round * second), Duration::from_millis(500)));
            assert!(near(in_a_second(&mut pace, round * second, 1_000_000), rate), "{round}");
        }
        pace.recover(Moment(6 * second));
        assert!(near(in_a_second(&mut pace, 6 * second, 1_000_000), 5_000));
        (1..4).for_each(|round| pace.recover(Moment((10 + 10 * round) * second)));
        assert!(near(in_a_second(&mut pace, 50 * second, 1_000_000), 40_000));
    }

    #[test]
    fn another_rate_counts_from_the_last_packet_on() {
        let second = 1_000_000_000;
        let mut pace = Pace::new(NonZeroU32::new(1));
        pace.spend(Moment(second));
        assert!(!pace.allows(Moment(second + second / 2)));
        pace.set(NonZeroU32::new(500).expect("not 0"));
        assert!(!pace.allows(Moment(second - 1)) && pace.allows(Moment(second + 2_000_000)));
        let sent = in_a_second(&mut pace, 2 * second, 1_000_000);
        assert!((495..=510).contains(&sent), "{sent}");
    }

    #[test]
    fn what_is_as_fast_as_possible_is_halved_from_what_was_possible() {
        let mut pace = Pace::new(None);
        for n in 0..1_000 {
            assert!(pace.allows(Moment(n * 5_000)));
            pace.spend(Moment(n * 5_000));
        }
        pace.slow_down(Moment(5_000_000), Duration::from_millis(500));
        let rate = in_a_second(&mut pace, 10_000_000, 100_000);
        assert!((95_000..=101_000).contains(&rate), "{rate}");
    }
}
