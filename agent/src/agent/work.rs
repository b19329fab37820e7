//! Tasks on this host: from the offer, through the journal, to a supervisor, to the controller's word that their end is
//! safe.
//!
//! ```text
//!              ┌────────── refused, expired, cancelled: remembered, forgotten
//! offer ──▶ Waiting ──▶ Working ──▶ Over ──committed──▶ remembered, forgotten
//!         received    intent      exit
//! ```
//!
//! The words below the arrows are on disk before the step is taken.

use super::Agent;
use super::refuse::refusal;
use super::ship::Shipment;
use super::standing::Standing;
use crate::admit::{Admission, Past, Refusal};
use crate::clock::{Reading, Window};
use crate::journal::{Record, State};
use crate::spool::{Exit, News, TaskDir, TaskSpec};
use crate::supervisor;
use muster_proto::command::Command;
use muster_proto::id::TaskId;
use muster_proto::limits;
use muster_proto::link::{Offer, RejectKind, TaskReport};
use muster_proto::outcome::{End, EndKind, Outcome};
use std::io;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, error, warn};

/// Between a close and the end of its lock lie microseconds; on a host that is starved of CPU, more.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// A task whose end is not committed.
pub(super) struct Task {
    pub(super) dir: TaskDir,
    pub(super) stage: Stage,
    /// The session's controller waits for it.
    pub(super) shipment: Option<Shipment>,
    /// It stands in the queue of those that may have something to report.
    queued: bool,
}

pub(super) enum Stage {
    /// Accepted, not started.
    Waiting(Window, Leave),
    /// It has a supervisor, or its burial is under way.
    Working { started: bool, produced: u64, fate: Fate, burial: bool },
    /// It has an end.
    Over { started: bool, exit: Exit },
}

/// Whether a waiting task may start when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    Given,
    /// It comes from an earlier session: the controller may have given it up meanwhile, and this agent may be a copy.
    AfterWelcome,
}

/// What becomes of a working task's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Reported,
    /// The controller has ended the task already.
    Forgotten,
}

/// A task that passed the door and is not in the journal yet.
pub(super) struct Fresh {
    pub(super) id: TaskId,
    /// SHA-256 of what was signed.
    pub(super) payload: [u8; 32],
    dir: TaskDir,
    window: Window,
}

impl Task {
    pub(super) fn new(dir: TaskDir, stage: Stage) -> Self {
        Self { dir, stage, shipment: None, queued: false }
    }

    /// A controller may still wait for it.
    pub(super) const fn is_reported(&self) -> bool {
        !matches!(self.stage, Stage::Working { fate: Fate::Forgotten, .. })
    }

    pub(super) const fn may_have_started(&self) -> bool {
        !matches!(self.stage, Stage::Waiting(..))
    }

    const fn is_working(&self) -> bool {
        matches!(self.stage, Stage::Working { .. })
    }

    /// Frames known to exist.
    pub(super) fn produced(&self) -> u64 {
        match &self.stage {
            Stage::Waiting(..) => 0,
            Stage::Working { produced, .. } => *produced,
            Stage::Over { exit, .. } => exit.frames,
        }
    }

    /// The controller waits for it, from there on.
    pub(super) fn wanted(&mut self, shipment: Shipment) {
        if let Stage::Waiting(_, leave) = &mut self.stage {
            *leave = Leave::Given;
        }
        self.shipment = Some(shipment);
    }

    /// The session is over.
    pub(super) fn unwanted(&mut self) {
        (self.shipment, self.queued) = (None, false);
    }

    /// False if it stands in the queue already, or nobody waits for it.
    pub(super) const fn queue(&mut self) -> bool {
        let new = !self.queued && self.shipment.is_some();
        self.queued |= new;
        new
    }

    /// Takes it out of the queue with what it has to report.
    pub(super) fn report(&mut self) -> Option<TaskReport> {
        self.queued = false;
        let shipment = self.shipment.as_mut()?;
        match &mut self.stage {
            Stage::Waiting(..) => None,
            Stage::Over { started, exit } => shipment.next(&self.dir, *started, Some(exit)),
            Stage::Working { started, produced, .. } => {
                let report = shipment.next(&self.dir, *started, None);
                *produced = (*produced).max(shipment.next_frame());
                report
            }
        }
    }

    /// Looks at what its supervisor wrote.
    pub(super) fn look(&mut self) -> io::Result<()> {
        let Stage::Working { started, .. } = &mut self.stage else { return Ok(()) };
        // In this order: a task that has an end has everything else.
        let exit = self.dir.exit()?;
        *started |= self.dir.started()?;
        if let Some(exit) = exit {
            self.stage = Stage::Over { started: *started, exit };
        }
        Ok(())
    }
}

impl Agent {
    /// Offers that came together: what passes the door, and what is refused for good, is on disk with one sync of the
    /// journal for all before it is answered.
    pub(super) fn take_offers(&mut self, offers: Vec<Offer>, now: Reading) {
        if offers.is_empty() {
            return;
        }
        let host = self.check_host();
        let mut records = Vec::new();
        let mut fresh: Vec<Fresh> = Vec::new();
        let mut refused = Vec::new();
        for offer in offers {
            if fresh.iter().any(|fresh| fresh.id == offer.task) {
                continue;
            }
            match self.admit(&offer, &self.past(offer.task, &fresh), &host, now) {
                Ok(Some((record, admitted))) => {
                    records.push(record);
                    fresh.push(admitted);
                }
                Ok(None) => self.answer(offer.task),
                Err(refusal) => refused.push((offer.task, refusal)),
            }
        }
        for (task, Refusal { kind, reason, start_before }) in &refused {
            warn!(%task, %reason, "offer refused");
            let start_before = start_before.map(|start_before| (*task, start_before));
            records.extend(start_before.map(|of| refusal(of, *kind, reason)));
        }
        let free = if self.waiting.is_empty() { self.free_slots() } else { 0 };
        records.extend(fresh.iter().take(free).map(|fresh| Record::Intent(fresh.id)));
        let remembered = self.journal.append(&records, now.wall).map_err(|error| error.to_string());
        for (task, Refusal { kind, reason, start_before }) in refused {
            let report = match (&remembered, start_before) {
                (Err(error), Some(_)) => TaskReport::Rejected { kind: RejectKind::Refused, reason: error.clone() },
                (Ok(()), _) | (_, None) => TaskReport::Rejected { kind, reason },
            };
            self.say(task, report);
        }
        for (place, fresh) in fresh.into_iter().enumerate() {
            match &remembered {
                Ok(()) => self.take(fresh, place < free),
                Err(error) => {
                    remove(&fresh.dir);
                    let (kind, reason) = (RejectKind::Refused, error.clone());
                    self.say(fresh.id, TaskReport::Rejected { kind, reason });
                }
            }
        }
    }

    /// The task is in the journal; with its intent, if its turn is now.
    fn take(&mut self, Fresh { id, dir, window, .. }: Fresh, now: bool) {
        self.say(id, TaskReport::Accepted);
        let mut task = Task::new(dir, Stage::Waiting(window, Leave::Given));
        task.shipment = self.link.is_some().then(|| Shipment::resume(0));
        self.tasks.insert(id, task);
        if now {
            self.start(id);
        } else {
            self.waiting.push_back(id);
        }
    }

    /// Whether this host may start anything new.
    fn check_host(&mut self) -> Result<(), String> {
        self.secure()?;
        self.spool.check_room().map_err(|error| error.to_string())
    }

    /// `None` for a task that is known. The task's directory is made here: what cannot be kept is not accepted.
    fn admit(
        &mut self,
        offer: &Offer,
        past: &Past,
        host: &Result<(), String>,
        now: Reading,
    ) -> Result<Option<(Record, Fresh)>, Refusal> {
        let task = offer.task;
        let refused = |reason: String| Refusal { kind: RejectKind::Refused, reason, start_before: None };
        if !past.tasks.contains_key(&task.attempt)
            && let Some(skew) = self.skew(now)
        {
            // First of all: what else is wrong with the offer's times follows from it.
            return Err(refused(skew));
        }
        let Admission::Run { spec, payload } = self.door.admit(offer, past, now.wall)? else { return Ok(None) };
        if let Some(damage) = self.journal.damage() {
            return Err(refused(damage.to_owned()));
        }
        if self.waiting.len() >= limits::WAITING_TASKS_MAX {
            let waiting = self.waiting.len();
            return Err(refused(format!(
                "{waiting} tasks wait on this host already: run it again once they are fewer"
            )));
        }
        host.clone().map_err(refused)?;
        for blob in spec.command_of(task.attempt).into_iter().flat_map(Command::blobs) {
            self.blobs.check(&blob).map_err(refused)?;
        }
        let order = TaskSpec {
            task,
            host: self.identity.name.clone(),
            payload: offer.job.payload.clone(),
            containment: self.containment.clone(),
        };
        let dir = self.spool.create(&order, self.blobs.directory()).map_err(|error| refused(error.to_string()))?;
        let start_before = spec.start_before;
        let fresh = Fresh { id: task, payload, dir, window: Window::open(offer.ttl, start_before, now) };
        Ok(Some((Record::Received { task, payload, start_before }, fresh)))
    }

    /// Tells what is known of a task, and does nothing else.
    pub(super) fn answer(&mut self, id: TaskId) {
        if self.tasks.contains_key(&id) {
            return self.say(id, TaskReport::Accepted);
        }
        let report = match self.journal.get(id).map(|known| &known.state) {
            Some(State::Refused { kind, reason }) => TaskReport::Rejected { kind: *kind, reason: reason.clone() },
            Some(State::Received) => {
                TaskReport::Rejected { kind: RejectKind::Expired, reason: "the controller gave it up".to_owned() }
            }
            Some(State::Intent) => {
                let reason = "it ran here, and its result was handed over before".to_owned();
                let end = End { kind: EndKind::Lost(reason), duration: Duration::ZERO };
                TaskReport::Exited { frames: 0, end }
            }
            None => return,
        };
        self.say(id, report);
    }

    /// Starts waiting tasks whose turn has come. Their intent is on disk first.
    pub(super) fn start_waiting(&mut self, now: Reading) {
        if self.waiting.is_empty() {
            return;
        }
        self.expire(now);
        if self.standing != Standing::Sure {
            return;
        }
        let may =
            |id: &TaskId| self.tasks.get(id).is_some_and(|task| matches!(task.stage, Stage::Waiting(_, Leave::Given)));
        let turn: Vec<TaskId> = self.waiting.iter().filter(|id| may(id)).take(self.free_slots()).copied().collect();
        if turn.is_empty() {
            return;
        }
        self.waiting.retain(|id| !turn.contains(id));
        let records: Vec<_> = turn.iter().map(|id| Record::Intent(*id)).collect();
        match self.journal.append(&records, now.wall) {
            Ok(()) => turn.into_iter().for_each(|id| self.start(id)),
            Err(error) => {
                error!(%error, "waiting tasks cannot start");
                for id in turn {
                    self.forget(id);
                    self.say(id, TaskReport::Rejected { kind: RejectKind::Refused, reason: error.to_string() });
                }
            }
        }
    }

    fn free_slots(&self) -> usize {
        let working = self.tasks.values().filter(|task| task.is_working()).count();
        limits::RUNNING_TASKS_MAX.saturating_sub(working)
    }

    /// Gives the task a supervisor. The intent is on disk.
    fn start(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        debug!(task = %id, "task starts");
        task.stage = Stage::Working { started: false, produced: 0, fate: Fate::Reported, burial: false };
        let spawned = self
            .doorbell
            .watch(id, &task.dir)
            .and_then(|()| supervisor::spawn(&task.dir, &self.settings.supervisor_exe));
        match spawned {
            Ok(child) => self.children.push((id, child)),
            // It has or had a supervisor, whatever the journal says: that one's word counts.
            Err(error) if matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::AlreadyExists) => {
                error!(task = %id, %error, "the task has a supervisor already");
                self.look(id);
            }
            Err(error) => {
                error!(task = %id, %error, "cannot start a supervisor");
                let kind = EndKind::StartFailed(format!("cannot start the task's supervisor: {error}"));
                let exit = Exit { frames: 0, end: End { kind, duration: Duration::ZERO }, left_behind: false };
                if let Err(error) = task.dir.write_exit(&exit) {
                    error!(task = %id, %error, "cannot write the task's end");
                }
                task.stage = Stage::Over { started: false, exit };
                self.enqueue(id);
            }
        }
    }

    /// Whether the task's supervisor lives is asked once more, a little later.
    pub(super) fn doubt(&mut self, id: TaskId) {
        self.doubtful.insert(id);
        self.second_look.get_or_insert_with(|| Instant::now() + SECOND_LOOK);
    }

    /// Looks again where there was doubt. A supervisor that lives will ring when it ends.
    pub(super) fn look_again(&mut self) {
        self.second_look = None;
        for id in std::mem::take(&mut self.doubtful) {
            let alive = self.tasks.get(&id).map(|task| task.dir.supervisor_alive());
            if matches!(alive, Some(Ok(false))) {
                self.look(id);
                self.bury(id);
            }
        }
    }

    /// Looks at the tasks whose supervisors rang.
    pub(super) fn on_bell(&mut self) -> io::Result<()> {
        for (id, news) in self.doorbell.drain()? {
            self.look(id);
            match news {
                News::Changed => {}
                News::Doubtful => self.doubt(id),
                News::Ended => self.bury(id),
            }
        }
        Ok(())
    }

    /// A child ended: which, the signal does not say.
    pub(super) fn reap(&mut self) {
        let mut dead = Vec::new();
        self.children.retain_mut(|(id, child)| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(_)) | Err(_) => {
                dead.push(*id);
                false
            }
        });
        for id in dead {
            self.look(id);
            self.bury(id);
        }
    }

    pub(super) fn look(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let forgotten = !task.is_reported();
        if let Err(error) = task.look() {
            error!(task = %id, %error, "cannot read the task's directory");
        }
        if let Stage::Over { exit, .. } = &task.stage {
            debug!(task = %id, end = ?exit.end.kind, "task ended");
            if forgotten {
                self.forget(id);
                return;
            }
        }
        self.enqueue(id);
    }

    /// The ends of these are durable at the controller. A task that still works goes on, and its end is told to nobody.
    pub(super) fn commit(&mut self, tasks: &[TaskId]) {
        let known: Vec<_> = tasks.iter().copied().filter(|id| self.tasks.contains_key(id)).collect();
        let end = |id| match &self.tasks.get(id)?.stage {
            Stage::Over { exit, .. } => Some(Outcome::from(exit.end.clone()).state),
            Stage::Waiting(..) | Stage::Working { .. } => None,
        };
        let records: Vec<_> = known.iter().map(|id| Record::Committed { task: *id, end: end(id) }).collect();
        if records.is_empty() {
            return;
        }
        if let Err(error) = self.journal.append(&records, self.clock.now()) {
            return error!(%error, "ends that are committed cannot be forgotten");
        }
        for id in known {
            match self.tasks.get_mut(&id) {
                Some(Task { stage: Stage::Working { fate, .. }, shipment, .. }) => {
                    (*fate, *shipment) = (Fate::Forgotten, None);
                    abandon_output(&self.tasks[&id].dir);
                }
                _ => _ = self.forget(id),
            }
        }
    }

    /// Frees all but the journal's memory. False if nothing was held.
    pub(super) fn forget(&mut self, id: TaskId) -> bool {
        self.waiting.retain(|waiting| *waiting != id);
        let Some(task) = self.tasks.remove(&id) else { return false };
        self.doorbell.unwatch(id);
        remove(&task.dir);
        true
    }
}

/// Nobody waits for the task's output any more, and so the program need not either.
pub(super) fn abandon_output(dir: &TaskDir) {
    if let Err(error) = dir.abandon_output() {
        error!(%error, dir = %dir.path().display(), "cannot tell a supervisor to go on");
    }
}

fn remove(dir: &TaskDir) {
    if let Err(error) = dir.remove() {
        error!(%error, dir = %dir.path().display(), "cannot remove a task's directory: remove it by hand");
    }
}
