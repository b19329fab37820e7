//! When the next packet may leave: a token bucket that stays small, and steps back when this machine drops answers.
//! Behind it stands the [`Allowance`] of all sweeps together, if there is one: a sweep that has something to send takes
//! its turn there and waits for it, so that each gets the same part of it and none more than there is.

use crate::clock::{Moment, nanos};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Bytes of an Ethernet frame behind the header of IPv4, and what of them a fragment of IPv6 has for itself.
const FRAME_V4_BYTES: u32 = 1480;
const FRAME_V6_BYTES: u32 = 1460;
const FRAGMENT_V6_BYTES: u32 = 1448;
const ICMP_HEADER_BYTES: u32 = 8;

/// What several sweeps may send together, however many there are and however often new ones begin: a number of packets a
/// second, and 5 ms of it that may be caught up with. A clone is the same allowance.
#[derive(Debug, Clone)]
pub struct Allowance {
    /// Nanoseconds from one packet to the next.
    interval: u64,
    /// When the first packet may leave to which nobody has a right yet.
    next: Arc<Mutex<Moment>>,
}

/// The right to send one request.
#[derive(Debug, Clone, Copy)]
struct Turn {
    at: Moment,
    /// Nanoseconds that it has taken from the allowance.
    cost: u64,
}

impl Allowance {
    /// So many packets a second. A request that leaves in fragments counts as so many.
    pub fn new(rate: NonZeroU32) -> Self {
        Self { interval: interval(rate), next: Arc::new(Mutex::new(Moment(0))) }
    }

    fn take_turn(&self, now: Moment, packets: u32) -> Turn {
        let mut next = self.lock();
        let at = (*next).max(now.minus(SLACK));
        let cost = self.interval.saturating_mul(packets.into());
        *next = Moment(at.0.saturating_add(cost));
        Turn { at, cost }
    }

    fn give_back(&self, turn: Turn) {
        let mut next = self.lock();
        *next = Moment(next.0.saturating_sub(turn.cost));
    }

    fn lock(&self) -> MutexGuard<'_, Moment> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Packets in which a request with so many bytes of payload leaves.
pub fn packets(to: IpAddr, size: u16) -> u32 {
    let bytes = u32::from(size) + ICMP_HEADER_BYTES;
    match to {
        IpAddr::V4(_) => bytes.div_ceil(FRAME_V4_BYTES),
        IpAddr::V6(_) if bytes <= FRAME_V6_BYTES => 1,
        IpAddr::V6(_) => bytes.div_ceil(FRAGMENT_V6_BYTES),
    }
}

fn interval(rate: NonZeroU32) -> u64 {
    1_000_000_000 / u64::from(rate.get())
}

/// How much longer to wait than for one packet, so that several leave together.
fn together(interval: u64, most: u64) -> u64 {
    ((nanos(TICK) / interval.max(1)).clamp(1, most) - 1) * interval
}

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
    allowance: Option<Allowance>,
    turn: Option<Turn>,
}

impl Pace {
    /// So many requests a second, or as many as can be sent, within an allowance if there is one.
    pub fn new(rate: Option<NonZeroU32>, allowance: Option<Allowance>) -> Self {
        let wished = rate.map_or(0, interval);
        let (next, changed) = (Moment(0), Moment(0));
        Self { wished, interval: wished, next, begun: None, sent: 0, halvings: 0, changed, allowance, turn: None }
    }

    /// When the next requests may leave; it may have passed.
    pub fn ready_at(&self) -> Moment {
        let own = self.next.0 + together(self.interval, self.burst());
        let turn = self.turn.zip(self.allowance.as_ref());
        Moment(turn.map_or(own, |(turn, all)| own.max(turn.at.0 + together(all.interval, self.burst()))))
    }

    /// Whether a request of so many packets, which is all that waits to be sent, may leave now.
    pub fn allows(&mut self, now: Moment, packets: u32) -> bool {
        if self.next > now {
            return false;
        }
        let Some(allowance) = &self.allowance else { return true };
        self.turn.get_or_insert_with(|| allowance.take_turn(now, packets)).at <= now
    }

    /// Packets between two looks at what came back: fewer while there are drops.
    pub const fn burst(&self) -> u64 {
        BURST >> (2 * self.halvings)
    }

    /// A request left, or was refused by the kernel: to try costs as much.
    pub fn spend(&mut self, now: Moment) {
        self.turn = None;
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

impl Drop for Pace {
    fn drop(&mut self) {
        if let Some((allowance, turn)) = self.allowance.as_ref().zip(self.turn) {
            allowance.give_back(turn);
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
            while pace.allows(Moment(now), 1) && sent < 1_000_000 {
                pace.spend(Moment(now));
                sent += 1;
            }
        }
        sent
    }

    #[test]
    fn the_rate_is_kept_and_drops_halve_it_for_a_while() {
        let second = 1_000_000_000;
        let mut pace = Pace::new(NonZeroU32::new(40_000), None);
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
    fn what_is_as_fast_as_possible_is_halved_from_what_was_possible() {
        let mut pace = Pace::new(None, None);
        for n in 0..1_000 {
            assert!(pace.allows(Moment(n * 5_000), 1));
            pace.spend(Moment(n * 5_000));
        }
        pace.slow_down(Moment(5_000_000), Duration::from_millis(500));
        let rate = in_a_second(&mut pace, 10_000_000, 100_000);
        assert!((95_000..=101_000).contains(&rate), "{rate}");
    }

    fn allowance(rate: u32) -> Allowance {
        Allowance::new(NonZeroU32::new(rate).expect("not 0"))
    }

    /// What each of these sends within so many milliseconds, when all look at the clock every millisecond.
    fn all_send(paces: &mut [Pace], from: u64, ms: u64, packets: u32) -> Vec<u32> {
        let mut sent = vec![0; paces.len()];
        for now in (0..ms).map(|ms| Moment(from + ms * 1_000_000)) {
            for (pace, sent) in paces.iter_mut().zip(&mut sent) {
                while pace.ready_at() <= now && pace.allows(now, packets) {
                    pace.spend(now);
                    *sent += 1;
                }
            }
        }
        sent
    }

    #[test]
    fn an_allowance_is_shared_evenly_and_a_lower_rate_holds() {
        let second = 1_000_000_000;
        let all = allowance(1_000);
        let mut paces: Vec<Pace> = (0..4).map(|_| Pace::new(None, Some(all.clone()))).collect();
        paces.push(Pace::new(NonZeroU32::new(10), Some(all.clone())));
        let sent = all_send(&mut paces, second, 10_000, 1);
        let (slow, fast) = sent.split_last().expect("five");
        assert!((95..=102).contains(slow) && fast.iter().all(|sent| (2_400..=2_500).contains(sent)), "{sent:?}");
        let total: u32 = sent.iter().sum();
        assert!((9_990..=10_010).contains(&total), "{total}");

        // Those that come and go get nothing that was not left, and leave what they did not use.
        drop(paces);
        let mut sent = 0;
        for ms in 0..10_000_u64 {
            let mut paces: Vec<Pace> = (0..5).map(|_| Pace::new(None, Some(all.clone()))).collect();
            sent += all_send(&mut paces, 11 * second + ms * 1_000_000, 1, 1).iter().sum::<u32>();
        }
        assert!((9_990..=10_010).contains(&sent), "{sent}");
    }

    #[test]
    fn what_leaves_in_fragments_counts_as_so_many() {
        let (v4, v6) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([0; 16]));
        for (to, size, expected) in
            [(v4, 0, 1), (v4, 1472, 1), (v4, 1473, 2), (v6, 1452, 1), (v6, 1453, 2), (v4, 65_467, 45)]
        {
            assert_eq!(packets(to, size), expected, "{to} {size}");
        }
        let all = allowance(500);
        let mut paces = [Pace::new(None, Some(all.clone())), Pace::new(NonZeroU32::new(1_000), Some(all))];
        let sent: u32 = all_send(&mut paces, 1_000_000_000, 9_000, 45).iter().sum();
        assert!((100..=102).contains(&sent), "{sent}");
    }
}
