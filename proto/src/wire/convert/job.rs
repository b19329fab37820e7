//! Signed payloads, targets, job summaries.

use super::ping::some_name;
use super::{WireError, bytes_of, digest_of, id_of, millis, parsed, present, some_id_of};
use crate::command::{BlobRef, Command, EnvVar, OutputLimit, Program};
use crate::id::Attempt;
use crate::job::{JobHost, JobSpec, JobState, JobSummary, Phase, SignedJob, Target, TargetsDigest, Work};
use crate::limits;
use crate::ping::TargetName;
use crate::rollout::Rollout;
use crate::text;
use crate::time::Timestamp;
use crate::wire;
use bytes::Bytes;
use prost::Message as _;
use std::time::Duration;

impl JobSpec {
    /// The bytes that are signed.
    pub fn encode(&self) -> Bytes {
        let work = match &self.work {
            Work::Command(command) => wire::job_payload::Work::Command(command.into()),
            Work::Ping(spec) => wire::job_payload::Work::Probe(spec.into()),
        };
        let payload = wire::JobPayload {
            format: limits::PAYLOAD_FORMAT,
            cluster: bytes_of(self.cluster.as_bytes()),
            job: bytes_of(self.job.as_bytes()),
            operator: self.operator.to_string(),
            created_at_ms: self.created_at.as_millis(),
            start_before_ms: self.start_before.as_millis(),
            deliver_ms: millis(self.deliver),
            targets_root: bytes_of(&self.targets.root),
            targets: self.targets.count,
            attempts_max: self.rollout.attempts_max(),
            concurrency: self.rollout.concurrency.unwrap_or(0),
            waves: self.rollout.waves.clone(),
            max_fail: self.rollout.max_fail.map(Into::into),
            gate: self.rollout.gate.as_ref().map(Into::into),
            wave_pause_ms: millis(self.rollout.wave_pause),
            splay_ms: millis(self.rollout.splay),
            retry_failed: self.rollout.retry_failed,
            offline: self.rollout.offline.into(),
            rerun_of: self.rerun_of.map(|job| bytes_of(job.as_bytes())).unwrap_or_default(),
            work: Some(work),
        };
        payload.encode_to_vec().into()
    }

    /// Reads signed bytes. Refuses fields and forms that this version does not know: what is not understood could be
    /// a restriction.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        if bytes.len() > limits::PAYLOAD_BYTES_MAX {
            return Err(WireError::Field("payload"));
        }
        let payload = wire::JobPayload::decode(bytes.clone()).map_err(|_| WireError::Payload)?;
        if payload.format != limits::PAYLOAD_FORMAT || payload.encode_to_vec() != *bytes {
            return Err(WireError::Payload);
        }
        let work = match payload.work {
            Some(wire::job_payload::Work::Command(command)) => Work::Command(command.try_into()?),
            Some(wire::job_payload::Work::Probe(probe)) => Work::Ping(probe.try_into()?),
            Some(wire::job_payload::Work::Check(_)) | None => return Err(WireError::Payload),
        };
        let retries = payload.attempts_max.checked_sub(1).and_then(|again| again.checked_sub(payload.retry_failed));
        let rollout = Rollout {
            concurrency: (payload.concurrency > 0).then_some(payload.concurrency),
            waves: payload.waves,
            wave_pause: Duration::from_millis(payload.wave_pause_ms),
            gate: payload.gate.map(TryInto::try_into).transpose()?,
            max_fail: payload.max_fail.map(Into::into),
            splay: Duration::from_millis(payload.splay_ms),
            retries: present(retries, "attempts_max")?,
            retry_failed: payload.retry_failed,
            offline: super::rollout::offline_of(payload.offline)?,
        };
        let spec = Self {
            cluster: id_of(&payload.cluster, "cluster")?,
            job: id_of(&payload.job, "job")?,
            operator: parsed(&payload.operator, "operator")?,
            created_at: Timestamp::from_millis(payload.created_at_ms),
            start_before: Timestamp::from_millis(payload.start_before_ms),
            deliver: Duration::from_millis(payload.deliver_ms),
            targets: TargetsDigest { root: digest_of(&payload.targets_root, "targets_root")?, count: payload.targets },
            rollout,
            rerun_of: some_id_of(&payload.rerun_of, "rerun_of")?,
            work,
        };
        spec.check()?;
        Ok(spec)
    }
}

impl From<&Command> for wire::Command {
    fn from(command: &Command) -> Self {
        use wire::command::Program as Wire;
        let words = |words: &[Vec<u8>]| words.iter().map(|word| bytes_of(word)).collect();
        let (output_head, output_tail) = match command.output {
            OutputLimit::Kept { head, tail } => (head, tail),
            OutputLimit::Unlimited => (0, 0),
        };
        Self {
            program: Some(match &command.program {
                Program::Argv(argv) => Wire::Argv(wire::Argv { words: words(argv) }),
                Program::Shell(line) => Wire::Shell(bytes_of(line)),
                Program::Script { content, args } => {
                    Wire::Script(wire::Script { content: Some((*content).into()), args: words(args) })
                }
            }),
            env: command
                .env
                .iter()
                .map(|var| wire::EnvVar { name: var.name.clone(), value: bytes_of(&var.value) })
                .collect(),
            run_as: command.run_as.clone().unwrap_or_default(),
            cwd: bytes_of(command.cwd.as_deref().unwrap_or_default()),
            stdin: command.stdin.map(Into::into),
            timeout_ms: millis(command.timeout),
            grace_ms: millis(command.grace),
            output_head,
            output_tail,
            output_unlimited: command.output == OutputLimit::Unlimited,
        }
    }
}

impl TryFrom<wire::Command> for Command {
    type Error = WireError;

    fn try_from(command: wire::Command) -> Result<Self, WireError> {
        use wire::command::Program as Wire;
        let words = |words: Vec<Bytes>| words.into_iter().map(Into::into).collect();
        let command = Self {
            program: match present(command.program, "program")? {
                Wire::Argv(argv) => Program::Argv(words(argv.words)),
                Wire::Shell(line) => Program::Shell(line.into()),
                Wire::Script(script) => Program::Script {
                    content: present(script.content, "script.content")?.try_into()?,
                    args: words(script.args),
                },
            },
            env: command.env.into_iter().map(|var| EnvVar { name: var.name, value: var.value.into() }).collect(),
            run_as: (!command.run_as.is_empty()).then_some(command.run_as),
            cwd: (!command.cwd.is_empty()).then(|| command.cwd.into()),
            stdin: command.stdin.map(TryInto::try_into).transpose()?,
            timeout: Duration::from_millis(command.timeout_ms),
            grace: Duration::from_millis(command.grace_ms),
            output: match (command.output_unlimited, command.output_head, command.output_tail) {
                (false, head, tail) => OutputLimit::Kept { head, tail },
                (true, 0, 0) => OutputLimit::Unlimited,
                (true, ..) => return Err(WireError::Field("output_unlimited")),
            },
        };
        command.check()?;
        Ok(command)
    }
}

impl From<BlobRef> for wire::Blob {
    fn from(blob: BlobRef) -> Self {
        Self { digest: bytes_of(&blob.digest), size: blob.size }
    }
}

impl TryFrom<wire::Blob> for BlobRef {
    type Error = WireError;

    fn try_from(blob: wire::Blob) -> Result<Self, WireError> {
        Ok(Self { digest: digest_of(&blob.digest, "digest")?, size: blob.size })
    }
}

impl From<SignedJob> for wire::SignedJob {
    fn from(job: SignedJob) -> Self {
        Self { payload: job.payload, signature: job.signature, certificate: job.certificate }
    }
}

impl TryFrom<wire::SignedJob> for SignedJob {
    type Error = WireError;

    fn try_from(job: wire::SignedJob) -> Result<Self, WireError> {
        if job.payload.is_empty() || job.payload.len() > limits::PAYLOAD_BYTES_MAX {
            return Err(WireError::Field("payload"));
        }
        if job.signature.len() != 64 {
            return Err(WireError::Field("signature"));
        }
        if job.certificate.len() > limits::CERTIFICATE_BYTES_MAX {
            return Err(WireError::Field("certificate"));
        }
        Ok(Self { payload: job.payload, signature: job.signature, certificate: job.certificate })
    }
}

impl TryFrom<wire::PlannedTarget> for (Target, bool) {
    type Error = WireError;

    fn try_from(planned: wire::PlannedTarget) -> Result<Self, WireError> {
        let target = Target { agent: id_of(&planned.agent, "agent")?, name: parsed(&planned.name, "name")? };
        Ok((target, planned.connected))
    }
}

impl From<JobState> for wire::JobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Queued => Self::Queued,
            JobState::Active => Self::Active,
            JobState::Paused => Self::Paused,
            JobState::Cancelling => Self::Cancelling,
            JobState::Done => Self::Done,
        }
    }
}

impl TryFrom<wire::JobState> for JobState {
    type Error = WireError;

    fn try_from(state: wire::JobState) -> Result<Self, WireError> {
        Ok(match state {
            wire::JobState::Queued => Self::Queued,
            wire::JobState::Active => Self::Active,
            wire::JobState::Paused => Self::Paused,
            wire::JobState::Cancelling => Self::Cancelling,
            wire::JobState::Done => Self::Done,
            wire::JobState::Unspecified => return Err(WireError::Field("state")),
        })
    }
}

impl From<JobSummary> for wire::JobSummary {
    fn from(job: JobSummary) -> Self {
        Self {
            job: bytes_of(job.job.as_bytes()),
            state: wire::JobState::from(job.state).into(),
            operator: job.operator.to_string(),
            title: job.title,
            argv: job.argv,
            targets: job.targets.count,
            root: bytes_of(&job.targets.root),
            counts: super::event::counts_to_wire(&job.counts),
            created_at_ms: job.created_at.as_millis(),
            done_at_ms: job.done_at.map_or(0, Timestamp::as_millis),
            rerun_of: job.rerun_of.map(|job| bytes_of(job.as_bytes())).unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::JobSummary> for JobSummary {
    type Error = WireError;

    fn try_from(job: wire::JobSummary) -> Result<Self, WireError> {
        Ok(Self {
            job: id_of(&job.job, "job")?,
            state: job.state().try_into()?,
            operator: parsed(&job.operator, "operator")?,
            rerun_of: some_id_of(&job.rerun_of, "rerun_of")?,
            title: text::line(&job.title),
            targets: TargetsDigest { root: digest_of(&job.root, "root")?, count: job.targets },
            counts: super::event::counts_of(&job.counts)?,
            argv: job.argv,
            created_at: Timestamp::from_millis(job.created_at_ms),
            done_at: (job.done_at_ms != 0).then_some(Timestamp::from_millis(job.done_at_ms)),
        })
    }
}

pub(super) fn phase_of(word: &str) -> Result<Phase, WireError> {
    let phases = [Phase::Planned, Phase::Offered, Phase::Accepted, Phase::Started];
    present(phases.into_iter().find(|phase| phase.as_str() == word), "phase")
}

impl From<JobHost> for wire::JobHost {
    fn from(host: JobHost) -> Self {
        Self {
            agent: host.agent.map(|agent| bytes_of(agent.as_bytes())).unwrap_or_default(),
            name: host.name.host.to_string(),
            from: host.name.from.map(|from| from.to_string()).unwrap_or_default(),
            phase: host.phase.as_str().to_owned(),
            attempt: host.attempt.0,
            queued_until_ms: host.queued_until.map_or(0, Timestamp::as_millis),
            outcome: host.outcome.map(Into::into),
            connected: host.connected,
            late: host.late.unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::JobHost> for JobHost {
    type Error = WireError;

    fn try_from(host: wire::JobHost) -> Result<Self, WireError> {
        Ok(Self {
            name: TargetName { from: some_name(&host.from)?, host: parsed(&host.name, "name")? },
            agent: some_id_of(&host.agent, "agent")?,
            phase: phase_of(&host.phase)?,
            attempt: Attempt(host.attempt),
            queued_until: (host.queued_until_ms != 0).then_some(Timestamp::from_millis(host.queued_until_ms)),
            outcome: host.outcome.map(TryInto::try_into).transpose()?,
            connected: host.connected,
            late: (!host.late.is_empty()).then(|| text::line(&host.late)),
        })
    }
}
