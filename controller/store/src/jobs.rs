//! Jobs: what was signed, the frozen list, and where they stand. What happened in them is in [`crate::events`].

use crate::audit;
use crate::events::Entries;
use crate::record;
use crate::writer::{Change, database_errors};
use crate::{Store, StoreError};
use bytes::Bytes;
use muster_proto::audit::AuditEntry;
use muster_proto::event::Event;
use muster_proto::id::JobId;
use muster_proto::job::{JobList, JobSpec, JobState, JobSummary, SignedJob, TargetList, TargetsDigest};
use muster_proto::limits;
use muster_proto::outcome::Counts;
use muster_proto::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Jobs whose fixed part is kept in memory, and their targets together: 100,000 take about 10 MiB. The last one is kept
/// whatever its size.
const RECENT_LEN: usize = 16;
const RECENT_TARGETS: usize = 100_000;

/// A job to accept.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// What was signed, decoded.
    pub spec: JobSpec,
    /// What was signed, as it came.
    pub signed: SignedJob,
    /// The frozen list, in its order.
    pub targets: TargetList,
    /// Its first events, from `seq` 1.
    pub events: Vec<Event>,
    /// Who submitted it.
    pub audit: AuditEntry,
}

/// A job as it is stored.
#[derive(Debug, Clone)]
pub struct StoredJob {
    /// What was signed, decoded. It was verified when it was accepted.
    pub spec: JobSpec,
    /// What was signed, as it came.
    pub signed: SignedJob,
    /// The frozen list, in its order.
    pub targets: TargetList,
    /// Where it stands.
    pub summary: JobSummary,
    /// `seq` of its last event.
    pub last_seq: u64,
}

/// Why a job was not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AcceptError {
    /// A job with this id exists.
    #[error("a job with this id was submitted before: look at it with `muster job`, or sign a new one")]
    Duplicate,
    /// What it needs besides was pruned, or never came.
    #[error("stdin or script of this job is not on the controller any more: submit the job again")]
    BlobGone,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

database_errors!(AcceptError);

/// The query for what [`summary_of`] reads, with more columns, of these jobs.
macro_rules! listed {
    ($more:literal, $which:literal) => {
        concat!(
            "SELECT j.job, state, operator, title, argv, root, j.targets AS length, counts, created_at, done_at, rerun_of",
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
        let blobs = job.spec.blobs().map(|blob| (blob.digest, self.inner.blobs.path(&blob.digest)));
        self.inner.writer.write(Accept { blobs: blobs.collect(), job, entries }).await
    }

    /// The job, if there is one. Cheap for one that was asked for lately.
    pub async fn job(&self, job: JobId) -> Result<Option<StoredJob>, StoreError> {
        let damaged = || StoreError::Damaged(format!("job {job}"));
        let Some(known) = self.inner.recent.get(job) else {
            let found = self.whole_job(job).await?;
            if let Some(found) = &found {
                self.inner.recent.keep(Arc::new(found.clone()));
            }
            return Ok(found);
        };
        let sql = "SELECT state, counts, done_at, last_seq FROM jobs WHERE job = $1";
        let row = sqlx::query(sql).bind(&job.as_bytes()[..]).fetch_optional(&self.inner.readers).await?;
        let Some(row) = row else { return Ok(None) };
        let mut stored = StoredJob::clone(&known);
        stored.summary.state = record::job_state_of(row.try_get("state")?).ok_or_else(damaged)?;
        stored.summary.counts = record::counts_of(row.try_get("counts")?).ok_or_else(damaged)?;
        stored.summary.done_at = row.try_get::<Option<i64>, _>("done_at")?.map(Timestamp::from_millis);
        stored.last_seq = unsigned(&row, "last_seq")?;
        Ok(Some(stored))
    }

    async fn whole_job(&self, job: JobId) -> Result<Option<StoredJob>, StoreError> {
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
            targets: record::targets_of(bytes("list")?).ok_or_else(damaged)?,
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

    /// All jobs of a job's lineage that are known, itself included, in the order in which they were accepted: the first,
    /// those that repeat it, and those that repeat these. Of more than [`limits::LINEAGE_MAX`] the first and the newest.
    pub async fn family(&self, job: JobId) -> Result<Vec<JobSummary>, StoreError> {
        // Of the first alone the lineage is NULL.
        let sql = concat!(
            "SELECT * FROM (",
            listed!(
                ", accepted_at",
                "JOIN (SELECT COALESCE(lineage, job) AS first FROM job_specs WHERE job = $1) f \
                 ON s.job = f.first OR s.lineage = f.first \
                 ORDER BY s.lineage IS NULL DESC, accepted_at DESC, j.job DESC LIMIT $2"
            ),
            ") AS family ORDER BY accepted_at, job"
        );
        let query = sqlx::query(sql).bind(&job.as_bytes()[..]).bind(limits::LINEAGE_MAX);
        query.fetch_all(&self.inner.readers).await?.iter().map(summary_of).collect()
    }

    /// The jobs that are not done, oldest first.
    pub async fn unfinished_jobs(&self) -> Result<Vec<JobId>, StoreError> {
        let rows = sqlx::query("SELECT job FROM jobs WHERE done_at IS NULL ORDER BY accepted_at, job");
        rows.fetch_all(&self.inner.readers).await?.iter().map(job_of).collect()
    }
}

/// The jobs that were asked for last, as they were found: only what never changes in them may be used.
#[derive(Default)]
pub(crate) struct Recent {
    jobs: Mutex<VecDeque<Arc<StoredJob>>>,
}

impl Recent {
    fn get(&self, job: JobId) -> Option<Arc<StoredJob>> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.iter().find(|stored| stored.spec.job == job).cloned()
    }

    fn keep(&self, stored: Arc<StoredJob>) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.push_front(stored);
        let mut targets = 0;
        let kept = jobs.iter().take(RECENT_LEN).take_while(|job| {
            targets += job.targets.count();
            targets <= RECENT_TARGETS
        });
        let kept = kept.count().max(1);
        jobs.truncate(kept);
    }
}

struct Accept {
    job: NewJob,
    entries: Entries,
    blobs: Vec<([u8; 32], PathBuf)>,
}

impl Change for Accept {
    type Answer = ();
    type Error = AcceptError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), AcceptError> {
        let NewJob { spec, signed: sealed, targets, audit, .. } = &self.job;
        let sql = "INSERT INTO jobs (job, state, targets, counts, last_seq, output_bytes, created_at, accepted_at) \
                   SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE NOT EXISTS (SELECT 1 FROM pruned WHERE job = $1) \
                   ON CONFLICT (job) DO NOTHING";
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
        let sql = "INSERT INTO job_specs (job, operator, title, argv, root, payload, signature, certificate, targets, \
                   rerun_of, lineage) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, \
                   (SELECT COALESCE(p.lineage, p.job) FROM job_specs p WHERE p.job = $10))";
        sqlx::query(sql)
            .bind(&spec.job.as_bytes()[..])
            .bind(spec.operator.as_str())
            .bind(spec.work.title())
            .bind(record::words_to_bytes(spec.work.words(limits::ARGV_LISTED_BYTES_MAX)))
            .bind(&spec.targets.root[..])
            .bind(&sealed.payload[..])
            .bind(&sealed.signature[..])
            .bind(&sealed.certificate[..])
            .bind(record::targets_to_bytes(targets))
            .bind(spec.rerun_of.map(|job| job.as_bytes().to_vec()))
            .execute(&mut *db)
            .await?;
        for (digest, path) in &self.blobs {
            // Blobs are removed by the writer alone, so whatever is there now stays.
            if !tokio::fs::try_exists(path).await.map_err(StoreError::from)? {
                return Err(AcceptError::BlobGone);
            }
            let sql = "INSERT INTO job_blobs (job, digest) VALUES ($1, $2) ON CONFLICT (job, digest) DO NOTHING";
            sqlx::query(sql).bind(&spec.job.as_bytes()[..]).bind(&digest[..]).execute(&mut *db).await?;
        }
        self.entries.insert(db, spec.job).await?;
        Ok(audit::write(db, audit).await?)
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
        rerun_of: match row.try_get::<Option<&[u8]>, _>("rerun_of")? {
            Some(bytes) => Some(bytes.try_into().map_err(|_| damaged())?),
            None => None,
        },
        title: row.try_get("title")?,
        argv: record::words_of(row.try_get("argv")?).ok_or_else(damaged)?,
        targets: TargetsDigest { root, count: row.try_get("length")? },
        counts: record::counts_of(row.try_get("counts")?).ok_or_else(damaged)?,
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
        done_at: row.try_get::<Option<i64>, _>("done_at")?.map(Timestamp::from_millis),
    })
}

/// The id in a row's column `job`.
pub(crate) fn job_of(row: &SqliteRow) -> Result<JobId, StoreError> {
    let bytes = row.try_get::<&[u8], _>("job")?;
    bytes.try_into().map_err(|_| StoreError::Damaged("a job's id".into()))
}

/// Databases count in `i64`; no `seq` ever comes near its end.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Reads [`signed`].
pub(crate) fn unsigned(row: &SqliteRow, column: &str) -> Result<u64, StoreError> {
    let number = row.try_get::<i64, _>(column)?;
    number.try_into().map_err(|_| StoreError::Damaged(format!("{column} of a job")))
}
