//! Lines as fping prints them, so that whatever reads fping's reads ours: one a probe, one a target at its end.
//!
//! fping writes the last ones to stderr; here they are data. Behind those of targets without an answer stands why.

use super::{millis, why};
use crate::board::{Probed, tally};
use crate::track::called;
use muster_proto::outcome::{Outcome, State};
use muster_proto::ping::{FailureKind, Sample, TargetName};
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

/// The header of an echo, which fping counts.
const ECHO_HEADER_BYTES: u32 = 8;

/// Lines with their targets in a column.
#[derive(Debug)]
pub struct Text {
    names: Rc<[TargetName]>,
    width: usize,
    bytes: u32,
}

/// Probes of one target, as a line sums them up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many.
    pub sent: u32,
    /// How many were answered.
    pub received: u32,
    /// The shortest, the mean and the longest round trip.
    pub rtt: Option<[Duration; 3]>,
}

impl Figures {
    /// The probes that count of a target that ended.
    pub fn of(outcome: &Outcome) -> Self {
        tally(outcome).map_or_else(Self::default, |tally| Self {
            sent: tally.sent,
            received: tally.received,
            rtt: tally.rtt.map(|rtt| [rtt.min, rtt.mean, rtt.max]),
        })
    }
}

impl Text {
    /// For targets with these names, and probes with this payload in bytes.
    pub fn new(names: Rc<[TargetName]>, payload: u16) -> Self {
        let width = names.iter().map(|name| called(name).len()).max().unwrap_or(0);
        Self { names, width, bytes: u32::from(payload) + ECHO_HEADER_BYTES }
    }

    /// `web01 : [0], 64 bytes, 0.12 ms (0.12 avg, 0% loss)`; `probed` has this one already.
    pub fn probe(&self, out: &mut String, place: usize, sample: &Sample, probed: &Probed) {
        let Some(name) = self.names.get(place) else { return };
        let number = sample.number;
        // Writing to a string cannot fail, here and below.
        let _ = write!(out, "{:width$} : [{number}], ", called(name), width = self.width);
        let _ = match sample.answer {
            Ok(rtt) => write!(out, "{} bytes, {} ms", self.bytes, millis(rtt)),
            Err(failure) if failure.kind == FailureKind::NoReply => write!(out, "timed out"),
            Err(failure) => write!(out, "{failure}"),
        };
        let mean = probed.mean().map_or_else(|| "NaN".to_owned(), millis);
        let _ = writeln!(out, " ({mean} avg, {}% loss)", loss(probed.sent, probed.received).unwrap_or(0));
    }

    /// `web01 : xmt/rcv/%loss = 1/1/0%, min/avg/max = 0.12/0.12/0.12`, or why there is no answer.
    pub fn end(&self, out: &mut String, place: usize, outcome: &Outcome) {
        self.line(out, place, &Figures::of(outcome));
        let _ = match outcome.state {
            State::Succeeded => writeln!(out),
            _ => writeln!(out, ": {}", why(outcome)),
        };
    }

    /// The same of any probes, without a reason.
    pub fn figures(&self, out: &mut String, place: usize, figures: &Figures) {
        self.line(out, place, figures);
        out.push('\n');
    }

    fn line(&self, out: &mut String, place: usize, figures: &Figures) {
        let Some(name) = self.names.get(place) else { return };
        let Figures { sent, received, rtt } = *figures;
        // Nobody may take a host that was not even asked for one that lost nothing.
        let loss = loss(sent, received).unwrap_or(100);
        let _ = write!(out, "{:width$} : xmt/rcv/%loss = {sent}/{received}/{loss}%", called(name), width = self.width);
        if let Some([min, mean, max]) = rtt {
            let _ = write!(out, ", min/avg/max = {}/{}/{}", millis(min), millis(mean), millis(max));
        }
    }
}

/// Whole per cent, rounded down as fping does; `None` of none.
fn loss(sent: u32, received: u32) -> Option<u64> {
    (u64::from(sent.saturating_sub(received)) * 100).checked_div(sent.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{after, ended, name, probed};
    use muster_proto::event::EventKind;
    use muster_proto::ping::Failure;

    fn text(names: &[&str]) -> Text {
        Text::new(names.iter().map(|text| name(text)).collect(), 56)
    }

    #[test]
    fn probes_read_as_fpings() {
        let board = after(&["web01"], [probed(0, 0, Some(120)), probed(0, 1, None)]);
        let told = board.probed(0).expect("two probes");
        let mut out = String::new();
        let text = text(&["web01", "longer-name"]);
        text.probe(&mut out, 0, &Sample { number: 0, answer: Ok(Duration::from_micros(120)) }, told);
        text.probe(&mut out, 0, &Sample { number: 1, answer: Err(Failure::NO_REPLY) }, told);
        let failure = Failure { kind: FailureKind::HostUnreachable, from: Some([10, 0, 0, 1].into()) };
        text.probe(&mut out, 0, &Sample { number: 2, answer: Err(failure) }, &Probed::default());
        let lines = [
            "web01       : [0], 64 bytes, 0.120 ms (0.120 avg, 50% loss)",
            "web01       : [1], timed out (0.120 avg, 50% loss)",
            "web01       : [2], host unreachable from 10.0.0.1 (NaN avg, 0% loss)",
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn ends_read_as_fpings_and_say_why() {
        let line = |kind| {
            let EventKind::Finished { outcome, .. } = kind else { unreachable!("only ends are made") };
            let mut out = String::new();
            text(&["n1>web01"]).end(&mut out, 0, &outcome);
            out
        };
        let alive = line(ended(0, 5, &[30, 50, 80, 30, 60]));
        assert_eq!(alive, "n1>web01 : xmt/rcv/%loss = 5/5/0%, min/avg/max = 0.030/0.050/0.080\n");
        assert_eq!(line(ended(0, 3, &[30])), "n1>web01 : xmt/rcv/%loss = 3/1/66%, min/avg/max = 0.030/0.030/0.030\n");
        assert_eq!(line(ended(0, 3, &[])), "n1>web01 : xmt/rcv/%loss = 3/0/100%: no reply\n");
        let outcome = Outcome::without_run(State::StartFailed, "name does not resolve");
        assert_eq!(
            line(EventKind::Finished { target: 0, outcome }),
            "n1>web01 : xmt/rcv/%loss = 0/0/100%: name does not resolve\n"
        );
    }
}
