//! Pings that the controller repeats: made, listed, removed, and how their hosts were.

use super::{OperatorDoor, audit};
use crate::clock;
use crate::reply::Reply as _;
use muster_proto::name::OperatorName;
use muster_proto::ping::Schedule;
use muster_proto::time::Timestamp;
use muster_proto::wire;
use muster_store::Replace;
use tonic::Status;

pub(super) async fn make(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::SchedulePingRequest,
) -> Result<wire::SchedulePingReply, Status> {
    let schedule = request.schedule.ok_or_else(|| Status::invalid_argument("the schedule is missing"))?;
    // Who makes it, and when, is ours to say.
    let schedule = wire::PingSchedule {
        operator: operator.to_string(),
        created_at_ms: clock::now().as_millis(),
        ran_at_ms: 0,
        targets: 0,
        problem: String::new(),
        ..schedule
    };
    named(&schedule.name)?;
    let schedule = Schedule::try_from(schedule).map_err(|error| error.reply())?;
    let replace = if request.replace { Replace::Yes } else { Replace::No };
    let made = door.schedules.make(schedule, replace).await.map_err(|error| error.reply())?;
    Ok(wire::SchedulePingReply { targets: made.targets, notes: made.notes })
}

pub(super) async fn list(door: &OperatorDoor) -> Result<wire::ListSchedulesReply, Status> {
    let schedules = door.schedules.list().await.into_iter().map(Into::into).collect();
    Ok(wire::ListSchedulesReply { schedules })
}

pub(super) async fn remove(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::RemoveScheduleRequest,
) -> Result<wire::RemoveScheduleReply, Status> {
    let name = named(&request.name)?;
    let record = audit(operator, "schedule.remove", name.to_string());
    door.schedules.remove(name, record).await.map_err(|error| error.reply())?;
    Ok(wire::RemoveScheduleReply {})
}

pub(super) async fn status(
    door: &OperatorDoor,
    request: wire::PingStatusRequest,
) -> Result<wire::PingStatusReply, Status> {
    let name = if request.schedule.is_empty() { None } else { Some(named(&request.schedule)?) };
    let since = Timestamp::from_millis(request.since_ms);
    let (standings, changes) = door.schedules.standings(name.as_ref(), since).await.map_err(|error| error.reply())?;
    Ok(wire::PingStatusReply {
        standings: standings.into_iter().map(Into::into).collect(),
        changes: changes.into_iter().map(Into::into).collect(),
    })
}

fn named(text: &str) -> Result<OperatorName, Status> {
    text.parse().map_err(|_| {
        Status::invalid_argument(format!(
            "{text:?} is no name of a schedule: use up to 63 of a-z, 0-9, '.', '_', '-', beginning and ending with a letter or digit"
        ))
    })
}
