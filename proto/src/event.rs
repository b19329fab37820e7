//! What happened in a job, in the words that command line, history and dashboards share.

use crate::id::Attempt;
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
    /// A wave began: the turns of its targets come from now on.
    Wave {
        /// Which, from 1.
        number: u32,
        /// Its first target.
        first: u32,
        /// How many targets it has.
        targets: u32,
    },
    /// The target's turn came while its agent was away: it waits, and nobody waits for it.
    Queued {
        /// Whose.
        target: u32,
        /// When it is given up.
        until: Timestamp,
    },
    /// An attempt ended, and another one follows.
    Retrying {
        /// Whose.
        target: u32,
        /// The attempt that follows.
        attempt: Attempt,
        /// How the one before it ended.
        outcome: Outcome,
        /// The next one does not begin before.
        at: Timestamp,
    },
    /// Something happened to the gate of a wave at one of its targets.
    Gate {
        /// Whose.
        target: u32,
        /// What.
        step: GateStep,
    },
    /// Nothing is offered until the job is resumed.
    Paused {
        /// Who wanted it; the controller by itself if nobody.
        operator: Option<OperatorName>,
        /// Why, as one line for people.
        reason: String,
    },
    /// The job goes on.
    Resumed {
        /// Who wanted it.
        operator: OperatorName,
    },
    /// Nothing more starts; what runs goes on.
    Stopping {
        /// Why, as one line for people.
        reason: String,
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
            | Self::Queued { target, .. }
            | Self::Retrying { target, .. }
            | Self::Gate { target, .. }
            | Self::Finished { target, .. } => Some(*target),
            Self::Planned { .. }
            | Self::Wave { .. }
            | Self::Paused { .. }
            | Self::Resumed { .. }
            | Self::Stopping { .. }
            | Self::Cancelling { .. }
            | Self::Done { .. } => None,
        }
    }
}

/// What happens to a gate at one target: as to a task, but none of it is the target's own end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateStep {
    /// It was handed to the agent's session.
    Offered,
    /// It is in the agent's journal.
    Accepted,
    /// Its process runs.
    Started,
    /// A piece of its output.
    Output {
        /// Which stream.
        stream: Stream,
        /// Place of the first byte in the stream.
        offset: u64,
        /// As the program wrote it: at most [`crate::limits::GATE_OUTPUT_BYTES`] twice, in all.
        data: Bytes,
    },
    /// Output is missing here.
    Truncated {
        /// Which stream.
        stream: Stream,
        /// How much.
        bytes: u64,
    },
    /// How it ended.
    Finished {
        /// How.
        outcome: Outcome,
    },
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
