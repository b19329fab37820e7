//! Our programs as a user runs them: arguments and stdin in; status, stdout and stderr out.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program that runs longer is a hang.
const LIMIT: Duration = Duration::from_secs(90);

/// The binary of this name, from the build that the test belongs to.
pub fn bin(name: &str) -> PathBuf {
    let me = std::env::current_exe().expect("a test has a path");
    // target/debug/deps/it-… and target/debug/NAME
    let dir = me.ancestors().nth(2).expect("a target directory");
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not built: run `make test`, or `cargo build --workspace --bins` first",
        path.display()
    );
    path
}

/// A program about to be run.
pub struct Program {
    command: Command,
    stdin: Vec<u8>,
}

/// How it went.
#[derive(Debug, Clone)]
pub struct Run {
    /// Exit status, or 128 and the signal.
    pub status: i32,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
}

impl Program {
    /// One of our binaries, with none of the user's configuration.
    pub fn new(name: &str) -> Self {
        let mut command = Command::new(bin(name));
        command.env_remove("MUSTER_CONFIG").env_remove("MUSTER_CONTEXT").env("NO_COLOR", "1");
        Self { command, stdin: Vec::new() }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = I>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads; nothing otherwise.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Starts it, everything piped, for a test that looks while it runs.
    pub fn spawn(mut self) -> Child {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command.spawn().expect("the program starts")
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it does not end within 90 s.
    pub fn run(mut self) -> Run {
        let bytes = std::mem::take(&mut self.stdin);
        let mut child = self.spawn();
        let mut stdin = child.stdin.take().expect("piped");
        // A program that does not read to the end is no failure of the test.
        let writer = std::thread::spawn(move || _ = stdin.write_all(&bytes));
        let run = finish(child);
        writer.join().expect("the writer ends");
        run
    }
}

/// Waits for a started program and takes what it wrote.
///
/// # Panics
/// When it does not end within 90 s.
pub fn finish(mut child: Child) -> Run {
    drop(child.stdin.take());
    let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = from.read_to_end(&mut bytes);
            bytes
        })
    };
    let (stdout, stderr) = (read(Box::new(out)), read(Box::new(err)));
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("our child") {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let said = String::from_utf8_lossy(&stderr.join().expect("the reader ends")).into_owned();
            panic!("it did not end within {LIMIT:?}; stderr: {said}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Run {
        status: status.code().or_else(|| status.signal().map(|signal| 128 + signal)).expect("one of the two"),
        stdout: stdout.join().expect("the reader ends"),
        stderr: stderr.join().expect("the reader ends"),
    }
}

impl Run {
    /// stdout as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// stderr as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The last line of stderr: the closing line of a run, that of all runs of its family left out.
    pub fn closing(&self) -> String {
        self.err().lines().rfind(|line| !line.starts_with("all: ")).unwrap_or_default().to_owned()
    }

    /// Asserts the exit status and what the closing line counts, as in `1 failed dev-2: 3 targeted`. `counts` adds up.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[track_caller]
    pub fn assert_ended(&self, status: i32, counts: &str) {
        let closing = self.closing();
        let said = closing.split_once(": ").and_then(|(_, rest)| rest.split_once(" in ")).map(|(said, _)| said);
        assert_eq!((self.status, said), (status, Some(counts)), "{self}");
    }

    /// Asserts that it was refused before anything was run: one line on stderr, which has this text, and status 2.
    ///
    /// # Panics
    /// When it was not, or with more words.
    #[track_caller]
    pub fn assert_usage(&self, hint: &str) {
        assert_eq!((self.status, self.err().lines().count(), &*self.stdout), (2, 1, &b""[..]), "{self}");
        assert!(self.err().contains(hint), "{hint:?} is not in: {self}");
    }

    /// The job's id, from the closing line.
    pub fn job(&self) -> String {
        self.closing().rsplit_once(", job ").map(|(_, id)| id.to_owned()).unwrap_or_default()
    }

    /// stdout as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("no JSON: {error}\n{self}"))
    }

    /// stdout as one JSON object a line.
    pub fn jsonl(&self) -> Vec<serde_json::Value> {
        let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON: {error}: {line}"));
        self.out().lines().map(line).collect()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = |text: String| text.chars().take(4_000).collect::<String>();
        write!(f, "status {}\n-- stdout\n{}\n-- stderr\n{}", self.status, cut(self.out()), cut(self.err()))
    }
}
