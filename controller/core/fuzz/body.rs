//! What holds for every text: it is understood or refused in its place, is printed so that it reads back as the same,
//! and stands for members of the fleet or is an error, never for nobody.

use muster_core::fleet::{Fleet, Member};
use muster_core::target::{Groups, Needed, PingPlanError, Selector, pings, resolve};
use muster_proto::fleet::{Facts, Labels};
use muster_proto::id::AgentId;
use muster_proto::ping::PingSelection;
use muster_proto::selection::{Missing, Selection};
use std::sync::Arc;

/// Panics if any of it does not hold.
pub fn expression(text: &str) {
    let (fleet, mut groups) = (fleet(), Groups::default());
    for name in Needed::default().by(text, None).unwrap_or_default() {
        groups.insert(name, text.to_owned());
    }
    match Selector::parse(text) {
        Err(error) => assert!((1..=text.chars().count() + 1).contains(&error.column), "{text:?}: {error}"),
        Ok(selector) => {
            let again = Selector::parse(&selector.to_string());
            assert_eq!(again.as_ref(), Ok(&selector), "{text:?} is printed {selector}");
            if let Ok(targets) = selector.resolve(&fleet, &groups) {
                assert!(!targets.is_empty() && targets.iter().all(|target| fleet.by_id(target.agent).is_some()));
            }
        }
    }
    for missing in [Missing::Refused, Missing::LeftOut] {
        let selection = Selection { targets: text.to_owned(), missing, ..Selection::default() };
        let Ok(chosen) = resolve(&selection, &fleet, &groups) else { continue };
        assert!(!chosen.targets.is_empty(), "{text:?}");
        let without = Selection { exclude: text.to_owned(), ..selection };
        assert!(resolve(&without, &fleet, &groups).is_err(), "{text:?}: nobody is left");
    }
    let selection = PingSelection { targets: text.to_owned(), ..PingSelection::default() };
    match pings(&selection, &fleet, &groups) {
        Ok((list, _)) => assert!(!list.pairs().is_empty(), "{text:?}"),
        Err(PingPlanError::Missing) => assert!(text.is_empty(), "{text:?}"),
        Err(_) => {}
    }
}

/// Hosts with labels and facts of every kind.
fn fleet() -> Fleet {
    let mut fleet = Fleet::default();
    for (number, name) in (1_u8..).zip(["web01", "web02", "web10", "db1", "n1.example.org", "10.0.0.5"]) {
        let label = |key: &str, value: &str| key.parse().ok().zip(value.parse().ok());
        let labels = [label("role", &name[..2]), label("rack", &number.to_string())].into_iter().flatten();
        let facts = Facts {
            os: "debian".to_owned(),
            os_version: format!("{number}.4"),
            os_name: "Debian GNU/Linux".to_owned(),
            cpus: number.into(),
            memory_bytes: u64::from(number) << 30,
            addresses: vec![format!("10.0.0.{number}"), format!("fd00::{number}")],
            ..Facts::default()
        };
        let Ok(name) = name.parse() else { continue };
        let facts = Some(Arc::new(facts));
        let id = AgentId::from_bytes([number; 16]);
        let _ = fleet.insert(Member { id, name, labels: labels.collect::<Labels>(), facts });
    }
    fleet
}
