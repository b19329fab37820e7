//! Groups: names for expressions, and which of them an expression needs.

use super::grammar::{self, Budget, Spaces};
use super::tree::{Expression, Term};
use super::{ParseError, ResolveError};
use muster_proto::selection::GroupName;
use std::collections::{BTreeMap, BTreeSet};

/// Groups that one expression may need, so that no source can make it endless.
pub(super) const GROUPS_MAX: usize = 1_000;

/// What groups mean, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Groups(BTreeMap<GroupName, String>);

impl Groups {
    /// Sets what a group means. The text of an outside source is read as a list: white space joins, and the whole
    /// fleet (`all`, `not`) is no part of it.
    pub fn insert(&mut self, name: GroupName, text: String) {
        self.0.insert(name, text);
    }

    /// Forgets a group; false if it was not known.
    pub fn remove(&mut self, name: &GroupName) -> bool {
        self.0.remove(name).is_some()
    }

    /// What a group means.
    pub fn get(&self, name: &GroupName) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The names of those that are known.
    pub(super) fn names(&self) -> impl Iterator<Item = &GroupName> {
        self.0.keys()
    }
}

/// Which groups the expressions of one request need: those that they name, those that these name, and so on, each told
/// once. Every text is read once, and all together may cost what resolving them may.
#[derive(Debug, Default)]
pub struct Needed {
    told: BTreeSet<GroupName>,
    budget: Budget,
}

impl Needed {
    /// The groups that a text names and nobody has been told of yet; `within` is the group that it is of. A text with a
    /// fault names none: the fault is told when it is resolved.
    pub fn by(&mut self, text: &str, within: Option<&GroupName>) -> Result<Vec<GroupName>, ResolveError> {
        let mut named = BTreeSet::new();
        if text.contains('@') {
            let expression = match within {
                Some(group) => parse(group, text, &mut self.budget),
                None => grammar::parse(text, Spaces::Nothing, &mut self.budget),
            };
            expression.iter().for_each(|expression| collect(expression, &mut named));
        }
        named.retain(|group| !self.told.contains(group));
        if self.told.len() + named.len() > GROUPS_MAX {
            return Err(ResolveError::Groups(format!(
                "the targets need more than {GROUPS_MAX} groups: use fewer at once"
            )));
        }
        self.told.extend(named.iter().cloned());
        Ok(named.into_iter().collect())
    }
}

/// Reads what a group means.
pub(super) fn parse(group: &GroupName, text: &str, budget: &mut Budget) -> Result<Expression, ParseError> {
    let spaces = if group.source.is_some() { Spaces::Union } else { Spaces::Nothing };
    grammar::parse(text, spaces, budget)
}

fn collect(expression: &Expression, named: &mut BTreeSet<GroupName>) {
    match expression {
        Expression::Or(parts) | Expression::And(parts) => parts.iter().for_each(|part| collect(part, named)),
        Expression::Not(part) => collect(part, named),
        Expression::Sets(first, others) => {
            collect(first, named);
            others.iter().for_each(|(_, part)| collect(part, named));
        }
        Expression::Term(Term::Group(group)) => {
            named.insert(group.clone());
        }
        Expression::Term(_) => {}
    }
}
