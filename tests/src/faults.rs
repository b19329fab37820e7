//! What a fault test does to a fleet, and what it looks at afterwards.

use crate::{Fleet, Program, Restarted, address_of, bin, kill, pids, until};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Anything that a test waits for happens sooner, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the controller has a session with an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// It has.
    There,
    /// It has not.
    Away,
}

/// Where a controller listened: agents, operators, enrolment.
#[derive(Debug, Clone)]
pub struct Ports(pub(crate) [String; 3]);

impl Ports {
    /// Where the controller with this state listens now.
    pub(crate) fn of(state: &Path) -> Self {
        Self(["agents", "operators", "enrolment"].map(|listener| address_of(state, listener)))
    }
}

impl Fleet {
    /// `muster run -d` with these arguments; the id of the job.
    pub fn submit<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> String {
        let (run, detach): (_, &OsStr) = ("run".as_ref(), "-d".as_ref());
        let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let all = [run, detach].into_iter().map(OsStr::to_owned).chain(args);
        let run = self.muster(all);
        assert_eq!(run.status, 0, "{run}");
        run.out().trim().to_owned()
    }

    /// `muster job ID`.
    pub fn job(&self, id: &str) -> Value {
        self.muster(["job", id, "-o", "json"]).json()
    }

    /// State or phase of one host in a job.
    pub fn state(&self, id: &str, host: &str) -> String {
        state_in(&self.job(id), host)
    }

    /// Waits until a host is in this state or phase.
    pub fn until_state(&self, id: &str, host: &str, state: &str) {
        let mut last = String::new();
        let what = format!("{host} is {state} in job {id}");
        until(PATIENCE, &what, || {
            last = self.state(id, host);
            last == state
        });
    }

    /// Waits until a job is done, and returns it. Its counts add up.
    pub fn until_done(&self, id: &str) -> Value {
        let mut job = Value::Null;
        until(PATIENCE, &format!("job {id} is done"), || {
            job = self.job(id);
            job["state"] == "done"
        });
        let counted: u64 = job["counts"].as_object().expect("counts").values().filter_map(Value::as_u64).sum();
        assert_eq!(Some(counted), job["targets"].as_u64(), "the counts add up: {job}");
        job
    }

    /// Waits until the controller knows whether `dev-N` is there.
    pub fn until_contact(&self, number: u16, contact: Contact) {
        let name = format!("dev-{number}");
        until(PATIENCE, &format!("{name} is {contact:?}"), || {
            let agents = self.muster(["agents", "-o", "json"]).json();
            let agents = agents.as_array().expect("a list");
            let agent = agents.iter().find(|agent| agent["host"] == *name).expect("an agent of the fleet");
            agent["connected"] == (contact == Contact::There)
        });
    }

    /// Ends the agent that `muster dev` started as `dev-N`, and waits until the controller knows.
    pub fn kill_agent(&self, number: u16) {
        kill(self.agent_pid(number));
        self.until_contact(number, Contact::Away);
    }

    /// The supervisors that work for `dev-N` now.
    pub fn supervisors(&self, number: u16) -> Vec<Supervisor> {
        let spool = fs::canonicalize(self.agent_state(number).join("spool")).expect("a spool");
        pids().filter_map(|pid| Supervisor::at(pid, &spool)).collect()
    }

    /// Tasks whose directory is in the spool of `dev-N`.
    pub fn spooled(&self, number: u16) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.agent_state(number).join("spool")).expect("a spool");
        entries.map(|entry| entry.expect("readable").path()).collect()
    }

    /// The hosts `dev-1` to `dev-N` hold nothing: no task runs, and every end is safe at the controller.
    pub fn is_idle(&self, agents: u16) -> bool {
        (1..=agents).all(|number| self.spooled(number).is_empty() && self.supervisors(number).is_empty())
    }

    /// Where the controller listens. To be asked while it does: a clean end removes the file.
    pub fn ports(&self) -> Ports {
        Ports::of(&self.dir().join("controller"))
    }

    /// Starts the controller once more on its state and its ports, after the first was ended. It ends with the value that
    /// is returned.
    pub fn restart_controller(&self, Ports([agents, operators, enrolment]): &Ports) -> Restarted {
        let lock = fs::File::open(self.dir().join("controller/lock")).expect("a controller was here");
        // One that was killed may take a while to die.
        until(PATIENCE, "the first controller is gone", || lock.try_lock().is_ok());
        drop(lock);
        let path = self.dir().join("controller-again.log");
        let start = || {
            let log = fs::File::create(&path).expect("a log");
            let mut child = Command::new(bin("muster-controller"))
                .args(["serve", "--exit-on-stdin-eof", "--agents", agents, "--operators", operators])
                .args(["--enrolment", enrolment, "--state"])
                .arg(self.dir().join("controller"))
                .stdin(Stdio::piped())
                .stdout(log.try_clone().expect("a descriptor"))
                .stderr(log)
                .spawn()
                .expect("the controller starts");
            let stdin = child.stdin.take();
            Restarted { child, stdin }
        };
        let mut again = start();
        until(PATIENCE, "the controller answers again", || {
            if let Some(status) = again.child.try_wait().expect("our child") {
                // While nobody listens there, the kernel may lend the port to any connection on this machine.
                let log = fs::read_to_string(&path).unwrap_or_default();
                assert!(log.contains("in use"), "the controller ended with {status}: {log}");
                again = start();
            }
            self.muster(["jobs"]).status == 0
        });
        again
    }
}

/// A supervisor of a fleet's agent.
#[derive(Debug)]
pub struct Supervisor {
    /// The task it looks after: `JOB.TARGET.ATTEMPT`.
    pub task: String,
    /// Means this process and no other, even when its number is used again.
    process: OwnedFd,
}

impl Supervisor {
    fn at(pid: u32, spool: &Path) -> Option<Self> {
        let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let process = pidfd_open(number, PidfdFlags::empty()).ok()?;
        let line = command_line(pid)?;
        // A program that is about to be executed is still a copy of its supervisor.
        if parent(pid).and_then(command_line).as_ref() == Some(&line) {
            return None;
        }
        let mut words = line.split('\0').skip_while(|word| *word != "supervise").skip(1);
        let dir = Path::new(words.next()?);
        let task = dir.strip_prefix(spool).ok()?.to_str()?.to_owned();
        Some(Self { task, process })
    }

    /// Ends it with KILL, if it has not ended by itself.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}

fn command_line(pid: u32) -> Option<String> {
    String::from_utf8(fs::read(format!("/proc/{pid}/cmdline")).ok()?).ok()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Asserts that the store of a controller that has ended is whole: `muster-controller check`.
///
/// # Panics
/// When it is not, or a controller still has it.
#[track_caller]
pub fn assert_store_is_whole(state: &Path) {
    let run = Program::new("muster-controller").args(["check", "--state"]).args([state]).run();
    assert_eq!(run.status, 0, "{run}");
}

/// State or phase of a host in what `muster job -o json` says.
pub fn state_in(job: &Value, host: &str) -> String {
    let hosts = job["hosts"].as_array().unwrap_or_else(|| panic!("no hosts: {job}"));
    let found = hosts.iter().find(|known| known["host"] == host).unwrap_or_else(|| panic!("no {host}: {job}"));
    found["state"].as_str().expect("a state").to_owned()
}
