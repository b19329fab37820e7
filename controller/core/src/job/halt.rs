//! What holds a job up, and what ends it: a pause offers nothing until it is over; a stop, a cancel and the deadline
//! let nothing start any more.

use super::{Contact, Effects, Job, Send, TaskRef, turns::QUARANTINED};
use crate::task::{Phase, Task};
use muster_proto::event::EventKind;
use muster_proto::id::Attempt;
use muster_proto::name::OperatorName;
use muster_proto::outcome::{Outcome, State};
use muster_proto::time::Timestamp;

/// Nothing is offered until the job is resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Who wanted it; the controller by itself if nobody.
    pub operator: Option<OperatorName>,
    /// Why, as one line for people.
    pub reason: String,
    /// When it began.
    pub since: Timestamp,
}

impl Job {
    /// Nothing of it may start any more, whether or not that was carried out yet.
    pub(super) fn is_ending(&self, now: Timestamp) -> bool {
        // What was closed stays so, should the clock be set back.
        let closed = self.closed || self.done_at.is_some();
        closed || self.cancelling || self.stopping.is_some() || now >= self.spec.start_before
    }

    pub(super) fn pause_for(&mut self, operator: OperatorName, now: Timestamp, effects: &mut Effects) {
        if self.paused.is_none() && !self.is_ending(now) {
            let reason = format!("{operator} asked for it");
            self.emit(EventKind::Paused { operator: Some(operator), reason }, now, effects);
        }
    }

    /// The controller pauses the job by itself, until somebody has looked.
    pub(super) fn hold(&mut self, reason: String, now: Timestamp, effects: &mut Effects) {
        self.emit(EventKind::Paused { operator: None, reason }, now, effects);
    }

    pub(super) fn resume_for(&mut self, operator: OperatorName, now: Timestamp, effects: &mut Effects) {
        if self.paused.is_some() && !self.is_ending(now) {
            self.emit(EventKind::Resumed { operator }, now, effects);
            self.reopen(now, effects);
        }
    }

    pub(super) fn cancel(&mut self, operator: OperatorName, now: Timestamp, effects: &mut Effects) {
        if self.cancelling || self.done_at.is_some() {
            return;
        }
        self.emit(EventKind::Cancelling { operator }, now, effects);
        self.tell_connected(Send::Cancel, |task| task.is_at_work() && !task.again, effects);
    }

    /// Unlike a cancel it leaves alone what runs.
    pub(super) fn stop(&mut self, reason: String, now: Timestamp, effects: &mut Effects) {
        if self.stopping.is_some() || self.cancelling || self.done_at.is_some() {
            return;
        }
        self.emit(EventKind::Stopping { reason }, now, effects);
        self.tell_connected(Send::Withdraw, |task| task.is_withdrawable() && !task.again, effects);
    }

    fn tell_connected(&self, say: fn(TaskRef) -> Send, whom: fn(&Task) -> bool, effects: &mut Effects) {
        let connected = (0..).zip(&self.hosts).filter(|(_, host)| host.is_connected());
        let tasks = connected.flat_map(|(target, host)| host.tasks(target));
        effects.sends.extend(tasks.filter(|task| self.task(*task).is_some_and(whom)).map(say));
    }

    /// Ends whatever waits: nothing of it will start. A pause that lasted until the deadline is over too.
    pub(super) fn close(&mut self, now: Timestamp, effects: &mut Effects) {
        self.closed = true;
        self.turns.clear();
        self.ready.clear();
        self.gates = None;
        for target in 0..self.spec.targets.count {
            for task in self.hosts[target as usize].tasks(target) {
                let Some(known) = self.task(task).filter(|task| task.is_waiting()) else { continue };
                if task.attempt == Attempt::GATE && !known.again {
                    // Nothing was ever said of it, and nobody waits for it any more.
                    self.hosts[target as usize].gate = None;
                    continue;
                }
                let outcome = self.unstarted(task);
                self.end(task, outcome, now, effects);
            }
        }
        if self.paused.is_some() {
            self.stop("the job's deadline passed".to_owned(), now, effects);
        }
    }

    /// How a task ends that did not start before the job let nothing start any more.
    pub(super) fn unstarted(&self, task: TaskRef) -> Outcome {
        if self.cancelling {
            return Outcome::without_run(State::Skipped, "the job was cancelled before it started here");
        }
        if let Some(reason) = &self.stopping {
            return Outcome::without_run(State::Skipped, reason.as_str());
        }
        let contact = self.hosts[task.target as usize].contact;
        let (state, reason) = match (self.task(task).map(Task::phase), contact) {
            (Some(Phase::Due(_)), Contact::Here) => (State::Expired, "the job's deadline passed before there was room"),
            (Some(Phase::Due(_)), Contact::Quarantined) => (State::Unreachable, QUARANTINED),
            (Some(Phase::Due(_)), Contact::Away) => (State::Unreachable, "not connected before the job's deadline"),
            (Some(Phase::Offered(_)), _) => (State::Expired, "it did not reach the agent before the job's deadline"),
            _ => (State::Expired, "the job's deadline passed before its turn came"),
        };
        Outcome::without_run(state, reason)
    }

    pub(super) fn revoked(&mut self, target: u32, now: Timestamp, effects: &mut Effects) {
        let Some(host) = self.hosts.get_mut(target as usize) else { return };
        host.contact = Contact::Away;
        for task in self.hosts[target as usize].tasks(target) {
            self.ready.remove(&task);
            let Some(known) = self.task(task).filter(|task| task.outcome().is_none()) else { continue };
            let state = if known.is_waiting() { State::Unreachable } else { State::Indeterminate };
            let outcome = Outcome::without_run(state, "the agent was revoked");
            match task.attempt {
                Attempt::GATE => self.end(task, outcome, now, effects),
                _ => self.conclude(target, outcome, now, effects),
            }
        }
        if self.wants_gate(target, now) {
            let outcome = Outcome::without_run(State::Unreachable, "the agent was revoked");
            self.end(TaskRef::gate(target), outcome, now, effects);
        }
    }
}
