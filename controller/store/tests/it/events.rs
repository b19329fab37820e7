//! Events of every kind come back as they went in, however they are cut into appends and reads.

use crate::common::{append, good, job_id, new_job};
use muster_proto::event::{Event, EventKind, GateStep, Stream};
use muster_proto::id::Attempt;
use muster_proto::outcome::{Counts, Outcome, State};
use muster_proto::ping::{Contact, Failure, FailureKind, PingReport, Sample, Summary, Tally};
use muster_proto::time::Timestamp;
use muster_store::Store;
use proptest::prelude::*;
use std::net::IpAddr;
use std::time::Duration;

fn streams() -> impl Strategy<Value = Stream> {
    prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]
}

/// Inline, at the limit, compressible, and not.
fn output() -> impl Strategy<Value = Vec<u8>> {
    let noise = |(seed, length): (u32, usize)| {
        let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        std::iter::successors(Some(seed), next).map(|state| state.to_be_bytes()[0]).take(length).collect()
    };
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        (any::<u32>(), 1_020..1_030_usize).prop_map(noise),
        (any::<u32>(), 60_000..65_537_usize).prop_map(noise),
        (any::<u8>(), 0..65_537_usize).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    let (exit_code, signal) = (any::<Option<u8>>(), any::<Option<u8>>());
    let rest = (prop::option::of(".{0,20}"), prop::option::of(spans()), prop::option::of(reports()));
    (prop::sample::select(&State::ALL[..]), exit_code, signal, rest).prop_map(
        |(state, exit_code, signal, (reason, duration, ping))| {
            let ping = ping.map(Box::new);
            Outcome { state, exit_code, signal, reason, duration, ping }
        },
    )
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn spans() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_nanos)
}

fn samples() -> impl Strategy<Value = Sample> {
    let failure = (prop::sample::select(&FailureKind::ALL[..]), prop::option::of(addresses()));
    let failure = failure.prop_map(|(kind, from)| Err(Failure { kind, from }));
    let answer = prop_oneof![spans().prop_map(Ok), failure];
    (any::<u32>(), answer).prop_map(|(number, answer)| Sample { number, answer })
}

fn tallies() -> impl Strategy<Value = Tally> {
    let rtt = prop::collection::vec(spans(), 7).prop_map(|spans| match spans[..] {
        [min, mean, max, median, p95, p99, jitter] => Some(Summary { min, mean, max, median, p95, p99, jitter }),
        _ => None,
    });
    (any::<[u32; 5]>(), prop_oneof![Just(None), rtt]).prop_map(|([sent, received, duplicates, late, damaged], rtt)| {
        Tally { sent, received, duplicates, late, damaged, rtt }
    })
}

fn reports() -> impl Strategy<Value = PingReport> {
    let agent = prop::option::of(prop::sample::select(&[Contact::Connected, Contact::Away][..]));
    let ways = (prop::option::of(tallies()), prop::option::of(tallies()));
    (prop::option::of(addresses()), ways, agent).prop_map(|(address, (icmp, link), agent)| PingReport {
        address,
        icmp,
        link,
        agent,
    })
}

fn rollout_kinds() -> impl Strategy<Value = EventKind> {
    let target = any::<u32>();
    let at = any::<i64>().prop_map(Timestamp::from_millis);
    let small = prop::collection::vec(any::<u8>(), 0..2_000).prop_map(Into::into);
    let step = prop_oneof![
        Just(GateStep::Offered),
        Just(GateStep::Accepted),
        Just(GateStep::Started),
        (streams(), any::<u64>(), small).prop_map(|(stream, offset, data)| GateStep::Output { stream, offset, data }),
        (streams(), any::<u64>()).prop_map(|(stream, bytes)| GateStep::Truncated { stream, bytes }),
        outcomes().prop_map(|outcome| GateStep::Finished { outcome }),
    ];
    prop_oneof![
        any::<[u32; 3]>().prop_map(|[number, first, targets]| EventKind::Wave { number, first, targets }),
        (target, at.clone()).prop_map(|(target, until)| EventKind::Queued { target, until }),
        (target, any::<u32>(), outcomes(), at).prop_map(|(target, attempt, outcome, at)| EventKind::Retrying {
            target,
            attempt: Attempt(attempt),
            outcome,
            at
        }),
        (target, step).prop_map(|(target, step)| EventKind::Gate { target, step }),
        (prop::option::of("[a-z0-9]{1,63}"), ".{0,20}")
            .prop_map(|(name, reason)| EventKind::Paused { operator: name.map(|name| good(&name)), reason }),
        "[a-z0-9]{1,63}".prop_map(|name| EventKind::Resumed { operator: good(&name) }),
        ".{0,20}".prop_map(|reason| EventKind::Stopping { reason }),
    ]
}

fn kinds() -> impl Strategy<Value = EventKind> {
    let target = any::<u32>();
    prop_oneof![
        (target, any::<[u8; 32]>()).prop_map(|(targets, root)| EventKind::Planned { targets, root }),
        target.prop_map(|target| EventKind::Offered { target }),
        target.prop_map(|target| EventKind::Accepted { target }),
        target.prop_map(|target| EventKind::Started { target }),
        (target, streams(), any::<u64>(), output()).prop_map(|(target, stream, offset, data)| EventKind::Output {
            target,
            stream,
            offset,
            data: data.into()
        }),
        (target, streams(), any::<u64>()).prop_map(|(target, stream, bytes)| EventKind::Truncated {
            target,
            stream,
            bytes
        }),
        (target, outcomes()).prop_map(|(target, outcome)| EventKind::Finished { target, outcome }),
        (target, samples()).prop_map(|(target, sample)| EventKind::Probed { target, sample }),
        rollout_kinds(),
        "[a-z0-9]{1,63}".prop_map(|name| EventKind::Cancelling { operator: good(&name) }),
        prop::collection::vec((prop::sample::select(&State::ALL[..]), any::<u32>()), 0..12).prop_map(|list| {
            let mut counts = Counts::default();
            list.into_iter().for_each(|(state, count)| counts.add_many(state, count));
            EventKind::Done { counts }
        }),
    ]
}

async fn round_trip(appends: Vec<Vec<(i64, EventKind)>>, max_bytes: usize) {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let store = Store::open(dir.path()).await.expect("a new store opens");
    let new = new_job(job_id(1));
    let mut told = new.events.clone();
    store.accept(new).await.expect("a new job is accepted");
    for kinds in appends {
        let next = told.len() as u64 + 1;
        let events =
            (next..).zip(kinds).map(|(seq, (time, kind))| Event { seq, time: Timestamp::from_millis(time), kind });
        let events: Vec<_> = events.collect();
        told.extend(events.clone());
        store.append(append(job_id(1), events)).await.expect("they go on where the job stands");
    }
    let mut read = Vec::new();
    loop {
        let after = read.len() as u64;
        let mut more = store.events(job_id(1), after, max_bytes).await.expect("events read back");
        if more.is_empty() {
            break;
        }
        read.append(&mut more);
    }
    assert_eq!(read, told);
    let mut outline = Vec::new();
    while let after = outline.len() as u64
        && let more = store.outline(job_id(1), after).await.expect("it reads back")
        && !more.is_empty()
    {
        outline.extend(more);
    }
    let without_output = told.into_iter().map(|mut event| {
        if let EventKind::Output { data, .. } = &mut event.kind {
            *data = vec![0; data.len()].into();
        }
        event
    });
    assert_eq!(outline, without_output.collect::<Vec<_>>(), "an outline is the story without the bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn events_come_back_as_they_went_in(
        appends in prop::collection::vec(prop::collection::vec((any::<i64>(), kinds()), 0..12), 0..48),
        max_bytes in prop_oneof![Just(0), 1_000..200_000_usize, Just(usize::MAX)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime starts");
        runtime.block_on(round_trip(appends, max_bytes));
    }
}

#[tokio::test]
async fn an_append_larger_than_a_block_is_split_and_read_across() {
    let kinds = (0..2_000).map(|n: u64| {
        let data = vec![b'x'; 1_000].into();
        (0, EventKind::Output { target: 0, stream: Stream::Stdout, offset: n, data })
    });
    round_trip(vec![kinds.collect()], 300_000).await;
}
