//! Why a probe has no answer.

use crate::outcome::State;
use std::fmt;
use std::net::IpAddr;

/// Why a probe has no answer, and who said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub kind: FailureKind,
    /// The router or host that sent an ICMP error; `None` where this machine knew it by itself.
    pub from: Option<IpAddr>,
}

impl Failure {
    /// Silence.
    pub const NO_REPLY: Self = Self { kind: FailureKind::NoReply, from: None };
}

impl From<FailureKind> for Failure {
    fn from(kind: FailureKind) -> Self {
        Self { kind, from: None }
    }
}

/// Why a probe has no answer. ICMP errors are those of RFC 792, RFC 1122 and RFC 4443.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Nothing came back in time.
    NoReply,
    /// No route to the network.
    NetworkUnreachable,
    /// The host does not answer on its network.
    HostUnreachable,
    /// The host does not take ICMP echo at all.
    ProtocolUnreachable,
    /// A filter on the way forbids it.
    Prohibited,
    /// The packet ran out of hops.
    TtlExceeded,
    /// The packet is too large for the way, and must not be cut.
    TooBig,
    /// An ICMP error that has no word here.
    OtherError,
    /// Answers came, but with another payload than was sent.
    Damaged,
    /// The host's agent is not connected.
    AgentAway,
    /// The agent is connected and did not answer in time.
    AgentSilent,
    /// This machine discards packets to there by a route.
    Discarded,
    /// This machine's own filter forbids sending it.
    Forbidden,
    /// It is an address of many hosts.
    Broadcast,
    /// The name has no address.
    Unresolved,
    /// There is no address of the family that was asked for, or this machine does not have that family.
    NoFamily,
    /// A link-local address needs a zone, as fe80::1%eth0, that this machine has.
    NoZone,
    /// This machine may open neither a raw nor a datagram socket for ICMP.
    NoSocket,
    /// The host has no agent, and the agent's link alone was asked for.
    NoAgent,
    /// The agent's policy does not allow to probe there.
    Denied,
    /// The agent that was to look was not connected.
    ProberAway,
    /// The agent that was to look did not say what it saw.
    ProberSilent,
    /// The agent that was to look does as much as it may.
    ProberBusy,
    /// Answers arrived and were dropped on this machine, so it cannot be known.
    Overflow,
    /// The prober has no descriptors or memory for a socket.
    Exhausted,
}

impl FailureKind {
    /// All of them, in the order of their numbers on the wire.
    pub const ALL: [Self; 25] = [
        Self::NoReply,
        Self::NetworkUnreachable,
        Self::HostUnreachable,
        Self::ProtocolUnreachable,
        Self::Prohibited,
        Self::TtlExceeded,
        Self::TooBig,
        Self::OtherError,
        Self::Damaged,
        Self::AgentAway,
        Self::AgentSilent,
        Self::Discarded,
        Self::Forbidden,
        Self::Broadcast,
        Self::Unresolved,
        Self::NoFamily,
        Self::NoZone,
        Self::NoSocket,
        Self::NoAgent,
        Self::Denied,
        Self::ProberAway,
        Self::ProberSilent,
        Self::ProberBusy,
        Self::Overflow,
        Self::Exhausted,
    ];

    /// The terminal state of a target whose probes all ended so.
    pub const fn state(self) -> State {
        match self {
            Self::NoReply
            | Self::NetworkUnreachable
            | Self::HostUnreachable
            | Self::ProtocolUnreachable
            | Self::Prohibited
            | Self::TtlExceeded
            | Self::TooBig
            | Self::OtherError
            | Self::Damaged
            | Self::AgentAway
            | Self::AgentSilent
            | Self::Discarded
            | Self::Forbidden => State::Failed,
            Self::Broadcast | Self::Unresolved | Self::NoFamily | Self::NoZone | Self::NoSocket | Self::NoAgent => {
                State::StartFailed
            }
            Self::Denied | Self::ProberBusy => State::Rejected,
            Self::ProberAway => State::Unreachable,
            Self::ProberSilent | Self::Overflow | Self::Exhausted => State::Indeterminate,
        }
    }

    /// A few words for people, with what to do where something can be done.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoReply => "no reply",
            Self::NetworkUnreachable => "network unreachable",
            Self::HostUnreachable => "host unreachable",
            Self::ProtocolUnreachable => "ICMP echo refused",
            Self::Prohibited => "prohibited",
            Self::TtlExceeded => "TTL exceeded",
            Self::TooBig => "packet too big",
            Self::OtherError => "ICMP error",
            Self::Damaged => "reply with another payload",
            Self::AgentAway => "agent not connected",
            Self::AgentSilent => "agent connected but silent",
            Self::Discarded => "discarded by a route on the prober",
            Self::Forbidden => "forbidden by a filter on the prober",
            Self::Broadcast => "not the address of one host",
            Self::Unresolved => "name does not resolve",
            Self::NoFamily => "no address of that family",
            Self::NoZone => "a link-local address needs a zone of the prober, as fe80::1%eth0",
            Self::NoSocket => {
                "no right to send ICMP: give the prober CAP_NET_RAW, or its group a place in net.ipv4.ping_group_range"
            }
            Self::NoAgent => "no agent: ask with --via icmp",
            Self::Denied => "the agent's policy does not allow to probe this address",
            Self::ProberAway => "the agent that was to look is not connected",
            Self::ProberSilent => "the agent that was to look did not say what it saw",
            Self::ProberBusy => "the agent that was to look has too many probes already",
            Self::Exhausted => "the prober has no descriptors or memory left for a socket: see its limits",
            Self::Overflow => "replies arrived and were dropped on the prober: ask again with a lower --rate",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        match self.from {
            Some(from) => write!(f, " from {from}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_never_a_success_and_names_its_router() {
        for (number, kind) in FailureKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            assert_ne!(kind.state(), State::Succeeded);
        }
        let failure = Failure { kind: FailureKind::NetworkUnreachable, from: Some([10, 0, 0, 1].into()) };
        assert_eq!(failure.to_string(), "network unreachable from 10.0.0.1");
        assert_eq!(Failure::NO_REPLY.to_string(), "no reply");
    }
}
