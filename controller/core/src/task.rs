//! One attempt of a job at one target, or the gate there: its whole life, in one place.
//!
//! ```text
//! Later ─▶ Planned ──turn──▶ Due ──contact──▶ Offered ──▶ Accepted ──▶ Started ──▶ Ended
//!             │               │                 │ ▲          │            │          ▲
//!             │               │                 └─┘ Never    │            │          │
//!             └───────────────┴──────── skipped, unreachable, expired, rejected, indeterminate
//! ```
//!
//! A phase holds only what is true in it. What an agent says is hostile until it fits: a report that cannot follow
//! from the phase is [`Refused`], and changes nothing. `Ended` never changes.

use muster_proto::event::Stream;
use muster_proto::job;
use muster_proto::link::{Frame, FrameBody, RejectKind};
use muster_proto::outcome::{End, EndKind, Outcome, State};
use muster_proto::time::Timestamp;

/// A task with what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub(crate) phase: Phase,
    /// Number of the next frame: those before it are in the job's events.
    pub(crate) frames: u64,
    /// Next offset of stdout and stderr.
    offsets: [u64; 2],
    /// Bytes kept, to hold a hostile agent to the signed limit.
    kept: u64,
    /// Places where output is missing.
    gaps: u32,
    /// The agent's session was asked what it knows of the task, and has not answered.
    pub(crate) asked: bool,
    /// It was offered, the agent proved that it never had it, and the next offer has to wait: only while `Offered`.
    pub(crate) again: bool,
}

/// Places where output may be missing: one a stream, and as many again for a supervisor that began anew.
const GAPS_MAX: u32 = 4;

/// Where a task stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// Its turn has not come, or there is no room yet.
    Planned,
    /// Its turn comes at that time: starts are spread, or it is tried again after a pause.
    Later(Timestamp),
    /// Its turn has come; it waits for its agent until then.
    Due(Timestamp),
    /// Handed to the agent's session. Without contact it is given up at that time, as in the next two.
    Offered(Timestamp),
    /// In the agent's journal.
    Accepted(Timestamp),
    /// Its process runs.
    Started(Timestamp),
    /// Terminal.
    Ended(Outcome),
}

/// What a report or a timer means for a task. `Ok(None)` everywhere: known already, nothing changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It is in the agent's journal.
    Accepted,
    /// Its process runs.
    Started,
    /// A new frame.
    Frame(Frame),
    /// It is over.
    Ended(Outcome),
    /// The agent never had it: it may be offered again.
    Again,
}

/// A report that cannot follow from the task's phase; the session that sent it is not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The phase does not allow it.
    #[error("the report does not follow from the task's phase")]
    Phase,
    /// A frame is missing before this one.
    #[error("a frame is missing")]
    Hole,
    /// The bytes do not continue their stream.
    #[error("the output does not continue where it ended")]
    Offset,
    /// More bytes than the operator signed for.
    #[error("more output than the signed limit")]
    Limit,
}

impl Default for Task {
    fn default() -> Self {
        Self { phase: Phase::Planned, frames: 0, offsets: [0; 2], kept: 0, gaps: 0, asked: false, again: false }
    }
}

impl Task {
    /// How it ended, once it has.
    pub const fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Where it stands, with the moment at which time alone decides about it.
    pub const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The phase as it is shown.
    pub const fn shown_phase(&self) -> job::Phase {
        match self.phase {
            Phase::Planned | Phase::Later(_) | Phase::Due(_) => job::Phase::Planned,
            Phase::Offered(_) => job::Phase::Offered,
            Phase::Accepted(_) => job::Phase::Accepted,
            Phase::Started(_) | Phase::Ended(_) => job::Phase::Started,
        }
    }

    /// It was offered and is not over: its agent has something to say about it.
    pub const fn is_at_work(&self) -> bool {
        matches!(self.phase, Phase::Offered(_) | Phase::Accepted(_) | Phase::Started(_))
    }

    /// Nothing of it can run before it is offered, for the first time or again.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.again || matches!(self.phase, Phase::Planned | Phase::Later(_) | Phase::Due(_))
    }

    /// Its agent may be about to start it.
    pub(crate) const fn is_withdrawable(&self) -> bool {
        matches!(self.phase, Phase::Offered(_) | Phase::Accepted(_))
    }

    /// The moment at which time alone decides about it.
    pub(crate) const fn timer(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Later(at) | Phase::Due(at) | Phase::Offered(at) | Phase::Accepted(at) | Phase::Started(at) => {
                Some(at)
            }
            Phase::Planned | Phase::Ended(_) => None,
        }
    }

    /// The agent says that the task is in its journal.
    pub(crate) const fn accepted(&self) -> Result<Option<Change>, Refused> {
        match self.phase {
            Phase::Offered(_) => Ok(Some(Change::Accepted)),
            Phase::Accepted(_) | Phase::Started(_) | Phase::Ended(_) => Ok(None),
            Phase::Planned | Phase::Later(_) | Phase::Due(_) => Err(Refused::Phase),
        }
    }

    /// The agent says that the process runs.
    pub(crate) const fn started(&self) -> Result<Option<Change>, Refused> {
        match self.phase {
            Phase::Offered(_) | Phase::Accepted(_) => Ok(Some(Change::Started)),
            Phase::Started(_) | Phase::Ended(_) => Ok(None),
            Phase::Planned | Phase::Later(_) | Phase::Due(_) => Err(Refused::Phase),
        }
    }

    /// The agent says that nothing ran and nothing will.
    pub(crate) fn rejected(&self, kind: RejectKind, reason: String) -> Result<Option<Change>, Refused> {
        let state = match kind {
            RejectKind::Refused => State::Rejected,
            RejectKind::Expired => State::Expired,
            RejectKind::Cancelled => State::Skipped,
        };
        match self.phase {
            Phase::Offered(_) | Phase::Accepted(_) => Ok(Some(Change::Ended(Outcome::without_run(state, reason)))),
            Phase::Ended(_) => Ok(None),
            _ => Err(Refused::Phase),
        }
    }

    /// The agent says that it has no record of the task. It is believed where it was asked, once a session: who says so
    /// again and again would be offered the task for ever.
    pub(crate) fn never(&mut self) -> Result<Option<Change>, Refused> {
        if !std::mem::take(&mut self.asked) {
            return Err(Refused::Phase);
        }
        match self.phase {
            Phase::Offered(_) => Ok(Some(Change::Again)),
            Phase::Accepted(_) | Phase::Started(_) => Ok(Some(Change::Ended(Outcome::without_run(
                State::Indeterminate,
                "the agent lost its record of a task that it had accepted",
            )))),
            Phase::Ended(_) => Ok(None),
            Phase::Planned | Phase::Later(_) | Phase::Due(_) => Err(Refused::Phase),
        }
    }

    /// A piece of output. Frames that are known already are taken again without effect.
    pub(crate) fn frame(&self, frame: Frame, kept_max: u64) -> Result<Option<Change>, Refused> {
        match self.phase {
            Phase::Started(_) => {}
            Phase::Ended(_) => return Ok(None),
            _ => return Err(Refused::Phase),
        }
        if frame.number < self.frames {
            return Ok(None);
        }
        if frame.number > self.frames {
            return Err(Refused::Hole);
        }
        match &frame.body {
            FrameBody::Data { offset, .. } if *offset != self.offsets[slot(frame.stream)] => {
                return Err(Refused::Offset);
            }
            FrameBody::Data { data, .. } if self.kept.saturating_add(data.len() as u64) > kept_max => {
                return Err(Refused::Limit);
            }
            FrameBody::Truncated { bytes } if *bytes == 0 || self.gaps >= GAPS_MAX => return Err(Refused::Limit),
            FrameBody::Data { .. } | FrameBody::Truncated { .. } => {}
        }
        Ok(Some(Change::Frame(frame)))
    }

    /// The agent says how it ended, after so many frames.
    pub(crate) fn exited(&self, frames: u64, end: End) -> Result<Option<Change>, Refused> {
        let ran = matches!(end.kind, EndKind::Exit(_) | EndKind::Signal(_) | EndKind::TimedOut | EndKind::Cancelled);
        match self.phase {
            Phase::Ended(_) => return Ok(None),
            Phase::Started(_) => {}
            Phase::Offered(_) | Phase::Accepted(_) if !ran => {}
            _ => return Err(Refused::Phase),
        }
        if frames != self.frames {
            return Err(Refused::Hole);
        }
        Ok(Some(Change::Ended(end.into())))
    }

    /// Counts output that is in the job's events now: a frame with so many bytes, kept or dropped.
    pub(crate) const fn count_frame(&mut self, stream: Stream, bytes: u64, kept: bool) {
        self.frames += 1;
        let offset = &mut self.offsets[slot(stream)];
        *offset = offset.saturating_add(bytes);
        if kept {
            self.kept = self.kept.saturating_add(bytes);
        } else {
            self.gaps += 1;
        }
    }
}

const fn slot(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}
