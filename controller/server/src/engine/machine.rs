//! The pure machine of a job, by what the job does.

use crate::clock;
use muster_core::job::{Effects, Host, Job};
use muster_core::sweep::Sweep;
use muster_proto::event::{Event, EventKind};
use muster_proto::id::Attempt;
use muster_proto::job::{JobSpec, JobState, Phase, Work};
use muster_proto::outcome::Outcome;
use muster_proto::time::Timestamp;

/// A job with all its targets.
pub(super) enum Machine {
    /// Runs a program on agents.
    Command(Box<Job>),
    /// Looks at hosts.
    Ping(Box<Sweep>),
}

impl Machine {
    /// A job whose list was just frozen, with its first events.
    pub(super) fn plan(spec: JobSpec) -> (Self, Vec<Event>) {
        match &spec.work {
            Work::Command(_) => {
                let mut effects = Effects::default();
                let job = Job::plan(spec, clock::now(), &mut effects);
                (Self::Command(Box::new(job)), effects.events)
            }
            Work::Ping(_) => {
                let mut events = Vec::new();
                let sweep = Sweep::plan(spec, clock::now(), &mut events);
                (Self::Ping(Box::new(sweep)), events)
            }
        }
    }

    /// A job about to be replayed from its events.
    pub(super) fn restore(spec: JobSpec) -> Self {
        match &spec.work {
            Work::Command(_) => Self::Command(Box::new(Job::restore(spec))),
            Work::Ping(_) => Self::Ping(Box::new(Sweep::restore(spec))),
        }
    }

    /// Takes one stored event, in order.
    pub(super) fn replay(&mut self, event: &Event) {
        match self {
            Self::Command(job) => job.replay(event),
            Self::Ping(sweep) => sweep.replay(event),
        }
    }

    /// Goes on after a replay.
    pub(super) fn resume(&mut self) {
        match self {
            Self::Command(job) => job.resume(clock::now()),
            Self::Ping(_) => {}
        }
    }

    pub(super) const fn spec(&self) -> &JobSpec {
        match self {
            Self::Command(job) => job.spec(),
            Self::Ping(sweep) => sweep.spec(),
        }
    }

    pub(super) const fn state(&self) -> JobState {
        match self {
            Self::Command(job) => job.state(),
            Self::Ping(sweep) => sweep.state(),
        }
    }

    pub(super) const fn last_seq(&self) -> u64 {
        match self {
            Self::Command(job) => job.last_seq(),
            Self::Ping(sweep) => sweep.last_seq(),
        }
    }
}

/// A target of a job: where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskView {
    /// How far its last attempt has come.
    pub phase: Phase,
    /// Which attempt that is.
    pub attempt: Attempt,
    /// It waits for its agent until then, and nobody waits for it.
    pub queued_until: Option<Timestamp>,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
}

/// Where a target stands before anything has happened to it.
const PLANNED: TaskView =
    TaskView { phase: Phase::Planned, attempt: Attempt::FIRST, queued_until: None, outcome: None };

/// Where a target stands.
pub(super) fn view_of(host: &Host) -> TaskView {
    TaskView {
        phase: host.shown_phase(),
        attempt: host.attempt(),
        queued_until: host.queued().map(|queued| queued.until),
        outcome: host.outcome().cloned(),
    }
}

/// Where the targets of a job stand by its events so far, in the order of the list.
pub(super) enum Views {
    /// Of a command: its machine knows.
    Command(Box<Job>),
    /// Of a ping: the last event of a target says it all.
    Ping(Vec<TaskView>),
}

impl Views {
    /// Before the first event.
    pub(super) fn new(spec: JobSpec) -> Self {
        match &spec.work {
            Work::Command(_) => Self::Command(Box::new(Job::restore(spec))),
            Work::Ping(_) => Self::Ping(vec![PLANNED; spec.targets.count as usize]),
        }
    }

    /// Takes one stored event, in order.
    pub(super) fn replay(&mut self, event: &Event) {
        match self {
            Self::Command(job) => job.replay(event),
            Self::Ping(views) => {
                let view = event.kind.target().and_then(|target| views.get_mut(target as usize));
                match (view, &event.kind) {
                    (Some(view), EventKind::Probed { .. }) => view.phase = Phase::Started,
                    (Some(view), EventKind::Finished { outcome, .. }) => {
                        *view = TaskView { phase: Phase::Started, outcome: Some(outcome.clone()), ..PLANNED };
                    }
                    _ => {}
                }
            }
        }
    }

    /// Where they stand.
    pub(super) fn into_views(self) -> Vec<TaskView> {
        match self {
            Self::Command(job) => job.hosts().iter().map(view_of).collect(),
            Self::Ping(views) => views,
        }
    }
}
