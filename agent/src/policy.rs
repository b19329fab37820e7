//! What this host's owner allows, whatever a controller asks: `/etc/muster/policy.toml`, written by root and read at
//! the start. [`Policy::parse`] is a small and strict reader of TOML: what it does not understand it refuses, with the
//! line and what to do, because a limit that is misread is none.

mod reader;

pub use muster_proto::network::{Network, ParseNetworkError};
pub use reader::Mistake;

use muster_proto::limits;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where it is unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/muster/policy.toml";
/// More than a thousand networks.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Packets a second that a policy can allow.
const RATE_MAX: u32 = 1_000_000;

/// What this host's owner allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Of probes that this agent sends for its controller.
    pub probe: ProbePolicy,
}

/// Where an agent may send probes, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbePolicy {
    /// Only there.
    pub allow: Vec<Network>,
    /// Not there, even if it is allowed.
    pub deny: Vec<Network>,
    /// Packets a second, over all sweeps together; 0 is none at all.
    pub rate: u32,
}

impl Default for ProbePolicy {
    fn default() -> Self {
        Self { allow: Network::EVERYWHERE.to_vec(), deny: Vec::new(), rate: limits::AGENT_PROBE_RATE }
    }
}

impl ProbePolicy {
    /// Probes may go there.
    pub fn allows(&self, address: IpAddr) -> bool {
        let within = |networks: &[Network]| networks.iter().any(|network| network.contains(address));
        self.rate > 0 && within(&self.allow) && !within(&self.deny)
    }
}

impl Policy {
    /// Reads the file that was named, or else the default one, which need not exist.
    pub fn load(named: Option<&Path>) -> Result<Self, PolicyError> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        let file = match File::open(path) {
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            file => file,
        };
        let unreadable = |source| PolicyError::Unreadable { path: path.to_owned(), source };
        let file = file.map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let owners = [0, rustix::process::geteuid().as_raw()];
        if !owners.contains(&metadata.uid()) || metadata.mode() & 0o022 != 0 {
            return Err(PolicyError::Writable { path: path.to_owned() });
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(PolicyError::Large { path: path.to_owned() });
        }
        Self::parse(&text).map_err(|mistake| PolicyError::Text { path: path.to_owned(), mistake })
    }

    /// Reads the text of a policy.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        reader::read(text)
    }
}

/// An agent with this policy does not start.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It is there, or should be.
    #[error("cannot read the policy {}: check the path and its permissions", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It says what others want.
    #[error(
        "others can write the policy {}: it must belong to root or to the agent's user, as `chown root {} && chmod 644 {}` \
         makes it",
        path.display(),
        path.display(),
        path.display()
    )]
    Writable {
        /// Which.
        path: PathBuf,
    },
    /// It is no policy.
    #[error("the policy {} is larger than {} KiB: name fewer, larger networks", path.display(), FILE_BYTES_MAX >> 10)]
    Large {
        /// Which.
        path: PathBuf,
    },
    /// It cannot be understood.
    #[error("the policy {}, {mistake}", path.display())]
    Text {
        /// Which.
        path: PathBuf,
        /// Where and what.
        mistake: Mistake,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn deny_wins_and_only_what_is_allowed_is_allowed() {
        assert_eq!(
            Policy::parse(include_str!("../../deploy/policy.toml")),
            Ok(Policy::default()),
            "the example says so"
        );
        let everything = ProbePolicy::default();
        assert!(everything.allows(ip("8.8.8.8")) && everything.allows(ip("fe80::1")));
        assert_eq!(everything.rate, 500);

        let text = "[probe]\nallow = [\"10.0.0.0/8\", \"2001:db8::/32\"]\ndeny = [\"10.9.0.0/16\", \"10.0.0.1\"]\n";
        let some = Policy::parse(text).expect("good").probe;
        for yes in ["10.0.0.2", "10.8.255.255", "2001:db8::1", "::ffff:10.0.0.2"] {
            assert!(some.allows(ip(yes)), "{yes}");
        }
        // The same host by another spelling is the same host.
        for no in ["10.9.0.1", "10.0.0.1", "::ffff:10.0.0.1", "::ffff:10.9.3.4", "11.0.0.1", "2001:db9::1", "::a00:2"] {
            assert!(!some.allows(ip(no)), "{no}");
        }
        let denied = Policy::parse("[probe]\ndeny = [\"0.0.0.0/0\"]").expect("good").probe;
        assert!(!denied.allows(ip("1.2.3.4")) && !denied.allows(ip("::ffff:1.2.3.4")) && denied.allows(ip("::1")));
        let nowhere = Policy::parse("[probe]\nallow = []").expect("good").probe;
        assert!(!nowhere.allows(ip("10.0.0.2")) && !nowhere.allows(ip("::1")));
        let none = Policy::parse("[probe]\nrate = 0\nallow = [\"10.0.0.0/8\"]").expect("good").probe;
        assert!(!none.allows(ip("10.0.0.2")));
    }

    #[test]
    fn only_a_file_that_its_owner_alone_can_write_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("policy.toml");
        let load = || Policy::load(Some(&path)).map_err(|error| error.to_string());
        assert!(load().is_err_and(|error| error.contains("cannot read the policy")), "it was named and is missing");
        fs::write(&path, "[probe]\nrate = 7\n").expect("written");
        for (mode, good) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false), (0o666, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
            let loaded = load();
            assert_eq!(loaded.is_ok(), good, "{mode:o}");
            assert!(good || loaded.is_err_and(|error| error.contains("chmod 644")), "{mode:o}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("set");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12_345), None).expect("given away");
            assert!(load().is_err_and(|error| error.contains("chown root")));
            std::os::unix::fs::chown(&path, Some(0), None).expect("taken back");
        }
        assert_eq!(load().expect("good").probe.rate, 7);

        fs::write(&path, "# a comment\n[prob]\n").expect("written");
        let error = load().expect_err("no such table");
        assert!(error.contains("policy.toml, line 2: ") && !error.contains('\n'), "{error}");
        fs::write(&path, "#".repeat(65 << 10)).expect("written");
        assert!(load().is_err_and(|error| error.contains("64 KiB")));
        assert!(Policy::load(Some(dir.path())).is_err(), "a directory");
    }
}
