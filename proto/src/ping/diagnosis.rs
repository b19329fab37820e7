//! What several looks at one host mean together.

use crate::name::HostName;
use crate::names::fold;
use crate::outcome::{Outcome, State};
use crate::ping::Contact;
use std::fmt;

/// One look at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight<'a> {
    /// The agent that looked; `None` is the controller.
    pub from: Option<&'a HostName>,
    /// What it saw: an outcome without a report says nothing.
    pub outcome: &'a Outcome,
}

/// What several looks at one host mean together, where they do not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diagnosis {
    /// It answers pings, and its agent does not answer.
    AgentSilent,
    /// It answers pings, and its agent is not connected.
    AgentAway,
    /// Its agent answers, and pings do not come through.
    PingFiltered,
    /// Its agent answers, and pings could not be sent.
    NotPinged {
        /// Why.
        reason: String,
    },
    /// The controller does not see it, these agents do.
    DeadFromController {
        /// Who sees it.
        alive_from: Vec<HostName>,
    },
    /// The controller sees it, these agents do not.
    DeadFrom {
        /// Who does not.
        dead_from: Vec<HostName>,
    },
    /// Some agents see it and some do not; the controller did not look.
    Divided {
        /// Who sees it.
        alive_from: Vec<HostName>,
        /// Who does not.
        dead_from: Vec<HostName>,
    },
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |names: &[HostName]| fold(names.iter().map(HostName::as_str));
        match self {
            Self::AgentSilent => f.write_str("ping ok, agent silent"),
            Self::AgentAway => f.write_str("ping ok, agent not connected"),
            Self::PingFiltered => f.write_str("agent ok, no ping"),
            Self::NotPinged { reason } => write!(f, "agent ok, not pinged: {reason}"),
            Self::DeadFromController { alive_from } => {
                write!(f, "dead from the controller, alive from {}", names(alive_from))
            }
            Self::DeadFrom { dead_from } => write!(f, "alive from the controller, dead from {}", names(dead_from)),
            Self::Divided { alive_from, dead_from } => {
                write!(f, "alive from {}, dead from {}", names(alive_from), names(dead_from))
            }
        }
    }
}

/// What looks at one host mean together; `None` where all agree. Only who looked and was not answered calls it dead: a
/// look that failed by itself says nothing.
pub fn diagnose(sights: &[Sight<'_>]) -> Option<Diagnosis> {
    let mut controller = None;
    let (mut alive_from, mut dead_from) = (Vec::new(), Vec::new());
    for sight in sights {
        match (sight.from, sight.outcome.state) {
            (None, _) => controller = Some(sight.outcome),
            (Some(from), State::Succeeded) => alive_from.push(from.clone()),
            (Some(from), State::Failed) => dead_from.push(from.clone()),
            (Some(_), _) => {}
        }
    }
    match controller.map(|outcome| outcome.state) {
        Some(State::Failed) if !alive_from.is_empty() => return Some(Diagnosis::DeadFromController { alive_from }),
        Some(State::Succeeded) if !dead_from.is_empty() => return Some(Diagnosis::DeadFrom { dead_from }),
        Some(State::Succeeded | State::Failed) => {}
        _ if !alive_from.is_empty() && !dead_from.is_empty() => {
            return Some(Diagnosis::Divided { alive_from, dead_from });
        }
        _ => {}
    }
    let Outcome { reason, ping, .. } = controller?;
    let report = ping.as_deref()?;
    let answered = report.icmp.filter(|tally| tally.sent > 0).map(|tally| tally.received > 0);
    let agent_answers = match report.link {
        Some(link) => Some(link.received > 0),
        None => report.agent.map(|agent| agent == Contact::Connected),
    };
    match (answered, agent_answers) {
        (Some(true), Some(false)) if report.agent == Some(Contact::Away) => Some(Diagnosis::AgentAway),
        (Some(true), Some(false)) => Some(Diagnosis::AgentSilent),
        (Some(false), Some(true)) => Some(Diagnosis::PingFiltered),
        (None, Some(true)) if report.is_alive() => Some(Diagnosis::NotPinged { reason: reason.clone()? }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ping::{Failure, FailureKind, PingReport, Tally};
    use std::time::Duration;

    fn tally(sent: u32, received: u32) -> Option<Tally> {
        Some(Tally { sent, received, ..Tally::default() })
    }

    #[test]
    fn each_disagreement_has_its_words() {
        let name = |n: &str| n.parse::<HostName>().expect("a name");
        let (n1, n2, n3) = (name("n1"), name("n2"), name("n3"));
        let outcome = |report: PingReport, kind: FailureKind| report.outcome(Some(Failure::from(kind)), Duration::ZERO);
        let icmp = |received| PingReport { icmp: tally(1, received), ..PingReport::default() };
        let lost = |report| outcome(report, FailureKind::NoReply);
        let (dead, alive) = (lost(icmp(0)), lost(icmp(1)));
        let silent = lost(PingReport { link: tally(1, 0), agent: Some(Contact::Connected), ..icmp(1) });
        let away = lost(PingReport { agent: Some(Contact::Away), ..icmp(1) });
        let filtered = lost(PingReport { link: tally(1, 1), agent: Some(Contact::Connected), ..icmp(0) });
        let not_asked = outcome(PingReport::default(), FailureKind::NoSocket);
        let overflow = outcome(icmp(0), FailureKind::Overflow);
        let by_link = PingReport { icmp: tally(0, 0), link: tally(1, 1), agent: Some(Contact::Connected), ..icmp(0) };
        let by_link = outcome(by_link, FailureKind::NoSocket);
        let see = |from, outcome| Sight { from, outcome };
        for (sights, words) in [
            (&[see(None, &alive)][..], None),
            (&[see(None, &dead)], None),
            (&[see(None, &silent)], Some("ping ok, agent silent")),
            (&[see(None, &away)], Some("ping ok, agent not connected")),
            (&[see(None, &filtered)], Some("agent ok, no ping")),
            (
                &[see(Some(&n1), &alive), see(None, &dead), see(Some(&n2), &alive), see(Some(&n3), &dead)],
                Some("dead from the controller, alive from n[1-2]"),
            ),
            (&[see(None, &alive), see(Some(&n2), &dead)], Some("alive from the controller, dead from n2")),
            (&[see(Some(&n1), &alive), see(Some(&n2), &dead)], Some("alive from n1, dead from n2")),
            // Who could not look, or lost answers by himself, calls nobody dead.
            (&[see(None, &alive), see(Some(&n2), &not_asked)], None),
            (&[see(None, &alive), see(Some(&n2), &overflow)], None),
            (&[see(None, &overflow), see(Some(&n2), &alive)], None),
            (&[see(None, &not_asked), see(Some(&n2), &alive)], None),
            (&[see(None, &dead), see(Some(&n2), &dead)], None),
        ] {
            assert_eq!(diagnose(sights).map(|diagnosis| diagnosis.to_string()).as_deref(), words);
        }
        let words = diagnose(&[see(None, &by_link)]).map(|diagnosis| diagnosis.to_string()).unwrap_or_default();
        assert!(words.starts_with("agent ok, not pinged: no right to send ICMP"), "{words}");
    }
}
