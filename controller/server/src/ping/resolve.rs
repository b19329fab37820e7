//! Where a host is: its address for the controller, and for agents elsewhere.
//!
//! Literal addresses and agents are known at once; names are asked of the system's resolver, which blocks and may take
//! half a minute for a dead one. So each look has few questions under way and waits some seconds for each, while all
//! looks together hold a bounded number of threads until the resolver lets them go.

use crate::roster::Roster;
use crate::sessions::Sessions;
use muster_probe::Aim;
use muster_proto::fleet::Party;
use muster_proto::id::{AgentId, BootId};
use muster_proto::ping::{FailureKind, Family, PingHost};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tracing::warn;

/// Names that one look asks for at a time.
pub(super) const NAMES_AT_ONCE: usize = 64;
/// How long a look waits for the answer to one.
const NAME_TIMEOUT: Duration = Duration::from_secs(12);
/// Threads in the resolver, of all looks: half of those that the runtime lends, so that the others find some.
const THREADS_MAX: usize = 256;

/// Where a host is, or why that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whereabouts {
    /// As the controller aims at it.
    pub(super) near: Result<Aim, FailureKind>,
    /// As agents on other machines do.
    pub(super) far: Result<IpAddr, FailureKind>,
}

impl From<FailureKind> for Whereabouts {
    fn from(kind: FailureKind) -> Self {
        Self { near: Err(kind), far: Err(kind) }
    }
}

/// Looks up hosts. Clones share the bound.
#[derive(Clone)]
pub(super) struct Resolver {
    sessions: Sessions,
    roster: Roster,
    threads: Arc<Semaphore>,
    /// The boot of this machine.
    boot: Option<BootId>,
}

impl Resolver {
    pub(super) fn new(sessions: Sessions, roster: Roster) -> Self {
        let boot = boot_id().inspect_err(|error| warn!(%error, "agents on this machine are not known as such")).ok();
        Self { sessions, roster, threads: Arc::new(Semaphore::new(THREADS_MAX)), boot }
    }

    /// Where a host is, if that is known without asking anybody.
    pub(super) fn known(&self, host: &PingHost, family: Family) -> Option<Whereabouts> {
        if let Some((address, zone)) = host.name.address() {
            return Some(literal(address, zone, family));
        }
        let agent = host.agent?;
        let record = self.roster.record(agent);
        let party = record.as_ref().and_then(|record| record.party.as_ref());
        let home = self.home(agent, party).map(|home| (home.ip().to_canonical(), zone_of(home)));
        // It may come through a tunnel or a proxy that runs here: then our loopback is not its own.
        let home = home.filter(|(home, _)| !home.is_loopback() || self.shares_machine(party));
        let facts = record.as_ref().and_then(|record| record.facts.as_ref());
        let told = facts.into_iter().flat_map(|facts| &facts.addresses).filter_map(|address| address.parse().ok());
        let addresses: Vec<_> = home.into_iter().chain(told.map(|address| (address, 0))).collect();
        chosen(&addresses, family)
    }

    /// Where a host is whose name the system's resolver knows.
    pub(super) async fn ask(&self, name: &str, family: Family) -> Whereabouts {
        let (name, Ok(permit)) = (name.to_owned(), Arc::clone(&self.threads).acquire_owned().await) else {
            return FailureKind::Unresolved.into();
        };
        let question = tokio::task::spawn_blocking(move || {
            let _held_until_the_resolver_lets_go = permit;
            (name.as_str(), 0).to_socket_addrs().map(Vec::from_iter)
        });
        let Ok(Ok(Ok(answers))) = tokio::time::timeout(NAME_TIMEOUT, question).await else {
            return FailureKind::Unresolved.into();
        };
        let addresses: Vec<_> = answers.iter().map(|answer| (answer.ip().to_canonical(), zone_of(*answer))).collect();
        let none = if addresses.is_empty() { FailureKind::Unresolved } else { FailureKind::NoFamily };
        chosen(&addresses, family).unwrap_or(none.into())
    }

    /// The agent runs on the machine of the controller.
    pub(super) fn is_here(&self, agent: AgentId) -> bool {
        let record = self.roster.record(agent);
        let party = record.as_ref().and_then(|record| record.party.as_ref());
        let home = self.home(agent, party);
        home.is_some_and(|home| home.ip().to_canonical().is_loopback()) && self.shares_machine(party)
    }

    /// Where an agent's session comes from, or came from when it last had one.
    fn home(&self, agent: AgentId, party: Option<&Party>) -> Option<SocketAddr> {
        let session = self.sessions.get(agent).map(|session| session.address);
        session.or_else(|| party?.address.parse().ok())
    }

    /// Nothing says that it runs under another kernel.
    fn shares_machine(&self, party: Option<&Party>) -> bool {
        party.is_none_or(|party| Some(party.boot) == self.boot)
    }
}

/// The kernel's name for the time since it was started, as agents tell it.
fn boot_id() -> io::Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let number = u128::from_str_radix(&text.trim().replace('-', ""), 16).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(BootId::from_bytes(number.to_be_bytes()))
}

/// The first of these addresses of the family, with the index of its interface; `None` if there is none. One that only
/// this machine can reach is nothing for others: theirs of the same form is another host.
fn chosen(addresses: &[(IpAddr, u32)], family: Family) -> Option<Whereabouts> {
    let mut usable = addresses.iter().filter(|(address, zone)| {
        let dangling = is_link_local(*address) && *zone == 0;
        family.includes(*address) && !address.is_unspecified() && !dangling
    });
    let &(address, scope) = usable.clone().next()?;
    let far = usable.find(|(address, _)| !address.is_loopback() && !is_link_local(*address));
    let far = far.map(|(address, _)| *address).ok_or(FailureKind::Unresolved);
    Some(Whereabouts { near: Ok(Aim { address, scope }), far })
}

fn literal(address: IpAddr, zone: Option<&str>, family: Family) -> Whereabouts {
    let address = address.to_canonical();
    if !family.includes(address) {
        return FailureKind::NoFamily.into();
    }
    let near = match zone {
        None if is_link_local(address) => return FailureKind::NoZone.into(),
        None => Ok(0),
        Some(zone) => index_of(zone).ok_or(FailureKind::NoZone),
    };
    Whereabouts { near: near.map(|scope| Aim { address, scope }), far: Ok(address) }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn zone_of(address: SocketAddr) -> u32 {
    if let SocketAddr::V6(address) = address { address.scope_id() } else { 0 }
}

/// The index of an interface of this machine.
fn index_of(interface: &str) -> Option<u32> {
    // Any socket will do for the question.
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let socket = socket.inspect_err(|error| warn!(%error, "interfaces cannot be asked for")).ok()?;
    netdevice::name_to_index(&socket, interface).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn literals_are_checked_for_family_and_zone() {
        for (text, zone, family, near, far) in [
            ("10.0.0.1", None, Family::V4, Ok(0), Ok("10.0.0.1")),
            ("::ffff:10.0.0.1", None, Family::V4, Ok(0), Ok("10.0.0.1")),
            ("10.0.0.1", None, Family::V6, Err(FailureKind::NoFamily), Err(FailureKind::NoFamily)),
            ("fe80::1", None, Family::Any, Err(FailureKind::NoZone), Err(FailureKind::NoZone)),
            ("fe80::1", Some("lo"), Family::Any, Ok(1), Ok("fe80::1")),
            // Another machine may have it.
            ("fe80::1", Some("none0"), Family::Any, Err(FailureKind::NoZone), Ok("fe80::1")),
        ] {
            let found = literal(address(text), zone, family);
            assert_eq!(found.near.map(|aim| aim.scope), near, "{text}");
            assert_eq!(found.far, far.map(address), "{text}");
        }
    }

    #[test]
    fn what_only_this_machine_reaches_is_nothing_for_others() {
        let [local, link, elsewhere] = ["127.0.0.1", "fe80::2", "10.0.0.2"].map(address);
        let near = |at: Option<Whereabouts>| at.and_then(|at| at.near.ok()).map(|aim| (aim.address, aim.scope));
        let all = [(local, 0), (link, 3), (elsewhere, 0)];
        let at = chosen(&all, Family::Any);
        assert_eq!((near(at), at.map(|at| at.far)), (Some((local, 0)), Some(Ok(elsewhere))));
        let at = chosen(&all, Family::V6);
        assert_eq!((near(at), at.map(|at| at.far)), (Some((link, 3)), Some(Err(FailureKind::Unresolved))));
        assert_eq!(chosen(&[(link, 0), (address("::"), 0)], Family::Any), None, "neither can be aimed at");
    }
}
