//! A plan is what runs: one that is saved runs exactly, or not at all, and an unset variable never means everybody.

use muster_tests::{Controller, Fleet, PATIENCE, Run, until};
use std::fs;

/// A cluster of agents that are enrolled and away.
struct Ground {
    controller: Controller,
    token: String,
}

impl Ground {
    fn of(names: &[&str]) -> Self {
        let controller = Controller::start([]);
        let token = controller.token(["--uses", "20", "--labels", "role=web"]);
        let ground = Self { controller, token };
        names.iter().for_each(|name| ground.enrol(name));
        ground
    }

    fn enrol(&self, name: &str) {
        let run = self.controller.enrol(name, &self.token);
        assert_eq!(run.status, 0, "{run}");
    }

    fn save(&self, file: &str, options: &[&str]) {
        let path = self.controller.path(file);
        let path = path.to_str().expect("text");
        let run = self.controller.program(["run", "--dry-run", "--plan", path]).args(options).run();
        assert_eq!(run.status, 0, "{run}");
        assert!(run.err().starts_with("written to ") && run.out().starts_with("hosts "), "{run}");
    }

    fn run(&self, file: &str, options: &[&str]) -> Run {
        self.controller.program(["run", "--plan"]).args([self.controller.path(file)]).args(options).run()
    }

    fn jobs(&self) -> usize {
        self.controller.muster(["jobs", "-o", "json"]).json().as_array().expect("a list").len()
    }
}

#[test]
fn a_saved_plan_runs_exactly_that() {
    let ground = Ground::of(&["n1", "n2", "n3"]);
    let _agents = ["n1", "n2"].map(|name| ground.controller.run_agent(name));
    until(PATIENCE, "both are there", || ground.controller.muster(["agents"]).err().contains("2 connected"));
    let script = ground.controller.path("script");
    fs::write(&script, "#!/bin/sh\necho \"$1 $GREETED\"\n").expect("written");
    let script = script.to_str().expect("text");
    let options = ["-w", "role=web", "-x", "n3", "-e", "GREETED=world", "--waves", "1", "--script", script, "hello"];
    ground.save("plan", &options);
    // What it runs is in the file: the script may change.
    fs::write(script, "#!/bin/sh\nexit 1\n").expect("written");
    let run = ground.run("plan", &["--order", "target"]);
    run.assert_ended(0, "2 succeeded: 2 targeted");
    assert_eq!(run.out(), "n1: hello world\nn2: hello world\n");
    assert!(run.err().contains("wave 2 of 2: 1 host\n"), "{run}");
    let (first, again) = (run.job(), ground.run("plan", &[]));
    again.assert_ended(0, "2 succeeded: 2 targeted");
    assert_ne!(first, again.job(), "each run is a job of its own");
}

#[test]
fn a_saved_plan_that_fits_no_more_runs_nowhere() {
    let ground = Ground::of(&["n1", "n2"]);
    ground.save("label", &["-w", "role=web", "--", "true"]);
    ground.save("names", &["-w", "n[1-2]", "--", "true"]);
    ground.save("lenient", &["-w", "n[1-2]", "--allow-missing", "--", "true"]);

    ground.enrol("n3");
    ground.run("label", &[]).assert_usage("fits no more: 1 host meant now as well: n3; make it anew");

    assert_eq!(ground.controller.muster(["agents", "revoke", "n3"]).status, 0);
    assert_eq!(ground.controller.muster(["agents", "revoke", "n2"]).status, 0);
    ground.run("label", &[]).assert_usage("fits no more: 1 host no longer meant: n2; make it anew");
    ground.run("names", &[]).assert_usage("fits no more: ");
    let lenient = ground.run("lenient", &[]);
    assert!(lenient.status == 2 && lenient.err().contains("no longer meant: n2"), "{lenient}");

    fs::remove_dir_all(ground.controller.path("n2")).expect("the state of the agent");
    ground.enrol("n2");
    ground.run("names", &[]).assert_usage("1 host enrolled anew since, perhaps on another machine: n2;");
    assert_eq!(ground.jobs(), 0);
}

#[test]
fn a_saved_plan_that_was_edited_or_is_for_others_runs_nowhere() {
    let ground = Ground::of(&["n1", "n2"]);
    ground.save("plan", &["-w", "all", "--", "true"]);
    let text = fs::read_to_string(ground.controller.path("plan")).expect("text");
    for (from, to, hint) in [
        ("\"line\": \"true\"", "\"line\": \"false\"", "the plan was edited: its readable part"),
        ("\"count\": 2", "\"count\": 1", "the plan was edited: its readable part"),
        ("\"muster_plan\": 1", "\"muster_plan\": 0", "the plan has form 0"),
        ("\"targets\": \"all\"", "\"targets\": \"n1\"", "the plan was edited: its selection"),
    ] {
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(ground.controller.path("edited"), text.replacen(from, to, 1)).expect("written");
        ground.run("edited", &[]).assert_usage(hint);
    }
    ground.run("nowhere", &[]).assert_usage("the plan cannot be read");
    ground.run("plan", &["-w", "all"]).assert_usage("leave out hosts, command and pace");
    ground.run("plan", &["--waves", "1"]).assert_usage("leave out hosts, command and pace");

    let other = Ground::of(&["n1", "n2"]);
    fs::copy(ground.controller.path("plan"), other.controller.path("plan")).expect("copied");
    other.run("plan", &[]).assert_usage("this is for cluster ");
    assert_eq!(ground.jobs() + other.jobs(), 0);
}

#[test]
fn a_saved_plan_passes_the_guard_like_any_other() {
    let ground = Ground::of(&["n1", "n2"]);
    ground.save("plan", &["-w", "all", "-t", "1", "--", "false && reboot"]);
    ground.run("plan", &[]).assert_usage("--yes=2");
    ground.run("plan", &["--yes"]).assert_usage("--yes=2");
    ground.run("plan", &["--yes=1"]).assert_usage("the plan has 2 hosts");
    ground.run("plan", &["--yes=2"]).assert_ended(3, "2 unreachable n[1-2]: 2 targeted");
}

#[test]
fn slips_are_errors_and_never_everybody() {
    let fleet = Fleet::start(2);
    let empty = fleet.dir().join("empty");
    fs::write(&empty, "\n# nobody\n").expect("written");
    let empty = empty.to_str().expect("text");
    for (slip, hint) in [
        (&["-w", ","][..], "column 1"),
        (&["-w", ""], "-w is empty"),
        (&["-w", " "], "-w is empty"),
        (&["-w", "dev-1", "-w", ""], "-w is empty"),
        (&["-w", "dev-1,"], "column"),
        (&["-w", "dev-1,,dev-2"], "column"),
        (&["-w", "*"], "write `all`"),
        (&["-w", "! dev-1"], "not"),
        (&["-w", "all", "-x", ""], "-x is empty"),
        (&["-w", "all", "-x", "dev-9"], "dev-9"),
        (&["-w", "all", "-x", "dev-1)! (all", "-x", "dev-2"], "-x 'dev-1)! (all' is no whole expression"),
        (&["-w", "dev-1", "-x", "dev-1"], "no host"),
        (&["--hosts-file", empty], "names no host"),
        (&["-g", "nobody"], "@nobody"),
        (&[], "no hosts are named"),
    ] {
        let run = fleet.program(["run"]).args(slip).args(["--", "true"]).run();
        assert_eq!(run.status, 2, "{slip:?}: {run}");
        run.assert_usage(hint);
    }
    fleet.muster(["targets", "all", "-x", ""]).assert_usage("-x is empty");
    fleet.muster(["logs", "last", "-w", ""]).assert_usage("-w is empty");
    assert_eq!(fleet.muster(["jobs", "-o", "json"]).json(), serde_json::json!([]));
}
