//! The job machine against a whole small world: a controller that crashes, links that break and lose what was on their
//! way, agents that keep a journal as ours do, an operator, a clock. Every order of events is walked, breadth first,
//! over all states that differ, for several small rollouts.
//!
//! What is proved: a task starts at most once and never after the deadline; what an agent is offered, its own journal
//! allows; a state that says that nothing ran is true then and for ever; a target has one end; all that [`Told`] reads
//! from events, of pauses, waves and gates; a cancel reaches whatever has not ended; and from any state, once the
//! faults stop and an operator looks at pauses, job and agents come to rest with nothing left to say.

use super::tests::random::Told;
use super::tests::{START, exited, operator, spec};
use super::*;
use muster_proto::command::{Command, Program};
use muster_proto::id::Attempt;
use muster_proto::link::{RejectKind, TaskReport};
use muster_proto::outcome::{End, EndKind, State};
use muster_proto::rollout::{MaxFail, Offline, Rollout};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// What an agent's journal and spool say of a task. They survive everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Journal {
    Received,
    Running,
    Exited(u8),
    Cancelled,
    /// The supervisor was killed.
    Lost,
    Refused(RejectKind),
    /// The controller has the end; whether the program ran.
    Committed(Option<State>),
}

impl Journal {
    /// How it ended, as [`Rollout::allows_another`] wants to know it.
    const fn end(self) -> Option<State> {
        match self {
            Self::Received | Self::Running => None,
            Self::Exited(0) => Some(State::Succeeded),
            Self::Exited(_) => Some(State::Failed),
            Self::Cancelled => Some(State::Cancelled),
            Self::Lost => Some(State::Indeterminate),
            Self::Refused(_) => Some(State::Rejected),
            Self::Committed(end) => end,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum ToHost {
    Greeting(Greeting),
    Send(Send),
}

/// What is on its way in the one session that both sides believe in.
#[derive(Debug, Clone, Default)]
struct Link {
    to_host: VecDeque<ToHost>,
    to_controller: VecDeque<(Attempt, TaskReport)>,
}

#[derive(Debug, Clone, Default)]
struct Agent {
    link: Option<Link>,
    journal: BTreeMap<Attempt, Journal>,
    starts: BTreeMap<Attempt, u32>,
}

#[derive(Clone)]
struct World {
    job: Job,
    /// What a crash of the controller leaves of the job.
    events: Rc<Vec<Event>>,
    agents: Vec<Agent>,
    now: Timestamp,
    cancelled: bool,
    pauses_left: u32,
}

/// What can happen, to one agent or to the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Connect,
    Cut,
    Down,
    Up,
    Start,
    Exit(u8),
    KillSupervisor,
    Refuse,
    CrashController,
    Pause,
    Resume,
    Cancel,
    /// Nothing more may start.
    Stop,
    /// Past the window.
    Wait,
    /// Past the job's deadline.
    WaitLong,
}

/// Windows that time can pass: three are as long as any, and keep the states few.
const WAITS: u32 = 3;

impl World {
    fn new(targets: u32, rollout: Rollout) -> Self {
        let mut effects = Effects::default();
        let job = Job::plan(spec(targets, rollout), START, &mut effects);
        let agents = vec![Agent::default(); targets as usize];
        let mut world =
            Self { job, events: Rc::new(effects.events), agents, now: START, cancelled: false, pauses_left: 1 };
        match world.job.spec.rollout.offline {
            // Whoever is away would be over before anything can happen.
            Offline::Skip => (0..targets).for_each(|target| world.connect(target)),
            _ => world.settle(Effects::default()),
        }
        world
    }

    /// Everything that decides what can happen from here on.
    fn key(&self) -> u64 {
        let Job { hosts, wave, gates, turns, ready, paused, stopping, closed, .. } = &self.job;
        let text = format!(
            "{hosts:?} {wave:?} {gates:?} {turns:?} {ready:?} {paused:?} {stopping:?} {closed} {:?} {:?} {:?} {} {}",
            self.job.state(),
            self.agents,
            self.now,
            self.cancelled,
            self.pauses_left
        );
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish()
    }

    /// Lets time decide, makes the events durable, then sends.
    fn settle(&mut self, mut effects: Effects) {
        self.job.advance(self.now, &mut effects);
        if !effects.events.is_empty() {
            Rc::make_mut(&mut self.events).append(&mut effects.events);
        }
        for send in effects.sends {
            let (Send::Offer(task, _)
            | Send::Cancel(task)
            | Send::Withdraw(task)
            | Send::Ack(task, _)
            | Send::Committed(task)) = send;
            if let Some(link) = &mut self.agents[task.target as usize].link {
                link.to_host.push_back(ToHost::Send(send));
            }
        }
    }

    fn give(&mut self, input: Input) {
        let mut effects = Effects::default();
        self.job.apply(input, self.now, &mut effects).expect("an honest agent is never refused");
        self.settle(effects);
    }

    /// Whether the step can happen.
    fn can(&self, target: u32, step: Step) -> bool {
        let agent = &self.agents[target as usize];
        let holds = |wanted| agent.journal.values().any(|journal| *journal == wanted);
        match step {
            Step::Connect | Step::CrashController => true,
            Step::Cut => agent.link.is_some(),
            Step::Down => agent.link.as_ref().is_some_and(|link| !link.to_host.is_empty()),
            Step::Up => agent.link.as_ref().is_some_and(|link| !link.to_controller.is_empty()),
            Step::Start | Step::Refuse => holds(Journal::Received),
            Step::Exit(_) | Step::KillSupervisor => holds(Journal::Running),
            Step::Pause => self.pauses_left > 0,
            Step::Resume => self.job.paused.is_some(),
            Step::Cancel => !self.cancelled,
            Step::Stop => self.job.stopping.is_none(),
            Step::Wait => self.now < START + Duration::from_secs(31) * WAITS,
            Step::WaitLong => self.now < self.job.spec.start_before,
        }
    }

    /// A step that can happen.
    fn step(&mut self, target: u32, step: Step) {
        match step {
            Step::Connect => self.connect(target),
            Step::Cut => {
                self.agent(target).link = None;
                self.give(Input::Disconnected { target });
            }
            Step::Down => {
                let message = self.agent(target).link.as_mut().and_then(|link| link.to_host.pop_front());
                self.heard(target, message.expect("it can happen"));
            }
            Step::Up => {
                let report = self.agent(target).link.as_mut().and_then(|link| link.to_controller.pop_front());
                let (attempt, report) = report.expect("it can happen");
                self.give(Input::Report { task: TaskRef { target, attempt }, report });
            }
            Step::Start | Step::Exit(_) | Step::KillSupervisor | Step::Refuse => self.work(target, step),
            Step::CrashController => self.crash(),
            Step::Pause => {
                self.pauses_left -= 1;
                self.give(Input::Pause { operator: operator() });
            }
            Step::Resume => self.give(Input::Resume { operator: operator() }),
            Step::Cancel => {
                self.cancelled = true;
                self.give(Input::Cancel { operator: operator() });
            }
            Step::Stop => self.give(Input::Stop { reason: "no more".into() }),
            Step::Wait => self.pass(Duration::from_secs(31)),
            Step::WaitLong => self.pass(Duration::from_secs(700)),
        }
    }

    fn crash(&mut self) {
        self.agents.iter_mut().for_each(|agent| agent.link = None);
        let mut job = Job::restore(self.job.spec.clone());
        self.events.iter().for_each(|event| job.replay(event));
        job.resume(self.now);
        self.job = job;
        self.settle(Effects::default());
    }

    fn agent(&mut self, target: u32) -> &mut Agent {
        &mut self.agents[target as usize]
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.settle(Effects::default());
    }

    /// What the host does by itself with the first of its tasks that it can be done with.
    fn work(&mut self, target: u32, step: Step) {
        let late = self.now > self.job.spec.start_before;
        let agent = self.agent(target);
        let wanted = if matches!(step, Step::Start | Step::Refuse) { Journal::Received } else { Journal::Running };
        let found = agent.journal.iter_mut().find(|(_, journal)| **journal == wanted);
        let (&attempt, journal) = found.expect("it can happen");
        *journal = match step {
            Step::Start if late => Journal::Refused(RejectKind::Expired),
            Step::Start => {
                *agent.starts.entry(attempt).or_default() += 1;
                Journal::Running
            }
            Step::Refuse => Journal::Refused(RejectKind::Refused),
            Step::Exit(code) => Journal::Exited(code),
            _ => Journal::Lost,
        };
        self.say(target, attempt);
    }

    /// A session that replaces whatever there was: what was on its way in the old one is lost.
    fn connect(&mut self, target: u32) {
        let held = self.agent(target).journal.iter().filter_map(|(&attempt, journal)| match journal {
            Journal::Committed(_) => None,
            Journal::Received | Journal::Refused(_) => Some(Held { attempt, started: false }),
            _ => Some(Held { attempt, started: true }),
        });
        let held: Vec<Held> = held.collect();
        let mut effects = Effects::default();
        let greetings = self.job.connected(target, &held, self.now, &mut effects);
        let to_host = greetings.into_iter().map(ToHost::Greeting).collect();
        self.agent(target).link = Some(Link { to_host, to_controller: VecDeque::new() });
        self.settle(effects);
    }

    fn heard(&mut self, target: u32, message: ToHost) {
        match message {
            ToHost::Greeting(Greeting { task, say, cancel }) => {
                match say {
                    Some(Say::Resume(_) | Say::Ask) => self.say(target, task.attempt),
                    Some(Say::Forget) => self.commit(task),
                    None => {}
                }
                if cancel {
                    self.cancel(task);
                }
            }
            ToHost::Send(Send::Offer(task, _)) => self.offered(task),
            ToHost::Send(Send::Cancel(task)) => self.cancel(task),
            ToHost::Send(Send::Withdraw(task)) => {
                if self.agent(target).journal.get(&task.attempt) != Some(&Journal::Running) {
                    self.cancel(task);
                }
            }
            ToHost::Send(Send::Committed(task)) => self.commit(task),
            ToHost::Send(Send::Ack(..)) => {}
        }
    }

    fn offered(&mut self, task: TaskRef) {
        let late = self.now > self.job.spec.start_before;
        let rollout = self.job.spec.rollout.clone();
        let journal = &mut self.agent(task.target).journal;
        if !journal.contains_key(&task.attempt) {
            let others = journal.iter().filter(|(attempt, _)| **attempt != Attempt::GATE);
            let ends: Option<Vec<State>> = others.map(|(_, journal)| journal.end()).collect();
            let ends = ends.expect("nothing is offered while another attempt is open");
            let fits = match task.attempt {
                Attempt::GATE => ends.iter().rfind(|end| !end.is_not_run()).is_some_and(|end| end.ran_to_end()),
                _ => ends.is_empty() || rollout.allows_another(&ends),
            };
            assert!(fits, "{task:?} was offered after {ends:?}");
            let new = if late { Journal::Refused(RejectKind::Expired) } else { Journal::Received };
            journal.insert(task.attempt, new);
        }
        self.say(task.target, task.attempt);
    }

    fn commit(&mut self, task: TaskRef) {
        let journal = &mut self.agent(task.target).journal;
        let end = journal.get(&task.attempt).and_then(|journal| journal.end());
        journal.insert(task.attempt, Journal::Committed(end));
    }

    fn cancel(&mut self, task: TaskRef) {
        let journal = &mut self.agent(task.target).journal;
        let cancelled = match journal.get(&task.attempt) {
            None | Some(Journal::Received) => Journal::Refused(RejectKind::Cancelled),
            Some(Journal::Running) => Journal::Cancelled,
            Some(other) => *other,
        };
        journal.insert(task.attempt, cancelled);
        self.say(task.target, task.attempt);
    }

    /// Reports all that is known of a task, as an agent does when it is asked and when something changes.
    fn say(&mut self, target: u32, attempt: Attempt) {
        let ended = |kind| TaskReport::Exited { frames: 0, end: End { kind, duration: Duration::ZERO } };
        let ran = |end| vec![TaskReport::Accepted, TaskReport::Started, end];
        let agent = self.agent(target);
        let reports = match agent.journal.get(&attempt) {
            None => vec![TaskReport::Never],
            Some(Journal::Received) => vec![TaskReport::Accepted],
            Some(Journal::Running) => vec![TaskReport::Accepted, TaskReport::Started],
            Some(Journal::Exited(code)) => ran(exited(*code)),
            Some(Journal::Cancelled) => ran(ended(EndKind::Cancelled)),
            Some(Journal::Lost) => ran(ended(EndKind::Lost("gone".into()))),
            Some(Journal::Refused(kind)) => vec![TaskReport::Rejected { kind: *kind, reason: "no".into() }],
            Some(Journal::Committed(_)) => vec![],
        };
        if let Some(link) = &mut agent.link {
            link.to_controller.extend(reports.into_iter().map(|report| (attempt, report)));
        }
    }

    fn check(&self) {
        for (agent, host) in self.agents.iter().zip(&self.job.hosts) {
            assert!(agent.starts.values().all(|starts| *starts <= 1), "started twice");
            let Some(outcome) = host.outcome() else { continue };
            let ran = agent.starts.keys().any(|attempt| *attempt != Attempt::GATE);
            let honest = match outcome.state {
                State::Indeterminate => true,
                state if state.is_not_run() => !ran,
                _ => ran,
            };
            assert!(honest, "{} with {:?}", outcome.state, agent.starts);
        }
        let finished = self.events.iter().filter(|event| matches!(event.kind, EventKind::Finished { .. })).count();
        assert_eq!(self.job.counts.total() as usize, finished, "one end each");
        Told::check(&self.job.spec, &self.events);
    }

    /// Once nothing breaks any more: everything is delivered, what runs ends, whoever waits is heard, and an operator
    /// looks at what was paused. It needs some time for pauses between attempts, and no deadline.
    fn rest(&self) {
        let mut world = self.clone();
        let agents = 0..self.job.spec.targets.count;
        agents.clone().for_each(|target| world.connect(target));
        for _ in 0..200 {
            let steps = [Step::Down, Step::Up, Step::Exit(0), Step::Start, Step::Resume];
            let mut all = steps.into_iter().flat_map(|step| agents.clone().map(move |target| (target, step)));
            if let Some((target, step)) = all.find(|(target, step)| world.can(*target, *step)) {
                world.step(target, step);
            } else if let Some(at) = world.job.wake_at().filter(|at| *at < world.job.spec.start_before) {
                world.pass(world.now.until(at).max(Duration::from_millis(1)));
            } else {
                break;
            }
        }
        assert_eq!(world.job.state(), JobState::Done, "it does not come to rest");
        world.check();
        for (target, (before, after)) in self.agents.iter().zip(&world.agents).enumerate() {
            let done = |(attempt, journal): (&Attempt, &Journal)| {
                let was = before.journal.get(attempt).and_then(|journal| journal.end());
                was.is_none() && journal.end() == Some(State::Succeeded)
            };
            // One that was given up may be in a job that is done, and that nobody can cancel any more.
            let given_up = world.job.hosts[target].outcome().is_some_and(|end| end.state == State::Indeterminate);
            let missed = self.cancelled && !given_up && after.journal.iter().any(done);
            assert!(!missed, "a cancel did not reach what could still be ended");
        }
        let open = world.agents.iter().flat_map(|agent| agent.journal.values());
        let open: Vec<&Journal> = open.filter(|journal| !matches!(journal, Journal::Committed(_))).collect();
        assert!(open.is_empty(), "an agent keeps {open:?} for ever");
    }
}

/// Does it, and says which steps led there if it fails.
fn told<T>(path: &[(u32, Step)], last: (u32, Step), act: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|_| panic!("after {path:?}, then {last:?}"))
}

/// Walks all states that these steps lead to.
fn walk(targets: u32, rollout: Rollout, of_agents: &[Step], of_job: &[Step]) {
    let of_agents = (0..targets).flat_map(|target| of_agents.iter().map(move |step| (target, *step)));
    let steps: Vec<(u32, Step)> = of_agents.chain(of_job.iter().map(|step| (0, *step))).collect();
    let mut seen = HashSet::new();
    let mut level = vec![(World::new(targets, rollout), Vec::new())];
    while !level.is_empty() {
        let mut next_level = Vec::new();
        for (world, path) in &level {
            for (target, step) in &steps {
                if !world.can(*target, *step) {
                    continue;
                }
                let next = told(path, (*target, *step), || {
                    let mut next = world.clone();
                    next.step(*target, *step);
                    seen.insert(next.key()).then(|| {
                        next.check();
                        next.rest();
                        next
                    })
                });
                if let Some(next) = next {
                    let path = path.iter().copied().chain([(*target, *step)]).collect();
                    next_level.push((next, path));
                }
            }
        }
        level = next_level;
    }
    assert!(seen.len() > 5_000, "only {} states were reached", seen.len());
}

fn shell(line: &str) -> Command {
    Command::new(Program::Argv(vec![line.as_bytes().to_vec()]))
}

const LINK: [Step; 4] = [Step::Connect, Step::Cut, Step::Down, Step::Up];

#[test]
fn in_every_order_of_events_a_task_starts_at_most_once_and_its_state_is_true() {
    let host = [&LINK[..], &[Step::Start, Step::Exit(0), Step::KillSupervisor]].concat();
    let job = [Step::CrashController, Step::Cancel, Step::Stop, Step::Wait, Step::WaitLong];
    walk(1, Rollout::default(), &host, &job);
}

#[test]
fn in_every_order_of_events_a_paused_job_offers_nothing() {
    let host = [&LINK[..], &[Step::Start, Step::Exit(0)]].concat();
    let job = [Step::CrashController, Step::Pause, Step::Resume, Step::Cancel, Step::Wait, Step::WaitLong];
    walk(1, Rollout::default(), &host, &job);
}

#[test]
fn in_every_order_of_events_attempts_follow_one_another_as_they_were_signed() {
    let host = [&LINK[..], &[Step::Start, Step::Refuse, Step::Exit(1)]].concat();
    let job = [Step::CrashController, Step::Cancel, Step::Wait];
    let rollout = Rollout { retries: 1, retry_failed: 1, ..Rollout::default() };
    walk(1, rollout, &host, &job);
}

#[test]
fn in_every_order_of_events_no_wave_begins_before_the_gate_of_the_one_before_it_passed() {
    let host = [Step::Connect, Step::Down, Step::Up, Step::Start, Step::Exit(0), Step::Exit(1)];
    let job = [Step::CrashController, Step::Resume, Step::Cancel];
    let rollout = Rollout { waves: vec![1], gate: Some(shell("check")), ..Rollout::default() };
    walk(2, rollout, &host, &job);
}

#[test]
fn in_every_order_of_events_the_gate_follows_the_last_attempt_that_ran() {
    let host = [Step::Connect, Step::Cut, Step::Down, Step::Up, Step::Start, Step::Refuse, Step::Exit(1)];
    let job = [Step::CrashController, Step::Wait];
    let rollout = Rollout { waves: vec![1], gate: Some(shell("check")), retry_failed: 1, ..Rollout::default() };
    walk(2, rollout, &host, &job);
}

#[test]
fn in_every_order_of_events_a_job_with_too_many_failures_starts_nothing_more() {
    let host = [&LINK[..], &[Step::Start, Step::Refuse, Step::Exit(1), Step::KillSupervisor]].concat();
    let (offline, max_fail) = (Offline::Skip, Some(MaxFail::Hosts(1)));
    let rollout = Rollout { waves: vec![1], retry_failed: 1, max_fail, offline, ..Rollout::default() };
    walk(2, rollout, &host, &[Step::Stop, Step::Wait]);
}

#[test]
fn in_every_order_of_events_a_queued_host_runs_once_or_is_given_up() {
    let host = [&LINK[..], &[Step::Start, Step::Exit(0)]].concat();
    let job = [Step::CrashController, Step::Pause, Step::Resume, Step::Cancel, Step::Wait];
    let rollout = Rollout { offline: Offline::Queue(Duration::from_secs(60)), ..Rollout::default() };
    walk(1, rollout, &host, &job);
}
