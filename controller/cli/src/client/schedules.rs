//! What the command line asks of pings that the controller repeats.

use super::{Client, ClientError};
use muster_proto::name::OperatorName;
use muster_proto::ping::{Change, PingSelection, PingSpec, Schedule, Standing};
use muster_proto::text;
use muster_proto::time::Timestamp;
use muster_proto::wire;
use std::time::Duration;

/// A ping to repeat.
pub struct NewSchedule {
    /// What it is called.
    pub name: OperatorName,
    /// Who is looked at, and from where.
    pub selection: PingSelection,
    /// What is asked in each round.
    pub spec: PingSpec,
    /// From one round to the next.
    pub every: Duration,
    /// Whether one of this name gives way.
    pub replace: Replace,
}

/// Whether a schedule of the same name gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// It does.
    Yes,
    /// It does not: the new one is refused.
    No,
}

/// What a new schedule means.
pub struct Made {
    /// Pairs in its first round.
    pub targets: u32,
    /// What was left out, or to be known, a line each.
    pub notes: Vec<String>,
}

/// How the hosts of schedules were.
pub struct Standings {
    /// By schedule, then in the order of its list.
    pub standings: Vec<Standing>,
    /// Who went up or down, the oldest first; the newest 10,000.
    pub changes: Vec<Change>,
}

impl Client {
    /// Has the controller repeat a ping.
    pub async fn schedule(&self, new: NewSchedule) -> Result<Made, ClientError> {
        let schedule = wire::PingSchedule {
            name: new.name.to_string(),
            selection: Some(new.selection.into()),
            probe: Some((&new.spec).into()),
            every_ms: super::millis(new.every),
            ..wire::PingSchedule::default()
        };
        let request = wire::SchedulePingRequest { schedule: Some(schedule), replace: new.replace == Replace::Yes };
        let reply = self.reply(self.service.clone().schedule_ping(request).await)?;
        Ok(Made { targets: reply.targets, notes: reply.notes.iter().map(|note| text::line(note)).collect() })
    }

    /// All schedules, by name.
    pub async fn schedules(&self) -> Result<Vec<Schedule>, ClientError> {
        let reply = self.reply(self.service.clone().list_schedules(wire::ListSchedulesRequest {}).await)?;
        self.read_all(reply.schedules)
    }

    /// Ends a schedule, and forgets what it found.
    pub async fn unschedule(&self, name: &OperatorName) -> Result<(), ClientError> {
        let request = wire::RemoveScheduleRequest { name: name.to_string() };
        self.reply(self.service.clone().remove_schedule(request).await)?;
        Ok(())
    }

    /// How the hosts of one schedule, or of all, were since a moment.
    pub async fn standings(&self, name: Option<&OperatorName>, since: Timestamp) -> Result<Standings, ClientError> {
        let schedule = name.map(ToString::to_string).unwrap_or_default();
        let request = wire::PingStatusRequest { schedule, since_ms: since.as_millis() };
        let reply = self.reply(self.service.clone().ping_status(request).await)?;
        Ok(Standings { standings: self.read_all(reply.standings)?, changes: self.read_all(reply.changes)? })
    }
}
