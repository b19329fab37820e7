//! Input that is meant to hurt: every size is bounded, and so is the work.

use super::*;
use std::time::{Duration, Instant};

/// Far more than the bounds allow for, so that a slow machine passes and an exponential does not.
const AGES: Duration = Duration::from_secs(20);

#[test]
fn whatever_is_too_much_is_refused_at_once() {
    let deep = |count: usize| format!("{}web01{}", "(".repeat(count), ")".repeat(count));
    let start = Instant::now();
    for (text, word) in [
        ("a,".repeat(1 << 19), "65536 bytes"),
        (deep(10_000), "within each other"),
        (deep(65), "within each other"),
        (format!("{}web01", "not ".repeat(10_000)), "within each other"),
        (format!("{}web01", "(not ".repeat(33)), "within each other"),
        (vec!["db*"; 257].join(","), "more than 256 globs"),
        (vec!["role=db"; 257].join(" or "), "more than 256 globs"),
        (vec!["10.0.0.0/8"; 257].join(","), "more than 256 globs"),
        ("x[1-300]*".to_owned(), "more than 256 globs"),
        (vec!["role~d"; 17].join(","), "at most 16"),
        (format!("role~{}", "d".repeat(1025)), "at most 1024 bytes"),
        ("role~'(a{1,1000}){1,1000}'".to_owned(), "too big"),
        ("role~'((((a{9}){9}){9}){9}){9}'".to_owned(), "too big"),
        (format!("role~'{}'", "(".repeat(40) + &")".repeat(40)), "malformed"),
        ("x[0-999999999999999999][0-999999999999999999]".to_owned(), "at most 1000000"),
        ("x[1-600000],y[1-600000]".to_owned(), "at most 400000"),
        (format!("web[{}]", "1,".repeat(30_000)), "a number is missing"),
        (format!("role={}", "*a".repeat(200)), "at most 253"),
        (format!("\"{}", "x".repeat(60_000)), "quotation marks are for values"),
        (format!("@{}", "x".repeat(60_000)), "no group"),
    ] {
        let error = Selector::parse(&text).expect_err(word);
        assert!(error.message.contains(word), "{word}: {error}");
        assert!(error.column <= text.chars().count() + 1 && error.message.len() < 700, "{error}");
    }
    assert!(Selector::parse(&deep(64)).is_ok());
    assert!(start.elapsed() < AGES, "{:?}", start.elapsed());
}

#[test]
fn regular_expressions_cost_no_more_than_they_may() {
    let mut fleet = Fleet::default();
    for number in 0..1_000_u32 {
        let letters: String = (0..40).map(|bit| if number.rotate_left(bit) % 3 == 0 { 'a' } else { 'b' }).collect();
        let name = format!("{letters}{number:05}").parse().expect("a name");
        let id = AgentId::from_bytes(u128::from(number).to_be_bytes());
        fleet.insert(Member { id, name, labels: Labels::new(), facts: None }).expect("a free name");
    }
    let start = Instant::now();
    for bomb in ["(a*)*b", "(a|b)*a(a|b){12}", "(a|b)*a(a|b){100}x", "(a?){60}a{60}", "(a|a)*$", "(.*.*.*.*.*)*x"] {
        let targets = vec![format!("name~'{bomb}'"); 16].join(",");
        let selection = Selection { targets, missing: Missing::LeftOut, ..Selection::default() };
        // It finds somebody, or nobody, or is refused; what matters is that it ends.
        let _ = super::super::resolve(&selection, &fleet, &Groups::default());
        let one = Selector::parse(&format!("name~'{bomb}' or all")).expect(bomb);
        let refused = one.resolve(&fleet, &Groups::default()).err().map(|error| error.to_string());
        let is_known = |text: &str| text.contains("no agent matches") || text.contains("too much work");
        assert!(refused.as_deref().is_none_or(is_known), "{bomb}: {refused:?}");
    }
    assert!(start.elapsed() < AGES, "{:?}", start.elapsed());
}

#[test]
fn what_is_missing_is_told_in_few_lines_however_much_it_is() {
    let mut fleet = Fleet::default();
    for number in 0..2_000_u32 {
        let label = ("rack".parse().expect("a key"), format!("r{number}").parse().expect("a value"));
        let id = AgentId::from_bytes(u128::from(number).to_be_bytes());
        let name = format!("n{number}").parse().expect("a name");
        fleet.insert(Member { id, name, labels: Labels::from([label]), facts: None }).expect("a free name");
    }
    let notes = |targets: &str| {
        let mut groups = Groups::default();
        groups.insert(group("@list:it"), targets.to_owned());
        let selection = Selection { targets: "@list:it".to_owned(), missing: Missing::LeftOut, ..Selection::default() };
        super::super::resolve(&selection, &fleet, &groups).expect("n1").notes
    };
    let start = Instant::now();
    let one = notes("n1 rack=[1-300000]");
    assert_eq!(one, ["left out: in @list:it: no agent matches rack=[1-5] and 299995 more: did you mean rack=r1?"]);
    let many = notes(&format!("n1 {}", (0..200).map(|n| format!("rack=x{n}")).collect::<Vec<_>>().join(" ")));
    assert_eq!((many.len(), many[20].as_str()), (21, "left out: 180 more"));
    let names: Vec<String> = (0..50_000).map(|n| format!("x{n}")).collect();
    assert_eq!(notes(&format!("n1 rack=x rack=y {}", names.join(" "))).len(), 3);
    assert!(start.elapsed() < AGES, "{:?}", start.elapsed());
}

#[test]
fn groups_cost_no_more_than_they_may() {
    let chain = |length: usize| {
        let mut groups = Groups::default();
        for number in 1..length {
            groups.insert(group(&format!("@g{number}")), format!("@g{0},@g{0},web01", number + 1));
        }
        groups.insert(group(&format!("@g{length}")), "web01".to_owned());
        groups
    };
    let resolve = |groups: &Groups| Selector::parse("@g1").expect("a group").resolve(&fleet(), groups);
    assert_eq!(resolve(&chain(16)).map(|targets| targets.len()), Ok(1), "each is worked out once");
    let error = resolve(&chain(17)).expect_err("too deep").to_string();
    assert!(error.contains("@g1 > @g2") && error.contains("16 deep"), "{error}");

    let mut wide = Groups::default();
    let names: Vec<String> = (1..=1_001).map(|number| format!("@w{number}")).collect();
    names.iter().for_each(|name| wide.insert(group(name), "web01".to_owned()));
    let selector = Selector::parse(&names.join(",")).expect("groups");
    let error = selector.resolve(&fleet(), &wide).expect_err("too many").to_string();
    assert!(error.contains("more than 1000 groups"), "{error}");

    let mut costly = Groups::default();
    for name in ["@a", "@b"] {
        costly.insert(group(name), vec!["role=web"; 200].join(","));
    }
    let selector = Selector::parse("@a,@b").expect("groups");
    let error = selector.resolve(&fleet(), &costly).expect_err("too costly").to_string();
    assert!(error.starts_with("in @b, column ") && error.contains("more than 256"), "{error}");
}

#[test]
fn nothing_but_the_whole_name_is_a_name() {
    for text in ["web", "web0", "web001", "web1", "eb01", "web01.", "db", "d"] {
        assert!(resolve(text).is_err(), "{text}: no part of a name is one");
    }
    for text in
        ["../../etc/passwd", "/proc/self/fd/0", "a/b", "con%00", "%00", ". .", "..", "ԝeb01", "web０1", "web01\0"]
    {
        assert!(Selector::parse(text).is_err(), "{text:?}");
        assert!(Selector::parse(&format!("role={text}")).is_err() || resolve(&format!("role={text}")).is_err());
        assert!(Selector::parse(&format!("@{text}")).is_err(), "{text:?}");
    }
}
