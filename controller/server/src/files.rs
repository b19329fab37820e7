//! Small files that must be whole or absent, and that are nobody else's business: keys, configurations, addresses.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Makes a directory that only its owner may enter. It must not exist; its parents are made as they usually are.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(0o700).create(path)
}

/// Writes a new file that only its owner may read, durably. It must not exist.
pub fn create_private(path: &Path, content: &[u8]) -> io::Result<()> {
    write_new(path, content, 0o600)
}

/// A file written beside its destination, which it replaces at once and whole. Forgotten unless put in place.
pub struct Staged {
    temporary: PathBuf,
    destination: PathBuf,
}

impl Staged {
    /// Writes the content beside `destination` with the given mode.
    pub fn write(destination: &Path, content: &[u8], mode: u32) -> io::Result<Self> {
        let mut temporary = destination.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let staged = Self { temporary: temporary.into(), destination: destination.to_owned() };
        write_new(&staged.temporary, content, mode)?;
        Ok(staged)
    }

    /// Puts it in place, durably.
    pub fn put(self) -> io::Result<()> {
        fs::rename(&self.temporary, &self.destination)?;
        sync_parent(&self.destination)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After `put` there is nothing left under this name; a failure leaves a stray file that harms nobody.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Makes a rename in the directory of `path` survive a power cut.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
