//! Tasks that last as long as a test wants, without anybody guessing at times.

use std::fs::File;
use std::path::{Path, PathBuf};

/// A task that stands before a gate goes on when the test opens it, or when the fleet is gone.
pub struct Gate {
    dir: PathBuf,
    file: PathBuf,
}

impl Gate {
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        Self { dir: dir.to_owned(), file: dir.join(format!("{name}.open")) }
    }

    /// A shell command that waits for the gate.
    pub fn wait(&self) -> String {
        format!("while [ -d '{}' ] && ! [ -e '{}' ]; do sleep 0.05; done", self.dir.display(), self.file.display())
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        File::create(&self.file).expect("the fleet's directory can be written");
    }
}
