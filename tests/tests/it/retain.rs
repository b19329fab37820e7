//! `--keep` removes what is done and old, never what is not done, and says so to whoever still asks.

use muster_tests::{Controller, PATIENCE, Restarted, finish, until};
use std::fs;

/// A controller that keeps this much, with one agent, `web01`.
fn cluster(keep: &str) -> (Controller, Restarted) {
    let controller = Controller::start(["--keep", keep]);
    let enrolled = controller.enrol("web01", &controller.token([]));
    assert_eq!(enrolled.status, 0, "{enrolled}");
    let agent = controller.run_agent("web01");
    until(PATIENCE, "the agent is there", || {
        controller.muster(["agents", "-o", "json"]).json()[0]["connected"] == true
    });
    (controller, agent)
}

fn run(controller: &Controller, line: &str) -> String {
    let run = controller.muster(["run", "-w", "all", "--sh", "--", line]);
    assert_eq!(run.status, 0, "{run}");
    run.job()
}

fn jobs(controller: &Controller) -> Vec<String> {
    let list = controller.muster(["jobs", "-o", "json"]).json();
    let id = |job: &serde_json::Value| job["job"].as_str().expect("an id").to_owned();
    list.as_array().expect("a list").iter().map(id).collect()
}

/// Has the controller look for old jobs: it does so as it starts.
fn restart(controller: &mut Controller, keep: &str) {
    let ports = controller.ports();
    controller.kill();
    controller.serve_again_with(&ports, ["--keep", keep]);
}

#[test]
fn done_jobs_go_by_age_and_by_number_and_those_at_work_stay() {
    let (mut controller, _agent) = cluster("all");
    let gate = controller.path("gate");
    let line = format!("echo begun; until [ -e {} ]; do sleep 0.05; done; echo over", gate.display());
    let old = run(&controller, "head -c 300000 /dev/zero");
    let at_work = controller.muster(["run", "-d", "-w", "all", "--sh", "--", &line]).out().trim().to_owned();
    let follower = controller.program(["attach", &at_work]).spawn();
    let newer: Vec<_> = (0..3).map(|_| run(&controller, "echo hello")).collect();

    restart(&mut controller, "2jobs");
    until(PATIENCE, "the oldest are gone", || jobs(&controller).len() == 2);
    let left = jobs(&controller);
    assert!(left.contains(&at_work) && left.contains(&newer[2]), "{left:?}");
    for words in [&["job", &old][..], &["logs", &old], &["attach", &old], &["cancel", &old], &["why", "web01", &old]] {
        controller.muster(words).assert_usage("is done and its record was removed, as the controller's --keep says");
    }
    let output = controller.path("controller").join("output").join(&old);
    until(PATIENCE, "its output takes no room", || !output.exists());

    restart(&mut controller, "1ms");
    until(PATIENCE, "all that is done is gone", || jobs(&controller) == [at_work.clone()]);
    fs::write(&gate, "").expect("written");
    let followed = finish(follower);
    assert!(followed.status == 0 && followed.out().ends_with("over\n"), "{followed}");
    let verified = controller.muster(["audit", "verify"]);
    assert_eq!(verified.status, 0, "the audit log is never pruned: {verified}");
    let named = controller.muster(["audit", "--action", "job.accept"]);
    assert!(named.out().contains(&old), "{named}");
}

#[test]
fn done_jobs_go_by_size_the_oldest_first() {
    let (mut controller, _agent) = cluster("all");
    // Noise does not shrink.
    let large: Vec<_> = (0..4).map(|_| run(&controller, "head -c 1500000 /dev/urandom")).collect();
    restart(&mut controller, "4MiB");
    until(PATIENCE, "some are gone", || jobs(&controller).len() < 4);
    let left = jobs(&controller);
    assert!(left.contains(&large[3]) && !left.contains(&large[0]), "{left:?}");
    let removed = controller.muster(["status", "-o", "json"]).json();
    until(PATIENCE, "they are counted", || {
        controller.muster(["status", "-o", "json"]).json()["metrics"]["muster_jobs_removed_total"].as_u64() > Some(0)
    });
    assert!(removed["metrics"]["muster_disk_free_bytes"].as_u64() > Some(0), "{removed}");
}

#[test]
fn what_keep_cannot_mean_is_refused() {
    for keep in ["soon", "0d", "all,7d", "7d,8d"] {
        let run = muster_tests::Program::new("muster-controller")
            .args(["serve", "--keep", keep, "--state", "/nonexistent"])
            .run();
        assert!(run.status != 0 && run.err().contains("--keep"), "{run}");
    }
}
