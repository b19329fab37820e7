//! Larger output, beside the database: one file a job, `output/<job id>`.
//!
//! How many of its bytes count stands in the job's row. New bytes are put behind them, and are on disk, before the
//! transaction that refers to them is handed to the writer: so a flood in one job costs the others no time. Meanwhile the
//! file is locked: nobody else can put anything there. A transaction that fails, or a crash, leaves bytes that nothing
//! refers to; the next ones are written over them, so that no repetition makes a file grow.

use crate::retention::{FileInfo, list, removed};
use bytes::Bytes;
use muster_proto::id::JobId;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

/// zstd level: the fastest; output is mostly text and shrinks well at any.
const LEVEL: i32 = 1;

/// Where in its job's file a piece of output lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub offset: u64,
    /// Bytes in the file.
    pub stored: u32,
    /// Bytes of the output.
    pub length: u32,
}

/// Output that is in its job's file, and nothing refers to it yet. Until it is dropped nobody else can write there.
pub(crate) struct Packed {
    /// One for each piece, counted from where the first begins.
    pub places: Vec<Place>,
    /// Where the first begins.
    pub at: u64,
    /// Bytes it takes in the file.
    pub len: u64,
    /// Its lock is held.
    _file: File,
}

/// The directory with the files. Its functions that are not async block: call them where that is allowed.
#[derive(Clone)]
pub(crate) struct Outputs {
    dir: PathBuf,
}

impl Outputs {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Opens a job's file, or makes it, and waits until nobody else writes there.
    pub(crate) fn lock(&self, job: JobId) -> io::Result<File> {
        let path = self.dir.join(job.to_string());
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() == 0 {
            // The name is durable before anything refers to the file.
            File::open(&self.dir)?.sync_all()?;
        }
        file.lock()?;
        Ok(file)
    }

    /// The files there are.
    pub(crate) async fn list(&self) -> io::Result<Vec<(JobId, FileInfo)>> {
        list(self.dir.clone(), |name| name.parse().ok()).await
    }

    /// Removes a job's file, if it has one.
    pub(crate) async fn remove(&self, job: JobId) -> io::Result<()> {
        removed(tokio::fs::remove_file(self.dir.join(job.to_string())).await)
    }

    /// Reads the pieces at these places. [`io::ErrorKind::InvalidData`] or `UnexpectedEof` if they are not there.
    pub(crate) fn read(&self, job: JobId, places: &[Place]) -> io::Result<Vec<Bytes>> {
        let file = File::open(self.dir.join(job.to_string()))?;
        let mut zstd = Decompressor::new()?;
        let mut read = |place: &Place| {
            let mut stored = vec![0; place.stored as usize];
            file.read_exact_at(&mut stored, place.offset)?;
            let length = place.length as usize;
            let piece =
                zstd.decompress(&stored, length).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if piece.len() == length { Ok(piece.into()) } else { Err(io::ErrorKind::InvalidData.into()) }
        };
        places.iter().map(&mut read).collect()
    }
}

impl Packed {
    /// Compresses the pieces, puts them into the job's file at this place, over whatever is there, and brings them to disk.
    /// Blocks.
    pub(crate) fn put(file: File, at: u64, pieces: &[Bytes]) -> io::Result<Self> {
        let mut zstd = Compressor::new(LEVEL)?;
        // What does not shrink is a few bytes longer then; what a disk has altered is found.
        zstd.set_parameter(CParameter::ChecksumFlag(true))?;
        let (mut places, mut body) = (Vec::with_capacity(pieces.len()), Vec::new());
        for piece in pieces {
            let offset = body.len();
            body.resize(offset + zstd::zstd_safe::compress_bound(piece.len()), 0);
            let packed = zstd.compress_to_buffer(piece, &mut body[offset..])?;
            body.truncate(offset + packed);
            let size = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
            let stored = size(body.len() - offset)?;
            places.push(Place { offset: offset as u64, stored, length: size(piece.len())? });
        }
        file.write_all_at(&body, at)?;
        file.sync_data()?;
        Ok(Self { places, at, len: body.len() as u64, _file: file })
    }
}
