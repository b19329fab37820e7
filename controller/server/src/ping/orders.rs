//! What agents are asked to look at, and what they may say of it: the books of one look, an account for each agent. A
//! pure machine: the time, and who is connected, are arguments.
//!
//! An agent that is away has a while to come, and one that looks gives a sign of life every few seconds. Neither puts off
//! the end of its whole order, which is when even a host whose owner allows next to nothing would have sent it all.
//!
//! ```text
//!           connected                    its last end
//! waiting ─────────────▶ ordered ──────────────────────▶ over
//!    ▲   ╲                │    ╲ silent for too long        ▲
//!    │    ╲ nobody came   │     ╰───────────────────────────┤
//!    │     ╰──────────────┼─────────────────────────────────╯
//!    ╰── session lost ────╯
//! ```

use super::Lie;
use super::legs::{Verdict, Word};
use crate::sessions::Epoch;
use muster_proto::id::AgentId;
use muster_proto::limits;
use muster_proto::link::{ProbeAim, ProbeOrder, ToAgent};
use muster_proto::ping::{Detail, FailureKind, Finding, Probes, Tally};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// A whole order may take so much longer than sending and waiting do.
const MARGIN: Duration = Duration::from_secs(10);
/// Nor may sending take longer than this, however little the owner of the host allows.
const SENDING_MAX: Duration = Duration::from_hours(24);
/// An agent that was told to stop may take so much longer than the last probe.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Samples that may come before the clock of the controller says that there can be so many.
const SAMPLES_AHEAD: u64 = 8;
/// The agent's clock may be faster by one part in so many.
const CLOCK_SLACK: u64 = 64;

/// What is to be sent: a message for this session of this agent.
pub(super) type Sending = (AgentId, Epoch, ToAgent);

/// All agents that look, in one look.
#[derive(Debug)]
pub(super) struct Orders {
    sweep: u64,
    probes: Probes,
    detail: Detail,
    deliver: Duration,
    vantages: Vec<Vantage>,
    places: HashMap<AgentId, u32>,
    /// Vantages for which there may be something to send.
    stirred: Vec<u32>,
    deadlines: BinaryHeap<Reverse<(Instant, u32)>>,
    sendings: Vec<Sending>,
    /// No more targets become ready for the first time.
    complete: bool,
    stopped: bool,
}

/// An agent that looks.
#[derive(Debug)]
struct Vantage {
    agent: AgentId,
    /// Targets that can be ordered and are not, in its present session.
    ready: Vec<u32>,
    /// Targets that it was given, and when it was first asked or given the newest of them, whichever was later.
    given: u64,
    since: Option<Instant>,
    /// What it was asked in its present session.
    order: Option<Order>,
    /// The newest session in which it was asked anything.
    asked_in: Option<Epoch>,
    /// When what is open ends without it.
    deadline: Option<Instant>,
    /// The entry in the heap that counts.
    queued: Option<Instant>,
}

#[derive(Debug)]
struct Order {
    epoch: Epoch,
    since: Instant,
    places: Vec<Place>,
    open: usize,
    /// It was told that no more follows.
    complete: bool,
}

#[derive(Debug)]
struct Place {
    slot: u32,
    samples: u32,
    stand: Stand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Open,
    /// The agent has said its last word.
    Ended,
    /// The agent was silent for too long: what it says all the same is no lie, and counts for nothing.
    GivenUp,
}

impl Orders {
    /// The books of one look: its number, what is asked, and how long an agent may be away.
    pub(super) fn new(sweep: u64, probes: Probes, detail: Detail, deliver: Duration) -> Self {
        Self {
            sweep,
            probes,
            detail,
            deliver,
            vantages: Vec::new(),
            places: HashMap::new(),
            stirred: Vec::new(),
            deadlines: BinaryHeap::new(),
            sendings: Vec::new(),
            complete: false,
            stopped: false,
        }
    }

    /// The agent is to look at this target.
    pub(super) fn add(&mut self, agent: AgentId, slot: u32, now: Instant) {
        let place = match self.places.get(&agent) {
            Some(place) => *place,
            None => {
                // As many as targets at most.
                let place = u32::try_from(self.vantages.len()).unwrap_or(u32::MAX);
                self.vantages.push(Vantage::new(agent));
                self.places.insert(agent, place);
                place
            }
        };
        let vantage = &mut self.vantages[place as usize];
        if vantage.ready.is_empty() {
            self.stirred.push(place);
        }
        vantage.ready.push(slot);
        vantage.given += 1;
        vantage.since = vantage.since.map(|_| now);
        if vantage.order.is_none() && vantage.deadline.is_none() {
            self.wait(place, now + self.deliver);
        }
    }

    /// No more targets will be added.
    pub(super) fn close(&mut self) {
        if std::mem::replace(&mut self.complete, true) {
            return;
        }
        self.stirred = (0_u32..).take(self.vantages.len()).collect();
    }

    /// The agent has a session.
    pub(super) fn connected(&mut self, agent: AgentId) {
        self.stirred.extend(self.places.get(&agent));
    }

    /// A session is over: what is open is ordered anew in the next.
    pub(super) fn gone(&mut self, agent: AgentId, epoch: Epoch, now: Instant, mut say: impl FnMut(u32, Word)) {
        let Some(&place) = self.places.get(&agent) else { return };
        let vantage = &mut self.vantages[place as usize];
        if vantage.order.as_ref().is_none_or(|order| order.epoch != epoch) {
            return;
        }
        vantage.lose();
        self.stirred.push(place);
        if self.stopped {
            vantage.ready.drain(..).for_each(|slot| say(slot, FailureKind::ProberAway.into()));
        } else if !vantage.ready.is_empty() {
            self.wait(place, now + self.deliver);
        }
    }

    /// What is to be sent. `contact` is the session of an agent, if it is connected, and `aim` where a target is.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        contact: impl Fn(AgentId) -> Option<Epoch>,
        mut aim: impl FnMut(u32) -> ProbeAim,
        mut say: impl FnMut(u32, Word),
    ) -> Vec<Sending> {
        for place in std::mem::take(&mut self.stirred) {
            if !self.stopped
                && let Some(epoch) = contact(self.vantages[place as usize].agent)
            {
                self.order(place, epoch, now, &mut aim);
            }
        }
        while let Some(&Reverse((at, place))) = self.deadlines.peek().filter(|Reverse((at, _))| *at <= now) {
            self.deadlines.pop();
            let vantage = &mut self.vantages[place as usize];
            if vantage.queued != Some(at) {
                continue;
            }
            vantage.queued = None;
            match vantage.deadline {
                Some(deadline) if deadline > now => self.wait(place, deadline),
                Some(_) => self.give_up(place, &mut say),
                None => {}
            }
        }
        std::mem::take(&mut self.sendings)
    }

    /// When [`Orders::poll`] has something to do by the clock.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((at, _))| *at)
    }

    fn order(&mut self, place: u32, epoch: Epoch, now: Instant, aim: &mut impl FnMut(u32) -> ProbeAim) {
        let vantage = &mut self.vantages[place as usize];
        // A newer session says that the older one is over.
        if vantage.order.as_ref().is_some_and(|order| order.epoch != epoch) {
            vantage.lose();
        }
        // The rest follows as ends come: what is too much for an agent it refuses.
        let room = limits::AGENT_PROBES_MAX.saturating_sub(vantage.order.as_ref().map_or(0, |order| order.open));
        let count = vantage.ready.len().min(room);
        let last = self.complete && count == vantage.ready.len();
        if count == 0 && (!last || vantage.order.as_ref().is_none_or(|order| order.complete)) {
            return;
        }
        vantage.asked_in = Some(epoch);
        vantage.since.get_or_insert(now);
        let order = vantage.order.get_or_insert_with(|| Order {
            epoch,
            since: now,
            places: Vec::new(),
            open: 0,
            complete: false,
        });
        let slots: Vec<u32> = vantage.ready.drain(..count).collect();
        order.places.extend(slots.iter().map(|slot| Place { slot: *slot, samples: 0, stand: Stand::Open }));
        (order.open, order.complete) = (order.open + count, last);
        let parts = count.div_ceil(limits::PROBES_PER_MESSAGE_MAX).max(1);
        for part in 0..parts {
            let from = part * limits::PROBES_PER_MESSAGE_MAX;
            let slots = &slots[from..count.min(from + limits::PROBES_PER_MESSAGE_MAX)];
            let message = ToAgent::Probe(ProbeOrder {
                sweep: self.sweep,
                probes: self.probes,
                detail: self.detail,
                aims: slots.iter().map(|slot| aim(*slot)).collect(),
                last: last && part + 1 == parts,
            });
            self.sendings.push((vantage.agent, epoch, message));
        }
        self.expect_word(place, now);
    }

    /// What the agent says. Nothing of an older session counts; after something that cannot be, nothing more counts.
    pub(super) fn report(
        &mut self,
        agent: AgentId,
        epoch: Epoch,
        findings: &[Finding],
        now: Instant,
        mut say: impl FnMut(u32, Word),
    ) -> Result<(), Lie> {
        let &place = self.places.get(&agent).ok_or(Lie::NotAsked)?;
        let vantage = &mut self.vantages[place as usize];
        let Some(order) = vantage.order.as_mut().filter(|order| order.epoch == epoch) else {
            return if vantage.asked_in.is_some_and(|asked| epoch <= asked) { Ok(()) } else { Err(Lie::NotAsked) };
        };
        let count_max = self.probes.count.map_or(u64::from(u32::MAX), |count| count.get().into());
        let elapsed = now.saturating_duration_since(order.since).as_micros() / self.probes.period.as_micros().max(1);
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let samples_max = count_max.min(elapsed.saturating_add(elapsed / CLOCK_SLACK).saturating_add(SAMPLES_AHEAD));
        for finding in findings {
            let (Finding::Sample { place, .. } | Finding::End { place, .. }) = *finding;
            let place = order.places.get_mut(place as usize).ok_or(Lie::NoSuchTarget)?;
            match place.stand {
                Stand::Open => {}
                Stand::Ended => return Err(Lie::NoSuchTarget),
                Stand::GivenUp => continue,
            }
            match *finding {
                Finding::Sample { sample, .. } => {
                    place.samples += 1;
                    let most = u64::from(place.samples).max(u64::from(sample.number) + 1);
                    if self.detail == Detail::Ends || most > samples_max {
                        return Err(Lie::Samples);
                    }
                    say(place.slot, Word::Sample(sample));
                }
                Finding::End { tally, failure, .. } => {
                    let unlooked = tally.sent == 0 && failure.is_none();
                    let lost = tally.sent > tally.received;
                    let wrong = u64::from(tally.sent) > count_max || tally.received > tally.sent;
                    if wrong || !is_sound(&tally) || lost && failure.is_none() || unlooked && !self.stopped {
                        return Err(Lie::Counts);
                    }
                    (place.stand, order.open) = (Stand::Ended, order.open - 1);
                    let verdict = Verdict { tally: Some(tally), failure };
                    say(place.slot, if unlooked { Word::Unlooked } else { Word::End(verdict) });
                }
            }
        }
        let room = limits::AGENT_PROBES_MAX.saturating_sub(order.open);
        if !vantage.ready.is_empty() && room >= limits::PROBES_PER_MESSAGE_MAX && self.stirred.last() != Some(&place) {
            self.stirred.push(place);
        }
        self.expect_word(place, now);
        Ok(())
    }

    /// There is something to be sent, by [`Orders::poll`].
    pub(super) fn is_stirred(&self) -> bool {
        !self.stirred.is_empty()
    }

    /// Has the agents end. Targets that no agent was asked to look at have no end.
    pub(super) fn stop(&mut self, now: Instant, mut say: impl FnMut(u32, Word)) {
        self.stopped = true;
        for place in (0_u32..).take(self.vantages.len()) {
            let vantage = &mut self.vantages[place as usize];
            let lost = vantage.asked_in.is_some() && vantage.order.is_none();
            for slot in vantage.ready.drain(..) {
                say(slot, if lost { FailureKind::ProberAway.into() } else { Word::Unlooked });
            }
            vantage.deadline = None;
            if let Some(order) = vantage.order.as_ref().filter(|order| order.open > 0) {
                self.sendings.push((vantage.agent, order.epoch, ToAgent::ProbeStop(self.sweep)));
                self.wait(place, now + self.probes.timeout + STOP_PATIENCE);
            }
        }
    }

    /// Ends the vantage's open targets without it.
    fn give_up(&mut self, place: u32, say: &mut impl FnMut(u32, Word)) {
        let vantage = &mut self.vantages[place as usize];
        vantage.deadline = None;
        let kind = if vantage.order.is_some() { FailureKind::ProberSilent } else { FailureKind::ProberAway };
        vantage.ready.drain(..).for_each(|slot| say(slot, kind.into()));
        if let Some(order) = &mut vantage.order {
            order.open = 0;
            for place in order.places.iter_mut().filter(|place| place.stand == Stand::Open) {
                place.stand = Stand::GivenUp;
                say(place.slot, FailureKind::ProberSilent.into());
            }
        }
    }

    /// Begins to wait for the agent's next word, if it owes one. One that was told to stop has only so long for all.
    fn expect_word(&mut self, place: u32, now: Instant) {
        let vantage = &mut self.vantages[place as usize];
        if vantage.order.as_ref().is_none_or(|order| order.open == 0) {
            vantage.deadline = None;
        } else if !self.stopped {
            self.wait(place, now + limits::PROBING_SILENCE_MAX);
        }
    }

    fn wait(&mut self, place: u32, until: Instant) {
        let vantage = &mut self.vantages[place as usize];
        let all =
            vantage.since.zip(longest(&self.probes, vantage.given)).map(|(since, all)| since + all + self.deliver);
        let until = all.map_or(until, |all| until.min(all));
        vantage.deadline = Some(until);
        if vantage.queued.is_none_or(|queued| until < queued) {
            vantage.queued = Some(until);
            self.deadlines.push(Reverse((until, place)));
        }
    }
}

impl Vantage {
    const fn new(agent: AgentId) -> Self {
        Self {
            agent,
            ready: Vec::new(),
            given: 0,
            since: None,
            order: None,
            asked_in: None,
            deadline: None,
            queued: None,
        }
    }

    /// What it was asked and has not answered can be ordered again.
    fn lose(&mut self) {
        let places = self.order.take().into_iter().flat_map(|order| order.places);
        self.ready.extend(places.filter(|place| place.stand == Stand::Open).map(|place| place.slot));
    }
}

/// The longest that an agent can take for so many targets while it is there; `None` where it looks until it is told to end.
fn longest(probes: &Probes, targets: u64) -> Option<Duration> {
    let count = probes.count?.get();
    let tries = probes.retries + 1;
    let packets = targets.saturating_mul(count.into()).saturating_mul(tries.into());
    // The least that an owner can allow is a packet a second. An agent that dropped answers asks up to three times more,
    // at half the rate.
    let sending = Duration::from_secs(packets.saturating_mul(2)).min(SENDING_MAX);
    Some(probes.period.saturating_mul(count - 1) + probes.timeout * (tries + 3) + sending + MARGIN)
}

/// What is said of round trips can be.
fn is_sound(tally: &Tally) -> bool {
    tally.rtt.is_some() == (tally.received > 0)
        && tally.rtt.is_none_or(|rtt| {
            let ordered = [rtt.min, rtt.median, rtt.p95, rtt.p99, rtt.max].is_sorted();
            ordered && rtt.min <= rtt.mean && rtt.mean <= rtt.max
        })
}

#[cfg(test)]
mod tests;
