//! What a sweep promises on one machine: loopback, local routes, sockets of either kind, buffers that overflow, ends.

use crate::lab::{self, Host, aims, has, once, skip, sweep, times};
use muster_probe::{Aim, Finding, Ledger, Rig, Settings, SocketKind, can_probe, start};
use muster_proto::ping::{Detail, FailureKind, Probes};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const RAW: Rig = Rig { kind: Some(SocketKind::Raw), receive_buffer: None, ledger: Ledger::Socket };
const DATAGRAM: Rig = Rig { kind: Some(SocketKind::Datagram), ..RAW };

/// A host where this process may open sockets of both kinds.
fn open_host() -> Option<Host> {
    let host = Host::new()?;
    host.sh("echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range");
    Some(host)
}

fn loopback(count: u32) -> Vec<Aim> {
    let base = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    (0..count).map(|n| Aim { address: Ipv4Addr::from(base + n).into(), scope: 0 }).collect()
}

#[test]
fn loopback_answers_on_any_machine_that_allows_pings() {
    match can_probe() {
        Ok(kind) => {
            let swept = sweep(times(3, 5), Rig::default(), aims(&["127.0.0.1", "127.9.9.9"]));
            assert_eq!(swept.totals.v4, Some(kind));
            for fate in swept.fates {
                assert_eq!((fate.tally.sent, fate.tally.received, fate.failure), (3, 3, None));
                assert!(fate.tally.rtt.expect("three").max < Duration::from_millis(300));
            }
        }
        Err(failure) => {
            assert_eq!(failure.kind, FailureKind::NoSocket);
            skip("this process may open no socket for ICMP");
        }
    }
}

#[test]
fn both_families_answer_on_both_kinds_of_sockets_with_any_payload() {
    let Some(host) = open_host() else { return };
    for rig in [RAW, DATAGRAM] {
        for size in [0, 1, 8, 15, 16, 17, 56, 1_472, 9_000, 65_467] {
            let probes = Probes { size, ttl: Some(std::num::NonZeroU8::MAX), tos: 0x20, ..times(2, 2) };
            let swept = host.sweep(probes, rig, aims(&["127.0.0.1", "::1", "::ffff:127.0.0.3"]));
            for fate in swept.fates {
                assert_eq!((fate.tally.received, fate.failure), (2, None), "{rig:?} {size}");
            }
            let totals = swept.totals;
            assert_eq!((totals.sent, totals.received, totals.damaged, totals.foreign), (6, 6, 0, 0), "{rig:?} {size}");
            assert_eq!((totals.v4, totals.v6), (rig.kind, rig.kind));
        }
    }
}

#[test]
fn without_sockets_there_is_a_reason_and_no_hang() {
    let Some(host) = Host::new() else { return };
    host.sh("echo 1 0 > /proc/sys/net/ipv4/ping_group_range");
    let swept = host.sweep(once(), DATAGRAM, aims(&["127.0.0.1", "::1"]));
    for fate in swept.fates {
        assert_eq!((fate.kind(), fate.tally.sent), (Some(FailureKind::NoSocket), 0));
    }
}

#[test]
fn what_this_machine_will_not_send_is_told_apart_and_stops_nobody_else() {
    let Some(host) = open_host() else { return };
    host.sh("ip link add veth1 type veth peer name veth2; ip link set veth1 up; ip link set veth2 up");
    host.sh("ip addr add 10.1.0.1/24 dev veth1; ip -6 addr add fd01::1/64 dev veth1 nodad");
    host.sh(
        "ip route add blackhole 10.2.0.0/24; ip route add unreachable 10.3.0.0/24; ip route add prohibit 10.4.0.0/24",
    );
    host.sh("for r in 'blackhole fd02::' 'unreachable fd03::' 'prohibit fd04::'; do ip -6 route add $r/64; done");
    let cases = [
        ("10.2.0.1", Some(FailureKind::Discarded)),
        ("10.3.0.1", Some(FailureKind::HostUnreachable)),
        ("10.4.0.1", Some(FailureKind::Forbidden)),
        ("10.5.0.1", Some(FailureKind::NetworkUnreachable)),
        ("10.1.0.255", Some(FailureKind::Broadcast)),
        ("255.255.255.255", Some(FailureKind::Broadcast)),
        ("224.0.0.1", Some(FailureKind::Broadcast)),
        ("fd02::1", Some(FailureKind::Discarded)),
        ("fd03::1", Some(FailureKind::HostUnreachable)),
        ("fd04::1", Some(FailureKind::Forbidden)),
        ("fd05::1", Some(FailureKind::NetworkUnreachable)),
        ("ff02::1", Some(FailureKind::Broadcast)),
        ("fe80::1", Some(FailureKind::NoZone)),
        ("127.0.0.1", None),
        ("10.1.0.1", None),
        ("fd01::1", None),
        ("::1", None),
    ];
    let mut targets = aims(&cases.map(|(address, _)| address));
    targets.push(Aim { address: "fe80::1".parse().expect("an address"), scope: 999 });
    for rig in [RAW, DATAGRAM] {
        let swept = host.sweep(once(), rig, targets.clone());
        for ((address, failure), fate) in cases.iter().zip(&swept.fates) {
            assert_eq!(fate.kind(), *failure, "{address} {rig:?}");
            assert_eq!(fate.tally.received, u32::from(failure.is_none()), "{address} {rig:?}");
        }
        assert_eq!(swept.fates[cases.len()].kind(), Some(FailureKind::NoZone), "a zone that is not there");
    }
}

#[test]
fn a_machine_without_a_family_says_so() {
    let Some(host) = open_host() else { return };
    host.sh("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
    for rig in [RAW, DATAGRAM] {
        let swept = host.sweep(once(), rig, aims(&["::1", "2001:db8::1", "127.0.0.1"]));
        let kinds: Vec<_> = swept.fates.iter().map(lab::Fate::kind).collect();
        assert!(matches!(kinds[0], Some(FailureKind::NoFamily | FailureKind::NetworkUnreachable)), "{kinds:?}");
        assert!(matches!(kinds[1], Some(FailureKind::NoFamily | FailureKind::NetworkUnreachable)), "{kinds:?}");
        assert_eq!(kinds[2], None);
    }
}

#[test]
fn answers_that_the_kernel_drops_make_nobody_dead() {
    let Some(host) = open_host() else { return };
    host.sh("ip -6 addr add fd00::1/64 dev lo nodad; ip -6 route add local fd00::/64 dev lo");
    let v6: Vec<Aim> =
        (1..3_001).map(|n| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n)).map(|n| IpAddr::from(n).into()).collect();
    let kinds = [RAW.kind, DATAGRAM.kind].into_iter();
    for (kind, ledger) in kinds.flat_map(|kind| [(kind, Ledger::Socket), (kind, Ledger::Table)]) {
        for targets in [loopback(3_000), v6.clone()] {
            let of = format!("{kind:?} {ledger:?} {:?}", targets[0]);
            let probes = Probes { rate: None, retries: 0, timeout: Duration::from_millis(100), ..Probes::default() };
            let swept = host.sweep(probes, Rig { kind, receive_buffer: Some(1), ledger }, targets);
            let drops = swept.totals.kernel_drops;
            assert!(drops > Some(0), "{of}: the buffer is too large for this test: {:?}", swept.totals);
            let failures: Vec<_> = swept.fates.iter().filter_map(lab::Fate::kind).collect();
            assert!(failures.iter().all(|failure| *failure == FailureKind::Overflow), "{of} {failures:?}");
            let answered = swept.fates.iter().filter(|fate| fate.tally.received == 1).count();
            assert!(answered > 2_900, "{of} {}", failures.len());
        }
    }
}

#[test]
fn where_drops_are_not_counted_silence_is_silence_and_the_sweep_says_so() {
    let Some(host) = open_host() else { return };
    host.sh("ip link add veth1 type veth peer name veth2; ip link set veth1 up; ip link set veth2 up");
    host.sh("ip addr add 10.1.0.1/16 dev veth1; ip neigh add 10.1.9.9 lladdr 02:00:00:00:00:01 dev veth1");
    for (ledger, drops) in [(Ledger::Socket, Some(0)), (Ledger::Table, Some(0)), (Ledger::Nowhere, None)] {
        let swept = host.sweep(once(), Rig { ledger, ..RAW }, aims(&["127.0.0.1", "10.1.9.9"]));
        let kinds = [swept.fates[0].kind(), swept.fates[1].kind()];
        assert_eq!((kinds, swept.totals.kernel_drops), ([None, Some(FailureKind::NoReply)], drops), "{ledger:?}");
    }
}

/// Runs a test of this binary alone, in a process of its own that may open 64 files.
fn with_few_files(test: &str) {
    let this = std::env::current_exe().expect("a program");
    let line = "ulimit -n 64; exec \"$0\" --exact \"$1\" --ignored --nocapture";
    let output = Command::new("sh").args(["-ec", line]).arg(this).arg(test).output().expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_machine_short_of_files_fails_tries_and_not_the_sweep() {
    if can_probe().is_err() {
        return skip("this process may open no socket for ICMP");
    }
    if has("sh") {
        with_few_files("local::tries_fail_while_files_are_short");
    }
}

#[test]
#[ignore = "takes all files of its process: another test runs it in one of its own"]
fn tries_fail_while_files_are_short() {
    let (sweep, findings) = endless();
    let mut files = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        if files.len() > 64 {
            return skip("this process may open too many files to take them all");
        }
        files.push(file);
    }
    assert_eq!(can_probe().map_err(|failure| failure.kind), Err(FailureKind::Exhausted));
    sweep.add(aims(&["127.0.0.1"]));
    let mut answers = findings.into_iter().flatten().map(|finding| match finding {
        Finding::Sample { sample, .. } => sample.answer.map_err(|failure| failure.kind),
        end @ Finding::End { .. } => panic!("{end:?}"),
    });
    assert_eq!(answers.next(), Some(Err(FailureKind::Exhausted)));
    drop(files);
    assert!(answers.any(|answer| answer.is_ok()), "the socket is opened as soon as it can be");
}

#[test]
fn nobody_is_lost_at_full_speed_and_sweeps_do_not_disturb_each_other() {
    let Some(host) = open_host() else { return };
    let (result, done) = mpsc::channel();
    host.run(move || {
        for rig in [RAW, RAW, DATAGRAM] {
            let result = result.clone();
            std::thread::spawn(move || {
                let probes = Probes { rate: None, timeout: Duration::from_secs(5), ..once() };
                let _ = result.send(sweep(probes, rig, loopback(20_000)));
            });
        }
    });
    for swept in done {
        let totals = swept.totals;
        let silent = swept.fates.iter().filter(|fate| fate.tally.received == 0).count();
        assert_eq!((silent, totals.sent, totals.received, totals.damaged), (0, 20_000, 20_000, 0), "{totals:?}");
        assert!(swept.fates.iter().all(|fate| fate.tally.duplicates == 0));
    }
}

/// A ping without end of one address.
fn endless() -> (muster_probe::Sweep, mpsc::Receiver<Vec<Finding>>) {
    let probes = Probes { count: None, ..times(1, 2) };
    let (sender, findings) = mpsc::channel();
    let sink = move |batch| match sender.send(batch) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    let sweep = start(Settings { probes, detail: Detail::Each }, sink).expect("a thread");
    (sweep, findings)
}

#[test]
fn an_endless_sweep_takes_more_targets_and_ends_when_it_is_told() {
    if can_probe().is_err() {
        return skip("this process may open no socket for ICMP");
    }
    let (sweep, findings) = endless();
    sweep.add(aims(&["127.0.0.1"]));
    let first = findings.recv().expect("it goes on");
    assert!(matches!(first[..], [Finding::Sample { place: 0, .. }, ..]));
    sweep.add(aims(&["127.0.0.2", "127.0.0.3"]));
    while !findings
        .recv()
        .expect("it goes on")
        .iter()
        .any(|finding| matches!(finding, Finding::Sample { place: 2, .. }))
    {}
    sweep.stop();
    let mut ended = Vec::new();
    for finding in findings.iter().flatten() {
        if let Finding::End { place, tally, .. } = finding {
            assert!(tally.sent > 0 && tally.received == tally.sent, "{tally:?}");
            ended.push(place);
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, [0, 1, 2]);
    sweep.add(aims(&["127.0.0.4"]));
    assert!(sweep.join().received >= 3);
}

#[test]
fn a_sweep_that_is_abandoned_or_not_listened_to_ends() {
    if can_probe().is_err() {
        return skip("this process may open no socket for ICMP");
    }
    let (sweep, findings) = endless();
    sweep.add(aims(&["127.0.0.1"]));
    findings.recv().expect("it goes on");
    drop(sweep);
    while findings.recv().is_ok() {}

    let (sweep, findings) = endless();
    sweep.add(aims(&["127.0.0.1"]));
    findings.recv().expect("it goes on");
    drop(findings);
    assert!(sweep.join().sent > 0);
}

#[test]
fn a_sweep_of_nobody_ends_and_the_dead_end_after_their_tries() {
    let Some(host) = open_host() else { return };
    assert_eq!(host.sweep(once(), Rig::default(), Vec::new()).totals.sent, 0);
    host.sh("ip link add veth1 type veth peer name veth2; ip link set veth1 up; ip link set veth2 up");
    host.sh("ip addr add 10.1.0.1/16 dev veth1; echo 2000 > /proc/sys/net/ipv4/neigh/veth1/retrans_time_ms");
    host.sh("ip neigh add 10.1.9.9 lladdr 02:00:00:00:00:01 dev veth1");
    let begun = Instant::now();
    let probes = Probes { retries: 2, timeout: Duration::from_millis(50), ..once() };
    let swept = host.sweep(probes, Rig::default(), aims(&["10.1.9.9"]));
    assert_eq!((swept.fates[0].kind(), swept.totals.sent), (Some(FailureKind::NoReply), 3));
    assert!(begun.elapsed() >= Duration::from_millis(150), "each try has its time");
}
