//! `muster-controller`: makes a cluster (`init`), serves one (`serve`), lets an operator in again (`operator-code`),
//! verifies the store (`check`).

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use muster_controller::Server;
use muster_controller::init::Init;
use muster_controller::limiter::Rate;
use muster_controller::listen::Limits;
use muster_controller::operator_code::{CODE_TTL, OperatorCode};
use muster_controller::settings::{self, AGENTS_PORT, ENROLMENT_PORT, OPERATORS_PORT, Settings, StateDir};
use muster_controller::telemetry::{self, LogFormat};
use muster_proto::name::OperatorName;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A fleet that needs more descriptors than this will notice.
const DESCRIPTORS_ENOUGH: u64 = 4_096;

/// The Muster controller: hands signed tasks to agents and keeps what they answer.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a cluster: its certificate authority, its store and its first operator
    Init(InitArgs),
    /// Serve agents and operators until SIGTERM or SIGINT
    Serve(ServeArgs),
    /// Print a one-use code for `muster login`, when no operator can make one; the controller must be stopped
    OperatorCode(OperatorCodeArgs),
    /// Verify everything in the store, a line for each thing that is wrong; the controller must be stopped
    Check(CheckArgs),
}

#[derive(Args)]
struct InitArgs {
    /// Directory to make [default: /var/lib/muster for root, else ~/.local/state/muster]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Name of the first operator [default: the name of the user who runs this]
    #[arg(long, value_name = "NAME")]
    operator: Option<OperatorName>,
    /// Configuration that gets the operator's key [default: ~/.config/muster/config.toml; env: MUSTER_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name of the context in it
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    context: String,
    /// Where operators will reach this controller
    #[arg(long, value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{OPERATORS_PORT}"), value_parser = host_and_port)]
    address: String,
}

#[derive(Args)]
struct ServeArgs {
    /// Directory that `init` has made [default: /var/lib/muster for root, else ~/.local/state/muster]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Listener for agents [default: 0.0.0.0:7443]
    #[arg(long, value_name = "ADDRESS", value_parser = listener)]
    agents: Option<SocketAddr>,
    /// Listener for operators [default: 127.0.0.1:7444]
    #[arg(long, value_name = "ADDRESS", value_parser = listener)]
    operators: Option<SocketAddr>,
    /// Listener for enrolment and login [default: 0.0.0.0:7445]
    #[arg(long, value_name = "ADDRESS", value_parser = listener)]
    enrolment: Option<SocketAddr>,
    /// How long an agent's certificate counts; agents renew theirs at half of it
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = validity)]
    agent_validity: Duration,
    /// How long a new operator's certificate counts
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = validity)]
    operator_validity: Duration,
    /// Done jobs to keep: a time, a number as 10000jobs, a size as 50GiB, or several of them; all keeps everything [default: 30d]
    #[arg(long, value_name = "KEEP,...", value_delimiter = ',')]
    keep: Vec<settings::Keep>,
    /// Directory of outside groups: files with lines `group: targets`, and programs that print a group's targets; each
    /// is used as @FILE:GROUP [default: none]
    #[arg(long, value_name = "DIR")]
    groups: Option<PathBuf>,
    /// Patterns of commands that operators have to confirm [default: danger.conf in the state directory]
    #[arg(long, value_name = "FILE")]
    danger: Option<PathBuf>,
    /// Connections a second from one address, to each listener; loopback is never limited [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connection_rate: Option<u32>,
    /// Form of log lines
    #[arg(long, value_name = "FORM", default_value = "text")]
    log_format: LogFormat,
    /// Level, or levels by module, as "info,muster_controller=debug"
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    /// End when standard input ends, so that nothing outlives a test fleet's parent
    #[arg(long)]
    exit_on_stdin_eof: bool,
}

#[derive(Args)]
struct OperatorCodeArgs {
    /// An operator who is not disabled, or a new one
    #[arg(value_name = "NAME")]
    operator: OperatorName,
    /// Directory that `init` has made [default: /var/lib/muster for root, else ~/.local/state/muster]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where the operator reaches the enrolment listener of this controller
    #[arg(long, value_name = "HOST:PORT", default_value_t = format!("127.0.0.1:{ENROLMENT_PORT}"), value_parser = host_and_port)]
    address: String,
}

#[derive(Args)]
struct CheckArgs {
    /// Directory that `init` has made [default: /var/lib/muster for root, else ~/.local/state/muster]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let result = match Cli::parse().command {
        Command::Init(args) => init(args).map(done),
        Command::Serve(args) => serve(args).map(done),
        Command::OperatorCode(args) => operator_code(args).map(done),
        Command::Check(args) => check(args),
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            // Standard error may be closed; the status says it as well.
            let _ = writeln!(std::io::stderr(), "muster-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn init(args: InitArgs) -> anyhow::Result<()> {
    let operator = match args.operator {
        Some(operator) => operator,
        None => settings::user_name().parse().context("name the first operator with --operator")?,
    };
    let state = state_dir(args.state)?;
    let config = args.config.or_else(settings::config_file).context("there is no HOME: name a file with --config")?;
    let operator_validity = Settings::at(state.clone()).operator_validity;
    let (context, address) = (args.context, args.address);
    let made = Init { state, operator, operator_validity, config, context, address }.run().await?;
    // Whoever closed standard output does not want to know.
    let _ = write!(std::io::stdout(), "{made}");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn operator_code(args: OperatorCodeArgs) -> anyhow::Result<()> {
    let (state, operator, address) = (state_dir(args.state)?, args.operator, args.address);
    let code = OperatorCode { state, operator: operator.clone(), address }.run().await?;
    writeln!(std::io::stdout(), "{code}").context("cannot write the code")?;
    let ttl = humantime::format_duration(CODE_TTL);
    // The code is out; how to use it is in the guide as well.
    let _ = writeln!(
        std::io::stderr(),
        "good once, for {ttl}: start the controller; then {operator} types, where they work:\n  muster login CODE"
    );
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let report = muster_controller::check::run(&state_dir(args.state)?).await?;
    let mut out = std::io::stdout().lock();
    for line in muster_controller::check::lines(&report) {
        writeln!(out, "{line}").context("cannot write what was found")?;
    }
    Ok(if report.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[tokio::main]
async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    telemetry::install(args.log_format, &args.log)?;
    raise_descriptors();
    let shutdown = CancellationToken::new();
    watch_signals(&shutdown)?;
    if args.exit_on_stdin_eof {
        watch_stdin(&shutdown);
    }
    let server = Server::build(settings_of(args)?).await?;
    let addresses = server.addresses();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        agents = %addresses.agents,
        operators = %addresses.operators,
        enrolment = %addresses.enrolment,
        "ready"
    );
    server.run(shutdown).await?;
    tracing::info!("ended");
    Ok(())
}

fn settings_of(args: ServeArgs) -> anyhow::Result<Settings> {
    let defaults = Settings::at(state_dir(args.state)?);
    Ok(Settings {
        agents: args.agents.unwrap_or(defaults.agents),
        operators: args.operators.unwrap_or(defaults.operators),
        enrolment: args.enrolment.unwrap_or(defaults.enrolment),
        agent_validity: args.agent_validity,
        operator_validity: args.operator_validity,
        limits: Limits {
            rate: args.connection_rate.map(|per_second| Rate { per_second, burst: per_second.saturating_mul(5) }),
            ..defaults.limits
        },
        keep: settings::retention(&args.keep).map_err(anyhow::Error::msg)?,
        groups: args.groups,
        danger: args.danger,
        ..defaults
    })
}

fn state_dir(given: Option<PathBuf>) -> anyhow::Result<StateDir> {
    given.map(StateDir::new).or_else(StateDir::of_this_user).context("there is no HOME: name a directory with --state")
}

fn host_and_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err(format!("give a host and a port, as controller.example.org:{OPERATORS_PORT}")),
    }
}

fn listener(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("give an IP address and a port, as 0.0.0.0:{AGENTS_PORT}"))
}

/// A plain number is seconds, as everywhere in the command line.
fn validity(text: &str) -> Result<Duration, String> {
    let span = match text.parse::<u32>() {
        Ok(seconds) => Duration::from_secs(seconds.into()),
        Err(_) => humantime::parse_duration(text).map_err(|_| "use a time like 90d, 12h, 30m or 3600".to_owned())?,
    };
    if span.is_zero() { Err("it must be more than 0".to_owned()) } else { Ok(span) }
}

/// Each agent takes a descriptor. The soft limit is low for the sake of select(2), which nobody here uses.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!("the limit of open files cannot be raised");
    }
    if let Some(current) = getrlimit(Resource::Nofile).current
        && current < DESCRIPTORS_ENOUGH
    {
        tracing::warn!(limit = current, "few open files are allowed: no more agents than that can be connected");
    }
}

fn watch_signals(shutdown: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch SIGINT")?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

fn watch_stdin(shutdown: &CancellationToken) {
    let shutdown = shutdown.clone();
    // A thread, because a read of standard input cannot be cancelled and would hold the runtime at the end.
    std::thread::spawn(move || {
        // An error is an end as well.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        shutdown.cancel();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validities_are_times_or_seconds() {
        assert_eq!(validity("90d"), Ok(Duration::from_hours(90 * 24)));
        assert_eq!(validity("90"), Ok(Duration::from_secs(90)));
        assert!(validity("ninety").is_err_and(|error| error.contains("90d, 12h, 30m")));
        assert!(validity("0").is_err());
    }

    #[test]
    fn listeners_are_addresses() {
        assert_eq!(listener("[::1]:1"), Ok("[::1]:1".parse().expect("an address")));
        for bad in ["localhost:17447", "17447", "0.0.0.0"] {
            assert!(listener(bad).is_err_and(|error| error.contains("as 0.0.0.0:7443")), "{bad}");
        }
    }
}
