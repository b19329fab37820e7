//! What a job makes of news that come by several doors, in whatever order.

use super::*;
use crate::listen::PeerInfo;
use crate::ping::Prober;
use crate::roster::Roster;
use crate::sessions::{Mailbox, Session};
use muster_proto::command::{Command, Program};
use muster_proto::fleet::{Party, Quarantine};
use muster_proto::id::{BootId, ClusterId, JobId, StartId};
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
            attempts_max: 1,
            concurrency: None,
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

    fn contact(&self) -> muster_core::task::Contact {
        self.running.job.tasks()[0].contact()
    }
}

#[tokio::test]
async fn an_agent_that_is_back_before_the_news_that_it_may_be_stays_connected() {
    let mut job = Fixture::new().await;
    job.quarantine();
    job.recognition();
    assert_eq!(job.contact(), muster_core::task::Contact::Quarantined);
    job.sessions.resolved(AGENT);
    job.begin(2);
    job.hello(2);
    job.recognition();
    assert_eq!(job.contact(), muster_core::task::Contact::Here);
}

#[tokio::test]
async fn news_of_a_quarantine_that_is_over_change_nothing() {
    let mut job = Fixture::new().await;
    job.quarantine();
    job.sessions.resolved(AGENT);
    job.recognition();
    job.recognition();
    assert_eq!(job.contact(), muster_core::task::Contact::Away);
}

#[tokio::test]
async fn a_hello_of_a_session_that_is_not_the_live_one_greets_nobody() {
    let mut job = Fixture::new().await;
    job.hello(1);
    job.begin(3);
    job.hello(2);
    assert_eq!(job.contact(), muster_core::task::Contact::Away);
    job.quarantine();
    job.hello(3);
    assert_eq!(job.contact(), muster_core::task::Contact::Away, "one of two is not the agent");
}
