//! Execution on a host: what was typed is what runs, byte for byte; as whom, where, and with which environment.

use muster_tests::{Fleet, assert_no_process_with};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use tempfile::{NamedTempFile, TempDir};

/// What a shell, a terminal or a format would make something else of.
const AWKWARD: [&[u8]; 28] = [
    b"",
    b" ",
    b"-n",
    b"--",
    b"two words",
    b"\ttab\nnewline\n",
    b"'",
    b"\"it's\"",
    b"`id`",
    b"$(id)",
    b"$HOME",
    b"${x}",
    b";",
    b"; id;",
    b"&& false",
    b"|",
    b">/dev/null",
    b"*",
    b"~",
    b"\\",
    b"\\n\\0",
    b"%s%n",
    b"#",
    b"!!",
    b"\r\x1b[31m\x07",
    "gr\u{fc}\u{df}e \u{65e5}\u{672c} \u{1f980}".as_bytes(),
    b"\xff\xfe\x80",
    b"\x01\x7f",
];

/// An argument's most bytes on Linux.
const ARGUMENT_MAX: usize = 131_071;

fn argv<'a>(options: &[&str], words: impl IntoIterator<Item = &'a [u8]>) -> Vec<OsString> {
    let start = ["run", "-w", "all", "-N"].iter().chain(options).chain(&["--"]).map(OsString::from);
    start.chain(words.into_iter().map(|word| OsStr::from_bytes(word).to_owned())).collect()
}

fn script(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(content).expect("written");
    file
}

fn joined(words: &[&[u8]], with: &[u8]) -> Vec<u8> {
    words.iter().flat_map(|word| [word, with]).flatten().copied().collect()
}

#[test]
fn arguments_arrive_byte_for_byte() {
    let fleet = Fleet::start(1);
    let run = fleet.muster(argv(&[], [&b"printf"[..], b"%s\\0"].into_iter().chain(AWKWARD)));
    run.assert_ended(0, "1 succeeded: 1 targeted");
    assert_eq!(run.stdout, joined(&AWKWARD, b"\0"), "{run}");

    // As much as is taken: 1 MiB together, a terminator for each word, and most of the words as long as Linux has them.
    let long = vec![b'x'; ARGUMENT_MAX];
    let rest = vec![b'y'; (1 << 20) - "printf.%s\\0.".len() - 7 * (ARGUMENT_MAX + 1) - 1];
    let words: Vec<&[u8]> = [&long[..]; 7].into_iter().chain([&rest[..]]).collect();
    let typed = argv(&[], [&b"printf"[..], b"%s\\0"].into_iter().chain(words.iter().copied()));
    let run = fleet.muster(&typed);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    assert!(run.stdout == joined(&words, b"\0"), "1 MiB of arguments did not arrive as it was");

    // A byte more is refused here, with a way out.
    let more = typed.iter().cloned().chain(["".into()]);
    fleet.muster(more).assert_usage("--script");
    // Linux hands over neither a longer argument nor one with a NUL, but words can be joined to a line that is longer.
    let half = vec![b'x'; ARGUMENT_MAX / 2 + 1];
    fleet.muster(argv(&["--sh"], [&b": "[..], &half, &half])).assert_usage("--script");
    let line = [b"echo ok #", &long[..ARGUMENT_MAX - 9]].concat();
    let run = fleet.muster(argv(&["--sh"], [&line[..]]));
    assert_eq!((run.status, &*run.out()), (0, "ok\n"), "{run}");
}

#[test]
fn one_word_may_be_a_shell_line_and_several_never_are() {
    let fleet = Fleet::start(1);
    for (words, expected) in [
        (&["echo $MUSTER_HOST; echo '*'"][..], "dev-1\n*\n"),
        (&["--", "echo `echo a  b`|cat"], "a b\n"),
        (&["--", "echo", "$MUSTER_HOST", "*;id"], "$MUSTER_HOST *;id\n"),
        (&["--sh", "--", "echo", "$MUSTER_HOST", "'*';", "echo x"], "dev-1 *\nx\n"),
        (&["--sh", "exit"], ""),
        (&["--", "echo", "--sh", "-w", "none"], "--sh -w none\n"),
    ] {
        let run = fleet.muster(["run", "-w", "all", "-N"].iter().chain(words));
        run.assert_ended(0, "1 succeeded: 1 targeted");
        assert_eq!(run.out(), expected, "{words:?}");
    }
    // Only a shell has this one: a plain word is not given to a shell.
    let run = fleet.muster(["run", "-w", "all", "exit"]);
    run.assert_ended(1, "1 start_failed dev-1: 1 targeted");
    for words in [&[""][..], &["--sh", ""], &["--sh", " ", " "], &["--", "", "a"], &[]] {
        fleet.muster(["run", "-w", "all"].iter().chain(words)).assert_usage("empty");
    }
}

#[test]
fn a_script_is_carried_along_with_its_arguments() {
    let fleet = Fleet::start(1);
    let print = b"printf '%s\\0' \"$@\"\n";
    let large = [print, &b"#".repeat(2 << 20)[..]].concat();
    for content in [&print[..], &[b"#!/bin/bash\n[[ $BASH ]] && ", &print[..]].concat(), &large] {
        let file = script(content);
        let path = file.path().to_str().expect("text");
        let run = fleet.muster(argv(&["--script", path], AWKWARD));
        run.assert_ended(0, "1 succeeded: 1 targeted");
        assert_eq!(run.stdout, joined(&AWKWARD, b"\0"), "{run}");
    }
    // A program is a script too, and no file at all is needed on the host.
    let run = fleet.muster(["run", "-w", "all", "-N", "--script", "/bin/echo", "a", "b"]);
    assert_eq!((run.status, &*run.out()), (0, "a b\n"), "{run}");

    let lost = script(b"#!/nonexistent/interpreter\n");
    let run = fleet.muster(argv(&["--script", lost.path().to_str().expect("text")], []));
    run.assert_ended(1, "1 start_failed dev-1: 1 targeted");
    assert!(run.err().contains("its interpreter does not exist on this host"), "{run}");

    fleet.muster(argv(&["--script", "/nonexistent/script"], [])).assert_usage("/nonexistent/script");
    let large = NamedTempFile::new().expect("a file");
    large.as_file().set_len((64 << 20) + 1).expect("a sparse file");
    fleet.muster(argv(&["--script", large.path().to_str().expect("text")], [])).assert_usage("64 MiB");
}

#[test]
fn the_environment_is_clean() {
    let fleet = Fleet::start(1);
    let run = fleet.muster(["run", "-w", "all", "-N", "--", "env", "-0"]);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    let of = |text: String| -> BTreeMap<String, String> {
        let pairs = text.split_terminator('\0').map(|pair| pair.split_once('=').expect("a variable"));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let env = of(run.out());
    let names: Vec<&str> = env.keys().map(String::as_str).collect();
    let fixed = names.len();
    let expected = "HOME LANG LOGNAME MUSTER_ATTEMPT MUSTER_HOST MUSTER_JOB MUSTER_TASK PATH SHELL USER";
    assert_eq!(names.join(" "), expected);
    assert_eq!((&*env["MUSTER_HOST"], &*env["MUSTER_JOB"]), ("dev-1", &*run.job()));
    assert_eq!(env["MUSTER_TASK"], format!("{}.0.1", run.job()));

    let run = fleet.muster([
        "run",
        "-w",
        "all",
        "-N",
        "-e",
        "A=b=c\n'$x'",
        "-e",
        "EMPTY=",
        "-e",
        "LANG=C",
        "-e",
        "A=last",
        "--",
        "env",
        "-0",
    ]);
    let env = of(run.out());
    assert_eq!((&*env["A"], &*env["EMPTY"], &*env["LANG"], env.len()), ("last", "", "C", fixed + 2), "{run}");
    let run = fleet.muster(argv(&["-e", "A=b=c\n'$x'"], [&b"printenv"[..], b"A"]));
    assert_eq!(run.out(), "b=c\n'$x'\n", "{run}");

    let long = format!("A={}", "x".repeat(64 << 10));
    for (pair, hint) in [("A", "NAME=VALUE"), ("1A=x", "variable"), ("=x", "variable"), (&long, "--stdin")] {
        fleet.muster(argv(&["-e", pair], [&b"true"[..]])).assert_usage(hint);
    }
}

#[test]
fn a_program_starts_with_nothing_it_was_not_given() {
    let fleet = Fleet::start(1);
    let run = fleet.muster(["run", "-w", "all", "-N", "--", "ls", "/proc/self/fd"]);
    // The last one is the directory itself.
    assert_eq!(run.out(), "0\n1\n2\n3\n", "{run}");
    let line = "pwd; umask; readlink /proc/self/fd/0; cut -d' ' -f6 /proc/$$/stat | grep -qx $$ && echo leads";
    let run = fleet.muster(["run", "-w", "all", "-N", line]);
    assert_eq!(run.out(), "/\n0077\n/dev/null\nleads\n", "{run}");
    let run = fleet.muster(["run", "-w", "all", "-N", "--", "grep", "Sig[BI]", "/proc/self/status"]);
    for line in run.out().lines() {
        let (_, bits) = line.split_once('\t').expect("a name and bits");
        let bits = u64::from_str_radix(bits, 16).expect("bits");
        assert_eq!(bits & 0x7fff_ffff, 0, "blocked or ignored: {run}");
    }
}

#[test]
fn what_cannot_be_started_says_why() {
    let fleet = Fleet::start(2);
    let dir = TempDir::new().expect("a directory");
    let plain = dir.path().join("plain");
    File::create(&plain).expect("a file");
    let plain = plain.to_str().expect("text");
    for (options, word, reason) in [
        (&[][..], "muster-no-such-program", "muster-no-such-program: not found in PATH"),
        (&[], "/nonexistent/program", "/nonexistent/program: No such file or directory"),
        (&[], "/", "/: Permission denied"),
        (&[], plain, "plain: Permission denied"),
        (
            &["--cwd", "/nonexistent/directory"],
            "true",
            "cannot start in /nonexistent/directory: No such file or directory",
        ),
        (&["--cwd", plain], "true", "plain: Not a directory"),
        (&["--run-as", "no-such-user"], "true", "user \"no-such-user\" does not exist on this host"),
    ] {
        let run = fleet.muster(["run", "-w", "all"].iter().chain(options).chain(&["--", word]));
        run.assert_ended(1, "2 start_failed dev-[1-2]: 2 targeted");
        assert_eq!(run.stdout, b"", "{run}");
        for host in ["dev-1", "dev-2"] {
            let start = format!("{host}: start_failed: ");
            let said: Vec<_> = run.err().lines().filter(|line| line.starts_with(&start)).map(str::to_owned).collect();
            assert!(said.len() == 1 && said[0].contains(reason), "{reason:?} is not said once: {run}");
        }
        assert_eq!(run.err().lines().count(), 3, "{run}");
    }
    fleet.muster(argv(&["--cwd", "relative"], [&b"pwd"[..]])).assert_usage("absolute");
    fleet.muster(argv(&["--run-as", ""], [&b"pwd"[..]])).assert_usage("user name");
    let there = dir.path().to_str().expect("text");
    let run = fleet.muster(["run", "-w", "dev-1", "-N", "--cwd", there, "pwd"]);
    assert_eq!((run.status, run.out()), (0, format!("{there}\n")), "{run}");
}

#[test]
fn ends_are_told_apart() {
    let fleet = Fleet::start(3);
    let line = "case $MUSTER_HOST in dev-1) exit 0;; dev-2) exit 3;; *) kill -SEGV $$;; esac";
    let run = fleet.muster(["run", "-w", "all", line]);
    run.assert_ended(1, "1 succeeded, 2 failed dev-[2-3]: 3 targeted");
    for said in ["dev-2: failed: exit code 3\n", "dev-3: failed: killed by SIGSEGV"] {
        assert!(run.err().contains(said), "{run}");
    }
}

#[test]
fn p8_the_run_timeout_ends_everything() {
    let fleet = Fleet::start(2);
    let mark = format!("MARK=timeout-{}-", fleet.controller_pid());
    let line = "trap '' TERM; (setsid sleep 600 &); echo begun; sleep 600; sleep 600";
    let run = fleet.muster(["run", "-w", "all", "-u", "2s", "--grace", "200ms", "-e", &mark, line]);
    run.assert_ended(1, "2 timed_out dev-[1-2]: 2 targeted");
    assert!(run.err().contains("dev-1: timed_out: the run timeout ended it, it ran "), "{run}");
    assert!(run.out().contains("dev-2: begun\n"), "{run}");
    assert_no_process_with(&mark);
    fleet.muster(argv(&["-u", "31d"], [&b"true"[..]])).assert_usage("timeout");
}

#[test]
fn root_becomes_whom_it_is_told_to() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let fleet = Fleet::start(1);
    let line = "id -un; id -gn; id -G; echo $USER $LOGNAME; echo out >/dev/stdout; cat /dev/stdin";
    let run = fleet.program(["run", "-w", "all", "-N", "--run-as", "nobody", "--stdin", line]).stdin("in\n").run();
    assert_eq!(run.out(), "nobody\nnogroup\n65534\nnobody nobody\nout\nin\n", "{run}");
    run.assert_ended(0, "1 succeeded: 1 targeted");

    for content in [&b"id -un; echo $1"[..], b"#!/bin/sh\nid -un; echo $1"] {
        let file = script(content);
        let path = file.path().to_str().expect("text");
        let run = fleet.muster(argv(&["--run-as", "nobody", "--script", path], [&b"a b"[..]]));
        assert_eq!((run.status, &*run.out()), (0, "nobody\na b\n"), "{run}");
    }

    // Where he may not go he does not start.
    let private = TempDir::new().expect("a directory");
    std::fs::set_permissions(private.path(), Permissions::from_mode(0o700)).expect("our directory");
    let path = private.path().to_str().expect("text");
    let run = fleet.muster(argv(&["--run-as", "nobody", "--cwd", path], [&b"pwd"[..]]));
    run.assert_ended(1, "1 start_failed dev-1: 1 targeted");
    assert!(run.err().contains("Permission denied"), "{run}");
}

#[test]
fn an_agent_that_is_not_root_becomes_nobody_else() {
    let fleet = Fleet::start_as_ordinary_user(2);
    let run = fleet.muster(["run", "-w", "all", "--run-as", "root", "--", "id"]);
    run.assert_ended(3, "2 rejected dev-[1-2]: 2 targeted");
    let reason = "rejected: cannot become \"root\": this agent does not run as root";
    assert_eq!(run.err().matches(reason).count(), 2, "{run}");
    let run = fleet.muster(["run", "-w", "dev-1", "-N", "--", "id", "-u"]);
    run.assert_ended(0, "1 succeeded: 1 targeted");
    assert_ne!(run.out(), "0\n");
}
