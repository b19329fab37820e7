//! The end of an attempt: whether another follows, when, and whether too many targets have failed by then.

use super::{Effects, Host, Job, TaskRef};
use muster_proto::event::{EventKind, GateStep};
use muster_proto::id::Attempt;
use muster_proto::outcome::{Outcome, State};
use muster_proto::rollout::MaxFail;
use muster_proto::time::Timestamp;
use std::time::Duration;

/// From the end of the first attempt to the second; doubled for each that follows.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// No pause between attempts is longer.
const PAUSE_MAX: Duration = Duration::from_secs(60);

impl Job {
    /// A task is over. Of the command, another attempt may follow.
    pub(super) fn end(&mut self, task: TaskRef, outcome: Outcome, now: Timestamp, effects: &mut Effects) {
        self.ready.remove(&task);
        if task.attempt == Attempt::GATE {
            self.emit_step(task, GateStep::Finished { outcome }, now, effects);
        } else if let Some((attempt, at)) = self.next_attempt(task, outcome.state, now) {
            let target = task.target;
            self.emit(EventKind::Retrying { target, attempt, outcome, at }, now, effects);
        } else {
            self.conclude(task.target, outcome, now, effects);
        }
    }

    /// A target is over: no attempt follows this end of the last.
    pub(super) fn conclude(&mut self, target: u32, last: Outcome, now: Timestamp, effects: &mut Effects) {
        let outcome = self.hosts[target as usize].conclude(last);
        self.emit(EventKind::Finished { target, outcome }, now, effects);
        if let Some(reason) = self.too_many_failed(now) {
            self.stop(reason, now, effects);
        }
    }

    fn next_attempt(&self, task: TaskRef, ended: State, now: Timestamp) -> Option<(Attempt, Timestamp)> {
        let rollout = &self.spec.rollout;
        if rollout.attempts_max() == 1 || self.is_ending(now) {
            return None;
        }
        let mut all = self.hosts[task.target as usize].ended.clone();
        all.push(ended);
        let next = TaskRef { attempt: task.attempt.next(), ..task };
        let at = now + self.pause_before(next, all.len());
        (rollout.allows_another(&all) && at < self.spec.start_before).then_some((next.attempt, at))
    }

    /// Hosts that failed together do not come back together.
    fn pause_before(&self, task: TaskRef, ended: usize) -> Duration {
        let doublings = u32::try_from(ended.saturating_sub(1)).unwrap_or(u32::MAX);
        let pause = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(doublings)).min(PAUSE_MAX);
        pause - self.spread(task, pause / 2)
    }

    /// A span shorter than this one, that is another for each task and always the same.
    pub(super) fn spread(&self, task: TaskRef, span: Duration) -> Duration {
        let TaskRef { target, attempt: Attempt(attempt) } = task;
        let job = self
            .spec
            .job
            .as_bytes()
            .chunks(8)
            .map(|half| half.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
        let mixed = job.chain([u64::from(target), u64::from(attempt)]).fold(0, |sum, part| mix(sum ^ part));
        let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(mixed.checked_rem(millis).unwrap_or(0))
    }

    /// Why the job should stop, if it should.
    fn too_many_failed(&self, now: Timestamp) -> Option<String> {
        let max = self.spec.rollout.max_fail?;
        let begun = self.wave.end;
        let failed = State::ALL.into_iter().filter(|state| state.counts_against_max_fail());
        let failed: u32 = failed.map(|state| self.counts.get(state)).sum();
        let left = self.spec.targets.count - self.counts.total();
        if failed < max.limit(begun) || left == 0 || self.is_ending(now) {
            return None;
        }
        let max = match max {
            MaxFail::Hosts(hosts) => hosts.to_string(),
            MaxFail::Percent(percent) => format!("{percent}%"),
        };
        Some(match begun {
            1 => format!("the first host failed, and --max-fail is {max}"),
            _ => format!("{failed} of the first {begun} hosts failed, and --max-fail is {max}"),
        })
    }
}

/// Finaliser of SplitMix64 (Steele, Lea, Flood, 2014): every bit of the input changes half of the output.
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// How a host ended, in a few words within a sentence.
pub(super) fn brief(host: Option<&Outcome>) -> String {
    match host {
        Some(Outcome { exit_code: Some(code), .. }) => format!("exit code {code}"),
        Some(Outcome { reason: Some(reason), .. }) => reason.clone(),
        Some(outcome) => outcome.state.to_string(),
        None => "no end".to_owned(),
    }
}

impl Host {
    /// The command ran here, in the last attempt that ran, and ended by itself or by its timeout.
    pub(super) fn ran(&self) -> bool {
        self.outcome().is_some_and(|outcome| outcome.state.ran_to_end())
    }
}
