//! A target's turn: it is offered its task once there is contact and room, or its window closes.

use super::{CONTACT_MARGIN, Contact, Effects, Host, Job, Send, TaskRef};
use crate::task::Phase;
use muster_proto::event::{EventKind, GateStep};
use muster_proto::id::Attempt;
use muster_proto::outcome::{Outcome, State};
use muster_proto::rollout::Offline;
use muster_proto::time::Timestamp;
use std::cmp::Reverse;
use std::time::Duration;

/// A connected agent that says nothing of a task is believed this much longer: its output may be under way.
const CONNECTED_PATIENCE: Duration = Duration::from_hours(1);
/// Why nobody was asked, though somebody was there.
pub(super) const QUARANTINED: &str =
    "two machines use this agent's identity: `muster agents show` names them, `muster agents resolve` decides";

impl Job {
    /// Offers to as many as there is room for. Who waits for room comes before those whose turn has not come yet.
    pub(super) fn take_turns(&mut self, now: Timestamp, effects: &mut Effects) {
        let room = self.spec.rollout.concurrency.unwrap_or(u32::MAX);
        // A turn that ends in vain may stop the job.
        while self.at_work < room && !self.is_ending(now) {
            if let Some(task) = self.ready.pop_first() {
                self.offer(task, now, effects);
            } else if let Some(task) = self.turns.pop_front() {
                self.take_turn(task, now, effects);
            } else {
                break;
            }
        }
    }

    /// Gives each target of the wave that has none yet its moment, or its place in the line.
    pub(super) fn schedule_wave(&mut self, now: Timestamp) {
        for target in self.wave.first..self.wave.end {
            let task = TaskRef { target, attempt: self.hosts[target as usize].attempt };
            if self.hosts[target as usize].task.phase != Phase::Planned {
                continue;
            }
            let at = self.wave.began + self.spread(task, self.spec.rollout.splay);
            if at <= now {
                self.turns.push_back(task);
            } else {
                self.set_phase(task, Phase::Later(at));
            }
        }
    }

    fn take_turn(&mut self, task: TaskRef, now: Timestamp, effects: &mut Effects) {
        if self.task(task).is_none_or(|task| task.phase != Phase::Planned) {
            return;
        }
        if self.hosts[task.target as usize].is_connected() {
            return self.offer(task, now, effects);
        }
        let until = self.window(task, now);
        if until > now {
            self.set_phase(task, Phase::Due(until));
        } else {
            self.window_closed(task, now, effects);
        }
    }

    /// Until when a task whose turn has come waits for its agent.
    fn window(&self, task: TaskRef, now: Timestamp) -> Timestamp {
        let until = match (self.hosts[task.target as usize].queued, self.spec.rollout.offline) {
            (Some(queued), _) => queued.until,
            (None, Offline::Skip | Offline::Queue(_)) if task.attempt != Attempt::GATE => now,
            (None, Offline::Wait(span)) if task.attempt != Attempt::GATE => now + span,
            _ => now + self.spec.deliver,
        };
        until.max(self.windows_from)
    }

    fn window_closed(&mut self, task: TaskRef, now: Timestamp, effects: &mut Effects) {
        let host = &self.hosts[task.target as usize];
        let is_command = task.attempt != Attempt::GATE;
        if let Offline::Queue(span) = self.spec.rollout.offline
            && is_command
            && host.queued.is_none()
        {
            let until = (now + span).min(self.spec.start_before);
            return self.emit(EventKind::Queued { target: task.target, until }, now, effects);
        }
        let within = |span: Duration| format!("not connected within {} s", span.as_secs_f32());
        let reason = match (host.contact, self.spec.rollout.offline) {
            (Contact::Quarantined, _) => QUARANTINED.to_owned(),
            (_, Offline::Skip) if is_command => "not connected, and --offline skip does not wait".to_owned(),
            (_, Offline::Wait(span)) if is_command => within(span),
            (_, Offline::Queue(span)) if is_command => format!("queued, and {}", within(span)),
            _ => within(self.spec.deliver),
        };
        self.end(task, Outcome::without_run(State::Unreachable, reason), now, effects);
    }

    fn offer(&mut self, task: TaskRef, now: Timestamp, effects: &mut Effects) {
        let ttl = self.spec.deliver.min(now.until(self.spec.start_before));
        self.emit_step(task, GateStep::Offered, now, effects);
        effects.sends.push(Send::Offer(task, ttl));
    }

    /// The agent proved that it never had the task: a new window opens, in the place it holds already.
    pub(super) fn offer_again(&mut self, task: TaskRef, now: Timestamp, effects: &mut Effects) {
        if self.is_ending(now) {
            let outcome = self.unstarted(task);
            self.end(task, outcome, now, effects);
        } else if self.paused.is_some() {
            self.task_mut(task).into_iter().for_each(|task| task.again = true);
        } else {
            self.offer(task, now, effects);
        }
    }

    /// Windows open anew after a pause, and what waited for its end is offered again.
    pub(super) fn reopen(&mut self, now: Timestamp, effects: &mut Effects) {
        for target in 0..self.spec.targets.count {
            let here = self.hosts[target as usize].is_connected();
            for task in self.hosts[target as usize].tasks(target) {
                match self.task(task) {
                    Some(known) if known.again && here => self.offer(task, now, effects),
                    Some(known) if known.again => self.postpone(task, now + self.spec.deliver),
                    Some(known) if matches!(known.phase, Phase::Due(_)) && !here => {
                        let queued = self.hosts[target as usize].queued.map(|_| now + self.spec.deliver);
                        let until = self.window(task, now).max(queued.unwrap_or(now));
                        self.set_phase(task, Phase::Due(until));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Contact is gone. A window that waits for it opens anew; a task at work has at least the margin to come back.
    pub(super) fn lost(&mut self, target: u32, contact: Contact, now: Timestamp) {
        let Some(host) = self.hosts.get_mut(target as usize) else { return };
        let was_connected = std::mem::replace(&mut host.contact, contact) == Contact::Here;
        for task in self.hosts[target as usize].tasks(target) {
            match self.task(task).map(|task| &task.phase) {
                Some(Phase::Due(_)) if was_connected => {
                    self.ready.remove(&task);
                    let until = self.window(task, now);
                    self.set_phase(task, Phase::Due(until));
                }
                Some(Phase::Offered(until) | Phase::Accepted(until) | Phase::Started(until)) => {
                    let until = (*until).max(now + CONTACT_MARGIN);
                    self.postpone(task, until);
                }
                _ => {}
            }
        }
    }

    /// After a restart, when all contact is gone.
    pub(super) fn restart_timer(&mut self, task: TaskRef, now: Timestamp) {
        match self.task(task).map(|task| &task.phase) {
            Some(Phase::Due(_)) => {
                let until = self.window(task, now);
                self.set_phase(task, Phase::Due(until));
            }
            _ => self.set_timer(task),
        }
    }

    /// Lets time decide.
    pub(super) fn timers_due(&mut self, now: Timestamp, effects: &mut Effects) {
        while let Some(&Reverse((at, task))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            self.timer_due(task, now, effects);
        }
    }

    fn timer_due(&mut self, task: TaskRef, now: Timestamp, effects: &mut Effects) {
        let here = self.hosts.get(task.target as usize).is_some_and(Host::is_connected);
        let Some(known) = self.task(task) else { return };
        match known.phase {
            Phase::Later(at) if at <= now => {
                self.set_phase(task, Phase::Planned);
                self.turns.push_back(task);
            }
            // Nothing could be offered, so nobody came too late.
            _ if known.is_waiting() && (here || self.paused.is_some()) => {}
            Phase::Due(until) if until <= now => self.window_closed(task, now, effects),
            Phase::Offered(until) if known.again && until <= now => self.window_closed(task, now, effects),
            Phase::Offered(until) | Phase::Accepted(until) | Phase::Started(until) if until <= now => {
                if here && now < until + CONNECTED_PATIENCE {
                    self.timers.push(Reverse((until + CONNECTED_PATIENCE, task)));
                } else {
                    let reason = "no contact with the agent until after the run timeout";
                    self.end(task, Outcome::without_run(State::Indeterminate, reason), now, effects);
                }
            }
            // It was postponed, or the task has gone on.
            _ => {}
        }
    }

    /// Sets where a task stands, and its timer.
    pub(super) fn set_phase(&mut self, task: TaskRef, phase: Phase) {
        if let Some(known) = self.task_mut(task) {
            (known.phase, known.again) = (phase, false);
            self.set_timer(task);
        }
    }

    fn postpone(&mut self, task: TaskRef, until: Timestamp) {
        if let Some(Phase::Offered(at) | Phase::Accepted(at) | Phase::Started(at)) =
            self.task_mut(task).map(|task| &mut task.phase)
            && *at != until
        {
            *at = until;
            self.set_timer(task);
        }
    }
}
