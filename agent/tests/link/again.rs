//! An agent that starts again: after a kill between a task's intent and its supervisor, and from a new binary.

use super::fixture::{Controller, Running, Session, World, eventually, welcome};
use super::{end_of, sh, spooled};
use muster_proto::id::TaskId;
use muster_proto::link::{FrameBody, Hello, Offer, RejectKind, TaskReport, ToAgent, Welcome};
use muster_proto::outcome::EndKind;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

fn directory(world: &World, task: TaskId) -> PathBuf {
    world.state().join("spool").join(task.to_string())
}

fn executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permitted");
}

/// A task whose intent is in the journal and whose supervisor was killed before it did anything, and so was the agent.
async fn interrupted(world: &World, controller: &mut Controller) -> Offer {
    let (stub, pid) = (world.root.path().join("stub"), world.root.path().join("stub.pid"));
    let script = format!("#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 1000\n", pid = pid.display());
    fs::write(&stub, script).expect("written");
    executable(&stub);
    let agent = Running::start(world.agent_with(controller, &stub));
    let (_, session) = controller.live().await;
    let offer = world.offer(sh("exit 3"));
    session.send([ToAgent::Offer(offer.clone())]).await;
    eventually("a supervisor is on its way", || pid.exists()).await;
    agent.stop().await;
    let pid: i32 = fs::read_to_string(&pid).expect("readable").trim().parse().expect("a number");
    kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL).expect("killed");
    let stat = format!("/proc/{pid}/stat");
    eventually("it is gone", || !fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "))).await;
    offer
}

#[tokio::test]
async fn what_provably_never_began_starts_once_the_controller_asks_for_it() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let offer = interrupted(&world, &mut controller).await;
    for _ in 0..2 {
        let agent = Running::start(world.agent(&controller));
        let (hello, session) = controller.session().await;
        let held = hello.unfinished[0];
        assert_eq!((hello.unfinished.len(), held.task, held.started), (1, offer.task, false));
        assert!(!directory(&world, offer.task).join("begun").exists(), "nothing starts before a welcome");
        drop(session);
        agent.stop().await;
    }
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let (reports, _) = session.finish(offer.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(3));
    agent.stop().await;

    let agent = Running::start(world.agent(&controller));
    let (hello, mut session) = controller.live().await;
    assert!(hello.unfinished[0].started, "it does not start twice");
    let (reports, _) = session.finish(offer.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(3));
    agent.stop().await;
}

#[tokio::test]
async fn what_never_began_and_is_too_late_has_expired_for_good() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let offer = interrupted(&world, &mut controller).await;
    // The window is reckoned from there.
    let spec = File::options().write(true).open(directory(&world, offer.task).join("spec")).expect("there");
    spec.set_modified(SystemTime::now() - Duration::from_secs(31)).expect("set back");
    for _ in 0..2 {
        let agent = Running::start(world.agent(&controller));
        let (_, mut session) = controller.session().await;
        session.send([ToAgent::Welcome(Welcome { outstanding: vec![offer.task], ..welcome() })]).await;
        let (task, report) = session.report().await;
        assert!(
            task == offer.task && matches!(report, TaskReport::Rejected { kind: RejectKind::Expired, .. }),
            "{report:?}"
        );
        agent.stop().await;
    }
}

#[tokio::test]
async fn what_may_have_begun_never_starts_again() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let offer = interrupted(&world, &mut controller).await;
    fs::write(directory(&world, offer.task).join("begun"), "").expect("written");
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let (reports, _) = session.finish(offer.task).await;
    assert!(matches!(end_of(&reports), EndKind::Lost(_)), "{reports:?}");
    agent.stop().await;
}

/// The agent's binary at work; killed when dropped.
struct Process(Child);

impl Process {
    fn start(program: &Path, state: &Path) -> Self {
        let child = Command::new(program).arg("run").arg("--state").arg(state).stderr(Stdio::null()).spawn();
        Self(child.expect("started"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("it lives");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The next session, and that it is of the same process, with this task.
async fn taken_over(controller: &mut Controller, before: &Hello, task: TaskId) -> (Hello, Session) {
    let (hello, session) = controller.session().await;
    assert_ne!(hello.start, before.start, "it is another start");
    assert_eq!(hello.unfinished.iter().map(|held| held.task).collect::<Vec<_>>(), [task]);
    session.send([ToAgent::Welcome(Welcome { resume: vec![(task, 1)], ..welcome() })]).await;
    (hello, session)
}

#[tokio::test]
async fn another_binary_takes_over_with_tasks_running() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    drop(world.agent(&controller));
    let built = Path::new(env!("CARGO_BIN_EXE_muster-agent"));
    let (program, other) = (world.root.path().join("agent"), world.root.path().join("agent.new"));
    fs::copy(built, &program).expect("copied");
    let mut agent = Process::start(&program, &world.state());
    let (hello, mut session) = controller.live().await;
    let go = world.root.path().join("go");
    let line = format!("echo $PPID; while [ ! -e {go} ]; do sleep 0.05; done; exit 6", go = go.display());
    let offer = world.offer(sh(&line));
    session.send([ToAgent::Offer(offer.clone())]).await;
    let supervisor = loop {
        if let (_, TaskReport::Frame(frame)) = session.report().await
            && let FrameBody::Data { data, .. } = frame.body
        {
            break String::from_utf8(data.to_vec()).expect("digits").trim().to_owned();
        }
    };

    // Nothing that can be executed: the running program goes on.
    fs::write(&other, "no program").expect("written");
    executable(&other);
    fs::rename(&other, &program).expect("replaced");
    agent.signal(Signal::HUP);
    let (hello, session) = taken_over(&mut controller, &hello, offer.task).await;
    fs::copy(built, &other).expect("copied");
    fs::rename(&other, &program).expect("replaced");
    agent.signal(Signal::HUP);
    let (_, mut session_now) = taken_over(&mut controller, &hello, offer.task).await;
    drop(session);
    let running = fs::read_link(format!("/proc/{}/exe", agent.0.id())).expect("it lives");
    assert_eq!(running, fs::canonicalize(&program).expect("there"), "it is the new one");

    fs::write(go, "").expect("written");
    let (reports, _) = session_now.finish(offer.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(6));
    eventually("its supervisor was reaped", || !Path::new("/proc").join(&supervisor).exists()).await;
    session_now.send([ToAgent::Committed(offer.task)]).await;
    eventually("the spool is free", || spooled(&world) == 0).await;
    agent.signal(Signal::TERM);
    assert!(agent.0.wait().expect("it ends").success());
}
