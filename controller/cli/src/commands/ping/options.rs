//! What may be typed behind `muster ping`, and what it means: how hosts are looked at, and what is shown of it.
//!
//! The letters are fping's, but for those that all of `muster` has: `-t` is the window of an agent that looks, and a
//! timeout is `--timeout`. Who types another of fping's is told how it is called here. A time needs its unit, so that
//! nobody who types fping's milliseconds waits for as many seconds.

use crate::args;
use crate::exit::Usage;
use crate::show::ping::{self, hosts::Fate};
use crate::track::{Order, Show};
use clap::{ArgAction, ArgMatches, Command, ValueEnum};
use muster_proto::limits;
use muster_proto::name::LabelText;
use muster_proto::ping::{Detail, Family, PingSpec, Probes, Way};
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

/// How the controller looks at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Via {
    /// By ICMP and by its agent's link, if it has one: it is alive if it answers by either
    Both,
    /// By ICMP alone
    Icmp,
    /// By its agent's link alone
    Agent,
}

/// The most probes of a host.
const COUNT_MAX: NonZeroU32 = NonZeroU32::new(limits::PROBE_COUNT_MAX).expect("the limit is not 0");

/// Packets a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate(Option<NonZeroU32>);

/// The probes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Probes")]
pub struct Looks {
    /// How the controller looks at a host; agents look by ICMP
    #[arg(long, value_enum, default_value = "both", value_name = "WAY")]
    via: Via,
    /// Probes of each host
    #[arg(short = 'c', long, value_name = "N", default_value = "1", value_parser = args::number(NonZeroU32::MIN..=COUNT_MAX))]
    count: NonZeroU32,
    /// From one probe of a host to its next
    #[arg(short = 'p', long, value_name = "TIME", value_parser = with_unit, default_value = "1s")]
    period: Duration,
    /// Wait for each answer (fping's -t); one to an earlier try of a probe counts, so a round trip may be longer
    #[arg(long, value_name = "TIME", value_parser = with_unit, default_value = "500ms")]
    timeout: Duration,
    /// How often a probe without an answer is repeated [default: 1 for a single probe, 0 for several, so that what is
    /// lost shows]
    #[arg(short = 'r', long, value_name = "N", value_parser = args::number(0..=limits::PROBE_RETRIES_MAX))]
    retries: Option<u32>,
    /// From one packet to the next over all hosts; 0 is as fast as possible
    #[arg(short = 'i', long, value_name = "TIME", value_parser = interval, conflicts_with = "rate")]
    interval: Option<Rate>,
    /// Packets a second over all hosts, or max [default: 40000]; agents send 500 at most
    #[arg(long, value_name = "N|max", value_parser = rate)]
    rate: Option<Rate>,
    /// Payload in bytes
    #[arg(short = 'b', long, value_name = "BYTES", default_value = "56", value_parser = args::number(0..=limits::PROBE_SIZE_MAX))]
    size: u16,
    /// Hops a packet may take
    #[arg(short = 'H', long, value_name = "N", value_parser = args::number(NonZeroU8::MIN..=NonZeroU8::MAX))]
    ttl: Option<NonZeroU8>,
    /// Type of service, as 184 or 0xb8
    #[arg(short = 'O', long, value_name = "N", value_parser = tos, default_value = "0", hide_default_value = true)]
    tos: u8,
    /// Only IPv4 addresses
    #[arg(short = '4', conflicts_with = "v6")]
    v4: bool,
    /// Only IPv6 addresses
    #[arg(short = '6')]
    v6: bool,
}

/// What is shown.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Go on until interrupted, for 24 h at most
    #[arg(short = 'l', long = "loop", conflicts_with = "count", help_heading = "Probes")]
    endless: bool,
    /// Only the names of hosts that answer somebody, one a line
    #[arg(short = 'a', long, conflicts_with_all = ["dead", "endless", "watch", "matrix", "form"])]
    alive: bool,
    /// Only the names of hosts that were looked at and answer nobody (fping's -u)
    #[arg(long, conflicts_with_all = ["endless", "watch", "matrix", "form"])]
    dead: bool,
    /// Only hosts that go down or come up, with the time, as a log; goes on as --loop
    #[arg(long, conflicts_with_all = ["count", "matrix", "form", "quiet", "show"])]
    watch: bool,
    /// A line a host for each such time, in place of a line a probe
    #[arg(long, value_name = "TIME", value_parser = with_unit, conflicts_with_all = ["watch", "matrix", "form", "alive", "dead"])]
    interval_stats: Option<Duration>,
    /// At the end a map of who reaches whom: a row for each place that looks, a column for each host
    #[arg(long, requires = "from", conflicts_with_all = ["form", "quiet", "show"])]
    matrix: bool,
    /// Agents with the same value of this label share a row and a column of the map
    #[arg(long, value_name = "LABEL", requires = "matrix")]
    pub by: Option<LabelText>,
    /// Exit with 0 if exactly so many hosts are alive (answer to somebody), and else with 1; nothing else counts
    #[arg(long, value_name = "N", value_parser = args::number(0_usize..))]
    pub expect: Option<usize>,
    /// Lines as fping's (a table on a terminal), one JSON object at the end, one JSON event a line, a CSV line a target,
    /// or Prometheus' metrics
    #[arg(id = "form", short = 'o', long = "output", value_enum, value_name = "FORM", default_value = "text")]
    pub form: Form,
    /// Which hosts have a line at their end [default: all; on a terminal the worst, as many as fit]
    #[arg(long, value_enum, value_name = "WHICH")]
    show: Option<Show>,
    /// No lines of single probes; on a terminal the table is shown at the end
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Lines, or a table
    Text,
    /// One object at the end
    Json,
    /// One event a line
    Jsonl,
    /// A line a target at the end
    Csv,
    /// Metrics at the end
    Prometheus,
}

impl Looks {
    /// What is signed. Samples are asked for only where something is made of them.
    pub fn spec(&self, output: &Output) -> Result<PingSpec, Usage> {
        let count = (!output.is_endless()).then_some(self.count);
        let several = count != Some(NonZeroU32::MIN);
        if output.interval_stats.is_some() && !several {
            return Err(Usage("--interval-stats of a single probe says nothing: add -c N or --loop".to_owned()));
        }
        let detail = if several { output.detail() } else { Detail::Ends };
        self.asked(count, detail)
    }

    /// What one round of a schedule asks, of which only the ends count.
    pub fn round(&self) -> Result<PingSpec, Usage> {
        self.asked(Some(self.count), Detail::Ends)
    }

    fn asked(&self, count: Option<NonZeroU32>, detail: Detail) -> Result<PingSpec, Usage> {
        let rate = self.rate.or(self.interval).map_or_else(|| Probes::default().rate, |rate| rate.0);
        let probes = Probes {
            count,
            period: self.period,
            timeout: self.timeout,
            // A probe that is lost is to be seen as lost, unless the question is only whether somebody is there.
            retries: self.retries.unwrap_or(u32::from(count == Some(NonZeroU32::MIN))),
            size: self.size,
            ttl: self.ttl,
            tos: self.tos,
            rate,
        };
        probes.check().map_err(|error| Usage(error.to_string()))?;
        Ok(PingSpec {
            way: match self.via {
                Via::Both => Way::Both,
                Via::Icmp => Way::Icmp,
                Via::Agent => Way::Link,
            },
            family: match (self.v4, self.v6) {
                (true, _) => Family::V4,
                (_, true) => Family::V6,
                _ => Family::Any,
            },
            detail,
            probes,
        })
    }
}

impl Output {
    /// Whether there is no end to it.
    const fn is_endless(&self) -> bool {
        self.endless || self.watch
    }

    /// What has to be told of several probes to a host.
    fn detail(&self) -> Detail {
        let lines = self.form == Form::Text && !(self.matrix || self.alive || self.dead);
        match (self.form, self.quiet && self.interval_stats.is_none()) {
            _ if self.watch => Detail::Changes,
            (Form::Text, false) if lines => Detail::Each,
            (Form::Jsonl, _) => Detail::Each,
            // Who has answered until now is counted on the way.
            _ if self.endless => Detail::Changes,
            _ => Detail::Ends,
        }
    }

    /// How the ping is shown, and how often its lines are summed up.
    pub fn style(&self, spec: &PingSpec, groups: ping::matrix::Groups) -> (ping::Style, Option<Duration>) {
        let style = match self.form {
            Form::Text if self.watch => ping::Style::Changes,
            Form::Text if self.alive => ping::Style::Hosts(Fate::Alive),
            Form::Text if self.dead => ping::Style::Hosts(Fate::Dead),
            Form::Text if self.matrix => ping::Style::Matrix(groups),
            Form::Text => ping::Style::Text {
                show: self.show,
                order: Order::Completion,
                probes: match (self.interval_stats, self.quiet) {
                    (Some(_), _) => ping::Probes::Intervals,
                    (None, true) => ping::Probes::Nothing,
                    (None, false) => ping::Probes::Lines,
                },
                payload: spec.probes.size,
            },
            Form::Json => ping::Style::Json,
            Form::Jsonl => ping::Style::Jsonl,
            Form::Csv => ping::Style::Csv,
            Form::Prometheus => ping::Style::Prometheus,
        };
        (style, self.interval_stats)
    }

    /// Whether a plan, or the id of what is not followed, is for programs. Some forms have only what was found.
    pub fn is_json(&self) -> Result<bool, Usage> {
        match self.form {
            Form::Text => Ok(false),
            Form::Json | Form::Jsonl => Ok(true),
            Form::Csv | Form::Prometheus => Err(Usage(
                "-o csv and -o prometheus show what was found: use text or json with --dry-run and -d".into(),
            )),
        }
    }
}

/// A letter that means something to fping and nothing here: what to say instead.
#[derive(Debug)]
pub struct Fping(Option<(char, &'static str)>);

/// What such letters are here.
const FPING: [(char, &str); 9] = [
    ('u', "--dead here"),
    ('f', "--hosts-file here"),
    ('g', "--cidr here"),
    ('C', "-c here; -o jsonl has each round trip"),
    ('Q', "--interval-stats here"),
    ('D', "not needed here: -o jsonl has the time of each probe"),
    ('e', "not needed here: round trips are always shown"),
    ('n', "not needed here: hosts are shown by the names they were given"),
    ('s', "not needed here: the last lines always add up"),
];

impl Fping {
    /// Refuses them.
    pub fn check(&self) -> Result<(), Usage> {
        self.0.map_or(Ok(()), |(letter, here)| Err(Usage(format!("fping's -{letter} is {here}"))))
    }
}

impl clap::Args for Fping {
    fn augment_args(command: Command) -> Command {
        // Some take a value there: with or without one they are understood.
        let unknown = |(letter, _): (char, &str)| {
            let arg = clap::Arg::new(format!("fping-{letter}")).short(letter).hide(true);
            arg.action(ArgAction::Append).num_args(0..=1)
        };
        command.args(FPING.map(unknown))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Fping {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let typed = |(letter, _): &(char, &str)| matches.value_source(&format!("fping-{letter}")).is_some();
        Ok(Self(FPING.into_iter().find(typed)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A time with its unit.
pub fn with_unit(text: &str) -> Result<Duration, String> {
    if text.parse::<f64>().is_ok() {
        return Err(format!("say the unit: {text}ms, {text}s or {text}h"));
    }
    args::duration(text)
}

/// From one packet to the next, as a rate.
fn interval(text: &str) -> Result<Rate, String> {
    if text == "0" {
        return Ok(Rate(None));
    }
    let nanos = with_unit(text)?.as_nanos();
    let rate = u32::try_from(1_000_000_000 / nanos).ok().and_then(NonZeroU32::new);
    rate.map(|rate| Rate(Some(rate))).ok_or_else(|| "use a time from 1ns to 1s, as 1ms, or 0".to_owned())
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate(None));
    }
    text.parse().map(|rate| Rate(Some(rate))).map_err(|_| "use a number of packets a second, or max".to_owned())
}

fn tos(text: &str) -> Result<u8, String> {
    let number = text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u8::from_str_radix(digits, 16));
    number.map_err(|_| "use a number from 0 to 255, or 0x00 to 0xff".to_owned())
}

#[cfg(test)]
mod tests;
