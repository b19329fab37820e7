//! The one place that starts programs and ends them.
//!
//! [`Containment`] is what the host offers, found once by the agent. A [`Family`] is what one task makes of it: all
//! processes that descend from its supervisor, however often they forked or changed their session.
//! `process/linux.rs` holds the child's side of a start: credentials, directory, descriptors, exec.

mod linux;

pub(crate) use linux::{Identity, Launched, close_inherited, launch};
pub use linux::{own_user, replace};
use muster_proto::id::{BootId, TaskId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How the processes of a task are held together, so that a cancel reaches all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Containment {
    /// Each task has a cgroup of its own below this directory of a cgroup v2 hierarchy. Nothing escapes.
    Cgroup(PathBuf),
    /// The descendants of the task's supervisor, found through `/proc`.
    ProcessGroup,
}

/// The cgroup of the supervisors, beside those of the tasks: outside the agent's unit, whose end kills what is in it.
const SUPERVISORS: &str = "supervisors";
/// How long a burial waits for what it killed.
pub(crate) const BURIAL_PATIENCE: Duration = Duration::from_secs(5);
/// Processes and threads of one task, where the kernel counts them for us: a fork bomb hurts nobody else.
const TASK_PIDS_MAX: &str = "512";
/// From the making of a cgroup until its first process is surely in it.
const NEW: Duration = Duration::from_mins(1);

impl Containment {
    /// Makes `<mount>/muster` and tries out a child of it; [`Containment::ProcessGroup`] where that fails. Also removes
    /// the empty cgroups that earlier tasks left. Called once, at the agent's start.
    pub fn detect() -> Self {
        let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else {
            return Self::ProcessGroup;
        };
        for line in mounts.lines().filter(|line| line.contains(" - cgroup2 ")) {
            if let Some(mount) = line.split(' ').nth(4) {
                let dir = Path::new(mount).join("muster");
                if try_out(&dir).is_ok() {
                    remove_empty(&dir);
                    return Self::Cgroup(dir);
                }
            }
        }
        Self::ProcessGroup
    }

    /// The word for it in an agent's facts.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Cgroup(_) => "cgroup",
            Self::ProcessGroup => "process group",
        }
    }
}

fn try_out(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir.join(SUPERVISORS))?;
    // Only where the hierarchy offers it: what is above is not ours to change.
    let _ = fs::write(dir.join("cgroup.subtree_control"), "+pids");
    let probe = dir.join(format!("probe-{}", getpid()));
    fs::create_dir(&probe)?;
    // cgroup.kill came with Linux 5.14.
    let able = fs::metadata(probe.join("cgroup.kill")).map(drop);
    fs::remove_dir(&probe)?;
    able
}

/// Removes what supervisors that were killed have left. A cgroup that is new may be about to get its process, of this
/// agent or of another one on this host.
fn remove_empty(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let made = entry.metadata().ok().filter(fs::Metadata::is_dir).and_then(|cgroup| cgroup.modified().ok());
        let is_old = made.and_then(|made| made.elapsed().ok()).is_some_and(|age| age > NEW);
        if is_old && entry.file_name() != SUPERVISORS {
            // One with processes in it cannot be removed.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The kernel's name for the time since it was started.
pub fn boot_id() -> io::Result<BootId> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let hex: String = text.trim().chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&hex, 16).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(BootId::from_bytes(number.to_be_bytes()))
}

/// The children that this process has now.
pub fn children() -> Vec<u32> {
    let own = getpid().as_raw();
    let is_own = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        parent_of(&stat) == Some(own)
    };
    processes().filter(is_own).filter_map(|pid| u32::try_from(pid).ok()).collect()
}

/// Takes the ends of children that nobody else waits for; keeps those that live.
pub fn reap(children: &mut Vec<u32>) {
    children.retain(|&pid| {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let end = rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG);
        pid.is_some() && matches!(end, Ok(None))
    });
}

/// Starts `executable supervise DIR` with `out` as its standard output and nothing else open but `/dev/null`.
pub(crate) fn spawn_supervisor(executable: &Path, dir: &Path, out: File) -> io::Result<Child> {
    Command::new(executable)
        .arg("supervise")
        .arg(dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::null())
        .spawn()
}

/// All processes of one task.
#[derive(Debug)]
pub(crate) struct Family {
    task: TaskId,
    cgroup: Option<PathBuf>,
}

impl Family {
    /// Prepares the calling process to be the supervisor: it leaves the agent's cgroup and adopts orphans, so that
    /// whoever descends from it remains its descendant. Where a cgroup cannot be made the descendants have to do.
    pub(crate) fn found(containment: &Containment, task: TaskId) -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let Containment::Cgroup(root) = containment else {
            return Ok(Self { task, cgroup: None });
        };
        let _ = fs::write(root.join(SUPERVISORS).join("cgroup.procs"), "0");
        let dir = root.join(task.to_string());
        let made = make_cgroup(&dir).is_ok();
        Ok(Self { task, cgroup: made.then_some(dir) })
    }

    /// Puts the calling process into the family's cgroup. For the child, between fork and exec.
    pub(crate) fn join(&self) -> io::Result<()> {
        let Some(dir) = &self.cgroup else {
            return Ok(());
        };
        // An agent that starts at this moment removes empty cgroups.
        let _ = make_cgroup(dir);
        fs::write(dir.join("cgroup.procs"), "0")
    }

    /// Sends a signal to every process there is now. More may be born meanwhile: repeat until [`Family::is_over`].
    pub(crate) fn signal(&self, signal: Signal) {
        if let (Signal::SIGKILL, Some(dir)) = (signal, &self.cgroup) {
            let _ = fs::write(dir.join("cgroup.kill"), "1");
        }
        let mut members = descendants(getpid());
        if let Some(dir) = &self.cgroup {
            let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            members.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        for pid in members {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Nobody is left, given that the supervisor has no child: every living descendant has an ancestor that is one.
    pub(crate) fn is_over(&self, children: Children) -> bool {
        children == Children::None && !self.cgroup.as_deref().is_some_and(is_populated)
    }

    /// Removes the cgroup if nobody is left in it.
    pub(crate) fn dissolve(&self) {
        if let Some(dir) = &self.cgroup {
            let _ = fs::remove_dir(dir);
        }
    }

    /// Kills what a dead supervisor left, and waits for it at most [`BURIAL_PATIENCE`]. Without a cgroup its processes
    /// are those that carry the task in their environment: parents and sessions no longer tell.
    pub(crate) fn bury(containment: &Containment, task: TaskId) -> Burial {
        let cgroup = match containment {
            Containment::Cgroup(root) => Some(root.join(task.to_string())),
            Containment::ProcessGroup => None,
        };
        let family = Self { task, cgroup };
        let (begun, mut pause) = (Instant::now(), Duration::from_millis(20));
        loop {
            if let Some(dir) = &family.cgroup {
                let _ = fs::write(dir.join("cgroup.kill"), "1");
            }
            let marked = family.marked();
            for pid in &marked {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            if marked.is_empty() && !family.cgroup.as_deref().is_some_and(is_populated) {
                family.dissolve();
                return Burial::Over;
            }
            if begun.elapsed() >= BURIAL_PATIENCE {
                return Burial::Alive;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    fn marked(&self) -> Vec<i32> {
        let mark = format!("MUSTER_TASK={}", self.task);
        let carries = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        };
        processes().filter(carries).collect()
    }
}

/// One that exists is as good.
fn make_cgroup(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let limit = dir.join("pids.max");
    if limit.exists() { fs::write(limit, TASK_PIDS_MAX) } else { Ok(()) }
}

/// What became of a family whose supervisor is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Burial {
    /// Nobody is left.
    Over,
    /// KILL did not end all of it in time: it hangs in the kernel, say in a dead file system, or multiplies.
    Alive,
}

/// What waiting for children told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Children {
    /// At least one lives.
    Some,
    /// There is none.
    None,
}

fn is_populated(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn descendants(ancestor: Pid) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in processes() {
        if let Some(parent) = fs::read_to_string(format!("/proc/{pid}/stat")).ok().as_deref().and_then(parent_of) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut pending = vec![ancestor.as_raw()];
    while let Some(pid) = pending.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.insert(child);
            pending.push(child);
        }
    }
    found
}

/// The parent in a line of `/proc/PID/stat`, where a program's name may hold anything, brackets and spaces included.
fn parent_of(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_cannot_hide_its_parent_behind_its_name() {
        assert_eq!(parent_of("7 (true) S 3 7 7 0"), Some(3));
        assert_eq!(parent_of("7 (x) R 1 (y) ) S 3 7 7 0"), Some(3));
        assert_eq!(parent_of("7 (x"), None);
    }

    #[test]
    fn a_cgroup_is_limited_where_processes_are_counted() {
        let root = tempfile::tempdir().expect("a directory");
        let (counted, plain) = (root.path().join("counted"), root.path().join("plain"));
        fs::create_dir(&counted).expect("made");
        fs::write(counted.join("pids.max"), "max\n").expect("written");
        for dir in [&counted, &plain] {
            make_cgroup(dir).expect("made, or there");
        }
        assert_eq!(fs::read_to_string(counted.join("pids.max")).expect("there"), "512");
        assert!(plain.is_dir() && !plain.join("pids.max").exists());
    }

    #[test]
    fn the_boot_has_one_name() {
        assert_eq!(boot_id().expect("Linux has it"), boot_id().expect("Linux has it"));
    }
}
