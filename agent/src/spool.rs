//! The spool: a directory a task, and the whole interface between the agent and the task's supervisor.
//!
//! ```text
//! spool/<task>/spec     agent       what to run; complete and durable before the supervisor is started
//!              stdin    agent       what the program reads, if anything
//!              script   agent       what is executed, if it was carried along
//!              cancel   agent       exists: end the task
//!              acked    agent       how far the controller has `out`; only where all output is kept
//!              reserve  agent       space that the supervisor gives back when the disk is full
//!              begun    supervisor  exists: nothing ran before it was made
//!              started  supervisor  exists: the program runs
//!              out      supervisor  output, as records that are appended; what is `acked` becomes a hole
//!              exit     supervisor  the end; the task is over. Written by the agent if the supervisor is gone
//! ```
//!
//! A directory that cannot be used becomes `<task>.damaged` until its task is committed.
//!
//! One writer a file. The supervisor inherits `out` open and locked (flock), and holds it for as long as it works: so
//! the agent can tell at any time, after a restart too, whether it is alive, and a task is never buried and run at
//! once. Either side may die at any time: files appear whole, by rename, and readers wait for the rest of a torn
//! record.

mod acked;
mod doorbell;
mod out;
mod room;
mod stored;

use crate::process::{self, Burial, Containment};
pub use acked::Acked;
use bytes::Bytes;
pub use doorbell::{Doorbell, News};
use muster_proto::command::{BlobRef, OutputLimit, Program};
use muster_proto::id::{BootId, TaskId};
use muster_proto::job::JobSpec;
use muster_proto::limits;
use muster_proto::name::HostName;
use muster_proto::outcome::{End, EndKind};
pub(crate) use out::{HEADER_BYTES as RECORD_HEADER_BYTES, Record, RecordBody};
pub use out::{Mark, OutReader};
pub use room::RoomError;
use rustix::fs::FlockOperation;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Enough for the records of a truncation and for `exit`.
const RESERVE_BYTES: usize = 16 << 10;
/// Extension of a directory that was set aside.
const SET_ASIDE: &str = "damaged";

/// All tasks of an agent that are not committed yet.
#[derive(Debug, Clone)]
pub struct Spool {
    root: PathBuf,
}

/// What a supervisor is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSpec {
    /// Which task.
    pub task: TaskId,
    /// The name this agent enrolled with, for the program's environment.
    pub host: HostName,
    /// The signed payload, byte for byte.
    pub payload: Bytes,
    /// What holds the task's processes together.
    pub containment: Containment,
}

/// The directory of one task. Cheap; holds nothing open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskDir {
    path: PathBuf,
}

/// The program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Its process id.
    pub pid: u32,
}

/// The task is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Frames of output in all; all of them are in `out`.
    pub frames: u64,
    /// How it ended.
    pub end: End,
    /// The program left processes behind that were still alive, and were left alone.
    pub left_behind: bool,
}

impl Spool {
    /// Opens the spool or makes it, for this user alone. Removes what a crash left half made; what cannot be removed now
    /// is tried again at the next start.
    pub fn open(root: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "new" || extension == "old") {
                let _ = fs::remove_dir_all(&path);
            }
        }
        // Supervisors start in `/`.
        Ok(Self { root: fs::canonicalize(root)? })
    }

    /// Makes a task's directory, whole and durable or not at all. `blobs` holds the blobs that the command names, each
    /// under [`blob_name`] and already verified. They become read-only and are linked into the task's directory (or
    /// copied, from another file system); the names in `blobs` may be removed afterwards.
    pub fn create(&self, spec: &TaskSpec, blobs: &Path) -> Result<TaskDir, SpoolError> {
        let dir = self.dir(spec.task);
        if dir.path.exists() {
            return Err(SpoolError::Exists(spec.task));
        }
        let new = dir.path.with_added_extension("new");
        let made = fill(&new, spec, blobs).and_then(|()| fs::rename(&new, &dir.path)).and_then(|()| {
            // All names first, then the syncs: the first of them pays, the others find little to do. If power fails
            // meanwhile, the journal does not know the task yet.
            File::open(dir.path.join("spec"))?.sync_all()?;
            sync(&dir.path)?;
            sync(&self.root)
        });
        made.map_err(|source| {
            // Space is short more often than not: what was made so far must not stay.
            let _ = fs::remove_dir_all(&new);
            let _ = dir.remove();
            SpoolError::Io { task: spec.task, source }
        })?;
        Ok(dir)
    }

    /// The directory of a task, whether it exists or not.
    pub fn dir(&self, task: TaskId) -> TaskDir {
        TaskDir { path: self.root.join(task.to_string()) }
    }

    /// The tasks that have a directory, also one that was [set aside](TaskDir::set_aside).
    pub fn tasks(&self) -> io::Result<BTreeSet<TaskId>> {
        let mut tasks = BTreeSet::new();
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let aside = path.extension().is_some_and(|extension| extension == SET_ASIDE);
            let name = if aside { path.file_stem() } else { path.file_name() };
            tasks.extend(name.and_then(|name| name.to_str()?.parse::<TaskId>().ok()));
        }
        Ok(tasks)
    }

    /// Makes sure that there is room for more tasks; the error is for people. Looks at every file: once for offers that
    /// came together.
    pub fn check_room(&self) -> Result<(), RoomError> {
        room::check(&self.root, limits::SPOOL_BYTES_MAX, limits::DISK_FREE_BYTES_MIN)
    }
}

/// The name of a blob's file: its SHA-256 in lower-case hexadecimal.
pub fn blob_name(blob: &BlobRef) -> String {
    use std::fmt::Write as _;
    blob.digest.iter().fold(String::with_capacity(64), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    })
}

impl TaskDir {
    /// As the supervisor is given it.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What to run, and the boot of the kernel at the time of the order.
    pub(crate) fn spec(&self) -> io::Result<(TaskSpec, BootId)> {
        stored::decode_spec(&fs::read(self.path.join("spec"))?)
    }

    /// The program was executed. What `started` holds does not count: it is not synced, and a power cut may empty it.
    pub fn started(&self) -> io::Result<bool> {
        fs::exists(self.path.join("started"))
    }

    /// There is output: whatever else is missing, the program was executed.
    pub(crate) fn has_output(&self) -> bool {
        fs::metadata(self.path.join("out")).is_ok_and(|out| out.len() > 0)
    }

    /// `None` as long as the task is not over.
    pub fn exit(&self) -> io::Result<Option<Exit>> {
        read_if_there(&self.path.join("exit"))?.map(|bytes| stored::decode_exit(&bytes)).transpose()
    }

    /// Tells the supervisor to end the task: TERM, grace, KILL. The answer is `exit`, as for any task. Durable, and
    /// may be repeated.
    pub fn request_cancel(&self) -> io::Result<()> {
        write(&self.path.join("cancel"), b"")?;
        sync(&self.path)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.path.join("cancel").exists()
    }

    /// The supervisor's first act: whatever it does comes after this. Only the first of a task succeeds.
    pub(crate) fn begin(&self) -> io::Result<()> {
        let make = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path.join("begun"));
        match make() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                self.release_reserve();
                make().map(drop)
            }
            made => made.map(drop),
        }
    }

    /// No supervisor began, and none is on its way: nothing of the task ran. It is only known of tasks of this boot, for a
    /// power cut may take back what a supervisor wrote.
    pub(crate) fn never_began(&self) -> io::Result<bool> {
        // Who was to become a supervisor holds the lock from before it was forked: without it there is none to come.
        let out = self.out()?;
        if !lock(&out)? {
            return Ok(false);
        }
        let left = ["begun", "started", "exit"].iter().any(|name| self.path.join(name).exists());
        Ok(!left && !self.has_output() && self.spec()?.1 == process::boot_id()?)
    }

    pub(crate) fn write_started(&self, started: Started) -> io::Result<()> {
        let (new, path) = (self.path.join("started.new"), self.path.join("started"));
        write(&new, &stored::encode_started(started))?;
        fs::rename(new, path)
    }

    pub(crate) fn write_exit(&self, exit: &Exit) -> io::Result<()> {
        let (new, path) = (self.path.join("exit.new"), self.path.join("exit"));
        write(&new, &stored::encode_exit(exit))?.sync_all()?;
        fs::rename(new, path)?;
        sync(&self.path)
    }

    /// Gives back the space that was set aside, so that the end can be written on a full disk.
    pub(crate) fn release_reserve(&self) {
        let _ = fs::remove_file(self.path.join("reserve"));
    }

    /// Opens `out` for the one supervisor that this task may ever have. It inherits the file, and with it the lock:
    /// there is no moment at which it lives without.
    pub(crate) fn take_out(&self) -> io::Result<File> {
        let out = OpenOptions::new().append(true).open(self.path.join("out"))?;
        if !lock(&out)? {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        if self.started()? || self.exit()?.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(out)
    }

    /// A supervisor works on this task: from [`crate::supervisor::spawn`] until just after `exit` is there, or until it
    /// dies.
    pub fn supervisor_alive(&self) -> io::Result<bool> {
        Ok(!lock(&self.out()?)?)
    }

    /// For reading: closing a file that was open for writing would ring the doorbell.
    fn out(&self) -> io::Result<File> {
        File::open(self.path.join("out"))
    }

    /// Ends a task whose supervisor is gone: kills what is left of it, which may take seconds, and writes `exit` with [`EndKind::Lost`], or returns the `exit` that is there. Output that can be read is kept.
    /// Fails with [`io::ErrorKind::ResourceBusy`] if the supervisor is alive.
    pub fn bury(&self) -> io::Result<Exit> {
        let out = self.out()?;
        if !lock(&out)? {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        if let Some(exit) = self.exit()? {
            return Ok(exit);
        }
        let (spec, boot) = self.spec()?;
        let reason = if boot != process::boot_id()? {
            "the host was restarted while it ran"
        } else {
            match process::Family::bury(&spec.containment, spec.task) {
                Burial::Over => "its supervisor ended before it: what was left of it was killed",
                Burial::Alive => "its supervisor ended before it, and what was left of it could not be ended",
            }
        };
        let mut reader = OutReader::open(self)?;
        let reason = match reader.exhaust() {
            Ok(()) => reason.to_owned(),
            Err(damage) => format!("{reason}; {damage}"),
        };
        let end = End { kind: EndKind::Lost(reason), duration: Duration::ZERO };
        let exit = Exit { frames: reader.next_frame(), end, left_behind: false };
        self.write_exit(&exit)?;
        Ok(exit)
    }

    /// Puts a directory that cannot be used where nothing but people looks at it, until [`TaskDir::remove`].
    pub fn set_aside(&self) -> io::Result<()> {
        if self.is_set_aside() {
            return Ok(());
        }
        let aside = self.aside();
        // If an older one stays, the renaming tells.
        let _ = fs::remove_dir_all(&aside);
        fs::rename(&self.path, aside)
    }

    /// It was set aside, now or at an earlier start.
    pub fn is_set_aside(&self) -> bool {
        self.aside().exists() && !self.path.exists()
    }

    fn aside(&self) -> PathBuf {
        self.path.with_added_extension(SET_ASIDE)
    }

    /// Removes the directory with all that is in it, wherever it is. It does nothing if there is none.
    pub fn remove(&self) -> io::Result<()> {
        // The name goes first, so that a crash leaves no half directory that looks like a task.
        let old = self.path.with_added_extension("old");
        for path in [self.aside(), self.path.clone()] {
            match fs::rename(path, &old) {
                Ok(()) => fs::remove_dir_all(&old)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The spool cannot take a task: refuse it with this text.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// It is there already.
    #[error("the spool already has the task {0}")]
    Exists(TaskId),
    /// The disk.
    #[error(
        "cannot write task {task} to the spool ({source}): free space on the agent's disk or check its permissions"
    )]
    Io {
        /// Which.
        task: TaskId,
        /// What failed.
        source: io::Error,
    },
}

fn fill(new: &Path, spec: &TaskSpec, blobs: &Path) -> io::Result<()> {
    let job = JobSpec::decode(&spec.payload).map_err(io::Error::other)?;
    let command = job.command_of(spec.task.attempt).ok_or_else(|| io::Error::other("the job has no such task"))?;
    DirBuilder::new().mode(0o700).create(new)?;
    write(&new.join("spec"), &stored::encode_spec(spec, command.output, process::boot_id()?))?;
    write(&new.join("out"), b"")?;
    if command.output == OutputLimit::Unlimited {
        TaskDir::at(new).make_acked()?;
    }
    write(&new.join("reserve"), &[0; RESERVE_BYTES])?;
    if let Some(blob) = &command.stdin {
        link_or_copy(&blobs.join(blob_name(blob)), &new.join("stdin"))?;
    }
    if let Program::Script { content, .. } = &command.program {
        link_or_copy(&blobs.join(blob_name(content)), &new.join("script"))?;
    }
    Ok(())
}

/// Takes the lock, until the file is closed; false if a supervisor has it.
fn lock(out: &File) -> io::Result<bool> {
    match rustix::fs::flock(out, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to)?;
    }
    // Nobody else can enter the directory; but the program, whoever it runs as, may open its stdin again by
    // `/dev/stdin`.
    fs::set_permissions(to, fs::Permissions::from_mode(0o444))?;
    File::open(to)?.sync_all()
}
