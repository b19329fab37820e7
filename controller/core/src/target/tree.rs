//! An expression as a tree, and its text: what is printed reads back as the same tree.

use super::compare::Order;
use super::facts::Key;
use super::glob::Glob;
use super::lexer::Written;
use super::regex::Finder;
use muster_proto::name::HostName;
use muster_proto::network::Network;
use muster_proto::selection::GroupName;
use std::fmt::{self, Display, Write as _};

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    /// Whoever fits one of these.
    Or(Vec<Expression>),
    /// Whoever fits all of these.
    And(Vec<Expression>),
    /// Everybody else.
    Not(Box<Expression>),
    /// What set operators make of these, from left to right.
    Sets(Box<Expression>, Vec<(SetOperator, Expression)>),
    /// A leaf.
    Term(Term),
}

/// Operators of one strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SetOperator {
    Union,
    Difference,
    Intersection,
    SymmetricDifference,
}

/// What a leaf stands for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Term {
    /// The whole fleet; must be spelled.
    All,
    /// Hosts by name.
    Names {
        /// As written, with its ranges.
        text: Box<str>,
        /// What it stands for.
        names: Vec<HostName>,
    },
    /// Hosts by patterns of their names.
    Globs(Values),
    /// Hosts that report an address in it.
    Network(Network),
    /// What the group means.
    Group(GroupName),
    /// Hosts by a label or fact.
    Comparison(Key, Test),
}

/// What is asked of the value of a key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    /// Equal to one of these.
    Fits(Values),
    Finds(Finder),
    Order(Order, Written),
}

/// Several values, written as one text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Values {
    pub written: Written,
    /// Sorted; what has no wildcard.
    pub plain: Vec<String>,
    pub globs: Vec<Glob>,
}

impl SetOperator {
    pub const ALL: [(char, Self); 4] =
        [(',', Self::Union), ('!', Self::Difference), ('&', Self::Intersection), ('^', Self::SymmetricDifference)];

    pub fn symbol(self) -> char {
        Self::ALL.iter().find(|(_, operator)| *operator == self).map_or(',', |(symbol, _)| *symbol)
    }
}

impl Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Or(parts) => list(f, parts, " or ", |part| matches!(part, Self::Or(_) | Self::Sets(..))),
            Self::And(parts) => {
                list(f, parts, " and ", |part| matches!(part, Self::Or(_) | Self::And(_) | Self::Sets(..)))
            }
            Self::Not(part) => match &**part {
                Self::Term(Term::Comparison(key, test)) if test.negated().is_some() => test.write(f, key, true),
                part => {
                    f.write_str("not ")?;
                    nested(f, part, !matches!(part, Self::Not(_) | Self::Term(_)))
                }
            },
            Self::Sets(first, others) => {
                nested(f, first, first.is_compound())?;
                others.iter().try_for_each(|(operator, part)| {
                    f.write_char(operator.symbol())?;
                    nested(f, part, part.is_compound())
                })
            }
            Self::Term(term) => term.fmt(f),
        }
    }
}

impl Expression {
    /// Has words or operators to be seen.
    fn is_compound(&self) -> bool {
        match self {
            Self::Term(_) => false,
            Self::Not(part) => !matches!(&**part, Self::Term(Term::Comparison(_, test)) if test.negated().is_some()),
            _ => true,
        }
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    parts: &[Expression],
    between: &str,
    is_nested: impl Fn(&Expression) -> bool,
) -> fmt::Result {
    for (place, part) in parts.iter().enumerate() {
        f.write_str(if place == 0 { "" } else { between })?;
        nested(f, part, is_nested(part))?;
    }
    Ok(())
}

fn nested(f: &mut fmt::Formatter<'_>, part: &Expression, is_nested: bool) -> fmt::Result {
    if is_nested { write!(f, "({part})") } else { part.fmt(f) }
}

impl Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Names { text, .. } => f.write_str(text),
            Self::Globs(values) => values.written.fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Group(group) => group.fmt(f),
            Self::Comparison(key, test) => test.write(f, key, false),
        }
    }
}

impl Test {
    /// The operator that says the opposite, if there is one.
    fn negated(&self) -> Option<&'static str> {
        match self {
            Self::Fits(_) | Self::Order(Order::Equal, _) => Some("!="),
            Self::Finds(_) => Some("!~"),
            Self::Order(..) => None,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, key: &Key, is_negated: bool) -> fmt::Result {
        let (operator, value) = match self {
            Self::Fits(values) => ("=", &values.written),
            Self::Finds(finder) => ("~", &finder.written),
            Self::Order(order, value) => (order.symbol(), value),
        };
        let operator = self.negated().filter(|_| is_negated).unwrap_or(operator);
        write!(f, "{key}{operator}{value}")
    }
}

impl Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.quote {
            Some(quote) => write!(f, "{quote}{}{quote}", self.text),
            None => f.write_str(&self.text),
        }
    }
}
