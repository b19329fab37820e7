//! What an event changes. It is all that ever changes a job's state for good, so that what is replayed and what was
//! lived are the same.

use super::{Effects, Host, Job, Pause, Queued, TaskRef};
use crate::task::{Phase, Task};
use muster_proto::event::{Event, EventKind, GateStep, Stream};
use muster_proto::id::Attempt;
use muster_proto::outcome::Outcome;
use muster_proto::time::Timestamp;

impl Job {
    /// Takes one stored event, in order.
    pub fn replay(&mut self, event: &Event) {
        self.next_seq = event.seq + 1;
        match event.kind.target() {
            Some(target) if target >= self.spec.targets.count => {}
            Some(target) => {
                let before = &self.hosts[target as usize];
                let (at_work, held) = (before.at_work(), before.holds_wave());
                self.replay_target(target, &event.kind, event.time);
                let after = &self.hosts[target as usize];
                self.at_work = self.at_work + after.at_work() - at_work;
                self.wave.count(target, held, after.holds_wave(), event.time);
            }
            None => self.replay_job(&event.kind, event.time),
        }
    }

    fn replay_job(&mut self, kind: &EventKind, now: Timestamp) {
        match kind {
            EventKind::Planned { .. } if self.spec.rollout.waves.is_empty() => {
                self.begin(1, 0, self.spec.targets.count, now);
            }
            EventKind::Wave { number, first, targets } => {
                let end = first.saturating_add(*targets).min(self.spec.targets.count);
                self.begin(*number, (*first).min(end), end, now);
            }
            EventKind::Paused { operator, reason } => {
                self.paused = Some(Pause { operator: operator.clone(), reason: reason.clone(), since: now });
                if operator.is_none() {
                    self.wave.hold();
                }
            }
            EventKind::Resumed { .. } => {
                self.paused = None;
                self.wave.release();
            }
            EventKind::Stopping { reason } => {
                self.stopping = Some(reason.clone());
                self.paused = None;
            }
            EventKind::Cancelling { .. } => {
                self.cancelling = true;
                self.paused = None;
            }
            EventKind::Done { .. } => self.done_at = Some(now),
            _ => {}
        }
    }

    fn replay_target(&mut self, target: u32, kind: &EventKind, now: Timestamp) {
        let command = TaskRef { target, attempt: self.hosts[target as usize].attempt };
        match kind {
            EventKind::Offered { .. } => self.was_offered(command, now),
            EventKind::Accepted { .. } => self.was_accepted(command, now),
            EventKind::Started { .. } => self.has_started(command, now),
            EventKind::Output { stream, data, .. } => self.count_frame(command, *stream, data.len() as u64, true),
            EventKind::Truncated { stream, bytes, .. } => self.count_frame(command, *stream, *bytes, false),
            EventKind::Queued { until, .. } => {
                self.hosts[target as usize].queued = Some(Queued { since: now, until: *until });
                self.set_phase(command, Phase::Due(*until));
            }
            EventKind::Retrying { attempt, outcome, at, .. } => {
                self.hosts[target as usize].begin_attempt(*attempt, outcome);
                self.set_phase(TaskRef { attempt: *attempt, ..command }, Phase::Later(*at));
            }
            EventKind::Finished { outcome, .. } => {
                self.hosts[target as usize].queued = None;
                self.counts.add(outcome.state);
                if outcome.state.ran_to_end() {
                    self.wave.count_ran(target);
                }
                self.has_ended(command, outcome);
            }
            EventKind::Gate { step, .. } => self.replay_gate(target, step, now),
            _ => {}
        }
    }

    fn replay_gate(&mut self, target: u32, step: &GateStep, now: Timestamp) {
        let gate = TaskRef::gate(target);
        self.hosts[target as usize].gate.get_or_insert_default();
        match step {
            GateStep::Offered => self.was_offered(gate, now),
            GateStep::Accepted => self.was_accepted(gate, now),
            GateStep::Started => self.has_started(gate, now),
            GateStep::Output { stream, data, .. } => self.count_frame(gate, *stream, data.len() as u64, true),
            GateStep::Truncated { stream, bytes } => self.count_frame(gate, *stream, *bytes, false),
            GateStep::Finished { outcome } => {
                self.gates = self.gates.map(|open| open.saturating_sub(1));
                self.has_ended(gate, outcome);
            }
        }
    }

    fn was_offered(&mut self, task: TaskRef, now: Timestamp) {
        self.begun = true;
        if task.attempt != Attempt::GATE {
            self.hosts[task.target as usize].queued = None;
        }
        if let Some(known) = self.task_mut(task) {
            known.asked = false;
        }
        self.set_phase(task, Phase::Offered(now + self.spec.deliver + self.give_up_after(task)));
    }

    fn was_accepted(&mut self, task: TaskRef, now: Timestamp) {
        self.set_phase(task, Phase::Accepted(now + self.spec.deliver + self.give_up_after(task)));
    }

    fn has_started(&mut self, task: TaskRef, now: Timestamp) {
        self.set_phase(task, Phase::Started(now + self.give_up_after(task)));
    }

    fn has_ended(&mut self, task: TaskRef, outcome: &Outcome) {
        self.set_phase(task, Phase::Ended(outcome.clone()));
    }

    fn count_frame(&mut self, task: TaskRef, stream: Stream, bytes: u64, kept: bool) {
        if let Some(known) = self.task_mut(task) {
            known.count_frame(stream, bytes, kept);
        }
    }

    /// Says what happened to a task, in the words for the command or for the gate.
    pub(super) fn emit_step(&mut self, task: TaskRef, step: GateStep, now: Timestamp, effects: &mut Effects) {
        let target = task.target;
        let kind = match step {
            step if task.attempt == Attempt::GATE => EventKind::Gate { target, step },
            GateStep::Offered => EventKind::Offered { target },
            GateStep::Accepted => EventKind::Accepted { target },
            GateStep::Started => EventKind::Started { target },
            GateStep::Output { stream, offset, data } => EventKind::Output { target, stream, offset, data },
            GateStep::Truncated { stream, bytes } => EventKind::Truncated { target, stream, bytes },
            GateStep::Finished { outcome } => EventKind::Finished { target, outcome },
        };
        self.emit(kind, now, effects);
    }
}

impl Host {
    fn begin_attempt(&mut self, attempt: Attempt, before: &Outcome) {
        self.ended.push(before.state);
        if !before.state.is_not_run() {
            self.ran = Some(Box::new(before.clone()));
        }
        (self.attempt, self.task, self.queued) = (attempt, Task::default(), None);
    }
}
