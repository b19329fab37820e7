//! What happened in a job, in the words that command line, history and dashboards share.

use crate::merkle::Hash;
use crate::name::OperatorName;
use crate::outcome::{Counts, Outcome};
use crate::ping::Sample;
use crate::time::Timestamp;
use bytes::Bytes;

/// One thing that happened. `seq` has no holes within a job, and every reader sees the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// From 1.
    pub seq: u64,
    /// When the controller learnt of it.
    pub time: Timestamp,
    /// What it was.
    pub kind: EventKind,
}

/// What happened. `target` is a place in the job's frozen list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// The job was accepted: always the first.
    Planned {
        /// Length of the list.
        targets: u32,
        /// Root of the list.
        root: Hash,
    },
    /// The task was handed to the agent's session.
    Offered {
        /// Whose.
        target: u32,
    },
    /// The task is in the agent's journal.
    Accepted {
        /// Whose.
        target: u32,
    },
    /// The process runs.
    Started {
        /// Whose.
        target: u32,
    },
    /// A piece of output.
    Output {
        /// Whose.
        target: u32,
        /// Which stream.
        stream: Stream,
        /// Place of the first byte in the stream.
        offset: u64,
        /// At most 64 KiB, as the program wrote it.
        data: Bytes,
    },
    /// Output is missing here.
    Truncated {
        /// Whose.
        target: u32,
        /// Which stream.
        stream: Stream,
        /// How much.
        bytes: u64,
    },
    /// What became of one probe of a ping.
    Probed {
        /// Whose.
        target: u32,
        /// What.
        sample: Sample,
    },
    /// The target reached its terminal state. Nothing of it follows.
    Finished {
        /// Whose.
        target: u32,
        /// How.
        outcome: Outcome,
    },
    /// A cancel was accepted.
    Cancelling {
        /// From whom.
        operator: OperatorName,
    },
    /// All targets are terminal: always the last.
    Done {
        /// They add up to the number targeted.
        counts: Counts,
    },
}

impl EventKind {
    /// The target it is about; `None` for the job itself.
    pub const fn target(&self) -> Option<u32> {
        match self {
            Self::Offered { target }
            | Self::Accepted { target }
            | Self::Started { target }
            | Self::Output { target, .. }
            | Self::Truncated { target, .. }
            | Self::Probed { target, .. }
            | Self::Finished { target, .. } => Some(*target),
            Self::Planned { .. } | Self::Cancelling { .. } | Self::Done { .. } => None,
        }
    }
}

/// One of a program's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

impl Stream {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}
