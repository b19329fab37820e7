//! Larger output, beside the database: one file a job, `output/<job id>`.
//!
//! How many of its bytes count stands in the job's row. The one writer puts new bytes behind them within the
//! transaction that refers to them, and brings them to disk before it commits. A transaction that fails, or a crash,
//! leaves bytes that nothing refers to; the next ones are written over them, so that no repetition makes a file grow.

use bytes::Bytes;
use muster_proto::id::JobId;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

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
    pub codec: Codec,
}

/// How the bytes in the file become the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Plain,
    Zstd,
}

/// Output that is ready to be written to its job's file.
pub(crate) struct Packed {
    /// One for each piece, as if the file began with them.
    pub places: Vec<Place>,
    body: Bytes,
    /// Has to be synced once they are written.
    pub file: Arc<File>,
}

impl Packed {
    /// Bytes it takes in the file.
    pub(crate) fn len(&self) -> u64 {
        self.body.len() as u64
    }

    /// Writes it at this place, over whatever is there.
    pub(crate) async fn write(&self, at: u64) -> io::Result<()> {
        let (file, body) = (Arc::clone(&self.file), self.body.clone());
        tokio::task::spawn_blocking(move || file.write_all_at(&body, at)).await.map_err(io::Error::other)?
    }
}

/// The directory with the files. Its functions block: call them where that is allowed.
#[derive(Clone)]
pub(crate) struct Outputs {
    dir: PathBuf,
}

impl Outputs {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Compresses the pieces and opens the job's file for them.
    pub(crate) fn pack(&self, job: JobId, pieces: &[Bytes]) -> io::Result<Packed> {
        let path = self.dir.join(job.to_string());
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() == 0 {
            // The name is durable before anything refers to the file.
            File::open(&self.dir)?.sync_all()?;
        }
        let (mut places, mut body) = (Vec::with_capacity(pieces.len()), Vec::new());
        for piece in pieces {
            let packed = zstd::bulk::compress(piece, LEVEL)?;
            let (codec, bytes) =
                if packed.len() < piece.len() { (Codec::Zstd, &packed[..]) } else { (Codec::Plain, &piece[..]) };
            let size = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
            let offset = body.len() as u64;
            places.push(Place { offset, stored: size(bytes.len())?, length: size(piece.len())?, codec });
            body.extend_from_slice(bytes);
        }
        Ok(Packed { places, body: body.into(), file: Arc::new(file) })
    }

    /// Reads the pieces at these places. [`io::ErrorKind::InvalidData`] or `UnexpectedEof` if they are not there.
    pub(crate) fn read(&self, job: JobId, places: &[Place]) -> io::Result<Vec<Bytes>> {
        let file = File::open(self.dir.join(job.to_string()))?;
        let read = |place: &Place| {
            let mut stored = vec![0; place.stored as usize];
            file.read_exact_at(&mut stored, place.offset)?;
            let length = place.length as usize;
            let piece = match place.codec {
                Codec::Plain => stored,
                Codec::Zstd => zstd::bulk::decompress(&stored, length)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
            };
            if piece.len() == length { Ok(piece.into()) } else { Err(io::ErrorKind::InvalidData.into()) }
        };
        places.iter().map(read).collect()
    }
}
