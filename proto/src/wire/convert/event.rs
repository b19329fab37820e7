//! Events and outcomes.

use super::{WireError, bytes_of, digest_of, millis, parsed, present};
use crate::event::{Event, EventKind, GateStep, Stream};
use crate::id::Attempt;
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
            EventKind::Wave { number, first, targets } => Kind::Wave(wire::WaveEvent { number, first, targets }),
            EventKind::Queued { until, .. } => Kind::Queued(wire::QueuedEvent { until_ms: until.as_millis() }),
            EventKind::Retrying { attempt, outcome, at, .. } => Kind::Retrying(wire::RetryingEvent {
                attempt: attempt.0,
                outcome: Some(outcome.into()),
                at_ms: at.as_millis(),
            }),
            EventKind::Gate { step, .. } => Kind::Gate(wire::GateEvent { step: Some(step.into()) }),
            EventKind::Paused { operator, reason } => Kind::Paused(wire::PausedEvent {
                operator: operator.map(|operator| operator.to_string()).unwrap_or_default(),
                reason,
            }),
            EventKind::Resumed { operator } => Kind::Resumed(wire::ResumedEvent { operator: operator.to_string() }),
            EventKind::Stopping { reason } => Kind::Stopping(wire::StoppingEvent { reason }),
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
            Kind::Wave(wave) => EventKind::Wave { number: wave.number, first: wave.first, targets: wave.targets },
            Kind::Queued(queued) => {
                EventKind::Queued { target: target()?, until: Timestamp::from_millis(queued.until_ms) }
            }
            Kind::Retrying(retrying) => EventKind::Retrying {
                target: target()?,
                attempt: Attempt(retrying.attempt),
                outcome: present(retrying.outcome, "outcome")?.try_into()?,
                at: Timestamp::from_millis(retrying.at_ms),
            },
            Kind::Gate(gate) => EventKind::Gate { target: target()?, step: present(gate.step, "step")?.try_into()? },
            Kind::Paused(paused) => EventKind::Paused {
                operator: if paused.operator.is_empty() { None } else { Some(parsed(&paused.operator, "operator")?) },
                reason: text::line(&paused.reason),
            },
            Kind::Resumed(resumed) => EventKind::Resumed { operator: parsed(&resumed.operator, "operator")? },
            Kind::Stopping(stopping) => EventKind::Stopping { reason: text::line(&stopping.reason) },
            Kind::Cancelling(cancelling) => {
                EventKind::Cancelling { operator: parsed(&cancelling.operator, "operator")? }
            }
            Kind::Done(done) => EventKind::Done { counts: counts_of(&done.counts)? },
        };
        Ok(Self { seq: event.seq, time: Timestamp::from_millis(event.time_ms), kind })
    }
}

impl From<GateStep> for wire::gate_event::Step {
    fn from(step: GateStep) -> Self {
        match step {
            GateStep::Offered => Self::Offered(wire::OfferedEvent {}),
            GateStep::Accepted => Self::Accepted(wire::AcceptedEvent {}),
            GateStep::Started => Self::Started(wire::StartedEvent {}),
            GateStep::Output { stream, offset, data } => {
                Self::Output(wire::OutputEvent { stream: wire::Stream::from(stream).into(), offset, data })
            }
            GateStep::Truncated { stream, bytes } => {
                Self::Truncated(wire::TruncatedEvent { stream: wire::Stream::from(stream).into(), bytes })
            }
            GateStep::Finished { outcome } => Self::Finished(wire::FinishedEvent { outcome: Some(outcome.into()) }),
        }
    }
}

impl TryFrom<wire::gate_event::Step> for GateStep {
    type Error = WireError;

    fn try_from(step: wire::gate_event::Step) -> Result<Self, WireError> {
        use wire::gate_event::Step;
        Ok(match step {
            Step::Offered(_) => Self::Offered,
            Step::Accepted(_) => Self::Accepted,
            Step::Started(_) => Self::Started,
            Step::Output(output) => {
                Self::Output { stream: output.stream().try_into()?, offset: output.offset, data: output.data }
            }
            Step::Truncated(truncated) => {
                Self::Truncated { stream: truncated.stream().try_into()?, bytes: truncated.bytes }
            }
            Step::Finished(finished) => Self::Finished { outcome: present(finished.outcome, "outcome")?.try_into()? },
        })
    }
}
