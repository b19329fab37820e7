//! Many jobs at once: a host does so much at a time and the rest waits there, within its window; and all of it adds up.

use muster_tests::{Fleet, PATIENCE, until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::thread;

/// More than a host runs at a time, and that many.
const JOBS: usize = 80;
const AT_A_TIME: usize = 64;

/// All jobs by id.
fn jobs(fleet: &Fleet) -> BTreeMap<String, Value> {
    let jobs = fleet.muster(["jobs", "-n", "200", "-o", "json"]).json();
    let of = |job: &Value| (job["job"].as_str().expect("an id").to_owned(), job.clone());
    jobs.as_array().expect("a list").iter().map(of).collect()
}

/// Submits that many jobs to `dev-1` at once, several at a time.
fn submit_many(fleet: &Fleet, count: usize, args: &[&str]) -> Vec<String> {
    thread::scope(|scope| {
        let submit = |share: usize| (0..share).map(|_| fleet.submit(args)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(move || submit(count / 4))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("all are submitted")).collect()
    })
}

#[test]
fn a_host_runs_64_tasks_at_a_time_and_the_others_wait_across_a_restart_of_its_agent() {
    let fleet = Fleet::start(1);
    let gate = fleet.gate("end");
    let starts = fleet.dir().join("starts");
    let line = format!("echo $MUSTER_JOB >> {}; {}", starts.display(), gate.wait());
    let ids = submit_many(&fleet, JOBS, &["-w", "all", "-t", "10m", "--sh", "--", &line]);
    let started = || fs::read_to_string(&starts).unwrap_or_default().lines().count();
    until(PATIENCE, "as many run as may", || started() == AT_A_TIME);
    until(PATIENCE, "the others are accepted and wait on the host", || fleet.spooled(1).len() == JOBS);
    assert_eq!(fleet.supervisors(1).len(), AT_A_TIME);

    // One that waits is cancelled, and one that runs; the others do not notice.
    let order = fs::read_to_string(&starts).expect("they run");
    let running = order.lines().next().expect("a job");
    let waiting = ids.iter().find(|id| !order.contains(*id)).expect("some wait");
    let state = |id: &str| fleet.state(id, "dev-1");
    fleet.until_state(running, "dev-1", "started");
    fleet.until_state(waiting, "dev-1", "accepted");
    let survey = || fleet.counted("muster_tasks", &["started"]);
    until(PATIENCE, "the controller knows of all that run", || survey() == AT_A_TIME as u64);
    let why = fleet.muster(["why", "dev-1", waiting]);
    assert!(why.out().contains("queued on the host, where 64 tasks run"), "{why}");
    assert_eq!(fleet.muster(["cancel", waiting]).status, 0);
    assert_eq!(fleet.muster(["cancel", running]).status, 0);
    assert_eq!((state(running), state(waiting)), ("cancelled".to_owned(), "skipped".to_owned()));
    until(PATIENCE, "the place that was freed is taken", || started() == AT_A_TIME + 1);

    fleet.kill_agent(1);
    let _again = fleet.restart_agent(1);
    assert_eq!(fleet.supervisors(1).len(), AT_A_TIME, "those that run go on, and no other is started");
    gate.open();
    until(PATIENCE, "all are done", || jobs(&fleet).values().all(|job| job["state"] == "done"));
    let jobs = jobs(&fleet);
    let count = |state: &str| jobs.values().filter(|job| job["counts"][state] == 1).count();
    assert_eq!((count("succeeded"), count("cancelled"), count("skipped")), (JOBS - 2, 1, 1));
    let text = fs::read_to_string(&starts).expect("they ran");
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!((lines.len(), started()), (JOBS - 1, JOBS - 1), "each started once, but for the one that never did");
}

#[test]
fn p6_what_waits_on_a_host_beyond_its_deadline_expires() {
    let fleet = Fleet::start(1);
    let gate = fleet.gate("end");
    submit_many(&fleet, AT_A_TIME, &["-w", "all", "--sh", "--", &gate.wait()]);
    until(PATIENCE, "the host is full", || fleet.supervisors(1).len() == AT_A_TIME);

    let mark = fleet.dir().join("mark");
    let mark = mark.to_str().expect("UTF-8");
    for (limit, option) in [("1s", "--job-timeout"), ("1s", "-t")] {
        let run = fleet.muster(["run", "-w", "all", option, limit, "--", "touch", mark]);
        assert_eq!(run.status, 3, "{run}");
        assert!(run.closing().starts_with("run: 1 expired dev-1: 1 targeted in "), "{run}");
        assert_eq!(run.err().lines().filter(|line| line.contains("expired: its window closed")).count(), 1, "{run}");
    }
    gate.open();
    until(PATIENCE, "the host is empty", || fleet.spooled(1).is_empty());
    assert_eq!(fleet.muster(["run", "-w", "all", "--", "true"]).status, 0);
    assert!(!fs::exists(mark).expect("readable"), "what expired never runs");
}

#[test]
fn p2_twenty_jobs_at_once_on_four_hosts_all_add_up() {
    let fleet = Fleet::start(4);
    thread::scope(|scope| {
        for number in 0..20 {
            let fleet = &fleet;
            scope.spawn(move || {
                let line = format!(r#"seq 1 {number}; test "$MUSTER_HOST" != dev-3 || exit 5"#);
                let run = fleet.muster(["run", "-w", "all", "-o", "json", "--sh", "--", &line]);
                assert_eq!(run.status, 1, "{run}");
                assert!(run.closing().starts_with("run: 3 succeeded, 1 failed dev-3: 4 targeted in "), "{run}");
                let output: String = (1..=number).map(|line| format!("{line}\n")).collect();
                for host in run.json()["hosts"].as_array().expect("hosts") {
                    assert_eq!(host["stdout"].as_str(), Some(&*output), "{run}");
                }
            });
        }
    });
    assert_eq!(jobs(&fleet).len(), 20);
}
