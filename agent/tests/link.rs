//! The whole agent in this process, with real supervisors, against a controller that is moved by hand.

mod fixture;

use fixture::{Controller, Running, World, chunks, eventually, welcome};
use muster_proto::command::{BlobRef, Command, Program};
use muster_proto::link::{FrameBody, FromAgent, RejectKind, TaskReport, ToAgent, Welcome};
use muster_proto::outcome::{End, EndKind};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::time::Duration;

fn sh(line: &str) -> Command {
    Command::new(Program::Shell(line.as_bytes().to_vec()))
}

fn end_of(reports: &[TaskReport]) -> &EndKind {
    match reports.last() {
        Some(TaskReport::Exited { end: End { kind, .. }, .. }) => kind,
        other => panic!("{other:?} is no end"),
    }
}

fn spooled(world: &World) -> usize {
    fs::read_dir(world.state().join("spool")).expect("a spool").count()
}

#[tokio::test]
async fn a_signed_job_runs_once_and_everything_is_told() {
    let mut world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (hello, mut session) = controller.session().await;
    assert!(hello.unfinished.is_empty() && hello.facts_digest.len() == 32);
    session.send([ToAgent::Welcome(Welcome { want_facts: true, ..welcome() })]).await;
    let FromAgent::Facts(facts) = session.next().await else { panic!("facts were asked for") };
    assert!(facts.cpus > 0);

    let offer = world.offer(sh("echo hi; echo there >&2; exit 3"));
    session.send([ToAgent::Offer(offer.clone()), ToAgent::Offer(offer.clone())]).await;
    let (reports, output) = session.finish(offer.task).await;
    assert_eq!(reports[..2], [TaskReport::Accepted, TaskReport::Started]);
    assert_eq!(end_of(&reports), &EndKind::Exit(3));
    assert!(matches!(reports.last(), Some(TaskReport::Exited { frames: 2, .. })), "{reports:?}");
    assert_eq!(output.len(), "hi\nthere\n".len());

    session.send([ToAgent::Offer(offer.clone())]).await;
    assert_eq!(session.report().await, (offer.task, TaskReport::Accepted), "its state, and nothing else");
    session.send([ToAgent::Committed(offer.task)]).await;
    eventually("the spool is free", || spooled(&world) == 0).await;
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (_, again) = session.report().await;
    assert!(matches!(again, TaskReport::Exited { end: End { kind: EndKind::Lost(_), .. }, .. }), "{again:?}");
    assert_eq!(spooled(&world), 0, "it does not run again");
    agent.stop().await;
}

#[tokio::test]
async fn output_goes_on_where_the_controller_is() {
    let mut world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let go = world.root.path().join("go");
    let line = format!("echo one; while [ ! -e {go} ]; do sleep 0.01; done; echo two", go = go.display());
    let offer = world.offer(sh(&line));
    session.send([ToAgent::Offer(offer.clone())]).await;
    while !matches!(session.report().await, (_, TaskReport::Frame(frame)) if frame.number == 0) {}
    drop(session);

    let (hello, mut session) = controller.session().await;
    let held = hello.unfinished[0];
    assert_eq!((held.task, held.next_frame, held.started), (offer.task, 1, true));
    session.send([ToAgent::Welcome(Welcome { resume: vec![(offer.task, 1)], ..welcome() })]).await;
    fs::write(go, "").expect("written");
    let (reports, output) = session.finish(offer.task).await;
    assert_eq!((end_of(&reports), &output[..]), (&EndKind::Exit(0), &b"two\n"[..]));

    // What was told and not committed is told again.
    drop(session);
    let (hello, mut session) = controller.live().await;
    assert_eq!(hello.unfinished[0].next_frame, 2);
    let (_, output) = session.finish(offer.task).await;
    assert_eq!(output, b"one\ntwo\n");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_comes_back_adopts_its_tasks() {
    let mut world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (first, mut session) = controller.live().await;
    let go = world.root.path().join("go");
    let line = format!("echo one; while [ ! -e {go} ]; do sleep 0.01; done; exit 7", go = go.display());
    let (offer, ended) = (world.offer(sh(&line)), world.offer(sh("exit 8")));
    session.send([ToAgent::Offer(offer.clone())]).await;
    while !matches!(session.report().await, (_, TaskReport::Frame(_))) {}
    session.send([ToAgent::Offer(ended.clone())]).await;
    session.finish(ended.task).await;
    agent.stop().await;

    let agent = Running::start(world.agent(&controller));
    let (hello, mut session) = controller.session().await;
    assert_ne!(hello.start, first.start);
    assert_eq!(hello.boot, first.boot);
    assert_eq!(hello.unfinished.len(), 2, "{hello:?}");
    session.send([ToAgent::Welcome(Welcome { resume: vec![(ended.task, 0)], ..welcome() })]).await;
    let (reports, _) = session.finish(ended.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(8));
    drop(session);

    let (_, mut session) = controller.session().await;
    session.send([ToAgent::Welcome(Welcome { resume: vec![(offer.task, 1)], ..welcome() })]).await;
    fs::write(go, "").expect("written");
    let (reports, output) = session.finish(offer.task).await;
    assert_eq!((end_of(&reports), output.len()), (&EndKind::Exit(7), 0));
    session.send([ToAgent::Committed(offer.task), ToAgent::Committed(ended.task)]).await;
    eventually("the spool is free", || spooled(&world) == 0).await;
    agent.stop().await;

    let agent = Running::start(world.agent(&controller));
    let (hello, _session) = controller.session().await;
    assert!(hello.unfinished.is_empty());
    agent.stop().await;
}

#[tokio::test]
async fn a_cancel_ends_a_task_or_keeps_it_from_ever_starting() {
    let mut world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let running = world.offer(sh("sleep 100"));
    session.send([ToAgent::Offer(running.clone())]).await;
    while session.report().await.1 != TaskReport::Started {}
    session.send([ToAgent::Cancel(running.task)]).await;
    let (reports, _) = session.finish(running.task).await;
    assert_eq!(end_of(&reports), &EndKind::Cancelled);

    let overtaken = world.offer(sh("echo never"));
    session.send([ToAgent::Cancel(overtaken.task), ToAgent::Offer(overtaken.clone())]).await;
    for _ in 0..2 {
        let (task, report) = session.report().await;
        assert_eq!(task, overtaken.task);
        assert!(matches!(report, TaskReport::Rejected { kind: RejectKind::Cancelled, .. }), "{report:?}");
    }
    agent.stop().await;
}

#[tokio::test]
async fn what_never_came_is_refused_when_it_comes_late() {
    let mut world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.session().await;
    let late = world.offer(sh("echo never"));
    session.send([ToAgent::Welcome(Welcome { outstanding: vec![late.task], ..welcome() })]).await;
    assert_eq!(session.report().await, (late.task, TaskReport::Never));
    session.send([ToAgent::Offer(late.clone())]).await;
    let (_, report) = session.report().await;
    assert!(matches!(report, TaskReport::Rejected { kind: RejectKind::Expired, .. }), "{report:?}");
    drop(session);

    let (_, mut session) = controller.session().await;
    session.send([ToAgent::Welcome(Welcome { outstanding: vec![late.task], ..welcome() })]).await;
    let (_, report) = session.report().await;
    assert!(matches!(report, TaskReport::Rejected { kind: RejectKind::Expired, .. }), "{report:?}");
    agent.stop().await;
}

#[tokio::test]
async fn stdin_is_what_was_signed_or_nothing_runs() {
    let mut world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest: [u8; 32] = Sha256::digest(&content).into();
    let command = Command { stdin: Some(BlobRef { digest, size: content.len() as u64 }), ..sh("cat") };

    let offer = world.offer(command.clone());
    for chunk in chunks(digest, &content) {
        session.send([chunk]).await;
    }
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (reports, output) = session.finish(offer.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(0));
    assert!(output == content, "{} bytes of {}", output.len(), content.len());

    let mut altered = content.clone();
    altered[70_000] ^= 1;
    let offer = world.offer(command);
    for chunk in chunks(digest, &altered) {
        session.send([chunk]).await;
    }
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (reports, _) = session.finish(offer.task).await;
    let [TaskReport::Rejected { kind: RejectKind::Refused, reason }] = &reports[..] else { panic!("{reports:?}") };
    assert!(reason.contains("not what was signed"), "{reason}");
    agent.stop().await;
}

#[tokio::test]
async fn tasks_beyond_the_limit_wait_and_expire() {
    let mut world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let go = world.root.path().join("go");
    let line = format!("while [ ! -e {go} ]; do sleep 0.05; done", go = go.display());
    let mut offers: Vec<_> = (0..66).map(|_| world.offer(sh(&line))).collect();
    offers[64].ttl = Duration::from_millis(700);
    let (short, last) = (offers[64].task, offers[65].task);
    session.send(offers.into_iter().map(ToAgent::Offer)).await;

    let (mut accepted, mut started) = (0, 0);
    let expired = loop {
        match session.report().await {
            (_, TaskReport::Accepted) => accepted += 1,
            (task, TaskReport::Started) => {
                assert!(task != short && task != last);
                started += 1;
            }
            (task, TaskReport::Rejected { kind: RejectKind::Expired, .. }) => break task,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((expired, accepted), (short, 66));
    while started < 64 {
        assert!(matches!(session.report().await, (task, TaskReport::Started) if task != last));
        started += 1;
    }
    fs::write(go, "").expect("written");
    let mut ended = 0;
    while ended < 65 {
        match session.report().await {
            (task, TaskReport::Started) => assert_eq!(task, last),
            (_, TaskReport::Exited { end, .. }) => {
                assert_eq!(end.kind, EndKind::Exit(0));
                ended += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_supervisor_that_is_killed_is_reported_at_once() {
    let mut world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    // The shell's parent is the supervisor.
    let offer = world.offer(sh("echo $PPID; sleep 100"));
    session.send([ToAgent::Offer(offer.clone())]).await;
    let parent = loop {
        if let (_, TaskReport::Frame(frame)) = session.report().await
            && let FrameBody::Data { data, .. } = frame.body
        {
            break String::from_utf8(data.to_vec()).expect("digits").trim().parse().expect("a number");
        }
    };
    let begun = std::time::Instant::now();
    let parent = rustix::process::Pid::from_raw(parent).expect("a process");
    rustix::process::kill_process(parent, rustix::process::Signal::KILL).expect("killed");
    let (reports, _) = session.finish(offer.task).await;
    assert!(matches!(end_of(&reports), EndKind::Lost(_)), "{reports:?}");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    agent.stop().await;
}

#[tokio::test]
async fn a_flood_waits_for_acknowledgements() {
    let mut world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let flood = world.offer(sh("head -c 5000000 /dev/zero"));
    session.send([ToAgent::Offer(flood.clone())]).await;
    let (mut bytes, mut next_frame) = (0, 0);
    while bytes < 1 << 20 {
        if let (_, TaskReport::Frame(frame)) = session.report().await
            && let FrameBody::Data { data, .. } = frame.body
        {
            (bytes, next_frame) = (bytes + data.len(), frame.number + 1);
        }
    }
    let other = world.offer(sh("exit 1"));
    session.send([ToAgent::Offer(other.clone())]).await;
    let (reports, _) = session.finish(other.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(1), "no frame of the flood came in between");
    session.send([ToAgent::Ack { task: flood.task, next_frame }]).await;
    let (reports, rest) = session.finish(flood.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(0));
    assert_eq!(bytes + rest.len(), 5_000_000);
    agent.stop().await;
}
