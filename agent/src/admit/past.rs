//! What an agent remembers of a job when another task of it is offered, and the rule that keeps a controller to the rollout
//! that was signed: attempts come one after another, each only where the ends of those before allow it; the gate comes
//! once, after an attempt that ran here to its end, and nothing comes after it.

use muster_proto::id::Attempt;
use muster_proto::link::RejectKind;
use muster_proto::outcome::{End, Outcome, State};
use muster_proto::rollout::Rollout;
use std::collections::BTreeMap;

/// What is remembered of a job at one of its targets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Past {
    /// SHA-256 of the payload that the job's tasks came with: a job has one.
    pub payload: Option<[u8; 32]>,
    /// Its tasks that came here, and those that were refused or cancelled.
    pub tasks: BTreeMap<Attempt, Stand>,
}

/// Where a task stands, as far as others depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It waits or works.
    Open,
    /// It is over, and ended so.
    Over(State),
}

impl Stand {
    /// Of a task that never starts here.
    pub const fn refused(kind: RejectKind) -> Self {
        Self::Over(match kind {
            RejectKind::Refused => State::Rejected,
            RejectKind::Expired => State::Expired,
            RejectKind::Cancelled => State::Skipped,
        })
    }

    /// Of a task that ended here.
    pub fn ended(end: &End) -> Self {
        Self::Over(Outcome::from(end.clone()).state)
    }

    const fn end(self) -> Option<State> {
        match self {
            Self::Over(state) => Some(state),
            Self::Open => None,
        }
    }
}

/// An offer breaks the order of the rollout that was signed: the controller lies, or lost its memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum OrderError {
    /// Two at once.
    #[error("not as signed: attempt {0} has not ended on this host, and nothing of the job may start beside it")]
    Beside(Attempt),
    /// Backwards.
    #[error("not as signed: attempt {0} was here before, and attempts come one after another")]
    Behind(Attempt),
    /// After the end of the wave.
    #[error("not as signed: the gate of its wave was here before, and no attempt follows that")]
    BehindGate,
    /// The attempts before it do not allow it.
    #[error("not as signed: no other attempt may follow attempt {0}, which ended as {1}")]
    NoOther(Attempt, State),
    /// A gate looks at what the command did.
    #[error("not as signed: a gate follows the command, and the command has not run to its end on this host")]
    GateFirst,
}

impl Past {
    /// Whether a task that never came may start now. An attempt that never came here did not run: it counts as one whose
    /// host was unreachable.
    pub(super) fn allows(&self, rollout: &Rollout, offered: Attempt) -> Result<(), OrderError> {
        let open = |(attempt, stand): (&Attempt, &Stand)| (*stand == Stand::Open).then_some(*attempt);
        if let Some(open) = self.tasks.iter().find_map(open) {
            return Err(OrderError::Beside(open));
        }
        let last = self.tasks.range(Attempt::FIRST..).next_back();
        let Some(number) = offered.number() else {
            let attempts = self.tasks.range(Attempt::FIRST..).rev();
            let mut ran = attempts.filter_map(|(_, stand)| stand.end()).filter(|end| !end.is_not_run());
            return if ran.next().is_some_and(State::ran_to_end) { Ok(()) } else { Err(OrderError::GateFirst) };
        };
        if let Some((later, _)) = last.filter(|(last, _)| **last > offered) {
            return Err(OrderError::Behind(*later));
        }
        if self.tasks.get(&Attempt::GATE).and_then(|gate| gate.end()).is_some_and(|end| !end.is_not_run()) {
            return Err(OrderError::BehindGate);
        }
        let end = |before| self.tasks.get(&Attempt(before)).and_then(|stand| stand.end()).unwrap_or(State::Unreachable);
        let ends: Vec<_> = (1..number).map(end).collect();
        match ends.last() {
            Some(last) if !rollout.allows_another(&ends) => Err(OrderError::NoOther(Attempt(number - 1), *last)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::command::{Command, Program};
    use proptest::prelude::*;

    fn past(tasks: impl IntoIterator<Item = (u32, Stand)>) -> Past {
        let tasks = tasks.into_iter().map(|(attempt, stand)| (Attempt(attempt), stand)).collect();
        Past { payload: None, tasks }
    }

    fn rollout(retries: u32, retry_failed: u32) -> Rollout {
        let gate = Some(Command::new(Program::Shell(b"true".to_vec())));
        Rollout { retries, retry_failed, gate, ..Rollout::default() }
    }

    #[test]
    fn each_way_to_break_the_order_is_told_from_the_others() {
        use Stand::{Open, Over};
        use State::{Failed, Indeterminate, Skipped, StartFailed, Succeeded, TimedOut, Unreachable};
        let both = rollout(1, 1);
        for (rollout, known, offered, told) in [
            (&both, vec![], 1, Ok(())),
            (&both, vec![(1, Open)], 2, Err(OrderError::Beside(Attempt(1)))),
            (&both, vec![(1, Over(Failed))], 2, Ok(())),
            (&both, vec![(1, Over(Failed)), (2, Over(StartFailed))], 3, Ok(())),
            (&both, vec![(1, Over(Failed))], 3, Ok(())),
            (&both, vec![(1, Over(Failed)), (2, Over(TimedOut))], 3, Err(OrderError::NoOther(Attempt(2), TimedOut))),
            (&both, vec![], 3, Err(OrderError::NoOther(Attempt(2), Unreachable))),
            (&rollout(9, 0), vec![(1, Over(Failed))], 2, Err(OrderError::NoOther(Attempt(1), Failed))),
            (&both, vec![(1, Over(Succeeded))], 2, Err(OrderError::NoOther(Attempt(1), Succeeded))),
            (&both, vec![(1, Over(Skipped))], 2, Err(OrderError::NoOther(Attempt(1), Skipped))),
            (&both, vec![(1, Over(Indeterminate))], 2, Err(OrderError::NoOther(Attempt(1), Indeterminate))),
            (&both, vec![(2, Over(Failed))], 1, Err(OrderError::Behind(Attempt(2)))),
            (&both, vec![], 0, Err(OrderError::GateFirst)),
            (&both, vec![(1, Open)], 0, Err(OrderError::Beside(Attempt(1)))),
            (&both, vec![(1, Over(StartFailed))], 0, Err(OrderError::GateFirst)),
            (&both, vec![(1, Over(Failed)), (2, Over(Indeterminate))], 0, Err(OrderError::GateFirst)),
            (&both, vec![(1, Over(Failed)), (2, Over(StartFailed))], 0, Ok(())),
            (&both, vec![(1, Over(StartFailed)), (2, Over(TimedOut))], 0, Ok(())),
            (&both, vec![(0, Open), (1, Over(Failed))], 2, Err(OrderError::Beside(Attempt::GATE))),
            (&both, vec![(0, Over(Failed)), (1, Over(Failed))], 2, Err(OrderError::BehindGate)),
            (&both, vec![(0, Over(Skipped)), (1, Over(Failed))], 2, Ok(())),
        ] {
            assert_eq!(past(known.clone()).allows(rollout, Attempt(offered)), told, "{offered} after {known:?}");
        }
    }

    /// What a controller can make happen that offers whatever it likes.
    #[derive(Debug, Clone)]
    enum Move {
        Offer(u32),
        Cancel(u32),
        /// The task at work ends so.
        End(State),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        use State::{Cancelled, Failed, Indeterminate, StartFailed, Succeeded, TimedOut};
        // Mostly those ends after which something may follow.
        let ends = [Failed, Failed, TimedOut, StartFailed, StartFailed, Succeeded, Cancelled, Indeterminate];
        let step = prop_oneof![
            4 => (0..6_u32).prop_map(Move::Offer),
            1 => (0..6_u32).prop_map(Move::Cancel),
            4 => prop::sample::select(ends.to_vec()).prop_map(Move::End),
        ];
        prop::collection::vec(step, 0..40)
    }

    /// The ends of all that was started, in order; the last may be missing.
    fn play(rollout: &Rollout, moves: &[Move]) -> Vec<(Attempt, Option<State>)> {
        let (mut past, mut ran) = (Past::default(), Vec::<(Attempt, Option<State>)>::new());
        for step in moves {
            match step {
                Move::Offer(number) if !past.tasks.contains_key(&Attempt(*number)) => {
                    let attempt = Attempt(*number);
                    if attempt <= Attempt(rollout.attempts_max()) && past.allows(rollout, attempt).is_ok() {
                        past.tasks.insert(attempt, Stand::Open);
                        ran.push((attempt, None));
                    }
                }
                Move::Offer(_) => {}
                Move::Cancel(number) => {
                    past.tasks.entry(Attempt(*number)).or_insert(Stand::Over(State::Skipped));
                }
                Move::End(state) => {
                    if let Some((attempt, end @ None)) = ran.last_mut() {
                        *end = Some(*state);
                        past.tasks.insert(*attempt, Stand::Over(*state));
                    }
                }
            }
        }
        ran
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_a_controller_offers_nothing_runs_that_was_not_signed(
            retries in 0..3_u32, retry_failed in 0..3_u32, moves in moves()
        ) {
            let rollout = rollout(retries, retry_failed);
            let ran = play(&rollout, &moves);
            let (gates, attempts): (Vec<_>, Vec<_>) = ran.iter().partition(|(attempt, _)| *attempt == Attempt::GATE);
            prop_assert!(attempts.is_sorted_by(|(a, _), (b, _)| a < b), "each at most once, in order: {:?}", ran);
            prop_assert!(ran.iter().rev().skip(1).all(|(_, end)| end.is_some()), "one at a time: {:?}", ran);
            prop_assert!(gates.len() <= 1, "{:?}", ran);
            let before_last = &attempts[..attempts.len().saturating_sub(1)];
            let count = |states: &[State]| {
                before_last.iter().filter(|(_, end)| end.is_some_and(|end| states.contains(&end))).count()
            };
            let (again, idle) = (count(&[State::Failed, State::TimedOut]), count(&[State::StartFailed]));
            prop_assert_eq!(again + idle, before_last.len(), "nothing follows any other end: {:?}", &ran);
            prop_assert!(again <= retry_failed as usize && idle <= retries as usize, "{:?}", &ran);
            if let Some(place) = ran.iter().position(|(attempt, _)| *attempt == Attempt::GATE) {
                let mut before = ran[..place].iter().rev().filter_map(|(_, end)| *end);
                prop_assert!(before.find(|end| !end.is_not_run()).is_some_and(State::ran_to_end), "{:?}", &ran);
                // A gate of which nothing ran, as every other task that did not start, changes nothing.
                let idle = ran[place].1.is_some_and(State::is_not_run);
                prop_assert!(idle || place == ran.len() - 1, "nothing follows a gate: {:?}", &ran);
            }
        }
    }
}
