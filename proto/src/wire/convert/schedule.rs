//! Selections and schedules of pings, and how their hosts were.

use super::fleet::{millis_or_zero, moment};
use super::ping::some_name;
use super::{WireError, millis, nanos, parsed, present};
use crate::ping::{Change, ControllerLooks, PingSelection, Schedule, Standing};
use crate::text;
use crate::time::Timestamp;
use crate::wire;
use std::num::NonZeroU32;
use std::time::Duration;

impl From<PingSelection> for wire::PingSelection {
    fn from(selection: PingSelection) -> Self {
        let agents = |targets, exclude| wire::Selection { targets, exclude, ..wire::Selection::default() };
        Self {
            agents: Some(agents(selection.targets, selection.exclude)),
            hosts: selection.hosts,
            networks: selection.networks,
            from: selection.from.map(|from| agents(from, String::new())),
            without_controller: selection.controller == ControllerLooks::No,
            sample: selection.sample.map_or(0, NonZeroU32::get),
        }
    }
}

impl From<wire::PingSelection> for PingSelection {
    fn from(selection: wire::PingSelection) -> Self {
        let agents = selection.agents.unwrap_or_default();
        Self {
            targets: agents.targets,
            exclude: agents.exclude,
            hosts: selection.hosts,
            networks: selection.networks,
            from: selection.from.map(|from| from.targets),
            controller: if selection.without_controller { ControllerLooks::No } else { ControllerLooks::Yes },
            sample: NonZeroU32::new(selection.sample),
        }
    }
}

impl From<Schedule> for wire::PingSchedule {
    fn from(schedule: Schedule) -> Self {
        Self {
            name: schedule.name.to_string(),
            probe: Some((&schedule.spec).into()),
            selection: Some(schedule.selection.into()),
            every_ms: millis(schedule.every),
            operator: schedule.operator.to_string(),
            created_at_ms: schedule.created_at.as_millis(),
            ran_at_ms: millis_or_zero(schedule.ran_at),
            targets: schedule.targets,
            problem: schedule.problem.unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::PingSchedule> for Schedule {
    type Error = WireError;

    fn try_from(schedule: wire::PingSchedule) -> Result<Self, WireError> {
        Ok(Self {
            name: parsed(&schedule.name, "name")?,
            selection: present(schedule.selection, "selection")?.into(),
            spec: present(schedule.probe, "probe")?.try_into()?,
            every: Duration::from_millis(schedule.every_ms),
            operator: parsed(&schedule.operator, "operator")?,
            created_at: Timestamp::from_millis(schedule.created_at_ms),
            ran_at: moment(schedule.ran_at_ms),
            targets: schedule.targets,
            problem: (!schedule.problem.is_empty()).then(|| text::line(&schedule.problem)),
        })
    }
}

impl From<Standing> for wire::PingStanding {
    fn from(standing: Standing) -> Self {
        Self {
            schedule: standing.schedule.to_string(),
            from: standing.from.map(|from| from.to_string()).unwrap_or_default(),
            host: standing.host.to_string(),
            up: standing.up,
            since_ms: standing.since.as_millis(),
            reason: standing.reason.unwrap_or_default(),
            sent: standing.sent,
            received: standing.received,
            worst_loss_permille: standing.worst_loss_permille,
            flaps: standing.flaps,
            up_ms: millis(standing.up_time),
            known_ms: millis(standing.known_time),
            rtt_mean_ns: standing.rtt.map_or(0, |(mean, _)| nanos(mean)),
            rtt_max_ns: standing.rtt.map_or(0, |(_, max)| nanos(max)),
        }
    }
}

impl TryFrom<wire::PingStanding> for Standing {
    type Error = WireError;

    fn try_from(standing: wire::PingStanding) -> Result<Self, WireError> {
        let rtt = (standing.rtt_max_ns > 0)
            .then(|| (Duration::from_nanos(standing.rtt_mean_ns), Duration::from_nanos(standing.rtt_max_ns)));
        Ok(Self {
            schedule: parsed(&standing.schedule, "schedule")?,
            from: some_name(&standing.from)?,
            host: parsed(&standing.host, "host")?,
            up: standing.up,
            since: Timestamp::from_millis(standing.since_ms),
            reason: (!standing.reason.is_empty()).then(|| text::line(&standing.reason)),
            sent: standing.sent,
            received: standing.received,
            worst_loss_permille: standing.worst_loss_permille,
            flaps: standing.flaps,
            up_time: Duration::from_millis(standing.up_ms),
            known_time: Duration::from_millis(standing.known_ms),
            rtt,
        })
    }
}

impl From<Change> for wire::PingChange {
    fn from(change: Change) -> Self {
        Self {
            schedule: change.schedule.to_string(),
            from: change.from.map(|from| from.to_string()).unwrap_or_default(),
            host: change.host.to_string(),
            at_ms: change.at.as_millis(),
            up: change.up,
            reason: change.reason.unwrap_or_default(),
        }
    }
}

impl TryFrom<wire::PingChange> for Change {
    type Error = WireError;

    fn try_from(change: wire::PingChange) -> Result<Self, WireError> {
        Ok(Self {
            schedule: parsed(&change.schedule, "schedule")?,
            from: some_name(&change.from)?,
            host: parsed(&change.host, "host")?,
            at: Timestamp::from_millis(change.at_ms),
            up: change.up,
            reason: (!change.reason.is_empty()).then(|| text::line(&change.reason)),
        })
    }
}
