//! The job against a model of the world: whatever agents, links, operators and clocks do, the promises hold.

use super::*;
use muster_proto::command::{Command, Program};
use muster_proto::event::Stream;
use muster_proto::id::{ClusterId, JobId};
use muster_proto::job::{TargetsDigest, Work};
use muster_proto::link::{Frame, RejectKind};
use muster_proto::outcome::{End, EndKind};
use proptest::prelude::*;

pub(super) const START: Timestamp = Timestamp::from_millis(1_000_000);

pub(super) fn spec(targets: u32, concurrency: Option<u32>) -> JobSpec {
    JobSpec {
        cluster: ClusterId::from_bytes([1; 16]),
        job: JobId::from_bytes([2; 16]),
        operator: operator(),
        created_at: START,
        start_before: START + Duration::from_secs(600),
        deliver: Duration::from_secs(30),
        targets: TargetsDigest { root: [3; 32], count: targets },
        attempts_max: 1,
        concurrency,
        work: Work::Command(Command::new(Program::Argv(vec![b"true".to_vec()]))),
    }
}

pub(super) fn operator() -> OperatorName {
    "ada".parse().expect("a name")
}

pub(super) fn exited(code: u8) -> TaskReport {
    TaskReport::Exited { frames: 0, end: End { kind: EndKind::Exit(code), duration: Duration::from_millis(3) } }
}

fn frame(number: u64, offset: u64, data: &'static [u8]) -> TaskReport {
    let body = FrameBody::Data { offset, data: data.into() };
    TaskReport::Frame(Frame { number, stream: Stream::Stdout, body })
}

/// A job with everything it ever said.
struct World {
    job: Job,
    now: Timestamp,
    seen: Effects,
}

impl World {
    fn new(targets: u32, concurrency: Option<u32>) -> Self {
        let mut seen = Effects::default();
        let job = Job::plan(spec(targets, concurrency), START, &mut seen);
        Self { job, now: START, seen }
    }

    fn all_connected(mut self) -> Self {
        for target in 0..self.job.spec.targets.count {
            self.connect(target, None);
        }
        self
    }

    fn connect(&mut self, target: u32, held: Option<Held>) -> Greeting {
        let greeting = self.job.connected(target, held, self.now, &mut self.seen);
        self.job.advance(self.now, &mut self.seen);
        greeting
    }

    fn give(&mut self, input: Input) -> Result<(), Refused> {
        let result = self.job.apply(input, self.now, &mut self.seen);
        self.job.advance(self.now, &mut self.seen);
        result
    }

    fn report(&mut self, target: u32, report: TaskReport) -> Result<(), Refused> {
        self.give(Input::Report { target, report })
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.job.advance(self.now, &mut self.seen);
    }

    fn outcome(&self, target: usize) -> Option<State> {
        self.job.tasks[target].outcome().map(|outcome| outcome.state)
    }

    fn sent(&self, wanted: Send) -> usize {
        self.seen.sends.iter().filter(|send| **send == wanted).count()
    }

    /// What must hold at any time, whatever happened.
    fn check(&self) {
        let mut ended = vec![false; self.job.tasks.len()];
        for (place, event) in self.seen.events.iter().enumerate() {
            assert_eq!(event.seq, place as u64 + 1, "seq has no holes");
            if let Some(target) = event.kind.target() {
                assert!(!ended[target as usize], "nothing follows the end of a target: {event:?}");
                ended[target as usize] |= matches!(event.kind, EventKind::Finished { .. });
            }
            if let EventKind::Done { counts } = &event.kind {
                assert_eq!(place + 1, self.seen.events.len(), "done is the last");
                assert_eq!(counts.total(), self.job.spec.targets.count, "the counts add up");
            }
        }
        let finished = ended.iter().filter(|ended| **ended).count();
        assert_eq!(self.job.counts.total() as usize, finished);
        let at_work = self.job.tasks.iter().filter(|task| task.is_at_work()).count();
        assert_eq!(self.job.at_work as usize, at_work);
        assert!(at_work <= self.job.spec.concurrency.unwrap_or(u32::MAX) as usize, "the window holds");
        self.check_replay();
    }

    /// A controller that was killed here would go on from the same state.
    fn check_replay(&self) {
        let mut twin = Job::restore(self.job.spec.clone());
        self.seen.events.iter().for_each(|event| twin.replay(event));
        assert_eq!((twin.state, twin.counts, twin.next_seq), (self.job.state, self.job.counts, self.job.next_seq));
        for (mine, its) in self.job.tasks.iter().zip(&twin.tasks) {
            assert_eq!(mine.shown_phase(), its.shown_phase());
            assert_eq!((mine.outcome(), mine.frames), (its.outcome(), its.frames));
        }
    }
}

#[test]
fn a_job_that_goes_well() {
    let mut world = World::new(2, None).all_connected();
    assert_eq!(world.sent(Send::Offer(0, Duration::from_secs(30))), 1);
    for target in 0..2 {
        world.report(target, TaskReport::Accepted).expect("fits");
        world.report(target, TaskReport::Started).expect("fits");
    }
    world.report(0, frame(0, 0, b"hello")).expect("fits");
    assert_eq!(world.sent(Send::Ack(0, 1)), 1);
    world
        .report(0, TaskReport::Exited { frames: 1, end: End { kind: EndKind::Exit(0), duration: Duration::ZERO } })
        .expect("fits");
    world.report(1, exited(3)).expect("fits");
    assert_eq!((world.outcome(0), world.outcome(1)), (Some(State::Succeeded), Some(State::Failed)));
    assert_eq!(world.job.state(), JobState::Done);
    assert_eq!(world.sent(Send::Committed(0)) + world.sent(Send::Committed(1)), 2);
    world.check();
}

#[test]
fn the_window_holds_back_and_moves_on() {
    let mut world = World::new(5, Some(2)).all_connected();
    for done in 0..5 {
        let offers = world.seen.sends.iter().filter(|send| matches!(send, Send::Offer(..))).count();
        assert_eq!(offers, (done + 2).min(5));
        let target = u32::try_from(done).expect("small");
        world.report(target, TaskReport::Started).expect("fits");
        world.report(target, exited(0)).expect("fits");
    }
    assert_eq!(world.job.state(), JobState::Done);
    world.check();
}

#[test]
fn who_is_away_is_unreachable_after_its_window_and_holds_nobody_up() {
    let mut world = World::new(2, Some(1));
    world.connect(1, None);
    assert_eq!(world.sent(Send::Offer(1, Duration::from_secs(30))), 1, "an absent host takes no room");
    world.pass(Duration::from_millis(29_999));
    assert_eq!(world.outcome(0), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.outcome(0), Some(State::Unreachable));
    world.check();
}

#[test]
fn nothing_is_offered_after_the_deadline() {
    let mut world = World::new(3, Some(1)).all_connected();
    world.pass(Duration::from_secs(600));
    assert_eq!((world.outcome(1), world.outcome(2)), (Some(State::Expired), Some(State::Expired)));
    assert_eq!(world.connect(0, None).say, Some(Say::Ask));
    world.report(0, TaskReport::Never).expect("fits");
    assert_eq!(world.outcome(0), Some(State::Expired), "the agent proved that it never had it");
    assert_eq!(world.seen.sends.len(), 1);
    world.check();
}

#[test]
fn a_lost_link_is_no_state_until_the_host_must_have_ended_it() {
    let mut world = World::new(1, None).all_connected();
    world.report(0, TaskReport::Started).expect("fits");
    world.give(Input::Disconnected { target: 0 }).expect("a fact");
    world.pass(Duration::from_secs(300));
    assert_eq!(world.outcome(0), None, "the run timeout is enforced on the host, and it may still tell");
    world.pass(Duration::from_secs(150));
    assert_eq!(world.outcome(0), Some(State::Indeterminate));
    let greeting = world.connect(0, Some(Held { started: true }));
    assert_eq!(greeting.say, Some(Say::Resume(0)), "the agent may still tell");
    world.report(0, frame(0, 0, b"ab")).expect("fits");
    assert_eq!(world.sent(Send::Ack(0, 1)), 1, "it comes to the end");
    world.report(0, frame(u64::MAX, 0, b"x")).expect("it has no effect");
    let end = End { kind: EndKind::Exit(0), duration: Duration::ZERO };
    world.report(0, TaskReport::Exited { frames: 1, end }).expect("fits");
    assert_eq!(world.outcome(0), Some(State::Indeterminate), "a terminal state never changes");
    assert_eq!(world.seen.late.len(), 1, "late evidence is kept beside it");
    assert_eq!(world.sent(Send::Committed(0)), 1);
    world.check();
}

#[test]
fn a_link_that_comes_back_resumes_from_the_first_missing_frame() {
    let mut world = World::new(1, None).all_connected();
    world.report(0, TaskReport::Started).expect("fits");
    world.report(0, frame(0, 0, b"ab")).expect("fits");
    world.give(Input::Disconnected { target: 0 }).expect("a fact");
    let greeting = world.connect(0, Some(Held { started: true }));
    assert_eq!(greeting.say, Some(Say::Resume(1)));
    world.report(0, frame(0, 0, b"ab")).expect("known frames are taken again without effect");
    world.report(0, frame(1, 2, b"c")).expect("fits");
    let outputs = world.seen.events.iter().filter(|event| matches!(event.kind, EventKind::Output { .. })).count();
    assert_eq!(outputs, 2);
    world.check();
}

#[test]
fn an_offer_that_was_lost_with_the_link_is_asked_for_and_offered_again_once_disproved() {
    let mut world = World::new(1, None).all_connected();
    world.give(Input::Disconnected { target: 0 }).expect("a fact");
    assert_eq!(world.connect(0, None).say, Some(Say::Ask));
    assert_eq!(world.sent(Send::Offer(0, Duration::from_secs(30))), 1, "not offered again without proof");
    world.report(0, TaskReport::Never).expect("fits");
    assert_eq!(world.sent(Send::Offer(0, Duration::from_secs(30))), 2);
    assert_eq!(world.report(0, TaskReport::Never), Err(Refused::Phase), "nobody asked: it would go on for ever");
    world.check();
}

#[test]
fn after_a_restart_windows_wait_for_the_fleet_to_come_back() {
    let mut world = World::new(1, None);
    let later = START + Duration::from_secs(100);
    let mut twin = Job::restore(world.job.spec.clone());
    world.seen.events.iter().for_each(|event| twin.replay(event));
    twin.resume(later);
    (world.job, world.now) = (twin, later);
    world.pass(Duration::ZERO);
    world.pass(Duration::from_secs(59));
    assert_eq!(world.outcome(0), None);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.outcome(0), Some(State::Unreachable));
    world.check();
}

#[test]
fn a_cancel_skips_who_waits_and_ends_who_runs() {
    let mut world = World::new(3, Some(2)).all_connected();
    world.report(0, TaskReport::Started).expect("fits");
    world.give(Input::Cancel { operator: operator() }).expect("a fact");
    assert_eq!(world.outcome(2), Some(State::Skipped));
    assert_eq!(world.sent(Send::Cancel(0)) + world.sent(Send::Cancel(1)), 2);
    world.report(1, TaskReport::Rejected { kind: RejectKind::Cancelled, reason: String::new() }).expect("fits");
    let end = End { kind: EndKind::Cancelled, duration: Duration::ZERO };
    world.report(0, TaskReport::Exited { frames: 0, end }).expect("fits");
    assert_eq!((world.outcome(0), world.outcome(1)), (Some(State::Cancelled), Some(State::Skipped)));
    assert_eq!(world.job.state(), JobState::Done);
    world.give(Input::Cancel { operator: operator() }).expect("a fact");
    world.check();
}

#[test]
fn lies_change_nothing() {
    let mut world = World::new(2, Some(1)).all_connected();
    assert_eq!(world.report(1, TaskReport::Started), Err(Refused::Phase), "it was never offered");
    assert_eq!(world.report(7, TaskReport::Started), Err(Refused::Phase), "there is no such target");
    assert_eq!(world.report(0, exited(0)), Err(Refused::Phase), "it never started");
    world.report(0, TaskReport::Started).expect("fits");
    assert_eq!(world.report(0, frame(1, 0, b"x")), Err(Refused::Hole));
    assert_eq!(world.report(0, frame(0, 5, b"x")), Err(Refused::Offset));
    assert_eq!(
        world
            .report(0, TaskReport::Exited { frames: 1, end: End { kind: EndKind::Exit(0), duration: Duration::ZERO } }),
        Err(Refused::Hole)
    );
    assert_eq!(
        world.report(0, TaskReport::Rejected { kind: RejectKind::Refused, reason: String::new() }),
        Err(Refused::Phase)
    );
    assert_eq!(world.job.counts().total(), 0);
    world.check();
}

#[test]
fn a_flood_over_the_signed_limit_is_refused() {
    let mut world = World::new(1, None).all_connected();
    world.report(0, TaskReport::Started).expect("fits");
    let piece = bytes::Bytes::from(vec![0; 64 << 10]);
    let mut number = 0;
    let refused = loop {
        let body = FrameBody::Data { offset: number * (64 << 10), data: piece.clone() };
        let frame = Frame { number, stream: Stream::Stdout, body };
        if let Err(refused) = world.report(0, TaskReport::Frame(frame)) {
            break refused;
        }
        number += 1;
    };
    assert_eq!(refused, Refused::Limit);
    assert_eq!(number * (64 << 10), limits::OUTPUT_HEAD_BYTES + limits::OUTPUT_TAIL_BYTES);
}

#[test]
fn gaps_are_few_and_never_empty() {
    let gap = |number, bytes| {
        TaskReport::Frame(Frame { number, stream: Stream::Stderr, body: FrameBody::Truncated { bytes } })
    };
    let mut world = World::new(1, None).all_connected();
    world.report(0, TaskReport::Started).expect("fits");
    assert_eq!(world.report(0, gap(0, 0)), Err(Refused::Limit));
    for number in 0..4 {
        world.report(0, gap(number, 1)).expect("fits");
    }
    assert_eq!(world.report(0, gap(4, 1)), Err(Refused::Limit));
}

#[test]
fn a_stopped_job_starts_nothing_more_and_ends_nothing() {
    let mut world = World::new(5, Some(3)).all_connected();
    world.report(1, TaskReport::Accepted).expect("fits");
    world.report(2, TaskReport::Started).expect("fits");
    world.give(Input::Stop { reason: "bob was disabled".into() }).expect("a fact");
    assert_eq!((world.outcome(3), world.outcome(4)), (Some(State::Skipped), Some(State::Skipped)));
    assert_eq!([0, 1, 2].map(|target| world.sent(Send::Withdraw(target))), [1, 1, 0], "what runs goes on");
    // It has not come yet, it waits on the host, and it runs.
    world.give(Input::Disconnected { target: 0 }).expect("a fact");
    world.connect(0, None);
    world.report(0, TaskReport::Never).expect("fits");
    let kind = RejectKind::Cancelled;
    world.report(1, TaskReport::Rejected { kind, reason: "cancelled".into() }).expect("fits");
    world.report(2, exited(0)).expect("fits");
    assert_eq!((world.outcome(0), world.outcome(2)), (Some(State::Skipped), Some(State::Succeeded)));
    let reason = world.job.tasks[1].outcome().and_then(|outcome| outcome.reason.as_deref());
    assert_eq!(reason, Some("bob was disabled"));
    world.check();
}

#[test]
fn a_quarantined_agent_is_away_and_the_reason_says_so() {
    let mut world = World::new(2, None);
    world.give(Input::Quarantined { target: 0 }).expect("a fact");
    world.give(Input::Quarantined { target: 1 }).expect("a fact");
    world.give(Input::Released { target: 1 }).expect("a fact");
    world.connect(1, None);
    assert_eq!(world.sent(Send::Offer(1, Duration::from_secs(30))), 1, "what was resolved in time goes on");
    world.pass(Duration::from_secs(31));
    let outcome = world.job.tasks[0].outcome().expect("its window closed");
    assert_eq!(outcome.state, State::Unreachable);
    assert!(outcome.reason.as_deref().is_some_and(|reason| reason.contains("muster agents resolve")), "{outcome:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Connect(u32, Option<Held>),
    Give(Input),
    Pass(Duration),
}

fn step(targets: u32) -> impl Strategy<Value = Step> {
    let report = prop_oneof![
        Just(TaskReport::Accepted),
        Just(TaskReport::Started),
        Just(TaskReport::Never),
        (0..3_u8).prop_map(exited),
        (0..3_u64, 0..6_u64).prop_map(|(number, offset)| frame(number, offset, b"ab")),
        (0..3_u64, 0..3_u64).prop_map(|(number, bytes)| TaskReport::Frame(Frame {
            number,
            stream: Stream::Stdout,
            body: FrameBody::Truncated { bytes }
        })),
        prop_oneof![Just(RejectKind::Refused), Just(RejectKind::Expired), Just(RejectKind::Cancelled)]
            .prop_map(|kind| TaskReport::Rejected { kind, reason: "no".into() }),
        (0..3_u64).prop_map(|frames| TaskReport::Exited {
            frames,
            end: End { kind: EndKind::Lost("gone".into()), duration: Duration::ZERO }
        }),
    ];
    let target = 0..targets;
    prop_oneof![
        6 => (target.clone(), report).prop_map(|(target, report)| Step::Give(Input::Report { target, report })),
        3 => (target.clone(), prop::option::of(any::<bool>())).prop_map(|(target, started)| {
            Step::Connect(target, started.map(|started| Held { started }))
        }),
        1 => target.clone().prop_map(|target| Step::Give(Input::Disconnected { target })),
        1 => target.clone().prop_map(|target| Step::Give(Input::Quarantined { target })),
        1 => target.clone().prop_map(|target| Step::Give(Input::Released { target })),
        1 => target.prop_map(|target| Step::Give(Input::Revoked { target })),
        1 => Just(Step::Give(Input::Stop { reason: "no more".into() })),
        1 => Just(Step::Give(Input::Cancel { operator: operator() })),
        2 => (0..400_u64).prop_map(|seconds| Step::Pass(Duration::from_secs(seconds))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens_every_target_ends_once_and_the_counts_add_up(
        window in prop::option::of(1..4_u32),
        steps in prop::collection::vec(step(4), 0..60),
    ) {
        let mut world = World::new(4, window);
        for step in steps {
            let offers = world.seen.sends.len();
            match step {
                Step::Connect(target, held) => { world.connect(target, held); }
                Step::Give(input) => { let _ = world.give(input); }
                Step::Pass(time) => world.pass(time),
            }
            if world.now >= world.job.spec.start_before {
                let late = world.seen.sends[offers..].iter().any(|send| matches!(send, Send::Offer(..)));
                prop_assert!(!late, "nothing is offered after the deadline");
            }
            world.check();
        }
        while let Some(at) = world.job.wake_at() {
            let before = world.job.counts.total();
            world.pass(world.now.until(at).max(Duration::from_millis(1)));
            prop_assert!(world.job.counts.total() >= before);
        }
        world.check();
        prop_assert_eq!(world.job.state(), JobState::Done, "time alone ends every job");
    }
}

/// Every order of up to four facts about one target, as the agent, the link, the operator and the clock could bring
/// them: 12^4 histories with all their beginnings, each step across a restart.
#[test]
fn every_short_history_keeps_the_promises() {
    fn walk(world: &World, depth: usize, count: &mut usize) {
        *count += 1;
        world.check();
        if depth == 0 {
            return;
        }
        let end = End { kind: EndKind::Lost("gone".into()), duration: Duration::ZERO };
        let reports = [
            TaskReport::Accepted,
            TaskReport::Started,
            frame(0, 0, b"ab"),
            exited(0),
            TaskReport::Exited { frames: 1, end },
            TaskReport::Never,
            TaskReport::Rejected { kind: RejectKind::Refused, reason: String::new() },
        ];
        let reports = reports.map(|report| Step::Give(Input::Report { target: 0, report }));
        let others = [
            Step::Connect(0, None),
            Step::Connect(0, Some(Held { started: true })),
            Step::Give(Input::Disconnected { target: 0 }),
            Step::Give(Input::Cancel { operator: operator() }),
            Step::Pass(Duration::from_secs(700)),
        ];
        for step in reports.into_iter().chain(others) {
            let mut next = World::new(1, None);
            replay_into(&mut next, world);
            match step {
                Step::Connect(target, held) => {
                    next.connect(target, held);
                }
                Step::Give(input) => {
                    let _ = next.give(input);
                }
                Step::Pass(time) => next.pass(time),
            }
            walk(&next, depth - 1, count);
        }
    }
    /// A copy by way of what is stored, with the contact and the windows that are not: each step crosses a restart.
    fn replay_into(next: &mut World, world: &World) {
        next.job = Job::restore(world.job.spec.clone());
        world.seen.events.iter().for_each(|event| next.job.replay(event));
        next.job.turn = world.job.turn;
        next.job.deadline_passed = world.job.deadline_passed;
        next.job.ready.clone_from(&world.job.ready);
        next.job.timers.clone_from(&world.job.timers);
        for (its, mine) in next.job.tasks.iter_mut().zip(&world.job.tasks) {
            its.clone_from(mine);
        }
        next.now = world.now;
        next.seen.events = world.seen.events.clone();
    }
    let mut count = 0;
    walk(&World::new(1, None), 4, &mut count);
    assert!(count > 12_usize.pow(4));
}
