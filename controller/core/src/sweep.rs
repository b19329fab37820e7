//! A ping as a pure machine: one job whose targets are looked at, each until its one end.
//!
//! ```text
//!            ┌──── probed (any number) ────┐
//! open ──────┴────────────────▶ ended: answered or not, skipped, expired
//! ```
//!
//! Probes execute nothing, so nothing has to be remembered before one is sent: after a restart of the controller all
//! targets that are open are looked at anew. What is stored are the events, and the same events give the same sweep.

use muster_proto::event::{Event, EventKind};
use muster_proto::job::{JobSpec, JobState, Phase};
use muster_proto::name::OperatorName;
use muster_proto::outcome::{Counts, Outcome, State};
use muster_proto::ping::Sample;
use muster_proto::time::Timestamp;

/// Why it cannot be known what became of a target that was looked at.
const CUT_SHORT: &str = "the controller was started again while it was looked at: its single probes are in the record";

/// A ping with all its targets. What it tells goes into a list of events, in order, to be made durable.
#[derive(Debug, Clone)]
pub struct Sweep {
    spec: JobSpec,
    /// What came of them is in the events alone: there may be a hundred thousand.
    targets: Vec<Target>,
    state: JobState,
    counts: Counts,
    next_seq: u64,
    done_at: Option<Timestamp>,
}

/// Where a target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Nothing came of it yet.
    Open,
    /// Some probe was answered or given up.
    Probed,
    /// Terminal.
    Ended,
}

impl Sweep {
    /// A ping whose list was just frozen. Its first event goes into `events`.
    pub fn plan(spec: JobSpec, now: Timestamp, events: &mut Vec<Event>) -> Self {
        let kind = EventKind::Planned { targets: spec.targets.count, root: spec.targets.root };
        let mut sweep = Self::restore(spec);
        sweep.emit(kind, now, events);
        sweep
    }

    /// A ping about to be replayed from its events.
    pub fn restore(spec: JobSpec) -> Self {
        let targets = vec![Target::Open; spec.targets.count as usize];
        let (state, counts) = (JobState::Queued, Counts::default());
        Self { spec, targets, state, counts, next_seq: 1, done_at: None }
    }

    /// What was signed.
    pub const fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// Where the job stands.
    pub const fn state(&self) -> JobState {
        self.state
    }

    /// Ended targets by state.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Number of the last event.
    pub const fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// When the last target ended.
    pub const fn done_at(&self) -> Option<Timestamp> {
        self.done_at
    }

    /// The target has no end yet. One that does not exist has.
    pub fn is_open(&self, target: u32) -> bool {
        self.targets.get(target as usize).is_some_and(|target| *target != Target::Ended)
    }

    /// Targets without an end, in the order of the list.
    pub fn open(&self) -> impl Iterator<Item = u32> {
        (0..self.spec.targets.count).filter(|target| self.is_open(*target))
    }

    /// Where the targets without an end stand, as it is shown.
    pub fn open_phases(&self) -> impl Iterator<Item = Phase> {
        self.targets.iter().filter_map(|target| match target {
            Target::Open => Some(Phase::Planned),
            Target::Probed => Some(Phase::Started),
            Target::Ended => None,
        })
    }

    /// What became of one probe. Without effect on a target that has ended.
    pub fn probed(&mut self, target: u32, sample: Sample, now: Timestamp, events: &mut Vec<Event>) {
        if self.is_open(target) {
            self.emit(EventKind::Probed { target, sample }, now, events);
        }
    }

    /// What became of a target. Without effect on one that has ended: a terminal state never changes.
    pub fn ended(&mut self, target: u32, outcome: Outcome, now: Timestamp, events: &mut Vec<Event>) {
        if self.is_open(target) {
            self.emit(EventKind::Finished { target, outcome }, now, events);
        }
    }

    /// An operator wants it ended. What is under way says what it has seen, then [`Sweep::give_up`] ends the rest. Whether
    /// this was the first to ask.
    pub fn cancel(&mut self, operator: OperatorName, now: Timestamp, events: &mut Vec<Event>) -> bool {
        let first = !matches!(self.state, JobState::Done | JobState::Cancelling);
        if first {
            self.emit(EventKind::Cancelling { operator }, now, events);
        }
        first
    }

    /// Ends all open targets: those that nobody has looked at in this state, of the others it cannot be known.
    pub fn give_up(&mut self, state: State, reason: &str, now: Timestamp, events: &mut Vec<Event>) {
        for target in 0..self.spec.targets.count {
            let outcome = match self.targets[target as usize] {
                Target::Open => Outcome::without_run(state, reason),
                Target::Probed => Outcome::without_run(State::Indeterminate, CUT_SHORT),
                Target::Ended => continue,
            };
            self.ended(target, outcome, now, events);
        }
    }

    /// Says that all is over, once it is. Called after every batch of facts.
    pub fn advance(&mut self, now: Timestamp, events: &mut Vec<Event>) {
        if self.state != JobState::Done && self.counts.total() == self.spec.targets.count {
            self.emit(EventKind::Done { counts: self.counts }, now, events);
        }
    }

    fn emit(&mut self, kind: EventKind, now: Timestamp, events: &mut Vec<Event>) {
        let event = Event { seq: self.next_seq, time: now, kind };
        self.replay(&event);
        events.push(event);
    }

    /// Takes one stored event, in order.
    pub fn replay(&mut self, event: &Event) {
        self.next_seq = event.seq + 1;
        let of = event.kind.target();
        if of.is_some_and(|target| !self.is_open(target)) {
            return;
        }
        if of.is_some() && self.state == JobState::Queued {
            self.state = JobState::Active;
        }
        match &event.kind {
            EventKind::Probed { target, .. } => self.targets[*target as usize] = Target::Probed,
            EventKind::Finished { target, outcome } => {
                self.counts.add(outcome.state);
                self.targets[*target as usize] = Target::Ended;
            }
            EventKind::Cancelling { .. } => self.state = JobState::Cancelling,
            EventKind::Done { .. } => {
                self.state = JobState::Done;
                self.done_at = Some(event.time);
            }
            // A ping has no others.
            EventKind::Planned { .. }
            | EventKind::Offered { .. }
            | EventKind::Accepted { .. }
            | EventKind::Started { .. }
            | EventKind::Output { .. }
            | EventKind::Truncated { .. }
            | EventKind::Wave { .. }
            | EventKind::Queued { .. }
            | EventKind::Retrying { .. }
            | EventKind::Gate { .. }
            | EventKind::Paused { .. }
            | EventKind::Resumed { .. }
            | EventKind::Stopping { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::{ClusterId, JobId};
    use muster_proto::job::{TargetsDigest, Work};
    use muster_proto::ping::{Detail, Failure, Family, PingReport, PingSpec, Probes, Way};
    use proptest::prelude::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn spec(count: u32) -> JobSpec {
        let probes = Probes::default();
        JobSpec {
            cluster: ClusterId::from_bytes([1; 16]),
            job: JobId::from_bytes([2; 16]),
            operator: "ada".parse().expect("a name"),
            created_at: NOW,
            start_before: NOW + Duration::from_mins(1),
            deliver: Duration::from_secs(1),
            targets: TargetsDigest { root: [0; 32], count },
            rollout: muster_proto::rollout::Rollout::default(),
            rerun_of: None,
            work: Work::Ping(PingSpec { way: Way::Icmp, family: Family::Any, detail: Detail::Each, probes }),
        }
    }

    fn dead() -> Outcome {
        PingReport::default().outcome(Some(Failure::NO_REPLY), Duration::ZERO)
    }

    /// Any fact about any of three targets and one that does not exist.
    fn fact(sweep: &mut Sweep, fact: (u8, u32), events: &mut Vec<Event>) {
        let (kind, target) = fact;
        match kind {
            0 => sweep.probed(target, Sample { number: 0, answer: Err(Failure::NO_REPLY) }, NOW, events),
            1 => sweep.ended(target, dead(), NOW, events),
            2 => {
                sweep.cancel("bob".parse().expect("a name"), NOW, events);
            }
            3 => sweep.give_up(State::Skipped, "cancelled", NOW, events),
            _ => sweep.advance(NOW, events),
        }
    }

    proptest! {
        #[test]
        fn p2_every_target_has_one_end_and_the_replayed_sweep_is_the_lived_one(
            facts in prop::collection::vec((0_u8..5, 0_u32..4), 0..40)
        ) {
            let mut events = Vec::new();
            let mut sweep = Sweep::plan(spec(3), NOW, &mut events);
            for one in facts {
                fact(&mut sweep, one, &mut events);
            }
            sweep.give_up(State::Expired, "late", NOW, &mut events);
            sweep.advance(NOW, &mut events);
            prop_assert_eq!(sweep.state(), JobState::Done);
            prop_assert_eq!(sweep.counts().total(), 3);
            for target in 0..3 {
                let of_target: Vec<_> = events.iter().filter(|event| event.kind.target() == Some(target)).collect();
                let ends = of_target.iter().filter(|event| matches!(event.kind, EventKind::Finished { .. })).count();
                prop_assert_eq!(ends, 1);
                let at_end = matches!(of_target.last().map(|event| &event.kind), Some(EventKind::Finished { .. }));
                prop_assert!(at_end);
            }
            prop_assert!(events.iter().map(|event| event.seq).eq(1..=sweep.last_seq()));
            let is_done = matches!(events.last().map(|event| &event.kind), Some(EventKind::Done { .. }));
            prop_assert!(is_done);
            let mut replayed = Sweep::restore(spec(3));
            events.iter().for_each(|event| replayed.replay(event));
            prop_assert_eq!(format!("{replayed:?}"), format!("{sweep:?}"));
        }
    }

    #[test]
    fn p3_only_who_was_never_looked_at_is_said_to_have_been_passed_over() {
        let mut events = Vec::new();
        let mut sweep = Sweep::plan(spec(2), NOW, &mut events);
        sweep.probed(0, Sample { number: 0, answer: Ok(Duration::ZERO) }, NOW, &mut events);
        sweep.give_up(State::Skipped, "cancelled", NOW, &mut events);
        assert_eq!(sweep.counts().get(State::Indeterminate), 1);
        assert_eq!(sweep.counts().get(State::Skipped), 1);
    }

    #[test]
    fn only_the_first_cancel_counts_and_none_after_the_end() {
        let mut events = Vec::new();
        let mut sweep = Sweep::plan(spec(1), NOW, &mut events);
        let ada: OperatorName = "ada".parse().expect("a name");
        assert!(sweep.cancel(ada.clone(), NOW, &mut events));
        assert!(!sweep.cancel(ada.clone(), NOW, &mut events));
        sweep.ended(0, dead(), NOW, &mut events);
        sweep.advance(NOW, &mut events);
        sweep.advance(NOW, &mut events);
        assert!(!sweep.cancel(ada, NOW, &mut events));
        assert_eq!(events.len(), 4, "{events:?}");
    }
}
