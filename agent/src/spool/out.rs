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
use bytes::Bytes;
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

/// Reads a task's output as frames, while it grows.
#[derive(Debug)]
pub struct OutReader {
    file: File,
    /// What was read of the file but not yet returned, from `used` on.
    buffer: Vec<u8>,
    used: usize,
    /// Place in the file behind the buffer.
    position: u64,
    frame: u64,
    /// Place in each stream.
    offsets: [u64; 2],
}

impl OutReader {
    /// Begins with frame 0.
    pub fn open(dir: &TaskDir) -> io::Result<Self> {
        let file = File::open(dir.path().join("out"))?;
        Ok(Self { file, buffer: Vec::new(), used: 0, position: 0, frame: 0, offsets: [0; 2] })
    }

    /// Makes this frame the next; one that is not there yet is an error and leaves the reader at the end.
    pub fn seek(&mut self, frame: u64) -> io::Result<()> {
        if frame < self.frame {
            (self.used, self.position, self.frame, self.offsets) = (0, 0, 0, [0; 2]);
            self.buffer.clear();
        }
        while self.frame < frame {
            if self.step()?.is_none() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Goes behind the last frame that is there. An error means damage; the frames before it can be read.
    pub(crate) fn exhaust(&mut self) -> io::Result<()> {
        while self.step()?.is_some() {}
        Ok(())
    }

    /// Number of the frame that [`OutReader::next`] returns.
    pub const fn next_frame(&self) -> u64 {
        self.frame
    }

    /// The next frame; `None` if there is none yet.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ends and goes on again would surprise")]
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        let (number, [stdout, stderr]) = (self.frame, self.offsets);
        let Some(record) = self.step()? else {
            return Ok(None);
        };
        let body = match record.body {
            RecordBody::Truncated(bytes) => FrameBody::Truncated { bytes },
            RecordBody::Data(data) => FrameBody::Data {
                offset: if record.stream == Stream::Stdout { stdout } else { stderr },
                data: Bytes::copy_from_slice(data),
            },
        };
        Ok(Some(Frame { number, stream: record.stream, body }))
    }

    fn step(&mut self) -> io::Result<Option<Record<'_>>> {
        let mut size = self.record_size()?;
        if size.is_none_or(|size| self.buffer.len() - self.used < size) {
            self.fill()?;
            size = self.record_size()?;
        }
        let Some(size) = size.filter(|size| self.buffer.len() - self.used >= *size) else {
            return Ok(None);
        };
        let start = self.used;
        self.used += size;
        self.frame += 1;
        let (kind, content) = (self.buffer[start], &self.buffer[start + HEADER_BYTES..self.used]);
        let stream = if kind % 2 == 1 { Stream::Stdout } else { Stream::Stderr };
        let body = match (kind, <[u8; 8]>::try_from(content)) {
            (3 | 4, Ok(count)) => RecordBody::Truncated(u64::from_le_bytes(count)),
            _ => RecordBody::Data(content),
        };
        self.offsets[usize::from(stream == Stream::Stderr)] += match body {
            RecordBody::Data(data) => data.len() as u64,
            RecordBody::Truncated(count) => count,
        };
        Ok(Some(Record { stream, body }))
    }

    /// Length of the next record with its header, if the header is in the buffer.
    fn record_size(&self) -> io::Result<Option<usize>> {
        let Some((header, _)) = self.buffer[self.used..].split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [kind, length @ ..] = *header;
        let length = u32::from_le_bytes(length) as usize;
        match kind {
            1 | 2 if length <= limits::OUTPUT_FRAME_BYTES_MAX => Ok(Some(HEADER_BYTES + length)),
            3 | 4 if length == 8 => Ok(Some(HEADER_BYTES + 8)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the task's output is damaged at frame {}", self.frame),
            )),
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let kept = self.buffer.len();
        self.buffer.resize(BUFFER_BYTES, 0);
        let read = self.file.read_at(&mut self.buffer[kept..], self.position);
        self.buffer.truncate(kept + *read.as_ref().unwrap_or(&0));
        self.position += read? as u64;
        // An idle reader holds no memory: an agent follows many tasks.
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
        Ok(())
    }
}
