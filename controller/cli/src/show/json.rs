//! Jobs and their events as JSON: the public contract of DESIGN 6, for programs.
//!
//! Never lossy: bytes that are no UTF-8 are `{"b64": "..."}`, in events `"b64"` in place of `"text"`.

mod event;

pub use event::event_line;

use super::moment::rfc3339;
use super::ping::json::PingJson;
use super::rollout::RolloutJson;
use crate::board;
use crate::client::JobDetails;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proto::event::Stream;
use muster_proto::id::JobId;
use muster_proto::job::{JobHost, JobSpec, JobSummary};
use muster_proto::outcome::{Counts, Outcome};
use muster_proto::ping::PingName;
use muster_proto::wire::WireError;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::HashMap;
use std::time::Duration;

/// Bytes that are text nearly always.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Other {
        /// RFC 4648, section 4, with padding.
        b64: String,
    },
}

impl Bytes {
    /// The very bytes; `None` for what is no base64.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.into_bytes()),
            Self::Other { b64 } => STANDARD.decode(b64).ok(),
        }
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Other { b64: STANDARD.encode(bytes) },
        }
    }
}

/// A job as `muster job ID -o json` has it; without hosts as in `muster jobs -o json`.
#[derive(Serialize)]
pub struct JobJson {
    job: String,
    state: &'static str,
    operator: String,
    argv: Vec<Bytes>,
    targets: u32,
    digest: String,
    /// The job that it repeats at some of its hosts.
    #[serde(skip_serializing_if = "Option::is_none")]
    rerun_of: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollout: Option<RolloutJson>,
    /// The wave that is under way, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    wave: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<PauseJson>,
    counts: CountsJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<Vec<HostJson>>,
}

#[derive(Serialize)]
struct PauseJson {
    operator: Option<String>,
    reason: String,
    since: String,
}

/// A host of a job.
#[derive(Serialize)]
pub struct HostJson {
    host: String,
    /// The agent that looks, of a ping.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(flatten)]
    outcome: OutcomeJson,
    /// Which try it was, from 1.
    attempt: u32,
    /// Until when it may come back, if nobody waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_until: Option<String>,
    /// The job of the family that this is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
    /// What all looks at the host mean together, where they do not agree.
    #[serde(skip_serializing_if = "Option::is_none")]
    diagnosis: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    late: Option<String>,
    #[serde(flatten)]
    output: Option<HostOutput>,
}

/// What a host wrote.
#[derive(Serialize)]
pub struct HostOutput {
    /// Its standard output.
    pub stdout: Bytes,
    /// Its standard error.
    pub stderr: Bytes,
    /// Bytes of both that are missing.
    pub dropped: u64,
}

/// Describes a job in a list, where words may be cut.
pub fn listed(summary: &JobSummary) -> JobJson {
    JobJson {
        job: summary.job.to_string(),
        state: summary.state.as_str(),
        operator: summary.operator.to_string(),
        argv: argv(&summary.argv),
        targets: summary.targets.count,
        digest: hex(&summary.targets.root),
        rerun_of: summary.rerun_of.map(|job| job.to_string()),
        rollout: None,
        wave: None,
        paused: None,
        counts: CountsJson(summary.counts),
        hosts: None,
    }
}

/// Describes a job whole. What it runs is read from its signed bytes, for display: nothing is verified here.
pub fn job(job: &JobDetails) -> Result<JobJson, WireError> {
    let ends = job.hosts.iter().map(|host| (&host.name, host.outcome.as_ref()));
    let diagnoses: HashMap<&PingName, String> =
        board::diagnoses(ends).into_iter().map(|(host, diagnosis)| (host, diagnosis.to_string())).collect();
    let host = |host: &JobHost| HostJson { diagnosis: diagnoses.get(&host.name.host).cloned(), ..HostJson::of(host) };
    let spec = JobSpec::decode(&job.signed.payload)?;
    Ok(JobJson {
        operator: spec.operator.to_string(),
        argv: argv(&spec.work.words(usize::MAX)),
        targets: spec.targets.count,
        digest: hex(&spec.targets.root),
        rollout: spec.work.command().map(|_| RolloutJson::of(&spec.rollout, spec.targets.count)),
        wave: job.wave.filter(|_| !spec.rollout.waves.is_empty()),
        paused: job.paused.as_ref().map(|pause| PauseJson {
            operator: pause.operator.as_ref().map(ToString::to_string),
            reason: pause.reason.clone(),
            since: rfc3339(pause.since),
        }),
        hosts: Some(job.hosts.iter().map(host).collect()),
        ..listed(&job.summary)
    })
}

impl HostJson {
    /// Where a host stands.
    pub fn of(host: &JobHost) -> Self {
        Self {
            host: host.name.host.to_string(),
            from: host.name.from.as_ref().map(ToString::to_string),
            outcome: match &host.outcome {
                Some(outcome) => outcome.into(),
                None => OutcomeJson::unfinished(host.phase.as_str()),
            },
            attempt: host.attempt.0,
            queued_until: host.queued_until.map(rfc3339),
            job: None,
            diagnosis: None,
            late: host.late.clone(),
            output: None,
        }
    }

    /// The same, of this job of a family.
    pub fn of_run(job: JobId, host: &JobHost) -> Self {
        Self { job: Some(job.to_string()), ..Self::of(host) }
    }
}

impl JobJson {
    /// Adds what the hosts wrote, and leaves out the hosts without: `output` is asked by place in the frozen list.
    pub fn with_output(mut self, mut output: impl FnMut(usize) -> Option<HostOutput>) -> Self {
        let hosts = self.hosts.take().unwrap_or_default();
        let with = |(place, host)| Some(HostJson { output: Some(output(place)?), ..host });
        self.hosts = Some(hosts.into_iter().enumerate().filter_map(with).collect());
        self
    }
}

/// Words of a command.
pub fn argv(words: &[bytes::Bytes]) -> Vec<Bytes> {
    words.iter().map(|word| Bytes::from(&word[..])).collect()
}

/// How a host ended, or how far it is.
#[derive(Serialize)]
pub struct OutcomeJson {
    state: &'static str,
    exit_code: Option<u8>,
    signal: Option<u8>,
    reason: Option<String>,
    duration_ms: Option<u64>,
    /// What was measured, of a ping.
    #[serde(skip_serializing_if = "Option::is_none")]
    ping: Option<Box<PingJson>>,
}

impl OutcomeJson {
    const fn unfinished(state: &'static str) -> Self {
        Self { state, exit_code: None, signal: None, reason: None, duration_ms: None, ping: None }
    }
}

impl From<&Outcome> for OutcomeJson {
    fn from(outcome: &Outcome) -> Self {
        Self {
            state: outcome.state.as_str(),
            exit_code: outcome.exit_code,
            signal: outcome.signal,
            reason: outcome.reason.clone(),
            duration_ms: outcome.duration.map(millis),
            ping: PingJson::of(outcome).map(Box::new),
        }
    }
}

/// Hosts that ended, by state.
pub struct CountsJson(pub Counts);

impl Serialize for CountsJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(state, count)| (state.as_str(), count)))
    }
}

/// A span as programs have it; 585 million years are more than enough.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Digits and letters, lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 bytes from what [`hex`] makes of them.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let pairs = digits?;
    let bytes: Vec<u8> = pairs.chunks_exact(2).filter_map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect();
    if pairs.len() == 64 { bytes.try_into().ok() } else { None }
}

/// A host's output as it is gathered for `-o json`.
#[derive(Debug, Default)]
pub struct Gathered {
    streams: [Vec<u8>; 2],
    dropped: u64,
}

impl Gathered {
    /// Adds a piece.
    pub fn output(&mut self, stream: Stream, data: &[u8]) {
        self.streams[stream as usize].extend_from_slice(data);
    }

    /// Counts what is missing.
    pub const fn truncated(&mut self, bytes: u64) {
        self.dropped = self.dropped.saturating_add(bytes);
    }
}

impl From<Gathered> for HostOutput {
    fn from(gathered: Gathered) -> Self {
        let [stdout, stderr] = gathered.streams.map(|bytes| match String::from_utf8(bytes) {
            Ok(text) => Bytes::Text(text),
            Err(error) => Bytes::from(error.as_bytes()),
        });
        Self { stdout, stderr, dropped: gathered.dropped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::command::{Command, Program};
    use muster_proto::id::{AgentId, ClusterId};
    use muster_proto::job::{JobState, Phase, SignedJob, TargetsDigest, Work};
    use muster_proto::name::HostName;
    use muster_proto::outcome::State;
    use muster_proto::time::Timestamp;

    #[test]
    fn jobs_have_the_form_of_the_contract() {
        let root = [0xab; 32];
        let spec = JobSpec {
            cluster: ClusterId::from_bytes([1; 16]),
            job: JobId::from_bytes([0; 16]),
            operator: "ada".parse().expect("a name"),
            created_at: Timestamp::from_millis(1_795_341_600_000),
            start_before: Timestamp::from_millis(1_795_341_700_000),
            deliver: Duration::from_secs(30),
            targets: TargetsDigest { root, count: 1 },
            rollout: muster_proto::rollout::Rollout::default(),
            rerun_of: None,
            work: Work::Command(Command::new(Program::Argv(vec![b"echo".to_vec(), b"all of it".to_vec()]))),
        };
        let mut counts = Counts::default();
        counts.add(State::Indeterminate);
        let summary = JobSummary {
            rerun_of: None,
            job: spec.job,
            state: JobState::Done,
            operator: spec.operator.clone(),
            title: "echo 'all…".into(),
            argv: vec!["echo".into(), "all…".into()],
            targets: spec.targets,
            counts,
            created_at: spec.created_at,
            done_at: None,
        };
        let host = JobHost {
            attempt: muster_proto::id::Attempt::FIRST,
            queued_until: None,
            name: "n001".parse::<HostName>().expect("a name").into(),
            agent: Some(AgentId::from_bytes([2; 16])),
            phase: Phase::Started,
            outcome: Some(Outcome::without_run(State::Indeterminate, "lost")),
            connected: true,
            late: Some("exit code 0".into()),
        };
        let rollout = concat!(
            r#","rollout":{"waves":[],"wave_pause_ms":0,"gate":null,"max_fail":null,"splay_ms":0,"retries":0,"#,
            r#""retry_failed":0,"offline":"window"}"#
        );
        let whole = |argv, rollout, hosts| {
            let digest = "ab".repeat(32);
            let head = r#"{"job":"00000000000000000000000000","state":"done","operator":"ada","argv":["echo","#;
            format!(
                r#"{head}"{argv}"],"targets":1,"digest":"{digest}"{rollout},"counts":{{"indeterminate":1}}{hosts}}}"#
            )
        };
        assert_eq!(serde_json::to_string(&listed(&summary)).expect("JSON"), whole("all…", "", ""));
        let signed =
            SignedJob { payload: spec.encode(), signature: bytes::Bytes::new(), certificate: bytes::Bytes::new() };
        let details = JobDetails { summary, signed, hosts: vec![host], lineage: Vec::new(), wave: None, paused: None };
        let hosts = concat!(
            r#","hosts":[{"host":"n001","state":"indeterminate","exit_code":null,"signal":null,"reason":"lost","#,
            r#""duration_ms":null,"attempt":1,"late":"exit code 0"}]"#
        );
        let json = serde_json::to_string(&job(&details).expect("it can be read")).expect("JSON");
        assert_eq!(json, whole("all of it", rollout, hosts));
    }

    #[test]
    fn words_that_are_no_text_lose_nothing() {
        let words = ["a".into(), bytes::Bytes::from_static(b"\xff")];
        assert_eq!(serde_json::to_string(&argv(&words)).expect("JSON"), r#"["a",{"b64":"/w=="}]"#);
    }

    #[test]
    fn gathered_output_is_text_where_the_whole_is_text() {
        let mut gathered = Gathered::default();
        gathered.output(Stream::Stdout, b"\xe2\x82");
        gathered.output(Stream::Stdout, b"\xac");
        gathered.output(Stream::Stderr, b"\xff");
        gathered.truncated(5);
        let json = serde_json::to_string(&HostOutput::from(gathered)).expect("JSON");
        assert_eq!(json, r#"{"stdout":"€","stderr":{"b64":"/w=="},"dropped":5}"#);
    }
}
