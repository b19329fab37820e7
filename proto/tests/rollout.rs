//! Rollouts and what happens in them, on the wire: what is said arrives as it was said, and what cannot be meant does not
//! arrive.
#![cfg(feature = "wire")]

use bytes::Bytes;
use muster_proto::command::{Command, OutputLimit, Program};
use muster_proto::event::{Event, EventKind, GateStep, Stream};
use muster_proto::id::{Attempt, ClusterId, JobId};
use muster_proto::job::{JobSpec, TargetsDigest, Work};
use muster_proto::limits;
use muster_proto::outcome::{Outcome, State};
use muster_proto::ping::{Detail, Family, PingSpec, Probes, Way};
use muster_proto::rollout::{MaxFail, Offline, Rollout};
use muster_proto::selection::{Missing, Selection};
use muster_proto::time::Timestamp;
use muster_proto::wire;
use proptest::prelude::*;
use prost::Message as _;
use std::time::Duration;

fn spans() -> impl Strategy<Value = Duration> {
    (1..86_400_000_u64).prop_map(Duration::from_millis)
}

fn gates() -> impl Strategy<Value = Command> {
    ("[ -~]{1,40}", spans()).prop_map(|(line, timeout)| {
        let mut gate = Command::new(Program::Shell(line.into_bytes()));
        gate.timeout = timeout;
        gate.output = OutputLimit::GATE;
        gate
    })
}

fn rollouts() -> impl Strategy<Value = Rollout> {
    let max_fail = prop_oneof![(1..u32::MAX).prop_map(MaxFail::Hosts), (1..=100_u32).prop_map(MaxFail::Percent)];
    let offline = prop_oneof![
        Just(Offline::Window),
        Just(Offline::Skip),
        spans().prop_map(Offline::Wait),
        spans().prop_map(Offline::Queue),
    ];
    let waves = (prop::collection::vec(1..u32::MAX, 1..20), prop_oneof![Just(Duration::ZERO), spans()]);
    let retries = (0..=limits::RETRIES_MAX, 0..=limits::RETRIES_MAX);
    let gate = prop::option::of(gates());
    let rest = (prop::option::of(max_fail), prop_oneof![Just(Duration::ZERO), spans()], retries, offline);
    (prop::option::of(1..u32::MAX), waves, gate, rest).prop_map(
        |(concurrency, (waves, wave_pause), gate, (max_fail, splay, (retries, retry_failed), offline))| Rollout {
            concurrency,
            waves,
            wave_pause,
            gate,
            max_fail,
            splay,
            retries,
            retry_failed,
            offline,
        },
    )
}

fn spec(rollout: Rollout, rerun_of: Option<JobId>) -> JobSpec {
    JobSpec {
        cluster: ClusterId::from_bytes([1; 16]),
        job: JobId::from_bytes([2; 16]),
        operator: "ada".parse().expect("a name"),
        created_at: Timestamp::from_millis(1_000),
        start_before: Timestamp::from_millis(2_000),
        deliver: Duration::from_secs(30),
        targets: TargetsDigest { root: [3; 32], count: 7 },
        rollout,
        rerun_of,
        work: Work::Command(Command::new(Program::Argv(vec![b"true".to_vec()]))),
    }
}

fn kinds() -> impl Strategy<Value = EventKind> {
    let target = any::<u32>();
    let at = any::<i64>().prop_map(Timestamp::from_millis);
    let outcome = prop::sample::select(&State::ALL[..]).prop_map(|state| Outcome::without_run(state, "why"));
    let stream = prop::sample::select(&[Stream::Stdout, Stream::Stderr][..]);
    let data = prop::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from);
    let operator = "[a-z][a-z0-9]{0,20}".prop_map(|name| name.parse().expect("a name"));
    let step = prop_oneof![
        Just(GateStep::Offered),
        Just(GateStep::Accepted),
        Just(GateStep::Started),
        (stream.clone(), any::<u64>(), data).prop_map(|(stream, offset, data)| GateStep::Output {
            stream,
            offset,
            data
        }),
        (stream, any::<u64>()).prop_map(|(stream, bytes)| GateStep::Truncated { stream, bytes }),
        outcome.clone().prop_map(|outcome| GateStep::Finished { outcome }),
    ];
    prop_oneof![
        any::<[u32; 3]>().prop_map(|[number, first, targets]| EventKind::Wave { number, first, targets }),
        (target, at.clone()).prop_map(|(target, until)| EventKind::Queued { target, until }),
        (target, any::<u32>(), outcome, at).prop_map(|(target, attempt, outcome, at)| EventKind::Retrying {
            target,
            attempt: Attempt(attempt),
            outcome,
            at
        }),
        (target, step).prop_map(|(target, step)| EventKind::Gate { target, step }),
        (prop::option::of(operator.clone()), "[a-z ]{1,20}[a-z]")
            .prop_map(|(operator, reason)| EventKind::Paused { operator, reason: reason.trim().to_owned() }),
        operator.prop_map(|operator| EventKind::Resumed { operator }),
        "[a-z]{1,20}".prop_map(|reason| EventKind::Stopping { reason }),
    ]
}

proptest! {
    #[test]
    fn a_signed_rollout_reads_back(rollout in rollouts(), rerun_of in any::<Option<[u8; 16]>>()) {
        let spec = spec(rollout, rerun_of.map(JobId::from_bytes));
        prop_assert_eq!(JobSpec::decode(&spec.encode()), Ok(spec));
    }

    #[test]
    fn what_happens_arrives_as_it_happened(kind in kinds(), seq: u64) {
        let event = Event { seq, time: Timestamp::from_millis(7), kind };
        let bytes = wire::Event::from(event.clone()).encode_to_vec();
        let heard = wire::Event::decode(&bytes[..]).expect("a message").try_into();
        prop_assert_eq!(heard, Ok(event));
    }
}

#[test]
fn what_no_operator_can_have_meant_is_refused() {
    let wire = wire::JobPayload::decode(spec(Rollout::default(), None).encode()).expect("a payload");
    let refused = |payload: wire::JobPayload| JobSpec::decode(&payload.encode_to_vec().into()).is_err();
    assert!(!refused(wire.clone()));
    for bad in [
        wire::JobPayload { attempts_max: 0, ..wire.clone() },
        wire::JobPayload { retry_failed: 1, ..wire.clone() },
        wire::JobPayload { attempts_max: 2 + limits::RETRIES_MAX, ..wire.clone() },
        wire::JobPayload { waves: vec![1, 0], ..wire.clone() },
        wire::JobPayload { waves: vec![1; limits::WAVES_MAX + 1], ..wire.clone() },
        wire::JobPayload { wave_pause_ms: 1, ..wire.clone() },
        wire::JobPayload { splay_ms: u64::MAX, ..wire.clone() },
        wire::JobPayload { max_fail: Some(wire::job_payload::MaxFail::MaxFailPercent(101)), ..wire.clone() },
        wire::JobPayload { max_fail: Some(wire::job_payload::MaxFail::MaxFailHosts(0)), ..wire.clone() },
        wire::JobPayload { offline: Some(wire::Offline { kind: None }), ..wire.clone() },
        wire::JobPayload {
            offline: Some(wire::Offline { kind: Some(wire::offline::Kind::Skip(false)) }),
            ..wire.clone()
        },
        wire::JobPayload { rerun_of: Bytes::from_static(b"short"), ..wire },
    ] {
        assert!(refused(bad.clone()), "{bad:?}");
    }
}

#[test]
fn a_ping_has_no_rollout() {
    let probes = Probes::default();
    let work = Work::Ping(PingSpec { way: Way::Both, family: Family::Any, detail: Detail::Ends, probes });
    let plain = JobSpec { work, ..spec(Rollout::default(), None) };
    assert_eq!(JobSpec::decode(&plain.encode()), Ok(plain.clone()));
    let waves = JobSpec { rollout: Rollout { waves: vec![1], ..Rollout::default() }, ..plain };
    assert!(JobSpec::decode(&waves.encode()).is_err());
}

#[test]
fn what_fits_nobody_is_an_error_unless_that_was_said() {
    let selection = Selection { targets: "all".into(), missing: Missing::LeftOut, ..Selection::default() };
    assert_eq!(Selection::from(wire::Selection::from(&selection)), selection);
    assert_eq!(Selection::from(wire::Selection::default()).missing, Missing::Refused);
}
