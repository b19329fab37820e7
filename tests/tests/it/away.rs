//! A host that goes away in the middle: what runs there goes on under its supervisor, and what is known of it arrives
//! once, complete and in order, when the agent is back.

use muster_tests::{Contact, Fleet, PATIENCE, Run, assert_no_process_with, finish, kill, signal, until};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// Writes numbered lines, waits for the file `go`, and writes as many again. It counts its own starts.
const TWO_HALVES: &str = r#"
echo "$MUSTER_TASK" >> "$MARKS/starts"
seq 1 3000
until [ -e "$MARKS/go" ]; do sleep 0.02; done
seq 3001 6000
exit 3
"#;

/// A directory that tests and their programs share.
fn marks(fleet: &Fleet) -> PathBuf {
    let dir = fleet.dir().join("marks");
    fs::create_dir(&dir).expect("a new directory");
    dir
}

fn follow(fleet: &Fleet, marks: &Path, options: &[&str], line: &str) -> Child {
    let marks = format!("MARKS={}", marks.display());
    let args = ["run", "-e", &marks].into_iter().chain(options.iter().copied()).chain(["--sh", "--", line]);
    fleet.program(args).spawn()
}

fn lines_of(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The id in the closing line.
fn job_of(run: &Run) -> String {
    run.closing().rsplit(' ').next().expect("a closing line").to_owned()
}

#[test]
fn p9_a_task_outlives_its_agent_and_its_output_arrives_once_and_in_order() {
    let fleet = Fleet::start(2);
    let marks = marks(&fleet);
    let cli = follow(&fleet, &marks, &["-w", "all", "-o", "json"], TWO_HALVES);
    let printed = || {
        let jobs = fleet.muster(["jobs", "-o", "json"]).json();
        let first = jobs.get(0).map(|job| job["job"].as_str().expect("an id").to_owned());
        first.is_some_and(|id| fleet.muster(["logs", &id]).out().matches(": 3000\n").count() == 2)
    };
    until(PATIENCE, "both hosts wrote the first half", printed);

    // One agent is killed, the other one only stands still; both tasks end meanwhile.
    fleet.kill_agent(1);
    let stopped = fleet.agent_pid(2);
    signal(stopped, Signal::STOP);
    assert_eq!(fleet.supervisors(1).len() + fleet.supervisors(2).len(), 2, "the tasks go on");
    fs::write(marks.join("go"), "").expect("written");
    until(PATIENCE, "both tasks ended without their agents", || {
        [1, 2].iter().all(|agent| fleet.spooled(*agent).iter().all(|task| task.join("exit").exists()))
    });
    signal(stopped, Signal::CONT);
    let again = fleet.restart_agent(1);

    let run = finish(cli);
    assert_eq!(run.status, 1, "{run}");
    assert!(run.closing().starts_with("run: 2 failed dev-[1-2]: 2 targeted in "), "{run}");
    let whole: String = (1..=6000).map(|number| format!("{number}\n")).collect();
    for host in run.json()["hosts"].as_array().expect("hosts") {
        assert_eq!((host["state"].as_str(), host["exit_code"].as_u64()), (Some("failed"), Some(3)));
        assert!(host["stdout"].as_str() == Some(&whole), "{}: not each line once and in order", host["host"]);
        assert_eq!(host["dropped"], 0);
    }
    let id = job_of(&run);
    let logs = fleet.muster(["logs", &id, "-N", "-w", "dev-1"]);
    assert_eq!(logs.out(), whole, "what is stored is what was shown");

    // An agent that forgets, or remembers too well, would start it again.
    kill(again.pid());
    let _again = fleet.restart_agent(1);
    until(PATIENCE, "the spool is empty", || fleet.spooled(1).is_empty() && fleet.spooled(2).is_empty());
    let run = fleet.muster(["run", "-w", "all", "--", "true"]);
    assert_eq!(run.status, 0, "{run}");
    assert_eq!(lines_of(&marks.join("starts")).len(), 2, "each task started once");
}

#[test]
fn p3_a_host_that_is_away_at_its_turn_is_unreachable_unless_it_comes_back_within_its_window() {
    let fleet = Fleet::start(2);
    let marks = marks(&fleet);
    let count = r#"echo "$MUSTER_HOST $NAME" >> "$MARKS/starts""#;
    fleet.kill_agent(2);

    let run = finish(follow(&fleet, &marks, &["-w", "all", "-t", "1s", "-e", "NAME=early"], count));
    assert_eq!(run.status, 3, "{run}");
    assert!(run.closing().starts_with("run: 1 succeeded, 1 unreachable dev-2: 2 targeted in "), "{run}");
    assert_eq!(run.err().lines().filter(|line| line.contains("not connected within 1 s")).count(), 1, "{run}");

    let cli = follow(&fleet, &marks, &["-w", "all", "-t", "60s", "-e", "NAME=late"], count);
    until(PATIENCE, "the connected host did not wait for the other", || {
        lines_of(&marks.join("starts")).contains(&"dev-1 late".to_owned())
    });
    let _again = fleet.restart_agent(2);
    let run = finish(cli);
    assert_eq!(run.status, 0, "{run}");
    assert!(run.closing().starts_with("run: 2 succeeded: 2 targeted in "), "{run}");

    let mut starts = lines_of(&marks.join("starts"));
    starts.sort();
    assert_eq!(starts, ["dev-1 early", "dev-1 late", "dev-2 late"], "what was unreachable never runs");
}

#[test]
fn p3_a_task_that_loses_its_supervisor_is_indeterminate_and_leaves_nobody_behind() {
    let fleet = Fleet::start(2);
    let marks = marks(&fleet);
    let line = r#"echo so far; setsid sh -c 'echo $$ >> "$MARKS/pids"; sleep 1000' & sleep 1000"#;
    let cli = follow(&fleet, &marks, &["-w", "all"], line);
    until(PATIENCE, "both programs run", || lines_of(&marks.join("pids")).len() == 2);

    // One loses its supervisor under the eyes of its agent, the other one while the agent is away.
    let [one] = &fleet.supervisors(1)[..] else { panic!("one task has one supervisor") };
    one.kill();
    fleet.kill_agent(2);
    let [other] = &fleet.supervisors(2)[..] else { panic!("one task has one supervisor") };
    other.kill();
    let _again = fleet.restart_agent(2);

    let run = finish(cli);
    assert_eq!(run.status, 4, "{run}");
    assert!(run.closing().starts_with("run: 2 indeterminate dev-[1-2]: 2 targeted in "), "{run}");
    let mut lines: Vec<_> = run.out().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["dev-1: so far", "dev-2: so far"]);
    assert_eq!(run.err().matches("supervisor ended before it").count(), 2, "{run}");
    assert_no_process_with(&format!("MUSTER_JOB={}", job_of(&run)));
    assert!(fleet.supervisors(1).is_empty() && fleet.supervisors(2).is_empty());
}

#[test]
fn p1_a_task_starts_at_most_once_whenever_its_agent_is_killed() {
    let fleet = Fleet::start(1);
    let marks = marks(&fleet);
    let mark = format!("MARKS={}", marks.display());
    let mut jobs = Vec::new();
    let mut agent = fleet.agent_pid(1);
    let mut again;
    for round in 0_u32..8 {
        let line = r#"echo "$MUSTER_JOB" >> "$MARKS/starts"; echo out"#;
        jobs.push(fleet.submit(["-w", "dev-1", "-e", &mark, "--sh", "--", line]));
        // Somewhere between the offer and the end, a little later each time.
        std::thread::sleep(Duration::from_millis(u64::from(round * 3)));
        kill(agent);
        again = fleet.restart_agent(1);
        agent = again.pid();
        fleet.until_contact(1, Contact::There);
    }
    let starts = |id: &str| lines_of(&marks.join("starts")).iter().filter(|line| *line == id).count();
    for id in &jobs {
        let job = fleet.until_done(id);
        let host = &job["hosts"][0];
        match host["state"].as_str().expect("a state") {
            "succeeded" => {
                assert_eq!(starts(id), 1, "{job}");
                assert_eq!(fleet.muster(["logs", id]).out(), "dev-1: out\n");
            }
            // Its intent was on disk, and nobody can tell how far it came.
            "indeterminate" => assert!(starts(id) <= 1, "{job}"),
            _ => panic!("an agent that came back within the window ran it: {job}"),
        }
    }
}

#[test]
fn p6_what_waited_for_an_agent_that_stood_still_does_not_start_after_its_deadline() {
    let fleet = Fleet::start(1);
    let mark = marks(&fleet).join("ran");
    let agent = fleet.agent_pid(1);
    signal(agent, Signal::STOP);
    let stopped_at = Instant::now();
    let touch = format!("touch {}", mark.display());
    let job = fleet.submit(["-w", "all", "--job-timeout", "3s", "--sh", "--", &touch]);
    // The offer lies in the agent's socket. An agent notices that it stood still after ten seconds.
    until(PATIENCE, "the agent stood still long enough", || stopped_at.elapsed() > Duration::from_secs(11));
    signal(agent, Signal::CONT);
    fleet.until_done(&job);
    assert_eq!(fleet.state(&job, "dev-1"), "expired");
    assert!(!mark.exists(), "it ran after its deadline");
}
