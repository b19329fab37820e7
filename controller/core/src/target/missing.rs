//! What an expression names and nobody is, in words, with the nearest that there is.

use super::ResolveError;
use super::facts::{Fact, Key};
use super::groups::Groups;
use super::nearest::nearest;
use crate::fleet::Fleet;
use muster_proto::name::{HostName, LabelText};
use muster_proto::names::{fold, natural_cmp};
use muster_proto::selection::GroupName;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Names that a text lists before it only counts.
const NAMED_MAX: usize = 5;

/// Something that fits nobody.
#[derive(Debug)]
pub(super) struct Missed {
    /// The group in whose text it stands.
    pub group: Option<GroupName>,
    pub what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// Names that nobody bears.
    Names(Vec<HostName>),
    /// A term, or some of its values, that is true of nobody, with a value that somebody should have had if there is one.
    Value { key: Key, term: String, value: Option<String> },
    /// A network that nobody reports an address of.
    Network(String),
    /// A group that is not known.
    Group(GroupName),
    /// Whoever fits all that a group says; each part fits somebody.
    Members,
    /// Any agent at all.
    Agents,
}

/// One line: what is missing, and what to do about it.
pub(super) fn text(missed: &Missed, fleet: &Fleet, groups: &Groups) -> String {
    let text = match &missed.what {
        What::Names(names) => names_text(names, fleet, groups),
        What::Value { key, term, value } => value_text(key, term, value.as_deref(), fleet),
        What::Network(network) => format!("no agent reports an address in {network}: `muster agents NAME` shows them"),
        What::Group(group) => {
            let known: Vec<String> = groups.names().map(GroupName::to_string).collect();
            let wanted = group.to_string();
            let hint = nearest(&wanted, known.iter().map(String::as_str));
            let hint = hint.map_or("`muster group list` shows those there are".into(), did_you_mean);
            format!("there is no group {group}: {hint}")
        }
        What::Members => "it means nobody now: `muster group show` tells what it says".to_owned(),
        What::Agents => ResolveError::NoAgents.to_string(),
    };
    match &missed.group {
        Some(group) => format!("in {group}: {text}"),
        None => text,
    }
}

/// These names or values in natural order, each once: the first of them folded, then how many more, and the first.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Option<(String, usize, &'a str)> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    let count = names.len();
    // There may be a million, and only those that are shown need their order.
    if count > NAMED_MAX {
        names.select_nth_unstable_by(NAMED_MAX, |a, b| natural_cmp(a, b));
        names.truncate(NAMED_MAX);
    }
    let first = names.iter().copied().min_by(|a, b| natural_cmp(a, b))?;
    let folded = fold(names.iter().copied());
    let text = if count > NAMED_MAX { format!("{folded} and {} more", count - NAMED_MAX) } else { folded };
    Some((text, count, first))
}

/// The nearest name of a member.
pub(super) fn nearest_name<'a>(name: &str, fleet: &'a Fleet) -> Option<&'a str> {
    nearest(name, fleet.iter().map(|member| member.name.as_str()))
}

fn did_you_mean(near: &str) -> String {
    format!("did you mean {near}?")
}

fn names_text(names: &[HostName], fleet: &Fleet, groups: &Groups) -> String {
    let Some((listed, count, first)) = listed(names.iter().map(HostName::as_str)) else { return String::new() };
    let group = |name: &str| {
        let name: LabelText = name.parse().ok()?;
        groups.names().find(|group| group.source.is_none() && group.name == name)
    };
    let hint = match (first.parse::<IpAddr>(), nearest_name(first, fleet), group(first)) {
        (_, _, Some(group)) => did_you_mean(&format!("the group {group}")),
        (Ok(address), ..) => format!("write {address}/32 for the agents that have this address"),
        (_, Some(near), _) => did_you_mean(near),
        _ => "`muster agents` lists those there are".to_owned(),
    };
    match count {
        1 => format!("no agent is called {listed}: {hint}"),
        _ => format!("no agents are called {listed}: {hint}"),
    }
}

fn value_text(key: &Key, term: &str, value: Option<&str>, fleet: &Fleet) -> String {
    let mut values = BTreeSet::new();
    for member in fleet.iter() {
        key.any(member, |value| {
            values.insert(value.to_owned());
            false
        });
    }
    if let (true, Key::Label(label)) = (values.is_empty(), key) {
        let labels = fleet.iter().flat_map(|member| member.labels.keys()).map(LabelText::as_str);
        let mut known: BTreeSet<&str> = labels.collect();
        for fact in Fact::names() {
            known.insert(fact);
        }
        let hint = nearest(label.as_str(), known.into_iter());
        let hint = hint.map_or("`muster agents` lists labels".into(), did_you_mean);
        return format!("no agent matches {term}: none has the label {label}; {hint}");
    }
    if values.is_empty() {
        return format!("no agent matches {term}: none has reported the fact {key}; `muster agents NAME` shows facts");
    }
    let near = value.and_then(|value| nearest(value, values.iter().map(String::as_str)));
    let hint = match near {
        Some(near) => did_you_mean(&format!("{key}={near}")),
        None => "`muster agents` lists names and labels".to_owned(),
    };
    format!("no agent matches {term}: {hint}")
}
