//! What agents say of tasks whose job is done: it changes no state, and what tells more than is known is kept beside it.

use super::Engine;
use crate::clock;
use crate::sessions::{Epoch, Outgoing};
use muster_core::job::late_evidence;
use muster_proto::id::{AgentId, JobId, TaskId};
use muster_proto::job::JobState;
use muster_proto::link::{TaskReport, ToAgent};
use muster_proto::outcome::State;
use muster_store::{LateEvidence, StoreError, StoredJob};
use std::collections::HashMap;
use tracing::warn;

/// What is known of a task whose job has no task of its own any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// Its end is stored, or was until the job was pruned.
    Ended,
    /// The job is done without knowing the end of some of its tasks; it may be this one.
    Lost,
    /// The job is not done: it stands still since the store failed.
    Open,
    /// There is no such task, or it is another agent's.
    NotItsOwn,
}

/// What the above is told from, for one agent.
#[derive(Clone, Copy)]
pub(super) struct PastJob {
    done: bool,
    /// The agent's place in the list.
    place: Option<u32>,
    all_known: bool,
}

impl PastJob {
    fn of(stored: &StoredJob, agent: AgentId) -> Self {
        let agents = stored.targets.agents().into_iter().flat_map(|agents| agents.iter());
        let place = (0..).zip(agents).find(|(_, target)| target.agent == agent);
        Self {
            done: stored.summary.state == JobState::Done,
            place: place.map(|(place, _)| place),
            all_known: stored.summary.counts.get(State::Indeterminate) == 0,
        }
    }
}

impl Engine {
    /// A task whose job has no task of its own any more. Each job is read once: an agent may name thousands of tasks.
    pub(super) async fn past(
        &self,
        agent: AgentId,
        task: TaskId,
        jobs: &mut HashMap<JobId, Option<PastJob>>,
    ) -> Result<Past, StoreError> {
        let job = match jobs.get(&task.job) {
            Some(job) => *job,
            None => {
                let stored = self.store.job(task.job).await?;
                *jobs.entry(task.job).or_insert(stored.map(|stored| PastJob::of(&stored, agent)))
            }
        };
        Ok(match job {
            Some(job) if !job.done => Past::Open,
            Some(job) if job.place != Some(task.target) || task.attempt != 1 => Past::NotItsOwn,
            Some(job) if job.all_known => Past::Ended,
            Some(_) => Past::Lost,
            None if self.store.was_pruned(task.job).await? => Past::Ended,
            None => Past::NotItsOwn,
        })
    }

    /// Reports that come after their job was done. Output is acknowledged and let go, so that the agent comes to the end;
    /// an end is kept beside a state that says that nobody can know.
    pub(super) async fn take_late(
        &self,
        agent: AgentId,
        epoch: Epoch,
        reports: Vec<(TaskId, TaskReport)>,
    ) -> Result<(), StoreError> {
        let mut pasts = HashMap::new();
        let mut answers: HashMap<TaskId, ToAgent> = HashMap::new();
        for (task, report) in reports {
            let past = self.past(agent, task, &mut pasts).await?;
            match report {
                _ if past == Past::Open => {}
                _ if past == Past::NotItsOwn => {
                    warn!(%agent, %task, "a report of what is not the agent's, session closed");
                    self.sessions.close(agent, epoch);
                    break;
                }
                TaskReport::Exited { end, .. } => {
                    if past == Past::Lost {
                        let late = LateEvidence { task, text: late_evidence(&end), at: clock::now() };
                        self.store.late_evidence(late).await?;
                    }
                    answers.insert(task, ToAgent::Committed(task));
                }
                TaskReport::Frame(frame) => {
                    let next_frame = frame.number.saturating_add(1);
                    answers.insert(task, ToAgent::Ack { task, next_frame });
                }
                _ => {}
            }
        }
        self.sessions.send(answers.into_values().map(|answer| (agent, epoch, Outgoing::Message(answer))));
        Ok(())
    }
}
