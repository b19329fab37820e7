//! Why a host, or its part in a job, is as it is: what a person at night asks, with all that the answer rests on.

use crate::fleet::AgentInfo;
use crate::id::{Attempt, JobId};
use crate::job::Phase;
use crate::name::OperatorName;
use crate::outcome::Outcome;
use crate::time::Timestamp;

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Why {
    /// The agent, with its connection.
    pub agent: AgentInfo,
    /// Number of its session, if it has one.
    pub epoch: Option<u64>,
    /// How its last session ended; only where it has none now, and one ended since the controller began.
    pub left: Option<LastSession>,
    /// When the certificate of its session ends.
    pub certificate_until: Option<Timestamp>,
    /// When its key was last renewed.
    pub renewed_at: Option<Timestamp>,
    /// Its tasks in jobs at work, the oldest first.
    pub unfinished: Vec<TaskLine>,
    /// Its last few ended tasks, the newest first.
    pub finished: Vec<TaskLine>,
    /// What happened in the job that was asked for.
    pub task: Option<TaskStory>,
    /// One or two sentences for people, with what to do.
    pub conclusion: String,
}

/// The end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSession {
    /// When.
    pub at: Timestamp,
    /// Why, in a few words.
    pub reason: String,
}

/// A task in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskLine {
    /// Its job.
    pub job: JobId,
    /// What the job runs, as one line.
    pub title: String,
    /// Where it stands on its way.
    pub phase: Phase,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    /// When it came to be so.
    pub since: Timestamp,
}

/// All that is stored of one target of one job, but for what it wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskStory {
    /// The job.
    pub job: JobId,
    /// What it runs, as one line.
    pub title: String,
    /// Where the task stands on its way.
    pub phase: Phase,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    /// When the job was accepted.
    pub planned_at: Timestamp,
    /// Nothing starts after it.
    pub start_before: Timestamp,
    /// When it was handed to the agent's session: each time.
    pub offered_at: Vec<Timestamp>,
    /// When it was in the agent's journal.
    pub accepted_at: Option<Timestamp>,
    /// When its process ran.
    pub started_at: Option<Timestamp>,
    /// When its first and its last piece of output came.
    pub output_at: Option<(Timestamp, Timestamp)>,
    /// Bytes it wrote to stdout and stderr, without those that were left out.
    pub bytes: [u64; 2],
    /// Bytes that were left out over the limit.
    pub truncated: u64,
    /// When its end was made durable.
    pub finished_at: Option<Timestamp>,
    /// When the job was cancelled, and by whom.
    pub cancelled: Option<(Timestamp, OperatorName)>,
    /// What the agent reported after the state was final: one line.
    pub late: Option<String>,
    /// Which attempt this is about.
    pub attempt: Attempt,
    /// How those before it ended, in order.
    pub earlier: Vec<AttemptEnd>,
    /// It does not begin before.
    pub next_at: Option<Timestamp>,
    /// It waits for its agent, and nobody waits for it: since when, and until when.
    pub queued: Option<(Timestamp, Timestamp)>,
    /// How the gate of its wave ended here.
    pub gate: Option<AttemptEnd>,
}

/// The end of a task that is not the last one of its target.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptEnd {
    /// How.
    pub outcome: Outcome,
    /// When that was made durable.
    pub at: Timestamp,
}
