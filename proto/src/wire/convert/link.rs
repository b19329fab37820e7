//! The link between agent and controller, both directions.

use super::event::small;
use super::{WireError, bytes_of, digest_of, id_of, millis, present};
use crate::id::{Attempt, TaskId};
use crate::limits;
use crate::link::{
    BlobChunk, Frame, FrameBody, FromAgent, Hello, Nonce, Offer, RejectKind, TaskReport, ToAgent, Unfinished, Welcome,
};
use crate::outcome::{End, EndKind};
use crate::text;
use crate::time::Timestamp;
use crate::wire::{self, agent_message, controller_message};
use std::time::Duration;

impl From<TaskId> for wire::TaskRef {
    fn from(task: TaskId) -> Self {
        Self { job: bytes_of(task.job.as_bytes()), target: task.target, attempt: task.attempt.0 }
    }
}

impl TryFrom<wire::TaskRef> for TaskId {
    type Error = WireError;

    fn try_from(task: wire::TaskRef) -> Result<Self, WireError> {
        Ok(Self { job: id_of(&task.job, "task.job")?, target: task.target, attempt: Attempt(task.attempt) })
    }
}

fn task_of(task: Option<wire::TaskRef>) -> Result<TaskId, WireError> {
    present(task, "task")?.try_into()
}

impl From<End> for wire::End {
    fn from(end: End) -> Self {
        use wire::EndKind as Kind;
        let (kind, exit_code, signal, reason) = match end.kind {
            EndKind::Exit(code) => (Kind::Exit, code.into(), 0, String::new()),
            EndKind::Signal(signal) => (Kind::Signal, 0, signal.into(), String::new()),
            EndKind::TimedOut => (Kind::TimedOut, 0, 0, String::new()),
            EndKind::Cancelled => (Kind::Cancelled, 0, 0, String::new()),
            EndKind::StartFailed(reason) => (Kind::StartFailed, 0, 0, reason),
            EndKind::Lost(reason) => (Kind::Lost, 0, 0, reason),
        };
        Self { kind: kind.into(), exit_code, signal, reason, duration_ms: millis(end.duration) }
    }
}

impl TryFrom<wire::End> for End {
    type Error = WireError;

    fn try_from(end: wire::End) -> Result<Self, WireError> {
        use wire::EndKind as Kind;
        let kind = match end.kind() {
            Kind::Exit => EndKind::Exit(small(end.exit_code, "exit_code")?),
            Kind::Signal => EndKind::Signal(small(end.signal, "signal")?),
            Kind::TimedOut => EndKind::TimedOut,
            Kind::Cancelled => EndKind::Cancelled,
            Kind::StartFailed => EndKind::StartFailed(text::line(&end.reason)),
            Kind::Lost => EndKind::Lost(text::line(&end.reason)),
            Kind::Unspecified => return Err(WireError::Field("end.kind")),
        };
        Ok(Self { kind, duration: Duration::from_millis(end.duration_ms) })
    }
}

impl From<FromAgent> for wire::AgentMessage {
    fn from(message: FromAgent) -> Self {
        use agent_message::Kind;
        let kind = match message {
            FromAgent::Hello(hello) => Kind::Hello(hello.into()),
            FromAgent::Facts(facts) => Kind::Facts(facts.into()),
            FromAgent::NonceStored(epoch) => Kind::NonceStored(wire::NonceStored { epoch }),
            FromAgent::Echo(token) => Kind::Echo(wire::Echo { token }),
            FromAgent::Probed { sweep, findings } => {
                Kind::Probed(wire::Probed { sweep, findings: findings.into_iter().map(Into::into).collect() })
            }
            FromAgent::Renew(csr) => Kind::Renew(wire::Renew { csr }),
            FromAgent::Task(task, report) => {
                let task = Some(task.into());
                match report {
                    TaskReport::Accepted => Kind::Accepted(wire::Accepted { task }),
                    TaskReport::Rejected { kind, reason } => {
                        Kind::Rejected(wire::Rejected { task, kind: wire::RejectKind::from(kind).into(), reason })
                    }
                    TaskReport::Started => Kind::Started(wire::Started { task }),
                    TaskReport::Frame(frame) => frame_to_wire(task, frame),
                    TaskReport::Exited { frames, end } => {
                        Kind::Exited(wire::Exited { task, frames, end: Some(end.into()) })
                    }
                    TaskReport::Never => Kind::Never(wire::Never { task }),
                }
            }
        };
        Self { kind: Some(kind) }
    }
}

fn frame_to_wire(task: Option<wire::TaskRef>, frame: Frame) -> agent_message::Kind {
    let stream = wire::Stream::from(frame.stream).into();
    match frame.body {
        FrameBody::Data { offset, data } => {
            agent_message::Kind::Output(wire::Output { task, frame: frame.number, stream, offset, data })
        }
        FrameBody::Truncated { bytes } => {
            agent_message::Kind::Truncated(wire::Truncated { task, frame: frame.number, stream, bytes })
        }
    }
}

impl TryFrom<wire::AgentMessage> for FromAgent {
    type Error = WireError;

    fn try_from(message: wire::AgentMessage) -> Result<Self, WireError> {
        use agent_message::Kind;
        let (task, report) = match present(message.kind, "kind")? {
            Kind::Hello(hello) => return Ok(Self::Hello(hello.try_into()?)),
            Kind::Facts(facts) => return Ok(Self::Facts(facts.into())),
            Kind::NonceStored(stored) => return Ok(Self::NonceStored(stored.epoch)),
            Kind::Renew(renew) if renew.csr.len() > limits::CSR_BYTES_MAX => return Err(WireError::Field("csr")),
            Kind::Renew(renew) => return Ok(Self::Renew(renew.csr)),
            Kind::Echo(echo) => return Ok(Self::Echo(echo.token)),
            Kind::Probed(probed) => return probed_of(probed),
            Kind::Accepted(accepted) => (accepted.task, TaskReport::Accepted),
            Kind::Rejected(rejected) => {
                let kind = rejected.kind().try_into()?;
                (rejected.task, TaskReport::Rejected { kind, reason: text::line(&rejected.reason) })
            }
            Kind::Started(started) => (started.task, TaskReport::Started),
            Kind::Output(output) => {
                if output.data.is_empty() || output.data.len() > limits::OUTPUT_FRAME_BYTES_MAX {
                    return Err(WireError::Field("data"));
                }
                let stream = output.stream().try_into()?;
                let body = FrameBody::Data { offset: output.offset, data: output.data };
                (output.task, TaskReport::Frame(Frame { number: output.frame, stream, body }))
            }
            Kind::Truncated(truncated) => {
                let stream = truncated.stream().try_into()?;
                let body = FrameBody::Truncated { bytes: truncated.bytes };
                (truncated.task, TaskReport::Frame(Frame { number: truncated.frame, stream, body }))
            }
            Kind::Exited(exited) => {
                let end = present(exited.end, "end")?.try_into()?;
                (exited.task, TaskReport::Exited { frames: exited.frames, end })
            }
            Kind::Never(never) => (never.task, TaskReport::Never),
        };
        Ok(Self::Task(task_of(task)?, report))
    }
}

fn probed_of(probed: wire::Probed) -> Result<FromAgent, WireError> {
    if probed.findings.len() > limits::PROBES_PER_MESSAGE_MAX {
        return Err(WireError::Field("findings"));
    }
    let findings = probed.findings.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
    Ok(FromAgent::Probed { sweep: probed.sweep, findings })
}

impl From<RejectKind> for wire::RejectKind {
    fn from(kind: RejectKind) -> Self {
        match kind {
            RejectKind::Refused => Self::Refused,
            RejectKind::Expired => Self::Expired,
            RejectKind::Cancelled => Self::Cancelled,
        }
    }
}

impl TryFrom<wire::RejectKind> for RejectKind {
    type Error = WireError;

    fn try_from(kind: wire::RejectKind) -> Result<Self, WireError> {
        Ok(match kind {
            wire::RejectKind::Refused => Self::Refused,
            wire::RejectKind::Expired => Self::Expired,
            wire::RejectKind::Cancelled => Self::Cancelled,
            wire::RejectKind::Unspecified => return Err(WireError::Field("kind")),
        })
    }
}

impl From<Hello> for wire::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            protocol_min: hello.protocol.0,
            protocol_max: hello.protocol.1,
            boot: bytes_of(hello.boot.as_bytes()),
            start: bytes_of(hello.start.as_bytes()),
            facts_digest: hello.facts_digest,
            clock_ms: hello.clock.as_millis(),
            unfinished: hello
                .unfinished
                .into_iter()
                .map(|held| wire::Unfinished {
                    task: Some(held.task.into()),
                    next_frame: held.next_frame,
                    started: held.started,
                })
                .collect(),
            nonce: hello.nonce.map(Into::into),
            machine: hello.machine,
        }
    }
}

impl TryFrom<wire::Hello> for Hello {
    type Error = WireError;

    fn try_from(hello: wire::Hello) -> Result<Self, WireError> {
        if hello.unfinished.len() > limits::UNFINISHED_MAX {
            return Err(WireError::Field("unfinished"));
        }
        if hello.facts_digest.len() > 32 {
            return Err(WireError::Field("facts_digest"));
        }
        let unfinished = hello.unfinished.into_iter().map(|held| {
            Ok(Unfinished { task: task_of(held.task)?, next_frame: held.next_frame, started: held.started })
        });
        Ok(Self {
            protocol: (hello.protocol_min, hello.protocol_max),
            boot: id_of(&hello.boot, "boot")?,
            start: id_of(&hello.start, "start")?,
            clock: Timestamp::from_millis(hello.clock_ms),
            unfinished: unfinished.collect::<Result<_, WireError>>()?,
            facts_digest: hello.facts_digest,
            nonce: hello.nonce.map(TryInto::try_into).transpose()?,
            machine: text::line(&hello.machine),
        })
    }
}

impl From<Nonce> for wire::Nonce {
    fn from(nonce: Nonce) -> Self {
        Self { epoch: nonce.epoch, mac: bytes_of(&nonce.mac) }
    }
}

impl TryFrom<wire::Nonce> for Nonce {
    type Error = WireError;

    fn try_from(nonce: wire::Nonce) -> Result<Self, WireError> {
        let mac = nonce.mac[..].try_into().map_err(|_| WireError::Field("nonce.mac"))?;
        Ok(Self { epoch: nonce.epoch, mac })
    }
}

impl From<ToAgent> for wire::ControllerMessage {
    fn from(message: ToAgent) -> Self {
        use controller_message::Kind;
        let kind = match message {
            ToAgent::Welcome(welcome) => Kind::Welcome(wire::Welcome {
                protocol: welcome.protocol,
                nonce: Some(welcome.nonce.into()),
                clock_ms: welcome.clock.as_millis(),
                want_facts: welcome.want_facts,
                resume: welcome.resume.into_iter().map(|(task, next)| ack(task, next)).collect(),
                outstanding: welcome.outstanding.into_iter().map(Into::into).collect(),
            }),
            ToAgent::Offer(offer) => Kind::Offer(wire::Offer {
                task: Some(offer.task.into()),
                job: Some(offer.job.into()),
                proof: offer.proof.iter().map(|hash| bytes_of(hash)).collect(),
                ttl_ms: millis(offer.ttl),
            }),
            ToAgent::Blob(chunk) => Kind::Blob(chunk.into()),
            ToAgent::Cancel(task) => Kind::Cancel(wire::Cancel { task: Some(task.into()), before_start: false }),
            ToAgent::Withdraw(task) => Kind::Cancel(wire::Cancel { task: Some(task.into()), before_start: true }),
            ToAgent::Ack { task, next_frame } => Kind::Ack(ack(task, next_frame)),
            ToAgent::Committed(task) => Kind::Committed(wire::Committed { task: Some(task.into()) }),
            ToAgent::Drain(after) => Kind::Drain(wire::Drain { reconnect_after_ms: millis(after) }),
            ToAgent::Refused { reason, retry_after } => {
                Kind::Refused(wire::Refused { reason, retry_after_ms: millis(retry_after) })
            }
            ToAgent::Echo(token) => Kind::Echo(wire::Echo { token }),
            ToAgent::Probe(order) => Kind::Probe(order.into()),
            ToAgent::ProbeStop(sweep) => Kind::ProbeStop(wire::ProbeStop { sweep }),
            ToAgent::Renewed(certificate) => Kind::Renewed(wire::Renewed { certificate }),
        };
        Self { kind: Some(kind) }
    }
}

fn ack(task: TaskId, next_frame: u64) -> wire::Ack {
    wire::Ack { task: Some(task.into()), next_frame }
}

impl TryFrom<wire::ControllerMessage> for ToAgent {
    type Error = WireError;

    fn try_from(message: wire::ControllerMessage) -> Result<Self, WireError> {
        use controller_message::Kind;
        Ok(match present(message.kind, "kind")? {
            Kind::Welcome(welcome) => Self::Welcome(Welcome {
                protocol: welcome.protocol,
                nonce: present(welcome.nonce, "nonce")?.try_into()?,
                clock: Timestamp::from_millis(welcome.clock_ms),
                want_facts: welcome.want_facts,
                resume: welcome
                    .resume
                    .into_iter()
                    .map(|ack| Ok((task_of(ack.task)?, ack.next_frame)))
                    .collect::<Result<_, WireError>>()?,
                outstanding: welcome
                    .outstanding
                    .into_iter()
                    .map(TryInto::try_into)
                    .collect::<Result<_, WireError>>()?,
            }),
            Kind::Offer(offer) => {
                if offer.proof.len() > 32 {
                    return Err(WireError::Field("proof"));
                }
                Self::Offer(Offer {
                    task: task_of(offer.task)?,
                    job: present(offer.job, "job")?.try_into()?,
                    proof: offer.proof.iter().map(|hash| digest_of(hash, "proof")).collect::<Result<_, _>>()?,
                    ttl: Duration::from_millis(offer.ttl_ms),
                })
            }
            Kind::Blob(chunk) => Self::Blob(chunk.try_into()?),
            Kind::Cancel(cancel) if cancel.before_start => Self::Withdraw(task_of(cancel.task)?),
            Kind::Cancel(cancel) => Self::Cancel(task_of(cancel.task)?),
            Kind::Ack(ack) => Self::Ack { task: task_of(ack.task)?, next_frame: ack.next_frame },
            Kind::Committed(committed) => Self::Committed(task_of(committed.task)?),
            Kind::Drain(drain) => Self::Drain(Duration::from_millis(drain.reconnect_after_ms)),
            Kind::Refused(refused) => Self::Refused {
                reason: text::line(&refused.reason),
                retry_after: Duration::from_millis(refused.retry_after_ms),
            },
            Kind::Renewed(renewed) if renewed.certificate.len() > limits::CERTIFICATE_BYTES_MAX => {
                return Err(WireError::Field("certificate"));
            }
            Kind::Renewed(renewed) => Self::Renewed(renewed.certificate),
            Kind::Echo(echo) => Self::Echo(echo.token),
            Kind::Probe(order) => Self::Probe(order.try_into()?),
            Kind::ProbeStop(stop) => Self::ProbeStop(stop.sweep),
        })
    }
}

impl From<BlobChunk> for wire::BlobChunk {
    fn from(chunk: BlobChunk) -> Self {
        Self { digest: bytes_of(&chunk.digest), offset: chunk.offset, data: chunk.data }
    }
}

impl TryFrom<wire::BlobChunk> for BlobChunk {
    type Error = WireError;

    fn try_from(chunk: wire::BlobChunk) -> Result<Self, WireError> {
        if chunk.data.len() > limits::BLOB_CHUNK_BYTES {
            return Err(WireError::Field("data"));
        }
        Ok(Self { digest: digest_of(&chunk.digest, "digest")?, offset: chunk.offset, data: chunk.data })
    }
}
