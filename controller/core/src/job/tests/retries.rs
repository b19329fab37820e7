//! Attempts: which follow, when, and what older ones may still say.

use super::*;
use muster_proto::rollout::Offline;

fn tries(retries: u32, retry_failed: u32) -> Rollout {
    Rollout { retries, retry_failed, ..Rollout::default() }
}

/// When the next attempt may begin, by the last event.
fn retry_at(world: &World) -> Timestamp {
    match world.seen.events.last() {
        Some(Event { kind: EventKind::Retrying { at, .. }, .. }) => *at,
        other => panic!("no attempt follows: {other:?}"),
    }
}

#[test]
fn what_did_not_run_is_tried_again_and_what_ran_only_if_that_was_spelled_out() {
    let mut world = World::new(2, tries(1, 0)).all_connected();
    world.reject(first(0));
    world.run(first(1), 1);
    assert_eq!((world.outcome(0), world.outcome(1)), (None, Some(State::Failed)));
    assert_eq!(world.job.hosts[0].attempt(), Attempt(2));
    world.pass_secs(1);
    assert_eq!(world.offers(), [first(0), first(1), second(0)]);
    world.run(second(0), 1);
    assert_eq!(world.outcome(0), Some(State::Failed));
    world.check();
    let mut world = World::new(1, tries(0, 1)).all_connected();
    world.run(first(0), 1);
    world.pass_secs(1);
    world.run(second(0), 0);
    assert_eq!(world.outcome(0), Some(State::Succeeded));
    world.check();
}

#[test]
fn of_what_nothing_is_known_no_attempt_follows() {
    let mut world = World::new(1, tries(9, 9)).all_connected();
    world.report(0, TaskReport::Accepted).expect("fits");
    let end = End { kind: EndKind::Lost("gone".into()), duration: Duration::ZERO };
    world.report(0, TaskReport::Started).expect("fits");
    world.report(0, TaskReport::Exited { frames: 0, end }).expect("fits");
    assert_eq!(world.outcome(0), Some(State::Indeterminate));
    world.check();
}

#[test]
fn pauses_between_attempts_double_up_to_a_minute_and_survive_a_restart() {
    let mut world = World::new(1, tries(9, 0)).all_connected();
    for doubled in [1_u64, 2, 4, 8, 16, 32, 60, 60] {
        world.reject(TaskRef { target: 0, attempt: world.job.hosts[0].attempt() });
        let at = retry_at(&world);
        let pause = world.now.until(at);
        let longest = Duration::from_secs(doubled);
        assert!(longest / 2 < pause && pause <= longest, "{pause:?} where {longest:?} is the longest");
        world.restart();
        world.connect(0, &[]);
        let before = world.offers().len();
        world.pass(pause - Duration::from_millis(1));
        assert_eq!((world.offers().len(), world.job.wake_at()), (before, Some(at)));
        world.pass(Duration::from_millis(1));
        assert_eq!(world.offers().len(), before + 1);
    }
    world.check();
}

#[test]
fn no_attempt_would_begin_past_the_deadline_or_in_a_job_that_ends() {
    let mut world = World::new(1, tries(9, 9)).all_connected();
    world.pass(Duration::from_millis(599_900));
    world.reject(first(0));
    assert_eq!(world.outcome(0), Some(State::Rejected));
    world.check();
    for input in [Input::Cancel { operator: operator() }, Input::Stop { reason: "no more".into() }] {
        let mut world = World::new(2, tries(9, 9)).all_connected();
        world.reject(first(0));
        world.report(1, TaskReport::Started).expect("fits");
        world.fact(input);
        assert_eq!(world.outcome(0), Some(State::Skipped));
        world.report(1, exited(1)).expect("fits");
        assert_eq!(world.outcome(1), Some(State::Failed));
        assert_eq!(world.job.state(), JobState::Done);
        world.check();
    }
}

#[test]
fn that_nothing_ran_is_never_said_of_a_host_where_an_earlier_attempt_did() {
    let mut world = World::new(3, tries(0, 1)).all_connected();
    world.run(first(0), 7);
    world.run(first(1), 7);
    world.run(first(2), 0);
    world.pass_secs(1);
    world.reject(second(1));
    world.fact(Input::Disconnected { target: 0 });
    world.fact(Input::Cancel { operator: operator() });
    assert_eq!((world.outcome(1), world.reason(1)), (Some(State::Failed), "attempt 2 did not run: no"));
    assert_eq!(world.job.hosts[1].outcome().and_then(|outcome| outcome.exit_code), Some(7));
    world.check();
    let mut world = World::new(1, tries(0, 1)).all_connected();
    world.run(first(0), 7);
    world.fact(Input::Cancel { operator: operator() });
    assert_eq!(world.outcome(0), Some(State::Failed), "it waited for its next attempt");
    world.check();
}

#[test]
fn a_host_that_is_tried_again_holds_up_its_wave() {
    let mut world = World::new(2, Rollout { waves: vec![1], ..tries(1, 0) }).all_connected();
    world.reject(first(0));
    assert_eq!(world.offers(), [first(0)]);
    world.pass_secs(1);
    world.run(second(0), 0);
    assert_eq!(world.offers(), [first(0), second(0), first(1)]);
    world.check();
}

#[test]
fn an_older_attempt_comes_to_rest_and_changes_nothing() {
    let mut world = World::new(1, tries(0, 1)).all_connected();
    world.run(first(0), 1);
    world.pass_secs(1);
    world.say(second(0), TaskReport::Started).expect("fits");
    let events = world.seen.events.len();
    let greetings = world.connect(0, &[STARTED, Held { attempt: Attempt(2), started: true }]);
    assert_eq!(greetings, [(second(0), Some(Say::Resume(0))), (first(0), Some(Say::Forget))]);
    for report in [TaskReport::Accepted, TaskReport::Started, TaskReport::Never, frame(5, 9, b"old"), exited(0)] {
        world.say(first(0), report).expect("taken without effect");
    }
    assert_eq!((world.sent(Send::Ack(first(0), 6)), world.sent(Send::Committed(first(0)))), (1, 2));
    assert_eq!(world.seen.events.len(), events);
    let third = TaskRef { target: 0, attempt: Attempt(3) };
    assert_eq!(world.say(third, TaskReport::Started), Err(Refused::Phase), "there is no such attempt");
    assert_eq!(world.say(gate(0), TaskReport::Started), Err(Refused::Phase), "no gate was signed");
    world.say(second(0), exited(0)).expect("fits");
    assert_eq!(world.outcome(0), Some(State::Succeeded));
    world.check();
}

#[test]
fn output_begins_anew_with_each_attempt() {
    let mut world = World::new(1, tries(0, 1)).all_connected();
    world.report(0, TaskReport::Started).expect("fits");
    world.report(0, frame(0, 0, b"one")).expect("fits");
    let end = End { kind: EndKind::Exit(1), duration: Duration::ZERO };
    world.report(0, TaskReport::Exited { frames: 1, end }).expect("fits");
    world.pass_secs(1);
    world.say(second(0), TaskReport::Started).expect("fits");
    world.say(second(0), frame(0, 0, b"two")).expect("fits");
    assert_eq!(world.sent(Send::Ack(second(0), 1)), 1);
    world.check();
}

#[test]
fn a_host_that_left_the_queue_in_vain_is_queued_anew_for_its_next_attempt() {
    let offline = Offline::Queue(Duration::from_secs(60));
    let mut world = World::new(1, Rollout { offline, ..tries(1, 0) });
    world.pass(Duration::ZERO);
    world.pass_secs(60);
    assert_eq!((world.outcome(0), world.job.queued().count()), (None, 0));
    world.pass_secs(1);
    assert_eq!(world.job.queued().count(), 1);
    world.pass_secs(60);
    assert_eq!(world.outcome(0), Some(State::Unreachable));
    world.check();
}
