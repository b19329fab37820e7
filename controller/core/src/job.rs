//! One request for many hosts: the heart of the product, as a pure machine.
//!
//! Facts and the time go in ([`Input`], `now`); what should happen comes out ([`Effects`]). The loop around it makes
//! the events durable, then tells the agents: in that order, always. The same events, replayed, give the same job.
//!
//! ```text
//! Queued ──first offer──▶ Active ──last target──▶ Done
//!    └───────cancel──────▶ Cancelling ────────────▶┘
//! ```

mod exchange;

pub use exchange::{Effects, Greeting, Held, Input, Say, Send};

use crate::task::{Change, Contact, Phase, Refused, Task};
use muster_proto::command::Command;
use muster_proto::event::{Event, EventKind};
use muster_proto::job::{JobSpec, JobState};
use muster_proto::limits;
use muster_proto::link::{FrameBody, RejectKind, TaskReport};
use muster_proto::name::OperatorName;
use muster_proto::outcome::{Counts, End, Outcome, State};
use muster_proto::time::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::time::Duration;

/// Room for an agent to come back after the host must have ended the task: twice the longest pause between its tries,
/// and a minute for the handshakes of a whole fleet.
const CONTACT_MARGIN: Duration = Duration::from_mins(2);
/// After a controller's restart a window stays open at least this long: all agents are on their way back.
const RETURN_MARGIN: Duration = Duration::from_mins(1);
/// A connected agent that says nothing of a task is believed this much longer: its output may be under way.
const CONNECTED_PATIENCE: Duration = Duration::from_hours(1);
/// Why nobody was asked, though somebody was there.
const QUARANTINED: &str =
    "two machines use this agent's identity: `muster agents show` names them, `muster agents resolve` decides";

/// A job with all its tasks.
#[derive(Debug, Clone)]
pub struct Job {
    spec: JobSpec,
    /// After this long without contact the host must have ended a task by itself.
    give_up_after: Duration,
    tasks: Vec<Task>,
    state: JobState,
    counts: Counts,
    next_seq: u64,
    at_work: u32,
    /// Targets before this one have had their turn.
    turn: u32,
    /// Targets whose turn has come and whose agent is connected, but for whom there is no room in the window.
    ready: BTreeSet<u32>,
    /// When time decides about whom. Entries that no longer match the task's timer are void.
    timers: BinaryHeap<Reverse<(Timestamp, u32)>>,
    /// By the clock or by a cancel: nothing waits any more, and nothing will.
    deadline_passed: bool,
    /// Why nothing more may start.
    stopped: Option<String>,
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
        job
    }

    /// A job about to be replayed from its events.
    pub fn restore(spec: JobSpec) -> Self {
        let tasks = vec![Task::default(); spec.targets.count as usize];
        let longest = |command: &Command| command.timeout + command.grace + limits::LINGER;
        Self {
            give_up_after: spec.work.command().map_or(Duration::ZERO, longest) + CONTACT_MARGIN,
            spec,
            tasks,
            state: JobState::Queued,
            counts: Counts::default(),
            next_seq: 1,
            at_work: 0,
            turn: 0,
            ready: BTreeSet::new(),
            timers: BinaryHeap::new(),
            deadline_passed: false,
            stopped: None,
            windows_from: Timestamp::from_millis(i64::MIN),
            done_at: None,
        }
    }

    /// What was signed.
    pub const fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// Where the job stands.
    pub const fn state(&self) -> JobState {
        self.state
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

    /// All tasks in the order of the frozen list.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Tasks that were offered and are not over: `concurrency` bounds them.
    pub const fn at_work(&self) -> u32 {
        self.at_work
    }

    /// When time alone will change something; `None` when only facts can.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let waits = !self.deadline_passed && self.state != JobState::Done;
        let deadline = waits.then_some(self.spec.start_before);
        [timer, deadline].into_iter().flatten().min()
    }

    /// Takes one fact. A refused report changes nothing.
    pub fn apply(&mut self, input: Input, now: Timestamp, effects: &mut Effects) -> Result<(), Refused> {
        match input {
            Input::Disconnected { target } | Input::Released { target } => self.lost(target, Contact::Away, now),
            Input::Quarantined { target } => self.lost(target, Contact::Quarantined, now),
            Input::Revoked { target } => self.revoked(target, now, effects),
            Input::Report { target, report } => return self.report(target, report, now, effects),
            Input::Cancel { operator } => self.cancel(operator, now, effects),
            Input::Stop { reason } => self.stop(reason, now, effects),
        }
        Ok(())
    }

    /// Lets time pass and turns come. Called after every batch of facts, and at [`Job::wake_at`].
    pub fn advance(&mut self, now: Timestamp, effects: &mut Effects) {
        self.timers_due(now, effects);
        if now >= self.spec.start_before && !self.deadline_passed {
            self.expire_waiting(now, effects);
        }
        let window = self.spec.concurrency.unwrap_or(u32::MAX);
        while self.at_work < window {
            // Who waits for room comes before those whose turn has not come yet.
            if let Some(target) = self.ready.pop_first() {
                self.offer(target, now, effects);
            } else if self.turn < self.spec.targets.count {
                let target = self.turn;
                self.turn += 1;
                self.take_turn(target, now, effects);
            } else {
                break;
            }
        }
        if self.state != JobState::Done && self.counts.total() == self.spec.targets.count {
            self.emit(EventKind::Done { counts: self.counts }, now, effects);
        }
    }

    fn take_turn(&mut self, target: u32, now: Timestamp, effects: &mut Effects) {
        let task = &mut self.tasks[target as usize];
        if task.phase != Phase::Planned {
            return;
        }
        task.phase = Phase::Due((now + self.spec.deliver).max(self.windows_from));
        if task.is_connected() {
            self.offer(target, now, effects);
        } else {
            self.set_timer(target);
        }
    }

    /// Goes on after a replay: whoever may still be at work gets time to come back before it is given up.
    pub fn resume(&mut self, now: Timestamp) {
        self.windows_from = now + RETURN_MARGIN;
        for target in 0..self.spec.targets.count {
            self.lost(target, Contact::Away, now);
        }
    }

    fn offer(&mut self, target: u32, now: Timestamp, effects: &mut Effects) {
        let ttl = self.spec.deliver.min(now.until(self.spec.start_before));
        self.emit(EventKind::Offered { target }, now, effects);
        effects.sends.push(Send::Offer(target, ttl));
    }

    fn set_timer(&mut self, target: u32) {
        if let Some(at) = self.tasks[target as usize].timer() {
            self.timers.push(Reverse((at, target)));
        }
    }

    fn timers_due(&mut self, now: Timestamp, effects: &mut Effects) {
        while let Some(&Reverse((at, target))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            let task = &self.tasks[target as usize];
            match task.phase {
                Phase::Due(until) if until <= now && !task.is_connected() => {
                    let reason = match task.contact {
                        Contact::Quarantined => QUARANTINED.to_owned(),
                        _ => format!("not connected within {} s", self.spec.deliver.as_secs_f32()),
                    };
                    self.end(target, Outcome::without_run(State::Unreachable, reason), now, effects);
                }
                Phase::Offered(until) | Phase::Accepted(until) | Phase::Started(until) => {
                    if task.is_connected() && now < until + CONNECTED_PATIENCE {
                        self.timers.push(Reverse((until + CONNECTED_PATIENCE, target)));
                    } else if until <= now {
                        let reason = "no contact with the agent until after the run timeout";
                        self.end(target, Outcome::without_run(State::Indeterminate, reason), now, effects);
                    }
                }
                Phase::Due(_) | Phase::Planned | Phase::Ended(_) => {}
            }
        }
    }

    fn expire_waiting(&mut self, now: Timestamp, effects: &mut Effects) {
        for target in 0..self.spec.targets.count {
            let task = &self.tasks[target as usize];
            let (state, reason) = match task.phase {
                Phase::Planned => (State::Expired, "the job's deadline passed before its turn came"),
                Phase::Due(_) if task.is_connected() => {
                    (State::Expired, "the job's deadline passed before there was room")
                }
                Phase::Due(_) if task.contact == Contact::Quarantined => (State::Unreachable, QUARANTINED),
                Phase::Due(_) => (State::Unreachable, "not connected before the job's deadline"),
                _ => continue,
            };
            self.end(target, Outcome::without_run(state, reason), now, effects);
        }
        self.turn = self.spec.targets.count;
        self.ready.clear();
        self.deadline_passed = true;
    }

    /// A window that waits for contact opens anew; a task at work has at least the margin to come back.
    fn lost(&mut self, target: u32, contact: Contact, now: Timestamp) {
        let window = (now + self.spec.deliver).max(self.windows_from);
        let Some(task) = self.tasks.get_mut(target as usize) else { return };
        let was_connected = std::mem::replace(&mut task.contact, contact) == Contact::Here;
        match &mut task.phase {
            Phase::Due(until) if was_connected => *until = window,
            Phase::Offered(until) | Phase::Accepted(until) | Phase::Started(until) => {
                *until = (*until).max(now + CONTACT_MARGIN);
            }
            Phase::Due(_) | Phase::Planned | Phase::Ended(_) => return,
        }
        self.ready.remove(&target);
        self.set_timer(target);
    }

    /// The agent of a target has a new session; `held` is what it says of the task, if it named it.
    pub fn connected(&mut self, target: u32, held: Option<Held>, now: Timestamp, effects: &mut Effects) -> Greeting {
        let Some(task) = self.tasks.get_mut(target as usize) else { return Greeting::default() };
        (task.contact, task.asked) = (Contact::Here, false);
        let say = match (&task.phase, held) {
            (Phase::Planned, _) | (Phase::Ended(_), None) => None,
            // What it still has to say is evidence, to be kept beside the state.
            (Phase::Ended(outcome), Some(_)) if outcome.state == State::Indeterminate => Some(Say::Resume(task.frames)),
            (Phase::Ended(_), Some(_)) => Some(Say::Forget),
            (Phase::Due(_), _) => {
                self.ready.insert(target);
                None
            }
            (Phase::Offered(_) | Phase::Accepted(_) | Phase::Started(_), None) => {
                task.asked = true;
                Some(Say::Ask)
            }
            (Phase::Offered(_) | Phase::Accepted(_) | Phase::Started(_), Some(held)) => {
                if matches!(task.phase, Phase::Offered(_)) {
                    self.emit(EventKind::Accepted { target }, now, effects);
                }
                if held.started && !matches!(self.tasks[target as usize].phase, Phase::Started(_)) {
                    self.emit(EventKind::Started { target }, now, effects);
                }
                Some(Say::Resume(self.tasks[target as usize].frames))
            }
        };
        let task = &self.tasks[target as usize];
        let cancel = self.state == JobState::Cancelling && task.is_at_work();
        if self.stopped.is_some() && task.is_withdrawable() {
            effects.sends.push(Send::Withdraw(target));
        }
        Greeting { say, cancel }
    }

    fn revoked(&mut self, target: u32, now: Timestamp, effects: &mut Effects) {
        let Some(task) = self.tasks.get_mut(target as usize) else { return };
        task.contact = Contact::Away;
        self.ready.remove(&target);
        let state = match self.tasks[target as usize].phase {
            Phase::Ended(_) => return,
            Phase::Planned | Phase::Due(_) => State::Unreachable,
            Phase::Offered(_) | Phase::Accepted(_) | Phase::Started(_) => State::Indeterminate,
        };
        self.end(target, Outcome::without_run(state, "the agent was revoked"), now, effects);
    }

    fn cancel(&mut self, operator: OperatorName, now: Timestamp, effects: &mut Effects) {
        if matches!(self.state, JobState::Done | JobState::Cancelling) {
            return;
        }
        self.emit(EventKind::Cancelling { operator }, now, effects);
        self.skip_waiting("the job was cancelled before it started here", now, effects);
        let at_work = (0_u32..).zip(&self.tasks).filter(|(_, task)| task.is_at_work() && task.is_connected());
        effects.sends.extend(at_work.map(|(target, _)| Send::Cancel(target)));
    }

    /// Unlike a cancel it leaves alone what runs. It is no event: whoever takes the job up again says it again.
    fn stop(&mut self, reason: String, now: Timestamp, effects: &mut Effects) {
        self.skip_waiting(&reason, now, effects);
        let to_withdraw = (0_u32..).zip(&self.tasks).filter(|(_, task)| task.is_withdrawable());
        effects.sends.extend(to_withdraw.map(|(target, _)| Send::Withdraw(target)));
        self.stopped = Some(reason);
    }

    fn skip_waiting(&mut self, reason: &str, now: Timestamp, effects: &mut Effects) {
        for target in 0..self.spec.targets.count {
            if matches!(self.tasks[target as usize].phase, Phase::Planned | Phase::Due(_)) {
                self.end(target, Outcome::without_run(State::Skipped, reason), now, effects);
            }
        }
    }

    fn report(
        &mut self,
        target: u32,
        report: TaskReport,
        now: Timestamp,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        let output_max = self.spec.work.command().map_or(0, |command| command.output.bytes_max());
        let Some(task) = self.tasks.get_mut(target as usize) else { return Err(Refused::Phase) };
        let (ends, evidence) = match &report {
            TaskReport::Rejected { .. } => (true, None),
            TaskReport::Exited { end, .. } => (true, Some(late_evidence(end))),
            _ => (false, None),
        };
        let frame = match &report {
            TaskReport::Frame(frame) => Some(frame.number),
            _ => None,
        };
        let change = match report {
            TaskReport::Accepted => task.accepted(),
            TaskReport::Started => task.started(),
            TaskReport::Never => task.never(),
            TaskReport::Rejected { kind: kind @ RejectKind::Cancelled, reason } => {
                task.rejected(kind, self.stopped.clone().unwrap_or(reason))
            }
            TaskReport::Rejected { kind, reason } => task.rejected(kind, reason),
            TaskReport::Frame(frame) => task.frame(frame, output_max),
            TaskReport::Exited { frames, end } => task.exited(frames, end),
        }?;
        match change {
            Some(Change::Accepted) => self.emit(EventKind::Accepted { target }, now, effects),
            Some(Change::Started) => self.emit(EventKind::Started { target }, now, effects),
            Some(Change::Frame(frame)) => {
                let stream = frame.stream;
                let kind = match frame.body {
                    FrameBody::Data { offset, data } => EventKind::Output { target, stream, offset, data },
                    FrameBody::Truncated { bytes } => EventKind::Truncated { target, stream, bytes },
                };
                self.emit(kind, now, effects);
                effects.ack(target, self.tasks[target as usize].frames);
            }
            Some(Change::Ended(outcome)) => self.end(target, outcome, now, effects),
            Some(Change::Again) => self.offer_again(target, now, effects),
            None => match (task.outcome(), evidence, frame) {
                (Some(Outcome { state: State::Indeterminate, .. }), Some(text), _) => effects.late.push((target, text)),
                // Taken without effect, and acknowledged: otherwise the agent would never come to the end.
                (_, _, Some(number)) => effects.ack(target, number.saturating_add(1)),
                _ => {}
            },
        }
        if ends {
            effects.sends.push(Send::Committed(target));
        }
        Ok(())
    }

    /// The agent proved that it never had the task: a new window opens, in the place it holds already.
    fn offer_again(&mut self, target: u32, now: Timestamp, effects: &mut Effects) {
        if self.state == JobState::Cancelling {
            let outcome = Outcome::without_run(State::Skipped, "the job was cancelled before it started here");
            return self.end(target, outcome, now, effects);
        }
        if let Some(reason) = &self.stopped {
            let outcome = Outcome::without_run(State::Skipped, reason.as_str());
            return self.end(target, outcome, now, effects);
        }
        if self.deadline_passed || now >= self.spec.start_before {
            let outcome = Outcome::without_run(State::Expired, "it did not reach the agent before the job's deadline");
            return self.end(target, outcome, now, effects);
        }
        self.offer(target, now, effects);
    }

    fn end(&mut self, target: u32, outcome: Outcome, now: Timestamp, effects: &mut Effects) {
        self.ready.remove(&target);
        self.emit(EventKind::Finished { target, outcome }, now, effects);
    }

    fn emit(&mut self, kind: EventKind, now: Timestamp, effects: &mut Effects) {
        let event = Event { seq: self.next_seq, time: now, kind };
        self.replay(&event);
        effects.events.push(event);
    }

    /// Takes one stored event, in order. An event is all that ever changes a task's phase for good, so that what is
    /// replayed and what was lived are the same.
    pub fn replay(&mut self, event: &Event) {
        self.next_seq = event.seq + 1;
        if event.kind.target().is_some_and(|target| target >= self.spec.targets.count) {
            return;
        }
        let now = event.time;
        match &event.kind {
            EventKind::Planned { .. } | EventKind::Probed { .. } => {}
            EventKind::Offered { target } => {
                if !self.tasks[*target as usize].is_at_work() {
                    self.at_work += 1;
                }
                if self.state == JobState::Queued {
                    self.state = JobState::Active;
                }
                self.set_phase(*target, Phase::Offered(now + self.spec.deliver + self.give_up_after));
            }
            EventKind::Accepted { target } => {
                self.set_phase(*target, Phase::Accepted(now + self.spec.deliver + self.give_up_after));
            }
            EventKind::Started { target } => self.set_phase(*target, Phase::Started(now + self.give_up_after)),
            EventKind::Output { target, stream, data, .. } => {
                self.tasks[*target as usize].count_frame(*stream, data.len() as u64, true);
            }
            EventKind::Truncated { target, stream, bytes } => {
                self.tasks[*target as usize].count_frame(*stream, *bytes, false);
            }
            EventKind::Finished { target, outcome } => {
                if self.tasks[*target as usize].is_at_work() {
                    self.at_work -= 1;
                }
                self.counts.add(outcome.state);
                self.set_phase(*target, Phase::Ended(outcome.clone()));
            }
            EventKind::Cancelling { .. } => {
                self.state = JobState::Cancelling;
                self.turn = self.spec.targets.count;
                self.deadline_passed = true;
            }
            EventKind::Done { .. } => {
                self.state = JobState::Done;
                self.done_at = Some(now);
            }
        }
    }

    fn set_phase(&mut self, target: u32, phase: Phase) {
        self.tasks[target as usize].phase = phase;
        self.set_timer(target);
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

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
