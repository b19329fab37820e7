//! How a job goes over its targets, and which of them wait.

use super::{WireError, bytes_of, id_of, millis, parsed};
use crate::job::QueuedTask;
use crate::rollout::{MaxFail, Offline};
use crate::text;
use crate::time::Timestamp;
use crate::wire;
use std::time::Duration;

impl From<MaxFail> for wire::job_payload::MaxFail {
    fn from(max_fail: MaxFail) -> Self {
        match max_fail {
            MaxFail::Hosts(hosts) => Self::MaxFailHosts(hosts),
            MaxFail::Percent(percent) => Self::MaxFailPercent(percent),
        }
    }
}

impl From<wire::job_payload::MaxFail> for MaxFail {
    fn from(max_fail: wire::job_payload::MaxFail) -> Self {
        match max_fail {
            wire::job_payload::MaxFail::MaxFailHosts(hosts) => Self::Hosts(hosts),
            wire::job_payload::MaxFail::MaxFailPercent(percent) => Self::Percent(percent),
        }
    }
}

impl From<Offline> for Option<wire::Offline> {
    fn from(offline: Offline) -> Self {
        use wire::offline::Kind;
        let kind = match offline {
            Offline::Window => return None,
            Offline::Skip => Kind::Skip(true),
            Offline::Wait(span) => Kind::WaitMs(millis(span)),
            Offline::Queue(span) => Kind::QueueMs(millis(span)),
        };
        Some(wire::Offline { kind: Some(kind) })
    }
}

pub(super) fn offline_of(offline: Option<wire::Offline>) -> Result<Offline, WireError> {
    use wire::offline::Kind;
    match offline.map(|offline| offline.kind) {
        None => Ok(Offline::Window),
        Some(Some(Kind::Skip(true))) => Ok(Offline::Skip),
        Some(Some(Kind::WaitMs(span))) => Ok(Offline::Wait(Duration::from_millis(span))),
        Some(Some(Kind::QueueMs(span))) => Ok(Offline::Queue(Duration::from_millis(span))),
        Some(Some(Kind::Skip(false)) | None) => Err(WireError::Field("offline")),
    }
}

impl From<QueuedTask> for wire::QueuedTask {
    fn from(task: QueuedTask) -> Self {
        Self {
            host: task.host.to_string(),
            job: bytes_of(task.job.as_bytes()),
            title: task.title,
            operator: task.operator.to_string(),
            since_ms: task.since.as_millis(),
            until_ms: task.until.as_millis(),
        }
    }
}

impl TryFrom<wire::QueuedTask> for QueuedTask {
    type Error = WireError;

    fn try_from(task: wire::QueuedTask) -> Result<Self, WireError> {
        Ok(Self {
            host: parsed(&task.host, "host")?,
            job: id_of(&task.job, "job")?,
            title: text::line(&task.title),
            operator: parsed(&task.operator, "operator")?,
            since: Timestamp::from_millis(task.since_ms),
            until: Timestamp::from_millis(task.until_ms),
        })
    }
}
