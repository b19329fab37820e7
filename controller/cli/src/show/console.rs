//! Where text goes: data to stdout, talk to stderr, and one line of progress at the bottom of a terminal.
//!
//! Both ends are buffered and come out in the order in which they were written, also where both are one terminal. A
//! closed stdout is an error of kind `BrokenPipe`; what it means is for callers to say. A closed stderr is ignored.

use super::progress::{Progress, Window};
use muster_proto::event::Stream;
use std::io::{self, BufWriter, IsTerminal as _, Write};

/// What reads one of our outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    /// A person: nothing may reach it that could deceive.
    Terminal {
        /// It wants colours.
        colour: bool,
    },
    /// A program or a file: bytes go through as they are.
    Pipe,
}

/// Our two outputs.
pub struct Console {
    ends: [End; 2],
    last: Stream,
    progress: Progress,
}

struct End {
    to: BufWriter<Box<dyn Write>>,
    sink: Sink,
}

impl Console {
    /// The process's own stdout and stderr.
    pub fn new() -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let sink = |terminal, choice| match terminal {
            true => Sink::Terminal { colour: choice != anstream::ColorChoice::Never },
            false => Sink::Pipe,
        };
        let out_sink = sink(out.is_terminal(), anstream::AutoStream::choice(&out));
        let err_sink = sink(err.is_terminal(), anstream::AutoStream::choice(&err));
        Self::with((Box::new(out.lock()), out_sink), (Box::new(err), err_sink))
    }

    /// Any two ends.
    pub fn with(out: (Box<dyn Write>, Sink), err: (Box<dyn Write>, Sink)) -> Self {
        let end = |(to, sink)| End { to: BufWriter::with_capacity(64 << 10, to), sink };
        Self { ends: [end(out), end(err)], last: Stream::Stdout, progress: Progress::default() }
    }

    /// What reads this end.
    pub fn sink(&self, stream: Stream) -> Sink {
        self.ends[stream as usize].sink
    }

    /// Writes to an end; it comes out at the next [`Console::flush`] at the latest.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        self.hide_progress()?;
        if self.last != stream {
            self.flush_end(self.last)?;
            self.last = stream;
        }
        let written = self.ends[stream as usize].to.write_all(bytes);
        forgive(stream, written)
    }

    /// A line of talk on stderr.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        self.write(Stream::Stderr, line.as_bytes())?;
        self.write(Stream::Stderr, b"\n")
    }

    /// Everything written is out when this returns.
    pub fn flush(&mut self) -> io::Result<()> {
        self.flush_end(Stream::Stdout)?;
        self.flush_end(Stream::Stderr)
    }

    /// Draws the lines of progress anew, unless stderr is no terminal or they were drawn a moment ago. They have to fit
    /// into the window: see [`Progress::draw`].
    pub fn show_progress(&mut self, text: impl FnOnce(Window) -> String) -> io::Result<()> {
        if self.sink(Stream::Stderr) == Sink::Pipe {
            return Ok(());
        }
        match self.progress.draw(text) {
            Some(drawn) => {
                self.flush_end(Stream::Stdout)?;
                self.progress_bytes(&drawn)
            }
            None => Ok(()),
        }
    }

    /// Takes the lines of progress away.
    pub fn hide_progress(&mut self) -> io::Result<()> {
        match self.progress.hide() {
            Some(clear) => self.progress_bytes(&clear),
            None => Ok(()),
        }
    }

    /// Stdout is broken: what it was owed, and all that is written to it from now on, goes nowhere.
    pub fn abandon_stdout(&mut self) {
        self.ends[Stream::Stdout as usize].to = BufWriter::new(Box::new(io::sink()));
    }

    fn progress_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.ends[Stream::Stderr as usize].to.write_all(bytes);
        forgive(Stream::Stderr, written)?;
        self.flush_end(Stream::Stderr)
    }

    fn flush_end(&mut self, stream: Stream) -> io::Result<()> {
        let flushed = self.ends[stream as usize].to.flush();
        forgive(stream, flushed)
    }
}

fn forgive(stream: Stream, result: io::Result<()>) -> io::Result<()> {
    if stream == Stream::Stderr { Ok(()) } else { result.map_err(|error| super::of_stdout(&error)) }
}

#[cfg(test)]
pub mod tests {
    //! A console that can be read back.

    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// What was written to one end.
    #[derive(Clone, Default)]
    pub struct Shared(Rc<RefCell<Vec<u8>>>);

    impl Shared {
        /// As text.
        pub fn text(&self) -> String {
            String::from_utf8_lossy(&self.0.borrow()).into_owned()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A console with both its ends.
    pub fn console(sink: Sink) -> (Console, Shared, Shared) {
        let (out, err) = (Shared::default(), Shared::default());
        (Console::with((Box::new(out.clone()), sink), (Box::new(err.clone()), sink)), out, err)
    }

    #[test]
    fn one_terminal_sees_both_ends_in_order() {
        let both = Shared::default();
        let end = || -> (Box<dyn Write>, Sink) { (Box::new(both.clone()), Sink::Terminal { colour: false }) };
        let mut console = Console::with(end(), end());
        console.write(Stream::Stdout, b"one\n").expect("written");
        console.say("two").expect("written");
        console.write(Stream::Stdout, b"three\n").expect("written");
        console.show_progress(|_| "half".into()).expect("written");
        console.write(Stream::Stdout, b"four\n").expect("written");
        console.flush().expect("written");
        assert_eq!(both.text(), "one\ntwo\nthree\n\r\x1b[2Khalf\r\x1b[2Kfour\n");
    }

    #[test]
    fn a_broken_stdout_is_named_and_leaves_stderr_alone() {
        let err = Shared::default();
        let full = std::fs::File::options().write(true).open("/dev/full").expect("a device");
        let mut console = Console::with((Box::new(full), Sink::Pipe), (Box::new(err.clone()), Sink::Pipe));
        console.write(Stream::Stdout, b"lost").expect("buffered");
        let error = console.say("one").expect_err("it is full");
        assert!(error.to_string().starts_with("cannot write to stdout (No space left"), "{error}");
        console.abandon_stdout();
        console.write(Stream::Stdout, b"lost").expect("written");
        console.say("two").expect("written");
        console.flush().expect("written");
        assert_eq!(err.text(), "two\n");
    }

    #[test]
    fn a_pipe_sees_no_progress() {
        let (mut console, _, err) = console(Sink::Pipe);
        console.show_progress(|_| "half".into()).expect("written");
        console.flush().expect("written");
        assert_eq!(err.text(), "");
    }
}
