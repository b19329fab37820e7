//! Jobs at work: paused, resumed and cancelled, and who waits in them.

use super::OperatorDoor;
use super::find;
use super::jobs::job_id;
use crate::engine::{EngineError, Order, Ordered};
use crate::reply::Reply as _;
use muster_proto::name::OperatorName;
use muster_proto::wire;
use tonic::Status;

pub(super) async fn cancel(
    door: &OperatorDoor,
    operator: OperatorName,
    request: wire::CancelRequest,
) -> Result<wire::CancelReply, Status> {
    let ordered = order(door, operator, &request.job, Order::Cancel).await?;
    Ok(wire::CancelReply { already_done: ordered == Ordered::JobDone })
}

pub(super) async fn pause(
    door: &OperatorDoor,
    operator: OperatorName,
    request: wire::PauseRequest,
) -> Result<wire::PauseReply, Status> {
    match order(door, operator, &request.job, Order::Pause).await? {
        Ordered::JobDone => Err(done("paused")),
        ordered => Ok(wire::PauseReply { already_paused: ordered == Ordered::Already }),
    }
}

pub(super) async fn resume(
    door: &OperatorDoor,
    operator: OperatorName,
    request: wire::ResumeRequest,
) -> Result<wire::ResumeReply, Status> {
    match order(door, operator, &request.job, Order::Resume).await? {
        Ordered::JobDone => Err(done("resumed")),
        ordered => Ok(wire::ResumeReply { not_paused: ordered == Ordered::Already }),
    }
}

pub(super) async fn queue(door: &OperatorDoor) -> wire::ListQueueReply {
    let (tasks, total) = door.engine.queue().await;
    let total = u32::try_from(total).unwrap_or(u32::MAX);
    wire::ListQueueReply { tasks: tasks.into_iter().map(Into::into).collect(), total }
}

async fn order(door: &OperatorDoor, operator: OperatorName, job: &[u8], order: Order) -> Result<Ordered, Status> {
    match door.engine.order(job_id(job)?, operator, order).await {
        Err(EngineError::NoSuchJob(job)) => Err(find::missing(&door.store, job).await),
        ordered => ordered.map_err(|error| error.reply()),
    }
}

fn done(what: &str) -> Status {
    Status::failed_precondition(format!("the job is done: it cannot be {what}"))
}
