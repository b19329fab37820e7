//! What the command line asks of jobs at work: to hold, to go on, to end, and whom they wait for.

use super::{Client, ClientError, bytes_of};
use muster_proto::id::JobId;
use muster_proto::job::QueuedTask;
use muster_proto::name::OperatorName;
use muster_proto::text;
use muster_proto::time::Timestamp;
use muster_proto::wire;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// It is now as was asked.
    Now,
    /// It was so before.
    Already,
}

/// What became of a request to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// The job is being ended.
    Accepted,
    /// It was over before the cancel came.
    AlreadyDone,
}

/// Why a job hands out nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Who wanted it; the controller by itself if nobody.
    pub operator: Option<OperatorName>,
    /// Why: one line.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

impl Pause {
    pub(super) fn read(paused: &wire::PausedEvent, since_ms: i64) -> Self {
        Self {
            operator: paused.operator.parse().ok(),
            reason: text::line(&paused.reason),
            since: Timestamp::from_millis(since_ms),
        }
    }
}

/// Targets that wait for their agents while nobody waits for them.
pub struct Queue {
    /// Those that are given up first come first; at most 100,000.
    pub tasks: Vec<QueuedTask>,
    /// All that wait.
    pub total: u32,
}

impl Client {
    /// Has a job offer nothing more until it is resumed.
    pub async fn pause(&self, job: JobId) -> Result<Turned, ClientError> {
        let request = wire::PauseRequest { job: bytes_of(job.as_bytes()) };
        let reply = self.reply(self.service.clone().pause(request).await)?;
        Ok(if reply.already_paused { Turned::Already } else { Turned::Now })
    }

    /// Has it go on.
    pub async fn resume(&self, job: JobId) -> Result<Turned, ClientError> {
        let request = wire::ResumeRequest { job: bytes_of(job.as_bytes()) };
        let reply = self.reply(self.service.clone().resume(request).await)?;
        Ok(if reply.not_paused { Turned::Already } else { Turned::Now })
    }

    /// Ends a job: what has not started never will, what runs is killed.
    pub async fn cancel(&self, job: JobId) -> Result<Cancelled, ClientError> {
        let request = wire::CancelRequest { job: bytes_of(job.as_bytes()) };
        let reply = self.reply(self.service.clone().cancel(request).await)?;
        Ok(if reply.already_done { Cancelled::AlreadyDone } else { Cancelled::Accepted })
    }

    /// Who is queued, of all jobs.
    pub async fn queue(&self) -> Result<Queue, ClientError> {
        let reply = self.reply(self.service.clone().list_queue(wire::ListQueueRequest {}).await)?;
        Ok(Queue { tasks: self.read_all(reply.tasks)?, total: reply.total })
    }
}
