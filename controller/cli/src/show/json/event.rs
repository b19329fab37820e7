//! Events as lines of JSON: what scripts follow a job by.

use super::{CountsJson, OutcomeJson, hex};
use crate::show::moment::rfc3339;
use crate::show::ping::json::ProbeJson;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proto::event::{Event, EventKind, GateStep, Stream};
use muster_proto::id::JobId;
use muster_proto::name::HostName;
use muster_proto::ping::TargetName;
use serde::Serialize;

/// One event as one line, its newline included; `names` are those of the job's frozen list.
pub fn event_line(job: JobId, names: &[TargetName], event: &Event) -> serde_json::Result<String> {
    let name = event.kind.target().and_then(|target| names.get(target as usize));
    let mut line = serde_json::to_string(&EventJson {
        seq: event.seq,
        time: rfc3339(event.time),
        job: job.to_string(),
        kind: kind_word(&event.kind),
        host: name.map(|name| name.host.as_str()),
        from: name.and_then(|name| name.from.as_ref()).map(HostName::as_str),
        details: details(&event.kind),
    })?;
    line.push('\n');
    Ok(line)
}

#[derive(Serialize)]
struct EventJson<'a> {
    seq: u64,
    time: String,
    job: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    /// The agent that looks, of a ping.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(flatten)]
    details: Details<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Details<'a> {
    Planned {
        targets: u32,
        digest: String,
    },
    Wave {
        wave: u32,
        targets: u32,
    },
    Step(StepJson<'a>),
    Gate(GateJson<'a>),
    Probed(ProbeJson),
    Queued {
        until: String,
    },
    Retrying(RetryingJson),
    Paused {
        operator: Option<String>,
        reason: &'a str,
    },
    Stopping {
        reason: &'a str,
    },
    /// Who had it go on, or end.
    By {
        operator: String,
    },
    Done {
        counts: CountsJson,
    },
}

/// What happens to a task.
#[derive(Serialize)]
#[serde(untagged)]
enum StepJson<'a> {
    None {},
    Text { stream: &'static str, text: &'a str },
    B64 { stream: &'static str, b64: String },
    Truncated { stream: &'static str, bytes: u64 },
    Finished(OutcomeJson),
}

/// The attempt that follows, and how the one before it ended.
#[derive(Serialize)]
struct RetryingJson {
    attempt: u32,
    at: String,
    #[serde(flatten)]
    outcome: OutcomeJson,
}

/// The same of a gate.
#[derive(Serialize)]
struct GateJson<'a> {
    step: &'static str,
    #[serde(flatten)]
    details: StepJson<'a>,
}

const fn kind_word(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::Planned { .. } => "planned",
        EventKind::Offered { .. } => "offered",
        EventKind::Accepted { .. } => "accepted",
        EventKind::Started { .. } => "started",
        EventKind::Output { .. } => "output",
        EventKind::Truncated { .. } => "truncated",
        EventKind::Probed { .. } => "probed",
        EventKind::Finished { .. } => "finished",
        EventKind::Wave { .. } => "wave",
        EventKind::Queued { .. } => "queued",
        EventKind::Retrying { .. } => "retrying",
        EventKind::Gate { .. } => "gate",
        EventKind::Paused { .. } => "paused",
        EventKind::Resumed { .. } => "resumed",
        EventKind::Stopping { .. } => "stopping",
        EventKind::Cancelling { .. } => "cancelling",
        EventKind::Done { .. } => "done",
    }
}

fn details(kind: &EventKind) -> Details<'_> {
    match kind {
        EventKind::Planned { targets, root } => Details::Planned { targets: *targets, digest: hex(root) },
        EventKind::Wave { number, targets, .. } => Details::Wave { wave: *number, targets: *targets },
        EventKind::Offered { .. } | EventKind::Accepted { .. } | EventKind::Started { .. } => {
            Details::Step(StepJson::None {})
        }
        EventKind::Output { stream, data, .. } => Details::Step(StepJson::output(*stream, data)),
        EventKind::Truncated { stream, bytes, .. } => Details::Step(StepJson::truncated(*stream, *bytes)),
        EventKind::Finished { outcome, .. } => Details::Step(StepJson::Finished(outcome.into())),
        EventKind::Gate { step, .. } => Details::Gate(step.into()),
        EventKind::Probed { sample, .. } => Details::Probed(sample.into()),
        EventKind::Queued { until, .. } => Details::Queued { until: rfc3339(*until) },
        EventKind::Retrying { attempt, outcome, at, .. } => {
            Details::Retrying(RetryingJson { attempt: attempt.0, at: rfc3339(*at), outcome: outcome.into() })
        }
        EventKind::Paused { operator, reason } => {
            Details::Paused { operator: operator.as_ref().map(ToString::to_string), reason }
        }
        EventKind::Stopping { reason } => Details::Stopping { reason },
        EventKind::Resumed { operator } | EventKind::Cancelling { operator } => {
            Details::By { operator: operator.to_string() }
        }
        EventKind::Done { counts } => Details::Done { counts: CountsJson(*counts) },
    }
}

impl<'a> StepJson<'a> {
    fn output(stream: Stream, data: &'a [u8]) -> Self {
        match std::str::from_utf8(data) {
            Ok(text) => Self::Text { stream: stream.as_str(), text },
            Err(_) => Self::B64 { stream: stream.as_str(), b64: STANDARD.encode(data) },
        }
    }

    const fn truncated(stream: Stream, bytes: u64) -> Self {
        Self::Truncated { stream: stream.as_str(), bytes }
    }
}

impl<'a> From<&'a GateStep> for GateJson<'a> {
    fn from(step: &'a GateStep) -> Self {
        let (step, details) = match step {
            GateStep::Offered => ("offered", StepJson::None {}),
            GateStep::Accepted => ("accepted", StepJson::None {}),
            GateStep::Started => ("started", StepJson::None {}),
            GateStep::Output { stream, data, .. } => ("output", StepJson::output(*stream, data)),
            GateStep::Truncated { stream, bytes } => ("truncated", StepJson::truncated(*stream, *bytes)),
            GateStep::Finished { outcome } => ("finished", StepJson::Finished(outcome.into())),
        };
        Self { step, details }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::Attempt;
    use muster_proto::outcome::{Counts, Outcome, State};
    use muster_proto::time::Timestamp;
    use std::time::Duration;

    fn line(kind: EventKind) -> String {
        let names = ["n001".parse::<HostName>().expect("a name").into()];
        // 22 November 2026, 10:00:00.123 UTC.
        let event = Event { seq: 7, time: Timestamp::from_millis(1_795_341_600_123), kind };
        event_line(JobId::from_bytes([0; 16]), &names, &event).expect("JSON")
    }

    const HEAD: &str = r#"{"seq":7,"time":"2026-11-22T10:00:00.123Z","job":"00000000000000000000000000","kind":"#;

    #[test]
    fn events_have_the_form_of_the_contract() {
        let output = |data: &'static [u8]| EventKind::Output {
            target: 0,
            stream: Stream::Stdout,
            offset: 0,
            data: bytes::Bytes::from_static(data),
        };
        let outcome = Outcome {
            state: State::Failed,
            exit_code: Some(3),
            signal: None,
            reason: None,
            duration: Some(Duration::from_millis(12)),
            ping: None,
        };
        let mut counts = Counts::default();
        counts.add_many(State::Unreachable, 1);
        counts.add_many(State::Succeeded, 500);
        for (kind, tail) in [
            (
                EventKind::Planned { targets: 506, root: [0xab; 32] },
                format!(r#""planned","targets":506,"digest":"{}""#, "ab".repeat(32)),
            ),
            (EventKind::Offered { target: 0 }, r#""offered","host":"n001""#.into()),
            (EventKind::Accepted { target: 0 }, r#""accepted","host":"n001""#.into()),
            (EventKind::Started { target: 0 }, r#""started","host":"n001""#.into()),
            (output(b"a\n"), r#""output","host":"n001","stream":"stdout","text":"a\n""#.into()),
            (output(b"\xff"), r#""output","host":"n001","stream":"stdout","b64":"/w==""#.into()),
            (
                EventKind::Truncated { target: 0, stream: Stream::Stderr, bytes: 123 },
                r#""truncated","host":"n001","stream":"stderr","bytes":123"#.into(),
            ),
            (
                EventKind::Finished { target: 0, outcome },
                concat!(
                    r#""finished","host":"n001","state":"failed","exit_code":3,"#,
                    r#""signal":null,"reason":null,"duration_ms":12"#
                )
                .into(),
            ),
            (
                EventKind::Cancelling { operator: "ada".parse().expect("a name") },
                r#""cancelling","operator":"ada""#.into(),
            ),
            (EventKind::Done { counts }, r#""done","counts":{"succeeded":500,"unreachable":1}"#.into()),
        ] {
            assert_eq!(line(kind), format!("{HEAD}{tail}}}\n"));
        }
    }

    #[test]
    fn events_of_a_rollout_have_the_form_of_the_contract() {
        let gate = |step| EventKind::Gate { target: 0, step };
        for (kind, tail) in [
            (EventKind::Wave { number: 2, first: 1, targets: 5 }, r#""wave","wave":2,"targets":5"#),
            (
                EventKind::Queued { target: 0, until: Timestamp::from_millis(1_795_341_600_123) },
                r#""queued","host":"n001","until":"2026-11-22T10:00:00.123Z""#,
            ),
            (
                EventKind::Retrying {
                    target: 0,
                    attempt: Attempt(2),
                    outcome: Outcome::without_run(State::Unreachable, "not connected"),
                    at: Timestamp::from_millis(1_795_341_600_123),
                },
                concat!(
                    r#""retrying","host":"n001","attempt":2,"at":"2026-11-22T10:00:00.123Z","state":"unreachable","#,
                    r#""exit_code":null,"signal":null,"reason":"not connected","duration_ms":null"#
                ),
            ),
            (gate(GateStep::Offered), r#""gate","host":"n001","step":"offered""#),
            (gate(GateStep::Started), r#""gate","host":"n001","step":"started""#),
            (
                gate(GateStep::Output { stream: Stream::Stderr, offset: 0, data: bytes::Bytes::from_static(b"no\n") }),
                r#""gate","host":"n001","step":"output","stream":"stderr","text":"no\n""#,
            ),
            (
                gate(GateStep::Truncated { stream: Stream::Stdout, bytes: 9 }),
                r#""gate","host":"n001","step":"truncated","stream":"stdout","bytes":9"#,
            ),
            (
                gate(GateStep::Finished { outcome: Outcome::without_run(State::Cancelled, "ended") }),
                concat!(
                    r#""gate","host":"n001","step":"finished","state":"cancelled","#,
                    r#""exit_code":null,"signal":null,"reason":"ended","duration_ms":null"#
                ),
            ),
            (
                EventKind::Paused { operator: None, reason: "the gate failed".into() },
                r#""paused","operator":null,"reason":"the gate failed""#,
            ),
            (EventKind::Resumed { operator: "ada".parse().expect("a name") }, r#""resumed","operator":"ada""#),
            (EventKind::Stopping { reason: "3 failed".into() }, r#""stopping","reason":"3 failed""#),
        ] {
            assert_eq!(line(kind), format!("{HEAD}{tail}}}\n"));
        }
    }
}
