//! Disks that are full and disks that lose their power: what was said stays true, nothing is started twice, and when there
//! is room or power again everything goes on by itself.

use muster_tests::{
    Controller, Dice, Disk, Length, PATIENCE, Restarted, Run, assert_no_process_with, assert_store_is_whole, enrol,
    finish, kill, pretend_reboot, processes_with, state_in, until,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

/// An agent keeps 64 MiB of its disk free.
const AGENT_DISK_MIB: u32 = 80;
const CONTROLLER_DISK_MIB: u32 = 16;

/// Enrols and runs an agent whose state is this directory.
fn agent_at(controller: &Controller, name: &str, state: &Path) -> Restarted {
    let run = enrol(&controller.address("enrolment"), state, name, &controller.token([]));
    assert_eq!(run.status, 0, "{run}");
    let agent = Restarted::start(state);
    until_connected(controller, name);
    agent
}

fn until_connected(controller: &Controller, name: &str) {
    until(PATIENCE, &format!("{name} is connected"), || {
        let agents = controller.muster(["agents", "-o", "json"]).json();
        agents.as_array().expect("a list").iter().any(|agent| agent["host"] == name && agent["connected"] == true)
    });
}

fn submit(controller: &Controller, args: &[&str]) -> String {
    let run = controller.program(["run", "-d", "-w", "all"]).args(args).run();
    assert_eq!(run.status, 0, "{run}");
    run.out().trim().to_owned()
}

fn job(controller: &Controller, id: &str) -> Value {
    controller.muster(["job", id, "-o", "json"]).json()
}

fn until_done(controller: &Controller, id: &str) -> Value {
    let mut last = Value::Null;
    until(PATIENCE, &format!("job {id} is done"), || {
        last = job(controller, id);
        last["state"] == "done"
    });
    last
}

/// A shell command that says it is there, and waits for a file.
fn at_gate(dir: &Path) -> String {
    let dir = dir.display();
    format!("echo before; : > '{dir}/there'; until [ -e '{dir}/open' ]; do sleep 0.05; done")
}

/// What it wrote before is at the controller then, as is its start.
fn until_there(controller: &Controller, job: &str, dir: &Path) {
    until(PATIENCE, "the task stands at its gate", || dir.join("there").exists());
    until(PATIENCE, "its output is known", || controller.muster(["logs", job, "-N"]).out() == "before\n");
}

fn open_gate(dir: &Path) {
    fs::write(dir.join("open"), "").expect("written");
}

/// What stands before the gate, and the numbers behind it.
fn numbers(last: u32) -> String {
    let lines = (1..=last).map(|number| format!("{number}\n"));
    std::iter::once("before\n".to_owned()).chain(lines).collect()
}

/// Output in a job's events: what is there, and how much is said to be missing.
fn output(run: &Run) -> (String, u64) {
    run.jsonl().iter().fold((String::new(), 0), |(mut text, dropped), event| match event["kind"].as_str() {
        Some("output") => {
            text += event["text"].as_str().expect("text");
            (text, dropped)
        }
        Some("truncated") => (text, dropped + event["bytes"].as_u64().expect("a number")),
        _ => (text, dropped),
    })
}

#[test]
fn p10_a_full_disk_of_an_agent_refuses_what_is_new_and_keeps_the_end_of_what_runs() {
    let Some(disk) = Disk::small(AGENT_DISK_MIB) else { return };
    let controller = Controller::start([]);
    let _agent = agent_at(&controller, "full", &disk.path().join("agent"));
    let gate = controller.path("");
    let line = format!("{}; seq 1 500000; echo end >&2; exit 7", at_gate(&gate));
    let running = submit(&controller, &["--sh", "--", &line]);
    until_there(&controller, &running, &gate);
    let ballast = disk.fill();

    let run = controller.muster(["run", "-w", "all", "--", "true"]);
    run.assert_ended(3, "1 rejected full: 1 targeted");
    assert!(run.err().contains("MiB left, and below 64 MiB no task is taken: free space on it"), "{run}");

    open_gate(&gate);
    let job = until_done(&controller, &running);
    assert_eq!((state_in(&job, "full").as_str(), job["hosts"][0]["exit_code"].as_u64()), ("failed", Some(7)), "{job}");
    let (kept, dropped) = output(&controller.muster(["logs", &running, "-w", "full", "-o", "jsonl"]));
    let all = numbers(500_000) + "end\n";
    assert!(dropped > 0, "a disk without room kept {} bytes", kept.len());
    assert_eq!(kept.len() as u64 + dropped, all.len() as u64, "what is missing is counted to the byte");
    assert!(kept.starts_with("before\n"), "what was written before is there");

    drop(ballast);
    let run = controller.muster(["run", "-w", "all", "--", "echo", "again"]);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    until(PATIENCE, "nothing is left in the spool", || {
        fs::read_dir(disk.path().join("agent/spool")).expect("a spool").next().is_none()
    });
}

#[test]
fn p4_a_full_disk_of_the_controller_takes_no_job_and_loses_nothing_and_goes_on_by_itself() {
    let Some(disk) = Disk::small(CONTROLLER_DISK_MIB) else { return };
    let mut controller = Controller::start_on(&disk.path());
    let _agent = agent_at(&controller, "busy", &controller.path("busy"));
    let gate = controller.path("");
    let line = format!("{}; seq 1 200000; exit 7", at_gate(&gate));
    let running = submit(&controller, &["--sh", "--", &line]);
    until_there(&controller, &running, &gate);
    let ballast = disk.fill();

    let marks = controller.path("marks");
    let line = format!("echo never >> '{}'", marks.display());
    // More than what happens to be left of the last pages.
    let filler = format!("FILLER={}", "x".repeat(60_000));
    let refused = controller.program(["run", "-d", "-w", "all", "-e"]).args([filler]);
    let refused = refused.args(["--sh", "--", &line]).run();
    assert_eq!((refused.status, &*refused.out()), (6, ""), "{refused}");
    assert_eq!(refused.err().lines().count(), 1, "{refused}");
    assert!(refused.err().contains("check the space and the health of the disk"), "{refused}");

    open_gate(&gate);
    let spool = controller.path("busy/spool");
    let ended = || fs::read_dir(&spool).expect("a spool").any(|task| task.expect("one").path().join("exit").exists());
    until(PATIENCE, "the task has ended on its host", ended);
    // What it cannot keep it does not show, and the agent keeps it. Reading goes on.
    assert_eq!(state_in(&job(&controller, &running), "busy"), "started");
    assert!(ended(), "the agent let go of what nobody has");

    drop(ballast);
    let done = until_done(&controller, &running);
    assert_eq!(done["hosts"][0]["exit_code"], 7, "{done}");
    let (text, dropped) = output(&controller.muster(["logs", &running, "-o", "jsonl"]));
    let all = numbers(200_000);
    assert!(text == all && dropped == 0, "{} bytes of {}", text.len(), all.len());
    let run = controller.muster(["run", "-w", "all", "--", "echo", "again"]);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    assert!(!marks.exists(), "a job that was refused ran");
    controller.kill();
    assert_store_is_whole(controller.state());
}

/// A task that says outside of Muster that it starts, and takes a while.
const COUNTED: &str = r#"echo "$MUSTER_TASK" >> "$MARKS/starts"; seq 1 300; sleep 0.2; seq 301 600"#;
const POWER_DISK_MIB: u64 = 128;

/// Jobs that come while the power goes.
struct Stream {
    marks: PathBuf,
    detached: Vec<Child>,
    followed: Vec<Child>,
}

impl Stream {
    fn new(controller: &Controller) -> Self {
        let marks = controller.path("marks");
        fs::create_dir_all(&marks).expect("a directory");
        Self { marks, detached: Vec::new(), followed: Vec::new() }
    }

    /// Some jobs that are followed, and after pauses some whose ids are printed.
    fn flow(&mut self, controller: &Controller, dice: &mut Dice) {
        let marks = format!("MARKS={}", self.marks.display());
        let start = |first: &[&str]| {
            let words = ["run", "-w", "all", "-t", "10m", "-e", &marks].into_iter().chain(first.iter().copied());
            controller.program(words.chain(["--sh", "--", COUNTED])).spawn()
        };
        self.followed.extend((0..3).map(|_| start(&["-o", "jsonl"])));
        for _ in 0..4 {
            self.detached.push(start(&["-d"]));
            std::thread::sleep(dice.pause(Duration::from_millis(150)));
        }
    }

    /// Everything that anybody saw is true, and every task that ended started once. Returns the states of all tasks.
    fn judge(self, controller: &Controller) -> BTreeMap<String, u32> {
        let mut jobs: Vec<String> = Vec::new();
        for run in self.detached.into_iter().map(finish) {
            match run.status {
                0 => jobs.push(run.out().trim().to_owned()),
                _ => assert_eq!((run.status, run.stdout.len()), (6, 0), "an id that does not count: {run}"),
            }
        }
        for run in self.followed.into_iter().map(finish) {
            // The command itself may have failed to submit; nothing was shown then.
            let Some(first) = run.jsonl().first().cloned() else { continue };
            let id = first["job"].as_str().expect("an id").to_owned();
            until_done(controller, &id);
            let stored = controller.muster(["logs", &id, "-o", "jsonl"]);
            let (shown, stored) = (run.out(), stored.out());
            assert!(stored.starts_with(&shown), "job {id}: what was shown is not what is stored: {run}\n{stored}");
            jobs.push(id);
        }
        let known = controller.muster(["jobs", "-n", "1000", "-o", "json"]).json();
        let known: Vec<_> = known.as_array().expect("a list").iter().map(|job| job["job"].as_str()).collect();
        let starts = fs::read_to_string(self.marks.join("starts")).unwrap_or_default();
        let mut states = BTreeMap::new();
        for id in &jobs {
            assert!(known.contains(&Some(id)), "job {id} was shown, and is lost");
            let job = until_done(controller, id);
            for (place, host) in job["hosts"].as_array().expect("hosts").iter().enumerate() {
                let state = host["state"].as_str().expect("a state").to_owned();
                let started = starts.lines().filter(|task| *task == format!("{id}.{place}.1")).count();
                assert!(started <= 1, "{id}.{place}.1 started {started} times");
                assert!(state != "succeeded" || started == 1, "{id}.{place}.1 never started: {host}");
                *states.entry(state).or_insert(0) += 1;
            }
        }
        states
    }
}

/// A process that a supervisor started, or that comes from one.
fn is_a_task(pid: u32) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(b"MUSTER_TASK="))
}

fn end(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    // It may have ended meanwhile.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

#[test]
fn p4_what_a_controller_has_shown_survives_a_power_cut() {
    let Some(disk) = Disk::with_power(POWER_DISK_MIB) else { return };
    let mut dice = Dice::new();
    let mut controller = Controller::start_on(&disk.path());
    let _agents = ["one", "two"].map(|name| agent_at(&controller, name, &controller.path(name)));
    let ports = controller.ports();
    for _ in 0..Length::wanted().of(2, 12) {
        let known = || controller.muster(["jobs", "-n", "1000", "-o", "json"]).json().as_array().map_or(0, Vec::len);
        let before = known();
        let mut stream = Stream::new(&controller);
        stream.flow(&controller, &mut dice);
        until(PATIENCE, "a job was accepted", || known() > before);
        std::thread::sleep(dice.pause(Duration::from_millis(400)));
        disk.cut_power();
        // It works on for a moment without knowing, and must not say anything that it cannot keep.
        std::thread::sleep(dice.pause(Duration::from_millis(200)));
        controller.kill();
        disk.power_on();
        assert_store_is_whole(controller.state());
        controller.serve_again(&ports);
        let states = stream.judge(&controller);
        assert!(states.keys().all(|state| state == "succeeded"), "the agents kept their power: {states:?}");
    }
}

#[test]
fn p1_an_agent_that_lost_its_power_starts_nothing_twice_and_says_what_it_cannot_know() {
    let Some(disk) = Disk::with_power(POWER_DISK_MIB) else { return };
    let mut dice = Dice::new();
    let controller = Controller::start([]);
    let state = disk.path().join("agent");
    let mut agent = agent_at(&controller, "dark", &state);
    let marker = format!("MARKS={}", controller.path("marks").display());
    for _ in 0..Length::wanted().of(2, 12) {
        let mut stream = Stream::new(&controller);
        stream.flow(&controller, &mut dice);
        std::thread::sleep(dice.pause(Duration::from_millis(400)));
        disk.cut_power();
        kill(agent.pid());
        // With the power everybody goes: supervisors, and what they look after.
        let here = state.display().to_string();
        until(PATIENCE, "nobody is left on the host", || {
            let mut left = processes_with(&here);
            left.extend(processes_with(&marker).into_iter().filter(|pid| is_a_task(*pid)));
            left.iter().for_each(|pid| end(*pid));
            left.is_empty()
        });
        disk.power_on();
        pretend_reboot(&controller.path("")).expect("we may mount");
        agent = Restarted::start(&state);
        let states = stream.judge(&controller);
        let known = states.keys().all(|state| ["succeeded", "indeterminate"].contains(&state.as_str()));
        assert!(known, "it came back within the window: {states:?}");
        let run = controller.muster(["run", "-w", "all", "--", "true"]);
        run.assert_ended(0, "1 succeeded: 1 targeted");
    }
    assert_no_process_with(&marker);
}
