//! Output of many hosts as lines: each line whole, each with its host before it.
//!
//! A line is written as soon as it is complete; what is left of one when its program ends, then. On a terminal output
//! passes the sanitiser and long lines are broken, so that no text can stand where a prefix would. On a pipe bytes go
//! through as they are: a long line is written piece by piece, and broken only if another host speaks in between.

use super::console::{Console, Sink};
use super::sanitise::Sanitiser;
use super::summary::thousands;
use anstyle::{AnsiColor, Style};
use memchr::{memchr_iter, memrchr};
use muster_proto::event::Stream;
use muster_proto::ping::TargetName;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

/// A longer piece of a line is not held back on a pipe: bytes, for each stream of each host.
const PIPE_PIECE_BYTES_MAX: usize = 64 << 10;
/// A longer line is broken on a terminal: bytes.
const TERMINAL_LINE_BYTES_MAX: usize = 8 << 10;

/// What stands before a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// The host and a colon.
    Host,
    /// Nothing.
    None,
}

/// The unfinished lines of all hosts.
pub struct Lines {
    names: Rc<[TargetName]>,
    prefix: Prefix,
    unfinished: HashMap<(u32, Stream), Unfinished>,
    /// Whose line each of our outputs ends with, if that line is not complete.
    open: [Option<u32>; 2],
    /// Lines with their prefixes, on their way out.
    block: Vec<u8>,
}

#[derive(Default)]
struct Unfinished {
    sanitiser: Sanitiser,
    bytes: Vec<u8>,
}

impl Lines {
    /// For hosts with these names, in the order of the job's frozen list.
    pub fn new(names: Rc<[TargetName]>, prefix: Prefix) -> Self {
        Self { names, prefix, unfinished: HashMap::new(), open: [None; 2], block: Vec::new() }
    }

    /// A piece of output arrived.
    pub fn output(&mut self, console: &mut Console, target: u32, stream: Stream, data: &[u8]) -> io::Result<()> {
        match console.sink(stream) {
            Sink::Pipe => self.pass(console, target, stream, data),
            Sink::Terminal { .. } => self.sanitised(console, target, stream, data),
        }
    }

    /// On a pipe: whole lines go straight through, and only what is left of the last one is kept.
    fn pass(&mut self, console: &mut Console, target: u32, stream: Stream, data: &[u8]) -> io::Result<()> {
        let held = self.unfinished.entry((target, stream)).or_default();
        let whole = memrchr(b'\n', data).map_or(0, |last| last + 1);
        let ready = match held.bytes.len() * usize::from(whole == 0) + data.len() - whole {
            rest if rest < PIPE_PIECE_BYTES_MAX => whole,
            _ => data.len(),
        };
        let (ready, rest) = data.split_at(ready);
        let begun = if ready.is_empty() { Vec::new() } else { std::mem::take(&mut held.bytes) };
        held.bytes.extend_from_slice(rest);
        [&begun, ready]
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .try_for_each(|piece| self.write(console, target, stream, piece))
    }

    /// On a terminal: clean text, a line at a time.
    fn sanitised(&mut self, console: &mut Console, target: u32, stream: Stream, data: &[u8]) -> io::Result<()> {
        let held = self.unfinished.entry((target, stream)).or_default();
        let mut clean = String::new();
        held.sanitiser.push(data, &mut clean);
        held.bytes.extend_from_slice(clean.as_bytes());
        let whole = memrchr(b'\n', &held.bytes).map_or(0, |last| last + 1);
        let long = held.bytes.len() - whole >= TERMINAL_LINE_BYTES_MAX;
        let ready = if long { char_boundary(&held.bytes, held.bytes.len()) } else { whole };
        if ready == 0 {
            return Ok(());
        }
        let rest = held.bytes.split_off(ready);
        let bytes = std::mem::replace(&mut held.bytes, rest);
        self.write(console, target, stream, &bytes)
    }

    /// Output is missing here, which nobody must overlook.
    pub fn truncated(&mut self, console: &mut Console, target: u32, stream: Stream, bytes: u64) -> io::Result<()> {
        self.end_stream(console, target, stream)?;
        let what = if bytes == 1 { "byte" } else { "bytes" };
        let text = format!("... {} {what} of {} dropped here ...", thousands(bytes), stream.as_str());
        self.note(console, target, &text, Style::new().dimmed())
    }

    /// Nothing more comes from this host: an incomplete last line is written now.
    pub fn end(&mut self, console: &mut Console, target: u32) -> io::Result<()> {
        self.end_stream(console, target, Stream::Stdout)?;
        self.end_stream(console, target, Stream::Stderr)
    }

    /// Nothing more comes from anybody.
    pub fn end_all(&mut self, console: &mut Console) -> io::Result<()> {
        let mut targets: Vec<u32> = self.unfinished.keys().map(|(target, _)| *target).collect();
        targets.sort_unstable();
        targets.into_iter().try_for_each(|target| self.end(console, target))?;
        // stdout is left as the program left it; talk on stderr begins on a line of its own.
        self.close(console, Stream::Stderr)
    }

    /// Says something of a host on stderr.
    pub fn note(&mut self, console: &mut Console, target: u32, text: &str, style: Style) -> io::Result<()> {
        self.close(console, Stream::Stderr)?;
        let Some(name) = self.names.get(target as usize) else { return Ok(()) };
        match console.sink(Stream::Stderr) {
            Sink::Terminal { colour: true } => {
                let host = host_style(target);
                console.say(&format!("{host}{name}:{host:#} {style}{text}{style:#}"))
            }
            _ => console.say(&format!("{name}: {text}")),
        }
    }

    fn end_stream(&mut self, console: &mut Console, target: u32, stream: Stream) -> io::Result<()> {
        let Some(mut held) = self.unfinished.remove(&(target, stream)) else { return Ok(()) };
        let mut clean = String::new();
        held.sanitiser.finish(&mut clean);
        held.bytes.extend_from_slice(clean.as_bytes());
        if !held.bytes.is_empty() {
            self.write(console, target, stream, &held.bytes)?;
        }
        match self.prefix {
            Prefix::Host if self.open[stream as usize] == Some(target) => self.close(console, stream),
            _ => Ok(()),
        }
    }

    fn write(&mut self, console: &mut Console, target: u32, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let Some(name) = self.names.get(target as usize) else { return Ok(()) };
        let sink = console.sink(stream);
        let prefix = match (self.prefix, sink) {
            (Prefix::None, _) => String::new(),
            (Prefix::Host, Sink::Terminal { colour: true }) => {
                let style = host_style(target);
                format!("{style}{name}:{style:#} ")
            }
            (Prefix::Host, _) => format!("{name}: "),
        };
        if sink == Sink::Pipe {
            return self.write_block(console, target, stream, prefix.as_bytes(), bytes);
        }
        for mut line in bytes.split_inclusive(|byte| *byte == b'\n') {
            while line.len() > TERMINAL_LINE_BYTES_MAX {
                let (piece, rest) = line.split_at(char_boundary(line, TERMINAL_LINE_BYTES_MAX));
                self.write_block(console, target, stream, prefix.as_bytes(), piece)?;
                self.close(console, stream)?;
                line = rest;
            }
            self.write_block(console, target, stream, prefix.as_bytes(), line)?;
            self.close(console, stream)?;
        }
        Ok(())
    }

    /// Writes lines with a prefix before each that begins here.
    fn write_block(
        &mut self,
        console: &mut Console,
        target: u32,
        stream: Stream,
        prefix: &[u8],
        block: &[u8],
    ) -> io::Result<()> {
        if self.open[stream as usize] != Some(target) {
            self.close(console, stream)?;
            console.write(stream, prefix)?;
        }
        self.open[stream as usize] = (!block.ends_with(b"\n")).then_some(target);
        if prefix.is_empty() {
            return console.write(stream, block);
        }
        let mut begin = 0;
        self.block.clear();
        for end in memchr_iter(b'\n', block).map(|newline| newline + 1).filter(|end| *end < block.len()) {
            self.block.extend_from_slice(&block[begin..end]);
            self.block.extend_from_slice(prefix);
            begin = end;
        }
        self.block.extend_from_slice(&block[begin..]);
        console.write(stream, &self.block)
    }

    /// Ends an open line of ours, whosever it is.
    fn close(&mut self, console: &mut Console, stream: Stream) -> io::Result<()> {
        match self.open[stream as usize].take() {
            Some(_) => console.write(stream, b"\n"),
            None => Ok(()),
        }
    }
}

/// The last place up to `max` where no character is cut.
fn char_boundary(bytes: &[u8], max: usize) -> usize {
    let continues = |at: &usize| bytes.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (max.saturating_sub(3)..=max).rev().find(|at| !continues(at)).filter(|at| *at > 0).unwrap_or(max)
}

/// Neighbours differ; red is left to failures.
const fn host_style(target: u32) -> Style {
    const COLOURS: [AnsiColor; 6] = [
        AnsiColor::Cyan,
        AnsiColor::Green,
        AnsiColor::Yellow,
        AnsiColor::Magenta,
        AnsiColor::Blue,
        AnsiColor::BrightCyan,
    ];
    COLOURS[target as usize % COLOURS.len()].on_default()
}

#[cfg(test)]
mod tests {
    use super::super::console::tests::console;
    use super::*;
    use proptest::prelude::*;

    const TERMINAL: Sink = Sink::Terminal { colour: false };
    const OUT: Stream = Stream::Stdout;

    fn name(name: &str) -> TargetName {
        TargetName { from: None, host: name.parse().expect("a name") }
    }

    /// What both ends show of these chunks of output, each (target, data), once all hosts ended.
    fn shown(sink: Sink, prefix: Prefix, chunks: &[(u32, &[u8])]) -> String {
        let names: Vec<TargetName> = ["a", "b"].into_iter().map(name).collect();
        let (mut console, out, _) = console(sink);
        let mut lines = Lines::new(names.into(), prefix);
        for (target, data) in chunks {
            lines.output(&mut console, *target, OUT, data).expect("written");
        }
        lines.end_all(&mut console).expect("written");
        console.flush().expect("written");
        out.text()
    }

    #[test]
    fn lines_are_whole_and_have_their_host() {
        let chunks: &[(u32, &[u8])] = &[(0, b"on"), (1, b"x\ny"), (0, b"e\ntwo\nthr"), (1, b"\n")];
        assert_eq!(shown(Sink::Pipe, Prefix::Host, chunks), "b: x\na: one\na: two\nb: y\na: thr\n");
        assert_eq!(shown(TERMINAL, Prefix::Host, chunks), "b: x\na: one\na: two\nb: y\na: thr\n");
        assert_eq!(shown(Sink::Pipe, Prefix::None, chunks), "x\none\ntwo\ny\nthr");
        assert_eq!(shown(TERMINAL, Prefix::None, chunks), "x\none\ntwo\ny\nthr\n");
    }

    #[test]
    fn empty_lines_are_lines() {
        assert_eq!(shown(Sink::Pipe, Prefix::Host, &[(0, b"\n\nx")]), "a: \na: \na: x\n");
    }

    #[test]
    fn a_terminal_is_protected_and_a_pipe_is_not_altered() {
        let chunks: &[(u32, &[u8])] = &[(0, b"\x1b"), (0, b"[2J\r"), (0, b"\n")];
        assert_eq!(shown(TERMINAL, Prefix::Host, chunks), "a: \\x1b[2J\n");
        assert_eq!(shown(Sink::Pipe, Prefix::Host, chunks), "a: \x1b[2J\r\n");
    }

    #[test]
    fn a_long_line_is_broken_on_a_terminal_and_only_there() {
        let long = vec![b'x'; 3 * PIPE_PIECE_BYTES_MAX];
        let chunks: Vec<(u32, &[u8])> = long.chunks(1000).map(|chunk| (0, chunk)).collect();
        let piped = shown(Sink::Pipe, Prefix::Host, &chunks);
        assert_eq!(piped.matches("a: ").count(), 1);
        assert_eq!(piped.len(), long.len() + 4);
        let on_terminal = shown(TERMINAL, Prefix::Host, &chunks);
        assert!(on_terminal.lines().all(|line| line.starts_with("a: x") && line.len() <= TERMINAL_LINE_BYTES_MAX + 3));
        assert_eq!(on_terminal.matches('x').count(), long.len());
    }

    #[test]
    fn a_long_line_gives_way_to_another_host() {
        let long = vec![b'x'; PIPE_PIECE_BYTES_MAX];
        let text = shown(Sink::Pipe, Prefix::Host, &[(0, &long), (1, b"y\n"), (0, b"z\n")]);
        assert_eq!(text, format!("a: {}\nb: y\na: z\n", "x".repeat(PIPE_PIECE_BYTES_MAX)));
    }

    #[test]
    fn what_is_missing_is_said_where_it_is_missing() {
        let (mut console, out, err) = console(Sink::Pipe);
        let mut lines = Lines::new(vec![name("a")].into(), Prefix::Host);
        lines.output(&mut console, 0, OUT, b"be").expect("written");
        lines.truncated(&mut console, 0, OUT, 123_456).expect("written");
        lines.output(&mut console, 0, OUT, b"end\n").expect("written");
        console.flush().expect("written");
        assert_eq!(out.text(), "a: be\na: end\n");
        assert_eq!(err.text(), "a: ... 123,456 bytes of stdout dropped here ...\n");
    }

    proptest! {
        #[test]
        fn the_cuts_do_not_matter(
            data in prop::collection::vec(prop::sample::select(b"ab\n\r\xe2\x82\xac\x1b".to_vec()), 0..200),
            size in 1_usize..20,
        ) {
            for (sink, prefix) in [(Sink::Pipe, Prefix::Host), (Sink::Pipe, Prefix::None), (TERMINAL, Prefix::Host)] {
                let chunks: Vec<(u32, &[u8])> = data.chunks(size).map(|chunk| (0, chunk)).collect();
                prop_assert_eq!(shown(sink, prefix, &chunks), shown(sink, prefix, &[(0, &data)]));
            }
        }

        #[test]
        fn without_prefix_a_pipe_gets_the_very_bytes(text in "[a-z\n]{0,300}", size in 1_usize..50) {
            let chunks: Vec<(u32, &[u8])> = text.as_bytes().chunks(size).map(|chunk| (0, chunk)).collect();
            prop_assert_eq!(shown(Sink::Pipe, Prefix::None, &chunks), text);
        }
    }
}
