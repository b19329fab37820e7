//! Jobs with their frozen lists and their events.
//!
//! A job's task in the engine is its only writer and gives events their `seq`; the store holds it to that: events go
//! on exactly where the job stands, or nothing is written.

use crate::audit::{self, AuditEntry};
use crate::output::Packed;
use crate::record::{self, Block, StoredEvent};
use crate::writer::{Change, database_errors};
use crate::{Store, StoreError};
use bytes::Bytes;
use muster_proto::event::{Event, EventKind};
use muster_proto::id::{JobId, TaskId};
use muster_proto::job::{JobList, JobSpec, JobState, JobSummary, SignedJob, Target, TargetsDigest};
use muster_proto::limits;
use muster_proto::outcome::Counts;
use muster_proto::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use std::fs::File;
use std::io;
use std::sync::Arc;

/// Blocks read at a time: most hold one small append, none much more than 256 KiB, so this bounds a reader's memory.
const READ_BLOCKS: usize = 16;
/// What an outline leaves out counts as well: this many bytes of output are 4,096 frames of the largest kind.
const OUTLINE_BYTES: usize = 256 << 20;

/// A job to accept.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// What was signed, decoded.
    pub spec: JobSpec,
    /// What was signed, as it came.
    pub signed: SignedJob,
    /// The frozen list, in its order.
    pub targets: Vec<Target>,
    /// Its first events, from `seq` 1.
    pub events: Vec<Event>,
    /// Who submitted it.
    pub audit: AuditEntry,
}

/// What happened in a job, and where it stands thereby.
#[derive(Debug, Clone)]
pub struct Append {
    /// The job.
    pub job: JobId,
    /// Consecutive, and the next after those stored. May be empty where only the state changes.
    pub events: Vec<Event>,
    /// Where the job stands after them.
    pub state: JobState,
    /// Terminal targets after them.
    pub counts: Counts,
    /// With [`JobState::Done`], and only then.
    pub done_at: Option<Timestamp>,
    /// Records of what people did, if it was people.
    pub audit: Vec<AuditEntry>,
    /// What became known of tasks that are terminal already.
    pub late: Vec<LateEvidence>,
}

/// A job as it is stored.
#[derive(Debug, Clone)]
pub struct StoredJob {
    /// What was signed, decoded. It was verified when it was accepted.
    pub spec: JobSpec,
    /// What was signed, as it came.
    pub signed: SignedJob,
    /// The frozen list, in its order.
    pub targets: Arc<[Target]>,
    /// Where it stands.
    pub summary: JobSummary,
    /// `seq` of its last event.
    pub last_seq: u64,
}

/// What became known of a task after its terminal state, which it cannot change. The first of a task is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateEvidence {
    /// The task.
    pub task: TaskId,
    /// One line.
    pub text: String,
    /// When the controller learnt of it.
    pub at: Timestamp,
}

/// Why a job was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcceptError {
    /// A job with this id exists.
    #[error("a job with this id was submitted before: look at it with `muster job`, or sign a new one")]
    Duplicate,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

database_errors!(AcceptError);

/// The query for what [`summary_of`] reads, with more columns, of these jobs.
macro_rules! listed {
    ($more:literal, $which:literal) => {
        concat!(
            "SELECT j.job, state, operator, title, argv, root, j.targets AS length, counts, created_at, done_at",
            $more,
            " FROM jobs j JOIN job_specs s ON s.job = j.job ",
            $which
        )
    };
}

impl Store {
    /// Takes a job. After `Ok` job, frozen list, first events and audit record are on disk.
    pub async fn accept(&self, job: NewJob) -> Result<(), AcceptError> {
        let entries = self.entries(job.spec.job, &job.events).await?;
        if job.events.first().is_some_and(|event| event.seq != 1) {
            return Err(StoreError::Conflict(job.spec.job).into());
        }
        self.inner.writer.write(Accept { job, entries }).await
    }

    /// Takes what happened next in a job. [`StoreError::Conflict`] if it does not continue where the job stands.
    pub async fn append(&self, append: Append) -> Result<(), StoreError> {
        let entries = self.entries(append.job, &append.events).await?;
        self.inner.writer.write(Appending { append, entries }).await
    }

    /// Consecutive events after `after_seq`, in order: about `max_bytes` of them, at least one if there is any, none
    /// at the end.
    pub async fn events(&self, job: JobId, after_seq: u64, max_bytes: usize) -> Result<Vec<Event>, StoreError> {
        let found = self.stored(job, after_seq, max_bytes).await?;
        self.with_output(job, found).await
    }

    /// As [`Store::events`], with every piece of output left out and in its place how many bytes it has: all that a
    /// job needs to be replayed, however much it wrote.
    pub async fn outline(&self, job: JobId, after_seq: u64) -> Result<Vec<Event>, StoreError> {
        let found = self.stored(job, after_seq, OUTLINE_BYTES).await?;
        Ok(found.into_iter().map(StoredEvent::outline).collect())
    }

    async fn stored(&self, job: JobId, after_seq: u64, max_bytes: usize) -> Result<Vec<StoredEvent>, StoreError> {
        let sql = "SELECT first_seq, last_seq, output_at, body FROM event_blocks \
                   WHERE job = $1 AND last_seq > $2 ORDER BY last_seq LIMIT $3";
        let (mut found, mut bytes, mut after): (Vec<StoredEvent>, usize, u64) = (Vec::new(), 0, after_seq);
        'enough: loop {
            let query = sqlx::query(sql).bind(&job.as_bytes()[..]).bind(signed(after)).bind(READ_BLOCKS as i64);
            let rows = query.fetch_all(&self.inner.readers).await?;
            for row in &rows {
                let body = Bytes::from(row.try_get::<Vec<u8>, _>("body")?);
                let output_at = unsigned(row, "output_at")?;
                for event in record::unpack(unsigned(row, "first_seq")?, body) {
                    let mut event = event?;
                    if let Some(place) = &mut event.place {
                        place.offset = place.offset.saturating_add(output_at);
                    }
                    if event.event.seq <= after {
                        continue;
                    }
                    bytes += event.cost();
                    if bytes > max_bytes && !found.is_empty() {
                        break 'enough;
                    }
                    after = event.event.seq;
                    found.push(event);
                }
                if after != unsigned(row, "last_seq")? {
                    return Err(StoreError::Damaged(format!("the events of job {job}")));
                }
            }
            if rows.len() < READ_BLOCKS {
                break;
            }
        }
        Ok(found)
    }

    /// The job, if there is one.
    pub async fn job(&self, job: JobId) -> Result<Option<StoredJob>, StoreError> {
        let sql = listed!(", last_seq, payload, signature, certificate, s.targets AS list", "WHERE j.job = $1");
        let query = sqlx::query(sql).bind(&job.as_bytes()[..]);
        let Some(row) = query.fetch_optional(&self.inner.readers).await? else {
            return Ok(None);
        };
        let damaged = || StoreError::Damaged(format!("job {job}"));
        let bytes = |column| row.try_get::<Vec<u8>, _>(column).map(Bytes::from);
        let signed = SignedJob {
            payload: bytes("payload")?,
            signature: bytes("signature")?,
            certificate: bytes("certificate")?,
        };
        Ok(Some(StoredJob {
            spec: JobSpec::decode(&signed.payload).map_err(|_| damaged())?,
            signed,
            targets: record::targets_of(bytes("list")?).ok_or_else(damaged)?.into(),
            summary: summary_of(&row)?,
            last_seq: unsigned(&row, "last_seq")?,
        }))
    }

    /// The newest of these jobs, newest first, by the time at which they were accepted.
    pub async fn jobs(&self, which: JobList, limit: u32) -> Result<Vec<JobSummary>, StoreError> {
        let sql = match which {
            JobList::All => listed!("", "ORDER BY accepted_at DESC, j.job DESC LIMIT $1"),
            JobList::Unfinished => {
                listed!("", "WHERE done_at IS NULL ORDER BY accepted_at DESC, j.job DESC LIMIT $1")
            }
        };
        let rows = sqlx::query(sql).bind(limit).fetch_all(&self.inner.readers).await?;
        rows.iter().map(summary_of).collect()
    }

    /// The jobs that are not done, oldest first.
    pub async fn unfinished_jobs(&self) -> Result<Vec<JobId>, StoreError> {
        let rows = sqlx::query("SELECT job FROM jobs WHERE done_at IS NULL ORDER BY accepted_at, job");
        rows.fetch_all(&self.inner.readers).await?.iter().map(job_of).collect()
    }

    /// Keeps what became known of a task of a job that is done; for others it is part of [`Append`].
    pub async fn late_evidence(&self, late: LateEvidence) -> Result<(), StoreError> {
        self.inner.writer.write(late).await
    }

    /// What became known of a job's tasks too late, oldest first.
    pub async fn late_evidence_of(&self, job: JobId) -> Result<Vec<LateEvidence>, StoreError> {
        let sql = "SELECT target, attempt, at, text FROM late_evidence WHERE job = $1 ORDER BY at, target, attempt";
        let rows = sqlx::query(sql).bind(&job.as_bytes()[..]).fetch_all(&self.inner.readers).await?;
        let read = |row: &SqliteRow| {
            let task = TaskId { job, target: row.try_get("target")?, attempt: row.try_get("attempt")? };
            Ok(LateEvidence { task, text: row.try_get("text")?, at: Timestamp::from_millis(row.try_get("at")?) })
        };
        rows.iter().map(read).collect()
    }

    /// Events in stored form, with what goes to the job's file.
    async fn entries(&self, job: JobId, events: &[Event]) -> Result<Entries, StoreError> {
        if events.windows(2).any(|pair| pair[0].seq.checked_add(1) != Some(pair[1].seq)) {
            return Err(StoreError::Conflict(job));
        }
        let large = record::large_output(events);
        if large.is_empty() {
            return Ok(Entries { blocks: record::pack(events, &[]), output: None });
        }
        let outputs = self.inner.outputs.clone();
        let packed = tokio::task::spawn_blocking(move || outputs.pack(job, &large)).await;
        let output = packed.map_err(io::Error::other)??;
        Ok(Entries { blocks: record::pack(events, &output.places), output: Some(output) })
    }

    /// Fetches the output that lies in the job's file.
    async fn with_output(&self, job: JobId, mut found: Vec<StoredEvent>) -> Result<Vec<Event>, StoreError> {
        let places: Vec<_> = found.iter().filter_map(|event| event.place).collect();
        if !places.is_empty() {
            let outputs = self.inner.outputs.clone();
            let read = tokio::task::spawn_blocking(move || outputs.read(job, &places)).await;
            let pieces = read.map_err(io::Error::other)?.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                    StoreError::Damaged(format!("the output of job {job}"))
                }
                _ => error.into(),
            })?;
            let elsewhere = found.iter_mut().filter(|event| event.place.is_some());
            for (event, piece) in elsewhere.zip(pieces) {
                if let EventKind::Output { data, .. } = &mut event.event.kind {
                    *data = piece;
                }
            }
        }
        Ok(found.into_iter().map(|event| event.event).collect())
    }
}

/// Events on their way into the database.
struct Entries {
    blocks: Vec<Block>,
    output: Option<Packed>,
}

impl Entries {
    fn last_seq(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.last_seq)
    }

    /// Bytes that the job's file grows by.
    fn output_len(&self) -> u64 {
        self.output.as_ref().map_or(0, Packed::len)
    }

    fn file(&self) -> Option<&Arc<File>> {
        self.output.as_ref().map(|output| &output.file)
    }

    /// Writes them, their output at this place in the job's file: only the job's row, changed in the same
    /// transaction, says where that is.
    async fn insert(&self, db: &mut SqliteConnection, job: JobId, output_at: u64) -> Result<(), StoreError> {
        if let Some(output) = &self.output {
            output.write(output_at).await?;
        }
        for block in &self.blocks {
            let sql = "INSERT INTO event_blocks (job, last_seq, first_seq, output_at, body) \
                       VALUES ($1, $2, $3, $4, $5)";
            sqlx::query(sql)
                .bind(&job.as_bytes()[..])
                .bind(signed(block.last_seq))
                .bind(signed(block.first_seq))
                .bind(signed(output_at))
                .bind(&block.body[..])
                .execute(&mut *db)
                .await?;
        }
        Ok(())
    }
}

struct Accept {
    job: NewJob,
    entries: Entries,
}

impl Change for Accept {
    type Answer = ();
    type Error = AcceptError;

    fn file(&self) -> Option<&Arc<File>> {
        self.entries.file()
    }

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), AcceptError> {
        let NewJob { spec, signed: sealed, targets, audit, .. } = &self.job;
        let sql = "INSERT INTO jobs (job, state, targets, counts, last_seq, output_bytes, created_at, accepted_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (job) DO NOTHING";
        let inserted = sqlx::query(sql)
            .bind(&spec.job.as_bytes()[..])
            .bind(JobState::Queued.as_str())
            .bind(spec.targets.count)
            .bind(record::counts_to_bytes(&Counts::default()))
            .bind(signed(self.entries.last_seq()))
            .bind(signed(self.entries.output_len()))
            .bind(spec.created_at.as_millis())
            .bind(audit.at.as_millis())
            .execute(&mut *db)
            .await?;
        if inserted.rows_affected() == 0 {
            return Err(AcceptError::Duplicate);
        }
        let program = &spec.command().program;
        let sql = "INSERT INTO job_specs (job, operator, title, argv, root, payload, signature, certificate, targets) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        sqlx::query(sql)
            .bind(&spec.job.as_bytes()[..])
            .bind(spec.operator.as_str())
            .bind(program.title())
            .bind(record::words_to_bytes(program.words(limits::ARGV_LISTED_BYTES_MAX)))
            .bind(&spec.targets.root[..])
            .bind(&sealed.payload[..])
            .bind(&sealed.signature[..])
            .bind(&sealed.certificate[..])
            .bind(record::targets_to_bytes(targets))
            .execute(&mut *db)
            .await?;
        self.entries.insert(db, spec.job, 0).await?;
        Ok(audit::write(db, audit).await?)
    }
}

struct Appending {
    append: Append,
    entries: Entries,
}

impl Change for Appending {
    type Answer = ();
    type Error = StoreError;

    fn file(&self) -> Option<&Arc<File>> {
        self.entries.file()
    }

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        let Append { job, events, state, counts, done_at, audit, late } = &self.append;
        // -1 where there are no events: then any `last_seq` will do, and stays.
        let expected = events.first().map_or(-1, |event| signed(event.seq.saturating_sub(1)));
        let sql = "UPDATE jobs SET state = $1, counts = $2, done_at = $3, last_seq = last_seq + $4, \
                   output_bytes = output_bytes + $7 \
                   WHERE job = $5 AND done_at IS NULL AND (last_seq = $6 OR $6 = -1) RETURNING output_bytes";
        let row = sqlx::query(sql)
            .bind(state.as_str())
            .bind(record::counts_to_bytes(counts))
            .bind(done_at.map(Timestamp::as_millis))
            .bind(signed(events.len() as u64))
            .bind(&job.as_bytes()[..])
            .bind(expected)
            .bind(signed(self.entries.output_len()))
            .fetch_optional(&mut *db)
            .await?
            .ok_or(StoreError::Conflict(*job))?;
        let output_at = unsigned(&row, "output_bytes")?.saturating_sub(self.entries.output_len());
        self.entries.insert(db, *job, output_at).await?;
        for late in late {
            late.apply(db).await?;
        }
        for entry in audit {
            audit::write(db, entry).await?;
        }
        Ok(())
    }
}

impl Change for LateEvidence {
    type Answer = ();
    type Error = StoreError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        let sql = "INSERT INTO late_evidence (job, target, attempt, at, text) VALUES ($1, $2, $3, $4, $5) \
                   ON CONFLICT (job, target, attempt) DO NOTHING";
        sqlx::query(sql)
            .bind(&self.task.job.as_bytes()[..])
            .bind(self.task.target)
            .bind(self.task.attempt)
            .bind(self.at.as_millis())
            .bind(&self.text)
            .execute(db)
            .await?;
        Ok(())
    }
}

fn summary_of(row: &SqliteRow) -> Result<JobSummary, StoreError> {
    let job = job_of(row)?;
    let damaged = || StoreError::Damaged(format!("job {job}"));
    let root = row.try_get::<&[u8], _>("root")?.try_into().map_err(|_| damaged())?;
    Ok(JobSummary {
        job,
        state: record::job_state_of(row.try_get("state")?).ok_or_else(damaged)?,
        operator: row.try_get::<&str, _>("operator")?.parse().map_err(|_| damaged())?,
        title: row.try_get("title")?,
        argv: record::words_of(row.try_get("argv")?).ok_or_else(damaged)?,
        targets: TargetsDigest { root, count: row.try_get("length")? },
        counts: record::counts_of(row.try_get("counts")?).ok_or_else(damaged)?,
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
        done_at: row.try_get::<Option<i64>, _>("done_at")?.map(Timestamp::from_millis),
    })
}

fn job_of(row: &SqliteRow) -> Result<JobId, StoreError> {
    let bytes = row.try_get::<&[u8], _>("job")?;
    bytes.try_into().map_err(|_| StoreError::Damaged("a job's id".into()))
}

/// Databases count in `i64`; no `seq` ever comes near its end.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(row: &SqliteRow, column: &str) -> Result<u64, StoreError> {
    let number = row.try_get::<i64, _>(column)?;
    number.try_into().map_err(|_| StoreError::Damaged(format!("{column} of a job")))
}
