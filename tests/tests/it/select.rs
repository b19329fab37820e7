//! Who a job is for: whatever cannot be meant is an error that says so in one line, and nothing is run anywhere.

use muster_tests::{Controller, Fleet, Run, bin, finish};
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};

/// Exit status 2, nothing on stdout, one line that has the hint.
#[track_caller]
fn assert_refused(run: &Run, hint: &str) {
    assert_eq!(run.status, 2, "{hint}: {run}");
    assert_eq!(run.out(), "", "{run}");
    assert_eq!(run.err().lines().count(), 1, "one clear line: {run}");
    assert!(run.err().starts_with("muster: ") && run.err().contains(hint), "{hint:?} is not said: {run}");
}

/// Exit status 2, with clap's explanation that begins with one clear line.
#[track_caller]
fn assert_usage(run: &Run, hint: &str) {
    assert_eq!(run.status, 2, "{hint}: {run}");
    assert_eq!(run.out(), "", "{run}");
    let first = run.err().lines().next().unwrap_or_default().to_owned();
    assert!(first.starts_with("error: ") && first.contains(hint), "{hint:?} is not said: {run}");
}

#[test]
fn p11_a_selector_that_cannot_be_meant_runs_nothing() {
    let fleet = Fleet::start(3);
    for (selection, hint) in [
        (&["-w", ""][..], "-w is empty"),
        (&["-w", " \t\n"], "-w is empty"),
        (&[], "-w all"),
        (&["-x", "dev-1"], "-w all"),
        // Misspelt, and half of it right.
        (&["-w", "dve-1"], "no agent is called dve-1: did you mean dev-1?"),
        (&["-w", "dev-1,dev-4"], "no agent is called dev-4"),
        (&["-w", "dev-[1-5]"], "no agents are called dev-[4-5]"),
        (&["-w", "dev-[1-9]"], "no agents are called dev-[4-8] and 1 more:"),
        (&["-w", "dev-[01-03]"], "no agents are called dev-[01-03]"),
        (&["-w", "all,dev-4"], "no agent is called dev-4"),
        (&["-w", "dev-1,x*"], "no agent matches x*"),
        (&["-w", "role=web"], "no agent matches role=web"),
        (&["-w", "env=prod,dev-1"], "no agent matches env=prod"),
        (&["-w", "slot=4"], "no agent matches slot=4"),
        // Slips of the fingers.
        (&["-w", "dev-1,,dev-2"], "column 7: a target is missing"),
        (&["-w", ",dev-1"], "column 1: a target is missing"),
        (&["-w", "dev-1,"], "column 7: a target is missing"),
        (&["-w", ","], "column 1: a target is missing"),
        (&["-w", "dev-1 dev-2"], "column 7: between two targets stands"),
        (&["-w", "dev-1,dev-2 and slot=1"], "column 13: `a,b and c` can be read in two ways"),
        (&["-w", "dev-1 and"], "column 10: a target is missing"),
        (&["-w", "10.0.0.5"], "write 10.0.0.5/32"),
        (&["-w", "dev-[1-"], "column 8: a number is missing"),
        (&["-w", "dev-[3-1]"], "1 is less than 3"),
        (&["-w", "All"], "lower case: write a for A"),
        (&["-w", "$HOSTS"], "column 1: '$' is not understood"),
        (&["-w", "dev-1;dev-2"], "column 6: ';' is not understood"),
        (&["-w", "*=web"], "column 1: \"*\" is no label"),
        (&["-w", "dév-1"], "column 2: 'é' is not understood"),
        // Nobody is left, or the exclusion itself is wrong.
        (&["-w", "all", "-x", "all"], "no host is left"),
        (&["-w", "dev-1", "-x", "dev-*"], "no host is left"),
        (&["-w", "all", "-x", ""], "-x is empty"),
        (&["-w", "all", "-x", "dev-9"], "exclude: no agent is called dev-9"),
        (&["-w", "all", "-x", "env=prod"], "exclude: no agent matches env=prod"),
    ] {
        let run = fleet.program(["run"]).args(selection).args(["--", "true"]).run();
        assert_refused(&run, hint);
    }
    // The other verbs that take an expression.
    assert_refused(&fleet.muster(["targets", ""]), "is empty");
    assert_refused(&fleet.muster(["targets", "dev-[1-5]"]), "no agents are called dev-[4-5]");
    assert_refused(&fleet.muster(["agents", " "]), "empty");
    assert_refused(&fleet.muster(["agents", "dev-4"]), "no agent is called dev-4");
    assert_refused(&fleet.muster(["agents", "label", "dev-4", "role=web"]), "no agent is called dev-4");
    assert_eq!(fleet.muster(["jobs", "-o", "json"]).json(), Value::Array(Vec::new()), "something was submitted");

    for (expression, hosts) in [
        ("dev-[2-3],slot=1,dev-* ! slot=2", "dev-[1,3]\n"),
        ("dev-[1-3/2] and not slot=1", "dev-3\n"),
        ("cpus>=1 and os!='no such' and name~'[12]$'", ""),
        ("(dev-1 or dev-2) and cpus>=1 and agent.version>=0.0.1", "dev-[1-2]\n"),
    ] {
        let run = fleet.muster(["targets", expression]);
        match hosts {
            "" => assert_refused(&run, "no agent matches os='no such'"),
            hosts => assert_eq!((run.status, run.out().as_str()), (0, hosts), "{run}"),
        }
    }
    let run = fleet.muster(["targets", "dev-[2-3],slot=1,dev-*", "-x", "slot=2"]);
    assert_eq!((run.status, run.out().as_str()), (0, "dev-[1,3]\n"), "{run}");
}

#[test]
fn abuse_50_selectors_that_are_meant_to_hurt_are_refused_at_once() {
    let fleet = Fleet::start(1);
    let deep = format!("{}dev-1{}", "(".repeat(10_000), ")".repeat(10_000));
    let long = "dev-1,".repeat(15_000);
    for (expression, hint) in [
        ("color=red", "none has the label color"),
        ("*", "write `all`"),
        ("!dev-1", "write `all ! x`"),
        ("dev", "no agent is called dev: "),
        ("dev-", "no host name"),
        ("dev-11", "no agent is called dev-11"),
        ("\u{501}ev-1", "column 1: 'ԁ' is not understood"),
        ("name~'(a{1,1000}){1,1000}'", "too big"),
        ("../../etc/passwd", "column 1: no network"),
        (&deep, "within each other"),
        (&long, "at most 65536 bytes"),
    ] {
        assert_refused(&fleet.muster(["run", "-w", expression, "--", "true"]), hint);
        assert_refused(&fleet.muster(["run", "-w", "all", "-x", expression, "--", "true"]), "exclude");
    }
    assert_refused(&fleet.muster(["run", "-w", "slot>9", "--", "true"]), "no host is chosen");
    assert_eq!(fleet.muster(["jobs", "-o", "json"]).json(), Value::Array(Vec::new()), "something was submitted");
}

#[test]
fn p11_names_from_a_file_are_all_known_or_nothing_runs() {
    let fleet = Fleet::start(2);
    let file = fleet.dir().join("hosts");
    let with = |content: &[u8]| {
        fs::write(&file, content).expect("written");
        let selection = [&b"--hosts-file"[..], file.as_os_str().as_encoded_bytes()];
        let selection = selection.map(|word| String::from_utf8(word.to_vec()).expect("a path of text"));
        fleet.program(["run"]).args(selection).args(["--names", "--", "true"]).run()
    };
    for (content, hint) in [
        (&b""[..], "names no host"),
        (b"\n  \n# dev-1\n", "names no host"),
        (b"dev-1\ndev-7\n", "no agent is called dev-7"),
        (b"dev-1\nDEV-2\n", "lower case"),
        (b"dev-\xff\n", "no text"),
    ] {
        assert_refused(&with(content), hint);
    }
    assert_refused(&fleet.muster(["run", "--hosts-file", "/nonexistent/hosts", "--", "true"]), "/nonexistent/hosts");
    assert_refused(&fleet.muster(["run", "--hosts-file", "-", "--", "true"]), "names no host");
    assert_refused(&fleet.muster(["run", "--hosts-file", "-", "--stdin", "--", "true"]), "both read stdin");
    assert_eq!(fleet.muster(["jobs", "-o", "json"]).json(), Value::Array(Vec::new()), "something was submitted");

    let run = with(b"# ours\r\n dev-2 # and more\r\n");
    assert_eq!((run.status, run.out().as_str()), (0, "dev-2\n"), "{run}");
    let run = fleet.program(["run", "--hosts-file", "-", "--names", "--", "true"]).stdin("dev-[1-2]\ndev-1").run();
    assert_eq!(run.status, 0, "{run}");
    assert!(run.closing().starts_with("run: 2 succeeded: 2 targeted in "), "{run}");
}

#[test]
fn what_is_no_option_is_never_a_command() {
    let fleet = Fleet::start(1);
    for (words, hint) in [
        (&["run", "-w", "all", "--frobnicate", "--", "true"][..], "'--frobnicate'"),
        (&["run", "-w", "all", "--order", "sideways", "--", "true"], "'sideways'"),
        (&["run", "-w", "all", "-f", "0", "--", "true"], "'0'"),
        (&["run", "-w", "all", "-f", "101%", "--", "true"], "'101%'"),
        (&["run", "-w", "all", "-u", "0", "--", "true"], "'0'"),
        (&["run", "-w", "all", "--yes=many", "--", "true"], "'many'"),
        (&["run", "-w", "all", "--sh", "--script", "x"], "'--sh' cannot be used with"),
        (&["runn", "-w", "all", "--", "true"], "'runn'"),
        (&["cancel", "zz"], "zz is no job id"),
        (&["rerun", "00000000000000000000000000"], "required"),
    ] {
        assert_usage(&fleet.muster(words), hint);
    }
    for (words, hint) in [
        (&["run", "-w", "all"][..], "command is empty"),
        (&["run", "-w", "all", "-e", "A", "--", "true"], "NAME=VALUE"),
        (&["run", "-w", "all", "--cwd", "tmp", "--", "true"], "absolute"),
        (&["run", "-w", "all", "--script", "/nonexistent/script"], "/nonexistent/script"),
        (&["run", "-w", "all", "-o", "jsonl", "--show", "failed", "--", "true"], "--show"),
        (&["run", "-w", "all", "-o", "json", "--names", "--", "true"], "--names"),
        (&["job", "00000000000000000000000000"], "no job 00000000000000000000000000"),
        (&["attach", "00000000000000000000000000"], "no job 00000000000000000000000000"),
        (&["logs", "00000000000000000000000000"], "no job 00000000000000000000000000"),
        (&["cancel", "00000000000000000000000000"], "no job 00000000000000000000000000"),
        (&["rerun", "00000000000000000000000000", "--failed"], "no job 00000000000000000000000000"),
        (&["agents", "revoke", "dev-2"], "no agent has the name or id"),
    ] {
        assert_refused(&fleet.muster(words), hint);
    }
    assert_eq!(fleet.muster(["jobs", "-o", "json"]).json(), Value::Array(Vec::new()), "something was submitted");
}

#[test]
fn p11_above_the_guard_the_count_has_to_be_said() {
    let controller = Controller::start([]);
    let token = controller.token(["--uses", "51", "--ttl", "10m"]);
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (controller, token) = (&controller, &token);
            scope.spawn(move || {
                for number in (1..=51).filter(|number| number % 3 == worker) {
                    let run = controller.enrol(&format!("n{number:02}"), token);
                    assert_eq!(run.status, 0, "{run}");
                }
            });
        }
    });
    let run = |options: &[&str]| controller.program(["run", "-w", "all"]).args(options).args(["--", "true"]).run();
    assert_refused(&run(&[]), "51 hosts are more than 50 and more than 25 % of 51: say --yes=51");
    assert_refused(&run(&["--yes"]), "say --yes=51");
    assert_refused(&run(&["--yes=50"]), "the plan has 51 hosts");
    assert_refused(&run(&["-x", "n01", "--yes=51"]), "the plan has 50 hosts");
    let at_terminal = |answer: &str| terminal(&controller, "muster run -w all -t 1s -- true", answer);
    let run_at_terminal = at_terminal("50\n");
    assert_eq!(run_at_terminal.status, 2, "{run_at_terminal}");
    assert!(run_at_terminal.out().contains("51 was not typed: nothing was run"), "{run_at_terminal}");

    let dry = run(&["--dry-run"]);
    assert_eq!(dry.status, 0, "{dry}");
    assert!(dry.out().starts_with("hosts    51 n[01-51]\naway     51 n[01-51]\ndigest   "), "{dry}");
    assert!(dry.out().contains("--yes=51"), "{dry}");
    let dry = run(&["--dry-run", "-o", "json", "-x", "n51"]).json();
    assert_eq!((&dry["targets"], &dry["confirm"]), (&Value::from(50), &Value::Null), "{dry}");
    assert_eq!(controller.muster(["jobs", "-o", "json"]).json(), Value::Array(Vec::new()), "something was submitted");

    // Said or typed, it runs; and nobody of them is there.
    let agreed = run(&["--yes=51", "-t", "1s"]);
    assert_eq!(agreed.status, 3, "{agreed}");
    assert!(agreed.closing().starts_with("run: 51 unreachable n[01-51]: 51 targeted in "), "{agreed}");
    let typed = at_terminal("51\n");
    assert_eq!(typed.status, 3, "{typed}");
    assert!(typed.out().contains("run: 51 unreachable n[01-51]: 51 targeted in "), "{typed}");
    // 50 hosts need no word.
    let fewer = run(&["-x", "n51", "-t", "1s"]);
    assert!(fewer.closing().starts_with("run: 50 unreachable n[01-50]: 50 targeted in "), "{fewer}");
}

/// Runs a shell line at a terminal of its own, where somebody types. All it says is in `stdout`.
fn terminal(controller: &Controller, line: &str, typed: &str) -> Run {
    let muster = bin("muster");
    let path = std::env::join_paths([muster.parent().expect("a directory")]).expect("no colon");
    let mut child = Command::new("/usr/bin/script")
        .args(["--quiet", "--return", "--command", line, "/dev/null"])
        .env("PATH", path)
        .env("MUSTER_CONFIG", controller.path("config.toml"))
        .env_remove("MUSTER_CONTEXT")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("script(1) of util-linux runs");
    let mut stdin = child.stdin.take().expect("piped");
    std::io::Write::write_all(&mut stdin, typed.as_bytes()).expect("the terminal takes it");
    let run = finish(child);
    drop(stdin);
    run
}
