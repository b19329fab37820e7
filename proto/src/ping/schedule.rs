//! Pings that a controller repeats, and what became of their hosts.

use crate::name::{HostName, OperatorName};
use crate::ping::{PingName, PingSpec, TargetName};
use crate::time::Timestamp;
use std::num::NonZeroU32;
use std::time::Duration;

/// Who is looked at, and from where, as an operator says it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PingSelection {
    /// Agents by expression; a name that no agent bears is taken as a host without one. May be empty.
    pub targets: String,
    /// Expression of what is taken out again. May be empty.
    pub exclude: String,
    /// Names, ranges and addresses, of agents or not.
    pub hosts: Vec<String>,
    /// Networks whose every address is meant, but for the network's own two.
    pub networks: Vec<String>,
    /// Agents that look, by expression.
    pub from: Option<String>,
    /// Whether the controller looks.
    pub controller: ControllerLooks,
    /// Each host is looked at by so many of the agents that look; `None` is by all.
    pub sample: Option<NonZeroU32>,
}

/// Whether the controller looks at the hosts of a ping itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ControllerLooks {
    /// It does.
    #[default]
    Yes,
    /// Only the agents do.
    No,
}

/// A ping that the controller repeats.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// What it is called.
    pub name: OperatorName,
    /// Who is looked at, resolved anew for each round.
    pub selection: PingSelection,
    /// What is asked.
    pub spec: PingSpec,
    /// From one round to the next.
    pub every: Duration,
    /// Who made it.
    pub operator: OperatorName,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last ran.
    pub ran_at: Option<Timestamp>,
    /// Pairs in the last round.
    pub targets: u32,
    /// Why the last round did not run, or not to its end.
    pub problem: Option<String>,
}

/// How one host of a schedule was, seen from one place.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The schedule.
    pub schedule: OperatorName,
    /// The agent that looks; `None` is the controller.
    pub from: Option<HostName>,
    /// The host.
    pub host: PingName,
    /// Whether it is up; `None` where nothing is known.
    pub up: Option<bool>,
    /// Since when.
    pub since: Timestamp,
    /// Why it is down, or why nothing is known.
    pub reason: Option<String>,
    /// Probes.
    pub sent: u64,
    /// Probes that were answered.
    pub received: u64,
    /// Lost in the worst interval: per mille.
    pub worst_loss_permille: u32,
    /// Changes.
    pub flaps: u32,
    /// Time up.
    pub up_time: Duration,
    /// Time in which it is known.
    pub known_time: Duration,
    /// Mean and longest round trip; `None` where nothing came back.
    pub rtt: Option<(Duration, Duration)>,
}

/// A host went up or down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The schedule.
    pub schedule: OperatorName,
    /// The agent that looks; `None` is the controller.
    pub from: Option<HostName>,
    /// The host.
    pub host: PingName,
    /// When.
    pub at: Timestamp,
    /// Whether it is up from then on.
    pub up: bool,
    /// Why it is down.
    pub reason: Option<String>,
}

/// What the rounds of a schedule found of one pair, added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Probes.
    pub sent: u64,
    /// Probes that were answered.
    pub received: u64,
    /// Their round trips, added up.
    pub rtt_sum: Duration,
    /// The longest of them.
    pub rtt_max: Duration,
    /// Time up.
    pub up_time: Duration,
    /// Time in which it is known.
    pub known_time: Duration,
    /// Changes, kept or not.
    pub flaps: u32,
}

/// How a pair was when that was last known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// It was up.
    pub up: bool,
    /// Since when.
    pub since: Timestamp,
    /// Why it was down.
    pub reason: Option<String>,
}

/// One pair in an [`Interval`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairInterval {
    /// The pair.
    pub name: TargetName,
    /// What was found in the interval.
    pub found: Found,
    /// How it was at its end, if that was ever known.
    pub known: Option<Known>,
    /// The newest change of it that is kept says that it is down.
    pub told_down: bool,
}

/// How the pairs of a schedule were in [`Interval::SPAN`]: what is kept of its rounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// When it began: a multiple of its span.
    pub start: Timestamp,
    /// Those that were looked at.
    pub pairs: Vec<PairInterval>,
}

impl Interval {
    /// How long one is.
    pub const SPAN: Duration = Duration::from_mins(10);

    /// The start of the one that this moment is in.
    pub fn of(moment: Timestamp) -> Timestamp {
        let span = i64::try_from(Self::SPAN.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(moment.as_millis().div_euclid(span).saturating_mul(span))
    }
}
