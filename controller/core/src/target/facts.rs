//! What can be compared: labels, which operators set, and facts, which hosts say of themselves.

use super::compare::{Order, labels, size, versions};
use crate::fleet::Member;
use muster_proto::name::LabelText;
use muster_proto::names::natural_cmp;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// What stands before the operator of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// What operators say of a host.
    Label(LabelText),
    /// What a host says of itself, or its name.
    Fact(Fact),
}

/// A fact by its fixed name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fact {
    Address,
    AgentVersion,
    Arch,
    Containment,
    Cpus,
    Hostname,
    Kernel,
    Memory,
    /// The name that the host was enrolled with: no fact, but asked like one.
    Name,
    Os,
    OsName,
    OsVersion,
    Root,
}

/// Every fact by its name in expressions, in alphabetical order.
const FACTS: [(&str, Fact); 13] = [
    ("address", Fact::Address),
    ("agent.version", Fact::AgentVersion),
    ("arch", Fact::Arch),
    ("containment", Fact::Containment),
    ("cpus", Fact::Cpus),
    ("hostname", Fact::Hostname),
    ("kernel", Fact::Kernel),
    ("memory", Fact::Memory),
    ("name", Fact::Name),
    ("os", Fact::Os),
    ("os.name", Fact::OsName),
    ("os.version", Fact::OsVersion),
    ("root", Fact::Root),
];

/// How the values of a fact are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whole numbers, or bytes with a unit.
    Number,
    Version,
    Text,
    /// Only equal or not.
    Unordered,
}

impl Key {
    /// `os` is the fact, `label.os` the label, `fact.os` the fact said outright; otherwise what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let label = |text: &str| text.parse().map(Self::Label).map_err(|error| format!("{error}"));
        match text.split_once('.') {
            Some(("label", key)) => label(key),
            Some(("fact", fact)) => Fact::parse(fact).map(Self::Fact).ok_or_else(|| {
                let near = super::nearest::nearest(fact, Fact::names());
                let hint = near.map(|near| format!("did you mean {near}? ")).unwrap_or_default();
                format!("there is no fact {fact:.80}: {hint}there are {}", Fact::names().collect::<Vec<_>>().join(", "))
            }),
            _ => Fact::parse(text).map_or_else(|| label(text), |fact| Ok(Self::Fact(fact))),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Label(_) => Kind::Text,
            Self::Fact(fact) => fact.kind(),
        }
    }

    /// Calls `look` with each value that the member has, until it says true; whether it did.
    pub fn any(&self, member: &Member, mut look: impl FnMut(&str) -> bool) -> bool {
        match self {
            Self::Label(key) => member.labels.get(key).is_some_and(|value| look(value.as_str())),
            Self::Fact(Fact::Address) => {
                member.facts.iter().any(|facts| facts.addresses.iter().any(|address| look(address)))
            }
            Self::Fact(fact) => fact.value(member).is_some_and(|value| look(&value)),
        }
    }

    /// How a value of this key stands to another.
    pub fn compare(&self, value: &str, other: &str) -> Ordering {
        match self {
            Self::Label(_) => labels(value, other),
            Self::Fact(Fact::Name) => natural_cmp(value, other),
            Self::Fact(fact) if fact.kind() == Kind::Version => versions(value, other),
            Self::Fact(fact) if fact.kind() == Kind::Number => size(value).cmp(&size(other)),
            Self::Fact(_) => value.cmp(other),
        }
    }

    /// Whether a value can stand on the right of an order; otherwise what is wrong.
    pub fn check_order(&self, order: Order, value: &str) -> Result<(), String> {
        match self.kind() {
            Kind::Number if size(value).is_none() => {
                Err(format!("{self} is a number: write as {self}{0}8, or {self}{0}16G", order.symbol()))
            }
            Kind::Unordered if order != Order::Equal => {
                Err(format!("{self} has no order: use =, !=, ~ or !~, or a network such as 10.0.0.0/8"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // As short as it can be read again.
            Self::Label(key) if Self::parse(key.as_str()).as_ref() == Ok(self) => f.write_str(key.as_str()),
            Self::Label(key) => write!(f, "label.{key}"),
            Self::Fact(fact) => f.write_str(fact.name()),
        }
    }
}

impl Fact {
    /// The names of all facts.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FACTS.iter().map(|(name, _)| *name)
    }

    fn parse(text: &str) -> Option<Self> {
        FACTS.iter().find(|(name, _)| *name == text).map(|(_, fact)| *fact)
    }

    fn name(self) -> &'static str {
        FACTS.iter().find(|(_, fact)| *fact == self).map_or("", |(name, _)| name)
    }

    fn kind(self) -> Kind {
        match self {
            Self::Cpus | Self::Memory => Kind::Number,
            Self::AgentVersion | Self::Kernel | Self::OsVersion => Kind::Version,
            Self::Address | Self::Root | Self::Containment => Kind::Unordered,
            Self::Arch | Self::Hostname | Self::Name | Self::Os | Self::OsName => Kind::Text,
        }
    }

    /// What it is for a member; `None` if it is not known, and for addresses, of which there may be several.
    fn value(self, member: &Member) -> Option<Cow<'_, str>> {
        if self == Self::Name {
            return Some(member.name.as_str().into());
        }
        let facts = member.facts.as_ref()?;
        let text: Cow<'_, str> = match self {
            Self::Cpus if facts.cpus > 0 => facts.cpus.to_string().into(),
            Self::Memory if facts.memory_bytes > 0 => facts.memory_bytes.to_string().into(),
            Self::Root => if facts.root { "yes" } else { "no" }.into(),
            Self::AgentVersion => facts.agent_version.as_str().into(),
            Self::Arch => facts.arch.as_str().into(),
            Self::Containment => facts.containment.as_str().into(),
            Self::Hostname => facts.hostname.as_str().into(),
            Self::Kernel => facts.kernel.as_str().into(),
            Self::Os => facts.os.as_str().into(),
            Self::OsName => facts.os_name.as_str().into(),
            Self::OsVersion => facts.os_version.as_str().into(),
            Self::Cpus | Self::Memory | Self::Address | Self::Name => return None,
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_of_a_fact_is_the_fact() {
        let label = |key: &str| Key::Label(key.parse().expect("a key"));
        for (text, key, shown) in [
            ("os", Key::Fact(Fact::Os), "os"),
            ("fact.os.name", Key::Fact(Fact::OsName), "os.name"),
            ("label.os", label("os"), "label.os"),
            ("label.role", label("role"), "role"),
            ("role", label("role"), "role"),
            ("label.label.x", label("label.x"), "label.label.x"),
            ("label.fact.os", label("fact.os"), "label.fact.os"),
        ] {
            assert_eq!(Key::parse(text).as_ref(), Ok(&key), "{text}");
            assert_eq!(key.to_string(), shown);
        }
        let error = Key::parse("fact.cpu").expect_err("no fact");
        assert!(error.contains("did you mean cpus?"), "{error}");
        assert!(Key::parse("Role").is_err() && Key::parse("label.").is_err());
        assert!(FACTS.is_sorted_by_key(|(name, _)| name));
    }
}
