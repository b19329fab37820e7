//! Programs that do not want to end: a job does not wait for what its program left behind, and a cancel reaches
//! every process, whatever it did to get away.

use muster_tests::{Contact, Fleet, PATIENCE, bin, finish, processes_with, until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Ways to get away, for `sh -c LINE MARK`. Each says that it got there by making the file `$READY`.
const ESCAPES: [(&str, &str); 19] = [
    ("ignores TERM", "trap '' TERM INT HUP; : >$READY; sleep 600; sleep 600"),
    ("in the background", "sleep 600 & : >$READY; wait"),
    ("nohup", "nohup sleep 600 >/dev/null 2>&1 & : >$READY; wait"),
    ("setsid", "setsid sleep 600 & : >$READY; sleep 600"),
    ("double fork", "(sleep 600 &); : >$READY; sleep 600"),
    ("double fork in a new session, ignores TERM", "trap '' TERM; (setsid sleep 600 &); : >$READY; sleep 600"),
    ("without environment", "(setsid env -i perl -e 'sleep 600' $0 &); : >$READY; sleep 600"),
    ("stopped", "trap '' TERM; (setsid sh -c ': >$READY; kill -STOP $$; sleep 600' $0 &); sleep 600"),
    ("is born of TERM", "trap 'setsid sleep 600 &' TERM; : >$READY; while :; do sleep 600 & wait; done"),
    (
        "never the same process for long",
        "H='sleep 0.05; setsid sh -c \"$H\" $0 &'; export H; sh -c \"$H\"; : >$READY; sleep 600",
    ),
    (
        "daemon",
        "perl -MPOSIX -e '
            $SIG{$_} = \"IGNORE\" for qw(TERM INT HUP QUIT);
            fork and exit; setsid; fork and exit; chdir \"/\";
            open my $ready, \">\", $ENV{READY}; POSIX::close($_) for 0..99; sleep 600' $0; sleep 600",
    ),
    ("fifty of them", "for i in $(seq 50); do setsid sleep 600 & done; : >$READY; sleep 600"),
    (
        "out of its cgroup",
        "(setsid sh -c 'for procs in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/unified/cgroup.procs
            do echo $$ >$procs; done 2>/dev/null; : >$READY; sleep 600' $0 &); sleep 600",
    ),
    ("a pipeline", "sleep 600 | (trap '' PIPE TERM; : >$READY; sleep 600) | sleep 600"),
    (
        "in another process group",
        "perl -e 'setpgrp; open my $ready, \">\", $ENV{READY}; sleep 600' $0 & wait; sleep 600",
    ),
    (
        "under another name",
        "bash -c ': >$READY; exec -a [kworker/0:0] sleep 600' $0 & bash -c 'exec -a init sleep 600'",
    ),
    (
        "without descriptors",
        "perl -MPOSIX -e 'open my $ready, \">\", $ENV{READY}; POSIX::close($_) for 0..255; sleep 600' $0",
    ),
    (
        "in a process namespace of its own",
        "H='trap \"\" TERM; : >$READY; (setsid sleep 600 &); sleep 600'; export H
            unshare -pf sh -c \"$H\" $0 || unshare -Urpf sh -c \"$H\" $0 || sh -c \"$H\" $0",
    ),
    ("whose parents all ended", "(((setsid setsid sh -c 'trap \"\" TERM; : >$READY; sleep 600' $0 &) &) &); sleep 600"),
];

/// Text in the environment or the command line of all that a task started. Nothing with it outlives the test.
struct Mark(String);

impl Mark {
    fn new(fleet: &Fleet, name: &str) -> Self {
        Self(format!("mark-{}-{name}-", fleet.controller_pid()))
    }

    /// An option that sets it.
    fn variable(&self) -> String {
        format!("MARK={}", self.0)
    }

    fn alive(&self) -> Vec<u32> {
        processes_with(&self.0)
    }

    fn kill_all(&self) {
        for pid in self.alive() {
            let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
            // It may have ended since.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.kill_all();
    }
}

/// One attempt to get away: a job that is at work.
struct Attempt {
    name: &'static str,
    mark: Mark,
    job: String,
    ready: PathBuf,
}

impl Attempt {
    fn start(fleet: &Fleet, number: usize, dir: &Path) -> Self {
        let (name, line) = ESCAPES[number];
        let mark = Mark::new(fleet, &number.to_string());
        let ready = dir.join(number.to_string());
        let variable = format!("READY={}", ready.display());
        let options = ["run", "-d", "-w", "all", "--grace", "500ms", "-e", &mark.variable(), "-e", &variable];
        let run = fleet.muster(options.iter().chain(&["--", "sh", "-c", line, &mark.0]));
        assert_eq!(run.status, 0, "{name}: {run}");
        Self { name, job: run.out().trim().to_owned(), mark, ready }
    }
}

fn a_cancel_leaves_nobody(fleet: &Fleet) {
    let dir = TempDir::new().expect("a directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("our directory");
    let attempts: Vec<Attempt> = (0..ESCAPES.len()).map(|number| Attempt::start(fleet, number, dir.path())).collect();
    for attempt in &attempts {
        until(PATIENCE, attempt.name, || attempt.ready.exists());
        assert!(!attempt.mark.alive().is_empty(), "{}: nothing runs", attempt.name);
    }
    // All at once, as it would be in an emergency.
    let cancels: Vec<_> = attempts.iter().map(|attempt| fleet.program(["cancel", &attempt.job]).spawn()).collect();
    for (attempt, cancel) in attempts.iter().zip(cancels) {
        let run = finish(cancel);
        let survivors = attempt.mark.alive();
        // It was confirmed: there is nothing to wait for any more.
        assert_eq!(survivors, [0; 0], "{}: survived: {run}", attempt.name);
        run.assert_ended(0, "1 cancelled dev-1: 1 targeted");
    }
}

fn containment(fleet: &Fleet) -> String {
    let show = fleet.muster(["agents", "show", "dev-1"]);
    let line = show.out().lines().find_map(|line| line.strip_prefix("tasks end by").map(str::to_owned));
    line.unwrap_or_else(|| panic!("nothing is said of how tasks are held together: {show}")).trim().to_owned()
}

/// Whether this machine lets us make cgroups in a cgroup v2 hierarchy.
fn has_cgroups() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let mut v2 = mounts.lines().filter(|line| line.contains(" - cgroup2 ")).filter_map(|line| line.split(' ').nth(4));
    v2.any(|mount| {
        let dir = Path::new(mount).join(format!("muster-tests-{}", std::process::id()));
        let able = fs::create_dir(&dir).is_ok() && dir.join("cgroup.kill").exists();
        let _ = fs::remove_dir(dir);
        able
    })
}

#[test]
fn p7_a_cancel_leaves_no_survivor() {
    let fleet = Fleet::start(1);
    assert_eq!(containment(&fleet) == "cgroup", has_cgroups(), "{}", containment(&fleet));
    a_cancel_leaves_nobody(&fleet);
}

#[test]
fn p7_a_cancel_leaves_no_survivor_without_cgroups_either() {
    let fleet = Fleet::start_as_ordinary_user(1);
    assert!(has_cgroups() || containment(&fleet) == "process group", "{}", containment(&fleet));
    a_cancel_leaves_nobody(&fleet);
}

#[test]
fn p9_a_task_that_kills_its_own_agent_is_told_to_the_end() {
    let fleet = Fleet::start(1);
    let line = format!("echo before; kill -9 {}; echo after; exit 7", fleet.agent_pid(1));
    let id = fleet.submit(["-w", "all", "--sh", "--", &line]);
    fleet.until_contact(1, Contact::Away);
    let _again = fleet.restart_agent(1);
    let attach = fleet.muster(["attach", &id]);
    attach.assert_ended(1, "1 failed dev-1: 1 targeted");
    assert_eq!(attach.out(), "dev-1: before\ndev-1: after\n", "{attach}");
    assert_eq!(fleet.job(&id)["hosts"][0]["exit_code"], 7);
}

#[test]
fn p9_a_task_that_puts_another_agent_in_place_of_its_own_is_told_to_the_end() {
    let fleet = Fleet::start(1);
    fleet.kill_agent(1);
    let own = fleet.dir().join("muster-agent");
    fs::copy(bin("muster-agent"), &own).expect("room for a copy");
    let old = fleet.restart_agent_as(1, &own);
    fleet.until_contact(1, Contact::There);
    // As a package manager does it: the new file takes the place of the one that runs; then the service is restarted.
    let line = format!(
        "echo before; cp {new} {own}.new && mv {own}.new {own} && kill -TERM {pid} && sleep 0.2; echo after; exit 7",
        new = bin("muster-agent").display(),
        own = own.display(),
        pid = old.pid(),
    );
    let id = fleet.submit(["-w", "all", "--sh", "--", &line]);
    fleet.until_contact(1, Contact::Away);
    drop(old);
    let _new = fleet.restart_agent_as(1, &own);
    let attach = fleet.muster(["attach", &id]);
    attach.assert_ended(1, "1 failed dev-1: 1 targeted");
    assert_eq!(attach.out(), "dev-1: before\ndev-1: after\n", "{attach}");
}

#[test]
fn a_job_does_not_wait_for_what_it_left_behind() {
    let fleet = Fleet::start(5);
    let mark = Mark::new(&fleet, "daemon");
    // All hold stdout, which for ssh would be a reason to wait.
    let line = "case $MUSTER_HOST in
        dev-1) sleep 600 & ;;
        dev-2) trap '' TERM; setsid sleep 600 & ;;
        dev-3) (((setsid sleep 600 &) &) &) ;;
        dev-4) perl -MPOSIX -e 'fork and exit; setsid; fork and exit; sleep 600' ;;
        dev-5) (while sleep 0.1; do echo tick || exit; done) & ;;
        esac; echo started; echo err >&2";
    let run = fleet.muster(["run", "-w", "all", "-e", &mark.variable(), line]);
    run.assert_ended(0, "5 succeeded: 5 targeted");
    for host in 1..=5 {
        assert!(run.out().contains(&format!("dev-{host}: started\n")), "{run}");
        assert!(run.err().contains(&format!("dev-{host}: err\n")), "{run}");
    }
    // What was started on purpose goes on, also the one that still writes.
    let writes = |pid: &u32| fs::read_link(format!("/proc/{pid}/fd/1")).is_ok();
    assert!(mark.alive().iter().filter(|pid| writes(pid)).count() >= 5, "{:?}", mark.alive());
    let cancel = fleet.muster(["cancel", &run.job()]);
    cancel.assert_ended(0, "5 succeeded: 5 targeted");
    assert!(mark.alive().len() >= 5, "a cancel after the end ended something");

    // Its supervisors end with it.
    let spools = fleet.agent_state(1).join("spool").display().to_string();
    assert_eq!(processes_with(&spools).len(), 1, "a daemon of dev-1 holds stdout");
    mark.kill_all();
    until(PATIENCE, "the supervisors are gone", || processes_with(&spools).is_empty());
}
