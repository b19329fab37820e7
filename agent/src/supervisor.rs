//! The supervisor: one small process a task, which outlives the agent.
//!
//! ```text
//!            leader ends by itself
//! Running ────────────────────────────────▶ Lingering ──▶ exit is written ──▶ discarding, while a daemon
//!    │ cancel, run timeout                      ▲           (task is over)      holds the pipes
//!    ▼                      nobody is left      │
//!  Ending (TERM, grace, KILL) ──────────────────┘
//! ```
//!
//! It has one thread and no runtime: one poll(2) loop over the program's pipes, its children, a doorbell for `cancel`
//! and a clock that counts suspend. What it does is in `supervisor/run.rs`, what it waits for in `supervisor/wake.rs`,
//! what it keeps of the output in `supervisor/output.rs` and `supervisor/tail.rs`. If it dies without an `exit`, the agent buries the task.

mod output;
mod run;
mod tail;
mod wake;

use crate::process::{self, Family, Identity};
use crate::spool::{Exit, TaskDir};
use muster_proto::job::JobSpec;
use muster_proto::outcome::{End, EndKind};
use output::Output;
use run::Run;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, ExitCode};
use std::time::Duration;
use wake::Wake;

/// Starts the supervisor of a task whose directory is complete: `executable supervise DIR`, with the task's `out` as
/// its standard output. A task has at most one: fails with [`io::ErrorKind::ResourceBusy`] or
/// [`io::ErrorKind::AlreadyExists`] if it has or had one.
///
/// Keep the child and reap it (`try_wait`) some time after it ends. It may live on long after the task's `exit` is
/// written: while a daemon that the task left behind holds its output, at most a day.
pub fn spawn(dir: &TaskDir, executable: &Path) -> io::Result<Child> {
    process::spawn_supervisor(executable, dir.path(), dir.take_out()?)
}

/// The whole life of a supervisor. Called first of all in `main`, while the process has one thread and has opened
/// nothing.
pub fn main(dir: &Path) -> ExitCode {
    process::close_inherited();
    // Nobody reads what it could print: without an `exit` the agent knows that it failed.
    match supervise(&TaskDir::at(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn supervise(dir: &TaskDir) -> io::Result<()> {
    // A session of its own: signals from the agent's terminal do not end tasks.
    let _ = rustix::process::setsid();
    let out = inherited_out(dir)?;
    dir.begin()?;
    let (spec, boot) = dir.spec()?;
    if boot != process::boot_id()? {
        return Err(io::Error::other("the order is from before the host's restart"));
    }
    let job = JobSpec::decode(&spec.payload).map_err(io::Error::other)?;
    let command = job.command_of(spec.task.attempt).ok_or_else(|| io::Error::other("the job has no such task"))?;
    let wake = Wake::new(dir)?;
    if dir.is_cancelled() {
        return dir.write_exit(&nothing_ran(EndKind::Cancelled));
    }
    let family = Family::found(&spec.containment, spec.task)?;
    let identity = Identity { task: spec.task, host: spec.host };
    let files = dir.path();
    match process::launch(command, &identity, &family, &files.join("stdin"), &files.join("script")) {
        Err(reason) => {
            family.dissolve();
            dir.write_exit(&nothing_ran(EndKind::StartFailed(muster_proto::text::line(&reason))))
        }
        Ok(launched) => Run::new(dir, command, &family, launched, Output::new(out, command.output), wake).run(),
    }
}

/// Takes `out` from standard output, where [`spawn`] put it.
fn inherited_out(dir: &TaskDir) -> io::Result<File> {
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let (given, expected) = (out.metadata()?, fs::metadata(dir.path().join("out"))?);
    if (given.dev(), given.ino()) != (expected.dev(), expected.ino()) {
        return Err(io::Error::other("only the agent starts supervisors"));
    }
    rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    Ok(out)
}

fn nothing_ran(kind: EndKind) -> Exit {
    Exit { frames: 0, end: End { kind, duration: Duration::ZERO }, left_behind: false }
}
