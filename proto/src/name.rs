//! Names: of hosts, operators, labels, and of peers as they stand in certificates.

use crate::id::{AgentId, ClusterId, Id};
use std::fmt;
use std::str::FromStr;

/// A host's name: 1 to 253 of `a-z 0-9 . _ -`, beginning and ending with a letter or digit.
///
/// Lower case only, so that no two names read alike, and free of everything the target language uses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<str>);

/// An operator's name: as [`HostName`], at most 63 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorName(Box<str>);

/// A label's key or value: as [`HostName`], at most 63 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelText(Box<str>);

/// The text is no name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no {kind}: use 1 to {max} of a-z, 0-9, '.', '_', '-', beginning and ending with a letter or digit"
)]
pub struct ParseNameError {
    text: String,
    kind: &'static str,
    max: usize,
}

fn parse(text: &str, kind: &'static str, max: usize) -> Result<Box<str>, ParseNameError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = text.len() <= max
        && text.starts_with(plain)
        && text.ends_with(plain)
        && text.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-'));
    if good { Ok(text.into()) } else { Err(ParseNameError { text: text.chars().take(80).collect(), kind, max }) }
}

impl FromStr for HostName {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        parse(text, "host name", 253).map(Self)
    }
}

impl FromStr for OperatorName {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        parse(text, "operator name", 63).map(Self)
    }
}

impl FromStr for LabelText {
    type Err = ParseNameError;
    fn from_str(text: &str) -> Result<Self, ParseNameError> {
        parse(text, "label", 63).map(Self)
    }
}

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl OperatorName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl LabelText {
    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for OperatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for LabelText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Who a certificate is for: its one URI SAN, `muster://<cluster>/<role>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    /// The installation that issued it.
    pub cluster: ClusterId,
    /// Role and name.
    pub peer: Peer,
}

/// A role with the name it is borne by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A server's agent.
    Agent(AgentId),
    /// A controller.
    Controller,
    /// A person or program that signs jobs.
    Operator(OperatorName),
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "muster://{}/", self.cluster)?;
        match &self.peer {
            Peer::Agent(id) => write!(f, "agent/{id}"),
            Peer::Controller => write!(f, "controller/main"),
            Peer::Operator(name) => write!(f, "operator/{name}"),
        }
    }
}

impl FromStr for PeerName {
    type Err = ParsePeerNameError;

    fn from_str(text: &str) -> Result<Self, ParsePeerNameError> {
        let rest = text.strip_prefix("muster://").ok_or(ParsePeerNameError)?;
        let mut parts = rest.split('/');
        let (Some(cluster), Some(role), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParsePeerNameError);
        };
        let peer = match role {
            "agent" => Peer::Agent(Id::from_str(name).map_err(|_| ParsePeerNameError)?),
            "controller" => Peer::Controller,
            "operator" => Peer::Operator(name.parse().map_err(|_| ParsePeerNameError)?),
            _ => return Err(ParsePeerNameError),
        };
        let parsed = Self { cluster: cluster.parse().map_err(|_| ParsePeerNameError)?, peer };
        // One text for one name: ids parse in either case, certificates carry only one.
        if parsed.to_string() == text { Ok(parsed) } else { Err(ParsePeerNameError) }
    }
}

/// A certificate carries no name of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate does not carry exactly one Muster identity")]
pub struct ParsePeerNameError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_leave_no_room_for_paths_or_look_alikes() {
        for good in ["a", "web01", "db-1.example.org", "0", "n_1"] {
            assert!(good.parse::<HostName>().is_ok(), "{good}");
        }
        let long = "a".repeat(254);
        for bad in ["", "A", "../etc", "a/b", "-a", ".a", "a.", "a b", "a\n", "wéb", "a,b", "@a", "a[1]", &long] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn peer_names_have_one_spelling() {
        let cluster = ClusterId::from_bytes([7; 16]);
        for peer in [
            Peer::Agent(AgentId::from_bytes([9; 16])),
            Peer::Controller,
            Peer::Operator("ada".parse().expect("a name")),
        ] {
            let name = PeerName { cluster, peer };
            let text = name.to_string();
            assert_eq!(text.parse(), Ok(name));
            for bad in [text.to_uppercase(), format!("{text}/"), format!("{text}."), text.replace("muster", "http")] {
                assert!(bad.parse::<PeerName>().is_err(), "{bad}");
            }
        }
    }
}
