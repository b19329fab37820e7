//! Questions that people ask of the history: which job is meant, and what happened on one of its targets.

use crate::jobs::job_of;
use crate::{Store, StoreError};
use bytes::Bytes;
use muster_proto::event::{Event, EventKind};
use muster_proto::id::JobId;
use muster_proto::name::OperatorName;

/// Events read at a time while most of them are passed over.
const READ_BYTES: usize = 8 << 20;

impl Store {
    /// The first `limit` jobs whose ids are in this range, both ends included, in their order.
    pub async fn jobs_between(&self, first: JobId, last: JobId, limit: u32) -> Result<Vec<JobId>, StoreError> {
        let rows = sqlx::query("SELECT job FROM jobs WHERE job BETWEEN $1 AND $2 ORDER BY job LIMIT $3")
            .bind(&first.as_bytes()[..])
            .bind(&last.as_bytes()[..])
            .bind(limit)
            .fetch_all(&self.inner.readers)
            .await?;
        rows.iter().map(job_of).collect()
    }

    /// The job that this operator submitted last.
    pub async fn newest_job_of(&self, operator: &OperatorName) -> Result<Option<JobId>, StoreError> {
        let sql = "SELECT j.job FROM jobs j JOIN job_specs s ON s.job = j.job WHERE operator = $1 \
                   ORDER BY accepted_at DESC, j.job DESC LIMIT 1";
        let row = sqlx::query(sql).bind(operator.as_str()).fetch_optional(&self.inner.readers).await?;
        row.as_ref().map(job_of).transpose()
    }

    /// What happened on one target of a job, and to the job as a whole, in order. Output is left out: each piece has no
    /// bytes here, and beside it stands how many it has.
    pub async fn story(&self, job: JobId, target: u32) -> Result<Vec<(Event, u64)>, StoreError> {
        let (mut story, mut after) = (Vec::new(), 0);
        loop {
            let found = self.stored(job, after, READ_BYTES).await?;
            let Some(last) = found.last() else { return Ok(story) };
            after = last.event.seq;
            for stored in found {
                if stored.event.kind.target().is_some_and(|its| its != target) {
                    continue;
                }
                let bytes = stored.output_bytes() as u64;
                let mut event = stored.event;
                if let EventKind::Output { data, .. } = &mut event.kind {
                    *data = Bytes::new();
                }
                story.push((event, bytes));
            }
        }
    }
}
