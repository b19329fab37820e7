//! Agents as operators see them.

use crate::id::AgentId;
use crate::name::{HostName, LabelText, OperatorName};
use crate::time::Timestamp;
use std::collections::BTreeMap;

/// What operators say of an agent. Agents cannot change their own.
pub type Labels = BTreeMap<LabelText, LabelText>;

/// What a host says of itself; one clean line each. Never decides what anybody may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// As uname(2) has it.
    pub hostname: String,
    /// `ID` of os-release(5).
    pub os: String,
    /// `VERSION_ID` of os-release(5).
    pub os_version: String,
    /// `PRETTY_NAME` of os-release(5).
    pub os_name: String,
    /// Kernel release.
    pub kernel: String,
    /// Machine.
    pub arch: String,
    /// CPUs online.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Addresses of its interfaces, loopback left out.
    pub addresses: Vec<String>,
    /// Version of the agent.
    pub agent_version: String,
    /// "cgroup" or "process group".
    pub containment: String,
    /// Runs as root.
    pub root: bool,
}

/// An agent in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInfo {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: HostName,
    /// It has a session now.
    pub connected: bool,
    /// Of the last change of `connected`.
    pub since: Option<Timestamp>,
    /// Where its connection comes from.
    pub address: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// Its facts, once it has sent them.
    pub facts: Option<Facts>,
    /// When it got its name.
    pub enrolled_at: Timestamp,
    /// When it lost it.
    pub revoked_at: Option<Timestamp>,
}

/// A machine that asks for approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingAgent {
    /// SHA-256 of its public key.
    pub fingerprint: [u8; 32],
    /// The name it wants.
    pub name: HostName,
    /// Where it asked from.
    pub address: String,
    /// When it first asked.
    pub asked_at: Timestamp,
}

/// An operator in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorInfo {
    /// The name.
    pub name: OperatorName,
    /// When it was added.
    pub added_at: Timestamp,
    /// When the one-use code was used.
    pub login_at: Option<Timestamp>,
    /// When it was disabled.
    pub disabled_at: Option<Timestamp>,
}
