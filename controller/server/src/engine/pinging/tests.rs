//! Pings at work, over loopback. Where ICMP may not be sent they say that they were skipped.

use super::*;
use crate::engine::Engine;
use crate::roster::Roster;
use crate::sessions::Sessions;
use muster_proto::id::{ClusterId, JobId};
use muster_proto::job::{JobSpec, SignedJob, TargetList, TargetsDigest};
use muster_proto::ping::{Detail, Family, PingHost, PingSpec, Probes, Way};
use std::io::Write as _;
use tempfile::TempDir;

async fn engine() -> Option<(TempDir, Engine)> {
    if muster_probe::can_probe().is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: this machine does not let us send ICMP");
        return None;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).await.expect("a store");
    let (sessions, stats) = (Sessions::default(), Arc::<Stats>::default());
    let roster = Roster::load(&store, sessions.clone()).await.expect("a roster");
    let prober = Prober::new(sessions.clone(), roster, Arc::clone(&stats));
    let engine = Engine::start(store, sessions, prober, stats).await.expect("an engine");
    Some((dir, engine))
}

/// Asks 200 addresses of loopback every 20 ms, without end.
async fn submit_endless(engine: &Engine, number: u8, until: Duration) -> JobId {
    let host = |n: u32| PingHost { name: format!("127.1.0.{n}").parse().expect("an address"), agent: None };
    let list = PingList::from_controller((1..=200).map(host).collect()).expect("a list");
    let probes = Probes { count: None, period: Duration::from_millis(20), rate: None, ..Probes::default() };
    let (now, job) = (clock::now(), JobId::from_bytes([number; 16]));
    let spec = JobSpec {
        cluster: ClusterId::from_bytes([1; 16]),
        job,
        operator: "ada".parse().expect("a name"),
        created_at: now,
        start_before: now + until,
        deliver: Duration::from_secs(1),
        targets: TargetsDigest { root: list.tree().expect("a tree").root(), count: 200 },
        rollout: muster_proto::rollout::Rollout::default(),
        rerun_of: None,
        work: Work::Ping(PingSpec { way: Way::Icmp, family: Family::Any, detail: Detail::Each, probes }),
    };
    let empty = bytes::Bytes::new;
    let signed = SignedJob { payload: spec.encode(), signature: empty(), certificate: empty() };
    let audit =
        AuditEntry { at: now, actor: "operator/ada".into(), action: "job.accept".into(), detail: job.to_string() };
    engine.submit(spec, signed, TargetList::Pings(list.into()), audit).await.expect("accepted");
    job
}

async fn done(engine: &Engine, job: JobId) -> muster_store::StoredJob {
    for _ in 0..400 {
        let stored = engine.store().job(job).await.expect("a store").expect("the job");
        if stored.summary.state == JobState::Done {
            return stored;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("job {job} goes on after its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn p6_a_busy_ping_without_end_ends_at_its_deadline_with_what_it_saw() {
    let Some((_dir, engine)) = engine().await else { return };
    for number in 1..=4 {
        let job = submit_endless(&engine, number, Duration::from_millis(300 + 37 * u64::from(number))).await;
        let counts = done(&engine, job).await.summary.counts;
        assert_eq!((counts.get(State::Succeeded), counts.total()), (200, 200), "{counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_a_cancel_ends_a_ping_and_is_durable_before_it_is_answered() {
    let Some((_dir, engine)) = engine().await else { return };
    let job = submit_endless(&engine, 1, Duration::from_mins(5)).await;
    let ada = || "ada".parse().expect("a name");
    engine.order(job, ada(), Order::Cancel).await.expect("cancelled");
    let counts = done(&engine, job).await.summary.counts;
    assert_eq!(counts.total(), 200);
    assert_eq!(counts.get(State::Succeeded) + counts.get(State::Skipped), 200, "{counts:?}");
    assert!(matches!(engine.order(job, ada(), Order::Cancel).await, Ok(crate::engine::Ordered::JobDone)));
}
