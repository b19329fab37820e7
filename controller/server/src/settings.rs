//! What a controller can be told, as a value that can be printed. The only place that reads the environment.

use crate::limiter::Rate;
use crate::listen::Limits;
use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// All of it. [`Settings::at`] gives the defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything is kept.
    pub state: StateDir,
    /// Listener for agents.
    pub agents: SocketAddr,
    /// Listener for operators.
    pub operators: SocketAddr,
    /// Listener for enrolment and login.
    pub enrolment: SocketAddr,
    /// How long an agent's certificate counts. Long, because agents do not renew theirs yet.
    pub agent_validity: Duration,
    /// How long an operator's certificate counts. Long, because `muster` does not renew it yet.
    pub operator_validity: Duration,
    /// How long our own certificates count; they are made anew at half of it.
    pub controller_validity: Duration,
    /// How often one address may ask the enrolment listener.
    pub enrolment_rate: Rate,
    /// What each listener bears.
    pub limits: Limits,
    /// How long those who are connected have to finish when the controller ends.
    pub drain: Duration,
}

impl Settings {
    /// The defaults for a state directory.
    pub fn at(state: StateDir) -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            state,
            agents: SocketAddr::from((Ipv4Addr::UNSPECIFIED, AGENTS_PORT)),
            operators: SocketAddr::from((Ipv4Addr::LOCALHOST, OPERATORS_PORT)),
            enrolment: SocketAddr::from((Ipv4Addr::UNSPECIFIED, ENROLMENT_PORT)),
            agent_validity: 90 * DAY,
            operator_validity: 90 * DAY,
            controller_validity: 7 * DAY,
            enrolment_rate: Rate::default(),
            limits: Limits::default(),
            drain: Duration::from_secs(10),
        }
    }
}

/// Port of the agents' listener.
pub const AGENTS_PORT: u16 = 7443;
/// Port of the operators' listener.
pub const OPERATORS_PORT: u16 = 7444;
/// Port of the enrolment listener.
pub const ENROLMENT_PORT: u16 = 7445;

/// A controller's state directory and the names in it. The store's files are its own business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// At this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// `/var/lib/muster` for root, `~/.local/state/muster` for others. None without a home.
    pub fn of_this_user() -> Option<Self> {
        if rustix::process::geteuid().is_root() {
            return Some(Self::new("/var/lib/muster"));
        }
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
        Some(Self(state.join("muster")))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The cluster's id as text. Its presence says that the directory is initialised.
    pub fn cluster(&self) -> PathBuf {
        self.0.join("cluster")
    }

    /// The issuers' directory.
    pub fn ca(&self) -> PathBuf {
        self.0.join("ca")
    }

    /// Locked while a controller runs.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Where the running controller listens.
    pub fn addresses(&self) -> PathBuf {
        self.0.join("addresses.toml")
    }
}

/// The operator's configuration of the user who runs this: `$MUSTER_CONFIG`, else below `$XDG_CONFIG_HOME`, else below
/// `~/.config`. None without a home.
pub fn config_file() -> Option<PathBuf> {
    if let Some(file) = env::var_os("MUSTER_CONFIG").filter(|file| !file.is_empty()) {
        return Some(file.into());
    }
    let config = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(config.join("muster/config.toml"))
}

/// What the user who runs this is called.
pub fn user_name() -> String {
    let name = ["USER", "LOGNAME"].iter().find_map(|name| env::var(name).ok().filter(|name| !name.is_empty()));
    name.unwrap_or_else(|| "root".to_owned()).to_lowercase()
}

/// The XDG directories must be absolute; others are ignored (XDG Base Directory Specification).
fn absolute(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
