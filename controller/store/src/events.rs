//! What happened in jobs: events in blocks, and what became known of tasks too late.
//!
//! A job's task in the engine is its only writer and gives events their `seq`; the store holds it to that: events go
//! on exactly where the job stands, or nothing is written.

use crate::audit;
use crate::jobs::{signed, unsigned};
use crate::output::Packed;
use crate::record::{self, Block, StoredEvent};
use crate::writer::Change;
use crate::{Store, StoreError};
use bytes::Bytes;
use muster_proto::audit::AuditEntry;
use muster_proto::event::{Event, EventKind};
use muster_proto::id::{Attempt, JobId, TaskId};
use muster_proto::job::JobState;
use muster_proto::outcome::Counts;
use muster_proto::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};
use std::io;

/// Blocks read at a time: most hold one small append, none much more than 256 KiB, so this bounds a reader's memory.
const READ_BLOCKS: usize = 16;
/// What an outline leaves out counts as well: this many bytes of output are 4,096 frames of the largest kind.
const OUTLINE_BYTES: usize = 256 << 20;

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

impl Store {
    /// Takes what happened next in a job. [`StoreError::Conflict`] if it does not continue where the job stands.
    pub async fn append(&self, append: Append) -> Result<(), StoreError> {
        let entries = self.entries(append.job, &append.events).await?;
        self.inner.writer.write(Appending { append, entries }).await
    }

    /// Consecutive events after `after_seq`, in order: about `max_bytes` of them, at least one if there is any, none
    /// at the end.
    pub async fn events(&self, job: JobId, after_seq: u64, max_bytes: usize) -> Result<Vec<Event>, StoreError> {
        let found = self.stored(job, after_seq, max_bytes).await?;
        match self.with_output(job, found).await {
            // The job was pruned while it was read.
            Err(StoreError::Damaged(_)) if self.was_pruned(job).await? => Ok(Vec::new()),
            result => result,
        }
    }

    /// As [`Store::events`], with zeros in place of the output: all that a job needs to be replayed, however much it
    /// wrote, so that it stands where it stood.
    pub async fn outline(&self, job: JobId, after_seq: u64) -> Result<Vec<Event>, StoreError> {
        let found = self.stored(job, after_seq, OUTLINE_BYTES).await?;
        Ok(found.into_iter().map(StoredEvent::outline).collect())
    }

    pub(crate) async fn stored(
        &self,
        job: JobId,
        after_seq: u64,
        max_bytes: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let sql = "SELECT first_seq, last_seq, output_at, body FROM event_blocks \
                   WHERE job = $1 AND last_seq > $2 ORDER BY last_seq LIMIT $3";
        let (mut found, mut bytes, mut after): (Vec<StoredEvent>, usize, u64) = (Vec::new(), 0, after_seq);
        'enough: loop {
            let query = sqlx::query(sql).bind(&job.as_bytes()[..]).bind(signed(after)).bind(READ_BLOCKS as i64);
            let rows = query.fetch_all(&self.inner.readers).await?;
            for row in &rows {
                let body = Bytes::from(row.try_get::<Vec<u8>, _>("body")?);
                if unsigned(row, "first_seq")? > after.saturating_add(1) {
                    return Err(StoreError::Damaged(format!("the events of job {job}")));
                }
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

    /// Keeps what became known of a task of a job that is done; for others it is part of [`Append`].
    pub async fn late_evidence(&self, late: LateEvidence) -> Result<(), StoreError> {
        self.inner.writer.write(late).await
    }

    /// What became known of a job's tasks too late, oldest first.
    pub async fn late_evidence_of(&self, job: JobId) -> Result<Vec<LateEvidence>, StoreError> {
        let sql = "SELECT target, attempt, at, text FROM late_evidence WHERE job = $1 ORDER BY at, target, attempt";
        let rows = sqlx::query(sql).bind(&job.as_bytes()[..]).fetch_all(&self.inner.readers).await?;
        let read = |row: &SqliteRow| {
            let task = TaskId { job, target: row.try_get("target")?, attempt: Attempt(row.try_get("attempt")?) };
            Ok(LateEvidence { task, text: row.try_get("text")?, at: Timestamp::from_millis(row.try_get("at")?) })
        };
        rows.iter().map(read).collect()
    }

    /// Events in stored form, with what goes to the job's file.
    pub(crate) async fn entries(&self, job: JobId, events: &[Event]) -> Result<Entries, StoreError> {
        if events.windows(2).any(|pair| pair[0].seq.checked_add(1) != Some(pair[1].seq)) {
            return Err(StoreError::Conflict(job));
        }
        let large = record::large_output(events);
        if large.is_empty() {
            return Ok(Entries { blocks: record::pack(events, &[]), output: None });
        }
        let outputs = self.inner.outputs.clone();
        let file = blocking(move || outputs.lock(job)).await?;
        let at = self.output_end(job, events).await?;
        let output = blocking(move || Packed::put(file, at, &large)).await?;
        Ok(Entries { blocks: record::pack(events, &output.places), output: Some(output) })
    }

    /// Where the output of these events goes. What would be refused anyway leaves no trace in the file.
    async fn output_end(&self, job: JobId, events: &[Event]) -> Result<u64, StoreError> {
        let sql = "SELECT last_seq, output_bytes FROM jobs WHERE job = $1";
        let row = sqlx::query(sql).bind(&job.as_bytes()[..]).fetch_optional(&self.inner.readers).await?;
        let (last_seq, end) = match row {
            Some(row) => (unsigned(&row, "last_seq")?, unsigned(&row, "output_bytes")?),
            None => (0, 0),
        };
        let continues = events.first().is_some_and(|event| event.seq == last_seq + 1);
        if continues { Ok(end) } else { Err(StoreError::Conflict(job)) }
    }

    /// Fetches the output that lies in the job's file.
    pub(crate) async fn with_output(&self, job: JobId, mut found: Vec<StoredEvent>) -> Result<Vec<Event>, StoreError> {
        let places: Vec<_> = found.iter().filter_map(|event| event.place).collect();
        if !places.is_empty() {
            let outputs = self.inner.outputs.clone();
            let pieces = blocking(move || outputs.read(job, &places)).await.map_err(|error| match error.kind() {
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

/// Does what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Events on their way into the database.
pub(crate) struct Entries {
    blocks: Vec<Block>,
    output: Option<Packed>,
}

impl Entries {
    pub(crate) fn last_seq(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.last_seq)
    }

    /// Bytes that the job's file grows by.
    pub(crate) fn output_len(&self) -> u64 {
        self.output.as_ref().map_or(0, |output| output.len)
    }

    /// Writes them.
    pub(crate) async fn insert(&self, db: &mut SqliteConnection, job: JobId) -> Result<(), StoreError> {
        let output_at = self.output.as_ref().map_or(0, |output| output.at);
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

/// The change of a job's row by an append, with more columns.
macro_rules! appended {
    ($more:literal) => {
        concat!(
            "UPDATE jobs SET state = $1, counts = $2, last_seq = last_seq + $3, output_bytes = output_bytes + $6",
            $more,
            " WHERE job = $4 AND done_at IS NULL AND (last_seq = $5 OR $5 = -1)"
        )
    };
}

struct Appending {
    append: Append,
    entries: Entries,
}

impl Change for Appending {
    type Answer = ();
    type Error = StoreError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        let Append { job, events, state, counts, done_at, audit, late } = &self.append;
        // -1 where there are no events: then any `last_seq` will do, and stays.
        let expected = events.first().map_or(-1, |event| signed(event.seq.saturating_sub(1)));
        // Where it is not needed `done_at` is not named: its indexes would be written anew each time.
        let sql = if done_at.is_some() { appended!(", done_at = $7") } else { appended!("") };
        let mut update = sqlx::query(sql)
            .bind(state.as_str())
            .bind(record::counts_to_bytes(counts))
            .bind(signed(events.len() as u64))
            .bind(&job.as_bytes()[..])
            .bind(expected)
            .bind(signed(self.entries.output_len()));
        if let Some(done_at) = done_at {
            update = update.bind(done_at.as_millis());
        }
        let updated = update.execute(&mut *db).await?;
        if updated.rows_affected() == 0 {
            return Err(StoreError::Conflict(*job));
        }
        self.entries.insert(db, *job).await?;
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
            .bind(self.task.attempt.0)
            .bind(self.at.as_millis())
            .bind(&self.text)
            .execute(db)
            .await?;
        Ok(())
    }
}
