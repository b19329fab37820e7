//! Echoes and probes: answered at once, within the host's policy and the agent's bounds, for as long as the session.

use super::sh;
use crate::fixture::{Controller, Running, Session, World, welcome};
use muster_agent::agent::{Agent, AgentError};
use muster_agent::settings::Settings;
use muster_proto::limits::{AGENT_PROBES_MAX, PROBES_PER_MESSAGE_MAX};
use muster_proto::link::{FromAgent, ProbeAim, ProbeOrder, TaskReport, ToAgent};
use muster_proto::ping::{Detail, Failure, FailureKind, Finding, Probes, Tally};
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// False, said loudly, where this process may not send ICMP.
fn may_probe(test: &str) -> bool {
    let right = muster_probe::can_probe();
    if let Err(failure) = right {
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {failure}");
    }
    right.is_ok()
}

fn aim(address: &str) -> ProbeAim {
    let (address, zone) = address.split_once('%').unwrap_or((address, ""));
    ProbeAim { address: address.parse().expect("an address"), zone: zone.to_owned() }
}

/// So many addresses of loopback.
fn loopback(count: usize) -> Vec<ProbeAim> {
    let first = Ipv4Addr::new(127, 1, 0, 0).to_bits();
    let address = |number| IpAddr::V4(Ipv4Addr::from_bits(first + number));
    (0..).map(address).map(|address| ProbeAim { address, zone: String::new() }).take(count).collect()
}

fn order(sweep: u64, aims: Vec<ProbeAim>) -> ProbeOrder {
    ProbeOrder { sweep, probes: Probes::default(), detail: Detail::Ends, aims, last: true }
}

fn endless(sweep: u64, aims: Vec<ProbeAim>) -> ProbeOrder {
    ProbeOrder { probes: Probes { count: None, ..Probes::default() }, detail: Detail::Each, ..order(sweep, aims) }
}

/// Reads until so many targets of a sweep have ended, and nothing of another one.
async fn ends(session: &mut Session, sweep: u64, count: usize) -> BTreeMap<u32, (Tally, Option<Failure>)> {
    let mut ends = BTreeMap::new();
    while ends.len() < count {
        let FromAgent::Probed { sweep: of, findings } = session.next().await else { panic!("no findings") };
        // Others may say that they are at work.
        assert!(of == sweep || findings.is_empty(), "{of}: {findings:?}");
        for finding in findings {
            if let Finding::End { place, tally, failure } = finding {
                assert!(ends.insert(place, (tally, failure)).is_none(), "{place} ends twice");
            }
        }
    }
    ends
}

async fn sample(session: &mut Session, sweep: u64) {
    loop {
        if let FromAgent::Probed { sweep: of, findings } = session.next().await
            && of == sweep
            && findings.iter().any(|finding| matches!(finding, Finding::Sample { .. }))
        {
            return;
        }
    }
}

#[tokio::test]
async fn echoes_come_back_as_they_are_even_while_output_floods() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.session().await;
    session.send([ToAgent::Welcome(welcome()), ToAgent::Echo(1)]).await;
    while !matches!(session.next().await, FromAgent::Echo(1)) {}
    let offer = world.offer(sh("yes | head -c 8000000"));
    session.send([ToAgent::Offer(offer.clone())]).await;
    while !matches!(session.next().await, FromAgent::Task(_, TaskReport::Frame(_))) {}
    session.send([ToAgent::Echo(u64::MAX), ToAgent::Cancel(offer.task), ToAgent::Echo(2)]).await;
    for token in [u64::MAX, 2] {
        loop {
            match session.next().await {
                FromAgent::Echo(echoed) => break assert_eq!(echoed, token),
                FromAgent::Task(..) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    agent.stop().await;
}

#[tokio::test]
async fn what_is_ordered_in_parts_is_probed_and_every_target_ends_once() {
    if !may_probe("what_is_ordered_in_parts_is_probed_and_every_target_ends_once") {
        return;
    }
    let world = World::new();
    fs::write(world.policy(), "[probe]\nrate = 100000\n").expect("written");
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let parts =
        [loopback(PROBES_PER_MESSAGE_MAX), vec![aim("::1"), aim("224.0.0.1"), aim("fe80::1"), aim("fe80::1%nope")]];
    for (part, last) in parts.into_iter().zip([false, true]) {
        session.send([ToAgent::Probe(ProbeOrder { last, ..order(9, part) })]).await;
    }
    let ends = ends(&mut session, 9, PROBES_PER_MESSAGE_MAX + 4).await;
    let ended = |place: usize| ends[&u32::try_from(place).expect("small")];
    for place in 0..PROBES_PER_MESSAGE_MAX {
        let (tally, failure) = ended(place);
        assert!(
            tally.sent == 1 && tally.received == 1 && tally.rtt.is_some() && failure.is_none(),
            "{place}: {tally:?}"
        );
    }
    let (tally, failure) = ended(PROBES_PER_MESSAGE_MAX);
    let without_v6 = failure.is_some_and(|failure| failure.kind != FailureKind::NoReply);
    assert!(tally.received == 1 || without_v6, "{failure:?}");
    for (place, kind) in [(1, FailureKind::Broadcast), (2, FailureKind::NoZone), (3, FailureKind::NoZone)] {
        let (tally, failure) = ended(PROBES_PER_MESSAGE_MAX + place);
        assert_eq!((tally, failure), (Tally::default(), Some(kind.into())));
    }
    agent.stop().await;
}

#[tokio::test]
async fn what_the_host_does_not_allow_is_not_probed() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    fs::write(world.policy(), "[probe]\nallow = [\"127.0.0.0/8\"]\ndeny = [\"127.0.0.1\"]\n").expect("written");
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let denied = ["127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1", "::1", "fe80::1%lo"].map(aim);
    session.send([ToAgent::Probe(order(1, denied.to_vec()))]).await;
    for (place, end) in ends(&mut session, 1, denied.len()).await {
        assert_eq!(end, (Tally::default(), Some(FailureKind::Denied.into())), "{place}");
    }
    agent.stop().await;

    drop(session);
    fs::write(world.policy(), "[probe]\nrate = 0\n").expect("written");
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    session.send([ToAgent::Probe(order(1, vec![aim("127.0.0.2")]))]).await;
    assert_eq!(ends(&mut session, 1, 1).await[&0].1, Some(FailureKind::Denied.into()));
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_whose_policy_cannot_be_understood_does_not_start() {
    let world = World::new();
    let controller = Controller::new(&world).await;
    drop(world.agent(&controller));
    fs::write(world.policy(), "[probe]\ndeny = [\"10.0.0.0/8\"\n").expect("written");
    let settings = Settings {
        state: world.state(),
        supervisor_exe: "/bin/false".into(),
        policy: Some(world.policy()),
        clock: world.clock.clone(),
    };
    let Err(error) = Agent::new(settings) else { panic!("it starts") };
    assert!(matches!(error, AgentError::Policy(_)), "{error}");
    let policy = world.policy();
    assert_eq!(
        error.to_string(),
        format!("the policy {}, line 2: a list goes on with `,` or ends with `]`", policy.display())
    );
}

#[tokio::test]
async fn an_agent_bears_so_many_probes_and_says_that_it_is_busy() {
    if !may_probe("an_agent_bears_so_many_probes_and_says_that_it_is_busy") {
        return;
    }
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    // Slow enough that nothing else is said meanwhile.
    let slow = |sweep, aims| ProbeOrder { detail: Detail::Ends, last: false, ..endless(sweep, aims) };
    for _ in 0..AGENT_PROBES_MAX / PROBES_PER_MESSAGE_MAX {
        session.send([ToAgent::Probe(slow(5, loopback(PROBES_PER_MESSAGE_MAX)))]).await;
    }
    for sweep in [5, 6] {
        session.send([ToAgent::Probe(slow(sweep, vec![aim("127.0.0.1")]))]).await;
        let first = if sweep == 5 { u32::try_from(AGENT_PROBES_MAX).expect("small") } else { 0 };
        let busy = ends(&mut session, sweep, 1).await;
        assert_eq!(busy, [(first, (Tally::default(), Some(FailureKind::ProberBusy.into())))].into());
    }
    session.send([ToAgent::ProbeStop(5)]).await;
    ends(&mut session, 5, AGENT_PROBES_MAX).await;
    session.send([ToAgent::Probe(order(7, vec![aim("127.0.0.1")]))]).await;
    assert_eq!(ends(&mut session, 7, 1).await[&0].1, None, "there is room again");
    agent.stop().await;
}

#[tokio::test]
async fn a_sweep_without_end_says_what_it_saw_when_it_is_stopped() {
    if !may_probe("a_sweep_without_end_says_what_it_saw_when_it_is_stopped") {
        return;
    }
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let mut order = endless(2, loopback(3));
    order.probes.period = Duration::from_millis(10);
    session.send([ToAgent::ProbeStop(1), ToAgent::Probe(order)]).await;
    for _ in 0..2 {
        sample(&mut session, 2).await;
    }
    session.send([ToAgent::ProbeStop(2), ToAgent::ProbeStop(2)]).await;
    for (tally, failure) in ends(&mut session, 2, 3).await.into_values() {
        assert!(tally.sent > 0 && tally.sent == tally.received && failure.is_none(), "{tally:?} {failure:?}");
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_new_session_knows_nothing_of_the_sweeps_before() {
    if !may_probe("a_new_session_knows_nothing_of_the_sweeps_before") {
        return;
    }
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let mut before = endless(1, loopback(2));
    before.probes.period = Duration::from_millis(10);
    session.send([ToAgent::Probe(before)]).await;
    sample(&mut session, 1).await;
    drop(session);

    let (_, mut session) = controller.session().await;
    session.send([ToAgent::Welcome(welcome()), ToAgent::Probe(order(1, loopback(1)))]).await;
    let told = ends(&mut session, 1, 1).await;
    assert_eq!(told[&0].0.sent, 1, "a sweep of its own");
    session.send([ToAgent::ProbeStop(1), ToAgent::Echo(4)]).await;
    assert_eq!(session.next().await, FromAgent::Echo(4), "nothing of the sweep that was lost");
    agent.stop().await;
}

#[tokio::test]
async fn one_sweep_waits_for_no_other() {
    if !may_probe("one_sweep_waits_for_no_other") {
        return;
    }
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    // What the first could send for an hour, at its own pace.
    let mut long = ProbeOrder { detail: Detail::Ends, ..endless(1, loopback(1000)) };
    long.probes.rate = NonZeroU32::new(20);
    session.send([ToAgent::Probe(long)]).await;
    for sweep in 2..40 {
        session.send([ToAgent::Probe(order(sweep, loopback(2)))]).await;
        assert!(ends(&mut session, sweep, 2).await.into_values().all(|(_, failure)| failure.is_none()));
    }
    agent.stop().await;
}

#[tokio::test]
async fn all_sweeps_together_keep_to_the_hosts_rate() {
    if !may_probe("all_sweeps_together_keep_to_the_hosts_rate") {
        return;
    }
    let world = World::new();
    fs::write(world.policy(), "[probe]\nrate = 100\n").expect("written");
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let begun = Instant::now();
    session.send((0..4).map(|sweep| ToAgent::Probe(order(sweep, loopback(50))))).await;
    let mut sent = 0;
    for _ in 0..200 {
        let FromAgent::Probed { findings, .. } = session.next().await else { panic!("no findings") };
        for finding in findings {
            let Finding::End { tally, .. } = finding else { panic!("{finding:?}") };
            sent += tally.sent;
        }
        if sent == 200 {
            break;
        }
    }
    // However slow this machine is, no more can have left by now; a little is left for the first packet of each.
    let most = 100.0 * begun.elapsed().as_secs_f64() + 20.0;
    assert!(sent == 200 && f64::from(sent) <= most, "{sent} packets, at most {most}");
    agent.stop().await;
}

#[tokio::test]
async fn sweeps_that_come_and_go_keep_to_the_hosts_rate_in_all_sessions_together() {
    if !may_probe("sweeps_that_come_and_go_keep_to_the_hosts_rate_in_all_sessions_together") {
        return;
    }
    let world = World::new();
    fs::write(world.policy(), "[probe]\nrate = 50\n").expect("written");
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let begun = Instant::now();
    let (mut small, mut large) = (0, 0);
    for _ in 0..3 {
        let (_, mut session) = controller.session().await;
        session.send([ToAgent::Welcome(welcome())]).await;
        for sweep in 0..30 {
            session.send([ToAgent::Probe(order(sweep, loopback(1)))]).await;
            small += ends(&mut session, sweep, 1).await[&0].0.sent;
        }
        // What the session loses was not sent, or counts like all else.
        session.send([ToAgent::Probe(ProbeOrder { detail: Detail::Ends, ..endless(30, loopback(100)) })]).await;
        let mut fragments = order(31, loopback(1));
        fragments.probes.size = 14_000;
        session.send([ToAgent::Probe(fragments)]).await;
        large += ends(&mut session, 31, 1).await[&0].0.sent;
    }
    // However slow this machine is, no more can have left by now.
    let (packets, most) = (f64::from(small + 10 * large), 50.0 * begun.elapsed().as_secs_f64() + 15.0);
    assert!(small == 90 && large == 3 && packets <= most, "{packets} packets, at most {most}");
    agent.stop().await;
}

#[tokio::test]
async fn what_cannot_be_sent_keeps_to_the_hosts_rate() {
    if !may_probe("what_cannot_be_sent_keeps_to_the_hosts_rate") {
        return;
    }
    let world = World::new();
    fs::write(world.policy(), "[probe]\nrate = 20\n").expect("written");
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let begun = Instant::now();
    // There are no neighbours on loopback.
    let mut order = endless(1, vec![aim("fe80::1%lo"); 50]);
    (order.probes.period, order.probes.retries) = (Duration::from_millis(2), 0);
    session.send([ToAgent::Probe(order)]).await;
    for _ in 0..10 {
        sample(&mut session, 1).await;
    }
    session.send([ToAgent::ProbeStop(1)]).await;
    let tried: u32 = ends(&mut session, 1, 50).await.into_values().map(|(tally, _)| tally.sent).sum();
    let most = 20.0 * begun.elapsed().as_secs_f64() + 10.0;
    assert!(f64::from(tried) <= most, "{tried} packets, at most {most}");
    agent.stop().await;
}

#[tokio::test]
async fn every_end_of_many_short_sweeps_arrives() {
    if !may_probe("every_end_of_many_short_sweeps_arrives") {
        return;
    }
    let world = World::new();
    fs::write(world.policy(), "[probe]\nrate = 100000\n").expect("written");
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    for round in 0..200 {
        let sweeps = 4 * round..4 * round + 4;
        session.send(sweeps.clone().map(|sweep| ToAgent::Probe(order(sweep, loopback(1))))).await;
        let mut open: Vec<u64> = sweeps.collect();
        while !open.is_empty() {
            let FromAgent::Probed { sweep, findings } = session.next().await else { panic!("no findings") };
            assert!(findings.is_empty() || open.contains(&sweep), "{sweep} ends twice");
            open.retain(|open| findings.is_empty() || *open != sweep);
        }
    }
    agent.stop().await;
}
