//! Commands that are dangerous however few hosts they are for: the controller's patterns, and what they are looked for in.
//!
//! The patterns are the owner's, in a file that is read again when it changes; `init` writes it. They guard against slips,
//! not against malice: whoever may sign a job may do all that it says.

mod words;

use crate::files::{self, InsecureError};
use muster_proto::command::Command;
use muster_proto::text;
use regex::bytes::{Regex, RegexBuilder};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What `init` writes, and what counts without a file.
pub const DEFAULTS: &str = include_str!("danger/danger.conf");

/// More would make each plan slow.
const PATTERNS_MAX: usize = 1_000;
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Compiled, of one pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Characters of a command that the operator is shown.
const SHOWN_CHARS_MAX: usize = 60;

/// The patterns of one controller. Clones share them.
#[derive(Clone)]
pub struct Danger {
    inner: Arc<Inner>,
}

struct Inner {
    source: Source,
    state: Mutex<State>,
}

/// Where the patterns are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// This file, or the defaults where it is not there.
    Default(PathBuf),
    /// This file.
    File(PathBuf),
}

struct State {
    patterns: Arc<Patterns>,
    /// What has been read: the file that they are from, or that has a line that is no pattern. `None` if it has to be read
    /// again, however it looks.
    version: Option<Version>,
    /// Why the file does not count as it is now.
    problem: Option<String>,
}

/// When a file or what may be done with it has changed, in s and ns, and its length in bytes; `None` where there is none.
type Version = Option<(i64, i64, u64)>;
type Patterns = Vec<Pattern>;

struct Pattern {
    regex: Regex,
    /// What the operator is told.
    name: String,
}

/// The patterns cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DangerError {
    /// The file is not there, or cannot be read.
    #[error("cannot read the danger patterns in {}: correct it, or name another file with --danger", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody else could change it.
    #[error(transparent)]
    Insecure(#[from] InsecureError),
    /// A line of it is no pattern.
    #[error("{}, line {line}: {detail}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it, and what to do.
        detail: String,
    },
}

impl Danger {
    /// Reads the patterns. Those of a file that cannot be used are an error now, and an alarm later.
    pub fn load(source: Source) -> Result<Self, DangerError> {
        let version = source.version()?;
        let patterns = Arc::new(source.read(version)?);
        let state = Mutex::new(State { patterns, version: Some(version), problem: None });
        Ok(Self { inner: Arc::new(Inner { source, state }) })
    }

    /// Why the operator has to confirm this command; `None` if it is harmless, as far as the patterns know. `script` is the
    /// beginning of the command's script. Slow for long commands: not for the threads that serve.
    pub fn reason(&self, command: &Command, script: &[u8]) -> Option<String> {
        let patterns = self.current();
        if patterns.is_empty() {
            return None;
        }
        let Some(texts) = words::texts(&command.program, script) else {
            return Some("the command is too long to be looked through for danger".into());
        };
        let found = |text: &String| {
            let pattern = patterns.iter().find(|pattern| pattern.regex.is_match(text.as_bytes()))?;
            Some(format!("`{}` matches the danger pattern \"{}\"", shown(text), pattern.name))
        };
        // The last that is found of a command is without what stands before its program.
        texts.iter().rev().find_map(found)
    }

    /// Why the file does not count as it is now.
    pub fn problem(&self) -> Option<String> {
        self.current();
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    /// The patterns of the file as it is now; the last good ones if it is not.
    fn current(&self) -> Arc<Patterns> {
        let source = &self.inner.source;
        let version = source.version();
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, read) = match version {
            Ok(version) if state.version == Some(version) => return Arc::clone(&state.patterns),
            Ok(version) => (Some(version), source.read(version)),
            Err(error) => (None, Err(error)),
        };
        // What could not be read may be as it is and yet be readable later.
        let was_read = matches!(read, Ok(_) | Err(DangerError::Line { .. }));
        state.version = version.filter(|_| was_read);
        match read {
            Ok(patterns) => {
                tracing::info!(patterns = patterns.len(), "the danger patterns have changed");
                (state.patterns, state.problem) = (Arc::new(patterns), None);
            }
            Err(error) => {
                let detail = std::error::Error::source(&error).map(|source| format!(" ({source})")).unwrap_or_default();
                let problem = format!("the danger patterns are still those from before: {error}{detail}");
                if state.problem.as_ref() != Some(&problem) {
                    tracing::error!(%problem);
                }
                state.problem = Some(problem);
            }
        }
        Arc::clone(&state.patterns)
    }
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::Default(path) | Self::File(path) => path,
        }
    }

    fn version(&self) -> Result<Version, DangerError> {
        let version = |metadata: Metadata| (metadata.ctime(), metadata.ctime_nsec(), metadata.len());
        match (fs::metadata(self.path()).map(version), self) {
            (Ok(version), _) => Ok(Some(version)),
            (Err(error), Self::Default(_)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            (Err(source), _) => Err(DangerError::Read { path: self.path().to_owned(), source }),
        }
    }

    fn read(&self, version: Version) -> Result<Patterns, DangerError> {
        let path = self.path().to_owned();
        let text = match version {
            None => DEFAULTS.to_owned(),
            Some(_) => match files::read_trusted(&path, FILE_BYTES_MAX)? {
                Ok(text) => text,
                Err(source) => return Err(DangerError::Read { path, source }),
            },
        };
        parse(&text).map_err(|(line, detail)| DangerError::Line { path, line, detail })
    }
}

/// One pattern a line; the comment above some of them is their name. The number of the line that is wrong otherwise.
fn parse(text: &str) -> Result<Patterns, (usize, String)> {
    let (mut patterns, mut name) = (Patterns::new(), None);
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if let Some(comment) = line.strip_prefix('#') {
            name = Some(text::line(comment));
        } else if line.is_empty() {
            name = None;
        } else {
            if patterns.len() == PATTERNS_MAX {
                return Err((number, format!("at most {PATTERNS_MAX} patterns are possible: join some with |")));
            }
            // Bytes, so that what a pattern means does not depend on tables of characters.
            let regex = RegexBuilder::new(line).unicode(false).size_limit(PATTERN_BYTES_MAX).build();
            let regex = regex.map_err(|error| (number, malformed(line, &error)))?;
            patterns.push(Pattern { regex, name: name.clone().unwrap_or_else(|| text::line(line)) });
        }
    }
    Ok(patterns)
}

fn malformed(pattern: &str, error: &regex::Error) -> String {
    let whole = error.to_string();
    // The crate draws a picture of several lines; the last one says it.
    let detail = whole.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
    format!("{} is no regular expression ({detail}): correct it, or make it a comment with #", text::line(pattern))
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => text::line(&format!("{}…", &text[..end])),
        None => text::line(text),
    }
}

#[cfg(test)]
mod tests;
