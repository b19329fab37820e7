//! Certificates that live for seconds: agents renew them in time, and nobody who runs something notices.

use muster_tests::{Controller, PATIENCE, finish, until};
use std::collections::BTreeSet;
use std::fs;

#[test]
fn p9_an_agent_outlives_its_certificates_while_a_task_runs() {
    let controller = Controller::start(["--agent-validity", "8s"]);
    let token = controller.token([]);
    let enrolled = controller.enrol("web01", &token);
    assert_eq!(enrolled.status, 0, "{enrolled}");
    let _agent = controller.run_agent("web01");
    let (go, starts) = (controller.path("go"), controller.path("starts"));
    let line = format!(
        "echo x >> {starts}; echo one; while [ ! -e {go} ]; do sleep 0.1; done; echo two",
        starts = starts.display(),
        go = go.display()
    );
    until(PATIENCE, "the agent is there", || controller.muster(["agents", "-o", "json"]).out().contains("web01"));
    let follower = controller.program(["run", "-w", "all", "-N", "--sh", "--", &line]).spawn();
    until(PATIENCE, "the task runs", || starts.exists());

    let identity = controller.path("web01/identity");
    let mut generations = BTreeSet::new();
    until(PATIENCE, "three certificates came after the first", || {
        generations.extend(fs::read_to_string(identity.join("agent.crt")));
        generations.len() == 4
    });
    fs::write(go, "").expect("written");
    let run = finish(follower);
    assert_eq!((run.status, run.out().as_str()), (0, "one\ntwo\n"), "{run}");
    assert_eq!(fs::read_to_string(starts).expect("it ran"), "x\n", "once");
    let run = controller.muster(["run", "-w", "web01", "-N", "--", "echo", "still here"]);
    assert_eq!((run.status, run.out().as_str()), (0, "still here\n"), "{run}");
}
