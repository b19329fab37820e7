//! What people and programs get to see: one format, one file. Data goes to stdout, everything else to stderr.

pub mod command;
pub mod console;
pub mod json;
pub mod lines;
pub mod moment;
pub mod progress;
pub mod prometheus;
pub mod sanitise;
pub mod summary;
pub mod table;

use std::io::{self, Write as _};
use std::os::fd::AsFd;

/// Where a terminal does not say how wide it is.
const COLUMNS_DEFAULT: usize = 80;

/// Writes data to stdout as one piece. A reader that has gone (`| head`) is a normal end.
pub fn data(text: &str) -> io::Result<()> {
    match wanted_data(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// The same for data that somebody has to get: a reader that has gone is an error of kind `BrokenPipe`.
pub fn wanted_data(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| of_stdout(&error))
}

/// The same error with a text that says that it is stdout's.
fn of_stdout(error: &io::Error) -> io::Error {
    let text = match error.kind() {
        io::ErrorKind::BrokenPipe => "stdout was closed".to_owned(),
        _ => format!("cannot write to stdout ({error})"),
    };
    io::Error::new(error.kind(), text)
}

/// How wide a terminal is; `None` for what is none.
pub fn columns(fd: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(fd).ok()?;
    Some(if size.ws_col > 0 { size.ws_col.into() } else { COLUMNS_DEFAULT })
}

/// Tells the user something that is not data: a line on stderr. Nobody can be told that stderr is closed.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
