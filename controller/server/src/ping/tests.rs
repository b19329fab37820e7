//! The prober as a whole: real packets on loopback, and agents that are played.

use super::*;
use crate::listen::PeerInfo;
use crate::sessions::{Begun, Mailbox, Outgoing, Session};
use muster_proto::fleet::{ClockOffset, Facts, Labels, Party};
use muster_proto::id::{BootId, StartId};
use muster_proto::job::Target;
use muster_proto::link::{ProbeOrder, ToAgent};
use muster_proto::outcome::State as End;
use muster_proto::ping::{Contact, Detail, Family, Pair, PingHost, PingReport, Probes, Summary, Tally, Way};
use muster_store::{AgentRecord, Store};
use std::net::SocketAddr;
use tempfile::TempDir;

const N1: AgentId = AgentId::from_bytes([1; 16]);
const N2: AgentId = AgentId::from_bytes([2; 16]);
const LIMIT: Duration = Duration::from_secs(30);

struct Fixture {
    _dir: TempDir,
    sessions: Sessions,
    stats: Arc<Stats>,
    roster: Roster,
    prober: Prober,
}

/// An agent with a session, played by the test.
struct Agent {
    id: AgentId,
    epoch: Epoch,
    mailbox: Arc<Mailbox>,
    prober: Prober,
    sessions: Sessions,
}

impl Fixture {
    async fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let store = Store::open(dir.path()).await.expect("a store");
        let (sessions, stats) = (Sessions::default(), Arc::new(Stats::default()));
        let roster = Roster::load(&store, sessions.clone()).await.expect("a roster");
        let prober = Prober::new(sessions.clone(), roster.clone(), Arc::clone(&stats));
        Self { _dir: dir, sessions, stats, roster, prober }
    }

    fn agent(&self, id: AgentId, epoch: u64) -> Agent {
        let mailbox = Arc::new(Mailbox::default());
        let address: SocketAddr = ([127, 0, 0, 1], 1).into();
        let session = Session::new(Epoch(epoch), &PeerInfo::stranger(address), Arc::clone(&mailbox));
        assert_eq!(self.sessions.begin(id, session), Begun::Live);
        mailbox.open(Vec::new());
        self.prober.connected(id);
        let (prober, sessions) = (self.prober.clone(), self.sessions.clone());
        Agent { id, epoch: Epoch(epoch), mailbox, prober, sessions }
    }

    fn look(&self, list: PingList, spec: PingSpec) -> Look {
        let all = (0_u32..).take(list.pairs().len()).collect();
        self.prober.look(Arc::new(list), spec, all, Duration::from_secs(2))
    }
}

impl Agent {
    async fn hears(&self) -> Vec<ToAgent> {
        let all = tokio::time::timeout(LIMIT, self.mailbox.take()).await.expect("a message in time");
        let message = |outgoing| match outgoing {
            Outgoing::Message(message) => message,
            Outgoing::Offer { .. } => unreachable!("nothing is offered"),
        };
        all.into_iter().map(message).collect()
    }

    /// Answers echoes until it is dropped.
    async fn echo(&self) {
        loop {
            for message in self.hears().await {
                let ToAgent::Echo(token) = message else { panic!("{message:?}") };
                self.prober.echoed(self.id, self.epoch, token, Instant::now());
            }
        }
    }

    async fn orders(&self) -> ProbeOrder {
        match self.hears().await.remove(0) {
            ToAgent::Probe(order) => order,
            other => panic!("{other:?}"),
        }
    }

    fn says(&self, sweep: u64, findings: &[Finding]) -> Result<(), Lie> {
        self.prober.probed(self.id, self.epoch, sweep, findings)
    }

    fn leaves(&self) {
        assert!(self.sessions.end(self.id, self.epoch));
        self.prober.gone(self.id, self.epoch);
    }
}

fn spec(way: Way) -> PingSpec {
    let probes = Probes { timeout: Duration::from_millis(200), rate: None, ..Probes::default() };
    PingSpec { way, family: Family::Any, detail: Detail::Ends, probes }
}

fn endless(way: Way) -> PingSpec {
    let probes = Probes { count: None, period: Duration::from_millis(10), ..spec(way).probes };
    PingSpec { detail: Detail::Each, probes, ..spec(way) }
}

fn host(name: &str, agent: Option<AgentId>) -> PingHost {
    PingHost { name: name.parse().expect("a name"), agent }
}

fn hosts(hosts: impl IntoIterator<Item = PingHost>) -> PingList {
    PingList::from_controller(hosts.into_iter().collect()).expect("a list")
}

/// These agents look at these hosts, each at all.
fn mesh(vantages: &[AgentId], hosts: &[&str]) -> PingList {
    let name = |id: &AgentId| format!("n{}", id.as_bytes()[0]).parse().expect("a name");
    let targets = vantages.iter().map(|id| Target { agent: *id, name: name(id) }).collect();
    let pairs = (0_u32..)
        .take(vantages.len())
        .flat_map(|from| (0_u32..).take(hosts.len()).map(move |to| Pair { from: Some(from), to }));
    PingList::new(targets, hosts.iter().map(|name| host(name, None)).collect(), pairs.collect()).expect("a list")
}

fn alive(place: u32) -> Finding {
    let ms = Duration::from_millis(1);
    let rtt = Summary { min: ms, mean: ms, max: ms, median: ms, p95: ms, p99: ms, jitter: Duration::ZERO };
    Finding::End { place, tally: Tally { sent: 1, received: 1, rtt: Some(rtt), ..Tally::default() }, failure: None }
}

/// All ends by target, and how many samples there were.
async fn ends(look: &mut Look) -> (Vec<(u32, Outcome)>, usize) {
    let (mut ends, mut samples) = (Vec::new(), 0);
    while let Some(news) = tokio::time::timeout(LIMIT, look.news()).await.expect("news in time") {
        for news in news {
            match news {
                News::Probed { .. } => samples += 1,
                News::Ended { target, outcome } => ends.push((target, outcome)),
            }
        }
    }
    ends.sort_by_key(|(target, _)| *target);
    (ends, samples)
}

fn report(outcome: &Outcome) -> PingReport {
    **outcome.ping.as_ref().expect("a report")
}

/// Whether packets can be sent here at all; says so if not.
#[expect(clippy::print_stderr, reason = "a test that does not run must be heard of")]
fn can_probe() -> bool {
    let can = muster_probe::can_probe();
    if let Err(failure) = can {
        eprintln!("SKIPPED: {failure}");
    }
    can.is_ok()
}

#[tokio::test]
async fn the_controller_looks_by_icmp_and_every_target_has_one_end() {
    if !can_probe() {
        return;
    }
    let fixture = Fixture::new().await;
    let names = (0..2_000).map(|n: u32| host(&format!("127.0.{}.{}", n / 250, n % 250 + 1), None));
    // The last one is no name that anybody is asked for.
    let odd = ["127.0.0.9", "fe80::1", "fe80::1%none0", "10.0.0.256"];
    let list = hosts(names.chain(odd.map(|name| host(name, None))));
    let mut look = fixture.look(list, spec(Way::Both));
    let (ends, samples) = ends(&mut look).await;
    assert!(ends.iter().map(|(target, _)| *target).eq(0..2_004), "one end each");
    assert_eq!(samples, 0);
    for (target, outcome) in &ends[..2_001] {
        assert_eq!(
            (outcome.state, report(outcome).icmp.map(|tally| tally.received)),
            (End::Succeeded, Some(1)),
            "{target}"
        );
    }
    let reasons: Vec<_> =
        ends[2_001..].iter().map(|(_, end)| (end.state, end.reason.clone().unwrap_or_default())).collect();
    let no_zone = "a link-local address needs a zone of the prober, as fe80::1%eth0";
    for ((state, reason), expected) in reasons.iter().zip([no_zone, no_zone, "name does not resolve"]) {
        assert_eq!((*state, reason.as_str()), (End::StartFailed, expected));
    }
    assert_eq!(fixture.stats.probes_answered.get(), 2_001);
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "a test that does not run must be heard of")]
async fn the_controller_looks_by_ipv6_too() {
    if !can_probe() {
        return;
    }
    if let Err(error) = std::net::UdpSocket::bind("[::1]:0") {
        return eprintln!("SKIPPED: no IPv6 on loopback: {error}");
    }
    let mut look = Fixture::new().await.look(hosts([host("::1", None)]), spec(Way::Icmp));
    assert_eq!(ends(&mut look).await.0[0].1.state, End::Succeeded);
}

#[tokio::test]
async fn a_family_that_a_host_does_not_have_is_said() {
    let fixture = Fixture::new().await;
    let list = hosts([host("127.0.0.1", None), host("::ffff:127.0.0.1", None)]);
    let mut look = fixture.look(list, PingSpec { family: Family::V6, ..spec(Way::Icmp) });
    for (_, outcome) in ends(&mut look).await.0 {
        assert_eq!(outcome.reason.as_deref(), Some("no address of that family"));
    }
}

#[tokio::test]
async fn an_endless_look_ends_with_what_it_has_seen() {
    if !can_probe() {
        return;
    }
    let fixture = Fixture::new().await;
    let mut look = fixture.look(hosts([host("127.0.0.1", None)]), endless(Way::Icmp));
    assert!(matches!(look.news().await.as_deref(), Some([News::Probed { target: 0, .. }, ..])));
    look.stop();
    let (ends, _) = ends(&mut look).await;
    assert!(ends.len() == 1 && report(&ends[0].1).icmp.is_some_and(|tally| tally.received > 0), "{ends:?}");
}

#[tokio::test]
async fn links_are_asked_and_tell_agents_that_are_silent_or_away() {
    let fixture = Fixture::new().await;
    let (talks, _silent) = (fixture.agent(N1, 1), fixture.agent(N2, 1));
    let away = AgentId::from_bytes([3; 16]);
    let list = hosts([host("n1", Some(N1)), host("n2", Some(N2)), host("n3", Some(away)), host("n4", None)]);
    let mut look = fixture.look(list, spec(Way::Link));
    let (ends, _) =
        tokio::select! { ends = ends(&mut look) => ends, () = talks.echo() => unreachable!("it echoes on") };
    let found: Vec<_> = ends.iter().map(|(_, end)| (end.state, end.reason.as_deref(), report(end).agent)).collect();
    let expected = [
        (End::Succeeded, None, Some(Contact::Connected)),
        (End::Failed, Some("agent connected but silent"), Some(Contact::Connected)),
        (End::Failed, Some("agent not connected"), Some(Contact::Away)),
        (End::StartFailed, Some("no agent: ask with --via icmp"), None),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_host_is_pinged_where_its_agent_comes_from_and_is_alive_by_either_way() {
    if !can_probe() {
        return;
    }
    let fixture = Fixture::new().await;
    let _silent = fixture.agent(N1, 1);
    let mut look = fixture.look(hosts([host("n1", Some(N1))]), spec(Way::Both));
    let (ends, _) = ends(&mut look).await;
    let seen = report(&ends[0].1);
    assert_eq!((ends[0].1.state, seen.address), (End::Succeeded, Some([127, 0, 0, 1].into())));
    assert_eq!(seen.icmp.map(|tally| tally.received), Some(1));
    assert_eq!(seen.link.map(|tally| (tally.sent, tally.received)), Some((1, 0)));
}

#[tokio::test]
async fn the_loopback_of_this_machine_is_not_that_of_an_agent_elsewhere() {
    if !can_probe() {
        return;
    }
    let fixture = Fixture::new().await;
    let _tunnelled = fixture.agent(N1, 1);
    let now = crate::clock::now();
    let facts = Facts { addresses: vec!["127.0.0.77".into(), "127.0.0.78".into()], ..Facts::default() };
    let record = AgentRecord::enrolled(N1, "n1".parse().expect("a name"), Labels::default(), now);
    fixture.roster.add(AgentRecord { facts: Some(facts.into()), ..record });
    let here = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux has it").replace('-', "");
    let here = u128::from_str_radix(here.trim(), 16).expect("a number");
    for (boot, address) in [(here, [127, 0, 0, 1]), (!here, [127, 0, 0, 77])] {
        let (boot, start) = (BootId::from_bytes(boot.to_be_bytes()), StartId::from_bytes([3; 16]));
        let party = Party { address: "127.0.0.1:1".into(), machine: String::new(), boot, start, seen_at: now };
        fixture.roster.came(N1, party, ClockOffset(0));
        let mut look = fixture.look(hosts([host("n1", Some(N1))]), spec(Way::Icmp));
        assert_eq!(report(&ends(&mut look).await.0[0].1).address, Some(address.into()));
    }
}

#[tokio::test]
async fn a_look_whose_work_panics_is_over() {
    let fixture = Fixture::new().await;
    let mut look = fixture.look(mesh(&[N2], &["10.0.0.1"]), endless(Way::Icmp));
    fixture.prober.begin(7, Arc::clone(&look.shared), async { panic!("as a bug would have it") });
    assert_eq!(ends(&mut look).await, (Vec::new(), 0));
    assert!(!fixture.prober.looks().contains_key(&7));
}

#[tokio::test]
async fn agents_look_and_one_that_comes_back_is_asked_again() {
    let fixture = Fixture::new().await;
    let n1 = fixture.agent(N1, 1);
    let mut look = fixture.look(mesh(&[N1, N2], &["10.0.0.1", "10.0.0.2"]), spec(Way::Both));
    let order = n1.orders().await;
    assert_eq!(order.aims.iter().map(|aim| aim.address.to_string()).collect::<Vec<_>>(), ["10.0.0.1", "10.0.0.2"]);
    n1.says(order.sweep, &[alive(1)]).expect("no lie");
    n1.leaves();
    let n1_again = fixture.agent(N1, 2);
    assert_eq!(n1.says(order.sweep, &[alive(0)]), Ok(()), "what an older session says is ignored");
    let order = n1_again.orders().await;
    assert_eq!(order.aims.iter().map(|aim| aim.address.to_string()).collect::<Vec<_>>(), ["10.0.0.1"]);
    n1_again.says(order.sweep, &[alive(0)]).expect("no lie");
    let (ends, _) = ends(&mut look).await;
    let found: Vec<_> = ends.iter().map(|(target, end)| (*target, end.state, end.reason.as_deref())).collect();
    let away = Some("the agent that was to look is not connected");
    let expected = [
        (0, End::Succeeded, None),
        (1, End::Succeeded, None),
        (2, End::Unreachable, away),
        (3, End::Unreachable, away),
    ];
    assert_eq!(found, expected);
    assert_eq!(n1_again.says(order.sweep, &[alive(0)]), Ok(()), "the look is over");
    assert_eq!(n1_again.says(7, &[alive(0)]), Ok(()), "one that was over long ago, for all that is known");
    assert_eq!(fixture.stats.findings_ignored.get(), 2);
}

#[tokio::test]
async fn a_look_that_is_dropped_stops_its_agents() {
    let fixture = Fixture::new().await;
    let n1 = fixture.agent(N1, 1);
    let look = fixture.look(mesh(&[N1], &["10.0.0.1"]), endless(Way::Both));
    let order = n1.orders().await;
    assert_eq!((order.probes.count, order.last), (None, true));
    drop(look);
    assert_eq!(n1.hears().await, [ToAgent::ProbeStop(order.sweep)]);
}

#[tokio::test]
async fn what_nobody_has_looked_at_when_it_is_stopped_has_no_end() {
    let fixture = Fixture::new().await;
    let mut look = fixture.look(mesh(&[N2], &["10.0.0.1"]), spec(Way::Both));
    look.stop();
    assert_eq!(ends(&mut look).await, (Vec::new(), 0));
}
