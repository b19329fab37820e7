//! Who is meant, as an operator says it: expressions, names, and groups that have names of their own.

use crate::name::{LabelText, OperatorName};
use crate::time::Timestamp;
use std::fmt;
use std::str::FromStr;

/// A choice of hosts. The controller resolves it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// Target expression; may be empty if there are names.
    pub targets: String,
    /// Expression whose hosts are taken out again; empty takes out none. It may stand for hosts that were not chosen.
    pub exclude: String,
    /// Names or ranges from a list, joined to the expression.
    pub names: Vec<String>,
    /// What becomes of names that nobody bears, and of terms that fit nobody.
    pub missing: Missing,
}

/// What becomes of names that nobody bears, and of terms that fit nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missing {
    /// They are an error: a slip is more likely than an intention.
    #[default]
    Refused,
    /// They stand for nobody, and that is told.
    LeftOut,
}

/// A group as it stands in an expression: `@web`, or `@inventory:web` of an outside source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName {
    /// The outside source; `None` is the controller itself.
    pub source: Option<LabelText>,
    /// Its name there.
    pub name: LabelText,
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "@{}:{}", source.as_str(), self.name.as_str()),
            None => write!(f, "@{}", self.name.as_str()),
        }
    }
}

impl FromStr for GroupName {
    type Err = crate::name::ParseNameError;

    /// With its `@`, or without.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_prefix('@').unwrap_or(text);
        match text.split_once(':') {
            Some((source, name)) => Ok(Self { source: Some(source.parse()?), name: name.parse()? }),
            None => Ok(Self { source: None, name: text.parse()? }),
        }
    }
}

/// A group that operators have set on the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name, without `@`.
    pub name: LabelText,
    /// What it means.
    pub expression: String,
    /// Who has set it last.
    pub operator: OperatorName,
    /// When.
    pub changed_at: Timestamp,
}

/// Where else groups come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSource {
    /// Its name: `@name:group`.
    pub name: LabelText,
    /// How it is read.
    pub kind: GroupSourceKind,
    /// Names of its groups, or why they cannot be listed, as one line.
    pub groups: Result<Vec<LabelText>, String>,
}

/// How a source of groups is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupSourceKind {
    /// A file on the controller's host.
    File,
    /// A program on the controller's host.
    Command,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_names_read_back() {
        for text in ["@web", "@inventory:web-1"] {
            assert_eq!(text.parse::<GroupName>().map(|name| name.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "@", "@:web", "@web:", "@a:b:c", "@Web", "@ web"] {
            assert!(bad.parse::<GroupName>().is_err(), "{bad}");
        }
    }
}
