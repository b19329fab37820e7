//! Jobs at work as people ask about them: which there are, and where their tasks stand.
//!
//! A job that waits for the store does not answer; nobody who asks waits longer than [`ANSWER_MAX`] for it.

use super::Engine;
use super::running::Input;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use muster_core::job::{Host, Job, Pause, Waiting, WaveView};
use muster_core::task;
use muster_proto::id::{AgentId, JobId};
use muster_proto::job::{Phase, QueuedTask};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a job may take to answer a question. It takes longer only while the store cannot write.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Jobs that are asked at the same time, so that a question to thousands takes little memory.
const ASKED_AT_ONCE: usize = 64;
/// Queued targets in one answer, which has to fit into a message.
const QUEUE_TOLD_MAX: usize = 20_000;
/// Jobs that wait for somebody, in one answer.
const HALTED_MAX: usize = 100;
/// All phases, in the order of the way.
const PHASES: [Phase; 4] = [Phase::Planned, Phase::Offered, Phase::Accepted, Phase::Started];

/// A target of a job at work, as closely as the job itself sees it.
#[derive(Debug, Clone)]
pub struct Look {
    /// Its place in the list.
    pub target: u32,
    /// Where its last attempt stands.
    pub phase: task::Phase,
    /// What it waits for.
    pub waiting: Waiting,
    /// The wave that is under way.
    pub wave: WaveView,
    /// Why nothing is offered, while the job is paused.
    pub paused: Option<Pause>,
    /// The agent has a session that the job knows of.
    pub connected: bool,
    /// Tasks of the job that were offered and are not over.
    pub at_work: u32,
}

impl Look {
    /// At the target in this place.
    pub(super) fn at(job: &Job, target: u32) -> Self {
        let host = &job.hosts()[target as usize];
        Self {
            target,
            phase: host.phase().clone(),
            waiting: job.waiting(target),
            wave: job.wave(),
            paused: job.pause().cloned(),
            connected: host.is_connected(),
            at_work: job.at_work(),
        }
    }

    /// Its process runs.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, task::Phase::Started(_))
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, task::Phase::Ended(_))
    }
}

/// Where jobs at work stand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Their tasks that are not over, by phase in the order of the way.
    phases: [u64; 4],
    /// Targets that wait for their agents while nobody waits for them.
    pub queued: u64,
    /// Jobs that are paused.
    pub paused: u64,
    /// Those of them that the controller paused by itself, and why: they wait for somebody. At most [`HALTED_MAX`].
    pub halted: Vec<(JobId, String)>,
}

impl Survey {
    /// Of one job.
    pub(super) fn of(job: &Job) -> Self {
        let open = job.hosts().iter().filter(|host| host.outcome().is_none());
        let mut survey: Self = open.map(Host::shown_phase).collect();
        survey.queued = job.queued().count() as u64;
        if let Some(pause) = job.pause() {
            survey.paused = 1;
            if pause.operator.is_none() {
                survey.halted.push((job.spec().job, pause.reason.clone()));
            }
        }
        survey
    }

    /// How many tasks that are not over stand where.
    pub fn tasks(&self) -> impl Iterator<Item = (Phase, u64)> {
        PHASES.into_iter().zip(self.phases)
    }

    /// Both.
    fn and(mut self, other: Self) -> Self {
        for (count, more) in self.phases.iter_mut().zip(other.phases) {
            *count += more;
        }
        self.queued += other.queued;
        self.paused += other.paused;
        self.halted.extend(other.halted);
        self.halted.truncate(HALTED_MAX);
        self
    }
}

impl FromIterator<Phase> for Survey {
    fn from_iter<I: IntoIterator<Item = Phase>>(open: I) -> Self {
        let mut survey = Self::default();
        for phase in open {
            survey.phases[phase as usize] += 1;
        }
        survey
    }
}

/// Those that end first, in that order.
fn keep_first(queue: &mut Vec<QueuedTask>) {
    queue.sort_by(|a, b| (a.until, a.job, &a.host).cmp(&(b.until, b.job, &b.host)));
    queue.truncate(QUEUE_TOLD_MAX);
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

    /// Where the jobs at work stand; those that do not answer are left out.
    pub async fn survey(&self) -> Survey {
        let asked = self.at_work(None).into_iter().map(|job| self.ask(job, |answer| Input::Survey { answer }));
        let answers = stream::iter(asked).buffered(ASKED_AT_ONCE);
        answers.fold(Survey::default(), async |all, one| all.and(one.unwrap_or_default())).await
    }

    /// Targets of the jobs at work that wait for their agents while nobody waits for them, those that end first coming
    /// first, at most [`QUEUE_TOLD_MAX`]; and how many there are in all.
    pub async fn queue(&self) -> (Vec<QueuedTask>, usize) {
        let asked = self.at_work(None).into_iter().map(|job| self.ask(job, |answer| Input::Queue { answer }));
        let mut answers = pin!(stream::iter(asked).buffered(ASKED_AT_ONCE));
        let (mut queue, mut total) = (Vec::new(), 0);
        while let Some(answer) = answers.next().await {
            let tasks = answer.unwrap_or_default();
            total += tasks.len();
            queue.extend(tasks);
            if queue.len() > 2 * QUEUE_TOLD_MAX {
                keep_first(&mut queue);
            }
        }
        keep_first(&mut queue);
        (queue, total)
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

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::time::Timestamp;

    #[test]
    fn a_queue_that_is_too_long_to_be_told_has_those_that_end_first() {
        let task = |until: i64| QueuedTask {
            host: "n1".parse().expect("a name"),
            job: JobId::from_bytes([1; 16]),
            title: String::new(),
            operator: "ada".parse().expect("a name"),
            since: Timestamp::from_millis(0),
            until: Timestamp::from_millis(until),
        };
        let longest = i64::try_from(QUEUE_TOLD_MAX).expect("small");
        let mut queue: Vec<_> = (0..longest + 5).rev().map(task).collect();
        keep_first(&mut queue);
        assert_eq!((queue.len(), queue[0].until.as_millis()), (QUEUE_TOLD_MAX, 0));
        assert_eq!(queue[QUEUE_TOLD_MAX - 1].until.as_millis(), longest - 1);
    }

    #[test]
    fn surveys_add_up_and_name_so_many_jobs_that_wait_for_somebody_as_can_be_read() {
        let halted = |count: usize| (0..count).map(|_| (JobId::from_bytes([1; 16]), "why".to_owned())).collect();
        let one = Survey { halted: halted(1), paused: 1, ..[Phase::Planned, Phase::Started].into_iter().collect() };
        let many =
            Survey { halted: halted(HALTED_MAX), paused: 200, queued: 3, ..[Phase::Started].into_iter().collect() };
        let both = one.and(many);
        assert_eq!((both.paused, both.queued, both.halted.len()), (201, 3, HALTED_MAX));
        assert_eq!(both.tasks().map(|(_, count)| count).collect::<Vec<_>>(), [1, 0, 0, 2]);
    }
}
