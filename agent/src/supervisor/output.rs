//! Keeps a program's output: a head that is written through, then a tail that is kept in memory until the end; or all
//! of it, and then the program is not read from while its host holds too much that the controller does not have.
//!
//! Every byte is either in a record or counted in a truncation: kept + dropped == produced, for each stream. A disk
//! that takes no more ends the head early; what it cannot take at the end is dropped and counted. Where all is kept,
//! the program waits for the disk, too, until it is over.
//!
//! A stream that was silent is written at once. One that goes on in small pieces is gathered for some milliseconds, so
//! that a program that writes byte by byte does not make a record, and all that comes of it, for each.

use super::tail::{Tail, slot};
use crate::spool::{Acked, RECORD_HEADER_BYTES, Record, RecordBody};
use muster_proto::command::OutputLimit;
use muster_proto::event::Stream;
use muster_proto::limits::{OUTPUT_FRAME_BYTES_MAX, OUTPUT_HELD_BYTES_MAX};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

/// Pieces of this size are written as they come.
const LARGE_BYTES: usize = 32 << 10;
/// Between two records of one stream that are smaller: at most 200 a second.
const GATHER: Duration = Duration::from_millis(5);
/// A full disk is tried again after this long.
const DISK_RETRY: Duration = Duration::from_millis(500);
/// The disk gets back whole blocks of this size, or of a part of it.
const BLOCK_BYTES: u64 = 64 << 10;

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
    /// `None` where there is a limit.
    all: Option<All>,
    /// What was read of each stream and not yet taken.
    gathered: [Gathered; 2],
}

/// What there is to know where all is kept and the program waits.
#[derive(Default)]
struct All {
    /// Before this place the disk has it back.
    hole: u64,
    /// Before this place the controller has it.
    acked: u64,
    /// The disk took no more: when to try again.
    stuck: Option<Duration>,
    /// The program is over: nobody waits for the disk any more.
    over: bool,
}

/// Bytes of one stream on their way to a record.
struct Gathered {
    /// Room for one record; its header is not there yet.
    buffer: Vec<u8>,
    /// Behind the last byte.
    end: usize,
    /// When its first byte came.
    since: Duration,
    /// When the last record was made; the clock is the caller's.
    last: Option<Duration>,
}

impl Gathered {
    fn new() -> Self {
        let buffer = vec![0; RECORD_HEADER_BYTES + OUTPUT_FRAME_BYTES_MAX];
        Self { buffer, end: RECORD_HEADER_BYTES, since: Duration::ZERO, last: None }
    }

    const fn is_empty(&self) -> bool {
        self.end == RECORD_HEADER_BYTES
    }

    /// When it is to be written; `None` if there is nothing.
    fn due(&self) -> Option<Duration> {
        let now = Duration::ZERO;
        let small = self.end < RECORD_HEADER_BYTES + LARGE_BYTES;
        (!self.is_empty()).then(|| self.last.filter(|_| small).map_or(now, |last| last.saturating_add(GATHER)))
    }
}

impl Output {
    pub(super) fn new(out: File, limit: OutputLimit) -> Self {
        // The tail is in memory: it is bounded where a job is decoded.
        let (head, tail, all) = match limit {
            OutputLimit::Kept { head, tail } => (head, tail, None),
            OutputLimit::Unlimited => (u64::MAX, 0, Some(All::default())),
        };
        let gathered = [Gathered::new(), Gathered::new()];
        Self { out, size: 0, frames: 0, head, tail: Tail::new(tail), all, gathered }
    }

    /// The program has to wait: nothing is to be read of it now.
    pub(super) fn is_blocked(&self) -> bool {
        self.all.as_ref().is_some_and(|all| all.stuck.is_some() || self.size - all.acked >= OUTPUT_HELD_BYTES_MAX)
    }

    /// Takes note of how far the controller has the output: the disk gets that back.
    pub(super) fn acknowledge(&mut self, acked: Acked) {
        let Some(all) = &mut self.all else { return };
        if acked.abandoned {
            (self.head, self.all) = (0, None);
            return;
        }
        all.acked = acked.before.position.clamp(all.acked, self.size);
        let whole = all.acked - all.acked % BLOCK_BYTES;
        if whole > all.hole {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // A file system that has no holes gives it back at the end.
            let _ = fallocate(&self.out, flags, all.hole, whole - all.hole);
            all.hole = whole;
        }
    }

    /// The program is over: a disk that takes no more now costs bytes.
    pub(super) fn hurry(&mut self) {
        if let Some(all) = &mut self.all {
            (all.over, all.stuck) = (true, None);
        }
    }

    /// Reads what is in the pipe, at most one frame, so that the streams take turns. It is written now or when it is
    /// [due](Output::due).
    pub(super) fn pump(&mut self, stream: Stream, mut pipe: &File, now: Duration) -> Flow {
        let gathered = &mut self.gathered[slot(stream)];
        if gathered.is_empty() {
            gathered.since = now;
        }
        let Gathered { buffer, end, .. } = gathered;
        let mut flow = Flow::Open;
        while *end < buffer.len() {
            match pipe.read(&mut buffer[*end..]) {
                Ok(0) => {
                    flow = Flow::Closed;
                    break;
                }
                Ok(count) => *end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    flow = Flow::Closed;
                    break;
                }
            }
        }
        self.write_due(now);
        flow
    }

    /// When something is to be written that was read already; `None` if all is.
    pub(super) fn due(&self) -> Option<Duration> {
        let due = self.gathered.iter().filter_map(Gathered::due).min();
        due.max(self.all.as_ref().and_then(|all| all.stuck).filter(|_| due.is_some()))
    }

    /// Writes all that was read if some of it is due by now, so that streams keep their order as far as it is known.
    pub(super) fn write_due(&mut self, now: Duration) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        let mut order = [Stream::Stdout, Stream::Stderr];
        order.sort_by_key(|stream| self.gathered[slot(*stream)].since);
        for stream in order {
            let stuck = self.all.as_ref().is_some_and(|all| all.stuck.is_some_and(|again| again > now));
            if !self.gathered[slot(stream)].is_empty() && !stuck {
                self.write(stream, now);
            }
        }
    }

    fn write(&mut self, stream: Stream, now: Duration) {
        let Gathered { buffer, end, last, .. } = &mut self.gathered[slot(stream)];
        let end = std::mem::replace(end, RECORD_HEADER_BYTES);
        *last = Some(now);
        let mut buffer = std::mem::take(buffer);
        let taken = self.take(stream, &mut buffer[..end]);
        let gathered = &mut self.gathered[slot(stream)];
        gathered.buffer = buffer;
        if let Some(all) = &mut self.all {
            all.stuck = taken.is_err().then(|| now.saturating_add(DISK_RETRY));
            if taken.is_err() {
                gathered.end = end;
            }
        }
    }

    /// Takes bytes that begin behind the room for a header. An error, where all is kept: the disk is full, and nothing
    /// was taken.
    fn take(&mut self, stream: Stream, buffer: &mut [u8]) -> io::Result<()> {
        let count = buffer.len() - RECORD_HEADER_BYTES;
        let kept = usize::try_from(self.head).unwrap_or(usize::MAX).min(count);
        let (head, rest) = buffer.split_at_mut(RECORD_HEADER_BYTES + kept);
        if kept > 0 {
            let header = Record { stream, body: RecordBody::Data(&head[RECORD_HEADER_BYTES..]) }.header();
            head[..RECORD_HEADER_BYTES].copy_from_slice(&header);
            match self.append(head) {
                Ok(()) => self.head -= kept as u64,
                Err(error) if self.all.as_ref().is_some_and(|all| !all.over) => return Err(error),
                Err(_) => {
                    self.head = 0;
                    self.tail.push(stream, &head[RECORD_HEADER_BYTES..]);
                }
            }
        }
        self.tail.push(stream, rest);
        Ok(())
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
        self.hurry();
        self.write_due(Duration::MAX);
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
            output.take(stream(*second), &mut buffer).expect("a limit takes all");
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
            let (_temp, dir, frames) = write(&writes, OutputLimit::Kept { head, tail });
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
        let full = OutputLimit::Kept { head: 100, tail: 100 };
        let mut output = Output::new(File::options().write(true).open("/dev/full").expect("Linux has it"), full);
        let mut buffer = vec![7; RECORD_HEADER_BYTES + 50];
        output.take(Stream::Stdout, &mut buffer).expect("a limit takes all");
        assert_eq!(output.head, 0);
        let called = std::cell::Cell::new(0);
        assert_eq!(output.finish(|| called.set(called.get() + 1)).0, 0);
        assert_eq!(called.get(), 1);
    }

    #[test]
    fn where_all_is_kept_a_full_disk_is_waited_for_until_the_end() {
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let mut output = Output::new(full, OutputLimit::Unlimited);
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&reader, true).expect("set");
        File::from(writer).write_all(b"abc").expect("room");
        output.pump(Stream::Stdout, &File::from(reader), Duration::ZERO);
        assert!(output.is_blocked());
        assert_eq!(output.due(), Some(DISK_RETRY));
        let temp = tempfile::tempdir().expect("a directory");
        output.out = File::create(temp.path().join("out")).expect("a file");
        output.write_due(DISK_RETRY);
        assert!(!output.is_blocked());
        assert_eq!((output.due(), output.frames), (None, 1));
        output.out = File::options().write(true).open("/dev/full").expect("Linux has it");
        output.hurry();
        let mut buffer = vec![7; RECORD_HEADER_BYTES + 50];
        output.take(Stream::Stdout, &mut buffer).expect("nobody waits any more");
        assert!(!output.is_blocked());
        assert_eq!(output.tail.take_dropped(Stream::Stdout), 50);
    }

    #[test]
    fn what_is_still_gathered_at_the_end_is_kept() {
        let temp = tempfile::tempdir().expect("a directory");
        let out = File::create(temp.path().join("out")).expect("a file");
        let mut output = Output::new(out, OutputLimit::Unlimited);
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&reader, true).expect("set");
        let (reader, mut writer) = (File::from(reader), File::from(writer));
        for piece in [b"first", b"later"] {
            writer.write_all(piece).expect("room");
            output.pump(Stream::Stdout, &reader, Duration::from_secs(1));
        }
        assert_eq!(output.frames, 1, "the second piece waits for more");
        assert_eq!(output.finish(|| ()).0, 2);
    }

    #[test]
    fn small_pieces_are_gathered_and_the_first_one_is_not() {
        let temp = tempfile::tempdir().expect("a directory");
        let out = File::create(temp.path().join("out")).expect("a file");
        let mut output = Output::new(out, OutputLimit::default());
        let pipe = || {
            let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
            rustix::io::ioctl_fionbio(&reader, true).expect("set");
            (File::from(reader), File::from(writer))
        };
        let ((stdout, mut to_stdout), (stderr, mut to_stderr)) = (pipe(), pipe());
        let at = Duration::from_millis;

        to_stdout.write_all(b"1").expect("room");
        output.pump(Stream::Stdout, &stdout, at(1000));
        assert_eq!((output.frames, output.due()), (1, None), "what follows silence is written at once");
        for piece in 0..40 {
            to_stdout.write_all(b"ab").expect("room");
            output.pump(Stream::Stdout, &stdout, at(1001) + Duration::from_micros(50 * piece));
        }
        assert_eq!((output.frames, output.due()), (1, Some(at(1005))));
        output.write_due(at(1004));
        assert_eq!(output.frames, 1);
        output.write_due(at(1005));
        assert_eq!((output.frames, output.due()), (2, None));

        to_stdout.write_all(b"before").expect("room");
        output.pump(Stream::Stdout, &stdout, at(1006));
        to_stderr.write_all(b"after").expect("room");
        output.pump(Stream::Stderr, &stderr, at(1007));
        assert_eq!((output.frames, output.due()), (4, None), "the other stream does not overtake");

        to_stdout.write_all(&[b'x'; LARGE_BYTES]).expect("room");
        output.pump(Stream::Stdout, &stdout, at(1008));
        assert_eq!((output.frames, output.due()), (5, None), "much is written at once");
        to_stdout.write_all(b"end").expect("room");
        drop(to_stdout);
        assert_eq!(output.pump(Stream::Stdout, &stdout, at(1009)), Flow::Closed);
        assert_eq!(output.finish(|| ()).0, 6);

        let dir = TaskDir::at(temp.path());
        let mut reader = OutReader::open(&dir).expect("out is there");
        reader.seek(2).expect("it is there");
        assert_eq!(reader.next().expect("whole").map(|frame| frame.stream), Some(Stream::Stdout));
        assert_eq!(reader.next().expect("whole").map(|frame| frame.stream), Some(Stream::Stderr));
        assert_eq!(read(&dir, 6, Stream::Stdout).1, 1 + 80 + 6 + LARGE_BYTES as u64 + 3);
    }

    #[test]
    fn large_output_is_cut_into_frames() {
        let (temp, dir, frames) = write(
            &[(false, vec![1; 65_000]), (true, vec![2; 200_000])],
            OutputLimit::Kept { head: 65_000, tail: 150_000 },
        );
        assert_eq!(frames, 1 + 1 + 3);
        assert_eq!(read(&dir, frames, Stream::Stderr).1, 200_000);
        assert!(fs::metadata(temp.path().join("out")).expect("it is there").len() > 215_000);
    }
}
