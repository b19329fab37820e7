//! A round ends whoever is silent, and what others have said by then counts.

use super::*;
use crate::listen::PeerInfo;
use crate::roster::Roster;
use crate::sessions::{Begun, Epoch, Mailbox, Outgoing, Session, Sessions};
use muster_proto::job::Target;
use muster_proto::link::ToAgent;
use muster_proto::ping::{
    Contact as Told, Detail, Failure, Family, Finding, Pair, PingHost, PingReport, PingSpec, Summary, Tally, Way,
};
use std::num::NonZeroU32;

/// An agent with a session, which is asked and does not speak for itself.
fn connect(sessions: &Sessions, number: u8) -> (Target, Arc<Mailbox>) {
    let (agent, mailbox) = (AgentId::from_bytes([number; 16]), Arc::new(Mailbox::default()));
    let session = Session::new(Epoch(1), &PeerInfo::stranger(([127, 0, 0, 1], 1).into()), Arc::clone(&mailbox));
    assert_eq!(sessions.begin(agent, session), Begun::Live);
    mailbox.open(Vec::new());
    (Target { agent, name: format!("n{number}").parse().expect("a name") }, mailbox)
}

async fn ordered(mailbox: &Mailbox) -> u64 {
    match mailbox.take().await.into_iter().next() {
        Some(Outgoing::Message(ToAgent::Probe(order))) => order.sweep,
        _ => panic!("it is asked to look"),
    }
}

fn alive() -> Finding {
    let ms = Duration::from_millis(1);
    let rtt = Summary { min: ms, mean: ms, max: ms, median: ms, p95: ms, p99: ms, jitter: Duration::ZERO };
    Finding::End { place: 0, tally: Tally { sent: 1, received: 1, rtt: Some(rtt), ..Tally::default() }, failure: None }
}

#[tokio::test]
async fn an_agent_that_never_ends_holds_neither_a_schedule_nor_the_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).await.expect("a store");
    let sessions = Sessions::default();
    let roster = Roster::load(&store, sessions.clone()).await.expect("a roster");
    let prober = Prober::new(sessions.clone(), roster, Arc::default());
    let ((n1, first), (n2, second)) = (connect(&sessions, 1), connect(&sessions, 2));
    let agents = [n1.agent, n2.agent];
    let host = PingHost { name: "192.0.2.1".parse().expect("an address"), agent: None };
    let pairs = [0, 1].map(|from| Pair { from: Some(from), to: 0 }).to_vec();
    let list = Arc::new(PingList::new(vec![n1, n2], vec![host], pairs).expect("a list"));
    let spec = PingSpec { way: Way::Icmp, family: Family::Any, detail: Detail::Ends, probes: Probes::default() };
    // The prober has a patience of its own, which is longer.
    let [expected, longest, ending] = [1, 3, 30].map(Duration::from_secs);
    tokio::time::pause();

    let (begun, permits) = (Instant::now(), Arc::new(Semaphore::new(1)));
    let permit = Arc::clone(&permits).try_acquire_owned().expect("it is free");
    let look = prober.look(Arc::clone(&list), spec, vec![0, 1], DELIVER);
    let times = Times { expected, longest, ending };
    let agents_speak = async {
        let sweep = ordered(&first).await;
        prober.probed(agents[0], Epoch(1), sweep, &[alive()]).expect("no lie");
        let sweep = ordered(&second).await;
        loop {
            prober.probed(agents[1], Epoch(1), sweep, &[]).expect("no lie");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let others_wait = async {
        let _permit = permits.acquire().await.expect("it is never closed");
        begun.elapsed()
    };
    let (round, waited) = tokio::select! {
        both = async { tokio::join!(gather(look, permit, &list, times), others_wait) } => both,
        () = agents_speak => unreachable!("they speak for ever"),
    };
    assert!(waited < longest, "{waited:?}");
    assert!(longest <= begun.elapsed() && begun.elapsed() < longest + ending, "{:?}", begun.elapsed());
    let (ended, problem) = round;
    let state = |ended: &Ended| ended.as_ref().map(|(_, outcome)| outcome.state);
    assert_eq!(ended.iter().map(state).collect::<Vec<_>>(), [Some(State::Succeeded), Some(State::Indeterminate)]);
    let problem = problem.expect("it took too long");
    assert_eq!(problem, "its last round was ended after 3 s without a word on 1 of 2 pairs, from n2");
}

#[test]
fn a_round_has_the_time_that_it_may_need_and_ends() {
    let host = |number: u32| PingHost { name: format!("h{number}").parse().expect("a name"), agent: None };
    let list = PingList::from_controller((0..10_000).map(host).collect()).expect("a list");
    let probes = Probes { rate: NonZeroU32::new(2_000), ..Probes::default() };
    let seconds = |every| {
        let Times { expected, longest, .. } = Times::of(&list, &probes, Duration::from_secs(every));
        [expected, longest].map(|span| span.as_secs())
    };
    // Each host twice, the last one's timeouts, and patience.
    assert_eq!(seconds(5), [10 + 1 + 10, 10 + 1 + 10]);
    assert_eq!(seconds(600), [10 + 1 + 10, 600 + 10]);
}

#[test]
fn a_host_is_silent_by_what_its_link_carried_and_not_by_how_it_is_now() {
    let tally = |received| Some(Tally { sent: 1, received, ..Tally::default() });
    let outcome = |icmp, link, agent| {
        PingReport { icmp, link, agent: Some(agent), ..PingReport::default() }
            .outcome(Some(Failure::NO_REPLY), Duration::ZERO)
    };
    assert!(is_silent(&outcome(None, tally(0), Told::Connected)), "it came when its probes were lost");
    assert!(is_silent(&outcome(tally(0), tally(0), Told::Away)));
    assert!(!is_silent(&outcome(tally(1), tally(0), Told::Away)), "it answers otherwise");
    assert!(!is_silent(&outcome(tally(0), None, Told::Away)), "its link was not asked for");
}
