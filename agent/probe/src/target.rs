//! One target of a sweep: what came back of its probes so far.

use crate::Aim;
use muster_proto::outcome::State;
use muster_proto::ping::{Detail, Failure, FailureKind, Rtts, Sample, Tally};
use std::num::NonZeroU32;
use std::time::Duration;

/// One target of a sweep. There may be a hundred thousand, so it is small.
#[derive(Debug)]
pub struct Target {
    /// Where it is.
    pub aim: Aim,
    /// It has ended: nothing more is said of it.
    pub ended: bool,
    /// Probes that have begun.
    pub sent: u32,
    /// Probes that have begun and not ended.
    pub pending: u32,
    /// As in [`Tally`].
    pub duplicates: u32,
    /// As in [`Tally`].
    pub late: u32,
    /// As in [`Tally`].
    pub damaged: u32,
    /// The newest reason why a probe was not answered.
    failure: Option<Failure>,
    /// An answer to one of its probes may have been dropped here.
    overflowed: bool,
    /// What was said against a probe that may still be answered, for the newest such probe.
    said: Option<(u32, Failure)>,
    /// What the probe that ended last says of the target: that it answers, does not, or neither.
    last: Option<State>,
    /// Boxed, since most targets have none at a time: they are not asked yet, or have ended.
    rtts: Option<Box<Rtts>>,
}

impl Target {
    /// A target of which nothing is known.
    pub const fn new(aim: Aim) -> Self {
        Self {
            aim,
            ended: false,
            sent: 0,
            pending: 0,
            duplicates: 0,
            late: 0,
            damaged: 0,
            failure: None,
            overflowed: false,
            said: None,
            last: None,
            rtts: None,
        }
    }

    /// Begins a probe and names it.
    pub const fn begin(&mut self) -> u32 {
        self.pending += 1;
        self.sent += 1;
        self.sent - 1
    }

    /// Whether so many probes have begun.
    pub fn has_begun(&self, count: Option<NonZeroU32>) -> bool {
        count.is_some_and(|count| self.sent >= count.get())
    }

    /// Something speaks against a probe, which may still be answered.
    pub const fn warn(&mut self, probe: u32, failure: Failure) {
        self.said = Some((probe, failure));
    }

    /// An error for a probe that was given up in silence says why.
    pub fn explain(&mut self, failure: Failure) {
        self.failure = self.failure.map(|known| if known == Failure::NO_REPLY { failure } else { known });
    }

    /// Why a probe that ran out has no answer.
    pub fn reason(&self, probe: u32) -> Failure {
        self.said.filter(|(of, _)| *of == probe).map_or(Failure::NO_REPLY, |(_, failure)| failure)
    }

    /// Ends a probe; gives what is to be told of it.
    pub fn end_probe(&mut self, probe: u32, answer: Result<Duration, Failure>, detail: Detail) -> Option<Sample> {
        self.pending -= 1;
        match answer {
            Ok(rtt) => self.rtts.get_or_insert_default().add(rtt),
            Err(failure) => {
                self.overflowed |= failure.kind == FailureKind::Overflow;
                self.failure = Some(failure);
            }
        }
        let state = answer.map_or_else(|failure| failure.kind.state(), |_| State::Succeeded);
        let changed = self.last.replace(state) != Some(state);
        let told = match detail {
            Detail::Ends => false,
            Detail::Changes => changed,
            Detail::Each => true,
        };
        told.then_some(Sample { number: probe, answer })
    }

    /// Ends it, with this failure if it never could be asked; gives the last word. Nobody is called silent whose one
    /// answer may have been dropped here.
    pub fn end(&mut self, failure: Option<Failure>) -> (Tally, Option<Failure>) {
        self.ended = true;
        let rtts = self.rtts.take().unwrap_or_default();
        let tally = Tally {
            sent: self.sent,
            received: rtts.count(),
            duplicates: self.duplicates,
            late: self.late,
            damaged: self.damaged,
            rtt: rtts.summary(),
        };
        let unknown = self.overflowed && tally.received == 0 && self.failure == Some(Failure::NO_REPLY);
        let newest = if unknown { Some(FailureKind::Overflow.into()) } else { self.failure };
        (tally, failure.or(newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_behind_a_loss_of_our_own_is_a_change() {
        let mut target = Target::new(std::net::IpAddr::from([127, 0, 0, 1]).into());
        let answers =
            [Err(FailureKind::Overflow), Err(FailureKind::NoReply), Err(FailureKind::HostUnreachable), Ok(())];
        let told = answers.map(|answer| {
            let probe = target.begin();
            let answer = answer.map(|()| Duration::ZERO).map_err(Failure::from);
            target.end_probe(probe, answer, Detail::Changes).is_some()
        });
        assert_eq!(told, [true, true, false, true]);
    }
}
