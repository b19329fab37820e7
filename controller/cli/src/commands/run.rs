//! `muster run`: a command on many hosts.
//!
//! Several words are an argv and arrive byte for byte; one word with white space or shell characters is a shell line;
//! `--sh` and `--script` say so outright. Everything that can be refused here is refused before anything is sent.

use super::launch::{self, Concurrency, Request, launch};
use super::names;
use crate::args;
use crate::client::Selection;
use crate::exit::{Exit, Usage};
use crate::settings::Settings;
use bytes::Bytes;
use clap::CommandFactory as _;
use muster_proto::command::{BlobRef, Command, EnvVar, OutputLimit, Program};
use muster_proto::limits;
use muster_proto::names::expand;
use sha2::{Digest as _, Sha256};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Options of `muster run`.
#[derive(Debug, clap::Args)]
#[command(override_usage = "muster run -w EXPR [OPTIONS] -- ARGV...\n       muster run -w EXPR [OPTIONS] 'SHELL LINE'")]
pub struct Args {
    #[command(flatten)]
    hosts: Hosts,
    #[command(flatten)]
    pace: Pace,
    #[command(flatten)]
    execution: Execution,
    #[command(flatten)]
    launch: launch::Args,
    /// Program and arguments, or one shell line; what stands after its first word is the command's, write -- before it
    #[arg(trailing_var_arg = true, value_name = "ARGV")]
    words: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Hosts")]
struct Hosts {
    /// Names, ranges as web[01-20], globs as db*, labels as role=web, or all; joined by commas
    #[arg(short = 'w', long, value_name = "EXPR")]
    targets: Option<String>,
    /// Hosts to leave out
    #[arg(short = 'x', long, value_name = "EXPR")]
    exclude: Option<String>,
    /// File with names or ranges to join, # begins a comment; - is stdin
    #[arg(long, value_name = "FILE")]
    hosts_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Pace")]
struct Pace {
    /// Hosts at work at a time, or a share of them
    #[arg(short = 'f', long, value_name = "N|N%")]
    concurrency: Option<Concurrency>,
    /// How long a host may take to start once its turn has come
    #[arg(short = 't', long, value_name = "TIME", value_parser = args::duration, default_value = "30s")]
    deliver_timeout: Duration,
    /// How long the program may run on a host
    #[arg(short = 'u', long, value_name = "TIME", value_parser = args::duration, default_value = "5m")]
    timeout: Duration,
    /// What has not started after this time never starts
    #[arg(long, value_name = "TIME", value_parser = args::duration, default_value = "1h")]
    job_timeout: Duration,
    /// From TERM to KILL when the program is ended
    #[arg(long, value_name = "TIME", value_parser = args::duration, default_value = "10s")]
    grace: Duration,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Execution")]
struct Execution {
    /// User to become on the host
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,
    /// Variable for the program; may be repeated
    #[arg(short = 'e', long = "env", value_name = "NAME=VALUE")]
    env: Vec<OsString>,
    /// Absolute directory to start in
    #[arg(long, value_name = "DIR")]
    cwd: Option<OsString>,
    /// Read all of our stdin and give it to the program on each host
    #[arg(long)]
    stdin: bool,
    /// The words, joined by spaces, are a shell line
    #[arg(long, conflicts_with = "script")]
    sh: bool,
    /// Carry this file along and execute it; the words are its arguments
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Output kept of each host, as 1M: four fifths from its beginning, the rest from its end [default: 16M and 4M];
    /// none keeps all, and a program that is faster than the link waits
    #[arg(long, value_name = "SIZE|none", value_parser = args::output_limit)]
    output_limit: Option<OutputLimit>,
}

/// Performs `muster run`.
pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Exit> {
    let typed_at = Instant::now();
    check_place(&std::env::args_os().collect::<Vec<_>>(), &args.words)?;
    args.launch.follow.check()?;
    let names_from_stdin = args.hosts.hosts_file.as_deref() == Some(Path::new("-"));
    if names_from_stdin && args.execution.stdin {
        return Err(Usage("--hosts-file - and --stdin both read stdin: put the names into a file".into()).into());
    }
    let selection = args.hosts.selection()?;
    let mut blobs = Vec::new();
    let command = command(args.words, args.execution, &args.pace, &mut blobs)?;
    let request = Request {
        verb: "run",
        typed_at,
        selection,
        command,
        blobs,
        deliver: args.pace.deliver_timeout,
        job_timeout: args.pace.job_timeout,
        concurrency: args.pace.concurrency,
    };
    launch(request, &args.launch, settings).await
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

impl Hosts {
    fn selection(self) -> Result<Selection, Usage> {
        if self.targets.is_none() && self.hosts_file.is_none() {
            return Err(Usage("no hosts are named: say which with -w, as -w 'web[01-20]' or -w all".to_owned()));
        }
        let names = self.hosts_file.map(|path| names::from_file(&path, listed)).transpose()?.unwrap_or_default();
        Ok(Selection { targets: said("-w", self.targets)?, exclude: said("-x", self.exclude)?, names })
    }
}

/// A name or a range; the controller says who bears them.
fn listed(word: &str) -> Result<String, String> {
    names::no_expression(word)?;
    expand(word, limits::TARGETS_MAX as usize).map_err(|error| format!("{word}: {error}"))?;
    Ok(word.to_owned())
}

/// The expression of an option; a blank one means nobody, and never everybody.
pub fn said(option: &str, expression: Option<String>) -> Result<String, Usage> {
    match expression {
        Some(blank) if blank.trim().is_empty() => Err(Usage(format!("{option} is empty: name hosts, or `all`"))),
        other => Ok(other.unwrap_or_default()),
    }
}

fn command(
    words: Vec<OsString>,
    execution: Execution,
    pace: &Pace,
    blobs: &mut Vec<(BlobRef, Bytes)>,
) -> Result<Command, Usage> {
    let words: Vec<Vec<u8>> = words.into_iter().map(OsString::into_vec).collect();
    let program = match execution.script {
        Some(path) => {
            let content = read_file(&path)
                .map_err(|error| Usage(format!("cannot read the script {}: {error}", path.display())))?;
            Program::Script { content: carry(content, blobs), args: words }
        }
        None if execution.sh => Program::Shell(words.join(&b' ')),
        None => program(words),
    };
    let mut command = Command::new(program);
    command.timeout = pace.timeout;
    command.grace = pace.grace;
    command.output = execution.output_limit.unwrap_or_default();
    command.run_as = execution.run_as;
    command.cwd = execution.cwd.map(OsString::into_vec);
    command.env = execution.env.iter().map(|pair| variable(pair)).collect::<Result<_, _>>()?;
    command.check().map_err(|error| Usage(error.to_string()))?;
    if execution.stdin {
        let content =
            read_whole(io::stdin().lock()).map_err(|error| Usage(format!("cannot read stdin for --stdin: {error}")))?;
        command.stdin = Some(carry(content, blobs));
    }
    Ok(command)
}

/// One word that only a shell could make sense of is a shell line; all else is an argv.
fn program(mut words: Vec<Vec<u8>>) -> Program {
    // The characters that POSIX (Shell Command Language, 2.2) has quoted, braces and white space; not '=' and '%',
    // which programs have in their names.
    let special = |byte: &u8| byte.is_ascii_whitespace() || b"|&;<>()$`\\\"'*?[]#~{}!".contains(byte);
    match words.as_mut_slice() {
        [line] if line.iter().any(special) => Program::Shell(std::mem::take(line)),
        _ => Program::Argv(words),
    }
}

fn variable(pair: &OsStr) -> Result<EnvVar, Usage> {
    let bytes = pair.as_bytes();
    let usage = || Usage(format!("-e {} has no value: write -e NAME=VALUE", pair.display()));
    let (name, value) = bytes.iter().position(|byte| *byte == b'=').map(|at| bytes.split_at(at)).ok_or_else(usage)?;
    // A name that is no UTF-8 is refused with all other bad names.
    Ok(EnvVar { name: String::from_utf8_lossy(name).into_owned(), value: value[1..].to_vec() })
}

fn carry(content: Vec<u8>, blobs: &mut Vec<(BlobRef, Bytes)>) -> BlobRef {
    let blob = BlobRef { digest: Sha256::digest(&content).into(), size: content.len() as u64 };
    if blobs.iter().all(|(known, _)| *known != blob) {
        blobs.push((blob, content.into()));
    }
    blob
}

/// All of a file, or an error if that is more than a job carries.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_whole(File::open(path)?)
}

/// All of it, or an error if that is more than a job carries.
pub fn read_whole(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limits::BLOB_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limits::BLOB_BYTES_MAX {
        let text = format!("it has more than {} MiB; copy it to the hosts another way", limits::BLOB_BYTES_MAX >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use proptest::prelude::*;

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
        command(args.words, args.execution, &args.pace, &mut Vec::new())
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
    fn nobody_is_never_everybody() {
        let selection = |words: &[&str]| parse(words).expect("options").hosts.selection();
        for (words, hint) in [
            (&["id"][..], "-w"),
            (&["-w", "", "id"], "-w"),
            (&["-w", " \t", "id"], "-w"),
            (&["-w", "all", "-x", " ", "id"], "-x"),
            (&["--hosts-file", "/dev/null", "id"], "names no host"),
        ] {
            let refused = selection(words).expect_err(hint);
            assert!(refused.0.contains(hint), "{refused}");
        }
        let chosen = selection(&["-w", "a,b", "-x", "b", "id"]).expect("a selection");
        assert_eq!((&*chosen.targets, &*chosen.exclude), ("a,b", "b"));
    }

    #[test]
    fn the_same_bytes_are_carried_once() {
        let mut blobs = Vec::new();
        let (script, stdin) = (carry(b"same".to_vec(), &mut blobs), carry(b"same".to_vec(), &mut blobs));
        assert_eq!((script, blobs.len(), script.size), (stdin, 1, 4));
        assert_eq!(script.digest[..], Sha256::digest(b"same")[..]);
    }

    proptest! {
        #[test]
        fn bytes_arrive_as_they_were_typed(words in prop::collection::vec(prop::collection::vec(1_u8.., 0..20), 2..6)) {
            prop_assume!(!words[0].is_empty() && words[0][0] != b'-');
            let typed = words.iter().map(|word| OsString::from_vec(word.clone()));
            let line = Line::try_parse_from(["run", "-w", "all", "--"].map(OsString::from).into_iter().chain(typed));
            let arrived = line.expect("options").args.words.into_iter().map(OsString::into_vec).collect();
            prop_assert_eq!(program(arrived), Program::Argv(words));
        }
    }
}
