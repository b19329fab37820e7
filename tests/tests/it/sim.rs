//! Many agents at once: a fleet of simulated ones, whose own witness counts every start, adds up whatever is cut or
//! killed meanwhile.

use muster_tests::{Controller, PATIENCE, bin, sim, until};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

const AGENTS: u64 = 200;
const JOBS: u64 = 10;
/// More than a frame, and not a whole number of frames.
const OUTPUT: usize = 100_000;

/// A running muster-sim; it ends with the value.
struct Sim {
    child: Child,
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Sim {
    fn start(controller: &Controller, agents: u64, options: &[&str]) -> Self {
        let count = agents.to_string();
        let token = controller.token(["--labels", "kind=sim", "--uses", &count]);
        let log = controller.path("sim.log");
        let mut child = Command::new(bin("muster-sim"))
            .args(["--exit-on-stdin-eof", "--seed", "7", "--agents", &count, "--token", &token])
            .args(["--controller", &controller.address("enrolment")])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("the simulator starts");
        let sim = Self { stdin: child.stdin.take(), child, log };
        let connected = format!("sim: {agents} agents connected in ");
        until(PATIENCE, "all simulated agents were connected", || sim.said().contains(&connected));
        sim
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it; the closing line says what happened.
    fn end(mut self) -> String {
        drop(self.stdin.take());
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{}", self.said());
        self.said().lines().last().expect("a closing line").to_owned()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn count(job: &Value, state: &str) -> u64 {
    job["counts"][state].as_u64().unwrap_or(0)
}

fn submit(controller: &Controller, agents: u64) -> String {
    submit_with(controller, agents, &[])
}

fn submit_with(controller: &Controller, agents: u64, options: &[&str]) -> String {
    let yes = format!("--yes={agents}");
    let run = ["run", "-d", "-w", "kind=sim", &yes, "-t", "10m"];
    let run = controller.muster([&run[..], options, &["--", "true"]].concat());
    assert_eq!(run.status, 0, "{run}");
    run.out().trim().to_owned()
}

fn job(controller: &Controller, id: &str) -> Value {
    controller.muster(["job", id, "-o", "json"]).json()
}

#[test]
fn p1_p2_p5_two_hundred_agents_add_up_across_cut_links_and_a_killed_controller() {
    let mut controller = Controller::start([]);
    let (ports, bytes) = (controller.ports(), OUTPUT.to_string());
    let tasks = ["--output", &bytes, "--delay", "50ms", "--jitter", "1s", "--fail-rate", "0.1", "--flap", "3s"];
    let sim = Sim::start(&controller, AGENTS, &tasks);
    let mut jobs: Vec<String> = (0..JOBS / 2).map(|_| submit(&controller, AGENTS)).collect();
    until(PATIENCE, "the last of them has ends", || count(&job(&controller, &jobs[jobs.len() - 1]), "succeeded") > 0);
    controller.kill();
    controller.serve_again(&ports);
    jobs.extend((0..JOBS / 2).map(|_| submit(&controller, AGENTS)));

    let whole = sim::output(OUTPUT);
    let mut failed = 0;
    for id in &jobs {
        until(PATIENCE, &format!("job {id} is done"), || job(&controller, id)["state"] == "done");
        let job = job(&controller, id);
        assert_eq!(count(&job, "succeeded") + count(&job, "failed"), AGENTS, "{job}");
        failed += count(&job, "failed");
        let logs = controller.muster(["logs", id, "-N", "-w", "sim-00200"]);
        assert!(logs.stdout == whole, "sim-00200 in {id}: {} bytes of {OUTPUT}", logs.stdout.len());
    }
    assert!((AGENTS * JOBS / 20..AGENTS * JOBS / 5).contains(&failed), "{failed} of {} failed", AGENTS * JOBS);
    let closing = sim.end();
    let tasks = AGENTS * JOBS;
    assert!(closing.starts_with(&format!("sim: started={tasks} ended={tasks} ")), "{closing}");
    assert!(closing.contains(" rejected=0 doubles=0 "), "{closing}");
}

#[test]
fn p9_a_controller_with_a_thousand_open_streams_stops_in_time_and_all_come_back_with_what_they_did() {
    const MANY: u64 = 1_000;
    let mut controller = Controller::start([]);
    let ports = controller.ports();
    let sim = Sim::start(&controller, MANY, &["--delay", "2s", "--jitter", "2s"]);
    let id = submit(&controller, MANY);
    let started =
        |job: &Value| job["hosts"].as_array().is_some_and(|hosts| hosts.iter().all(|host| host["phase"] != "planned"));
    until(PATIENCE, "all were offered their task", || started(&job(&controller, &id)));
    let began = Instant::now();
    controller.end();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "it took {took:?} to stop");
    controller.serve_again(&ports);
    until(PATIENCE, "the job is done", || job(&controller, &id)["state"] == "done");
    assert_eq!(count(&job(&controller, &id), "succeeded"), MANY);
    let closing = sim.end();
    assert!(closing.starts_with(&format!("sim: started={MANY} ended={MANY} ")), "{closing}");
    assert!(closing.contains(" rejected=0 doubles=0 "), "{closing}");
}

#[test]
fn p1_waves_attempts_and_gates_of_a_fleet_add_up_and_a_gate_that_fails_stops_it() {
    const MANY: u64 = 100;
    let waves = ["--waves", "1,10%,100%", "--gate", "true", "--retry-failed", "9"];
    let controller = Controller::start([]);
    let sim = Sim::start(&controller, MANY, &["--fail-rate", "0.3"]);
    let id = submit_with(&controller, MANY, &waves);
    until(PATIENCE, "the job is done", || job(&controller, &id)["state"] == "done");
    assert_eq!(count(&job(&controller, &id), "succeeded"), MANY);
    let closing = sim.end();
    let started: u64 = closing
        .strip_prefix("sim: started=")
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .expect("how many tasks started");
    let (gates, retried) = (1 + 10, started.saturating_sub(MANY + 1 + 10));
    assert!(retried > MANY / 10, "{retried} attempts after the first, {gates} gates: {closing}");
    assert!(closing.contains(" rejected=0 doubles=0 "), "no agent thinks that it was out of turn: {closing}");

    let controller = Controller::start([]);
    let sim = Sim::start(&controller, MANY, &["--gate-fail-rate", "1"]);
    let id = submit_with(&controller, MANY, &waves);
    until(PATIENCE, "the job is paused", || job(&controller, &id)["state"] == "paused");
    let closing = sim.end();
    assert!(closing.starts_with("sim: started=2 ended=2 "), "one host and its gate: {closing}");
}
