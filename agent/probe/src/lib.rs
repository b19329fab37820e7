//! ICMP sweeps: who answers, how fast, and why not. Agents and the controller look at hosts through this one engine.
//!
//! A sweep is a thread with sockets of its own and no runtime. It never loses an answer without knowing: sends
//! are paced and interleaved with receives, and where the kernel dropped packets all the same, what ran out is asked
//! again. Start reading at [`start`]; `engine.rs` is the loop, `table.rs` what it decides by, `packet.rs` the bytes.

mod clock;
mod engine;
mod flight;
mod pace;
#[doc(hidden)]
pub mod packet;
mod socket;
mod table;
mod target;

use engine::Inbox;
#[doc(hidden)]
pub use engine::Rig;
pub use muster_proto::ping::Finding;
use muster_proto::ping::{Detail, Failure, Probes};
pub use pace::Allowance;
#[doc(hidden)]
pub use socket::Ledger;
use std::io;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Where to aim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aim {
    /// An IPv4 or IPv6 address.
    pub address: IpAddr,
    /// Index of the interface, for link-local IPv6; else 0.
    pub scope: u32,
}

impl From<IpAddr> for Aim {
    fn from(address: IpAddr) -> Self {
        Self { address, scope: 0 }
    }
}

/// What a sweep does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The probes of each target.
    pub probes: Probes,
    /// What is told before a target's end.
    pub detail: Detail,
}

/// How packets leave this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// A raw socket: for root and `CAP_NET_RAW`.
    Raw,
    /// A datagram socket for ICMP: for groups in `net.ipv4.ping_group_range`.
    Datagram,
}

/// What a sweep did, in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Requests that were handed to the kernel.
    pub sent: u64,
    /// Probes that were answered.
    pub received: u64,
    /// Answers to probes that were answered before.
    pub duplicates: u64,
    /// Answers to probes that were given up before.
    pub late: u64,
    /// Answers with another payload than was sent.
    pub damaged: u64,
    /// Packets that belong to no probe of this sweep, or come from somebody else than was asked.
    pub foreign: u64,
    /// Packets that the kernel dropped because its queue for this process was full. `None` where it does not tell: who
    /// was silent there may have answered.
    pub kernel_drops: Option<u64>,
    /// Sends that were put off because the kernel had no room.
    pub send_retries: u64,
    /// The socket for IPv4, if one was needed and could be had.
    pub v4: Option<SocketKind>,
    /// The socket for IPv6, if one was needed and could be had.
    pub v6: Option<SocketKind>,
}

/// A sweep at work. To drop it is to abandon it: its thread ends soon, and nobody is told what it found.
#[derive(Debug)]
pub struct Sweep {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<Totals>>,
}

/// Starts a sweep on a thread of its own.
///
/// Findings come in batches through `sink`, on that thread: while it blocks, nothing is sent or received. There are no
/// more than the targets and [`Settings::detail`] ask for, so a queue behind it is bounded by them. `Break` ends the
/// sweep at once: nobody listens any more. Sockets are opened when they are first needed, and one that cannot be had
/// is the failure of its targets; an error here is a machine without threads or descriptors.
pub fn start(
    settings: Settings,
    sink: impl FnMut(Vec<Finding>) -> ControlFlow<()> + Send + 'static,
) -> io::Result<Sweep> {
    launch(settings, Rig::default(), None, sink)
}

/// As [`start`], of a sweep that keeps to an allowance which it shares with others, besides [`Probes::rate`]. To try to
/// send costs as much as to send.
pub fn start_within(
    allowance: &Allowance,
    settings: Settings,
    sink: impl FnMut(Vec<Finding>) -> ControlFlow<()> + Send + 'static,
) -> io::Result<Sweep> {
    launch(settings, Rig::default(), Some(allowance.clone()), sink)
}

/// As [`start`], with sockets that tests choose.
#[doc(hidden)]
pub fn start_with(
    settings: Settings,
    rig: Rig,
    sink: impl FnMut(Vec<Finding>) -> ControlFlow<()> + Send + 'static,
) -> io::Result<Sweep> {
    launch(settings, rig, None, sink)
}

fn launch(
    settings: Settings,
    rig: Rig,
    allowance: Option<Allowance>,
    sink: impl FnMut(Vec<Finding>) -> ControlFlow<()> + Send + 'static,
) -> io::Result<Sweep> {
    let inbox = Arc::new(Inbox::new()?);
    let engine = engine::Engine::new(settings, rig, allowance, Arc::clone(&inbox), sink)?;
    let thread = std::thread::Builder::new().name("probe".to_owned()).spawn(move || engine.run())?;
    Ok(Sweep { inbox, thread: Some(thread) })
}

/// Which sockets this process may open, or that it may open none.
pub fn can_probe() -> Result<SocketKind, Failure> {
    socket::can_probe().map_err(Failure::from)
}

impl Sweep {
    /// Adds targets; the first probe to each goes out when the rate allows. All of them are kept until they ended.
    pub fn add(&self, aims: Vec<Aim>) {
        self.inbox.tell(|orders| orders.aims.push(aims));
    }

    /// No more targets will be added: the sweep ends when all have ended.
    pub fn close(&self) {
        self.inbox.tell(|orders| orders.closed = true);
    }

    /// Ends every target as soon as its probes under way were answered or have timed out; nothing more is sent.
    pub fn stop(&self) {
        self.inbox.tell(|orders| orders.stopped = true);
    }

    /// Waits for the end, which comes after [`Sweep::close`] or [`Sweep::stop`] alone.
    pub fn join(mut self) -> Totals {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(totals)) => totals,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Totals::default(),
        }
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.inbox.tell(|orders| orders.abandoned = true);
    }
}
