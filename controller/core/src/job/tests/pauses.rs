//! Pause, resume, and what goes on meanwhile.

use super::*;
use muster_proto::rollout::Offline;

#[test]
fn a_paused_job_offers_nothing_and_what_was_offered_goes_on() {
    let mut world = World::new(3, Rollout { concurrency: Some(1), retry_failed: 1, ..Rollout::default() });
    world.pause();
    assert_eq!(world.job.state(), JobState::Paused);
    let mut world = world.all_connected();
    world.pass_secs(60);
    assert_eq!(world.offers(), []);
    world.resume();
    assert_eq!((world.offers().len(), world.job.state()), (1, JobState::Active));
    world.pause();
    world.run(first(0), 1);
    world.pass_secs(60);
    assert_eq!(world.offers().len(), 1, "no work, and no other attempt");
    assert_eq!(world.job.waiting(1), Waiting::Paused);
    world.resume();
    assert_eq!(world.offers().len(), 2);
    world.check();
}

#[test]
fn a_pause_is_said_once_and_lasts_over_a_restart() {
    let mut world = World::new(1, Rollout::default());
    world.pause();
    world.pause();
    world.restart();
    world.connect(0, &[]);
    assert_eq!((world.job.state(), world.offers().len()), (JobState::Paused, 0));
    world.resume();
    world.resume();
    let said = world
        .seen
        .events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::Paused { .. } | EventKind::Resumed { .. }));
    assert_eq!((said.count(), world.offers().len()), (2, 1));
    world.check();
}

#[test]
fn a_pause_before_anything_began_leaves_the_job_queued() {
    let mut world = World::new(1, Rollout::default());
    world.pause();
    world.resume();
    assert_eq!(world.job.state(), JobState::Queued);
}

#[test]
fn windows_do_not_close_while_paused_and_open_anew() {
    let mut world = World::new(1, Rollout::default());
    world.pass_secs(20);
    world.pause();
    world.pass_secs(60);
    assert_eq!(world.outcome(0), None);
    world.resume();
    world.pass_secs(29);
    assert_eq!(world.outcome(0), None);
    world.pass_secs(1);
    assert_eq!(world.outcome(0), Some(State::Unreachable));
    world.check();
    let offline = Offline::Queue(Duration::from_secs(40));
    let mut world = World::new(1, Rollout { offline, ..Rollout::default() });
    world.pass(Duration::ZERO);
    world.pause();
    world.pass_secs(60);
    world.resume();
    assert_eq!(world.outcome(0), None, "its time in the queue passed while nothing could be offered");
    world.connect(0, &[]);
    assert_eq!(world.offers(), [first(0)]);
    world.check();
}

#[test]
fn the_deadline_counts_while_paused() {
    let mut world = World::new(2, Rollout { concurrency: Some(1), ..Rollout::default() }).all_connected();
    world.pause();
    world.pass_secs(600);
    assert_eq!((world.outcome(1), world.job.state()), (Some(State::Expired), JobState::Active));
    assert_eq!(world.job.stopping(), Some("the job's deadline passed"), "nobody is told to resume it");
    world.run(first(0), 0);
    assert_eq!(world.job.state(), JobState::Done);
    world.check();
    let rollout = Rollout { waves: vec![1], gate: Some(shell("check")), ..Rollout::default() };
    let mut world = World::new(2, rollout).all_connected();
    world.run(first(0), 0);
    world.run(gate(0), 1);
    world.restart();
    world.pass_secs(600);
    assert_eq!((world.outcome(1), world.job.state()), (Some(State::Expired), JobState::Done));
    world.check();
}

#[test]
fn a_task_that_turns_out_never_to_have_arrived_waits_for_the_end_of_the_pause() {
    let lost = || {
        let mut world = World::new(1, Rollout::default()).all_connected();
        world.fact(Input::Disconnected { target: 0 });
        world.pause();
        world.connect(0, &[]);
        world.report(0, TaskReport::Never).expect("it was asked");
        assert_eq!(world.offers().len(), 1, "nothing is offered while paused");
        world
    };
    let mut world = lost();
    world.resume();
    assert_eq!(world.offers().len(), 2);
    world.check();
    let mut world = lost();
    world.fact(Input::Cancel { operator: operator() });
    assert_eq!((world.outcome(0), world.job.state()), (Some(State::Skipped), JobState::Done));
    let mut world = lost();
    world.fact(Input::Disconnected { target: 0 });
    world.resume();
    world.pass_secs(150);
    assert_eq!(world.outcome(0), Some(State::Unreachable), "it is known that it never ran");
    world.check();
    let mut world = lost();
    world.restart();
    assert_eq!(world.connect(0, &[]), [(first(0), Some(Say::Ask))], "after a restart it is asked again");
}

#[test]
fn what_never_arrived_and_was_queued_meanwhile_is_offered_once_more_and_counted_once() {
    let queued = || {
        let offline = Offline::Queue(Duration::from_secs(300));
        let mut world = World::new(2, Rollout { offline, ..Rollout::default() });
        world.connect(0, &[]);
        world.fact(Input::Disconnected { target: 0 });
        world.connect(0, &[]);
        world.pause();
        world.report(0, TaskReport::Never).expect("it was asked");
        world.fact(Input::Disconnected { target: 0 });
        world.resume();
        world.pass_secs(31);
        assert!(world.job.hosts[0].queued().is_some(), "it is known that nothing runs there");
        world.pause();
        world
    };
    let mut world = queued();
    world.connect(0, &[]);
    world.resume();
    assert_eq!(world.offers(), [first(0), first(0)]);
    world.check();
    let mut world = queued();
    world.resume();
    world.pass_secs(31);
    world.check();
    world.pass_secs(400);
    assert_eq!((world.outcome(0), world.job.state()), (Some(State::Unreachable), JobState::Done));
    world.check();
}

#[test]
fn a_gate_that_fails_while_an_operator_paused_is_looked_at_on_resume() {
    let rollout = Rollout { waves: vec![1], gate: Some(shell("check")), ..Rollout::default() };
    let mut world = World::new(2, rollout).all_connected();
    world.run(first(0), 0);
    world.pause();
    world.run(gate(0), 1);
    assert_eq!(world.paused(), Some("ada asked for it"));
    world.resume();
    assert_eq!(world.paused(), Some("the gate of wave 1 failed at host 1 (exit code 1)"));
    world.resume();
    assert_eq!(world.offers(), [first(0), gate(0), first(1)]);
    world.check();
}

#[test]
fn a_pause_holds_gates_and_waves_back() {
    let rollout = Rollout { waves: vec![1], gate: Some(shell("check")), ..Rollout::default() };
    let mut world = World::new(2, rollout).all_connected();
    world.pause();
    world.run(first(0), 0);
    assert_eq!(world.offers(), [first(0)]);
    world.resume();
    assert_eq!(world.offers(), [first(0), gate(0)]);
    world.pause();
    world.run(gate(0), 0);
    assert_eq!(world.job.wave().number, 1);
    world.resume();
    assert_eq!(world.job.wave().number, 2);
    world.check();
}

#[test]
fn nothing_is_said_of_a_job_that_is_done() {
    let mut world = World::new(1, Rollout::default()).all_connected();
    world.run(first(0), 0);
    let events = world.seen.events.len();
    world.pause();
    world.resume();
    world.fact(Input::Cancel { operator: operator() });
    world.fact(Input::Stop { reason: "no more".into() });
    assert_eq!((world.job.state(), world.seen.events.len()), (JobState::Done, events));
}

#[test]
fn whoever_cancels_or_stops_a_paused_job_ends_it() {
    for input in [Input::Cancel { operator: operator() }, Input::Stop { reason: "no more".into() }] {
        let mut world = World::new(2, Rollout::default()).all_connected();
        world.pause();
        world.run(first(0), 0);
        world.fact(input);
        world.pause();
        assert_eq!(world.job.pause(), None, "there is nothing to hold up");
        let kind = RejectKind::Cancelled;
        world.say(first(1), TaskReport::Rejected { kind, reason: String::new() }).expect("fits");
        assert_eq!((world.outcome(1), world.job.state()), (Some(State::Skipped), JobState::Done));
        world.check();
    }
}
