//! Stored form of pings: samples, reports and lists.

use bytes::Bytes;
use muster_proto::ping::{Contact, Failure, FailureKind, PingHost, PingReport, Sample, Summary, Tally};
use std::net::IpAddr;
use std::time::Duration;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SampleRecord {
    #[prost(uint32, tag = "1")]
    pub target: u32,
    #[prost(uint32, tag = "2")]
    number: u32,
    #[prost(uint64, optional, tag = "3")]
    rtt_ns: Option<u64>,
    #[prost(message, optional, tag = "4")]
    failure: Option<FailureRecord>,
}

/// `kind` is the place in `FailureKind::ALL`, which only grows at its end.
#[derive(Clone, PartialEq, prost::Message)]
struct FailureRecord {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(bytes = "bytes", tag = "2")]
    from: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReportRecord {
    #[prost(bytes = "bytes", tag = "1")]
    address: Bytes,
    #[prost(message, optional, tag = "2")]
    icmp: Option<TallyRecord>,
    #[prost(message, optional, tag = "3")]
    link: Option<TallyRecord>,
    #[prost(bool, optional, tag = "4")]
    connected: Option<bool>,
}

/// `rtt_ns` is empty, or min, mean, max, median, p95, p99, jitter.
#[derive(Clone, PartialEq, prost::Message)]
struct TallyRecord {
    #[prost(uint32, tag = "1")]
    sent: u32,
    #[prost(uint32, tag = "2")]
    received: u32,
    #[prost(uint32, tag = "3")]
    duplicates: u32,
    #[prost(uint32, tag = "4")]
    late: u32,
    #[prost(uint32, tag = "5")]
    damaged: u32,
    #[prost(uint64, repeated, tag = "6")]
    rtt_ns: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PingHostRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "2")]
    agent: Bytes,
}

/// What does not fit saturates.
pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn address_to_bytes(address: Option<IpAddr>) -> Bytes {
    match address {
        None => Bytes::new(),
        Some(IpAddr::V4(address)) => Bytes::copy_from_slice(&address.octets()),
        Some(IpAddr::V6(address)) => Bytes::copy_from_slice(&address.octets()),
    }
}

/// The outer `None` is damage.
fn address_of(bytes: &[u8]) -> Option<Option<IpAddr>> {
    match bytes.len() {
        0 => Some(None),
        4 => Some(Some(<[u8; 4]>::try_from(bytes).ok()?.into())),
        _ => Some(Some(<[u8; 16]>::try_from(bytes).ok()?.into())),
    }
}

impl SampleRecord {
    pub(super) fn of(target: u32, sample: &Sample) -> Self {
        let failure = sample
            .answer
            .err()
            .map(|failure| FailureRecord { kind: failure.kind as u32, from: address_to_bytes(failure.from) });
        Self { target, number: sample.number, rtt_ns: sample.answer.ok().map(nanos), failure }
    }

    pub(super) fn read(self) -> Option<Sample> {
        let answer = match (self.rtt_ns, self.failure) {
            (Some(rtt), None) => Ok(Duration::from_nanos(rtt)),
            (None, Some(failure)) => {
                Err(Failure { kind: *FailureKind::ALL.get(failure.kind as usize)?, from: address_of(&failure.from)? })
            }
            _ => return None,
        };
        Some(Sample { number: self.number, answer })
    }
}

impl TallyRecord {
    fn of(tally: Tally) -> Self {
        let rtts = |rtt: Summary| [rtt.min, rtt.mean, rtt.max, rtt.median, rtt.p95, rtt.p99, rtt.jitter];
        Self {
            sent: tally.sent,
            received: tally.received,
            duplicates: tally.duplicates,
            late: tally.late,
            damaged: tally.damaged,
            rtt_ns: tally.rtt.into_iter().flat_map(rtts).map(nanos).collect(),
        }
    }

    fn read(self) -> Option<Tally> {
        let rtt = match self.rtt_ns[..] {
            [] => None,
            [min, mean, max, median, p95, p99, jitter] => {
                let [min, mean, max, median, p95, p99, jitter] =
                    [min, mean, max, median, p95, p99, jitter].map(Duration::from_nanos);
                Some(Summary { min, mean, max, median, p95, p99, jitter })
            }
            _ => return None,
        };
        let Self { sent, received, duplicates, late, damaged, .. } = self;
        Some(Tally { sent, received, duplicates, late, damaged, rtt })
    }
}

impl ReportRecord {
    pub(super) fn of(report: &PingReport) -> Self {
        Self {
            address: address_to_bytes(report.address),
            icmp: report.icmp.map(TallyRecord::of),
            link: report.link.map(TallyRecord::of),
            connected: report.agent.map(|agent| agent == Contact::Connected),
        }
    }

    pub(super) fn read(self) -> Option<PingReport> {
        let tally = |record: Option<TallyRecord>| match record {
            Some(record) => record.read().map(Some),
            None => Some(None),
        };
        Some(PingReport {
            address: address_of(&self.address)?,
            icmp: tally(self.icmp)?,
            link: tally(self.link)?,
            agent: self.connected.map(|connected| if connected { Contact::Connected } else { Contact::Away }),
        })
    }
}

impl PingHostRecord {
    pub(super) fn of(host: &PingHost) -> Self {
        let agent = host.agent.map(|agent| Bytes::copy_from_slice(agent.as_bytes())).unwrap_or_default();
        Self { name: host.name.to_string(), agent }
    }

    pub(super) fn read(self) -> Option<PingHost> {
        let agent = if self.agent.is_empty() { None } else { Some((&self.agent[..]).try_into().ok()?) };
        Some(PingHost { name: self.name.parse().ok()?, agent })
    }
}
