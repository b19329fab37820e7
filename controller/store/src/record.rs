//! The stored form of what the vocabulary means: private, versioned, and found nowhere else.
//!
//! Records are protobuf messages: fields may be added, never renumbered. A block of events is a version byte and its
//! records, each with its length before it; an event's `seq` is its place in the block. What a reader does not know it
//! refuses: a store is never read by an older version (`OpenError::Newer`), so that only damage can look like this.

mod fleet;
mod ping;
mod rollout;
mod schedule;

pub(crate) use fleet::{
    Parted, facts_of, facts_to_bytes, labels_of, labels_to_bytes, party_of, party_to_bytes, quarantine_of,
    quarantine_to_bytes,
};
pub(crate) use schedule::{interval_of, interval_to_bytes, schedule_of, schedule_to_bytes};

use crate::StoreError;
use crate::output::Place;
use bytes::{BufMut as _, Bytes};
use muster_proto::event::{Event, EventKind, Stream};
use muster_proto::job::{JobState, Target, TargetList};
use muster_proto::limits;
use muster_proto::outcome::{Counts, Outcome, State};
use muster_proto::ping::{PingHost, PingList};
use muster_proto::time::Timestamp;
use ping::{PingHostRecord, ReportRecord, SampleRecord, nanos};
use prost::Message as _;
use rollout::{GateRecord, PausedRecord, QueuedRecord, RetryingRecord, WaveRecord};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// Layout of a block of events.
const BLOCK_VERSION: u8 = 1;
/// Behind the version: the beginning of the SHA-256 of what follows, so that a disk that lies is not believed.
const SUM_BYTES: usize = 8;
/// How larger output lies in its job's file.
const CODEC: &str = "zstd";
/// A block that has reached this size takes no more events.
const BLOCK_BYTES_FULL: usize = 256 << 10;
/// What an outline has for output.
static ZEROS: [u8; limits::OUTPUT_FRAME_BYTES_MAX] = [0; limits::OUTPUT_FRAME_BYTES_MAX];
/// Output up to this size lies in its event's record, larger output in the job's file.
pub(crate) const INLINE_BYTES_MAX: usize = 1 << 10;

/// Consecutive events in stored form.
#[derive(Debug)]
pub(crate) struct Block {
    pub first_seq: u64,
    pub last_seq: u64,
    pub body: Vec<u8>,
}

/// An event as it stands in a block; where `place` is given, its output is empty and lies there.
#[derive(Debug, PartialEq)]
pub(crate) struct StoredEvent {
    pub event: Event,
    pub place: Option<Place>,
}

impl StoredEvent {
    /// Bytes of its output, wherever they lie.
    pub(crate) fn output_bytes(&self) -> usize {
        match (self.place, &self.event.kind) {
            (Some(place), _) => place.length as usize,
            (None, EventKind::Output { data, .. }) => data.len(),
            (None, _) => 0,
        }
    }

    /// Bytes it takes in the reader's memory, roughly.
    pub(crate) fn cost(&self) -> usize {
        size_of::<Event>() + self.output_bytes()
    }

    /// The event with zeros in place of its output, which take no memory of their own.
    pub(crate) fn outline(mut self) -> Event {
        let length = self.output_bytes();
        if let EventKind::Output { data, .. } = &mut self.event.kind {
            *data = ZEROS.get(..length).map_or_else(|| vec![0; length].into(), Bytes::from_static);
        }
        self.event
    }
}

/// The output that goes to the job's file, in the events' order.
pub(crate) fn large_output(events: &[Event]) -> Vec<Bytes> {
    let large = |event: &Event| match &event.kind {
        EventKind::Output { data, .. } if data.len() > INLINE_BYTES_MAX => Some(data.clone()),
        _ => None,
    };
    events.iter().filter_map(large).collect()
}

/// Packs consecutive events; `places` has one place for each of their [`large_output`].
pub(crate) fn pack(events: &[Event], places: &[Place]) -> Vec<Block> {
    let (mut blocks, mut places): (Vec<Block>, _) = (Vec::new(), places.iter().copied());
    for event in events {
        if blocks.last().is_none_or(|block| block.body.len() >= BLOCK_BYTES_FULL) {
            blocks.push(Block { first_seq: event.seq, last_seq: event.seq, body: vec![BLOCK_VERSION; 1 + SUM_BYTES] });
        }
        if let Some(block) = blocks.last_mut() {
            let record =
                EventRecord { time_ms: event.time.as_millis(), kind: Some(Kind::of(&event.kind, &mut places)) };
            block.last_seq = event.seq;
            block.body.put_slice(&record.encode_length_delimited_to_vec());
        }
    }
    for block in &mut blocks {
        let (head, records) = block.body.split_at_mut(1 + SUM_BYTES);
        head[1..].copy_from_slice(&sum(records));
    }
    blocks
}

fn sum(records: &[u8]) -> [u8; SUM_BYTES] {
    let hash = Sha256::digest(records);
    std::array::from_fn(|place| hash[place])
}

/// Reads a block's events one by one.
pub(crate) fn unpack(first_seq: u64, mut body: Bytes) -> impl Iterator<Item = Result<StoredEvent, StoreError>> {
    let mut seq = first_seq;
    let head = body.split_to(body.len().min(1 + SUM_BYTES));
    let known = head.first() == Some(&BLOCK_VERSION) && head[1..] == sum(&body);
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || (known && body.is_empty()) {
            return None;
        }
        let event = known.then(|| EventRecord::decode_length_delimited(&mut body).ok()?.read(seq)).flatten();
        failed = event.is_none();
        seq += 1;
        Some(event.ok_or_else(|| StoreError::Damaged(format!("event {}", seq - 1))))
    })
}

#[derive(Clone, PartialEq, prost::Message)]
struct EventRecord {
    #[prost(int64, tag = "1")]
    time_ms: i64,
    #[prost(oneof = "Kind", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "2")]
    Planned(PlannedRecord),
    #[prost(uint32, tag = "3")]
    Offered(u32),
    #[prost(uint32, tag = "4")]
    Accepted(u32),
    #[prost(uint32, tag = "5")]
    Started(u32),
    #[prost(message, tag = "6")]
    Output(OutputRecord),
    #[prost(message, tag = "7")]
    Truncated(TruncatedRecord),
    #[prost(message, tag = "8")]
    Finished(FinishedRecord),
    #[prost(string, tag = "9")]
    Cancelling(String),
    #[prost(message, tag = "10")]
    Done(CountsRecord),
    #[prost(message, tag = "11")]
    Probed(SampleRecord),
    #[prost(message, tag = "12")]
    Wave(WaveRecord),
    #[prost(message, tag = "13")]
    Queued(QueuedRecord),
    #[prost(message, tag = "14")]
    Retrying(RetryingRecord),
    #[prost(message, tag = "15")]
    Gate(GateRecord),
    #[prost(message, tag = "16")]
    Paused(PausedRecord),
    #[prost(string, tag = "17")]
    Resumed(String),
    #[prost(string, tag = "18")]
    Stopping(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct PlannedRecord {
    #[prost(uint32, tag = "1")]
    targets: u32,
    #[prost(bytes = "vec", tag = "2")]
    root: Vec<u8>,
}

/// `descriptor` is 1 or 2, as the program sees it.
#[derive(Clone, PartialEq, prost::Message)]
struct OutputRecord {
    #[prost(uint32, tag = "1")]
    target: u32,
    #[prost(uint32, tag = "2")]
    descriptor: u32,
    #[prost(uint64, tag = "3")]
    offset: u64,
    #[prost(bytes = "bytes", tag = "4")]
    data: Bytes,
    #[prost(message, optional, tag = "5")]
    place: Option<PlaceRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PlaceRecord {
    #[prost(uint64, tag = "1")]
    offset: u64,
    #[prost(uint32, tag = "2")]
    stored: u32,
    #[prost(uint32, tag = "3")]
    length: u32,
    #[prost(string, tag = "4")]
    codec: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TruncatedRecord {
    #[prost(uint32, tag = "1")]
    target: u32,
    #[prost(uint32, tag = "2")]
    descriptor: u32,
    #[prost(uint64, tag = "3")]
    bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FinishedRecord {
    #[prost(uint32, tag = "1")]
    target: u32,
    #[prost(string, tag = "2")]
    state: String,
    #[prost(uint32, optional, tag = "3")]
    exit_code: Option<u32>,
    #[prost(uint32, optional, tag = "4")]
    signal: Option<u32>,
    #[prost(string, optional, tag = "5")]
    reason: Option<String>,
    #[prost(uint64, optional, tag = "6")]
    duration_ns: Option<u64>,
    #[prost(message, optional, tag = "7")]
    ping: Option<ReportRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CountsRecord {
    #[prost(message, repeated, tag = "1")]
    counts: Vec<CountRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CountRecord {
    #[prost(string, tag = "1")]
    state: String,
    #[prost(uint32, tag = "2")]
    count: u32,
}

impl EventRecord {
    /// `None` is damage.
    fn read(self, seq: u64) -> Option<StoredEvent> {
        let mut place = None;
        let kind = match self.kind? {
            Kind::Planned(it) => EventKind::Planned { targets: it.targets, root: it.root.try_into().ok()? },
            Kind::Offered(target) => EventKind::Offered { target },
            Kind::Accepted(target) => EventKind::Accepted { target },
            Kind::Started(target) => EventKind::Started { target },
            Kind::Output(it) => {
                if let Some(elsewhere) = it.place {
                    place = Some(elsewhere.read()?);
                }
                let stream = stream_of(it.descriptor)?;
                EventKind::Output { target: it.target, stream, offset: it.offset, data: it.data }
            }
            Kind::Truncated(it) => {
                EventKind::Truncated { target: it.target, stream: stream_of(it.descriptor)?, bytes: it.bytes }
            }
            Kind::Finished(it) => {
                let (target, outcome) = it.read()?;
                EventKind::Finished { target, outcome }
            }
            Kind::Probed(it) => EventKind::Probed { target: it.target, sample: it.read()? },
            Kind::Wave(it) => EventKind::Wave { number: it.number, first: it.first, targets: it.targets },
            Kind::Queued(it) => EventKind::Queued { target: it.target, until: Timestamp::from_millis(it.until_ms) },
            Kind::Retrying(it) => it.read()?,
            Kind::Gate(it) => it.read()?,
            Kind::Paused(it) => it.read()?,
            Kind::Resumed(operator) => EventKind::Resumed { operator: operator.parse().ok()? },
            Kind::Stopping(reason) => EventKind::Stopping { reason },
            Kind::Cancelling(operator) => EventKind::Cancelling { operator: operator.parse().ok()? },
            Kind::Done(it) => EventKind::Done { counts: it.read()? },
        };
        Some(StoredEvent { event: Event { seq, time: Timestamp::from_millis(self.time_ms), kind }, place })
    }
}

impl Kind {
    fn of(kind: &EventKind, places: &mut impl Iterator<Item = Place>) -> Self {
        match kind {
            EventKind::Planned { targets, root } => {
                Self::Planned(PlannedRecord { targets: *targets, root: root.to_vec() })
            }
            EventKind::Offered { target } => Self::Offered(*target),
            EventKind::Accepted { target } => Self::Accepted(*target),
            EventKind::Started { target } => Self::Started(*target),
            EventKind::Output { target, stream, offset, data } => {
                let place = if data.len() > INLINE_BYTES_MAX { places.next() } else { None };
                Self::Output(OutputRecord {
                    target: *target,
                    descriptor: descriptor_of(*stream),
                    offset: *offset,
                    data: if place.is_some() { Bytes::new() } else { data.clone() },
                    place: place.map(PlaceRecord::of),
                })
            }
            EventKind::Truncated { target, stream, bytes } => {
                Self::Truncated(TruncatedRecord { target: *target, descriptor: descriptor_of(*stream), bytes: *bytes })
            }
            EventKind::Finished { target, outcome } => Self::Finished(FinishedRecord::of(*target, outcome)),
            EventKind::Wave { number, first, targets } => {
                Self::Wave(WaveRecord { number: *number, first: *first, targets: *targets })
            }
            EventKind::Queued { target, until } => {
                Self::Queued(QueuedRecord { target: *target, until_ms: until.as_millis() })
            }
            EventKind::Retrying { target, attempt, outcome, at } => {
                Self::Retrying(RetryingRecord::of(*target, *attempt, outcome, *at))
            }
            EventKind::Gate { target, step } => Self::Gate(GateRecord::of(*target, step)),
            EventKind::Paused { operator, reason } => Self::Paused(PausedRecord::of(operator.as_ref(), reason)),
            EventKind::Resumed { operator } => Self::Resumed(operator.to_string()),
            EventKind::Stopping { reason } => Self::Stopping(reason.clone()),
            EventKind::Probed { target, sample } => Self::Probed(SampleRecord::of(*target, sample)),
            EventKind::Cancelling { operator } => Self::Cancelling(operator.to_string()),
            EventKind::Done { counts } => Self::Done(CountsRecord::of(counts)),
        }
    }
}

impl FinishedRecord {
    fn of(target: u32, outcome: &Outcome) -> Self {
        Self {
            target,
            state: outcome.state.as_str().to_owned(),
            exit_code: outcome.exit_code.map(u32::from),
            signal: outcome.signal.map(u32::from),
            reason: outcome.reason.clone(),
            duration_ns: outcome.duration.map(nanos),
            ping: outcome.ping.as_deref().map(ReportRecord::of),
        }
    }

    fn read(self) -> Option<(u32, Outcome)> {
        let byte = |number: Option<u32>| number.map(u8::try_from).transpose().ok();
        let outcome = Outcome {
            state: self.state.parse().ok()?,
            exit_code: byte(self.exit_code)?,
            signal: byte(self.signal)?,
            reason: self.reason,
            duration: self.duration_ns.map(Duration::from_nanos),
            ping: match self.ping {
                Some(report) => Some(Box::new(report.read()?)),
                None => None,
            },
        };
        Some((self.target, outcome))
    }
}

const fn descriptor_of(stream: Stream) -> u32 {
    match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    }
}

const fn stream_of(descriptor: u32) -> Option<Stream> {
    match descriptor {
        1 => Some(Stream::Stdout),
        2 => Some(Stream::Stderr),
        _ => None,
    }
}

impl PlaceRecord {
    fn of(place: Place) -> Self {
        Self { offset: place.offset, stored: place.stored, length: place.length, codec: CODEC.to_owned() }
    }

    fn read(self) -> Option<Place> {
        let place = Place { offset: self.offset, stored: self.stored, length: self.length };
        (self.codec == CODEC).then_some(place)
    }
}

impl CountsRecord {
    fn of(counts: &Counts) -> Self {
        let record = |(state, count): (State, u32)| CountRecord { state: state.as_str().to_owned(), count };
        Self { counts: counts.iter().map(record).collect() }
    }

    fn read(self) -> Option<Counts> {
        let mut counts = Counts::default();
        for CountRecord { state, count } in self.counts {
            counts.add_many(state.parse().ok()?, count);
        }
        Some(counts)
    }
}

/// How a job's counts are stored.
pub(crate) fn counts_to_bytes(counts: &Counts) -> Vec<u8> {
    CountsRecord::of(counts).encode_to_vec()
}

/// Reads [`counts_to_bytes`]; `None` is damage.
pub(crate) fn counts_of(bytes: &[u8]) -> Option<Counts> {
    CountsRecord::decode(bytes).ok()?.read()
}

/// Reads [`JobState::as_str`]; `None` is damage.
pub(crate) fn job_state_of(word: &str) -> Option<JobState> {
    use JobState::{Active, Cancelling, Done, Paused, Queued};
    [Queued, Active, Paused, Cancelling, Done].into_iter().find(|state| state.as_str() == word)
}

/// The agents of a command; or of a ping the agents that look, the hosts, and who looks at which.
#[derive(Clone, PartialEq, prost::Message)]
struct TargetsRecord {
    #[prost(message, repeated, tag = "1")]
    agents: Vec<TargetRecord>,
    #[prost(message, repeated, tag = "2")]
    hosts: Vec<PingHostRecord>,
    #[prost(uint32, repeated, tag = "3")]
    from: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    to: Vec<u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TargetRecord {
    #[prost(bytes = "bytes", tag = "1")]
    agent: Bytes,
    #[prost(string, tag = "2")]
    name: String,
}

impl TargetRecord {
    fn of(target: &Target) -> Self {
        Self { agent: Bytes::copy_from_slice(target.agent.as_bytes()), name: target.name.to_string() }
    }

    fn read(self) -> Option<Target> {
        Some(Target { agent: (&self.agent[..]).try_into().ok()?, name: self.name.parse().ok()? })
    }
}

/// How a frozen list is stored.
pub(crate) fn targets_to_bytes(targets: &TargetList) -> Vec<u8> {
    let records = |targets: &[Target]| targets.iter().map(TargetRecord::of).collect();
    let record = match targets {
        TargetList::Agents(targets) => TargetsRecord { agents: records(targets), ..TargetsRecord::default() },
        TargetList::Pings(list) => {
            let (from, to) = list.to_numbers();
            let hosts = list.hosts().iter().map(PingHostRecord::of).collect();
            TargetsRecord { agents: records(list.vantages()), hosts, from, to }
        }
    };
    record.encode_to_vec()
}

/// Reads [`targets_to_bytes`]; `None` is damage.
pub(crate) fn targets_of(bytes: Bytes) -> Option<TargetList> {
    let TargetsRecord { agents, hosts, from, to } = TargetsRecord::decode(bytes).ok()?;
    let agents = agents.into_iter().map(TargetRecord::read).collect::<Option<Vec<_>>>()?;
    if hosts.is_empty() {
        return Some(TargetList::Agents(agents.into()));
    }
    let hosts = hosts.into_iter().map(PingHostRecord::read).collect::<Option<Vec<PingHost>>>()?;
    Some(TargetList::Pings(PingList::from_numbers(agents, hosts, &from, &to).ok()?.into()))
}

#[derive(Clone, PartialEq, prost::Message)]
struct WordsRecord {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    words: Vec<Bytes>,
}

/// How the words of a command are stored.
pub(crate) fn words_to_bytes(words: Vec<Bytes>) -> Vec<u8> {
    WordsRecord { words }.encode_to_vec()
}

/// Reads [`words_to_bytes`]; `None` is damage.
pub(crate) fn words_of(bytes: &[u8]) -> Option<Vec<Bytes>> {
    Some(WordsRecord::decode(bytes).ok()?.words)
}
