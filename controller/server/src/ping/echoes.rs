//! Probes over the links of agents: which are due, which are under way, and what came of them. A pure machine: the time,
//! and who is connected, are arguments.
//!
//! The link keeps order and loses nothing while it lives, so a repeated probe goes out under the number that it has, and
//! the answer that comes is that to its first try in the session. An agent that is away is tried like any other: it may
//! come before the last try.

use super::legs::{Verdict, Word};
use crate::sessions::Epoch;
use muster_proto::id::AgentId;
use muster_proto::ping::{Detail, Failure, FailureKind, Probes, Rtts, Sample, Tally};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Echoes a second: what one core sends and hears beside its other work. More at a time would measure our own queue.
const RATE_MAX: u32 = 10_000;
/// Echoes that may leave at once.
const BURST: u32 = 64;
/// From one look at whether an agent has come to the next, where its first probe waits for it.
const RECHECK: Duration = Duration::from_millis(500);

/// What is to be sent: an echo with this number, in this session of this agent.
pub(super) type Sending = (AgentId, Epoch, u64);

/// All links of one look.
#[derive(Debug)]
pub(super) struct Echoes {
    probes: Probes,
    detail: Detail,
    /// The upper half of every number.
    series: u64,
    next: u32,
    lines: Vec<Line>,
    /// When each line sends its next probe.
    starts: BinaryHeap<Reverse<(Instant, u32)>>,
    under_way: HashMap<u64, Echo>,
    /// When each of those lapses: in order, since all have the same time.
    lapses: VecDeque<(Instant, u64)>,
    /// When the next echo may leave, after a burst.
    free_at: Option<Instant>,
    stopping: bool,
}

/// The link of one target's agent.
#[derive(Debug)]
struct Line {
    slot: u32,
    agent: AgentId,
    /// Until then its first probe waits for the agent.
    expected_until: Instant,
    under_way: u32,
    tally: Tally,
    rtts: Rtts,
    failure: Option<Failure>,
    /// Whether the newest probe was answered.
    answered: Option<bool>,
    ended: bool,
}

#[derive(Debug)]
struct Echo {
    line: u32,
    number: u32,
    retries: u32,
    /// The session of the newest try, if any was sent, and when the first one in it was.
    epoch: Option<Epoch>,
    sent: Instant,
    /// An answer from now on is late.
    given_up: bool,
}

impl Echoes {
    /// No links yet. The lower half of `series` is free: echoes are numbered in it.
    pub(super) fn new(probes: Probes, detail: Detail, series: u64) -> Self {
        Self {
            probes,
            detail,
            series,
            next: 0,
            lines: Vec::new(),
            starts: BinaryHeap::new(),
            under_way: HashMap::new(),
            lapses: VecDeque::new(),
            free_at: None,
            stopping: false,
        }
    }

    /// One more link, from now on. An agent that is away is not so before `patience` is over.
    pub(super) fn add(&mut self, slot: u32, agent: AgentId, patience: Duration, now: Instant) {
        let line = Line {
            slot,
            agent,
            expected_until: now + patience,
            under_way: 0,
            tally: Tally::default(),
            rtts: Rtts::default(),
            failure: None,
            answered: None,
            ended: false,
        };
        // As many as targets.
        let place = u32::try_from(self.lines.len()).unwrap_or(u32::MAX);
        self.lines.push(line);
        self.starts.push(Reverse((now, place)));
    }

    /// What is to be sent now. `contact` is the session of an agent, if it is connected.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        contact: impl Fn(AgentId) -> Option<Epoch>,
        mut say: impl FnMut(u32, Word),
    ) -> Vec<Sending> {
        let mut sendings = Vec::new();
        while let Some(&(_, token)) = self.lapses.front().filter(|(at, _)| *at <= now) {
            self.lapses.pop_front();
            sendings.extend(self.lapse(token, now, &contact, &mut say));
        }
        while let Some(&Reverse((at, place))) = self.starts.peek() {
            if at > now || self.free_at.is_some_and(|free| free > now) {
                break;
            }
            self.starts.pop();
            sendings.extend(self.start(at, place, now, &contact));
        }
        sendings
    }

    /// When [`Echoes::poll`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let start = self.starts.peek().map(|Reverse((at, _))| self.free_at.map_or(*at, |free| free.max(*at)));
        start.into_iter().chain(self.lapses.front().map(|(at, _)| *at)).min()
    }

    fn start(
        &mut self,
        at: Instant,
        place: u32,
        now: Instant,
        contact: impl Fn(AgentId) -> Option<Epoch>,
    ) -> Option<Sending> {
        let line = &mut self.lines[place as usize];
        let epoch = contact(line.agent);
        let number = line.tally.sent;
        if epoch.is_none() && number == 0 && now < line.expected_until {
            self.starts.push(Reverse((line.expected_until.min(now + RECHECK), place)));
            return None;
        }
        line.tally.sent = number.saturating_add(1);
        if self.probes.count.is_none_or(|count| line.tally.sent < count.get()) {
            self.starts.push(Reverse(((at + self.probes.period).max(now), place)));
        }
        line.under_way += 1;
        let token = self.series | u64::from(self.next);
        self.next = self.next.wrapping_add(1);
        self.under_way.insert(token, Echo { line: place, number, retries: 0, epoch, sent: now, given_up: false });
        self.lapses.push_back((now + self.probes.timeout, token));
        let epoch = epoch?;
        let rate = self.probes.rate.map_or(RATE_MAX, |rate| rate.get().min(RATE_MAX));
        let pause = Duration::from_secs(1) / rate;
        let earliest = now.checked_sub(pause * BURST).unwrap_or(now);
        self.free_at = Some(self.free_at.map_or(earliest, |free| free.max(earliest)) + pause);
        Some((line.agent, epoch, token))
    }

    /// The time of a try is over.
    fn lapse(
        &mut self,
        token: u64,
        now: Instant,
        contact: impl Fn(AgentId) -> Option<Epoch>,
        say: &mut impl FnMut(u32, Word),
    ) -> Option<Sending> {
        let echo = self.under_way.get_mut(&token)?;
        if echo.given_up {
            self.under_way.remove(&token);
            return None;
        }
        self.lapses.push_back((now + self.probes.timeout, token));
        let line = &mut self.lines[echo.line as usize];
        let here = contact(line.agent);
        if echo.retries < self.probes.retries && !self.stopping {
            echo.retries += 1;
            let epoch = here?;
            if echo.epoch.replace(epoch) != Some(epoch) {
                echo.sent = now;
            }
            return Some((line.agent, epoch, token));
        }
        echo.given_up = true;
        // One that came after the last try was away as far as anybody has asked.
        let asked = here.is_some() && echo.epoch.is_some();
        let kind = if asked { FailureKind::AgentSilent } else { FailureKind::AgentAway };
        line.under_way -= 1;
        line.probed(echo.number, Err(kind.into()), self.detail, say);
        let place = echo.line;
        self.end_if_over(place, say);
        None
    }

    /// An answer. One that nobody waits for any more, or that another agent or session gives, counts for nothing.
    pub(super) fn echoed(
        &mut self,
        agent: AgentId,
        epoch: Epoch,
        token: u64,
        at: Instant,
        mut say: impl FnMut(u32, Word),
    ) {
        let lines = &mut self.lines;
        let own = |echo: &Echo| lines[echo.line as usize].agent == agent && echo.epoch == Some(epoch);
        if !self.under_way.get(&token).is_some_and(own) {
            return;
        }
        let Some(echo) = self.under_way.remove(&token) else { return };
        let line = &mut lines[echo.line as usize];
        if echo.given_up {
            line.tally.late = line.tally.late.saturating_add(1);
            return;
        }
        line.under_way -= 1;
        line.probed(echo.number, Ok(at.saturating_duration_since(echo.sent)), self.detail, &mut say);
        self.end_if_over(echo.line, &mut say);
    }

    /// Starts nothing more: links end with what is under way.
    pub(super) fn stop(&mut self, mut say: impl FnMut(u32, Word)) {
        self.stopping = true;
        self.starts.clear();
        for place in (0_u32..).take(self.lines.len()) {
            self.end_if_over(place, &mut say);
        }
    }

    fn end_if_over(&mut self, place: u32, say: &mut impl FnMut(u32, Word)) {
        let line = &mut self.lines[place as usize];
        let all = self.probes.count.is_some_and(|count| line.tally.sent >= count.get());
        if line.ended || line.under_way > 0 || !(all || self.stopping) {
            return;
        }
        line.ended = true;
        let rtt = std::mem::take(&mut line.rtts).summary();
        let verdict = Verdict { tally: Some(Tally { rtt, ..line.tally }), failure: line.failure };
        say(line.slot, if line.tally.sent == 0 { Word::Unlooked } else { Word::End(verdict) });
    }
}

impl Line {
    fn probed(
        &mut self,
        number: u32,
        answer: Result<Duration, Failure>,
        detail: Detail,
        say: &mut impl FnMut(u32, Word),
    ) {
        match answer {
            Ok(rtt) => {
                self.tally.received = self.tally.received.saturating_add(1);
                self.rtts.add(rtt);
            }
            Err(failure) => self.failure = Some(failure),
        }
        let changed = self.answered.replace(answer.is_ok()) != Some(answer.is_ok());
        let told = match detail {
            Detail::Ends => false,
            Detail::Changes => changed,
            Detail::Each => true,
        };
        if told {
            say(self.slot, Word::Sample(Sample { number, answer }));
        }
    }
}

#[cfg(test)]
mod tests;
