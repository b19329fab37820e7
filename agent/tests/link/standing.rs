//! Which machine is the agent: nothing starts on one that may be a copy, or whose clock is wrong.

use super::fixture::{Controller, Running, World, eventually, welcome};
use super::{end_of, sh};
use muster_agent::identity::Identity;
use muster_proto::link::{Nonce, RejectKind, TaskReport, ToAgent, Welcome};
use muster_proto::outcome::EndKind;
use std::fs;
use std::time::Duration;

fn nonce(epoch: u64) -> Nonce {
    Nonce { epoch, mac: [epoch.to_le_bytes()[0]; 16] }
}

#[tokio::test]
async fn a_nonce_is_on_disk_before_it_is_confirmed_and_comes_with_the_next_hello() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let mut known = None;
    for epoch in [5, 6] {
        let agent = Running::start(world.agent(&controller));
        let (hello, mut session) = controller.session().await;
        assert_eq!(hello.nonce, known);
        assert!(hello.machine.is_empty() || hello.machine.len() == 32, "{}", hello.machine);
        session.send([ToAgent::Welcome(Welcome { nonce: nonce(epoch), ..welcome() })]).await;
        assert_eq!(session.stored().await, epoch);
        known = Some(nonce(epoch));
        assert_eq!(Identity::load_nonce(&world.state()).expect("readable"), known);
        drop(session);
        let (hello, session) = controller.session().await;
        assert_eq!(hello.nonce, known, "of the session that was");
        drop(session);
        agent.stop().await;
    }
}

#[tokio::test]
async fn nothing_starts_while_the_nonce_cannot_be_kept() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.session().await;
    // Nothing can be written there.
    let obstacle = world.state().join("identity/nonce.new");
    fs::create_dir(&obstacle).expect("made");
    session.send([ToAgent::Welcome(Welcome { nonce: nonce(7), ..welcome() })]).await;
    let offer = world.offer(sh("exit 3"));
    session.send([ToAgent::Offer(offer)]).await;
    let (_, report) = session.report().await;
    let TaskReport::Rejected { kind: RejectKind::Refused, reason } = report else { panic!("{report:?}") };
    assert!(reason.starts_with("cannot keep the session's nonce: cannot use "), "{reason}");
    assert!(session.stored.is_empty());

    // A controller offers nothing before it hears of the nonce: the agent goes on by itself.
    fs::remove_dir(obstacle).expect("removed");
    assert_eq!(session.stored().await, 7);
    let offer = world.offer(sh("exit 4"));
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (reports, _) = session.finish(offer.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(4));
    agent.stop().await;
}

#[tokio::test]
async fn after_a_leap_of_the_clock_nothing_starts_before_a_new_session() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (first, mut session) = controller.live().await;
    session.stored().await;
    world.clock.set_ahead(-6_000);
    let offer = world.offer(sh("exit 5"));
    session.send([ToAgent::Offer(offer.clone())]).await;

    let (hello, mut session) = controller.session().await;
    assert!(hello.start == first.start && hello.unfinished.is_empty(), "{hello:?}");
    session.send([ToAgent::Welcome(Welcome { outstanding: vec![offer.task], ..welcome() })]).await;
    assert_eq!(session.report().await, (offer.task, TaskReport::Never), "the offer belonged to the other session");
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (reports, _) = session.finish(offer.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(5));
    agent.stop().await;
}

#[tokio::test]
async fn a_host_whose_clock_is_wrong_says_so_until_it_is_set_right() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = world.agent(&controller);
    world.clock.set_ahead(603_500);
    let agent = Running::start(agent);
    let (_, mut session) = controller.live().await;
    for _ in 0..2 {
        let offer = world.offer(sh("echo never"));
        session.send([ToAgent::Offer(offer.clone())]).await;
        let (_, report) = session.report().await;
        let TaskReport::Rejected { kind: RejectKind::Refused, reason } = report else { panic!("{report:?}") };
        assert_eq!(
            reason,
            "clock skew: this host's clock is 10 min 3 s ahead of the controller's, more than 2 min: set it right \
             (timedatectl, chrony)"
        );
    }

    world.clock.set_ahead(0);
    // It looks at its clocks when there is something to do.
    session.send([ToAgent::Welcome(welcome())]).await;
    let (_, mut session) = controller.live().await;
    let offer = world.offer(sh("exit 6"));
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (reports, _) = session.finish(offer.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(6));
    agent.stop().await;
}

fn refused() -> ToAgent {
    ToAgent::Refused { reason: "two machines use this identity".to_owned(), retry_after: Duration::from_millis(50) }
}

#[tokio::test]
async fn who_is_refused_asks_again_and_starts_nothing_meanwhile() {
    waits_for_a_welcome([refused()]).await;
}

#[tokio::test]
async fn who_is_cut_off_starts_nothing_before_it_is_welcomed_again() {
    waits_for_a_welcome([]).await;
}

/// An agent with a task that waits loses its session after these words: the task starts only in the next one.
async fn waits_for_a_welcome(last_words: impl IntoIterator<Item = ToAgent>) {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, session) = controller.session().await;
    session.send([refused()]).await;
    let (_, mut session) = controller.live().await;
    let go = world.root.path().join("go");
    let line = format!("while [ ! -e {go} ]; do sleep 0.05; done", go = go.display());
    let offers: Vec<_> = (0..65).map(|_| world.offer(sh(&line))).collect();
    let waiting = offers[64].task;
    session.send(offers.into_iter().map(ToAgent::Offer)).await;
    let mut started = 0;
    while started < 64 {
        started += usize::from(session.report().await.1 == TaskReport::Started);
    }

    session.send(last_words).await;
    drop(session);
    let (_, session) = controller.session().await;
    fs::write(&go, "").expect("written");
    let ends = || {
        let spool = fs::read_dir(world.state().join("spool")).expect("a spool");
        spool.flatten().filter(|task| task.path().join("exit").exists()).count()
    };
    eventually("those that run end", || ends() == 64).await;
    drop(session);
    let (hello, session) = controller.session().await;
    let held = hello.unfinished.iter().find(|held| held.task == waiting).expect("it is held");
    assert!(!held.started, "nobody is there who knows this machine");
    session.send([ToAgent::Welcome(Welcome { resume: vec![(waiting, 0)], ..welcome() })]).await;
    eventually("the last one ends", || ends() == 65).await;
    agent.stop().await;
}
