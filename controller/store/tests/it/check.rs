//! A check finds what is wrong, and nothing where nothing is.

use crate::common::{Failure, append, at, event, job_id, new_job};
use crate::faults::tamper;
use muster_proto::command::BlobRef;
use muster_proto::event::{EventKind, Stream};
use muster_proto::id::JobId;
use muster_proto::job::{JobState, Work};
use muster_proto::outcome::{Counts, Outcome, State};
use muster_proto::token::Token;
use muster_store::{Append, NewJob, OpenError, Store, check};
use sqlx::{Connection as _, SqliteConnection};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

fn outcome(state: State) -> Outcome {
    Outcome { state, exit_code: None, signal: None, reason: None, duration: None, ping: None }
}

/// Two jobs: one is done, with output of both kinds and with stdin, one is at work.
async fn fill(dir: &Path) -> Result<(JobId, BlobRef), Failure> {
    let store = Store::open(dir).await?;
    let (bytes, done, mut counts) = (b"stdin of a job", job_id(1), Counts::default());
    let blob = BlobRef { digest: Token::hash(bytes), size: bytes.len() as u64 };
    let mut writer = store.blob_writer(blob).await?;
    writer.write(bytes).await?;
    writer.finish().await?;
    let mut new: NewJob = new_job(done);
    let Work::Command(command) = &mut new.spec.work else { panic!("a command") };
    command.stdin = Some(blob);
    new.signed.payload = new.spec.encode();
    store.accept(new).await?;
    store.accept(new_job(job_id(2))).await?;
    let mut events = Vec::new();
    for target in [0, 1] {
        let data = vec![b'x'; if target == 0 { 50_000 } else { 5 }].into();
        let seq = events.len() as u64 + 2;
        events.push(event(seq, EventKind::Output { target, stream: Stream::Stdout, offset: 0, data }));
        events.push(event(seq + 1, EventKind::Finished { target, outcome: outcome(State::Succeeded) }));
        counts.add(State::Succeeded);
    }
    store.append(Append { counts, ..append(done, events) }).await?;
    let last = vec![event(6, EventKind::Done { counts })];
    store.append(Append { counts, state: JobState::Done, done_at: Some(at(9)), ..append(done, last) }).await?;
    store.close().await;
    Ok((done, blob))
}

#[tokio::test]
async fn nothing_is_found_where_nothing_is_wrong() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    fill(dir.path()).await?;
    fs::write(dir.path().join("output").join(job_id(7).to_string()), "left by a crash")?;
    let report = check(dir.path()).await?;
    assert_eq!((&report.findings[..], report.notes.len()), (&[][..], 1), "{report:?}");
    assert_eq!((report.jobs, report.events, report.audit), (2, 7, 2));
    let empty = tempfile::tempdir()?;
    assert!(matches!(check(empty.path()).await, Err(OpenError::Damaged { .. })));
    assert_eq!(fs::read_dir(empty.path())?.count(), 0, "a check makes nothing");
    Ok(())
}

#[tokio::test]
async fn whatever_was_altered_in_the_database_is_found() -> Result<(), Failure> {
    let harms = [
        ("DELETE FROM event_blocks WHERE last_seq = 5", "the events of job"),
        ("DELETE FROM event_blocks WHERE last_seq = 6", "it has 5 events and should have 6"),
        ("UPDATE event_blocks SET body = x'01ff' WHERE last_seq = 6", "event 6"),
        ("UPDATE event_blocks SET output_at = 1 WHERE last_seq = 5", "refer to output beyond its end"),
        ("INSERT INTO event_blocks VALUES (x'00', 1, 1, 0, x'01')", "a job's id"),
        ("UPDATE event_blocks SET job = zeroblob(16) WHERE last_seq = 6", "of a job 000"),
        ("DROP TRIGGER jobs_done_for_ever; UPDATE jobs SET counts = x'' WHERE last_seq = 6", "it says Counts"),
        ("UPDATE jobs SET state = 'done', done_at = 1 WHERE last_seq = 1", "it is done, but not by its events"),
        ("UPDATE job_specs SET root = zeroblob(32)", "its list is not the one that was signed"),
        ("UPDATE job_specs SET targets = x''", "its list is not the one that was signed"),
        ("PRAGMA foreign_keys = OFF; DELETE FROM job_specs", "what was signed is missing"),
        ("UPDATE job_blobs SET digest = zeroblob(32)", "is missing, and jobs name it"),
        ("DROP TRIGGER audit_never_altered; UPDATE audit SET actor = 'eve' WHERE seq = 2", "altered at record 2"),
    ];
    for (harm, expected) in harms {
        let dir = tempfile::tempdir()?;
        fill(dir.path()).await?;
        tamper(dir.path(), harm).await?;
        let report = check(dir.path()).await?;
        assert!(report.findings.iter().any(|found| found.contains(expected)), "{harm}: {report:?}");
    }
    Ok(())
}

#[tokio::test]
async fn whatever_was_altered_beside_the_database_is_found() -> Result<(), Failure> {
    let findings = async |harm: fn(&Path, JobId) -> Result<(), Failure>| {
        let dir = tempfile::tempdir()?;
        let (job, _) = fill(dir.path()).await?;
        harm(dir.path(), job)?;
        Ok::<_, Failure>(check(dir.path()).await?.findings)
    };
    let found = findings(|dir, job| Ok(fs::remove_file(dir.join("output").join(job.to_string()))?)).await?;
    assert!(found.iter().any(|found| found.contains("the output of job")), "{found:?}");
    let cut = |dir: &Path, job: JobId| {
        let file = OpenOptions::new().write(true).open(dir.join("output").join(job.to_string()))?;
        Ok(file.set_len(file.metadata()?.len() - 1)?)
    };
    let found = findings(cut).await?;
    assert!(found.iter().any(|found| found.contains("the output of job")), "{found:?}");
    let alter = |dir: &Path, _| {
        let blob = fs::read_dir(dir.join("blobs"))?.next().ok_or("there is a blob")??;
        Ok(OpenOptions::new().write(true).open(blob.path())?.write_all_at(b"S", 0)?)
    };
    let found = findings(alter).await?;
    assert!(found.iter().any(|found| found.contains("is not what its name says")), "{found:?}");
    Ok(())
}

/// Each byte of the events and of the output, altered one at a time.
#[tokio::test]
async fn no_byte_of_events_or_output_can_change_unnoticed() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let (job, _) = fill(dir.path()).await?;
    let path = dir.path().join("output").join(job.to_string());
    let whole = fs::read(&path)?;
    for place in (0..whole.len()).step_by(whole.len().div_ceil(20)) {
        let mut altered = whole.clone();
        altered[place] ^= 4;
        fs::write(&path, &altered)?;
        let found = check(dir.path()).await?.findings;
        assert!(!found.is_empty(), "byte {place} of the output");
    }
    fs::write(&path, &whole)?;
    let mut raw = SqliteConnection::connect(&format!("sqlite://{}", dir.path().join("muster.db").display())).await?;
    let body: Vec<u8> =
        sqlx::query_scalar("SELECT body FROM event_blocks WHERE last_seq = 5").fetch_one(&mut raw).await?;
    for place in 0..body.len() {
        let mut altered = body.clone();
        altered[place] ^= 4;
        sqlx::query("UPDATE event_blocks SET body = $1 WHERE last_seq = 5").bind(altered).execute(&mut raw).await?;
        let found = check(dir.path()).await?.findings;
        assert!(!found.is_empty(), "byte {place} of a block of events");
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_is_damaged_where_it_matters_does_not_open() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    fill(dir.path()).await?;
    let database = dir.path().join("muster.db");
    let whole = fs::read(&database)?;
    // The last page is none that opening reads.
    OpenOptions::new().write(true).open(&database)?.set_len(whole.len() as u64 - 4_096)?;
    let error = Store::open(dir.path()).await.err().ok_or("a store without its end was opened")?;
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    fs::write(&database, &whole)?;
    tamper(dir.path(), "PRAGMA ignore_check_constraints = ON; UPDATE jobs SET state = 'gone' WHERE last_seq = 1")
        .await?;
    let error = Store::open(dir.path()).await.err().ok_or("a store with a broken table was opened")?;
    assert!(error.to_string().contains("jobs"), "{error}");
    assert_eq!(check(dir.path()).await?.findings.len(), 1);
    Ok(())
}
