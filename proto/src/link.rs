//! What agent and controller say to each other, once it has passed the door.
//!
//! ```text
//! agent                                         controller
//!   Hello ─────────────────────────────────────────▶
//!   ◀───────────────────────────── Welcome (nonce, resume from, outstanding)
//!   NonceStored, Facts, Never, … ──────────────────▶
//!   ◀──────────────────────────────── Blob*, Offer
//!   Accepted · Started · Output* · Exited ─────────▶
//!   ◀─────────────────────────────── Ack, Committed
//! ```

use crate::event::Stream;
use crate::fleet::Facts;
use crate::id::{BootId, StartId, TaskId};
use crate::job::SignedJob;
use crate::merkle::Hash;
use crate::outcome::End;
use crate::ping::{Detail, Finding, Probes};
use crate::time::Timestamp;
use bytes::Bytes;
use std::net::IpAddr;
use std::time::Duration;

/// A message from an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum FromAgent {
    /// The first of a session.
    Hello(Hello),
    /// Sent when asked for.
    Facts(Facts),
    /// The nonce of this session, by its epoch, is on the agent's disk.
    NonceStored(u64),
    /// A request, PKCS#10 in DER, for a certificate for a new key.
    Renew(Bytes),
    /// What became of a task.
    Task(TaskId, TaskReport),
    /// The answer to [`ToAgent::Echo`], with its number.
    Echo(u64),
    /// What a sweep has seen since the last of these.
    Probed {
        /// Which sweep.
        sweep: u64,
        /// What, at most [`limits::PROBES_PER_MESSAGE_MAX`](crate::limits::PROBES_PER_MESSAGE_MAX).
        findings: Vec<Finding>,
    },
}

/// What an agent says of one task.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskReport {
    /// In the journal.
    Accepted,
    /// Refused; nothing ran.
    Rejected {
        /// Which terminal state it means.
        kind: RejectKind,
        /// One line for people.
        reason: String,
    },
    /// The process runs.
    Started,
    /// A numbered piece of output.
    Frame(Frame),
    /// Over, after this many frames.
    Exited {
        /// Number of frames.
        frames: u64,
        /// How it ended.
        end: End,
    },
    /// There is no record of it: it never came, and may be offered again.
    Never,
}

/// A piece of a task's output, numbered over both streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// From 0, without holes.
    pub number: u64,
    /// Which stream.
    pub stream: Stream,
    /// What it carries.
    pub body: FrameBody,
}

/// What a frame carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameBody {
    /// Bytes of the program.
    Data {
        /// Place of the first in its stream.
        offset: u64,
        /// At most 64 KiB.
        data: Bytes,
    },
    /// So many bytes were dropped here.
    Truncated {
        /// How many.
        bytes: u64,
    },
}

/// Why nothing ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectKind {
    /// Signature, certificate, cluster, membership, form or local limits.
    Refused,
    /// The deadline or the window passed.
    Expired,
    /// A cancel came first.
    Cancelled,
}

/// Who dials in, and what it still holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// Oldest and newest protocol it speaks.
    pub protocol: (u32, u32),
    /// The boot of its kernel.
    pub boot: BootId,
    /// The start of its process.
    pub start: StartId,
    /// SHA-256 of its encoded facts.
    pub facts_digest: Bytes,
    /// Its wall clock.
    pub clock: Timestamp,
    /// Tasks whose result is not committed.
    pub unfinished: Vec<Unfinished>,
    /// What the last welcome handed out; `None` before the first.
    pub nonce: Option<Nonce>,
    /// As in machine-id(5), for people who have to tell two copies apart; empty where there is none.
    pub machine: String,
}

/// Made anew for each session of an agent. Only who brings the newest is the agent: an older one comes from a copy, or
/// from a disk that was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce {
    /// Number of the session it was handed out in; rises with each session of the agent and fences what an older one
    /// left behind.
    pub epoch: u64,
    /// Proves that the controller made it.
    pub mac: [u8; 16],
}

/// A task an agent still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    /// Which.
    pub task: TaskId,
    /// Number of the next frame it will produce.
    pub next_frame: u64,
    /// Its process was started, or may have been.
    pub started: bool,
}

/// A message to an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum ToAgent {
    /// The answer to Hello.
    Welcome(Welcome),
    /// Run this.
    Offer(Offer),
    /// A piece of stdin or of a script; all come before the offer that names them.
    Blob(BlobChunk),
    /// End it, or never start it.
    Cancel(TaskId),
    /// Never start it; if it runs, let it.
    Withdraw(TaskId),
    /// All frames before this number are durable.
    Ack {
        /// Which task.
        task: TaskId,
        /// The first that is not.
        next_frame: u64,
    },
    /// The task's end is durable.
    Committed(TaskId),
    /// Come back after this long.
    Drain(Duration),
    /// This identity is not accepted now.
    Refused {
        /// One line for people.
        reason: String,
        /// When to ask again.
        retry_after: Duration,
    },
    /// A certificate, DER, for the key of the agent's request.
    Renewed(Bytes),
    /// To be answered at once with the same number.
    Echo(u64),
    /// Look at these addresses.
    Probe(ProbeOrder),
    /// End this sweep and say what was seen.
    ProbeStop(u64),
}

/// How a session begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Welcome {
    /// Protocol from here on.
    pub protocol: u32,
    /// To be stored, confirmed, and brought along next time.
    pub nonce: Nonce,
    /// The controller's wall clock.
    pub clock: Timestamp,
    /// Send facts.
    pub want_facts: bool,
    /// First frame that the controller does not have, for each unfinished task it waits for.
    pub resume: Vec<(TaskId, u64)>,
    /// Tasks the agent did not name though they were offered.
    pub outstanding: Vec<TaskId>,
}

/// A task for this agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Which.
    pub task: TaskId,
    /// What the operator signed.
    pub job: SignedJob,
    /// From the agent's leaf to the signed root.
    pub proof: Vec<Hash>,
    /// What is left of the target's window.
    pub ttl: Duration,
}

/// Addresses to look at. It executes nothing, so it is not signed: the agent's own policy and rate bound it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeOrder {
    /// Names the sweep within the session; orders with the same number are one sweep.
    pub sweep: u64,
    /// How; of the first order of a sweep.
    pub probes: Probes,
    /// What is told; of the first order of a sweep.
    pub detail: Detail,
    /// Where, at most [`limits::PROBES_PER_MESSAGE_MAX`](crate::limits::PROBES_PER_MESSAGE_MAX); places are counted over
    /// all orders of the sweep.
    pub aims: Vec<ProbeAim>,
    /// No more orders follow.
    pub last: bool,
}

/// An address to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeAim {
    /// The address.
    pub address: IpAddr,
    /// Name of the interface, for a link-local address; else empty.
    pub zone: String,
}

/// A piece of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobChunk {
    /// SHA-256 of the whole.
    pub digest: [u8; 32],
    /// Place of the first byte.
    pub offset: u64,
    /// At most 64 KiB.
    pub data: Bytes,
}
