//! Who is pinged from where: names, addresses, and the frozen list of pairs.

use crate::id::AgentId;
use crate::job::Target;
use crate::limits;
use crate::merkle::{self, Tree};
use crate::name::HostName;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// What a ping may be aimed at: a name as [`HostName`] (upper case is taken as lower), an IPv4 or IPv6 address, or an
/// IPv6 address with a zone (`fe80::1%eth0`). Addresses are kept in their canonical form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PingName(Box<str>);

/// The text is neither a name nor an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a host's name nor an address")]
pub struct ParsePingNameError(String);

impl FromStr for PingName {
    type Err = ParsePingNameError;

    fn from_str(text: &str) -> Result<Self, ParsePingNameError> {
        let refused = || ParsePingNameError(text.chars().take(80).collect());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        if let Some((address, zone)) = text.split_once('%') {
            let address: Ipv6Addr = address.parse().map_err(|_| refused())?;
            // As long as the name of an interface can be; its characters go to nobody's shell or terminal as they are.
            let good = (1..16).contains(&zone.len())
                && zone.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_@".contains(&byte));
            return if good { Ok(Self(format!("{address}%{zone}").into())) } else { Err(refused()) };
        }
        let name: HostName = text.to_ascii_lowercase().parse().map_err(|_| refused())?;
        Ok(name.into())
    }
}

impl From<HostName> for PingName {
    fn from(name: HostName) -> Self {
        Self(name.as_str().into())
    }
}

impl From<&HostName> for PingName {
    fn from(name: &HostName) -> Self {
        Self(name.as_str().into())
    }
}

impl From<IpAddr> for PingName {
    fn from(address: IpAddr) -> Self {
        Self(address.to_string().into())
    }
}

impl PingName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address with its zone, if it is one and no name.
    pub fn address(&self) -> Option<(IpAddr, Option<&str>)> {
        match self.0.split_once('%') {
            Some((address, zone)) => Some((address.parse().ok()?, Some(zone))),
            None => Some((self.0.parse().ok()?, None)),
        }
    }

    /// Digits and dots that are no address: an agent may be called so, but a resolver makes odd things of it.
    pub fn is_number(&self) -> bool {
        self.address().is_none() && self.0.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    }

    /// The name, if an agent could bear it.
    pub fn host_name(&self) -> Option<HostName> {
        self.0.parse().ok()
    }
}

impl fmt::Display for PingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How a target of a job is called where people and programs read it: `web01`, or `n003>web01` where an agent looks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetName {
    /// The agent that looks at the host.
    pub from: Option<HostName>,
    /// The host.
    pub host: PingName,
}

impl From<HostName> for TargetName {
    fn from(name: HostName) -> Self {
        Self { from: None, host: name.into() }
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Some(from) => f.pad(&format!("{from}>{}", self.host)),
            None => f.pad(self.host.as_str()),
        }
    }
}

/// A host that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingHost {
    /// Its name or address.
    pub name: PingName,
    /// The agent that bears the name, if one does.
    pub agent: Option<AgentId>,
}

/// Who looks at which host, as places in the lists of a [`PingList`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The agent that looks; `None` is the controller.
    pub from: Option<u32>,
    /// The host.
    pub to: u32,
}

/// The frozen target list of a ping: each pair is a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingList {
    vantages: Vec<Target>,
    hosts: Vec<PingHost>,
    pairs: Vec<Pair>,
}

/// Why pairs make no list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// No list is empty.
    #[error("the list names no target")]
    Empty,
    /// Too many.
    #[error(
        "a ping has at most {} targets, and these are {count}: split the list, or use --sample with --from",
        limits::PING_TARGETS_MAX
    )]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// A pair names nobody.
    #[error("the list names a target that is not in it")]
    Dangling,
}

impl PingList {
    /// A list of these pairs, in their order.
    pub fn new(vantages: Vec<Target>, hosts: Vec<PingHost>, pairs: Vec<Pair>) -> Result<Self, ListError> {
        if pairs.is_empty() {
            return Err(ListError::Empty);
        }
        if pairs.len() > limits::PING_TARGETS_MAX {
            return Err(ListError::TooMany { count: pairs.len() });
        }
        let known = |pair: &Pair| {
            (pair.to as usize) < hosts.len() && pair.from.is_none_or(|from| (from as usize) < vantages.len())
        };
        if pairs.iter().all(known) { Ok(Self { vantages, hosts, pairs }) } else { Err(ListError::Dangling) }
    }

    /// Each of these hosts, seen from the controller.
    pub fn from_controller(hosts: Vec<PingHost>) -> Result<Self, ListError> {
        let count = u32::try_from(hosts.len()).map_err(|_| ListError::TooMany { count: hosts.len() })?;
        Self::new(Vec::new(), hosts, (0..count).map(|to| Pair { from: None, to }).collect())
    }

    /// The controller looks at each host once, in their order.
    pub fn is_plain(&self) -> bool {
        let mut places = 0_u32..;
        self.vantages.is_empty()
            && self.pairs.len() == self.hosts.len()
            && self.pairs.iter().all(|pair| pair.from.is_none() && places.next() == Some(pair.to))
    }

    /// The pairs as two lists of numbers, for the wire and the store: who looks, as a place from 1 or 0 for the controller,
    /// and at which host. Both are empty for a plain list.
    pub fn to_numbers(&self) -> (Vec<u32>, Vec<u32>) {
        let pairs = if self.is_plain() { &[] } else { self.pairs() };
        pairs.iter().map(|pair| (pair.from.map_or(0, |from| from + 1), pair.to)).unzip()
    }

    /// Reads [`PingList::to_numbers`].
    pub fn from_numbers(
        vantages: Vec<Target>,
        hosts: Vec<PingHost>,
        from: &[u32],
        to: &[u32],
    ) -> Result<Self, ListError> {
        if from.len() != to.len() {
            return Err(ListError::Dangling);
        }
        if from.is_empty() && vantages.is_empty() {
            return Self::from_controller(hosts);
        }
        let pairs = from.iter().zip(to).map(|(from, to)| Pair { from: from.checked_sub(1), to: *to });
        Self::new(vantages, hosts, pairs.collect())
    }

    /// Agents that look, in the order in which pairs name them.
    pub fn vantages(&self) -> &[Target] {
        &self.vantages
    }

    /// Hosts that are looked at, in the order in which pairs name them.
    pub fn hosts(&self) -> &[PingHost] {
        &self.hosts
    }

    /// The targets, in the order of the frozen list.
    pub fn pairs(&self) -> &[Pair] {
        &self.pairs
    }

    /// The agent that looks in this pair of the list; `None` is the controller.
    pub fn vantage(&self, pair: Pair) -> Option<&Target> {
        self.vantages.get(pair.from? as usize)
    }

    /// The host of this pair of the list.
    pub fn host(&self, pair: Pair) -> &PingHost {
        &self.hosts[pair.to as usize]
    }

    /// What the pair is called.
    pub fn name(&self, pair: Pair) -> TargetName {
        TargetName { from: self.vantage(pair).map(|from| from.name.clone()), host: self.host(pair).name.clone() }
    }

    /// The tree over the list, for its root.
    pub fn tree(&self) -> Option<Tree> {
        let leaf = |pair: &Pair| {
            let host = self.host(*pair);
            merkle::pair_leaf(self.vantage(*pair).map(|from| (from.agent, &from.name)), host.agent, host.name.as_str())
        };
        Tree::new(self.pairs.iter().map(leaf).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_read_and_kept_canonical() {
        for (text, kept) in [
            ("web01", "web01"),
            ("Web01.Example.COM", "web01.example.com"),
            ("10.0.0.1", "10.0.0.1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
        ] {
            let name: PingName = text.parse().expect(text);
            assert_eq!(name.as_str(), kept);
            assert_eq!(name.as_str().parse::<PingName>(), Ok(name.clone()));
        }
        for text in ["10.0.0", "10", "1.2.3.4.5"] {
            assert!(text.parse::<PingName>().expect("an agent's name").is_number(), "{text:?}");
        }
        for text in ["", "fe80::1%", "10.0.0.1%eth0", "a b", "fe80::1%e;th", "-x", "a>b"] {
            assert!(text.parse::<PingName>().is_err(), "{text:?}");
        }
        assert_eq!("web01".parse::<PingName>().expect("a name").address(), None);
        let zoned: PingName = "fe80::1%eth0".parse().expect("an address");
        assert_eq!(zoned.address(), Some(("fe80::1".parse().expect("an address"), Some("eth0"))));
    }

    #[test]
    fn every_part_of_a_pair_is_in_the_root() {
        let host = |name: &str, agent| PingHost { name: name.parse().expect("a name"), agent };
        let target =
            |n: u8| Target { agent: AgentId::from_bytes([n; 16]), name: format!("n{n}").parse().expect("good") };
        let root = |from: Option<Target>, host: PingHost| {
            let pair = Pair { from: from.as_ref().map(|_| 0), to: 0 };
            let list = PingList::new(from.into_iter().collect(), vec![host], vec![pair]).expect("a list");
            list.tree().expect("not empty").root()
        };
        let agent = Some(AgentId::from_bytes([9; 16]));
        let renamed = Target { name: "n2".parse().expect("good"), ..target(1) };
        let roots = [
            root(None, host("web01", None)),
            root(None, host("web02", None)),
            root(None, host("web01", agent)),
            root(Some(target(1)), host("web01", None)),
            root(Some(target(2)), host("web01", None)),
            root(Some(renamed), host("web01", None)),
            merkle::leaf(AgentId::from_bytes([0; 16]), &"web01".parse().expect("good")),
        ];
        for (place, root) in roots.iter().enumerate() {
            assert!(!roots[..place].contains(root), "{place}");
        }
    }

    #[test]
    fn a_list_has_targets_and_only_its_own() {
        assert_eq!(PingList::from_controller(Vec::new()), Err(ListError::Empty));
        let host = PingHost { name: "a".parse().expect("a name"), agent: None };
        for pair in [Pair { from: None, to: 1 }, Pair { from: Some(0), to: 0 }] {
            assert_eq!(PingList::new(Vec::new(), vec![host.clone()], vec![pair]), Err(ListError::Dangling));
        }
    }
}
