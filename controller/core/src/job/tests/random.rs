//! Random rollouts and random facts, and every short history: the invariants hold, whatever happens.

use super::*;
use muster_proto::rollout::{MaxFail, Offline};
use proptest::prelude::*;

const TARGETS: u32 = 5;

#[derive(Debug, Clone)]
enum Step {
    Connect(u32, Vec<Held>),
    Give(Input),
    Pass(Duration),
    Restart,
}

fn report() -> impl Strategy<Value = TaskReport> {
    let lost = |frames| TaskReport::Exited {
        frames,
        end: End { kind: EndKind::Lost("gone".into()), duration: Duration::ZERO },
    };
    let truncated = |(number, bytes)| {
        TaskReport::Frame(Frame { number, stream: Stream::Stdout, body: FrameBody::Truncated { bytes } })
    };
    let kinds = prop_oneof![Just(RejectKind::Refused), Just(RejectKind::Expired), Just(RejectKind::Cancelled)];
    prop_oneof![
        2 => Just(TaskReport::Accepted),
        6 => Just(TaskReport::Started),
        2 => Just(TaskReport::Never),
        6 => (0..3_u8).prop_map(exited),
        1 => (0..3_u64, 0..6_u64).prop_map(|(number, offset)| frame(number, offset, b"ab")),
        1 => (0..3_u64, 0..3_u64).prop_map(truncated),
        2 => kinds.prop_map(|kind| TaskReport::Rejected { kind, reason: "no".into() }),
        1 => (0..3_u64).prop_map(lost),
    ]
}

fn attempt() -> impl Strategy<Value = Attempt> {
    prop_oneof![2 => Just(Attempt::GATE), 4 => Just(Attempt::FIRST), 2 => Just(Attempt(2)), 1 => Just(Attempt(3))]
}

fn step() -> impl Strategy<Value = Step> {
    let target = 0..TARGETS;
    let task = (target.clone(), attempt()).prop_map(|(target, attempt)| TaskRef { target, attempt });
    let held = (attempt(), any::<bool>()).prop_map(|(attempt, started)| Held { attempt, started });
    prop_oneof![
        12 => (task, report()).prop_map(|(task, report)| Step::Give(Input::Report { task, report })),
        5 => (target.clone(), prop::collection::vec(held, 0..3)).prop_map(|(target, held)| Step::Connect(target, held)),
        1 => target.clone().prop_map(|target| Step::Give(Input::Disconnected { target })),
        1 => target.clone().prop_map(|target| Step::Give(Input::Quarantined { target })),
        1 => target.clone().prop_map(|target| Step::Give(Input::Released { target })),
        1 => target.prop_map(|target| Step::Give(Input::Revoked { target })),
        1 => Just(Step::Give(Input::Pause { operator: operator() })),
        3 => Just(Step::Give(Input::Resume { operator: operator() })),
        1 => prop::bool::weighted(0.3).prop_map(|stop| Step::Give(match stop {
            true => Input::Stop { reason: "no more".into() },
            false => Input::Cancel { operator: operator() },
        })),
        1 => Just(Step::Restart),
        3 => prop_oneof![0..5_u64, 20..60_u64, 100..400_u64].prop_map(|secs| Step::Pass(Duration::from_secs(secs))),
    ]
}

fn rollout() -> impl Strategy<Value = Rollout> {
    let seconds = |range: std::ops::Range<u64>| range.prop_map(Duration::from_secs);
    let offline = prop_oneof![
        2 => Just(Offline::Window),
        1 => Just(Offline::Skip),
        1 => seconds(1..100).prop_map(Offline::Wait),
        2 => seconds(1..700).prop_map(Offline::Queue),
    ];
    let max_fail = prop_oneof![(1..4_u32).prop_map(MaxFail::Hosts), (1..101_u32).prop_map(MaxFail::Percent)];
    let waves = prop_oneof![1 => Just(Vec::new()), 3 => prop::collection::vec(1..4_u32, 1..3)];
    let between = (prop_oneof![Just(Duration::ZERO), seconds(1..40)], any::<bool>());
    let splay = prop_oneof![3 => Just(Duration::ZERO), 1 => seconds(1..40)];
    let concurrency = prop::option::of(1..4_u32);
    let tries = (0..3_u32, 0..2_u32);
    (concurrency, waves, between, prop::option::of(max_fail), splay, tries, offline).prop_map(
        |(concurrency, waves, (wave_pause, gate), max_fail, splay, (retries, retry_failed), offline)| Rollout {
            concurrency,
            gate: (gate && !waves.is_empty()).then(|| shell("check")),
            wave_pause: if waves.is_empty() { Duration::ZERO } else { wave_pause },
            waves,
            max_fail,
            splay,
            retries,
            retry_failed,
            offline,
        },
    )
}

/// What the story as a whole promises, told from the events alone.
pub(in super::super) struct Told {
    paused: bool,
    looked: bool,
    ending: bool,
    /// Behind the last target of the wave that began last, and its first.
    wave: (u32, u32),
    attempt: Vec<u32>,
    ended: Vec<Vec<State>>,
    over: Vec<Option<State>>,
    queued: Vec<bool>,
    gate: Vec<Option<State>>,
}

impl Told {
    pub(in super::super) fn check(spec: &JobSpec, events: &[Event]) {
        let count = spec.targets.count as usize;
        let waves = !spec.rollout.waves.is_empty();
        let mut told = Self {
            paused: false,
            looked: false,
            ending: false,
            wave: if waves { (0, 0) } else { (0, spec.targets.count) },
            attempt: vec![1; count],
            ended: vec![Vec::new(); count],
            over: vec![None; count],
            queued: vec![false; count],
            gate: vec![None; count],
        };
        for event in events {
            told.take(event, &spec.rollout);
            let late = event.time >= spec.start_before;
            assert!(!(late && is_offer(&event.kind)), "nothing is offered after the deadline: {event:?}");
        }
    }

    fn take(&mut self, event: &Event, rollout: &Rollout) {
        let place = event.kind.target().unwrap_or(0);
        let target = place as usize;
        if is_offer(&event.kind) {
            assert!(!self.paused && !self.ending, "nothing is offered while paused or ending: {event:?}");
            assert!(place < self.wave.1, "nobody is offered anything before their wave: {event:?}");
        }
        match &event.kind {
            EventKind::Wave { first, targets, .. } => {
                assert!(!self.ending, "no wave begins in a job that ends: {event:?}");
                self.begin_wave(*first, *targets, rollout);
            }
            EventKind::Offered { .. } => self.queued[target] = false,
            EventKind::Queued { .. } => self.queued[target] = true,
            EventKind::Retrying { attempt, outcome, at, .. } => {
                assert!(!self.ending && *at > event.time, "no attempt follows in a job that ends: {event:?}");
                self.ended[target].push(outcome.state);
                assert!(rollout.allows_another(&self.ended[target]), "{event:?} after {:?}", self.ended[target]);
                self.attempt[target] += 1;
                self.queued[target] = false;
                assert_eq!(attempt.0, self.attempt[target]);
            }
            EventKind::Finished { outcome, .. } => {
                self.over[target] = Some(outcome.state);
                let ran = self.ended[target].iter().any(|state| !state.is_not_run());
                assert!(!(ran && outcome.state.is_not_run()), "something ran: {event:?}");
            }
            EventKind::Gate { step, .. } => {
                let ran = self.over[target].is_some_and(|state| !state.is_not_run());
                assert!(ran, "a gate is for hosts where the command ran: {event:?}");
                if let GateStep::Finished { outcome } = step {
                    self.gate[target] = Some(outcome.state);
                }
            }
            EventKind::Paused { operator, .. } => (self.paused, self.looked) = (true, operator.is_none()),
            EventKind::Resumed { .. } => self.paused = false,
            EventKind::Stopping { .. } | EventKind::Cancelling { .. } => (self.ending, self.paused) = (true, false),
            _ => {}
        }
    }

    fn begin_wave(&mut self, first: u32, targets: u32, rollout: &Rollout) {
        assert_eq!(first, self.wave.1, "a wave begins where the one before it ends");
        let before = self.wave.0 as usize..self.wave.1 as usize;
        let open = before.clone().filter(|target| self.over[*target].is_none() && !self.queued[*target]);
        // Who came out of the queue after its wave was over does not hold up the next.
        let open: Vec<usize> = open.filter(|_| !matches!(rollout.offline, Offline::Queue(_))).collect();
        assert!(open.is_empty(), "{open:?} were open when the next wave began");
        if rollout.gate.is_some() && !self.looked {
            let ended_well =
                before.clone().filter_map(|target| self.gate[target]).all(|state| state == State::Succeeded);
            assert!(ended_well, "a gate failed, and nobody had looked");
        }
        let ran = before.filter_map(|target| self.over[target]).any(State::ran_to_end);
        assert!(ran || self.looked || first == 0, "a wave that proved nothing, and nobody had looked");
        (self.wave, self.looked) = ((first, first + targets), false);
    }
}

const fn is_offer(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Offered { .. } | EventKind::Gate { step: GateStep::Offered, .. })
}

fn walk(world: &mut World, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Connect(target, held) => drop(world.connect(target, &held)),
            Step::Give(input) => drop(world.give(input)),
            Step::Pass(time) => world.pass(time),
            Step::Restart => world.restart(),
        }
        world.check();
        assert!(world.job.done_at().is_some() || world.job.wake_at().is_some(), "somebody looks at it again");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_happens_every_target_ends_once_and_the_counts_add_up(
        rollout in rollout(),
        steps in prop::collection::vec(step(), 0..80),
    ) {
        prop_assert_eq!(rollout.check(), Ok(()));
        let mut world = World::new(TARGETS, rollout).all_connected();
        walk(&mut world, steps);
        while let Some(at) = world.job.wake_at() {
            let before = world.job.counts.total();
            world.pass(world.now.until(at));
            prop_assert!(world.job.wake_at().is_none_or(|next| next > world.now), "it does not spin");
            prop_assert!(world.job.counts.total() >= before);
        }
        world.check();
        Told::check(&world.job.spec, &world.seen.events);
        prop_assert_eq!(world.job.state(), JobState::Done, "time alone ends every job");
    }

    #[test]
    fn with_agents_that_obey_a_job_goes_to_its_end_or_waits_for_an_operator(
        rollout in rollout(),
        codes in prop::collection::vec(prop_oneof![3 => Just(Some(0_u8)), 1 => Just(Some(1)), 1 => Just(None)], 1..20),
        resumes in any::<bool>(),
    ) {
        let mut world = World::new(TARGETS, rollout).all_connected();
        let mut codes = codes.into_iter().cycle();
        let mut answered = 0;
        for _ in 0..200 {
            while let Some(&task) = world.offers().get(answered) {
                answered += 1;
                match codes.next().flatten() {
                    Some(code) => world.run(task, code),
                    None => world.reject(task),
                }
            }
            match world.job.wake_at() {
                _ if world.job.state() == JobState::Paused && resumes => world.resume(),
                _ if world.job.state() == JobState::Paused => break,
                Some(at) => world.pass(world.now.until(at)),
                None => break,
            }
        }
        world.check();
        Told::check(&world.job.spec, &world.seen.events);
        let by_itself = world.job.pause().is_some_and(|pause| pause.operator.is_none());
        prop_assert!(world.job.state() == JobState::Done || by_itself && !resumes);
        prop_assert!(world.now < world.job.spec.start_before, "nobody waited for the deadline");
    }
}
