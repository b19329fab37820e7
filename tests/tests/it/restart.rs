//! A controller that goes away and comes back: what was accepted is kept, what runs goes on, and nobody sees anything
//! twice or not at all.

use muster_tests::{Fleet, PATIENCE, Run, finish, kill, signal, until};
use rustix::process::Signal;
use std::fs;
use std::time::{Duration, Instant};

/// All events of a job, as one who follows it from the beginning sees them.
fn events(fleet: &Fleet, id: &str) -> Vec<serde_json::Value> {
    let run = fleet.muster(["attach", id, "-o", "jsonl"]);
    let events = run.jsonl();
    for (event, seq) in events.iter().zip(1_u64..) {
        assert_eq!(event["seq"], seq, "seq has a hole: {run}");
    }
    events
}

/// The last job that was accepted.
fn newest(fleet: &Fleet) -> Option<String> {
    let jobs = fleet.muster(["jobs", "-o", "json"]).json();
    jobs.get(0).map(|job| job["job"].as_str().expect("an id").to_owned())
}

/// The id in the closing line.
fn job_of(run: &Run) -> String {
    run.closing().rsplit(' ').next().expect("a closing line").to_owned()
}

#[test]
fn p9_a_follower_sees_everything_once_across_a_killed_controller() {
    let fleet = Fleet::start(2);
    let (ports, gate) = (fleet.ports(), fleet.gate("second"));
    let line =
        format!("echo $MUSTER_TASK >> {}/starts; seq 1 500; {}; seq 501 1000", fleet.dir().display(), gate.wait());
    let follower = fleet.program(["run", "-w", "all", "-o", "json", "--sh", "--", &line]).spawn();
    until(PATIENCE, "both hosts wrote the first half", || {
        newest(&fleet).is_some_and(|id| fleet.muster(["logs", &id]).out().matches(": 500\n").count() == 2)
    });
    kill(fleet.controller_pid());
    gate.open();
    until(PATIENCE, "both tasks end without a controller", || {
        [1, 2].iter().all(|agent| fleet.spooled(*agent).iter().all(|task| task.join("exit").exists()))
    });
    let lost = fleet.muster(["jobs"]);
    assert_eq!((lost.status, lost.err().lines().count()), (6, 1), "{lost}");

    let _again = fleet.restart_controller(&ports);
    let run = finish(follower);
    assert_eq!(run.status, 0, "{run}");
    assert!(run.closing().starts_with("run: 2 succeeded: 2 targeted in "), "{run}");
    assert_eq!(run.err().matches("the link to the controller broke").count(), 1, "{run}");
    let whole: String = (1..=1000).map(|number| format!("{number}\n")).collect();
    for host in run.json()["hosts"].as_array().expect("hosts") {
        assert!(host["stdout"].as_str() == Some(&whole), "{}: not each line once and in order", host["host"]);
    }
    let id = job_of(&run);
    let events = events(&fleet, &id);
    let kinds = |kind: &str| events.iter().filter(|event| event["kind"] == kind).count();
    assert_eq!((kinds("planned"), kinds("started"), kinds("finished"), kinds("done")), (1, 2, 2, 1));
    for host in ["dev-1", "dev-2"] {
        assert!(fleet.muster(["logs", &id, "-N", "-w", host]).out() == whole, "{host}: the store has something else");
    }
    let starts = fs::read_to_string(fleet.dir().join("starts")).expect("they ran");
    assert_eq!(starts.lines().count(), 2, "{starts}");
}

#[test]
fn p9_who_gave_up_following_says_so_and_attach_shows_everything() {
    let fleet = Fleet::start(1);
    let (ports, gate) = (fleet.ports(), fleet.gate("second"));
    let line = format!("echo first; {}; echo second; exit 9", gate.wait());
    let follower = fleet.program(["run", "-w", "all", "--sh", "--", &line]).spawn();
    until(PATIENCE, "it runs", || {
        newest(&fleet).is_some_and(|id| fleet.muster(["logs", &id]).out() == "dev-1: first\n")
    });
    kill(fleet.controller_pid());
    // The agent is killed as well: both come back to what they left on disk.
    kill(fleet.agent_pid(1));
    let run = finish(follower);
    assert_eq!(run.status, 5, "{run}");
    assert_eq!(run.out(), "dev-1: first\n");
    let id = job_of(&run);
    assert!(run.err().contains(&format!("the job goes on: `muster attach {id}` follows it again")), "{run}");
    assert!(run.closing().starts_with("run: 1 not done dev-1: 1 targeted in "), "{run}");

    let _controller = fleet.restart_controller(&ports);
    let attached = fleet.program(["attach", &id]).spawn();
    let _agent = fleet.restart_agent(1);
    gate.open();
    let run = finish(attached);
    assert_eq!(run.status, 1, "{run}");
    assert_eq!(run.out(), "dev-1: first\ndev-1: second\n");
    assert!(run.closing().starts_with("attach: 1 failed dev-1: 1 targeted in "), "{run}");
    assert_eq!(fleet.job(&id)["hosts"][0]["exit_code"], 9);
}

#[test]
fn p9_a_controller_that_is_asked_to_end_does_so_while_agents_and_followers_are_connected() {
    let fleet = Fleet::start(2);
    let (ports, gate) = (fleet.ports(), fleet.gate("end"));
    let line = format!("echo first; {}; echo second", gate.wait());
    let follower = fleet.program(["run", "-w", "all", "--sh", "--", &line]).spawn();
    until(PATIENCE, "both hosts run it", || {
        newest(&fleet).is_some_and(|id| fleet.muster(["logs", &id]).out().matches("first\n").count() == 2)
    });
    let mut controller = fleet.controller_pid();
    let mut again = None;
    // Twice: the second time it is one that was started on an existing state.
    for _ in 0..2 {
        let begun = Instant::now();
        signal(controller, Signal::TERM);
        let state = fleet.dir().join("controller/lock");
        let lock = fs::File::open(state).expect("a lock");
        until(Duration::from_secs(10), "the controller has ended", || lock.try_lock().is_ok());
        drop((lock, again.take()));
        assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
        let next = fleet.restart_controller(&ports);
        controller = next.pid();
        again = Some(next);
    }
    gate.open();
    let run = finish(follower);
    assert_eq!(run.status, 0, "{run}");
    assert!(run.closing().starts_with("run: 2 succeeded: 2 targeted in "), "{run}");
    let mut lines: Vec<_> = run.out().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["dev-1: first", "dev-1: second", "dev-2: first", "dev-2: second"]);
}

#[test]
fn p4_a_job_whose_id_was_printed_survives_a_kill() {
    let fleet = Fleet::start(2);
    let ports = fleet.ports();
    let mut controller = fleet.controller_pid();
    let (mut jobs, mut again) = (Vec::new(), None);
    for _ in 0..3 {
        let line = format!("echo $MUSTER_TASK >> {}/starts; echo out", fleet.dir().display());
        jobs.push(fleet.submit(["-w", "all", "-t", "120s", "--sh", "--", &line]));
        kill(controller);
        drop(again.take());
        let lock = fs::File::open(fleet.dir().join("controller/lock")).expect("a lock");
        until(PATIENCE, "the controller is gone", || lock.try_lock().is_ok());
        drop(lock);
        let next = fleet.restart_controller(&ports);
        controller = next.pid();
        again = Some(next);
    }
    for id in &jobs {
        let job = fleet.until_done(id);
        assert_eq!(job["counts"], serde_json::json!({"succeeded": 2}), "{job}");
        assert_eq!(events(&fleet, id).iter().filter(|event| event["kind"] == "output").count(), 2);
    }
    let starts = fs::read_to_string(fleet.dir().join("starts")).expect("they ran");
    assert_eq!(starts.lines().count(), 6, "each task started once: {starts}");
}
