//! Whether everything in a store is as it was written: slow, thorough, and without changing anything.
//!
//! Opening a store looks at what can be looked at at once ([`crate::Store::open`]). This reads every byte: the database's
//! own structure, each job's list against its signed root, its events one by one against each other and against where
//! the job says it stands, their output, stdin and scripts against their digests, what schedules found, and the audit
//! chain.

use crate::events::blocking;
use crate::jobs::{job_of, unsigned};
use crate::{AuditError, OpenError, Store, StoreError, StoredJob};
use muster_proto::event::{Event, EventKind};
use muster_proto::id::JobId;
use muster_proto::job::JobState;
use muster_proto::outcome::Counts;
use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;

/// More would not help anybody.
const FINDINGS_MAX: usize = 1_000;
/// Events read at a time.
const READ_BYTES: usize = 4 << 20;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What is wrong, a line each; up to 1,000.
    pub findings: Vec<String>,
    /// What a crash may leave and the next prune removes, a line each.
    pub notes: Vec<String>,
    /// Jobs looked at.
    pub jobs: u64,
    /// Events of theirs.
    pub events: u64,
    /// Records of the audit log.
    pub audit: u64,
}

/// Looks at everything in the state directory's store, which nobody else may have open. Damage is what is reported; an
/// error says that nothing could be looked at.
pub async fn check(dir: &Path) -> Result<Report, OpenError> {
    let mut report = Report::default();
    let database = dir.join("muster.db");
    if !database.exists() {
        return Err(OpenError::Damaged { path: database, detail: "it is missing".into() });
    }
    let store = match Store::open(dir).await {
        Ok(store) => store,
        Err(error @ OpenError::Damaged { .. }) => {
            report.add(error.to_string());
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    if let Err(error) = store.look(&mut report).await {
        report.add(error.to_string());
    }
    store.close().await;
    Ok(report)
}

impl Report {
    fn add(&mut self, finding: impl Into<String>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding.into());
        }
    }
}

impl Store {
    async fn look(&self, report: &mut Report) -> Result<(), StoreError> {
        self.look_at_structure(report).await?;
        let rows = sqlx::query("SELECT job FROM jobs ORDER BY job").fetch_all(&self.inner.readers).await?;
        let jobs = rows.iter().map(job_of).collect::<Result<Vec<_>, _>>()?;
        for job in &jobs {
            report.jobs += 1;
            if let Err(error) = self.look_at_job(*job, report).await {
                report.add(error.to_string());
            }
        }
        self.look_at_files(&jobs.into_iter().collect(), report).await?;
        let lists = [self.agents().await.err(), self.operators().await.err(), self.groups().await.err()];
        for error in lists.into_iter().flatten() {
            report.add(error.to_string());
        }
        self.look_at_schedules().await?.into_iter().for_each(|finding| report.add(finding));
        match self.verify_audit().await {
            Ok(records) => report.audit = records,
            Err(error @ AuditError::Altered { .. }) => report.add(error.to_string()),
            Err(AuditError::Store(error)) => return Err(error),
        }
        Ok(())
    }

    /// The database as such, and references between its tables.
    async fn look_at_structure(&self, report: &mut Report) -> Result<(), StoreError> {
        for row in sqlx::query("PRAGMA integrity_check").fetch_all(&self.inner.readers).await? {
            match row.try_get::<&str, _>(0)? {
                "ok" => {}
                damage => report.add(format!("the database: {damage}")),
            }
        }
        for row in sqlx::query("PRAGMA foreign_key_check").fetch_all(&self.inner.readers).await? {
            report.add(format!("a row of {} belongs to no job", row.try_get::<&str, _>(0)?));
        }
        let sql = "SELECT DISTINCT job FROM event_blocks WHERE job NOT IN (SELECT job FROM jobs) \
                   AND job NOT IN (SELECT job FROM pruned WHERE rest = 1)";
        for row in sqlx::query(sql).fetch_all(&self.inner.readers).await? {
            report.add(format!("there are events of a job {} that is not there", job_of(&row)?));
        }
        Ok(())
    }

    async fn look_at_job(&self, job: JobId, report: &mut Report) -> Result<(), StoreError> {
        let Some(stored) = self.job(job).await? else {
            report.add(format!("job {job}: what was signed is missing"));
            return Ok(());
        };
        let root = stored.targets.tree().map(|tree| tree.root());
        if root != Some(stored.spec.targets.root) || stored.spec.targets != stored.summary.targets {
            report.add(format!("job {job}: its list is not the one that was signed"));
        }
        let row = sqlx::query("SELECT output_bytes FROM jobs WHERE job = $1").bind(&job.as_bytes()[..]);
        let output_bytes = unsigned(&row.fetch_one(&self.inner.readers).await?, "output_bytes")?;
        let mut story = Story::of(&stored);
        loop {
            let found = self.stored(job, story.seq, READ_BYTES).await?;
            let ends = found.iter().filter_map(|event| event.place).map(|place| place.offset + u64::from(place.stored));
            if ends.max().is_some_and(|end| end > output_bytes) {
                report.add(format!("job {job}: events refer to output beyond its end"));
            }
            if found.is_empty() {
                break;
            }
            let events = self.with_output(job, found).await?;
            report.events += events.len() as u64;
            events.iter().for_each(|event| story.take(event, report));
        }
        story.end(&stored, report);
        Ok(())
    }

    /// What lies beside the database.
    async fn look_at_files(&self, jobs: &HashSet<JobId>, report: &mut Report) -> Result<(), StoreError> {
        for (job, _) in self.inner.outputs.list().await? {
            if !jobs.contains(&job) {
                report.notes.push(format!("output/{job} belongs to no job"));
            }
        }
        let rows = sqlx::query("SELECT DISTINCT digest FROM job_blobs").fetch_all(&self.inner.readers).await?;
        let mut wanted = HashSet::new();
        for row in &rows {
            let digest: Result<[u8; 32], _> = row.try_get::<&[u8], _>("digest")?.try_into();
            wanted.insert(digest.map_err(|_| StoreError::Damaged("a blob's digest".into()))?);
        }
        for (digest, _) in self.inner.blobs.list().await? {
            let path = self.inner.blobs.path(&digest);
            let file = path.clone();
            if blocking(move || digest_of(&file)).await? != digest {
                report.add(format!("{} is not what its name says", path.display()));
            }
            if !wanted.remove(&digest) {
                report.notes.push(format!("{} belongs to no job", path.display()));
            }
        }
        for digest in wanted {
            report.add(format!("{} is missing, and jobs name it", self.inner.blobs.path(&digest).display()));
        }
        Ok(())
    }
}

fn digest_of(path: &Path) -> io::Result<[u8; 32]> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            length => hash.update(&buffer[..length]),
        }
    }
}

/// A job's events as they follow each other.
struct Story {
    job: JobId,
    seq: u64,
    finished: Vec<bool>,
    counts: Counts,
    done: bool,
}

impl Story {
    fn of(stored: &StoredJob) -> Self {
        let finished = vec![false; stored.targets.count()];
        Self { job: stored.spec.job, seq: 0, finished, counts: Counts::default(), done: false }
    }

    fn take(&mut self, event: &Event, report: &mut Report) {
        let Self { job, seq, .. } = *self;
        self.seq = event.seq;
        if self.done {
            report.add(format!("job {job}: event {} comes after its end", event.seq));
        }
        if event.seq != seq + 1 {
            report.add(format!("job {job}: events are missing after {seq}"));
        }
        match &event.kind {
            EventKind::Finished { target, outcome } => match self.finished.get_mut(*target as usize) {
                Some(finished) if !*finished => {
                    *finished = true;
                    self.counts.add(outcome.state);
                }
                Some(_) => report.add(format!("job {job}: target {target} ends twice, at event {}", event.seq)),
                None => report.add(format!("job {job}: event {} names a target that is not in its list", event.seq)),
            },
            EventKind::Done { counts } => {
                self.done = true;
                if *counts != self.counts {
                    report.add(format!("job {job}: its end says {counts:?}, its events {:?}", self.counts));
                }
            }
            _ => {}
        }
    }

    fn end(self, stored: &StoredJob, report: &mut Report) {
        let Self { job, .. } = self;
        if self.seq != stored.last_seq {
            report.add(format!("job {job}: it has {} events and should have {}", self.seq, stored.last_seq));
        }
        if self.counts != stored.summary.counts {
            report.add(format!("job {job}: it says {:?}, its events {:?}", stored.summary.counts, self.counts));
        }
        let is_done = stored.summary.state == JobState::Done;
        if is_done != self.done || (is_done && self.finished.contains(&false)) {
            report.add(format!("job {job}: it is {}, but not by its events", stored.summary.state.as_str()));
        }
    }
}
