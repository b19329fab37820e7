//! A cancel reaches everything, whenever it comes; and limits hold where nobody is there to enforce them.

use muster_tests::{Contact, Fleet, PATIENCE, assert_no_process_with, finish, processes_with, until};

fn mark_of(job: &str) -> String {
    format!("MUSTER_JOB={job}")
}

#[test]
fn p7_a_cancel_before_the_start_keeps_it_from_ever_starting() {
    let fleet = Fleet::start(2);
    fleet.kill_agent(2);
    let gate = fleet.gate("first");
    let line = gate.wait();
    // One host is away; with -f 1 the other one's turn has not come either while the first job's program runs.
    let id = fleet.submit(["-w", "dev-[1-2]", "-f", "1", "--sh", "--", &line]);
    fleet.until_state(&id, "dev-1", "started");
    let follower = fleet.program(["attach", &id]).spawn();
    let away = fleet.submit(["-w", "dev-2", "--", "touch", "/nonexistent/must-not-run"]);

    for (job, counts) in [(&away, "1 skipped dev-2: 1"), (&id, "1 cancelled dev-1, 1 skipped dev-2: 2")] {
        let run = fleet.muster(["cancel", job]);
        assert_eq!(run.status, 0, "{run}");
        assert!(run.closing().starts_with(&format!("cancel: {counts} targeted in ")), "{run}");
    }
    let run = finish(follower);
    assert_eq!(run.status, 1, "{run}");
    assert!(run.err().contains("cancelled by "), "{run}");
    assert!(run.closing().starts_with("attach: 1 cancelled dev-1, 1 skipped dev-2: 2 targeted in "), "{run}");
    let run = fleet.muster(["attach", &away]);
    assert_eq!(run.status, 3, "{run}");
    assert!(run.err().contains("the job was cancelled before it started here"), "{run}");

    // The host comes back and is not asked to run any of it.
    let _again = fleet.restart_agent(2);
    fleet.until_contact(2, Contact::There);
    assert_eq!(fleet.muster(["run", "-w", "all", "--", "true"]).status, 0);
    assert_eq!((fleet.state(&away, "dev-2"), fleet.state(&id, "dev-2")), ("skipped".into(), "skipped".into()));
    assert!(fleet.spooled(2).iter().all(|task| !task.to_string_lossy().contains(&away)));
}

#[test]
fn p7_two_cancels_end_a_program_that_ignores_term_and_its_runaways_once() {
    let fleet = Fleet::start(2);
    let line = "trap '' TERM; setsid sh -c 'trap \"\" TERM; (sleep 1000 &) ; echo up; sleep 1000' & wait; sleep 1000";
    let id = fleet.submit(["-w", "all", "--grace", "300ms", "--sh", "--", line]);
    until(PATIENCE, "both are up", || fleet.muster(["logs", &id]).out().matches("up").count() == 2);

    let cancels: Vec<_> = (0..2).map(|_| fleet.program(["cancel", &id]).spawn()).collect();
    for run in cancels.into_iter().map(finish) {
        assert_eq!(run.status, 0, "{run}");
        assert!(run.closing().starts_with("cancel: 2 cancelled dev-[1-2]: 2 targeted in "), "{run}");
    }
    assert_eq!(processes_with(&mark_of(&id)), Vec::<u32>::new(), "confirmed dead before it is reported");

    let after = fleet.muster(["cancel", &id]);
    assert_eq!(after.status, 0, "{after}");
    assert!(after.err().contains("was over before the cancel came"), "{after}");
    let events = fleet.muster(["attach", &id, "-o", "jsonl"]);
    assert_eq!(events.status, 1, "{events}");
    let kinds = |kind: &str| events.jsonl().iter().filter(|event| event["kind"] == kind).count();
    assert_eq!((kinds("cancelling"), kinds("finished"), kinds("done")), (1, 2, 1), "{events}");
}

#[test]
fn p2_a_cancel_after_the_end_changes_nothing() {
    let fleet = Fleet::start(1);
    let id = fleet.submit(["-w", "all", "--sh", "--", "exit 4"]);
    let before = fleet.until_done(&id);
    let run = fleet.muster(["cancel", &id]);
    assert_eq!(run.status, 0, "{run}");
    assert!(run.err().contains("was over before the cancel came"), "{run}");
    assert!(run.closing().starts_with("cancel: 1 failed dev-1: 1 targeted in "), "{run}");
    assert_eq!(fleet.job(&id), before);

    let unknown = fleet.muster(["cancel", "00000000000000000000000000"]);
    assert_eq!((unknown.status, unknown.err().lines().count()), (2, 1), "{unknown}");
    assert!(unknown.err().contains("00000000000000000000000000"), "{unknown}");
}

#[test]
fn p7_a_cancel_reaches_an_agent_when_it_comes_back() {
    let fleet = Fleet::start(1);
    let id = fleet.submit(["-w", "all", "--sh", "--", "echo before; sleep 1000"]);
    until(PATIENCE, "it runs", || fleet.muster(["logs", &id]).out() == "dev-1: before\n");
    fleet.kill_agent(1);
    assert_eq!(fleet.muster(["cancel", "-d", &id]).status, 0);
    assert_eq!(fleet.job(&id)["state"], "cancelling");
    assert!(!processes_with(&mark_of(&id)).is_empty(), "nobody is there to end it yet");

    let _again = fleet.restart_agent(1);
    let run = fleet.muster(["attach", &id]);
    assert_eq!(run.status, 1, "{run}");
    assert!(run.closing().starts_with("attach: 1 cancelled dev-1: 1 targeted in "), "{run}");
    assert_eq!(run.out(), "dev-1: before\n");
    assert_no_process_with(&mark_of(&id));
}

#[test]
fn p8_the_run_timeout_holds_while_the_agent_is_dead() {
    let fleet = Fleet::start(1);
    let line = "echo before; trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done";
    let id = fleet.submit(["-w", "all", "-u", "5s", "--sh", "--", line]);
    until(PATIENCE, "it runs", || fleet.muster(["logs", &id]).out() == "dev-1: before\n");
    fleet.kill_agent(1);
    assert!(!processes_with(&mark_of(&id)).is_empty(), "it outlives its agent");
    until(PATIENCE, "its supervisor ended it", || fleet.spooled(1).iter().all(|task| task.join("exit").exists()));
    assert_no_process_with(&mark_of(&id));

    let _again = fleet.restart_agent(1);
    let run = fleet.muster(["attach", &id]);
    assert_eq!(run.status, 1, "{run}");
    assert!(run.closing().starts_with("attach: 1 timed_out dev-1: 1 targeted in "), "{run}");
    assert_eq!(run.out(), "dev-1: before\ndev-1: bye\n");
    let ran = fleet.job(&id)["hosts"][0]["duration_ms"].as_u64().expect("a time");
    assert!(ran >= 5_000, "it ran {ran} ms");
}
