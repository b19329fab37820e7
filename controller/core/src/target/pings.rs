//! Who is pinged from where: a selection over the fleet, with hosts that need no agent, becomes a frozen list of pairs.

use super::grammar::{self, Budget, Spaces};
use super::missing::{listed, nearest_name};
use super::tree::Expression;
use super::view::View;
use super::{Groups, ParseError, ResolveError, Strangers, expression};
use crate::fleet::Fleet;
use muster_proto::id::AgentId;
use muster_proto::job::Target;
use muster_proto::limits;
use muster_proto::name::HostName;
use muster_proto::names::{ExpandError, expand};
use muster_proto::network::Network;
use muster_proto::ping::{ControllerLooks, ListError, Pair, PingHost, PingList, PingName, PingSelection};
use muster_proto::selection::Missing;
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
    /// What is left out does not exist.
    #[error("exclude: {0}")]
    ResolveExclude(ResolveError),
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
pub fn pings(selection: &PingSelection, fleet: &Fleet, groups: &Groups) -> Result<PlannedPings, PingPlanError> {
    let mut view = View::new(fleet, groups, Strangers::Taken);
    // A fault in one is told before what is missing in another: the groups of what does not parse are not asked for.
    let parse_from = |from: &String| grammar::parse(from, Spaces::Nothing, &mut Budget::default());
    let from = selection.from.as_ref().map(parse_from).transpose().map_err(PingPlanError::From)?;
    let targets = expression(&selection.targets, view.budget()).map_err(PingPlanError::Targets)?;
    let exclude = expression(&selection.exclude, view.budget()).map_err(PingPlanError::Exclude)?;

    let vantages = from.map(|from| vantages(&from, fleet, groups)).transpose().map_err(PingPlanError::ResolveFrom)?;
    let vantages = vantages.unwrap_or_default();
    if vantages.is_empty() && selection.controller == ControllerLooks::No {
        return Err(PingPlanError::NobodyLooks);
    }
    let mut hosts = Hosts { fleet, view, hosts: Vec::new(), known: HashSet::new(), twice: Vec::new(), odd: Vec::new() };
    let mut notes = Vec::new();
    hosts.choose(targets.as_ref(), selection, &mut notes)?;
    let excluded =
        exclude.map(|exclude| hosts.named_by(&exclude)).transpose().map_err(PingPlanError::ResolveExclude)?;
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

/// Who looks: agents, of whom nobody may be missing.
fn vantages(from: &Expression, fleet: &Fleet, groups: &Groups) -> Result<Vec<Target>, ResolveError> {
    let mut view = View::new(fleet, groups, Strangers::Missed);
    let chosen = view.choose(from)?;
    view.settle(Missing::Refused)?;
    if chosen.is_empty() { Err(ResolveError::Nobody) } else { Ok(view.targets(&chosen)) }
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
    view: View<'a>,
    hosts: Vec<PingHost>,
    known: HashSet<PingName>,
    /// Named more than once.
    twice: Vec<PingName>,
    /// Addresses of many hosts or of none.
    odd: Vec<PingName>,
}

impl Hosts<'_> {
    fn choose(
        &mut self,
        targets: Option<&Expression>,
        selection: &PingSelection,
        notes: &mut Vec<String>,
    ) -> Result<(), PingPlanError> {
        if let Some(targets) = targets {
            let chosen = self.view.choose(targets).map_err(PingPlanError::Resolve)?;
            self.view.settle(Missing::Refused).map_err(PingPlanError::Resolve)?;
            for target in self.view.targets(&chosen) {
                self.add(target.name.into(), Some(target.agent));
            }
            let strangers: Vec<HostName> = self.view.strange(&chosen).into_iter().cloned().collect();
            notes.extend(note_strangers(&strangers, self.fleet));
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
            let network = Network::around(text).ok().filter(|_| text.contains('/'));
            let network = network.ok_or_else(|| PingPlanError::Network(text.clone()))?;
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

    /// The names of whom an expression stands for; they need not have been chosen.
    fn named_by(&mut self, expression: &Expression) -> Result<HashSet<PingName>, ResolveError> {
        let chosen = self.view.choose(expression)?;
        self.view.settle(Missing::Refused)?;
        let members = self.view.targets(&chosen).into_iter().map(|target| target.name.into());
        let strangers = self.view.strange(&chosen).into_iter().cloned().map(PingName::from);
        Ok(members.chain(strangers).collect())
    }
}

/// What to say of names that nobody bears where they are taken as hosts without an agent; addresses are no surprise.
fn note_strangers(names: &[HostName], fleet: &Fleet) -> Option<String> {
    let names = names.iter().map(HostName::as_str).filter(|name| name.parse::<IpAddr>().is_err());
    let (listed, count, first) = listed(names)?;
    let hint = nearest_name(first, fleet).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
    Some(match count {
        1 => format!("{listed}: no agent has this name, taken as a host without one{hint}"),
        _ => format!("{listed}: no agent has these names, taken as hosts without one{hint}"),
    })
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

#[cfg(test)]
mod tests;
