//! What people and programs get to see: one format, one file. Data goes to stdout, everything else to stderr.

pub mod command;
pub mod console;
pub mod json;
pub mod lines;
pub mod moment;
pub mod progress;
pub mod sanitise;
pub mod summary;
pub mod table;

use std::io::{self, Write as _};

/// Writes data to stdout as one piece. A reader that has gone (`| head`) is a normal end.
pub fn data(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Tells the user something that is not data: a line on stderr. Nobody can be told that stderr is closed.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
