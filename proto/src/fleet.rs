//! Agents as operators see them.

use crate::id::{AgentId, BootId, StartId};
use crate::limits;
use crate::name::{HostName, LabelText, OperatorName};
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

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
    /// Its clock against the controller's when it last said hello.
    pub clock: Option<ClockOffset>,
    /// Two machines use its identity.
    pub quarantine: Option<Quarantine>,
    /// When something last arrived on its connection, keepalives included.
    pub heard_at: Option<Timestamp>,
}

/// A clock's distance from another, in milliseconds: above zero it is ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClockOffset(pub i64);

impl ClockOffset {
    /// How far `clock` is from `reference`.
    pub const fn of(clock: Timestamp, reference: Timestamp) -> Self {
        Self(clock.as_millis().saturating_sub(reference.as_millis()))
    }

    /// Further than tasks can bear: [`limits::CLOCK_SKEW_MAX`].
    pub fn is_skewed(self) -> bool {
        Duration::from_millis(self.0.unsigned_abs()) > limits::CLOCK_SKEW_MAX
    }
}

/// In seconds, for people: "+12.3 s".
impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 <= -100 { '-' } else { '+' };
        let tenths = self.0.unsigned_abs() / 100;
        write!(f, "{sign}{}.{} s", tenths / 10, tenths % 10)
    }
}

/// An agent whose identity two machines use: none of them gets tasks until an operator has said which one is the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// When it was found.
    pub since: Timestamp,
    /// The two machines.
    pub parties: [Party; 2],
}

/// A machine that used an agent's identity. What it says of itself is shown, never believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// Where its connection came from.
    pub address: String,
    /// As in machine-id(5).
    pub machine: String,
    /// The boot of its kernel.
    pub boot: BootId,
    /// The start of its agent.
    pub start: StartId,
    /// When it was last there.
    pub seen_at: Timestamp,
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
