//! The job against a small world: what agents, links, operators and clocks do is said step by step.

mod gates;
mod pauses;
pub(super) mod random;
mod retries;
mod rollout;

use super::*;
use muster_proto::command::{Command, OutputLimit, Program};
use muster_proto::event::{GateStep, Stream};
use muster_proto::id::{Attempt, ClusterId, JobId};
use muster_proto::job::{TargetsDigest, Work};
use muster_proto::link::{Frame, FrameBody, RejectKind, TaskReport};
use muster_proto::name::OperatorName;
use muster_proto::outcome::{End, EndKind, State};
use muster_proto::rollout::Rollout;

pub(super) const START: Timestamp = Timestamp::from_millis(1_000_000);

pub(super) fn spec(targets: u32, rollout: Rollout) -> JobSpec {
    JobSpec {
        cluster: ClusterId::from_bytes([1; 16]),
        job: JobId::from_bytes([2; 16]),
        operator: operator(),
        created_at: START,
        start_before: START + Duration::from_secs(600),
        deliver: Duration::from_secs(30),
        targets: TargetsDigest { root: [3; 32], count: targets },
        rollout,
        rerun_of: None,
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

const STARTED: Held = Held { attempt: Attempt::FIRST, started: true };

const fn first(target: u32) -> TaskRef {
    TaskRef { target, attempt: Attempt::FIRST }
}

const fn second(target: u32) -> TaskRef {
    TaskRef { target, attempt: Attempt(2) }
}

const fn gate(target: u32) -> TaskRef {
    TaskRef::gate(target)
}

fn shell(line: &str) -> Command {
    Command { output: OutputLimit::GATE, ..Command::new(Program::Argv(vec![line.as_bytes().to_vec()])) }
}

/// A job with everything it ever said.
struct World {
    job: Job,
    now: Timestamp,
    seen: Effects,
}

impl World {
    fn new(targets: u32, rollout: Rollout) -> Self {
        let mut seen = Effects::default();
        let job = Job::plan(spec(targets, rollout), START, &mut seen);
        Self { job, now: START, seen }
    }

    fn all_connected(mut self) -> Self {
        for target in 0..self.job.spec.targets.count {
            self.job.connected(target, &[], self.now, &mut self.seen);
        }
        self.pass(Duration::ZERO);
        self
    }

    fn connect(&mut self, target: u32, held: &[Held]) -> Vec<(TaskRef, Option<Say>)> {
        let greetings = self.job.connected(target, held, self.now, &mut self.seen);
        self.job.advance(self.now, &mut self.seen);
        greetings.into_iter().map(|greeting| (greeting.task, greeting.say)).collect()
    }

    fn give(&mut self, input: Input) -> Result<(), Refused> {
        let result = self.job.apply(input, self.now, &mut self.seen);
        self.job.advance(self.now, &mut self.seen);
        result
    }

    fn fact(&mut self, input: Input) {
        self.give(input).expect("a fact");
    }

    /// Of the current attempt.
    fn report(&mut self, target: u32, report: TaskReport) -> Result<(), Refused> {
        let attempt = self.job.hosts.get(target as usize).map_or(Attempt::FIRST, Host::attempt);
        self.say(TaskRef { target, attempt }, report)
    }

    fn say(&mut self, task: TaskRef, report: TaskReport) -> Result<(), Refused> {
        self.give(Input::Report { task, report })
    }

    /// The task starts and exits with this code.
    fn run(&mut self, task: TaskRef, code: u8) {
        self.say(task, TaskReport::Started).expect("it was offered");
        self.say(task, exited(code)).expect("it started");
    }

    fn reject(&mut self, task: TaskRef) {
        self.say(task, TaskReport::Rejected { kind: RejectKind::Refused, reason: "no".into() })
            .expect("it was offered");
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.job.advance(self.now, &mut self.seen);
    }

    fn pass_secs(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    fn pause(&mut self) {
        self.fact(Input::Pause { operator: operator() });
    }

    fn resume(&mut self) {
        self.fact(Input::Resume { operator: operator() });
    }

    /// The controller is killed, and comes back with all its agents away.
    fn restart(&mut self) {
        let mut twin = Job::restore(self.job.spec.clone()).with_names(Arc::clone(&self.job.names));
        self.seen.events.iter().for_each(|event| twin.replay(event));
        twin.resume(self.now);
        self.job = twin;
        self.pass(Duration::ZERO);
    }

    fn outcome(&self, target: usize) -> Option<State> {
        self.job.hosts[target].outcome().map(|outcome| outcome.state)
    }

    fn reason(&self, target: usize) -> &str {
        self.job.hosts[target].outcome().and_then(|outcome| outcome.reason.as_deref()).unwrap_or("")
    }

    fn sent(&self, wanted: Send) -> usize {
        self.seen.sends.iter().filter(|send| **send == wanted).count()
    }

    /// The tasks that were offered, in order.
    fn offers(&self) -> Vec<TaskRef> {
        let offers = self.seen.sends.iter().filter_map(|send| match send {
            Send::Offer(task, _) => Some(*task),
            _ => None,
        });
        offers.collect()
    }

    fn paused(&self) -> Option<&str> {
        self.job.pause().map(|pause| pause.reason.as_str())
    }

    /// What must hold at any time, whatever happened.
    fn check(&self) {
        let mut ended = vec![false; self.job.hosts.len()];
        for (place, event) in self.seen.events.iter().enumerate() {
            assert_eq!(event.seq, place as u64 + 1, "seq has no holes");
            if let Some(target) = event.kind.target() {
                let gate = matches!(event.kind, EventKind::Gate { .. });
                assert_eq!(ended[target as usize], gate, "only a gate follows the end of a target: {event:?}");
                ended[target as usize] |= matches!(event.kind, EventKind::Finished { .. });
            }
            if let EventKind::Done { counts } = &event.kind {
                assert_eq!(place + 1, self.seen.events.len(), "done is the last");
                assert_eq!(counts.total(), self.job.spec.targets.count, "the counts add up");
            }
        }
        let finished = ended.iter().filter(|ended| **ended).count();
        assert_eq!(self.job.counts.total() as usize, finished);
        let at_work: u32 = self.job.hosts.iter().map(Host::at_work).sum();
        assert_eq!(self.job.at_work, at_work);
        assert!(at_work <= self.job.spec.rollout.concurrency.unwrap_or(u32::MAX), "the window holds");
        let idle = at_work == 0 && self.job.is_ending(self.now);
        assert!(!idle || self.job.state() == JobState::Done, "a job that ends and has nothing at work is done");
        let offers = self.seen.events.iter().filter(|event| {
            matches!(event.kind, EventKind::Offered { .. } | EventKind::Gate { step: GateStep::Offered, .. })
        });
        assert_eq!(offers.count(), self.offers().len(), "an offer is an event before it is sent");
        self.check_replay();
    }

    /// A controller that was killed here would go on from the same state.
    fn check_replay(&self) {
        let mut twin = Job::restore(self.job.spec.clone());
        self.seen.events.iter().for_each(|event| twin.replay(event));
        assert_eq!((twin.state(), twin.counts, twin.next_seq), (self.job.state(), self.job.counts, self.job.next_seq));
        assert_eq!((&twin.paused, &twin.stopping), (&self.job.paused, &self.job.stopping));
        assert_eq!((twin.wave, twin.at_work), (self.job.wave, self.job.at_work));
        for (mine, its) in self.job.hosts.iter().zip(&twin.hosts) {
            assert_eq!((mine.attempt, &mine.ended, &mine.ran), (its.attempt, &its.ended, &its.ran));
            assert_eq!((mine.shown_phase(), mine.queued), (its.shown_phase(), its.queued));
            assert_eq!((mine.outcome(), mine.task.frames), (its.outcome(), its.task.frames));
            let gate = |host: &Host| host.gate().map(|gate| (gate.shown_phase(), gate.outcome().cloned(), gate.frames));
            let planned = (muster_proto::job::Phase::Planned, None, 0);
            assert_eq!(gate(mine).unwrap_or(planned.clone()), gate(its).unwrap_or(planned));
        }
    }
}

#[test]
fn a_job_that_goes_well() {
    let mut world = World::new(2, Rollout::default()).all_connected();
    assert_eq!(world.sent(Send::Offer(first(0), Duration::from_secs(30))), 1);
    for target in 0..2 {
        world.report(target, TaskReport::Accepted).expect("fits");
        world.report(target, TaskReport::Started).expect("fits");
    }
    world.report(0, frame(0, 0, b"hello")).expect("fits");
    assert_eq!(world.sent(Send::Ack(first(0), 1)), 1);
    world
        .report(0, TaskReport::Exited { frames: 1, end: End { kind: EndKind::Exit(0), duration: Duration::ZERO } })
        .expect("fits");
    world.report(1, exited(3)).expect("fits");
    assert_eq!((world.outcome(0), world.outcome(1)), (Some(State::Succeeded), Some(State::Failed)));
    assert_eq!(world.job.state(), JobState::Done);
    assert_eq!(world.sent(Send::Committed(first(0))) + world.sent(Send::Committed(first(1))), 2);
    world.check();
}

#[test]
fn the_window_holds_back_and_moves_on() {
    let mut world = World::new(5, Rollout { concurrency: Some(2), ..Rollout::default() }).all_connected();
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
    let mut world = World::new(2, Rollout { concurrency: Some(1), ..Rollout::default() });
    world.connect(1, &[]);
    assert_eq!(world.sent(Send::Offer(first(1), Duration::from_secs(30))), 1, "an absent host takes no room");
    world.pass(Duration::from_millis(29_999));
    assert_eq!(world.outcome(0), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.outcome(0), Some(State::Unreachable));
    world.check();
}

#[test]
fn nothing_is_offered_after_the_deadline() {
    let mut world = World::new(3, Rollout { concurrency: Some(1), ..Rollout::default() }).all_connected();
    world.pass(Duration::from_secs(600));
    assert_eq!((world.outcome(1), world.outcome(2)), (Some(State::Expired), Some(State::Expired)));
    assert_eq!(world.connect(0, &[]), [(first(0), Some(Say::Ask))]);
    world.report(0, TaskReport::Never).expect("fits");
    assert_eq!(world.outcome(0), Some(State::Expired), "the agent proved that it never had it");
    assert_eq!(world.seen.sends.len(), 1);
    world.check();
}

#[test]
fn a_lost_link_is_no_state_until_the_host_must_have_ended_it() {
    let mut world = World::new(1, Rollout::default()).all_connected();
    world.report(0, TaskReport::Started).expect("fits");
    world.give(Input::Disconnected { target: 0 }).expect("a fact");
    world.pass(Duration::from_secs(300));
    assert_eq!(world.outcome(0), None, "the run timeout is enforced on the host, and it may still tell");
    world.pass(Duration::from_secs(150));
    assert_eq!(world.outcome(0), Some(State::Indeterminate));
    let greeting = world.connect(0, &[STARTED]);
    assert_eq!(greeting, [(first(0), Some(Say::Resume(0)))], "the agent may still tell");
    world.report(0, frame(0, 0, b"ab")).expect("fits");
    assert_eq!(world.sent(Send::Ack(first(0), 1)), 1, "it comes to the end");
    world.report(0, frame(u64::MAX, 0, b"x")).expect("it has no effect");
    let end = End { kind: EndKind::Exit(0), duration: Duration::ZERO };
    world.report(0, TaskReport::Exited { frames: 1, end }).expect("fits");
    assert_eq!(world.outcome(0), Some(State::Indeterminate), "a terminal state never changes");
    assert_eq!(world.seen.late.len(), 1, "late evidence is kept beside it");
    assert_eq!(world.sent(Send::Committed(first(0))), 1);
    world.check();
}

#[test]
fn a_link_that_comes_back_resumes_from_the_first_missing_frame() {
    let mut world = World::new(1, Rollout::default()).all_connected();
    world.report(0, TaskReport::Started).expect("fits");
    world.report(0, frame(0, 0, b"ab")).expect("fits");
    world.give(Input::Disconnected { target: 0 }).expect("a fact");
    let greeting = world.connect(0, &[STARTED]);
    assert_eq!(greeting, [(first(0), Some(Say::Resume(1)))]);
    world.report(0, frame(0, 0, b"ab")).expect("known frames are taken again without effect");
    world.report(0, frame(1, 2, b"c")).expect("fits");
    let outputs = world.seen.events.iter().filter(|event| matches!(event.kind, EventKind::Output { .. })).count();
    assert_eq!(outputs, 2);
    world.check();
}

#[test]
fn a_link_that_flaps_leaves_no_timers_behind() {
    let mut world = World::new(1, Rollout::default()).all_connected();
    world.report(0, TaskReport::Started).expect("fits");
    for _ in 0..100 {
        world.fact(Input::Disconnected { target: 0 });
        world.connect(0, &[STARTED]);
        world.pass_secs(1);
    }
    assert!(world.job.timers.len() < 5, "{:?}", world.job.timers);
}

#[test]
fn an_offer_that_was_lost_with_the_link_is_asked_for_and_offered_again_once_disproved() {
    let mut world = World::new(1, Rollout::default()).all_connected();
    world.give(Input::Disconnected { target: 0 }).expect("a fact");
    assert_eq!(world.connect(0, &[]), [(first(0), Some(Say::Ask))]);
    assert_eq!(world.sent(Send::Offer(first(0), Duration::from_secs(30))), 1, "not offered again without proof");
    world.report(0, TaskReport::Never).expect("fits");
    assert_eq!(world.sent(Send::Offer(first(0), Duration::from_secs(30))), 2);
    assert_eq!(world.report(0, TaskReport::Never), Err(Refused::Phase), "nobody asked: it would go on for ever");
    world.check();
}

#[test]
fn after_a_restart_windows_wait_for_the_fleet_to_come_back() {
    let mut world = World::new(1, Rollout::default());
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
    let mut world = World::new(3, Rollout { concurrency: Some(2), ..Rollout::default() }).all_connected();
    world.report(0, TaskReport::Started).expect("fits");
    world.give(Input::Cancel { operator: operator() }).expect("a fact");
    assert_eq!(world.outcome(2), Some(State::Skipped));
    assert_eq!(world.sent(Send::Cancel(first(0))) + world.sent(Send::Cancel(first(1))), 2);
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
    let mut world = World::new(2, Rollout { concurrency: Some(1), ..Rollout::default() }).all_connected();
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
    let mut world = World::new(1, Rollout::default()).all_connected();
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
    let mut world = World::new(1, Rollout::default()).all_connected();
    world.report(0, TaskReport::Started).expect("fits");
    assert_eq!(world.report(0, gap(0, 0)), Err(Refused::Limit));
    for number in 0..4 {
        world.report(0, gap(number, 1)).expect("fits");
    }
    assert_eq!(world.report(0, gap(4, 1)), Err(Refused::Limit));
}

#[test]
fn a_stopped_job_starts_nothing_more_and_ends_nothing() {
    let mut world = World::new(5, Rollout { concurrency: Some(3), ..Rollout::default() }).all_connected();
    world.report(1, TaskReport::Accepted).expect("fits");
    world.report(2, TaskReport::Started).expect("fits");
    world.give(Input::Stop { reason: "bob was disabled".into() }).expect("a fact");
    assert_eq!((world.outcome(3), world.outcome(4)), (Some(State::Skipped), Some(State::Skipped)));
    assert_eq!([0, 1, 2].map(|target| world.sent(Send::Withdraw(first(target)))), [1, 1, 0], "what runs goes on");
    // It has not come yet, it waits on the host, and it runs.
    world.give(Input::Disconnected { target: 0 }).expect("a fact");
    world.connect(0, &[]);
    world.report(0, TaskReport::Never).expect("fits");
    let kind = RejectKind::Cancelled;
    world.report(1, TaskReport::Rejected { kind, reason: "cancelled".into() }).expect("fits");
    world.report(2, exited(0)).expect("fits");
    assert_eq!((world.outcome(0), world.outcome(2)), (Some(State::Skipped), Some(State::Succeeded)));
    let reason = world.job.hosts[1].outcome().and_then(|outcome| outcome.reason.as_deref());
    assert_eq!(reason, Some("bob was disabled"));
    world.check();
}

#[test]
fn a_quarantined_agent_is_away_and_the_reason_says_so() {
    let mut world = World::new(2, Rollout::default());
    world.give(Input::Quarantined { target: 0 }).expect("a fact");
    world.give(Input::Quarantined { target: 1 }).expect("a fact");
    world.give(Input::Released { target: 1 }).expect("a fact");
    world.connect(1, &[]);
    assert_eq!(world.sent(Send::Offer(first(1), Duration::from_secs(30))), 1, "what was resolved in time goes on");
    world.pass(Duration::from_secs(31));
    let outcome = world.job.hosts[0].outcome().expect("its window closed");
    assert_eq!(outcome.state, State::Unreachable);
    assert!(outcome.reason.as_deref().is_some_and(|reason| reason.contains("muster agents resolve")), "{outcome:?}");
}
