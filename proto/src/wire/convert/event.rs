//! Events and outcomes.

use super::{WireError, bytes_of, digest_of, millis, parsed, present};
use crate::event::{Event, EventKind, Stream};
use crate::outcome::{Counts, Outcome, State};
use crate::text;
use crate::time::Timestamp;
use crate::wire;
use std::time::Duration;

impl From<State> for wire::State {
    fn from(state: State) -> Self {
        match state {
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::TimedOut => Self::TimedOut,
            State::Cancelled => Self::Cancelled,
            State::StartFailed => Self::StartFailed,
            State::Rejected => Self::Rejected,
            State::Unreachable => Self::Unreachable,
            State::Expired => Self::Expired,
            State::Skipped => Self::Skipped,
            State::Indeterminate => Self::Indeterminate,
        }
    }
}

impl TryFrom<wire::State> for State {
    type Error = WireError;

    fn try_from(state: wire::State) -> Result<Self, WireError> {
        Self::ALL.into_iter().find(|known| wire::State::from(*known) == state).ok_or(WireError::Field("state"))
    }
}

pub(super) fn counts_to_wire(counts: &Counts) -> Vec<wire::StateCount> {
    counts.iter().map(|(state, count)| wire::StateCount { state: wire::State::from(state).into(), count }).collect()
}

pub(super) fn counts_of(list: &[wire::StateCount]) -> Result<Counts, WireError> {
    let mut counts = Counts::default();
    for entry in list {
        counts.add_many(entry.state().try_into()?, entry.count);
    }
    Ok(counts)
}

impl From<Outcome> for wire::Outcome {
    fn from(outcome: Outcome) -> Self {
        let ping = super::ping::report_to_wire(&outcome);
        Self {
            state: wire::State::from(outcome.state).into(),
            exit_code: outcome.exit_code.map(Into::into),
            signal: outcome.signal.map(Into::into),
            reason: outcome.reason.unwrap_or_default(),
            duration_ms: outcome.duration.map(millis),
            ping,
        }
    }
}

impl TryFrom<wire::Outcome> for Outcome {
    type Error = WireError;

    fn try_from(outcome: wire::Outcome) -> Result<Self, WireError> {
        Ok(Self {
            state: outcome.state().try_into()?,
            exit_code: outcome.exit_code.map(|code| small(code, "exit_code")).transpose()?,
            signal: outcome.signal.map(|signal| small(signal, "signal")).transpose()?,
            reason: (!outcome.reason.is_empty()).then(|| text::line(&outcome.reason)),
            duration: outcome.duration_ms.map(Duration::from_millis),
            ping: super::ping::report_of(outcome.ping)?,
        })
    }
}

pub(super) fn small(value: u32, field: &'static str) -> Result<u8, WireError> {
    value.try_into().map_err(|_| WireError::Field(field))
}

impl From<Stream> for wire::Stream {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Stdout => Self::Stdout,
            Stream::Stderr => Self::Stderr,
        }
    }
}

impl TryFrom<wire::Stream> for Stream {
    type Error = WireError;

    fn try_from(stream: wire::Stream) -> Result<Self, WireError> {
        match stream {
            wire::Stream::Stdout => Ok(Self::Stdout),
            wire::Stream::Stderr => Ok(Self::Stderr),
            wire::Stream::Unspecified => Err(WireError::Field("stream")),
        }
    }
}

impl From<Event> for wire::Event {
    fn from(event: Event) -> Self {
        use wire::event::Kind;
        let target = event.kind.target();
        let kind = match event.kind {
            EventKind::Planned { targets, root } => {
                Kind::Planned(wire::PlannedEvent { targets, root: bytes_of(&root) })
            }
            EventKind::Offered { .. } => Kind::Offered(wire::OfferedEvent {}),
            EventKind::Accepted { .. } => Kind::Accepted(wire::AcceptedEvent {}),
            EventKind::Started { .. } => Kind::Started(wire::StartedEvent {}),
            EventKind::Output { stream, offset, data, .. } => {
                Kind::Output(wire::OutputEvent { stream: wire::Stream::from(stream).into(), offset, data })
            }
            EventKind::Truncated { stream, bytes, .. } => {
                Kind::Truncated(wire::TruncatedEvent { stream: wire::Stream::from(stream).into(), bytes })
            }
            EventKind::Probed { sample, .. } => Kind::Probed(sample.into()),
            EventKind::Finished { outcome, .. } => {
                Kind::Finished(wire::FinishedEvent { outcome: Some(outcome.into()) })
            }
            EventKind::Cancelling { operator } => {
                Kind::Cancelling(wire::CancellingEvent { operator: operator.to_string() })
            }
            EventKind::Done { counts } => Kind::Done(wire::DoneEvent { counts: counts_to_wire(&counts) }),
        };
        Self { seq: event.seq, time_ms: event.time.as_millis(), target, kind: Some(kind) }
    }
}

impl TryFrom<wire::Event> for Event {
    type Error = WireError;

    fn try_from(event: wire::Event) -> Result<Self, WireError> {
        use wire::event::Kind;
        let target = || present(event.target, "target");
        let kind = match present(event.kind, "kind")? {
            Kind::Planned(planned) => {
                EventKind::Planned { targets: planned.targets, root: digest_of(&planned.root, "root")? }
            }
            Kind::Offered(_) => EventKind::Offered { target: target()? },
            Kind::Accepted(_) => EventKind::Accepted { target: target()? },
            Kind::Started(_) => EventKind::Started { target: target()? },
            Kind::Output(output) => EventKind::Output {
                target: target()?,
                stream: output.stream().try_into()?,
                offset: output.offset,
                data: output.data,
            },
            Kind::Truncated(truncated) => EventKind::Truncated {
                target: target()?,
                stream: truncated.stream().try_into()?,
                bytes: truncated.bytes,
            },
            Kind::Probed(sample) => EventKind::Probed { target: target()?, sample: sample.try_into()? },
            Kind::Finished(finished) => {
                EventKind::Finished { target: target()?, outcome: present(finished.outcome, "outcome")?.try_into()? }
            }
            Kind::Cancelling(cancelling) => {
                EventKind::Cancelling { operator: parsed(&cancelling.operator, "operator")? }
            }
            Kind::Done(done) => EventKind::Done { counts: counts_of(&done.counts)? },
        };
        Ok(Self { seq: event.seq, time: Timestamp::from_millis(event.time_ms), kind })
    }
}
