//! `muster dev`: a fleet for as long as a command runs, and nothing of it afterwards.

use muster_tests::{PATIENCE, Program, Run, assert_no_process_with, finish, kill, processes_with, signal, until};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use tempfile::TempDir;

/// A directory for the fleet's state that does not exist yet; its path is on the command line of all processes.
fn state() -> (TempDir, PathBuf, String) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("fleet");
    let text = path.to_str().expect("text").to_owned();
    (dir, path, text)
}

fn dev(args: &[&str]) -> Program {
    Program::new("muster").args(["dev", "--agents", "1"]).args(args)
}

#[track_caller]
fn assert_ready(run: &Run) {
    let first = run.err().lines().next().unwrap_or_default().to_owned();
    assert!(first.starts_with("dev: 1 agent is ready after "), "{run}");
}

#[test]
fn the_status_of_the_command_is_passed_on() {
    let status = |command: &[&str]| {
        let run = dev(&["--"]).args(command).run();
        assert_ready(&run);
        (run.status, run.out())
    };
    // What is there is for the command: muster itself, and the way to the fleet.
    let line = "muster run -w all --names -- true && echo $MUSTER_CONTEXT && test -d $MUSTER_DEV_DIR && exit 37";
    assert_eq!(status(&["sh", "-c", line]), (37, "dev-1\ndev\n".to_owned()));
    assert_eq!(status(&["sh", "-c", "kill -TERM $$"]).0, 128 + 15);
    assert_eq!(status(&["/nonexistent/program"]).0, 127);
    assert_eq!(status(&["/etc/passwd"]).0, 126);
}

#[test]
fn the_state_is_kept_where_it_was_asked_for_and_only_there() {
    let (_dir, path, text) = state();
    let run = dev(&["--state", &text, "--", "sh", "-c", "muster run -w all -N -- echo $MUSTER_DEV_DIR"]).run();
    assert_eq!((run.status, run.out()), (0, format!("{text}\n")), "{run}");
    assert_ready(&run);
    for name in ["config.toml", "controller/muster.db", "controller.log", "dev-1/identity", "dev-1.log"] {
        assert!(path.join(name).exists(), "{name} is missing");
    }
    assert_no_process_with(&text);
    let again = dev(&["--state", &text, "--", "true"]).run();
    assert_eq!((again.status, again.err().lines().count()), (2, 1), "{again}");
    assert!(again.err().contains("is not empty: name a new directory"), "{again}");

    let run = dev(&["--", "sh", "-c", "echo $MUSTER_DEV_DIR"]).run();
    assert!(!PathBuf::from(run.out().trim()).exists(), "a temporary one is removed: {run}");
}

#[test]
fn without_a_command_it_says_what_to_type_and_waits() {
    let (_dir, path, text) = state();
    let mut child = dev(&["--state", &text]).spawn();
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
    assert_eq!(line, format!("export MUSTER_CONFIG='{}' MUSTER_CONTEXT=dev\n", path.join("config.toml").display()));
    let config = path.join("config.toml");
    let run = Program::new("muster").args(["run", "-w", "all", "--", "true"]).env("MUSTER_CONFIG", config).run();
    assert_eq!(run.status, 0, "{run}");
    signal(child.id(), Signal::INT);
    assert_eq!(child.wait().expect("our child").code(), Some(0));
    assert_no_process_with(&text);
}

#[test]
fn nothing_is_left_however_it_ends() {
    // The command ends while a job is at work.
    let (_dir, _, text) = state();
    let line = "J=$(muster run -w all -d --grace 1s 'trap \"\" TERM; sleep 300'); echo $J; \
                until muster job $J | grep -q started; do :; done";
    let run = dev(&["--state", &text, "--", "sh", "-c", line]).run();
    assert_eq!(run.status, 0, "{run}");
    assert!(run.err().contains("dev: cancelling what still runs"), "{run}");
    assert_no_process_with(&text);
    let job = run.out().trim().to_owned();
    assert_no_process_with(&format!("MUSTER_JOB={job}"));

    // TERM is handed on to the command.
    let (_dir, path, text) = state();
    let line = "trap 'exit 9' TERM; : >\"$MUSTER_DEV_DIR/ready\"; while :; do sleep 0.05; done";
    let child = dev(&["--state", &text, "--", "sh", "-c", line]).spawn();
    until(PATIENCE, "the command runs", || path.join("ready").exists());
    signal(child.id(), Signal::TERM);
    let run = finish(child);
    assert_eq!(run.status, 9, "{run}");
    assert_no_process_with(&text);

    // And when nobody can be asked.
    let (_dir, path, text) = state();
    let mut child = dev(&["--state", &text]).spawn();
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("readable");
    assert!(processes_with(&text).len() >= 3, "muster, controller and agent");
    kill(child.id());
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(child.wait().expect("our child").code(), None);
    assert_no_process_with(&text);
    assert!(fs::exists(path).expect("readable"), "what is in a given directory stays");
}
