//! The gate between two waves.

use super::*;

fn gated(concurrency: Option<u32>) -> Rollout {
    Rollout { concurrency, waves: vec![2], gate: Some(shell("check")), ..Rollout::default() }
}

fn after_the_first_wave() -> World {
    let mut world = World::new(4, gated(None)).all_connected();
    world.run(first(0), 0);
    world.run(first(1), 1);
    world
}

#[test]
fn the_next_wave_begins_when_the_gate_succeeded_wherever_the_command_ran() {
    let mut world = World::new(5, Rollout { waves: vec![3], ..gated(None) }).all_connected();
    world.run(first(0), 0);
    world.reject(first(1));
    world.run(first(2), 1);
    assert_eq!(world.offers()[3..], [gate(0), gate(2)], "not where nothing ran");
    assert_eq!(world.job.wave().stage, WaveStage::Gate { open: 2 });
    assert_eq!((world.job.waiting(0), world.job.waiting(1)), (Waiting::Gate, Waiting::Over));
    world.run(gate(0), 0);
    assert_eq!(world.offers().len(), 5, "one is open");
    world.run(gate(2), 0);
    assert_eq!(world.offers()[5..], [first(3), first(4)]);
    world.run(first(3), 0);
    world.run(first(4), 0);
    assert_eq!((world.job.state(), world.offers().len()), (JobState::Done, 7), "no gate after the last wave");
    world.check();
}

#[test]
fn the_gate_follows_the_last_attempt_that_ran() {
    let mut world = World::new(4, Rollout { retry_failed: 1, ..gated(None) }).all_connected();
    world.run(first(0), 1);
    world.run(first(1), 0);
    world.pass_secs(2);
    world.reject(second(0));
    assert_eq!(world.offers()[3..], [gate(0), gate(1)]);
    world.check();
}

#[test]
fn the_gate_keeps_to_the_concurrency() {
    let mut world = World::new(4, gated(Some(1))).all_connected();
    world.run(first(0), 0);
    world.run(first(1), 0);
    assert_eq!(world.offers(), [first(0), first(1), gate(0)]);
    world.run(gate(0), 0);
    assert_eq!(world.offers()[3..], [gate(1)]);
    world.check();
}

#[test]
fn a_gate_that_fails_pauses_and_the_reason_says_where() {
    let mut world = after_the_first_wave();
    world.run(gate(0), 3);
    assert_eq!(world.job.state(), JobState::Active, "all of them are heard");
    world.fact(Input::Disconnected { target: 1 });
    world.pass_secs(600 - 1);
    assert_eq!(world.job.counts().total(), 2, "the gate had time until the deadline");
    assert_eq!(
        world.paused(),
        Some(
            "the gate of wave 1 failed at host 1 (exit code 3) and host 2 (no contact with the agent until after the \
              run timeout)"
        )
    );
    world.restart();
    assert_eq!((world.job.state(), world.job.wave().stage), (JobState::Paused, WaveStage::Held));
    world.resume();
    assert_eq!(world.job.wave().number, 2);
    assert_eq!(world.seen.events.iter().filter(|e| matches!(e.kind, EventKind::Paused { .. })).count(), 1);
    world.check();
}

#[test]
fn a_gate_whose_host_is_away_fails_after_the_ordinary_window() {
    let mut world = World::new(4, Rollout { offline: muster_proto::rollout::Offline::Skip, ..gated(None) });
    for target in 0..4 {
        world.job.connected(target, &[], world.now, &mut world.seen);
    }
    world.pass(Duration::ZERO);
    world.run(first(0), 0);
    world.say(first(1), TaskReport::Started).expect("fits");
    world.fact(Input::Disconnected { target: 0 });
    world.say(first(1), exited(0)).expect("fits");
    world.run(gate(1), 0);
    world.pass_secs(29);
    assert_eq!(world.paused(), None);
    world.pass_secs(1);
    assert_eq!(world.paused(), Some("the gate of wave 1 failed at host 1 (not connected within 30 s)"));
    world.check();
}

#[test]
fn many_gates_that_fail_are_counted_and_some_named() {
    let targets = 9;
    let mut world = World::new(targets + 1, Rollout { waves: vec![targets], ..gated(None) }).all_connected();
    (0..targets).for_each(|target| world.run(first(target), 0));
    (0..targets).for_each(|target| world.run(gate(target), 1));
    assert_eq!(
        world.paused(),
        Some(
            "the gate of wave 1 failed at host 1 (exit code 1), host 2 (exit code 1) and host 3 (exit code 1) and at 6 \
              more hosts"
        )
    );
    world.check();
}

#[test]
fn a_controller_that_is_killed_while_gates_run_goes_on_with_those_that_are_open() {
    let mut world = after_the_first_wave();
    world.run(gate(0), 0);
    world.restart();
    for target in 0..4 {
        let held = if target == 1 { vec![Held { attempt: Attempt::GATE, started: true }] } else { Vec::new() };
        let greetings = world.connect(target, &held);
        let resumed = [(gate(1), Some(Say::Resume(0)))];
        assert_eq!(greetings, if target == 1 { &resumed[..] } else { &[] });
    }
    world.say(gate(1), exited(0)).expect("fits");
    assert_eq!(world.offers(), [first(0), first(1), gate(0), gate(1), first(2), first(3)], "no gate runs twice");
    world.check();
}

#[test]
fn a_controller_that_is_killed_between_a_wave_and_its_gate_offers_it() {
    let mut world = World::new(4, Rollout { wave_pause: Duration::from_secs(5), ..gated(None) }).all_connected();
    world.run(first(0), 0);
    world.run(first(1), 0);
    world.restart();
    (0..2).for_each(|target| drop(world.connect(target, &[])));
    world.pass_secs(5);
    assert_eq!(world.offers()[2..], [gate(0), gate(1)]);
    world.check();
}

#[test]
fn a_gate_is_never_asked_of_before_its_wave_is_over() {
    let mut world = World::new(4, gated(None)).all_connected();
    assert_eq!(world.say(gate(0), TaskReport::Started), Err(Refused::Phase));
    assert_eq!(world.say(gate(0), TaskReport::Never), Err(Refused::Phase));
    assert_eq!(
        world.connect(0, &[Held { attempt: Attempt::GATE, started: true }]).len(),
        1,
        "only its command is asked"
    );
    world.check();
}

#[test]
fn a_gate_that_floods_is_held_to_its_own_limit() {
    let output = OutputLimit::Kept { head: 4, tail: 4 };
    let command = Command { output, ..shell("yes") };
    let mut world = World::new(4, Rollout { gate: Some(command), ..gated(None) }).all_connected();
    world.run(first(0), 0);
    world.run(first(1), 0);
    world.say(gate(0), TaskReport::Started).expect("fits");
    world.say(gate(0), frame(0, 0, b"12345678")).expect("fits");
    assert_eq!(world.say(gate(0), frame(1, 8, b"9")), Err(Refused::Limit));
    assert_eq!(world.sent(Send::Ack(gate(0), 1)), 1);
    world.check();
}

#[test]
fn a_cancel_ends_gates_too_and_the_job_waits_for_them() {
    let mut world = after_the_first_wave();
    world.say(gate(0), TaskReport::Started).expect("fits");
    world.fact(Input::Disconnected { target: 1 });
    world.fact(Input::Cancel { operator: operator() });
    assert_eq!(world.sent(Send::Cancel(gate(0))), 1);
    assert_eq!((world.job.counts().total(), world.job.state()), (4, JobState::Cancelling));
    let greetings = world.job.connected(1, &[], world.now, &mut world.seen);
    assert_eq!(greetings, [Greeting { task: gate(1), say: Some(Say::Ask), cancel: true }]);
    world.say(gate(1), TaskReport::Rejected { kind: RejectKind::Cancelled, reason: String::new() }).expect("fits");
    let end = End { kind: EndKind::Cancelled, duration: Duration::ZERO };
    world.say(gate(0), TaskReport::Exited { frames: 0, end }).expect("fits");
    assert_eq!(world.job.state(), JobState::Done);
    world.check();
}

#[test]
fn the_deadline_ends_a_job_whose_gates_have_not_run() {
    let mut world = World::new(4, gated(Some(1))).all_connected();
    world.run(first(0), 0);
    world.run(first(1), 0);
    world.say(gate(0), TaskReport::Started).expect("fits");
    world.pass_secs(600);
    assert_eq!(world.job.counts().get(State::Expired), 2);
    assert_eq!(world.job.state(), JobState::Active, "a gate runs");
    world.say(gate(0), exited(1)).expect("fits");
    assert_eq!((world.job.state(), world.offers().len()), (JobState::Done, 3));
    assert_eq!(world.paused(), None, "nothing follows that it could hold up");
    world.check();
}

#[test]
fn a_gate_whose_agent_is_revoked_fails() {
    let mut world = after_the_first_wave();
    world.run(gate(0), 0);
    world.fact(Input::Revoked { target: 1 });
    assert_eq!(world.paused(), Some("the gate of wave 1 failed at host 2 (the agent was revoked)"));
    world.check();
}

#[test]
fn nobody_waits_for_the_gate_of_an_agent_that_was_revoked_before_it() {
    let rollout = Rollout { wave_pause: Duration::from_secs(5), ..gated(None) };
    for restarted in [false, true] {
        let mut world = World::new(4, rollout.clone()).all_connected();
        world.run(first(0), 0);
        world.fact(Input::Revoked { target: 0 });
        world.run(first(1), 0);
        if restarted {
            world.restart();
            (1..4).for_each(|target| drop(world.connect(target, &[])));
        }
        world.pass_secs(5);
        assert_eq!(world.offers()[2..], [gate(1)]);
        world.run(gate(1), 0);
        assert_eq!(world.paused(), Some("the gate of wave 1 failed at host 1 (the agent was revoked)"));
        world.fact(Input::Revoked { target: 1 });
        world.resume();
        world.run(first(2), 0);
        world.fact(Input::Revoked { target: 2 });
        world.run(first(3), 0);
        assert_eq!(world.job.state(), JobState::Done, "the last wave has no gate");
        world.check();
    }
}
