//! What a user says to have us stop.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a user says to have us stop.
pub struct Interrupts(Vec<Signal>);

impl Interrupts {
    /// Ctrl-C from now on; until it is called, Ctrl-C ends the program.
    pub fn ctrl_c() -> io::Result<Self> {
        Self::of(&[SignalKind::interrupt()])
    }

    /// Everything that asks a program to end, also that its terminal has gone.
    pub fn all() -> io::Result<Self> {
        Self::of(&[SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()])
    }

    fn of(kinds: &[SignalKind]) -> io::Result<Self> {
        kinds.iter().map(|kind| signal(*kind)).collect::<io::Result<_>>().map(Self)
    }

    /// The next one.
    pub async fn recv(&mut self) {
        poll_fn(|context| match self.0.iter_mut().any(|signal| signal.poll_recv(context).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}
