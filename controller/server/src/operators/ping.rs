//! Pings: planned over the roster, and the frozen list that comes back signed.

use super::OperatorDoor;
use crate::reply::Reply as _;
use muster_proto::job::JobSpec;
use muster_proto::ping::PingList;
use muster_proto::wire;
use tonic::Status;

pub(super) async fn plan(door: &OperatorDoor, request: wire::PlanPingRequest) -> Result<wire::PlanPingReply, Status> {
    let selection = request.selection.ok_or_else(|| Status::invalid_argument("the selection is missing"))?;
    let (list, notes) = door.resolver.pings(selection.into()).await.map_err(|error| error.reply())?;
    let cluster = door.issuers.cluster().as_bytes().to_vec().into();
    Ok(wire::PlanPingReply { cluster, list: Some((&list).into()), notes })
}

/// The list that the operator saw and signed; every agent in it is one that this controller knows by that name.
pub(super) fn frozen_list(door: &OperatorDoor, spec: &JobSpec, list: wire::PingList) -> Result<PingList, Status> {
    let changed = || Status::failed_precondition("the fleet changed since the plan was made: run the command again");
    let list = PingList::try_from(list).map_err(|error| error.reply())?;
    if list.pairs().len() != spec.targets.count as usize
        || list.tree().is_none_or(|tree| tree.root() != spec.targets.root)
    {
        return Err(Status::invalid_argument("the target list is not the one that was signed"));
    }
    let vantages = list.vantages().iter().map(|target| (target.agent, target.name.as_str()));
    let hosts = list.hosts().iter().filter_map(|host| Some((host.agent?, host.name.as_str())));
    if door.roster.bear_these_names(vantages.chain(hosts)) { Ok(list) } else { Err(changed()) }
}
