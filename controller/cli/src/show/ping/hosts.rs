//! `-a` and `--dead`: names of hosts and nothing else, each once, however many looked at it.

use crate::board::{Sighting, sighting};
use muster_proto::outcome::Outcome;
use muster_proto::ping::{PingName, TargetName};
use std::collections::HashMap;
use std::rc::Rc;

/// Which hosts are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Those that answered somebody, each as soon as it did.
    Alive,
    /// Those that somebody looked at and that answered nobody, and names without an address; each once all have looked.
    Dead,
}

/// The hosts of a ping, with what is known of them.
#[derive(Debug)]
pub struct Hosts {
    fate: Fate,
    names: Rc<[TargetName]>,
    /// The host of each target.
    of: Vec<usize>,
    hosts: Vec<Host>,
}

#[derive(Debug)]
struct Host {
    /// The place of its first target.
    place: usize,
    /// Looks that have yet to end.
    open: usize,
    best: Option<Sighting>,
}

impl Hosts {
    /// The hosts of these targets, of none of which anything is known.
    pub fn new(fate: Fate, names: Rc<[TargetName]>) -> Self {
        let mut known: HashMap<&PingName, usize> = HashMap::with_capacity(names.len());
        let (mut of, mut hosts) = (Vec::with_capacity(names.len()), Vec::new());
        for (place, name) in names.iter().enumerate() {
            let host = *known.entry(&name.host).or_insert(hosts.len());
            if host == hosts.len() {
                hosts.push(Host { place, open: 0, best: None });
            }
            hosts[host].open += 1;
            of.push(host);
        }
        drop(known);
        Self { fate, names, of, hosts }
    }

    /// A look at a host ended: names the host if it is known by that what became of it.
    pub fn finished(&mut self, out: &mut String, place: usize, outcome: &Outcome) {
        let Some(host) = self.of.get(place).map(|host| &mut self.hosts[*host]) else { return };
        let before = host.best;
        host.open = host.open.saturating_sub(1);
        host.best = before.max(Some(sighting(outcome)));
        let is_known = match self.fate {
            Fate::Alive => host.best == Some(Sighting::Alive) && before != host.best,
            Fate::Dead => host.is_dead() && host.open == 0,
        };
        if is_known {
            line(out, &self.names[host.place]);
        }
    }

    /// No more looks end: names those that are dead as far as anybody looked.
    pub fn end(&self, out: &mut String) {
        let dead = |host: &&Host| host.open > 0 && host.is_dead();
        if self.fate == Fate::Dead {
            self.hosts.iter().filter(dead).for_each(|host| line(out, &self.names[host.place]));
        }
    }
}

impl Host {
    /// As far as anybody looked.
    const fn is_dead(&self) -> bool {
        matches!(self.best, Some(Sighting::Dead | Sighting::Nameless))
    }
}

fn line(out: &mut String, name: &TargetName) {
    out.push_str(name.host.as_str());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{ended, finished, name};
    use muster_proto::event::EventKind;
    use muster_proto::outcome::State;
    use muster_proto::ping::{Failure, FailureKind, PingReport};

    /// What is printed as these end, in their order.
    fn named(fate: Fate, names: &[&str], ends: &[EventKind]) -> String {
        let mut hosts = Hosts::new(fate, names.iter().map(|text| name(text)).collect());
        let mut out = String::new();
        for end in ends {
            let EventKind::Finished { target, outcome } = end else { unreachable!("only ends are made") };
            hosts.finished(&mut out, *target as usize, outcome);
        }
        hosts.end(&mut out);
        out
    }

    #[test]
    fn a_host_is_named_once_whoever_looked() {
        let names = ["a", "b", "n1>a", "n1>b", "n2>a", "n2>b"];
        let silent = Outcome::without_run(State::Unreachable, "away");
        let mut ends = vec![ended(0, 1, &[]), ended(1, 1, &[]), ended(2, 1, &[50]), ended(3, 1, &[])];
        ends.extend([4, 5].map(|target| EventKind::Finished { target, outcome: silent.clone() }));
        assert_eq!((named(Fate::Alive, &names, &ends), named(Fate::Dead, &names, &ends)), ("a\n".into(), "b\n".into()));
        assert_eq!(named(Fate::Dead, &names, &ends[..4]), "b\n", "one look is missing");
    }

    #[test]
    fn only_who_was_looked_at_is_dead() {
        for (kind, dead) in [
            (FailureKind::NoReply, "a\n"),
            (FailureKind::HostUnreachable, "a\n"),
            (FailureKind::Unresolved, "a\n"),
            (FailureKind::NoSocket, ""),
            (FailureKind::Broadcast, ""),
            (FailureKind::Denied, ""),
            (FailureKind::ProberAway, ""),
            (FailureKind::Overflow, ""),
        ] {
            let outcome = PingReport::default().outcome(Some(Failure::from(kind)), std::time::Duration::ZERO);
            assert_eq!(named(Fate::Dead, &["a"], &[EventKind::Finished { target: 0, outcome }]), dead, "{kind:?}");
        }
        for state in [State::Skipped, State::Expired, State::Indeterminate] {
            let outcome = Outcome::without_run(state, "");
            assert_eq!(named(Fate::Dead, &["a"], &[EventKind::Finished { target: 0, outcome }]), "", "{state}");
        }
        let alive =
            finished(0, PingReport { icmp: Some(crate::board::tests::tally_of(1, &[9])), ..Default::default() });
        assert_eq!(named(Fate::Dead, &["a"], &[alive]), "");
    }
}
