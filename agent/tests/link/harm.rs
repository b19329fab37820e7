//! What a host can suffer: damage, a full disk, a burial that takes its time, a controller that asks too much.

use super::fixture::{Controller, Running, Session, World, eventually, welcome};
use super::{end_of, sh, spooled};
use muster_proto::id::{Attempt, JobId, TaskId};
use muster_proto::link::{FrameBody, Offer, RejectKind, TaskReport, ToAgent, Welcome};
use muster_proto::outcome::{End, EndKind};
use rustix::fs::{CWD, FallocateFlags, FileType, Mode, fallocate, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

/// Runs a line behind one that tells the process ids of its supervisor and its shell.
async fn run_with_pids(world: &World, session: &mut Session, line: &str) -> (Offer, [Pid; 2]) {
    let offer = world.offer(sh(&format!("echo $PPID $$; {line}")));
    session.send([ToAgent::Offer(offer.clone())]).await;
    loop {
        if let (_, TaskReport::Frame(frame)) = session.report().await
            && let FrameBody::Data { data, .. } = frame.body
        {
            let text = String::from_utf8(data.to_vec()).expect("digits");
            let pids = text.split_whitespace().map(|pid| pid.parse().ok().and_then(Pid::from_raw).expect("a process"));
            return (offer, pids.collect::<Vec<_>>().try_into().expect("two"));
        }
    }
}

fn kill(pid: Pid) {
    kill_process(pid, Signal::KILL).expect("killed");
}

/// How each of these tasks ended, and how much output came.
async fn ends(session: &mut Session, count: usize) -> BTreeMap<TaskId, (EndKind, usize)> {
    let (mut output, mut ends) = (BTreeMap::<TaskId, usize>::new(), BTreeMap::new());
    while ends.len() < count {
        match session.report().await {
            (task, TaskReport::Frame(frame)) => {
                if let FrameBody::Data { data, .. } = frame.body {
                    *output.entry(task).or_default() += data.len();
                }
            }
            (task, TaskReport::Exited { end: End { kind, .. }, .. }) => {
                ends.insert(task, (kind, output.remove(&task).unwrap_or(0)));
            }
            (_, TaskReport::Accepted | TaskReport::Started) => {}
            other => panic!("{other:?}"),
        }
    }
    ends
}

fn directory(world: &World, task: TaskId) -> PathBuf {
    world.state().join("spool").join(task.to_string())
}

#[tokio::test]
async fn a_damaged_directory_costs_its_own_task_and_no_other() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let (torn, torn_pids) = run_with_pids(&world, &mut session, "sleep 100").await;
    let (gone, gone_pids) = run_with_pids(&world, &mut session, "sleep 100").await;
    let (good, bad) = (world.offer(sh("exit 8")), world.offer(sh("exit 9")));
    for offer in [&good, &bad] {
        session.send([ToAgent::Offer(offer.clone())]).await;
        session.finish(offer.task).await;
    }
    agent.stop().await;

    kill(torn_pids[0]);
    gone_pids.into_iter().for_each(kill);
    let mut out = OpenOptions::new().append(true).open(directory(&world, torn.task).join("out")).expect("out");
    out.write_all(&[0; 64]).expect("written");
    drop(out);
    fs::remove_file(directory(&world, gone.task).join("out")).expect("removed");
    fs::write(directory(&world, bad.task).join("exit"), [0xff; 9]).expect("written");

    for _ in 0..2 {
        let agent = Running::start(world.agent(&controller));
        let (hello, mut session) = controller.live().await;
        assert_eq!(hello.unfinished.len(), 4, "{hello:?}");
        let ends = ends(&mut session, 4).await;
        assert_eq!(ends[&good.task], (EndKind::Exit(8), 0));
        let lost = |task| match &ends[&task] {
            (EndKind::Lost(reason), output) => (reason.as_str(), *output),
            other => panic!("{other:?}"),
        };
        let (reason, output) = lost(torn.task);
        assert!(reason.ends_with("was killed; the task's output is damaged at frame 1") && output > 2, "{reason}");
        for task in [gone.task, bad.task] {
            assert!(lost(task).0.starts_with("its spool is damaged: "), "{:?}", lost(task));
            assert!(directory(&world, task).with_added_extension("damaged").exists());
        }
        agent.stop().await;
    }

    let agent = Running::start(world.agent(&controller));
    let (_, session) = controller.live().await;
    session.send([torn, gone, good, bad].map(|offer| ToAgent::Committed(offer.task))).await;
    eventually("the spool is free", || spooled(&world) == 0).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_waited_is_answered_for_with_a_damaged_spool_and_with_a_closed_journal() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    // They end with this test, whatever comes of it.
    let hold = world.root.path().join("hold");
    fs::write(&hold, "").expect("written");
    let line = format!("while [ -e {hold} ]; do sleep 0.1; done", hold = hold.display());
    let offers: Vec<_> = (0..66).map(|_| world.offer(sh(&line))).collect();
    let (damaged, cancelled) = (offers[64].task, offers[65].task);
    session.send(offers.into_iter().map(ToAgent::Offer)).await;
    let (mut accepted, mut started) = (0, 0);
    while accepted + started < 66 + 64 {
        match session.report().await.1 {
            TaskReport::Accepted => accepted += 1,
            TaskReport::Started => started += 1,
            other => panic!("{other:?}"),
        }
    }
    agent.stop().await;

    fs::write(directory(&world, damaged).join("spec"), [0; 100]).expect("written");
    let agent = Running::start(world.agent(&controller));
    let (hello, mut session) = controller.session().await;
    assert_eq!(hello.unfinished.len(), 65);
    session.send([ToAgent::Welcome(Welcome { outstanding: vec![damaged], ..welcome() })]).await;
    let (_, report) = session.report().await;
    let TaskReport::Rejected { kind: RejectKind::Refused, reason } = report else { panic!("{report:?}") };
    assert!(reason.starts_with("its spool is damaged"), "{reason}");
    agent.stop().await;

    // Something that cannot be read, and something that can behind it.
    let journal = world.state().join("journal");
    let bytes = fs::read(&journal).expect("a journal");
    fs::write(&journal, [&bytes[..], b"?", &bytes].concat()).expect("written");
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.session().await;
    session.send([ToAgent::Welcome(welcome()), ToAgent::Cancel(cancelled)]).await;
    let (task, report) = session.report().await;
    assert!(
        task == cancelled && matches!(report, TaskReport::Rejected { kind: RejectKind::Cancelled, .. }),
        "{report:?}"
    );

    let late = Offer { ttl: Duration::ZERO, ..world.offer(sh("echo never")) };
    session.send([ToAgent::Offer(late)]).await;
    let (_, report) = session.report().await;
    let TaskReport::Rejected { kind: RejectKind::Refused, reason } = report else { panic!("{report:?}") };
    assert!(reason.contains("the journal is closed"), "what is not remembered is not said: {reason}");
    agent.stop().await;
}

#[tokio::test]
async fn a_burial_holds_up_nobody_else() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let (lost, [supervisor, _]) = run_with_pids(&world, &mut session, "sleep 100").await;
    // The burial needs what is in this file, and gets it when the test says so.
    let spec = directory(&world, lost.task).join("spec");
    let content = fs::read(&spec).expect("there");
    fs::remove_file(&spec).expect("removed");
    mknodat(CWD, &spec, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
    kill(supervisor);
    let other = world.offer(sh("exit 5"));
    session.send([ToAgent::Offer(other.clone())]).await;
    let (reports, _) = session.finish(other.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(5), "and no end of the other came before");
    fs::write(spec, content).expect("read");
    let (reports, _) = session.finish(lost.task).await;
    assert!(matches!(end_of(&reports), EndKind::Lost(reason) if reason.ends_with("was killed")), "{reports:?}");
    agent.stop().await;
}

#[tokio::test]
async fn cancels_of_tasks_that_never_came_are_remembered_up_to_a_limit() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let stranger = |target| TaskId { job: JobId::from_bytes([3; 16]), target, attempt: Attempt::FIRST };
    for some in [0..3000, 2000..5000] {
        session.send(some.map(stranger).map(ToAgent::Cancel)).await;
    }
    let offer = world.offer(sh("exit 6"));
    session.send([ToAgent::Offer(offer.clone())]).await;
    let mut refused = 0;
    loop {
        match session.report().await {
            (_, TaskReport::Rejected { kind: RejectKind::Cancelled, .. }) => refused += 1,
            (task, TaskReport::Accepted) => break assert_eq!(task, offer.task),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 4096 + 1000, "those that are known are answered for again");
    session.finish(offer.task).await;
    agent.stop().await;
}

#[tokio::test]
async fn no_more_than_so_many_tasks_wait() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let hold = world.root.path().join("hold");
    fs::write(&hold, "").expect("written");
    let line = format!("while [ -e {hold} ]; do sleep 0.2; done", hold = hold.display());
    let (mut accepted, mut refused) = (0, Vec::new());
    for round in 0..5 {
        // In pieces, so that the agent answers meanwhile.
        let count = if round < 4 { 272 } else { 3 };
        let offers: Vec<_> = (0..count).map(|_| world.offer(sh(&line))).collect();
        session.send(offers.into_iter().map(ToAgent::Offer)).await;
        let mut answered = 0;
        while answered < count {
            match session.report().await {
                (_, TaskReport::Accepted) => (accepted, answered) = (accepted + 1, answered + 1),
                (_, TaskReport::Rejected { kind: RejectKind::Refused, reason }) => {
                    refused.push(reason);
                    answered += 1;
                }
                (_, TaskReport::Started) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((accepted, refused.len()), (64 + 1024, 3));
    assert!(refused.iter().all(|reason| reason.starts_with("1024 tasks wait on this host already")), "{refused:?}");
    agent.stop().await;
    fs::remove_file(hold).expect("removed");
}

#[tokio::test]
async fn a_full_spool_takes_nothing_new() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let full = world.state().join("spool").join("full");
    let file = File::create(&full).expect("a file");
    fallocate(&file, FallocateFlags::empty(), 0, (1 << 30) + 1).expect("that much space");
    let offer = world.offer(sh("exit 7"));
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (_, report) = session.report().await;
    let TaskReport::Rejected { kind: RejectKind::Refused, reason } = report else { panic!("{report:?}") };
    assert!(reason.contains("takes no new ones above 1024 MiB"), "{reason}");
    assert!(reason.chars().count() <= muster_proto::limits::REASON_CHARS_MAX);
    fs::remove_file(full).expect("removed");
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (reports, _) = session.finish(offer.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(7));
    agent.stop().await;
}
