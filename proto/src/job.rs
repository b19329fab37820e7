//! One request for many hosts, as it is signed.

use crate::command::{BlobRef, Command, CommandError};
use crate::id::{AgentId, Attempt, ClusterId, JobId};
use crate::limits;
use crate::merkle::{self, Hash, Tree};
use crate::name::{HostName, OperatorName};
use crate::outcome::{Counts, Outcome};
use crate::ping::{PingError, PingList, PingSpec, TargetName};
use crate::rollout::{Rollout, RolloutError};
use crate::time::Timestamp;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// What an operator signs: who, until when, how, and what. Built by [`JobSpec::check`]ed constructors only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    /// The installation it is for.
    pub cluster: ClusterId,
    /// Its id.
    pub job: JobId,
    /// Who signs.
    pub operator: OperatorName,
    /// When, by the signer's clock.
    pub created_at: Timestamp,
    /// No task starts after this.
    pub start_before: Timestamp,
    /// How long a target whose turn has come may take to start.
    pub deliver: Duration,
    /// The frozen list, as its root and length.
    pub targets: TargetsDigest,
    /// How it goes over the list.
    pub rollout: Rollout,
    /// The job that it repeats at some of its targets.
    pub rerun_of: Option<JobId>,
    /// What is done at each.
    pub work: Work,
}

/// What a job does at each target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Runs a program.
    Command(Command),
    /// Looks whether it is there.
    Ping(PingSpec),
}

impl Work {
    /// The program, if it runs one.
    pub const fn command(&self) -> Option<&Command> {
        match self {
            Self::Command(command) => Some(command),
            Self::Ping(_) => None,
        }
    }

    /// What is done, as one line for people: at most [`limits::TITLE_CHARS_MAX`] characters.
    pub fn title(&self) -> String {
        match self {
            Self::Command(command) => command.program.title(),
            Self::Ping(spec) => spec.words().join(" "),
        }
    }

    /// What is done, as words for programs, up to so many bytes.
    pub fn words(&self, max_bytes: usize) -> Vec<Bytes> {
        match self {
            Self::Command(command) => command.program.words(max_bytes),
            Self::Ping(spec) => spec.words().into_iter().map(Bytes::from).collect(),
        }
    }
}

impl JobSpec {
    /// The program that a task runs: that of the job, or for [`Attempt::GATE`] the gate. `None` if it runs none.
    pub fn command_of(&self, attempt: Attempt) -> Option<&Command> {
        if attempt == Attempt::GATE { self.rollout.gate.as_ref() } else { self.work.command() }
    }

    /// Whether a task of this attempt may come of it: beyond these nobody has signed any.
    pub fn has(&self, attempt: Attempt) -> bool {
        self.command_of(attempt).is_some() && attempt <= Attempt(self.rollout.attempts_max())
    }

    /// What travels beside the signed job, for the command: a gate needs nothing.
    pub fn blobs(&self) -> impl Iterator<Item = BlobRef> {
        self.work.command().into_iter().flat_map(Command::blobs)
    }

    /// Refuses times, counts and commands that no agent would take.
    pub fn check(&self) -> Result<(), JobError> {
        if self.start_before <= self.created_at || self.created_at.until(self.start_before) > limits::START_BEFORE_MAX {
            return Err(JobError::Deadline);
        }
        if self.targets.count == 0 || self.targets.count > limits::TARGETS_MAX {
            return Err(JobError::Targets);
        }
        if self.deliver.is_zero() || self.deliver > limits::START_BEFORE_MAX {
            return Err(JobError::Deliver);
        }
        self.rollout.check()?;
        if matches!(self.work, Work::Ping(_)) && self.rollout != Rollout::default() {
            return Err(JobError::PingRollout);
        }
        match &self.work {
            Work::Command(command) => Ok(command.check()?),
            Work::Ping(spec) => Ok(spec.probes.check()?),
        }
    }
}

/// What makes a job impossible, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Before the beginning, or too far away.
    #[error("the job's deadline must be later than its signature and at most {} h away", limits::START_BEFORE_MAX.as_secs() / 3600)]
    Deadline,
    /// An empty list is an error, never a success.
    #[error("a job needs 1 to {} targets", limits::TARGETS_MAX)]
    Targets,
    /// Never infinite.
    #[error("the delivery timeout must be more than 0 and at most {} h", limits::START_BEFORE_MAX.as_secs() / 3600)]
    Deliver,
    /// How it goes over the list.
    #[error(transparent)]
    Rollout(#[from] RolloutError),
    /// A ping looks at all its targets in one go.
    #[error("a ping has no waves, gates or retries of attempts: leave them out")]
    PingRollout,
    /// The program.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The probes.
    #[error(transparent)]
    Ping(#[from] PingError),
}

/// A frozen target list as it is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetsDigest {
    /// Root of the tree over the list.
    pub root: Hash,
    /// Its length.
    pub count: u32,
}

/// One entry of a frozen target list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The agent.
    pub agent: AgentId,
    /// The name it enrolled with.
    pub name: HostName,
}

/// The tree over a frozen list, in its order; `None` for an empty one.
pub fn target_tree(targets: &[Target]) -> Option<Tree> {
    Tree::new(targets.iter().map(|target| merkle::leaf(target.agent, &target.name)).collect())
}

/// The frozen target list of a job, by what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetList {
    /// Agents, of a command.
    Agents(Arc<[Target]>),
    /// Pairs of who looks and at what, of a ping.
    Pings(Arc<PingList>),
}

impl TargetList {
    /// The agents of a command; `None` of a ping.
    pub const fn agents(&self) -> Option<&Arc<[Target]>> {
        match self {
            Self::Agents(targets) => Some(targets),
            Self::Pings(_) => None,
        }
    }

    /// How many targets there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Agents(targets) => targets.len(),
            Self::Pings(list) => list.pairs().len(),
        }
    }

    /// The tree over the list; `None` for an empty one.
    pub fn tree(&self) -> Option<Tree> {
        match self {
            Self::Agents(targets) => target_tree(targets),
            Self::Pings(list) => list.tree(),
        }
    }

    /// What the targets are called, with the agents that bear the names, in the order of the list.
    pub fn names(&self) -> Vec<(TargetName, Option<AgentId>)> {
        match self {
            Self::Agents(targets) => {
                targets.iter().map(|target| (target.name.clone().into(), Some(target.agent))).collect()
            }
            Self::Pings(list) => list.pairs().iter().map(|pair| (list.name(*pair), list.host(*pair).agent)).collect(),
        }
    }
}

/// A payload with the proof that an operator meant it. The bytes are those that were signed, never encoded again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedJob {
    /// Encoded job.
    pub payload: Bytes,
    /// Ed25519, 64 bytes.
    pub signature: Bytes,
    /// The operator's certificate, DER.
    pub certificate: Bytes,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Nothing was offered yet.
    Queued,
    /// At work.
    Active,
    /// Offers nothing until it is resumed.
    Paused,
    /// Ending what runs; offers nothing more.
    Cancelling,
    /// All targets are terminal.
    Done,
}

impl JobState {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Done => "done",
        }
    }
}

/// A target that waits for its agent to come back, and for which nobody waits.
#[derive(Debug, Clone, PartialEq)]
pub struct QueuedTask {
    /// Whose.
    pub host: HostName,
    /// Of which job.
    pub job: JobId,
    /// [`Work::title`] of what it will do.
    pub title: String,
    /// Who signed it.
    pub operator: OperatorName,
    /// Since when it waits.
    pub since: Timestamp,
    /// When it is given up.
    pub until: Timestamp,
}

/// Which jobs a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobList {
    /// All that are known.
    All,
    /// Those that are not done.
    Unfinished,
}

/// A job in a list: small, however much was signed.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSummary {
    /// Its id.
    pub job: JobId,
    /// Where it stands.
    pub state: JobState,
    /// Who signed it.
    pub operator: OperatorName,
    /// The job that it repeats at some of its targets.
    pub rerun_of: Option<JobId>,
    /// [`Work::title`] of what it does.
    pub title: String,
    /// [`Work::words`] of what it does, up to [`limits::ARGV_LISTED_BYTES_MAX`].
    pub argv: Vec<Bytes>,
    /// The frozen list.
    pub targets: TargetsDigest,
    /// Terminal targets by state.
    pub counts: Counts,
    /// When it was signed.
    pub created_at: Timestamp,
    /// When the last target became terminal.
    pub done_at: Option<Timestamp>,
}

/// A target of a job with where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct JobHost {
    /// What it is called.
    pub name: TargetName,
    /// The agent that bears the name, if one does.
    pub agent: Option<AgentId>,
    /// Where it stands on its way.
    pub phase: Phase,
    /// Which try that is.
    pub attempt: Attempt,
    /// It is away, and may come back until then: nobody waits for it.
    pub queued_until: Option<Timestamp>,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    /// The agent is connected now.
    pub connected: bool,
    /// What the agent reported after the state was final, which it could not change: one line.
    pub late: Option<String>,
}

/// How far a task has come before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Its turn has not come, or its agent is not connected.
    Planned,
    /// Handed to the agent's session.
    Offered,
    /// In the agent's journal.
    Accepted,
    /// Its process runs.
    Started,
}

impl Phase {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Offered => "offered",
            Self::Accepted => "accepted",
            Self::Started => "started",
        }
    }
}
