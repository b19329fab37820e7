//! One look at work, all but its doing: what is asked of whom, what has been said, and what there is to tell. Every fact
//! goes through here, in whatever order they come, and each target has one end.

use super::echoes::{self, Echoes};
use super::legs::{Leg, Slot, Verdict, Word};
use super::orders::{self, Orders};
use super::resolve::Whereabouts;
use super::{Lie, News};
use crate::sessions::{Contact, Epoch, Outgoing, Sessions};
use crate::stats::Stats;
use muster_probe::Aim;
use muster_proto::id::AgentId;
use muster_proto::link::{ProbeAim, ToAgent};
use muster_proto::ping::{self, FailureKind, Finding, Pair, PingList, PingSpec, Sample, Way};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::warn;

/// Samples that wait to be taken; more are dropped and counted. Ends are as many as targets, and none is dropped.
pub(super) const SAMPLES_MAX: usize = 65_536;
/// News that are made at a time.
const NEWS_LEN: usize = 4_096;
/// What was told to end has so much longer than a probe may take.
const STOP_PATIENCE: Duration = Duration::from_secs(6);

/// A look with all its targets. A slot is a target's place among those of this look.
pub(super) struct State {
    pub(super) list: Arc<PingList>,
    pub(super) spec: PingSpec,
    targets: Vec<u32>,
    slots: Vec<Slot>,
    /// Slots that are not over.
    open: usize,
    /// For each vantage of the list, whether it is on this machine.
    here: Vec<bool>,
    /// The slot of each target of the sweep from here, in the order of adding.
    aimed: Vec<u32>,
    echoes: Echoes,
    orders: Orders,
    news: VecDeque<Pending>,
    samples: usize,
    /// Samples that were dropped.
    dropped: u64,
    /// When everything ends that has not ended by then, once it was told to stop.
    finish_by: Option<Instant>,
    /// Nobody listens any more.
    pub(super) abandoned: bool,
    /// The task that looks is gone: what is not over never will be.
    pub(super) broken: bool,
    stats: Arc<Stats>,
}

/// What there is to tell. Outcomes are made when they are taken: those that wait take little room.
enum Pending {
    Sample { slot: u32, sample: Sample },
    End { slot: u32, took: Duration },
}

/// What a look is made of.
pub(super) struct Plan {
    /// A number of its own, with the lower half free.
    pub(super) id: u64,
    pub(super) list: Arc<PingList>,
    pub(super) spec: PingSpec,
    /// Which targets of the list.
    pub(super) targets: Vec<u32>,
    /// How long an agent that looks may be away.
    pub(super) deliver: Duration,
    /// How long one may that is to echo, if it has not been seen yet since the controller began.
    pub(super) patience: Duration,
    /// For each vantage of the list, whether it is on this machine.
    pub(super) here: Vec<bool>,
}

impl State {
    pub(super) fn new(plan: Plan, stats: Arc<Stats>, now: Instant) -> Self {
        let Plan { id, list, spec, targets, deliver, patience, here } = plan;
        let slots: Vec<_> = targets.iter().map(|_| Slot::new(spec.way, now)).collect();
        let mut state = Self {
            open: slots.len(),
            here,
            aimed: Vec::new(),
            echoes: Echoes::new(spec.probes, spec.detail, id),
            orders: Orders::new(id, spec.probes, spec.detail, deliver),
            news: VecDeque::new(),
            samples: 0,
            dropped: 0,
            finish_by: None,
            abandoned: false,
            broken: false,
            stats,
            list,
            spec,
            targets,
            slots,
        };
        for slot in (0_u32..).take(state.slots.len()) {
            let pair = state.pair(slot);
            let way = match (pair.from, state.spec.way, state.list.host(pair).agent) {
                // Agents look by ICMP.
                (Some(_), ..) | (None, Way::Both, None) => Way::Icmp,
                (None, way, agent) => {
                    if let Some(agent) = agent.filter(|_| way != Way::Icmp) {
                        let seen = patience.is_zero() || state.stats.left(agent).is_some();
                        state.echoes.add(slot, agent, if seen { Duration::ZERO } else { patience }, now);
                    }
                    way
                }
            };
            state.slots[slot as usize] = Slot::new(way, now);
            if pair.from.is_none() && way == Way::Link && state.list.host(pair).agent.is_none() {
                state.hear(slot, Leg::Link, FailureKind::NoAgent.into(), now);
            }
        }
        state
    }

    fn pair(&self, slot: u32) -> Pair {
        self.list.pairs()[self.targets[slot as usize] as usize]
    }

    /// The slots that need an address, with the hosts whose it is, by host.
    pub(super) fn unresolved(&self) -> Vec<(u32, u32)> {
        let needs = |slot: &u32| self.slots[*slot as usize].is_open(Leg::Icmp);
        let slots = (0_u32..).take(self.slots.len()).filter(needs);
        let mut hosts: Vec<_> = slots.map(|slot| (self.pair(slot).to, slot)).collect();
        hosts.sort_unstable();
        hosts
    }

    /// It is known where this slot's host is. The aim, if the controller is to look there: aims go to the sweep in the
    /// order in which they come from here.
    pub(super) fn resolved(&mut self, slot: u32, at: &Whereabouts, now: Instant) -> Option<Aim> {
        let from = self.pair(slot).from;
        let target = &mut self.slots[slot as usize];
        if self.finish_by.is_some() || !target.is_open(Leg::Icmp) {
            return None;
        }
        target.since = now;
        let here = from.is_none_or(|from| self.here[from as usize]);
        let address = if here { at.near.map(|aim| aim.address) } else { at.far };
        let vantage = from.and_then(|from| Some(self.list.vantages().get(from as usize)?.agent));
        match (address, vantage, at.near) {
            (Ok(address), Some(vantage), _) => {
                target.address = Some(address);
                self.orders.add(vantage, slot, now);
            }
            (Ok(address), None, Ok(aim)) => {
                target.address = Some(address);
                self.aimed.push(slot);
                return Some(aim);
            }
            (Err(kind), ..) | (_, _, Err(kind)) => self.hear(slot, Leg::Icmp, kind.into(), now),
        }
        None
    }

    /// All addresses are known that ever will be.
    pub(super) fn all_resolved(&mut self) {
        self.orders.close();
    }

    /// What is due now, to be sent.
    pub(super) fn poll(&mut self, now: Instant, sessions: &Sessions) -> Vec<(AgentId, Epoch, Outgoing)> {
        let contact = |agent| match sessions.contact(agent) {
            Contact::Here(epoch) => Some(epoch),
            Contact::Away | Contact::Quarantined => None,
        };
        let mut words = Vec::new();
        let echoes = self.echoes.poll(now, contact, |slot, word| words.push((slot, Leg::Link, word)));
        let aim = |slot: u32| {
            let target = &self.slots[slot as usize];
            let host = self.list.host(self.list.pairs()[self.targets[slot as usize] as usize]);
            ProbeAim {
                // Orders are for what is resolved.
                address: target.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                zone: host.name.address().and_then(|(_, zone)| zone).unwrap_or_default().to_owned(),
            }
        };
        let orders = self.orders.poll(now, contact, aim, |slot, word| words.push((slot, Leg::Icmp, word)));
        self.hear_all(words, now);
        if self.finish_by.is_some_and(|at| at <= now) {
            self.finish(now);
        }
        let echo = |(agent, epoch, token): echoes::Sending| (agent, epoch, Outgoing::Message(ToAgent::Echo(token)));
        let order = |(agent, epoch, order): orders::Sending| (agent, epoch, Outgoing::Message(order));
        echoes.into_iter().map(echo).chain(orders.into_iter().map(order)).collect()
    }

    /// When [`State::poll`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        [self.echoes.wake_at(), self.orders.wake_at(), self.finish_by].into_iter().flatten().min()
    }

    /// An agent that may have to look has a session.
    pub(super) fn connected(&mut self, agent: AgentId) {
        self.orders.connected(agent);
    }

    /// A session is over.
    pub(super) fn gone(&mut self, agent: AgentId, epoch: Epoch, now: Instant) {
        let mut words = Vec::new();
        self.orders.gone(agent, epoch, now, |slot, word| words.push((slot, Leg::Icmp, word)));
        self.hear_all(words, now);
    }

    /// An agent answers an echo.
    pub(super) fn echoed(&mut self, agent: AgentId, epoch: Epoch, token: u64, at: Instant) {
        let mut words = Vec::new();
        self.echoes.echoed(agent, epoch, token, at, |slot, word| words.push((slot, Leg::Link, word)));
        self.hear_all(words, at);
    }

    /// An agent says what it saw.
    pub(super) fn probed(
        &mut self,
        agent: AgentId,
        epoch: Epoch,
        findings: &[Finding],
        now: Instant,
    ) -> Result<(), Lie> {
        let mut words = Vec::new();
        let said = self.orders.report(agent, epoch, findings, now, |slot, word| words.push((slot, Leg::Icmp, word)));
        self.hear_all(words, now);
        said
    }

    /// The sweep from here says what it saw.
    pub(super) fn found(&mut self, findings: Vec<Finding>, now: Instant) {
        for finding in findings {
            let (Finding::Sample { place, .. } | Finding::End { place, .. }) = finding;
            let Some(&slot) = self.aimed.get(place as usize) else { continue };
            let word = match finding {
                Finding::Sample { sample, .. } => Word::Sample(sample),
                Finding::End { tally, failure: None, .. } if tally.sent == 0 => Word::Unlooked,
                Finding::End { tally, failure, .. } => Word::End(Verdict { tally: Some(tally), failure }),
            };
            self.hear(slot, Leg::Icmp, word, now);
        }
    }

    /// The sweep from here has dropped so many samples.
    pub(super) fn dropped(&mut self, samples: u64) {
        self.dropped += samples;
        self.stats.samples_dropped.add(samples);
    }

    /// The sweep from here is over: it has nothing more to say.
    pub(super) fn swept(&mut self, now: Instant) {
        for slot in std::mem::take(&mut self.aimed) {
            self.hear(slot, Leg::Icmp, FailureKind::ProberSilent.into(), now);
        }
    }

    /// Starts nothing more: what is under way says what it has seen, and the rest has no end.
    pub(super) fn stop(&mut self, now: Instant) {
        if self.finish_by.is_some() {
            return;
        }
        self.finish_by = Some(now + self.spec.probes.timeout + STOP_PATIENCE);
        let mut words = Vec::new();
        self.echoes.stop(|slot, word| words.push((slot, Leg::Link, word)));
        self.orders.stop(now, |slot, word| words.push((slot, Leg::Icmp, word)));
        let unresolved = (0_u32..).zip(&self.slots).filter(|(_, target)| target.address.is_none());
        words.extend(unresolved.map(|(slot, _)| (slot, Leg::Icmp, Word::Unlooked)));
        self.hear_all(words, now);
    }

    /// It was told to stop.
    pub(super) const fn is_stopping(&self) -> bool {
        self.finish_by.is_some()
    }

    fn finish(&mut self, now: Instant) {
        for slot in (0_u32..).take(self.slots.len()) {
            self.hear(slot, Leg::Icmp, FailureKind::ProberSilent.into(), now);
            self.hear(slot, Leg::Link, FailureKind::AgentSilent.into(), now);
        }
    }

    fn hear_all(&mut self, words: Vec<(u32, Leg, Word)>, now: Instant) {
        for (slot, leg, word) in words {
            self.hear(slot, leg, word, now);
        }
    }

    fn hear(&mut self, slot: u32, leg: Leg, word: Word, now: Instant) {
        let target = &mut self.slots[slot as usize];
        if !target.is_open(leg) {
            return;
        }
        if let Word::End(Verdict { tally: Some(tally), .. }) = &word {
            self.stats.probes_answered.add(tally.received.into());
            self.stats.probes_lost.add(tally.sent.saturating_sub(tally.received).into());
        }
        match target.hear(leg, word) {
            Some(_) if self.samples >= SAMPLES_MAX => {
                self.dropped += 1;
                self.stats.samples_dropped.add_one();
            }
            Some(sample) => {
                self.samples += 1;
                self.news.push_back(Pending::Sample { slot, sample });
            }
            None => {}
        }
        if target.is_over() {
            self.open -= 1;
            self.news.push_back(Pending::End { slot, took: now.saturating_duration_since(target.since) });
        }
    }

    /// Every target is over, or never will be.
    pub(super) const fn is_over(&self) -> bool {
        self.open == 0 || self.broken
    }

    /// The task has something to do now.
    pub(super) fn is_stirred(&self) -> bool {
        self.is_over() || self.orders.is_stirred()
    }

    /// Says in the log what nobody was told.
    pub(super) fn log(&self) {
        if self.dropped > 0 {
            let (dropped, targets) = (self.dropped, self.targets.len());
            warn!(dropped, targets, "samples of a ping were dropped, nobody took them in time: its figures hold them");
        }
    }

    /// There is something to tell.
    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// What there is to tell, a part at a time.
    pub(super) fn take_news(&mut self, sessions: &Sessions) -> Vec<News> {
        let mut taken = Vec::with_capacity(self.news.len().min(NEWS_LEN));
        while taken.len() < NEWS_LEN
            && let Some(pending) = self.news.pop_front()
        {
            match pending {
                Pending::Sample { slot, sample } => {
                    self.samples -= 1;
                    taken.push(News::Probed { target: self.targets[slot as usize], sample });
                }
                Pending::End { slot, took } => {
                    let pair = self.pair(slot);
                    let agent = self.list.host(pair).agent.filter(|_| pair.from.is_none());
                    let contact = agent.map(|agent| match sessions.contact(agent) {
                        Contact::Here(_) => ping::Contact::Connected,
                        Contact::Away | Contact::Quarantined => ping::Contact::Away,
                    });
                    let outcome = self.slots[slot as usize].outcome(contact, took);
                    let target = self.targets[slot as usize];
                    taken.extend(outcome.map(|outcome| News::Ended { target, outcome }));
                }
            }
        }
        if self.news.is_empty() {
            self.news = VecDeque::new();
        }
        taken
    }
}
