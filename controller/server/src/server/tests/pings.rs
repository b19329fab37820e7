//! What agents answer to pings, spoken word by word.

use super::sessions::Machine;
use super::*;
use crate::ping::{Look, News};
use crate::stats::{Closed, Report};
use muster_proto::job::Target;
use muster_proto::link::{FromAgent, ToAgent};
use muster_proto::outcome::State;
use muster_proto::ping::{Detail, Failure, Family, Finding, Pair, PingHost, PingList, PingSpec, Probes, Tally, Way};

/// The controller looks at the machine over its link, and the machine at an address.
fn look(controller: &Controller, machine: &Machine) -> Look {
    let target = Target { agent: machine.id, name: "web01".parse().expect("a name") };
    let own = PingHost { name: "web01".parse().expect("a name"), agent: Some(machine.id) };
    let other = PingHost { name: "192.0.2.1".parse().expect("an address"), agent: None };
    let pairs = vec![Pair { from: None, to: 0 }, Pair { from: Some(0), to: 1 }];
    let list = PingList::new(vec![target], vec![own, other], pairs).expect("a list");
    let probes = Probes { timeout: Duration::from_secs(20), ..Probes::default() };
    let spec = PingSpec { way: Way::Link, family: Family::Any, detail: Detail::Ends, probes };
    controller.prober.look(Arc::new(list), spec, vec![0, 1], Duration::from_secs(20))
}

#[tokio::test]
async fn an_agent_echoes_and_says_what_it_saw_and_a_lie_ends_its_session() {
    let controller = Controller::start().await;
    let machine = Machine::enrolled(&controller, "web01").await;
    let (mut talk, nonce) = machine.session(&controller, None).await;
    let mut first = look(&controller, &machine);
    for _ in 0..2 {
        match talk.next().await {
            Some(ToAgent::Echo(token)) => talk.say(FromAgent::Echo(token)).await,
            Some(ToAgent::Probe(order)) => {
                let tally = Tally { sent: 1, ..Tally::default() };
                let findings = vec![Finding::End { place: 0, tally, failure: Some(Failure::NO_REPLY) }];
                talk.say(FromAgent::Probed { sweep: order.sweep, findings }).await;
            }
            other => panic!("{other:?}"),
        }
    }
    let mut ends = Vec::new();
    while let Some(news) = first.news().await {
        ends.extend(news.into_iter().filter_map(|news| match news {
            News::Ended { target, outcome } => Some((target, outcome.state)),
            News::Probed { .. } => None,
        }));
    }
    ends.sort_unstable_by_key(|(target, _)| *target);
    assert_eq!(ends, [(0, State::Succeeded), (1, State::Failed)]);

    let _second = look(&controller, &machine);
    talk.say(FromAgent::Probed { sweep: 7, findings: Vec::new() }).await;
    let sweep = loop {
        match talk.next().await {
            Some(ToAgent::Echo(_)) => {}
            Some(ToAgent::Probe(order)) => break order.sweep,
            other => panic!("of what it does not know it may be late to speak: {other:?}"),
        }
    };
    let findings = vec![Finding::End { place: 1, tally: Tally::default(), failure: Some(Failure::NO_REPLY) }];
    talk.say(FromAgent::Probed { sweep, findings }).await;
    while talk.next().await.is_some() {}
    let counted = |report| controller.stats.reports.iter().find(|(kind, _)| *kind == report).map(|(_, count)| count);
    assert_eq!(counted(Report::Probe), Some(1));
    let (mut again, _) = machine.session(&controller, Some(nonce)).await;
    assert_eq!(controller.stats.left(machine.id).map(|left| left.why), Some(Closed::Invalid));
    loop {
        match again.next().await {
            Some(ToAgent::Echo(_)) => {}
            Some(ToAgent::Probe(_)) => break,
            other => panic!("it is not asked again: {other:?}"),
        }
    }
}
