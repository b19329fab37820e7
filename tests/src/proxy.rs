//! A link that can be cut: a TCP proxy which ends connections at random bytes, in the middle of a frame as well.

use crate::Dice;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often a proxy looks whether it is to end.
const LOOK: Duration = Duration::from_millis(10);

/// Stands between others and one address. It ends with the value, and so do its connections.
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    to: String,
    cuts: Cuts,
    dice: Mutex<Dice>,
    left: AtomicU32,
    ending: AtomicBool,
}

/// How often a proxy cuts, and where.
#[derive(Debug, Clone, Copy)]
pub struct Cuts {
    /// So many connections are cut; later ones are left alone.
    pub count: u32,
    /// A connection ends after up to twice so many bytes, of both directions together.
    pub mean_bytes: u64,
}

impl Proxy {
    /// Listens on a port of its own, and forwards to `HOST:PORT`.
    pub fn start(to: &str, cuts: Cuts, dice: Dice) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let left = AtomicU32::new(cuts.count);
        let shared = Shared { to: to.to_owned(), cuts, dice: Mutex::new(dice), left, ending: AtomicBool::new(false) };
        let shared = Arc::new(shared);
        let accepting = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    /// `HOST:PORT` to go to instead.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Cuts that were not made yet.
    pub fn left(&self) -> u32 {
        self.shared.left.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        // It waits in accept(2): one more connection wakes it.
        let _ = TcpStream::connect(&self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let mut connections = Vec::new();
        for stream in listener.incoming() {
            if self.ending.load(Ordering::SeqCst) {
                break;
            }
            let (Ok(near), Ok(far)) = (stream, TcpStream::connect(&self.to)) else { continue };
            connections.extend(self.forward(&near, &far).into_iter().flatten());
        }
        for connection in connections {
            let _ = connection.join();
        }
    }

    /// Two threads a connection.
    fn forward(self: &Arc<Self>, near: &TcpStream, far: &TcpStream) -> io::Result<[JoinHandle<()>; 2]> {
        let most = self.dice.lock().unwrap_or_else(PoisonError::into_inner).roll(2 * self.cuts.mean_bytes);
        let life = Arc::new(AtomicU64::new(most));
        let way = |from: &TcpStream, to: &TcpStream| -> io::Result<JoinHandle<()>> {
            let (shared, life) = (Arc::clone(self), Arc::clone(&life));
            let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
            from.set_read_timeout(Some(LOOK))?;
            to.set_nodelay(true)?;
            Ok(thread::spawn(move || {
                // Whatever ends it, both directions end.
                let _ = shared.copy(&mut from, &mut to, &life);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            }))
        };
        Ok([way(near, far)?, way(far, near)?])
    }

    fn copy(&self, from: &mut TcpStream, to: &mut TcpStream, life: &AtomicU64) -> io::Result<()> {
        let mut buffer = vec![0; 16 << 10];
        while !self.ending.load(Ordering::SeqCst) {
            let count = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
                Err(error) => return Err(error),
            };
            let before =
                life.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(count as u64)));
            let before = before.unwrap_or_default();
            if before < count as u64 && self.take_cut() {
                to.write_all(&buffer[..usize::try_from(before).unwrap_or_default()])?;
                return Ok(());
            }
            to.write_all(&buffer[..count])?;
        }
        Ok(())
    }

    fn take_cut(&self) -> bool {
        self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}
