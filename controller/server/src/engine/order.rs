//! What operators want of jobs at work. Each order is durable, with its audit record, before they are told so.

use super::running::Input;
use super::{Engine, EngineError};
use muster_core::job;
use muster_proto::id::JobId;
use muster_proto::job::JobState;
use muster_proto::name::OperatorName;
use muster_proto::time::Timestamp;
use muster_store::AuditEntry;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long an order may take to become durable before the operator is told that it waits.
const DURABLE_MAX: Duration = Duration::from_secs(10);

/// What an operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Offer nothing more for now.
    Pause,
    /// Go on.
    Resume,
    /// End it.
    Cancel,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// It is so from now on, and durable.
    Now,
    /// It was so before.
    Already,
    /// The job was over.
    JobDone,
}

/// What the job itself makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obeyed {
    /// It changed something.
    Now,
    /// It changed nothing.
    Already,
    /// It is not possible, and why.
    No(&'static str),
}

impl Order {
    /// The fact for the machine.
    pub(super) fn fact(self, operator: OperatorName) -> job::Input {
        match self {
            Self::Pause => job::Input::Pause { operator },
            Self::Resume => job::Input::Resume { operator },
            Self::Cancel => job::Input::Cancel { operator },
        }
    }

    /// The record of it.
    pub(super) fn record(self, job: JobId, operator: &OperatorName, at: Timestamp) -> AuditEntry {
        let action = match self {
            Self::Pause => "job.pause",
            Self::Resume => "job.resume",
            Self::Cancel => "job.cancel",
        };
        let actor = format!("operator/{operator}");
        AuditEntry { at, actor, action: action.to_owned(), detail: job.to_string() }
    }
}

impl Engine {
    /// Has a job obey. Returns once that is durable.
    pub async fn order(&self, job: JobId, operator: OperatorName, order: Order) -> Result<Ordered, EngineError> {
        if let Some(handle) = self.handle(job) {
            let (answer, obeyed) = oneshot::channel();
            let asked = async {
                handle.inputs.send(Input::Order { order, operator, answer }).await.ok()?;
                obeyed.await.ok()
            };
            match timeout(DURABLE_MAX, asked).await {
                Ok(Some(Obeyed::Now)) => return Ok(Ordered::Now),
                Ok(Some(Obeyed::Already)) => return Ok(Ordered::Already),
                Ok(Some(Obeyed::No(why))) => return Err(EngineError::NotPausable(job, why)),
                // It has ended meanwhile.
                Ok(None) => {}
                Err(_) => return Err(EngineError::Waiting(job)),
            }
        }
        match self.store.job(job).await? {
            Some(stored) if stored.summary.state == JobState::Done => Ok(Ordered::JobDone),
            Some(_) => Err(EngineError::Stopped(job)),
            None => Err(EngineError::NoSuchJob(job)),
        }
    }
}
