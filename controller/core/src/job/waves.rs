//! Waves: the list in pieces, one after the other, and the gate between two of them.
//!
//! ```text
//! Running ──each target over or in the queue──▶ Over ──pause, gate──▶ the next wave
//!                                                │ a gate failed, or nothing ran       ▲
//!                                                └──▶ Held ──resume──▶ Passed ─────────┘
//! ```

use super::attempts::brief;
use super::{Effects, Host, Job, TaskRef};
use muster_proto::event::EventKind;
use muster_proto::outcome::{Counts, Outcome, State};
use muster_proto::time::Timestamp;

/// Hosts named in a reason; the others are counted.
const NAMED_MAX: usize = 3;

/// The wave whose targets have their turns now; without waves it is one of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wave {
    /// From 1; 0 before the first.
    pub(super) number: u32,
    /// Its first target.
    pub(super) first: u32,
    /// Behind its last.
    pub(super) end: u32,
    pub(super) began: Timestamp,
    pub(super) stage: Stage,
    /// Its targets that are neither over nor in the queue.
    open: u32,
    /// Its targets on which the command ran to an end.
    ran: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Running,
    /// Since then. It stays over, whoever comes out of the queue.
    Over(Timestamp),
    /// Somebody has to look before the next wave begins.
    Held,
    Passed,
}

impl Wave {
    pub(super) const fn before_the_first() -> Self {
        let began = Timestamp::from_millis(0);
        Self { number: 0, first: 0, end: 0, began, stage: Stage::Passed, open: 0, ran: 0 }
    }

    const fn has(&self, target: u32) -> bool {
        self.first <= target && target < self.end
    }

    /// Counts whether a target of it holds it up, before and after an event.
    pub(super) fn count(&mut self, target: u32, before: bool, after: bool, now: Timestamp) {
        if self.has(target) {
            self.open = self.open + u32::from(after) - u32::from(before);
            self.end_if_over(now);
        }
    }

    fn end_if_over(&mut self, now: Timestamp) {
        if self.open == 0 && self.stage == Stage::Running {
            self.stage = Stage::Over(now);
        }
    }

    /// Counts a target of it on which the command ran to an end.
    pub(super) const fn count_ran(&mut self, target: u32) {
        if self.has(target) {
            self.ran += 1;
        }
    }

    pub(super) const fn hold(&mut self) {
        self.stage = Stage::Held;
    }

    /// Whoever resumes a job that paused by itself has looked.
    pub(super) fn release(&mut self) {
        if self.stage == Stage::Held {
            self.stage = Stage::Passed;
        }
    }
}

impl Job {
    /// Makes a piece of the list the wave of now.
    pub(super) fn begin(&mut self, number: u32, first: u32, end: u32, now: Timestamp) {
        let open = self.hosts[first as usize..end as usize].iter().filter(|host| host.holds_wave()).count();
        let open = u32::try_from(open).unwrap_or(u32::MAX);
        self.wave = Wave { number, first, end, began: now, stage: Stage::Running, open, ran: 0 };
        self.wave.end_if_over(now);
        self.gates = None;
    }

    /// Takes the next step from wave to wave; whether there are new turns to be taken.
    pub(super) fn next_wave(&mut self, now: Timestamp, effects: &mut Effects) -> bool {
        let Wave { number, end: first, stage, ran, .. } = self.wave;
        if first == self.spec.targets.count || self.is_ending(now) {
            return false;
        }
        match stage {
            Stage::Running | Stage::Held => return false,
            Stage::Over(_) if ran == 0 => {
                self.hold(self.proved_nothing(), now, effects);
                return false;
            }
            Stage::Over(at) if now < at + self.spec.rollout.wave_pause => return false,
            Stage::Over(_) if self.spec.rollout.gate.is_some() => match self.gates {
                None => {
                    self.begin_gates();
                    return true;
                }
                Some(0) => {
                    if let Some(reason) = self.gate_failure() {
                        self.hold(reason, now, effects);
                        return false;
                    }
                }
                Some(_) => return false,
            },
            Stage::Over(_) | Stage::Passed => {}
        }
        let end = self.spec.rollout.wave_end(number as usize, first, self.spec.targets.count);
        self.emit(EventKind::Wave { number: number + 1, first, targets: end - first }, now, effects);
        self.schedule_wave(now);
        true
    }

    /// When the pause after the wave is over, while that is what the job waits for.
    pub(super) fn soaked_at(&self) -> Option<Timestamp> {
        match self.wave.stage {
            Stage::Over(at) if self.gates.is_none() && self.wave.end < self.spec.targets.count => {
                Some(at + self.spec.rollout.wave_pause)
            }
            _ => None,
        }
    }

    fn wave_hosts(&self) -> impl Iterator<Item = (u32, &Host)> {
        (self.wave.first..self.wave.end).map(|target| (target, &self.hosts[target as usize]))
    }

    /// The gate is a task on each host that the command ran on. Those that ended before a restart count as they ended.
    fn begin_gates(&mut self) {
        let mut open = 0;
        for target in self.wave.first..self.wave.end {
            let host = &mut self.hosts[target as usize];
            if !host.ran() {
                continue;
            }
            let gate = host.gate.get_or_insert_default();
            if gate.outcome().is_none() {
                open += 1;
                self.turns.push_back(TaskRef::gate(target));
            }
        }
        self.gates = Some(open);
    }

    /// The gate of its wave has not begun, and will be asked of this target.
    pub(super) fn wants_gate(&self, target: u32, now: Timestamp) -> bool {
        let Wave { end, stage, .. } = self.wave;
        let host = &self.hosts[target as usize];
        let follows = self.spec.rollout.gate.is_some() && end < self.spec.targets.count && !self.is_ending(now);
        let before = matches!(stage, Stage::Running | Stage::Over(_)) && self.gates.is_none() && host.gate.is_none();
        follows && before && self.wave.has(target) && host.ran()
    }

    /// Why the next wave may not begin by itself, if it may not.
    fn gate_failure(&self) -> Option<String> {
        let gates = self.wave_hosts().filter_map(|(target, host)| Some((target, host.gate()?.outcome())));
        let failed = gates.filter(|(_, end)| end.is_none_or(|outcome| outcome.state != State::Succeeded));
        let failed: Vec<(u32, Option<&Outcome>)> = failed.collect();
        let named = failed.iter().take(NAMED_MAX);
        let named: Vec<String> =
            named.map(|(target, end)| format!("{} ({})", self.name(*target), brief(*end))).collect();
        let others = match failed.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            1 => " and at 1 more host".to_owned(),
            others => format!(" and at {others} more hosts"),
        };
        let number = self.wave.number;
        (!failed.is_empty()).then(|| format!("the gate of wave {number} failed at {}{others}", listed(&named)))
    }

    fn proved_nothing(&self) -> String {
        let mut counts = Counts::default();
        let mut queued = 0;
        for (_, host) in self.wave_hosts() {
            match host.outcome() {
                Some(outcome) => counts.add(outcome.state),
                None => queued += 1,
            }
        }
        let ends = counts.iter().map(|(state, count)| format!("{count} {state}"));
        let queued = (queued > 0).then(|| format!("{queued} queued"));
        let ends: Vec<String> = ends.chain(queued).collect();
        let hosts = match self.wave.end - self.wave.first {
            1 => "its host did not run the command".to_owned(),
            hosts => format!("none of its {hosts} hosts ran the command"),
        };
        format!("wave {} proved nothing: {hosts} ({})", self.wave.number, ends.join(", "))
    }

    /// What people call a target.
    fn name(&self, target: u32) -> String {
        match self.names.get(target as usize) {
            Some(known) => known.name.to_string(),
            None => format!("host {}", target.saturating_add(1)),
        }
    }
}

fn listed(parts: &[String]) -> String {
    match parts {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        _ => parts.concat(),
    }
}
