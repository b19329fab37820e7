//! Who a job is for: an expression over the fleet becomes a frozen list of hosts, or an error that says why not.
//!
//! What an operator saw is what runs: nothing here turns a misspelt, empty or blank selection into "all" or into "no
//! hosts, success". [`grammar`] reads the language into a [`tree`], [`view`] says whom it stands for. A new kind of
//! target is a variant of [`tree::Term`] with one arm there; a new fact is a row in [`facts`].

mod compare;
mod facts;
mod glob;
mod grammar;
mod groups;
mod lexer;
mod missing;
mod nearest;
mod pings;
mod regex;
mod set;
mod tree;
mod view;

use crate::fleet::Fleet;
use grammar::{Budget, Spaces};
pub use groups::{Groups, Needed};
use muster_proto::job::Target;
use muster_proto::limits;
use muster_proto::name::{HostName, ParseNameError};
use muster_proto::names::{ExpandError, expand};
use muster_proto::selection::Selection;
pub use pings::{PingPlanError, PlannedPings, pings};
use set::Set;
use std::fmt;
use tree::Expression;
use view::View;

/// Below this many hosts no job is guarded, however small the fleet.
const GUARD_HOSTS: usize = 50;
/// Below this part of the fleet no job is guarded, in per cent.
const GUARD_PER_CENT: usize = 25;

/// A target expression that was understood. Its text, as printed, reads back as the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Selector(Expression);

impl Selector {
    /// Reads an expression. Empty ones and empty parts are errors, and so is what stands for too many names.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        grammar::parse(text, Spaces::Nothing, &mut Budget::default()).map(Self)
    }

    /// The hosts of a part of the fleet that it stands for, in natural order, each once; never none. What fits nobody on
    /// its own is an error too, but not what does so within a group: that may be for others.
    pub fn resolve(&self, fleet: &Fleet, groups: &Groups) -> Result<Vec<Target>, ResolveError> {
        let mut view = View::new(fleet, groups, Strangers::Missed);
        let chosen = view.choose(&self.0)?;
        if fleet.is_empty() {
            return Err(ResolveError::NoAgents);
        }
        view.settle_without_groups()?;
        if chosen.is_empty() { Err(ResolveError::Nobody) } else { Ok(view.targets(&chosen)) }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Hosts that were meant, and what has to be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// In natural order, each once; never empty.
    pub targets: Vec<Target>,
    /// What was left out, and why: a line each.
    pub notes: Vec<String>,
}

/// The hosts that a choice stands for. `groups` must have what is [`Needed`], as far as it can be had.
pub fn resolve(selection: &Selection, fleet: &Fleet, groups: &Groups) -> Result<Resolved, SelectionError> {
    let mut view = View::new(fleet, groups, Strangers::Missed);
    let targets = expression(&selection.targets, view.budget()).map_err(SelectionError::Targets)?;
    let exclude = expression(&selection.exclude, view.budget()).map_err(SelectionError::Exclude)?;
    let listed = listed(selection)?;
    if targets.is_none() && listed.is_empty() {
        return Err(SelectionError::Missing);
    }

    let mut chosen = targets.map_or(Ok(Set::default()), |targets| view.choose(&targets))?;
    chosen.join(&view.names(&listed));
    // Groups that come back to themselves are told even so.
    if fleet.is_empty() {
        return Err(ResolveError::NoAgents.into());
    }
    let mut notes = view.settle(selection.missing)?;
    let was_empty = chosen.is_empty();
    if let Some(exclude) = exclude {
        let excluded = view.choose(&exclude).map_err(SelectionError::ResolveExclude)?;
        notes.extend(view.settle(selection.missing).map_err(SelectionError::ResolveExclude)?);
        chosen.subtract(&excluded);
    }
    match view.targets(&chosen) {
        targets if !targets.is_empty() => Ok(Resolved { targets, notes }),
        _ if was_empty => Err(SelectionError::Nobody(notes)),
        _ => Err(SelectionError::NobodyLeft),
    }
}

/// An expression that may be left out altogether.
fn expression(text: &str, budget: &mut Budget) -> Result<Option<Expression>, ParseError> {
    (!text.is_empty()).then(|| grammar::parse(text, Spaces::Nothing, budget)).transpose()
}

/// The names of a list, ranges expanded.
fn listed(selection: &Selection) -> Result<Vec<HostName>, SelectionError> {
    let mut all: Vec<HostName> = Vec::new();
    for (place, text) in (1..).zip(&selection.names) {
        let fail = |error| SelectionError::Name { place, error };
        for name in expand(text, limits::TARGETS_MAX as usize - all.len()).map_err(fail)? {
            let bad = |error: ParseNameError| fail(ExpandError { column: 1, message: error.to_string() });
            all.push(name.parse().map_err(bad)?);
        }
    }
    Ok(all)
}

/// Names that no agent bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strangers {
    /// Are missing.
    Missed,
    /// Are hosts without an agent.
    Taken,
}

/// An expression that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct ParseError {
    /// Where in the expression, in characters from 1.
    pub column: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Why a choice of hosts cannot be used, with what to do about it. The texts are whole: none has a source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// Nothing was chosen at all.
    #[error("no targets: say which hosts with -w, or `-w all` for every agent")]
    Missing,
    /// The expression.
    #[error("targets, {0}")]
    Targets(ParseError),
    /// The expression of what to leave out.
    #[error("exclude, {0}")]
    Exclude(ParseError),
    /// An entry of the list.
    #[error("entry {place} of the list of names, {error}")]
    Name {
        /// Which, from 1.
        place: usize,
        /// What is wrong with it.
        error: ExpandError,
    },
    /// What was chosen does not exist.
    #[error("{0}")]
    Resolve(ResolveError),
    /// What is left out does not exist.
    #[error("exclude: {0}")]
    ResolveExclude(ResolveError),
    /// Nobody is in what the parts make together; with what was left out of it.
    #[error("{}{}", ResolveError::Nobody, after(.0))]
    Nobody(Vec<String>),
    /// All that was chosen is excluded.
    #[error("no host is left: the exclusion takes out every host that was chosen; exclude fewer or choose more")]
    NobodyLeft,
}

fn after(notes: &[String]) -> String {
    notes.iter().map(|note| format!("; {note}")).collect()
}

impl From<ResolveError> for SelectionError {
    fn from(error: ResolveError) -> Self {
        Self::Resolve(error)
    }
}

/// An expression that does not fit the fleet, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is nobody to choose from.
    #[error("no agent is enrolled: `muster token create` makes the token that `muster-agent enroll` takes")]
    NoAgents,
    /// All parts fit somebody, and nobody is in what they make together.
    #[error("no host is chosen: no agent fits the whole expression")]
    Nobody,
    /// Something in it fits nobody: what, and the nearest that there is.
    #[error("{0}")]
    Missing(String),
    /// A group cannot be understood: which, and why.
    #[error("{0}")]
    Groups(String),
    /// The patterns and regular expressions would hold everybody up.
    #[error("the patterns are too much work over {agents} agents: use fewer or simpler ones, or labels")]
    Work {
        /// Members of the fleet.
        agents: usize,
    },
}

/// Why an operator has to type the count of these hosts before they are used; `None` if there is no need.
pub fn guard(count: usize, fleet_len: usize) -> Option<String> {
    let guarded = count > GUARD_HOSTS && count.saturating_mul(100) > fleet_len.saturating_mul(GUARD_PER_CENT);
    guarded
        .then(|| format!("{count} hosts are more than {GUARD_HOSTS} and more than {GUARD_PER_CENT} % of {fleet_len}"))
}

#[cfg(test)]
mod tests;
