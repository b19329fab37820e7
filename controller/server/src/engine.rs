//! Jobs at work: each is owned by one task ([`running`]); this is how the doors reach them.
//!
//! ```text
//! operators ─ submit, orders, looks ─┐                        ┌─▶ store (durable first)
//!                                    ├─▶ the job's own task ──┼─▶ progress (a doorbell for followers)
//! agents ─── hello, reports, gone ───┘   (a pure machine)     └─▶ sessions (then the agents are told)
//! ```
//!
//! Queues towards a job are bounded: an agent's door waits until there is room, so that a flood from agents slows
//! those agents down. Nobody waits for a follower: followers read the store.

mod commit;
mod late;
mod look;
mod machine;
mod order;
mod pinging;
mod running;

pub use look::{Look, Survey};
pub use machine::TaskView;
pub use order::{Order, Ordered};

use crate::ping::Prober;
use crate::sessions::{Epoch, Sessions};
use crate::stats::Stats;
use late::Past;
use machine::{Machine, Views};
use muster_core::job::Held;
use muster_proto::event::Event;
use muster_proto::id::{AgentId, JobId, TaskId};
use muster_proto::job::{JobSpec, SignedJob, Target, TargetList, target_tree};
use muster_proto::link::{TaskReport, ToAgent, Unfinished};
use muster_proto::name::OperatorName;
use muster_store::{AcceptError, AuditEntry, NewJob, Store, StoreError};
use pinging::Pinging;
use running::{Input, Reports, Running};
use std::collections::{HashMap, HashSet};
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
    prober: Prober,
    jobs: Arc<Mutex<Jobs>>,
    stats: Arc<Stats>,
}

/// The jobs at work, and who has a part in which.
#[derive(Default)]
struct Jobs {
    handles: HashMap<JobId, JobHandle>,
    of_agent: HashMap<AgentId, Vec<JobId>>,
}

impl Jobs {
    fn add(&mut self, job: JobId, handle: JobHandle, targets: &[Target]) {
        self.handles.insert(job, handle);
        for target in targets {
            self.of_agent.entry(target.agent).or_default().push(job);
        }
    }

    fn remove(&mut self, job: JobId, targets: &[Target]) {
        self.handles.remove(&job);
        for target in targets {
            if let Some(jobs) = self.of_agent.get_mut(&target.agent) {
                jobs.retain(|other| *other != job);
                if jobs.is_empty() {
                    self.of_agent.remove(&target.agent);
                }
            }
        }
    }
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

/// The job is not known, or the store failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no such job.
    #[error("there is no job {0}: `muster jobs` lists those that are known")]
    NoSuchJob(JobId),
    /// Its task ended on an error of the store.
    #[error("job {0} stands still since the store failed: start the controller again, then it goes on")]
    Stopped(JobId),
    /// The store cannot write at the moment.
    #[error(
        "job {0} waits for the store, which cannot write: check the space of its disk; what you asked for counts once it can"
    )]
    Waiting(JobId),
    /// The job is at work, and yet this cannot be asked of it.
    #[error("job {0} cannot be paused: {1}")]
    NotPausable(JobId, &'static str),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Takes up the jobs that are not done. Call it before any listener is open: agents that come back find their
    /// jobs waiting for them.
    pub async fn start(
        store: Store,
        sessions: Sessions,
        prober: Prober,
        stats: Arc<Stats>,
    ) -> Result<Self, StoreError> {
        let engine = Self { store, sessions, prober, jobs: Arc::default(), stats };
        let mut operators = HashSet::new();
        for id in engine.store.unfinished_jobs().await? {
            let Some(stored) = engine.store.job(id).await? else { continue };
            let mut job = Machine::restore(stored.spec);
            engine.replay(id, |event| job.replay(event)).await?;
            job.resume();
            info!(job = %id, state = job.state().as_str(), "job taken up again");
            operators.insert(job.spec().operator.clone());
            engine.run(job, stored.signed, stored.targets);
        }
        for operator in &operators {
            engine.stop_if_disabled(operator).await?;
        }
        Ok(engine)
    }

    /// Where all of it is kept.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What the process counts.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    async fn replay(&self, id: JobId, mut take: impl FnMut(&Event)) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let events = self.store.outline(id, after).await?;
            let Some(last) = events.last() else { return Ok(()) };
            after = last.seq;
            events.iter().for_each(&mut take);
        }
    }

    /// Makes a job durable, then sets it to work; both, even if the caller does not wait for it. The caller has verified
    /// what was signed against the list.
    pub async fn submit(
        &self,
        spec: JobSpec,
        signed: SignedJob,
        targets: TargetList,
        audit: AuditEntry,
    ) -> Result<(), AcceptError> {
        let (job, events) = Machine::plan(spec.clone());
        let new = NewJob { spec, signed: signed.clone(), targets: targets.clone(), events, audit };
        let engine = self.clone();
        let accepted = tokio::spawn(async move {
            engine.store.accept(new).await?;
            engine.stats.jobs_accepted.add_one();
            engine.run(job, signed, targets);
            Ok(())
        });
        accepted.await.unwrap_or(Err(AcceptError::Store(StoreError::Closed)))
    }

    fn run(&self, job: Machine, signed: SignedJob, targets: TargetList) {
        let id = job.spec().job;
        let (inputs, queue) = mpsc::channel(QUEUE_LEN);
        let (progress, follow) = watch::channel(Progress { seq: job.last_seq(), done: false });
        let agents = targets.agents().cloned().unwrap_or_default();
        self.jobs().add(id, JobHandle { inputs, progress: follow }, &agents);
        let engine = self.clone();
        // A task of its own: whatever becomes of it, the job does not stay in the list as if it were at work.
        let at_work = match (job, targets) {
            (Machine::Command(job), TargetList::Agents(targets)) => {
                let running = target_tree(&targets).map(|tree| Running::new(*job, signed, targets, tree, self.clone()));
                tokio::spawn(async move {
                    match running {
                        Some(running) => running.run(queue, progress).await,
                        None => Vec::new(),
                    }
                })
            }
            (Machine::Ping(sweep), TargetList::Pings(list)) => {
                let (store, stats) = (self.store.clone(), Arc::clone(&self.stats));
                let pinging = Pinging::new(*sweep, list, &self.prober, store, stats);
                tokio::spawn(async move {
                    pinging.run(queue, progress).await;
                    Vec::new()
                })
            }
            // A list is verified against what was signed, and read back as it was stored.
            (Machine::Command(_), TargetList::Pings(_)) | (Machine::Ping(_), TargetList::Agents(_)) => {
                tokio::spawn(async { Vec::new() })
            }
        };
        tokio::spawn(async move {
            let ended = at_work.await;
            engine.jobs().remove(id, &agents);
            for late in ended.unwrap_or_default() {
                if let Err(error) = engine.take_late(late.agent, late.epoch, late.reports).await {
                    warn!(job = %id, %error, "what came as the job ended could not be kept");
                }
            }
        });
    }

    // No code that can panic runs under the lock, so that a poisoned one holds a whole map.
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, job: JobId) -> Option<JobHandle> {
        self.jobs().handles.get(&job).cloned()
    }

    fn handles_of(&self, agent: AgentId) -> Vec<(JobId, JobHandle)> {
        let jobs = self.jobs();
        let of_agent = jobs.of_agent.get(&agent).into_iter().flatten();
        of_agent.filter_map(|job| Some((*job, jobs.handles.get(job)?.clone()))).collect()
    }

    /// A doorbell that rings when events were stored; `None` for a job that is done or unknown.
    pub fn progress(&self, job: JobId) -> Option<watch::Receiver<Progress>> {
        self.handle(job).map(|handle| handle.progress)
    }

    /// Where the targets of a job stand, in the order of its list.
    pub async fn tasks(&self, job: JobId, stored: &JobSpec) -> Result<Vec<TaskView>, EngineError> {
        // A job that waits for the store is seen as the store has it.
        if let Some(view) = self.ask(job, |answer| Input::View { answer }).await {
            return Ok(view);
        }
        let mut views = Views::new(stored.clone());
        self.replay(job, |event| views.replay(event)).await?;
        Ok(views.into_views())
    }

    /// A session began. Every job that has the agent among its targets learns of it, and no other; what they answer is
    /// durable.
    pub async fn hello(
        &self,
        agent: AgentId,
        epoch: Epoch,
        unfinished: &[Unfinished],
    ) -> Result<Resumption, StoreError> {
        let mut resumption = Resumption::default();
        let mut answers = Vec::new();
        for (job, handle) in self.handles_of(agent) {
            let held = unfinished
                .iter()
                .filter(|held| held.task.job == job)
                .map(|held| (held.task, Held { attempt: held.task.attempt, started: held.started }));
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
        let mut pasts = HashMap::new();
        let mut strange = 0_u32;
        for held in unfinished.iter().filter(|held| !answered.contains(&held.task.job)) {
            match self.past(agent, held.task, &mut pasts).await? {
                Past::Ended => resumption.then.push(ToAgent::Committed(held.task)),
                // Its output is no longer taken; how it ended is.
                Past::Lost if held.started => resumption.resume.push((held.task, held.next_frame)),
                Past::Lost => resumption.then.push(ToAgent::Committed(held.task)),
                Past::Open => {}
                Past::NotItsOwn => strange += 1,
            }
        }
        if strange > 0 {
            warn!(%agent, tasks = strange, "an agent holds results of jobs that this store does not know; they are kept there");
        }
        Ok(resumption)
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
            let inputs = self.jobs().handles.get(&job).map(|handle| handle.inputs.clone());
            match inputs {
                Some(inputs) => {
                    // A job that ends meanwhile lets go of what waits; the agent tells again when it comes back.
                    let _ = inputs.send(Input::Reports(Reports { agent, epoch, reports })).await;
                }
                None => self.take_late(agent, epoch, reports).await?,
            }
        }
        Ok(())
    }

    /// A session is over.
    pub async fn gone(&self, agent: AgentId, epoch: Epoch) {
        for (_, handle) in self.handles_of(agent) {
            let _ = handle.inputs.send(Input::Gone { agent, epoch }).await;
        }
    }

    /// A quarantine began or was resolved, as the sessions have it by now: in one, the agent's tasks wait as if it were
    /// away, and say why.
    pub async fn recognition_changed(&self, agent: AgentId) {
        for (_, handle) in self.handles_of(agent) {
            let _ = handle.inputs.send(Input::Recognition { agent }).await;
        }
    }

    /// Starts nothing more of the jobs of an operator who was disabled by `actor`. What runs goes on.
    pub async fn stop_jobs_of(&self, operator: &OperatorName, actor: &str) {
        for job in self.at_work(None) {
            if let Some(handle) = self.handle(job) {
                let (operator, actor) = (operator.clone(), actor.to_owned());
                let _ = handle.inputs.send(Input::Stop { operator, actor }).await;
            }
        }
    }

    /// Starts nothing more of the jobs of an operator who is disabled by now.
    pub async fn stop_if_disabled(&self, operator: &OperatorName) -> Result<(), StoreError> {
        if self.store.operator_key(operator).await?.is_none() {
            self.stop_jobs_of(operator, "controller").await;
        }
        Ok(())
    }

    /// An agent will never be heard again.
    pub async fn revoked(&self, agent: AgentId) {
        for (_, handle) in self.handles_of(agent) {
            let _ = handle.inputs.send(Input::Revoked { agent }).await;
        }
    }

    /// Ends all job tasks, for a shutdown: what they have taken is stored, the rest comes again from the agents.
    pub fn stop(&self) {
        *self.jobs() = Jobs::default();
    }
}

/// A follower waits until the doorbell rings or `stop` does. Whether to go on.
pub async fn more(progress: &mut watch::Receiver<Progress>, seq: u64, stop: &CancellationToken) -> bool {
    tokio::select! {
        news = progress.wait_for(|progress| progress.seq > seq || progress.done) => news.is_ok(),
        () = stop.cancelled() => false,
    }
}
