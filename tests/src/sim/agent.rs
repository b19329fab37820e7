//! A simulated agent: a real one's link, enrolment and door, its manners after a reconnect, and no host below it. What a
//! real agent keeps on disk this one keeps in memory for as long as the process lives.
//!
//! A host works on so many tasks at a time; here all that are offered start at once. Bytes that travel beside a job are
//! not looked at.

use super::Shared;
use super::probe::Sweeps;
use super::random::Random;
use super::task::{Task, spread};
use muster_agent::admit::{Door, Past, Refusal, Stand};
use muster_agent::session::{Event, Link};
use muster_proto::id::{StartId, TaskId};
use muster_proto::limits;
use muster_proto::link::{FromAgent, Hello, Nonce, Offer, RejectKind, TaskReport, ToAgent, Welcome};
use muster_proto::outcome::{End, EndKind};
use sha2::{Digest as _, Sha256};
use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

/// Stream messages that were read and not yet handled. When they are that many the controller has to wait.
const EVENTS: usize = 16;
/// Answers that wait for room in the channel to the session. When they are that many nothing more is read from the
/// controller.
const OUTBOX_MAX: usize = 1024;
/// After its link was cut an agent comes back within this time.
const FLAP_PAUSE: Duration = Duration::from_millis(500);

/// An agent with all that it remembers.
pub(super) struct Agent {
    pub(super) shared: Arc<Shared>,
    pub(super) link: Link,
    pub(super) door: Door,
    pub(super) start: StartId,
    pub(super) random: Random,
    pub(super) nonce: Option<Nonce>,
    pub(super) memory: Memory,
    pub(super) session: Session,
}

/// The tasks of an agent.
#[derive(Default)]
pub(super) struct Memory {
    /// Those whose end is not committed.
    tasks: BTreeMap<TaskId, Task>,
    /// Those that ever came, and those that were cancelled before.
    known: BTreeMap<TaskId, Known>,
    /// When those that run end; those that were cancelled stand here, too.
    ends: BinaryHeap<Reverse<(Instant, TaskId)>>,
}

enum Known {
    /// It started here, with this payload (SHA-256). If it is not held any more it stands so.
    Ran([u8; 32], Stand),
    /// It never starts.
    Refused(RejectKind, String),
}

/// What lasts as long as a session.
#[derive(Default)]
pub(super) struct Session {
    out: Option<mpsc::Sender<FromAgent>>,
    /// Goes out before anything in `ready`.
    outbox: VecDeque<FromAgent>,
    /// Tasks that may have something to report, in turn.
    ready: VecDeque<TaskId>,
    sweeps: Sweeps,
    /// When it says that it still probes.
    probing: Option<Instant>,
    /// When it is cut.
    cut: Option<Instant>,
    came_before: bool,
}

impl Memory {
    /// What is known of a task's job.
    fn past(&self, id: TaskId) -> Past {
        let mut past = Past::default();
        for (task, known) in self.known.range(TaskId::all_of(id.job)) {
            let stand = match known {
                Known::Ran(payload, stand) => {
                    past.payload = Some(*payload);
                    self.tasks.get(task).map_or(*stand, Task::stand)
                }
                Known::Refused(kind, _) => Stand::refused(*kind),
            };
            if task.target == id.target {
                past.tasks.insert(task.attempt, stand);
            }
        }
        past
    }
}

impl Agent {
    /// Is an agent for ever. The permit is given back with the first session.
    pub(super) async fn live(mut self, permit: OwnedSemaphorePermit) {
        let mut permit = Some(permit);
        loop {
            let (sender, mut events) = mpsc::channel(EVENTS);
            let link = self.link.clone().keep(sender);
            tokio::select! {
                () = link => {}
                () = self.serve(&mut events, &mut permit) => {}
            }
            self.on_down();
            sleep(spread(FLAP_PAUSE, &mut self.random)).await;
        }
    }

    /// Returns when the link is to be cut.
    async fn serve(&mut self, events: &mut mpsc::Receiver<Event>, permit: &mut Option<OwnedSemaphorePermit>) {
        loop {
            let full = self.pump();
            let due = self.memory.ends.peek().map(|Reverse((ends, _))| *ends);
            let probing = self.session.probing.filter(|_| full.is_none());
            tokio::select! {
                biased;
                event = events.recv(), if self.session.outbox.len() < OUTBOX_MAX => match event {
                    Some(Event::Dialed(answer)) => self.on_dialed(answer),
                    Some(Event::Live(welcome, out)) => {
                        drop(permit.take());
                        self.on_live(&welcome, out);
                    }
                    Some(Event::Messages(messages)) => messages.into_iter().for_each(|message| self.on_message(message)),
                    Some(Event::Down) => self.on_down(),
                    None => return,
                },
                () = room(full.as_ref()), if full.is_some() => {}
                () = at(due), if due.is_some() => self.on_time(),
                () = at(probing), if probing.is_some() => self.on_probing(),
                () = at(self.session.cut), if self.session.cut.is_some() => return,
            }
        }
    }

    fn on_dialed(&self, answer: oneshot::Sender<Hello>) {
        let unfinished = self.memory.tasks.iter().map(|(&id, task)| task.unfinished(id));
        // The session may be gone already; it asks again.
        let _ = answer.send(Hello {
            protocol: (*limits::PROTOCOL.start(), *limits::PROTOCOL.end()),
            boot: self.shared.boot,
            start: self.start,
            facts_digest: Default::default(),
            clock: SystemTime::now().into(),
            unfinished: unfinished.take(limits::UNFINISHED_MAX).collect(),
            nonce: self.nonce,
            machine: String::new(),
        });
    }

    fn on_live(&mut self, welcome: &Welcome, out: mpsc::Sender<FromAgent>) {
        self.on_down();
        self.session.out = Some(out);
        self.session.cut = self.shared.settings.flap.map(|mean| Instant::now() + self.random.around(mean));
        if std::mem::replace(&mut self.session.came_before, true) {
            self.shared.tally.reconnects.add();
        } else {
            self.shared.tally.arrived.send_modify(|arrived| *arrived += 1);
        }
        self.shared.tally.connected.send_modify(|connected| *connected += 1);
        self.nonce = Some(welcome.nonce);
        if self.shared.roll.keep_nonce(&self.door.name, welcome.nonce) {
            self.session.outbox.push_back(FromAgent::NonceStored(welcome.nonce.epoch));
        }
        for &(id, next_frame) in &welcome.resume {
            self.resume(id, next_frame);
        }
        for &id in &welcome.outstanding {
            if self.memory.tasks.contains_key(&id) {
                self.resume(id, 0);
            } else if self.memory.known.contains_key(&id) {
                self.answer(id);
            } else {
                self.say(id, TaskReport::Never);
            }
        }
    }

    /// Goes on reporting a task to a controller that waits for it.
    fn resume(&mut self, id: TaskId, next_frame: u64) {
        let Some(task) = self.memory.tasks.get_mut(&id) else { return };
        task.wanted(next_frame);
        self.say(id, TaskReport::Accepted);
        self.enqueue(id);
    }

    fn on_down(&mut self) {
        if self.session.out.take().is_some() {
            self.shared.tally.connected.send_modify(|connected| *connected -= 1);
        }
        self.session.cut = None;
        self.session.outbox.clear();
        self.session.ready.clear();
        self.session.sweeps = Sweeps::default();
        self.session.probing = None;
        self.memory.tasks.values_mut().for_each(Task::unwanted);
    }

    fn on_message(&mut self, message: ToAgent) {
        match message {
            ToAgent::Offer(offer) => self.on_offer(&offer),
            ToAgent::Cancel(id) => self.on_cancel(id),
            ToAgent::Ack { task: id, next_frame } => {
                if let Some(task) = self.memory.tasks.get_mut(&id) {
                    task.ack(next_frame);
                    self.enqueue(id);
                }
            }
            ToAgent::Committed(id) => {
                if let Some(task) = self.memory.tasks.remove(&id) {
                    self.shared.tally.committed.add();
                    if let Some(Known::Ran(_, stand)) = self.memory.known.get_mut(&id) {
                        *stand = task.stand();
                    }
                }
            }
            // What works goes on.
            ToAgent::Withdraw(id) if self.memory.tasks.contains_key(&id) => {}
            ToAgent::Withdraw(id) => self.on_cancel(id),
            ToAgent::Refused { .. } => self.shared.tally.refused.add(),
            ToAgent::Probe(order) => {
                let answers = &self.shared.settings.answers;
                self.session.outbox.extend(self.session.sweeps.order(answers, &order, &mut self.random));
                self.session.probing.get_or_insert_with(|| Instant::now() + limits::PROBING_INTERVAL);
            }
            ToAgent::ProbeStop(sweep) => self.session.outbox.extend(self.session.sweeps.stop(sweep)),
            // The link comes back and answers echoes by itself; a second welcome means nothing; nobody asked for the last.
            ToAgent::Blob(_) | ToAgent::Drain(_) | ToAgent::Echo(_) | ToAgent::Welcome(_) | ToAgent::Renewed(_) => {}
        }
    }

    fn on_offer(&mut self, offer: &Offer) {
        let id = offer.task;
        let payload: [u8; 32] = Sha256::digest(&offer.job.payload).into();
        let past = self.memory.past(id);
        if past.payload.is_some_and(|known| known != payload) {
            let reason = "conflict: this job is known with another payload".to_owned();
            return self.reject(id, RejectKind::Refused, reason);
        }
        if past.tasks.contains_key(&id.attempt) {
            self.shared.tally.again.add();
            return self.answer(id);
        }
        let answers = &self.shared.settings.answers;
        let start = |command: &_| Task::start(answers, id.attempt, command, &mut self.random, Instant::now());
        match self.shared.verified.admit(&self.door, offer, payload, &past, SystemTime::now().into(), start) {
            Ok(task) => {
                self.shared.tally.start(id);
                self.memory.known.insert(id, Known::Ran(payload, Stand::Open));
                match task.ends() {
                    Some(ends) => self.memory.ends.push(Reverse((ends, id))),
                    None => self.shared.tally.ended.add(),
                }
                self.memory.tasks.insert(id, task);
                self.say(id, TaskReport::Accepted);
                self.enqueue(id);
            }
            Err(Refusal { kind, reason, start_before }) => {
                if start_before.is_some() {
                    self.memory.known.insert(id, Known::Refused(kind, reason.clone()));
                }
                self.reject(id, kind, reason);
            }
        }
    }

    fn on_cancel(&mut self, id: TaskId) {
        if let Some(task) = self.memory.tasks.get_mut(&id) {
            if task.cancel(Instant::now()) {
                self.shared.tally.ended.add();
                self.enqueue(id);
            }
        } else if let Entry::Vacant(unknown) = self.memory.known.entry(id) {
            let reason = "cancelled before it started".to_owned();
            unknown.insert(Known::Refused(RejectKind::Cancelled, reason.clone()));
            self.reject(id, RejectKind::Cancelled, reason);
        } else {
            self.answer(id);
        }
    }

    /// Ends the tasks whose time has come.
    fn on_time(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((_, id))) = self.memory.ends.peek().filter(|Reverse((ends, _))| *ends <= now) {
            self.memory.ends.pop();
            if let Some(task) = self.memory.tasks.get_mut(&id)
                && task.ends().is_some()
            {
                task.look(now);
                self.shared.tally.ended.add();
                self.enqueue(id);
            }
        }
    }

    /// Says which sweeps go on.
    fn on_probing(&mut self) {
        let at_work = self.session.sweeps.at_work();
        self.session.probing = (!at_work.is_empty()).then(|| Instant::now() + limits::PROBING_INTERVAL);
        self.session.outbox.extend(at_work);
    }

    /// Tells what is known of a task, and does nothing else.
    fn answer(&mut self, id: TaskId) {
        if self.memory.tasks.contains_key(&id) {
            return self.say(id, TaskReport::Accepted);
        }
        let report = match self.memory.known.get(&id) {
            Some(Known::Refused(kind, reason)) => TaskReport::Rejected { kind: *kind, reason: reason.clone() },
            Some(Known::Ran(..)) => {
                let reason = "it ran here, and its result was handed over before".to_owned();
                TaskReport::Exited { frames: 0, end: End { kind: EndKind::Lost(reason), duration: Duration::ZERO } }
            }
            None => return,
        };
        self.say(id, report);
    }

    fn reject(&mut self, id: TaskId, kind: RejectKind, reason: String) {
        self.shared.tally.rejected.add();
        self.say(id, TaskReport::Rejected { kind, reason });
    }

    /// Queues an answer, if anybody is there to hear it: who comes later asks.
    fn say(&mut self, task: TaskId, report: TaskReport) {
        if self.session.out.is_some() {
            self.session.outbox.push_back(FromAgent::Task(task, report));
        }
    }

    /// The task may have something to report.
    fn enqueue(&mut self, id: TaskId) {
        if self.session.out.is_some()
            && let Some(task) = self.memory.tasks.get_mut(&id)
            && task.queue()
        {
            self.session.ready.push_back(id);
        }
    }

    /// Hands the session as much as it takes: answers first, then one report a task in turn. Returns the channel to
    /// wait for if there is more than it took.
    fn pump(&mut self) -> Option<mpsc::Sender<FromAgent>> {
        let out = self.session.out.clone()?;
        while !(self.session.outbox.is_empty() && self.session.ready.is_empty()) {
            let permit = match out.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => return self.session.out.clone(),
                // The session is over and about to say so.
                Err(mpsc::error::TrySendError::Closed(())) => {
                    self.on_down();
                    return None;
                }
            };
            if let Some(message) = self.session.outbox.pop_front() {
                permit.send(message);
            } else if let Some(id) = self.session.ready.pop_front()
                && let Some(report) = self.memory.tasks.get_mut(&id).and_then(Task::report)
            {
                if matches!(report, TaskReport::Frame(_)) {
                    self.shared.tally.frames.add();
                }
                permit.send(FromAgent::Task(id, report));
                self.enqueue(id);
            }
        }
        None
    }
}

/// At this moment, or never.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Waits until the session takes something again, or is over.
async fn room(out: Option<&mpsc::Sender<FromAgent>>) {
    if let Some(out) = out {
        // Both ways there is something to look at.
        let _ = out.reserve().await;
    }
}
