//! Who did not look, or cannot tell what was seen, and why: that is never taken for an answer of the host.

use crate::board::{Board, Sighting, sighting};
use crate::show::summary::folded;
use muster_proto::name::HostName;
use muster_proto::outcome::State;
use muster_proto::ping::PingName;
use std::collections::{BTreeMap, HashMap};

/// What the controller is called among those that look.
pub const CONTROLLER: &str = "controller";

/// Of whom it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// Agents of which this is true at all hosts.
    Agents,
    /// All of which it is true at some host.
    All,
}

/// `did not look: dev-4: the agent that was to look is not connected`, and, where others were looked at,
/// `did not look at web09: dev-[1-2]: REASON`; `cannot tell` where they looked and nothing is certain. What a ping that
/// ended early did not come to is told elsewhere.
pub fn lines(board: &Board, whom: Whom) -> Vec<String> {
    let mut looks: HashMap<Option<&HostName>, usize> = HashMap::new();
    let mut unseen: BTreeMap<(bool, &str, &str, Option<&HostName>), Vec<&PingName>> = BTreeMap::new();
    for (name, outcome) in board.ends() {
        let from = name.from.as_ref();
        // A name without an address is nobody's place to look at.
        let is_place = outcome.map(sighting) != Some(Sighting::Nameless);
        *looks.entry(from).or_default() += usize::from(is_place);
        let known = |state| matches!(state, State::Succeeded | State::Failed | State::Skipped);
        if let Some(outcome) = outcome.filter(|outcome| !known(outcome.state)) {
            let reason = outcome.reason.as_deref().unwrap_or(outcome.state.as_str());
            let what = if outcome.state.is_not_run() { "did not look" } else { "cannot tell" };
            unseen.entry((is_place, what, reason, from)).or_default().push(&name.host);
        }
    }
    let mut said: BTreeMap<(&str, &str, String), Vec<&str>> = BTreeMap::new();
    for ((is_place, what, reason, from), hosts) in unseen {
        let is_all = is_place && looks.get(&from) == Some(&hosts.len());
        if whom == Whom::All || (is_all && from.is_some()) {
            let at = (!is_all).then(|| format!(" at {}", folded(hosts.iter().map(|host| host.as_str()))));
            said.entry((what, reason, at.unwrap_or_default()))
                .or_default()
                .push(from.map_or(CONTROLLER, HostName::as_str));
        }
    }
    said.into_iter().map(|((what, reason, at), from)| format!("{what}{at}: {}: {reason}", folded(from))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{after, ended};
    use muster_proto::event::EventKind;
    use muster_proto::outcome::Outcome;

    #[test]
    fn who_did_not_look_is_named_with_the_reason() {
        let none =
            |target, state, reason: &str| EventKind::Finished { target, outcome: Outcome::without_run(state, reason) };
        let away = |target, reason: &str| none(target, State::Unreachable, reason);
        let names = ["a", "b", "n1>a", "n1>b", "n2>a", "n2>b", "n3>a", "n3>b", "n4>a", "n5>a", "n1>gone"];
        let board = after(
            &names,
            [
                ended(0, 1, &[]),
                none(1, State::StartFailed, "name does not resolve"),
                away(2, "away"),
                away(3, "away"),
                away(4, "away"),
                away(5, "away"),
                ended(6, 1, &[50]),
                away(7, "denied"),
                none(8, State::Skipped, "cancelled"),
                none(9, State::Indeterminate, "dropped"),
                none(10, State::StartFailed, "name does not resolve"),
            ],
        );
        assert_eq!(lines(&board, Whom::Agents), ["cannot tell: n5: dropped", "did not look: n[1-2]: away"]);
        assert_eq!(
            lines(&board, Whom::All),
            [
                "cannot tell: n5: dropped",
                "did not look: n[1-2]: away",
                "did not look at b: n3: denied",
                "did not look at b: controller: name does not resolve",
                "did not look at gone: n1: name does not resolve",
            ]
        );
    }
}
