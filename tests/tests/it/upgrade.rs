//! An agent that becomes another program while its tasks run, or stands still: no task is touched, nothing of it is lost,
//! and its timeout holds.

use muster_tests::{Contact, Fleet, PATIENCE, assert_no_process_with, bin, signal, until};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Puts a program of its own into this place, as an installation does: by a rename.
fn install(program: &Path) -> u64 {
    let new = program.with_extension("new");
    fs::copy(bin("muster-agent"), &new).expect("room for a copy");
    fs::rename(&new, program).expect("a rename");
    fs::metadata(program).expect("it is there").ino()
}

fn program_of(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/exe")).map_or(0, |program| program.ino())
}

#[test]
fn p9_an_agent_becomes_another_program_at_sighup_while_its_tasks_write() {
    let fleet = Fleet::start(2);
    let own = fleet.dir().join("own-agent");
    install(&own);
    fleet.kill_agent(1);
    let agent = fleet.restart_agent_as(1, &own);
    fleet.until_contact(1, Contact::There);
    let gate = fleet.gate("second");
    // One that writes all the time, and ends when the gate is open; one that is silent meanwhile.
    let starts = fleet.dir().join("starts");
    let count = format!("echo $MUSTER_TASK >> {}; ", starts.display());
    let line = format!(
        "{count} i=0; {{ {}; }} & while kill -0 $! 2>/dev/null; do i=$((i+1)); echo $i; sleep 0.002; done; exit 9",
        gate.wait()
    );
    let busy = fleet.submit(["-w", "all", "--sh", "--", &line]);
    let silent =
        fleet.submit(["-w", "all", "--sh", "--", &format!("{count} echo first; {}; echo second", gate.wait())]);
    for id in [&busy, &silent] {
        ["dev-1", "dev-2"].iter().for_each(|host| fleet.until_state(id, host, "started"));
    }
    for _ in 0..3 {
        let program = install(&own);
        signal(agent.pid(), Signal::HUP);
        until(PATIENCE, "the agent is another program", || program_of(agent.pid()) == program);
        assert_eq!(fleet.supervisors(1).len(), 2, "its tasks go on");
        fleet.until_contact(1, Contact::There);
    }
    gate.open();

    for (id, code) in [(&busy, 9), (&silent, 0)] {
        for host in fleet.until_done(id)["hosts"].as_array().expect("hosts") {
            assert_eq!(host["exit_code"], code, "{host}");
        }
    }
    assert_eq!(fleet.muster(["logs", &silent, "-N", "-w", "dev-1"]).out(), "first\nsecond\n");
    let events = fleet.muster(["logs", &busy, "-w", "dev-1", "-o", "jsonl"]).jsonl();
    let text: String = events.iter().filter_map(|event| event["text"].as_str()).collect();
    let dropped = events.iter().any(|event| event["kind"] == "truncated");
    let lines = text.lines().zip(1_u64..).take_while(|(line, number)| line.parse() == Ok(*number)).count();
    assert!(dropped || (lines == text.lines().count() && lines > 0), "line {lines} is not followed by the next");
    assert_eq!(fs::read_to_string(starts).expect("they ran").lines().count(), 4, "each task started once");
}

#[test]
fn p8_the_run_timeout_holds_while_the_agent_stands_still() {
    let fleet = Fleet::start(1);
    let id = fleet.submit(["-w", "all", "-u", "5s", "--sh", "--", "echo first; setsid sleep 1000 & sleep 1000"]);
    until(PATIENCE, "it runs", || fleet.muster(["logs", &id]).out() == "dev-1: first\n");
    let agent = fleet.agent_pid(1);
    signal(agent, Signal::STOP);
    until(PATIENCE, "the task has ended without its agent", || {
        fleet.spooled(1).iter().any(|task| task.join("exit").exists())
    });
    assert_no_process_with(&format!("MUSTER_JOB={id}"));
    signal(agent, Signal::CONT);
    let job = fleet.until_done(&id);
    assert_eq!(job["hosts"][0]["state"], "timed_out", "{job}");
}
