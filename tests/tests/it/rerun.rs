//! A job that repeats another belongs to it: what they mean together is told, and the way over the hosts is kept.

use muster_tests::{Controller, Fleet};
use serde_json::json;
use std::fs;

#[test]
fn jobs_that_repeat_a_job_are_one_story() {
    let fleet = Fleet::start(4);
    let ok = fleet.dir().join("ok");
    let line = format!("echo $MUSTER_HOST; test $MUSTER_HOST = dev-1 || test -e {}.$MUSTER_HOST", ok.display());
    let first = fleet.muster(["run", "-w", "all", "--waves", "1,2", "--gate", "true", &line]);
    first.assert_ended(1, "1 succeeded, 3 failed dev-[2-4]: 4 targeted");
    let id = first.job();

    let path = |host: &str| format!("{}.{host}", ok.display());
    fs::write(path("dev-3"), "").expect("written");
    let second = fleet.muster(["rerun", &id, "--failed"]);
    assert_eq!(second.status, 1, "{second}");
    // The waves are those of the first, as sizes.
    assert!(second.err().contains("wave 2 of 2: 2 hosts\n"), "{second}");
    let all = format!("all: 2 succeeded, 2 failed dev-[2,4]: 4 targeted over 2 runs of job {id}");
    assert_eq!(second.err().lines().last(), Some(&*all));
    let second = fleet.muster(["jobs", "-n", "1", "-o", "json"]).json();
    assert_eq!((&second[0]["rerun_of"], &second[0]["targets"]), (&json!(id), &json!(3)));

    fs::write(path("dev-2"), "").expect("written");
    let second = second[0]["job"].as_str().expect("an id");
    let third = fleet.muster(["rerun", second, "--state", "failed"]);
    assert_eq!(third.status, 1, "{third}");
    let all = format!("all: 3 succeeded, 1 failed dev-4: 4 targeted over 3 runs of job {id}");
    assert_eq!(third.err().lines().last(), Some(&*all));

    // The same from whichever of them it is asked.
    let merged = fleet.muster(["job", &id, "--all-runs", "-o", "json"]).json();
    for job in [second, "last"] {
        assert_eq!(fleet.muster(["job", job, "--all-runs", "-o", "json"]).json(), merged);
    }
    assert_eq!((&merged["job"], &merged["counts"]), (&json!(id), &json!({"succeeded": 3, "failed": 1})));
    let runs = merged["runs"].as_array().expect("a list");
    let hosts = merged["hosts"].as_array().expect("a list");
    assert_eq!((runs.len(), &runs[1]), (3, &json!(second)));
    let places = [0, 2, 1, 2];
    for (host, (name, place)) in hosts.iter().zip((1..).map(|n| format!("dev-{n}")).zip(places)) {
        assert_eq!((&host["host"], &host["job"]), (&json!(name), &runs[place]), "{host}");
    }
    let text = fleet.muster(["job", &id, "--all-runs"]);
    assert!(text.out().contains("\ndev-4  3    ") && text.err().trim_end() == all, "{text}");
}

#[test]
fn only_what_was_asked_for_runs_again() {
    let fleet = Fleet::start(3);
    let run = fleet.muster(["run", "-w", "all", "test $MUSTER_HOST != dev-2"]);
    run.assert_ended(1, "2 succeeded, 1 failed dev-2: 3 targeted");
    let id = run.job();
    let names = |options: &[&str]| fleet.program(["rerun", &id, "--names", "--order", "target"]).args(options).run();
    assert_eq!(names(&["--ok"]).out(), "dev-1\ndev-3\n");
    assert_eq!(names(&["--state", "failed,timed_out"]).out(), "dev-2\n");
    assert_eq!(names(&["--ok", "--failed"]).out(), "dev-1\ndev-2\ndev-3\n");
    names(&["--not-run"]).assert_usage("no host of job");
    // Of that job alone, whatever became of the hosts since.
    assert_eq!(names(&["--failed"]).out(), "dev-2\n");
}

#[test]
fn hosts_that_are_gone_are_left_out_and_nobody_comes_in_their_place() {
    let controller = Controller::start([]);
    let token = controller.token(["--uses", "5"]);
    let enrol = |name: &str| assert_eq!(controller.enrol(name, &token).status, 0, "{name}");
    ["n1", "n2", "n3"].into_iter().for_each(enrol);
    let run = controller.muster(["run", "-w", "all", "--offline", "skip", "--", "true"]);
    run.assert_ended(3, "3 unreachable n[1-3]: 3 targeted");
    let id = run.job();
    let rerun = |options: &[&str]| controller.program(["rerun", &id, "--not-run"]).args(options).run();
    rerun(&["-x", "all"]).assert_usage("-x leaves out all");
    let revoked = controller.muster(["agents", "revoke", "n2"]);
    assert_eq!(revoked.status, 0, "{revoked}");

    let left = rerun(&[]);
    left.assert_ended(3, "2 unreachable n[1,3]: 2 targeted");
    assert!(left.err().starts_with("left out, since no agent is called so any more: 1 host n2\n"), "{left}");
    let left = rerun(&["-x", "n3", "--dry-run"]);
    assert!(left.status == 0 && left.out().starts_with("hosts    1 n1\n"), "{left}");
    // A slip in what is left out would have it run there.
    rerun(&["-x", "n30"]).assert_usage("no agent is called n30");
    rerun(&["-x", ""]).assert_usage("-x is empty");

    fs::remove_dir_all(controller.path("n2")).expect("the state of the one that was revoked");
    enrol("n2");
    rerun(&[]).assert_usage("enrolled anew");
    rerun(&["-x", "n2"]).assert_ended(3, "2 unreachable n[1,3]: 2 targeted");
}
