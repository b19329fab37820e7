//! Every exit status of `muster`, and the one function that finds it from what happened on the hosts.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | all succeeded; with `-d`, the job was accepted |
//! | 1 | some `failed`, `timed_out`, `start_failed` or `cancelled` |
//! | 2 | usage: an option, a command or a selector that cannot be meant |
//! | 3 | some `unreachable`, `expired`, `rejected` or `skipped` |
//! | 4 | some `indeterminate` |
//! | 5 | the job goes on, but we no longer follow it: the link broke, or stdout did |
//! | 6 | the controller is unavailable or refused |
//! | 130 | interrupted |
//!
//! The first that applies of 6, 2, 1, 4, 3, 0 is taken. With `--pass-exit` and exactly one host its own is passed on.

use muster_proto::outcome::{Counts, Outcome, State};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All succeeded.
    Success,
    /// Something ran and did not succeed, or could not be started.
    Failed,
    /// The user has to say it differently.
    Usage,
    /// Some hosts did not run it.
    NotRun,
    /// Of some hosts the outcome cannot be known.
    Indeterminate,
    /// The job goes on without us.
    NotFollowed,
    /// The controller is unavailable or refused.
    Controller,
    /// Ended by Ctrl-C.
    Interrupted,
    /// Of a program that ran in our place.
    Passed(u8),
}

impl Exit {
    /// The status as the shell sees it.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotRun => 3,
            Self::Indeterminate => 4,
            Self::NotFollowed => 5,
            Self::Controller => 6,
            Self::Interrupted => 130,
            Self::Passed(code) => code,
        }
    }

    /// Judges the hosts that ended.
    pub fn of_counts(counts: &Counts) -> Self {
        let some = |states: &[State]| states.iter().any(|state| counts.get(*state) > 0);
        if some(&[State::Failed, State::TimedOut, State::StartFailed, State::Cancelled]) {
            Self::Failed
        } else if some(&[State::Indeterminate]) {
            Self::Indeterminate
        } else if some(&[State::Unreachable, State::Expired, State::Rejected, State::Skipped]) {
            Self::NotRun
        } else {
            Self::Success
        }
    }

    /// Passes on how the only host ended; as a shell has it, 128 and the signal where a signal ended it.
    pub fn of_only(outcome: &Outcome) -> Self {
        if let Some(code) = outcome.exit_code {
            return Self::Passed(code);
        }
        if let Some(signal) = outcome.signal {
            return Self::Passed(signal.saturating_add(128));
        }
        let mut counts = Counts::default();
        counts.add(outcome.state);
        Self::of_counts(&counts)
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// What the user asked for cannot be done as it was said; the text has the remedy. Ends with [`Exit::Usage`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_state_decides() {
        let status = |states: &[State]| {
            let mut counts = Counts::default();
            states.iter().for_each(|state| counts.add(*state));
            Exit::of_counts(&counts).code()
        };
        assert_eq!(status(&[]), 0);
        assert_eq!(status(&[State::Succeeded]), 0);
        for state in [State::Unreachable, State::Expired, State::Rejected, State::Skipped] {
            assert_eq!(status(&[State::Succeeded, state]), 3, "{state}");
            assert_eq!(status(&[state, State::Indeterminate]), 4, "{state}");
        }
        for state in [State::Failed, State::TimedOut, State::StartFailed, State::Cancelled] {
            assert_eq!(status(&[state, State::Indeterminate, State::Skipped, State::Succeeded]), 1, "{state}");
        }
    }

    #[test]
    fn every_state_has_a_status_and_only_success_is_zero() {
        for state in State::ALL {
            let outcome = Outcome { state, exit_code: None, signal: None, reason: None, duration: None, ping: None };
            assert_eq!(Exit::of_only(&outcome) == Exit::Success, state == State::Succeeded, "{state}");
        }
    }

    #[test]
    fn the_only_host_speaks_for_itself() {
        let outcome = |exit_code, signal| Outcome {
            state: State::Failed,
            exit_code,
            signal,
            reason: None,
            duration: None,
            ping: None,
        };
        assert_eq!(Exit::of_only(&outcome(Some(77), None)).code(), 77);
        assert_eq!(Exit::of_only(&outcome(None, Some(9))).code(), 137);
        assert_eq!(Exit::of_only(&outcome(None, None)).code(), 1);
    }
}
