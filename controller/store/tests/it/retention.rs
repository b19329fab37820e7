//! What is forgotten, and what never is.

use crate::common::{Failure, append, at, event, job_id, new_job};
use muster_proto::command::{BlobRef, Command, Program};
use muster_proto::event::{EventKind, Stream};
use muster_proto::id::{JobId, TaskId};
use muster_proto::job::{JobList, JobState, Work};
use muster_proto::time::Timestamp;
use muster_proto::token::Token;
use muster_store::{AcceptError, Append, LateEvidence, NewJob, Pruned, Retention, Store};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_hours(1);

/// Real files have real times: this is long after them, and after the jobs.
fn much_later() -> Timestamp {
    Timestamp::from(SystemTime::now()) + 24 * HOUR
}

fn output(seq: u64, byte: u8, length: usize) -> muster_proto::event::Event {
    // Nothing that zstd could shrink.
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let noise = std::iter::successors(Some(u32::from(byte)), next).map(|state| state.to_be_bytes()[0]);
    let data: Vec<u8> = noise.take(length).collect();
    event(seq, EventKind::Output { target: 0, stream: Stream::Stdout, offset: 0, data: data.into() })
}

/// A job with output beside the database, done at that second if at all.
async fn with_job(store: &Store, number: u128, done: Option<i64>) -> Result<JobId, Failure> {
    let id = job_id(number);
    store.accept(new_job(id)).await?;
    store.append(append(id, vec![output(2, 1, 50), output(3, 2, 50_000)])).await?;
    if let Some(seconds) = done {
        finish(store, id, 4, seconds).await?;
    }
    Ok(id)
}

async fn finish(store: &Store, id: JobId, seq: u64, seconds: i64) -> Result<(), Failure> {
    let last = vec![event(seq, EventKind::Done { counts: Default::default() })];
    Ok(store.append(Append { state: JobState::Done, done_at: Some(at(seconds)), ..append(id, last) }).await?)
}

async fn left(store: &Store) -> Result<Vec<JobId>, Failure> {
    let mut jobs: Vec<_> = store.jobs(JobList::All, 100).await?.iter().map(|job| job.job).collect();
    jobs.sort();
    Ok(jobs)
}

#[tokio::test]
async fn the_oldest_that_are_done_go_with_all_that_is_theirs() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    let running = with_job(&store, 1, None).await?;
    let mut done = Vec::new();
    for (number, seconds) in [(2, 50), (3, 30), (4, 40), (5, 60)] {
        done.push(with_job(&store, number, Some(seconds)).await?);
    }
    let task = TaskId { job: done[1], target: 0, attempt: muster_proto::id::Attempt::FIRST };
    store.late_evidence(LateEvidence { task, text: "it ran".into(), at: at(31) }).await?;
    assert_eq!(store.prune(Retention::default(), at(10_000)).await?, Pruned::default(), "everything is kept");

    let by_age = Retention { age: Some(Duration::from_secs(20)), ..Retention::default() };
    assert_eq!(store.prune(by_age, at(50)).await?.jobs, 0, "at its age, not over it");
    assert_eq!(store.prune(by_age, at(51)).await?.jobs, 1);
    assert!(store.job(done[1]).await?.is_none() && store.events(done[1], 0, 1).await?.is_empty());
    assert!(store.late_evidence_of(done[1]).await?.is_empty());
    assert!(!dir.path().join("output").join(done[1].to_string()).exists());
    assert!(store.was_pruned(done[1]).await? && !store.was_pruned(done[0]).await?);
    assert!(matches!(store.accept(new_job(done[1])).await, Err(AcceptError::Duplicate)), "it may not run again");

    let by_count = Retention { jobs: Some(3), ..Retention::default() };
    assert_eq!(store.prune(by_count, at(70)).await?.jobs, 1);
    assert_eq!(left(&store).await?, [running, done[0], done[3]]);

    let all = store.size().await?;
    assert_eq!((all.jobs, all.blobs), (3, 0));
    assert!(all.bytes() > 150_000, "what runs takes nothing from what is kept");
    let by_size = |bytes| Retention { bytes: Some(bytes), ..Retention::default() };
    assert_eq!(store.prune(by_size(105_000), at(70)).await?, Pruned::default());
    let pruned = store.prune(by_size(95_000), at(70)).await?;
    assert!(pruned.jobs == 1 && pruned.bytes > 50_000, "{pruned:?}");
    let nothing = Retention { bytes: Some(0), jobs: Some(0), age: Some(Duration::ZERO) };
    assert_eq!(store.prune(nothing, at(70)).await?.jobs, 1);
    assert_eq!(left(&store).await?, [running], "a job that is not done is never removed");
    assert_eq!(store.events(running, 0, usize::MAX).await?.len(), 3);
    assert_eq!(store.verify_audit().await?, 5, "the audit log is never pruned");

    store.prune(nothing, at(10 * 365 * 24 * 3_600)).await?;
    assert!(store.was_pruned(done[1]).await?, "its agent may come back with a result after years");
    Ok(())
}

fn with_stdin(number: u128, blob: BlobRef) -> NewJob {
    let mut new = new_job(job_id(number));
    let mut command = Command::new(Program::Shell(b"cat".to_vec()));
    command.stdin = Some(blob);
    new.spec.work = Work::Command(command);
    new.signed.payload = new.spec.encode();
    new
}

async fn upload(store: &Store, bytes: &[u8]) -> Result<BlobRef, Failure> {
    let blob = BlobRef { digest: Token::hash(bytes), size: bytes.len() as u64 };
    let mut writer = store.blob_writer(blob).await?;
    writer.write(bytes).await?;
    writer.finish().await?;
    Ok(blob)
}

#[tokio::test]
async fn stdin_stays_while_a_job_names_it() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    let (shared, own, unused) =
        (upload(&store, b"shared").await?, upload(&store, b"own").await?, upload(&store, b"unused").await?);
    for (number, blob) in [(1, shared), (2, shared), (3, own)] {
        store.accept(with_stdin(number, blob)).await?;
        if number != 2 {
            finish(&store, job_id(number), 2, 10).await?;
        }
    }
    let all = Retention { jobs: Some(0), ..Retention::default() };
    assert_eq!(store.prune(all, SystemTime::now().into()).await?.jobs, 2);
    assert!(store.blob(unused.digest).await?.is_some(), "its job may be on the way");
    store.prune(all, much_later()).await?;
    assert!(store.blob(shared.digest).await?.is_some());
    assert!(store.blob(own.digest).await?.is_none() && store.blob(unused.digest).await?.is_none());
    assert!(matches!(store.accept(with_stdin(4, own)).await, Err(AcceptError::BlobGone)));
    assert!(store.job(job_id(4)).await?.is_none());
    assert_eq!(store.size().await?.blobs, 6);
    Ok(())
}

#[tokio::test]
async fn blobs_count_once_and_only_if_they_can_go() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    let large = |byte: u8| vec![byte; 1 << 20];
    let (running, shared, own) =
        (upload(&store, &large(1)).await?, upload(&store, &large(2)).await?, upload(&store, &large(3)).await?);
    upload(&store, &large(4)).await?;
    for (number, blob) in [(1, running), (2, running), (3, shared), (4, shared), (5, own), (6, own)] {
        store.accept(with_stdin(number, blob)).await?;
        if number != 1 {
            finish(&store, job_id(number), 2, 10).await?;
        }
    }
    let by_size = |mib: u64| Retention { bytes: Some((mib << 20) + 100_000), ..Retention::default() };
    let now = SystemTime::now().into();
    assert_eq!(store.prune(by_size(2), now).await?.jobs, 0, "two of the four can go, and are kept");
    assert_eq!(store.prune(by_size(1), now).await?.jobs, 3, "nothing is won before all that share one are gone");
    assert_eq!(left(&store).await?, [1, 5, 6].map(job_id));
    assert!(store.blob(shared.digest).await?.is_some(), "it is young");
    assert_eq!(store.prune(by_size(1), now).await?.jobs, 0, "and its bytes are no reason to remove others");
    assert_eq!(store.prune(by_size(0), much_later()).await?.jobs, 2);
    assert_eq!(store.size().await?.blobs, 1 << 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn others_write_on_while_much_goes_and_the_disk_gets_it_back() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    let (running, many) = (with_job(&store, 1, None).await?, job_id(2));
    store.accept(new_job(many)).await?;
    for seq in 2..402 {
        store.append(append(many, vec![output(seq, 3, 1_000); 1])).await?;
    }
    let wide = (402..30_402).map(|seq| output(seq, 4, 1_000)).collect();
    store.append(append(many, wide)).await?;
    finish(&store, many, 30_402, 10).await?;
    let before = (store.size().await?, file_size(dir.path())?);

    let pruning = tokio::spawn({
        let store = store.clone();
        async move { store.prune(Retention { jobs: Some(0), ..Retention::default() }, at(20)).await }
    });
    let mut seq = 4;
    while !pruning.is_finished() {
        store.append(append(running, vec![output(seq, 5, 10)])).await?;
        seq += 1;
    }
    assert_eq!(pruning.await??.jobs, 1);
    assert!(seq > 8, "{} appends while 400 blocks went", seq - 4);
    assert_eq!(store.events(running, 0, usize::MAX).await?.len() as u64, seq - 1);
    assert!(store.size().await?.database < before.0.database / 4);
    store.close().await;
    assert!(file_size(dir.path())? < before.1 / 2, "{} of {}", file_size(dir.path())?, before.1);
    Ok(())
}

fn file_size(dir: &Path) -> Result<u64, Failure> {
    Ok(fs::metadata(dir.join("muster.db"))?.len())
}

#[tokio::test]
async fn what_a_crash_left_goes_with_the_next_prune() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    let (gone, kept) = (with_job(&store, 1, Some(10)).await?, with_job(&store, 2, Some(20)).await?);
    // As if the controller had died right after the job's row was gone.
    let tombstone = "INSERT INTO pruned SELECT job, 0, 1 FROM jobs WHERE done_at IS NOT NULL ORDER BY done_at LIMIT 1; \
                     DELETE FROM jobs WHERE job IN (SELECT job FROM pruned)";
    crate::faults::tamper(dir.path(), tombstone).await?;
    let stranger = dir.path().join("output").join(job_id(77).to_string());
    fs::write(&stranger, "of no job")?;
    let file = dir.path().join("output").join(gone.to_string());
    assert!(file.exists());
    store.prune(Retention::default(), much_later()).await?;
    assert!(!file.exists() && !stranger.exists());
    assert!(store.events(gone, 0, usize::MAX).await?.is_empty());
    assert_eq!(left(&store).await?, [kept]);
    assert_eq!(store.events(kept, 0, usize::MAX).await?.len(), 4);
    Ok(())
}
