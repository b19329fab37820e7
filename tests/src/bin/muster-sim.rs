//! `muster-sim`: many simulated agents in one process. See `muster-sim --help` and the guide.

use anyhow::{Context as _, Result};
use clap::Parser;
use muster_agent::settings::{Log, LogFormat};
use muster_agent::telemetry;
use muster_proto::token::Token;
use muster_tests::sim::{self, Answers, Settings};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing::Level;

/// Many simulated agents over real mTLS, to size a controller. They verify what they are offered, and answer instead of
/// executing it.
#[derive(Parser)]
#[command(name = "muster-sim", version, max_term_width = 100)]
struct Args {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    agents: u32,
    /// Where to enrol: the controller's enrolment listener; a token may carry it
    #[arg(long, value_name = "HOST:PORT")]
    controller: Option<String>,
    /// Enrol with this, from `muster token create --uses N`
    #[arg(long)]
    token: Option<Token>,
    /// Keep the identities here, so that the next start need not enrol; otherwise they are kept in memory
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Names are this and a number: sim-00001
    #[arg(long, value_name = "TEXT", default_value = "sim-")]
    name_prefix: String,
    /// What each task writes to stdout
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    output: u64,
    /// How long each task runs, and the round trip of each probe
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    delay: Duration,
    /// Up to so much longer, evenly
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    jitter: Duration,
    /// The part of tasks that exit with 1, and of probes without an answer, from 0 to 1
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = part)]
    fail_rate: f64,
    /// The part of gates that exit with 1, from 0 to 1
    #[arg(long, value_name = "PART", default_value_t = 0.0, value_parser = part)]
    gate_fail_rate: f64,
    /// Each agent's link is cut after a random time of this mean, again and again
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    flap: Option<Duration>,
    /// Equal seeds give equal delays, failures and cuts; it is printed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Threads at work; one costs least
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Log on stderr why links break
    #[arg(short, long)]
    verbose: bool,
    /// End when stdin closes
    #[arg(long)]
    exit_on_stdin_eof: bool,
}

fn main() -> ExitCode {
    match start(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "muster-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> Result<()> {
    if args.verbose {
        telemetry::install(Log { format: LogFormat::Text, level: Level::WARN });
    }
    let mut builder = match args.threads {
        1 => runtime::Builder::new_current_thread(),
        _ => runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(args.threads.into()).enable_all().build().context("cannot start")?;
    let settings = Settings {
        agents: args.agents,
        name_prefix: args.name_prefix,
        controller: args.controller,
        token: args.token,
        state: args.state,
        answers: Answers {
            output: args.output,
            delay: args.delay,
            jitter: args.jitter,
            fail_rate: args.fail_rate,
            gate_fail_rate: args.gate_fail_rate,
        },
        flap: args.flap.filter(|mean| !mean.is_zero()),
        seed: match args.seed {
            Some(seed) => seed,
            None => getrandom::u64().context("no random numbers")?,
        },
    };
    // Somebody who reads no more is no reason to end.
    let say = |line: &str| _ = writeln!(io::stdout(), "{line}");
    let ended = runtime.block_on(async {
        let stop = stop(args.exit_on_stdin_eof)?;
        sim::run(settings, stop, say).await
    });
    // Not waited for: ten thousand connections take their time to be closed well.
    runtime.shutdown_background();
    ended
}

/// Ends with a signal, and with stdin if that is asked for.
fn stop(exit_on_stdin_eof: bool) -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let (sender, eof) = oneshot::channel::<()>();
    // A thread of its own reads: stdin may be anything, and most of it cannot be polled.
    let _reader = exit_on_stdin_eof.then(|| {
        std::thread::spawn(move || {
            let mut rest = [0; 256];
            while io::stdin().lock().read(&mut rest).is_ok_and(|count| count > 0) {}
            drop(sender);
        })
    });
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            // Without a reader the sender is gone from the beginning.
            _ = eof, if exit_on_stdin_eof => {}
        }
    })
}

fn part(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|part| (0.0..=1.0).contains(part)).ok_or_else(|| "use a number from 0 to 1".to_owned())
}
