//! Whether the spool may take more: what it holds, and what its disk has left.

use muster_proto::limits;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// No room for another task: refuse it with this text.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// The controller lacks too many results.
    #[error(
        "the spool of this host holds {} MiB of tasks that run or whose results the controller has not stored, and takes \
         no new ones above {} MiB: run it again once some are over, or check the controller's disk",
        used >> 20, limits::SPOOL_BYTES_MAX >> 20
    )]
    Full {
        /// Bytes.
        used: u64,
    },
    /// Somebody fills the disk.
    #[error(
        "the disk of the agent's spool has {} MiB left, and below {} MiB no task is taken: free space on it",
        free >> 20, limits::DISK_FREE_BYTES_MIN >> 20
    )]
    Disk {
        /// Bytes.
        free: u64,
    },
    /// It cannot be measured.
    #[error("cannot measure the agent's spool ({0}): check its disk and permissions")]
    Io(#[from] io::Error),
}

/// Compares with these limits, in bytes.
pub(super) fn check(root: &Path, used_max: u64, free_min: u64) -> Result<(), RoomError> {
    let disk = rustix::fs::statvfs(root).map_err(io::Error::from)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < free_min {
        return Err(RoomError::Disk { free });
    }
    let used = size(root)?;
    if used > used_max {
        return Err(RoomError::Full { used });
    }
    Ok(())
}

/// Bytes in all files below a directory. What vanishes meanwhile counts or not.
fn size(dir: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut bytes = 0_u64;
    for entry in entries {
        let entry = entry?;
        bytes = bytes.saturating_add(match entry.metadata() {
            Ok(found) if found.is_dir() => size(&entry.path())?,
            // A file with a hole takes less than it has.
            Ok(found) => found.len().min(found.blocks().saturating_mul(512)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_and_what_is_free_count() {
        let root = tempfile::tempdir().expect("a directory");
        let task = root.path().join("task");
        fs::create_dir(&task).expect("a directory");
        fs::write(task.join("out"), [0; 1000]).expect("written");
        fs::write(task.join("exit"), [0; 24]).expect("written");
        assert!(check(root.path(), 1024, 1).is_ok());
        assert!(matches!(check(root.path(), 1023, 1), Err(RoomError::Full { used: 1024 })));
        assert!(matches!(check(root.path(), 1024, u64::MAX), Err(RoomError::Disk { .. })));
        assert_eq!(size(&root.path().join("gone")).expect("nothing"), 0);
    }
}
