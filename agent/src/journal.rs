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

use muster_proto::id::TaskId;
use muster_proto::link::RejectKind;
use muster_proto::time::Timestamp;
use std::collections::HashMap;
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
    Committed(TaskId),
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
    known: HashMap<TaskId, Known>,
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
        let mut known = HashMap::new();
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
                records.push(Record::Committed(task));
            }
        }
        records
    }
}

/// What a record changes. A task that was started stays started, but for proof of the contrary.
fn apply(known: &mut HashMap<TaskId, Known>, record: &Record) {
    match record {
        Record::Received { task, payload, start_before } => {
            let new = Known { state: State::Received, payload: None, start_before: *start_before, committed: false };
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
            let new = Known { state: state.clone(), payload: None, start_before: *start_before, committed: false };
            let known = known.entry(*task).or_insert(new);
            if known.state == State::Received {
                known.state = state;
            }
        }
        Record::Committed(task) => {
            if let Some(known) = known.get_mut(task) {
                known.committed = true;
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
mod tests {
    use super::*;
    use muster_proto::id::JobId;
    use proptest::prelude::*;
    use std::io::{Seek as _, SeekFrom};

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn task(target: u32) -> TaskId {
        TaskId { job: JobId::from_bytes([1; 16]), target, attempt: 1 }
    }

    fn received(target: u32, start_before: Timestamp) -> Record {
        Record::Received { task: task(target), payload: [7; 32], start_before }
    }

    fn refused(target: u32) -> Record {
        let reason = "a cancel came first".to_owned();
        Record::Refused { task: task(target), kind: RejectKind::Cancelled, reason, start_before: NOW }
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        (dir, path)
    }

    fn open(path: &Path) -> Journal {
        Journal::open(path, NOW).expect("it opens")
    }

    fn snapshot(journal: &Journal) -> HashMap<TaskId, Known> {
        journal.tasks().map(|(task, known)| (task, known.clone())).collect()
    }

    #[test]
    fn what_was_appended_is_known_after_opening_again() {
        let (_dir, path) = place();
        let mut journal = open(&path);
        let records = [received(1, NOW), Record::Intent(task(1)), received(2, NOW), refused(3), refused(2)];
        journal.append(&records, NOW).expect("it takes records");
        journal.append(&[Record::Committed(task(1))], NOW).expect("it takes records");
        let known = snapshot(&journal);
        drop(journal);
        let journal = Journal::open(&path, NOW + Duration::from_secs(9)).expect("it opens");
        assert_eq!((journal.born_at(), journal.damage()), (NOW, None));
        assert_eq!(snapshot(&journal), known);
        assert_eq!(journal.get(task(1)).map(|known| (&known.state, known.committed)), Some((&State::Intent, true)));
        assert!(matches!(journal.get(task(2)).map(|known| &known.state), Some(State::Refused { .. })));
        assert_eq!(journal.get(task(4)), None);
    }

    #[test]
    fn a_start_that_never_began_is_taken_back_and_nothing_else_is() {
        let (_dir, path) = place();
        let mut journal = open(&path);
        let begun = [received(1, NOW), Record::Intent(task(1)), received(2, NOW), refused(3)];
        journal.append(&begun, NOW).expect("it takes records");
        let back: Vec<_> = (1..5).map(task).map(Record::NotBegun).collect();
        journal.append(&back, NOW).expect("it takes records");
        let state = |journal: &Journal, number| journal.get(task(number)).map(|known| known.state.clone());
        for journal in [journal, open(&path)] {
            assert_eq!([1, 2].map(|number| state(&journal, number)), [Some(State::Received), Some(State::Received)]);
            assert!(matches!(state(&journal, 3), Some(State::Refused { .. })) && state(&journal, 4).is_none());
        }
        let mut journal = open(&path);
        journal.append(&[refused(1), Record::Intent(task(2))], NOW).expect("it takes records");
        assert!(matches!(state(&journal, 1), Some(State::Refused { .. })), "it may be refused for good again");
        assert_eq!(state(&journal, 2), Some(State::Intent), "or start");
    }

    #[test]
    fn a_torn_tail_is_cut_wherever_it_tore() {
        let (_dir, path) = place();
        open(&path).append(&[received(1, NOW)], NOW).expect("it takes records");
        let whole = fs::read(&path).expect("it is there");
        open(&path).append(&[received(2, NOW), Record::Intent(task(2))], NOW).expect("it takes records");
        let longer = fs::read(&path).expect("it is there");
        for end in whole.len()..longer.len() {
            fs::write(&path, &longer[..end]).expect("it can be written");
            let mut journal = open(&path);
            assert_eq!((journal.damage(), journal.known.len()), (None, 1), "{end}");
            journal.append(&[refused(3)], NOW).expect("it goes on");
            drop(journal);
            assert_eq!(open(&path).known.len(), 2);
        }
        let zeros = [whole.as_slice(), &[0; 200]].concat();
        fs::write(&path, zeros).expect("it can be written");
        assert_eq!(open(&path).damage(), None);
    }

    #[test]
    fn a_full_disk_takes_nothing_and_is_no_damage() {
        let (_dir, path) = place();
        let mut journal = open(&path);
        journal.append(&[received(1, NOW)], NOW).expect("it takes records");
        // A file that must not grow is to a writer what a full disk is.
        let full = rustix::fs::memfd_create("full", rustix::fs::MemfdFlags::ALLOW_SEALING).expect("a file in memory");
        let full = File::from(full);
        full.set_len(journal.size).expect("room");
        rustix::fs::fcntl_add_seals(&full, rustix::fs::SealFlags::GROW).expect("sealed");
        (&full).seek(SeekFrom::End(0)).expect("it has an end");
        let disk = std::mem::replace(&mut journal.file, full);
        let before = snapshot(&journal);
        assert!(matches!(journal.append(&[received(2, NOW)], NOW), Err(JournalError::NoRoom(_))));
        assert_eq!((journal.damage(), snapshot(&journal)), (None, before));
        journal.file = disk;
        journal.append(&[received(3, NOW)], NOW).expect("there is room again");
        assert_eq!(snapshot(&open(&path)), snapshot(&journal));
    }

    #[test]
    fn damage_before_the_tail_closes_the_journal_and_nothing_else() {
        let (_dir, path) = place();
        let mut journal = open(&path);
        journal.append(&[received(1, NOW)], NOW).expect("it takes records");
        let place = usize::try_from(journal.size).expect("small");
        journal.append(&[received(2, NOW)], NOW).expect("it takes records");
        journal.append(&[received(3, NOW)], NOW).expect("it takes records");
        let mut bytes = fs::read(&path).expect("it is there");
        bytes[place + 20] ^= 1;
        fs::write(&path, &bytes).expect("it can be written");
        let mut journal = open(&path);
        assert!(journal.damage().is_some_and(|text| text.contains("move")));
        assert_eq!(journal.known.len(), 1);
        assert!(matches!(journal.append(&[refused(9)], NOW), Err(JournalError::Closed(_))));
        assert_eq!(fs::read(&path).expect("it is there"), bytes);
    }

    #[test]
    fn a_failed_write_closes_it_for_good() {
        let (_dir, path) = place();
        let mut journal = open(&path);
        journal.file = File::options().write(true).open("/dev/full").expect("Linux has it");
        assert!(matches!(journal.append(&[refused(1)], NOW), Err(JournalError::Write(_))));
        journal.file = File::options().append(true).open(&path).expect("it is there");
        assert!(matches!(journal.append(&[refused(1)], NOW), Err(JournalError::Closed(_))));
        assert_eq!(journal.get(task(1)), None);
    }

    #[test]
    fn only_what_is_committed_and_old_is_forgotten() {
        let (_dir, path) = place();
        let mut journal = open(&path);
        let long = |target| Record::Refused {
            task: task(target),
            kind: RejectKind::Refused,
            reason: "x".repeat(50_000),
            start_before: NOW,
        };
        for target in 0..100 {
            journal.append(&[long(target), Record::Committed(task(target))], NOW).expect("it takes records");
        }
        journal.append(&[received(500, NOW), Record::Intent(task(500))], NOW).expect("it takes records");
        assert_eq!(journal.known.len(), 101);
        drop(journal);
        let later = NOW + RETENTION + Duration::from_secs(1);
        let journal = Journal::open(&path, later).expect("it opens");
        assert_eq!(journal.tasks().map(|(task, _)| task).collect::<Vec<_>>(), [task(500)]);
        assert!(fs::metadata(&path).expect("it is there").len() < 1_000);
        assert_eq!(open(&path).born_at(), NOW);
    }

    proptest! {
        #[test]
        fn any_bytes_open_or_close_but_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (_dir, path) = place();
            fs::write(&path, bytes).expect("it can be written");
            let _ = Journal::open(&path, NOW);
        }
    }
}
