//! Probes for the controller: what it orders, within this host's policy and rate, and what its engines' threads find.
//!
//! ```text
//! order ──┬─ allowed ──▶ engine, a thread a sweep ──Basket──┐
//!         └─ refused ───────────────────────────────────────┴─▶ Probed, in batches
//! ```
//!
//! Sweeps end with the session: who comes next asks anew. The rate does not: it is one allowance for all engines of the
//! agent's life. A sweep with something under way is never silent for long, however slow it has to be.

mod basket;

use crate::policy::ProbePolicy;
use basket::Basket;
use muster_probe::{Aim, Allowance, Settings};
use muster_proto::limits::{AGENT_PROBES_MAX, PING_TARGETS_MAX, PROBES_PER_MESSAGE_MAX, PROBING_INTERVAL};
use muster_proto::link::{FromAgent, ProbeAim, ProbeOrder};
use muster_proto::ping::{FailureKind, Finding, Tally};
use nix::net::if_::if_nametoindex;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, warn};

/// Threads at work, each with sockets of its own. Who asks for more hears that the agent is busy.
const ENGINES_MAX: usize = 32;
/// Sweeps that have not ended, those included in which everything is refused. Who orders more hears that the agent is
/// busy.
const SWEEPS_MAX: usize = 1024;
/// Sweeps beyond those in which more may be ordered. Of more than that the places are counted wrong, which a controller
/// that orders them will take for a lie.
const TURNED_AWAY_MAX: usize = 1 << 16;
/// Places of all sweeps that have not ended, under way or not: what is kept of them takes some 30 MiB.
const PLACES_MAX: usize = PING_TARGETS_MAX;
/// Findings in a message: it stays as small as a full frame of output.
const FINDINGS: usize = PROBES_PER_MESSAGE_MAX / 2;
/// How long a finding waits for others. What completes a sweep does not wait.
const COALESCE: Duration = Duration::from_millis(20);

/// The sweeps of a session.
pub(super) struct Sweeps {
    policy: ProbePolicy,
    /// What all engines may send, those of earlier sessions included.
    allowance: Allowance,
    sweeps: BTreeMap<u64, Sweep>,
    /// Sweeps for which there was no room at all, and how many places each has until now.
    turned_away: BTreeMap<u64, u32>,
    /// Places of such sweeps, of which that is to be told.
    busy: VecDeque<(u64, Range<u32>)>,
    /// Engines found something.
    bell: Arc<Notify>,
    /// When findings that wait are to leave.
    due: Option<Instant>,
    /// The sweep whose findings left last.
    turn: u64,
}

struct Sweep {
    settings: Settings,
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
    /// When its controller or this agent last spoke of it.
    spoken: Instant,
    /// Nothing more is taken.
    closed: bool,
}

impl Sweeps {
    /// None yet.
    pub(super) fn new(policy: ProbePolicy) -> Self {
        // Where the rate is 0 nothing is allowed.
        let allowance = Allowance::new(NonZeroU32::new(policy.rate).unwrap_or(NonZeroU32::MIN));
        let (sweeps, turned_away, busy) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        Self { policy, allowance, sweeps, turned_away, busy, bell: Arc::default(), due: None, turn: 0 }
    }

    /// Takes an order. What is not allowed or too much ends at once.
    pub(super) fn order(&mut self, order: &ProbeOrder, now: Instant) {
        let is_full = self.sweeps.len() >= SWEEPS_MAX && !self.sweeps.contains_key(&order.sweep);
        if is_full || self.turned_away.contains_key(&order.sweep) {
            self.turn_away(order);
            return self.stir(now);
        }
        let (room, engines) = (self.room(), self.engines());
        let fresh = || Sweep::new(Settings { probes: order.probes, detail: order.detail }, now);
        let sweep = self.sweeps.entry(order.sweep).or_insert_with(fresh);
        if sweep.closed {
            return warn!(sweep = order.sweep, "probes are not answered: nothing was to follow in their sweep");
        }
        sweep.spoken = now;
        let room = if engines < ENGINES_MAX || sweep.engine.is_some() { room } else { 0 };
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
        sweep.ordered = sweep.ordered.saturating_add(count(order));
        if let Err(error) = sweep.add(aims, &places, &self.allowance, &self.bell) {
            warn!(%error, "cannot probe");
            sweep.refused.extend(places.into_iter().map(|place| (place, FailureKind::ProberBusy)));
        }
        if order.last {
            sweep.close(muster_probe::Sweep::close);
        }
        self.stir(now);
    }

    /// Says of all places that the agent is busy. What follows in their sweep is turned away, too, wherever there may be
    /// room by then: its places are counted from here.
    fn turn_away(&mut self, order: &ProbeOrder) {
        let from = self.turned_away.remove(&order.sweep).unwrap_or(0);
        let to = from.saturating_add(count(order));
        if from < to {
            self.busy.push_back((order.sweep, from..to));
        }
        if !order.last && self.turned_away.len() < TURNED_AWAY_MAX {
            self.turned_away.insert(order.sweep, to);
        }
    }

    /// Ends a sweep: what is under way says what it has seen.
    pub(super) fn stop(&mut self, number: u64, now: Instant) {
        if let Some(sweep) = self.sweeps.get_mut(&number) {
            sweep.close(muster_probe::Sweep::stop);
        }
        self.turned_away.remove(&number);
        self.stir(now);
    }

    /// Nobody listens any more.
    pub(super) fn clear(&mut self) {
        self.sweeps.clear();
        self.turned_away.clear();
        self.busy.clear();
        self.due = None;
    }

    /// False while so much is refused that nothing more should be read from the controller.
    pub(super) fn has_room(&self) -> bool {
        let refused: usize = self.sweeps.values().map(|sweep| sweep.refused.len()).sum();
        refused < AGENT_PROBES_MAX && self.busy.len() < SWEEPS_MAX
    }

    /// Waits until an engine found something.
    pub(super) async fn stirred(&self) {
        self.bell.notified().await;
    }

    /// Something may have been found: says when it is to leave.
    pub(super) fn stir(&mut self, now: Instant) {
        if !self.busy.is_empty() || self.sweeps.values().any(Sweep::is_complete) {
            self.due = Some(now);
        } else if self.sweeps.values().any(Sweep::has_news) {
            self.due.get_or_insert(now + COALESCE);
        }
    }

    /// When something is to be said.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.sweeps.values().filter_map(Sweep::speaks_at)).min()
    }

    /// Something is to be said.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// What is due, as a message, of one sweep after the other in turn.
    pub(super) fn next(&mut self, now: Instant) -> Option<FromAgent> {
        if !self.is_due(now) {
            return None;
        }
        if let Some((sweep, places)) = self.busy.pop_front() {
            let findings = places.map(|place| refusal(place, FailureKind::ProberBusy)).collect();
            return Some(FromAgent::Probed { sweep, findings });
        }
        let ready = |(number, sweep): (&u64, &Sweep)| sweep.is_to_speak(now).then_some(*number);
        let behind = self.sweeps.range(self.turn.saturating_add(1)..).find_map(ready);
        let Some(number) = behind.or_else(|| self.sweeps.iter().find_map(ready)) else {
            self.due = None;
            // Those that were told to end when nothing was left to tell. The last ends of others may have come just now.
            self.sweeps.retain(|_, sweep| !sweep.is_complete() || sweep.has_news());
            return None;
        };
        self.turn = number;
        let sweep = self.sweeps.get_mut(&number)?;
        let findings = sweep.take(now);
        if sweep.is_complete() && !sweep.has_news() {
            let samples_dropped = sweep.basket.dropped();
            debug!(sweep = number, targets = sweep.ordered, samples_dropped, "sweep ended");
            self.sweeps.remove(&number);
        }
        Some(FromAgent::Probed { sweep: number, findings })
    }

    fn engines(&self) -> usize {
        self.sweeps.values().filter(|sweep| sweep.engine.is_some()).count()
    }

    /// How many more addresses can be probed.
    fn room(&self) -> usize {
        let under_way = self.sweeps.values().map(Sweep::under_way).sum();
        let places = self.sweeps.values().map(|sweep| sweep.places.len()).sum();
        AGENT_PROBES_MAX.saturating_sub(under_way).min(PLACES_MAX.saturating_sub(places))
    }
}

fn count(order: &ProbeOrder) -> u32 {
    u32::try_from(order.aims.len()).unwrap_or(u32::MAX)
}

fn refusal(place: u32, failure: FailureKind) -> Finding {
    Finding::End { place, tally: Tally::default(), failure: Some(failure.into()) }
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
    fn new(settings: Settings, now: Instant) -> Self {
        let (basket, places, refused) = (Arc::default(), Vec::new(), VecDeque::new());
        let (ordered, found, told) = (0, 0, 0);
        Self { settings, engine: None, basket, places, refused, ordered, found, told, spoken: now, closed: false }
    }

    fn add(&mut self, aims: Vec<Aim>, places: &[u32], allowance: &Allowance, bell: &Arc<Notify>) -> io::Result<()> {
        if aims.is_empty() {
            return Ok(());
        }
        let engine = match self.engine.take() {
            Some(engine) => engine,
            None => {
                let (basket, bell) = (Arc::clone(&self.basket), Arc::clone(bell));
                muster_probe::start_within(allowance, self.settings, move |findings| {
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
        !self.refused.is_empty() || !self.basket.is_empty()
    }

    /// When its controller must hear of it again, be there news or not.
    fn speaks_at(&self) -> Option<Instant> {
        (self.under_way() > 0).then(|| self.spoken + PROBING_INTERVAL)
    }

    fn is_to_speak(&self, now: Instant) -> bool {
        self.has_news() || self.speaks_at().is_some_and(|at| at <= now)
    }

    /// All ends are told or here, and nothing can follow.
    fn is_complete(&self) -> bool {
        let here = self.refused.len() + self.basket.ends();
        self.closed && u32::try_from(here).is_ok_and(|here| self.told.saturating_add(here) >= self.ordered)
    }

    /// What goes into the next message, which may be nothing.
    fn take(&mut self, now: Instant) -> Vec<Finding> {
        self.spoken = now;
        let refused = self.refused.drain(..self.refused.len().min(FINDINGS));
        let mut findings: Vec<Finding> = refused.map(|(place, failure)| refusal(place, failure)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::ping::{Detail, Probes};
    use proptest::prelude::*;

    /// Probes of loopback that end when they are told to.
    fn order(sweep: u64, aims: usize, last: bool) -> ProbeOrder {
        let aim = ProbeAim { address: [127, 0, 0, 1].into(), zone: String::new() };
        let probes = Probes { count: None, ..Probes::default() };
        ProbeOrder { sweep, probes, detail: Detail::Ends, aims: vec![aim; aims], last }
    }

    fn sweeps(rate: u32) -> Sweeps {
        Sweeps::new(ProbePolicy { rate, ..ProbePolicy::default() })
    }

    /// The places whose ends are here and why they ended, by sweep.
    fn ends(sweeps: &mut Sweeps, now: Instant) -> BTreeMap<u64, Vec<(u32, Option<FailureKind>)>> {
        let mut ends = BTreeMap::<_, Vec<_>>::new();
        while let Some(message) = sweeps.next(now + COALESCE) {
            let FromAgent::Probed { sweep, findings } = message else { panic!("{message:?}") };
            assert!((1..=PROBES_PER_MESSAGE_MAX).contains(&findings.len()));
            for finding in findings {
                let Finding::End { place, failure, .. } = finding else { panic!("{finding:?}") };
                ends.entry(sweep).or_default().push((place, failure.map(|failure| failure.kind)));
            }
        }
        ends
    }

    #[test]
    fn orders_of_too_many_sweeps_are_answered_and_their_places_counted_on() {
        let (now, mut sweeps) = (Instant::now(), sweeps(0));
        (0..SWEEPS_MAX as u64).for_each(|sweep| sweeps.order(&order(sweep, 1, false), now));
        let denied = ends(&mut sweeps, now);
        assert!(denied.len() == SWEEPS_MAX && denied.values().all(|ends| *ends == [(0, Some(FailureKind::Denied))]));
        let busy = |places: Range<u32>| Vec::from_iter(places.map(|place| (place, Some(FailureKind::ProberBusy))));
        sweeps.order(&order(5_000, 1_000, false), now);
        sweeps.order(&order(6_000, 3, true), now);
        assert_eq!(ends(&mut sweeps, now), [(5_000, busy(0..1_000)), (6_000, busy(0..3))].into());

        // What goes on is no new sweep, though there is room for one.
        sweeps.stop(0, now);
        assert_eq!(ends(&mut sweeps, now), BTreeMap::new());
        sweeps.order(&order(5_000, 2, true), now);
        assert_eq!(ends(&mut sweeps, now), [(5_000, busy(1_000..1_002))].into());
        sweeps.order(&order(6_001, 1, true), now);
        assert_eq!(ends(&mut sweeps, now), [(6_001, vec![(0, Some(FailureKind::Denied))])].into());
        assert!(sweeps.turned_away.is_empty() && sweeps.has_room());

        for sweep in 10_000..10_000 + 3 * SWEEPS_MAX as u64 {
            sweeps.order(&order(sweep, 1, false), now);
        }
        assert!(!sweeps.has_room(), "nothing more is read until they are answered");
        assert!(ends(&mut sweeps, now).len() == 3 * SWEEPS_MAX && sweeps.has_room());
    }

    #[test]
    fn places_of_open_sweeps_are_bounded_though_they_have_ended() {
        let (now, mut sweeps) = (Instant::now(), sweeps(500));
        for sweep in 0..2 {
            sweeps.order(&order(sweep, 0, false), now);
            let sweep = sweeps.sweeps.get_mut(&sweep).expect("it was ordered");
            (sweep.places, sweep.found) = (vec![0; PLACES_MAX / 2 - 1], PLACES_MAX / 2 - 1);
        }
        assert_eq!(sweeps.room(), 2);
        sweeps.order(&order(2, 4, false), now);
        let busy = [2, 3].map(|place| (place, Some(FailureKind::ProberBusy)));
        let ended = ends(&mut sweeps, now).remove(&2).expect("two at least");
        // Where nothing can be probed, the others end as well.
        assert!(busy.iter().all(|busy| ended.contains(busy)), "{ended:?}");
        assert_eq!(sweeps.room(), 0);
    }

    #[test]
    fn a_slow_sweep_says_that_it_is_at_work() {
        let (mut now, mut sweeps) = (Instant::now(), sweeps(500));
        sweeps.order(&order(3, 2, true), now);
        // As if it could not send anything for a while.
        sweeps.sweeps.get_mut(&3).expect("it was ordered").basket = Arc::default();
        sweeps.due = None;
        for _ in 0..3 {
            assert_eq!(sweeps.due(), Some(now + PROBING_INTERVAL));
            now += PROBING_INTERVAL;
            assert_eq!(sweeps.next(now), Some(FromAgent::Probed { sweep: 3, findings: vec![] }));
            assert!(!sweeps.is_due(now) && sweeps.next(now).is_none());
        }
        sweeps.clear();
        sweeps.order(&order(4, 0, false), now);
        assert_eq!(sweeps.due(), None, "there is nothing to wait for");
    }

    proptest! {
        #[test]
        fn every_place_that_is_refused_ends_once_in_its_own_sweep(orders in prop::collection::vec((0_u64..4, 0_usize..700), 1..12)) {
            let now = Instant::now();
            let mut sweeps = sweeps(0);
            let mut ordered = BTreeMap::<_, u32>::new();
            for (sweep, aims) in orders {
                *ordered.entry(sweep).or_default() += u32::try_from(aims).expect("small");
                sweeps.order(&order(sweep, aims, false), now);
            }
            (0..4).for_each(|sweep| sweeps.stop(sweep, now));
            let mut told = ends(&mut sweeps, now);
            for (sweep, ordered) in ordered {
                let expected: Vec<_> = (0..ordered).map(|place| (place, Some(FailureKind::Denied))).collect();
                prop_assert_eq!(told.remove(&sweep).unwrap_or_default(), expected);
            }
            prop_assert!(sweeps.sweeps.is_empty() && sweeps.due().is_none());
        }
    }
}
