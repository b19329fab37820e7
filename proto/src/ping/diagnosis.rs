//! What several looks at one host mean together.

use crate::name::HostName;
use crate::names::fold;
use crate::ping::{Contact, PingReport};
use std::fmt;

/// One look at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight<'a> {
    /// The agent that looked; `None` is the controller.
    pub from: Option<&'a HostName>,
    /// What it saw.
    pub report: &'a PingReport,
}

/// What several looks at one host mean together, where they do not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diagnosis {
    /// It answers pings, and its agent is away or does not answer.
    AgentSilent,
    /// Its agent answers, and pings do not come through.
    PingFiltered,
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
            Self::PingFiltered => f.write_str("agent ok, no ping"),
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

/// What looks at one host mean together; `None` where all agree. A look without any probe says nothing.
pub fn diagnose(sights: &[Sight<'_>]) -> Option<Diagnosis> {
    let looked = |report: &PingReport| [report.icmp, report.link].into_iter().flatten().any(|tally| tally.sent > 0);
    let answered = |report: &PingReport| report.icmp.map(|tally| tally.received > 0);
    let mut controller = None;
    let (mut alive_from, mut dead_from) = (Vec::new(), Vec::new());
    for sight in sights {
        match sight.from {
            None => controller = Some(sight.report),
            Some(from) if sight.report.is_alive() => alive_from.push(from.clone()),
            Some(from) if looked(sight.report) => dead_from.push(from.clone()),
            Some(_) => {}
        }
    }
    let seen = controller.filter(|report| looked(report)).map(PingReport::is_alive);
    match seen {
        Some(false) if !alive_from.is_empty() => return Some(Diagnosis::DeadFromController { alive_from }),
        Some(true) if !dead_from.is_empty() => return Some(Diagnosis::DeadFrom { dead_from }),
        None if !alive_from.is_empty() && !dead_from.is_empty() => {
            return Some(Diagnosis::Divided { alive_from, dead_from });
        }
        _ => {}
    }
    let report = controller?;
    let agent_answers = match report.link {
        Some(link) => Some(link.received > 0),
        None => report.agent.map(|agent| agent == Contact::Connected),
    };
    match (answered(report), agent_answers) {
        (Some(true), Some(false)) => Some(Diagnosis::AgentSilent),
        (Some(false), Some(true)) => Some(Diagnosis::PingFiltered),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ping::Tally;

    fn tally(received: u32) -> Option<Tally> {
        Some(Tally { sent: 1, received, ..Tally::default() })
    }

    #[test]
    fn each_disagreement_has_its_words() {
        let name = |n: &str| n.parse::<HostName>().expect("a name");
        let (n1, n2, n3) = (name("n1"), name("n2"), name("n3"));
        let icmp = |received| PingReport { icmp: tally(received), ..PingReport::default() };
        let (dead, alive) = (icmp(0), icmp(1));
        let silent = PingReport { link: tally(0), agent: Some(Contact::Connected), ..alive };
        let away = PingReport { agent: Some(Contact::Away), ..alive };
        let filtered = PingReport { link: tally(1), agent: Some(Contact::Connected), ..dead };
        let not_asked = PingReport::default();
        let see = |from, report| Sight { from, report };
        for (sights, words) in [
            (&[see(None, &alive)][..], None),
            (&[see(None, &dead)], None),
            (&[see(None, &silent)], Some("ping ok, agent silent")),
            (&[see(None, &away)], Some("ping ok, agent silent")),
            (&[see(None, &filtered)], Some("agent ok, no ping")),
            (
                &[see(Some(&n1), &alive), see(None, &dead), see(Some(&n2), &alive), see(Some(&n3), &dead)],
                Some("dead from the controller, alive from n[1-2]"),
            ),
            (&[see(None, &alive), see(Some(&n2), &dead)], Some("alive from the controller, dead from n2")),
            (&[see(Some(&n1), &alive), see(Some(&n2), &dead)], Some("alive from n1, dead from n2")),
            (&[see(None, &alive), see(Some(&n2), &not_asked)], None),
            (&[see(None, &dead), see(Some(&n2), &dead)], None),
        ] {
            assert_eq!(diagnose(sights).map(|diagnosis| diagnosis.to_string()).as_deref(), words);
        }
    }
}
