//! Two machines with one identity are found, named, and told apart by an operator; so is a disk that was set back, the
//! controller's own as well.

use muster_tests::{Controller, PATIENCE, Restarted, Run, until};
use serde_json::Value;
use std::fs;
use std::path::Path;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("room for a copy");
    for entry in fs::read_dir(from).expect("a directory").map(|entry| entry.expect("readable")) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().expect("a kind").is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("room for a copy");
        }
    }
}

fn only_agent(controller: &Controller) -> Value {
    controller.muster(["agents", "-o", "json"]).json()[0].clone()
}

fn enrol(controller: &Controller, name: &str) {
    let enrolled = controller.enrol(name, &controller.token([]));
    assert_eq!(enrolled.status, 0, "{enrolled}");
}

/// Runs the agent until it has had a session whose nonce it stored.
fn session(controller: &Controller, state: &str) -> Restarted {
    let before = only_agent(controller)["since"].clone();
    let agent = controller.run_agent(state);
    until(PATIENCE, "the agent is connected", || {
        let now = only_agent(controller);
        now["connected"] == true && now["since"] != before
    });
    let run = controller.muster(["run", "-w", "all", "-N", "--", "echo", "here"]);
    assert_eq!((run.status, run.out().as_str()), (0, "here\n"), "{run}");
    agent
}

fn until_quarantined(controller: &Controller) {
    until(PATIENCE, "the agent is quarantined", || !only_agent(controller)["quarantine"].is_null());
}

fn until_said(controller: &Controller, log: &str, words: &str) {
    let said = || fs::read_to_string(controller.path(log)).unwrap_or_default();
    until(PATIENCE, &format!("{log} has {words:?}"), || said().contains(words));
}

#[track_caller]
fn assert_refused(run: &Run, status: i32, hints: &[&str]) {
    assert_eq!((run.status, run.err().lines().count()), (status, 1), "{run}");
    hints.iter().for_each(|hint| assert!(run.err().contains(hint), "{hint:?} is not said: {run}"));
}

#[test]
fn p1_a_cloned_machine_and_its_original_wait_until_an_operator_has_said_which_is_which() {
    let controller = Controller::start([]);
    enrol(&controller, "n1");
    drop(session(&controller, "n1"));
    copy(&controller.path("n1"), &controller.path("clone"));
    let original = session(&controller, "n1");
    let clone = controller.run_agent("clone");
    until_quarantined(&controller);
    for log in ["n1.log", "clone.log"] {
        until_said(&controller, log, "two machines use the identity of n1");
    }

    let listed = controller.muster(["agents"]);
    assert!(listed.out().contains("quarantined"), "{listed}");
    let shown = controller.muster(["agents", "show", "n1"]).out();
    assert!(shown.contains("\nfirst ") && shown.contains("\nsecond "), "both are shown:\n{shown}");
    let run = controller.muster(["run", "-w", "all", "-t", "1s", "--", "true"]);
    assert_eq!(run.status, 3, "nobody gets work: {run}");
    let job = controller.muster(["job", "last", "-o", "json"]).json();
    let reason = job["hosts"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("two machines use this agent's identity"), "{job}");

    // Ended, so that their addresses stay as they are.
    drop((original, clone));
    let parties = only_agent(&controller)["quarantine"]["parties"].clone();
    let address = |place: usize| parties[place]["address"].as_str().expect("an address").to_owned();
    let keep = |what: &str| controller.muster(["agents", "resolve", "n1", "--keep", what]);
    assert_refused(&keep("192.0.2.1"), 2, &["names neither or both", &address(0), &address(1)]);
    assert_refused(&keep("127.0.0.1"), 2, &["names neither or both", &address(0), &address(1)]);
    assert_refused(&controller.muster(["agents", "resolve", "n2", "--keep", "::1"]), 2, &["no agent has the name"]);
    let kept = keep(&address(0));
    assert_eq!((kept.status, kept.err().lines().count()), (0, 1), "{kept}");
    assert_refused(&keep(&address(0)), 2, &["n1 is not quarantined"]);

    let _clone = controller.run_agent("clone");
    until_said(&controller, "clone.log", "another machine was kept as n1");
    let _original = session(&controller, "n1");
    assert!(only_agent(&controller)["quarantine"].is_null(), "the outcast starts no new quarantine");
}

#[test]
fn p1_a_machine_whose_disk_was_set_back_is_found_at_its_first_hello() {
    let mut controller = Controller::start([]);
    enrol(&controller, "n1");
    drop(session(&controller, "n1"));
    copy(&controller.path("n1"), &controller.path("snapshot"));
    drop(session(&controller, "n1"));
    fs::rename(controller.path("n1"), controller.path("lost")).expect("renamed");
    fs::rename(controller.path("snapshot"), controller.path("n1")).expect("renamed");
    let agent = controller.run_agent("n1");
    until_quarantined(&controller);
    until_said(&controller, "n1.log", "two machines use the identity of n1");
    drop(agent);

    // A controller that is started again knows as much.
    let ports = controller.ports();
    controller.kill();
    controller.serve_again(&ports);
    let run = controller.muster(["run", "-w", "all", "-t", "1s", "--", "true"]);
    assert_eq!(run.status, 3, "{run}");
    let kept = controller.muster(["agents", "resolve", "n1", "--keep", "second"]);
    assert_eq!(kept.status, 0, "the machine that was set back may be the right one: {kept}");
    let _agent = session(&controller, "n1");
}

#[test]
fn a_controller_that_was_set_back_to_a_backup_knows_its_agents_again() {
    let mut controller = Controller::start([]);
    enrol(&controller, "n1");
    drop(session(&controller, "n1"));
    let (ports, state, backup) = (controller.ports(), controller.state().to_owned(), controller.path("backup"));
    controller.kill();
    copy(&state, &backup);
    controller.serve_again(&ports);
    drop(session(&controller, "n1"));
    drop(session(&controller, "n1"));
    controller.kill();
    fs::remove_dir_all(&state).expect("removed");
    fs::rename(&backup, &state).expect("restored");
    controller.serve_again(&ports);
    let _agent = session(&controller, "n1");
    until_said(&controller, "controller.log", "the state was set back");
    let audit = controller.muster(["audit", "--action", "store."]);
    assert!(audit.out().contains("store.rolled-back"), "{audit}");
}
