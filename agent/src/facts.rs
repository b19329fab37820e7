//! What this host says of itself. Collected once at start: nothing here changes while the agent runs, or decides
//! what anybody may do.

use crate::process::Containment;
use muster_proto::fleet::Facts;
use muster_proto::text;
use std::collections::BTreeSet;
use std::fs;

/// More addresses than a host can sensibly be found at; container hosts have hundreds.
const ADDRESSES_MAX: usize = 32;

/// Looks around. What cannot be read stays empty: a host without os-release is still a host.
pub fn collect(containment: &Containment) -> Facts {
    let uname = rustix::system::uname();
    let release = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| fs::read_to_string(path).ok());
    let release = |key: &str| release.as_deref().and_then(|file| os_release(file, key)).unwrap_or_default();
    Facts {
        hostname: text::line(&uname.nodename().to_string_lossy()),
        os: release("ID"),
        os_version: release("VERSION_ID"),
        os_name: release("PRETTY_NAME"),
        kernel: text::line(&uname.release().to_string_lossy()),
        arch: text::line(&uname.machine().to_string_lossy()),
        cpus: nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN)
            .ok()
            .flatten()
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(0),
        memory_bytes: fs::read_to_string("/proc/meminfo").ok().and_then(|file| mem_total(&file)).unwrap_or(0),
        addresses: addresses(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        containment: containment.as_str().to_owned(),
        root: rustix::process::geteuid().is_root(),
    }
}

/// machine-id(5), for people who have to tell two copies of a machine apart; empty where there is none.
pub fn machine_id() -> String {
    let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let id = id.trim();
    let good = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if good { id.to_ascii_lowercase() } else { String::new() }
}

/// The host's name, as a default for the agent's.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

/// A value of os-release(5): shell assignments whose values may be quoted.
fn os_release(file: &str, key: &str) -> Option<String> {
    let value = file.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    let bare = ['"', '\''].iter().find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote));
    Some(text::line(&bare.unwrap_or(value).replace('\\', "")))
}

/// `MemTotal` of /proc/meminfo in bytes.
fn mem_total(file: &str) -> Option<u64> {
    let line = file.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Sorted, so that equal hosts give equal facts; loopback and link-local ones lead nowhere.
fn addresses() -> Vec<String> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let mut found = BTreeSet::new();
    for address in interfaces.filter_map(|interface| interface.address) {
        if let Some(v4) = address.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip) {
            if !v4.is_loopback() && !v4.is_link_local() {
                found.insert(std::net::IpAddr::V4(v4));
            }
        } else if let Some(v6) = address.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::ip)
            && !v6.is_loopback()
            && !v6.is_unicast_link_local()
        {
            found.insert(std::net::IpAddr::V6(v6));
        }
    }
    found.iter().take(ADDRESSES_MAX).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_values_may_be_quoted() {
        let file = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID='12'\nID_LIKE=x\n";
        assert_eq!(os_release(file, "PRETTY_NAME").as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(os_release(file, "ID").as_deref(), Some("debian"));
        assert_eq!(os_release(file, "VERSION_ID").as_deref(), Some("12"));
        assert_eq!(os_release(file, "VERSION"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(mem_total("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16 << 20));
        assert_eq!(mem_total("MemTotal: 16384\n"), None);
    }

    #[test]
    fn this_host_has_a_kernel_and_memory() {
        let facts = collect(&Containment::ProcessGroup);
        assert!(!facts.kernel.is_empty() && facts.cpus > 0 && facts.memory_bytes > 0, "{facts:?}");
        assert_eq!(facts, collect(&Containment::ProcessGroup));
    }
}
