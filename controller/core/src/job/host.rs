//! One target of a job: the attempts at it, the gate there, and how its agent can be reached.

use super::TaskRef;
use crate::task::{Phase, Task};
use muster_proto::id::Attempt;
use muster_proto::job;
use muster_proto::outcome::{Outcome, State};
use muster_proto::time::Timestamp;

/// A target with what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Which attempt [`Host::task`] is.
    pub(super) attempt: Attempt,
    pub(super) task: Task,
    /// How the attempts before this one ended.
    pub(super) ended: Vec<State>,
    /// The last end among those, of an attempt that ran.
    pub(super) ran: Option<Box<Outcome>>,
    /// The gate of its wave, once it is wanted here.
    pub(super) gate: Option<Box<Task>>,
    pub(super) queued: Option<Queued>,
    /// Lost contact is an overlay, not a phase.
    pub(super) contact: Contact,
}

/// Whether an agent can be told anything now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Contact {
    /// It has no session.
    #[default]
    Away,
    /// It has one.
    Here,
    /// It may have none: two machines use its identity.
    Quarantined,
}

/// A target waits for its agent, and nobody waits for the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queued {
    /// Since then.
    pub since: Timestamp,
    /// When it is given up.
    pub until: Timestamp,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            attempt: Attempt::FIRST,
            task: Task::default(),
            ended: Vec::new(),
            ran: None,
            gate: None,
            queued: None,
            contact: Contact::Away,
        }
    }
}

impl Host {
    /// The attempt that counts now: it is the last, or another may follow.
    pub const fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// That attempt.
    pub const fn task(&self) -> &Task {
        &self.task
    }

    /// The gate of its wave here, once it is wanted.
    pub fn gate(&self) -> Option<&Task> {
        self.gate.as_deref()
    }

    /// How it ended for good, once it has.
    pub const fn outcome(&self) -> Option<&Outcome> {
        self.task.outcome()
    }

    /// Where the attempt stands, with the moment at which time alone decides about it.
    pub const fn phase(&self) -> &Phase {
        self.task.phase()
    }

    /// The phase as it is shown.
    pub const fn shown_phase(&self) -> job::Phase {
        self.task.shown_phase()
    }

    /// How its agent can be reached.
    pub const fn contact(&self) -> Contact {
        self.contact
    }

    /// Its agent has a session now.
    pub const fn is_connected(&self) -> bool {
        matches!(self.contact, Contact::Here)
    }

    /// Its place in the queue, while it waits there.
    pub const fn queued(&self) -> Option<Queued> {
        self.queued
    }

    /// Its wave is not over before it is.
    pub(super) const fn holds_wave(&self) -> bool {
        self.outcome().is_none() && self.queued.is_none()
    }

    /// How many of its tasks were offered and are not over.
    pub(super) fn at_work(&self) -> u32 {
        u32::from(self.task.is_at_work()) + u32::from(self.gate().is_some_and(Task::is_at_work))
    }

    /// The current attempt, or the gate; older and unknown ones are `None`.
    pub(super) fn task_of(&self, attempt: Attempt) -> Option<&Task> {
        match attempt {
            Attempt::GATE => self.gate.as_deref(),
            _ => (attempt == self.attempt).then_some(&self.task),
        }
    }

    pub(super) fn task_of_mut(&mut self, attempt: Attempt) -> Option<&mut Task> {
        match attempt {
            Attempt::GATE => self.gate.as_deref_mut(),
            _ => (attempt == self.attempt).then_some(&mut self.task),
        }
    }

    /// What may have something to happen to it.
    pub(super) fn tasks(&self, target: u32) -> impl Iterator<Item = TaskRef> + use<> {
        let gate = self.gate.as_ref().map(|_| Attempt::GATE);
        [Some(self.attempt), gate].into_iter().flatten().map(move |attempt| TaskRef { target, attempt })
    }

    /// The target's own end when its last attempt ended so. That nothing ran is only said where nothing ever did.
    pub(super) fn conclude(&self, last: Outcome) -> Outcome {
        match &self.ran {
            Some(ran) if last.state.is_not_run() => {
                let why = last.reason.as_deref().unwrap_or(last.state.as_str());
                let but = format!("attempt {} did not run: {why}", self.attempt);
                let reason = match &ran.reason {
                    Some(reason) => format!("{reason}; {but}"),
                    None => but,
                };
                Outcome { reason: Some(reason), ..ran.as_ref().clone() }
            }
            _ => last,
        }
    }
}
