//! `--stdin`: what the operator pipes in reaches every host whole, and hurts nobody who does not read it.

use muster_tests::Fleet;

/// Letters without a pattern, so that what is lost, doubled or moved shows.
fn letters(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        b'a' + (state >> 24) as u8 % 26
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn stdin_arrives_whole() {
    let fleet = Fleet::start(2);
    let sent = letters(10 << 20);
    let run = fleet.program(["run", "-w", "dev-2", "-N", "--stdin", "--", "cat"]).stdin(sent.clone()).run();
    run.assert_ended(0, "1 succeeded: 1 targeted");
    assert!(run.stdout == sent, "10 MiB came back as {} other bytes", run.stdout.len());

    // On every host, to a script as well, whose own bytes are not confused with them.
    let script = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(script.path(), "#!/bin/sh\nsha256sum\n").expect("written");
    let path = script.path().to_str().expect("text");
    let run = fleet.program(["run", "-w", "all", "-N", "--stdin", "--script", path]).stdin(sent.clone()).run();
    run.assert_ended(0, "2 succeeded: 2 targeted");
    let digests: Vec<String> = run.out().lines().map(str::to_owned).collect();
    let here = fleet.program(["run", "-w", "dev-1", "-N", "--stdin", "sha256sum"]).stdin(sent).run().out();
    assert_eq!(digests, [here.trim_end(); 2], "{run}");

    // The very bytes, whatever they are, and the very end.
    let all: Vec<u8> = (0..=255).collect();
    let run = fleet.program(["run", "-w", "dev-1", "-N", "--stdin", "cat; echo end"]).stdin(all.clone()).run();
    assert_eq!(run.stdout, [&all[..], b"end\n"].concat());
}

#[test]
fn a_program_that_does_not_read_stdin_is_not_hurt() {
    let fleet = Fleet::start(3);
    let line = "case $MUSTER_HOST in dev-1) ;; dev-2) exec 0<&-; sleep 0.2; echo closed;; *) head -c 1;; esac";
    let run = fleet.program(["run", "-w", "all", "--stdin", line]).stdin(letters(10 << 20)).run();
    run.assert_ended(0, "3 succeeded: 3 targeted");
    let mut lines: Vec<_> = run.out().lines().map(|line| line[..8].to_owned()).collect();
    lines.sort();
    assert_eq!((lines.len(), &*lines[0]), (2, "dev-2: c"), "{run}");
}

#[test]
fn empty_stdin_is_empty_and_none_is_none() {
    let fleet = Fleet::start(1);
    let run = fleet.muster(["run", "-w", "all", "-N", "--stdin", "--", "wc", "-c"]);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    assert_eq!(run.out().trim(), "0");
    // So is an empty script, which is a program that does nothing.
    let run = fleet.muster(["run", "-w", "all", "--script", "/dev/null"]);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    // Without the option it stays with us.
    let run = fleet.program(["run", "-w", "all", "-N", "--", "wc", "-c"]).stdin("not for the host").run();
    run.assert_ended(0, "1 succeeded: 1 targeted");
    assert_eq!(run.out().trim(), "0");
}

#[test]
fn too_much_stdin_is_refused_before_anything_runs() {
    let fleet = Fleet::start(1);
    let run = fleet.program(["run", "-w", "all", "--stdin", "--", "cat"]).stdin(vec![b'x'; (64 << 20) + 1]).run();
    run.assert_usage("64 MiB");
    let jobs = fleet.muster(["jobs", "-o", "json"]);
    assert_eq!(jobs.json(), serde_json::json!([]), "{jobs}");

    let run = fleet.program(["run", "-w", "all", "--hosts-file", "-", "--stdin", "--", "cat"]).stdin("dev-1\n").run();
    run.assert_usage("--hosts-file");
}
