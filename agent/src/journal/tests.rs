//! What the journal promises, on real files.

use super::*;
use muster_proto::id::Attempt;
use proptest::prelude::*;
use std::io::{Seek as _, SeekFrom};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn task(target: u32) -> TaskId {
    TaskId { job: JobId::from_bytes([1; 16]), target, attempt: Attempt::FIRST }
}

fn received(target: u32, start_before: Timestamp) -> Record {
    Record::Received { task: task(target), payload: [7; 32], start_before }
}

fn refused(target: u32) -> Record {
    let reason = "a cancel came first".to_owned();
    Record::Refused { task: task(target), kind: RejectKind::Cancelled, reason, start_before: NOW }
}

fn committed(target: u32) -> Record {
    Record::Committed { task: task(target), end: Some(outcome::State::TimedOut) }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("journal");
    (dir, path)
}

fn open(path: &Path) -> Journal {
    Journal::open(path, NOW).expect("it opens")
}

fn snapshot(journal: &Journal) -> BTreeMap<TaskId, Known> {
    journal.tasks().map(|(task, known)| (task, known.clone())).collect()
}

#[test]
fn what_was_appended_is_known_after_opening_again() {
    let (_dir, path) = place();
    let mut journal = open(&path);
    let records = [received(1, NOW), Record::Intent(task(1)), received(2, NOW), refused(3), refused(2)];
    journal.append(&records, NOW).expect("it takes records");
    journal.append(&[committed(1)], NOW).expect("it takes records");
    let known = snapshot(&journal);
    drop(journal);
    let journal = Journal::open(&path, NOW + Duration::from_secs(9)).expect("it opens");
    assert_eq!((journal.born_at(), journal.damage()), (NOW, None));
    assert_eq!(snapshot(&journal), known);
    let ended = journal.get(task(1)).map(|known| (&known.state, known.committed, known.end));
    assert_eq!(ended, Some((&State::Intent, true, Some(outcome::State::TimedOut))));
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
        journal.append(&[long(target), committed(target)], NOW).expect("it takes records");
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
