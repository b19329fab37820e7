//! What must hold when many come at once, when somebody is wrong, and when the disk is.

use crate::common::{Failure, agent_id, append, at, entry, event, good, job_id, new_job};
use muster_proto::command::{Command, Program};
use muster_proto::event::{EventKind, Stream};
use muster_proto::fleet::{Labels, PendingAgent};
use muster_proto::job::{JobList, JobState, Work};
use muster_store::{
    Append, AuditError, EnrolBy, EnrolError, NewAgent, NewToken, OpenError, PendingError, Store, StoreError,
};
use sqlx::{Connection as _, SqliteConnection};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use tokio::task::JoinSet;

/// What happens to a file.
type Harm = fn(Vec<u8>) -> Vec<u8>;

/// Past the store: what somebody with the file can do.
pub async fn tamper(dir: &Path, statements: &'static str) -> Result<(), Failure> {
    let mut raw = SqliteConnection::connect(&format!("sqlite://{}", dir.join("muster.db").display())).await?;
    sqlx::raw_sql(statements).execute(&mut raw).await?;
    Ok(raw.close().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_for_one_makes_one_agent() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    let (hash, audit) = ([1; 32], entry("token.create"));
    let token = NewToken { hash, labels: Labels::new(), uses: 1, expires_at: at(60), operator: good("ann"), audit };
    store.create_token(token).await?;
    let mut attempts = JoinSet::new();
    for number in 0..64_u8 {
        let (store, name) = (store.clone(), good(&format!("web{number}")));
        let (id, by) = (agent_id(number.into()), EnrolBy::Token { hash });
        let agent = NewAgent { id, name, key_fingerprint: [number; 32], at: at(1), by, address: String::new() };
        attempts.spawn(async move { store.enrol_agent(agent).await });
    }
    let results = attempts.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(EnrolError::TokenInvalid))));
    assert_eq!(store.agents().await?.len(), 1);
    assert_eq!(store.verify_audit().await?, 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_jobs_go_on_at_once_and_one_that_is_wrong_spoils_no_other() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    let mut jobs = JoinSet::new();
    for number in 0..1_000_u128 {
        let store = store.clone();
        jobs.spawn(async move {
            let id = job_id(number);
            store.accept(new_job(id)).await.map_err(|error| error.to_string())?;
            let output = |seq: u64, length| EventKind::Output {
                target: 0,
                stream: Stream::Stdout,
                offset: seq,
                data: vec![b'a'; length].into(),
            };
            let length = if number % 10 == 0 { 5_000 } else { 50 };
            let wrong = if number % 7 == 0 { 1 } else { 0 };
            let result = store.append(append(id, vec![event(2 + wrong, output(2, length))])).await;
            match (wrong, result) {
                (0, Ok(())) | (1, Err(StoreError::Conflict(_))) => Ok(1 + usize::from(wrong == 0)),
                (_, result) => Err(format!("{result:?}")),
            }
            .map(|events| (id, events))
        });
    }
    for result in jobs.join_all().await {
        let (id, events) = result?;
        assert_eq!(store.events(id, 0, usize::MAX).await?.len(), events);
        assert_eq!(store.job(id).await?.ok_or("stored")?.last_seq, events as u64);
    }
    assert_eq!(store.unfinished_jobs().await?.len(), 1_000);
    assert_eq!(store.verify_audit().await?, 1_000);
    Ok(())
}

#[tokio::test]
async fn events_go_on_where_the_job_stands_or_not_at_all() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    let id = job_id(1);
    store.accept(new_job(id)).await?;
    let started = |seq| event(seq, EventKind::Started { target: 0 });
    for seqs in [vec![3], vec![1], vec![2, 4], vec![2, 2], vec![0], vec![u64::MAX]] {
        let result = store.append(append(id, seqs.iter().copied().map(started).collect())).await;
        assert!(matches!(result, Err(StoreError::Conflict(job)) if job == id), "{seqs:?}");
    }
    assert!(matches!(store.append(append(job_id(2), vec![started(1)])).await, Err(StoreError::Conflict(_))));
    store.append(append(id, vec![started(2), started(3)])).await?;
    store.append(Append { state: JobState::Paused, ..append(id, vec![]) }).await?;
    store.append(append(id, vec![started(4)])).await?;
    store.append(Append { state: JobState::Done, done_at: Some(at(9)), ..append(id, vec![started(5)]) }).await?;
    for events in [vec![], vec![started(6)]] {
        assert!(matches!(store.append(append(id, events)).await, Err(StoreError::Conflict(_))));
    }
    let seqs: Vec<_> = store.events(id, 0, usize::MAX).await?.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
    let refused = tamper(dir.path(), "UPDATE jobs SET state = 'active', done_at = NULL").await;
    assert!(refused.is_err_and(|error| error.to_string().contains("done never changes")));
    Ok(())
}

#[tokio::test]
async fn what_was_answered_survives_a_process_that_just_ends() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let id = job_id(1);
    let output = |seq, data: &[u8]| {
        event(seq, EventKind::Output { target: 0, stream: Stream::Stderr, offset: 0, data: data.to_vec().into() })
    };
    let first = Store::open(dir.path()).await?;
    first.accept(new_job(id)).await?;
    first.append(append(id, vec![output(2, &[b'a'; 9_000])])).await?;
    // Neither closed nor dropped, and the crash came between output and commit.
    std::mem::forget(first);
    let file = dir.path().join("output").join(id.to_string());
    OpenOptions::new().append(true).open(&file)?.write_all(b"unreferenced")?;

    let store = Store::open(dir.path()).await?;
    store.append(append(id, vec![output(3, &[b'b'; 9_000])])).await?;
    assert_eq!(store.events(id, 1, usize::MAX).await?, [output(2, &[b'a'; 9_000]), output(3, &[b'b'; 9_000])]);

    OpenOptions::new().write(true).open(&file)?.set_len(10)?;
    assert!(matches!(store.events(id, 1, usize::MAX).await, Err(StoreError::Damaged(_))));
    assert_eq!(store.events(id, 0, 1).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn what_fails_can_be_repeated_for_ever_without_a_trace() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    let id = job_id(1);
    store.accept(new_job(id)).await?;
    let output = |seq, byte| {
        // No two pieces shrink to the same size.
        let data = vec![byte; 5_000 * usize::from(byte)].into();
        event(seq, EventKind::Output { target: 0, stream: Stream::Stdout, offset: 0, data })
    };
    store.append(append(id, vec![output(2, 1)])).await?;
    let file = dir.path().join("output").join(id.to_string());
    let size = || fs::metadata(&file).map(|file| file.len());
    tamper(dir.path(), "CREATE TRIGGER full BEFORE INSERT ON event_blocks BEGIN SELECT RAISE(ABORT, 'full'); END")
        .await?;
    let (two, mut sizes) = (append(id, vec![output(3, 2), output(4, 3)]), Vec::new());
    for _ in 0..5 {
        assert!(matches!(store.append(two.clone()).await, Err(StoreError::Unavailable(_))));
        sizes.push(size()?);
    }
    tamper(dir.path(), "DROP TRIGGER full").await?;
    store.append(two).await?;
    sizes.push(size()?);
    assert!(matches!(store.append(append(id, vec![output(9, 4)])).await, Err(StoreError::Conflict(_))));
    sizes.push(size()?);
    assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
    store.append(append(id, vec![output(5, 5)])).await?;
    assert_eq!(store.events(id, 1, usize::MAX).await?, [output(2, 1), output(3, 2), output(4, 3), output(5, 5)]);
    Ok(())
}

#[tokio::test]
async fn a_disk_without_room_for_output_stops_that_job_alone_until_there_is_room() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    let (full, other) = (job_id(1), job_id(2));
    let output = |seq, length| {
        let data = vec![b'x'; length].into();
        event(seq, EventKind::Output { target: 0, stream: Stream::Stdout, offset: 0, data })
    };
    for job in [full, other] {
        store.accept(new_job(job)).await?;
    }
    let file = dir.path().join("output").join(full.to_string());
    std::os::unix::fs::symlink("/dev/full", &file)?;
    for _ in 0..3 {
        let (refused, done) = tokio::join!(
            store.append(append(full, vec![output(2, 5_000), output(3, 10)])),
            store.append(Append { state: JobState::Active, ..append(other, vec![]) }),
        );
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        done?;
        assert_eq!(store.job(full).await?.ok_or("stored")?.last_seq, 1, "nothing half of it is there");
    }
    store.append(append(full, vec![output(2, 10)])).await?;
    fs::remove_file(&file)?;
    store.append(append(full, vec![output(3, 5_000)])).await?;
    assert_eq!(store.events(full, 1, usize::MAX).await?, [output(2, 10), output(3, 5_000)]);
    store.close().await;
    assert!(muster_store::check(dir.path()).await?.findings.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_list_is_small_whatever_was_signed() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    let mut new = new_job(job_id(1));
    let words = vec![b"echo".to_vec(), vec![b'x'; 100_000], b"y".to_vec()];
    new.spec.work = Work::Command(Command::new(Program::Argv(words.clone())));
    new.signed.payload = new.spec.encode();
    store.accept(new.clone()).await?;
    let listed = store.jobs(JobList::All, 10).await?.remove(0);
    assert_eq!(listed.title.chars().count(), 201);
    assert!(listed.title.starts_with("echo 'xxx") && listed.title.ends_with('…'));
    assert_eq!((listed.argv.len(), &listed.argv[0][..]), (2, &b"echo"[..]));
    assert!(listed.argv[1].len() < 4_100 && listed.argv[1].ends_with("…".as_bytes()));
    assert_eq!(store.job(job_id(1)).await?.ok_or("stored")?.signed, new.signed, "all of it is kept");
    Ok(())
}

#[tokio::test]
async fn the_audit_log_shows_where_it_was_altered() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    for number in 0..5 {
        store.register_operator(good(&format!("op{number}")), [0; 32], at(number)).await?;
    }
    assert_eq!(store.verify_audit().await?, 5);
    for statement in ["UPDATE audit SET actor = 'eve' WHERE seq = 3", "DELETE FROM audit WHERE seq = 3"] {
        let refused = tamper(dir.path(), statement).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("append-only")));
    }
    tamper(dir.path(), "DROP TRIGGER audit_never_altered; UPDATE audit SET actor = 'eve' WHERE seq = 3").await?;
    assert!(matches!(store.verify_audit().await, Err(AuditError::Altered { seq: 3 })));
    tamper(dir.path(), "DROP TRIGGER audit_never_deleted; DELETE FROM audit WHERE seq = 2").await?;
    assert!(matches!(store.verify_audit().await, Err(AuditError::Altered { seq: 2 })));
    Ok(())
}

#[tokio::test]
async fn a_damaged_or_newer_store_says_what_to_do() -> Result<(), Failure> {
    let harms: [(&str, Harm); 4] = [
        ("garbage", |whole| vec![b'?'; whole.len()]),
        ("cut short", |mut whole| {
            whole.truncate(whole.len() / 2);
            whole
        }),
        ("one page", |mut whole| {
            whole.truncate(4_096);
            whole
        }),
        ("empty", |_| Vec::new()),
    ];
    for (name, harm) in harms {
        let dir = tempfile::tempdir()?;
        Store::open(dir.path()).await?.close().await;
        let database = dir.path().join("muster.db");
        fs::write(&database, harm(fs::read(&database)?))?;
        let error = Store::open(dir.path()).await.err().ok_or(name)?;
        assert!(matches!(error, OpenError::Damaged { .. }), "{name}: {error:?}");
        assert!(error.to_string().contains("restore"), "{error}");
        fs::remove_file(&database)?;
        assert!(matches!(Store::open(dir.path()).await, Err(OpenError::Damaged { .. })));
    }
    let dir = tempfile::tempdir()?;
    Store::open(dir.path()).await?.close().await;
    tamper(dir.path(), "UPDATE _sqlx_migrations SET version = 77").await?;
    let error = Store::open(dir.path()).await.err().ok_or("a newer store was opened")?;
    assert!(matches!(error, OpenError::Newer { version: 77, .. }), "{error:?}");
    fs::write(dir.path().join("file"), "")?;
    assert!(matches!(Store::open(&dir.path().join("file")).await, Err(OpenError::Directory { .. })));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_fill_the_list_of_requests() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    let request = |number: u16, seconds| {
        let mut fingerprint = [0; 32];
        fingerprint[..2].copy_from_slice(&number.to_be_bytes());
        PendingAgent { fingerprint, name: good("web1"), address: String::new(), asked_at: at(seconds) }
    };
    let mut requests = JoinSet::new();
    for number in 0..1_000 {
        let (store, request) = (store.clone(), request(number, 0));
        requests.spawn(async move { store.add_pending(request).await });
    }
    assert!(requests.join_all().await.iter().all(Result::is_ok));
    assert!(matches!(store.add_pending(request(1_000, 1)).await, Err(PendingError::Full)));
    store.add_pending(request(999, 1)).await?;
    store.add_pending(request(1_000, 24 * 3_600)).await?;
    assert_eq!(store.pending(at(24 * 3_600)).await?.len(), 1);
    Ok(())
}
