//! A controller that lies about what was signed: attempts too early, too late, too many, or after an end that allows none,
//! and gates that nobody signed or whose turn has not come. Each is refused, and starts nothing.

use super::fixture::{Controller, Running, Session, World, eventually, welcome};
use super::{end_of, sh, spooled};
use muster_proto::command::{Command, OutputLimit};
use muster_proto::id::{Attempt, TaskId};
use muster_proto::link::{FrameBody, Offer, RejectKind, TaskReport, ToAgent};
use muster_proto::outcome::EndKind;
use muster_proto::rollout::Rollout;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;

fn at(offer: &Offer, attempt: Attempt) -> Offer {
    Offer { task: TaskId { attempt, ..offer.task }, ..offer.clone() }
}

fn tries(retries: u32, retry_failed: u32) -> Rollout {
    Rollout { retries, retry_failed, ..Rollout::default() }
}

fn gated(line: &str, retry_failed: u32) -> Rollout {
    Rollout { waves: vec![1], gate: Some(Command { output: OutputLimit::GATE, ..sh(line) }), ..tries(0, retry_failed) }
}

/// Offers a task that must not start; what is said of it.
async fn refused(session: &mut Session, offer: &Offer) -> String {
    session.send([ToAgent::Offer(offer.clone())]).await;
    match session.report().await {
        (task, TaskReport::Rejected { kind: RejectKind::Refused, reason }) if task == offer.task => reason,
        other => panic!("{other:?} instead of a refusal of {}", offer.task),
    }
}

/// Offers a task and waits for its end.
async fn run(session: &mut Session, offer: &Offer) -> (EndKind, Vec<u8>) {
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (reports, output) = session.finish(offer.task).await;
    (end_of(&reports).clone(), output)
}

/// Offers a task and waits for its first output.
async fn begin(session: &mut Session, offer: &Offer) -> String {
    session.send([ToAgent::Offer(offer.clone())]).await;
    loop {
        if let (_, TaskReport::Frame(frame)) = session.report().await
            && let FrameBody::Data { data, .. } = frame.body
        {
            return String::from_utf8(data.to_vec()).expect("text");
        }
    }
}

#[tokio::test]
async fn attempts_run_one_after_another_and_no_more_than_were_signed() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let go = world.root.path().join("go");
    let line = format!("echo attempt $MUSTER_ATTEMPT; while [ ! -e {} ]; do sleep 0.02; done; exit 3", go.display());
    let first = world.offer_of(sh(&line), tries(1, 1));
    let (second, third) = (at(&first, Attempt(2)), at(&first, Attempt(3)));
    assert_eq!(begin(&mut session, &first).await, "attempt 1\n");
    let early = refused(&mut session, &second).await;
    assert!(early.starts_with("not as signed: attempt 1 has not ended on this host"), "{early}");
    fs::write(go, "").expect("written");
    assert!(matches!(session.finish(first.task).await.0.last(), Some(TaskReport::Exited { .. })));
    assert_eq!(refused(&mut session, &second).await, early, "what was refused stays refused");
    assert_eq!(run(&mut session, &third).await, (EndKind::Exit(3), b"attempt 3\n".to_vec()));
    let more = refused(&mut session, &at(&first, Attempt(4))).await;
    assert_eq!(more, "not as signed: attempt 4 of at most 3 attempts");

    // The same in one message.
    let first = world.offer_of(sh("exit 1"), tries(5, 5));
    let second = at(&first, Attempt(2));
    session.send([&first, &second].map(|offer| ToAgent::Offer(offer.clone()))).await;
    let (task, report) = session.report().await;
    let TaskReport::Rejected { reason, .. } = report else { panic!("{report:?}") };
    assert!(task == second.task && reason.contains("attempt 1 has not ended"), "{reason}");
    assert_eq!(end_of(&session.finish(first.task).await.0), &EndKind::Exit(1));
    agent.stop().await;
}

#[tokio::test]
async fn an_end_that_was_signed_to_be_the_last_is_the_last() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let second = |offer: &Offer| at(offer, Attempt(2));

    let succeeds = world.offer_of(sh("exit 0"), tries(9, 9));
    run(&mut session, &succeeds).await;
    let reason = refused(&mut session, &second(&succeeds)).await;
    assert_eq!(reason, "not as signed: no other attempt may follow attempt 1, which ended as succeeded");
    let fails = world.offer_of(sh("exit 1"), tries(9, 0));
    run(&mut session, &fails).await;
    assert!(refused(&mut session, &second(&fails)).await.ends_with("ended as failed"));
    let never_came = world.offer_of(sh("exit 1"), tries(0, 9));
    assert!(refused(&mut session, &second(&never_came)).await.ends_with("ended as unreachable"));

    let cancelled = world.offer_of(sh("exit 1"), tries(9, 9));
    session.send([ToAgent::Cancel(cancelled.task)]).await;
    assert!(matches!(session.report().await.1, TaskReport::Rejected { kind: RejectKind::Cancelled, .. }));
    assert!(refused(&mut session, &second(&cancelled)).await.ends_with("ended as skipped"));

    let lost = world.offer_of(sh("echo $PPID; exec sleep 100"), tries(9, 9));
    let supervisor = begin(&mut session, &lost).await.trim().parse().ok().and_then(Pid::from_raw).expect("a process");
    kill_process(supervisor, Signal::KILL).expect("killed");
    assert!(matches!(end_of(&session.finish(lost.task).await.0), EndKind::Lost(_)));
    assert!(refused(&mut session, &second(&lost)).await.ends_with("ended as indeterminate"));

    // What could not start may be tried again, and a late copy of it may not.
    let nowhere = Command { cwd: Some(b"/nowhere".to_vec()), ..sh("exit 1") };
    let idle = world.offer_of(nowhere, tries(2, 0));
    let third = at(&idle, Attempt(3));
    assert!(matches!(run(&mut session, &idle).await.0, EndKind::StartFailed(_)));
    assert!(matches!(run(&mut session, &third).await.0, EndKind::StartFailed(_)));
    assert!(refused(&mut session, &second(&idle)).await.contains("attempt 3 was here before"));
    agent.stop().await;
}

#[tokio::test]
async fn a_gate_runs_once_after_the_command_and_only_if_it_was_signed() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let plain = world.offer(sh("exit 0"));
    run(&mut session, &plain).await;
    assert_eq!(refused(&mut session, &at(&plain, Attempt::GATE)).await, "not as signed: the job has no gate");

    let early = world.offer_of(sh("exit 0"), gated("exit 0", 0));
    let reason = refused(&mut session, &at(&early, Attempt::GATE)).await;
    assert!(reason.starts_with("not as signed: a gate follows the command"), "{reason}");
    let idle = world.offer_of(Command { cwd: Some(b"/nowhere".to_vec()), ..sh("exit 0") }, gated("exit 0", 0));
    run(&mut session, &idle).await;
    assert_eq!(refused(&mut session, &at(&idle, Attempt::GATE)).await, reason);
    let running = world.offer_of(sh("echo up; exec sleep 100"), gated("exit 0", 0));
    begin(&mut session, &running).await;
    let beside = refused(&mut session, &at(&running, Attempt::GATE)).await;
    assert!(beside.contains("attempt 1 has not ended"), "{beside}");
    session.send([ToAgent::Cancel(running.task)]).await;
    session.finish(running.task).await;

    let marks = world.root.path().join("marks");
    let line = format!("echo ${{MUSTER_GATE}}gate$MUSTER_ATTEMPT >> {}; exit 5", marks.display());
    let command = world.offer_of(sh("echo ${MUSTER_GATE}command$MUSTER_ATTEMPT; exit 2"), gated(&line, 1));
    let gate = at(&command, Attempt::GATE);
    assert_eq!(run(&mut session, &command).await, (EndKind::Exit(2), b"command1\n".to_vec()));
    assert_eq!(run(&mut session, &gate).await.0, EndKind::Exit(5));
    session.send([ToAgent::Offer(gate.clone())]).await;
    assert_eq!(session.report().await, (gate.task, TaskReport::Accepted), "its state, and nothing else");
    let reason = refused(&mut session, &at(&command, Attempt(2))).await;
    assert!(reason.starts_with("not as signed: the gate of its wave was here before"), "{reason}");
    session.send([ToAgent::Committed(gate.task)]).await;
    session.send([ToAgent::Offer(gate.clone())]).await;
    assert!(matches!(session.report().await.1, TaskReport::Exited { frames: 0, .. }), "it was handed over");
    assert_eq!(fs::read_to_string(marks).expect("it ran"), "1gate\n");
    agent.stop().await;
}

#[tokio::test]
async fn a_job_has_one_rollout_whatever_else_was_signed_under_its_id() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let signed = world.offer_of(sh("exit 1"), tries(0, 0));
    let other = world.offer_as(signed.task.job, sh("exit 1"), tries(9, 9));
    let second = at(&other, Attempt(2));
    session.send([&signed, &second].map(|offer| ToAgent::Offer(offer.clone()))).await;
    let (task, report) = session.report().await;
    let TaskReport::Rejected { reason, .. } = report else { panic!("{report:?}") };
    assert!(task == second.task && reason.starts_with("conflict: this job is known with another payload"), "{reason}");
    assert_eq!(end_of(&session.finish(signed.task).await.0), &EndKind::Exit(1));
    session.send([ToAgent::Committed(signed.task)]).await;
    eventually("the spool is free", || spooled(&world) == 0).await;
    for offer in [&second, &other] {
        assert!(refused(&mut session, offer).await.starts_with("conflict"));
    }
    agent.stop().await;
}

#[tokio::test]
async fn the_order_holds_across_restarts_and_after_the_ends_were_handed_over() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    let go = world.root.path().join("go");
    let line = format!("echo up; while [ ! -e {} ]; do sleep 0.02; done; exit 1", go.display());
    let running = world.offer_of(sh(&line), tries(1, 1));
    let (succeeds, fails) =
        (world.offer_of(sh("exit 0"), tries(9, 9)), world.offer_of(sh("exit 1"), gated("exit 0", 1)));
    begin(&mut session, &running).await;
    run(&mut session, &succeeds).await;
    run(&mut session, &fails).await;
    session.send([&succeeds, &fails].map(|offer| ToAgent::Committed(offer.task))).await;
    eventually("one task is held", || spooled(&world) == 1).await;
    drop(session);
    agent.stop().await;

    let agent = Running::start(world.agent(&controller));
    let (_, mut session) = controller.live().await;
    while !matches!(session.report().await.1, TaskReport::Frame(_)) {}
    let reason = refused(&mut session, &at(&running, Attempt(2))).await;
    assert!(reason.contains("attempt 1 has not ended"), "{reason}");
    assert!(refused(&mut session, &at(&succeeds, Attempt(2))).await.ends_with("ended as succeeded"));
    assert_eq!(run(&mut session, &at(&fails, Attempt(2))).await.0, EndKind::Exit(1));
    assert_eq!(run(&mut session, &at(&fails, Attempt::GATE)).await.0, EndKind::Exit(0));
    // Its end is not told to anybody, and so it allows nothing.
    session.send([ToAgent::Committed(running.task)]).await;
    fs::write(go, "").expect("written");
    eventually("the gate and its attempt are held", || spooled(&world) == 2).await;
    assert!(refused(&mut session, &at(&running, Attempt(3))).await.ends_with("ended as rejected"));
    agent.stop().await;

    let agent = Running::start(world.agent(&controller));
    let (hello, mut session) = controller.session().await;
    let held: Vec<_> = hello.unfinished.iter().map(|held| held.task.attempt).collect();
    assert_eq!(held, [Attempt::GATE, Attempt(2)]);
    session.send([ToAgent::Welcome(welcome())]).await;
    let again = refused(&mut session, &at(&fails, Attempt(3))).await;
    assert_eq!(again, "not as signed: attempt 3 of at most 2 attempts");
    agent.stop().await;
}
