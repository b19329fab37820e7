//! Who is pinged from where: a selection over the fleet, with hosts that need no agent, becomes a frozen list of pairs.

use super::{ParseError, ResolveError, View};
use crate::fleet::Fleet;
use crate::target::grammar;
use muster_proto::id::AgentId;
use muster_proto::job::Target;
use muster_proto::limits;
use muster_proto::names::{ExpandError, expand};
use muster_proto::ping::{ControllerLooks, ListError, Pair, PingHost, PingList, PingName, PingSelection};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;

/// Names that a note lists before it only counts.
const NAMED_MAX: usize = 3;

/// A frozen list with what was left out of it, a line each for people.
pub type PlannedPings = (PingList, Vec<String>);

/// Why a selection cannot be pinged, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PingPlanError {
    /// Nothing was chosen at all.
    #[error("nobody is named: say whom to ping with -w, as names or addresses, with --hosts-file or with --cidr")]
    Missing,
    /// The expression of who is looked at.
    #[error("targets, {0}")]
    Targets(ParseError),
    /// The expression of what to leave out.
    #[error("exclude, {0}")]
    Exclude(ParseError),
    /// The expression of who looks.
    #[error("--from, {0}")]
    From(ParseError),
    /// What was chosen does not exist.
    #[error("{0}")]
    Resolve(ResolveError),
    /// Who is to look does not exist.
    #[error("--from: {0}")]
    ResolveFrom(ResolveError),
    /// An entry of the list of hosts.
    #[error("host {place} of the list, {error}")]
    Host {
        /// Which, from 1.
        place: usize,
        /// What is wrong with it.
        error: ExpandError,
    },
    /// A network.
    #[error("{0:?} is no network: write it as 10.0.0.0/22, or as fd00::/120")]
    Network(String),
    /// Nobody looks.
    #[error("nobody looks: name agents with --from, or let the controller look")]
    NobodyLooks,
    /// All that was chosen is excluded or left out.
    #[error("no host is left to ping: {0}")]
    NobodyLeft(String),
    /// Too many.
    #[error("{0}")]
    List(#[from] ListError),
}

/// The pairs that a selection stands for: those of the controller first, each host once.
pub fn pings(selection: &PingSelection, fleet: &Fleet) -> Result<PlannedPings, PingPlanError> {
    let vantages = match &selection.from {
        None => Vec::new(),
        Some(from) => {
            let from = grammar::parse(from).map_err(PingPlanError::From)?;
            let view = View::of(fleet).map_err(PingPlanError::ResolveFrom)?;
            view.targets(&view.resolve(&from).map_err(PingPlanError::ResolveFrom)?)
        }
    };
    if vantages.is_empty() && selection.controller == ControllerLooks::No {
        return Err(PingPlanError::NobodyLooks);
    }
    let mut hosts = Hosts { fleet, hosts: Vec::new(), known: HashSet::new(), twice: Vec::new(), odd: Vec::new() };
    let mut notes = Vec::new();
    hosts.choose(selection, &mut notes)?;
    let excluded = hosts.exclude(&selection.exclude)?;
    let Hosts { mut hosts, mut twice, odd, .. } = hosts;
    if hosts.is_empty() {
        let nothing = selection.targets.is_empty() && selection.hosts.is_empty() && selection.networks.is_empty();
        note(&mut notes, &odd, "not the address of one host");
        return Err(if nothing { PingPlanError::Missing } else { PingPlanError::NobodyLeft(notes.join("; ")) });
    }

    twice.sort_unstable();
    twice.dedup();
    if let Some(excluded) = excluded {
        hosts.retain(|host| !excluded.contains(&host.name));
    }
    note(&mut notes, &twice, "named more than once, looked at once");
    note(&mut notes, &odd, "not the address of one host, left out");
    if hosts.is_empty() {
        let what = "-x takes out every host that was chosen: exclude fewer or choose more";
        return Err(PingPlanError::NobodyLeft(what.to_owned()));
    }
    let pairs = pairs(&hosts, &vantages, selection, &mut notes)?;
    Ok((PingList::new(vantages, hosts, pairs)?, notes))
}

fn note(notes: &mut Vec<String>, names: &[PingName], what: &str) {
    let listed: Vec<&str> = names.iter().take(NAMED_MAX).map(PingName::as_str).collect();
    match names.len().checked_sub(NAMED_MAX) {
        _ if names.is_empty() => {}
        Some(more @ 1..) => notes.push(format!("{} and {more} more: {what}", listed.join(", "))),
        _ => notes.push(format!("{}: {what}", listed.join(", "))),
    }
}

/// The hosts chosen so far, in the order in which they were named.
struct Hosts<'a> {
    fleet: &'a Fleet,
    hosts: Vec<PingHost>,
    known: HashSet<PingName>,
    /// Named more than once.
    twice: Vec<PingName>,
    /// Addresses of many hosts or of none.
    odd: Vec<PingName>,
}

impl Hosts<'_> {
    fn choose(&mut self, selection: &PingSelection, notes: &mut Vec<String>) -> Result<(), PingPlanError> {
        if !selection.targets.is_empty() {
            let expression = grammar::parse(&selection.targets).map_err(PingPlanError::Targets)?;
            let view = View::of_any(self.fleet);
            let (chosen, strangers) = view.choose_any(&expression).map_err(PingPlanError::Resolve)?;
            for target in view.targets(&chosen) {
                self.add(target.name.into(), Some(target.agent));
            }
            notes.extend(view.strangers(&strangers));
            for stranger in strangers {
                self.add_text(stranger.as_str()).map_err(PingPlanError::Targets)?;
            }
        }
        for (place, text) in (1..).zip(&selection.hosts) {
            let fail = |error| PingPlanError::Host { place, error };
            if let Ok(name) = text.parse::<PingName>() {
                let refused = |error: ParseError| fail(ExpandError { column: error.column, message: error.message });
                self.add_name(name).map_err(refused)?;
                self.check_room()?;
                continue;
            }
            let room = limits::PING_TARGETS_MAX.saturating_sub(self.hosts.len());
            for name in expand(text, room).map_err(fail)? {
                let refused = |error: ParseError| fail(ExpandError { column: error.column, message: error.message });
                self.add_text(&name).map_err(refused)?;
            }
        }
        for text in &selection.networks {
            let network = Network::parse(text).ok_or_else(|| PingPlanError::Network(text.clone()))?;
            let count = network.count();
            if count > limits::PING_TARGETS_MAX as u128 {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                return Err(ListError::TooMany { count }.into());
            }
            if let Some((first, last)) = network.own() {
                notes.push(format!("{first} and {last} are the network's own in {text}: left out"));
            }
            network.hosts().for_each(|address| self.add(address.into(), None));
        }
        self.check_room()
    }

    fn check_room(&self) -> Result<(), PingPlanError> {
        let count = self.hosts.len();
        if count > limits::PING_TARGETS_MAX { Err(ListError::TooMany { count }.into()) } else { Ok(()) }
    }

    fn add_text(&mut self, text: &str) -> Result<(), ParseError> {
        let refused =
            |error: muster_proto::ping::ParsePingNameError| ParseError { column: 1, message: error.to_string() };
        self.add_name(text.parse().map_err(refused)?)
    }

    fn add_name(&mut self, name: PingName) -> Result<(), ParseError> {
        let agent = name.host_name().and_then(|name| Some(self.fleet.by_name(&name)?.id));
        if agent.is_none() && name.is_number() {
            let message = format!("{name} is no address and no agent's name: an IPv4 address has four numbers");
            return Err(ParseError { column: 1, message });
        }
        self.add(name, agent);
        Ok(())
    }

    fn add(&mut self, name: PingName, agent: Option<AgentId>) {
        if name.address().is_some_and(|(address, _)| is_odd(address)) {
            self.odd.push(name);
        } else if self.known.insert(name.clone()) {
            self.hosts.push(PingHost { name, agent });
        } else {
            self.twice.push(name);
        }
    }

    /// The names that an expression takes out; they need not have been chosen.
    fn exclude(&self, text: &str) -> Result<Option<HashSet<PingName>>, PingPlanError> {
        if text.is_empty() {
            return Ok(None);
        }
        let expression = grammar::parse(text).map_err(PingPlanError::Exclude)?;
        let view = View::of_any(self.fleet);
        let (chosen, strangers) = view.choose_any(&expression).map_err(PingPlanError::Resolve)?;
        let members = view.targets(&chosen).into_iter().map(|target| target.name.into());
        Ok(Some(members.chain(strangers.into_iter().map(PingName::from)).collect()))
    }
}

/// No single host has it.
fn is_odd(address: IpAddr) -> bool {
    address.is_multicast() || address.is_unspecified() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn pairs(
    hosts: &[PingHost],
    vantages: &[Target],
    selection: &PingSelection,
    notes: &mut Vec<String>,
) -> Result<Vec<Pair>, PingPlanError> {
    let controller = if selection.controller == ControllerLooks::Yes { hosts.len() } else { 0 };
    let each = selection.sample.map_or(vantages.len(), |sample| sample_len(sample, vantages.len()));
    let count = hosts.len().saturating_mul(each).saturating_add(controller);
    if count > limits::PING_TARGETS_MAX {
        return Err(ListError::TooMany { count }.into());
    }
    let numbers = |count: usize| 0..u32::try_from(count).unwrap_or(u32::MAX);
    let mut pairs: Vec<Pair> = numbers(controller).map(|to| Pair { from: None, to }).collect();
    let mut selves = 0;
    for from in numbers(vantages.len()) {
        for to in numbers(hosts.len()) {
            let host = &hosts[to as usize];
            if !looks(from as usize, to as usize, each, vantages.len()) {
                continue;
            }
            if host.agent == Some(vantages[from as usize].agent) {
                selves += 1;
                continue;
            }
            pairs.push(Pair { from: Some(from), to });
        }
    }
    if selves > 0 {
        notes.push(format!("agents do not look at themselves: {selves} left out"));
    }
    if pairs.is_empty() { Err(PingPlanError::NobodyLeft(notes.join("; "))) } else { Ok(pairs) }
}

fn sample_len(sample: NonZeroU32, vantages: usize) -> usize {
    (sample.get() as usize).min(vantages)
}

/// Whether a vantage looks at a host, if `each` of all `count` do: spread evenly, so that every vantage and every host
/// has its share.
fn looks(from: usize, to: usize, each: usize, count: usize) -> bool {
    // Vantage number (to + from) mod count is taken where a line of slope each/count makes a step.
    let turn = (from + to) % count;
    (turn + 1) * each / count > turn * each / count
}

/// A network of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    /// The first address, as a number.
    first: u128,
    /// Bits of the host's part.
    host_bits: u32,
    is_v4: bool,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let (address, prefix): (IpAddr, u32) = (address.parse().ok()?, prefix.parse().ok()?);
        let (bits, number, is_v4) = match address {
            IpAddr::V4(address) => (32, u128::from(u32::from(address)), true),
            IpAddr::V6(address) => (128, u128::from(address), false),
        };
        let host_bits = u32::checked_sub(bits, prefix)?;
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Self { first: number & mask, host_bits, is_v4 })
    }

    /// How many hosts it has.
    fn count(&self) -> u128 {
        let all = 1_u128.checked_shl(self.host_bits).unwrap_or(u128::MAX);
        if self.own().is_some() { all - 2 } else { all }
    }

    /// The network's address and its broadcast address, where hosts may not have them (RFC 3021 leaves /31 alone).
    fn own(&self) -> Option<(IpAddr, IpAddr)> {
        let last = self.first + (1_u128.checked_shl(self.host_bits)? - 1);
        (self.is_v4 && self.host_bits >= 2).then(|| (self.address(self.first), self.address(last)))
    }

    fn hosts(self) -> impl Iterator<Item = IpAddr> {
        let first = self.first + u128::from(self.own().is_some());
        (0..self.count()).map(move |number| self.address(first + number))
    }

    fn address(&self, number: u128) -> IpAddr {
        match u32::try_from(number) {
            Ok(number) if self.is_v4 => Ipv4Addr::from(number).into(),
            _ => std::net::Ipv6Addr::from(number).into(),
        }
    }
}

#[cfg(test)]
mod tests;
