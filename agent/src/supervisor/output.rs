//! Cuts a program's output: a head that is written through, then a tail that is kept in memory until the end.
//!
//! Every byte is either in a record or counted in a truncation: kept + dropped == produced, for each stream. A disk
//! that takes no more ends the head early; what it cannot take at the end is dropped and counted.

use crate::spool::{RECORD_HEADER_BYTES, Record, RecordBody};
use muster_proto::command::OutputLimit;
use muster_proto::event::Stream;
use muster_proto::limits::OUTPUT_FRAME_BYTES_MAX;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _, Write as _};

/// However much a job asks for: the tail is in memory.
const TAIL_BYTES_MAX: u64 = 64 << 20;

/// Whether more can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// Nothing now.
    Open,
    /// All writers closed it.
    Closed,
}

/// Writes a task's `out`.
pub(super) struct Output {
    out: File,
    /// Length of `out`, which ends with a whole record.
    size: u64,
    frames: u64,
    /// Bytes that the head may still take.
    head: u64,
    tail: Tail,
    /// Room for one record.
    buffer: Vec<u8>,
}

impl Output {
    pub(super) fn new(out: File, limit: OutputLimit) -> Self {
        let tail = Tail::new(limit.tail.min(TAIL_BYTES_MAX));
        let buffer = vec![0; RECORD_HEADER_BYTES + OUTPUT_FRAME_BYTES_MAX];
        Self { out, size: 0, frames: 0, head: limit.head, tail, buffer }
    }

    /// Reads what is in the pipe, at most one frame, so that the streams take turns.
    pub(super) fn pump(&mut self, stream: Stream, mut pipe: &File) -> Flow {
        let mut buffer = std::mem::take(&mut self.buffer);
        let (mut end, mut flow) = (RECORD_HEADER_BYTES, Flow::Open);
        while end < buffer.len() {
            match pipe.read(&mut buffer[end..]) {
                Ok(0) => {
                    flow = Flow::Closed;
                    break;
                }
                Ok(count) => end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    flow = Flow::Closed;
                    break;
                }
            }
        }
        self.take(stream, &mut buffer[..end]);
        self.buffer = buffer;
        flow
    }

    /// Takes bytes that begin behind the room for a header.
    fn take(&mut self, stream: Stream, buffer: &mut [u8]) {
        let count = buffer.len() - RECORD_HEADER_BYTES;
        let kept = usize::try_from(self.head).unwrap_or(usize::MAX).min(count);
        let (head, rest) = buffer.split_at_mut(RECORD_HEADER_BYTES + kept);
        if kept > 0 {
            let header = Record { stream, body: RecordBody::Data(&head[RECORD_HEADER_BYTES..]) }.header();
            head[..RECORD_HEADER_BYTES].copy_from_slice(&header);
            if self.append(head).is_ok() {
                self.head -= kept as u64;
            } else {
                self.head = 0;
                self.tail.push(stream, &head[RECORD_HEADER_BYTES..]);
            }
        }
        self.tail.push(stream, rest);
    }

    /// Appends one record with one write, whole or not at all.
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        match self.out.write(record) {
            Ok(count) if count == record.len() => {
                self.size += count as u64;
                self.frames += 1;
                Ok(())
            }
            torn => {
                self.out.set_len(self.size)?;
                Err(torn.err().unwrap_or_else(|| io::ErrorKind::StorageFull.into()))
            }
        }
    }

    /// Writes what was dropped and what was kept from the end, and makes all of it durable. `make_room` is called when
    /// the disk is full. Returns the number of frames, and the file, whose lock says that the supervisor still works.
    pub(super) fn finish(mut self, make_room: impl Fn()) -> (u64, File) {
        let mut record = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.truncation(stream, &make_room);
        }
        let mut full = false;
        while let Some((stream, data)) = self.tail.pop() {
            record.clear();
            Record { stream, body: RecordBody::Data(&data) }.encode(&mut record);
            if full || self.append(&record).is_err() {
                self.tail.drop_bytes(stream, data.len());
                full = true;
            }
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.truncation(stream, &make_room);
        }
        if self.frames > 0 {
            // If the disk fails here, the end is still worth telling.
            let _ = self.out.sync_data();
        }
        (self.frames, self.out)
    }

    fn truncation(&mut self, stream: Stream, make_room: impl Fn()) {
        let count = self.tail.take_dropped(stream);
        if count > 0 {
            let mut record = Vec::new();
            Record { stream, body: RecordBody::Truncated(count) }.encode(&mut record);
            if self.append(&record).is_err() {
                make_room();
                let _ = self.append(&record);
            }
        }
    }
}

/// The last bytes of both streams together, in the order in which they came.
struct Tail {
    limit: u64,
    bytes: VecDeque<u8>,
    /// Stream and length of each run of bytes.
    runs: VecDeque<(Stream, usize)>,
    dropped: [u64; 2],
}

impl Tail {
    fn new(limit: u64) -> Self {
        Self { limit, bytes: VecDeque::new(), runs: VecDeque::new(), dropped: [0; 2] }
    }

    fn push(&mut self, stream: Stream, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.bytes.extend(data);
        match self.runs.back_mut() {
            Some((last, length)) if *last == stream => *length += data.len(),
            _ => self.runs.push_back((stream, data.len())),
        }
        while self.bytes.len() as u64 > self.limit {
            let over = usize::try_from(self.bytes.len() as u64 - self.limit).unwrap_or(usize::MAX);
            let (stream, count) = self.shorten(over);
            self.bytes.drain(..count);
            self.drop_bytes(stream, count);
        }
    }

    /// Takes at most `count` bytes off the first run; there is one.
    fn shorten(&mut self, count: usize) -> (Stream, usize) {
        let (stream, length) = self.runs.front_mut().expect("bytes are in runs");
        let (stream, taken) = (*stream, count.min(*length));
        *length -= taken;
        if *length == 0 {
            self.runs.pop_front();
        }
        (stream, taken)
    }

    /// The oldest bytes, as many as fit in a frame.
    fn pop(&mut self) -> Option<(Stream, Vec<u8>)> {
        if self.runs.is_empty() {
            return None;
        }
        let (stream, count) = self.shorten(OUTPUT_FRAME_BYTES_MAX);
        Some((stream, self.bytes.drain(..count).collect()))
    }

    fn drop_bytes(&mut self, stream: Stream, count: usize) {
        self.dropped[slot(stream)] += count as u64;
    }

    fn take_dropped(&mut self, stream: Stream) -> u64 {
        std::mem::take(&mut self.dropped[slot(stream)])
    }
}

const fn slot(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{OutReader, TaskDir};
    use muster_proto::link::FrameBody;
    use proptest::prelude::*;
    use std::fs;

    fn stream(second: bool) -> Stream {
        if second { Stream::Stderr } else { Stream::Stdout }
    }

    /// What a reader gets of one stream: bytes by offset, and the length in all.
    fn read(dir: &TaskDir, frames: u64, wanted: Stream) -> (Vec<(u64, u8)>, u64, u64) {
        let mut reader = OutReader::open(dir).expect("out is there");
        let (mut bytes, mut total, mut dropped) = (Vec::new(), 0, 0);
        while let Some(frame) = reader.next().expect("out is whole") {
            if frame.stream == wanted {
                match frame.body {
                    FrameBody::Data { offset, data } => {
                        assert_eq!(offset, total);
                        bytes.extend((offset..).zip(data.iter().copied()));
                        total += data.len() as u64;
                    }
                    FrameBody::Truncated { bytes } => {
                        total += bytes;
                        dropped += bytes;
                    }
                }
            }
        }
        assert_eq!(reader.next_frame(), frames);
        (bytes, total, dropped)
    }

    fn write(writes: &[(bool, Vec<u8>)], limit: OutputLimit) -> (tempfile::TempDir, TaskDir, u64) {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = TaskDir::at(temp.path());
        let out = File::create(temp.path().join("out")).expect("a file");
        let mut output = Output::new(out, limit);
        for (second, data) in writes {
            let mut buffer = vec![0; RECORD_HEADER_BYTES];
            buffer.extend(data);
            output.take(stream(*second), &mut buffer);
        }
        let (frames, _) = output.finish(|| ());
        (temp, dir, frames)
    }

    proptest! {
        #[test]
        fn every_byte_is_kept_in_its_place_or_counted(
            writes in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..50)), 0..40),
            head in 0..300_u64,
            tail in 0..300_u64,
        ) {
            let (_temp, dir, frames) = write(&writes, OutputLimit { head, tail });
            let all = writes.iter().map(|(_, data)| data.len() as u64).sum::<u64>();
            let mut kept = 0;
            for second in [false, true] {
                let produced: Vec<u8> =
                    writes.iter().filter(|w| w.0 == second).flat_map(|w| w.1.iter().copied()).collect();
                let (bytes, total, dropped) = read(&dir, frames, stream(second));
                prop_assert_eq!(total, produced.len() as u64);
                prop_assert_eq!(bytes.len() as u64 + dropped, total);
                for (place, byte) in &bytes {
                    prop_assert_eq!(produced[usize::try_from(*place).expect("small")], *byte);
                }
                kept += bytes.len() as u64;
            }
            prop_assert_eq!(kept, all.min(head + tail));
        }
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_bytes_and_no_record() {
        let full = OutputLimit { head: 100, tail: 100 };
        let mut output = Output::new(File::options().write(true).open("/dev/full").expect("Linux has it"), full);
        let mut buffer = vec![7; RECORD_HEADER_BYTES + 50];
        output.take(Stream::Stdout, &mut buffer);
        assert_eq!(output.head, 0);
        let called = std::cell::Cell::new(0);
        assert_eq!(output.finish(|| called.set(called.get() + 1)).0, 0);
        assert_eq!(called.get(), 1);
    }

    #[test]
    fn large_output_is_cut_into_frames() {
        let (temp, dir, frames) =
            write(&[(false, vec![1; 65_000]), (true, vec![2; 200_000])], OutputLimit { head: 65_000, tail: 150_000 });
        assert_eq!(frames, 1 + 1 + 3);
        assert_eq!(read(&dir, frames, Stream::Stderr).1, 200_000);
        assert!(fs::metadata(temp.path().join("out")).expect("it is there").len() > 215_000);
    }
}
