//! Reads the target language into a tree.
//!
//! ```text
//! expression = term *( "," term )
//! term       = "all" | name and ranges | glob with "*" and "?" | key "=" value, a glob or not
//! ```
//! White space around a term is nothing. Characters that the language will use for more are refused with their column.

use super::glob::Glob;
use muster_proto::limits;
use muster_proto::name::{HostName, LabelText};
use muster_proto::names::expand;
use std::fmt;

/// Bytes of an expression; longer lists belong into a file of names.
const EXPRESSION_BYTES_MAX: usize = 64 << 10;
/// Terms that look at every member of the fleet: bounds the work of one expression.
const SCANS_MAX: usize = 256;
/// What there is, for those who wrote something else.
const LANGUAGE: &str = "targets are names (web[01-20]), globs (db*), labels (role=web) and `all`, joined with ','";

/// An expression that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct ParseError {
    /// Where in the expression, in characters from 1.
    pub column: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// An expression.
#[derive(Debug, Clone)]
pub(super) enum Expression {
    /// All that any part stands for.
    Union(Vec<Expression>),
    /// A leaf.
    Term(Term),
}

/// What a leaf stands for.
#[derive(Debug, Clone)]
pub(super) enum Term {
    /// The whole fleet; must be spelled.
    All,
    /// Hosts by name, ranges expanded.
    Names(Names),
    /// Hosts by a pattern of their names.
    Glob(Glob),
    /// Hosts by what operators say of them.
    Label { key: LabelText, value: Glob },
}

/// Names as they stand in an expression.
pub(super) type Names = Vec<HostName>;

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Names(names) => f.write_str(&muster_proto::names::fold(names.iter().map(HostName::as_str))),
            Self::Glob(glob) => glob.fmt(f),
            Self::Label { key, value } => write!(f, "{}={value}", key.as_str()),
        }
    }
}

/// Reads a whole expression.
pub(super) fn parse(text: &str) -> Result<Expression, ParseError> {
    if text.len() > EXPRESSION_BYTES_MAX {
        let message = format!("an expression has at most {EXPRESSION_BYTES_MAX} bytes: put long lists into a file");
        return Err(ParseError { column: 1, message });
    }
    if text.trim().is_empty() {
        return Err(ParseError { column: 1, message: format!("the expression is empty; {LANGUAGE}") });
    }
    let mut parser = Parser { text, names_left: limits::TARGETS_MAX as usize, scans_left: SCANS_MAX };
    let terms = ranges_of_terms(text).into_iter().map(|(from, to)| parser.term(from, to).map(Expression::Term));
    terms.collect::<Result<_, _>>().map(Expression::Union)
}

/// Where the terms are: between the commas that are not in brackets.
fn ranges_of_terms(text: &str) -> Vec<(usize, usize)> {
    let mut inside = false;
    let mut start = 0;
    let mut terms = Vec::new();
    for (place, character) in text.char_indices() {
        match character {
            '[' => inside = true,
            ']' => inside = false,
            ',' if !inside => {
                terms.push((start, place));
                start = place + 1;
            }
            _ => {}
        }
    }
    terms.push((start, text.len()));
    terms
}

struct Parser<'a> {
    text: &'a str,
    names_left: usize,
    scans_left: usize,
}

impl Parser<'_> {
    fn term(&mut self, from: usize, to: usize) -> Result<Term, ParseError> {
        let whole = &self.text[from..to];
        let at = from + (whole.len() - whole.trim_start().len());
        let term = whole.trim();
        if term.is_empty() {
            return Err(self.fault(from, "a target is missing here: take the ',' away or name one"));
        }
        if let Some(place) = term.find(char::is_whitespace) {
            return Err(self.fault(at + place, format!("white space in a target; {LANGUAGE}")));
        }
        let known = |c: char| c.is_ascii_alphanumeric() || "._-[],*?=".contains(c);
        if let Some((place, other)) = term.char_indices().find(|&(_, c)| !known(c)) {
            return Err(self.fault(at + place, format!("{other:?} is not understood; {LANGUAGE}")));
        }
        if let Some((key, value)) = term.split_once('=') {
            let bad_key = |error: muster_proto::name::ParseNameError| self.fault(at, error.to_string());
            let key_text = key.parse().map_err(bad_key)?;
            let value = self.glob(at + key.len() + 1, value)?;
            return Ok(Term::Label { key: key_text, value });
        }
        if term == "all" {
            return Ok(Term::All);
        }
        if term.contains(['*', '?']) {
            return self.glob(at, term).map(Term::Glob);
        }
        self.names(at, term).map(Term::Names)
    }

    fn names(&mut self, at: usize, term: &str) -> Result<Names, ParseError> {
        let names = expand(term, self.names_left)
            .map_err(|error| ParseError { column: self.column(at) + error.column - 1, message: error.message })?;
        self.names_left -= names.len();
        let parsed: Result<Names, _> = names.iter().map(|name| name.parse()).collect();
        parsed.map_err(|error| self.fault(at, error.to_string()))
    }

    /// A pattern of names or labels: characters of those, `*` and `?`.
    fn glob(&mut self, at: usize, pattern: &str) -> Result<Glob, ParseError> {
        let Some(scans_left) = self.scans_left.checked_sub(1) else {
            let message = format!("more than {SCANS_MAX} globs and labels: name the hosts, or give them one label");
            return Err(self.fault(at, message));
        };
        self.scans_left = scans_left;
        if pattern.is_empty() {
            return Err(self.fault(at, "a value is missing; `key=*` is any"));
        }
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-*?".contains(c);
        match pattern.char_indices().find(|&(_, c)| !known(c)) {
            Some((place, '[' | ']')) => {
                Err(self.fault(at + place, "a glob or label takes no range: write two targets"))
            }
            Some((place, c)) if c.is_ascii_uppercase() => Err(self.fault(
                at + place,
                format!("names and labels are lower case: write {} for {c}", c.to_ascii_lowercase()),
            )),
            Some((place, other)) => Err(self.fault(at + place, format!("{other:?} stands in no name or label"))),
            None => Glob::new(pattern).map_err(|error| self.fault(at, error.to_string())),
        }
    }

    fn fault(&self, at: usize, message: impl Into<String>) -> ParseError {
        ParseError { column: self.column(at), message: message.into() }
    }

    /// Of a place in bytes.
    fn column(&self, at: usize) -> usize {
        self.text[..at].chars().count() + 1
    }
}
