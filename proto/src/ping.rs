//! Pings: what is asked ([`PingSpec`]), of whom ([`PingList`]), what came back ([`PingReport`]), and what it means
//! ([`diagnose`]).
//!
//! A target of a ping is a pair: who looks (the controller or an agent) and at which host. Hosts need no agent.

mod diagnosis;
mod failure;
mod list;
mod rtts;
mod schedule;

pub use diagnosis::{Diagnosis, Sight, diagnose};
pub use failure::{Failure, FailureKind};
pub use list::{ListError, Pair, ParsePingNameError, PingHost, PingList, PingName, TargetName};
pub use rtts::{Rtts, Summary};
pub use schedule::{Change, ControllerLooks, Found, Interval, Known, PairInterval, PingSelection, Schedule, Standing};

use crate::limits;
use crate::outcome::{Outcome, State};
use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

/// What is asked of each target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingSpec {
    /// How the controller looks at a host. Agents look by ICMP.
    pub way: Way,
    /// Which address of a name is taken.
    pub family: Family,
    /// What is told before the end.
    pub detail: Detail,
    /// The probes themselves.
    pub probes: Probes,
}

/// How the controller looks at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By ICMP, and over the link of the host's agent, if it has one: it is there if it answers by either.
    Both,
    /// By ICMP alone.
    Icmp,
    /// By the round trip of the agent's link alone.
    Link,
}

/// Which address of a name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// The resolver's first.
    Any,
    /// An IPv4 address.
    V4,
    /// An IPv6 address.
    V6,
}

impl Family {
    /// An address of this kind.
    pub const fn includes(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// What is told of a target before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Nothing.
    Ends,
    /// The first probe, and every one that differs from the one before in whether an answer came, or cannot be known.
    Changes,
    /// Every probe.
    Each,
}

/// The probes of one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probes {
    /// How many; `None` goes on until it is told to end.
    pub count: Option<NonZeroU32>,
    /// From one to the next.
    pub period: Duration,
    /// Wait for the answer to one.
    pub timeout: Duration,
    /// How often one without an answer is repeated; an answer to any of the tries counts.
    pub retries: u32,
    /// Payload in bytes.
    pub size: u16,
    /// Hops, as `IP_TTL`; `None` is the system's.
    pub ttl: Option<NonZeroU8>,
    /// As `IP_TOS`: DSCP in the upper six bits.
    pub tos: u8,
    /// Packets a second over all targets; `None` is as fast as the machine sends.
    pub rate: Option<NonZeroU32>,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            count: Some(NonZeroU32::MIN),
            period: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            retries: 1,
            size: 56,
            ttl: None,
            tos: 0,
            rate: NonZeroU32::new(limits::PROBE_RATE_DEFAULT),
        }
    }
}

impl PingSpec {
    /// What is asked, as words that `muster` takes; what is as usual is left out.
    pub fn words(&self) -> Vec<String> {
        let usual = Probes::default();
        let Probes { count, period, timeout, retries, size, ttl, tos, rate } = self.probes;
        let span = |span: Duration| format!("{}ms", span.as_secs_f64() * 1_000.0);
        let mut words = vec!["ping".to_owned()];
        let mut option = |name: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
        };
        option(
            "--via",
            match self.way {
                Way::Both => None,
                Way::Icmp => Some("icmp".to_owned()),
                Way::Link => Some("agent".to_owned()),
            },
        );
        option("-c", count.filter(|_| count != usual.count).map(|count| count.to_string()));
        option("-p", (period != usual.period).then(|| span(period)));
        option("--timeout", (timeout != usual.timeout).then(|| span(timeout)));
        // As the command line takes it: a lost one of several counts as lost.
        let usual_retries = u32::from(count == usual.count);
        option("-r", (retries != usual_retries).then(|| retries.to_string()));
        option("--size", (size != usual.size).then(|| size.to_string()));
        option("--ttl", ttl.map(|ttl| ttl.to_string()));
        option("--tos", (tos != 0).then(|| tos.to_string()));
        option("--rate", (rate != usual.rate).then(|| rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string())));
        words.extend(count.is_none().then(|| "--loop".to_owned()));
        words.extend(match self.family {
            Family::Any => None,
            Family::V4 => Some("-4".to_owned()),
            Family::V6 => Some("-6".to_owned()),
        });
        words
    }
}

impl Probes {
    /// Refuses what no network would bear, or what would never end.
    pub fn check(&self) -> Result<(), PingError> {
        if self.count.is_some_and(|count| count.get() > limits::PROBE_COUNT_MAX) {
            return Err(PingError::Count);
        }
        if self.period < limits::PROBE_PERIOD_MIN || self.period > limits::PROBE_PERIOD_MAX {
            return Err(PingError::Period);
        }
        if self.timeout < limits::PROBE_TIMEOUT_MIN || self.timeout > limits::PROBE_TIMEOUT_MAX {
            return Err(PingError::Timeout);
        }
        if self.retries > limits::PROBE_RETRIES_MAX {
            return Err(PingError::Retries);
        }
        if self.size > limits::PROBE_SIZE_MAX {
            return Err(PingError::Size);
        }
        Ok(())
    }
}

/// What makes a ping impossible, with what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    /// Too many probes.
    #[error("at most {} probes to a target: leave the count out and use --loop for more", limits::PROBE_COUNT_MAX)]
    Count,
    /// Too fast or too slow.
    #[error("the period is from {} ms to {} h", limits::PROBE_PERIOD_MIN.as_millis(), limits::PROBE_PERIOD_MAX.as_secs() / 3600)]
    Period,
    /// Too short or too long.
    #[error("the timeout is from {} ms to {} s", limits::PROBE_TIMEOUT_MIN.as_millis(), limits::PROBE_TIMEOUT_MAX.as_secs())]
    Timeout,
    /// Too often.
    #[error("at most {} retries", limits::PROBE_RETRIES_MAX)]
    Retries,
    /// No packet is so large.
    #[error("at most {} bytes of payload fit into a packet", limits::PROBE_SIZE_MAX)]
    Size,
}

/// What became of one probe, its retries included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Which, from 0.
    pub number: u32,
    /// The round trip, or why there is none.
    pub answer: Result<Duration, Failure>,
}

/// What a prober says of its targets, in any order between them; `place` is the place of the target in the order in which
/// the prober learnt of them, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// What became of one probe, as [`Detail`] asks for it.
    Sample {
        /// Whose.
        place: u32,
        /// What.
        sample: Sample,
    },
    /// The last word on a target.
    End {
        /// Whose.
        place: u32,
        /// What came back.
        tally: Tally,
        /// The newest reason why a probe was not answered; `None` if all were.
        failure: Option<Failure>,
    },
}

/// What came back of all probes of one target by one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Probes; a probe with retries is one.
    pub sent: u32,
    /// Probes that were answered in time.
    pub received: u32,
    /// Answers after the first to the same probe.
    pub duplicates: u32,
    /// Answers that came after their time.
    pub late: u32,
    /// Answers with another payload than was sent; they count as none.
    pub damaged: u32,
    /// Of the answered ones.
    pub rtt: Option<Summary>,
}

impl Tally {
    /// Probes without an answer, in per cent; 0 where none was sent.
    pub fn loss_percent(&self) -> f64 {
        if self.sent == 0 {
            0.0
        } else {
            f64::from(self.sent - self.received.min(self.sent)) * 100.0 / f64::from(self.sent)
        }
    }
}

/// How a ping of one target ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PingReport {
    /// The address that was probed.
    pub address: Option<IpAddr>,
    /// By ICMP.
    pub icmp: Option<Tally>,
    /// Over the link of the host's agent.
    pub link: Option<Tally>,
    /// Whether the host's agent was connected at the end; `None` where it has none, or an agent looked.
    pub agent: Option<Contact>,
}

/// Whether an agent could be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// It is connected.
    Connected,
    /// It is not.
    Away,
}

impl PingReport {
    /// Some probe was answered.
    pub fn is_alive(&self) -> bool {
        [self.icmp, self.link].into_iter().flatten().any(|tally| tally.received > 0)
    }

    /// The terminal state with this report. `failure` says why there was no answer, if there was none.
    pub fn outcome(self, failure: Option<Failure>, duration: Duration) -> Outcome {
        let (state, reason) = if self.is_alive() {
            // One way has answered, and the other could not even be tried: that is no state, but it has to be told.
            let untried = failure.filter(|failure| failure.kind.state() == State::StartFailed);
            (State::Succeeded, untried.map(|failure| failure.to_string()))
        } else {
            let failure = failure.unwrap_or(Failure::NO_REPLY);
            (failure.kind.state(), Some(failure.to_string()))
        };
        let duration = (!state.is_not_run()).then_some(duration);
        Outcome { state, exit_code: None, signal: None, reason, duration, ping: Some(Box::new(self)) }
    }
}
