//! Small files that must be whole or absent, and that are nobody else's business: keys, configurations, addresses; and
//! those that a controller believes.

use rustix::fs::OFlags;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
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

/// What others could change is not believed.
#[derive(Debug, thiserror::Error)]
#[error("{} {why}: it must belong to root or to the controller's user, and nobody else may write it", path.display())]
pub struct InsecureError {
    path: PathBuf,
    why: &'static str,
}

/// Refuses a file or directory that somebody else than root and we could change, by what the system says of it itself.
pub fn check_trusted(path: &Path, metadata: &Metadata) -> Result<(), InsecureError> {
    let ours = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    let why = match metadata.mode() {
        _ if metadata.is_symlink() => "is a symbolic link",
        _ if !ours => "belongs to somebody else",
        mode if mode & 0o022 != 0 => "can be written by others",
        _ => return Ok(()),
    };
    Err(InsecureError { path: path.to_owned(), why })
}

/// Reads a text that [`check_trusted`] lets pass, up to a size. The inner error is the system's.
pub fn read_trusted(path: &Path, bytes_max: u64) -> Result<io::Result<String>, InsecureError> {
    // A link may lead to what others can replace.
    let file = OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path);
    let (metadata, file) = match file.and_then(|file| Ok((file.metadata()?, file))) {
        Ok(found) => found,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(InsecureError { path: path.to_owned(), why: "is a symbolic link" });
        }
        Err(error) => return Ok(Err(error)),
    };
    check_trusted(path, &metadata)?;
    let mut text = String::new();
    Ok(match file.take(bytes_max + 1).read_to_string(&mut text) {
        Ok(length) if length as u64 > bytes_max => Err(io::Error::other(format!("it has more than {bytes_max} bytes"))),
        Ok(_) => Ok(text),
        Err(error) => Err(error),
    })
}
