//! Jobs at work as people ask about them: which there are, and where their tasks stand.
//!
//! A job that waits for the store does not answer; nobody who asks waits longer than [`ANSWER_MAX`] for it.

use super::Engine;
use super::running::Input;
use futures_util::future::join_all;
use muster_core::task;
use muster_proto::id::{AgentId, JobId};
use muster_proto::job::Phase;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a job may take to answer a question. It takes longer only while the store cannot write.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// A target of a job at work, as closely as the job itself sees it.
#[derive(Debug, Clone)]
pub struct Look {
    /// Its place in the list.
    pub target: u32,
    /// Where the task stands.
    pub phase: task::Phase,
    /// The agent has a session that the job knows of.
    pub connected: bool,
    /// Tasks of the job that were offered and are not over.
    pub at_work: u32,
}

impl Look {
    /// Its process runs.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, task::Phase::Started(_))
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, task::Phase::Ended(_))
    }
}

impl Engine {
    /// The jobs at work, the oldest first: all, or those that have this agent among their targets.
    pub fn at_work(&self, agent: Option<AgentId>) -> Vec<JobId> {
        let jobs = self.jobs();
        let mut list: Vec<JobId> = match agent {
            Some(agent) => jobs.of_agent.get(&agent).cloned().unwrap_or_default(),
            None => jobs.handles.keys().copied().collect(),
        };
        list.sort_unstable();
        list
    }

    /// A close look at an agent's task of a job; `None` if there is none, or the job is not at work or does not answer.
    pub async fn look(&self, job: JobId, agent: AgentId) -> Option<Look> {
        self.ask(job, |answer| Input::Look { agent, answer }).await
    }

    /// The jobs at work that have a task for this agent which is not over, the oldest first, each with a look at it.
    /// All are asked at once.
    pub async fn open_tasks(&self, agent: AgentId) -> Vec<(JobId, Look)> {
        let asked = self.at_work(Some(agent)).into_iter().map(|job| async move { (job, self.look(job, agent).await) });
        let looks = join_all(asked).await.into_iter();
        let open = looks.filter_map(|(job, look)| Some((job, look.filter(|look| !look.is_over())?)));
        open.collect()
    }

    /// How many tasks of the jobs at work stand where; those of jobs that do not answer are left out.
    pub async fn survey(&self) -> Vec<(Phase, u64)> {
        let jobs = self.at_work(None);
        let answers = join_all(jobs.into_iter().map(|job| self.ask(job, |answer| Input::Survey { answer }))).await;
        let open: Vec<Phase> = answers.into_iter().flatten().flatten().collect();
        let count = |phase| open.iter().filter(|other| **other == phase).count() as u64;
        [Phase::Planned, Phase::Offered, Phase::Accepted, Phase::Started].map(|phase| (phase, count(phase))).into()
    }

    /// Asks a job; `None` if it is not at work or does not answer.
    pub(super) async fn ask<T>(&self, job: JobId, question: impl FnOnce(oneshot::Sender<T>) -> Input) -> Option<T> {
        let asked = async {
            let (answer, reply) = oneshot::channel();
            self.handle(job)?.inputs.send(question(answer)).await.ok()?;
            reply.await.ok()
        };
        timeout(ANSWER_MAX, asked).await.ok()?
    }
}
