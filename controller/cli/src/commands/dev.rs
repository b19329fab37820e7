//! `muster dev`: a controller and agents on this machine, real processes over real TLS, for as long as a command runs.
//!
//! Everything lives in one directory: `controller/` and `dev-N/` are the states, `config.toml` the configuration,
//! `*.log` what they say. Whatever happens to us, the fleet ends: its processes do when our end of their stdin closes, and
//! in groups of their own they do not see a Ctrl-C that is meant for the command. Jobs are cancelled first; only if we are
//! killed outright, a task that is at work goes on until its own timeout, as it would on any host.

mod fleet;

use crate::args;
use crate::exit::{Exit, Usage};
use crate::settings::Settings;
use crate::show::{self, moment};
use anyhow::Context as _;
use fleet::Fleet;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Instant;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Name of the context that leads to the fleet.
const CONTEXT: &str = "dev";

/// Options of `muster dev`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many agents
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = args::number::<u16>(1..=500))]
    agents: u16,
    /// Keep state and logs in this new or empty directory, instead of a temporary one
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// What to run with the fleet; its exit status is passed on
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Performs `muster dev`.
pub async fn run(args: Args, _: &Settings) -> anyhow::Result<Exit> {
    let home = Home::new(args.state)?;
    let mut signals = Signals::new()?;
    let mut fleet = Fleet::new(home.path(), CONTEXT);
    let began = Instant::now();
    let started = tokio::select! {
        started = fleet.start(args.agents) => started.map(Some),
        _ = signals.any() => Ok(None),
    };
    let result = match started {
        Ok(Some(())) => {
            let agents = if args.agents == 1 { "1 agent is".to_owned() } else { format!("{} agents are", args.agents) };
            show::note(&format!("dev: {agents} ready after {}", moment::span(began.elapsed())));
            with_fleet(&args.command, home.path(), &mut signals).await
        }
        Ok(None) => Ok(Exit::Interrupted),
        Err(error) => Err(error),
    };
    fleet.end().await;
    result
}

async fn with_fleet(command: &[OsString], home: &Path, signals: &mut Signals) -> anyhow::Result<Exit> {
    let config = home.join("config.toml");
    let Some((program, arguments)) = command.split_first() else {
        show::data(&format!("export MUSTER_CONFIG={} MUSTER_CONTEXT={CONTEXT}\n", quoted(&config)))?;
        show::note("dev: type that line in another terminal; Ctrl-C here ends the fleet");
        signals.any().await;
        return Ok(Exit::Success);
    };
    let spawned = Command::new(program)
        .args(arguments)
        .env("MUSTER_CONFIG", &config)
        .env("MUSTER_CONTEXT", CONTEXT)
        .env("MUSTER_DEV_DIR", home)
        .env("PATH", crate::settings::path_with_own_programs())
        .kill_on_drop(true)
        .spawn();
    match spawned {
        Ok(mut child) => Ok(passed(outlive(&mut child, signals).await?)),
        Err(error) => {
            show::note(&format!("muster: cannot run {}: {error}", program.display()));
            // As shells have it.
            Ok(Exit::Passed(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }))
        }
    }
}

/// Waits for the command. A Ctrl-C reaches it without us; what is sent to us alone is handed on.
async fn outlive(child: &mut Child, signals: &mut Signals) -> io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return status,
            kind = signals.any() => {
                if kind != SignalKind::interrupt() {
                    fleet::send(child, kind);
                }
            }
        }
    }
}

fn passed(status: ExitStatus) -> Exit {
    let signal = || status.signal().map(|signal| 128 + signal);
    let code = status.code().or_else(signal).and_then(|code| u8::try_from(code).ok());
    Exit::Passed(code.unwrap_or(Exit::Failed.code()))
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// The directory of the fleet.
enum Home {
    /// Removed when dropped.
    Temporary(TempDir),
    Given(PathBuf),
}

impl Home {
    fn new(given: Option<PathBuf>) -> anyhow::Result<Self> {
        let Some(dir) = given else {
            let dir = tempfile::Builder::new().prefix("muster-dev-").tempdir().context("cannot make a directory")?;
            return Ok(Self::Temporary(dir));
        };
        let refused = |error: io::Error| Usage(format!("cannot use {}: {error}", dir.display()));
        std::fs::create_dir_all(&dir).map_err(refused)?;
        if std::fs::read_dir(&dir).map_err(refused)?.next().is_some() {
            return Err(Usage(format!("{} is not empty: name a new directory", dir.display())).into());
        }
        Ok(Self::Given(std::path::absolute(dir)?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Given(dir) => dir,
        }
    }
}

/// The signals that ask us to end. They are caught from the beginning, so that nothing is left behind.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next of them.
    async fn any(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_the_command_is_passed_on() {
        for (raw, code) in [(0, 0), (3 << 8, 3), (255 << 8, 255), (9, 137), (15, 143)] {
            assert_eq!(passed(ExitStatus::from_raw(raw)).code(), code);
        }
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Home::new(Some(dir.path().join("a/b"))).is_ok());
        let error = Home::new(Some(dir.path().to_owned())).err().expect("refused");
        assert!(error.is::<Usage>(), "{error}");
    }
}
