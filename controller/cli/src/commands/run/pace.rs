//! How many at a time, for how long, and when to stop: the options of pace and rollout.

use crate::args;
use crate::commands::launch::{Share, Shares};
use crate::exit::Usage;
use muster_proto::command::{Command, OutputLimit, Program};
use muster_proto::limits;
use muster_proto::rollout::{MaxFail, Offline, Rollout};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;

/// Times and concurrency.
#[derive(Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Pace")]
pub struct Pace {
    /// Hosts at work at a time, or a share of them
    #[arg(short = 'f', long, value_name = "N|N%")]
    concurrency: Option<Share>,
    /// How long a host may take to start once its turn has come [default: 30s]
    #[arg(short = 't', long, value_name = "TIME", value_parser = args::duration)]
    deliver_timeout: Option<Duration>,
    /// How long the program may run on a host [default: 5m]
    #[arg(short = 'u', long, value_name = "TIME", value_parser = args::duration)]
    timeout: Option<Duration>,
    /// What has not started after this time never starts [default: 1h and the pauses; what --offline takes]
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    pub job_timeout: Option<Duration>,
    /// From TERM to KILL when the program is ended [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    grace: Option<Duration>,
    /// Each host starts at a moment of its own within this time
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    splay: Option<Duration>,
}

/// Waves, when to stop, what is tried again, and who is away.
#[derive(Debug, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Rollout")]
pub struct Steps {
    /// Hosts in each wave, or shares of all, as 1,5%,25%,100%; the last repeats
    #[arg(long, value_name = "N|N%,...", value_delimiter = ',')]
    waves: Vec<Share>,
    /// From the end of a wave to its gate, or to the next wave
    #[arg(long, value_name = "TIME", value_parser = args::duration, requires = "waves")]
    wave_pause: Option<Duration>,
    /// Shell line that has to succeed on a wave's hosts before the next wave; else the job pauses
    #[arg(long, value_name = "COMMAND", requires = "waves")]
    gate: Option<OsString>,
    /// How long the gate may run on a host [default: 1m]
    #[arg(long, value_name = "TIME", value_parser = args::duration, requires = "gate")]
    gate_timeout: Option<Duration>,
    /// Start nothing more once so many hosts have failed, or this share of those whose wave has begun
    #[arg(long, value_name = "N|N%")]
    max_fail: Option<Share>,
    /// Try a host so often again where nothing ran: unreachable, rejected, no start
    #[arg(long, value_name = "N", value_parser = args::number::<u32>(0..=limits::RETRIES_MAX))]
    retries: Option<u32>,
    /// Run the command so often again on a host where it failed or timed out
    #[arg(long, value_name = "N", value_parser = args::number::<u32>(0..=limits::RETRIES_MAX))]
    retry_failed: Option<u32>,
    /// Hosts that are away: skip them, wait=TIME for them, or queue=TIME: run when they are back [default: wait for -t]
    #[arg(long, value_name = "HOW", value_parser = offline)]
    offline: Option<Offline>,
}

impl Pace {
    /// How long a target whose turn has come may take to start.
    pub fn deliver(&self) -> Duration {
        self.deliver_timeout.unwrap_or(limits::DELIVER_DEFAULT)
    }

    /// Gives a command its times.
    pub fn apply(&self, command: &mut Command) {
        command.timeout = self.timeout.unwrap_or(command.timeout);
        command.grace = self.grace.unwrap_or(command.grace);
    }

    /// What is known of the rollout before the hosts are counted; a gate runs as and where `command` does.
    pub fn rollout(&self, steps: Steps, command: &Command) -> Result<(Shares, Rollout), Usage> {
        let gate = steps.gate.map(|line| gate(line, steps.gate_timeout, command)).transpose()?;
        let rollout = Rollout {
            wave_pause: steps.wave_pause.unwrap_or_default(),
            gate,
            max_fail: steps.max_fail.map(|share| match share {
                Share::Hosts(hosts) => MaxFail::Hosts(hosts),
                Share::Percent(percent) => MaxFail::Percent(percent),
            }),
            splay: self.splay.unwrap_or_default(),
            retries: steps.retries.unwrap_or_default(),
            retry_failed: steps.retry_failed.unwrap_or_default(),
            offline: steps.offline.unwrap_or_default(),
            ..Rollout::default()
        };
        Ok((Shares { concurrency: self.concurrency, waves: steps.waves }, rollout))
    }
}

fn gate(line: OsString, timeout: Option<Duration>, command: &Command) -> Result<Command, Usage> {
    if line.as_encoded_bytes().trim_ascii().is_empty() {
        return Err(Usage("--gate is empty: give the shell line that has to succeed".to_owned()));
    }
    let mut gate = Command::new(Program::Shell(line.into_vec()));
    gate.timeout = timeout.unwrap_or(limits::GATE_TIMEOUT_DEFAULT);
    gate.grace = command.grace;
    gate.output = OutputLimit::GATE;
    gate.run_as.clone_from(&command.run_as);
    gate.cwd.clone_from(&command.cwd);
    gate.env.clone_from(&command.env);
    gate.check().map_err(|error| Usage(format!("--gate: {error}")))?;
    Ok(gate)
}

/// `skip`, `wait=10m` or `queue=24h`.
fn offline(text: &str) -> Result<Offline, String> {
    match text.split_once('=') {
        None if text == "skip" => Ok(Offline::Skip),
        Some(("wait", span)) => args::duration(span).map(Offline::Wait),
        Some(("queue", span)) => args::duration(span).map(Offline::Queue),
        _ => Err("use skip, wait=10m or queue=24h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        pace: Pace,
        #[command(flatten)]
        steps: Steps,
    }

    fn parse(line: &str) -> Result<Line, clap::Error> {
        Line::try_parse_from(std::iter::once("run").chain(line.split(' ').filter(|word| !word.is_empty())))
    }

    fn built(line: &str) -> Result<(Shares, Rollout), Usage> {
        let Line { pace, steps } = parse(line).expect("options");
        let mut command = Command::new(Program::Argv(vec![b"id".to_vec()]));
        command.run_as = Some("web".to_owned());
        pace.apply(&mut command);
        pace.rollout(steps, &command)
    }

    #[test]
    fn words_that_mean_nothing_are_refused_at_once() {
        for line in [
            "--waves 0",
            "--waves 1,101%",
            "--waves 1,,2",
            "--waves 1,",
            "--gate true",
            "--wave-pause 1s",
            "--waves 1 --gate-timeout 1s",
            "--max-fail 0",
            "--max-fail 0%",
            "--retries 11",
            "--offline wait",
            "--offline wait=0",
            "--offline later",
            "--splay 0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("--waves=").is_err());
        assert!(built("--waves 1 --gate=").is_err());
    }

    #[test]
    fn what_is_not_said_is_all_at_once_and_once() {
        assert_eq!(built(""), Ok((Shares::default(), Rollout::default())));
    }

    #[test]
    fn what_is_said_is_signed() {
        let (shares, rollout) = built(
            "-f 10% --waves 1,5%,100% --wave-pause 30s --gate true --gate-timeout 5s --grace 3s --max-fail 5% --splay 1m \
             --retries 2 --retry-failed 1 --offline queue=24h",
        )
        .expect("good");
        assert_eq!(shares.waves, [Share::Hosts(1), Share::Percent(5), Share::Percent(100)]);
        let gate = rollout.gate.as_ref().expect("a gate");
        assert_eq!((gate.timeout, gate.grace), (Duration::from_secs(5), Duration::from_secs(3)));
        assert_eq!((gate.run_as.as_deref(), &gate.program), (Some("web"), &Program::Shell(b"true".to_vec())));
        assert_eq!(rollout.max_fail, Some(MaxFail::Percent(5)));
        assert_eq!((rollout.retries, rollout.retry_failed), (2, 1));
        assert_eq!(rollout.offline, Offline::Queue(Duration::from_hours(24)));
        assert_eq!(shares.of(&rollout, 100).waves, [1, 5, 100]);
        assert_eq!(shares.of(&rollout, 100).check(), Ok(()));
    }
}
