//! Probes for the controller: what it orders, within this host's policy and rate, and what its engines' threads find.
//!
//! ```text
//! order ──┬─ allowed ──▶ engine, a thread a sweep ──Basket──┐
//!         └─ refused ───────────────────────────────────────┴─▶ Probed, in batches
//! ```
//!
//! Sweeps end with the session: who comes next asks anew. A basket takes every end, of which there are no more than
//! [`AGENT_PROBES_MAX`], and so many samples; when it is full of those, new ones are dropped.

use crate::policy::ProbePolicy;
use muster_probe::Aim;
use muster_proto::limits::{AGENT_PROBES_MAX, PING_TARGETS_MAX, PROBES_PER_MESSAGE_MAX};
use muster_proto::link::{FromAgent, ProbeAim, ProbeOrder};
use muster_proto::ping::{Detail, FailureKind, Finding, Probes, Tally};
use nix::net::if_::if_nametoindex;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, warn};

/// Threads at work, each with sockets of its own. Who asks for more hears that the agent is busy.
const ENGINES_MAX: usize = 32;
/// Sweeps that have not ended, those included in which everything is refused. Orders for more are dropped: no sound
/// controller has so many.
const SWEEPS_MAX: usize = 1024;
/// Samples of a sweep that wait for room on the link.
const SAMPLES_MAX: usize = 2048;
/// Findings in a message: it stays as small as a full frame of output.
const FINDINGS: usize = PROBES_PER_MESSAGE_MAX / 2;
/// How long a finding waits for others. What completes a sweep does not wait.
const COALESCE: Duration = Duration::from_millis(20);
/// Bytes of an ICMP message in one Ethernet frame: a larger one leaves as several packets.
const FRAGMENT_BYTES: u32 = 1480;
const ICMP_HEADER_BYTES: u32 = 8;

/// The sweeps of a session.
pub(super) struct Sweeps {
    policy: ProbePolicy,
    sweeps: BTreeMap<u64, Sweep>,
    /// Engines found something.
    bell: Arc<Notify>,
    /// When findings that wait are to leave.
    due: Option<Instant>,
    /// The sweep whose findings left last.
    turn: u64,
}

struct Sweep {
    probes: Probes,
    detail: Detail,
    /// From the first address on that may be probed.
    engine: Option<muster_probe::Sweep>,
    basket: Arc<Basket>,
    /// Places in the order of the engine's targets.
    places: Vec<u32>,
    /// Places that are not probed, and why; told before anything else.
    refused: VecDeque<(u32, FailureKind)>,
    ordered: u32,
    /// Ends that were handed to the link: of the engine's targets, and of all.
    found: usize,
    told: u32,
    /// Nothing more is taken.
    closed: bool,
}

/// What an engine found and the agent has not taken.
#[derive(Default)]
struct Basket(Mutex<Content>);

#[derive(Default)]
struct Content {
    findings: VecDeque<Finding>,
    ends: usize,
    dropped: u64,
}

impl Sweeps {
    /// None yet.
    pub(super) fn new(policy: ProbePolicy) -> Self {
        Self { policy, sweeps: BTreeMap::new(), bell: Arc::default(), due: None, turn: 0 }
    }

    /// Takes an order. What is not allowed or too much ends at once.
    pub(super) fn order(&mut self, order: &ProbeOrder, now: Instant) {
        if self.sweeps.len() >= SWEEPS_MAX && !self.sweeps.contains_key(&order.sweep) {
            return warn!(sweep = order.sweep, "probes are not answered: there are {SWEEPS_MAX} sweeps already");
        }
        let room = AGENT_PROBES_MAX.saturating_sub(self.sweeps.values().map(Sweep::under_way).sum());
        let engine = self.engines() < ENGINES_MAX.min(self.policy.rate as usize);
        let sweep = self.sweeps.entry(order.sweep).or_insert_with(|| Sweep::new(order.probes, order.detail));
        if sweep.closed {
            return warn!(sweep = order.sweep, "probes are not answered: nothing was to follow in their sweep");
        }
        let room = room.min(PING_TARGETS_MAX.saturating_sub(sweep.places.len()));
        let room = if engine || sweep.engine.is_some() { room } else { 0 };
        let (mut aims, mut places) = (Vec::new(), Vec::new());
        for (place, aim) in (sweep.ordered..).zip(&order.aims) {
            match permit(&self.policy, aim) {
                Ok(_) if aims.len() >= room => sweep.refused.push_back((place, FailureKind::ProberBusy)),
                Ok(aim) => {
                    aims.push(aim);
                    places.push(place);
                }
                Err(failure) => sweep.refused.push_back((place, failure)),
            }
        }
        sweep.ordered = sweep.ordered.saturating_add(u32::try_from(order.aims.len()).unwrap_or(u32::MAX));
        if let Err(error) = sweep.add(aims, &places, &self.bell) {
            warn!(%error, "cannot probe");
            sweep.refused.extend(places.into_iter().map(|place| (place, FailureKind::ProberBusy)));
        }
        if order.last {
            sweep.close(muster_probe::Sweep::close);
        }
        self.stir(now);
        self.pace();
    }

    /// Ends a sweep: what is under way says what it has seen.
    pub(super) fn stop(&mut self, sweep: u64, now: Instant) {
        if let Some(sweep) = self.sweeps.get_mut(&sweep) {
            sweep.close(muster_probe::Sweep::stop);
        }
        self.stir(now);
    }

    /// Nobody listens any more.
    pub(super) fn clear(&mut self) {
        self.sweeps.clear();
        self.due = None;
    }

    /// False while so much is refused that nothing more should be read from the controller.
    pub(super) fn has_room(&self) -> bool {
        self.sweeps.values().map(|sweep| sweep.refused.len()).sum::<usize>() < AGENT_PROBES_MAX
    }

    /// Waits until an engine found something.
    pub(super) async fn stirred(&self) {
        self.bell.notified().await;
    }

    /// Something may have been found: says when it is to leave.
    pub(super) fn stir(&mut self, now: Instant) {
        if self.sweeps.values().any(Sweep::is_complete) {
            self.due = Some(now);
        } else if self.sweeps.values().any(Sweep::has_news) {
            self.due.get_or_insert(now + COALESCE);
        }
    }

    /// When findings are to leave.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Findings are to leave.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Findings that are due, as a message, of one sweep after the other in turn.
    pub(super) fn next(&mut self, now: Instant) -> Option<FromAgent> {
        if !self.is_due(now) {
            return None;
        }
        let ready = |(number, sweep): (&u64, &Sweep)| sweep.has_news().then_some(*number);
        let behind = self.sweeps.range(self.turn.saturating_add(1)..).find_map(ready);
        let Some(number) = behind.or_else(|| self.sweeps.iter().find_map(ready)) else {
            self.due = None;
            // Those that were told to end when nothing was left to tell.
            self.sweeps.retain(|_, sweep| !sweep.is_complete());
            self.pace();
            return None;
        };
        self.turn = number;
        let sweep = self.sweeps.get_mut(&number)?;
        let findings = sweep.take();
        if sweep.is_complete() && !sweep.has_news() {
            debug!(
                sweep = number,
                targets = sweep.ordered,
                samples_dropped = sweep.basket.lock().dropped,
                "sweep ended"
            );
            self.sweeps.remove(&number);
            self.pace();
        }
        Some(FromAgent::Probed { sweep: number, findings })
    }

    fn engines(&self) -> usize {
        self.sweeps.values().filter(|sweep| sweep.engine.is_some()).count()
    }

    /// Each engine gets the same part of what this host may send.
    fn pace(&self) {
        let part = self.policy.rate / u32::try_from(self.engines()).unwrap_or(u32::MAX).max(1);
        for sweep in self.sweeps.values() {
            if let Some(engine) = &sweep.engine {
                engine.pace(rate(&sweep.probes, part));
            }
        }
    }
}

/// Packets a second of a sweep that may send this many.
fn rate(probes: &Probes, part: u32) -> NonZeroU32 {
    let fragments = (u32::from(probes.size) + ICMP_HEADER_BYTES).div_ceil(FRAGMENT_BYTES);
    let asked = probes.rate.map_or(u32::MAX, NonZeroU32::get);
    NonZeroU32::new(asked.min(part / fragments)).unwrap_or(NonZeroU32::MIN)
}

/// Where to aim on this host, if its owner allows it.
fn permit(policy: &ProbePolicy, aim: &ProbeAim) -> Result<Aim, FailureKind> {
    let address = aim.address.to_canonical();
    if !policy.allows(address) {
        return Err(FailureKind::Denied);
    }
    let scope = match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            if_nametoindex(aim.zone.as_str()).map_err(|_| FailureKind::NoZone)?
        }
        IpAddr::V4(_) | IpAddr::V6(_) => 0,
    };
    Ok(Aim { address, scope })
}

impl Sweep {
    fn new(probes: Probes, detail: Detail) -> Self {
        let (basket, places, refused) = (Arc::default(), Vec::new(), VecDeque::new());
        Self { probes, detail, engine: None, basket, places, refused, ordered: 0, found: 0, told: 0, closed: false }
    }

    fn add(&mut self, aims: Vec<Aim>, places: &[u32], bell: &Arc<Notify>) -> io::Result<()> {
        if aims.is_empty() {
            return Ok(());
        }
        let engine = match self.engine.take() {
            Some(engine) => engine,
            None => {
                let (basket, bell) = (Arc::clone(&self.basket), Arc::clone(bell));
                // Slow until it is told its part.
                let probes = Probes { rate: Some(NonZeroU32::MIN), ..self.probes };
                muster_probe::start(muster_probe::Settings { probes, detail: self.detail }, move |findings| {
                    basket.put(findings);
                    bell.notify_one();
                    ControlFlow::Continue(())
                })?
            }
        };
        engine.add(aims);
        self.engine = Some(engine);
        self.places.extend(places);
        Ok(())
    }

    fn close(&mut self, tell: fn(&muster_probe::Sweep)) {
        self.closed = true;
        self.engine.iter().for_each(tell);
    }

    /// Targets of the engine without an end that was told.
    fn under_way(&self) -> usize {
        self.places.len() - self.found
    }

    fn has_news(&self) -> bool {
        !self.refused.is_empty() || !self.basket.lock().findings.is_empty()
    }

    /// All ends are told or here, and nothing can follow.
    fn is_complete(&self) -> bool {
        let here = self.refused.len() + self.basket.lock().ends;
        self.closed && u32::try_from(here).is_ok_and(|here| self.told.saturating_add(here) >= self.ordered)
    }

    /// What goes into the next message.
    fn take(&mut self) -> Vec<Finding> {
        let refused = self.refused.drain(..self.refused.len().min(FINDINGS));
        let end = |(place, failure): (u32, FailureKind)| Finding::End {
            place,
            tally: Tally::default(),
            failure: Some(failure.into()),
        };
        let mut findings: Vec<Finding> = refused.map(end).collect();
        self.told += u32::try_from(findings.len()).unwrap_or(u32::MAX);
        let found = self.basket.take(FINDINGS - findings.len());
        for mut finding in found {
            let (Finding::Sample { place, .. } | Finding::End { place, .. }) = &mut finding;
            let Some(ordered) = self.places.get(*place as usize) else { continue };
            *place = *ordered;
            if matches!(finding, Finding::End { .. }) {
                self.found += 1;
                self.told += 1;
            }
            findings.push(finding);
        }
        findings
    }
}

impl Basket {
    /// Called on an engine's thread. Never waits for the link.
    fn put(&self, findings: Vec<Finding>) {
        let mut content = self.lock();
        for finding in findings {
            match finding {
                Finding::Sample { .. } if content.findings.len() - content.ends >= SAMPLES_MAX => content.dropped += 1,
                Finding::Sample { .. } => content.findings.push_back(finding),
                Finding::End { .. } => {
                    content.ends += 1;
                    content.findings.push_back(finding);
                }
            }
        }
    }

    fn take(&self, most: usize) -> Vec<Finding> {
        let mut content = self.lock();
        let most = most.min(content.findings.len());
        let taken: Vec<Finding> = content.findings.drain(..most).collect();
        content.ends -= taken.iter().filter(|finding| matches!(finding, Finding::End { .. })).count();
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::ping::{Failure, Sample};
    use proptest::prelude::*;

    fn sample(place: u32) -> Finding {
        Finding::Sample { place, sample: Sample { number: 0, answer: Err(Failure::NO_REPLY) } }
    }

    fn end(place: u32) -> Finding {
        Finding::End { place, tally: Tally::default(), failure: None }
    }

    #[test]
    fn a_full_basket_drops_samples_and_never_an_end() {
        let basket = Basket::default();
        let most = u32::try_from(SAMPLES_MAX).expect("small");
        for place in 0..2 * most {
            basket.put(vec![sample(place), end(place)]);
        }
        let (mut samples, mut ends) = (Vec::new(), Vec::new());
        loop {
            let taken = basket.take(FINDINGS);
            if taken.is_empty() {
                break;
            }
            for finding in taken {
                match finding {
                    Finding::Sample { place, .. } => samples.push(place),
                    Finding::End { place, .. } => ends.push(place),
                }
            }
        }
        assert!(samples == (0..most).collect::<Vec<_>>() && ends == (0..2 * most).collect::<Vec<_>>());
        assert!(matches!(*basket.lock(), Content { dropped, ends: 0, .. } if dropped == u64::from(most)));
        basket.put(vec![sample(1)]);
        assert_eq!(basket.take(FINDINGS).len(), 1, "there is room again");
    }

    #[test]
    fn the_lower_rate_holds_and_what_leaves_in_pieces_counts_by_its_pieces() {
        let asked = |rate: u32, size: u16| Probes { rate: NonZeroU32::new(rate), size, ..Probes::default() };
        for (probes, part, expected) in [
            (asked(0, 56), 500, 500),
            (asked(40_000, 56), 500, 500),
            (asked(20, 56), 500, 20),
            (asked(0, 1472), 500, 500),
            (asked(0, 1473), 500, 250),
            (asked(0, 65_467), 500, 11),
            (asked(0, 65_467), 10, 1),
        ] {
            assert_eq!(rate(&probes, part).get(), expected, "{probes:?}");
        }
    }

    proptest! {
        #[test]
        fn every_place_that_is_refused_ends_once_in_its_own_sweep(orders in prop::collection::vec((0_u64..4, 0_usize..700), 1..12)) {
            let now = Instant::now();
            let nothing = ProbePolicy { rate: 0, ..ProbePolicy::default() };
            let mut sweeps = Sweeps::new(nothing);
            let aim = ProbeAim { address: [127, 0, 0, 1].into(), zone: String::new() };
            let (mut ordered, mut told) = (BTreeMap::<_, u32>::new(), BTreeMap::new());
            for (sweep, aims) in orders {
                *ordered.entry(sweep).or_default() += u32::try_from(aims).expect("small");
                let aims = vec![aim.clone(); aims];
                let order = ProbeOrder { sweep, probes: Probes::default(), detail: Detail::Ends, aims, last: false };
                sweeps.order(&order, now);
            }
            (0..4).for_each(|sweep| sweeps.stop(sweep, now));
            while let Some(message) = sweeps.next(now) {
                let FromAgent::Probed { sweep, findings } = message else { panic!("{message:?}") };
                prop_assert!((1..=FINDINGS).contains(&findings.len()));
                for finding in findings {
                    let Finding::End { place, failure, .. } = finding else { panic!("{finding:?}") };
                    prop_assert_eq!(failure, Some(FailureKind::Denied.into()));
                    told.entry(sweep).or_insert_with(Vec::new).push(place);
                }
            }
            for (sweep, ordered) in ordered {
                prop_assert_eq!(told.remove(&sweep).unwrap_or_default(), (0..ordered).collect::<Vec<_>>());
            }
            prop_assert!(sweeps.sweeps.is_empty() && sweeps.due().is_none());
        }
    }
}
