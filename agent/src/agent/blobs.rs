//! Bytes that travel beside a job: stdin and scripts. They arrive in pieces before the offer that names them, and count
//! only once their digest is what was signed.

use crate::identity::create_private;
use crate::spool::blob_name;
use muster_proto::command::BlobRef;
use muster_proto::limits::BLOB_BYTES_MAX;
use muster_proto::link::BlobChunk;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use tracing::warn;

/// Blobs held at a time; the ones that were begun first give way.
const HELD_BYTES_MAX: u64 = 4 * BLOB_BYTES_MAX;
/// Blobs held at a time: each is an open file.
const HELD_MAX: usize = 64;

/// What came in this session.
pub(super) struct Blobs {
    directory: PathBuf,
    held: HashMap<[u8; 32], Blob>,
    /// Blobs begun so far: tells the oldest.
    begun: u64,
}

struct Blob {
    file: File,
    hash: Sha256,
    size: u64,
    begun: u64,
}

impl Blobs {
    /// An empty store; what an earlier start left is removed.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        create_private(directory)?;
        Ok(Self { directory: directory.to_owned(), held: HashMap::new(), begun: 0 })
    }

    /// Where [`Blobs::check`]ed blobs are, each under its [`blob_name`].
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Takes the next piece. A blob that cannot be taken is dropped: the offer that names it is refused then.
    pub(super) fn add(&mut self, chunk: &BlobChunk) {
        if let Err(error) = self.write(chunk) {
            warn!(%error, "a blob was dropped");
            self.drop(&chunk.digest);
        }
    }

    fn write(&mut self, chunk: &BlobChunk) -> io::Result<()> {
        if chunk.offset == 0 {
            // A task may hold a link to the old file: it keeps that one.
            self.drop(&chunk.digest);
            let path = self.path(&chunk.digest);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            self.begun += 1;
            self.held.insert(chunk.digest, Blob { file, hash: Sha256::new(), size: 0, begun: self.begun });
        }
        let blob = self.held.get_mut(&chunk.digest).filter(|blob| blob.size == chunk.offset);
        let blob = blob.ok_or_else(|| io::Error::other("its pieces came out of order"))?;
        blob.size += chunk.data.len() as u64;
        if blob.size > BLOB_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        blob.hash.update(&chunk.data);
        blob.file.write_all(&chunk.data)?;
        self.make_room(&chunk.digest);
        Ok(())
    }

    /// Makes sure that a blob is here, whole and unaltered; the error is for people.
    pub(super) fn check(&mut self, wanted: &BlobRef) -> Result<(), String> {
        if wanted.size == 0 && !self.held.contains_key(&wanted.digest) {
            // Nothing has no pieces.
            self.add(&BlobChunk { digest: wanted.digest, offset: 0, data: bytes::Bytes::new() });
        }
        let blob = self.held.get(&wanted.digest).ok_or("stdin or script did not come with the offer: run it again")?;
        let digest: [u8; 32] = blob.hash.clone().finalize().into();
        if blob.size == wanted.size && digest == wanted.digest {
            return Ok(());
        }
        self.drop(&wanted.digest);
        Err("stdin or script is not what was signed: run it again".to_owned())
    }

    /// Forgets everything: a new session sends anew.
    pub(super) fn clear(&mut self) {
        for digest in self.held.keys().copied().collect::<Vec<_>>() {
            self.drop(&digest);
        }
    }

    fn make_room(&mut self, keep: &[u8; 32]) {
        let bytes = |held: &HashMap<_, Blob>| held.values().map(|blob| blob.size).sum::<u64>();
        while self.held.len() > HELD_MAX || bytes(&self.held) > HELD_BYTES_MAX {
            let oldest = self.held.iter().filter(|(digest, _)| *digest != keep).min_by_key(|(_, blob)| blob.begun);
            let Some(digest) = oldest.map(|(digest, _)| *digest) else { return };
            self.drop(&digest);
        }
    }

    fn drop(&mut self, digest: &[u8; 32]) {
        if self.held.remove(digest).is_some()
            && let Err(error) = fs::remove_file(self.path(digest))
        {
            warn!(%error, "cannot remove a blob");
        }
    }

    fn path(&self, digest: &[u8; 32]) -> PathBuf {
        self.directory.join(blob_name(&BlobRef { digest: *digest, size: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn store() -> (tempfile::TempDir, Blobs) {
        let root = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(&root.path().join("blobs")).expect("opened");
        (root, blobs)
    }

    fn blob(content: &[u8]) -> BlobRef {
        BlobRef { digest: Sha256::digest(content).into(), size: content.len() as u64 }
    }

    fn chunk(blob: &BlobRef, offset: u64, data: &'static [u8]) -> BlobChunk {
        BlobChunk { digest: blob.digest, offset, data: Bytes::from_static(data) }
    }

    #[test]
    fn a_blob_counts_once_it_is_whole_and_what_was_signed() {
        let (_root, mut blobs) = store();
        let wanted = blob(b"hello world");
        assert!(blobs.check(&wanted).is_err());
        blobs.add(&chunk(&wanted, 0, b"hello "));
        assert!(blobs.check(&wanted).is_err(), "half is not whole");
        blobs.add(&chunk(&wanted, 0, b"hello "));
        blobs.add(&chunk(&wanted, 6, b"world"));
        assert_eq!(blobs.check(&wanted), Ok(()));
        assert_eq!(fs::read(blobs.directory().join(blob_name(&wanted))).expect("there"), b"hello world");
        blobs.clear();
        assert!(blobs.check(&wanted).is_err());
        assert_eq!(fs::read_dir(blobs.directory()).expect("there").count(), 0);
    }

    #[test]
    fn holes_and_alterations_drop_it() {
        let (_root, mut blobs) = store();
        let wanted = blob(b"hello world");
        blobs.add(&chunk(&wanted, 0, b"hello "));
        blobs.add(&chunk(&wanted, 7, b"orld"));
        assert!(blobs.held.is_empty());
        blobs.add(&chunk(&wanted, 0, b"hello wOrld"));
        assert!(blobs.check(&wanted).is_err());
        assert_eq!(blobs.check(&blob(b"")), Ok(()), "nothing needs no pieces");
    }
}
