//! Who a job is for: an expression over the fleet becomes a frozen list of hosts, or an error that says why not.
//!
//! What an operator saw is what runs: nothing here turns a misspelt, empty or blank selection into "all" or into "no
//! hosts, success". [`grammar`] reads the language, this file resolves it. An expression is a tree whose nodes choose
//! among the members of the fleet, so a new operator is a variant with one arm in [`View::choose`].

mod glob;
mod grammar;
mod nearest;
mod pings;

use crate::fleet::{Fleet, Member};
pub use grammar::ParseError;
use grammar::{Expression, Names, Term};
use muster_proto::job::Target;
use muster_proto::limits;
use muster_proto::name::HostName;
use muster_proto::names::{ExpandError, expand, fold, natural_cmp};
pub use pings::{PingPlanError, PlannedPings, pings};
use std::net::IpAddr;

/// Names that an error lists before it only counts.
const NAMED_MAX: usize = 5;
/// Below this many hosts no job is guarded, however small the fleet.
const GUARD_HOSTS: usize = 50;
/// Below this part of the fleet no job is guarded, in per cent.
const GUARD_PER_CENT: usize = 25;

/// A target expression that was understood.
///
/// For now a union with `,` of names and ranges (`web[01-20]`), globs (`db*`, `web?`), labels (`role=web`, the value
/// may be a glob) and `all`.
#[derive(Debug, Clone)]
pub struct Selector(Expression);

impl Selector {
    /// Reads an expression. Empty ones and empty parts are errors, and so is what stands for too many names.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        grammar::parse(text).map(Self)
    }

    /// The hosts it stands for, in natural order, each once. Every name must be known and every glob and label match.
    pub fn resolve(&self, fleet: &Fleet) -> Result<Vec<Target>, ResolveError> {
        let view = View::of(fleet)?;
        view.resolve(&self.0).map(|chosen| view.targets(&chosen))
    }
}

/// A whole choice of hosts as an operator makes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Expression; may be empty if there are names.
    pub targets: String,
    /// Expression whose hosts are taken out again; empty takes out none. It may stand for hosts that were not chosen.
    pub exclude: String,
    /// Names or ranges from a list, joined to the expression.
    pub names: Vec<String>,
}

impl Selection {
    /// The hosts it stands for, in natural order, each once; never an empty list.
    pub fn resolve(&self, fleet: &Fleet) -> Result<Vec<Target>, SelectionError> {
        let parse = |text: &str, wrap: fn(ParseError) -> SelectionError| match text {
            "" => Ok(None),
            text => grammar::parse(text).map(Some).map_err(wrap),
        };
        let targets = parse(&self.targets, SelectionError::Targets)?;
        let exclude = parse(&self.exclude, SelectionError::Exclude)?;
        let listed = self.listed()?.map(|names| Expression::Term(Term::Names(names)));
        let parts: Vec<Expression> = targets.into_iter().chain(listed).collect();
        if parts.is_empty() {
            return Err(SelectionError::Missing);
        }

        let view = View::of(fleet)?;
        let mut chosen = view.resolve(&Expression::Union(parts))?;
        if let Some(exclude) = exclude {
            let excluded = view.resolve(&exclude).map_err(SelectionError::ResolveExclude)?;
            chosen.iter_mut().zip(excluded).for_each(|(chosen, excluded)| *chosen &= !excluded);
        }
        let targets = view.targets(&chosen);
        if targets.is_empty() { Err(SelectionError::NobodyLeft) } else { Ok(targets) }
    }

    fn listed(&self) -> Result<Option<Names>, SelectionError> {
        let mut all = Vec::new();
        for (place, text) in self.names.iter().enumerate() {
            let fail = |error| SelectionError::Name { place: place + 1, error };
            let names = expand(text, limits::TARGETS_MAX as usize - all.len()).map_err(fail)?;
            for name in names {
                let message = |error: muster_proto::name::ParseNameError| error.to_string();
                let name = name.parse().map_err(|error| fail(ExpandError { column: 1, message: message(error) }))?;
                all.push(name);
            }
        }
        Ok(if all.is_empty() { None } else { Some(all) })
    }
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
    /// All that was chosen is excluded.
    #[error("no host is left: the exclusion takes out every host that was chosen; exclude fewer or choose more")]
    NobodyLeft,
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
    /// Names that nobody bears.
    #[error("{}", unknown_text(names, *count, nearest.as_ref()))]
    Unknown {
        /// The first of them, folded.
        names: String,
        /// How many there are.
        count: usize,
        /// A known name that reads nearly like the first.
        nearest: Option<HostName>,
    },
    /// A glob or label that fits nobody.
    #[error("no agent matches {0}: `muster agents` lists names and labels")]
    Nothing(String),
}

fn unknown_text(names: &str, count: usize, nearest: Option<&HostName>) -> String {
    let hint = match nearest {
        Some(name) => format!("did you mean {name}?"),
        None => "`muster agents` lists those there are".to_owned(),
    };
    match count {
        0..=1 => format!("no agent is called {names}: {hint}"),
        2..=NAMED_MAX => format!("no agents are called {names}: {hint}"),
        more => {
            let rest = more - NAMED_MAX;
            let plural = if rest == 1 { "" } else { "s" };
            format!("no agents are called {names} and {rest} more name{plural}: {hint}")
        }
    }
}

/// Why an operator has to type the count of these hosts before they are used; `None` if there is no need.
pub fn guard(count: usize, fleet_len: usize) -> Option<String> {
    let guarded = count > GUARD_HOSTS && count.saturating_mul(100) > fleet_len.saturating_mul(GUARD_PER_CENT);
    guarded
        .then(|| format!("{count} hosts are more than {GUARD_HOSTS} and more than {GUARD_PER_CENT} % of {fleet_len}"))
}

/// The members of a fleet in their order; sets of them are flags by place.
struct View<'a> {
    members: Vec<&'a Member>,
}

impl<'a> View<'a> {
    fn of(fleet: &'a Fleet) -> Result<Self, ResolveError> {
        if fleet.is_empty() { Err(ResolveError::NoAgents) } else { Ok(Self::of_any(fleet)) }
    }

    /// Of a fleet that may be empty.
    fn of_any(fleet: &'a Fleet) -> Self {
        Self { members: fleet.iter().collect() }
    }

    /// Flags of the members an expression stands for.
    fn resolve(&self, expression: &Expression) -> Result<Vec<bool>, ResolveError> {
        let (chosen, unknown) = self.choose_any(expression)?;
        if unknown.is_empty() { Ok(chosen) } else { Err(self.unknown(unknown)) }
    }

    /// Flags of the members an expression stands for, and the names in it that nobody bears.
    fn choose_any<'e>(&self, expression: &'e Expression) -> Result<(Vec<bool>, Vec<&'e HostName>), ResolveError> {
        let mut chosen = vec![false; self.members.len()];
        let mut unknown = Vec::new();
        self.choose(expression, &mut chosen, &mut unknown)?;
        Ok((chosen, unknown))
    }

    /// Sets the flags of an expression's members and collects the names that nobody bears.
    fn choose<'e>(
        &self,
        expression: &'e Expression,
        chosen: &mut [bool],
        unknown: &mut Vec<&'e HostName>,
    ) -> Result<(), ResolveError> {
        match expression {
            Expression::Union(parts) => parts.iter().try_for_each(|part| self.choose(part, chosen, unknown)),
            Expression::Term(Term::All) if self.members.is_empty() => Err(ResolveError::NoAgents),
            Expression::Term(Term::All) => {
                chosen.fill(true);
                Ok(())
            }
            Expression::Term(Term::Names(names)) => {
                for name in names {
                    match self.place(name) {
                        Ok(place) => chosen[place] = true,
                        Err(_) => unknown.push(name),
                    }
                }
                Ok(())
            }
            Expression::Term(term @ Term::Glob(glob)) => {
                self.choose_where(term, chosen, |member| glob.matches(member.name.as_str()))
            }
            Expression::Term(term @ Term::Label { key, value }) => self.choose_where(term, chosen, |member| {
                member.labels.get(key).is_some_and(|label| value.matches(label.as_str()))
            }),
        }
    }

    fn choose_where(
        &self,
        term: &Term,
        chosen: &mut [bool],
        fits: impl Fn(&Member) -> bool,
    ) -> Result<(), ResolveError> {
        let mut found = false;
        for (flag, member) in chosen.iter_mut().zip(&self.members) {
            if fits(member) {
                (*flag, found) = (true, true);
            }
        }
        if found { Ok(()) } else { Err(ResolveError::Nothing(term.to_string())) }
    }

    fn place(&self, name: &HostName) -> Result<usize, usize> {
        self.members.binary_search_by(|member| natural_cmp(member.name.as_str(), name.as_str()))
    }

    fn targets(&self, chosen: &[bool]) -> Vec<Target> {
        let chosen = self.members.iter().zip(chosen).filter(|(_, chosen)| **chosen);
        chosen.map(|(member, _)| Target { agent: member.id, name: member.name.clone() }).collect()
    }

    /// What to say of names that nobody bears where they are taken as hosts without an agent; addresses are no surprise.
    fn strangers(&self, names: &[&HostName]) -> Option<String> {
        let is_name = |name: &&HostName| name.as_str().parse::<IpAddr>().is_err();
        let mut names: Vec<&HostName> = names.iter().copied().filter(is_name).collect();
        names.sort_unstable_by(|a, b| natural_cmp(a.as_str(), b.as_str()));
        names.dedup();
        let known = self.members.iter().map(|member| &member.name);
        let nearest = nearest::nearest(names.first()?.as_str(), known);
        let hint = nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        let listed = fold(names.iter().take(NAMED_MAX).map(|name| name.as_str()));
        Some(match names.len() {
            1 => format!("{listed}: no agent has this name, taken as a host without one{hint}"),
            2..=NAMED_MAX => format!("{listed}: no agent has these names, taken as hosts without one{hint}"),
            more => {
                format!(
                    "{listed} and {} more: no agent has these names, taken as hosts without one{hint}",
                    more - NAMED_MAX
                )
            }
        })
    }

    fn unknown(&self, mut names: Vec<&HostName>) -> ResolveError {
        names.sort_unstable_by(|a, b| natural_cmp(a.as_str(), b.as_str()));
        names.dedup();
        let known = self.members.iter().map(|member| &member.name);
        ResolveError::Unknown {
            names: fold(names.iter().take(NAMED_MAX).map(|name| name.as_str())),
            count: names.len(),
            nearest: names.first().and_then(|name| nearest::nearest(name.as_str(), known)).cloned(),
        }
    }
}

#[cfg(test)]
mod tests;
