//! How many at a time, and when to stop: waves, gates, attempts, pauses and the queue hold what they promise, whatever
//! becomes of hosts and of the controller.

use muster_tests::{Contact, Fleet, PATIENCE, Restarted, Run, assert_no_process_with, finish, kill, until};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// Says who ran, in the file that all of them share.
const RAN: &str = r#"echo "$MUSTER_HOST" >> "$LOG""#;
/// The same for a gate.
const CHECKED: &str = r#"echo "gate $MUSTER_HOST" >> "$LOG""#;

/// A fleet with a file that its programs write.
struct Ground {
    fleet: Fleet,
    log: PathBuf,
}

impl Ground {
    fn of(agents: u16) -> Self {
        let fleet = Fleet::start(agents);
        let log = fleet.dir().join("ran");
        fs::write(&log, "").expect("written");
        Self { fleet, log }
    }

    fn args<'a>(&self, options: &[&'a str], line: &'a str) -> Vec<String> {
        let log = format!("LOG={}", self.log.display());
        let args = ["-w", "all", "-e", &log].into_iter().chain(options.iter().copied()).chain(["--sh", "--", line]);
        args.map(str::to_owned).collect()
    }

    /// A job that nobody follows.
    fn submit(&self, options: &[&str], line: &str) -> String {
        self.fleet.submit(self.args(options, line))
    }

    /// A job that is followed to the end of following.
    fn run(&self, options: &[&str], line: &str) -> Run {
        self.fleet.program(["run"]).args(self.args(options, line)).run()
    }

    /// What the programs have written so far.
    fn ran(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).expect("the log is there");
        text.lines().map(str::to_owned).collect()
    }

    fn count(&self, line: &str) -> usize {
        self.ran().iter().filter(|ran| *ran == line).count()
    }

    fn until_ran(&self, line: &str) {
        until(PATIENCE, &format!("{line:?} is in the log"), || self.count(line) > 0);
    }

    fn until_job(&self, id: &str, state: &str) {
        until(PATIENCE, &format!("job {id} is {state}"), || self.fleet.job(id)["state"] == state);
    }

    /// Its events so far. Following ends at the end, and where it cannot go on by itself.
    fn events(&self, id: &str) -> Vec<Value> {
        self.fleet.muster(["attach", id, "-o", "jsonl"]).jsonl()
    }

    fn verb(&self, verb: &str, id: &str) -> Run {
        let run = self.fleet.muster([verb, id]);
        assert_eq!(run.status, 0, "{run}");
        run
    }

    /// Kills whoever is the controller now, and starts the next one.
    fn next_controller(&self, controller: &mut Option<Restarted>) {
        let ports = self.fleet.ports();
        kill(controller.as_ref().map_or_else(|| self.fleet.controller_pid(), Restarted::pid));
        drop(controller.take());
        *controller = Some(self.fleet.restart_controller(&ports));
    }
}

/// Places of the events of a kind.
fn places(events: &[Value], kind: &str) -> Vec<usize> {
    (0..).zip(events).filter(|(_, event)| event["kind"] == kind).map(|(place, _)| place).collect()
}

#[track_caller]
fn assert_counts(job: &Value, counts: &[(&str, u64)]) {
    for (state, count) in counts {
        assert_eq!(job["counts"][*state].as_u64().unwrap_or(0), *count, "{state} in {job}");
    }
}

#[test]
fn a_canary_that_fails_keeps_the_rest_from_starting() {
    let ground = Ground::of(4);
    let run = ground.run(&["--waves", "1,100%", "--max-fail", "1"], &format!("{RAN}; exit 3"));
    assert_eq!(run.status, 1, "{run}");
    assert!(run.closing().starts_with("run: 1 failed dev-1, 3 skipped dev-[2-4]: 4 targeted in "), "{run}");
    assert_eq!(ground.ran(), ["dev-1"], "nobody after the canary");
    let events = ground.events(&run.job());
    assert_eq!((places(&events, "stopping").len(), places(&events, "wave").len()), (1, 1), "{events:?}");
}

#[test]
fn failures_that_are_too_many_leave_alone_what_runs() {
    let ground = Ground::of(4);
    let hold = ground.fleet.gate("hold");
    let line = format!("{RAN}; case $MUSTER_HOST in dev-1) exit 3;; dev-2) {}; echo out;; esac", hold.wait());
    let id = ground.submit(&["-f", "2", "--max-fail", "25%"], &line);
    until(PATIENCE, "those that have not started are skipped", || {
        ["dev-3", "dev-4"].iter().all(|host| ground.fleet.state(&id, host) == "skipped")
    });
    ground.fleet.until_state(&id, "dev-2", "started");
    hold.open();
    assert_counts(&ground.fleet.until_done(&id), &[("failed", 1), ("succeeded", 1), ("skipped", 2)]);
    assert!(ground.ran().len() <= 2, "{:?}", ground.ran());
}

#[test]
fn nothing_of_a_wave_starts_before_the_gate_of_the_one_before_it() {
    let ground = Ground::of(4);
    let hold = ground.fleet.gate("hold");
    let gate = format!("{CHECKED}; {}", hold.wait());
    let id = ground.submit(&["--waves", "1,2,100%", "--gate", &gate], RAN);
    ground.until_ran("gate dev-1");
    // Agents that are asked for something else answer: it is the gate that keeps the others back.
    assert_eq!(ground.fleet.muster(["run", "-w", "all", "--", "true"]).status, 0);
    assert_eq!(ground.ran(), ["dev-1", "gate dev-1"]);
    hold.open();
    assert_counts(&ground.fleet.until_done(&id), &[("succeeded", 4)]);
    let mut ran = ground.ran();
    for (wave, expected) in [
        (0..1, &["dev-1"][..]),
        (1..2, &["gate dev-1"]),
        (2..4, &["dev-2", "dev-3"]),
        (4..6, &["gate dev-2", "gate dev-3"]),
        (6..7, &["dev-4"]),
    ] {
        ran[wave.clone()].sort();
        assert_eq!(ran[wave], *expected);
    }
    assert_eq!(ran.len(), 7, "no gate after the last wave: {ran:?}");
    let events = ground.events(&id);
    let waves: Vec<_> = places(&events, "wave").into_iter().map(|place| events[place]["targets"].clone()).collect();
    assert_eq!(waves, [1, 2, 1]);
}

#[test]
fn a_gate_that_fails_pauses_the_job_with_the_reason_until_somebody_has_looked() {
    let ground = Ground::of(3);
    let run = ground.run(&["--waves", "1,1,100%", "--gate", &format!("{CHECKED}; echo no >&2; exit 7")], RAN);
    assert_eq!(run.status, 5, "{run}");
    let id = run.job();
    assert!(run.err().contains("the gate of wave 1 failed at dev-1 (exit code 7)"), "{run}");
    assert!(run.err().contains(&format!("muster resume {id}")), "{run}");
    assert_eq!(ground.ran(), ["dev-1", "gate dev-1"]);
    let status = ground.fleet.muster(["status"]);
    assert!(status.err().contains(&format!("job {id} is paused: the gate of wave 1 failed")), "{status}");
    let why = ground.fleet.muster(["why", "dev-2", &id]);
    assert!(why.out().contains("is paused since"), "{why}");

    ground.verb("resume", &id);
    ground.until_ran("gate dev-2");
    ground.until_job(&id, "paused");
    assert_eq!(ground.ran(), ["dev-1", "gate dev-1", "dev-2", "gate dev-2"], "the gate is not asked again");
    ground.verb("cancel", &id);
    assert_counts(&ground.fleet.until_done(&id), &[("succeeded", 2), ("skipped", 1)]);
    assert_eq!(ground.count("dev-3"), 0);
}

#[test]
fn a_gate_that_hangs_or_floods_is_ended_and_pauses_the_job() {
    let ground = Ground::of(2);
    // A flood has time to begin, however busy the machine.
    for (gate, timeout, output) in [("sleep 1000", "700ms", 0..=0), ("yes", "5s", 1..=32 << 10)] {
        let id = ground.submit(&["--waves", "1", "--gate", gate, "--gate-timeout", timeout], RAN);
        ground.until_job(&id, "paused");
        let events = ground.events(&id);
        let paused = &events[places(&events, "paused")[0]];
        let reason = paused["reason"].as_str().expect("a reason");
        assert!(reason.contains("the gate of wave 1 failed at dev-1"), "{reason}");
        assert_eq!(paused["operator"], Value::Null, "nobody wanted it");
        let written: usize = places(&events, "gate")
            .into_iter()
            .filter(|place| events[*place]["step"] == "output")
            .map(|place| events[place]["text"].as_str().map_or(0, str::len))
            .sum();
        assert!(output.contains(&written), "{written} bytes of output were kept");
        ground.verb("resume", &id);
        assert_counts(&ground.fleet.until_done(&id), &[("succeeded", 2)]);
    }
}

#[test]
fn the_gate_runs_where_the_command_did_though_its_last_attempt_could_not_start() {
    let ground = Ground::of(2);
    let program = ground.fleet.dir().join("program");
    fs::write(&program, "#!/bin/sh\nrm \"$0\"\nexit 1\n").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our file");
    let (path, log) = (program.display().to_string(), format!("LOG={}", ground.log.display()));
    let options = ["-w", "all", "-e", &log, "--waves", "1", "--retry-failed", "1", "--retries", "1"];
    let id = ground.fleet.submit(options.into_iter().chain(["--gate", CHECKED, "--", &path]));
    assert_counts(&ground.fleet.until_done(&id), &[("failed", 1), ("start_failed", 1)]);
    assert_eq!(ground.ran(), ["gate dev-1"], "not refused as one that nobody signed");
}

#[test]
fn a_wave_in_which_nobody_ran_it_proves_nothing() {
    let ground = Ground::of(2);
    ground.fleet.kill_agent(1);
    let id = ground.submit(&["--waves", "1", "--offline", "skip"], RAN);
    ground.until_job(&id, "paused");
    let events = ground.events(&id);
    let paused = &events[places(&events, "paused")[0]];
    assert!(paused["reason"].as_str().is_some_and(|text| text.contains("wave 1 proved nothing")), "{paused}");
    assert_eq!(ground.fleet.state(&id, "dev-1"), "unreachable");
    ground.verb("resume", &id);
    assert_counts(&ground.fleet.until_done(&id), &[("succeeded", 1), ("unreachable", 1)]);
    assert_eq!(ground.ran(), ["dev-2"]);
}

#[test]
fn what_ran_is_tried_again_only_where_that_was_spelled_out() {
    let ground = Ground::of(1);
    let line = r#"echo "$MUSTER_ATTEMPT" >> "$LOG"; exit 3"#;
    let run = ground.run(&["--retries", "5"], line);
    assert_eq!((run.status, ground.ran()), (1, vec!["1".to_owned()]), "{run}");
    let run = ground.run(&["--retry-failed", "1"], line);
    assert_eq!((run.status, ground.ran()), (1, ["1", "1", "2"].map(str::to_owned).to_vec()), "{run}");
    let events = ground.events(&run.job());
    let (retrying, finished) = (places(&events, "retrying"), places(&events, "finished"));
    assert_eq!((retrying.len(), finished.len(), places(&events, "started").len()), (1, 1, 2), "{events:?}");
    assert_eq!((&events[retrying[0]]["attempt"], &events[retrying[0]]["exit_code"]), (&2.into(), &3.into()));
    assert_eq!(ground.fleet.job(&run.job())["hosts"][0]["attempt"], 2);
}

#[test]
fn what_did_not_start_is_tried_again_until_it_does() {
    let ground = Ground::of(1);
    let program = ground.fleet.dir().join("program");
    let path = program.display().to_string();
    let id = ground.fleet.submit(["-w", "all", "--retries", "5", "--", &path]);
    until(PATIENCE, "another attempt follows", || ground.fleet.job(&id)["hosts"][0]["attempt"].as_u64() >= Some(2));
    let why = ground.fleet.muster(["why", "dev-1", &id]);
    assert!(why.out().contains("attempt "), "{why}");
    let draft = program.with_extension("draft");
    fs::write(&draft, "#!/bin/sh\necho here\n").expect("written");
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).expect("our file");
    fs::rename(&draft, &program).expect("the same directory");
    assert_counts(&ground.fleet.until_done(&id), &[("succeeded", 1)]);
    let logs = ground.fleet.muster(["logs", &id]);
    assert_eq!(logs.out(), "dev-1: here\n", "{logs}");
}

#[test]
fn a_host_that_is_away_is_queued_runs_when_it_is_back_and_keeps_nobody_waiting() {
    let ground = Ground::of(3);
    ground.fleet.kill_agent(1);
    let run = ground.run(&["--waves", "2,100%", "--offline", "queue=1h"], RAN);
    assert_eq!(run.status, 5, "{run}");
    let id = run.job();
    let mut ran = ground.ran();
    ran.sort();
    assert_eq!(ran, ["dev-2", "dev-3"], "its wave does not wait for it");
    let queue = ground.fleet.muster(["queue", "-o", "json"]);
    assert!(queue.out().contains("dev-1") && queue.out().contains(&id), "{queue}");
    let why = ground.fleet.muster(["why", "dev-1", &id]);
    assert!(why.out().contains("queued until"), "{why}");

    let _again = ground.fleet.restart_agent(1);
    assert_counts(&ground.fleet.until_done(&id), &[("succeeded", 3)]);
    assert_eq!(ground.count("dev-1"), 1);
    let queue = ground.fleet.muster(["queue", "-o", "json"]);
    assert!(!queue.out().contains("dev-1"), "{queue}");
}

#[test]
fn each_queued_host_is_given_up_in_its_time_and_never_runs_after_it() {
    let ground = Ground::of(2);
    ground.fleet.kill_agent(1);
    let id = ground.submit(&["--offline", "queue=1s"], RAN);
    assert_counts(&ground.fleet.until_done(&id), &[("succeeded", 1), ("unreachable", 1)]);
    let _again = ground.fleet.restart_agent(1);
    ground.fleet.until_contact(1, Contact::There);
    assert_eq!(ground.fleet.muster(["run", "-w", "all", "--", "true"]).status, 0);
    assert_eq!(ground.ran(), ["dev-2"]);
}

#[test]
fn a_pause_holds_what_has_not_started_and_resume_goes_on() {
    let ground = Ground::of(3);
    let hold = ground.fleet.gate("hold");
    let id = ground.submit(&["-f", "1"], &format!("{RAN}; {}", hold.wait()));
    ground.until_ran("dev-1");
    ground.verb("pause", &id);
    let again = ground.fleet.muster(["pause", &id]);
    assert!(again.status == 0 && again.err().contains("already"), "{again}");
    hold.open();
    ground.fleet.until_state(&id, "dev-1", "succeeded");
    assert_eq!(ground.fleet.muster(["run", "-w", "all", "--", "true"]).status, 0);
    assert_eq!((ground.ran().len(), &ground.fleet.job(&id)["state"]), (1, &"paused".into()));
    let run = ground.fleet.muster(["attach", &id]);
    assert_eq!(run.status, 5, "{run}");
    assert!(run.err().contains(&format!("muster resume {id}")), "{run}");
    ground.verb("resume", &id);
    assert_counts(&ground.fleet.until_done(&id), &[("succeeded", 3)]);
    let done = ground.fleet.muster(["pause", &id]);
    assert_eq!((done.status, done.err().lines().count()), (2, 1), "{done}");
    let audit = ground.fleet.muster(["audit"]);
    let recorded =
        |action: &str| audit.out().lines().filter(|line| line.contains(action) && line.contains(&id)).count();
    assert_eq!((recorded("job.pause"), recorded("job.resume")), (1, 1), "{audit}");
}

#[test]
fn a_job_goes_on_from_wherever_its_controller_was_killed() {
    let ground = Ground::of(3);
    let [first, gate, second] = ["first", "gate", "second"].map(|name| ground.fleet.gate(name));
    let line = format!("{RAN}; case $MUSTER_HOST in dev-1) {};; *) {};; esac", first.wait(), second.wait());
    let check = format!("{CHECKED}; {}; exit 1", gate.wait());
    let id = ground.submit(&["--waves", "1,100%", "--gate", &check, "-f", "1", "-t", "60s"], &line);
    let mut controller = None;

    ground.until_ran("dev-1");
    ground.next_controller(&mut controller);
    first.open();
    ground.until_ran("gate dev-1");
    ground.next_controller(&mut controller);
    gate.open();
    ground.until_job(&id, "paused");
    ground.next_controller(&mut controller);
    assert_eq!(ground.fleet.job(&id)["state"], "paused", "a pause outlives the controller");
    for host in 1..=3 {
        ground.fleet.until_contact(host, Contact::There);
    }
    assert_eq!(ground.ran(), ["dev-1", "gate dev-1"]);
    ground.verb("resume", &id);
    ground.until_ran("dev-2");
    ground.next_controller(&mut controller);
    second.open();
    assert_counts(&ground.fleet.until_done(&id), &[("succeeded", 3)]);
    assert_eq!(ground.ran(), ["dev-1", "gate dev-1", "dev-2", "dev-3"], "each started once, in its turn");
    let events = ground.events(&id);
    assert_eq!((places(&events, "wave").len(), places(&events, "paused").len()), (2, 1), "{events:?}");
}

#[test]
fn attempts_and_the_queue_outlive_the_controller() {
    let ground = Ground::of(2);
    ground.fleet.kill_agent(2);
    let line = r#"echo "$MUSTER_HOST $MUSTER_ATTEMPT" >> "$LOG"; [ "$MUSTER_ATTEMPT" = 3 ]"#;
    let id = ground.submit(&["--retry-failed", "2", "--offline", "queue=1h"], line);
    let mut controller = None;
    ground.until_ran("dev-1 1");
    ground.next_controller(&mut controller);
    ground.until_ran("dev-1 2");
    ground.next_controller(&mut controller);
    ground.until_ran("dev-1 3");
    ground.fleet.until_state(&id, "dev-1", "succeeded");
    let queue = ground.fleet.muster(["queue", "-o", "json"]);
    assert!(queue.out().contains("dev-2"), "{queue}");
    let follower = ground.fleet.program(["attach", &id]).spawn();
    let run = finish(follower);
    assert_eq!(run.status, 5, "all that is left is queued: {run}");
    let _again = ground.fleet.restart_agent(2);
    assert_counts(&ground.fleet.until_done(&id), &[("succeeded", 2)]);
    for host in ["dev-1", "dev-2"] {
        for attempt in 1..=3 {
            assert_eq!(ground.count(&format!("{host} {attempt}")), 1, "{:?}", ground.ran());
        }
    }
}

#[test]
fn a_wave_waits_for_a_host_that_has_been_given_time_to_come_back() {
    let ground = Ground::of(2);
    ground.fleet.kill_agent(1);
    let id = ground.submit(&["--waves", "1", "-t", "1s", "--offline", "wait=10m"], RAN);
    assert_eq!(ground.fleet.muster(["run", "-w", "dev-2", "--", "true"]).status, 0);
    assert_eq!(ground.ran(), Vec::<String>::new(), "the second wave waits for the first");
    let why = ground.fleet.muster(["why", "dev-2", &id]);
    assert!(why.out().contains("its wave is 2 of 2"), "{why}");
    let _again = ground.fleet.restart_agent(1);
    assert_counts(&ground.fleet.until_done(&id), &[("succeeded", 2)]);
    assert_eq!(ground.ran(), ["dev-1", "dev-2"]);
}

#[test]
fn a_cancel_ends_gates_that_run_and_nothing_follows() {
    let ground = Ground::of(2);
    let gate = format!("{CHECKED}; sleep 1000");
    let id = ground.submit(&["--waves", "1", "--gate", &gate], RAN);
    ground.until_ran("gate dev-1");
    ground.verb("cancel", &id);
    assert_counts(&ground.fleet.until_done(&id), &[("succeeded", 1), ("skipped", 1)]);
    assert_no_process_with(&format!("MUSTER_JOB={id}"));
    assert_eq!(ground.ran(), ["dev-1", "gate dev-1"]);
}
