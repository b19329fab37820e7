//! What happens between a job's beginning and its end besides its tasks: waves, gates, attempts, pauses.

use super::{FinishedRecord, OutputRecord, TruncatedRecord, descriptor_of, stream_of};
use bytes::Bytes;
use muster_proto::event::{EventKind, GateStep};
use muster_proto::id::Attempt;
use muster_proto::name::OperatorName;
use muster_proto::outcome::Outcome;
use muster_proto::time::Timestamp;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WaveRecord {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(uint32, tag = "2")]
    pub first: u32,
    #[prost(uint32, tag = "3")]
    pub targets: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct QueuedRecord {
    #[prost(uint32, tag = "1")]
    pub target: u32,
    #[prost(int64, tag = "2")]
    pub until_ms: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RetryingRecord {
    /// How the attempt before ended; has the target.
    #[prost(message, optional, tag = "1")]
    ended: Option<FinishedRecord>,
    #[prost(uint32, tag = "2")]
    attempt: u32,
    #[prost(int64, tag = "3")]
    at_ms: i64,
}

impl RetryingRecord {
    pub fn of(target: u32, attempt: Attempt, outcome: &Outcome, at: Timestamp) -> Self {
        Self { ended: Some(FinishedRecord::of(target, outcome)), attempt: attempt.0, at_ms: at.as_millis() }
    }

    pub fn read(self) -> Option<EventKind> {
        let (target, outcome) = self.ended?.read()?;
        let at = Timestamp::from_millis(self.at_ms);
        Some(EventKind::Retrying { target, attempt: Attempt(self.attempt), outcome, at })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PausedRecord {
    #[prost(string, optional, tag = "1")]
    operator: Option<String>,
    #[prost(string, tag = "2")]
    reason: String,
}

impl PausedRecord {
    pub fn of(operator: Option<&OperatorName>, reason: &str) -> Self {
        Self { operator: operator.map(ToString::to_string), reason: reason.to_owned() }
    }

    pub fn read(self) -> Option<EventKind> {
        let operator = match self.operator {
            Some(operator) => Some(operator.parse().ok()?),
            None => None,
        };
        Some(EventKind::Paused { operator, reason: self.reason })
    }
}

/// A step of a gate; each step's record has the target.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GateRecord {
    #[prost(oneof = "Step", tags = "1, 2, 3, 4, 5, 6")]
    step: Option<Step>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Step {
    #[prost(uint32, tag = "1")]
    Offered(u32),
    #[prost(uint32, tag = "2")]
    Accepted(u32),
    #[prost(uint32, tag = "3")]
    Started(u32),
    #[prost(message, tag = "4")]
    Output(OutputRecord),
    #[prost(message, tag = "5")]
    Truncated(TruncatedRecord),
    #[prost(message, tag = "6")]
    Finished(FinishedRecord),
}

impl GateRecord {
    pub fn of(target: u32, step: &GateStep) -> Self {
        let step = match step {
            GateStep::Offered => Step::Offered(target),
            GateStep::Accepted => Step::Accepted(target),
            GateStep::Started => Step::Started(target),
            // Small by its signed limit: it never lies in the job's file.
            GateStep::Output { stream, offset, data } => Step::Output(OutputRecord {
                target,
                descriptor: descriptor_of(*stream),
                offset: *offset,
                data: data.clone(),
                place: None,
            }),
            GateStep::Truncated { stream, bytes } => {
                Step::Truncated(TruncatedRecord { target, descriptor: descriptor_of(*stream), bytes: *bytes })
            }
            GateStep::Finished { outcome } => Step::Finished(FinishedRecord::of(target, outcome)),
        };
        Self { step: Some(step) }
    }

    pub fn read(self) -> Option<EventKind> {
        let (target, step) = match self.step? {
            Step::Offered(target) => (target, GateStep::Offered),
            Step::Accepted(target) => (target, GateStep::Accepted),
            Step::Started(target) => (target, GateStep::Started),
            Step::Output(it) => {
                let data: Bytes = it.data;
                (it.target, GateStep::Output { stream: stream_of(it.descriptor)?, offset: it.offset, data })
            }
            Step::Truncated(it) => {
                (it.target, GateStep::Truncated { stream: stream_of(it.descriptor)?, bytes: it.bytes })
            }
            Step::Finished(it) => {
                let (target, outcome) = it.read()?;
                (target, GateStep::Finished { outcome })
            }
        };
        Some(EventKind::Gate { target, step })
    }
}
