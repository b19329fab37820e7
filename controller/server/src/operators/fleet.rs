//! Agents: listed, labelled, revoked, resolved, approved.

use super::{OperatorDoor, audit};
use crate::agents::refused_as_revoked;
use crate::clock;
use crate::reply::Reply as _;
use crate::stats::Closed;
use muster_core::target::Resolved;
use muster_proto::fleet::{Labels, Party};
use muster_proto::job::Target;
use muster_proto::limits;
use muster_proto::name::{LabelText, OperatorName};
use muster_proto::selection::Selection;
use muster_proto::wire;
use muster_store::Keep;
use std::net::SocketAddr;
use tonic::Status;

/// So many characters of a boot id, at least, name one of two.
const BOOT_PREFIX_MIN: usize = 4;

pub(super) async fn list(
    door: &OperatorDoor,
    request: wire::ListAgentsRequest,
) -> Result<wire::ListAgentsReply, Status> {
    let targets = match request.selection.unwrap_or_default().into() {
        nothing if nothing == Selection::default() => door.roster.everybody(),
        chosen => door.resolver.resolve(chosen).await.map_err(|error| error.reply())?.0.targets,
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
    let selection = request.selection.unwrap_or_default().into();
    let (Resolved { targets, .. }, _) = door.resolver.resolve(selection).await.map_err(|error| error.reply())?;
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

fn find(door: &OperatorDoor, text: &str) -> Result<Target, Status> {
    door.roster.find(text).ok_or_else(|| {
        let text = muster_proto::text::line(text);
        Status::not_found(format!("no agent has the name or id {text:?}: `muster agents` lists them"))
    })
}

pub(super) async fn revoke(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::RevokeAgentRequest,
) -> Result<wire::RevokeAgentReply, Status> {
    let Target { agent, name } = find(door, &request.agent)?;
    let now = clock::now();
    let record = audit(operator, "agent.revoke", format!("{name} {agent}"));
    let door = door.clone();
    // All of it, even if the caller does not wait: what is stored must also be done.
    let revoked = tokio::spawn(async move {
        door.store.revoke_agent(agent, now, record).await.map_err(|error| error.reply())?;
        door.roster.revoke(agent, now);
        if let Some(session) = door.sessions.get(agent) {
            session.dismiss(Closed::Revoked, refused_as_revoked());
        }
        door.engine.revoked(agent).await;
        Ok(wire::RevokeAgentReply { name: name.to_string() })
    });
    revoked.await.unwrap_or_else(|_| Err(Status::internal("the revocation was interrupted: repeat it")))
}

/// Which of two machines is the agent.
pub(super) async fn resolve(
    door: &OperatorDoor,
    operator: &OperatorName,
    request: wire::ResolveAgentRequest,
) -> Result<wire::ResolveAgentReply, Status> {
    let Target { agent, name } = find(door, &request.agent)?;
    let Some(quarantine) = door.sessions.quarantined(agent) else {
        return Err(Status::failed_precondition(format!("{name} is not quarantined: one machine uses its identity")));
    };
    let keep = chosen(&quarantine.parties, &request.keep).ok_or_else(|| {
        let [first, second] = quarantine.parties.each_ref().map(described);
        let given = muster_proto::text::line(&request.keep);
        Status::invalid_argument(format!(
            "{given:?} names neither or both of the machines that use the identity of {name}: \
             keep first, {first}, or second, {second}"
        ))
    })?;
    let record = audit(operator, "agent.resolve", format!("{name} {agent}: kept {}", request.keep));
    let door = door.clone();
    // All of it, even if the caller does not wait: what is stored must also be done.
    let resolved = tokio::spawn(async move {
        let kept = door.store.resolve(agent, keep, record).await.map_err(|error| error.reply())?;
        door.sessions.resolved(agent);
        door.engine.recognition_changed(agent).await;
        Ok(wire::ResolveAgentReply { name: name.to_string(), kept: Some(kept.into()) })
    });
    resolved.await.unwrap_or_else(|_| Err(Status::internal("this was interrupted: repeat it")))
}

/// The one party that a text stands for: its place in the list, its address with or without the port, its machine id, or
/// the beginning of its boot id. What a machine says of itself counts only where no address decides: it may say anything.
fn chosen(parties: &[Party; 2], text: &str) -> Option<Keep> {
    let seen_at = |party: &Party| {
        let host = party.address.parse().map(|address: SocketAddr| address.ip().to_canonical().to_string());
        party.address == text || host.is_ok_and(|host| host == text)
    };
    let says = |party: &Party| {
        party.machine == text || (text.len() >= BOOT_PREFIX_MIN && party.boot.to_string().starts_with(text))
    };
    let matches = match (text, parties.each_ref().map(seen_at)) {
        ("", _) => return None,
        ("first", _) => [true, false],
        ("second", _) => [false, true],
        (_, [false, false]) => parties.each_ref().map(says),
        (_, seen) => seen,
    };
    match matches {
        [true, false] => Some(Keep::First),
        [false, true] => Some(Keep::Second),
        _ => None,
    }
}

fn described(party: &Party) -> String {
    let machine = if party.machine.is_empty() { "unknown" } else { &party.machine };
    format!("{} (machine {machine}, boot {})", party.address, party.boot)
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

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::{BootId, StartId};
    use muster_proto::time::Timestamp;

    fn party(address: &str, machine: &str, boot: u8) -> Party {
        let (boot, start) = (BootId::from_bytes([boot; 16]), StartId::from_bytes([3; 16]));
        Party { address: address.into(), machine: machine.into(), boot, start, seen_at: Timestamp::from_millis(0) }
    }

    #[test]
    fn what_a_machine_says_of_itself_never_keeps_the_other_one_from_being_chosen() {
        // Both behind one address; the second says whatever could stand for the first.
        let behind = [party("192.0.2.1:10", "m1", 1), party("192.0.2.1:20", "m1", 1)];
        let lying = [party("192.0.2.1:10", "m1", 1), party("192.0.2.2:20", "192.0.2.1", 2)];
        let posing = [party("192.0.2.1:10", "second", 1), party("192.0.2.2:20", "first", 2)];
        for parties in [&behind, &lying, &posing] {
            assert_eq!(chosen(parties, "first"), Some(Keep::First));
            assert_eq!(chosen(parties, "second"), Some(Keep::Second));
        }
        for ambiguous in ["192.0.2.1", "m1", "", "third"] {
            assert_eq!(chosen(&behind, ambiguous), None, "{ambiguous}");
        }
        assert_eq!(chosen(&behind, "192.0.2.1:20"), Some(Keep::Second));
        assert_eq!(chosen(&lying, "192.0.2.1"), Some(Keep::First), "where it comes from counts before what it says");
        let boot = lying[1].boot.to_string();
        assert_eq!(chosen(&lying, &boot), Some(Keep::Second));
    }
}
