//! Identity in time: what an operator who is disabled leaves behind.

use muster_tests::{Controller, PATIENCE, Program, until};
use std::fs;

#[test]
fn nothing_more_of_a_disabled_operators_jobs_starts_and_what_runs_goes_on() {
    let controller = Controller::start([]);
    let token = controller.token(["--uses", "2"]);
    let _agents = ["n1", "n2"].map(|name| {
        assert_eq!(controller.enrol(name, &token).status, 0);
        controller.run_agent(name)
    });
    until(PATIENCE, "both are there", || controller.muster(["agents"]).err().contains("2 connected"));
    let code = controller.muster(["operator", "add", "bob"]).out();
    let bob = |args: &[&str]| Program::new("muster").args(args).env("MUSTER_CONFIG", controller.path("bob.toml")).run();
    assert_eq!(bob(&["login", code.trim()]).status, 0);

    let (go, begun) = (controller.path("go"), controller.path("begun"));
    let (go_path, begun_path) = (go.display(), begun.display());
    let line = format!("echo x >> {begun_path}; while ! [ -e {go_path} ]; do sleep 0.05; done");
    let submitted = bob(&["run", "-d", "-f", "1", "-w", "all", "--sh", "--", &line]);
    assert_eq!(submitted.status, 0, "{submitted}");
    until(PATIENCE, "the first host is at work", || begun.exists());
    assert_eq!(controller.muster(["operator", "disable", "bob"]).status, 0);
    fs::write(&go, "").expect("written");

    let id = submitted.out().trim().to_owned();
    let mut job = serde_json::Value::Null;
    until(PATIENCE, "the job is done", || {
        job = controller.muster(["job", &id, "-o", "json"]).json();
        job["state"] == "done"
    });
    assert_eq!(job["counts"], serde_json::json!({"succeeded": 1, "skipped": 1}), "{job}");
    let hosts = job["hosts"].as_array().expect("hosts");
    let skipped = hosts.iter().find(|host| host["state"] == "skipped").expect("one was skipped");
    assert_eq!(skipped["reason"], "the operator bob was disabled");
    assert_eq!(fs::read_to_string(begun).expect("one began"), "x\n");
    let audit = controller.muster(["audit", "--action", "job.stop"]);
    assert!(audit.out().contains("operator/ada") && audit.out().contains("bob was disabled"), "{audit}");
}
