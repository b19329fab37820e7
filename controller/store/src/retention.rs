//! What is forgotten, and how: jobs that are done, oldest first, with all that is theirs, and what schedules found.
//!
//! A job goes in steps, so that nobody who writes waits long and a crash between any two leaves only what the next prune
//! takes up: its row becomes a tombstone (from then on nobody finds it), then its events go a few at a time, then its
//! file, then blobs that no other job names. The tombstone stays for ever, at some tens of bytes: an agent may come back
//! with a result of the job after any time and has to hear that it was taken. The audit log is never touched.
//!
//! Pages that become free are used again; once they are more than a quarter of the database it is made smaller.

use crate::events::blocking;
use crate::jobs::{job_of, signed, unsigned};
use crate::writer::Change;
use crate::{Store, StoreError};
use muster_proto::id::JobId;
use muster_proto::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Jobs that become tombstones in one transaction, and blocks of events or blobs that go in one.
const STEP_JOBS: usize = 16;
const STEP_BLOCKS: i64 = 128;
const STEP_BLOBS: usize = 256;
/// Pages of 4 KiB given back in one transaction.
const STEP_PAGES: u64 = 512;
/// A file that belongs to no job may belong to one that is about to be: this old it does not.
const ORPHAN_AGE: Duration = Duration::from_hours(1);

/// What is kept of the jobs that are done. By default everything; each limit counts by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Since they were done. What schedules found is kept as long.
    pub age: Option<Duration>,
    /// So many jobs in all, those included that are not done.
    pub jobs: Option<u64>,
    /// So many bytes of jobs that are done: records, output, and the blobs that no other job names. What cannot be
    /// removed, like jobs that are not done, takes nothing from them.
    pub bytes: Option<u64>,
}

/// What a prune removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// How many jobs.
    pub jobs: u64,
    /// About how many bytes they had. Blobs that are young go with a later prune.
    pub bytes: u64,
}

/// How much the store has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Bytes in use in the database.
    pub database: u64,
    /// Bytes of output beside it.
    pub output: u64,
    /// Bytes of stdin and scripts.
    pub blobs: u64,
    /// Number of jobs.
    pub jobs: u64,
}

impl Size {
    /// All of it.
    pub const fn bytes(self) -> u64 {
        self.database.saturating_add(self.output).saturating_add(self.blobs)
    }
}

impl Store {
    /// Removes jobs that are done until the rest is within `keep`, and what a crash or an upload that came to nothing
    /// left lying. Everything else goes on meanwhile. What it removed before an error stays removed.
    pub async fn prune(&self, keep: Retention, now: Timestamp) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        let blobs = self.blob_files().await?;
        let excess = match keep.bytes {
            // Most often there is nothing to add up.
            Some(limit) if self.size().await?.bytes() > limit => self.removable(&blobs).await?.saturating_sub(limit),
            _ => 0,
        };
        loop {
            // Counted once: what does not become less as jobs go is no reason for more of them to go.
            let excess = excess.saturating_sub(pruned.bytes);
            let buried = self.inner.writer.write(Bury { keep, excess, blobs: Arc::clone(&blobs), now }).await?;
            pruned.jobs += buried.jobs.len() as u64;
            pruned.bytes += buried.bytes;
            self.sweep_events().await?;
            for job in &buried.jobs {
                self.inner.outputs.remove(*job).await?;
            }
            if buried.jobs.is_empty() {
                break;
            }
        }
        self.sweep_outputs(now).await?;
        self.sweep_blobs(&blobs, now).await?;
        self.sweep_pings(keep.age.map(|age| before(now, age))).await?;
        while self.inner.writer.write(Shrink).await? {}
        Ok(pruned)
    }

    /// How much there is.
    pub async fn size(&self) -> Result<Size, StoreError> {
        let sql = "SELECT (SELECT COUNT(*) FROM jobs) AS jobs, (SELECT COALESCE(SUM(output_bytes), 0) FROM jobs) AS output, \
                   (page_count - freelist_count) * page_size AS database \
                   FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()";
        let row = sqlx::query(sql).fetch_one(&self.inner.readers).await?;
        let blobs = self.blob_files().await?.values().map(|file| file.bytes).sum();
        let number = |column| unsigned(&row, column);
        Ok(Size { database: number("database")?, output: number("output")?, blobs, jobs: number("jobs")? })
    }

    /// Whether there was such a job and it was removed.
    pub async fn was_pruned(&self, job: JobId) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT 1 FROM pruned WHERE job = $1").bind(&job.as_bytes()[..]);
        Ok(found.fetch_optional(&self.inner.readers).await?.is_some())
    }

    async fn blob_files(&self) -> Result<Arc<BlobFiles>, StoreError> {
        Ok(Arc::new(self.inner.blobs.list().await?.into_iter().collect()))
    }

    /// How many bytes would go with all jobs that are done; what [`Bury`] counts for each adds up to this.
    async fn removable(&self, blobs: &BlobFiles) -> Result<u64, StoreError> {
        let sql = "SELECT COALESCE(SUM(bytes), 0) AS bytes FROM done_jobs";
        let row = sqlx::query(sql).fetch_one(&self.inner.readers).await?;
        let sql = "SELECT digest FROM job_blobs b JOIN jobs j ON j.job = b.job \
                   GROUP BY digest HAVING COUNT(*) = COUNT(done_at)";
        let digests = sqlx::query(sql).fetch_all(&self.inner.readers).await?;
        let sizes = digests.iter().map(|row| size_of(blobs, row)).sum::<Result<u64, _>>()?;
        Ok(unsigned(&row, "bytes")? + sizes)
    }

    async fn sweep_events(&self) -> Result<(), StoreError> {
        while self.inner.writer.write(SweepEvents).await? {
            // Whoever waits to write is next.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Files of jobs that are not there.
    async fn sweep_outputs(&self, now: Timestamp) -> Result<(), StoreError> {
        let files = self.inner.outputs.list().await?;
        let rows = sqlx::query("SELECT job FROM jobs").fetch_all(&self.inner.readers).await?;
        let jobs = rows.iter().map(job_of).collect::<Result<HashSet<_>, _>>()?;
        for (job, file) in files {
            if !jobs.contains(&job) && file.is_orphan(now) {
                self.inner.outputs.remove(job).await?;
            }
        }
        Ok(())
    }

    /// Those of these blobs that no job names.
    async fn sweep_blobs(&self, blobs: &BlobFiles, now: Timestamp) -> Result<(), StoreError> {
        let old: Vec<_> = blobs.iter().filter(|(_, file)| file.is_orphan(now)).map(|(digest, _)| *digest).collect();
        for some in old.chunks(STEP_BLOBS) {
            let blobs = some.iter().map(|digest| (*digest, self.inner.blobs.path(digest)));
            self.inner.writer.write(SweepBlobs { blobs: blobs.collect() }).await?;
        }
        Ok(())
    }
}

/// What there is to know of a file that may belong to nobody.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileInfo {
    pub bytes: u64,
    pub written_at: Timestamp,
}

/// The files in a directory whose names say what they are.
pub(crate) async fn list<N: Send + 'static>(
    dir: PathBuf,
    read: impl Fn(&str) -> Option<N> + Send + 'static,
) -> io::Result<Vec<(N, FileInfo)>> {
    blocking(move || {
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str().and_then(&read)
                // Whatever goes away meanwhile need not be listed.
                && let Ok(file) = entry.metadata()
            {
                found.push((name, FileInfo { bytes: file.len(), written_at: file.modified()?.into() }));
            }
        }
        Ok(found)
    })
    .await
}

impl FileInfo {
    fn is_orphan(self, now: Timestamp) -> bool {
        self.written_at.until(now) > ORPHAN_AGE
    }
}

/// The blobs that were there when a prune began, by their digests.
type BlobFiles = HashMap<[u8; 32], FileInfo>;

/// The size of the blob that a row names; 0 for one that came since.
fn size_of(blobs: &BlobFiles, row: &SqliteRow) -> Result<u64, StoreError> {
    Ok(blobs.get(row.try_get::<&[u8], _>("digest")?).map_or(0, |file| file.bytes))
}

/// Some jobs become tombstones.
struct Bury {
    keep: Retention,
    /// Bytes above the limit.
    excess: u64,
    blobs: Arc<BlobFiles>,
    now: Timestamp,
}

#[derive(Default)]
struct Buried {
    jobs: Vec<JobId>,
    bytes: u64,
}

impl Change for Bury {
    type Answer = Buried;
    type Error = StoreError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<Buried, StoreError> {
        let count = sqlx::query("SELECT COUNT(*) AS jobs FROM jobs").fetch_one(&mut *db).await?;
        let count = unsigned(&count, "jobs")?;
        let mut too_many = self.keep.jobs.map_or(0, |limit| count.saturating_sub(limit));
        let sql = "SELECT job, done_at, bytes FROM done_jobs ORDER BY done_at, job LIMIT $1";
        let oldest = sqlx::query(sql).bind(STEP_JOBS as i64).fetch_all(&mut *db).await?;
        let mut buried = Buried::default();
        for row in oldest {
            let done_at: i64 = row.try_get("done_at")?;
            let too_old = self.keep.age.is_some_and(|age| done_at < before(self.now, age));
            if !too_old && too_many == 0 && buried.bytes >= self.excess {
                break;
            }
            let job = job_of(&row)?;
            let tombstone = sqlx::query("INSERT INTO pruned (job, pruned_at, rest) VALUES ($1, $2, 1)");
            tombstone.bind(&job.as_bytes()[..]).bind(self.now.as_millis()).execute(&mut *db).await?;
            let sql = "SELECT digest FROM job_blobs b WHERE job = $1 AND NOT EXISTS \
                       (SELECT 1 FROM job_blobs o WHERE o.digest = b.digest AND o.job != b.job)";
            for own in sqlx::query(sql).bind(&job.as_bytes()[..]).fetch_all(&mut *db).await? {
                buried.bytes += size_of(&self.blobs, &own)?;
            }
            // What refers to it goes with it; its events refer to nothing.
            let row_of = sqlx::query("DELETE FROM jobs WHERE job = $1").bind(&job.as_bytes()[..]);
            row_of.execute(&mut *db).await?;
            too_many = too_many.saturating_sub(1);
            buried.bytes += unsigned(&row, "bytes")?;
            buried.jobs.push(job);
        }
        Ok(buried)
    }
}

/// The moment so long ago, as it is stored.
fn before(now: Timestamp, span: Duration) -> i64 {
    now.as_millis().saturating_sub(signed(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

/// Some events of a tombstone go, the last ones first, so that who reads them finds an end and no hole. Whether there
/// may be more.
struct SweepEvents;

impl Change for SweepEvents {
    type Answer = bool;
    type Error = StoreError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<bool, StoreError> {
        let next = sqlx::query("SELECT job FROM pruned WHERE rest = 1 LIMIT 1").fetch_optional(&mut *db).await?;
        let Some(job) = next.as_ref().map(job_of).transpose()? else { return Ok(false) };
        let sql = "DELETE FROM event_blocks WHERE job = $1 AND last_seq IN \
                   (SELECT last_seq FROM event_blocks WHERE job = $1 ORDER BY last_seq DESC LIMIT $2)";
        let gone = sqlx::query(sql).bind(&job.as_bytes()[..]).bind(STEP_BLOCKS).execute(&mut *db).await?;
        if gone.rows_affected() == 0 {
            let done = sqlx::query("UPDATE pruned SET rest = 0 WHERE job = $1").bind(&job.as_bytes()[..]);
            done.execute(db).await?;
        }
        Ok(true)
    }
}

/// Removes those of these files that no job names. The writer does it, which accepts jobs as well: between the look and
/// the removal nobody can come to need one.
struct SweepBlobs {
    blobs: Vec<([u8; 32], PathBuf)>,
}

impl Change for SweepBlobs {
    type Answer = ();
    type Error = StoreError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        for (digest, path) in &self.blobs {
            let named = sqlx::query("SELECT 1 FROM job_blobs WHERE digest = $1").bind(&digest[..]);
            if named.fetch_optional(&mut *db).await?.is_none() {
                removed(tokio::fs::remove_file(path).await)?;
            }
        }
        Ok(())
    }
}

/// What is gone already is gone as well.
pub(crate) fn removed(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Gives some free pages back to the disk, if there are many. Whether there are still too many. Only SQLite needs this.
struct Shrink;

impl Change for Shrink {
    type Answer = bool;
    type Error = StoreError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<bool, StoreError> {
        let sql = "SELECT page_count, freelist_count FROM pragma_page_count(), pragma_freelist_count()";
        let row = sqlx::query(sql).fetch_one(&mut *db).await?;
        let (pages, free) = (unsigned(&row, "page_count")?, unsigned(&row, "freelist_count")?);
        if free <= pages / 4 || free < STEP_PAGES {
            return Ok(false);
        }
        sqlx::query("PRAGMA incremental_vacuum(512)").execute(db).await?;
        Ok(true)
    }
}
