//! What a sweep promises between machines: who is silent, who is named when a router objects, who is not believed.

use crate::forger;
use crate::lab::{Fate, Host, aims, has, once, times};
use crate::responder::{self, address};
use muster_probe::{Aim, Ledger, Rig, SocketKind};
use muster_proto::ping::{Failure, FailureKind, Probes};
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

const RIGS: [Rig; 2] = [
    Rig { kind: Some(SocketKind::Raw), receive_buffer: None, ledger: Ledger::Socket },
    Rig { kind: Some(SocketKind::Datagram), receive_buffer: None, ledger: Ledger::Socket },
];

/// Two hosts with a cable, 10.66.0.1 and fd66::1 here, 10.66.0.2 and fd66::2 there.
fn pair() -> Option<(Host, Host)> {
    let (here, there) = (Host::new()?, Host::new()?);
    here.cable("east", &there, "west");
    here.sh("ip addr add 10.66.0.1/16 dev east; ip -6 addr add fd66::1/64 dev east nodad");
    there.sh("ip addr add 10.66.0.2/16 dev west; ip -6 addr add fd66::2/64 dev west nodad");
    here.sh("echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range");
    // The kernel asks thrice for a hardware address that nobody has.
    here.sh("for v in 4 6; do echo 50 > /proc/sys/net/ipv$v/neigh/east/retrans_time_ms; done");
    there.settle();
    Some((here, there))
}

fn is(fate: &Fate, kind: FailureKind, from: &str) {
    let from = Some(from.parse::<IpAddr>().expect("an address"));
    assert_eq!(fate.failure, Some(Failure { kind, from }), "{fate:?}");
}

#[test]
fn a_host_that_is_not_there_is_unreachable_and_one_that_is_answers() {
    let Some((here, _there)) = pair() else { return };
    for rig in RIGS {
        let targets = aims(&["10.66.0.2", "fd66::2", "10.66.0.77", "fd66::77"]);
        let swept = here.sweep(Probes { timeout: Duration::from_secs(2), ..once() }, rig, targets);
        assert_eq!((swept.fates[0].failure, swept.fates[1].failure), (None, None), "{rig:?}");
        is(&swept.fates[2], FailureKind::HostUnreachable, "10.66.0.1");
        is(&swept.fates[3], FailureKind::HostUnreachable, "fd66::1");
    }
}

#[test]
fn link_local_addresses_answer_within_their_zone() {
    let Some((here, there)) = pair() else { return };
    there.sh("ip -6 addr add fe80::42/64 dev west nodad");
    let scope = here.run(|| nix::net::if_::if_nametoindex("east").expect("the cable"));
    for rig in RIGS {
        let swept = here.sweep(once(), rig, vec![Aim { address: "fe80::42".parse().expect("an address"), scope }]);
        assert_eq!((swept.fates[0].failure, swept.fates[0].tally.received), (None, 1), "{rig:?}");
    }
}

#[test]
fn large_payloads_travel_in_pieces() {
    let Some((here, _there)) = pair() else { return };
    for rig in RIGS {
        for size in [1_472, 1_473, 4_000, 65_467] {
            let probes = Probes { size, timeout: Duration::from_secs(2), ..times(2, 5) };
            for fate in here.sweep(probes, rig, aims(&["10.66.0.2", "fd66::2"])).fates {
                assert_eq!((fate.tally.received, fate.failure), (2, None), "{rig:?} {size}");
            }
        }
    }
}

/// A host, its router at 10.66.0.2 and fd66::2, and beyond a narrow cable 10.67.0.2 and fd67::2.
fn routed() -> Option<[Host; 3]> {
    let (here, router) = pair()?;
    let far = Host::new()?;
    router.cable("out", &far, "in");
    router.sh("ip addr add 10.67.0.1/24 dev out; ip -6 addr add fd67::1/64 dev out nodad; ip link set out mtu 1300");
    router.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding");
    router.sh("echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit");
    router.sh("ip route add unreachable 10.68.0.0/24; ip route add prohibit 10.69.0.0/24");
    router.sh("ip -6 route add unreachable fd68::/64; ip -6 route add prohibit fd69::/64");
    far.sh("ip addr add 10.67.0.2/24 dev in; ip -6 addr add fd67::2/64 dev in nodad; ip link set in mtu 1300");
    far.sh("ip route add default via 10.67.0.1; ip -6 route add default via fd67::1");
    here.sh("ip route add default via 10.66.0.2; ip -6 route add default via fd66::2");
    router.settle();
    far.settle();
    Some([here, router, far])
}

#[test]
fn a_router_that_objects_is_named() {
    let patient = Probes { timeout: Duration::from_secs(2), ..once() };
    let targets =
        aims(&["10.67.0.2", "fd67::2", "10.68.0.1", "10.69.0.1", "10.70.0.1", "fd68::1", "fd69::1", "fd70::1"]);
    for rig in RIGS {
        // Anew each time: a router objects to nobody more than five times at once.
        let Some([here, _router, _far]) = routed() else { return };
        let swept = here.sweep(patient, rig, targets.clone());
        let fates = &swept.fates;
        assert_eq!((fates[0].failure, fates[1].failure), (None, None), "{rig:?}");
        is(&fates[2], FailureKind::HostUnreachable, "10.66.0.2");
        is(&fates[3], FailureKind::Prohibited, "10.66.0.2");
        is(&fates[4], FailureKind::NetworkUnreachable, "10.66.0.2");
        // The kernel's word for it in IPv6.
        is(&fates[5], FailureKind::NetworkUnreachable, "fd66::2");
        is(&fates[6], FailureKind::Prohibited, "fd66::2");
        is(&fates[7], FailureKind::NetworkUnreachable, "fd66::2");
        assert_eq!(swept.totals.sent, 8, "an error is final where nothing is to be repeated");
    }
}

#[test]
fn packets_that_run_out_of_hops_or_do_not_fit_are_told_of_by_the_router() {
    for rig in RIGS {
        let Some([here, _router, _far]) = routed() else { return };
        let one_hop = Probes { ttl: NonZeroU8::new(1), timeout: Duration::from_secs(2), ..once() };
        let swept = here.sweep(one_hop, rig, aims(&["10.67.0.2", "fd67::2", "10.66.0.2"]));
        is(&swept.fates[0], FailureKind::TtlExceeded, "10.66.0.2");
        is(&swept.fates[1], FailureKind::TtlExceeded, "fd66::2");
        assert_eq!(swept.fates[2].failure, None);

        // Of IPv4 it is cut on the way; of IPv6 the first is refused, and the next cut by us.
        let large = |retries| Probes { size: 1_400, retries, ..once() };
        let swept = here.sweep(large(0), rig, aims(&["10.67.0.2", "fd67::2"]));
        assert_eq!((swept.fates[0].tally.received, swept.fates[0].failure), (1, None), "{rig:?}");
        is(&swept.fates[1], FailureKind::TooBig, "fd66::2");
        here.sh("ip -6 route flush cache");
        let swept = here.sweep(large(1), rig, aims(&["fd67::2"]));
        assert_eq!((swept.fates[0].tally.received, swept.fates[0].failure), (1, None), "{rig:?}");
    }
}

#[test]
fn odd_answers_are_counted_and_not_believed() {
    let Some((here, there)) = pair() else { return };
    there.sh("echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all");
    for last in responder::TWICE..=responder::HONEST {
        there.sh(&format!("ip addr add {}/16 dev west", address(last)));
    }
    let _responder = responder::start(&there);
    let lasts: Vec<u8> = (responder::TWICE..=responder::HONEST).collect();
    for rig in RIGS {
        let timeout = Duration::from_millis(600);
        let targets = lasts.iter().map(|last| IpAddr::from(address(*last)).into()).collect();
        let swept = here.sweep(Probes { timeout, ..times(3, 600) }, rig, targets);
        let fate = |last: u8| &swept.fates[usize::from(last - responder::TWICE)];
        let told = |last: u8| {
            let tally = fate(last).tally;
            (tally.received, tally.duplicates, tally.late, tally.damaged, fate(last).kind())
        };
        let (silent, damaged) = (Some(FailureKind::NoReply), Some(FailureKind::Damaged));
        assert_eq!(told(responder::HONEST), (3, 0, 0, 0, None), "{rig:?}");
        let numbers = fate(responder::HONEST).samples.iter().map(|sample| sample.number);
        assert!(numbers.eq(0..3), "{rig:?}");
        let twice = told(responder::TWICE);
        // What comes after the last word is nobody's.
        assert!(twice.0 == 3 && (2..=3).contains(&twice.1) && twice.4.is_none(), "{rig:?} {twice:?}");
        let late = told(responder::LATE);
        assert!(late.0 == 0 && (1..=3).contains(&late.2) && late.4 == silent, "{rig:?} {late:?}");
        assert_eq!(told(responder::WRONG_PAYLOAD), (0, 0, 0, 9, damaged), "{rig:?}");
        assert_eq!(told(responder::WRONG_SOURCE), (0, 0, 0, 0, silent), "{rig:?}");
        assert_eq!(told(responder::SHORT), (0, 0, 0, 6, damaged), "{rig:?}");
        assert_eq!(told(responder::WRONG_ERROR), (0, 0, 0, 0, silent), "{rig:?}");
        assert_eq!(fate(responder::WRONG_NUMBER).tally.received, 0, "{rig:?}");
        assert_eq!(fate(responder::WRONG_CHECKSUM).tally.received, 0, "{rig:?}");
        assert!(swept.totals.foreign >= 3, "{rig:?} {:?}", swept.totals);

        let patient = Probes { retries: 1, timeout, ..once() };
        let targets = [responder::ERROR_AND_ANSWER, responder::LATE].map(|last| IpAddr::from(address(last)).into());
        let swept = here.sweep(patient, rig, targets.to_vec());
        assert_eq!(swept.fates[0].tally.received, 1, "an answer outweighs an error that anybody can write: {rig:?}");
        let rtt = swept.fates[1].tally.rtt.expect("an answer to the first try counts").min;
        assert!(rtt >= responder::DELAY, "{rig:?} {rtt:?}");
    }
}

#[test]
fn strangers_with_wrong_checksums_do_not_hide_who_is_dead() {
    let Some((here, there)) = pair() else { return };
    here.sh("ip neigh add 10.66.0.77 lladdr 02:00:00:00:00:01 dev east; ip neigh add fd66::77 lladdr 02:00:00:00:00:01 dev east");
    for to in ["10.66.0.1", "fd66::1"] {
        let forger = forger::start(&there, to.parse().expect("an address"));
        for rig in RIGS {
            let before = forger.count();
            let swept = here.sweep(times(3, 100), rig, aims(&["10.66.0.77", "fd66::77", "10.66.0.2", "fd66::2"]));
            let kinds: Vec<_> = swept.fates.iter().map(Fate::kind).collect();
            let silent = Some(FailureKind::NoReply);
            assert_eq!(kinds, [silent, silent, None, None], "{rig:?} {to} {:?}", swept.totals);
            assert_eq!((swept.totals.sent, swept.totals.kernel_drops), (12, Some(0)), "{rig:?} {to}");
            assert!(forger.count() > before, "nothing was forged");
        }
    }
}

#[test]
fn loss_is_made_good_by_retries_and_a_filter_here_is_named() {
    let Some((here, there)) = pair() else { return };
    if !has("nft") {
        return;
    }
    there.sh("nft add table ip t; nft 'add chain ip t out { type filter hook output priority 0; }'");
    there.sh("nft add rule ip t out icmp type echo-reply numgen random mod 10 lt 3 drop");
    here.sh("nft add table ip t; nft 'add chain ip t out { type filter hook output priority 0; }'");
    here.sh("nft add rule ip t out ip daddr 10.66.0.9 drop");
    for n in 0..100 {
        there.sh(&format!("ip addr add 10.66.1.{n}/16 dev west"));
    }
    for rig in RIGS {
        let addresses: Vec<String> = (0..100).map(|n| format!("10.66.1.{n}")).collect();
        let mut targets = aims(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
        targets.extend(aims(&["10.66.0.9"]));
        let timeout = Duration::from_millis(60);
        let swept = here.sweep(Probes { retries: 15, timeout, ..once() }, rig, targets.clone());
        assert_eq!(swept.fates[100].kind(), Some(FailureKind::Forbidden), "{rig:?}");
        assert!(swept.fates[..100].iter().all(|fate| fate.tally.received == 1), "{rig:?}");
        assert!(swept.totals.sent > 100, "{rig:?}: nothing was lost");

        let swept = here.sweep(Probes { timeout, ..times(20, 5) }, rig, targets);
        let received: u32 = swept.fates[..100].iter().map(|fate| fate.tally.received).sum();
        assert!((1_200..1_600).contains(&received), "{rig:?}: {received} of 2000 with 30 % lost");
        assert!(swept.fates[..100].iter().all(|fate| fate.kind().is_none_or(|kind| kind == FailureKind::NoReply)));
    }
}

#[test]
fn hundreds_of_hosts_that_are_not_there_do_not_hold_up_those_that_are() {
    let Some((here, there)) = pair() else { return };
    here.sh("echo 1000 > /proc/sys/net/ipv4/neigh/east/retrans_time_ms");
    let dead: Vec<String> = (0..500).map(|n| format!("10.66.{}.{}", 2 + n / 250, n % 250)).collect();
    let alive: Vec<String> = (0..50).map(|n| format!("10.66.9.{n}")).collect();
    alive.iter().for_each(|address| there.sh(&format!("ip addr add {address}/16 dev west")));
    for rig in RIGS {
        let all: Vec<&str> = dead.iter().chain(&alive).map(String::as_str).collect();
        let swept = here.sweep(Probes { rate: None, ..once() }, rig, aims(&all));
        assert_eq!(swept.totals.send_retries, 0, "{rig:?}: what waits for hardware addresses takes all the room");
        let (silent, answered) = swept.fates.split_at(dead.len());
        let told = |fate: &Fate| matches!(fate.kind(), Some(FailureKind::NoReply | FailureKind::HostUnreachable));
        assert!(silent.iter().all(told), "{rig:?}");
        assert!(answered.iter().all(|fate| fate.tally.received == 1), "{rig:?}");
    }
}
