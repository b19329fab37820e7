//! Who did not look, and why: what is not known of a host is never taken for an answer of its own.

use crate::board::Board;
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
    /// Agents that looked at no host at all.
    Agents,
    /// All that did not look at some host.
    All,
}

/// `did not look: dev-4: the agent that was to look is not connected`, and, where others were looked at,
/// `did not look at web09: dev-[1-2]: REASON`. A ping that was ended early has its own word.
pub fn lines(board: &Board, whom: Whom) -> Vec<String> {
    let mut looks: HashMap<Option<&HostName>, usize> = HashMap::new();
    let mut unseen: BTreeMap<(&str, Option<&HostName>), Vec<&PingName>> = BTreeMap::new();
    for (name, outcome) in board.ends() {
        let from = name.from.as_ref();
        *looks.entry(from).or_default() += 1;
        let known = |state| matches!(state, State::Succeeded | State::Failed | State::Skipped);
        if let Some(outcome) = outcome.filter(|outcome| !known(outcome.state)) {
            let reason = outcome.reason.as_deref().unwrap_or(outcome.state.as_str());
            unseen.entry((reason, from)).or_default().push(&name.host);
        }
    }
    let mut said: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for ((reason, from), hosts) in unseen {
        let is_all = looks.get(&from) == Some(&hosts.len());
        if whom == Whom::All || (is_all && from.is_some()) {
            let at = if is_all { String::new() } else { format!(" at {}", folded(hosts.iter().map(|host| host.as_str()))) };
            said.entry((reason, at)).or_default().push(from.map_or(CONTROLLER, HostName::as_str));
        }
    }
    said.into_iter().map(|((reason, at), from)| format!("did not look{at}: {}: {reason}", folded(from))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{after, ended};
    use muster_proto::event::EventKind;
    use muster_proto::outcome::Outcome;

    #[test]
    fn who_did_not_look_is_named_with_the_reason() {
        let away = |target, reason: &str| EventKind::Finished {
            target,
            outcome: Outcome::without_run(State::Unreachable, reason),
        };
        let names = ["a", "b", "n1>a", "n1>b", "n2>a", "n2>b", "n3>a", "n3>b", "n4>a"];
        let board = after(
            &names,
            [
                ended(0, 1, &[]),
                away(1, "no such name"),
                away(2, "away"),
                away(3, "away"),
                away(4, "away"),
                away(5, "away"),
                ended(6, 1, &[50]),
                away(7, "denied"),
                EventKind::Finished { target: 8, outcome: Outcome::without_run(State::Skipped, "cancelled") },
            ],
        );
        assert_eq!(lines(&board, Whom::Agents), ["did not look: n[1-2]: away"]);
        assert_eq!(
            lines(&board, Whom::All),
            [
                "did not look: n[1-2]: away",
                "did not look at b: n3: denied",
                "did not look at b: controller: no such name",
            ]
        );
    }
}
