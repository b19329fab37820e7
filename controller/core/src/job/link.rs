//! What agents say of their tasks, and what they are told when a session begins.

use super::{Contact, Effects, Greeting, Held, Job, Say, Send, TaskRef};
use crate::task::{Change, Phase, Refused};
use muster_proto::event::GateStep;
use muster_proto::id::Attempt;
use muster_proto::link::{FrameBody, RejectKind, TaskReport};
use muster_proto::outcome::{End, Outcome, State};
use muster_proto::time::Timestamp;

impl Job {
    /// The agent of a target has a new session; `held` is what it says of the tasks that it named. Tasks of which there
    /// is nothing to say are left out.
    pub fn connected(&mut self, target: u32, held: &[Held], now: Timestamp, effects: &mut Effects) -> Vec<Greeting> {
        let Some(host) = self.hosts.get_mut(target as usize) else { return Vec::new() };
        host.contact = Contact::Here;
        let current = host.attempt;
        let mut greetings = Vec::new();
        for attempt in [current, Attempt::GATE] {
            let held = held.iter().find(|held| held.attempt == attempt);
            greetings.extend(self.greet(TaskRef { target, attempt }, held.copied(), now, effects));
        }
        // What an attempt before the one that counts still has to say changes nothing.
        let past = held.iter().filter(|held| held.attempt != Attempt::GATE && held.attempt < current);
        greetings.extend(past.map(|held| Greeting {
            task: TaskRef { target, attempt: held.attempt },
            say: Some(Say::Forget),
            cancel: false,
        }));
        greetings
    }

    fn greet(&mut self, task: TaskRef, held: Option<Held>, now: Timestamp, effects: &mut Effects) -> Option<Greeting> {
        let known = self.task_mut(task)?;
        known.asked = false;
        let say = match (&known.phase, held) {
            (Phase::Planned | Phase::Later(_), _) | (Phase::Ended(_), None) => None,
            // What it still has to say is evidence, to be kept beside the state.
            (Phase::Ended(outcome), Some(_)) if outcome.state == State::Indeterminate => {
                Some(Say::Resume(known.frames))
            }
            (Phase::Ended(_), Some(_)) => Some(Say::Forget),
            (Phase::Due(_), _) => {
                self.ready.insert(task);
                None
            }
            (Phase::Offered(_), None) if known.again => {
                self.offer_again(task, now, effects);
                None
            }
            (Phase::Offered(_) | Phase::Accepted(_) | Phase::Started(_), None) => {
                known.asked = true;
                Some(Say::Ask)
            }
            (Phase::Offered(_) | Phase::Accepted(_) | Phase::Started(_), Some(held)) => {
                let frames = known.frames;
                if matches!(known.phase, Phase::Offered(_)) {
                    self.emit_step(task, GateStep::Accepted, now, effects);
                }
                if held.started && self.task(task).is_some_and(|task| !matches!(task.phase, Phase::Started(_))) {
                    self.emit_step(task, GateStep::Started, now, effects);
                }
                Some(Say::Resume(frames))
            }
        };
        let known = self.task(task)?;
        // Also one that was given up: it may run all the same.
        let cancel = self.cancelling && matches!(say, Some(Say::Resume(_) | Say::Ask));
        if self.stopping.is_some() && known.is_withdrawable() && !known.again {
            effects.sends.push(Send::Withdraw(task));
        }
        say.is_some().then_some(Greeting { task, say, cancel })
    }

    pub(super) fn report(
        &mut self,
        task: TaskRef,
        report: TaskReport,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        let host = self.hosts.get_mut(task.target as usize).ok_or(Refused::Phase)?;
        if task.attempt != Attempt::GATE && task.attempt < host.attempt {
            self.report_of_past(task, &report, effects);
            return Ok(());
        }
        let output_max = self.spec.command_of(task.attempt).map_or(0, |command| command.output.bytes_max());
        let known = host.task_of_mut(task.attempt).ok_or(Refused::Phase)?;
        let ends = matches!(report, TaskReport::Rejected { .. } | TaskReport::Exited { .. });
        let (evidence, frame) = match &report {
            TaskReport::Exited { end, .. } => (Some(late_evidence(end)), None),
            TaskReport::Frame(frame) => (None, Some(frame.number)),
            _ => (None, None),
        };
        let change = match report {
            TaskReport::Accepted => known.accepted(),
            TaskReport::Started => known.started(),
            TaskReport::Never => known.never(),
            TaskReport::Rejected { kind: kind @ RejectKind::Cancelled, reason } => {
                known.rejected(kind, self.stopping.clone().unwrap_or(reason))
            }
            TaskReport::Rejected { kind, reason } => known.rejected(kind, reason),
            TaskReport::Frame(frame) => known.frame(frame, output_max),
            TaskReport::Exited { frames, end } => known.exited(frames, end),
        }?;
        match (change, evidence, frame) {
            (Some(change), ..) => self.change(task, change, now, effects),
            (None, Some(text), _) if self.is_indeterminate(task) => effects.late.push((task, text)),
            // Taken without effect, and acknowledged: otherwise the agent would never come to the end.
            (None, _, Some(number)) => effects.ack(task, number.saturating_add(1)),
            (None, ..) => {}
        }
        if ends {
            effects.sends.push(Send::Committed(task));
        }
        Ok(())
    }

    fn change(&mut self, task: TaskRef, change: Change, now: Timestamp, effects: &mut Effects) {
        match change {
            Change::Accepted => self.emit_step(task, GateStep::Accepted, now, effects),
            Change::Started => self.emit_step(task, GateStep::Started, now, effects),
            Change::Frame(frame) => {
                let stream = frame.stream;
                let step = match frame.body {
                    FrameBody::Data { offset, data } => GateStep::Output { stream, offset, data },
                    FrameBody::Truncated { bytes } => GateStep::Truncated { stream, bytes },
                };
                self.emit_step(task, step, now, effects);
                effects.ack(task, frame.number.saturating_add(1));
            }
            Change::Ended(outcome) => self.end(task, outcome, now, effects),
            Change::Again => self.offer_again(task, now, effects),
        }
    }

    /// An attempt before the one that counts: its end is known, and all that it needs is to come to rest.
    fn report_of_past(&self, task: TaskRef, report: &TaskReport, effects: &mut Effects) {
        match report {
            TaskReport::Frame(frame) => effects.ack(task, frame.number.saturating_add(1)),
            TaskReport::Rejected { .. } | TaskReport::Exited { .. } => effects.sends.push(Send::Committed(task)),
            TaskReport::Accepted | TaskReport::Started | TaskReport::Never => {}
        }
    }

    fn is_indeterminate(&self, task: TaskRef) -> bool {
        let outcome = self.task(task).and_then(|task| task.outcome());
        outcome.is_some_and(|outcome| outcome.state == State::Indeterminate)
    }
}

/// What an agent says of an end that came too late, as one line.
pub fn late_evidence(end: &End) -> String {
    let outcome = Outcome::from(end.clone());
    let after = end.duration.as_secs_f32();
    match (outcome.exit_code, outcome.reason) {
        (Some(code), _) => format!("exit code {code} after {after} s"),
        (None, Some(reason)) => format!("{}: {reason}", outcome.state),
        (None, None) => format!("{} after {after} s", outcome.state),
    }
}
