//! What goes into a job, and what comes out of it.

use muster_proto::event::Event;
use muster_proto::id::Attempt;
use muster_proto::link::TaskReport;
use muster_proto::name::OperatorName;
use std::time::Duration;

/// A fact from outside. Targets are places in the frozen list; places that do not exist are ignored.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The agent's session is gone.
    Disconnected {
        /// Whose agent.
        target: u32,
    },
    /// Two machines use the agent's identity: until that is resolved it counts as away.
    Quarantined {
        /// Whose agent.
        target: u32,
    },
    /// It is known again which machine is the agent: it may come back.
    Released {
        /// Whose agent.
        target: u32,
    },
    /// The agent will never be heard again.
    Revoked {
        /// Whose agent.
        target: u32,
    },
    /// The agent says something of a task.
    Report {
        /// Of which.
        task: TaskRef,
        /// What.
        report: TaskReport,
    },
    /// An operator wants nothing more offered for now.
    Pause {
        /// Who.
        operator: OperatorName,
    },
    /// An operator wants it to go on.
    Resume {
        /// Who.
        operator: OperatorName,
    },
    /// An operator wants it ended.
    Cancel {
        /// Who.
        operator: OperatorName,
    },
    /// Nothing more of it may start; what runs goes on.
    Stop {
        /// Why, as one line for people.
        reason: String,
    },
}

/// A task of the job: an attempt at a target, or the gate there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskRef {
    /// Place in the frozen list.
    pub target: u32,
    /// Which attempt.
    pub attempt: Attempt,
}

impl TaskRef {
    pub(super) const fn gate(target: u32) -> Self {
        Self { target, attempt: Attempt::GATE }
    }
}

/// An agent named a task as unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which attempt of its target.
    pub attempt: Attempt,
    /// Its process was started, or may have been.
    pub started: bool,
}

/// What should happen: first the events become durable, then the messages are sent.
#[derive(Debug, Default, PartialEq)]
pub struct Effects {
    /// New events, in order, with consecutive numbers.
    pub events: Vec<Event>,
    /// Messages to agents, in order.
    pub sends: Vec<Send>,
    /// Evidence that came after the end; kept beside the state, never over it.
    pub late: Vec<(TaskRef, String)>,
}

impl Effects {
    /// One acknowledgement a batch is enough: a later one says what an earlier one said.
    pub(super) fn ack(&mut self, task: TaskRef, next_frame: u64) {
        match self.sends.last_mut() {
            Some(Send::Ack(last, frame)) if *last == task => *frame = next_frame,
            _ => self.sends.push(Send::Ack(task, next_frame)),
        }
    }
}

/// A message to the agent of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Send {
    /// Run it, if it starts within this time.
    Offer(TaskRef, Duration),
    /// End it, or never start it.
    Cancel(TaskRef),
    /// Never start it; if it runs, let it.
    Withdraw(TaskRef),
    /// All frames before this one are durable.
    Ack(TaskRef, u64),
    /// Its end is durable.
    Committed(TaskRef),
}

/// What an agent is told of a task of its own when a session begins. It comes before anything that is sent afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    /// Of which.
    pub task: TaskRef,
    /// What it should do about the task.
    pub say: Option<Say>,
    /// End it, or never start it.
    pub cancel: bool,
}

/// What an agent should do about a task of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// It named the task: go on from this frame.
    Resume(u64),
    /// It did not name the task, though it was offered: say what is known of it.
    Ask,
    /// It named the task, and the task's end is durable.
    Forget,
}
