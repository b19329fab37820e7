//! `muster run`: a command on many hosts.
//!
//! Several words are an argv and arrive byte for byte; one word with white space or shell characters is a shell line;
//! `--sh` and `--script` say so outright. Everything that can be refused here is refused before anything is sent.

mod execution;
mod hosts;
mod pace;

pub use execution::{read_file, read_whole};
pub use hosts::said;

use super::launch::{self, Request, launch};
use crate::args;
use crate::exit::{Exit, Usage};
use crate::settings::Settings;
use clap::CommandFactory as _;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

/// Options of `muster run`.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "muster run -w EXPR [OPTIONS] -- ARGV...\n       muster run -w EXPR [OPTIONS] 'SHELL LINE'\n       \
                      muster run --plan FILE"
)]
pub struct Args {
    #[command(flatten)]
    hosts: hosts::Hosts,
    #[command(flatten)]
    pace: pace::Pace,
    #[command(flatten)]
    steps: pace::Steps,
    #[command(flatten)]
    execution: execution::Execution,
    /// With --dry-run, write the plan to this new file; alone, run exactly that plan, or nothing if it fits no more; with --dry-run alone, show it
    #[arg(long, value_name = "FILE", help_heading = "Plan")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    launch: launch::Args,
    /// Program and arguments, or one shell line; what stands after its first word is the command's, write -- before it
    #[arg(trailing_var_arg = true, value_name = "ARGV")]
    words: Vec<OsString>,
}

/// Performs `muster run`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let typed_at = Instant::now();
    check_place(&std::env::args_os().collect::<Vec<_>>(), &args.words)?;
    args.launch.follow.check()?;
    if let Some(path) = args.plan.as_ref().filter(|_| !args.launch.dry_run || args.says_nothing_else()) {
        args.check_plan_alone()?;
        return launch::saved(path, typed_at, &args.launch, settings).await;
    }
    if args.hosts.read_stdin() && args.execution.reads_stdin() {
        return Err(Usage("--hosts-file - and --stdin both read stdin: put the names into a file".into()).into());
    }
    let selection = args.hosts.selection()?;
    let mut blobs = Vec::new();
    let mut command = execution::command(args.words, args.execution, &mut blobs)?;
    args.pace.apply(&mut command);
    command.check().map_err(|error| Usage(error.to_string()))?;
    let (shares, rollout) = args.pace.rollout(args.steps, &command)?;
    shares.of(&rollout, 1).check().map_err(|error| Usage(error.to_string()))?;
    let request = Request {
        verb: "run",
        typed_at,
        selection,
        command,
        blobs,
        deliver: args.pace.deliver(),
        job_timeout: args.pace.job_timeout,
        shares,
        rollout,
        repeats: None,
        save: args.plan,
    };
    launch(request, &args.launch, settings).await
}

impl Args {
    /// A saved plan says who, what and how; an option beside it would be overlooked.
    fn check_plan_alone(&self) -> Result<(), Usage> {
        match self.says_nothing_else() {
            true => Ok(()),
            false => Err(Usage(
                "--plan FILE runs what the file says: leave out hosts, command and pace, or add --dry-run to write such \
                 a file"
                    .to_owned(),
            )),
        }
    }

    fn says_nothing_else(&self) -> bool {
        self.hosts == hosts::Hosts::default()
            && self.pace == pace::Pace::default()
            && self.steps == pace::Steps::default()
            && self.execution == execution::Execution::default()
            && self.words.is_empty()
    }
}

/// Refuses our own options among the words of the command, unless a `--` before or among them says that they are meant:
/// `muster run -w all reboot --dry-run` must not reboot anything.
fn check_place(typed: &[OsString], words: &[OsString]) -> Result<(), Usage> {
    let before = typed.len().checked_sub(words.len() + 1).and_then(|place| typed.get(place));
    if before.is_some_and(|word| word == "--") {
        return Ok(());
    }
    let mut muster = args::Args::command();
    muster.build();
    let options = muster.find_subcommand("run").into_iter().flat_map(clap::Command::get_arguments);
    // A program's help is asked for in the same way as ours, and harmless.
    let ours: Vec<&str> = options.filter_map(clap::Arg::get_long).filter(|name| *name != "help").collect();
    let texts = words.iter().take_while(|word| *word != "--").filter_map(|word| word.to_str());
    let names = texts.filter_map(|word| word.strip_prefix("--")?.split('=').next());
    match { names }.find(|name| ours.contains(name)) {
        None => Ok(()),
        Some(name) => Err(Usage(format!(
            "--{name} stands after the command and would go to it: put it before the command, or write -- before the \
             command if it is meant for it"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use muster_proto::command::{Command, Program};
    use muster_proto::limits;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt as _;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Line::try_parse_from(std::iter::once(&"run").chain(words)).map(|line| line.args)
    }

    fn built(words: &[&str]) -> Result<Command, Usage> {
        let args = parse(words).expect("options");
        let mut command = execution::command(args.words, args.execution, &mut Vec::new())?;
        args.pace.apply(&mut command);
        command.check().map_err(|error| Usage(error.to_string()))?;
        Ok(command)
    }

    fn argv(words: &[&str]) -> Program {
        Program::Argv(words.iter().map(|word| word.as_bytes().to_vec()).collect())
    }

    fn shell(line: &str) -> Program {
        Program::Shell(line.as_bytes().to_vec())
    }

    #[test]
    fn words_are_what_they_look_like() {
        for (words, expected) in [
            (&["-w", "all", "--", "uname"][..], argv(&["uname"])),
            (&["-w", "all", "uname"], argv(&["uname"])),
            (&["-w", "all", "ls", "-l", "--", "a b"], argv(&["ls", "-l", "--", "a b"])),
            (&["-w", "all", "--", "echo", "$HOME", "", "it's;"], argv(&["echo", "$HOME", "", "it's;"])),
            (&["-w", "all", "--", "a=b%c"], argv(&["a=b%c"])),
            (&["-w", "all", "uname -a; id"], shell("uname -a; id")),
            (&["-w", "all", "--", "echo $((1+1))"], shell("echo $((1+1))")),
            (&["-w", "all", "--sh", "--", "echo", "$HOME", "*"], shell("echo $HOME *")),
            (&["-w", "all", "--sh", "uptime"], shell("uptime")),
        ] {
            assert_eq!(built(words).map(|command| command.program), Ok(expected), "{words:?}");
        }
    }

    #[test]
    fn an_unknown_option_is_never_a_command() {
        for words in [&["-w", "all", "--frobnicate"][..], &["--wat", "-w", "all", "--", "id"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn our_own_options_are_not_left_to_the_command() {
        let check = |line: &str| {
            let typed: Vec<_> = ["muster", "run"].into_iter().chain(line.split(' ')).map(OsString::from).collect();
            let args = Line::try_parse_from(&typed[1..]).expect("options").args;
            check_place(&typed, &args.words).map_err(|refused| refused.0)
        };
        for (line, option) in [
            ("-w a true --dry-run", "--dry-run"),
            ("-w a ls -l --timeout=5s", "--timeout"),
            ("-w a --sh echo hi --context prod", "--context"),
            ("--script s -w a first --config x", "--config"),
            ("-w a reboot --yes -- now", "--yes"),
        ] {
            let refused = check(line).expect_err(line);
            assert!(refused.starts_with(&format!("{option} stands after the command")), "{refused}");
        }
        for line in [
            "-w a -- true --dry-run",
            "-w a true",
            "-w a --dry-run true",
            "-w a muster --help",
            "-w a muster --version",
            "-w a ls -w --almost --dry-runs",
            "-w a grep -- --names file",
            "-w a --yes -- echo -- --names",
        ] {
            assert_eq!(check(line), Ok(()), "{line}");
        }
    }

    #[test]
    fn what_no_host_could_run_is_refused_here() {
        let long = "x".repeat(limits::ARGUMENT_BYTES_MAX + 1);
        for (words, hint) in [
            (&["-w", "all"][..], "empty"),
            (&["-w", "all", "--", ""], "empty"),
            (&["-w", "all", "--", "echo", &long], "--script"),
            (&["-w", "all", "-e", "A", "id"], "NAME=VALUE"),
            (&["-w", "all", "-e", "1=a", "id"], "variable"),
            (&["-w", "all", "--cwd", "tmp", "id"], "absolute"),
            (&["-w", "all", "-u", "31d", "id"], "timeout"),
            (&["-w", "all", "--script", "/nonexistent/x"], "/nonexistent/x"),
        ] {
            let refused = built(words).expect_err(hint);
            assert!(refused.0.contains(hint), "{refused}");
        }
    }

    #[test]
    fn a_saved_plan_stands_alone() {
        let alone = |words: &[&str]| parse(words).expect("options").check_plan_alone().is_ok();
        assert!(alone(&["--plan", "p", "--yes=3", "-o", "json", "-d"]));
        for more in
            [&["-w", "all"][..], &["-x", "a"], &["-u", "5m"], &["-t", "30s"], &["--sh"], &["--waves", "1"], &["id"]]
        {
            assert!(!alone(&[&["--plan", "p"], more].concat()), "{more:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_arrive_as_they_were_typed(words in prop::collection::vec(prop::collection::vec(1_u8.., 0..20), 2..6)) {
            prop_assume!(!words[0].is_empty() && words[0][0] != b'-');
            let typed = words.iter().map(|word| OsString::from_vec(word.clone()));
            let line = Line::try_parse_from(["run", "-w", "all", "--"].map(OsString::from).into_iter().chain(typed));
            let arrived = line.expect("options").args.words.into_iter().map(OsString::into_vec).collect();
            prop_assert_eq!(execution::program(arrived), Program::Argv(words));
        }
    }
}
