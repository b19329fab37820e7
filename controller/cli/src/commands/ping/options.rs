//! What may be typed behind `muster ping`, and what it means: whom, how, and what is shown of it.
//!
//! The letters are fping's, but for those that all of `muster` has: `-t` is the window of an agent that looks, and a
//! timeout is `--timeout`. A time needs its unit here, so that nobody who types fping's milliseconds waits for as many
//! seconds.

use crate::args;
use crate::commands::run::{host_names, said};
use crate::exit::Usage;
use crate::show::ping;
use crate::track::{Order, Show};
use clap::ValueEnum;
use muster_proto::limits;
use muster_proto::name::LabelText;
use muster_proto::ping::{ControllerLooks, Detail, Family, PingSelection, PingSpec, Probes, Way};
use std::num::{NonZeroU8, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

/// Who is looked at, and from where.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Hosts")]
pub struct Hosts {
    /// Agents: names, ranges as web[01-20], globs as db*, labels as role=web, or all; names that no agent bears, and
    /// addresses, are hosts too
    #[arg(short = 'w', long, value_name = "EXPR")]
    targets: Option<String>,
    /// Hosts to leave out
    #[arg(short = 'x', long, value_name = "EXPR")]
    exclude: Option<String>,
    /// File with names, ranges or addresses, # begins a comment; - is stdin
    #[arg(long, value_name = "FILE")]
    hosts_file: Option<PathBuf>,
    /// All addresses of a network, as 10.0.0.0/22; may be repeated
    #[arg(long, value_name = "NET")]
    cidr: Vec<String>,
    /// Hosts, with or without an agent: names, ranges as web[01-20], addresses
    #[arg(value_name = "HOST")]
    hosts: Vec<String>,
    /// Agents that look as well, each at every host
    #[arg(long, value_name = "EXPR")]
    from: Option<String>,
    /// Only the agents of --from look
    #[arg(long, requires = "from")]
    no_controller: bool,
    /// Each host is looked at by only so many of the agents of --from
    #[arg(long, value_name = "K", requires = "from")]
    sample: Option<NonZeroU32>,
}

impl Hosts {
    /// As the controller resolves it.
    pub fn selection(self) -> Result<PingSelection, Usage> {
        let file = self.hosts_file.map(|path| host_names(&path)).transpose()?;
        if self.targets.is_none() && self.hosts.is_empty() && self.cidr.is_empty() && file.is_none() {
            return Err(Usage("no hosts are named: say which, as web[01-20], 10.0.0.7, --cidr NET or -w EXPR".into()));
        }
        // A host may be called so, but hardly is, and nobody means that one.
        if let Some(word) = self.hosts.iter().find(|word| *word == "all" || word.contains(['=', '*', '!'])) {
            return Err(Usage(format!("{word} is an expression over agents: say -w '{word}'")));
        }
        let from = self.from.map(|from| said("--from", Some(from))).transpose()?;
        Ok(PingSelection {
            targets: said("-w", self.targets)?,
            exclude: said("-x", self.exclude)?,
            hosts: self.hosts.into_iter().chain(file.unwrap_or_default()).collect(),
            networks: self.cidr,
            from,
            controller: if self.no_controller { ControllerLooks::No } else { ControllerLooks::Yes },
            sample: self.sample,
        })
    }
}

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
    #[arg(short = 'c', long, value_name = "N", default_value = "1")]
    count: NonZeroU32,
    /// Go on until interrupted, for 24 h at most
    #[arg(short = 'l', long = "loop", conflicts_with = "count")]
    endless: bool,
    /// From one probe of a host to its next
    #[arg(short = 'p', long, value_name = "TIME", value_parser = with_unit, default_value = "1s")]
    period: Duration,
    /// Wait for each answer (fping's -t)
    #[arg(long, value_name = "TIME", value_parser = with_unit, default_value = "500ms")]
    timeout: Duration,
    /// How often a probe without an answer is repeated
    #[arg(short = 'r', long, value_name = "N", default_value = "1")]
    retries: u32,
    /// From one packet to the next over all hosts; 0 is as fast as possible
    #[arg(short = 'i', long, value_name = "TIME", value_parser = interval, conflicts_with = "rate")]
    interval: Option<Rate>,
    /// Packets a second over all hosts, or max [default: 40000]; agents send 500 at most
    #[arg(long, value_name = "N|max", value_parser = rate)]
    rate: Option<Rate>,
    /// Payload in bytes
    #[arg(short = 'b', long, value_name = "BYTES", default_value = "56")]
    size: u16,
    /// Hops a packet may take
    #[arg(short = 'H', long, value_name = "N")]
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
    /// Only the names of hosts that answer, one a line
    #[arg(short = 'a', long, conflicts_with_all = ["dead", "endless", "watch", "matrix", "form"])]
    alive: bool,
    /// Only the names of the others (fping's -u)
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
    /// Exit with 0 if exactly so many hosts are alive (answer to somebody), and else with 1, whatever the others did
    #[arg(long, value_name = "N")]
    pub expect: Option<usize>,
    /// Lines as fping's (a table on a terminal), one JSON object at the end, one JSON event a line, a CSV line a target,
    /// or Prometheus' metrics
    #[arg(id = "form", short = 'o', long = "output", value_enum, value_name = "FORM", default_value = "text")]
    pub form: Form,
    /// Which hosts have a line at their end [default: all; on a terminal the worst, as many as fit]
    #[arg(long, value_enum, value_name = "WHICH")]
    show: Option<Show>,
    /// Only the last line
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
    /// Whether there is no end to it.
    const fn is_endless(&self, output: &Output) -> bool {
        self.endless || output.watch
    }

    /// From the signature to the moment at which all must have begun: a ping that ends by itself has an hour more than it
    /// needs, and one that does not has all that a job may take.
    pub fn job_timeout(&self, output: &Output) -> Result<Duration, Usage> {
        if self.is_endless(output) {
            return Ok(limits::START_BEFORE_MAX);
        }
        let needs = self.period.saturating_mul(self.count.get());
        if needs >= limits::START_BEFORE_MAX {
            let most = limits::START_BEFORE_MAX.as_secs() / 3_600;
            return Err(Usage(format!("{} probes would take more than {most} h: ask for fewer", self.count)));
        }
        Ok(needs.saturating_add(limits::START_BEFORE_DEFAULT).min(limits::START_BEFORE_MAX))
    }

    /// What is signed. Samples are asked for only where something is made of them.
    pub fn spec(&self, output: &Output) -> Result<PingSpec, Usage> {
        let endless = self.is_endless(output);
        let several = endless || self.count.get() > 1;
        if output.interval_stats.is_some() && !several {
            return Err(Usage("--interval-stats of a single probe says nothing: add -c N or --loop".to_owned()));
        }
        let lines = output.form == Form::Text && !(output.quiet || output.matrix || output.alive || output.dead);
        let detail = match (output.watch, several && (lines || output.form == Form::Jsonl)) {
            (true, _) => Detail::Changes,
            (_, true) => Detail::Each,
            _ => Detail::Ends,
        };
        self.asked((!endless).then_some(self.count), detail)
    }

    /// What one round of a schedule asks, of which only the ends count.
    pub fn round(&self) -> Result<PingSpec, Usage> {
        self.asked((!self.endless).then_some(self.count), Detail::Ends)
    }

    fn asked(&self, count: Option<NonZeroU32>, detail: Detail) -> Result<PingSpec, Usage> {
        let rate = self.rate.or(self.interval).map_or_else(|| Probes::default().rate, |rate| rate.0);
        let probes = Probes {
            count,
            period: self.period,
            timeout: self.timeout,
            retries: self.retries,
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
    /// How the ping is shown, and how often its lines are summed up.
    pub fn style(&self, spec: &PingSpec, groups: ping::matrix::Groups) -> (ping::Style, Option<Duration>) {
        let style = match self.form {
            _ if self.quiet => ping::Style::Quiet,
            Form::Text if self.watch => ping::Style::Changes,
            Form::Text if self.alive => ping::Style::Names(Show::Ok),
            Form::Text if self.dead => ping::Style::Names(Show::Failed),
            Form::Text if self.matrix => ping::Style::Matrix(groups),
            Form::Text => ping::Style::Text {
                show: self.show,
                order: Order::Completion,
                probes: if self.interval_stats.is_some() { ping::Probes::Intervals } else { ping::Probes::Lines },
                payload: spec.probes.size,
            },
            Form::Json => ping::Style::Json,
            Form::Jsonl => ping::Style::Jsonl,
            Form::Csv => ping::Style::Csv,
            Form::Prometheus => ping::Style::Prometheus,
        };
        (style, self.interval_stats)
    }
}

/// A time with its unit.
pub fn with_unit(text: &str) -> Result<Duration, String> {
    if text.parse::<f64>().is_ok() {
        return Err(format!("say the unit: {text}ms or {text}s"));
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
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        hosts: Hosts,
        #[command(flatten)]
        looks: Looks,
        #[command(flatten)]
        output: Output,
    }

    fn parse(line: &str) -> Result<Line, String> {
        Line::try_parse_from(std::iter::once("ping").chain(line.split_whitespace())).map_err(|error| error.to_string())
    }

    fn spec(line: &str) -> Result<PingSpec, String> {
        let Line { looks, output, .. } = parse(line)?;
        looks.spec(&output).map_err(|error| error.0)
    }

    #[test]
    fn options_mean_what_they_mean_in_fping() {
        let usual = spec("web01").expect("a ping");
        assert_eq!((usual.probes, usual.way, usual.detail), (Probes::default(), Way::Both, Detail::Ends));
        let line = "a -c 5 -p 20ms --timeout 1s -r 3 -i 1ms -b 1000 -H 9 -O 0xb8 -6 --via icmp";
        let spec = spec(line).expect("a ping");
        let probes = Probes {
            count: NonZeroU32::new(5),
            period: Duration::from_millis(20),
            timeout: Duration::from_secs(1),
            retries: 3,
            size: 1000,
            ttl: NonZeroU8::new(9),
            tos: 0xb8,
            rate: NonZeroU32::new(1_000),
        };
        assert_eq!((spec.probes, spec.way, spec.family), (probes, Way::Icmp, Family::V6));
    }

    #[test]
    fn samples_are_asked_for_only_where_they_are_shown() {
        for (line, detail) in [
            ("a", Detail::Ends),
            ("a -c 3", Detail::Each),
            ("a -l", Detail::Each),
            ("a -l --interval-stats 10s", Detail::Each),
            ("a -c 3 -o jsonl", Detail::Each),
            ("a -o jsonl", Detail::Ends),
            ("a -c 3 -o json", Detail::Ends),
            ("a -c 3 -q", Detail::Ends),
            ("a -c 3 -a", Detail::Ends),
            ("a --watch", Detail::Changes),
        ] {
            assert_eq!(spec(line).map(|spec| spec.detail), Ok(detail), "{line}");
        }
        assert_eq!(spec("a --watch").map(|spec| spec.probes.count), Ok(None));
    }

    #[test]
    fn a_ping_has_the_time_it_needs_and_no_more_than_a_day() {
        let timeout = |line: &str| {
            let Line { looks, output, .. } = parse(line).expect("options");
            looks.job_timeout(&output).map(|span| span.as_secs())
        };
        assert_eq!(timeout("a"), Ok(3_601));
        assert_eq!(timeout("a -c 600"), Ok(4_200));
        assert_eq!(timeout("a -c 84000"), Ok(86_400));
        assert_eq!((timeout("a -l"), timeout("a --watch")), (Ok(86_400), Ok(86_400)));
        assert!(timeout("a -c 86400").is_err());
    }

    #[test]
    fn nobody_is_never_everybody_and_an_expression_is_no_host() {
        let selection = |line: &str| parse(line).expect("options").hosts.selection().map_err(|error| error.0);
        for (line, hint) in [
            ("-c 3", "no hosts are named"),
            ("all", "-w 'all'"),
            ("role=web", "-w 'role=web'"),
            ("web*", "-w 'web*'"),
            ("--hosts-file /dev/null", "names no host"),
        ] {
            let refused = selection(line).expect_err(hint);
            assert!(refused.contains(hint), "{refused}");
        }
        let chosen = selection("-w all -x b --cidr 10.0.0.0/30 --from n[1-2] --no-controller --sample 1 web[1-2] ::1")
            .expect("a selection");
        assert_eq!((&*chosen.targets, &*chosen.exclude, chosen.from.as_deref()), ("all", "b", Some("n[1-2]")));
        assert_eq!(
            (chosen.hosts, chosen.networks),
            (vec!["web[1-2]".into(), "::1".into()], vec!["10.0.0.0/30".into()])
        );
        assert_eq!((chosen.controller, chosen.sample), (ControllerLooks::No, NonZeroU32::new(1)));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_remedy() {
        for (line, hint) in [
            ("a -p 100", "100ms or 100s"),
            ("a -i 2s", "1ms, or 0"),
            ("a -i 1ms --rate 5", "cannot be used with"),
            ("a --rate 0", "or max"),
            ("a -O 256", "0xff"),
            ("a -c 3 -l", "cannot be used with"),
            ("a -a -l", "cannot be used with"),
            ("a --watch -o json", "cannot be used with"),
            ("a --matrix", "--from"),
            ("a --interval-stats 1s", "--loop"),
            ("a -p 1ms", "period is from"),
            ("a -b 65500", "bytes of payload"),
        ] {
            let refused = spec(line).expect_err(hint);
            assert!(refused.contains(hint), "{line}: {refused}");
        }
        assert_eq!(spec("a -i 0").map(|spec| spec.probes.rate), Ok(None));
        assert_eq!(spec("a --rate max").map(|spec| spec.probes.rate), Ok(None));
        assert_eq!(spec("a -i 25us").map(|spec| spec.probes.rate), Ok(NonZeroU32::new(40_000)));
    }
}
