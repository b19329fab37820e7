//! Agents, facts, labels, operators.

use super::{WireError, bytes_of, digest_of, id_of, parsed, present};
use crate::fleet::{AgentInfo, ClockOffset, Facts, Labels, OperatorInfo, Party, PendingAgent, Quarantine};
use crate::limits;
use crate::text;
use crate::time::Timestamp;
use crate::wire;

pub(super) fn moment(millis: i64) -> Option<Timestamp> {
    (millis != 0).then_some(Timestamp::from_millis(millis))
}

pub(super) fn millis_or_zero(time: Option<Timestamp>) -> i64 {
    time.map_or(0, Timestamp::as_millis)
}

/// Labels from their pairs; a key that comes twice is refused.
pub fn labels_of(list: &[wire::Label]) -> Result<Labels, WireError> {
    let mut labels = Labels::new();
    for label in list {
        if labels.insert(parsed(&label.key, "label.key")?, parsed(&label.value, "label.value")?).is_some() {
            return Err(WireError::Field("labels"));
        }
    }
    if labels.len() > limits::LABELS_MAX {
        return Err(WireError::Field("labels"));
    }
    Ok(labels)
}

/// Labels as pairs.
pub fn labels_to_wire(labels: &Labels) -> Vec<wire::Label> {
    labels.iter().map(|(key, value)| wire::Label { key: key.to_string(), value: value.to_string() }).collect()
}

impl From<Facts> for wire::Facts {
    fn from(facts: Facts) -> Self {
        Self {
            hostname: facts.hostname,
            os: facts.os,
            os_version: facts.os_version,
            os_name: facts.os_name,
            kernel: facts.kernel,
            arch: facts.arch,
            cpus: facts.cpus,
            memory_bytes: facts.memory_bytes,
            addresses: facts.addresses,
            agent_version: facts.agent_version,
            containment: facts.containment,
            root: facts.root,
        }
    }
}

impl From<wire::Facts> for Facts {
    fn from(facts: wire::Facts) -> Self {
        Self {
            hostname: text::line(&facts.hostname),
            os: text::line(&facts.os),
            os_version: text::line(&facts.os_version),
            os_name: text::line(&facts.os_name),
            kernel: text::line(&facts.kernel),
            arch: text::line(&facts.arch),
            cpus: facts.cpus,
            memory_bytes: facts.memory_bytes,
            addresses: facts.addresses.iter().take(64).map(|address| text::line(address)).collect(),
            agent_version: text::line(&facts.agent_version),
            containment: text::line(&facts.containment),
            root: facts.root,
        }
    }
}

impl From<AgentInfo> for wire::AgentInfo {
    fn from(agent: AgentInfo) -> Self {
        Self {
            agent: bytes_of(agent.id.as_bytes()),
            name: agent.name.to_string(),
            connected: agent.connected,
            since_ms: millis_or_zero(agent.since),
            labels: labels_to_wire(&agent.labels),
            facts: agent.facts.map(Into::into),
            enrolled_at_ms: agent.enrolled_at.as_millis(),
            revoked_at_ms: millis_or_zero(agent.revoked_at),
            address: agent.address.unwrap_or_default(),
            clock_offset_ms: agent.clock.map(|offset| offset.0),
            quarantine: agent.quarantine.map(Into::into),
            heard_at_ms: millis_or_zero(agent.heard_at),
        }
    }
}

impl TryFrom<wire::AgentInfo> for AgentInfo {
    type Error = WireError;

    fn try_from(agent: wire::AgentInfo) -> Result<Self, WireError> {
        Ok(Self {
            id: id_of(&agent.agent, "agent")?,
            name: parsed(&agent.name, "name")?,
            connected: agent.connected,
            since: moment(agent.since_ms),
            address: (!agent.address.is_empty()).then(|| text::line(&agent.address)),
            labels: labels_of(&agent.labels)?,
            facts: agent.facts.map(Into::into),
            enrolled_at: Timestamp::from_millis(agent.enrolled_at_ms),
            revoked_at: moment(agent.revoked_at_ms),
            clock: agent.clock_offset_ms.map(ClockOffset),
            quarantine: agent.quarantine.map(TryInto::try_into).transpose()?,
            heard_at: moment(agent.heard_at_ms),
        })
    }
}

impl From<Quarantine> for wire::Quarantine {
    fn from(quarantine: Quarantine) -> Self {
        let [first, second] = quarantine.parties.map(|party| Some(party.into()));
        Self { since_ms: quarantine.since.as_millis(), first, second }
    }
}

impl TryFrom<wire::Quarantine> for Quarantine {
    type Error = WireError;

    fn try_from(quarantine: wire::Quarantine) -> Result<Self, WireError> {
        let first = present(quarantine.first, "quarantine.first")?.try_into()?;
        let second = present(quarantine.second, "quarantine.second")?.try_into()?;
        Ok(Self { since: Timestamp::from_millis(quarantine.since_ms), parties: [first, second] })
    }
}

impl From<Party> for wire::Party {
    fn from(party: Party) -> Self {
        Self {
            address: party.address,
            machine: party.machine,
            boot: bytes_of(party.boot.as_bytes()),
            start: bytes_of(party.start.as_bytes()),
            seen_at_ms: party.seen_at.as_millis(),
        }
    }
}

impl TryFrom<wire::Party> for Party {
    type Error = WireError;

    fn try_from(party: wire::Party) -> Result<Self, WireError> {
        Ok(Self {
            address: text::line(&party.address),
            machine: text::line(&party.machine),
            boot: id_of(&party.boot, "party.boot")?,
            start: id_of(&party.start, "party.start")?,
            seen_at: Timestamp::from_millis(party.seen_at_ms),
        })
    }
}

impl From<PendingAgent> for wire::PendingAgent {
    fn from(pending: PendingAgent) -> Self {
        Self {
            fingerprint: bytes_of(&pending.fingerprint),
            name: pending.name.to_string(),
            address: pending.address,
            asked_at_ms: pending.asked_at.as_millis(),
        }
    }
}

impl TryFrom<wire::PendingAgent> for PendingAgent {
    type Error = WireError;

    fn try_from(pending: wire::PendingAgent) -> Result<Self, WireError> {
        Ok(Self {
            fingerprint: digest_of(&pending.fingerprint, "fingerprint")?,
            name: parsed(&pending.name, "name")?,
            address: text::line(&pending.address),
            asked_at: Timestamp::from_millis(pending.asked_at_ms),
        })
    }
}

impl From<OperatorInfo> for wire::OperatorInfo {
    fn from(operator: OperatorInfo) -> Self {
        Self {
            name: operator.name.to_string(),
            added_at_ms: operator.added_at.as_millis(),
            login_at_ms: millis_or_zero(operator.login_at),
            disabled_at_ms: millis_or_zero(operator.disabled_at),
        }
    }
}

impl TryFrom<wire::OperatorInfo> for OperatorInfo {
    type Error = WireError;

    fn try_from(operator: wire::OperatorInfo) -> Result<Self, WireError> {
        Ok(Self {
            name: parsed(&operator.name, "name")?,
            added_at: Timestamp::from_millis(operator.added_at_ms),
            login_at: moment(operator.login_at_ms),
            disabled_at: moment(operator.disabled_at_ms),
        })
    }
}
