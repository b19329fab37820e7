//! What the command line and the environment say, as values. Nothing else in this crate reads either.

use crate::clock::Clock;
#[cfg(doc)]
use crate::policy;
use muster_proto::id::ClusterId;
use muster_proto::name::HostName;
use muster_proto::token::{Token, TokenKind};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use tracing::Level;

/// What was asked for.
pub enum Invocation {
    /// Get a name and a certificate.
    Enroll(Enroll),
    /// Be an agent.
    Run(Run),
    /// Be the supervisor of one task; started by the agent alone.
    Supervise(PathBuf),
    /// Say this on stdout and end.
    Say(String),
}

/// `muster-agent enroll`.
pub struct Enroll {
    /// `HOST:PORT` of the controller's enrolment listener.
    pub controller: String,
    /// The name to ask for; `None` is the host's.
    pub name: Option<HostName>,
    /// Where the agent keeps everything.
    pub state: PathBuf,
    /// Why the controller should say yes.
    pub credential: Credential,
}

/// What an enrolment rests on.
#[derive(Debug)]
pub enum Credential {
    /// A join token that somebody created for this machine.
    Token(Token),
    /// Nothing: an operator approves the fingerprint. The pin says which controller to believe.
    Approval {
        /// Which installation.
        cluster: ClusterId,
        /// SHA-256 of its controller CA's certificate.
        pin: [u8; 32],
    },
}

/// `muster-agent run`.
pub struct Run {
    /// How the agent is set up.
    pub settings: Settings,
    /// How it logs.
    pub log: Log,
    /// What ends it besides signals.
    pub until: Until,
    /// How this process was started.
    pub own: CommandLine,
}

/// How a process was started, so that it can be started again from what is there by then.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// The path that was typed, or else that of the running program.
    pub program: PathBuf,
    /// What it was given.
    pub arguments: Vec<OsString>,
}

impl CommandLine {
    fn from_env() -> Self {
        let mut words = std::env::args_os();
        // A path leads to whatever an upgrade puts there; the running program may be gone by then.
        let typed = words.next().map(PathBuf::from).filter(|program| program.components().count() > 1);
        let program = typed.or_else(|| std::env::current_exe().ok()).unwrap_or_else(|| "/proc/self/exe".into());
        Self { program, arguments: words.collect() }
    }
}

/// How an agent is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it keeps everything.
    pub state: PathBuf,
    /// The program that is executed as `PROGRAM supervise DIR` for each task.
    pub supervisor_exe: PathBuf,
    /// What its host's owner allows; `None` is [`policy::DEFAULT_PATH`], which need not exist.
    pub policy: Option<PathBuf>,
    /// What it takes for the time.
    pub clock: Clock,
}

/// How log lines look and which there are.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// Their form.
    pub format: LogFormat,
    /// The least important that is shown.
    pub level: Level,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// What ends an agent besides SIGTERM and SIGINT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Nothing.
    Signal,
    /// The end of its stdin, so that a fleet of tests does not outlive the test.
    StdinEof,
}

/// The command line cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// No verb.
    #[error("say what to do: `muster-agent enroll`, `muster-agent run` or `muster-agent --help`")]
    Nothing,
    /// Another verb.
    #[error("there is no command {0:?}: use `enroll` or `run`")]
    Command(String),
    /// An option, or its form.
    #[error("{0}: see `muster-agent --help`")]
    Option(String),
    /// An option's value.
    #[error("{option}: {reason}")]
    Value {
        /// Which option.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Enrolment without an address.
    #[error("say where the controller is: --controller HOST:PORT (its enrolment port, 7445 by default)")]
    NoController,
    /// Enrolment without a reason.
    #[error("give a token with --token-file FILE (`-` is stdin), or --pin CLUSTER:SHA256HEX to ask for approval")]
    NoCredential,
    /// Enrolment with two reasons.
    #[error("give one of --token-file, TOKEN and --pin, not several")]
    Credentials,
    /// No home.
    #[error("there is no HOME to keep state in: give --state DIR")]
    NoState,
}

impl From<lexopt::Error> for UsageError {
    /// Not as a source: its text is all there is to it, and would be told twice.
    fn from(error: lexopt::Error) -> Self {
        Self::Option(error.to_string())
    }
}

const HELP: &str = "\
muster-agent: runs what an operator of Muster signed, and tells what happened

Usage:
  muster-agent enroll --controller HOST:PORT --token-file FILE
  muster-agent enroll --controller HOST:PORT --pin CLUSTER:HEX
  muster-agent run

enroll: get a name, with a join token or by an operator's approval
      --controller HOST:PORT   the controller's enrolment listener; a token may
                               carry it
      --token-file FILE        a file with the join token; `-` is stdin
      TOKEN                    the token itself; other users can see it in the
                               list of processes
      --pin CLUSTER:HEX        without a token: what `muster-controller init`
                               printed; the fingerprint of this machine's key
                               is shown for an operator to compare and approve
      --name NAME              the name to ask for; default: the host's name in
                               lower case

run: be an agent
      --policy FILE            what this host allows its controller; default:
                               /etc/muster/policy.toml, if it is there
      --log-format text|json   form of the log on stderr; how much it says:
                               MUSTER_LOG=debug|info|warn
      --exit-on-stdin-eof      end when stdin closes: for fleets in tests
      SIGHUP                   start again in place, from whatever program is at
                               the same path by then; tasks go on

Both:
      --state DIR              default: /var/lib/muster-agent for root, else
                               $XDG_STATE_HOME/muster-agent or
                               ~/.local/state/muster-agent
  -h, --help    -V, --version
";

impl Invocation {
    /// Understands the command line of this process.
    pub fn from_env() -> Result<Self, UsageError> {
        Self::parse(std::env::args_os().skip(1))
    }

    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        use lexopt::Arg::{Long, Short, Value};
        let mut parser = lexopt::Parser::from_args(arguments);
        match parser.next()? {
            None => Err(UsageError::Nothing),
            Some(Short('h') | Long("help")) => Ok(Self::Say(HELP.to_owned())),
            Some(Short('V') | Long("version")) => Ok(Self::Say(version())),
            Some(Value(verb)) if verb == "enroll" || verb == "enrol" => enroll(parser),
            Some(Value(verb)) if verb == "run" => run(parser),
            Some(Value(verb)) if verb == "supervise" => Ok(Self::Supervise(parser.value()?.into())),
            Some(Value(verb)) => Err(UsageError::Command(verb.to_string_lossy().into_owned())),
            Some(other) => Err(other.unexpected().into()),
        }
    }
}

fn version() -> String {
    format!("muster-agent {}\n", env!("CARGO_PKG_VERSION"))
}

fn enroll(mut parser: lexopt::Parser) -> Result<Invocation, UsageError> {
    use lexopt::Arg::{Long, Short, Value};
    let (mut controller, mut name, mut state) = (None, None, None);
    let mut credentials = Vec::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("controller") => controller = Some(text("--controller", parser.value()?)?),
            Long("name") => name = Some(parsed("--name", parser.value()?)?),
            Long("state") => state = Some(parser.value()?.into()),
            Long("token-file") => credentials.push(Credential::Token(token_file(&parser.value()?)?)),
            Long("pin") => credentials.push(pin(&text("--pin", parser.value()?)?)?),
            Value(word) => credentials.push(Credential::Token(token("TOKEN", &text("TOKEN", word)?)?)),
            Short('h') | Long("help") => return Ok(Invocation::Say(HELP.to_owned())),
            other => return Err(other.unexpected().into()),
        }
    }
    let credential = credentials.pop().ok_or(UsageError::NoCredential)?;
    if !credentials.is_empty() {
        return Err(UsageError::Credentials);
    }
    let carried = match &credential {
        Credential::Token(token) if !token.address.is_empty() => Some(token.address.clone()),
        Credential::Token(_) | Credential::Approval { .. } => None,
    };
    let controller = controller.or(carried).ok_or(UsageError::NoController)?;
    host_of(&controller).ok_or_else(|| UsageError::Value {
        option: "--controller",
        reason: format!("{controller:?} is not HOST:PORT"),
    })?;
    Ok(Invocation::Enroll(Enroll { controller, name, state: state_or_default(state)?, credential }))
}

fn run(mut parser: lexopt::Parser) -> Result<Invocation, UsageError> {
    use lexopt::Arg::{Long, Short};
    let (mut state, mut policy, mut format, mut until) = (None, None, LogFormat::Text, Until::Signal);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("state") => state = Some(parser.value()?.into()),
            Long("policy") => policy = Some(parser.value()?.into()),
            Long("log-format") => {
                format = match text("--log-format", parser.value()?)?.as_str() {
                    "text" => LogFormat::Text,
                    "json" => LogFormat::Json,
                    other => {
                        let reason = format!("{other:?} is neither text nor json");
                        return Err(UsageError::Value { option: "--log-format", reason });
                    }
                }
            }
            Long("exit-on-stdin-eof") => until = Until::StdinEof,
            Short('h') | Long("help") => return Ok(Invocation::Say(HELP.to_owned())),
            other => return Err(other.unexpected().into()),
        }
    }
    let settings = Settings {
        state: state_or_default(state)?,
        supervisor_exe: PathBuf::from("/proc/self/exe"),
        policy,
        clock: Clock::default(),
    };
    let log = Log { format, level: level()? };
    Ok(Invocation::Run(Run { settings, log, until, own: CommandLine::from_env() }))
}

/// The host in `HOST:PORT`, with the brackets of an IPv6 address; `None` if it is no such thing.
pub fn host_of(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    (!host.is_empty() && bare && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(host)
}

fn text(option: &'static str, value: OsString) -> Result<String, UsageError> {
    value.into_string().map_err(|_| UsageError::Value { option, reason: "the value is not UTF-8".to_owned() })
}

fn parsed<T: std::str::FromStr<Err: ToString>>(option: &'static str, value: OsString) -> Result<T, UsageError> {
    text(option, value)?.parse().map_err(|error: T::Err| UsageError::Value { option, reason: error.to_string() })
}

fn token(option: &'static str, word: &str) -> Result<Token, UsageError> {
    let wrong = |reason: String| UsageError::Value { option, reason };
    let token: Token = word.parse().map_err(|error: muster_proto::token::ParseTokenError| wrong(error.to_string()))?;
    match token.kind {
        TokenKind::Join => Ok(token),
        TokenKind::Login => Err(wrong("this code is for `muster login`; agents take `muster token create`".to_owned())),
    }
}

fn token_file(path: &OsStr) -> Result<Token, UsageError> {
    /// A token has some 130 characters.
    const TOKEN_FILE_BYTES_MAX: u64 = 4 << 10;
    let mut word = String::new();
    let read = if path == "-" {
        io::stdin().lock().take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut word)
    } else {
        fs::File::open(path).and_then(|file| file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut word))
    };
    read.map_err(|error| UsageError::Value {
        option: "--token-file",
        reason: format!("cannot read {}: {error}", Path::new(path).display()),
    })?;
    token("--token-file", &word)
}

/// `CLUSTER:SHA256HEX`, as `muster-controller init` prints it.
fn pin(word: &str) -> Result<Credential, UsageError> {
    let parse = || {
        let (cluster, hex) = word.split_once(':')?;
        let mut pin = [0; 32];
        if hex.len() != 64 || !hex.is_ascii() {
            return None;
        }
        for (place, byte) in pin.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * place..2 * place + 2], 16).ok()?;
        }
        Some(Credential::Approval { cluster: cluster.parse().ok()?, pin })
    };
    let reason = || "use the CLUSTER:SHA256HEX that `muster-controller init` printed".to_owned();
    parse().ok_or_else(|| UsageError::Value { option: "--pin", reason: reason() })
}

fn state_or_default(given: Option<PathBuf>) -> Result<PathBuf, UsageError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    given
        .or_else(|| rustix::process::geteuid().is_root().then(|| PathBuf::from("/var/lib/muster-agent")))
        .or_else(|| set("XDG_STATE_HOME").map(|home| home.join("muster-agent")))
        .or_else(|| set("HOME").map(|home| home.join(".local/state/muster-agent")))
        .ok_or(UsageError::NoState)
}

fn level() -> Result<Level, UsageError> {
    match std::env::var("MUSTER_LOG").as_deref() {
        Err(_) | Ok("" | "info") => Ok(Level::INFO),
        Ok("debug") => Ok(Level::DEBUG),
        Ok("warn") => Ok(Level::WARN),
        Ok(other) => {
            let reason = format!("{other:?} is none of debug, info, warn");
            Err(UsageError::Value { option: "MUSTER_LOG", reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Invocation, String> {
        Invocation::parse(line.iter().map(Into::into)).map_err(|error| error.to_string())
    }

    fn join(kind: TokenKind, address: &str) -> String {
        let token = Token {
            kind,
            cluster: ClusterId::from_bytes([1; 16]),
            pin: [2; 32],
            secret: [3; 32],
            address: address.into(),
        };
        token.to_string()
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for (address, host) in [("a:1", Some("a")), ("[::1]:7445", Some("[::1]")), ("10.0.0.1:65535", Some("10.0.0.1"))]
        {
            assert_eq!(host_of(address), host);
        }
        for bad in ["", "a", ":1", "a:", "a:0", "a:65536", "::1:7445", "a:b"] {
            assert_eq!(host_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn help_fits_a_terminal() {
        for line in HELP.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn a_wrong_option_is_told_once() {
        let error = Invocation::parse(["run", "--bogus"].map(Into::into)).err().expect("refused");
        assert_eq!(format!("{:#}", anyhow::Error::from(error)), "invalid option '--bogus': see `muster-agent --help`");
    }

    #[test]
    fn an_enrolment_needs_an_address_and_one_credential() {
        let token = join(TokenKind::Join, "");
        let Ok(Invocation::Enroll(enroll)) = parse(&["enroll", "--controller", "c:7445", "--name", "web01", &token])
        else {
            panic!("a good line");
        };
        assert_eq!((enroll.controller.as_str(), enroll.name.expect("a name").as_str()), ("c:7445", "web01"));
        let Ok(Invocation::Enroll(enroll)) = parse(&["enroll", &join(TokenKind::Join, "d:1")]) else {
            panic!("the token carries the address");
        };
        assert_eq!(enroll.controller, "d:1");

        let pin = format!("{}:{}", ClusterId::from_bytes([7; 16]), "0a".repeat(32));
        let Ok(Invocation::Enroll(enroll)) = parse(&["enroll", "--controller=c:1", "--pin", &pin]) else {
            panic!("a good pin");
        };
        assert!(matches!(enroll.credential, Credential::Approval { pin, .. } if pin == [10; 32]));

        for (line, part) in [
            (vec!["enroll", token.as_str()], "--controller"),
            (vec!["enroll", "--controller", "c:1"], "--token-file"),
            (vec!["enroll", "--controller", "c", token.as_str()], "HOST:PORT"),
            (vec!["enroll", "--controller", "c:1", "--pin", &pin, token.as_str()], "not several"),
            (vec!["enroll", "--controller", "c:1", "--pin", "abc"], "CLUSTER:SHA256HEX"),
            (vec!["enroll", "--controller", "c:1", "nonsense"], "muster-"),
            (vec!["enroll", "--controller", "c:1", &join(TokenKind::Login, "")], "muster login"),
            (vec!["enroll", "--name", "A b"], "a-z"),
            (vec!["enroll", "--token-file", "/nonexistent/file"], "/nonexistent/file"),
            (vec![], "muster-agent run"),
            (vec!["start"], "start"),
            (vec!["run", "--fast"], "--fast"),
            (vec!["run", "--log-format", "xml"], "xml"),
        ] {
            let error = parse(&line).err().unwrap_or_else(|| panic!("{line:?} was taken"));
            assert!(error.contains(part), "{line:?}: {error}");
        }
    }
}
