//! What a controller can be told, as a value that can be printed. The only place that reads the environment.

use crate::limiter::Rate;
use crate::listen::Limits;
use muster_store::Retention;
use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
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
    /// How long an agent's certificate counts. Agents renew theirs at half of it.
    pub agent_validity: Duration,
    /// How long an operator's certificate counts. Long, because `muster` does not renew it yet.
    pub operator_validity: Duration,
    /// How long our own certificates count; they are made anew at half of it.
    pub controller_validity: Duration,
    /// How often one address may ask the enrolment listener.
    pub enrolment_rate: Rate,
    /// What each listener bears.
    pub limits: Limits,
    /// Which done jobs are kept.
    pub keep: Retention,
    /// Directory of outside sources of groups.
    pub groups: Option<PathBuf>,
    /// Patterns of dangerous commands; `None` is [`StateDir::danger`], or the defaults where it is not there.
    pub danger: Option<PathBuf>,
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
            agent_validity: DAY,
            operator_validity: 90 * DAY,
            controller_validity: 7 * DAY,
            enrolment_rate: Rate::default(),
            limits: Limits::default(),
            keep: Retention { age: Some(KEEP_AGE), jobs: None, bytes: None },
            groups: None,
            danger: None,
            drain: Duration::from_secs(10),
        }
    }
}

/// Done jobs are kept that long unless `--keep` says otherwise. Nothing is removed for its size or its number by default:
/// what was done yesterday is never gone today.
const KEEP_AGE: Duration = Duration::from_hours(30 * 24);

/// One word of `--keep`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Everything, for ever.
    All,
    /// Done jobs that are younger.
    Age(Duration),
    /// The newest so many done jobs.
    Jobs(u64),
    /// The newest done jobs whose records take no more bytes together.
    Bytes(u64),
}

impl FromStr for Keep {
    type Err = &'static str;

    /// "30d", "10000jobs", "50GiB" or "all"; never nothing.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "use a time like 30d, a number like 10000jobs, a size like 50GiB, or all";
        const UNITS: [(&str, u32); 3] = [("MiB", 20), ("GiB", 30), ("TiB", 40)];
        if text == "all" {
            return Ok(Self::All);
        }
        let number = |digits: &str| digits.parse::<u64>().ok().filter(|number| *number > 0).ok_or(WANTED);
        if let Some(jobs) = text.strip_suffix("jobs") {
            return number(jobs).map(Self::Jobs);
        }
        if let Some((digits, shift)) = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift))) {
            return number(digits)?.checked_mul(1 << shift).map(Self::Bytes).ok_or(WANTED);
        }
        match humantime::parse_duration(text) {
            Ok(age) if !age.is_zero() => Ok(Self::Age(age)),
            _ => Err(WANTED),
        }
    }
}

/// All words of `--keep` together: a job goes as soon as one of them does not keep it. None are the default.
pub fn retention(words: &[Keep]) -> Result<Retention, &'static str> {
    const TWICE: &str = "--keep takes one time, one number of jobs and one size, or all alone";
    let mut keep = Retention::default();
    for word in words {
        let before = match word {
            Keep::All if words.len() == 1 => None,
            Keep::All => return Err(TWICE),
            Keep::Age(age) => keep.age.replace(*age).map(drop),
            Keep::Jobs(jobs) => keep.jobs.replace(*jobs).map(drop),
            Keep::Bytes(bytes) => keep.bytes.replace(*bytes).map(drop),
        };
        if before.is_some() {
            return Err(TWICE);
        }
    }
    Ok(if words.is_empty() { Retention { age: Some(KEEP_AGE), ..keep } } else { keep })
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

    /// Patterns of dangerous commands.
    pub fn danger(&self) -> PathBuf {
        self.0.join("danger.conf")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(words: &str) -> Result<Retention, &'static str> {
        let words: Vec<Keep> = words.split_terminator(',').map(str::parse).collect::<Result<_, _>>()?;
        retention(&words)
    }

    #[test]
    fn what_is_kept_is_said_by_age_number_and_size() {
        let day = Duration::from_hours(24);
        let all = |age, jobs, bytes| Ok(Retention { age, jobs, bytes });
        assert_eq!(keep(""), all(Some(30 * day), None, None), "the default");
        assert_eq!(keep("7d"), all(Some(7 * day), None, None));
        assert_eq!(keep("10000jobs,7d"), all(Some(7 * day), Some(10_000), None));
        assert_eq!(keep("50GiB"), all(None, None, Some(50 << 30)));
        assert_eq!(keep("all"), all(None, None, None));
        for bad in ["0d", "0jobs", "0GiB", "30", "jobs", "x", "all,7d", "7d,8d", "99999999999TiB", "-1d"] {
            assert!(keep(bad).is_err(), "{bad}");
        }
    }
}
