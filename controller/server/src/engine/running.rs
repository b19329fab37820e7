//! One job at work: the pure machine with a clock, a store and sessions around it.
//!
//! A turn of the loop takes every fact that has arrived, asks the machine, makes the events durable, and only then
//! rings the doorbell, answers, and sends. While the store commits, the next facts gather: under load a commit
//! carries many.

use super::commit::commit;
use super::look::{Look, Survey};
use super::machine::view_of;
use super::order::{Obeyed, Order};
use super::{Engine, Progress, Resumption, TaskView};
use crate::clock;
use crate::sessions::{Contact, Epoch, OfferedJob, Outgoing, Sessions};
use crate::stats::Stats;
use muster_core::job::{self, Effects, Held, Job, Say, Send, TaskRef};
use muster_proto::id::{AgentId, TaskId};
use muster_proto::job::{JobState, QueuedTask, SignedJob, Target};
use muster_proto::link::{TaskReport, ToAgent};
use muster_proto::merkle::Tree;
use muster_proto::name::OperatorName;
use muster_proto::time::Timestamp;
use muster_store::{Append, AuditEntry, LateEvidence, Store, StoreError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{error, info, warn};

/// Facts taken in one turn.
const BATCH_LEN: usize = 256;
/// Timers follow the wall clock, which may be set: it is looked at again after this long.
const NAP_MAX: Duration = Duration::from_secs(30);

/// A fact for a job, from a door.
pub(super) enum Input {
    /// A session began; `held` are the tasks of this job that the agent named.
    Hello { agent: AgentId, epoch: Epoch, held: Vec<(TaskId, Held)>, answer: oneshot::Sender<Resumption> },
    /// A session ended.
    Gone { agent: AgentId, epoch: Epoch },
    /// Whether two machines use an agent's identity has changed.
    Recognition { agent: AgentId },
    /// An agent will never be heard again.
    Revoked { agent: AgentId },
    /// An operator was disabled: if the job is theirs, nothing more of it starts.
    Stop { operator: OperatorName, actor: String },
    /// An agent speaks of its tasks.
    Reports(Reports),
    /// An operator wants something of it.
    Order { order: Order, operator: OperatorName, answer: oneshot::Sender<Obeyed> },
    /// An operator wants to see where the targets stand.
    View { answer: oneshot::Sender<Vec<TaskView>> },
    /// An operator asks about one agent's task.
    Look { agent: AgentId, answer: oneshot::Sender<Look> },
    /// An operator asks where those stand that are not over.
    Survey { answer: oneshot::Sender<Survey> },
    /// An operator asks who waits for an agent while nobody waits.
    Queue { answer: oneshot::Sender<Vec<QueuedTask>> },
}

/// What an agent says in one session, in order.
pub(super) struct Reports {
    pub(super) agent: AgentId,
    pub(super) epoch: Epoch,
    pub(super) reports: Vec<(TaskId, TaskReport)>,
}

/// A job with what its task needs.
pub(super) struct Running {
    job: Job,
    offered: Arc<OfferedJob>,
    targets: Arc<[Target]>,
    places: HashMap<AgentId, u32>,
    /// The session of each target that is known to the machine as connected.
    epochs: Vec<Option<Epoch>>,
    store: Store,
    sessions: Sessions,
    stats: Arc<Stats>,
}

/// What is done once the events are durable.
#[derive(Default)]
struct Afterwards {
    effects: Effects,
    messages: Vec<(AgentId, Epoch, Outgoing)>,
    hellos: Vec<(oneshot::Sender<Resumption>, Resumption)>,
    orders: Vec<(oneshot::Sender<Obeyed>, Obeyed)>,
    views: Vec<oneshot::Sender<Vec<TaskView>>>,
    audit: Vec<AuditEntry>,
}

impl Running {
    pub(super) fn new(job: Job, signed: SignedJob, targets: Arc<[Target]>, tree: Tree, engine: Engine) -> Self {
        let blobs = job.spec().blobs().collect();
        let places = targets.iter().zip(0..).map(|(target, place)| (target.agent, place)).collect();
        let epochs = vec![None; targets.len()];
        let offered = Arc::new(OfferedJob { signed, tree, blobs });
        let Engine { store, sessions, stats, .. } = engine;
        let job = job.with_names(Arc::clone(&targets));
        Self { job, offered, targets, places, epochs, store, sessions, stats }
    }

    /// Is the job until it is done. Returns what agents had said by then that it did not take.
    pub(super) async fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        progress: watch::Sender<Progress>,
    ) -> Vec<Reports> {
        let mut batch = Vec::with_capacity(BATCH_LEN);
        let mut after = Afterwards::default();
        self.meet_connected(&mut after);
        loop {
            let now = clock::now();
            for input in batch.drain(..) {
                self.take(input, now, &mut after);
                self.address(&mut after);
            }
            self.job.advance(now, &mut after.effects);
            self.address(&mut after);
            if let Err(error) = self.commit(&mut after).await {
                error!(job = %self.job.spec().job, %error, "the job stops here until the controller is started again");
                return Vec::new();
            }
            let done = self.job.state() == JobState::Done;
            progress.send_replace(Progress { seq: self.job.last_seq(), done });
            self.tell(std::mem::take(&mut after));
            if done {
                info!(job = %self.job.spec().job, "job done");
                return leftover(inputs);
            }
            let nap = self.job.wake_at().map_or(NAP_MAX, |at| clock::now().until(at)).min(NAP_MAX);
            tokio::select! {
                taken = inputs.recv_many(&mut batch, BATCH_LEN) => if taken == 0 { return Vec::new() },
                () = tokio::time::sleep(nap.max(Duration::from_millis(1))) => {}
            }
        }
    }

    /// The sessions that were there before the job.
    fn meet_connected(&mut self, after: &mut Afterwards) {
        let contacts = self.sessions.contacts(self.targets.iter().map(|target| target.agent));
        for (target, contact) in (0_u32..).zip(contacts) {
            match contact {
                // A job that was taken up again meets nobody: listeners open after it.
                Contact::Here(epoch) => {
                    self.epochs[target as usize] = Some(epoch);
                    self.job.connected(target, &[], clock::now(), &mut after.effects);
                }
                Contact::Quarantined => self.inform(job::Input::Quarantined { target }, clock::now(), after),
                Contact::Away => {}
            }
        }
    }

    fn take(&mut self, input: Input, now: Timestamp, after: &mut Afterwards) {
        match input {
            Input::Hello { agent, epoch, held, answer } => {
                let resumption = self.hello(agent, epoch, &held, now, after);
                after.hellos.push((answer, resumption));
            }
            Input::Gone { agent, epoch } => {
                if let Some(target) = self.place_in(agent, epoch) {
                    self.epochs[target as usize] = None;
                    let _ = self.job.apply(job::Input::Disconnected { target }, now, &mut after.effects);
                }
            }
            Input::Recognition { agent } => self.recognise(agent, now, after),
            Input::Revoked { agent } => self.lose(agent, |target| job::Input::Revoked { target }, now, after),
            Input::Stop { operator, actor } => self.stop(&operator, actor, now, after),
            Input::Reports(Reports { agent, epoch, reports }) => self.reports(agent, epoch, reports, now, after),
            Input::Order { order, operator, answer } => {
                let obeyed = self.obey(order, operator, now, after);
                after.orders.push((answer, obeyed));
            }
            Input::View { answer } => after.views.push(answer),
            Input::Look { agent, answer } => {
                if let Some(&target) = self.places.get(&agent) {
                    let _ = answer.send(Look::at(&self.job, target));
                }
            }
            Input::Survey { answer } => drop(answer.send(Survey::of(&self.job))),
            Input::Queue { answer } => drop(answer.send(self.queue())),
        }
    }

    fn obey(&mut self, order: Order, operator: OperatorName, now: Timestamp, after: &mut Afterwards) -> Obeyed {
        let record = order.record(self.job.spec().job, &operator, now);
        let before = self.job.last_seq();
        self.inform(order.fact(operator), now, after);
        if self.job.last_seq() > before {
            after.audit.push(record);
            return Obeyed::Now;
        }
        match (order, self.job.state()) {
            (Order::Pause, JobState::Paused) | (Order::Resume | Order::Cancel, _) => Obeyed::Already,
            (Order::Pause, _) => Obeyed::No("it is being ended, and nothing more of it starts"),
        }
    }

    fn queue(&self) -> Vec<QueuedTask> {
        let (spec, title) = (self.job.spec(), self.job.spec().work.title());
        let queued = |(target, job::Queued { since, until })| QueuedTask {
            host: self.targets[target as usize].name.clone(),
            job: spec.job,
            title: title.clone(),
            operator: spec.operator.clone(),
            since,
            until,
        };
        self.job.queued().map(queued).collect()
    }

    /// A fact that cannot be refused.
    fn inform(&mut self, fact: job::Input, now: Timestamp, after: &mut Afterwards) {
        let _ = self.job.apply(fact, now, &mut after.effects);
    }

    /// Whatever session the agent has, it counts for nothing from here on.
    fn lose(&mut self, agent: AgentId, fact: fn(u32) -> job::Input, now: Timestamp, after: &mut Afterwards) {
        if let Some(&target) = self.places.get(&agent) {
            self.epochs[target as usize] = None;
            self.inform(fact(target), now, after);
        }
    }

    /// News of a quarantine and of its end come by different doors, in any order, and the agent itself may be faster than
    /// either: what counts is how it can be reached now.
    fn recognise(&mut self, agent: AgentId, now: Timestamp, after: &mut Afterwards) {
        let Some(&target) = self.places.get(&agent) else { return };
        if self.sessions.contact(agent) == Contact::Quarantined {
            self.lose(agent, |target| job::Input::Quarantined { target }, now, after);
        } else if self.epochs[target as usize].is_none() {
            self.inform(job::Input::Released { target }, now, after);
        }
    }

    fn stop(&mut self, operator: &OperatorName, actor: String, now: Timestamp, after: &mut Afterwards) {
        if self.job.spec().operator != *operator {
            return;
        }
        let before = self.job.last_seq();
        self.inform(job::Input::Stop { reason: format!("the operator {operator} was disabled") }, now, after);
        if self.job.last_seq() > before {
            let detail = format!("{}: {operator} was disabled", self.job.spec().job);
            after.audit.push(AuditEntry { at: now, actor, action: "job.stop".to_owned(), detail });
        }
    }

    fn hello(
        &mut self,
        agent: AgentId,
        epoch: Epoch,
        held: &[(TaskId, Held)],
        now: Timestamp,
        after: &mut Afterwards,
    ) -> Resumption {
        let mut resumption = Resumption::default();
        let Some(&target) = self.places.get(&agent) else { return resumption };
        // A session that is over already, or one of two machines', greets nobody.
        if self.epochs[target as usize].is_some_and(|known| known >= epoch)
            || self.sessions.contact(agent) != Contact::Here(epoch)
        {
            return resumption;
        }
        self.epochs[target as usize] = Some(epoch);
        let own = held.iter().filter(|(task, _)| self.own(*task, Some(target)).is_some());
        let held: Vec<Held> = own.map(|(_, held)| *held).collect();
        for greeting in self.job.connected(target, &held, now, &mut after.effects) {
            let task = self.task(greeting.task);
            match greeting.say {
                Some(Say::Resume(frame)) => resumption.resume.push((task, frame)),
                Some(Say::Ask) => resumption.outstanding.push(task),
                Some(Say::Forget) => resumption.then.push(ToAgent::Committed(task)),
                None => {}
            }
            if greeting.cancel {
                resumption.then.push(ToAgent::Cancel(task));
            }
        }
        resumption
    }

    fn reports(
        &mut self,
        agent: AgentId,
        epoch: Epoch,
        reports: Vec<(TaskId, TaskReport)>,
        now: Timestamp,
        after: &mut Afterwards,
    ) {
        let place = self.places.get(&agent).copied();
        // What an older session had to say, the newer one says again.
        if place.is_some_and(|place| self.epochs[place as usize] != Some(epoch)) {
            return;
        }
        for (task, report) in reports {
            // The one place where it is decided that an agent speaks of its own tasks alone.
            let verdict = match self.own(task, place) {
                Some(task) => self.job.apply(job::Input::Report { task, report }, now, &mut after.effects),
                None => Err(muster_core::task::Refused::Phase),
            };
            if let Err(refused) = verdict {
                warn!(%agent, %task, %refused, "report refused, session closed");
                self.stats.reports.add(refused.into());
                return self.sessions.close(agent, epoch);
            }
        }
    }

    /// The task, if it is one of the agent in this place, and was signed.
    fn own(&self, task: TaskId, place: Option<u32>) -> Option<TaskRef> {
        let spec = self.job.spec();
        let its_own = task.job == spec.job && Some(task.target) == place && spec.has(task.attempt);
        its_own.then_some(TaskRef { target: task.target, attempt: task.attempt })
    }

    /// The agent's place in the list, if this is the session the machine knows.
    fn place_in(&self, agent: AgentId, epoch: Epoch) -> Option<u32> {
        let place = *self.places.get(&agent)?;
        (self.epochs[place as usize] == Some(epoch)).then_some(place)
    }

    fn task(&self, task: TaskRef) -> TaskId {
        TaskId { job: self.job.spec().job, target: task.target, attempt: task.attempt }
    }

    async fn commit(&self, after: &mut Afterwards) -> Result<(), StoreError> {
        let job = self.job.spec().job;
        let at = clock::now();
        let late = after.effects.late.drain(..);
        let late: Vec<_> = late.map(|(task, text)| LateEvidence { task: self.task(task), text, at }).collect();
        let append = Append {
            job,
            events: std::mem::take(&mut after.effects.events),
            state: self.job.state(),
            counts: *self.job.counts(),
            done_at: self.job.done_at(),
            audit: std::mem::take(&mut after.audit),
            late,
        };
        commit(&self.store, &self.stats, append).await
    }

    /// What the machine sends is for the session that it knows now: the next fact may bring a newer one.
    fn address(&self, after: &mut Afterwards) {
        for send in after.effects.sends.drain(..) {
            let (target, outgoing) = self.outgoing(send);
            if let Some(epoch) = self.epochs[target as usize] {
                after.messages.push((self.targets[target as usize].agent, epoch, outgoing));
            }
        }
    }

    fn tell(&self, after: Afterwards) {
        for (answer, resumption) in after.hellos {
            let _ = answer.send(resumption);
        }
        for (answer, obeyed) in after.orders {
            let _ = answer.send(obeyed);
        }
        for answer in after.views {
            let _ = answer.send(self.job.hosts().iter().map(view_of).collect());
        }
        self.sessions.send(after.messages);
    }

    fn outgoing(&self, send: Send) -> (u32, Outgoing) {
        let message =
            |task: TaskRef, message: fn(TaskId) -> ToAgent| (task.target, Outgoing::Message(message(self.task(task))));
        match send {
            Send::Offer(task, ttl) => {
                let until = Instant::now() + ttl;
                (task.target, Outgoing::Offer { job: Arc::clone(&self.offered), task: self.task(task), until })
            }
            Send::Cancel(task) => message(task, ToAgent::Cancel),
            Send::Withdraw(task) => message(task, ToAgent::Withdraw),
            Send::Ack(task, next_frame) => {
                let message = ToAgent::Ack { task: self.task(task), next_frame };
                (task.target, Outgoing::Message(message))
            }
            Send::Committed(task) => message(task, ToAgent::Committed),
        }
    }
}

/// Who waits for an answer sees the queue go and asks elsewhere; what agents have said is kept.
fn leftover(mut inputs: mpsc::Receiver<Input>) -> Vec<Reports> {
    inputs.close();
    let mut reports = Vec::new();
    while let Ok(input) = inputs.try_recv() {
        if let Input::Reports(late) = input {
            reports.push(late);
        }
    }
    reports
}

#[cfg(test)]
mod tests;
