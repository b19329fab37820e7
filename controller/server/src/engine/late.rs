//! What agents say of tasks whose job is done: it changes no state, and what tells more than is known is kept beside it.

use super::Engine;
use crate::clock;
use crate::sessions::{Epoch, Outgoing};
use muster_core::job::late_evidence;
use muster_proto::id::{AgentId, Attempt, JobId, TaskId};
use muster_proto::job::JobState;
use muster_proto::link::{TaskReport, ToAgent};
use muster_proto::outcome::State;
use muster_store::{LateEvidence, StoreError, StoredJob};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::RangeInclusive;
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
pub(super) struct PastJob {
    done: bool,
    /// The agent's place in the list.
    place: Option<u32>,
    all_known: bool,
    /// Those that were signed, the gate's among them if there is one.
    attempts: RangeInclusive<Attempt>,
}

impl PastJob {
    fn of(stored: &StoredJob, agent: AgentId) -> Self {
        let agents = stored.targets.agents().into_iter().flat_map(|agents| agents.iter());
        let place = (0..).zip(agents).find(|(_, target)| target.agent == agent);
        let first = if stored.spec.has(Attempt::GATE) { Attempt::GATE } else { Attempt::FIRST };
        Self {
            done: stored.summary.state == JobState::Done,
            place: place.map(|(place, _)| place),
            all_known: stored.summary.counts.get(State::Indeterminate) == 0,
            attempts: first..=Attempt(stored.spec.rollout.attempts_max()),
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
        let job = match jobs.entry(task.job) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(entry) => {
                let stored = self.store.job(task.job).await?;
                entry.insert(stored.map(|stored| PastJob::of(&stored, agent)))
            }
        };
        Ok(match job {
            Some(job) if !job.done => Past::Open,
            Some(job) if job.place != Some(task.target) || !job.attempts.contains(&task.attempt) => Past::NotItsOwn,
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

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::command::{Command, Program};
    use muster_proto::id::ClusterId;
    use muster_proto::job::{JobSpec, JobSummary, SignedJob, Target, TargetList, TargetsDigest, Work};
    use muster_proto::outcome::Counts;
    use muster_proto::rollout::Rollout;
    use std::time::Duration;

    const AGENT: AgentId = AgentId::from_bytes([1; 16]);

    fn stored(rollout: Rollout) -> StoredJob {
        let (job, now) = (JobId::from_bytes([2; 16]), clock::now());
        let spec = JobSpec {
            cluster: ClusterId::from_bytes([1; 16]),
            job,
            operator: "ada".parse().expect("a name"),
            created_at: now,
            start_before: now + Duration::from_secs(600),
            deliver: Duration::from_secs(30),
            targets: TargetsDigest { root: [3; 32], count: 1 },
            rollout,
            rerun_of: None,
            work: Work::Command(Command::new(Program::Argv(vec![b"true".to_vec()]))),
        };
        let summary = JobSummary {
            job,
            state: JobState::Done,
            operator: spec.operator.clone(),
            rerun_of: None,
            title: String::new(),
            argv: Vec::new(),
            targets: spec.targets,
            counts: Counts::default(),
            created_at: now,
            done_at: Some(now),
        };
        let signed =
            SignedJob { payload: Default::default(), signature: Default::default(), certificate: Default::default() };
        let targets = TargetList::Agents(vec![Target { agent: AGENT, name: "web01".parse().expect("a name") }].into());
        StoredJob { spec, signed, targets, summary, last_seq: 1 }
    }

    #[test]
    fn of_a_job_that_is_done_an_agent_may_speak_of_every_attempt_that_was_signed_and_of_no_other() {
        let gate = Some(Command::new(Program::Argv(vec![b"true".to_vec()])));
        let plain = PastJob::of(&stored(Rollout::default()), AGENT);
        let tried = PastJob::of(&stored(Rollout { retries: 1, retry_failed: 1, ..Rollout::default() }), AGENT);
        let gated = PastJob::of(&stored(Rollout { waves: vec![1], gate, ..Rollout::default() }), AGENT);
        let spoken_of = |job: &PastJob| (0..5).filter(|number| job.attempts.contains(&Attempt(*number))).collect();
        let [plain, tried, gated]: [Vec<u32>; 3] = [&plain, &tried, &gated].map(spoken_of);
        assert_eq!((plain, tried, gated), (vec![1], vec![1, 2, 3], vec![0, 1]));
        assert_eq!(PastJob::of(&stored(Rollout::default()), AgentId::from_bytes([9; 16])).place, None);
    }
}
