//! A fleet as expressions see it: what they stand for as sets of places, and what in them fits nobody.
//!
//! One view serves all expressions of a request, so that a group is worked out once and what all of them may cost
//! together is bounded.

use super::facts::{Fact, Key};
use super::grammar::Budget;
use super::groups::{self, GROUPS_MAX, Groups};
use super::missing::{self, Missed, What};
use super::set::Set;
use super::tree::{Expression, SetOperator, Term, Test, Values};
use super::{ResolveError, Strangers};
use crate::fleet::{Fleet, Member};
use muster_proto::job::Target;
use muster_proto::name::HostName;
use muster_proto::network::Network;
use muster_proto::selection::{GroupName, Missing};
use std::collections::HashMap;
use std::net::IpAddr;

/// Groups within groups.
const CHAIN_MAX: usize = 16;
/// Steps of all patterns and regular expressions together, of about 0.2 ns each.
const STEPS_MAX: u64 = 6_000_000_000;
/// Lines of what was left out, before the others are only counted.
const NOTES_MAX: usize = 20;

/// The members of a fleet by their places, then strangers in the order in which they were named.
pub(super) struct View<'a> {
    fleet: &'a Fleet,
    groups: &'a Groups,
    strangers: Strangers,
    /// Names that no member bears, where those are hosts too.
    strange: Vec<HostName>,
    strange_places: HashMap<HostName, usize>,
    /// Groups that have been worked out.
    known: HashMap<GroupName, Set>,
    /// Groups that are being worked out, each named by the one before.
    chain: Vec<GroupName>,
    budget: Budget,
    /// Taken by patterns and regular expressions so far.
    steps: u64,
    missed: Vec<Missed>,
    /// Of each member, once a network was asked for.
    addresses: Option<Vec<Vec<IpAddr>>>,
}

impl<'a> View<'a> {
    pub fn new(fleet: &'a Fleet, groups: &'a Groups, strangers: Strangers) -> Self {
        Self {
            fleet,
            groups,
            strangers,
            strange: Vec::new(),
            strange_places: HashMap::new(),
            known: HashMap::new(),
            chain: Vec::new(),
            budget: Budget::default(),
            steps: 0,
            missed: Vec::new(),
            addresses: None,
        }
    }

    /// What this request may still cost.
    pub fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    /// The places that an expression stands for. What fits nobody is nobody here; [`Self::settle`] has to be asked.
    pub fn choose(&mut self, expression: &Expression) -> Result<Set, ResolveError> {
        match expression {
            Expression::Or(parts) => {
                let mut set = Set::default();
                parts.iter().try_for_each(|part| self.choose(part).map(|part| set.join(&part)))?;
                Ok(set)
            }
            Expression::And(parts) => {
                let mut set: Option<Set> = None;
                for part in parts {
                    let part = self.choose(part)?;
                    match &mut set {
                        Some(set) => set.meet(&part),
                        None => set = Some(part),
                    }
                }
                Ok(set.unwrap_or_default())
            }
            Expression::Not(part) => {
                let without = self.choose(part)?;
                let mut set = self.everybody();
                set.subtract(&without);
                Ok(set)
            }
            Expression::Sets(first, others) => {
                let mut set = self.choose(first)?;
                for (operator, part) in others {
                    let part = self.choose(part)?;
                    match operator {
                        SetOperator::Union => set.join(&part),
                        SetOperator::Difference => set.subtract(&part),
                        SetOperator::Intersection => set.meet(&part),
                        SetOperator::SymmetricDifference => set.differ(&part),
                    }
                }
                Ok(set)
            }
            Expression::Term(term) => self.term(term),
        }
    }

    /// What was missed since it was last asked: an error, or a line each.
    pub fn settle(&mut self, missing: Missing) -> Result<Vec<String>, ResolveError> {
        let missed = std::mem::take(&mut self.missed);
        let mut texts = missed.iter().map(|missed| missing::text(missed, self.fleet, self.groups));
        match missing {
            Missing::LeftOut => {
                let mut notes: Vec<String> = texts.take(NOTES_MAX).map(|text| format!("left out: {text}")).collect();
                let more = missed.len().saturating_sub(NOTES_MAX);
                notes.extend((more > 0).then(|| format!("left out: {more} more")));
                Ok(notes)
            }
            Missing::Refused => texts.next().map_or(Ok(Vec::new()), |text| Err(ResolveError::Missing(text))),
        }
    }

    /// The same where groups may be for others too: what is missed within them is nobody.
    pub fn settle_without_groups(&mut self) -> Result<(), ResolveError> {
        self.missed.retain(|missed| missed.group.is_none());
        self.settle(Missing::Refused).map(drop)
    }

    /// The members among these places.
    pub fn targets(&self, set: &Set) -> Vec<Target> {
        let members = set.iter().map_while(|place| self.fleet.at(place));
        members.map(|member| Target { agent: member.id, name: member.name.clone() }).collect()
    }

    /// The strangers among these places.
    pub fn strange(&self, set: &Set) -> Vec<&HostName> {
        let first = self.fleet.len();
        set.iter().filter_map(|place| self.strange.get(place.checked_sub(first)?)).collect()
    }

    /// The places of these names.
    pub fn names(&mut self, names: &[HostName]) -> Set {
        let mut set = Set::default();
        let mut unknown = Vec::new();
        // Where the name would be if names came as the fleet has them, which they mostly do.
        let mut next = 0;
        for name in names {
            let expected = self.fleet.at(next).is_some_and(|member| member.name == *name);
            match if expected { Ok(next) } else { self.fleet.place(name.as_str()) } {
                Ok(place) => {
                    set.insert(place);
                    next = place + 1;
                }
                Err(_) if self.strangers == Strangers::Taken => set.insert(self.stranger(name)),
                Err(_) => unknown.push(name.clone()),
            }
        }
        if !unknown.is_empty() {
            self.miss(What::Names(unknown));
        }
        set
    }

    fn stranger(&mut self, name: &HostName) -> usize {
        let next = self.fleet.len() + self.strange.len();
        *self.strange_places.entry(name.clone()).or_insert_with(|| {
            self.strange.push(name.clone());
            next
        })
    }

    fn everybody(&mut self) -> Set {
        if self.fleet.is_empty() {
            self.miss(What::Agents);
        }
        Set::full(self.fleet.len())
    }

    fn term(&mut self, term: &Term) -> Result<Set, ResolveError> {
        Ok(match term {
            Term::All => self.everybody(),
            Term::Names { names, .. } => self.names(names),
            Term::Globs(values) => self.fitting(&Key::Fact(Fact::Name), values, None)?,
            Term::Network(network) => self.network(network, term),
            Term::Group(group) => self.group(group)?,
            Term::Comparison(key, test) => self.comparison(key, test, term)?,
        })
    }

    fn comparison(&mut self, key: &Key, test: &Test, term: &Term) -> Result<Set, ResolveError> {
        let set = match test {
            Test::Fits(values) => return self.fitting(key, values, Some(key)),
            Test::Finds(finder) => self.passing(key, |value, steps| finder.finds(value, steps))?,
            Test::Order(order, bound) => self.passing(key, |value, _| order.holds(key.compare(value, &bound.text)))?,
        };
        let may_be_empty = matches!(test, Test::Order(order, _) if order.symbol() != "=");
        let is_known = || self.fleet.iter().any(|member| key.any(member, |_| true));
        if set.is_empty() && !(may_be_empty && is_known()) {
            let value = match test {
                Test::Order(_, bound) => Some(bound.text.as_ref().to_owned()),
                _ => None,
            };
            self.miss(What::Value { key: key.clone(), term: term.to_string(), value });
        }
        Ok(set)
    }

    /// The members of whom a value passes. Each distinct value is looked at once, for what that adds to the steps.
    fn passing(&mut self, key: &Key, mut passes: impl FnMut(&str, &mut u64) -> bool) -> Result<Set, ResolveError> {
        let mut seen: HashMap<Box<str>, bool> = HashMap::new();
        let mut steps = self.steps;
        let mut look = |value: &str| match seen.get(value) {
            Some(passed) => *passed,
            None => {
                let passed = steps <= STEPS_MAX && passes(value, &mut steps);
                seen.insert(value.into(), passed);
                passed
            }
        };
        let members = (0..).zip(self.fleet.iter());
        let set = members.filter(|(_, member)| key.any(member, &mut look)).map(|(place, _)| place).collect();
        self.steps = steps;
        if steps > STEPS_MAX { Err(ResolveError::Work { agents: self.fleet.len() }) } else { Ok(set) }
    }

    /// The members who have one of these values. Each value must be somebody's.
    fn fitting(&mut self, key: &Key, values: &Values, shown: Option<&Key>) -> Result<Set, ResolveError> {
        let Values { plain, globs, .. } = values;
        let mut plain_found = vec![false; plain.len()];
        let mut globs_found = vec![false; globs.len()];
        let set = self.passing(key, |value, steps| {
            let mut fits = false;
            if let Ok(place) = plain.binary_search_by(|plain| plain.as_str().cmp(value)) {
                (plain_found[place], fits) = (true, true);
            }
            for (glob, found) in globs.iter().zip(&mut globs_found) {
                if glob.matches(value, steps) {
                    (*found, fits) = (true, true);
                }
            }
            fits
        })?;
        let lost_plain = || plain.iter().zip(&plain_found).filter(|(_, found)| !**found).map(|(text, _)| text.as_str());
        let lost_globs = globs.iter().zip(&globs_found).filter(|(_, found)| !**found).map(|(glob, _)| glob.text());
        if let Some((lost, ..)) = missing::listed(lost_plain().chain(lost_globs)) {
            let is_one = plain.len() + globs.len() == 1;
            let text = if is_one { values.written.to_string() } else { lost };
            let term = shown.map(|key| format!("{key}={text}")).unwrap_or(text);
            let value = lost_plain().next().map(str::to_owned);
            self.miss(What::Value { key: key.clone(), term, value });
        }
        Ok(set)
    }

    fn network(&mut self, network: &Network, term: &Term) -> Set {
        let addresses_of = |member: &Member| {
            let addresses = member.facts.iter().flat_map(|facts| &facts.addresses);
            addresses.filter_map(|address| address.parse().ok()).collect()
        };
        let all = self.addresses.get_or_insert_with(|| self.fleet.iter().map(addresses_of).collect());
        let within = |addresses: &Vec<IpAddr>| addresses.iter().any(|address| network.contains(*address));
        let set: Set = (0..).zip(all).filter(|(_, addresses)| within(addresses)).map(|(place, _)| place).collect();
        if set.is_empty() {
            self.miss(What::Network(term.to_string()));
        }
        set
    }

    fn group(&mut self, group: &GroupName) -> Result<Set, ResolveError> {
        if let Some(set) = self.known.get(group) {
            return Ok(set.clone());
        }
        let is_cycle = self.chain.contains(group);
        if is_cycle || self.chain.len() == CHAIN_MAX {
            let chain: Vec<String> = self.chain.iter().chain([group]).map(GroupName::to_string).collect();
            let chain = chain.join(" > ");
            return Err(ResolveError::Groups(match is_cycle {
                true => format!("{chain}: a group cannot be a part of itself"),
                false => format!("{chain}: groups within groups are followed {CHAIN_MAX} deep"),
            }));
        }
        if self.known.len() + self.chain.len() >= GROUPS_MAX {
            return Err(ResolveError::Groups(format!("{group}: more than {GROUPS_MAX} groups in one expression")));
        }
        let missed_before = self.missed.len();
        let set = match self.groups.get(group) {
            None => {
                self.miss(What::Group(group.clone()));
                Set::default()
            }
            Some(text) => {
                let expression = groups::parse(group, text, &mut self.budget)
                    .map_err(|error| ResolveError::Groups(format!("in {group}, {error}")))?;
                self.chain.push(group.clone());
                let set = self.choose(&expression)?;
                // Taken for nobody, what `all ! @x` was to keep off would be hit.
                if set.is_empty() && self.missed.len() == missed_before {
                    self.miss(What::Members);
                }
                self.chain.pop();
                set
            }
        };
        self.known.insert(group.clone(), set.clone());
        Ok(set)
    }

    fn miss(&mut self, what: What) {
        let group = self.chain.last().cloned();
        // Names are told together, however they were written.
        if let What::Names(new) = &what
            && let Some(Missed { what: What::Names(names), .. }) =
                self.missed.iter_mut().rfind(|missed| matches!(missed.what, What::Names(_)) && missed.group == group)
        {
            names.extend_from_slice(new);
            return;
        }
        self.missed.push(Missed { group, what });
    }
}

#[cfg(test)]
mod tests {
    use super::super::grammar::{self, Spaces};
    use super::*;
    use muster_proto::fleet::Labels;
    use muster_proto::id::AgentId;

    #[test]
    fn patterns_are_work_too_and_each_value_is_looked_at_once() {
        let mut fleet = Fleet::default();
        for number in 0..10_u8 {
            let labels = Labels::from([("site".parse().expect("a key"), "aaaa".parse().expect("a value"))]);
            let name = format!("n{number}").parse().expect("a name");
            let member = Member { id: AgentId::from_bytes([number; 16]), name, labels, facts: None };
            fleet.insert(member).expect("a free name");
        }
        let groups = Groups::default();
        let choose = |text: &str, left: u64| {
            let expression = grammar::parse(text, Spaces::Nothing, &mut Budget::default()).expect(text);
            let mut view = View::new(&fleet, &groups, Strangers::Missed);
            view.steps = STEPS_MAX - left;
            view.choose(&expression).map(|set| set.iter().count())
        };
        let too_much = Err(ResolveError::Work { agents: 10 });
        assert_eq!(choose("site=a*a", 100), Ok(10));
        assert_eq!(choose("site=a*a", 10), too_much);
        assert_eq!(choose("n*", 1_000), Ok(10));
        assert_eq!(choose("n*", 100), too_much);
        assert_eq!(choose("site~a", 100), too_much);
    }
}
