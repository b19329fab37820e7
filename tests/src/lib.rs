//! Fleets for tests: real processes, real TLS, real files, in one line.
//!
//! ```no_run
//! let fleet = muster_tests::Fleet::start(8);
//! let run = fleet.muster(["run", "-w", "all", "--", "true"]);
//! assert_eq!(run.status, 0, "{run}");
//! ```
//!
//! A fleet is `muster dev` with a command that lasts as long as our end of its stdin: whatever becomes of the test,
//! nothing is left behind.

mod controller;
mod dice;
mod disk;
mod faults;
mod gate;
mod metrics;
pub mod peer;
mod process;
mod program;
mod proxy;
pub mod sim;
mod wait;

pub use controller::{Controller, enrol};
pub use dice::{Dice, Length};
pub use disk::{Ballast, Disk, pretend_reboot};
pub use faults::{Contact, PATIENCE, Ports, Supervisor, assert_store_is_whole, state_in};
pub use gate::Gate;
pub use process::{cpu_time, descriptors, peak_memory};
pub use program::{Program, Run, bin, finish};
pub use proxy::{Cuts, Proxy};
pub use wait::until;

use std::ffi::OsStr;
use std::fs::File;
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The ids of the user and the group that own nothing.
const NOBODY: u32 = 65_534;

/// A controller and its agents.
pub struct Fleet {
    dir: TempDir,
    dev: Child,
    /// Closing it ends the fleet.
    stdin: Option<ChildStdin>,
}

impl Fleet {
    /// A fleet of `agents`, named `dev-1` to `dev-N`, all connected.
    pub fn start(agents: u16) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self::start_with(Command::new(bin("muster")), dir, agents)
    }

    /// The same on a machine that may send ICMP. `None`, said loudly, where it may not.
    pub fn that_pings(agents: u16) -> Option<Self> {
        let fleet = Self::start(agents);
        let probe = fleet.muster(["ping", "127.0.0.1"]);
        if probe.out().contains("no right to send ICMP") {
            skipped(&format!("this test needs to send ICMP: {}", probe.out()));
            return None;
        }
        assert_eq!(probe.status, 0, "{probe}");
        Some(fleet)
    }

    /// A fleet of an ordinary user, whose agents have neither cgroups nor other users: of `nobody` if we are root.
    pub fn start_as_ordinary_user(agents: u16) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut program = Command::new(bin("muster"));
        if rustix::process::geteuid().is_root() {
            // He may be unable to reach the build.
            for name in ["muster", "muster-controller", "muster-agent"] {
                std::fs::copy(bin(name), dir.path().join(name)).expect("room for a copy");
            }
            let state = dir.path().join("fleet");
            std::fs::create_dir(&state).expect("a new directory");
            std::os::unix::fs::chown(&state, Some(NOBODY), Some(NOBODY)).expect("we are root");
            std::fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).expect("our directory");
            program = Command::new(dir.path().join("muster"));
            program.uid(NOBODY).gid(NOBODY).current_dir("/");
        }
        Self::start_with(program, dir, agents)
    }

    fn start_with(mut program: Command, dir: TempDir, agents: u16) -> Self {
        let count = agents.to_string();
        let mut dev = program
            .args(["dev", "--agents", &count, "--state"])
            .arg(dir.path().join("fleet"))
            .args(["--", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("muster dev starts");
        let stdin = dev.stdin.take();
        let mut line = String::new();
        let stdout = dev.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("readable");
        assert_eq!(line, "ready\n", "the fleet did not start");
        Self { dir, dev, stdin }
    }

    /// Where the fleet keeps its state: `controller/`, `dev-N/`, `*.log`, `config.toml`.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("fleet")
    }

    /// `muster` with these arguments, as an operator of this fleet.
    pub fn program<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Program {
        let config = self.dir().join("config.toml");
        Program::new("muster").args(args).env("MUSTER_CONFIG", config).env("MUSTER_CONTEXT", "dev")
    }

    /// Runs `muster` with these arguments to its end.
    pub fn muster<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Run {
        self.program(args).run()
    }

    /// The process id of `dev-N`'s agent; of the one that `muster dev` started.
    pub fn agent_pid(&self, number: u16) -> u32 {
        let state = self.agent_state(number);
        self.child_with(&[b"muster-agent", state.as_os_str().as_encoded_bytes()])
    }

    /// The process id of the controller.
    pub fn controller_pid(&self) -> u32 {
        self.child_with(&[b"muster-controller", b"serve"])
    }

    /// The state directory of `dev-N`.
    pub fn agent_state(&self, number: u16) -> PathBuf {
        self.dir().join(format!("dev-{number}"))
    }

    /// Starts the agent `dev-N` once more, after the first was ended. It ends with the value that is returned.
    pub fn restart_agent(&self, number: u16) -> Restarted {
        self.restart_agent_as(number, &bin("muster-agent"))
    }

    /// The same, with a program of the test's choice.
    pub fn restart_agent_as(&self, number: u16, program: &Path) -> Restarted {
        let state = self.agent_state(number);
        let lock = File::open(state.join("lock")).expect("an agent was here");
        // One that was killed may take a while to die.
        until(Duration::from_secs(30), "the first agent is gone", || lock.try_lock().is_ok());
        drop(lock);
        Restarted::start_as(program, &state)
    }

    /// Where agents of this controller enrol: `HOST:PORT`.
    pub fn enrolment_address(&self) -> String {
        self.address("enrolment")
    }

    /// `HOST:PORT` of a listener: `agents`, `operators` or `enrolment`.
    pub fn address(&self, listener: &str) -> String {
        address_of(&self.dir().join("controller"), listener)
    }

    /// Something for tasks to wait for.
    pub fn gate(&self, name: &str) -> Gate {
        Gate::new(&self.dir(), name)
    }

    fn child_with(&self, words: &[&[u8]]) -> u32 {
        let parent = self.dev.id().to_string();
        let found = pids().find(|pid| {
            let of = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let stat = String::from_utf8_lossy(&of("stat")).into_owned();
            let ppid = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1).map(str::to_owned));
            let cmdline = of("cmdline");
            ppid.as_ref() == Some(&parent) && words.iter().all(|word| contains(&cmdline, word))
        });
        found.unwrap_or_else(|| panic!("no child of {parent} has {words:?} in its command line"))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // The fleet ends by itself; its directory is removed after that.
        let _ = self.dev.wait();
    }
}

/// An agent that the test itself started.
pub struct Restarted {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Restarted {
    /// Runs the agent of this state directory; what it says is added to `<state>.log`.
    pub fn start(state: &Path) -> Self {
        Self::start_as(&bin("muster-agent"), state)
    }

    fn start_as(program: &Path, state: &Path) -> Self {
        let log = File::options().create(true).append(true).open(state.with_extension("log")).expect("a log");
        let mut child = Command::new(program)
            .args(["run", "--exit-on-stdin-eof", "--state"])
            .arg(state)
            .stdin(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the agent starts");
        let stdin = child.stdin.take();
        Self { child, stdin }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Restarted {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Ends a process that the test knows by its id, with KILL.
pub fn kill(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

/// Sends a signal to a process that the test knows by its id.
pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("the process is there");
}

/// Processes whose environment or command line has this text: what a task left alive.
pub fn processes_with(text: &str) -> Vec<u32> {
    let has = |pid: &u32| {
        ["cmdline", "environ"]
            .iter()
            .any(|file| contains(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default(), text.as_bytes()))
    };
    let me = std::process::id();
    pids().filter(|pid| *pid != me).filter(has).collect()
}

/// Waits until nothing that has this text in its command line or environment is alive.
pub fn assert_no_process_with(text: &str) {
    until(Duration::from_secs(15), &format!("processes with {text:?} are gone"), || processes_with(text).is_empty());
}

/// Says loudly that a test, or a part of one, was not run on this machine.
pub fn skipped(why: &str) {
    // Tests have nowhere to go where stderr is gone.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// A line of `addresses.toml`.
fn address_of(controller: &Path, listener: &str) -> String {
    let text = std::fs::read_to_string(controller.join("addresses.toml")).expect("addresses");
    let line = text.lines().find_map(|line| line.strip_prefix(listener)?.strip_prefix(" = ")).expect("an address");
    line.trim_matches('"').to_owned()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// The directory of this package, for files that tests compare with.
pub fn package_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
