//! Bytes that travel beside a signed payload (stdin, scripts), kept by their SHA-256 in `blobs/<digest in hex>`.
//!
//! A blob appears under its name only once it is whole, verified and on disk, so whoever finds one may use it.

use crate::retention::{FileInfo, list};
use crate::{Store, StoreError};
use muster_proto::command::BlobRef;
use muster_proto::limits;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncWriteExt as _;

/// What a file that is not whole yet begins with; a digest has no dot.
const UNFINISHED: &str = ".new-";

impl Store {
    /// Begins to receive a blob. Fails at once for one that is larger than [`limits::BLOB_BYTES_MAX`].
    pub async fn blob_writer(&self, blob: BlobRef) -> Result<BlobWriter, BlobError> {
        self.inner.blobs.writer(blob).await
    }

    /// The blob, to read from its beginning; `None` if it never came.
    pub async fn blob(&self, digest: [u8; 32]) -> Result<Option<fs::File>, StoreError> {
        match tokio::fs::File::open(self.inner.blobs.path(&digest)).await {
            Ok(file) => Ok(Some(file.into_std().await)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A blob on its way in. Dropped before [`BlobWriter::finish`], it leaves nothing behind.
pub struct BlobWriter {
    expected: BlobRef,
    received: u64,
    hash: Sha256,
    file: tokio::fs::File,
    unfinished: PathBuf,
    finished: PathBuf,
}

impl BlobWriter {
    /// Takes the next bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.received += bytes.len() as u64;
        if self.received > self.expected.size {
            return Err(BlobError::TooLarge);
        }
        self.hash.update(bytes);
        Ok(self.file.write_all(bytes).await?)
    }

    /// Verifies size and digest and puts the blob where readers find it, durably. The same blob may come twice.
    pub async fn finish(mut self) -> Result<(), BlobError> {
        let digest: [u8; 32] = self.hash.clone().finalize().into();
        if self.received != self.expected.size || digest != self.expected.digest {
            return Err(BlobError::DigestMismatch);
        }
        self.file.flush().await?;
        self.file.sync_all().await?;
        tokio::fs::rename(&self.unfinished, &self.finished).await?;
        let directory = self.finished.parent().unwrap_or(Path::new(".")).to_owned();
        Ok(tokio::fs::File::open(directory).await?.sync_all().await?)
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // After `finish` there is nothing under this name; what cannot be removed goes at the next start.
        let _ = fs::remove_file(&self.unfinished);
    }
}

/// Why a blob was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// More bytes than were announced, or than anybody may send.
    #[error("stdin or script is larger than announced, or than {} MiB: send less", limits::BLOB_BYTES_MAX >> 20)]
    TooLarge,
    /// Fewer bytes than were announced, or others.
    #[error("stdin or script is not what was signed: submit the job again")]
    DigestMismatch,
    /// The disk.
    #[error("the controller cannot keep stdin or script: check the space on the disk with its state directory")]
    Io(#[from] io::Error),
}

pub(crate) struct Blobs {
    dir: PathBuf,
    begun: AtomicU64,
}

impl Blobs {
    /// Removes what an earlier process did not finish.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { dir, begun: AtomicU64::new(0) })
    }

    /// The blobs there are.
    pub(crate) async fn list(&self) -> io::Result<Vec<([u8; 32], FileInfo)>> {
        list(self.dir.clone(), digest_of).await
    }

    /// Where a blob with this digest is, or would be.
    pub(crate) fn path(&self, digest: &[u8; 32]) -> PathBuf {
        self.dir.join(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    async fn writer(&self, expected: BlobRef) -> Result<BlobWriter, BlobError> {
        if expected.size > limits::BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge);
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.dir.join(format!("{UNFINISHED}{number}"));
        Ok(BlobWriter {
            expected,
            received: 0,
            hash: Sha256::new(),
            file: tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).await?,
            unfinished,
            finished: self.path(&expected.digest),
        })
    }
}

/// A digest in hex.
fn digest_of(name: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if name.len() != 64 || !name.is_ascii() {
        return None;
    }
    for (byte, place) in digest.iter_mut().zip(0..) {
        *byte = u8::from_str_radix(name.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(digest)
}
