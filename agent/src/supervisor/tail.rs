//! The end of a program's output, in memory: so many bytes, whatever came before.

use muster_proto::event::Stream;
use muster_proto::limits::OUTPUT_FRAME_BYTES_MAX;
use std::collections::VecDeque;

/// Runs that cost nothing, however short the tail.
const RUNS_MIN: usize = 256;

/// The last bytes of both streams together, in the order in which they came.
pub(super) struct Tail {
    /// Bytes.
    limit: u64,
    bytes: VecDeque<u8>,
    /// Stream and length of each run of bytes. They may take as much memory as the bytes, and no more.
    runs: VecDeque<(Stream, usize)>,
    runs_max: usize,
    dropped: [u64; 2],
}

impl Tail {
    /// Keeps so many bytes, or fewer of streams that alternate so often that the turns are larger than the bytes.
    pub(super) fn new(limit: u64) -> Self {
        let runs_max = RUNS_MIN + usize::try_from(limit).unwrap_or(usize::MAX) / size_of::<(Stream, usize)>();
        Self { limit, bytes: VecDeque::new(), runs: VecDeque::new(), runs_max, dropped: [0; 2] }
    }

    /// Takes bytes; the oldest give way.
    pub(super) fn push(&mut self, stream: Stream, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.bytes.extend(data);
        match self.runs.back_mut() {
            Some((last, length)) if *last == stream => *length += data.len(),
            _ => self.runs.push_back((stream, data.len())),
        }
        while self.bytes.len() as u64 > self.limit || self.runs.len() > self.runs_max {
            let over = (self.bytes.len() as u64).saturating_sub(self.limit);
            let over = if over == 0 { usize::MAX } else { usize::try_from(over).unwrap_or(usize::MAX) };
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
    pub(super) fn pop(&mut self) -> Option<(Stream, Vec<u8>)> {
        if self.runs.is_empty() {
            return None;
        }
        let (stream, count) = self.shorten(OUTPUT_FRAME_BYTES_MAX);
        Some((stream, self.bytes.drain(..count).collect()))
    }

    /// Counts bytes that could not be kept.
    pub(super) fn drop_bytes(&mut self, stream: Stream, count: usize) {
        self.dropped[slot(stream)] += count as u64;
    }

    /// What was dropped since this was last asked.
    pub(super) fn take_dropped(&mut self, stream: Stream) -> u64 {
        std::mem::take(&mut self.dropped[slot(stream)])
    }
}

/// Index of what there is for each stream.
pub(super) const fn slot(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_alternate_cost_no_more_memory_than_bytes() {
        let limit = 64 << 10;
        let mut tail = Tail::new(limit);
        for _ in 0..limit {
            tail.push(Stream::Stdout, b"o");
            tail.push(Stream::Stderr, b"e");
        }
        let memory = tail.runs.len() * size_of::<(Stream, usize)>();
        assert!(memory as u64 <= limit + 16 * RUNS_MIN as u64, "{memory}");
        let mut kept = [0, 0];
        while let Some((stream, data)) = tail.pop() {
            kept[slot(stream)] += data.len() as u64;
        }
        assert!(kept[0] + kept[1] >= limit / 16);
        for stream in [Stream::Stdout, Stream::Stderr] {
            assert_eq!(kept[slot(stream)] + tail.take_dropped(stream), limit);
        }
    }
}
