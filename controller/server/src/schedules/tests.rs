//! Rounds over loopback: what they find is durable, is told once, and outlives a restart.

use super::*;
use crate::groups::Sources;
use crate::roster::Roster;
use crate::sessions::Sessions;
use crate::stats::Closed;
use muster_proto::fleet::Labels;
use muster_proto::id::AgentId;
use muster_proto::ping::{Family, PingSelection, PingSpec, Way};
use muster_store::AgentRecord;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

struct World {
    dir: TempDir,
    store: Store,
    schedules: Schedules,
}

fn ada() -> OperatorName {
    "ada".parse().expect("a name")
}

fn audit() -> AuditEntry {
    AuditEntry { at: clock::now(), actor: "ada".into(), action: "a.test".into(), detail: String::new() }
}

/// A fleet of n1, which had a session and has none, and of n2, which has not come back yet.
async fn schedules(store: &Store) -> Schedules {
    let (sessions, stats) = (Sessions::default(), Arc::new(Stats::default()));
    let roster = Roster::load(store, sessions.clone()).await.expect("a roster");
    let [n1, n2] = [1, 2].map(|number| AgentId::from_bytes([number; 16]));
    for (agent, name) in [(n1, "n1"), (n2, "n2")] {
        roster.add(AgentRecord::enrolled(agent, name.parse().expect("a name"), Labels::new(), clock::now()));
    }
    stats.session_closed(n1, Closed::Lost);
    let prober = Prober::new(sessions, roster.clone(), Arc::clone(&stats));
    let resolver = Resolver::new(roster, store.clone(), Sources::default());
    Schedules::start(store.clone(), resolver, prober, stats).await.expect("schedules")
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).await.expect("a store");
        store.register_operator(ada(), [1; 32], clock::now()).await.expect("an operator");
        Self { schedules: schedules(&store).await, store, dir }
    }

    async fn restart(self) -> Self {
        self.schedules.stop().await;
        self.store.close().await;
        let store = Store::open(self.dir.path()).await.expect("a store");
        Self { schedules: schedules(&store).await, store, dir: self.dir }
    }

    async fn until(&self, what: &str, is: impl Fn(&Figures) -> bool) -> Figures {
        let found = async {
            loop {
                if let Some(figures) = self.schedules.figures().await.into_iter().find(|figures| is(figures)) {
                    return figures;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("{what}"))
    }

    async fn standings(&self) -> (Vec<Standing>, Vec<Change>) {
        self.schedules.standings(None, Timestamp::default()).await.expect("standings")
    }
}

fn schedule(way: Way, targets: &str, hosts: &[&str]) -> Schedule {
    let hosts = hosts.iter().map(ToString::to_string).collect();
    let probes = Probes { timeout: Duration::from_millis(200), retries: 0, ..Probes::default() };
    Schedule {
        name: "core".parse().expect("a name"),
        selection: PingSelection { targets: targets.into(), hosts, ..PingSelection::default() },
        spec: PingSpec { way, family: Family::Any, detail: Detail::Each, probes },
        every: limits::SCHEDULE_EVERY_MIN,
        operator: ada(),
        created_at: clock::now(),
        ran_at: None,
        targets: 0,
        problem: None,
    }
}

#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn skip(why: &muster_proto::ping::Failure) {
    eprintln!("SKIPPED: {why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_answer_are_up_and_gather_figures() {
    if let Err(failure) = muster_probe::can_probe() {
        skip(&failure);
        return;
    }
    let world = World::start().await;
    let made = world.schedules.make(schedule(Way::Icmp, "", &["127.0.0.1", "127.0.0.[2-3]"]), Replace::No).await;
    assert_eq!(made.expect("made").targets, 3);
    world.until("two rounds", |it| it.rounds >= 2 && it.pairs == [3, 0, 0]).await;
    let (standings, changes) = world.standings().await;
    assert_eq!(changes, [], "that a host answers at first is no change");
    for standing in &standings {
        assert!(standing.received == standing.sent && standing.sent >= 2 && standing.rtt.is_some(), "{standing:?}");
        assert_eq!(standing.up_time, standing.known_time);
    }
    let world = world.restart().await;
    let (mut restored, _) = world.standings().await;
    for (restored, lived) in restored.iter_mut().zip(&standings) {
        // Kept to the microsecond.
        assert_eq!(restored.rtt.is_some(), lived.rtt.is_some());
        restored.rtt = lived.rtt;
    }
    assert_eq!(restored, standings, "what was found is durable at an orderly end");
    world.schedules.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_down_is_told_once_whatever_restarts() {
    let world = World::start().await;
    world.schedules.make(schedule(Way::Link, "n1", &[]), Replace::No).await.expect("made");
    world.until("it is down", |it| it.pairs == [0, 1, 0]).await;
    let (standings, changes) = world.standings().await;
    let [down] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!((down.up, down.at, down.reason.as_deref()), (false, standings[0].since, Some("agent not connected")));
    world.store.disable_operator(ada(), clock::now(), audit()).await.expect("disabled");

    let world = world.restart().await;
    let figures = world.until("it says why it does not run", |it| it.problem.is_some()).await;
    assert!(figures.problem.is_some_and(|problem| problem.contains("ada is disabled")) && figures.rounds == 0);
    let eve: OperatorName = "eve".parse().expect("a name");
    world.store.register_operator(eve.clone(), [2; 32], clock::now()).await.expect("an operator");
    let taken_over = Schedule { operator: eve, ..schedule(Way::Link, "n1", &[]) };
    world.schedules.make(taken_over, Replace::Yes).await.expect("replaced");
    world.until("it runs again", |it| it.problem.is_none() && it.rounds > 0 && it.pairs == [0, 1, 0]).await;
    let (again, same) = world.standings().await;
    assert_eq!(
        (same, again[0].since),
        (changes, standings[0].since),
        "it is down since then and not since the restart"
    );
    assert!(again[0].known_time > standings[0].known_time);

    world.schedules.remove("core".parse().expect("a name"), audit()).await.expect("removed");
    assert!(world.schedules.list().await.is_empty() && world.standings().await == (Vec::new(), Vec::new()));
    world.schedules.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_come_back_to_a_new_controller_is_unknown_and_not_down() {
    let world = World::start().await;
    world.schedules.make(schedule(Way::Link, "n2", &[]), Replace::No).await.expect("made");
    world.until("a round was over", |it| it.rounds > 0 && it.pairs == [0, 0, 1]).await;
    let (standings, changes) = world.standings().await;
    assert_eq!((changes, standings[0].known_time), (Vec::new(), Duration::ZERO));
    assert!(standings[0].reason.as_ref().is_some_and(|reason| reason.contains("not back yet")), "{standings:?}");
    world.schedules.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_a_schedule_is_refused_with_a_remedy() {
    let world = World::start().await;
    let good = || schedule(Way::Icmp, "", &["127.0.0.1"]);
    let probes = |change: fn(&mut Probes)| {
        let mut schedule = good();
        change(&mut schedule.spec.probes);
        schedule
    };
    for (bad, hint) in [
        (Schedule { every: Duration::from_secs(4), ..good() }, "from 5 s to 1 h"),
        (Schedule { every: Duration::from_hours(2), ..good() }, "from 5 s to 1 h"),
        (probes(|probes| probes.count = None), "not --loop"),
        (probes(|probes| probes.count = NonZeroU32::new(6)), "fewer probes (-c)"),
        (schedule(Way::Icmp, "", &["127.0.[0-99].[0-254]"]), "at most 16384 pairs"),
        (schedule(Way::Icmp, "role=web", &[]), "role"),
        (schedule(Way::Icmp, "", &[]), "nobody is named"),
    ] {
        let refused = world.schedules.make(bad, Replace::No).await.err().expect(hint).to_string();
        assert!(refused.contains(hint), "{hint}: {refused}");
    }
    assert!(world.schedules.list().await.is_empty());
    let nobody = "core".parse().expect("a name");
    assert!(matches!(
        world.schedules.standings(Some(&nobody), Timestamp::default()).await,
        Err(StandingsError::Unknown(_))
    ));
    world.schedules.stop().await;
}

#[test]
fn a_round_is_as_long_as_the_busiest_sends() {
    let host =
        |number: u32| muster_proto::ping::PingHost { name: format!("h{number}").parse().expect("a name"), agent: None };
    let list = PingList::from_controller((0..10_000).map(host).collect()).expect("a list");
    assert_eq!(length(&list, &Probes { rate: NonZeroU32::new(2_000), ..Probes::default() }), Duration::from_secs(5));
}
