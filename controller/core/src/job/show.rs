//! What a job and its targets wait for, as others show it.

use super::waves::Stage;
use super::{Host, Job, Pause, Queued};
use crate::task::{Phase, Task};
use muster_proto::id::Attempt;
use muster_proto::time::Timestamp;

/// The wave whose targets have their turns now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaveView {
    /// From 1; 0 before the first has begun.
    pub number: u32,
    /// How many there are; 1 of a job without waves.
    pub of: u32,
    /// Its first target.
    pub first: u32,
    /// How many targets it has.
    pub targets: u32,
    /// Where it stands.
    pub stage: WaveStage,
}

/// Where a wave stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaveStage {
    /// Its targets have their turns.
    Running,
    /// It is over; until then the job looks on.
    Soaking {
        /// When the gate or the next wave begins.
        until: Timestamp,
    },
    /// Its gate runs.
    Gate {
        /// Hosts on which it is not over.
        open: u32,
    },
    /// The job paused by itself after it: somebody has to look.
    Held,
    /// Nothing keeps the next one from beginning; or it was the last.
    Passed,
}

/// What a target waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing: it is over.
    Over,
    /// Its agent, which runs the gate of its wave or was offered it.
    Gate,
    /// Its agent, which has the task or was offered it.
    AtWork,
    /// An operator: the job is paused, and the target had to be offered its task.
    Paused,
    /// Its wave.
    Wave {
        /// From 1.
        number: u32,
    },
    /// Its moment within its wave: starts are spread.
    Turn {
        /// When it comes.
        at: Timestamp,
    },
    /// Its next attempt.
    Retry {
        /// Which does not begin before.
        at: Timestamp,
    },
    /// Room: as many are at work as may be.
    Room,
    /// Its agent, which is away.
    Contact {
        /// When it is given up.
        until: Timestamp,
    },
    /// Its agent, which is away, and nobody waits for the target.
    Queue {
        /// When it is given up.
        until: Timestamp,
    },
}

impl Job {
    /// The wave whose targets have their turns now.
    pub fn wave(&self) -> WaveView {
        let wave = self.wave;
        let stage = match (wave.stage, self.gates) {
            (Stage::Running, _) => WaveStage::Running,
            (Stage::Held, _) => WaveStage::Held,
            (Stage::Over(_), Some(open)) => WaveStage::Gate { open },
            (Stage::Over(_), None) => match self.soaked_at() {
                Some(until) => WaveStage::Soaking { until },
                None => WaveStage::Passed,
            },
            (Stage::Passed, _) => WaveStage::Passed,
        };
        let of = self.wave_of(self.spec.targets.count.saturating_sub(1));
        WaveView { number: wave.number, of, first: wave.first, targets: wave.end - wave.first, stage }
    }

    /// The wave of a target, from 1.
    fn wave_of(&self, target: u32) -> u32 {
        let sizes = &self.spec.rollout.waves;
        let mut end = 0_u32;
        for (number, size) in (1..).zip(sizes) {
            end = end.saturating_add(*size);
            if target < end {
                return number;
            }
        }
        let Some(&last) = sizes.last() else { return 1 };
        let listed = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
        listed.saturating_add(1).saturating_add((target - end) / last.max(1))
    }

    /// Why nothing is offered, while the job is paused.
    pub const fn pause(&self) -> Option<&Pause> {
        self.paused.as_ref()
    }

    /// Why nothing more starts, once the job stopped.
    pub fn stopping(&self) -> Option<&str> {
        self.stopping.as_deref()
    }

    /// The targets that wait for their agents while nobody waits for them.
    pub fn queued(&self) -> impl Iterator<Item = (u32, Queued)> {
        (0..).zip(&self.hosts).filter_map(|(target, host)| Some((target, host.queued()?)))
    }

    /// What a target waits for. A place behind the list waits for nothing.
    pub fn waiting(&self, target: u32) -> Waiting {
        let Some(host) = self.hosts.get(target as usize) else { return Waiting::Over };
        if host.gate().is_some_and(|gate| gate.outcome().is_none()) {
            return if host.gate().is_some_and(Task::is_waiting) && self.paused.is_some() {
                Waiting::Paused
            } else {
                Waiting::Gate
            };
        }
        if host.task().is_at_work() && !host.task().is_waiting() {
            return Waiting::AtWork;
        }
        self.waiting_to_be_offered(target, host)
    }

    fn waiting_to_be_offered(&self, target: u32, host: &Host) -> Waiting {
        let paused = self.paused.is_some();
        match *host.phase() {
            Phase::Ended(_) => Waiting::Over,
            Phase::Planned if target >= self.wave.end => Waiting::Wave { number: self.wave_of(target) },
            Phase::Later(at) if host.attempt() == Attempt::FIRST => Waiting::Turn { at },
            Phase::Later(at) => Waiting::Retry { at },
            Phase::Due(until) if !host.is_connected() && host.queued().is_some() => Waiting::Queue { until },
            _ if paused => Waiting::Paused,
            Phase::Due(until) if !host.is_connected() => Waiting::Contact { until },
            _ => Waiting::Room,
        }
    }
}
