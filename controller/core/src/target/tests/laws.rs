//! The language against its definition: random expressions over a small fleet, worked out host by host.

use super::*;
use std::collections::BTreeSet;

/// An expression with no precedence to get wrong.
#[derive(Debug, Clone)]
enum Plain {
    Atom(usize),
    Or(Vec<Plain>),
    And(Vec<Plain>),
    Not(Box<Plain>),
    Sets(Box<Plain>, Vec<(char, Plain)>),
}

type Meaning = fn(&Member) -> bool;

/// Atoms that each fit somebody, with what they mean.
const ATOMS: [(&str, Meaning); 20] = [
    ("all", |_| true),
    ("web01", |member| member.name.as_str() == "web01"),
    ("web[03-09/3]", |member| ["web03", "web06", "web09"].contains(&member.name.as_str())),
    ("db[1-2]", |member| member.name.as_str().starts_with("db")),
    ("web?[1-2]*", |member| member.name.as_str().starts_with("web") && member.name.as_str().ends_with(['1', '2'])),
    ("*1", |member| member.name.as_str().ends_with('1')),
    ("role=web", |member| label(member, "role") == "web"),
    ("role!=web", |member| label(member, "role") != "web"),
    ("env=t*", |member| label(member, "env") == "test"),
    ("rack=[8-9]", |member| ["8", "9"].contains(&label(member, "rack"))),
    ("rack>=10", |member| label(member, "rack").len() == 2),
    ("name~'[13]$'", |member| member.name.as_str().ends_with(['1', '3'])),
    ("role!~'^w'", |member| label(member, "role") == "db"),
    ("cpus>4", |member| member.facts.as_ref().is_some_and(|facts| facts.cpus > 4)),
    ("os=\"debian\"", |member| member.facts.as_ref().is_some_and(|facts| facts.os == "debian")),
    ("agent.version<1.10", |member| member.facts.as_ref().is_some_and(|facts| facts.agent_version.starts_with("1.4"))),
    ("10.1.0.0/29", |member| member.name.as_str() < "web08" && label(member, "role") == "web"),
    ("@canary", |member| ["web01", "web02"].contains(&member.name.as_str())),
    ("@inventory:db", |member| ["db1", "db2", "web03"].contains(&member.name.as_str())),
    ("cpus>999", |_| false),
];

fn label<'a>(member: &'a Member, key: &str) -> &'a str {
    member.labels.iter().find(|(name, _)| name.as_str() == key).map_or("", |(_, value)| value.as_str())
}

fn plain() -> impl Strategy<Value = Plain> {
    (0..ATOMS.len()).prop_map(Plain::Atom).prop_recursive(4, 24, 4, |inner| {
        let several = prop::collection::vec(inner.clone(), 2..4);
        let operators = prop::sample::select(vec![',', '!', '&', '^']);
        prop_oneof![
            several.clone().prop_map(Plain::Or),
            several.prop_map(Plain::And),
            inner.clone().prop_map(|part| Plain::Not(Box::new(part))),
            (inner.clone(), prop::collection::vec((operators, inner), 1..4))
                .prop_map(|(first, others)| Plain::Sets(Box::new(first), others)),
        ]
    })
}

impl Plain {
    fn text(&self) -> String {
        let list = |parts: &[Self], word: &str| parts.iter().map(Self::nested).collect::<Vec<_>>().join(word);
        match self {
            Self::Atom(atom) => ATOMS[*atom].0.to_owned(),
            Self::Or(parts) => list(parts, " or "),
            Self::And(parts) => list(parts, " and "),
            Self::Not(part) => format!("not {}", part.nested()),
            Self::Sets(first, others) => {
                let others = others.iter().map(|(operator, part)| format!(" {operator} {}", part.nested()));
                others.fold(first.nested(), |text, other| text + &other)
            }
        }
    }

    fn nested(&self) -> String {
        match self {
            Self::Atom(_) => self.text(),
            _ => format!("({})", self.text()),
        }
    }

    fn hosts(&self, fleet: &Fleet) -> BTreeSet<String> {
        let all = || fleet.iter().map(|member| member.name.to_string()).collect::<BTreeSet<_>>();
        match self {
            Self::Atom(atom) => {
                let chosen = fleet.iter().filter(|member| ATOMS[*atom].1(member));
                chosen.map(|member| member.name.to_string()).collect()
            }
            Self::Or(parts) => parts.iter().flat_map(|part| part.hosts(fleet)).collect(),
            Self::And(parts) => parts.iter().fold(all(), |left, part| &left & &part.hosts(fleet)),
            Self::Not(part) => &all() - &part.hosts(fleet),
            Self::Sets(first, others) => {
                others.iter().fold(first.hosts(fleet), |left, (operator, part)| match operator {
                    '!' => &left - &part.hosts(fleet),
                    '&' => &left & &part.hosts(fleet),
                    '^' => &left ^ &part.hosts(fleet),
                    _ => &left | &part.hosts(fleet),
                })
            }
        }
    }
}

fn chosen(text: &str) -> BTreeSet<String> {
    let selector = Selector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    match selector.resolve(&fleet(), &groups()) {
        Ok(targets) => targets.iter().map(|target| target.name.to_string()).collect(),
        Err(ResolveError::Nobody) => BTreeSet::new(),
        Err(error) => panic!("{text}: {error}"),
    }
}

proptest! {
    #[test]
    fn an_expression_stands_for_what_its_definition_says(expression in plain()) {
        prop_assert_eq!(chosen(&expression.text()), expression.hosts(&fleet()), "{}", expression.text());
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same(expression in plain()) {
        let selector = Selector::parse(&expression.text()).expect("an expression");
        let printed = selector.to_string();
        let again = Selector::parse(&printed);
        prop_assert_eq!(again.as_ref(), Ok(&selector), "{} is printed {}", expression.text(), printed);
        prop_assert_eq!(again.map(|again| again.to_string()), Ok(printed));
    }

    #[test]
    fn sets_and_words_obey_their_laws(a in plain(), b in plain(), c in plain()) {
        let (a, b, c) = (a.nested(), b.nested(), c.nested());
        for (left, right) in [
            (format!("{a},{b}"), format!("{b} or {a}")),
            (format!("{a} & {b}"), format!("{b} and {a}")),
            (format!("{a} ! {b}"), format!("{a} and not {b}")),
            (format!("{a} ^ {b}"), format!("({a},{b}) ! ({a}&{b})")),
            (format!("not ({a} or {b})"), format!("not {a} and not {b}")),
            (format!("not ({a} and {b})"), format!("not {a} or not {b}")),
            (format!("not not {a}"), a.clone()),
            (format!("all ! {a}"), format!("not {a}")),
            (format!("{a} and {b} or {c}"), format!("{c} or ({a} and {b})")),
            (format!("{a} ! {b} , {c}"), format!("({a} ! {b}) , {c}")),
            (format!("{a} and ({b} or {c})"), format!("{a} and {b} or {a} and {c}")),
        ] {
            prop_assert_eq!(chosen(&left), chosen(&right), "{} is not {}", left, right);
        }
    }

    #[test]
    fn an_exclusion_is_a_difference(a in plain(), b in plain()) {
        let expected = chosen(&format!("{} ! {}", a.nested(), b.nested()));
        let selection = Selection { targets: a.text(), exclude: b.text(), ..Selection::default() };
        let found = super::super::resolve(&selection, &fleet(), &groups());
        let found: BTreeSet<String> = found.iter().flat_map(|it| &it.targets).map(|it| it.name.to_string()).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_text_is_an_error_in_its_place_or_chooses_somebody(
        targets in "([a-c,=*?!&^~<>()@:/'\"\\[\\]0-9 webdé.-]|and |or |not |web0|role=|os|10\\.1\\.0\\.0/){0,16}"
    ) {
        for spaces in [Spaces::Nothing, Spaces::Union] {
            let parse = |text: &str| grammar::parse(text, spaces, &mut Budget::default()).map(Selector);
            match parse(&targets) {
                Err(error) => prop_assert!((1..=targets.chars().count() + 1).contains(&error.column), "{error}"),
                Ok(selector) => {
                    let again = parse(&selector.to_string());
                    prop_assert_eq!(again.as_ref(), Ok(&selector), "{}", selector);
                    if let Ok(found) = selector.resolve(&fleet(), &groups()) {
                        prop_assert!(!found.is_empty());
                    }
                }
            }
        }
    }
}
