//! One target of a look: what each way of looking says of it, and what that means together.

use muster_proto::outcome::Outcome;
use muster_proto::ping::{Contact, Failure, FailureKind, PingReport, Sample, Tally, Way};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// A way of looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leg {
    /// By ICMP, from here or from an agent.
    Icmp,
    /// Over the link of the host's agent.
    Link,
}

/// What is said of a target by one way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Word {
    /// What became of one probe.
    Sample(Sample),
    /// The last word.
    End(Verdict),
    /// The last word as well: it was not looked at, and nobody will.
    Unlooked,
}

impl From<FailureKind> for Word {
    fn from(kind: FailureKind) -> Self {
        Self::End(Verdict { tally: None, failure: Some(kind.into()) })
    }
}

/// How a way ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Verdict {
    /// What came back; `None` where nothing could be sent.
    pub(super) tally: Option<Tally>,
    /// Why some probe was not answered.
    pub(super) failure: Option<Failure>,
}

/// A target. It takes little room before its end, since there are many.
#[derive(Debug)]
pub(super) struct Slot {
    icmp: Stand,
    link: Stand,
    /// Where ICMP goes, once that is known.
    pub(super) address: Option<IpAddr>,
    /// When it was first looked at, or could have been.
    pub(super) since: Instant,
}

#[derive(Debug)]
enum Stand {
    /// Not asked for, or nothing came of it.
    Out,
    Open,
    Ended(Box<Verdict>),
}

impl Slot {
    /// A target that is looked at so.
    pub(super) fn new(way: Way, since: Instant) -> Self {
        let [icmp, link] = match way {
            Way::Both => [Stand::Open, Stand::Open],
            Way::Icmp => [Stand::Open, Stand::Out],
            Way::Link => [Stand::Out, Stand::Open],
        };
        Self { icmp, link, address: None, since }
    }

    /// This way has not had its last word.
    pub(super) const fn is_open(&self, leg: Leg) -> bool {
        let stand = match leg {
            Leg::Icmp => &self.icmp,
            Leg::Link => &self.link,
        };
        matches!(stand, Stand::Open)
    }

    /// No way has anything more to say.
    pub(super) const fn is_over(&self) -> bool {
        !self.is_open(Leg::Icmp) && !self.is_open(Leg::Link)
    }

    /// Takes what one way says; nothing counts after its last word. The sample to be passed on: those of ICMP, if it can
    /// be sent at all.
    pub(super) fn hear(&mut self, leg: Leg, word: Word) -> Option<Sample> {
        if !self.is_open(leg) {
            return None;
        }
        let stand = match word {
            Word::Sample(sample) => {
                let silent = match &self.icmp {
                    Stand::Out => true,
                    Stand::Open => false,
                    Stand::Ended(verdict) => verdict.tally.is_none_or(|tally| tally.sent == 0),
                };
                return (leg == Leg::Icmp || silent).then_some(sample);
            }
            Word::End(verdict) => Stand::Ended(Box::new(verdict)),
            Word::Unlooked => Stand::Out,
        };
        match leg {
            Leg::Icmp => self.icmp = stand,
            Leg::Link => self.link = stand,
        }
        None
    }

    /// What became of it after all, once; `None` where nobody looked. The reason of ICMP goes first.
    pub(super) fn outcome(&mut self, agent: Option<Contact>, took: Duration) -> Option<Outcome> {
        let [icmp, link] = [&mut self.icmp, &mut self.link].map(|stand| match std::mem::replace(stand, Stand::Out) {
            Stand::Ended(verdict) => Some(*verdict),
            Stand::Out | Stand::Open => None,
        });
        let failure = [icmp, link].into_iter().flatten().find_map(|verdict| verdict.failure);
        icmp.or(link)?;
        let tally = |verdict: Option<Verdict>| verdict.and_then(|verdict| verdict.tally);
        let report = PingReport { address: self.address, icmp: tally(icmp), link: tally(link), agent };
        Some(report.outcome(failure, took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::outcome::State;

    fn end(received: u32, kind: Option<FailureKind>) -> Word {
        let tally = Tally { sent: 1, received, ..Tally::default() };
        Word::End(Verdict { tally: Some(tally), failure: kind.map(Into::into) })
    }

    fn sample(number: u32) -> Word {
        Word::Sample(Sample { number, answer: Err(Failure::NO_REPLY) })
    }

    #[test]
    fn a_target_of_both_ways_is_alive_by_either_and_dead_for_the_reason_of_icmp() {
        let silent = || end(0, Some(FailureKind::AgentSilent));
        for (icmp, link, state, reason) in [
            (end(1, None), silent(), State::Succeeded, None),
            (end(0, Some(FailureKind::NoReply)), end(1, None), State::Succeeded, None),
            (end(0, Some(FailureKind::NoReply)), silent(), State::Failed, Some("no reply")),
            (FailureKind::Unresolved.into(), silent(), State::StartFailed, Some("name does not resolve")),
            (Word::Unlooked, silent(), State::Failed, Some("agent connected but silent")),
        ] {
            let mut slot = Slot::new(Way::Both, Instant::now());
            slot.hear(Leg::Link, link);
            assert!(!slot.is_over());
            slot.hear(Leg::Icmp, icmp);
            assert!(slot.is_over());
            let outcome = slot.outcome(None, Duration::ZERO).expect("it was looked at");
            assert_eq!((outcome.state, outcome.reason.as_deref()), (state, reason));
        }
    }

    #[test]
    fn what_nobody_looked_at_has_no_end() {
        let mut slot = Slot::new(Way::Icmp, Instant::now());
        slot.hear(Leg::Icmp, Word::Unlooked);
        assert!(slot.is_over());
        assert_eq!(slot.outcome(None, Duration::ZERO), None);
    }

    #[test]
    fn the_samples_are_those_of_icmp_where_there_are_any() {
        let mut both = Slot::new(Way::Both, Instant::now());
        assert_eq!(both.hear(Leg::Link, sample(0)), None);
        assert!(both.hear(Leg::Icmp, sample(0)).is_some());
        both.hear(Leg::Icmp, FailureKind::Unresolved.into());
        assert!(both.hear(Leg::Link, sample(1)).is_some(), "nothing can be sent by ICMP");
        assert_eq!(both.hear(Leg::Icmp, sample(1)), None, "it has had its last word");
        let mut no_socket = Slot::new(Way::Both, Instant::now());
        let unsent = Verdict { tally: Some(Tally::default()), failure: Some(FailureKind::NoSocket.into()) };
        no_socket.hear(Leg::Icmp, Word::End(unsent));
        assert!(no_socket.hear(Leg::Link, sample(0)).is_some(), "nothing was sent by ICMP");
        assert!(Slot::new(Way::Link, Instant::now()).hear(Leg::Link, sample(0)).is_some());
    }
}
