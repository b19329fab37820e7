//! Supervisors as real processes: what a task's directory says after programs of every kind.

#[path = "supervise/flood.rs"]
mod flood;
#[path = "supervise/host.rs"]
mod host;

use host::{Host, Task, argv, hosts, shell};
use muster_agent::process::Containment;
use muster_agent::spool::News;
use muster_proto::command::{EnvVar, OutputLimit};
use muster_proto::outcome::EndKind;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

#[test]
fn the_leader_decides_how_it_ended() {
    let host = Host::new();
    for (line, end) in [
        ("exit 0", EndKind::Exit(0)),
        ("exit 37", EndKind::Exit(37)),
        ("kill -9 $$", EndKind::Signal(9)),
        ("kill -35 $$", EndKind::Signal(35)),
        ("(exit 3); true", EndKind::Exit(0)),
    ] {
        let ended = host.run(shell(line));
        assert_eq!(ended.exit.end.kind, end, "{line}");
        assert!(ended.started && !ended.exit.left_behind, "{line}");
    }
}

#[test]
fn words_reach_the_program_as_they_are() {
    let host = Host::new();
    let ended = host.run(argv(&[b"printf", b"%s|", b"a b", b"", b"$HOME", b"*", b"'\"", b"\xff\xfe", b"-x\n"]));
    assert_eq!(ended.stdout, b"a b||$HOME|*|'\"|\xff\xfe|-x\n|");
    let longest = vec![b'x'; muster_proto::limits::ARGUMENT_BYTES_MAX];
    assert_eq!(host.run(argv(&[b"printf", b"%s", &longest])).stdout, longest);
}

#[test]
fn the_environment_is_made_anew() {
    let host = Host::new();
    let mut command = argv(&[b"env"]);
    command.env = vec![
        EnvVar { name: "A".into(), value: b"1\n2".to_vec() },
        EnvVar { name: "LANG".into(), value: b"xx".to_vec() },
    ];
    let task = host.prepare(command, &Containment::ProcessGroup);
    let ended = host.finish(task);
    let text = String::from_utf8(ended.stdout).expect("text");
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.sort_unstable();
    let fixed = "HOME LANG LOGNAME MUSTER_ATTEMPT MUSTER_HOST MUSTER_JOB MUSTER_TASK PATH SHELL USER";
    assert_eq!(names.join(" "), format!("A {fixed}"));
    assert!(text.contains("A=1\n2\n") && text.contains("LANG=xx\n") && text.contains("MUSTER_HOST=web01\n"));
    assert!(text.contains(&format!("MUSTER_TASK={}\n", task.id)) && text.contains("MUSTER_ATTEMPT=1\n"));
}

#[test]
fn the_program_has_a_session_a_mask_and_nothing_open() {
    let host = Host::new();
    let look = "umask; pwd; ls /proc/self/fd; grep -E '^Sig(Blk|Ign)' /proc/self/status; ps -o pid=,sid= -p $$";
    let ended = host.run(shell(look));
    let text = String::from_utf8(ended.stdout).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    // The fourth descriptor is ls looking at the directory.
    assert_eq!(lines[..6], ["0077", "/", "0", "1", "2", "3"]);
    assert_eq!(lines[6], "SigBlk:\t0000000000000000");
    // glibc keeps signals 32 and 33 for itself, and hands on what it was given. SIGPIPE is what Rust ignores.
    let ignored = lines[7].strip_prefix("SigIgn:\t").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    assert_eq!(ignored.map(|mask| mask & !(3 << 31)), Some(0));
    let ids: Vec<&str> = lines[8].split_whitespace().collect();
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn the_program_dumps_no_core_and_dies_before_the_agent_when_memory_runs_out() {
    // The agent's protection, the other way round: it must not be inherited.
    let own = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(own).expect("readable");
    fs::write(own, "100").expect("anybody may raise it");
    let look = shell("ulimit -Sc; cat /proc/self/oom_score_adj");
    let ended: Vec<_> = hosts().into_iter().map(|(host, _)| host.run(look.clone())).collect();
    // Only who may lower it can put it back.
    let _ = fs::write(own, before.trim());
    for ended in ended {
        assert_eq!(String::from_utf8_lossy(&ended.stdout), "0\n0\n");
    }
}

#[test]
fn what_cannot_start_says_why_and_did_not_start() {
    let host = Host::new();
    let mut no_dir = shell("true");
    no_dir.cwd = Some(b"/nope".to_vec());
    let mut no_user = shell("true");
    no_user.run_as = Some("nobody-here".into());
    let bad = host.script(b"#!/no/such/interpreter\n", &[]);
    for (command, reason) in [
        (no_dir, "cannot start in /nope: No such file or directory"),
        (no_user, "user \"nobody-here\" does not exist on this host"),
        (argv(&[b"no-such-program"]), "no-such-program: not found in PATH"),
        (argv(&[b"/no/such"]), "/no/such: No such file or directory"),
        (argv(&[b"/etc/passwd"]), "/etc/passwd: Permission denied"),
        (bad, "the script: its interpreter does not exist on this host"),
    ] {
        let ended = host.run(command);
        let EndKind::StartFailed(said) = ended.exit.end.kind else { panic!("{reason}: {:?}", ended.exit) };
        assert!(said.starts_with(reason), "{said}");
        assert!(!ended.started && ended.exit.frames == 0);
    }
}

#[test]
fn root_becomes_the_user_with_his_groups_and_no_more() {
    let host = Host::new();
    if !nix::unistd::getuid().is_root() {
        let mut command = shell("id");
        command.run_as = Some("root".into());
        let ended = host.run(command);
        assert!(
            matches!(ended.exit.end.kind, EndKind::StartFailed(said) if said.starts_with("cannot become \"root\": "))
        );
        return;
    }
    let mut command = shell("id -u; id -G; echo $USER; echo again >/dev/stderr; cat /dev/stdin");
    command.run_as = Some("daemon".into());
    host.stdin(&mut command, b"fed");
    let ended = host.run(command);
    assert_eq!((ended.exit.end.kind, ended.stderr), (EndKind::Exit(0), b"again\n".to_vec()));
    assert_eq!(ended.stdout, b"1\n1\ndaemon\nfed");
    let mut command = shell("true");
    (command.run_as, command.cwd) = (Some("daemon".into()), Some(b"/root".to_vec()));
    let ended = host.run(command);
    assert_eq!(ended.exit.end.kind, EndKind::StartFailed("cannot start in /root: Permission denied".into()));
}

#[test]
fn scripts_are_executed_with_and_without_an_interpreter() {
    let host = Host::new();
    for content in [b"#!/bin/sh\necho \"$@\"; id -u" as &[u8], b"echo \"$@\"; id -u\n"] {
        let mut command = host.script(content, &[b"a", b"b c"]);
        assert_eq!(host.run(command.clone()).stdout.split(|b| *b == b'\n').next(), Some(b"a b c" as &[u8]));
        if nix::unistd::getuid().is_root() {
            command.run_as = Some("daemon".into());
            assert_eq!(host.run(command).stdout, b"a b c\n1\n");
        }
    }
}

#[test]
fn stdin_is_given_whole_and_need_not_be_read() {
    let host = Host::new();
    let data: Vec<u8> = (0..10_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut cat = argv(&[b"cat"]);
    host.stdin(&mut cat, &data);
    assert!(host.run(cat).stdout == data);
    let mut deaf = argv(&[b"true"]);
    host.stdin(&mut deaf, &data);
    assert_eq!(host.run(deaf).exit.end.kind, EndKind::Exit(0));
    assert_eq!(host.run(argv(&[b"cat"])).stdout, b"");
}

#[test]
fn a_flood_is_cut_to_the_byte() {
    let host = Host::new();
    let mut command = shell("head -c 104857600 /dev/zero; head -c 1000 /dev/zero | tr '\\0' x >&2; printf end");
    command.output = OutputLimit::Kept { head: 1 << 20, tail: 100_003 };
    let ended = host.run(command);
    assert_eq!(ended.exit.end.kind, EndKind::Exit(0));
    assert_eq!(ended.produced, [104_857_603, 1000]);
    assert_eq!(ended.stdout.len() + ended.stderr.len(), (1 << 20) + 100_003);
    assert!(ended.stdout.ends_with(b"\0end"));
    assert_eq!(ended.stderr.len(), 1000);
}

#[test]
fn a_daemon_that_keeps_the_pipe_open_does_not_keep_the_task() {
    for (host, containment) in hosts() {
        let file = host.path("daemon");
        let line = format!("(trap '' PIPE; sleep 4; echo x; echo $? >{}) & echo here", file.display());
        let began = Instant::now();
        let task = host.prepare(shell(&line), &containment);
        let ended = host.finish(task);
        assert!(began.elapsed() < Duration::from_secs(4), "{containment:?}");
        assert_eq!((ended.exit.end.kind, ended.stdout), (EndKind::Exit(0), b"here\n".to_vec()));
        assert!(ended.exit.left_behind && ended.exit.end.duration < Duration::from_secs(2));
        // Its writes still succeed.
        host.wait("the daemon writes", || fs::read(&file).ok().filter(|status| status == b"0\n"));
    }
}

#[test]
fn a_cancel_ends_the_deaf_the_stopped_and_the_escaped() {
    let escapes = "trap '' TERM; setsid sh -c \"trap '' TERM; echo a; sleep 1000\" & \
        (setsid sh -c 'sleep 1001 & sleep 1002' & exit 0); sh -c 'echo b; kill -STOP $$' & \
        (sleep 1003 &) ; sleep 1; echo c; while :; do sleep 1004; done";
    for (host, containment) in hosts() {
        let mut command = shell(escapes);
        command.grace = Duration::from_millis(500);
        let task = host.prepare(command, &containment);
        let mut running = host.spawn(task);
        host.wait("all are there", || host.output(task).filter(|text| text.contains('c')));
        assert!(host.members(task).len() >= 7, "{containment:?}: {:?}", host.members(task));
        host.dir(task).request_cancel().expect("it can be asked for");
        let ended = host.end(task, &mut running);
        assert_eq!(ended.exit.end.kind, EndKind::Cancelled);
        assert!(!ended.exit.left_behind);
        assert_eq!(host.members(task), Vec::<i32>::new(), "{containment:?}");
        assert!(ended.exit.end.duration < Duration::from_secs(30));
        running.wait().expect("it is our child");
        if let Containment::Cgroup(root) = &containment {
            assert!(!root.join(task.id.to_string()).exists());
        }
    }
}

#[test]
fn the_run_timeout_ends_it_and_a_polite_program_may_clean_up() {
    for (host, containment) in hosts() {
        let mut command = shell("trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done");
        command.timeout = Duration::from_millis(300);
        let task = host.prepare(command, &containment);
        let ended = host.finish(task);
        assert_eq!((ended.exit.end.kind, ended.stdout), (EndKind::TimedOut, b"bye\n".to_vec()));
        assert!(ended.exit.end.duration >= Duration::from_millis(300));
    }
}

#[test]
fn a_cancel_that_comes_first_or_late_starts_and_changes_nothing() {
    let host = Host::new();
    let early = host.prepare(shell("echo ran"), &Containment::ProcessGroup);
    host.dir(early).request_cancel().expect("it can be asked for");
    let ended = host.finish(early);
    assert_eq!((ended.exit.end.kind, ended.started), (EndKind::Cancelled, false));
    let late = host.prepare(shell("exit 4"), &Containment::ProcessGroup);
    let ended = host.finish(late);
    host.dir(late).request_cancel().expect("it can be asked for");
    assert_eq!(host.dir(late).exit().expect("it can be read"), Some(ended.exit));
}

#[test]
fn a_lost_supervisor_is_noticed_and_its_task_buried() {
    for (host, containment) in hosts() {
        let task = host.prepare(shell("echo early; setsid sleep 1000 & sleep 1001"), &containment);
        let mut bell = host.watch(task);
        let mut supervisor = host.spawn(task);
        host.wait("it is at work", || host.output(task).filter(|text| text == "early\n"));
        host.wait("both are there", || (host.members(task).len() >= 3).then_some(()));
        assert!(host.dir(task).supervisor_alive().expect("it can be asked"));
        let busy = host.dir(task).bury().map_err(|error| error.kind());
        assert_eq!(busy, Err(io::ErrorKind::ResourceBusy));
        supervisor.kill().expect("it is our child");
        host.wait("the bell tells of it", || {
            bell.drain().expect("it can be read").contains(&(task.id, News::Ended)).then_some(())
        });
        assert!(!host.dir(task).supervisor_alive().expect("it can be asked"));
        let exit = host.dir(task).bury().expect("it can be buried");
        assert!(matches!(&exit.end.kind, EndKind::Lost(_)) && exit.frames == 1, "{exit:?}");
        assert_eq!(host.dir(task).bury().expect("twice"), exit);
        assert_eq!(host.members(task), Vec::<i32>::new(), "{containment:?}");
        let again = muster_agent::supervisor::spawn(&host.dir(task), host.executable()).map(drop);
        assert_eq!(again.map_err(|error| error.kind()), Err(io::ErrorKind::AlreadyExists));
        supervisor.wait().expect("it is our child");
    }
}

#[test]
fn what_cannot_be_ended_is_not_called_killed() {
    let host = Host::new();
    // What looks like a cgroup that never empties.
    let root = host.path("cgroups");
    let task = host.prepare(shell("true"), &Containment::Cgroup(root.clone()));
    let cgroup = root.join(task.id.to_string());
    fs::create_dir_all(&cgroup).expect("a directory");
    fs::write(cgroup.join("cgroup.events"), "populated 1\nfrozen 0\n").expect("written");
    let EndKind::Lost(reason) = host.dir(task).bury().expect("it can be buried").end.kind else { panic!("its end") };
    assert_eq!(reason, "its supervisor ended before it, and what was left of it could not be ended");
}

#[test]
fn a_program_that_writes_in_small_pieces_makes_few_frames() {
    let host = Host::new();
    let ended = host.run(shell("i=0; while [ $i -lt 3000 ]; do printf ab; i=$((i+1)); done"));
    assert_eq!(ended.stdout.len(), 6000);
    let most = 3 + ended.exit.end.duration.as_millis() / 5;
    assert!(u128::from(ended.exit.frames) <= most, "{} frames, at most {most}", ended.exit.frames);
}

#[test]
fn output_is_there_while_the_program_runs_and_can_be_read_from_anywhere() {
    let host = Host::new();
    let gate = host.path("gate");
    let line = format!("echo 1; while [ ! -e {0} ]; do sleep 0.02; done; echo 2 >&2; echo 3", gate.display());
    let task = host.prepare(shell(&line), &Containment::ProcessGroup);
    let mut running = host.spawn(task);
    host.wait("the first line", || host.output(task).filter(|text| text == "1\n"));
    assert!(host.dir(task).started().expect("it can be read"));
    assert_eq!(host.dir(task).exit().expect("it can be read"), None);
    fs::write(gate, b"").expect("it can be opened");
    let ended = host.end(task, &mut running);
    assert_eq!((ended.stdout.as_slice(), ended.stderr.as_slice()), (b"1\n3\n" as &[u8], b"2\n" as &[u8]));
    let mut reader = host.reader(task);
    for frame in [2, 0, 1] {
        reader.seek(frame).expect("it is there");
        assert_eq!(reader.next().expect("it can be read").map(|frame| frame.number), Some(frame));
    }
    assert!(reader.seek(4).is_err());
    host.dir(task).remove().expect("it can be removed");
    host.dir(task).remove().expect("twice");
    assert_eq!(host.tasks(), Vec::<Task>::new());
}
