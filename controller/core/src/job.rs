//! One request for many hosts: the heart of the product, as a pure machine.
//!
//! Facts and the time go in ([`Input`], `now`); what should happen comes out ([`Effects`]). The loop around it makes
//! the events durable, then tells the agents: in that order, always. The same events, replayed, give the same job.
//!
//! ```text
//! Queued ──first offer──▶ Active ◀──pause, resume──▶ Paused
//!    └─────────┬────────────┴───────────────────────────┘
//!              ├── last target, nothing at work ──▶ Done
//!              └── cancel ──▶ Cancelling ──────────▶ Done
//! ```
//!
//! What becomes of a target once its turn has come is in `turns`; whether another attempt follows in `attempts`; when
//! the next wave begins, after which gate, in `waves`; what holds all of it up, or ends it, in `halt`. What agents say
//! comes in by `link`. An event, in `replay`, is all that ever changes the state for good; queues and timers are
//! derived from it, and made anew after a restart.

mod attempts;
mod exchange;
mod halt;
mod host;
mod link;
mod replay;
mod show;
mod turns;
mod waves;

pub use exchange::{Effects, Greeting, Held, Input, Say, Send, TaskRef};
pub use halt::Pause;
pub use host::{Contact, Host, Queued};
pub use link::late_evidence;
pub use show::{Waiting, WaveStage, WaveView};

use crate::task::{Refused, Task};
use muster_proto::event::{Event, EventKind};
use muster_proto::job::{JobSpec, JobState, Target};
use muster_proto::limits;
use muster_proto::outcome::Counts;
use muster_proto::time::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use waves::Wave;

/// Room for an agent to come back after the host must have ended the task: twice the longest pause between its tries,
/// and a minute for the handshakes of a whole fleet.
const CONTACT_MARGIN: Duration = Duration::from_mins(2);
/// After a controller's restart a window stays open at least this long: all agents are on their way back.
const RETURN_MARGIN: Duration = Duration::from_mins(1);

/// A job with all its targets.
#[derive(Debug, Clone)]
pub struct Job {
    spec: JobSpec,
    /// What the targets are called, for reasons; empty where nobody said.
    names: Arc<[Target]>,
    hosts: Vec<Host>,
    counts: Counts,
    next_seq: u64,
    /// Tasks that were offered and are not over.
    at_work: u32,
    /// Something was offered, ever.
    begun: bool,
    /// The wave whose targets have their turns now.
    wave: Wave,
    /// Gates of that wave that are not over, once its gate has begun.
    gates: Option<u32>,
    /// Whose time has come, but for whom there was no room yet.
    turns: VecDeque<TaskRef>,
    /// Who had their turn and whose agent is connected, but for whom there is no room.
    ready: BTreeSet<TaskRef>,
    /// When time decides about whom. Entries that no longer match the task's timer are void.
    timers: BinaryHeap<Reverse<(Timestamp, TaskRef)>>,
    paused: Option<Pause>,
    /// Why nothing more may start.
    stopping: Option<String>,
    cancelling: bool,
    /// By the clock, a stop or a cancel: nothing waits any more, and nothing will.
    closed: bool,
    /// No window closes before this.
    windows_from: Timestamp,
    done_at: Option<Timestamp>,
}

impl Job {
    /// A job whose list was just frozen. Its first event goes into `effects`.
    pub fn plan(spec: JobSpec, now: Timestamp, effects: &mut Effects) -> Self {
        let kind = EventKind::Planned { targets: spec.targets.count, root: spec.targets.root };
        let mut job = Self::restore(spec);
        job.emit(kind, now, effects);
        job.schedule_wave(now);
        job
    }

    /// A job about to be replayed from its events.
    pub fn restore(spec: JobSpec) -> Self {
        Self {
            names: Arc::new([]),
            hosts: vec![Host::default(); spec.targets.count as usize],
            spec,
            counts: Counts::default(),
            next_seq: 1,
            at_work: 0,
            begun: false,
            wave: Wave::before_the_first(),
            gates: None,
            turns: VecDeque::new(),
            ready: BTreeSet::new(),
            timers: BinaryHeap::new(),
            paused: None,
            stopping: None,
            cancelling: false,
            closed: false,
            windows_from: Timestamp::from_millis(i64::MIN),
            done_at: None,
        }
    }

    /// Says what the targets are called, in the order of the list: reasons name them.
    #[must_use]
    pub fn with_names(mut self, names: Arc<[Target]>) -> Self {
        self.names = names;
        self
    }

    /// Takes one fact. A refused report changes nothing.
    pub fn apply(&mut self, input: Input, now: Timestamp, effects: &mut Effects) -> Result<(), Refused> {
        match input {
            Input::Disconnected { target } | Input::Released { target } => self.lost(target, Contact::Away, now),
            Input::Quarantined { target } => self.lost(target, Contact::Quarantined, now),
            Input::Revoked { target } => self.revoked(target, now, effects),
            Input::Report { task, report } => return self.report(task, report, now, effects),
            Input::Pause { operator } => self.pause_for(operator, now, effects),
            Input::Resume { operator } => self.resume_for(operator, now, effects),
            Input::Cancel { operator } => self.cancel(operator, now, effects),
            Input::Stop { reason } => self.stop(reason, now, effects),
        }
        Ok(())
    }

    /// Lets time pass and turns come. Called after every batch of facts, and at [`Job::wake_at`].
    pub fn advance(&mut self, now: Timestamp, effects: &mut Effects) {
        self.timers_due(now, effects);
        while !self.is_ending(now) && self.paused.is_none() {
            self.take_turns(now, effects);
            if !self.next_wave(now, effects) {
                break;
            }
        }
        // What ended meanwhile may have stopped the job.
        if !self.closed && self.is_ending(now) {
            self.close(now, effects);
        }
        if self.done_at.is_none() && self.at_work == 0 && self.counts.total() == self.spec.targets.count {
            self.emit(EventKind::Done { counts: self.counts }, now, effects);
        }
    }

    /// When time alone will change something; `None` when only facts can.
    pub fn wake_at(&self) -> Option<Timestamp> {
        if self.done_at.is_some() {
            return None;
        }
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let deadline = (!self.closed).then_some(self.spec.start_before);
        let soaked = self.soaked_at().filter(|_| !self.closed && self.paused.is_none());
        [timer, deadline, soaked].into_iter().flatten().min()
    }

    /// Goes on after a replay: whoever may still be at work gets time to come back before it is given up.
    pub fn resume(&mut self, now: Timestamp) {
        self.windows_from = now + RETURN_MARGIN;
        self.turns.clear();
        self.ready.clear();
        self.timers.clear();
        for target in 0..self.spec.targets.count {
            self.lost(target, Contact::Away, now);
            self.hosts[target as usize].tasks(target).for_each(|task| self.restart_timer(task, now));
        }
        self.schedule_wave(now);
    }

    /// What was signed.
    pub const fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// Where the job stands.
    pub const fn state(&self) -> JobState {
        match self {
            Self { done_at: Some(_), .. } => JobState::Done,
            Self { cancelling: true, .. } => JobState::Cancelling,
            Self { paused: Some(_), .. } => JobState::Paused,
            Self { begun: true, .. } => JobState::Active,
            _ => JobState::Queued,
        }
    }

    /// Terminal targets by state.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Number of the last event.
    pub const fn last_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// When the last target became terminal.
    pub const fn done_at(&self) -> Option<Timestamp> {
        self.done_at
    }

    /// All targets in the order of the frozen list.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Tasks that were offered and are not over, gates among them: `concurrency` bounds them.
    pub const fn at_work(&self) -> u32 {
        self.at_work
    }

    fn emit(&mut self, kind: EventKind, now: Timestamp, effects: &mut Effects) {
        let event = Event { seq: self.next_seq, time: now, kind };
        self.replay(&event);
        effects.events.push(event);
    }

    /// A task that something may still happen to.
    fn task(&self, task: TaskRef) -> Option<&Task> {
        self.hosts.get(task.target as usize)?.task_of(task.attempt)
    }

    fn task_mut(&mut self, task: TaskRef) -> Option<&mut Task> {
        self.hosts.get_mut(task.target as usize)?.task_of_mut(task.attempt)
    }

    fn set_timer(&mut self, task: TaskRef) {
        if let Some(at) = self.task(task).and_then(Task::timer) {
            self.timers.push(Reverse((at, task)));
        }
    }

    /// Without contact for so long after it may have started, its host must have ended it.
    fn give_up_after(&self, task: TaskRef) -> Duration {
        let command = self.spec.command_of(task.attempt);
        command.map_or(Duration::ZERO, |command| command.timeout + command.grace + limits::LINGER) + CONTACT_MARGIN
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
