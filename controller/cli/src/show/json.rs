//! Jobs and their events as JSON: the public contract of DESIGN 6, for programs.
//!
//! Never lossy: bytes that are no UTF-8 are `{"b64": "..."}`, in events `"b64"` in place of `"text"`.

use super::moment::rfc3339;
use super::ping::json::{PingJson, ProbeJson};
use crate::board;
use crate::client::JobDetails;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proto::event::{Event, EventKind, Stream};
use muster_proto::id::JobId;
use muster_proto::job::{JobHost, JobSpec, JobSummary};
use muster_proto::name::HostName;
use muster_proto::outcome::{Counts, Outcome};
use muster_proto::ping::{PingName, TargetName};
use muster_proto::wire::WireError;
use serde::{Serialize, Serializer};
use std::collections::HashMap;
use std::time::Duration;

/// Bytes that are text nearly always.
#[derive(Debug, PartialEq, Eq, Serialize)]
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

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Other { b64: STANDARD.encode(bytes) },
        }
    }
}

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
    None {},
    Planned { targets: u32, digest: String },
    Text { stream: &'static str, text: &'a str },
    B64 { stream: &'static str, b64: String },
    Truncated { stream: &'static str, bytes: u64 },
    Probed(ProbeJson),
    Finished(OutcomeJson),
    Cancelling { operator: String },
    Done { counts: CountsJson },
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
        EventKind::Cancelling { .. } => "cancelling",
        EventKind::Done { .. } => "done",
    }
}

fn details(kind: &EventKind) -> Details<'_> {
    match kind {
        EventKind::Planned { targets, root } => Details::Planned { targets: *targets, digest: hex(root) },
        EventKind::Offered { .. } | EventKind::Accepted { .. } | EventKind::Started { .. } => Details::None {},
        EventKind::Output { stream, data, .. } => match std::str::from_utf8(data) {
            Ok(text) => Details::Text { stream: stream.as_str(), text },
            Err(_) => Details::B64 { stream: stream.as_str(), b64: STANDARD.encode(data) },
        },
        EventKind::Truncated { stream, bytes, .. } => Details::Truncated { stream: stream.as_str(), bytes: *bytes },
        EventKind::Probed { sample, .. } => Details::Probed(sample.into()),
        EventKind::Finished { outcome, .. } => Details::Finished(outcome.into()),
        EventKind::Cancelling { operator } => Details::Cancelling { operator: operator.to_string() },
        EventKind::Done { counts } => Details::Done { counts: CountsJson(*counts) },
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
    counts: CountsJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<Vec<HostJson>>,
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
        counts: CountsJson(summary.counts),
        hosts: None,
    }
}

/// Describes a job whole. What it runs is read from its signed bytes, for display: nothing is verified here.
pub fn job(job: &JobDetails) -> Result<JobJson, WireError> {
    let ends = job.hosts.iter().map(|host| (&host.name, host.outcome.as_ref()));
    let diagnoses: HashMap<&PingName, String> =
        board::diagnoses(ends).into_iter().map(|(host, diagnosis)| (host, diagnosis.to_string())).collect();
    let host = |host: &JobHost| HostJson {
        host: host.name.host.to_string(),
        from: host.name.from.as_ref().map(ToString::to_string),
        diagnosis: diagnoses.get(&host.name.host).cloned(),
        outcome: match &host.outcome {
            Some(outcome) => outcome.into(),
            None => OutcomeJson::unfinished(host.phase.as_str()),
        },
        late: host.late.clone(),
        output: None,
    };
    let spec = JobSpec::decode(&job.signed.payload)?;
    Ok(JobJson {
        operator: spec.operator.to_string(),
        argv: argv(&spec.work.words(usize::MAX)),
        targets: spec.targets.count,
        digest: hex(&spec.targets.root),
        hosts: Some(job.hosts.iter().map(host).collect()),
        ..listed(&job.summary)
    })
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

#[derive(Serialize)]
struct OutcomeJson {
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

struct CountsJson(Counts);

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
    use muster_proto::outcome::State;
    use muster_proto::time::Timestamp;

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
            attempts_max: 1,
            concurrency: None,
            work: Work::Command(Command::new(Program::Argv(vec![b"echo".to_vec(), b"all of it".to_vec()]))),
        };
        let mut counts = Counts::default();
        counts.add(State::Indeterminate);
        let summary = JobSummary {
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
            name: "n001".parse::<HostName>().expect("a name").into(),
            agent: Some(AgentId::from_bytes([2; 16])),
            phase: Phase::Started,
            outcome: Some(Outcome::without_run(State::Indeterminate, "lost")),
            connected: true,
            late: Some("exit code 0".into()),
        };
        let whole = |argv, hosts| {
            let digest = "ab".repeat(32);
            let head = r#"{"job":"00000000000000000000000000","state":"done","operator":"ada","argv":["echo","#;
            format!(r#"{head}"{argv}"],"targets":1,"digest":"{digest}","counts":{{"indeterminate":1}}{hosts}}}"#)
        };
        assert_eq!(serde_json::to_string(&listed(&summary)).expect("JSON"), whole("all…", ""));
        let signed =
            SignedJob { payload: spec.encode(), signature: bytes::Bytes::new(), certificate: bytes::Bytes::new() };
        let details = JobDetails { summary, signed, hosts: vec![host] };
        let hosts = concat!(
            r#","hosts":[{"host":"n001","state":"indeterminate","exit_code":null,"signal":null,"reason":"lost","#,
            r#""duration_ms":null,"late":"exit code 0"}]"#
        );
        let json = serde_json::to_string(&job(&details).expect("it can be read")).expect("JSON");
        assert_eq!(json, whole("all of it", hosts));
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
