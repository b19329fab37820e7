//! Groups: names for expressions, set, removed, listed.

use super::{OperatorDoor, audit};
use crate::clock;
use crate::reply::Reply as _;
use muster_proto::name::{LabelText, OperatorName};
use muster_proto::selection::Group;
use muster_proto::text;
use muster_proto::wire;
use tonic::Status;

pub(super) async fn set(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::SetGroupRequest,
) -> Result<wire::SetGroupReply, Status> {
    let (name, expression) = (named(&request.name)?, request.expression.trim().to_owned());
    if ["all", "and", "or", "not"].contains(&name.as_str()) {
        return Err(Status::invalid_argument(format!(
            "a group cannot be called {name}: in expressions that is a word"
        )));
    }
    let record = audit(operator, "group.set", text::line(&format!("{name}: {expression}")));
    let group = Group { name, expression, operator: operator.clone(), changed_at: clock::now() };
    let hosts = door.resolver.set(group, record).await.map_err(|error| error.reply())?;
    Ok(wire::SetGroupReply { hosts: u32::try_from(hosts).unwrap_or(u32::MAX) })
}

pub(super) async fn remove(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::RemoveGroupRequest,
) -> Result<wire::RemoveGroupReply, Status> {
    let name = named(&request.name)?;
    let record = audit(operator, "group.remove", name.to_string());
    door.resolver.remove(name, record).await.map_err(|error| error.reply())?;
    Ok(wire::RemoveGroupReply {})
}

pub(super) async fn list(
    door: &OperatorDoor,
    request: wire::ListGroupsRequest,
) -> Result<wire::ListGroupsReply, Status> {
    if !request.name.is_empty() {
        let group = door.store.group(&named(&request.name)?).await.map_err(|error| error.reply())?;
        let groups = group.into_iter().map(Into::into).collect();
        return Ok(wire::ListGroupsReply { groups, sources: Vec::new() });
    }
    let (groups, sources) = door.resolver.list().await.map_err(|error| error.reply())?;
    Ok(wire::ListGroupsReply {
        groups: groups.into_iter().map(Into::into).collect(),
        sources: sources.into_iter().map(Into::into).collect(),
    })
}

/// With its `@`, or without.
fn named(name: &str) -> Result<LabelText, Status> {
    name.strip_prefix('@').unwrap_or(name).parse().map_err(|_| {
        Status::invalid_argument(format!(
            "{:?} is no name of a group: use up to 63 of a-z, 0-9, '.', '_', '-', beginning and ending with a letter or digit",
            text::line(name)
        ))
    })
}
