//! What the store's tests share: a store in a directory of its own, and jobs to put into it.

use muster_proto::command::{Command, Program};
use muster_proto::event::{Event, EventKind};
use muster_proto::fleet::Party;
use muster_proto::id::{AgentId, BootId, ClusterId, JobId, StartId};
use muster_proto::job::{JobSpec, JobState, SignedJob, Target, TargetList, TargetsDigest, Work};
use muster_proto::link::Nonce;
use muster_proto::outcome::Counts;
use muster_proto::time::Timestamp;
use muster_store::{Append, AuditEntry, NewJob, OpenSession};
use std::str::FromStr;
use std::time::Duration;

/// Whatever ends a test.
pub type Failure = Box<dyn std::error::Error>;

/// A moment, in seconds after the tests' beginning.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000 + seconds * 1_000)
}

/// A name, label or id that is known to be good.
pub fn good<T: FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("the tests' own names are good")
}

/// A record of something.
pub fn entry(action: &str) -> AuditEntry {
    AuditEntry { at: at(0), actor: "ann".into(), action: action.into(), detail: "in a test".into() }
}

/// The number's job id.
pub fn job_id(number: u128) -> JobId {
    JobId::from_bytes(number.to_be_bytes())
}

/// The number's agent id.
pub fn agent_id(number: u128) -> AgentId {
    AgentId::from_bytes(number.to_be_bytes())
}

/// A machine, seen then.
pub fn party(machine: &str, seconds: i64) -> Party {
    let (boot, start) = (BootId::from_bytes([1; 16]), StartId::from_bytes([2; 16]));
    Party { address: "192.0.2.1:999".into(), machine: machine.into(), boot, start, seen_at: at(seconds) }
}

/// The agent with this number, whose key has the same one, asks for a session.
pub fn open(number: u8, presented: Option<Nonce>, party: Party) -> OpenSession {
    OpenSession { agent: agent_id(number.into()), key: [number; 32], presented, party }
}

/// Two targets.
pub fn targets() -> TargetList {
    TargetList::Agents([1, 2].map(|n| Target { agent: agent_id(n), name: good(&format!("web{n}")) }).into())
}

/// A job that was just planned.
pub fn new_job(job: JobId) -> NewJob {
    let targets = targets();
    let digest = TargetsDigest { root: targets.tree().expect("two targets have a tree").root(), count: 2 };
    let spec = JobSpec {
        cluster: ClusterId::from_bytes([7; 16]),
        job,
        operator: good("ann"),
        created_at: at(1),
        start_before: at(3_600),
        deliver: Duration::from_secs(30),
        targets: digest,
        rollout: muster_proto::rollout::Rollout::default(),
        rerun_of: None,
        work: Work::Command(Command::new(Program::Shell(b"uptime".to_vec()))),
    };
    let signed = SignedJob { payload: spec.encode(), signature: vec![1; 64].into(), certificate: vec![2; 400].into() };
    let planned = EventKind::Planned { targets: 2, root: digest.root };
    NewJob { spec, signed, targets, events: vec![event(1, planned)], audit: entry("job.submit") }
}

/// An event with its number.
pub fn event(seq: u64, kind: EventKind) -> Event {
    Event { seq, time: at(1), kind }
}

/// A job's next events.
pub fn append(job: JobId, events: Vec<Event>) -> Append {
    Append {
        job,
        events,
        state: JobState::Active,
        counts: Counts::default(),
        done_at: None,
        audit: Vec::new(),
        late: Vec::new(),
    }
}
