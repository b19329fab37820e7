//! Groups that others keep: files and programs in one directory of the controller's owner.
//!
//! A plain file `NAME` has lines `group: targets`. A program `NAME` is run as `NAME GROUP` and prints the group's targets,
//! and as `NAME --list` it may print the names of its groups. What comes from there says who is hit, so nobody but root
//! and the controller's user may be able to change it.

use super::program;
use crate::files::{self, InsecureError};
use muster_proto::limits;
use muster_proto::name::LabelText;
use muster_proto::selection::{GroupSource, GroupSourceKind};
use muster_proto::text;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// What a file has, or a program prints.
pub(super) const SOURCE_BYTES_MAX: usize = 1 << 20;
/// What one selection may need of all sources together.
const READING_BYTES_MAX: usize = 16 << 20;
/// How long a program's answer counts.
const KEPT: Duration = Duration::from_secs(30);
/// Answers that are kept: together they take no more than this. Then all of them are forgotten.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// What keeping one takes beside its text.
const KEPT_BYTES_EACH: usize = 256;
/// Programs at a time that are asked for a group, and as many for their lists; the others wait.
const PROGRAMS_MAX: usize = 4;
/// What a program is asked for its list. No group is called so.
const LIST: &str = "--list";
/// Sources that are listed; a directory with more is a mistake.
const SOURCES_MAX: usize = 100;

/// All sources. Clones share them.
#[derive(Clone, Default)]
pub struct Sources {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    /// Without links, and not relative: programs are started elsewhere.
    dir: PathBuf,
    programs: Semaphore,
    /// Apart, so that a list, which asks all of them, keeps nobody from running anything.
    lists: Semaphore,
    answers: Mutex<Answers>,
}

/// What programs have printed, or what is wrong with them, by source and argument.
#[derive(Default)]
struct Answers {
    known: HashMap<(LabelText, String), (Instant, Result<String, String>)>,
    bytes: usize,
}

/// The sources as one selection finds them: each file is read once.
pub(super) struct Reading<'a> {
    sources: &'a Sources,
    /// Held while a file is read.
    loaded: tokio::sync::Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    files: HashMap<LabelText, HashMap<LabelText, String>>,
    bytes: usize,
}

/// A source does not say what a group is.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no directory.
    #[error("there is no source {0}: this controller has none, see `muster-controller serve --groups`")]
    NoSources(LabelText),
    /// There is no such file.
    #[error("there is no source {name}: put {} there, a file or a program, or see `muster group list`", path.display())]
    Unknown {
        /// The source.
        name: LabelText,
        /// Where it would be.
        path: PathBuf,
    },
    /// Others could change it.
    #[error("the source is not used: {0}")]
    Insecure(#[from] InsecureError),
    /// The system.
    #[error("the source cannot be read: {} ({error})", path.display())]
    Read {
        /// The file, or the directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A line is not `group: targets`.
    #[error("{}, line {line}: write GROUP: TARGETS, the name with a-z, 0-9, '.', '_' and '-'", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// A group is there twice.
    #[error("{}, line {line}: the group {name} is in line {first} already: remove one of them", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The group.
        name: LabelText,
        /// Where it is, from 1.
        first: usize,
        /// Where it is again.
        line: usize,
    },
    /// All that one selection needs.
    #[error("the sources have more than {} MiB for these targets: use fewer at once", READING_BYTES_MAX >> 20)]
    TooMuch,
    /// Only where the controller ends, or has an error.
    #[error("the source could not be read: try again")]
    Interrupted,
    /// The program.
    #[error("{} {argument}: {problem}", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// What it was asked.
        argument: String,
        /// What is wrong with it, as one line.
        problem: String,
    },
}

impl Sources {
    /// The sources in this directory. All of them have to be of root or of the controller's user by now; they are looked
    /// at again whenever they are used.
    pub fn open(dir: &Path) -> Result<Self, SourceError> {
        let failed = |error| SourceError::Read { path: dir.to_owned(), error };
        files::check_trusted(dir, &fs::symlink_metadata(dir).map_err(failed)?)?;
        let dir = dir.canonicalize().map_err(failed)?;
        let (programs, lists) = (Semaphore::new(PROGRAMS_MAX), Semaphore::new(PROGRAMS_MAX));
        let inner = Inner { dir, programs, lists, answers: Mutex::default() };
        for name in inner.names()? {
            inner.find(&name)?;
        }
        Ok(Self { inner: Some(Arc::new(inner)) })
    }

    /// Begins to read what one selection needs.
    pub(super) fn reading(&self) -> Reading<'_> {
        Reading { sources: self, loaded: tokio::sync::Mutex::default() }
    }

    /// All sources with the names of their groups.
    pub(super) async fn list(&self) -> Vec<GroupSource> {
        let Some(inner) = &self.inner else { return Vec::new() };
        let names = match inner.apart(Inner::names).await {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!(%error, "the sources of groups cannot be listed");
                Vec::new()
            }
        };
        futures_util::future::join_all(names.into_iter().map(|name| inner.listed(name))).await
    }
}

impl Reading<'_> {
    /// What a source says of a group; `None` if it has no such group.
    pub(super) async fn read(&self, source: &LabelText, group: &LabelText) -> Result<Option<String>, SourceError> {
        let inner = self.sources.inner.as_ref().ok_or_else(|| SourceError::NoSources(source.clone()))?;
        let mut loaded = self.loaded.lock().await;
        if let Some(groups) = loaded.files.get(source) {
            return Ok(groups.get(group).cloned());
        }
        let name = source.clone();
        match inner.apart(move |inner| inner.look(&name)).await? {
            Found::File(groups) => {
                let groups: HashMap<_, _> = groups.into_iter().collect();
                let text = groups.get(group).cloned();
                loaded.count(groups.values().map(String::len).sum())?;
                loaded.files.insert(source.clone(), groups);
                Ok(text)
            }
            Found::Program(path) => {
                drop(loaded);
                let answer = inner.ask(source, path, group.as_str()).await?;
                self.loaded.lock().await.count(answer.len())?;
                // As clustershell has it: a program that does not know a group says nothing.
                Ok((!answer.trim().is_empty()).then_some(answer))
            }
        }
    }
}

impl Loaded {
    fn count(&mut self, bytes: usize) -> Result<(), SourceError> {
        self.bytes += bytes;
        if self.bytes > READING_BYTES_MAX { Err(SourceError::TooMuch) } else { Ok(()) }
    }
}

/// A source, looked at.
enum Found {
    /// Its groups, in order.
    File(Vec<(LabelText, String)>),
    Program(PathBuf),
}

impl Inner {
    /// Names of the files that are sources, in order.
    fn names(&self) -> Result<Vec<LabelText>, SourceError> {
        let failed = |error| SourceError::Read { path: self.dir.clone(), error };
        files::check_trusted(&self.dir, &fs::symlink_metadata(&self.dir).map_err(failed)?)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_dir = entry.file_type().map_err(failed)?.is_dir();
            // What has no name of a source is none: a README, what an editor leaves.
            names.extend(entry.file_name().to_str().and_then(|name| name.parse().ok()).filter(|_| !is_dir));
            if names.len() > SOURCES_MAX {
                return Err(failed(io::Error::other(format!("it has more than {SOURCES_MAX} files"))));
            }
        }
        names.sort();
        Ok(names)
    }

    fn find(&self, name: &LabelText) -> Result<(PathBuf, GroupSourceKind), SourceError> {
        let failed = |path: &Path, error| SourceError::Read { path: path.to_owned(), error };
        let path = self.dir.join(name.as_str());
        files::check_trusted(&self.dir, &fs::symlink_metadata(&self.dir).map_err(|error| failed(&self.dir, error))?)?;
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SourceError::Unknown { name: name.clone(), path });
            }
            Err(error) => return Err(failed(&path, error)),
        };
        files::check_trusted(&path, &metadata)?;
        if !metadata.is_file() {
            return Err(failed(&path, io::Error::other("it is no file")));
        }
        let kind = if metadata.mode() & 0o111 == 0 { GroupSourceKind::File } else { GroupSourceKind::Command };
        Ok((path, kind))
    }

    fn look(&self, name: &LabelText) -> Result<Found, SourceError> {
        let (path, kind) = self.find(name)?;
        Ok(match kind {
            GroupSourceKind::File => Found::File(read_file(&path)?),
            GroupSourceKind::Command => Found::Program(path),
        })
    }

    async fn listed(self: &Arc<Self>, name: LabelText) -> GroupSource {
        let source = name.clone();
        let (kind, groups) = match self.apart(move |inner| inner.look(&source)).await {
            Ok(Found::File(groups)) => (GroupSourceKind::File, Ok(groups.into_iter().map(|(name, _)| name).collect())),
            // What no group can be called is of no use to anybody.
            Ok(Found::Program(path)) => (
                GroupSourceKind::Command,
                self.ask(&name, path, LIST).await.map(|printed| {
                    printed.lines().filter_map(|line| line.trim().parse().ok()).take(limits::GROUPS_MAX).collect()
                }),
            ),
            Err(error) => (GroupSourceKind::File, Err(error)),
        };
        GroupSource { name, kind, groups: groups.map_err(|error| text::line(&error.to_string())) }
    }

    /// What a program prints, now or a little while ago. A list counts for as long if it failed, so that a program that
    /// hangs does not hold up everybody who lists; of groups only what is there is kept.
    async fn ask(&self, source: &LabelText, path: PathBuf, argument: &str) -> Result<String, SourceError> {
        let key = (source.clone(), argument.to_owned());
        let mut said = self.answers().get(&key);
        if said.is_none() {
            let _permit = if argument == LIST { &self.lists } else { &self.programs }.acquire().await;
            // While this one waited, another may have asked.
            said = self.answers().get(&key);
            if said.is_none() {
                let new = program::run(&path, argument).await;
                if argument == LIST || new.as_ref().is_ok_and(|answer| !answer.trim().is_empty()) {
                    self.answers().keep(key, new.clone());
                }
                said = Some(new);
            }
        }
        let said = said.unwrap_or_else(|| Ok(String::new()));
        said.map_err(|problem| SourceError::Program { path, argument: argument.to_owned(), problem })
    }

    /// Does what reads files on a thread of its own.
    async fn apart<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, SourceError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&inner)).await.unwrap_or(Err(SourceError::Interrupted))
    }

    // No code that can panic runs under the lock.
    fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    fn get(&self, key: &(LabelText, String)) -> Option<Result<String, String>> {
        let (at, answer) = self.known.get(key)?;
        (at.elapsed() < KEPT).then(|| answer.clone())
    }

    fn keep(&mut self, key: (LabelText, String), answer: Result<String, String>) {
        let size =
            |answer: &Result<String, String>| KEPT_BYTES_EACH + answer.as_ref().map_or_else(String::len, String::len);
        if self.bytes + size(&answer) > KEPT_BYTES_MAX {
            *self = Self::default();
        }
        self.bytes += size(&answer);
        if let Some((_, before)) = self.known.insert(key, (Instant::now(), answer)) {
            self.bytes -= size(&before);
        }
    }
}

/// The groups of a file, in order.
fn read_file(path: &Path) -> Result<Vec<(LabelText, String)>, SourceError> {
    let read = files::read_trusted(path, SOURCE_BYTES_MAX as u64)?;
    let text = read.map_err(|error| SourceError::Read { path: path.to_owned(), error })?;
    let (mut groups, mut lines) = (Vec::new(), HashMap::new());
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let group = text.split_once(':').and_then(|(name, targets)| Some((name.trim().parse().ok()?, targets.trim())));
        let Some((name, targets)) = group else { return Err(SourceError::Line { path: path.to_owned(), line }) };
        let name: LabelText = name;
        if let Some(first) = lines.insert(name.clone(), line) {
            return Err(SourceError::Twice { path: path.to_owned(), name, first, line });
        }
        groups.push((name, targets.to_owned()));
    }
    Ok(groups)
}

#[cfg(test)]
mod tests;
