//! What the agent remembers of tasks, so that none starts twice.
//!
//! The journal is written before anything happens (`Received` before "accepted" is said, `Intent` before the
//! supervisor is started) and fails closed: when it cannot be written, or was damaged, it takes no more records, and
//! the agent must refuse new work. It forgets a task eight days after its deadline, when no copy of the offer can
//! start any more, unless the controller still lacks its end.
//!
//! The file is a row of blocks, each written with one call: `MUJ1 | length u32 | CRC-32C u32 | records`. A block that
//! is not whole and has no whole one behind it is a write that a power cut interrupted: it is cut off. A bad block
//! with a whole one behind it is damage.

mod stored;

use muster_proto::id::{JobId, TaskId};
use muster_proto::link::RejectKind;
use muster_proto::outcome;
use muster_proto::time::Timestamp;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than any offer can be valid (a day and the clocks' tolerance), with room for clocks that are set.
const RETENTION: Duration = Duration::from_hours(8 * 24);
/// A journal of this size is written anew if less than half of it is still of use.
const COMPACT_BYTES: u64 = 4 << 20;

/// A fact to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The offer passed all checks; the task will start or be refused.
    Received {
        /// Which.
        task: TaskId,
        /// SHA-256 of its signed payload: tells a repeated offer from another job under the same id.
        payload: [u8; 32],
        /// The signed deadline.
        start_before: Timestamp,
    },
    /// Its supervisor is about to be started: from here on it may have run.
    Intent(TaskId),
    /// That supervisor provably never began, and never will: the task stands where it stood before.
    NotBegun(TaskId),
    /// It will never start here. Also for a task that never came (a cancel that overtook the offer).
    Refused {
        /// Which.
        task: TaskId,
        /// What was answered.
        kind: RejectKind,
        /// One line for people.
        reason: String,
        /// The signed deadline; for a task that never came, the latest that it can have.
        start_before: Timestamp,
    },
    /// The controller has its end: the spool is free.
    Committed {
        /// Which.
        task: TaskId,
        /// How it ended here; `None` if the controller did not wait for that.
        end: Option<outcome::State>,
    },
}

/// What is remembered of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// How far it came.
    pub state: State,
    /// SHA-256 of its signed payload; `None` if no offer was ever accepted.
    pub payload: Option<[u8; 32]>,
    /// No copy of the offer can start after this.
    pub start_before: Timestamp,
    /// The controller has its end.
    pub committed: bool,
    /// How it ended, of what started and is committed; `None` if that is not known.
    pub end: Option<outcome::State>,
}

/// How far a task came, as far as the journal knows: what happened after `Intent` is in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Accepted, provably not started.
    Received,
    /// Started, or maybe started.
    Intent,
    /// Never started, and never will.
    Refused {
        /// What was answered.
        kind: RejectKind,
        /// One line for people.
        reason: String,
    },
}

/// The agent's memory of tasks.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    size: u64,
    /// Size after the last compaction, or at opening.
    size_compacted: u64,
    born_at: Timestamp,
    known: BTreeMap<TaskId, Known>,
    closed: Option<String>,
}

impl Journal {
    /// Reads the journal, or makes one that is born `now`. A torn tail (a write that a power cut interrupted) is cut.
    /// Damage before the tail leaves the journal readable and closed: see [`Journal::damage`].
    pub fn open(path: &Path, now: Timestamp) -> Result<Self, JournalError> {
        let error = |source| JournalError::Open { path: path.to_owned(), source };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(source) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(error(source)),
        };
        let found = stored::read(&bytes);
        let mut known = BTreeMap::new();
        for record in &found.records {
            apply(&mut known, record);
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(error)?;
        let mut journal = Self {
            path: path.to_owned(),
            file,
            size: found.size,
            size_compacted: 0,
            born_at: found.born_at.unwrap_or(now),
            known,
            closed: None,
        };
        if found.damaged {
            // A second agent could start anything that the unreadable part knew.
            let path = path.display();
            journal.closed = Some(format!(
                "it is damaged after byte {}: move {path} away and restart the agent, which then refuses what was \
                 signed before",
                found.size
            ));
            return Ok(journal);
        }
        if found.size < bytes.len() as u64 {
            journal.file.set_len(found.size).and_then(|()| journal.file.sync_all()).map_err(error)?;
        }
        if found.born_at.is_none() {
            journal.rewrite().map_err(error)?;
        } else {
            journal.compact(now).map_err(error)?;
        }
        Ok(journal)
    }

    /// When it was made: jobs that were signed before may have run here without being remembered.
    pub const fn born_at(&self) -> Timestamp {
        self.born_at
    }

    /// Why it takes no more records, if so: one line that names the remedy.
    pub fn damage(&self) -> Option<&str> {
        self.closed.as_deref()
    }

    /// What is known of a task.
    pub fn get(&self, task: TaskId) -> Option<&Known> {
        self.known.get(&task)
    }

    /// All tasks that are remembered.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskId, &Known)> {
        self.known.iter().map(|(task, known)| (*task, known))
    }

    /// The tasks of one job that are remembered.
    pub fn of_job(&self, job: JobId) -> impl Iterator<Item = (TaskId, &Known)> {
        self.known.range(TaskId::all_of(job)).map(|(task, known)| (*task, known))
    }

    /// How many tasks are remembered that never came and were cancelled.
    pub fn strangers(&mut self, now: Timestamp) -> usize {
        self.forget(now);
        let is_stranger = |known: &&Known| {
            known.payload.is_none() && matches!(known.state, State::Refused { kind: RejectKind::Cancelled, .. })
        };
        self.known.values().filter(is_stranger).count()
    }

    /// Makes the records durable, all with one write and one fdatasync, then known. A disk that has no room takes none of
    /// them, and may take them later. After any other error nothing is appended ever again: what the disk holds is not
    /// known then, and asking again could get a false yes.
    pub fn append(&mut self, records: &[Record], now: Timestamp) -> Result<(), JournalError> {
        if let Some(reason) = &self.closed {
            return Err(JournalError::Closed(reason.clone()));
        }
        if records.is_empty() {
            return Ok(());
        }
        let block = stored::block(None, records);
        if let Err(source) = self.file.write_all(&block) {
            return Err(self.cut_back(source));
        }
        let done = self.file.sync_data().and_then(|()| {
            self.size += block.len() as u64;
            for record in records {
                apply(&mut self.known, record);
            }
            if self.size > 2 * self.size_compacted + COMPACT_BYTES { self.compact(now) } else { Ok(()) }
        });
        done.map_err(|source| self.close(source))
    }

    /// Takes back what was written of a block that did not fit.
    fn cut_back(&mut self, source: io::Error) -> JournalError {
        match self.file.set_len(self.size).and_then(|()| self.file.sync_all()) {
            Ok(()) => JournalError::NoRoom(source),
            Err(_) => self.close(source),
        }
    }

    fn close(&mut self, source: io::Error) -> JournalError {
        self.closed = Some(format!("writing it failed ({source}): look after its disk, then restart the agent"));
        JournalError::Write(source)
    }

    fn forget(&mut self, now: Timestamp) {
        let held = |known: &Known| !known.committed && !matches!(known.state, State::Refused { .. });
        self.known.retain(|_, known| held(known) || known.start_before + RETENTION > now);
    }

    /// Forgets what is of no use any more, and writes the rest anew if that halves the file.
    fn compact(&mut self, now: Timestamp) -> io::Result<()> {
        self.forget(now);
        self.size_compacted = self.size;
        let remaining = stored::block(Some(self.born_at), &self.records()).len() as u64;
        if self.size > COMPACT_BYTES && remaining < self.size / 2 {
            self.rewrite()?;
        }
        Ok(())
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let block = stored::block(Some(self.born_at), &self.records());
        let new = self.path.with_added_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&block)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.size = block.len() as u64;
        self.size_compacted = self.size;
        Ok(())
    }

    fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (task, known) in self.tasks() {
            let start_before = known.start_before;
            if let Some(payload) = known.payload {
                records.push(Record::Received { task, payload, start_before });
            }
            match &known.state {
                State::Received => {}
                State::Intent => records.push(Record::Intent(task)),
                State::Refused { kind, reason } => {
                    records.push(Record::Refused { task, kind: *kind, reason: reason.clone(), start_before });
                }
            }
            if known.committed {
                records.push(Record::Committed { task, end: known.end });
            }
        }
        records
    }
}

/// What a record changes. A task that was started stays started, but for proof of the contrary.
fn apply(known: &mut BTreeMap<TaskId, Known>, record: &Record) {
    match record {
        Record::Received { task, payload, start_before } => {
            let new = Known {
                state: State::Received,
                payload: None,
                start_before: *start_before,
                committed: false,
                end: None,
            };
            known.entry(*task).or_insert(new).payload.get_or_insert(*payload);
        }
        Record::Intent(task) => {
            if let Some(known) = known.get_mut(task) {
                known.state = State::Intent;
            }
        }
        Record::NotBegun(task) => {
            if let Some(known) = known.get_mut(task).filter(|known| known.state == State::Intent) {
                known.state = State::Received;
            }
        }
        Record::Refused { task, kind, reason, start_before } => {
            let state = State::Refused { kind: *kind, reason: reason.clone() };
            let new =
                Known { state: state.clone(), payload: None, start_before: *start_before, committed: false, end: None };
            let known = known.entry(*task).or_insert(new);
            if known.state == State::Received {
                known.state = state;
            }
        }
        Record::Committed { task, end } => {
            if let Some(known) = known.get_mut(task) {
                (known.committed, known.end) = (true, known.end.or(*end));
            }
        }
    }
}

/// The journal cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Reading or making it failed.
    #[error("cannot open the journal {path}: check its disk and permissions")]
    Open {
        /// Where it is.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
    /// Nothing was written, and the journal is as it was.
    #[error("the journal cannot be written ({0}): free space on its disk")]
    NoRoom(io::Error),
    /// Writing failed; the journal is closed from now on.
    #[error("cannot write the journal: look after its disk or replace it, then restart the agent")]
    Write(#[source] io::Error),
    /// It was closed before.
    #[error("the journal is closed: {0}")]
    Closed(String),
}

#[cfg(test)]
mod tests;
