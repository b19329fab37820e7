//! Waves, splay, the stop rule, and hosts that are away.

use super::*;
use crate::task::Phase;
use muster_proto::rollout::{MaxFail, Offline};

fn waves(sizes: &[u32]) -> Rollout {
    Rollout { waves: sizes.to_vec(), ..Rollout::default() }
}

fn wave_events(world: &World) -> Vec<(u32, u32, u32)> {
    let waves = world.seen.events.iter().filter_map(|event| match event.kind {
        EventKind::Wave { number, first, targets } => Some((number, first, targets)),
        _ => None,
    });
    waves.collect()
}

#[test]
fn a_wave_begins_when_the_one_before_it_is_over_and_the_last_size_repeats() {
    let mut world = World::new(6, waves(&[1, 2])).all_connected();
    assert_eq!(world.offers(), [first(0)]);
    world.run(first(0), 0);
    assert_eq!(world.offers(), [first(0), first(1), first(2)]);
    world.run(first(1), 0);
    assert_eq!(world.offers().len(), 3, "one of the wave is open");
    world.run(first(2), 1);
    for target in 3..6 {
        world.run(first(target), 0);
    }
    assert_eq!(wave_events(&world), [(1, 0, 1), (2, 1, 2), (3, 3, 2), (4, 5, 1)]);
    assert_eq!(world.job.wave().of, 4);
    assert_eq!(world.job.state(), JobState::Done);
    world.check();
}

#[test]
fn without_waves_there_is_no_word_of_them() {
    let mut world = World::new(2, Rollout::default()).all_connected();
    world.run(first(0), 0);
    world.run(first(1), 0);
    assert_eq!(wave_events(&world), []);
    assert_eq!((world.job.wave().number, world.job.wave().of), (1, 1));
}

#[test]
fn the_pause_after_a_wave_counts_from_its_end_also_over_a_restart() {
    let rollout = Rollout { wave_pause: Duration::from_secs(30), ..waves(&[1]) };
    let mut world = World::new(2, rollout).all_connected();
    world.run(first(0), 0);
    let until = world.now + Duration::from_secs(30);
    assert_eq!(world.job.wave().stage, WaveStage::Soaking { until });
    assert_eq!(world.job.waiting(1), Waiting::Wave { number: 2 });
    world.pass_secs(20);
    world.restart();
    world.connect(1, &[]);
    assert_eq!(world.job.wake_at(), Some(until));
    world.pass(Duration::from_millis(9_999));
    assert_eq!(wave_events(&world).len(), 1);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.offers(), [first(0), first(1)]);
    world.check();
}

#[test]
fn a_wave_that_ran_nowhere_proves_nothing_and_pauses() {
    let mut world = World::new(4, waves(&[2]));
    world.connect(0, &[]);
    world.reject(first(0));
    world.pass_secs(30);
    assert_eq!(
        world.paused(),
        Some("wave 1 proved nothing: none of its 2 hosts ran the command (1 rejected, 1 unreachable)")
    );
    assert_eq!((world.job.state(), world.job.wave().stage), (JobState::Paused, WaveStage::Held));
    world.restart();
    assert_eq!(world.job.state(), JobState::Paused, "a pause is durable");
    world.resume();
    assert_eq!(wave_events(&world).len(), 2, "the operator has looked");
    world.check();
}

#[test]
fn the_last_wave_has_nothing_to_prove() {
    let mut world = World::new(1, waves(&[1]));
    world.pass(Duration::ZERO);
    world.pass_secs(30);
    assert_eq!(world.job.state(), JobState::Done);
}

#[test]
fn too_many_failures_skip_who_has_not_started_and_leave_the_others() {
    let rollout = Rollout { concurrency: Some(4), max_fail: Some(MaxFail::Hosts(2)), ..Rollout::default() };
    let mut world = World::new(7, rollout).all_connected();
    world.say(first(2), TaskReport::Started).expect("fits");
    world.say(first(3), TaskReport::Accepted).expect("fits");
    world.run(first(0), 1);
    assert_eq!(world.job.stopping(), None);
    world.run(first(1), 1);
    assert_eq!(world.job.stopping(), Some("2 of the first 7 hosts failed, and --max-fail is 2"));
    assert_eq!((world.sent(Send::Withdraw(first(3))), world.sent(Send::Withdraw(first(4)))), (1, 1));
    assert_eq!((world.outcome(4), world.outcome(5)), (None, Some(State::Skipped)), "who had room was offered it");
    world.say(first(2), exited(1)).expect("what runs goes on");
    for target in 3..5 {
        let kind = RejectKind::Cancelled;
        world.say(first(target), TaskReport::Rejected { kind, reason: String::new() }).expect("fits");
    }
    assert_eq!(world.job.state(), JobState::Done);
    assert_eq!(world.job.counts().get(State::Skipped), 4);
    assert_eq!(world.seen.events.iter().filter(|e| matches!(e.kind, EventKind::Stopping { .. })).count(), 1);
    world.check();
}

#[test]
fn a_share_of_failures_is_of_the_waves_that_began_and_the_unreachable_are_counted_apart() {
    let rollout = Rollout { max_fail: Some(MaxFail::Percent(50)), ..waves(&[4, 6]) };
    let mut world = World::new(10, rollout);
    for target in 0..3 {
        world.connect(target, &[]);
    }
    world.run(first(0), 0);
    world.run(first(1), 1);
    world.pass_secs(30);
    assert_eq!((world.outcome(3), world.job.stopping()), (Some(State::Unreachable), None));
    world.run(first(2), 1);
    assert!(world.job.stopping().is_some_and(|reason| reason.contains("2 of the first 4 hosts")), "2 of 4, not of 10");
    assert_eq!(world.job.counts().get(State::Skipped), 6);
    world.check();
}

#[test]
fn a_stop_is_not_undone_by_a_resume_and_ends_a_pause() {
    let rollout = Rollout { concurrency: Some(1), max_fail: Some(MaxFail::Hosts(1)), ..Rollout::default() };
    let mut world = World::new(3, rollout).all_connected();
    world.pause();
    world.run(first(0), 1);
    assert_eq!(world.job.state(), JobState::Done);
    world.resume();
    assert_eq!(world.job.counts().get(State::Skipped), 2);
    world.check();
}

/// The first wave's host failed, went away, and is tried again when its turn finds nobody.
fn stopped_within_a_turn(gate: Option<Command>) -> World {
    let once = Rollout { retry_failed: 1, max_fail: Some(MaxFail::Hosts(1)), offline: Offline::Skip, ..waves(&[1]) };
    let mut world = World::new(2, Rollout { gate, ..once }).all_connected();
    world.run(first(0), 1);
    world.fact(Input::Disconnected { target: 0 });
    world.pass_secs(2);
    world
}

#[test]
fn a_job_that_stops_within_a_turn_offers_and_begins_nothing_more_and_is_done_at_once() {
    for gate in [None, Some(shell("check"))] {
        let world = stopped_within_a_turn(gate);
        assert_eq!((world.outcome(0), world.outcome(1)), (Some(State::Failed), Some(State::Skipped)));
        assert_eq!((wave_events(&world).len(), world.job.state()), (1, JobState::Done));
        world.check();
    }
    let rollout =
        Rollout { retry_failed: 1, max_fail: Some(MaxFail::Hosts(1)), offline: Offline::Skip, ..Rollout::default() };
    let mut world = World::new(2, rollout).all_connected();
    (0..2).for_each(|target| world.run(first(target), 1));
    let turn = |target: usize| world.job.hosts[target].task().timer().expect("it is tried again");
    let away = u32::from(turn(1) < turn(0));
    world.fact(Input::Disconnected { target: away });
    world.pass_secs(2);
    assert_eq!((world.offers().len(), world.job.state()), (2, JobState::Done), "the other is in the same line");
    world.check();
}

#[test]
fn starts_are_spread_the_same_way_every_time() {
    let rollout = Rollout { splay: Duration::from_secs(20), ..Rollout::default() };
    let mut world = World::new(50, rollout.clone()).all_connected();
    let at_once = world.offers().len();
    assert!(at_once < 10, "{at_once} of 50 started at once");
    let Waiting::Turn { at } = world.job.waiting(49) else { panic!("{:?}", world.job.waiting(49)) };
    world.pass_secs(10);
    let half = world.offers().len();
    assert!((15..35).contains(&half), "{half} of 50 after half the time");
    world.restart();
    assert!(matches!(world.job.hosts[49].phase(), Phase::Offered(_)) || world.job.waiting(49) == Waiting::Turn { at });
    let mut twin = World::new(50, rollout).all_connected();
    twin.pass_secs(20);
    assert_eq!(twin.offers().len(), 50);
    twin.check();
}

#[test]
fn hosts_that_are_away_are_skipped_at_once_or_have_their_own_window() {
    let world = World::new(1, Rollout { offline: Offline::Skip, ..Rollout::default() });
    let mut skip = World { ..world };
    skip.pass(Duration::ZERO);
    assert_eq!(skip.outcome(0), Some(State::Unreachable));
    assert_eq!(skip.reason(0), "not connected, and --offline skip does not wait");
    let span = Duration::from_secs(300);
    let mut wait = World::new(2, Rollout { offline: Offline::Wait(span), ..waves(&[1]) });
    wait.pass_secs(299);
    assert_eq!((wait.outcome(0), wave_events(&wait).len()), (None, 1), "its wave waits for it");
    wait.connect(0, &[]);
    assert_eq!(wait.offers(), [first(0)]);
    wait.check();
}

#[test]
fn nobody_is_skipped_for_the_controllers_own_restart() {
    let rollout = Rollout { offline: Offline::Skip, concurrency: Some(1), ..Rollout::default() };
    let mut world = World::new(2, rollout).all_connected();
    world.restart();
    world.connect(0, &[STARTED]);
    world.say(first(0), exited(0)).expect("fits");
    assert_eq!(world.outcome(1), None, "its agent is on its way back");
    world.connect(1, &[]);
    assert_eq!(world.offers(), [first(0), first(1)]);
    world.check();
}

#[test]
fn a_queued_host_holds_nobody_up_and_is_offered_its_task_when_it_comes() {
    let rollout = Rollout { offline: Offline::Queue(Duration::from_secs(400)), ..waves(&[2]) };
    let mut world = World::new(4, rollout);
    world.connect(1, &[]);
    let until = START + Duration::from_secs(400);
    assert_eq!(world.job.queued().collect::<Vec<_>>(), [(0, Queued { since: START, until })]);
    assert_eq!(world.job.waiting(0), Waiting::Queue { until });
    world.run(first(1), 0);
    assert_eq!(wave_events(&world).len(), 2, "nobody waits for it");
    world.restart();
    let queued: Vec<u32> = world.job.queued().map(|(target, _)| target).collect();
    assert_eq!(queued, [0, 2, 3], "a place in the queue is durable");
    world.connect(0, &[]);
    assert!(world.offers().contains(&first(0)));
    assert_eq!(world.sent(Send::Offer(first(0), Duration::from_secs(30))), 1, "with the ordinary window");
    assert!(world.job.queued().all(|(target, _)| target != 0));
    world.run(first(0), 0);
    world.pass_secs(400);
    assert_eq!((world.outcome(0), world.outcome(2)), (Some(State::Succeeded), Some(State::Unreachable)));
    assert_eq!(world.reason(2), "queued, and not connected within 400 s");
    assert_eq!(world.job.state(), JobState::Done);
    world.check();
}

#[test]
fn who_goes_away_while_there_is_no_room_is_queued_and_the_queue_ends_with_the_job() {
    let rollout =
        Rollout { offline: Offline::Queue(Duration::from_hours(24)), concurrency: Some(1), ..Rollout::default() };
    let mut world = World::new(2, rollout);
    world.connect(0, &[]);
    world.fact(Input::Disconnected { target: 1 });
    world.run(first(0), 0);
    let until = START + Duration::from_secs(600);
    assert_eq!(world.job.queued().collect::<Vec<_>>(), [(1, Queued { since: START, until })], "within the deadline");
    world.pass_secs(600);
    assert_eq!(world.outcome(1), Some(State::Unreachable));
    world.check();
}

#[test]
fn an_agent_that_was_revoked_is_over_at_every_stage() {
    let rollout = Rollout { retries: 3, wave_pause: Duration::from_secs(9), ..waves(&[3]) };
    let mut world = World::new(4, rollout).all_connected();
    world.reject(first(0));
    assert!(matches!(world.job.waiting(0), Waiting::Retry { .. }));
    for target in 0..4 {
        world.fact(Input::Revoked { target });
    }
    let states = [State::Unreachable, State::Indeterminate, State::Indeterminate, State::Unreachable];
    assert_eq!([0, 1, 2, 3].map(|target| world.outcome(target)), states.map(Some));
    assert_eq!(world.job.state(), JobState::Done);
    world.check();
}
