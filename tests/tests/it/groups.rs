//! Groups: names for expressions that mean the same wherever hosts are said, whoever keeps them; and what keeps one that is
//! wrong, slow or not to be trusted from deciding who is hit.

use muster_tests::{Controller, Fleet, PATIENCE, Program, Run, assert_no_process_with, until};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

#[test]
fn a_group_means_the_same_wherever_hosts_are_said() {
    let fleet = Fleet::start(4);
    let set = |name: &str, targets: &str| fleet.muster(["group", "set", name, targets]);
    let targets = |targets: &str| fleet.muster(["targets", targets]);
    assert!(set("web", "slot=[1-2]").err().contains("@web means 2 hosts"));
    assert!(set("front", "@web,dev-3").err().contains("@front means 3 hosts"));

    let run = fleet.muster(["run", "-w", "@front ! dev-1", "--", "echo", "here"]);
    assert!(run.closing().starts_with("run: 2 succeeded"), "{run}");
    let all = fleet.muster(["run", "-w", "all", "-x", "@web", "--", "echo", "there"]);
    assert!(all.closing().starts_with("run: 2 succeeded"), "{all}");
    // It may mean hosts that the job did not have.
    let logs = fleet.muster(["logs", "last", "-w", "@front"]);
    assert_eq!((logs.status, logs.out().as_str()), (0, "dev-3: there\n"), "{logs}");
    fleet.muster(["logs", "last", "-w", "@front,dev-9"]).assert_usage("no agent is called dev-9");
    fleet.muster(["logs", "last", "-w", "@front,@nope"]).assert_usage("there is no group @nope");
    let ping = fleet.muster(["ping", "-w", "@web", "--via", "agent"]);
    assert!(ping.status == 0 && ping.out().contains("dev-2"), "{ping}");
    assert!(fleet.muster(["agents", "label", "@web", "tier=1"]).status == 0);
    assert_eq!(targets("tier=1").out(), "dev-[1-2]\n");

    // It means whom its expression means now.
    assert_eq!(fleet.muster(["agents", "label", "dev-4", "tier=1"]).status, 0);
    assert!(set("web", "tier=1").err().contains("@web means 3 hosts"));
    assert_eq!(targets("@front").out(), "dev-[1-4]\n");
    let shown = fleet.muster(["group", "show", "@front"]);
    assert!(shown.out().starts_with("targets  @web,dev-3\nset by   dev, "), "{shown}");
    assert!(shown.out().ends_with("hosts    4 dev-[1-4]\n"), "{shown}");
}

#[test]
fn a_group_that_means_nothing_is_refused_with_the_reason() {
    let fleet = Fleet::start(1);
    let set = |name: &str, targets: &str| fleet.muster(["group", "set", name, targets]);
    assert_eq!(set("web", "dev-1").status, 0);
    assert_eq!(set("front", "@web").status, 0);
    set("web", "@front").assert_usage("@web > @front > @web: a group cannot be a part of itself");
    set("self", "@self").assert_usage("@self > @self");
    set("edge", "web1,@nope").assert_usage("@nope is no group");
    set("edge", "a,").assert_usage("column 3");
    set("edge", "").assert_usage("column 1");
    for (name, hint) in [("Edge", "use 1 to 63 of a-z"), ("a:b", "changed where they come from")] {
        let run = set(name, "all");
        assert!(run.status == 2 && run.err().contains(hint), "{run}");
    }
    let later = set("later", "not-enrolled-yet");
    assert!(later.status == 0 && later.err().contains("nobody fits it now"), "{later}");
    fleet.muster(["targets", "@later"]).assert_usage("in @later: no agent is called not-enrolled-yet");
    fleet.muster(["targets", "@fron"]).assert_usage("there is no group @fron: did you mean @front?");
    fleet.muster(["run", "-w", "dev-1", "-x", "@fron", "--", "true"]).assert_usage("did you mean @front?");
    fleet.muster(["group", "show", "fron"]).assert_usage("did you mean @front?");
    fleet.muster(["group", "remove", "web"]).assert_usage("the group web is named by front");
    assert_eq!(fleet.muster(["group", "remove", "front"]).status, 0);
    assert_eq!(fleet.muster(["group", "remove", "@web"]).status, 0);
    fleet.muster(["group", "remove", "web"]).assert_usage("there is no group web");

    let list = fleet.muster(["group", "list", "-o", "json"]).json();
    let groups = list["groups"].as_array().expect("a list");
    assert_eq!(groups.len(), 1, "{list}");
    assert_eq!((&groups[0]["name"], &groups[0]["targets"]), (&json!("later"), &json!("not-enrolled-yet")));
    let audit = fleet.muster(["audit", "-o", "json"]);
    let said = audit.out();
    for record in ["web: dev-1", "front: @web", "later: not-enrolled-yet", "group.remove"] {
        assert!(said.contains(record), "{record}: {said}");
    }
}

#[test]
fn what_a_group_says_has_to_be_sound_before_anybody_is_enrolled() {
    let controller = Controller::start([]);
    let set = |name: &str, targets: &str| controller.muster(["group", "set", name, targets]);
    let web = set("web", "role=web");
    assert!(web.status == 0 && web.err().contains("nobody fits it now"), "{web}");
    assert_eq!(set("front", "@web").status, 0);
    set("web", "@front").assert_usage("@web > @front > @web: a group cannot be a part of itself");
    set("web", "@nope").assert_usage("@nope is no group");
}

/// A controller with outside sources and three agents, not connected, of which two are `role=web`.
struct Outside {
    controller: Controller,
    dir: PathBuf,
}

impl Outside {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory").keep();
        put(&dir.join("racks"), 0o644, "# from the inventory\nr1: n1,n2\nr2: @inv:web, n3\nodd: a,,b\n");
        let inv = "#!/bin/sh\ncase $1 in --list) echo web; echo db;; web) echo n1; echo 'n2 n3';; esac\n";
        put(&dir.join("inv"), 0o755, inv);
        let path = dir.to_str().expect("text").to_owned();
        let controller = Controller::start(["--groups", &path]);
        let token = controller.token(["--uses", "3", "--ttl", "10m"]);
        for name in ["n1", "n2", "n3"] {
            let run = controller.enrol(name, &token);
            assert_eq!(run.status, 0, "{run}");
        }
        Self { controller, dir }
    }

    fn targets(&self, expression: &str) -> Run {
        self.controller.muster(["targets", expression])
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn put(path: &Path, mode: u32, text: &str) {
    // Beside it, so that nothing is run that is being written.
    let beside = path.with_extension("NEW");
    fs::write(&beside, text).expect("writable");
    fs::set_permissions(&beside, Permissions::from_mode(mode)).expect("ours");
    fs::rename(beside, path).expect("the same directory");
}

#[test]
fn groups_of_files_and_programs_are_used_by_the_name_of_their_source() {
    let outside = Outside::new();
    assert_eq!(outside.targets("@racks:r1").out(), "n[1-2]\n");
    assert_eq!(outside.targets("@inv:web ! n1").out(), "n[2-3]\n");
    assert_eq!(outside.targets("@racks:r2").out(), "n[1-3]\n", "groups of one source in another");
    let set = outside.controller.muster(["group", "set", "own", "@racks:r1 & @inv:web"]);
    assert!(set.err().contains("@own means 2 hosts"), "{set}");
    assert_eq!(outside.targets("@own").out(), "n[1-2]\n");

    outside.targets("@racks:r9").assert_usage("@racks:r9");
    outside.targets("@inv:nope").assert_usage("@inv:nope");
    outside.targets("@nope:web").assert_usage("there is no source nope");
    outside.targets("@racks:odd").assert_usage("in @racks:odd, column 3");
    outside.targets("@inv:../../etc/passwd").assert_usage("column");
    outside.controller.muster(["group", "set", "own", "@racks:r9"]).assert_usage("@racks:r9 is no group");
    let many: Vec<String> = (0..7_000).map(|number| format!("@r:{number}")).collect();
    outside.targets(&many.join(",")).assert_usage("more than 1000 groups");

    // Who asks for one group of the controller's own does not wait for the lists of others.
    let asked = outside.dir.join("ASKED");
    let tells = format!("#!/bin/sh\n[ $1 != --list ] || echo one > {}\n", asked.display());
    put(&outside.dir.join("tells"), 0o755, &tells);
    let shown = outside.controller.muster(["group", "show", "own"]);
    assert!(shown.out().starts_with("targets  @racks:r1 & @inv:web\n") && !asked.exists(), "{shown}");
    assert_eq!(outside.controller.muster(["group", "list"]).status, 0);
    assert!(asked.exists());
    fs::remove_file(outside.dir.join("tells")).expect("it is there");

    let list = outside.controller.muster(["group", "list", "-o", "json"]).json();
    let sources = json!([
        { "name": "inv", "kind": "program", "groups": ["web", "db"], "error": null },
        { "name": "racks", "kind": "file", "groups": ["r1", "r2", "odd"], "error": null },
    ]);
    assert_eq!(list["sources"], sources, "{list}");
    let text = outside.controller.muster(["group", "list"]).out();
    assert!(text.contains("@inv:web") && text.contains("(program)"), "{text}");
}

#[test]
fn a_source_that_fails_hits_nobody_and_says_why() {
    let outside = Outside::new();
    let inv = outside.dir.join("inv");
    let marker = outside.dir.join("marker-of-this-test");
    for (script, hint) in [
        ("echo n1; echo 'no database' >&2; exit 3".to_owned(), "ended with exit status: 3: no database"),
        ("yes n1".to_owned(), "printed more than 1 MiB"),
        (format!("sleep 1000 & sh -c 'sleep 1000 # {}'", marker.display()), "did not end within 10 s and was killed"),
    ] {
        put(&inv, 0o755, &format!("#!/bin/sh\n{script}\n"));
        let run = outside.controller.muster(["run", "-w", "@inv:db,n1", "-t", "1s", "--", "true"]);
        run.assert_usage(hint);
        let left_out = outside.controller.muster(["targets", "@inv:db,n1", "--allow-missing"]);
        left_out.assert_usage(hint);
    }
    assert_no_process_with(marker.to_str().expect("text"));
    let list = outside.controller.muster(["group", "list"]);
    assert!(list.status == 0 && list.err().contains("the groups of inv cannot be listed"), "{list}");
    assert_eq!(outside.controller.muster(["jobs", "-o", "json"]).json(), Value::Array(Vec::new()));
}

#[test]
fn what_others_could_change_is_refused_when_it_is_used_and_at_the_start() {
    let mut outside = Outside::new();
    let racks = outside.dir.join("racks");
    put(&racks, 0o666, "r1: all\n");
    outside.targets("@racks:r1").assert_usage("can be written by others");
    fs::remove_file(&racks).expect("it is there");
    std::os::unix::fs::symlink("inv", &racks).expect("a link");
    outside.targets("@racks:r1").assert_usage("is a symbolic link");

    let ports = outside.controller.ports();
    outside.controller.end();
    let path = outside.dir.to_str().expect("text").to_owned();
    let state = outside.controller.state().to_owned();
    let serve = Program::new("muster-controller").args(["serve", "--groups", &path, "--state"]).args([&state]).run();
    assert!(serve.status == 1 && serve.err().contains("racks is a symbolic link"), "{serve}");
    fs::remove_file(&racks).expect("it is there");
    outside.controller.serve_again_with(&ports, ["--groups", &path]);
    until(PATIENCE, "the controller is back", || outside.targets("@inv:web").status == 0);
}
