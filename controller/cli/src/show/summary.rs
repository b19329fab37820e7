//! What is said of hosts at their end, and of the job at its own: one line each.

use super::moment::span;
use crate::track::called;
use muster_proto::id::JobId;
use muster_proto::names;
use muster_proto::outcome::{Outcome, State, signal_name};
use muster_proto::ping::TargetName;
use std::borrow::Cow;
use std::io;
use std::time::Duration;

/// Folded groups and numbers named before an ellipsis.
const GROUPS_MAX: usize = 20;

/// What is said of hosts that have not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// They go on, and we do not wait for them.
    NotDone,
    /// They do not go on by themselves.
    Pending,
}

/// The last line of every run: it adds up, and names every host that did not succeed.
///
/// `ends` are the hosts in the order of the frozen list; `None` has not ended.
pub fn closing<'a>(
    verb: &str,
    ends: impl Iterator<Item = (&'a TargetName, Option<State>)>,
    rest: Rest,
    elapsed: Duration,
    job: JobId,
) -> String {
    let (parts, targets) = added_up(ends, rest);
    format!("{verb}: {parts}: {targets} targeted in {}, job {job}", span(elapsed))
}

/// The line after the last of a job that repeats others: what it means for all hosts of the first; `None` was removed,
/// and then nobody knows who all are.
pub fn closing_of_all<'a>(
    ends: impl Iterator<Item = (&'a TargetName, Option<State>)>,
    runs: usize,
    first: Option<JobId>,
) -> String {
    let (parts, targets) = added_up(ends, Rest::Pending);
    match first {
        Some(first) => format!("all: {parts}: {targets} targeted over {runs} runs of job {first}"),
        None => format!(
            "left: {parts}: {} in {runs} run{}; the first run of these was removed, and who was in that alone",
            hosts(targets),
            if runs == 1 { "" } else { "s" }
        ),
    }
}

fn added_up<'a>(ends: impl Iterator<Item = (&'a TargetName, Option<State>)>, rest: Rest) -> (String, usize) {
    let mut of_state: [Vec<Cow<'_, str>>; State::ALL.len()] = Default::default();
    let (mut not_ended, mut targets) = (Vec::new(), 0);
    for (name, state) in ends {
        targets += 1;
        match state {
            Some(state) => of_state[state as usize].push(called(name)),
            None => not_ended.push(called(name)),
        }
    }
    let said = |count: usize, word: &str, names: &[Cow<'_, str>]| format!("{count} {word} {}", folded(names));
    let mut parts: Vec<String> = State::ALL
        .into_iter()
        .zip(&of_state)
        .filter(|(_, names)| !names.is_empty())
        .map(|(state, names)| match state {
            State::Succeeded => format!("{} {state}", names.len()),
            _ => said(names.len(), state.as_str(), names),
        })
        .collect();
    if !not_ended.is_empty() {
        let word = if rest == Rest::Pending { "pending" } else { "not done" };
        parts.push(said(not_ended.len(), word, &not_ended));
    }
    (parts.join(", "), targets)
}

/// Stdout is broken, as the error says, and takes no more of a job, of which so many hosts have yet to end.
pub fn not_shown(error: &io::Error, job: JobId, pending: usize) -> String {
    match pending {
        0 => format!("{error}: job {job} is over; muster attach {job} shows it again"),
        _ => format!("{error}: job {job} goes on at {}; muster attach {job} comes back to it", hosts(pending)),
    }
}

/// Names folded into ranges, cut where they would fill the screen.
pub fn folded<'a>(names: impl IntoIterator<Item = &'a (impl AsRef<str> + ?Sized + 'a)>) -> String {
    let folded = names::fold(names.into_iter().map(AsRef::as_ref));
    let Some((cut, _)) = folded.match_indices(',').nth(GROUPS_MAX - 1) else {
        return folded;
    };
    let kept = &folded[..cut];
    let open = kept.rfind('[') > kept.rfind(']');
    format!("{kept},…{}", if open { "]" } else { "" })
}

/// How a host ended, without its name: "failed: exit code 3".
pub fn end(outcome: &Outcome) -> String {
    let mut text = outcome.state.to_string();
    let mut details = Vec::new();
    match (outcome.exit_code, outcome.signal, &outcome.reason) {
        (Some(code), _, _) if outcome.state != State::Succeeded => details.push(format!("exit code {code}")),
        (None, Some(signal), None) => details.push(format!("killed by {}", signal_name(signal))),
        _ => {}
    }
    details.extend(outcome.reason.clone());
    if outcome.state == State::TimedOut {
        details.extend(outcome.duration.map(|ran| format!("it ran {}", span(ran))));
    }
    if !details.is_empty() {
        text = format!("{text}: {}", details.join(", "));
    }
    text
}

/// "1 host", "2 hosts".
pub fn hosts(count: usize) -> String {
    format!("{count} host{}", if count == 1 { "" } else { "s" })
}

/// A number that people have to compare with others: "123,456".
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(ends: &[(&str, Option<State>)], millis: u64) -> String {
        let name = |name: &str| TargetName { from: None, host: name.parse().expect("a name") };
        let names: Vec<TargetName> = ends.iter().map(|(host, _)| name(host)).collect();
        let ends = names.iter().zip(ends.iter().map(|(_, state)| *state));
        closing("run", ends, Rest::NotDone, Duration::from_millis(millis), JobId::from_bytes([0; 16]))
    }

    const ID: &str = "00000000000000000000000000";

    #[test]
    fn it_adds_up_and_names_who_did_not_succeed() {
        assert_eq!(
            line(
                &[
                    ("n001", Some(State::Succeeded)),
                    ("n002", Some(State::Succeeded)),
                    ("n003", Some(State::Unreachable)),
                    ("n007", Some(State::Failed)),
                    ("n009", Some(State::Failed)),
                ],
                4_100
            ),
            format!("run: 2 succeeded, 2 failed n[007,009], 1 unreachable n003: 5 targeted in 4.1 s, job {ID}")
        );
        assert_eq!(
            line(&[("n1", Some(State::Failed)), ("n2", None), ("n3", None)], 61_000),
            format!("run: 1 failed n1, 2 not done n[2-3]: 3 targeted in 1 min 01 s, job {ID}")
        );
        assert_eq!(
            line(&[("n1", Some(State::Succeeded))], 40),
            format!("run: 1 succeeded: 1 targeted in 40 ms, job {ID}")
        );
    }

    #[test]
    fn hosts_that_wait_are_pending_and_all_runs_add_up() {
        let names = ["n1", "n2"].map(|host| TargetName { from: None, host: host.parse().expect("a name") });
        let ends = || names.iter().zip([Some(State::Succeeded), None]);
        let id = JobId::from_bytes([0; 16]);
        let paused = closing("run", ends(), Rest::Pending, Duration::from_secs(1), id);
        assert_eq!(paused, format!("run: 1 succeeded, 1 pending n2: 2 targeted in 1.0 s, job {ID}"));
        let all = closing_of_all(ends(), 3, Some(id));
        assert_eq!(all, format!("all: 1 succeeded, 1 pending n2: 2 targeted over 3 runs of job {ID}"));
    }

    #[test]
    fn long_lists_are_cut_visibly() {
        let names: Vec<String> = (0..100).map(|n| format!("n{}", 2 * n)).collect();
        let text = folded(&names);
        assert!(text.starts_with("n[0,2,4,") && text.ends_with(",…]"), "{text}");
        assert_eq!(text.matches(',').count(), GROUPS_MAX);
        let letters: Vec<String> = ('a'..='z').map(String::from).collect();
        assert!(folded(&letters).ends_with("t,…"), "{}", folded(&letters));
        assert_eq!(folded(["db", "n1", "n2"]), "db,n[1-2]");
    }

    #[test]
    fn the_end_of_a_host_says_why() {
        let outcome = |state, exit_code, signal, reason: Option<&str>, seconds: Option<u64>| Outcome {
            state,
            exit_code,
            signal,
            reason: reason.map(str::to_owned),
            duration: seconds.map(Duration::from_secs),
            ping: None,
        };
        for (outcome, text) in [
            (outcome(State::Failed, Some(3), None, None, Some(1)), "failed: exit code 3"),
            (outcome(State::Failed, None, Some(9), None, Some(1)), "failed: killed by SIGKILL"),
            (outcome(State::Failed, None, Some(9), Some("killed by SIGKILL"), None), "failed: killed by SIGKILL"),
            (outcome(State::TimedOut, None, None, Some("too long"), Some(5)), "timed_out: too long, it ran 5.0 s"),
            (outcome(State::Unreachable, None, None, Some("not connected"), None), "unreachable: not connected"),
            (outcome(State::Cancelled, None, None, None, Some(2)), "cancelled"),
        ] {
            assert_eq!(end(&outcome), text);
        }
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (123_456, "123,456"), (1_234_567, "1,234,567")]
        {
            assert_eq!(thousands(number), text);
        }
        assert_eq!((hosts(1), hosts(2)), ("1 host".to_owned(), "2 hosts".to_owned()));
    }
}
