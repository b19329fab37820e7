//! What a sweep knows and decides: which packet goes next, what an arrival means, and when a target has ended.
//!
//! It is pure: sockets and clocks are the engine's. A target's life:
//!
//! ```text
//! fresh ──sent──▶ probing ──last probe answered or given up──▶ ended
//!                  │   ▲
//!   no answer in   ▼   │ period
//!   time: repeated, or given up
//! ```

use crate::clock::{Moment, Stamp};
use crate::flight::{Fate, Flight, Packet};
use crate::packet::Mark;
use crate::target::Target;
use crate::{Aim, Finding, Settings, Totals};
use muster_proto::limits;
use muster_proto::ping::{Failure, FailureKind};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

/// How often a probe is sent again that ran out while this machine dropped packets.
const EXTRA_TRIES: u32 = 3;
/// How long answers that come too late are still known as such.
const LINGER: Duration = Duration::from_secs(5);

// Tries are counted in a byte.
const _: () = assert!(limits::PROBE_RETRIES_MAX + EXTRA_TRIES < u8::MAX as u32);

/// A sweep.
#[derive(Debug)]
pub struct Table {
    settings: Settings,
    targets: Vec<Target>,
    flight: Flight,
    /// The first target that was not asked yet.
    fresh: u32,
    /// Targets with more probes to come, and when: the period is the same for all, so this is sorted.
    periodic: VecDeque<(Moment, u32)>,
    /// Whose turn it is where both could be: neither may starve the other.
    periodic_next: bool,
    /// Packets that ran out and are to be repeated, the oldest first.
    repeats: VecDeque<u64>,
    /// Targets that have not ended.
    open: usize,
    closed: bool,
    stopped: bool,
    /// When the kernel was last seen to have dropped packets.
    dropped: Option<Moment>,
    findings: Vec<Finding>,
    /// What was counted so far.
    pub totals: Totals,
}

/// A packet to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    place: u32,
    cause: Cause,
    /// The number of the packet.
    pub number: u64,
    /// Where to.
    pub aim: Aim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Fresh,
    Periodic,
    Repeat { of: u64, probe: u32, tries: u8 },
}

impl Table {
    /// A sweep without targets, whose first packet has this number.
    pub const fn new(settings: Settings, first: u64) -> Self {
        Self {
            settings,
            targets: Vec::new(),
            flight: Flight::new(first),
            fresh: 0,
            periodic: VecDeque::new(),
            periodic_next: false,
            repeats: VecDeque::new(),
            open: 0,
            closed: false,
            stopped: false,
            dropped: None,
            findings: Vec::new(),
            totals: Totals {
                sent: 0,
                received: 0,
                duplicates: 0,
                late: 0,
                damaged: 0,
                foreign: 0,
                kernel_drops: None,
                send_retries: 0,
                v4: None,
                v6: None,
            },
        }
    }

    /// From now on packets have only 16 bits to tell them apart.
    pub const fn narrow(&mut self) {
        self.flight.narrow();
    }

    /// More targets. None can be added after [`Table::stop`], and no more than can be counted.
    pub fn add(&mut self, aims: &[Aim]) {
        let room = (u32::MAX as usize).saturating_sub(self.targets.len());
        let from = self.targets.len();
        self.targets
            .extend(aims.iter().take(room).map(|aim| Target::new(Aim { address: aim.address.to_canonical(), ..*aim })));
        self.open += self.targets.len() - from;
        if self.stopped {
            self.stop();
        }
    }

    /// No more targets come.
    pub const fn close(&mut self) {
        self.closed = true;
    }

    /// Nothing more is sent; targets end as soon as their probes under way have.
    pub fn stop(&mut self) {
        (self.closed, self.stopped) = (true, true);
        self.periodic.clear();
        for number in std::mem::take(&mut self.repeats) {
            self.give_up(number);
        }
        for place in 0..self.places() {
            self.settle(place);
        }
        self.fresh = self.places();
    }

    fn places(&self) -> u32 {
        u32::try_from(self.targets.len()).unwrap_or(u32::MAX)
    }

    /// All targets have ended, and no more come.
    pub const fn is_done(&self) -> bool {
        self.closed && self.open == 0
    }

    /// What there is to say, since the last time.
    pub fn findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// How much there is to say.
    pub const fn count_findings(&self) -> usize {
        self.findings.len()
    }

    /// The next packet, if one is due. It stays the next until [`Table::sent`], [`Table::failed`] or
    /// [`Table::refused`] says what became of it, but for an answer that comes before.
    pub fn next(&mut self, now: Moment) -> Option<Order> {
        let number = self.flight.next_number();
        while let Some(&of) = self.repeats.front() {
            if let Some(&Packet { fate: Fate::Waiting { tries }, place, probe, .. }) = self.flight.get(of) {
                if let Some(aim) = self.asked(place) {
                    return Some(Order { place, cause: Cause::Repeat { of, probe, tries }, number, aim });
                }
                self.give_up(of);
            }
            self.repeats.pop_front();
        }
        while self.periodic.front().is_some_and(|(_, place)| self.asked(*place).is_none()) {
            self.periodic.pop_front();
        }
        if self.flight.is_full() {
            return None;
        }
        let periodic = self.periodic.front().filter(|(due, _)| *due <= now).map(|(_, place)| *place);
        let fresh = (self.fresh < self.places()).then_some(self.fresh);
        let (place, cause) = match (periodic, fresh) {
            (Some(place), None) => (place, Cause::Periodic),
            (Some(place), Some(_)) if self.periodic_next => (place, Cause::Periodic),
            (_, fresh) => (fresh?, Cause::Fresh),
        };
        Some(Order { place, cause, number, aim: self.targets[place as usize].aim })
    }

    /// Where a target is that has not ended: what has is never sent to again.
    fn asked(&self, place: u32) -> Option<Aim> {
        let target = &self.targets[place as usize];
        (!target.ended).then_some(target.aim)
    }

    /// The order was carried out.
    pub fn sent(&mut self, order: Order, now: Stamp) {
        self.totals.sent += 1;
        self.take_off(order, now);
    }

    /// The kernel did not take the packet: the try has failed.
    pub fn failed(&mut self, order: Order, now: Stamp, failure: Failure) {
        self.take_off(order, now);
        self.refuse(order.number, failure);
    }

    /// The target cannot be asked at all.
    pub fn refused(&mut self, order: Order, failure: Failure) {
        self.strike(order, Moment(0));
        if let Cause::Repeat { of, .. } = order.cause {
            self.give_up(of);
        }
        self.end(order.place, Some(failure));
    }

    /// Takes the order off its queue, and says when it was due.
    fn strike(&mut self, order: Order, now: Moment) -> Moment {
        self.periodic_next = order.cause == Cause::Fresh;
        match order.cause {
            Cause::Fresh => self.fresh += 1,
            Cause::Periodic => return self.periodic.pop_front().map_or(now, |(due, _)| due),
            Cause::Repeat { .. } => drop(self.repeats.pop_front()),
        }
        now
    }

    fn take_off(&mut self, order: Order, now: Stamp) {
        let due = self.strike(order, now.at);
        let Order { place, number, cause, .. } = order;
        let (probe, fate) = match cause {
            Cause::Repeat { of, probe, tries } => (probe, self.repeat(of, number, tries + 1)),
            Cause::Fresh | Cause::Periodic => {
                let target = &mut self.targets[place as usize];
                let probe = target.begin();
                if !target.has_begun(self.settings.probes.count) {
                    self.schedule(place, due, now.at);
                }
                (probe, Fate::Waiting { tries: 0 })
            }
        };
        self.flight.push(Packet { sent: now, place, probe, fate });
    }

    /// Has a packet wait in the place of another, unless that has ended since it was decided to repeat it.
    fn repeat(&mut self, of: u64, number: u64, tries: u8) -> Fate {
        match self.flight.get_mut(of) {
            Some(Packet { fate: before @ Fate::Waiting { .. }, .. }) => {
                // Both are within a queue whose length fits.
                *before = Fate::Repeated { later: u32::try_from(number - of).unwrap_or(u32::MAX) };
                Fate::Waiting { tries }
            }
            Some(Packet { fate, .. }) => *fate,
            None => Fate::GivenUp,
        }
    }

    /// The next probe counts from when this one was due, so that being late does not add up; what was missed altogether
    /// is not made up for.
    fn schedule(&mut self, place: u32, due: Moment, now: Moment) {
        let period = self.settings.probes.period;
        let next = if due.plus(period) > now { due.plus(period) } else { now.plus(period) };
        let last = self.periodic.back().map_or(next, |(due, _)| *due);
        self.periodic.push_back((next.max(last), place));
    }

    /// An answer came. `intact` says whether its payload is that of the packet with this number; `arrived` is the
    /// kernel's stamp of the wall clock.
    pub fn reply(
        &mut self,
        mark: Mark,
        from: (IpAddr, u32),
        intact: impl FnOnce(u64) -> bool,
        arrived: Option<u64>,
        now: Stamp,
    ) {
        let Some((number, &Packet { sent, place, probe, .. })) = self.flight.find(mark) else {
            self.totals.foreign += 1;
            return;
        };
        let last = self.flight.last_try(number);
        let target = &mut self.targets[place as usize];
        let Aim { address, scope } = target.aim;
        let Some(packet) = self.flight.get_mut(last).filter(|_| from.0 == address && (scope == 0 || scope == from.1))
        else {
            self.totals.foreign += 1;
            return;
        };
        if !intact(number) {
            self.totals.damaged += 1;
            target.damaged += 1;
            target.warn(probe, FailureKind::Damaged.into());
            return;
        }
        match packet.fate {
            Fate::Waiting { .. } => {
                packet.fate = Fate::Answered;
                self.totals.received += 1;
                self.end_probe(place, probe, Ok(sent.round_trip(arrived, now)));
            }
            Fate::Answered => {
                self.totals.duplicates += 1;
                target.duplicates += 1;
            }
            Fate::GivenUp | Fate::Repeated { .. } => {
                self.totals.late += 1;
                target.late += 1;
            }
        }
    }

    /// An ICMP error came for a packet that was sent to `to`. `quoted` says whether it may quote the packet with this
    /// number.
    pub fn error(&mut self, mark: Mark, to: IpAddr, quoted: impl FnOnce(u64) -> bool, failure: Failure) {
        let found = self.flight.find(mark).map(|(number, packet)| (number, packet.place));
        match found {
            Some((number, place)) if self.targets[place as usize].aim.address == to && quoted(number) => {
                self.refuse(number, failure);
            }
            _ => self.totals.foreign += 1,
        }
    }

    /// A try has failed. The probe goes on if there are more to come, at the time when this one would have run out: an
    /// answer may come before, since anybody can write an error.
    fn refuse(&mut self, number: u64, failure: Failure) {
        let last = self.flight.last_try(number);
        let Some(&Packet { place, probe, fate, .. }) = self.flight.get(last) else { return };
        let target = &mut self.targets[place as usize];
        match fate {
            Fate::Waiting { tries } => {
                target.warn(probe, failure);
                if last == number && (self.stopped || u32::from(tries) >= self.settings.probes.retries) {
                    self.give_up_for(last, failure);
                }
            }
            Fate::GivenUp => target.explain(failure),
            Fate::Answered | Fate::Repeated { .. } => {}
        }
    }

    /// The kernel was seen to have dropped packets since this was last said.
    pub const fn dropped(&mut self, now: Moment) {
        self.dropped = Some(now);
    }

    /// Repeats or gives up what has waited for long enough by `now`. All that had arrived by then must have been told.
    pub fn run_out(&mut self, now: Moment) {
        let timeout = self.settings.probes.timeout;
        let retries = self.settings.probes.retries;
        while let Some(number) = self.flight.next_run_out(now, timeout) {
            let Some(&Packet { fate: Fate::Waiting { tries }, sent, place, .. }) = self.flight.get(number) else {
                return;
            };
            let extra = if self.may_be_lost(sent) { EXTRA_TRIES } else { 0 };
            if u32::from(tries) < retries + extra && !self.stopped && !self.targets[place as usize].ended {
                self.repeats.push_back(number);
            } else {
                self.give_up(number);
            }
        }
        self.flight.forget(now, timeout * (1 + retries + EXTRA_TRIES) + LINGER);
    }

    /// An answer to what was sent then may be among what the kernel dropped.
    fn may_be_lost(&self, sent: Stamp) -> bool {
        self.dropped.is_some_and(|dropped| sent.at <= dropped)
    }

    /// When there is something to decide or to send that is not yet.
    pub fn next_event(&self, now: Moment) -> Option<Moment> {
        let run_out = self.flight.oldest().map(|sent| sent.plus(self.settings.probes.timeout));
        // Where there is no room for more, something has to run out first.
        let due = self.periodic.front().map(|(due, _)| *due).filter(|due| *due > now && !self.flight.is_full());
        run_out.into_iter().chain(due).min()
    }

    /// Gives up the probe of a packet that has run out.
    fn give_up(&mut self, number: u64) {
        let Some(&Packet { sent, place, probe, .. }) = self.flight.get(number) else { return };
        let failure = if self.may_be_lost(sent) {
            FailureKind::Overflow.into()
        } else {
            self.targets[place as usize].reason(probe)
        };
        self.give_up_for(number, failure);
    }

    fn give_up_for(&mut self, number: u64, failure: Failure) {
        if let Some(packet) = self.flight.get_mut(number)
            && matches!(packet.fate, Fate::Waiting { .. })
        {
            packet.fate = Fate::GivenUp;
            let (place, probe) = (packet.place, packet.probe);
            self.end_probe(place, probe, Err(failure));
        }
    }

    fn end_probe(&mut self, place: u32, probe: u32, answer: Result<Duration, Failure>) {
        let target = &mut self.targets[place as usize];
        if target.ended {
            return;
        }
        let told = target.end_probe(probe, answer, self.settings.detail);
        self.findings.extend(told.map(|sample| Finding::Sample { place, sample }));
        self.settle(place);
    }

    /// Ends the target if nothing of it is to come.
    fn settle(&mut self, place: u32) {
        let target = &self.targets[place as usize];
        if target.pending == 0 && (self.stopped || target.has_begun(self.settings.probes.count)) {
            self.end(place, None);
        }
    }

    fn end(&mut self, place: u32, failure: Option<Failure>) {
        let target = &mut self.targets[place as usize];
        if !target.ended {
            let (tally, failure) = target.end(failure);
            self.findings.push(Finding::End { place, tally, failure });
            self.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
