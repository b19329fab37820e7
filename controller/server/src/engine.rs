//! Jobs at work: each is owned by one task ([`running`]); this is how the doors reach them.
//!
//! ```text
//! operators ─ submit, cancel, hosts ─┐                        ┌─▶ store (durable first)
//!                                    ├─▶ the job's own task ──┼─▶ progress (a doorbell for followers)
//! agents ─── hello, reports, gone ───┘   (a pure machine)     └─▶ sessions (then the agents are told)
//! ```
//!
//! Queues towards a job are bounded: an agent's door waits until there is room, so that a flood from agents slows
//! those agents down. Nobody waits for a follower: followers read the store.

mod running;

use crate::clock;
use crate::sessions::{Epoch, Sessions};
use muster_core::job::{Effects, Held, Job};
use muster_core::task::Task;
use muster_proto::id::{AgentId, JobId, TaskId};
use muster_proto::job::{JobSpec, JobState, SignedJob, Target, target_tree};
use muster_proto::link::{TaskReport, ToAgent, Unfinished};
use muster_proto::name::OperatorName;
use muster_proto::outcome::Outcome;
use muster_store::{AcceptError, AuditEntry, NewJob, Store, StoreError};
use running::{Input, Running};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Batches that may wait for one job.
const QUEUE_LEN: usize = 256;

/// The jobs that are not done.
#[derive(Clone)]
pub struct Engine {
    store: Store,
    sessions: Sessions,
    jobs: Arc<Mutex<HashMap<JobId, JobHandle>>>,
}

/// How a job's task is reached.
#[derive(Clone)]
struct JobHandle {
    inputs: mpsc::Sender<Input>,
    progress: watch::Receiver<Progress>,
}

/// How far a job's stored events go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Number of the last stored event.
    pub seq: u64,
    /// Nothing follows.
    pub done: bool,
}

/// A target of a job: where it stands.
pub type TaskView = (muster_proto::job::Phase, Option<Outcome>);

/// What a session's beginning means for the tasks of its agent.
#[derive(Debug, Default, PartialEq)]
pub struct Resumption {
    /// Where to go on.
    pub resume: Vec<(TaskId, u64)>,
    /// What the agent did not name though it was offered.
    pub outstanding: Vec<TaskId>,
    /// What follows the welcome.
    pub then: Vec<ToAgent>,
}

/// What came of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It is under way, and durable.
    Accepted,
    /// The job was over.
    AlreadyDone,
}

/// The job is not known, or the store failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no such job.
    #[error("there is no job {0}: `muster jobs` lists those that are known")]
    NoSuchJob(JobId),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Takes up the jobs that are not done. Call it before any listener is open: agents that come back find their
    /// jobs waiting for them.
    pub async fn start(store: Store, sessions: Sessions) -> Result<Self, StoreError> {
        let engine = Self { store, sessions, jobs: Arc::default() };
        for id in engine.store.unfinished_jobs().await? {
            let Some(stored) = engine.store.job(id).await? else { continue };
            let mut job = Job::restore(stored.spec);
            engine.replay(&mut job, id).await?;
            job.resume(clock::now());
            info!(job = %id, state = job.state().as_str(), "job taken up again");
            engine.run(job, stored.signed, stored.targets);
        }
        Ok(engine)
    }

    async fn replay(&self, job: &mut Job, id: JobId) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let events = self.store.outline(id, after).await?;
            let Some(last) = events.last() else { return Ok(()) };
            after = last.seq;
            events.iter().for_each(|event| job.replay(event));
        }
    }

    /// Makes a job durable, then sets it to work. The caller has verified what was signed against the list.
    pub async fn submit(
        &self,
        spec: JobSpec,
        signed: SignedJob,
        targets: Vec<Target>,
        audit: AuditEntry,
    ) -> Result<(), AcceptError> {
        let mut effects = Effects::default();
        let job = Job::plan(spec.clone(), clock::now(), &mut effects);
        let events = effects.events;
        let new = NewJob { spec, signed: signed.clone(), targets: targets.clone(), events, audit };
        self.store.accept(new).await?;
        self.run(job, signed, targets.into());
        Ok(())
    }

    fn run(&self, job: Job, signed: SignedJob, targets: Arc<[Target]>) {
        let id = job.spec().job;
        let Some(tree) = target_tree(&targets) else { return };
        let (inputs, queue) = mpsc::channel(QUEUE_LEN);
        let (progress, follow) = watch::channel(Progress { seq: job.last_seq(), done: false });
        self.jobs().insert(id, JobHandle { inputs, progress: follow });
        let running = Running::new(job, signed, targets, tree, self.store.clone(), self.sessions.clone());
        let jobs = Arc::clone(&self.jobs);
        tokio::spawn(async move {
            running.run(queue, progress).await;
            jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }

    // No code that can panic runs under the lock, so that a poisoned one holds a whole map.
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, JobHandle>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, job: JobId) -> Option<JobHandle> {
        self.jobs().get(&job).cloned()
    }

    fn handles(&self) -> Vec<(JobId, JobHandle)> {
        self.jobs().iter().map(|(job, handle)| (*job, handle.clone())).collect()
    }

    /// A doorbell that rings when events were stored; `None` for a job that is done or unknown.
    pub fn progress(&self, job: JobId) -> Option<watch::Receiver<Progress>> {
        self.handle(job).map(|handle| handle.progress)
    }

    /// Where the targets of a job stand, in the order of its list.
    pub async fn tasks(&self, job: JobId, stored: &JobSpec) -> Result<Vec<TaskView>, EngineError> {
        if let Some(handle) = self.handle(job) {
            let (answer, view) = oneshot::channel();
            if handle.inputs.send(Input::View { answer }).await.is_ok()
                && let Ok(view) = view.await
            {
                return Ok(view);
            }
        }
        let mut replayed = Job::restore(stored.clone());
        self.replay(&mut replayed, job).await?;
        Ok(replayed.tasks().iter().map(view_of).collect())
    }

    /// Ends a job. Returns once the cancel is durable.
    pub async fn cancel(&self, job: JobId, operator: OperatorName) -> Result<Cancelled, EngineError> {
        if let Some(handle) = self.handle(job) {
            let (answer, cancelled) = oneshot::channel();
            if handle.inputs.send(Input::Cancel { operator, answer }).await.is_ok() && cancelled.await.is_ok() {
                return Ok(Cancelled::Accepted);
            }
        }
        match self.store.job(job).await? {
            Some(_) => Ok(Cancelled::AlreadyDone),
            None => Err(EngineError::NoSuchJob(job)),
        }
    }

    /// A session began. Every job that has the agent among its targets learns of it; what they answer is durable.
    pub async fn hello(
        &self,
        agent: AgentId,
        epoch: Epoch,
        unfinished: &[Unfinished],
    ) -> Result<Resumption, StoreError> {
        let mut resumption = Resumption::default();
        let mut answers = Vec::new();
        for (job, handle) in self.handles() {
            let held = unfinished
                .iter()
                .filter(|held| held.task.job == job)
                .map(|held| (held.task, Held { started: held.started }));
            let (answer, reply) = oneshot::channel();
            let input = Input::Hello { agent, epoch, held: held.collect(), answer };
            if handle.inputs.send(input).await.is_ok() {
                answers.push((job, reply));
            }
        }
        let mut answered = Vec::new();
        for (job, reply) in answers {
            if let Ok(part) = reply.await {
                answered.push(job);
                resumption.resume.extend(part.resume);
                resumption.outstanding.extend(part.outstanding);
                resumption.then.extend(part.then);
            }
        }
        for held in unfinished.iter().filter(|held| !answered.contains(&held.task.job)) {
            resumption.then.extend(self.forget(agent, held.task).await?);
        }
        Ok(resumption)
    }

    /// What an agent is told of a task whose job has no task of its own any more.
    async fn forget(&self, agent: AgentId, task: TaskId) -> Result<Option<ToAgent>, StoreError> {
        match self.store.job(task.job).await? {
            Some(stored) if stored.summary.state == JobState::Done => {
                let mine = stored.targets.get(task.target as usize).is_some_and(|target| target.agent == agent);
                Ok(mine.then_some(ToAgent::Committed(task)))
            }
            Some(_) => Ok(None),
            None => {
                warn!(%agent, %task, "an agent holds a result of a job that this store does not know; it is kept there");
                Ok(None)
            }
        }
    }

    /// An agent says something of its tasks. Reports are in order; those of a stale session have no effect.
    pub async fn report(
        &self,
        agent: AgentId,
        epoch: Epoch,
        reports: Vec<(TaskId, TaskReport)>,
    ) -> Result<(), StoreError> {
        let mut by_job: Vec<(JobId, Vec<(TaskId, TaskReport)>)> = Vec::new();
        for (task, report) in reports {
            match by_job.iter_mut().find(|(job, _)| *job == task.job) {
                Some((_, list)) => list.push((task, report)),
                None => by_job.push((task.job, vec![(task, report)])),
            }
        }
        for (job, reports) in by_job {
            let ended: Vec<TaskId> = reports.iter().filter(|(_, report)| ends(report)).map(|(task, _)| *task).collect();
            let delivered = match self.handle(job) {
                Some(handle) => handle.inputs.send(Input::Reports { agent, epoch, reports }).await.is_ok(),
                None => false,
            };
            if delivered {
                continue;
            }
            for task in ended {
                if let Some(message) = self.forget(agent, task).await? {
                    self.sessions.send([(agent, epoch, crate::sessions::Outgoing::Message(message))]);
                }
            }
        }
        Ok(())
    }

    /// A session is over.
    pub async fn gone(&self, agent: AgentId, epoch: Epoch) {
        for (_, handle) in self.handles() {
            let _ = handle.inputs.send(Input::Gone { agent, epoch }).await;
        }
    }

    /// An agent will never be heard again.
    pub async fn revoked(&self, agent: AgentId) {
        for (_, handle) in self.handles() {
            let _ = handle.inputs.send(Input::Revoked { agent }).await;
        }
    }

    /// Ends all job tasks, for a shutdown: what they have taken is stored, the rest comes again from the agents.
    pub fn stop(&self) {
        self.jobs().clear();
    }
}

const fn ends(report: &TaskReport) -> bool {
    matches!(report, TaskReport::Exited { .. } | TaskReport::Rejected { .. })
}

fn view_of(task: &Task) -> TaskView {
    (task.shown_phase(), task.outcome().cloned())
}

/// A follower waits until the doorbell rings or `stop` does. Whether to go on.
pub async fn more(progress: &mut watch::Receiver<Progress>, seq: u64, stop: &CancellationToken) -> bool {
    tokio::select! {
        news = progress.wait_for(|progress| progress.seq > seq || progress.done) => news.is_ok(),
        () = stop.cancelled() => false,
    }
}
