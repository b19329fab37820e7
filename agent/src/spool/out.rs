//! `out`: output as records that are only ever appended.
//!
//! ```text
//! kind u8 | length u32, little endian | data                 kinds 1, 2: stdout, stderr
//! kind u8 | 8           little endian | dropped bytes u64    kinds 3, 4: truncation of stdout, stderr
//! ```
//!
//! A record is a frame: their number is their place. Each is written with one call, and a reader that meets an
//! incomplete one waits for the rest.

use super::TaskDir;
use bytes::{Bytes, BytesMut};
use muster_proto::event::Stream;
use muster_proto::limits;
use muster_proto::link::{Frame, FrameBody};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Before each record's content.
pub(crate) const HEADER_BYTES: usize = 5;
/// Read at a time; holds any one record.
const BUFFER_BYTES: usize = HEADER_BYTES + limits::OUTPUT_FRAME_BYTES_MAX;

/// A smaller record is copied: it would hold the whole buffer for as long as it waits.
const COPY_BYTES_MAX: usize = 16 << 10;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) stream: Stream,
    pub(crate) body: RecordBody<'a>,
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RecordBody<'a> {
    /// At most [`limits::OUTPUT_FRAME_BYTES_MAX`].
    Data(&'a [u8]),
    /// So many bytes were dropped here.
    Truncated(u64),
}

impl Record<'_> {
    /// What stands before its content.
    pub(crate) fn header(&self) -> [u8; HEADER_BYTES] {
        let (kind, length) = match self.body {
            RecordBody::Data(data) => (1, data.len()),
            RecordBody::Truncated(_) => (3, 8),
        };
        let kind = kind + u8::from(self.stream == Stream::Stderr);
        let [a, b, c, d] = u32::try_from(length).expect("a frame is at most 64 KiB").to_le_bytes();
        [kind, a, b, c, d]
    }

    /// Appends its bytes.
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        to.extend(self.header());
        match self.body {
            RecordBody::Data(data) => to.extend(data),
            RecordBody::Truncated(count) => to.extend(count.to_le_bytes()),
        }
    }
}

/// A place between two records: a reader can begin there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Number of the frame that begins here.
    pub frame: u64,
    /// Place in the file: bytes.
    pub position: u64,
    /// Place in stdout and in stderr: bytes.
    pub offsets: [u64; 2],
}

/// Reads a task's output as frames, while it grows.
#[derive(Debug)]
pub struct OutReader {
    file: File,
    /// What was read of the file behind `next` but not yet returned. Frames are parts of it, not copies.
    buffer: BytesMut,
    next: Mark,
    /// What lies before this may be gone.
    first: Mark,
}

impl OutReader {
    /// Begins with the first frame that is still there: 0, unless all output is [kept](TaskDir::acked).
    pub fn open(dir: &TaskDir) -> io::Result<Self> {
        let file = File::open(dir.path().join("out"))?;
        let first = dir.acked()?.map_or_else(Mark::default, |acked| acked.before);
        Ok(Self { file, buffer: BytesMut::new(), next: first, first })
    }

    /// Makes this frame the next; one that is not there yet, or no more, is an error and leaves the reader at the end, or
    /// where it was.
    pub fn seek(&mut self, frame: u64) -> io::Result<()> {
        if frame < self.first.frame {
            return Err(io::Error::other(format!("frame {frame} was stored by a controller, and given up here")));
        }
        if frame < self.next.frame {
            self.next = self.first;
            self.buffer.clear();
        }
        while self.next.frame < frame {
            if self.next()?.is_none() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Goes behind the last frame that is there. An error means damage; the frames before it can be read.
    pub(crate) fn exhaust(&mut self) -> io::Result<()> {
        while self.next()?.is_some() {}
        Ok(())
    }

    /// Number of the frame that [`OutReader::next`] returns.
    pub const fn next_frame(&self) -> u64 {
        self.next.frame
    }

    /// Where that frame begins.
    pub(crate) const fn mark(&self) -> Mark {
        self.next
    }

    /// The next frame; `None` if there is none yet.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ends and goes on again would surprise")]
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut size = self.record_size()?;
        if size.is_none_or(|size| self.buffer.len() < size) {
            self.fill()?;
            size = self.record_size()?;
        }
        let Some(size) = size.filter(|size| self.buffer.len() >= *size) else {
            return Ok(None);
        };
        let kind = self.buffer[0];
        let record = if size < COPY_BYTES_MAX {
            Bytes::copy_from_slice(&self.buffer.split_to(size))
        } else {
            self.buffer.split_to(size).freeze()
        };
        let data = record.slice(HEADER_BYTES..);
        let stream = if kind % 2 == 1 { Stream::Stdout } else { Stream::Stderr };
        let number = self.next.frame;
        let offset = &mut self.next.offsets[usize::from(stream == Stream::Stderr)];
        let (body, length) = match (kind, <[u8; 8]>::try_from(&data[..])) {
            (3 | 4, Ok(count)) => {
                let bytes = u64::from_le_bytes(count);
                (FrameBody::Truncated { bytes }, bytes)
            }
            _ => (FrameBody::Data { offset: *offset, data: data.clone() }, data.len() as u64),
        };
        *offset += length;
        self.next.frame += 1;
        self.next.position += size as u64;
        Ok(Some(Frame { number, stream, body }))
    }

    /// Length of the next record with its header, if the header is in the buffer.
    fn record_size(&self) -> io::Result<Option<usize>> {
        let Some((header, _)) = self.buffer.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [kind, length @ ..] = *header;
        let length = u32::from_le_bytes(length) as usize;
        match kind {
            1 | 2 if length <= limits::OUTPUT_FRAME_BYTES_MAX => Ok(Some(HEADER_BYTES + length)),
            3 | 4 if length == 8 => Ok(Some(HEADER_BYTES + 8)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the task's output is damaged at frame {}", self.next.frame),
            )),
        }
    }

    /// A record that was torn is read anew from its beginning: its writer takes it back where the disk is full.
    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = BytesMut::zeroed(BUFFER_BYTES);
        let read = self.file.read_at(&mut buffer, self.next.position);
        buffer.truncate(*read.as_ref().unwrap_or(&0));
        // An idle reader holds no memory: an agent follows many tasks.
        self.buffer = if buffer.is_empty() { BytesMut::new() } else { buffer };
        read.map(drop)
    }
}
