//! Output: the bytes that a program wrote, where it wrote them, and a count of those that are missing.

use muster_tests::{Contact, Fleet, PATIENCE, Run, finish, kill, until};
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use tempfile::NamedTempFile;

/// Bytes kept from the beginning.
const HEAD: usize = 16 << 20;
/// Bytes kept from the end.
const TAIL: usize = 4 << 20;
/// Bytes that a host holds before a program without a limit has to wait.
const HELD: u64 = 64 << 20;

/// A file that the hosts can read: they are on this machine.
fn file(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(content).expect("written");
    file
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// The output of one host in these events, and how many bytes of it are said to be missing.
fn output_of(run: &Run, host: &str, stream: &str) -> (String, u64) {
    let (mut text, mut dropped) = (String::new(), 0);
    for event in run.jsonl().iter().filter(|event| event["host"] == host && event["stream"] == stream) {
        match event["kind"].as_str() {
            Some("output") => text.push_str(event["text"].as_str().expect("text")),
            Some("truncated") => dropped += event["bytes"].as_u64().expect("a number"),
            _ => panic!("{event} has a stream"),
        }
    }
    (text, dropped)
}

/// The most memory a process ever had.
fn peak_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is alive");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    peak.expect("Linux says it")
}

fn numbers(count: u32) -> String {
    (1..=count).map(|number| format!("{number}\n")).collect()
}

#[test]
fn bytes_reach_a_pipe_as_they_were_written() {
    let fleet = Fleet::start(1);
    let written = b"\xff\xfe\x80\n\x1b[31mred\x1b]0;title\x07\x1b[0m\r\x07\0\n\n\xe2\x82\nno end";
    let awkward = file(written);
    let path = text(awkward.path());
    let run = fleet.muster(["run", "-w", "all", "-N", "--", "cat", path]);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    assert_eq!(run.stdout, written, "{run}");
    let stored = fleet.muster(["logs", "-N", &run.job()]);
    assert_eq!(stored.stdout, written, "{stored}");

    // With prefixes every line has one, and the last one has an end.
    let run = fleet.muster(["run", "-w", "all", "--", "cat", path]);
    let lines: Vec<u8> =
        written.split(|byte| *byte == b'\n').flat_map(|line| [b"dev-1: ", line, b"\n"].concat()).collect();
    assert_eq!(run.stdout, lines, "{run}");

    // JSON has no such bytes: they are encoded, never replaced.
    let encoded = "//6AChtbMzFtcmVkG10wO3RpdGxlBxtbMG0NBwAKCuKCCm5vIGVuZA==";
    let run = fleet.muster(["run", "-w", "all", "-o", "json", "--", "cat", path]);
    assert_eq!(run.json()["hosts"][0]["stdout"]["b64"], encoded, "{run}");
    let run = fleet.muster(["run", "-w", "all", "-o", "jsonl", "--", "cat", path]);
    let events = run.jsonl();
    let output: Vec<&Value> = events.iter().filter(|event| event["kind"] == "output").collect();
    assert!(output.len() == 1 && output[0]["b64"] == encoded && output[0]["text"].is_null(), "{run}");
}

#[test]
fn stdout_and_stderr_are_kept_apart() {
    let fleet = Fleet::start(2);
    let line = "echo out; echo err >&2; printf more; printf rest >&2";
    let run = fleet.muster(["run", "-w", "all", line]);
    run.assert_ended(0, "2 succeeded: 2 targeted");
    let sorted = |text: String| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(run.out()), ["dev-1: more", "dev-1: out", "dev-2: more", "dev-2: out"]);
    assert_eq!(sorted(run.err())[..4], ["dev-1: err", "dev-1: rest", "dev-2: err", "dev-2: rest"], "{run}");
    assert_eq!(run.err().lines().count(), 5, "{run}");

    let run = fleet.muster(["run", "-w", "all", "-o", "jsonl", line]);
    for host in ["dev-1", "dev-2"] {
        assert_eq!(output_of(&run, host, "stdout"), ("out\nmore".to_owned(), 0));
        assert_eq!(output_of(&run, host, "stderr"), ("err\nrest".to_owned(), 0));
    }
    // A program without a word leaves none.
    let run = fleet.muster(["run", "-w", "all", "--", "true"]);
    run.assert_ended(0, "2 succeeded: 2 targeted");
    assert_eq!((&*run.stdout, run.err().lines().count()), (&b""[..], 1), "{run}");
}

#[test]
fn p5_megabytes_arrive_whole_and_in_order() {
    let fleet = Fleet::start(2);
    let all = numbers(700_000);
    let run = fleet.muster(["run", "-w", "dev-1", "-N", "--", "seq", "700000"]);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    assert!(run.out() == all, "the output differs");

    // Of two hosts at once: lines are whole, whatever the order of the hosts.
    let run = fleet.muster(["run", "-w", "all", "--", "seq", "700000"]);
    run.assert_ended(0, "2 succeeded: 2 targeted");
    for prefix in ["dev-1: ", "dev-2: "] {
        let out = run.out();
        let own = out.split_inclusive('\n').filter_map(|line| line.strip_prefix(prefix));
        assert!(own.collect::<String>() == all, "{prefix}the output differs");
    }
    // And once more from the store, event by event.
    let stored = fleet.muster(["attach", "-o", "jsonl", &run.job()]);
    stored.assert_ended(0, "2 succeeded: 2 targeted");
    assert!(output_of(&stored, "dev-2", "stdout") == (all, 0), "the stored output differs");
    let seqs = stored.jsonl().into_iter().map(|event| event["seq"].as_u64().expect("a number"));
    assert!(seqs.eq(1..=stored.jsonl().len() as u64), "the events have holes");
}

#[test]
fn p5_what_is_dropped_is_counted_to_the_byte() {
    let fleet = Fleet::start(1);
    let all = numbers(4_000_000);
    let dropped = all.len() - HEAD - TAIL;
    let run = fleet.muster(["run", "-w", "all", "-N", "--", "seq", "4000000"]);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    let kept = [&all[..HEAD], &all[HEAD + dropped..]].concat();
    assert!(run.out() == kept, "{} bytes, not those of both ends", run.stdout.len());
    assert_eq!(run.err().lines().next(), Some("dev-1: ... 9,917,376 bytes of stdout dropped here ..."), "{run}");
    assert_eq!((run.err().lines().count(), dropped), (2, 9_917_376), "{run}");
    let stored = fleet.muster(["attach", "-o", "jsonl", &run.job()]);
    assert!(output_of(&stored, "dev-1", "stdout") == (kept, dropped as u64), "the stored output differs");

    // One line of 100 MiB: it is a line of that host before the gap, and again behind it.
    let line = "head -c 104857600 /dev/zero | tr '\\0' x";
    let run = fleet.muster(["run", "-w", "all", line]);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    assert_eq!(run.err().lines().next(), Some("dev-1: ... 83,886,080 bytes of stdout dropped here ..."), "{run}");
    let line = |length| format!("dev-1: {}\n", "x".repeat(length));
    assert!(run.out() == line(HEAD) + &line(TAIL), "{} bytes", run.stdout.len());
}

#[test]
fn p9_a_controller_that_was_killed_goes_on_where_the_output_was() {
    let fleet = Fleet::start(1);
    let (ports, gate, all) = (fleet.ports(), fleet.gate("second"), numbers(4_000_000));
    let id = fleet.submit(["-w", "all", "--sh", "--", &format!("seq 2500000; {}; seq 2500001 4000000", gate.wait())]);
    until(PATIENCE, "the head is stored", || fleet.counted("muster_output_bytes_total", &[]) == HEAD as u64);
    kill(fleet.controller_pid());
    let _again = fleet.restart_controller(&ports);
    fleet.until_contact(1, Contact::There);
    gate.open();
    assert_eq!(fleet.until_done(&id)["counts"], serde_json::json!({"succeeded": 1}));
    assert_eq!(fleet.counted("muster_sessions_closed_total", &["invalid"]), 0, "what the agent says is believed");
    let stored = fleet.muster(["attach", "-o", "jsonl", &id]);
    let kept = [&all[..HEAD], &all[all.len() - TAIL..]].concat();
    assert!(output_of(&stored, "dev-1", "stdout") == (kept, (all.len() - HEAD - TAIL) as u64), "it is not complete");
}

#[test]
fn p10_a_flood_is_bounded_everywhere() {
    let fleet = Fleet::start(1);
    let run = fleet.muster(["run", "-w", "all", "-N", "-u", "2s", "yes | head -c 10737418240"]);
    run.assert_ended(1, "1 timed_out dev-1: 1 targeted");
    assert!(run.err().contains("dev-1: timed_out: the run timeout ended it"), "{run}");
    assert_eq!(run.stdout.len(), HEAD + TAIL, "{run}");
    let dropped = run.err().lines().find_map(|line| {
        let number = line.strip_prefix("dev-1: ... ")?.strip_suffix(" bytes of stdout dropped here ...")?;
        number.replace(',', "").parse::<usize>().ok()
    });
    let dropped = dropped.unwrap_or_else(|| panic!("nothing is said of what is missing: {run}"));
    // What comes behind the gap stands where it stood: one byte miscounted and y is a newline.
    let expected = |place: usize| if place.is_multiple_of(2) { b'y' } else { b'\n' };
    let places = (0..HEAD).chain(HEAD + dropped..HEAD + dropped + TAIL);
    assert!(run.stdout.iter().copied().eq(places.map(expected)), "the bytes are not in their places");

    // Another flood delays nobody, and ends when it is told to.
    let flood = fleet.muster(["run", "-d", "-w", "all", "--", "yes"]).out();
    fleet.muster(["run", "-w", "all", "--", "true"]).assert_ended(0, "1 succeeded: 1 targeted");
    fleet.muster(["cancel", flood.trim()]).assert_ended(0, "1 cancelled dev-1: 1 targeted");

    for pid in [fleet.agent_pid(1), fleet.controller_pid()] {
        let peak = peak_kib(pid);
        assert!(peak < 256 << 10, "process {pid} took {peak} KiB");
    }
}

/// What the one task in the spool of `dev-1` has written so far: bytes of its `out`.
fn written(fleet: &Fleet) -> u64 {
    let task = fleet.spooled(1).into_iter().next();
    task.and_then(|task| fs::metadata(task.join("out")).ok()).map_or(0, |out| out.len())
}

#[test]
fn p5_without_a_limit_all_arrives_though_controller_and_agent_are_killed_meanwhile() {
    let fleet = Fleet::start(1);
    let ports = fleet.ports();
    let line = ["run", "-w", "all", "-N", "--output-limit", "none", "--", "seq", "20000000"];
    let follower = fleet.program(line).spawn();
    until(PATIENCE, "it writes", || written(&fleet) > 1 << 20);
    kill(fleet.controller_pid());
    let mut last = 0;
    until(PATIENCE, "the program waits for a controller", || {
        let before = std::mem::replace(&mut last, written(&fleet));
        last > HELD && last == before
    });
    kill(fleet.agent_pid(1));
    let _controller = fleet.restart_controller(&ports);
    let _agent = fleet.restart_agent(1);
    let run = finish(follower);
    assert_eq!(run.status, 0, "{run}");
    assert!(run.closing().starts_with("run: 1 succeeded: 1 targeted in "), "{run}");
    assert!(!run.err().contains("dropped"), "{run}");
    assert!(run.stdout == numbers(20_000_000).as_bytes(), "{} bytes, and not all in their places", run.stdout.len());
}

#[test]
fn p10_a_program_without_a_limit_delays_nobody_and_ends_when_it_is_told_to() {
    let fleet = Fleet::start(2);
    let flood = fleet.submit(["-w", "dev-1", "--output-limit", "none", "--", "yes"]);
    until(PATIENCE, "it writes", || written(&fleet) > HELD);
    for host in ["dev-1", "dev-2"] {
        fleet.muster(["run", "-w", host, "--", "true"]).assert_ended(0, "1 succeeded: 1 targeted");
    }
    assert_eq!(fleet.state(&flood, "dev-1"), "started");
    fleet.muster(["cancel", &flood]).assert_ended(0, "1 cancelled dev-1: 1 targeted");
    until(PATIENCE, "nothing is left of it", || fleet.is_idle(1));
    for pid in [fleet.agent_pid(1), fleet.controller_pid()] {
        let peak = peak_kib(pid);
        assert!(peak < 256 << 10, "process {pid} took {peak} KiB");
    }
    // One that the controller had ended before it, at its timeout, waits for nobody either.
    let run = fleet.muster(["run", "-w", "dev-1", "--names", "--output-limit", "none", "-u", "1s", "--", "yes"]);
    run.assert_ended(1, "1 timed_out dev-1: 1 targeted");
}

#[test]
fn a_limit_is_split_into_both_ends() {
    let fleet = Fleet::start(1);
    let run = fleet.muster(["run", "-w", "all", "-N", "--output-limit", "10", "--", "printf", "0123456789abcdef"]);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    assert_eq!(run.out(), "01234567ef");
    assert_eq!(run.err().lines().next(), Some("dev-1: ... 6 bytes of stdout dropped here ..."), "{run}");
    let run = fleet.muster(["run", "-w", "all", "--output-limit", "some", "--", "true"]);
    assert_eq!((run.status, &*run.stdout), (2, &b""[..]), "{run}");
    assert!(
        run.err().lines().next().is_some_and(|line| line.ends_with("use a size like 512K or 16M, or `none`")),
        "{run}"
    );
}
