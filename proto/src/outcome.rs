//! How a task ended: on the host ([`End`]), and for the operator ([`Outcome`]).

use crate::ping::PingReport;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The terminal state of a target. Exactly one, and it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Exit code 0.
    Succeeded,
    /// Exit code not 0, or killed by a signal.
    Failed,
    /// The run timeout ended it.
    TimedOut,
    /// Ended by a cancel after it had started.
    Cancelled,
    /// exec, user or directory: nothing ran.
    StartFailed,
    /// The agent refused: nothing ran.
    Rejected,
    /// Not connected within the delivery window: nothing ran.
    Unreachable,
    /// Provably never started before the deadline.
    Expired,
    /// The job stopped before it started here.
    Skipped,
    /// Started or maybe started; the outcome cannot be known.
    Indeterminate,
}

impl State {
    /// All states, in the order in which summaries name them.
    pub const ALL: [Self; 10] = [
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
        Self::StartFailed,
        Self::Rejected,
        Self::Unreachable,
        Self::Expired,
        Self::Skipped,
        Self::Indeterminate,
    ];

    /// The word for it on the command line, in JSON and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
            Self::StartFailed => "start_failed",
            Self::Rejected => "rejected",
            Self::Unreachable => "unreachable",
            Self::Expired => "expired",
            Self::Skipped => "skipped",
            Self::Indeterminate => "indeterminate",
        }
    }

    /// It is certain that nothing ran, so running it again cannot do anything twice.
    pub const fn is_not_run(self) -> bool {
        matches!(self, Self::StartFailed | Self::Rejected | Self::Unreachable | Self::Expired | Self::Skipped)
    }

    /// The command ran and ended by itself or by its timeout: what it does to a host can be seen there.
    pub const fn ran_to_end(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::TimedOut)
    }

    /// It counts among the failures that stop a job. Hosts that are away or refused are counted apart: they say nothing of
    /// what the command does. A host of which nothing more is heard may be down because of it.
    pub const fn counts_against_max_fail(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::StartFailed | Self::Indeterminate)
    }

    /// It ran and did not succeed, or could not be started.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::StartFailed | Self::Cancelled)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for State {
    type Err = ParseStateError;

    fn from_str(text: &str) -> Result<Self, ParseStateError> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| ParseStateError(text.into()))
    }
}

/// The text is no terminal state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no state: use succeeded, failed, timed_out, cancelled, start_failed, rejected, unreachable, expired, skipped or indeterminate"
)]
pub struct ParseStateError(String);

/// A terminal state with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The state.
    pub state: State,
    /// Exit code of the leader, if it exited.
    pub exit_code: Option<u8>,
    /// Signal that ended the leader, if one did.
    pub signal: Option<u8>,
    /// One line for people; `None` when the state says it all.
    pub reason: Option<String>,
    /// From start to end on the host; `None` where nothing ran.
    pub duration: Option<Duration>,
    /// What was measured, of a ping.
    pub ping: Option<Box<PingReport>>,
}

impl Outcome {
    /// A state in which nothing ran, or nothing is known, with its reason.
    pub fn without_run(state: State, reason: impl Into<String>) -> Self {
        Self { state, exit_code: None, signal: None, reason: Some(reason.into()), duration: None, ping: None }
    }
}

/// How a process ended on its host, as its supervisor recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// What happened.
    pub kind: EndKind,
    /// From start to the end of the leader.
    pub duration: Duration,
}

/// What ended a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndKind {
    /// The leader exited.
    Exit(u8),
    /// A signal ended the leader.
    Signal(u8),
    /// The run timeout ended it.
    TimedOut,
    /// A cancel ended it.
    Cancelled,
    /// exec, user or directory; nothing ran.
    StartFailed(String),
    /// The outcome cannot be known.
    Lost(String),
}

impl From<End> for Outcome {
    fn from(end: End) -> Self {
        let (state, exit_code, signal, reason) = match end.kind {
            EndKind::Exit(0) => (State::Succeeded, Some(0), None, None),
            EndKind::Exit(code) => (State::Failed, Some(code), None, None),
            EndKind::Signal(signal) => {
                (State::Failed, None, Some(signal), Some(format!("killed by {}", signal_name(signal))))
            }
            EndKind::TimedOut => (State::TimedOut, None, None, Some("the run timeout ended it".to_owned())),
            EndKind::Cancelled => (State::Cancelled, None, None, None),
            EndKind::StartFailed(reason) => return Self::without_run(State::StartFailed, reason),
            EndKind::Lost(reason) => return Self::without_run(State::Indeterminate, reason),
        };
        Self { state, exit_code, signal, reason, duration: Some(end.duration), ping: None }
    }
}

/// The name of a Linux signal ("SIGKILL"), or its number.
pub fn signal_name(signal: u8) -> String {
    const NAMES: [&str; 32] = [
        "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    match NAMES.get(usize::from(signal)) {
        Some(name) if !name.is_empty() => format!("SIG{name}"),
        _ => format!("signal {signal}"),
    }
}

/// How many targets are in each terminal state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts([u32; State::ALL.len()]);

impl Counts {
    /// Counts one more; saturates.
    pub fn add(&mut self, state: State) {
        self.add_many(state, 1);
    }

    /// Counts several more; saturates.
    pub fn add_many(&mut self, state: State, count: u32) {
        let slot = &mut self.0[state as usize];
        *slot = slot.saturating_add(count);
    }

    /// Targets in this state.
    pub fn get(&self, state: State) -> u32 {
        self.0[state as usize]
    }

    /// Targets in any terminal state.
    pub fn total(&self) -> u32 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The states that occur, in the order of [`State::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (State, u32)> {
        State::ALL.into_iter().map(|state| (state, self.get(state))).filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back_and_counts_in_its_own_slot() {
        let mut counts = Counts::default();
        for (place, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(state as usize, place);
            assert_eq!(state.as_str().parse(), Ok(state));
            counts.add(state);
        }
        assert_eq!(counts.total(), 10);
        assert!("ok".parse::<State>().is_err());
    }

    #[test]
    fn only_exit_code_zero_is_success() {
        for code in 0..=255 {
            let outcome = Outcome::from(End { kind: EndKind::Exit(code), duration: Duration::ZERO });
            assert_eq!(outcome.state == State::Succeeded, code == 0);
            assert_eq!(outcome.exit_code, Some(code));
        }
    }
}
