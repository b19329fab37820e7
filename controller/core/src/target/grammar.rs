//! Reads the target language into a tree.
//!
//! ```text
//! level      = words | sets
//! words      = conjunction *( "or" conjunction )
//! conjunction = part *( "and" part )
//! part       = *"not" atom
//! sets       = atom *( ( "," | "!" | "&" | "^" ) atom )          from left to right
//! atom       = "(" level ")" | "all" | names and ranges | glob | "@" group | network | key operator value
//! operator   = "=" | "!=" | "~" | "!~" | "<" | "<=" | ">" | ">="
//! ```
//! Set operators and words do not stand side by side: `a,b and c` means one host to those who think of `,` as a list
//! and another to those who think of it as "or".

use super::ParseError;
use super::compare::Order;
use super::facts::{Fact, Key, Kind};
use super::glob::Glob;
use super::lexer::{Cursor, Written};
use super::regex::Finder;
use super::tree::{Expression, SetOperator, Term, Test, Values};
use muster_proto::limits;
use muster_proto::name::HostName;
use muster_proto::names::{ExpandError, expand, expand_globs};
use std::net::IpAddr;

/// Bytes of an expression; longer lists belong into a file of names.
const EXPRESSION_BYTES_MAX: usize = 64 << 10;
/// Bytes of the list that a program prints: the names of a large fleet.
const LIST_BYTES_MAX: usize = 4 << 20;
/// Parentheses and `not` within each other.
const NESTING_MAX: usize = 64;
/// What there is, for those who wrote something else.
const LANGUAGE: &str = "targets are names (web[01-20]), globs (db*), labels and facts (role=web, cpus>=8), groups \
                        (@web), networks (10.0.0.0/8) and `all`, joined with `,` `!` `&` `^` or `and` `or` `not`";
const EXPECTED: &str = "between two targets stands `,` `!` `&` `^`, `and` or `or`";

/// How white space between targets reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spaces {
    /// It separates words, nothing more.
    Nothing,
    /// It joins, as in the list that a program prints.
    Union,
}

/// What an expression and the groups in it may cost together.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    names: usize,
    /// Terms that look at every member of the fleet.
    scans: usize,
    regexes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { names: limits::TARGETS_MAX as usize, scans: 256, regexes: 16 }
    }
}

/// Reads a whole expression.
pub(super) fn parse(text: &str, spaces: Spaces, budget: &mut Budget) -> Result<Expression, ParseError> {
    let cursor = Cursor::new(text);
    let bytes_max = if spaces == Spaces::Union { LIST_BYTES_MAX } else { EXPRESSION_BYTES_MAX };
    if text.len() > bytes_max {
        let message = format!("an expression has at most {bytes_max} bytes: put long lists into a file");
        return Err(cursor.fault(0, message));
    }
    if text.trim().is_empty() {
        return Err(cursor.fault(0, format!("the expression is empty; {LANGUAGE}")));
    }
    let mut parser = Parser { cursor, spaces, budget, depth: 0 };
    let expression = parser.level()?;
    match parser.cursor.peek() {
        None => Ok(expression),
        Some(_) => Err(parser.cursor.fault(parser.cursor.place(), "`)` without a `(` before it")),
    }
}

struct Parser<'a, 'b> {
    cursor: Cursor<'a>,
    spaces: Spaces,
    budget: &'b mut Budget,
    depth: usize,
}

/// What joins two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joint {
    And,
    Or,
    Set(SetOperator),
}

/// The first operator of each sort at one level, which must not meet.
#[derive(Default)]
struct Sorts {
    word: Option<&'static str>,
    set: Option<char>,
}

impl Parser<'_, '_> {
    /// All up to the end or to the parenthesis that closes it.
    fn level(&mut self) -> Result<Expression, ParseError> {
        let mut sorts = Sorts::default();
        let first = self.part(&mut sorts)?;
        let mut sets: Vec<(SetOperator, Expression)> = Vec::new();
        // Alternatives of conjunctions; with set operators one of one.
        let mut words = vec![vec![first]];
        while let Some(joint) = self.joint(&mut sorts)? {
            let part = self.part(&mut sorts)?;
            match joint {
                Joint::Set(operator) => sets.push((operator, part)),
                Joint::Or => words.push(vec![part]),
                Joint::And => match words.last_mut() {
                    Some(last) => last.push(part),
                    None => words.push(vec![part]),
                },
            }
        }
        let only = |mut parts: Vec<Expression>, several: fn(Vec<Expression>) -> Expression| match parts.len() {
            1 => parts.remove(0),
            _ => several(parts),
        };
        let words = only(words.into_iter().map(|parts| only(parts, Expression::And)).collect(), Expression::Or);
        Ok(if sets.is_empty() { words } else { Expression::Sets(Box::new(words), sets) })
    }

    /// What follows a part; `None` at the end of the level.
    fn joint(&mut self, sorts: &mut Sorts) -> Result<Option<Joint>, ParseError> {
        let had_space = self.cursor.skip_space();
        let place = self.cursor.place();
        let next = match self.cursor.peek() {
            None | Some(')') => return Ok(None),
            Some(next) => next,
        };
        if let Some((symbol, operator)) = SetOperator::ALL.into_iter().find(|(symbol, _)| *symbol == next) {
            self.cursor.eat(symbol.encode_utf8(&mut [0; 4]));
            return self.same_sort(sorts, place, None, Some(symbol)).map(|()| Some(Joint::Set(operator)));
        }
        let (word, joint) = match self.cursor.keyword() {
            "and" => ("and", Joint::And),
            "or" => ("or", Joint::Or),
            _ if self.spaces == Spaces::Union && had_space => {
                self.same_sort(sorts, place, None, Some(','))?;
                return Ok(Some(Joint::Set(SetOperator::Union)));
            }
            word @ ("AND" | "OR" | "NOT") => {
                let message = format!("words are lower case: write `{}`", word.to_ascii_lowercase());
                return Err(self.cursor.fault(place, message));
            }
            "not" => return Err(self.cursor.fault(place, "write `and not`, or `!` for all but what follows")),
            _ if had_space || matches!(next, '(' | '@') => return Err(self.cursor.fault(place, EXPECTED)),
            _ => return Err(self.cursor.fault(place, strange(next))),
        };
        self.cursor.eat(word);
        self.same_sort(sorts, place, Some(word), None)?;
        Ok(Some(joint))
    }

    /// Notes an operator of the level; one of the other sort beside it is a fault.
    fn same_sort(
        &self,
        sorts: &mut Sorts,
        place: usize,
        word: Option<&'static str>,
        set: Option<char>,
    ) -> Result<(), ParseError> {
        sorts.word = sorts.word.or(word);
        sorts.set = sorts.set.or(set);
        match (sorts.word, sorts.set) {
            (Some("not"), Some(set)) => Err(self.cursor.fault(
                place,
                format!("`not a{set}b` can be read in two ways: write `(not a){set}b` or `not (a{set}b)`"),
            )),
            (Some(word), Some(set)) => Err(self.cursor.fault(
                place,
                format!(
                    "`a{set}b {word} c` can be read in two ways: write `(a{set}b) {word} c` or `a{set}(b {word} c)`"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// An atom with all `not` before it.
    fn part(&mut self, sorts: &mut Sorts) -> Result<Expression, ParseError> {
        let mut negations = 0;
        loop {
            self.cursor.skip_space();
            let place = self.cursor.place();
            if self.cursor.keyword() != "not" {
                break;
            }
            self.check_source(place, "not")?;
            self.cursor.eat("not");
            self.same_sort(sorts, place, Some("not"), None)?;
            negations += 1;
            self.deeper(place)?;
        }
        let mut expression = self.atom()?;
        for _ in 0..negations {
            expression = Expression::Not(Box::new(expression));
        }
        self.depth -= negations;
        Ok(expression)
    }

    /// What an outside source says may be no list at all: of "all of them are down" and "not found" nothing must be hit.
    fn check_source(&self, place: usize, word: &str) -> Result<(), ParseError> {
        let message = format!("`{word}` must be spelled by whoever runs: a source lists hosts, as in `web* ! web07`");
        if self.spaces == Spaces::Union { Err(self.cursor.fault(place, message)) } else { Ok(()) }
    }

    fn deeper(&mut self, place: usize) -> Result<(), ParseError> {
        self.depth += 1;
        let message = "more than 64 parentheses and `not` within each other";
        if self.depth > NESTING_MAX { Err(self.cursor.fault(place, message)) } else { Ok(()) }
    }

    fn atom(&mut self) -> Result<Expression, ParseError> {
        let place = self.cursor.place();
        let Some(next) = self.cursor.peek() else {
            return Err(self
                .cursor
                .fault(place, "a target is missing here: name one, or take away what stands before"));
        };
        match next {
            '(' => {
                self.cursor.eat("(");
                self.deeper(place)?;
                let inner = self.level()?;
                if !self.cursor.eat(")") {
                    return Err(self.cursor.fault(place, "the parenthesis has no end: write `)`"));
                }
                self.depth -= 1;
                Ok(inner)
            }
            '@' => self.group(place).map(Expression::Term),
            '!' => {
                let message = "`!` takes hosts out of what stands before it: write `all ! x`, or `not x`";
                Err(self.cursor.fault(place, message))
            }
            ',' | '&' | '^' | ')' => {
                let message = format!("a target is missing here: take the `{next}` away or name one");
                Err(self.cursor.fault(place, message))
            }
            '=' | '~' | '<' | '>' => {
                Err(self.cursor.fault(place, format!("a label or fact is missing before `{next}`")))
            }
            _ => match self.network(place)? {
                Some(network) => Ok(Expression::Term(network)),
                None => self.named(place),
            },
        }
    }

    fn group(&mut self, place: usize) -> Result<Term, ParseError> {
        self.cursor.eat("@");
        let text = self.cursor.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':'));
        if text.is_empty() {
            return Err(self.cursor.fault(place, "a group's name is missing: write as @web, or @inventory:web"));
        }
        let group = text.parse().map_err(|error| self.cursor.fault(place, format!("no group: {error}")))?;
        Ok(Term::Group(group))
    }

    /// What has a `/` or `:` behind hexadecimal digits and dots.
    fn network(&mut self, place: usize) -> Result<Option<Term>, ParseError> {
        let mut ahead = self.cursor;
        let text = ahead.take_while(|c| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '/'));
        if !text.contains(['/', ':']) {
            return Ok(None);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            let message = format!("no host is called {address}: write {address}/128 for the agents with this address");
            return Err(self.cursor.fault(place, message));
        }
        self.scan(place, 1)?;
        self.cursor = ahead;
        match text.parse() {
            Ok(network) => Ok(Some(Term::Network(network))),
            Err(error) => Err(self.cursor.fault(place, format!("no network: {error}"))),
        }
    }

    /// What begins with a word: names, a glob, or a comparison.
    fn named(&mut self, place: usize) -> Result<Expression, ParseError> {
        let word = self.cursor.word("*?");
        if word.is_empty() {
            return Err(self.cursor.fault(place, strange(self.cursor.peek().unwrap_or(' '))));
        }
        let mut ahead = self.cursor;
        ahead.skip_space();
        if let Some(operator) = ["!=", "!~", "<=", ">=", "=", "~", "<", ">"].into_iter().find(|text| ahead.eat(text)) {
            self.cursor = ahead;
            return self.comparison(place, word, operator);
        }
        if matches!(word, "and" | "or") {
            return Err(self.cursor.fault(place, format!("a target is missing before `{word}`")));
        }
        if word == "all" {
            self.check_source(place, word)?;
            return Ok(Expression::Term(Term::All));
        }
        if word.contains(['*', '?']) {
            let written = Written { text: word.into(), quote: None };
            let values = self.values(place, written, true)?;
            if values.globs.iter().any(Glob::is_bare) {
                let message = format!("{word} has no letter of a name and would be every host: write `all`");
                return Err(self.cursor.fault(place, message));
            }
            return Ok(Expression::Term(Term::Globs(values)));
        }
        let texts = expand(word, self.budget.names).map_err(|error| self.expanding(place, error))?;
        self.budget.names -= texts.len();
        let names: Result<Vec<HostName>, _> = texts.iter().map(|name| name.parse()).collect();
        let names = names.map_err(|error| self.cursor.fault(place, error.to_string()))?;
        Ok(Expression::Term(Term::Names { text: word.into(), names }))
    }

    fn comparison(&mut self, place: usize, key: &str, operator: &str) -> Result<Expression, ParseError> {
        let key = Key::parse(key).map_err(|message| self.cursor.fault(place, message))?;
        self.cursor.skip_space();
        let value_at = self.cursor.place();
        let order = match operator {
            "<" => Some(Order::Less),
            "<=" => Some(Order::LessOrEqual),
            ">" => Some(Order::Greater),
            ">=" => Some(Order::GreaterOrEqual),
            _ => None,
        };
        let quoted = self.cursor.quoted()?;
        let is_finder = operator.ends_with('~');
        let written = match quoted {
            Some(quoted) => quoted,
            None => {
                let start = if is_finder && self.cursor.eat("^") { "^" } else { "" };
                let text = match order {
                    Some(_) => self.cursor.take_while(|c| c.is_ascii_alphanumeric() || "._-+~".contains(c)),
                    None => self.cursor.word(if is_finder { "+*?$\\" } else { "*?" }),
                };
                Written { text: [start, text].concat().into(), quote: None }
            }
        };
        self.check_value(value_at, &written)?;
        let fault = |parser: &Self, message: String| parser.cursor.fault(value_at, message);
        let test = match order {
            _ if is_finder => {
                let left = self.budget.regexes.checked_sub(1);
                self.budget.regexes =
                    left.ok_or_else(|| fault(self, "too many regular expressions: at most 16".to_owned()))?;
                Test::Finds(Finder::new(written).map_err(|message| fault(self, message))?)
            }
            None if key.kind() == Kind::Number && !written.text.contains(['*', '?']) => {
                key.check_order(Order::Equal, &written.text).map_err(|message| fault(self, message))?;
                Test::Order(Order::Equal, written)
            }
            None => Test::Fits(self.values(value_at, written, matches!(key, Key::Label(_) | Key::Fact(Fact::Name)))?),
            Some(order) => {
                key.check_order(order, &written.text).map_err(|message| fault(self, message))?;
                Test::Order(order, written)
            }
        };
        self.scan(value_at, usize::from(!matches!(test, Test::Fits(_))))?;
        let term = Expression::Term(Term::Comparison(key, test));
        Ok(if operator.starts_with('!') { Expression::Not(Box::new(term)) } else { term })
    }

    /// A value must be there, and end where something else can begin.
    fn check_value(&self, place: usize, written: &Written) -> Result<(), ParseError> {
        let ends = |next: char| next.is_whitespace() || matches!(next, ',' | '!' | '&' | '^' | ')');
        match self.cursor.peek().filter(|next| !ends(*next)) {
            None if written.text.is_empty() => Err(self.cursor.fault(place, "a value is missing; `key=*` is any")),
            Some('=') if written.text.is_empty() => Err(self.cursor.fault(place, "equality is a single `=`")),
            Some('"' | '\'') if written.quote.is_none() => {
                let message = "a quotation begins where the value does: quote all of it";
                Err(self.cursor.fault(self.cursor.place(), message))
            }
            Some(next) => {
                let message =
                    format!("{next:?} stands in no value unless that is in quotation marks: \"...\" or '...'");
                Err(self.cursor.fault(self.cursor.place(), message))
            }
            None => Ok(()),
        }
    }

    /// The patterns that a value stands for. What is in quotation marks and what is no name has no ranges.
    fn values(&mut self, place: usize, written: Written, is_name: bool) -> Result<Values, ParseError> {
        let texts = match written.quote {
            None if is_name => {
                expand_globs(&written.text, self.budget.names).map_err(|error| self.expanding(place, error))?
            }
            None if written.text.contains(['[', ']']) => {
                let message = "a range is for names and labels: write the value in quotation marks, or use ~";
                return Err(self.cursor.fault(place, message));
            }
            _ => vec![written.text.as_ref().to_owned()],
        };
        self.budget.names = self.budget.names.saturating_sub(texts.len());
        let (globs, mut plain): (Vec<String>, Vec<String>) =
            texts.into_iter().partition(|text| text.contains(['*', '?']));
        self.scan(place, globs.len().max(1))?;
        plain.sort_unstable();
        plain.dedup();
        let globs: Result<Vec<Glob>, _> = globs.iter().map(|text| Glob::new(text)).collect();
        let globs = globs.map_err(|error| self.cursor.fault(place, error.to_string()))?;
        Ok(Values { written, plain, globs })
    }

    fn scan(&mut self, place: usize, count: usize) -> Result<(), ParseError> {
        let message = "more than 256 globs, labels and facts: name the hosts, or give them one label";
        self.budget.scans = self.budget.scans.checked_sub(count).ok_or_else(|| self.cursor.fault(place, message))?;
        Ok(())
    }

    fn expanding(&self, place: usize, error: ExpandError) -> ParseError {
        self.cursor.fault_behind(place, error.column - 1, error.message)
    }
}

fn strange(character: char) -> String {
    match character {
        '"' | '\'' => "quotation marks are for values, as in os.name=\"Debian*\"; names have none".to_owned(),
        other => format!("{other:?} is not understood; {LANGUAGE}"),
    }
}
