//! What a job makes of news that come by several doors, in whatever order.

use super::*;
use crate::listen::PeerInfo;
use crate::ping::Prober;
use crate::roster::Roster;
use crate::sessions::{Mailbox, Session};
use muster_proto::command::{Command, Program};
use muster_proto::fleet::{Party, Quarantine};
use muster_proto::id::{Attempt, BootId, ClusterId, JobId, StartId};
use muster_proto::job::{JobSpec, TargetsDigest, Work, target_tree};
use tempfile::TempDir;

const AGENT: AgentId = AgentId::from_bytes([1; 16]);

/// A job with one target.
struct Fixture {
    _dir: TempDir,
    sessions: Sessions,
    running: Running,
    after: Afterwards,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).await.expect("a store");
        let (sessions, now) = (Sessions::default(), clock::now());
        let spec = JobSpec {
            cluster: ClusterId::from_bytes([1; 16]),
            job: JobId::from_bytes([2; 16]),
            operator: "ada".parse().expect("a name"),
            created_at: now,
            start_before: now + Duration::from_secs(600),
            deliver: Duration::from_secs(30),
            targets: TargetsDigest { root: [3; 32], count: 1 },
            rollout: muster_proto::rollout::Rollout::default(),
            rerun_of: None,
            work: Work::Command(Command::new(Program::Argv(vec![b"true".to_vec()]))),
        };
        let signed =
            SignedJob { payload: Default::default(), signature: Default::default(), certificate: Default::default() };
        let targets: Arc<[Target]> = vec![Target { agent: AGENT, name: "web01".parse().expect("a name") }].into();
        let tree = target_tree(&targets).expect("a tree");
        let stats = Arc::new(Stats::default());
        let roster = Roster::load(&store, sessions.clone()).await.expect("a roster");
        let prober = Prober::new(sessions.clone(), roster, Arc::clone(&stats));
        let engine = Engine { store, sessions: sessions.clone(), prober, jobs: Arc::default(), stats };
        let running = Running::new(Job::restore(spec), signed, targets, tree, engine);
        Self { _dir: dir, sessions, running, after: Afterwards::default() }
    }

    fn begin(&self, epoch: u64) {
        let peer = PeerInfo::stranger(([127, 0, 0, 1], 1).into());
        let session = Session::new(Epoch(epoch), &peer, Arc::new(Mailbox::default()));
        self.sessions.begin(AGENT, session);
    }

    fn quarantine(&self) {
        let (boot, start, seen_at) = (BootId::from_bytes([2; 16]), StartId::from_bytes([3; 16]), clock::now());
        let party = Party { address: "192.0.2.1:1".into(), machine: String::new(), boot, start, seen_at };
        let farewell = ToAgent::Refused { reason: "two".into(), retry_after: Duration::ZERO };
        self.sessions.quarantine(AGENT, 1, Quarantine { since: seen_at, parties: [party.clone(), party] }, &farewell);
    }

    fn hello(&mut self, epoch: u64) {
        let answer = oneshot::channel().0;
        self.take(Input::Hello { agent: AGENT, epoch: Epoch(epoch), held: Vec::new(), answer });
    }

    fn recognition(&mut self) {
        self.take(Input::Recognition { agent: AGENT });
    }

    fn take(&mut self, input: Input) {
        self.running.take(input, clock::now(), &mut self.after);
    }

    fn contact(&self) -> job::Contact {
        self.running.job.hosts()[0].contact()
    }
}

#[tokio::test]
async fn an_agent_that_is_back_before_the_news_that_it_may_be_stays_connected() {
    let mut job = Fixture::new().await;
    job.quarantine();
    job.recognition();
    assert_eq!(job.contact(), job::Contact::Quarantined);
    job.sessions.resolved(AGENT);
    job.begin(2);
    job.hello(2);
    job.recognition();
    assert_eq!(job.contact(), job::Contact::Here);
}

#[tokio::test]
async fn news_of_a_quarantine_that_is_over_change_nothing() {
    let mut job = Fixture::new().await;
    job.quarantine();
    job.sessions.resolved(AGENT);
    job.recognition();
    job.recognition();
    assert_eq!(job.contact(), job::Contact::Away);
}

#[tokio::test]
async fn a_hello_of_a_session_that_is_not_the_live_one_greets_nobody() {
    let mut job = Fixture::new().await;
    job.hello(1);
    job.begin(3);
    job.hello(2);
    assert_eq!(job.contact(), job::Contact::Away);
    job.quarantine();
    job.hello(3);
    assert_eq!(job.contact(), job::Contact::Away, "one of two is not the agent");
}

impl Fixture {
    fn order(&mut self, order: Order) -> Obeyed {
        let operator = "bob".parse().expect("a name");
        self.take(Input::Order { order, operator, answer: oneshot::channel().0 });
        self.after.orders.last().expect("it waits for the commit").1
    }

    fn state_with(&self, audit: usize) -> JobState {
        assert_eq!(self.after.audit.len(), audit, "{:?}", self.after.audit);
        self.running.job.state()
    }
}

#[tokio::test]
async fn an_order_that_changes_something_is_recorded_and_one_that_does_not_is_not() {
    let mut job = Fixture::new().await;
    assert_eq!(job.order(Order::Resume), Obeyed::Already, "it is not paused");
    assert_eq!((job.order(Order::Pause), job.state_with(1)), (Obeyed::Now, JobState::Paused));
    assert_eq!((job.order(Order::Pause), job.state_with(1)), (Obeyed::Already, JobState::Paused));
    assert_eq!(job.order(Order::Resume), Obeyed::Now);
    assert_ne!(job.state_with(2), JobState::Paused);
    assert_eq!((job.order(Order::Cancel), job.state_with(3)), (Obeyed::Now, JobState::Cancelling));
    assert!(matches!(job.order(Order::Pause), Obeyed::No(_)), "nothing of it would go on");
    assert_eq!((job.order(Order::Cancel), job.state_with(3)), (Obeyed::Already, JobState::Cancelling));
    let records: Vec<_> = job.after.audit.iter().map(|entry| (&*entry.action, &*entry.actor)).collect();
    let by_bob = ["job.pause", "job.resume", "job.cancel"].map(|action| (action, "operator/bob"));
    assert_eq!(records, by_bob);
}

#[tokio::test]
async fn an_agent_speaks_of_its_own_tasks_that_were_signed_alone() {
    let mut job = Fixture::new().await;
    let task =
        |job: u8, target, attempt| TaskId { job: JobId::from_bytes([job; 16]), target, attempt: Attempt(attempt) };
    assert_eq!(job.running.own(task(2, 0, 1), Some(0)), Some(TaskRef { target: 0, attempt: Attempt::FIRST }));
    for strange in [task(2, 0, 0), task(2, 0, 2), task(2, 1, 1), task(9, 0, 1)] {
        assert_eq!(job.running.own(strange, Some(0)), None, "{strange}");
    }
    job.begin(1);
    job.hello(1);
    let reports = vec![(task(2, 0, 2), TaskReport::Started)];
    job.take(Input::Reports(Reports { agent: AGENT, epoch: Epoch(1), reports }));
    let refused: u64 = job.running.stats.reports.iter().map(|(_, count)| count).sum();
    assert_eq!((refused, job.running.job.last_seq()), (1, 0), "refused, and nothing happened");
}
