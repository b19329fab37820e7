//! The job machine against a whole small world: a controller that crashes, a link that breaks and loses what was on
//! its way, an agent that keeps a journal as ours does, an operator, a clock. Every order of events is walked, breadth
//! first, over all states that differ.
//!
//! What is proved for one task: it starts at most once and never after its deadline; a state that says that nothing ran
//! is true then and for ever; it has one end; a cancel reaches whatever has not ended; and from any state, once the faults
//! stop, job and agent come to rest with nothing left to say.

use super::tests::{START, exited, operator, spec};
use super::*;
use muster_proto::link::RejectKind;
use muster_proto::outcome::EndKind;
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

/// What an agent's journal and spool say of the task. They survive everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Journal {
    Nothing,
    Received,
    Running,
    Exited,
    Cancelled,
    /// The supervisor was killed.
    Lost,
    Refused(RejectKind),
    /// The controller has the end.
    Committed,
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
    to_controller: VecDeque<TaskReport>,
}

#[derive(Clone)]
struct World {
    job: Job,
    /// What a crash of the controller leaves of the job.
    events: Rc<Vec<Event>>,
    link: Option<Link>,
    journal: Journal,
    starts: u32,
    now: Timestamp,
    /// The cancel was given.
    cancelled: bool,
    /// Nothing more may start: whoever takes the job up says it again.
    stopped: bool,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Connect,
    Cut,
    Down,
    Up,
    Start,
    Exit,
    KillSupervisor,
    CrashController,
    Cancel,
    /// Nothing more may start.
    Stop,
    /// Past the window.
    Wait,
    /// Past the job's deadline.
    WaitLong,
}

const STEPS: [Step; 12] = [
    Step::Connect,
    Step::Cut,
    Step::Down,
    Step::Up,
    Step::Start,
    Step::Exit,
    Step::KillSupervisor,
    Step::CrashController,
    Step::Cancel,
    Step::Stop,
    Step::Wait,
    Step::WaitLong,
];

impl World {
    fn new() -> Self {
        let mut effects = Effects::default();
        let job = Job::plan(spec(1, None), START, &mut effects);
        let events = Rc::new(effects.events);
        let mut world = Self {
            job,
            events,
            link: None,
            journal: Journal::Nothing,
            starts: 0,
            now: START,
            cancelled: false,
            stopped: false,
        };
        world.settle(Effects::default());
        world
    }

    /// Everything that decides what can happen from here on.
    fn key(&self) -> String {
        let Self { job, link, journal, starts, now, cancelled, stopped, .. } = self;
        format!("{:?} {:?} {link:?} {journal:?} {starts} {now:?} {cancelled} {stopped}", job.tasks, job.state)
    }

    /// Lets time decide, makes the events durable, then sends.
    fn settle(&mut self, mut effects: Effects) {
        self.job.advance(self.now, &mut effects);
        if !effects.events.is_empty() {
            Rc::make_mut(&mut self.events).append(&mut effects.events);
        }
        if let Some(link) = &mut self.link {
            link.to_host.extend(effects.sends.into_iter().map(ToHost::Send));
        }
    }

    fn give(&mut self, input: Input) -> Result<(), Refused> {
        let mut effects = Effects::default();
        let result = self.job.apply(input, self.now, &mut effects);
        self.settle(effects);
        result
    }

    /// The step, or `None` where it cannot happen.
    fn after(&self, step: Step) -> Option<Self> {
        let mut next = self.clone();
        match step {
            Step::Connect => next.connect(),
            Step::Cut => {
                next.link.take()?;
                next.give(Input::Disconnected { target: 0 }).expect("a fact");
            }
            Step::Down => {
                let message = next.link.as_mut()?.to_host.pop_front()?;
                next.heard(message);
            }
            Step::Up => {
                let report = next.link.as_mut()?.to_controller.pop_front()?;
                next.give(Input::Report { target: 0, report }).expect("an honest agent is never refused");
            }
            Step::Start if self.journal == Journal::Received && self.now <= self.job.spec.start_before => {
                next.journal = Journal::Running;
                next.starts += 1;
                next.say();
            }
            Step::Start if self.journal == Journal::Received => {
                next.journal = Journal::Refused(RejectKind::Expired);
                next.say();
            }
            Step::Exit | Step::KillSupervisor if self.journal == Journal::Running => {
                next.journal = if matches!(step, Step::Exit) { Journal::Exited } else { Journal::Lost };
                next.say();
            }
            Step::CrashController => {
                next.link = None;
                next.job = Job::restore(self.job.spec.clone());
                self.events.iter().for_each(|event| next.job.replay(event));
                next.job.resume(next.now);
                next.settle(Effects::default());
                if self.stopped {
                    next.stop();
                }
            }
            Step::Cancel if !self.cancelled => {
                next.cancelled = true;
                next.give(Input::Cancel { operator: operator() }).expect("a fact");
            }
            Step::Stop if !self.stopped => next.stop(),
            Step::Wait => next.pass(Duration::from_secs(31)),
            Step::WaitLong if self.now < self.job.spec.start_before => next.pass(Duration::from_secs(700)),
            _ => return None,
        }
        Some(next)
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.give(Input::Stop { reason: "its operator is gone".into() }).expect("a fact");
    }

    fn pass(&mut self, time: Duration) {
        // Three windows are as long as any, and keep the states few.
        if self.now < START + Duration::from_secs(93) || time > Duration::from_secs(31) {
            self.now = self.now + time;
        }
        self.settle(Effects::default());
    }

    /// A session that replaces whatever there was: what was on its way in the old one is lost.
    fn connect(&mut self) {
        let held = match self.journal {
            Journal::Nothing | Journal::Committed => None,
            Journal::Received | Journal::Refused(_) => Some(Held { started: false }),
            _ => Some(Held { started: true }),
        };
        self.link = Some(Link::default());
        let mut effects = Effects::default();
        let greeting = self.job.connected(0, held, self.now, &mut effects);
        if let Some(link) = &mut self.link {
            link.to_host.push_back(ToHost::Greeting(greeting));
        }
        self.settle(effects);
    }

    fn heard(&mut self, message: ToHost) {
        match message {
            ToHost::Greeting(Greeting { say, cancel }) => {
                match say {
                    Some(Say::Resume(_) | Say::Ask) => self.say(),
                    Some(Say::Forget) => self.journal = Journal::Committed,
                    None => {}
                }
                if cancel {
                    self.cancel();
                }
            }
            ToHost::Send(Send::Offer(..)) => {
                if self.journal == Journal::Nothing {
                    let late = self.now > self.job.spec.start_before;
                    self.journal = if late { Journal::Refused(RejectKind::Expired) } else { Journal::Received };
                }
                self.say();
            }
            ToHost::Send(Send::Cancel(_)) => self.cancel(),
            ToHost::Send(Send::Withdraw(_)) if self.journal == Journal::Running => {}
            ToHost::Send(Send::Withdraw(_)) => self.cancel(),
            ToHost::Send(Send::Committed(_)) => self.journal = Journal::Committed,
            ToHost::Send(Send::Ack(..)) => {}
        }
    }

    fn cancel(&mut self) {
        self.journal = match self.journal {
            Journal::Nothing | Journal::Received => Journal::Refused(RejectKind::Cancelled),
            Journal::Running => Journal::Cancelled,
            other => other,
        };
        self.say();
    }

    /// Reports all that is known of the task, as an agent does when it is asked and when something changes.
    fn say(&mut self) {
        let ended = |kind| TaskReport::Exited { frames: 0, end: End { kind, duration: Duration::ZERO } };
        let ran = |end| vec![TaskReport::Accepted, TaskReport::Started, end];
        let reports = match self.journal {
            Journal::Nothing => vec![TaskReport::Never],
            Journal::Received => vec![TaskReport::Accepted],
            Journal::Running => vec![TaskReport::Accepted, TaskReport::Started],
            Journal::Exited => ran(exited(0)),
            Journal::Cancelled => ran(ended(EndKind::Cancelled)),
            Journal::Lost => ran(ended(EndKind::Lost("gone".into()))),
            Journal::Refused(kind) => vec![TaskReport::Rejected { kind, reason: "no".into() }],
            Journal::Committed => vec![],
        };
        if let Some(link) = &mut self.link {
            link.to_controller.extend(reports);
        }
    }

    fn check(&self, path: &dyn Fn() -> Vec<Step>) {
        assert!(self.starts <= 1, "started twice: {:?}", path());
        let finished = self.events.iter().filter(|event| matches!(event.kind, EventKind::Finished { .. })).count();
        assert_eq!(self.job.counts.total() as usize, finished, "{:?}", path());
        assert!(finished <= 1, "two ends: {:?}", path());
        if let Some(outcome) = self.job.tasks[0].outcome() {
            let ran = self.starts == 1;
            let honest = match outcome.state {
                State::Indeterminate => true,
                state if state.is_not_run() => !ran,
                _ => ran,
            };
            assert!(honest, "{} with {} starts: {:?}", outcome.state, self.starts, path());
        }
    }

    /// Once nothing breaks any more: everything is delivered, what runs ends, and whoever waits is heard.
    fn rest(&self, path: &dyn Fn() -> Vec<Step>) {
        let mut world = self.clone();
        world.connect();
        for _ in 0..40 {
            let step = [Step::Down, Step::Up, Step::Start, Step::Exit].into_iter().find_map(|step| world.after(step));
            match step {
                Some(next) => world = next,
                None => break,
            }
            world.check(path);
        }
        if self.cancelled && matches!(self.journal, Journal::Nothing | Journal::Received | Journal::Running) {
            let won = world.job.counts.get(State::Succeeded) == 0;
            assert!(won, "a cancel did not reach what could still be ended: {:?}", path());
        }
        assert_eq!(world.job.state, JobState::Done, "it does not come to rest after {:?}", path());
        let open = !matches!(world.journal, Journal::Nothing | Journal::Committed);
        assert!(!open, "the agent keeps {:?} for ever after {:?}", world.journal, path());
    }
}

#[test]
fn in_every_order_of_events_a_task_starts_at_most_once_and_its_state_is_true() {
    let mut seen = HashSet::new();
    let mut level: Vec<(World, Vec<Step>)> = vec![(World::new(), Vec::new())];
    let mut depth = 0;
    while !level.is_empty() {
        let mut next_level = Vec::new();
        for (world, path) in &level {
            for step in STEPS {
                let Some(next) = world.after(step) else { continue };
                if !seen.insert(next.key()) {
                    continue;
                }
                let mut path = path.clone();
                path.push(step);
                next.check(&|| path.clone());
                next.rest(&|| path.clone());
                next_level.push((next, path));
            }
        }
        level = next_level;
        depth += 1;
    }
    assert!(depth > 20 && seen.len() > 5_000, "only {} states were reached, in {depth} steps", seen.len());
}
