//! Who is meant: the options that choose hosts, as a selection that the controller resolves.

use crate::commands::names;
use crate::exit::Usage;
use muster_proto::limits;
use muster_proto::names::expand;
use muster_proto::selection::{GroupName, Missing, Selection};
use std::path::{Path, PathBuf};

/// The options.
#[derive(Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Hosts")]
pub struct Hosts {
    /// Names as web[01-20], globs as db*, labels as role=web, all, and what joins them; several are joined
    #[arg(short = 'w', long, value_name = "EXPR")]
    targets: Vec<String>,
    /// Hosts of these groups, as -w @GROUP
    #[arg(short = 'g', long = "group", value_name = "GROUP,...", value_delimiter = ',')]
    groups: Vec<GroupName>,
    /// Hosts to leave out
    #[arg(short = 'x', long, value_name = "EXPR")]
    exclude: Vec<String>,
    /// File with names or ranges to join, # begins a comment; - is stdin
    #[arg(long, value_name = "FILE")]
    hosts_file: Option<PathBuf>,
    /// What nobody is called, or what fits nobody, is told and no error
    #[arg(long)]
    allow_missing: bool,
}

impl Hosts {
    /// The names come from stdin.
    pub fn read_stdin(&self) -> bool {
        self.hosts_file.as_deref() == Some(Path::new("-"))
    }

    /// What is meant; reads the file.
    pub fn selection(self) -> Result<Selection, Usage> {
        if self.targets.is_empty() && self.groups.is_empty() && self.hosts_file.is_none() {
            return Err(Usage("no hosts are named: say which with -w, as -w 'web[01-20]' or -w all".to_owned()));
        }
        let names = self.hosts_file.map(|path| names::from_file(&path, listed)).transpose()?.unwrap_or_default();
        Ok(Selection {
            targets: said("-w", self.targets.into_iter().chain(self.groups.iter().map(ToString::to_string)))?,
            exclude: said("-x", self.exclude)?,
            names,
            missing: if self.allow_missing { Missing::LeftOut } else { Missing::Refused },
        })
    }
}

/// What the expressions of an option mean together: their union, or nothing where it was not said.
///
/// A blank one is an unset variable more often than anything else: it means nobody, and never everybody. Each of several
/// keeps to itself: neither its operators nor its parentheses reach into the others.
pub fn said(option: &str, expressions: impl IntoIterator<Item = String>) -> Result<String, Usage> {
    let mut expressions: Vec<String> = expressions.into_iter().collect();
    if expressions.iter().any(|expression| expression.trim().is_empty()) {
        return Err(Usage(format!("{option} is empty: name hosts, or `all`")));
    }
    if expressions.len() > 1 {
        if let Some(open) = expressions.iter().find(|expression| !is_closed(expression)) {
            return Err(Usage(format!(
                "{option} '{open}' is no whole expression: a parenthesis, a bracket or a quotation mark is without the other"
            )));
        }
        expressions.iter_mut().for_each(|expression| *expression = format!("({expression})"));
    }
    Ok(expressions.join(","))
}

/// All that is opened in an expression is closed in it. In quotation marks and in brackets nothing else is opened.
fn is_closed(expression: &str) -> bool {
    let (mut until, mut depth) = (None, 0_usize);
    for c in expression.chars() {
        match (until, c) {
            (Some(end), _) => until = until.filter(|_| c != end),
            (None, '"' | '\'') => until = Some(c),
            (None, '[') => until = Some(']'),
            (None, '(') => depth += 1,
            (None, ')') => match depth.checked_sub(1) {
                Some(outer) => depth = outer,
                None => return false,
            },
            (None, _) => {}
        }
    }
    until.is_none() && depth == 0
}

/// A name or a range; the controller says who bears them.
fn listed(word: &str) -> Result<String, String> {
    names::no_expression(word)?;
    expand(word, limits::TARGETS_MAX as usize).map_err(|error| format!("{word}: {error}"))?;
    Ok(word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        hosts: Hosts,
    }

    fn selection(words: &[&str]) -> Result<Selection, Usage> {
        Line::try_parse_from(std::iter::once(&"run").chain(words)).expect("options").hosts.selection()
    }

    #[test]
    fn nobody_is_never_everybody() {
        for (words, hint) in [
            (&[][..], "-w"),
            (&["-w", ""], "-w"),
            (&["-w", " \t"], "-w"),
            (&["-w", "all", "-w", ""], "-w"),
            (&["-w", "all", "-x", " "], "-x"),
            (&["--hosts-file", "/dev/null"], "names no host"),
        ] {
            let refused = selection(words).expect_err(hint);
            assert!(refused.0.contains(hint), "{refused}");
        }
        for words in [&["-g", ""][..], &["-g", "web,"], &["-g", "Web Servers"]] {
            assert!(Line::try_parse_from(std::iter::once(&"run").chain(words)).is_err(), "{words:?}");
        }
    }

    #[test]
    fn what_is_said_more_than_once_is_joined() {
        for (words, targets, exclude) in [
            (&["-w", "a,b", "-x", "b"][..], "a,b", "b"),
            (&["-w", "a and b", "-w", "c", "-x", "d", "-x", "e or f"], "(a and b),(c)", "(d),(e or f)"),
            (&["-g", "web,ext:db"], "(@web),(@ext:db)", ""),
            (&["-g", "web"], "@web", ""),
            (&["-w", "n1", "-g", "@web"], "(n1),(@web)", ""),
        ] {
            let chosen = selection(words).expect("a selection");
            assert_eq!((&*chosen.targets, &*chosen.exclude), (targets, exclude), "{words:?}");
            assert_eq!(chosen.missing, Missing::Refused);
        }
        // As it was typed, so that columns are those of what was typed.
        assert_eq!(selection(&["-w", "a)! (all"]).expect("the controller says what is wrong").targets, "a)! (all");
        assert_eq!(selection(&["-w", "a", "--allow-missing"]).expect("good").missing, Missing::LeftOut);
    }
    #[test]
    fn no_expression_reaches_into_another() {
        for open in ["dev-1)! (all", "(a", "a)", ")(", "os=\"a", "k~'a", "a[1-2", "k~[(])!(all,k~[)]"] {
            let refused = selection(&["-w", "all", "-x", open, "-x", "dev-3"]).expect_err(open);
            assert!(refused.0.starts_with(&format!("-x '{open}' is no whole expression")), "{refused}");
        }
        for closed in ["(a,(b!c))", "os=\"a)\"", "k~'(['", "k~[)(\"]x", "(a)!(b)"] {
            assert!(selection(&["-w", closed, "-w", "b"]).is_ok(), "{closed}");
        }
    }
}
