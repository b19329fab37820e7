//! How a job goes over its targets: how many at a time, in which waves, when it stops, what is tried again, and what
//! becomes of hosts that are away. All of it is signed.

use crate::command::{Command, CommandError, OutputLimit};
use crate::limits;
use crate::outcome::State;
use std::time::Duration;

/// The way of a command over its targets. The default is all of them at once, each tried once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rollout {
    /// Targets at work at a time; `None` is all.
    pub concurrency: Option<u32>,
    /// How many targets each wave has, in the order of the list; the last repeats. Empty is one wave of all.
    pub waves: Vec<u32>,
    /// From the end of a wave to its gate, or to the next wave.
    pub wave_pause: Duration,
    /// Runs on every target of a wave on which the command ran, before the next wave starts; where it does not succeed
    /// the job pauses. [`crate::id::Attempt::GATE`] is its attempt.
    pub gate: Option<Command>,
    /// When nothing more may start.
    pub max_fail: Option<MaxFail>,
    /// Each target of a wave starts at a moment of its own within this time.
    pub splay: Duration,
    /// How often a target is tried again after an attempt in which nothing ran.
    pub retries: u32,
    /// How often a target is tried again after an attempt that ran and failed, or timed out.
    pub retry_failed: u32,
    /// What becomes of a target whose agent is away when its turn comes.
    pub offline: Offline,
}

/// When too many have failed: targets that ended in a state for which [`State::counts_against_max_fail`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxFail {
    /// So many, at least 1.
    Hosts(u32),
    /// This share of the targets whose wave has begun, in per cent, 1 to 100; rounded up.
    Percent(u32),
}

impl MaxFail {
    /// How many failures are too many while so many targets' waves have begun: at least 1.
    pub fn limit(self, begun: u32) -> u32 {
        match self {
            Self::Hosts(hosts) => hosts,
            Self::Percent(percent) => {
                let limit = (u64::from(begun) * u64::from(percent)).div_ceil(100);
                u32::try_from(limit).unwrap_or(u32::MAX).max(1)
            }
        }
    }
}

/// What becomes of a target whose agent is away when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Offline {
    /// It has the job's delivery window to come back.
    #[default]
    Window,
    /// It is unreachable at once.
    Skip,
    /// It has so long to come back, and its wave waits for it.
    Wait(Duration),
    /// It has so long to come back, and nobody waits for it.
    Queue(Duration),
}

impl Rollout {
    /// Attempts that a target may have.
    pub const fn attempts_max(&self) -> u32 {
        1 + self.retries + self.retry_failed
    }

    /// Whether another attempt may follow attempts that ended so. One that ran is followed by another only where that was
    /// spelled out, and one of which nothing is known by none.
    pub fn allows_another(&self, ended: &[State]) -> bool {
        let ran = ended.iter().filter(|state| matches!(state, State::Failed | State::TimedOut)).count();
        let idle = ended.iter().filter(|state| is_tried_again(**state)).count();
        ran + idle == ended.len() && ran <= self.retry_failed as usize && idle <= self.retries as usize
    }

    /// The place behind the last target of the wave that begins at `first`; `wave` counts from 0.
    pub fn wave_end(&self, wave: usize, first: u32, targets: u32) -> u32 {
        match self.waves.get(wave).or(self.waves.last()) {
            Some(size) => first.saturating_add(*size).min(targets),
            None => targets,
        }
    }

    /// Refuses numbers and times that no controller would follow.
    pub fn check(&self) -> Result<(), RolloutError> {
        let waves_fit = self.waves.len() <= limits::WAVES_MAX && !self.waves.contains(&0);
        let share_fits = match self.max_fail {
            None => true,
            Some(MaxFail::Hosts(hosts)) => hosts > 0,
            Some(MaxFail::Percent(percent)) => (1..=100).contains(&percent),
        };
        let spans = match self.offline {
            Offline::Window | Offline::Skip => [self.wave_pause, self.splay, Duration::ZERO],
            Offline::Wait(span) | Offline::Queue(span) if span.is_zero() => return Err(RolloutError::Offline),
            Offline::Wait(span) | Offline::Queue(span) => [self.wave_pause, self.splay, span],
        };
        if self.concurrency == Some(0) {
            return Err(RolloutError::Concurrency);
        }
        if !waves_fit {
            return Err(RolloutError::Waves);
        }
        if self.waves.is_empty() && (self.gate.is_some() || !self.wave_pause.is_zero()) {
            return Err(RolloutError::NoWaves);
        }
        if !share_fits {
            return Err(RolloutError::MaxFail);
        }
        if self.retries > limits::RETRIES_MAX || self.retry_failed > limits::RETRIES_MAX {
            return Err(RolloutError::Retries);
        }
        if { spans }.into_iter().any(|span| span > limits::START_BEFORE_MAX) {
            return Err(RolloutError::Span);
        }
        match &self.gate {
            Some(gate) if gate.blobs().next().is_some() => Err(RolloutError::GateFiles),
            Some(gate) if !is_small(gate.output) => Err(RolloutError::GateOutput),
            Some(gate) => gate.check().map_err(RolloutError::Gate),
            None => Ok(()),
        }
    }
}

/// Nothing ran, and trying again may help: what was skipped was not wanted any more.
const fn is_tried_again(state: State) -> bool {
    state.is_not_run() && !matches!(state, State::Skipped)
}

/// A gate's output lies among the job's events.
const fn is_small(output: OutputLimit) -> bool {
    match output {
        OutputLimit::Kept { head, tail } => head <= limits::GATE_OUTPUT_BYTES && tail <= limits::GATE_OUTPUT_BYTES,
        OutputLimit::Unlimited => false,
    }
}

/// What makes a rollout impossible, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolloutError {
    /// Nobody at work.
    #[error("the concurrency must be at least 1")]
    Concurrency,
    /// An empty wave, or too many.
    #[error("there are 1 to {} waves, each of at least one host", limits::WAVES_MAX)]
    Waves,
    /// What stands between waves, without waves.
    #[error("a gate and a pause stand between waves: say --waves, as --waves 1,10%,100%")]
    NoWaves,
    /// Nothing, or more than all.
    #[error("the greatest number of failures must be at least 1, or a share from 1% to 100%")]
    MaxFail,
    /// Too many.
    #[error("a target is tried again at most {} times for either reason", limits::RETRIES_MAX)]
    Retries,
    /// No time.
    #[error("the time for hosts that are away must be more than 0; --offline skip gives them none")]
    Offline,
    /// Too long.
    #[error("pauses, splay and waits have at most {} h", limits::START_BEFORE_MAX.as_secs() / 3600)]
    Span,
    /// A gate that needs something beside the signed job.
    #[error("a gate is a command without stdin and without a script that is carried along")]
    GateFiles,
    /// A gate with much to say.
    #[error("of a gate's output at most the first and the last {} KiB are kept", limits::GATE_OUTPUT_BYTES >> 10)]
    GateOutput,
    /// The gate's program.
    #[error("the gate: {0}")]
    Gate(CommandError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Program;

    #[test]
    fn the_last_wave_repeats_until_all_had_their_turn() {
        let rollout = Rollout { waves: vec![1, 5], ..Rollout::default() };
        let (mut first, mut ends) = (0, Vec::new());
        for wave in 0.. {
            first = rollout.wave_end(wave, first, 13);
            ends.push(first);
            if first == 13 {
                break;
            }
        }
        assert_eq!(ends, [1, 6, 11, 13]);
        assert_eq!(Rollout::default().wave_end(0, 0, 13), 13);
    }

    #[test]
    fn what_may_have_run_is_never_tried_again_unless_that_was_spelled_out() {
        let rollout = |retries, retry_failed| Rollout { retries, retry_failed, ..Rollout::default() };
        use State::{Cancelled, Failed, Indeterminate, Rejected, Skipped, Succeeded, TimedOut, Unreachable};
        assert!(rollout(1, 0).allows_another(&[Unreachable]));
        assert!(!rollout(1, 0).allows_another(&[Unreachable, Rejected]));
        assert!(!rollout(9, 0).allows_another(&[Failed]));
        assert!(rollout(0, 1).allows_another(&[TimedOut]));
        assert!(!rollout(0, 1).allows_another(&[Unreachable]));
        assert!(rollout(1, 1).allows_another(&[Unreachable, Failed]));
        for never in [Succeeded, Cancelled, Skipped, Indeterminate] {
            assert!(!rollout(9, 9).allows_another(&[never]), "{never}");
        }
    }

    #[test]
    fn a_share_of_failures_is_at_least_one() {
        assert_eq!([1, 10, 11, 1000].map(|begun| MaxFail::Percent(10).limit(begun)), [1, 1, 2, 100]);
        assert_eq!(MaxFail::Hosts(3).limit(1), 3);
    }

    #[test]
    fn a_rollout_that_cannot_be_followed_is_refused() {
        let base = Rollout::default;
        for (bad, error) in [
            (Rollout { concurrency: Some(0), ..base() }, RolloutError::Concurrency),
            (Rollout { waves: vec![1, 0], ..base() }, RolloutError::Waves),
            (Rollout { wave_pause: Duration::from_secs(1), ..base() }, RolloutError::NoWaves),
            (Rollout { max_fail: Some(MaxFail::Percent(101)), ..base() }, RolloutError::MaxFail),
            (Rollout { max_fail: Some(MaxFail::Hosts(0)), ..base() }, RolloutError::MaxFail),
            (Rollout { retries: limits::RETRIES_MAX + 1, ..base() }, RolloutError::Retries),
            (Rollout { offline: Offline::Queue(Duration::ZERO), ..base() }, RolloutError::Offline),
            (Rollout { splay: Duration::from_hours(25), ..base() }, RolloutError::Span),
        ] {
            assert_eq!(bad.check(), Err(error));
        }
        let gated = |output| {
            let gate = Command { output, ..Command::new(Program::Shell(b"true".to_vec())) };
            Rollout { waves: vec![1], gate: Some(gate), ..base() }.check()
        };
        let OutputLimit::Kept { head, tail } = OutputLimit::GATE else { panic!("it is small") };
        assert_eq!(gated(OutputLimit::GATE), Ok(()));
        for output in [
            OutputLimit::Unlimited,
            OutputLimit::default(),
            OutputLimit::Kept { head: head + 1, tail },
            OutputLimit::Kept { head, tail: tail + 1 },
        ] {
            assert_eq!(gated(output), Err(RolloutError::GateOutput));
        }
        assert_eq!(base().check(), Ok(()));
    }
}
