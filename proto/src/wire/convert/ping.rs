//! Pings: what is asked, lists, probes on the link, reports, schedules.

use super::{WireError, bytes_of, id_of, nanos, parsed, present, some_id_of};
use crate::job::Target;
use crate::limits;
use crate::link::{ProbeAim, ProbeOrder};
use crate::outcome::Outcome;
use crate::ping::{
    Contact, Detail, Failure, FailureKind, Family, Finding, PingHost, PingList, PingReport, PingSpec, Probes, Sample,
    Summary, Tally, Way,
};
use crate::text;
use crate::wire::{self, probe_finding};
use bytes::Bytes;
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn address_to_wire(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(address) => bytes_of(&address.octets()),
        IpAddr::V6(address) => bytes_of(&address.octets()),
    }
}

fn address_of(bytes: &[u8]) -> Result<IpAddr, WireError> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).map_err(|_| WireError::Field("address"))
}

fn some_address_of(bytes: &[u8]) -> Result<Option<IpAddr>, WireError> {
    if bytes.is_empty() { Ok(None) } else { address_of(bytes).map(Some) }
}

impl From<&PingSpec> for wire::Probe {
    fn from(spec: &PingSpec) -> Self {
        let way = match spec.way {
            Way::Both => wire::PingWay::Both,
            Way::Icmp => wire::PingWay::Icmp,
            Way::Link => wire::PingWay::Link,
        };
        let family = match spec.family {
            Family::Any => wire::PingFamily::Any,
            Family::V4 => wire::PingFamily::V4,
            Family::V6 => wire::PingFamily::V6,
        };
        Self {
            way: way.into(),
            family: family.into(),
            detail: wire::PingDetail::from(spec.detail).into(),
            probes: Some(spec.probes.into()),
        }
    }
}

impl TryFrom<wire::Probe> for PingSpec {
    type Error = WireError;

    fn try_from(probe: wire::Probe) -> Result<Self, WireError> {
        let way = match probe.way() {
            wire::PingWay::Both => Way::Both,
            wire::PingWay::Icmp => Way::Icmp,
            wire::PingWay::Link => Way::Link,
            wire::PingWay::Unspecified => return Err(WireError::Field("way")),
        };
        let family = match probe.family() {
            wire::PingFamily::Any => Family::Any,
            wire::PingFamily::V4 => Family::V4,
            wire::PingFamily::V6 => Family::V6,
            wire::PingFamily::Unspecified => return Err(WireError::Field("family")),
        };
        let detail = probe.detail().try_into()?;
        Ok(Self { way, family, detail, probes: present(probe.probes, "probes")?.try_into()? })
    }
}

impl From<Detail> for wire::PingDetail {
    fn from(detail: Detail) -> Self {
        match detail {
            Detail::Ends => Self::Ends,
            Detail::Changes => Self::Changes,
            Detail::Each => Self::Each,
        }
    }
}

impl TryFrom<wire::PingDetail> for Detail {
    type Error = WireError;

    fn try_from(detail: wire::PingDetail) -> Result<Self, WireError> {
        Ok(match detail {
            wire::PingDetail::Ends => Self::Ends,
            wire::PingDetail::Changes => Self::Changes,
            wire::PingDetail::Each => Self::Each,
            wire::PingDetail::Unspecified => return Err(WireError::Field("detail")),
        })
    }
}

impl From<Probes> for wire::Probes {
    fn from(probes: Probes) -> Self {
        Self {
            count: probes.count.map_or(0, NonZeroU32::get),
            period_us: micros(probes.period),
            timeout_us: micros(probes.timeout),
            retries: probes.retries,
            size: probes.size.into(),
            ttl: probes.ttl.map_or(0, |ttl| ttl.get().into()),
            tos: probes.tos.into(),
            rate: probes.rate.map_or(0, NonZeroU32::get),
        }
    }
}

impl TryFrom<wire::Probes> for Probes {
    type Error = WireError;

    fn try_from(probes: wire::Probes) -> Result<Self, WireError> {
        let invalid = |field| move |_| WireError::Field(field);
        let probes = Self {
            count: NonZeroU32::new(probes.count),
            period: Duration::from_micros(probes.period_us),
            timeout: Duration::from_micros(probes.timeout_us),
            retries: probes.retries,
            size: probes.size.try_into().map_err(invalid("size"))?,
            ttl: NonZeroU8::new(probes.ttl.try_into().map_err(invalid("ttl"))?),
            tos: probes.tos.try_into().map_err(invalid("tos"))?,
            rate: NonZeroU32::new(probes.rate),
        };
        probes.check().map_err(|_| WireError::Field("probes"))?;
        Ok(probes)
    }
}

fn target_to_wire(target: &Target) -> wire::AgentTarget {
    wire::AgentTarget { agent: bytes_of(target.agent.as_bytes()), name: target.name.to_string() }
}

impl From<&PingList> for wire::PingList {
    fn from(list: &PingList) -> Self {
        let host = |host: &PingHost| wire::PingHost {
            name: host.name.to_string(),
            agent: host.agent.map(|agent| bytes_of(agent.as_bytes())).unwrap_or_default(),
        };
        let (from, to) = list.to_numbers();
        Self {
            vantages: list.vantages().iter().map(target_to_wire).collect(),
            hosts: list.hosts().iter().map(host).collect(),
            from,
            to,
        }
    }
}

impl TryFrom<wire::PingList> for PingList {
    type Error = WireError;

    fn try_from(list: wire::PingList) -> Result<Self, WireError> {
        let host = |host: wire::PingHost| {
            Ok(PingHost { name: parsed(&host.name, "host")?, agent: some_id_of(&host.agent, "agent")? })
        };
        let vantage = |target: wire::AgentTarget| {
            Ok(Target { agent: id_of(&target.agent, "agent")?, name: parsed(&target.name, "name")? })
        };
        let hosts = list.hosts.into_iter().map(host).collect::<Result<_, WireError>>()?;
        let vantages = list.vantages.into_iter().map(vantage).collect::<Result<_, WireError>>()?;
        Self::from_numbers(vantages, hosts, &list.from, &list.to).map_err(|_| WireError::Field("pings"))
    }
}

impl From<ProbeOrder> for wire::ProbeOrder {
    fn from(order: ProbeOrder) -> Self {
        let aim = |aim: ProbeAim| wire::ProbeAim { address: address_to_wire(aim.address), zone: aim.zone };
        Self {
            sweep: order.sweep,
            probes: Some(order.probes.into()),
            detail: wire::PingDetail::from(order.detail).into(),
            aims: order.aims.into_iter().map(aim).collect(),
            last: order.last,
        }
    }
}

impl TryFrom<wire::ProbeOrder> for ProbeOrder {
    type Error = WireError;

    fn try_from(order: wire::ProbeOrder) -> Result<Self, WireError> {
        if order.aims.len() > limits::PROBES_PER_MESSAGE_MAX {
            return Err(WireError::Field("aims"));
        }
        let detail = order.detail().try_into()?;
        let aim =
            |aim: wire::ProbeAim| Ok(ProbeAim { address: address_of(&aim.address)?, zone: text::line(&aim.zone) });
        Ok(Self {
            sweep: order.sweep,
            probes: present(order.probes, "probes")?.try_into()?,
            detail,
            aims: order.aims.into_iter().map(aim).collect::<Result<_, WireError>>()?,
            last: order.last,
        })
    }
}

impl From<Finding> for wire::ProbeFinding {
    fn from(finding: Finding) -> Self {
        let (place, kind) = match finding {
            Finding::Sample { place, sample } => (place, probe_finding::Kind::Sample(sample.into())),
            Finding::End { place, tally, failure } => {
                let end = wire::ProbeEnd { tally: Some(tally.into()), failure: failure.map(Into::into) };
                (place, probe_finding::Kind::End(end))
            }
        };
        Self { place, kind: Some(kind) }
    }
}

impl TryFrom<wire::ProbeFinding> for Finding {
    type Error = WireError;

    fn try_from(finding: wire::ProbeFinding) -> Result<Self, WireError> {
        let place = finding.place;
        Ok(match present(finding.kind, "finding")? {
            probe_finding::Kind::Sample(sample) => Self::Sample { place, sample: sample.try_into()? },
            probe_finding::Kind::End(end) => Self::End {
                place,
                tally: present(end.tally, "tally")?.try_into()?,
                failure: end.failure.map(TryInto::try_into).transpose()?,
            },
        })
    }
}

impl From<Sample> for wire::ProbeSample {
    fn from(sample: Sample) -> Self {
        Self {
            number: sample.number,
            rtt_ns: sample.answer.ok().map(nanos),
            failure: sample.answer.err().map(Into::into),
        }
    }
}

impl TryFrom<wire::ProbeSample> for Sample {
    type Error = WireError;

    fn try_from(sample: wire::ProbeSample) -> Result<Self, WireError> {
        let answer = match (sample.rtt_ns, sample.failure) {
            (Some(rtt), None) => Ok(Duration::from_nanos(rtt)),
            (None, Some(failure)) => Err(failure.try_into()?),
            _ => return Err(WireError::Field("sample")),
        };
        Ok(Self { number: sample.number, answer })
    }
}

impl From<Failure> for wire::ProbeFailure {
    fn from(failure: Failure) -> Self {
        Self { kind: failure.kind as u32, from: failure.from.map(address_to_wire).unwrap_or_default() }
    }
}

impl TryFrom<wire::ProbeFailure> for Failure {
    type Error = WireError;

    fn try_from(failure: wire::ProbeFailure) -> Result<Self, WireError> {
        // A newer version may know more kinds; that must not end its link.
        let kind = FailureKind::ALL.get(failure.kind as usize).copied().unwrap_or(FailureKind::OtherError);
        Ok(Self { kind, from: some_address_of(&failure.from)? })
    }
}

impl From<Tally> for wire::Tally {
    fn from(tally: Tally) -> Self {
        let rtt = |rtt: Summary| wire::Rtt {
            min: nanos(rtt.min),
            mean: nanos(rtt.mean),
            max: nanos(rtt.max),
            median: nanos(rtt.median),
            p95: nanos(rtt.p95),
            p99: nanos(rtt.p99),
            jitter: nanos(rtt.jitter),
        };
        Self {
            sent: tally.sent,
            received: tally.received,
            duplicates: tally.duplicates,
            late: tally.late,
            damaged: tally.damaged,
            rtt: tally.rtt.map(rtt),
        }
    }
}

impl TryFrom<wire::Tally> for Tally {
    type Error = WireError;

    /// No more came back than was sent, and round trips are there exactly where something did.
    fn try_from(tally: wire::Tally) -> Result<Self, WireError> {
        if tally.received > tally.sent || tally.rtt.is_some() != (tally.received > 0) {
            return Err(WireError::Field("tally"));
        }
        let rtt = |rtt: wire::Rtt| Summary {
            min: Duration::from_nanos(rtt.min),
            mean: Duration::from_nanos(rtt.mean),
            max: Duration::from_nanos(rtt.max),
            median: Duration::from_nanos(rtt.median),
            p95: Duration::from_nanos(rtt.p95),
            p99: Duration::from_nanos(rtt.p99),
            jitter: Duration::from_nanos(rtt.jitter),
        };
        Ok(Self {
            sent: tally.sent,
            received: tally.received,
            duplicates: tally.duplicates,
            late: tally.late,
            damaged: tally.damaged,
            rtt: tally.rtt.map(rtt),
        })
    }
}

impl From<PingReport> for wire::PingReport {
    fn from(report: PingReport) -> Self {
        Self {
            address: report.address.map(address_to_wire).unwrap_or_default(),
            icmp: report.icmp.map(Into::into),
            link: report.link.map(Into::into),
            connected: report.agent.map(|agent| agent == Contact::Connected),
        }
    }
}

impl TryFrom<wire::PingReport> for PingReport {
    type Error = WireError;

    fn try_from(report: wire::PingReport) -> Result<Self, WireError> {
        Ok(Self {
            address: some_address_of(&report.address)?,
            icmp: report.icmp.map(TryInto::try_into).transpose()?,
            link: report.link.map(TryInto::try_into).transpose()?,
            agent: report.connected.map(|connected| if connected { Contact::Connected } else { Contact::Away }),
        })
    }
}

/// The part of an outcome that pings have.
pub(super) fn report_of(report: Option<wire::PingReport>) -> Result<Option<Box<PingReport>>, WireError> {
    report.map(|report| report.try_into().map(Box::new)).transpose()
}

/// See [`report_of`].
pub(super) fn report_to_wire(outcome: &Outcome) -> Option<wire::PingReport> {
    outcome.ping.as_deref().copied().map(Into::into)
}

/// A host's name, or `None` for an empty text.
pub(super) fn some_name(name: &str) -> Result<Option<crate::name::HostName>, WireError> {
    if name.is_empty() { Ok(None) } else { parsed(name, "from").map(Some) }
}
