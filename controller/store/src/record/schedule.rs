//! Stored form of schedules: what is asked of whom, and how their pairs were in an interval.
//!
//! An interval lies column by column: pairs have names that resemble each other and numbers that are mostly the same, so
//! that a pair takes a few bytes once it is compressed.

use super::{BLOCK_VERSION, SUM_BYTES, sum};
use muster_proto::ping::{
    ControllerLooks, Detail, Family, Found, Interval, Known, PairInterval, PingSelection, PingSpec, Probes, TargetName,
    Way,
};
use muster_proto::time::Timestamp;
use prost::Message as _;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

/// Columns compress well at the first level already.
const LEVEL: i32 = 1;
/// An interval of the most pairs, with the longest names and reasons, before it is compressed.
const COLUMNS_BYTES_MAX: usize = 64 << 20;

#[derive(Clone, PartialEq, prost::Message)]
struct ScheduleRecord {
    #[prost(string, tag = "1")]
    targets: String,
    #[prost(string, tag = "2")]
    exclude: String,
    #[prost(string, repeated, tag = "3")]
    hosts: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    networks: Vec<String>,
    #[prost(string, optional, tag = "5")]
    from: Option<String>,
    #[prost(bool, tag = "6")]
    without_controller: bool,
    #[prost(uint32, tag = "7")]
    sample: u32,
    #[prost(message, optional, tag = "8")]
    spec: Option<SpecRecord>,
}

/// `way` is "both", "icmp" or "link"; `family` is 0, 4 or 6; `detail` is "ends", "changes" or "each". 0 is none where a
/// number may be missing.
#[derive(Clone, PartialEq, prost::Message)]
struct SpecRecord {
    #[prost(string, tag = "1")]
    way: String,
    #[prost(uint32, tag = "2")]
    family: u32,
    #[prost(string, tag = "3")]
    detail: String,
    #[prost(uint32, tag = "4")]
    count: u32,
    #[prost(uint64, tag = "5")]
    period_us: u64,
    #[prost(uint64, tag = "6")]
    timeout_us: u64,
    #[prost(uint32, tag = "7")]
    retries: u32,
    #[prost(uint32, tag = "8")]
    size: u32,
    #[prost(uint32, tag = "9")]
    ttl: u32,
    #[prost(uint32, tag = "10")]
    tos: u32,
    #[prost(uint32, tag = "11")]
    rate: u32,
}

const WAYS: [(Way, &str); 3] = [(Way::Both, "both"), (Way::Icmp, "icmp"), (Way::Link, "link")];
const FAMILIES: [(Family, u32); 3] = [(Family::Any, 0), (Family::V4, 4), (Family::V6, 6)];
const DETAILS: [(Detail, &str); 3] = [(Detail::Ends, "ends"), (Detail::Changes, "changes"), (Detail::Each, "each")];

/// The second of the pair whose first is this; every first is there.
fn second<A: PartialEq, B: Copy + Default>(pairs: &[(A, B)], first: &A) -> B {
    pairs.iter().find(|pair| pair.0 == *first).map_or_else(B::default, |pair| pair.1)
}

fn first<A: Copy, B: PartialEq>(pairs: &[(A, B)], second: &B) -> Option<A> {
    pairs.iter().find(|pair| pair.1 == *second).map(|pair| pair.0)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

impl SpecRecord {
    fn of(spec: &PingSpec) -> Self {
        let Probes { count, period, timeout, retries, size, ttl, tos, rate } = spec.probes;
        Self {
            way: second(&WAYS, &spec.way).to_owned(),
            family: second(&FAMILIES, &spec.family),
            detail: second(&DETAILS, &spec.detail).to_owned(),
            count: count.map_or(0, NonZeroU32::get),
            period_us: micros(period),
            timeout_us: micros(timeout),
            retries,
            size: size.into(),
            ttl: ttl.map_or(0, |ttl| ttl.get().into()),
            tos: tos.into(),
            rate: rate.map_or(0, NonZeroU32::get),
        }
    }

    fn read(self) -> Option<PingSpec> {
        let probes = Probes {
            count: NonZeroU32::new(self.count),
            period: Duration::from_micros(self.period_us),
            timeout: Duration::from_micros(self.timeout_us),
            retries: self.retries,
            size: self.size.try_into().ok()?,
            ttl: NonZeroU8::new(self.ttl.try_into().ok()?),
            tos: self.tos.try_into().ok()?,
            rate: NonZeroU32::new(self.rate),
        };
        Some(PingSpec {
            way: first(&WAYS, &self.way.as_str())?,
            family: first(&FAMILIES, &self.family)?,
            detail: first(&DETAILS, &self.detail.as_str())?,
            probes,
        })
    }
}

/// How it is stored who is looked at, and what is asked.
pub(crate) fn schedule_to_bytes(selection: &PingSelection, spec: &PingSpec) -> Vec<u8> {
    let PingSelection { targets, exclude, hosts, networks, from, controller, sample } = selection.clone();
    let record = ScheduleRecord {
        targets,
        exclude,
        hosts,
        networks,
        from,
        without_controller: controller == ControllerLooks::No,
        sample: sample.map_or(0, NonZeroU32::get),
        spec: Some(SpecRecord::of(spec)),
    };
    record.encode_to_vec()
}

/// Reads [`schedule_to_bytes`]; `None` is damage.
pub(crate) fn schedule_of(bytes: &[u8]) -> Option<(PingSelection, PingSpec)> {
    let record = ScheduleRecord::decode(bytes).ok()?;
    let selection = PingSelection {
        targets: record.targets,
        exclude: record.exclude,
        hosts: record.hosts,
        networks: record.networks,
        from: record.from,
        controller: if record.without_controller { ControllerLooks::No } else { ControllerLooks::Yes },
        sample: NonZeroU32::new(record.sample),
    };
    Some((selection, record.spec?.read()?))
}

/// A column each, as long as `hosts`; but `from` is empty where only the controller looks. Names of agents that look and
/// reasons are in lists of their own, and a pair has a place in them from 1, or 0. `state` is 0 where nothing was ever
/// known, 1 for up and 2 for down; `since_ms` counts from the interval's start.
#[derive(Clone, PartialEq, prost::Message)]
struct IntervalRecord {
    #[prost(string, repeated, tag = "1")]
    vantages: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    reasons: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    hosts: Vec<String>,
    #[prost(uint32, repeated, tag = "4")]
    from: Vec<u32>,
    #[prost(uint64, repeated, tag = "5")]
    sent: Vec<u64>,
    #[prost(uint64, repeated, tag = "6")]
    received: Vec<u64>,
    #[prost(uint64, repeated, tag = "7")]
    rtt_sum_us: Vec<u64>,
    #[prost(uint64, repeated, tag = "8")]
    rtt_max_us: Vec<u64>,
    #[prost(uint64, repeated, tag = "9")]
    up_ms: Vec<u64>,
    #[prost(uint64, repeated, tag = "10")]
    known_ms: Vec<u64>,
    #[prost(uint32, repeated, tag = "11")]
    state: Vec<u32>,
    #[prost(sint64, repeated, tag = "12")]
    since_ms: Vec<i64>,
    #[prost(uint32, repeated, tag = "13")]
    reason: Vec<u32>,
    #[prost(uint32, repeated, tag = "14")]
    flaps: Vec<u32>,
    #[prost(bool, repeated, tag = "15")]
    told_down: Vec<bool>,
}

/// Texts that are mentioned again and again: each has a number from 1.
#[derive(Default)]
struct Texts<'a> {
    texts: Vec<String>,
    places: std::collections::HashMap<&'a str, u32>,
}

impl<'a> Texts<'a> {
    fn number(&mut self, text: Option<&'a str>) -> u32 {
        let Some(text) = text else { return 0 };
        let next = u32::try_from(self.texts.len() + 1).unwrap_or(0);
        *self.places.entry(text).or_insert_with(|| {
            self.texts.push(text.to_owned());
            next
        })
    }
}

/// The text with this number; the outer `None` is damage.
fn text_of<T: Clone>(texts: &[T], number: u32) -> Option<Option<T>> {
    match number.checked_sub(1) {
        None => Some(None),
        Some(place) => texts.get(place as usize).cloned().map(Some),
    }
}

/// How an interval is stored: a version, the beginning of the SHA-256 of the rest, and its columns, compressed. Round
/// trips are kept to the microsecond.
pub(crate) fn interval_to_bytes(interval: &Interval) -> std::io::Result<Vec<u8>> {
    let (mut vantages, mut reasons) = (Texts::default(), Texts::default());
    let mut record = IntervalRecord::default();
    let start = interval.start.as_millis();
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    for PairInterval { name, found, known, told_down } in &interval.pairs {
        record.hosts.push(name.host.to_string());
        record.from.push(vantages.number(name.from.as_ref().map(|from| from.as_str())));
        record.sent.push(found.sent);
        record.received.push(found.received);
        record.rtt_sum_us.push(micros(found.rtt_sum));
        record.rtt_max_us.push(micros(found.rtt_max));
        record.up_ms.push(millis(found.up_time));
        record.known_ms.push(millis(found.known_time));
        record.state.push(known.as_ref().map_or(0, |known| if known.up { 1 } else { 2 }));
        record.since_ms.push(known.as_ref().map_or(0, |known| known.since.as_millis().saturating_sub(start)));
        record.reason.push(reasons.number(known.as_ref().and_then(|known| known.reason.as_deref())));
        record.flaps.push(found.flaps);
        record.told_down.push(*told_down);
    }
    (record.vantages, record.reasons) = (vantages.texts, reasons.texts);
    let packed = zstd::bulk::compress(&record.encode_to_vec(), LEVEL)?;
    Ok([&[BLOCK_VERSION][..], &sum(&packed), &packed].concat())
}

/// Reads [`interval_to_bytes`]; `None` is damage.
pub(crate) fn interval_of(start: Timestamp, bytes: &[u8]) -> Option<Interval> {
    let (head, packed) = bytes.split_at_checked(1 + SUM_BYTES)?;
    if head[0] != BLOCK_VERSION || head[1..] != sum(packed) {
        return None;
    }
    let columns = zstd::bulk::decompress(packed, COLUMNS_BYTES_MAX).ok()?;
    let it = IntervalRecord::decode(&columns[..]).ok()?;
    let vantages = it.vantages.iter().map(|name| name.parse().ok()).collect::<Option<Vec<_>>>()?;
    let pair = |(place, host): (usize, &String)| {
        let since = start.as_millis().checked_add(*it.since_ms.get(place)?)?;
        let reason = text_of(&it.reasons, *it.reason.get(place)?)?;
        let known = |up| Some(Known { up, since: Timestamp::from_millis(since), reason });
        Some(PairInterval {
            name: TargetName { from: text_of(&vantages, *it.from.get(place)?)?, host: host.parse().ok()? },
            found: Found {
                sent: *it.sent.get(place)?,
                received: *it.received.get(place)?,
                rtt_sum: Duration::from_micros(*it.rtt_sum_us.get(place)?),
                rtt_max: Duration::from_micros(*it.rtt_max_us.get(place)?),
                up_time: Duration::from_millis(*it.up_ms.get(place)?),
                known_time: Duration::from_millis(*it.known_ms.get(place)?),
                flaps: *it.flaps.get(place)?,
            },
            told_down: *it.told_down.get(place)?,
            known: match it.state.get(place)? {
                0 => None,
                1 => known(true),
                2 => known(false),
                _ => return None,
            },
        })
    };
    let pairs = it.hosts.iter().enumerate().map(pair).collect::<Option<_>>()?;
    Some(Interval { start, pairs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> impl Strategy<Value = PairInterval> {
        let known = prop::option::of((any::<bool>(), 0..i64::MAX / 2, prop::option::of("[a-z ]{1,9}")));
        (prop::option::of("[a-z]{1,3}"), "[a-z]{1,9}", any::<([u32; 6], u32, bool)>(), known).prop_map(
            |(from, host, (numbers, flaps, told_down), known)| {
                let [sent, received, sum, max, up, known_ms] = numbers.map(u64::from);
                PairInterval {
                    name: TargetName {
                        from: from.map(|from| from.parse().expect("a name")),
                        host: host.parse().expect("a name"),
                    },
                    found: Found {
                        sent,
                        received,
                        rtt_sum: Duration::from_micros(sum),
                        rtt_max: Duration::from_micros(max),
                        up_time: Duration::from_millis(up),
                        known_time: Duration::from_millis(known_ms),
                        flaps,
                    },
                    told_down,
                    known: known.map(|(up, since, reason)| Known { up, since: Timestamp::from_millis(since), reason }),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn an_interval_reads_back_and_damage_is_found(
            pairs in prop::collection::vec(pair(), 0..20), at in any::<prop::sample::Index>()
        ) {
            let interval = Interval { start: Timestamp::from_millis(1_800_000_000_000), pairs };
            let mut bytes = interval_to_bytes(&interval).expect("memory");
            prop_assert_eq!(interval_of(interval.start, &bytes), Some(interval.clone()));
            let at = at.index(bytes.len());
            bytes[at] ^= 1;
            prop_assert_eq!(interval_of(interval.start, &bytes), None);
        }
    }

    #[test]
    fn what_is_asked_reads_back() {
        for ((way, family), detail) in WAYS.into_iter().zip(FAMILIES).zip(DETAILS) {
            let probes = Probes { ttl: NonZeroU8::new(9), rate: None, ..Probes::default() };
            let spec = PingSpec { way: way.0, family: family.0, detail: detail.0, probes };
            let selection = PingSelection {
                hosts: vec!["a".into()],
                from: Some("role=web".into()),
                controller: ControllerLooks::No,
                sample: NonZeroU32::new(3),
                ..PingSelection::default()
            };
            let bytes = schedule_to_bytes(&selection, &spec);
            assert_eq!(schedule_of(&bytes), Some((selection, spec)));
        }
    }

    #[test]
    fn a_pair_takes_a_few_bytes() {
        let pair = |number: u64| PairInterval {
            name: TargetName { from: None, host: format!("web{number:05}").parse().expect("a name") },
            found: Found {
                sent: 20,
                received: 20,
                rtt_sum: Duration::from_micros(4_000 + number * 7_919 % 997),
                rtt_max: Duration::from_micros(300 + number * 104_729 % 499),
                up_time: Interval::SPAN,
                known_time: Interval::SPAN,
                flaps: 0,
            },
            told_down: false,
            known: Some(Known { up: true, since: Timestamp::from_millis(0), reason: None }),
        };
        let interval = Interval { start: Timestamp::from_millis(0), pairs: (0..10_000).map(pair).collect() };
        let bytes = interval_to_bytes(&interval).expect("memory").len();
        assert!(bytes < 100_000, "{bytes}");
    }
}
