//! Pings on the wire: what is said arrives as it was said, and what cannot be meant does not arrive.
#![cfg(feature = "wire")]

use bytes::Bytes;
use muster_proto::id::{AgentId, ClusterId, JobId};
use muster_proto::job::{JobSpec, Target, TargetsDigest, Work};
use muster_proto::limits;
use muster_proto::link::{FromAgent, ProbeAim, ProbeOrder, ToAgent};
use muster_proto::ping::{
    Detail, Failure, FailureKind, Family, Finding, Pair, PingHost, PingList, PingSpec, Probes, Sample, Summary, Tally,
    Way,
};
use muster_proto::time::Timestamp;
use muster_proto::wire;
use proptest::prelude::*;
use prost::Message as _;
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn failures() -> impl Strategy<Value = Failure> {
    (prop::sample::select(&FailureKind::ALL[..]), prop::option::of(addresses()))
        .prop_map(|(kind, from)| Failure { kind, from })
}

fn details() -> impl Strategy<Value = Detail> {
    prop::sample::select(&[Detail::Ends, Detail::Changes, Detail::Each][..])
}

fn probes() -> impl Strategy<Value = Probes> {
    let times = (2_000_u64..3_600_000_000, 1_000_u64..60_000_000);
    let counts = (0..=limits::PROBE_COUNT_MAX, 0..=limits::PROBE_RETRIES_MAX, 0..=limits::PROBE_SIZE_MAX);
    (times, counts, any::<(u8, u8, u32)>()).prop_map(|((period, timeout), (count, retries, size), (ttl, tos, rate))| {
        Probes {
            count: NonZeroU32::new(count),
            period: Duration::from_micros(period),
            timeout: Duration::from_micros(timeout),
            retries,
            size,
            ttl: NonZeroU8::new(ttl),
            tos,
            rate: NonZeroU32::new(rate),
        }
    })
}

fn findings() -> impl Strategy<Value = Finding> {
    let rtt = any::<[u32; 7]>().prop_map(|all| all.map(|nanos| Duration::from_nanos(nanos.into())));
    let rtt =
        rtt.prop_map(|[min, mean, max, median, p95, p99, jitter]| Summary { min, mean, max, median, p95, p99, jitter });
    let tally = (any::<[u16; 5]>(), rtt).prop_map(|([lost, received, duplicates, late, damaged], rtt)| Tally {
        sent: u32::from(lost) + u32::from(received),
        received: received.into(),
        duplicates: duplicates.into(),
        late: late.into(),
        damaged: damaged.into(),
        rtt: (received > 0).then_some(rtt),
    });
    let answer = prop_oneof![any::<u64>().prop_map(|nanos| Ok(Duration::from_nanos(nanos))), failures().prop_map(Err)];
    prop_oneof![
        (any::<u32>(), any::<u32>(), answer)
            .prop_map(|(place, number, answer)| Finding::Sample { place, sample: Sample { number, answer } }),
        (any::<u32>(), tally, prop::option::of(failures())).prop_map(|(place, tally, failure)| Finding::End {
            place,
            tally,
            failure
        }),
    ]
}

proptest! {
    #[test]
    fn findings_and_orders_arrive_as_they_were_said(
        findings in prop::collection::vec(findings(), 0..20),
        probes in probes(),
        detail in details(),
        aims in prop::collection::vec((addresses(), "[a-z0-9]{0,15}"), 0..20),
        (sweep, last) in any::<(u64, bool)>(),
    ) {
        let said = FromAgent::Probed { sweep, findings };
        let wire = wire::AgentMessage::from(said.clone()).encode_to_vec();
        let heard = wire::AgentMessage::decode(&wire[..]).expect("a message").try_into();
        prop_assert_eq!(heard, Ok(said));

        let aims = aims.into_iter().map(|(address, zone)| ProbeAim { address, zone }).collect();
        let said = ToAgent::Probe(ProbeOrder { sweep, probes, detail, aims, last });
        let wire = wire::ControllerMessage::from(said.clone()).encode_to_vec();
        let heard = wire::ControllerMessage::decode(&wire[..]).expect("a message").try_into();
        prop_assert_eq!(heard, Ok(said));
    }

    #[test]
    fn a_signed_ping_reads_back(probes in probes(), detail in details()) {
        let ways = [Way::Both, Way::Icmp, Way::Link];
        let families = [Family::Any, Family::V4, Family::V6];
        for (way, family) in ways.into_iter().zip(families) {
            let spec = JobSpec {
                cluster: ClusterId::from_bytes([1; 16]),
                job: JobId::from_bytes([2; 16]),
                operator: "ada".parse().expect("a name"),
                created_at: Timestamp::from_millis(1_000),
                start_before: Timestamp::from_millis(2_000),
                deliver: Duration::from_secs(30),
                targets: TargetsDigest { root: [3; 32], count: 7 },
                rollout: muster_proto::rollout::Rollout::default(),
                rerun_of: None,
                work: Work::Ping(PingSpec { way, family, detail, probes }),
            };
            let bytes = spec.encode();
            prop_assert_eq!(JobSpec::decode(&bytes), Ok(spec));
            let mut longer = bytes.to_vec();
            longer.extend([0xf8, 0x07, 0x01]);
            prop_assert!(JobSpec::decode(&Bytes::from(longer)).is_err(), "a field that nobody knows");
        }
    }
}

#[test]
fn what_an_agent_cannot_have_seen_is_refused() {
    let rtt = wire::Rtt::default();
    let good = wire::Tally { sent: 2, received: 1, rtt: Some(rtt), ..wire::Tally::default() };
    assert!(Tally::try_from(good).is_ok());
    for bad in
        [wire::Tally { received: 3, ..good }, wire::Tally { received: 0, ..good }, wire::Tally { rtt: None, ..good }]
    {
        assert!(Tally::try_from(bad).is_err(), "{bad:?}");
    }
    let failure = wire::ProbeFailure { kind: 0, from: Bytes::new() };
    assert!(Failure::try_from(failure.clone()).is_ok());
    let unknown = u32::try_from(FailureKind::ALL.len()).expect("few");
    let newer = Failure::try_from(wire::ProbeFailure { kind: unknown, ..failure.clone() });
    assert_eq!(newer, Ok(FailureKind::OtherError.into()), "a newer version is understood");
    assert!(
        Failure::try_from(wire::ProbeFailure { from: Bytes::from_static(b"10.0.0.1"), ..failure.clone() }).is_err()
    );
    let both = wire::ProbeSample { number: 0, rtt_ns: Some(1), failure: Some(failure) };
    assert!(Sample::try_from(both.clone()).is_err());
    assert!(Sample::try_from(wire::ProbeSample { rtt_ns: None, failure: None, ..both }).is_err());
    let finding = wire::ProbeFinding { place: 0, kind: None };
    let many = wire::Probed { sweep: 1, findings: vec![finding; limits::PROBES_PER_MESSAGE_MAX + 1] };
    let message = wire::AgentMessage { kind: Some(wire::agent_message::Kind::Probed(many)) };
    assert!(FromAgent::try_from(message).is_err());
}

#[test]
fn lists_arrive_pair_by_pair() {
    let host = |name: &str, agent| PingHost { name: name.parse().expect("a name"), agent };
    let vantages =
        [1, 2].map(|n| Target { agent: AgentId::from_bytes([n; 16]), name: format!("n{n}").parse().expect("a name") });
    let hosts = vec![host("web9", None), host("fe80::1%eth0", None), host("n1", Some(AgentId::from_bytes([1; 16])))];
    let pairs = [(None, 2), (Some(1), 0), (Some(0), 1), (None, 0)].map(|(from, to)| Pair { from, to });
    let mesh = PingList::new(vantages.to_vec(), hosts.clone(), pairs.to_vec()).expect("a list");
    let plain = PingList::from_controller(hosts).expect("a list");
    for list in [mesh, plain.clone()] {
        assert_eq!(PingList::try_from(wire::PingList::from(&list)), Ok(list));
    }
    let wire = wire::PingList::from(&plain);
    assert!(wire.from.is_empty() && wire.to.is_empty(), "a plain list says nothing twice");
    for bad in [
        wire::PingList { to: vec![0], ..wire.clone() },
        wire::PingList { from: vec![0], to: vec![9], ..wire.clone() },
        wire::PingList { from: vec![1], to: vec![0], ..wire.clone() },
        wire::PingList { hosts: vec![wire::PingHost { name: "a b".into(), agent: Bytes::new() }], ..wire.clone() },
        wire::PingList::default(),
    ] {
        assert!(PingList::try_from(bad.clone()).is_err(), "{bad:?}");
    }
}
