//! A program to run on a host, exactly as the operator meant it.

use crate::limits;
use bytes::Bytes;
use std::fmt;
use std::time::Duration;

/// A program with everything that belongs to its execution. Valid once [`Command::check`] has passed, and every
/// constructor of a [`crate::job::JobSpec`] calls it.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// What to execute.
    pub program: Program,
    /// Additions to the clean environment, in order.
    pub env: Vec<EnvVar>,
    /// User to become; `None` is the agent's own.
    pub run_as: Option<String>,
    /// Absolute directory to start in; `None` is `/`.
    pub cwd: Option<Vec<u8>>,
    /// What the program reads; `None` is `/dev/null`.
    pub stdin: Option<BlobRef>,
    /// From start to TERM, on a clock that counts suspend.
    pub timeout: Duration,
    /// From TERM to KILL.
    pub grace: Duration,
    /// How much output is kept.
    pub output: OutputLimit,
}

/// What is handed to execve(2).
#[derive(Clone, PartialEq, Eq)]
pub enum Program {
    /// Words, verbatim; the first is looked up in `PATH`.
    Argv(Vec<Vec<u8>>),
    /// A line for `/bin/sh -c`.
    Shell(Vec<u8>),
    /// A file that is carried along and executed with these arguments.
    Script {
        /// The file.
        content: BlobRef,
        /// Its arguments.
        args: Vec<Vec<u8>>,
    },
}

impl Program {
    /// What is executed as one line for people: at most [`limits::TITLE_CHARS_MAX`] characters, then "…".
    pub fn title(&self) -> String {
        let line = self.to_string();
        match line.char_indices().nth(limits::TITLE_CHARS_MAX) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }

    /// What is executed, as words for programs: a shell line with its shell, a script by its digest. The first
    /// `max_bytes` of them, each word counted with its end; where more were cut off, the last word ends in "…".
    pub fn words(&self, max_bytes: usize) -> Vec<Bytes> {
        let own = |words: &[Vec<u8>]| words.iter().map(|word| Bytes::copy_from_slice(word)).collect::<Vec<_>>();
        let words = match self {
            Self::Argv(words) => own(words),
            Self::Shell(line) => own(&[b"/bin/sh".to_vec(), b"-c".to_vec(), line.clone()]),
            Self::Script { content, args } => {
                let digest = content.digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                let mut words = vec![format!("script:{digest}").into()];
                words.extend(own(args));
                words
            }
        };
        let (mut kept, mut room) = (Vec::new(), max_bytes);
        for word in words {
            let Some(rest) = room.checked_sub(word.len() + 1) else {
                // Not within a character: text stays text.
                let end = (0..room).rev().find(|&end| word[end] & 0xc0 != 0x80).unwrap_or(0);
                kept.push([&word[..end], "…".as_bytes()].concat().into());
                break;
            };
            room = rest;
            kept.push(word);
        }
        kept
    }
}

/// A variable in the environment of the program.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// `[A-Za-z_][A-Za-z0-9_]*`.
    pub name: String,
    /// Any bytes but NUL.
    pub value: Vec<u8>,
}

/// Bytes that travel beside a signed payload.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct BlobRef {
    /// SHA-256.
    pub digest: [u8; 32],
    /// Bytes.
    pub size: u64,
}

/// Output kept of one task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutputLimit {
    /// What lies between head and tail is counted and dropped.
    Kept {
        /// Bytes kept from the beginning.
        head: u64,
        /// Bytes kept from the end.
        tail: u64,
    },
    /// Nothing is dropped. While its host holds [`limits::OUTPUT_HELD_BYTES_MAX`] that the controller has not stored, the
    /// program's writes block.
    Unlimited,
}

impl OutputLimit {
    /// The most that may be kept of a gate's output.
    pub const GATE: Self = Self::Kept { head: limits::GATE_OUTPUT_BYTES, tail: limits::GATE_OUTPUT_BYTES };

    /// So many bytes: four fifths from the beginning, the rest from the end.
    pub const fn of_bytes(bytes: u64) -> Self {
        let tail = bytes / 5;
        Self::Kept { head: bytes - tail, tail }
    }

    /// What a host may send of one task's output: bytes.
    pub const fn bytes_max(self) -> u64 {
        match self {
            Self::Kept { head, tail } => head.saturating_add(tail),
            Self::Unlimited => u64::MAX,
        }
    }
}

impl Default for OutputLimit {
    fn default() -> Self {
        Self::Kept { head: limits::OUTPUT_HEAD_BYTES, tail: limits::OUTPUT_TAIL_BYTES }
    }
}

impl Command {
    /// A program with the defaults for all the rest.
    pub fn new(program: Program) -> Self {
        Self {
            program,
            env: Vec::new(),
            run_as: None,
            cwd: None,
            stdin: None,
            timeout: limits::RUN_TIMEOUT_DEFAULT,
            grace: limits::GRACE_DEFAULT,
            output: OutputLimit::default(),
        }
    }

    /// The blobs that have to be on the host before the program starts.
    pub fn blobs(&self) -> impl Iterator<Item = BlobRef> {
        let script = match &self.program {
            Program::Script { content, .. } => Some(*content),
            Program::Argv(_) | Program::Shell(_) => None,
        };
        script.into_iter().chain(self.stdin)
    }

    /// Refuses what no host could execute.
    pub fn check(&self) -> Result<(), CommandError> {
        let words: Vec<&[u8]> = match &self.program {
            Program::Argv(words) => words.iter().map(Vec::as_slice).collect(),
            Program::Shell(line) => vec![line],
            Program::Script { args, .. } => args.iter().map(Vec::as_slice).collect(),
        };
        match &self.program {
            Program::Argv(words) if words.first().is_none_or(Vec::is_empty) => return Err(CommandError::Empty),
            Program::Shell(line) if line.trim_ascii().is_empty() => return Err(CommandError::Empty),
            Program::Argv(_) | Program::Shell(_) | Program::Script { .. } => {}
        }
        for word in &words {
            if word.contains(&0) {
                return Err(CommandError::Nul);
            }
            if word.len() > limits::ARGUMENT_BYTES_MAX {
                return Err(CommandError::ArgumentTooLong { bytes: word.len() });
            }
        }
        let bytes = words.iter().map(|word| word.len() + 1).sum();
        if bytes > limits::COMMAND_BYTES_MAX {
            return Err(CommandError::TooLong { bytes });
        }
        self.check_env()?;
        if let Some(user) = &self.run_as
            && (user.is_empty() || user.len() > 255 || user.bytes().any(|b| b == 0 || b == b'/'))
        {
            return Err(CommandError::User);
        }
        if let Some(cwd) = &self.cwd
            && (!cwd.starts_with(b"/") || cwd.contains(&0) || cwd.len() > 4095)
        {
            return Err(CommandError::Cwd);
        }
        if self.blobs().any(|blob| blob.size > limits::BLOB_BYTES_MAX) {
            return Err(CommandError::BlobTooLarge);
        }
        if self.timeout.is_zero() || self.timeout > limits::RUN_TIMEOUT_MAX {
            return Err(CommandError::Timeout);
        }
        if self.grace > limits::GRACE_MAX {
            return Err(CommandError::Grace);
        }
        if self.output != OutputLimit::Unlimited && self.output.bytes_max() > limits::OUTPUT_KEPT_BYTES_MAX {
            return Err(CommandError::OutputKept);
        }
        Ok(())
    }

    fn check_env(&self) -> Result<(), CommandError> {
        let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
        for EnvVar { name, value } in &self.env {
            let bytes = name.as_bytes();
            if bytes.is_empty() || bytes.len() > 255 || bytes[0].is_ascii_digit() || !bytes.iter().all(|&c| word(c)) {
                return Err(CommandError::EnvName(name.chars().take(80).collect()));
            }
            if value.contains(&0) {
                return Err(CommandError::Nul);
            }
        }
        let bytes: usize = self.env.iter().map(|var| var.name.len() + var.value.len() + 2).sum();
        if bytes > limits::ENVIRONMENT_BYTES_MAX {
            return Err(CommandError::EnvTooLong { bytes });
        }
        Ok(())
    }
}

/// Secrets travel in the environment: values never reach a log by way of `{:?}`.
impl fmt::Debug for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=({} bytes)", self.name, self.value.len())
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("env", &self.env)
            .field("run_as", &self.run_as)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The program as a person would type it: words with other than plain characters are quoted. For display only.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
        let quote = |word: &[u8]| {
            let text = crate::text::line(&String::from_utf8_lossy(word));
            if !text.is_empty() && text.chars().all(plain) {
                text
            } else {
                format!("'{}'", text.replace('\'', r"'\''"))
            }
        };
        match self {
            Self::Argv(words) => write!(f, "{}", words.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" ")),
            Self::Shell(line) => write!(f, "{}", crate::text::line(&String::from_utf8_lossy(line))),
            Self::Script { content, args } => {
                write!(f, "(script of {} bytes)", content.size)?;
                args.iter().try_for_each(|word| write!(f, " {}", quote(word)))
            }
        }
    }
}

/// What makes a command impossible, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Nothing to run.
    #[error("the command is empty: give a program, or a shell line as one word")]
    Empty,
    /// execve(2) ends strings at NUL.
    #[error("the command or its environment contains a NUL byte: send such data with --script or --stdin")]
    Nul,
    /// Over `MAX_ARG_STRLEN`.
    #[error("an argument has {bytes} bytes, Linux takes {max}: send it with --script or --stdin", max = limits::ARGUMENT_BYTES_MAX)]
    ArgumentTooLong {
        /// Its length.
        bytes: usize,
    },
    /// All words together.
    #[error("the command has {bytes} bytes, at most {max} are taken: send it with --script or --stdin", max = limits::COMMAND_BYTES_MAX)]
    TooLong {
        /// Their length with terminators.
        bytes: usize,
    },
    /// A name no shell could read.
    #[error("{0:?} is no name of a variable: use letters, digits and underscore")]
    EnvName(String),
    /// All variables together.
    #[error("the environment has {bytes} bytes, at most {max} are taken: send it with --stdin", max = limits::ENVIRONMENT_BYTES_MAX)]
    EnvTooLong {
        /// Their length.
        bytes: usize,
    },
    /// No user can have this name.
    #[error("the user name is empty, too long, or has '/' in it")]
    User,
    /// Relative to what?
    #[error("the directory must be an absolute path")]
    Cwd,
    /// stdin or script.
    #[error("stdin and scripts have at most {} MiB", limits::BLOB_BYTES_MAX >> 20)]
    BlobTooLarge,
    /// Never infinite.
    #[error("the run timeout must be more than 0 and at most {} days", limits::RUN_TIMEOUT_MAX.as_secs() / 86_400)]
    Timeout,
    /// More than a host keeps of one task.
    #[error("at most {} MiB of a program's output can be kept: ask for less, or for all of it with --output-limit none", limits::OUTPUT_KEPT_BYTES_MAX >> 20)]
    OutputKept,
    /// A cancel must not wait for ever.
    #[error("the grace must be at most {} minutes", limits::GRACE_MAX.as_secs() / 60)]
    Grace,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&[u8]]) -> Command {
        Command::new(Program::Argv(words.iter().map(|w| w.to_vec()).collect()))
    }

    #[test]
    fn limits_are_those_of_the_kernel() {
        assert_eq!(argv(&[b"a", &[b'x'; 131_071]]).check(), Ok(()));
        assert_eq!(argv(&[b"a", &[b'x'; 131_072]]).check(), Err(CommandError::ArgumentTooLong { bytes: 131_072 }));
        assert_eq!(argv(&[b"a", b"x\0y"]).check(), Err(CommandError::Nul));
        assert_eq!(argv(&[]).check(), Err(CommandError::Empty));
        assert_eq!(argv(&[b""]).check(), Err(CommandError::Empty));
        assert_eq!(argv(&[b"a", b""]).check(), Ok(()));
        let nine = vec![vec![b'x'; 130_000]; 9];
        assert!(matches!(Command::new(Program::Argv(nine)).check(), Err(CommandError::TooLong { .. })));
        assert_eq!(Command::new(Program::Shell(b" \n".to_vec())).check(), Err(CommandError::Empty));
        let mut greedy = argv(&[b"a"]);
        greedy.output = OutputLimit::Kept { head: u64::MAX, tail: u64::MAX };
        assert_eq!(greedy.check(), Err(CommandError::OutputKept));
        greedy.output = OutputLimit::Unlimited;
        assert_eq!(greedy.check(), Ok(()));
        assert_eq!(OutputLimit::of_bytes(20 << 20), OutputLimit::default());
        assert_eq!(OutputLimit::of_bytes(64 << 20).bytes_max(), limits::OUTPUT_KEPT_BYTES_MAX);
    }

    #[test]
    fn variables_have_names_and_hidden_values() {
        let with = |name: &str| {
            let mut command = argv(&[b"a"]);
            command.env.push(EnvVar { name: name.into(), value: b"secret".to_vec() });
            command
        };
        assert_eq!(with("A_1").check(), Ok(()));
        for bad in ["", "1A", "A=B", "A B", "Ä"] {
            assert!(matches!(with(bad).check(), Err(CommandError::EnvName(_))), "{bad}");
        }
        assert!(!format!("{:?}", with("A")).contains("secret"));
    }

    #[test]
    fn programs_are_shown_as_typed() {
        assert_eq!(argv(&[b"echo", b"a b", b"it's", b""]).program.to_string(), r"echo 'a b' 'it'\''s' ''");
    }

    #[test]
    fn in_lists_programs_are_cut_and_say_so() {
        let short = argv(&[b"echo", b"\xff", b""]).program;
        assert_eq!(short.title(), short.to_string());
        assert_eq!(short.words(8), [&b"echo"[..], b"\xff", b""]);
        assert_eq!(short.words(7), [&b"echo"[..], b"\xff", "…".as_bytes()]);
        let euros = Program::Shell("€".repeat(10_000).into_bytes());
        assert_eq!(euros.title(), format!("{}…", "€".repeat(200)));
        assert_eq!(euros.words(21), ["/bin/sh", "-c", "€€€…"]);
        let many = Program::Argv(vec![Vec::new(); 100_000]);
        assert_eq!(many.words(limits::ARGV_LISTED_BYTES_MAX).len(), limits::ARGV_LISTED_BYTES_MAX + 1);
    }
}
