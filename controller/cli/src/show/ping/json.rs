//! What a ping measured, as JSON: the `ping` object of a target that ended, and one probe.

use muster_proto::outcome::Outcome;
use muster_proto::ping::{Contact, Sample, Tally};
use serde::Serialize;
use std::time::Duration;

/// What came back of one target, or nothing where it was not pinged.
#[derive(Serialize)]
pub struct PingJson {
    address: Option<String>,
    agent: Option<&'static str>,
    icmp: Option<TallyJson>,
    link: Option<TallyJson>,
}

impl PingJson {
    /// Of an outcome; `None` where that is of no ping.
    pub fn of(outcome: &Outcome) -> Option<Self> {
        let report = outcome.ping.as_deref()?;
        Some(Self {
            address: report.address.map(|address| address.to_string()),
            agent: report.agent.map(contact),
            icmp: report.icmp.as_ref().map(TallyJson::from),
            link: report.link.as_ref().map(TallyJson::from),
        })
    }
}

/// Whether a host's agent was connected, in a word.
pub const fn contact(contact: Contact) -> &'static str {
    match contact {
        Contact::Connected => "connected",
        Contact::Away => "away",
    }
}

#[derive(Serialize)]
struct TallyJson {
    sent: u32,
    received: u32,
    loss_percent: f64,
    min_ms: Option<f64>,
    avg_ms: Option<f64>,
    max_ms: Option<f64>,
    median_ms: Option<f64>,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
    jitter_ms: Option<f64>,
    duplicates: u32,
    late: u32,
    damaged: u32,
}

impl From<&Tally> for TallyJson {
    fn from(tally: &Tally) -> Self {
        Self {
            sent: tally.sent,
            received: tally.received,
            loss_percent: tally.loss_percent(),
            min_ms: tally.rtt.map(|rtt| millis(rtt.min)),
            avg_ms: tally.rtt.map(|rtt| millis(rtt.mean)),
            max_ms: tally.rtt.map(|rtt| millis(rtt.max)),
            median_ms: tally.rtt.map(|rtt| millis(rtt.median)),
            p95_ms: tally.rtt.map(|rtt| millis(rtt.p95)),
            p99_ms: tally.rtt.map(|rtt| millis(rtt.p99)),
            jitter_ms: tally.rtt.map(|rtt| millis(rtt.jitter)),
            duplicates: tally.duplicates,
            late: tally.late,
            damaged: tally.damaged,
        }
    }
}

/// One probe: which, and its round trip or why there is none.
#[derive(Serialize)]
pub struct ProbeJson {
    probe: u32,
    rtt_ms: Option<f64>,
    reason: Option<String>,
}

impl From<&Sample> for ProbeJson {
    fn from(sample: &Sample) -> Self {
        Self {
            probe: sample.number,
            rtt_ms: sample.answer.ok().map(millis),
            reason: sample.answer.err().map(|failure| failure.to_string()),
        }
    }
}

/// Exact to the nanosecond, without the noise of a binary fraction.
pub fn millis(span: Duration) -> f64 {
    span.as_nanos() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::tally_of;
    use muster_proto::ping::{Failure, PingReport};

    #[test]
    fn a_target_has_all_that_was_measured() {
        let report = PingReport {
            address: Some([10, 0, 0, 1].into()),
            icmp: Some(Tally { duplicates: 1, ..tally_of(3, &[100, 200]) }),
            link: None,
            agent: Some(Contact::Away),
        };
        let json = PingJson::of(&report.outcome(None, Duration::ZERO)).expect("a ping");
        let expected = concat!(
            r#"{"address":"10.0.0.1","agent":"away","icmp":{"sent":3,"received":2,"loss_percent":33.333333333333336,"#,
            r#""min_ms":0.1,"avg_ms":0.15,"max_ms":0.2,"median_ms":0.100096,"p95_ms":0.2,"p99_ms":0.2,"jitter_ms":0.00625,"#,
            r#""duplicates":1,"late":0,"damaged":0},"link":null}"#
        );
        assert_eq!(serde_json::to_string(&json).expect("JSON"), expected);
    }

    #[test]
    fn a_probe_has_a_round_trip_or_a_reason() {
        let json = |answer| serde_json::to_string(&ProbeJson::from(&Sample { number: 4, answer })).expect("JSON");
        assert_eq!(json(Ok(Duration::from_nanos(123_457))), r#"{"probe":4,"rtt_ms":0.123457,"reason":null}"#);
        assert_eq!(json(Err(Failure::NO_REPLY)), r#"{"probe":4,"rtt_ms":null,"reason":"no reply"}"#);
    }
}
