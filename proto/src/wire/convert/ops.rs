//! What operators ask about the controller itself: why, status, audit.

use super::fleet::{millis_or_zero, moment};
use super::job::phase_of;
use super::{WireError, bytes_of, digest_of, id_of, parsed, present};
use crate::audit::{AuditEntry, AuditRecord};
use crate::id::Attempt;
use crate::status::{Metric, MetricKind, Sample, Status};
use crate::text;
use crate::time::Timestamp;
use crate::why::{AttemptEnd, LastSession, TaskLine, TaskStory, Why};
use crate::wire;

impl From<Why> for wire::WhyReply {
    fn from(why: Why) -> Self {
        Self {
            agent: Some(why.agent.into()),
            epoch: why.epoch,
            left_at_ms: millis_or_zero(why.left.as_ref().map(|left| left.at)),
            left_reason: why.left.map(|left| left.reason).unwrap_or_default(),
            certificate_until_ms: millis_or_zero(why.certificate_until),
            renewed_at_ms: millis_or_zero(why.renewed_at),
            unfinished: why.unfinished.into_iter().map(Into::into).collect(),
            finished: why.finished.into_iter().map(Into::into).collect(),
            task: why.task.map(Into::into),
            conclusion: why.conclusion,
        }
    }
}

impl TryFrom<wire::WhyReply> for Why {
    type Error = WireError;

    fn try_from(why: wire::WhyReply) -> Result<Self, WireError> {
        let lines = |lines: Vec<wire::TaskLine>| lines.into_iter().map(TryInto::try_into).collect::<Result<_, _>>();
        let reason = text::line(&why.left_reason);
        Ok(Self {
            agent: present(why.agent, "agent")?.try_into()?,
            epoch: why.epoch,
            left: moment(why.left_at_ms).map(|at| LastSession { at, reason }),
            certificate_until: moment(why.certificate_until_ms),
            renewed_at: moment(why.renewed_at_ms),
            unfinished: lines(why.unfinished)?,
            finished: lines(why.finished)?,
            task: why.task.map(TryInto::try_into).transpose()?,
            conclusion: text::line(&why.conclusion),
        })
    }
}

impl From<TaskLine> for wire::TaskLine {
    fn from(line: TaskLine) -> Self {
        Self {
            job: bytes_of(line.job.as_bytes()),
            title: line.title,
            phase: line.phase.as_str().to_owned(),
            outcome: line.outcome.map(Into::into),
            since_ms: line.since.as_millis(),
        }
    }
}

impl TryFrom<wire::TaskLine> for TaskLine {
    type Error = WireError;

    fn try_from(line: wire::TaskLine) -> Result<Self, WireError> {
        Ok(Self {
            job: id_of(&line.job, "job")?,
            title: text::line(&line.title),
            phase: phase_of(&line.phase)?,
            outcome: line.outcome.map(TryInto::try_into).transpose()?,
            since: Timestamp::from_millis(line.since_ms),
        })
    }
}

impl From<TaskStory> for wire::TaskStory {
    fn from(story: TaskStory) -> Self {
        let (cancelled_at, cancelled_by) = story.cancelled.map(|(at, by)| (at, by.to_string())).unzip();
        Self {
            job: bytes_of(story.job.as_bytes()),
            title: story.title,
            phase: story.phase.as_str().to_owned(),
            outcome: story.outcome.map(Into::into),
            planned_ms: story.planned_at.as_millis(),
            offered_ms: story.offered_at.into_iter().map(Timestamp::as_millis).collect(),
            accepted_ms: millis_or_zero(story.accepted_at),
            started_ms: millis_or_zero(story.started_at),
            first_output_ms: millis_or_zero(story.output_at.map(|(first, _)| first)),
            last_output_ms: millis_or_zero(story.output_at.map(|(_, last)| last)),
            stdout_bytes: story.bytes[0],
            stderr_bytes: story.bytes[1],
            truncated_bytes: story.truncated,
            finished_ms: millis_or_zero(story.finished_at),
            cancelled_ms: millis_or_zero(cancelled_at),
            cancelled_by: cancelled_by.unwrap_or_default(),
            start_before_ms: story.start_before.as_millis(),
            late: story.late.unwrap_or_default(),
            attempt: story.attempt.0,
            earlier: story.earlier.into_iter().map(Into::into).collect(),
            next_ms: millis_or_zero(story.next_at),
            queued_ms: millis_or_zero(story.queued.map(|(since, _)| since)),
            queued_until_ms: millis_or_zero(story.queued.map(|(_, until)| until)),
            gate: story.gate.map(Into::into),
        }
    }
}

impl TryFrom<wire::TaskStory> for TaskStory {
    type Error = WireError;

    fn try_from(story: wire::TaskStory) -> Result<Self, WireError> {
        let cancelled =
            moment(story.cancelled_ms).map(|at| parsed(&story.cancelled_by, "cancelled_by").map(|by| (at, by)));
        Ok(Self {
            job: id_of(&story.job, "job")?,
            title: text::line(&story.title),
            phase: phase_of(&story.phase)?,
            outcome: story.outcome.map(TryInto::try_into).transpose()?,
            planned_at: Timestamp::from_millis(story.planned_ms),
            start_before: Timestamp::from_millis(story.start_before_ms),
            offered_at: story.offered_ms.into_iter().map(Timestamp::from_millis).collect(),
            accepted_at: moment(story.accepted_ms),
            started_at: moment(story.started_ms),
            output_at: moment(story.first_output_ms).zip(moment(story.last_output_ms)),
            bytes: [story.stdout_bytes, story.stderr_bytes],
            truncated: story.truncated_bytes,
            finished_at: moment(story.finished_ms),
            cancelled: cancelled.transpose()?,
            late: (!story.late.is_empty()).then(|| text::line(&story.late)),
            attempt: Attempt(story.attempt),
            earlier: story.earlier.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            next_at: moment(story.next_ms),
            queued: moment(story.queued_ms).zip(moment(story.queued_until_ms)),
            gate: story.gate.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<AttemptEnd> for wire::AttemptEnd {
    fn from(end: AttemptEnd) -> Self {
        Self { outcome: Some(end.outcome.into()), at_ms: end.at.as_millis() }
    }
}

impl TryFrom<wire::AttemptEnd> for AttemptEnd {
    type Error = WireError;

    fn try_from(end: wire::AttemptEnd) -> Result<Self, WireError> {
        Ok(Self { outcome: present(end.outcome, "outcome")?.try_into()?, at: Timestamp::from_millis(end.at_ms) })
    }
}

impl From<Status> for wire::StatusReply {
    fn from(status: Status) -> Self {
        Self {
            version: status.version,
            cluster: bytes_of(status.cluster.as_bytes()),
            started_at_ms: status.started_at.as_millis(),
            alarms: status.alarms,
            metrics: status.metrics.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::StatusReply> for Status {
    type Error = WireError;

    fn try_from(status: wire::StatusReply) -> Result<Self, WireError> {
        Ok(Self {
            version: text::line(&status.version),
            cluster: id_of(&status.cluster, "cluster")?,
            started_at: Timestamp::from_millis(status.started_at_ms),
            alarms: status.alarms.iter().map(|alarm| text::line(alarm)).collect(),
            metrics: status.metrics.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<Metric> for wire::Metric {
    fn from(metric: Metric) -> Self {
        let sample = |sample: Sample| wire::Sample {
            labels: sample.labels.into_iter().map(|(key, value)| wire::Label { key, value }).collect(),
            value: sample.value,
        };
        Self {
            name: metric.name,
            title: metric.title,
            help: metric.help,
            counter: metric.kind == MetricKind::Counter,
            samples: metric.samples.into_iter().map(sample).collect(),
        }
    }
}

impl TryFrom<wire::Metric> for Metric {
    type Error = WireError;

    /// Names and keys are words, so that they can be written in any format as they are.
    fn try_from(metric: wire::Metric) -> Result<Self, WireError> {
        let is_word =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let sample = |sample: wire::Sample| {
            if !sample.labels.iter().all(|label| is_word(&label.key)) {
                return Err(WireError::Field("metric.label"));
            }
            let labels = sample.labels.into_iter().map(|label| (label.key, text::line(&label.value)));
            Ok(Sample { labels: labels.collect(), value: sample.value })
        };
        if !is_word(&metric.name) {
            return Err(WireError::Field("metric.name"));
        }
        Ok(Self {
            title: text::line(&metric.title),
            help: text::line(&metric.help),
            kind: if metric.counter { MetricKind::Counter } else { MetricKind::Gauge },
            samples: metric.samples.into_iter().map(sample).collect::<Result<_, _>>()?,
            name: metric.name,
        })
    }
}

impl From<AuditRecord> for wire::AuditRecord {
    fn from(record: AuditRecord) -> Self {
        Self {
            seq: record.seq,
            time_ms: record.entry.at.as_millis(),
            actor: record.entry.actor,
            action: record.entry.action,
            detail: record.entry.detail,
            hash: bytes_of(&record.hash),
        }
    }
}

impl TryFrom<wire::AuditRecord> for AuditRecord {
    type Error = WireError;

    /// The texts are what was hashed, byte for byte: whoever shows them has to clean them.
    fn try_from(record: wire::AuditRecord) -> Result<Self, WireError> {
        Ok(Self {
            seq: record.seq,
            entry: AuditEntry {
                at: Timestamp::from_millis(record.time_ms),
                actor: record.actor,
                action: record.action,
                detail: record.detail,
            },
            hash: digest_of(&record.hash, "hash")?,
        })
    }
}
