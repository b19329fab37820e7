//! Agents: listed, labelled, revoked, approved.

use super::jobs::selection;
use super::{OperatorDoor, audit};
use crate::clock;
use crate::reply::Reply as _;
use crate::sessions::Outgoing;
use muster_core::target::Selection;
use muster_proto::fleet::Labels;
use muster_proto::job::Target;
use muster_proto::limits;
use muster_proto::link::ToAgent;
use muster_proto::name::{LabelText, OperatorName};
use muster_proto::wire;
use std::time::Duration;
use tonic::Status;

/// Time for an agent to learn why its session ends.
const REVOKED_NOTICE: Duration = Duration::from_millis(100);

pub(super) fn list(door: &OperatorDoor, request: wire::ListAgentsRequest) -> Result<wire::ListAgentsReply, Status> {
    let targets = match selection(request.selection) {
        nothing if nothing == Selection::default() => door.roster.everybody(),
        chosen => door.roster.resolve(&chosen).map_err(|error| error.reply())?.0,
    };
    let agents = targets.iter().filter_map(|target| door.roster.info(target.agent)).map(Into::into);
    Ok(wire::ListAgentsReply { agents: agents.collect() })
}

pub(super) async fn label(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::LabelAgentsRequest,
) -> Result<wire::LabelAgentsReply, Status> {
    let set = wire::labels_of(&request.set).map_err(|error| error.reply())?;
    let remove: Vec<LabelText> = request
        .remove
        .iter()
        .map(|key| key.parse().map_err(|error| Status::invalid_argument(format!("{error}"))))
        .collect::<Result<_, Status>>()?;
    if set.is_empty() && remove.is_empty() {
        return Err(Status::invalid_argument("no label to set or to remove: give key=value, or key- to remove"));
    }
    let (targets, _) = door.roster.resolve(&selection(request.selection)).map_err(|error| error.reply())?;
    let mut changed = Vec::with_capacity(targets.len());
    for target in &targets {
        let mut labels: Labels = door.roster.labels(target.agent);
        labels.extend(set.clone());
        remove.iter().for_each(|key| _ = labels.remove(key));
        if labels.len() > limits::LABELS_MAX {
            let name = &target.name;
            return Err(Status::invalid_argument(format!("{name} would have more than {} labels", limits::LABELS_MAX)));
        }
        changed.push((target.agent, labels));
    }
    let words =
        set.iter().map(|(key, value)| format!("{key}={value}")).chain(remove.iter().map(|key| format!("{key}-")));
    let detail = format!("{} on {}", words.collect::<Vec<_>>().join(" "), folded(&targets));
    door.store
        .set_labels(changed.clone(), audit(operator, "agent.label", detail))
        .await
        .map_err(|error| error.reply())?;
    for (agent, labels) in changed {
        door.roster.set_labels(agent, labels);
    }
    Ok(wire::LabelAgentsReply { names: targets.iter().map(|target| target.name.to_string()).collect() })
}

fn folded(targets: &[Target]) -> String {
    muster_proto::names::fold(targets.iter().map(|target| target.name.as_str()))
}

pub(super) async fn revoke(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::RevokeAgentRequest,
) -> Result<wire::RevokeAgentReply, Status> {
    let text = &request.agent;
    let target = door.roster.find(text);
    let Some(Target { agent, name }) = target else {
        let text = muster_proto::text::line(text);
        return Err(Status::not_found(format!("no agent has the name or id {text:?}: `muster agents` lists them")));
    };
    let now = clock::now();
    let record = audit(operator, "agent.revoke", format!("{name} {agent}"));
    let door = door.clone();
    // All of it, even if the caller does not wait: what is stored must also be done.
    let revoked = tokio::spawn(async move {
        door.store.revoke_agent(agent, now, record).await.map_err(|error| error.reply())?;
        door.roster.revoke(agent, now);
        if let Some(session) = door.sessions.get(agent) {
            session.send(Outgoing::Message(ToAgent::Revoked));
            tokio::time::sleep(REVOKED_NOTICE).await;
            session.close();
        }
        door.engine.revoked(agent).await;
        Ok(wire::RevokeAgentReply { name: name.to_string() })
    });
    revoked.await.unwrap_or_else(|_| Err(Status::internal("the revocation was interrupted: repeat it")))
}

pub(super) async fn pending(door: &OperatorDoor) -> Result<wire::ListPendingReply, Status> {
    let pending = door.store.pending(clock::now()).await.map_err(|error| error.reply())?;
    Ok(wire::ListPendingReply { pending: pending.into_iter().map(Into::into).collect() })
}

pub(super) async fn approve(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::ApproveAgentRequest,
) -> Result<wire::ApproveAgentReply, Status> {
    let fingerprint = wire::digest_of(&request.fingerprint, "fingerprint").map_err(|error| error.reply())?;
    let labels = wire::labels_of(&request.labels).map_err(|error| error.reply())?;
    let hex: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    let record = audit(operator, "agent.approve", hex);
    let name = door.store.approve(fingerprint, labels, clock::now(), record).await.map_err(|error| error.reply())?;
    Ok(wire::ApproveAgentReply { name: name.to_string() })
}
