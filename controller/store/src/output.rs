//! Larger output, beside the database: one append-only file a job, `output/<job id>`.
//!
//! Bytes are written before the transaction that refers to them and brought to disk before it commits. A crash in
//! between leaves bytes that nothing refers to, which is harmless: appends go to the real end, and readers read only
//! what they are pointed to.

use bytes::Bytes;
use muster_proto::id::JobId;
use std::fs::{self, File};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

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

/// The directory with the files. Its functions block: call them where that is allowed.
#[derive(Clone)]
pub(crate) struct Outputs {
    dir: PathBuf,
}

impl Outputs {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Writes the pieces at the end of the job's file and says where they are. The file still has to be synced.
    pub(crate) fn append(&self, job: JobId, pieces: &[Bytes]) -> io::Result<(Vec<Place>, File)> {
        let path = self.dir.join(job.to_string());
        let mut file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let end = file.seek(io::SeekFrom::End(0))?;
        if end == 0 {
            // The name is durable before anything refers to the file.
            File::open(&self.dir)?.sync_all()?;
        }
        let (mut places, mut body) = (Vec::with_capacity(pieces.len()), Vec::new());
        for piece in pieces {
            let packed = zstd::bulk::compress(piece, LEVEL)?;
            let (codec, bytes) =
                if packed.len() < piece.len() { (Codec::Zstd, &packed[..]) } else { (Codec::Plain, &piece[..]) };
            let size = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
            let offset = end + body.len() as u64;
            places.push(Place { offset, stored: size(bytes.len())?, length: size(piece.len())?, codec });
            body.extend_from_slice(bytes);
        }
        file.write_all(&body)?;
        Ok((places, file))
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
