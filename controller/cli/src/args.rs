//! What is typed: the global options, the list of verbs, and the readers of words that several verbs take. Each verb's
//! own options are in its file.

use crate::client::{Client, ClientError};
use crate::commands;
use clap::builder::TypedValueParser;
use clap::{Parser, Subcommand, ValueEnum};
use muster_proto::command::OutputLimit;
use muster_proto::fleet::Labels;
use muster_proto::id::JobId;
use muster_proto::limits;
use std::fmt::Display;
use std::ops::{Bound, RangeBounds};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Run a command on a fleet and see every answer as it arrives.
#[derive(Debug, Parser)]
#[command(name = "muster", version, disable_help_subcommand = true)]
pub struct Args {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Controller and identity to use, by its name in the configuration; otherwise $MUSTER_CONTEXT
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Configuration file; otherwise $MUSTER_CONFIG, or muster/config.toml in your configuration directory
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a command on many hosts and see every answer as it arrives
    Run(Box<commands::run::Args>),
    /// See which hosts answer, from the controller and from agents
    Ping(Box<commands::ping::Args>),
    /// Follow a job that was started earlier, or elsewhere
    Attach(commands::attach::Args),
    /// Print the stored output of a job
    Logs(commands::logs::Args),
    /// End a job on all its hosts
    Cancel(commands::cancel::Args),
    /// Have a job hand out nothing more until it is resumed
    Pause(commands::pace::Args),
    /// Have a paused job go on
    Resume(commands::pace::Args),
    /// List the hosts that jobs have queued until they are back
    Queue(commands::pace::QueueArgs),
    /// Run the command of an earlier job again where it did not succeed
    Rerun(commands::rerun::Args),
    /// Show which hosts an expression means
    Targets(commands::targets::Args),
    /// Set, list, show or remove groups: names for expressions
    Group(commands::group::Args),
    /// List jobs, the newest first
    Jobs(commands::jobs::Args),
    /// Show a job with all its hosts
    Job(commands::job::Args),
    /// Tell why a host, or its part in a job, is as it is, and what to do
    Why(commands::why::Args),
    /// Show how the controller is, and what it has counted
    Status(commands::status::Args),
    /// List who did what; verify that the list is what was written
    Audit(commands::audit::Args),
    /// List agents; show, label, revoke or approve them
    Agents(commands::agents::Args),
    /// Make the tokens with which machines enrol
    Token(commands::token::Args),
    /// Add, list or disable the people who may sign jobs
    Operator(commands::operator::Args),
    /// Become an operator with a one-use code
    Login(commands::login::Args),
    /// Start a controller and local agents, then run a command or wait
    Dev(commands::dev::Args),
}

/// How a list is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Form {
    /// Columns for people.
    #[default]
    Text,
    /// One JSON value.
    Json,
}

/// A span of time as people write it: `90` (seconds), `30s`, `5m`, `1h30m`. Never zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    let span = match text.parse::<u32>() {
        Ok(seconds) => Duration::from_secs(seconds.into()),
        Err(_) => humantime::parse_duration(text).map_err(|_| "use a time like 30s, 5m, 1h30m or 90".to_owned())?,
    };
    if span.is_zero() { Err("it must be more than 0".to_owned()) } else { Ok(span) }
}

/// How much of a program's output is kept: `none` is no limit; else a number of bytes, or of K, M or G (of 1,024).
pub fn output_limit(text: &str) -> Result<OutputLimit, String> {
    if text == "none" {
        return Ok(OutputLimit::Unlimited);
    }
    let number = text.strip_suffix("iB").unwrap_or(text);
    let (digits, shift) = match number.char_indices().next_back() {
        Some((end, 'K' | 'k')) => (&number[..end], 10),
        Some((end, 'M' | 'm')) => (&number[..end], 20),
        Some((end, 'G' | 'g')) => (&number[..end], 30),
        _ if number.len() < text.len() => ("", 0),
        _ => (number, 0),
    };
    let most = limits::OUTPUT_KEPT_BYTES_MAX;
    match digits.parse::<u64>().map(|number| number.saturating_mul(1 << shift)) {
        Ok(bytes) if bytes <= most => Ok(OutputLimit::of_bytes(bytes)),
        Ok(_) => Err(format!("a limit is at most {}M; `none` keeps all of it", most >> 20)),
        Err(_) => Err("use a size like 512K or 16M, or `none`".to_owned()),
    }
}

/// A number within bounds.
pub fn number<T>(bounds: impl RangeBounds<T> + Clone + Send + Sync + 'static) -> impl TypedValueParser<Value = T>
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text: &str| text.parse().ok().filter(|number| bounds.contains(number)).ok_or_else(|| wanted(&bounds))
}

fn wanted<T: Display>(bounds: &impl RangeBounds<T>) -> String {
    let end = |word: &str, bound: Bound<&T>| match bound {
        Bound::Included(number) => format!(" {word} {number}"),
        Bound::Excluded(_) | Bound::Unbounded => String::new(),
    };
    format!("use a number{}{}", end("from", bounds.start_bound()), end("to", bounds.end_bound()))
}

/// A job as people name it: its id, the beginning of it, or `last`, the newest of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobRef {
    /// By its whole id.
    Id(JobId),
    /// What the controller has to look up.
    Word(String),
}

impl JobRef {
    /// Which job it is. Everything that takes a job asks here.
    pub async fn find(&self, client: &Client) -> Result<JobId, ClientError> {
        match self {
            Self::Id(id) => Ok(*id),
            Self::Word(word) => client.find_job(word).await,
        }
    }
}

/// A job by its id, the beginning of it, or `last`.
pub fn job(text: &str) -> Result<JobRef, String> {
    if let Ok(id) = text.parse() {
        return Ok(JobRef::Id(id));
    }
    // What can be filled up to an id is the beginning of one.
    let filled = format!("{text:0<26}").parse::<JobId>();
    match text {
        "" => Err("say which job: its id, the beginning of it, or last".to_owned()),
        "last" => Ok(JobRef::Word(text.to_owned())),
        _ if filled.is_ok() => Ok(JobRef::Word(text.to_lowercase())),
        _ => Err(format!("{text} is no job id: `muster jobs` lists them; the beginning of one will do, or last")),
    }
}

/// Labels as `role=web,env=prod`.
pub fn labels(text: &str) -> Result<Labels, String> {
    let mut labels = Labels::new();
    for pair in text.split(',') {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is no label: write KEY=VALUE"))?;
        let key = key.parse().map_err(|error| format!("{error}"))?;
        let value = value.parse().map_err(|error| format!("{error}"))?;
        if labels.insert(key, value).is_some() {
            return Err(format!("{pair:?} names a label twice"));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn who_types_no_number_or_no_job_is_told_what_is_wanted() {
        for (line, wanted) in [
            ("run -w all --yes=x true", "use a number"),
            ("run -w all --output-limit much true", "use a size like 512K or 16M, or `none`"),
            ("run -w all --output-limit 1.5M true", "use a size like 512K or 16M, or `none`"),
            ("run -w all --output-limit 65M true", "a limit is at most 64M; `none` keeps all of it"),
            ("run -w all --output-limit 99999999999G true", "a limit is at most 64M; `none` keeps all of it"),
            ("token create --uses x", "use a number from 1"),
            ("jobs -n 0", "use a number from 1 to 1000"),
            ("dev --agents 501", "use a number from 1 to 500"),
            ("attach nope", "nope is no job id: `muster jobs` lists them"),
            ("job nope", "nope is no job id"),
            ("logs nope", "nope is no job id"),
            ("cancel nope", "nope is no job id"),
            ("rerun nope --failed", "nope is no job id"),
        ] {
            let words = std::iter::once("muster").chain(line.split(' '));
            let refused = Args::try_parse_from(words).expect_err(wanted).to_string();
            assert!(refused.lines().next().is_some_and(|line| line.contains(wanted)), "{refused}");
        }
    }

    #[test]
    fn a_job_is_named_by_its_id_or_the_beginning_of_it() {
        let id = JobId::from_bytes([7; 16]);
        assert_eq!(job(&id.to_string()), Ok(JobRef::Id(id)));
        assert_eq!(job("06AY"), Ok(JobRef::Word("06ay".into())));
        assert_eq!(job("last"), Ok(JobRef::Word("last".into())));
        for bad in ["", "nope", "9", "06ay-", &format!("{id}0")] {
            assert!(job(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_number_is_read_as_what_its_option_holds() {
        let id = JobId::from_bytes([0; 16]);
        for line in ["run -w all --yes=3 true", "token create --uses 3", "jobs -n 3", "dev --agents 3"] {
            let words = std::iter::once("muster").chain(line.split(' '));
            assert!(Args::try_parse_from(words).is_ok(), "{line}");
        }
        assert!(Args::try_parse_from(["muster", "attach", &id.to_string(), "--after", "3"]).is_ok());
    }

    #[test]
    fn sizes_are_split_and_none_is_all() {
        assert_eq!(output_limit("none"), Ok(OutputLimit::Unlimited));
        assert_eq!(output_limit("0"), Ok(OutputLimit::Kept { head: 0, tail: 0 }));
        assert_eq!(output_limit("5k"), Ok(OutputLimit::Kept { head: 4096, tail: 1024 }));
        assert_eq!(output_limit("20M"), Ok(OutputLimit::default()));
        assert_eq!(output_limit("20MiB"), Ok(OutputLimit::default()));
        for text in ["", "M", "-1", "1T", "None", "1iB", "1MB", "iB", "\u{20ac}"] {
            assert!(output_limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_finite_and_not_zero() {
        for (text, seconds) in [("90", 90), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("1h 30m", 5400)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "0", "0s", "-1", "soon", "5 parsecs", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn labels_are_pairs_of_words() {
        assert_eq!(labels("role=web,env=prod").map(|labels| labels.len()), Ok(2));
        for text in ["", "role", "role=", "=web", "role=web,", "role=web,role=db", "Role=web", "a=b=c"] {
            assert!(labels(text).is_err(), "{text}");
        }
    }
}
