//! What people and programs get to see: one format, one file. Data goes to stdout, everything else to stderr.

pub mod command;
pub mod console;
pub mod json;
pub mod lines;
pub mod moment;
pub mod ping;
pub mod progress;
pub mod prometheus;
pub mod rollout;
pub mod sanitise;
pub mod standings;
pub mod summary;
pub mod table;

use progress::Window;
use std::io::{self, Write as _};
use std::os::fd::AsFd;

/// Where a terminal does not say how large it is.
const WINDOW_DEFAULT: Window = Window { columns: 80, rows: 24 };

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
    window(fd).map(|window| window.columns)
}

/// How large a terminal is; `None` for what is none.
pub fn window(fd: impl AsFd) -> Option<Window> {
    let size = rustix::termios::tcgetwinsize(fd).ok()?;
    let or = |said: u16, usual| if said > 0 { said.into() } else { usual };
    Some(Window { columns: or(size.ws_col, WINDOW_DEFAULT.columns), rows: or(size.ws_row, WINDOW_DEFAULT.rows) })
}

/// Tells the user something that is not data: a line on stderr. Nobody can be told that stderr is closed.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
