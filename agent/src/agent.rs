//! The agent: one task that owns all state, messages in, messages out.
//!
//! ```text
//! session ──Event──▶ Agent ──FromAgent──▶ session         work.rs     tasks on this host, from offer to commit
//!                    ▲   │                                standing.rs whether it is the one that is meant
//!                    │   │                                renew.rs    its certificate in time
//!                    │   │                                refuse.rs   what never starts
//!     doorbell ──────┘   └──▶ journal, spool,             bury.rs     what was lost
//!                             supervisors                 recover.rs  what an earlier start left
//!     probe threads ──▶ probe.rs                          ship.rs     one task's way to the controller
//!                                                         past.rs     what is known of a job already
//!                                                         blobs.rs    bytes that travel beside a job
//! ```
//!
//! Nothing here waits for the network: reports go into a bounded channel, and while that is full spools are not read.

mod blobs;
mod bury;
mod past;
mod probe;
mod recover;
mod refuse;
mod renew;
mod ship;
mod standing;
mod work;

use crate::admit::{Door, Users};
use crate::clock::{Clock, Offset, PULSE, Reading};
use crate::facts;
use crate::identity::{Identity, IdentityError, Next};
use crate::journal::{Journal, JournalError};
use crate::policy::{Policy, PolicyError};
use crate::process::{self, Containment};
use crate::session::Event;
use crate::settings::Settings;
use crate::spool::{Doorbell, Spool};
use blobs::Blobs;
use bury::Burials;
use muster_proto::id::{BootId, StartId, TaskId};
use muster_proto::limits;
use muster_proto::link::{FromAgent, Hello, Nonce, TaskReport, ToAgent, Unfinished, Welcome};
use muster_proto::seal::SealError;
use muster_proto::tls::TlsError;
use probe::Sweeps;
use renew::Renewal;
use rustix::fs::FlockOperation;
use ship::Shipment;
use standing::Standing;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};
use work::Task;

/// Stream messages that were read and not yet handled. When they are that many the controller has to wait.
const EVENTS: usize = 16;
/// Answers that wait for room in the channel to the session. When they are that many nothing more is read from the
/// controller; one message of it makes at most as many.
const OUTBOX_MAX: usize = 1024;

/// An agent with its identity, its memory and the tasks that an earlier start left.
pub struct Agent {
    settings: Settings,
    identity: Identity,
    renewal: Renewal,
    machine: String,
    door: Door,
    containment: Containment,
    boot: BootId,
    start: StartId,
    journal: Journal,
    spool: Spool,
    blobs: Blobs,
    doorbell: Doorbell,
    /// Every task whose end is not committed.
    tasks: BTreeMap<TaskId, Task>,
    /// Those of them that wait for their turn, in order.
    waiting: VecDeque<TaskId>,
    /// Those of them that may have something to report, in turn.
    ready: VecDeque<TaskId>,
    /// Those of them whose supervisor may be gone, and when to ask.
    doubtful: BTreeSet<TaskId>,
    second_look: Option<Instant>,
    /// Supervisors of this start, until they are reaped.
    children: Vec<(TaskId, Child)>,
    burials: Burials,
    /// Probes for the session's controller.
    sweeps: Sweeps,
    /// It was logged once that cancels go unanswered.
    warned_of_strangers: bool,
    clock: Clock,
    /// The clocks when they were last looked at.
    seen: Reading,
    /// The controller's clock, once it was told.
    offset: Option<Offset>,
    standing: Standing,
    /// The last that is on disk.
    nonce: Option<Nonce>,
    /// What the link tells.
    events: mpsc::Receiver<Event>,
    /// There is a session.
    link: Option<mpsc::Sender<FromAgent>>,
    /// Goes out before anything in `ready`.
    outbox: VecDeque<FromAgent>,
    /// Held for as long as the agent lives.
    _lock: File,
}

impl Agent {
    /// Takes the state directory and finds the tasks that are there: those whose supervisor lives go on, the others are
    /// lost and will be reported so.
    pub fn new(settings: Settings) -> Result<Self, AgentError> {
        let policy = Policy::load(settings.policy.as_deref())?;
        let load = || {
            Identity::load(&settings.state)?.ok_or_else(|| AgentError::NotEnrolled { state: settings.state.clone() })
        };
        let files = Next::of(&settings.state, load()?.controller_issuer()?);
        let lock = lock(&settings)?;
        files.settle()?;
        let identity = load()?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| AgentError::State { path, source }
        };
        let (spool_path, blobs_path) = (settings.state.join("spool"), settings.state.join("blobs"));
        let spool = Spool::open(&spool_path).map_err(failed(&spool_path))?;
        let blobs = Blobs::open(&blobs_path).map_err(failed(&blobs_path))?;
        let clock = settings.clock.clone();
        let journal = Journal::open(&settings.state.join("journal"), clock.now())?;
        if let Some(damage) = journal.damage() {
            error!(%damage, "new tasks are refused");
        }
        let containment = Containment::detect();
        let door = Door {
            operators: identity.operator_trust()?,
            agent: identity.agent,
            name: identity.name.clone(),
            born_at: journal.born_at(),
            users: process::own_user().map_or(Users::All, Users::Own),
        };
        let mut start = [0; 16];
        getrandom::fill(&mut start).map_err(|error| AgentError::Kernel(io::Error::other(error)))?;
        let mut agent = Self {
            renewal: Renewal::new(&identity, &facts::collect(&containment), files)?,
            machine: facts::machine_id(),
            seen: clock.read(),
            offset: None,
            standing: Standing::Unknown,
            nonce: Identity::load_nonce(&settings.state)?,
            // Until it runs.
            events: mpsc::channel(1).1,
            boot: process::boot_id().map_err(AgentError::Kernel)?,
            start: StartId::from_bytes(start),
            doorbell: Doorbell::new().map_err(AgentError::Kernel)?,
            tasks: BTreeMap::new(),
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            doubtful: BTreeSet::new(),
            second_look: None,
            children: Vec::new(),
            burials: Burials::new(),
            sweeps: Sweeps::new(policy.probe),
            warned_of_strangers: false,
            link: None,
            outbox: VecDeque::new(),
            _lock: lock,
            identity,
            door,
            clock,
            containment,
            journal,
            spool,
            blobs,
            settings,
        };
        agent.recover().map_err(failed(&spool_path))?;
        Ok(agent)
    }

    /// Is an agent until `shutdown`. Tasks that run then go on under their supervisors.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
        let bell = bell(&self.doorbell).map_err(AgentError::Kernel)?;
        let mut deaths = signal(SignalKind::child()).map_err(AgentError::Kernel)?;
        self.dial(Duration::ZERO);
        tokio::pin!(shutdown);
        info!(name = %self.identity.name, agent = %self.identity.agent, unfinished = self.tasks.len(), "agent started");
        loop {
            let now = self.watch_clock();
            self.retry_nonce();
            self.start_waiting(now);
            self.renew(now);
            let room = self.pump();
            let (expiry, renewal) = (self.next_expiry(now), self.next_renewal(now));
            let findings = self.sweeps.due().filter(|_| room.is_none());
            let pulse = Instant::now() + PULSE;
            let alarm =
                expiry.into_iter().chain(renewal).chain(self.next_nonce()).chain(findings).fold(pulse, Instant::min);
            let second_look = self.second_look;
            tokio::select! {
                () = &mut shutdown => break,
                event = self.events.recv(), if self.outbox.len() < OUTBOX_MAX && self.sweeps.has_room() => match event {
                    Some(event) => self.on_event(event),
                    None => return Err(AgentError::Link),
                },
                ready = bell.readable() => {
                    ready.map_err(AgentError::Kernel)?.clear_ready();
                    self.on_bell().map_err(AgentError::Kernel)?;
                }
                // The receiver closing is no error here: Down follows.
                _ = ship::reserve(room.as_ref()), if room.is_some() => {}
                _ = deaths.recv() => self.reap(),
                (id, result) = self.burials.next() => self.on_burial(id, result),
                () = self.sweeps.stirred() => self.sweeps.stir(Instant::now()),
                // Windows, renewal, nonce and findings are looked at above.
                () = sleep_until(alarm) => {}
                () = sleep_until(second_look.unwrap_or_else(Instant::now)), if second_look.is_some() => self.look_again(),
            }
        }
        info!("agent ends; its tasks go on");
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Dialed(answer) => self.on_dialed(answer),
            Event::Live(welcome, link) => self.on_live(&welcome, link),
            Event::Messages(messages) => self.on_messages(messages),
            Event::Down => self.on_down(),
        }
    }

    fn on_dialed(&self, answer: oneshot::Sender<Hello>) {
        let held = self.tasks.iter().filter(|(_, task)| task.is_reported());
        let unfinished = held.map(|(&id, task)| Unfinished {
            task: id,
            next_frame: task.produced(),
            started: task.may_have_started(),
        });
        // The session may be gone already; it asks again.
        let _ = answer.send(Hello {
            protocol: (*limits::PROTOCOL.start(), *limits::PROTOCOL.end()),
            boot: self.boot,
            start: self.start,
            facts_digest: Default::default(),
            clock: self.clock.now(),
            unfinished: unfinished.take(limits::UNFINISHED_MAX).collect(),
            nonce: self.nonce,
            machine: self.machine.clone(),
        });
    }

    fn on_live(&mut self, welcome: &Welcome, link: mpsc::Sender<FromAgent>) {
        self.on_down();
        self.blobs.clear();
        self.link = Some(link);
        self.welcomed(welcome);
        for &(id, next_frame) in &welcome.resume {
            self.resume(id, next_frame);
        }
        let mut unknown = Vec::new();
        for &id in &welcome.outstanding {
            if self.tasks.contains_key(&id) {
                self.resume(id, 0);
            } else if self.journal.get(id).is_some() {
                self.answer(id);
            } else {
                unknown.push(id);
            }
        }
        self.never(&unknown);
    }

    /// Goes on reporting a task to a controller that waits for it.
    fn resume(&mut self, id: TaskId, next_frame: u64) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.wanted(Shipment::resume(next_frame));
        self.say(id, TaskReport::Accepted);
        self.enqueue(id);
    }

    /// These never came, and no copy is under way: offers travel only in the session they were made for, and this one has
    /// just begun. So the controller may offer them again.
    fn never(&mut self, unknown: &[TaskId]) {
        if !unknown.is_empty()
            && let Some(damage) = self.journal.damage()
        {
            return error!(%damage, "cannot answer for tasks that are not remembered");
        }
        unknown.iter().for_each(|&id| self.say(id, TaskReport::Never));
    }

    /// Running tasks go on; waiting ones wait for a controller, too.
    fn on_down(&mut self) {
        self.link = None;
        self.distrust();
        self.renewal.down();
        self.outbox.clear();
        self.sweeps.clear();
        self.ready.clear();
        for task in self.tasks.values_mut() {
            task.unwanted();
        }
    }

    /// In order, with one sync for offers or cancels that stand together, and one for all commits.
    fn on_messages(&mut self, messages: Vec<ToAgent>) {
        let session = self.link.is_some();
        let now = self.watch_clock();
        if session && self.link.is_none() {
            // They belong to the session that was given up just now.
            return;
        }
        let (mut offers, mut cancels, mut committed) = (Vec::new(), Vec::new(), Vec::new());
        for message in messages {
            if !matches!(message, ToAgent::Offer(_)) {
                self.take_offers(std::mem::take(&mut offers), now);
            }
            if !matches!(message, ToAgent::Cancel(_) | ToAgent::Withdraw(_)) {
                self.cancel(&std::mem::take(&mut cancels));
            }
            match message {
                ToAgent::Offer(offer) => offers.push(offer),
                ToAgent::Committed(task) => committed.push(task),
                ToAgent::Blob(chunk) => self.blobs.add(&chunk),
                ToAgent::Cancel(task) => cancels.push(task),
                // What works goes on.
                ToAgent::Withdraw(task) if self.is_working(task) => {}
                ToAgent::Withdraw(task) => cancels.push(task),
                ToAgent::Ack { task, next_frame } => self.on_ack(task, next_frame),
                ToAgent::Renewed(certificate) => self.on_renewed(&certificate, now),
                ToAgent::Refused { retry_after, .. } => self.on_refused(retry_after),
                ToAgent::Probe(order) => self.sweeps.order(&order, Instant::now()),
                ToAgent::ProbeStop(sweep) => self.sweeps.stop(sweep, Instant::now()),
                // A second welcome means nothing; the session comes back by itself, and answers echoes.
                ToAgent::Welcome(_) | ToAgent::Drain(_) | ToAgent::Echo(_) => {}
            }
        }
        self.take_offers(offers, now);
        self.cancel(&cancels);
        self.commit(&committed);
    }
}

/// The doorbell's descriptor, for the runtime to wait on.
#[expect(unsafe_code, reason = "the runtime takes descriptors of others in no other way")]
fn bell(doorbell: &Doorbell) -> io::Result<AsyncFd<OwnedFd>> {
    let bell = doorbell.as_fd().try_clone_to_owned()?;
    // SAFETY: the descriptor is a duplicate of ours; the AsyncFd owns it and alone closes it.
    Ok(unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) }?)
}

/// One agent a state directory: two would both believe to be the one that remembers.
fn lock(settings: &Settings) -> Result<File, AgentError> {
    let path = settings.state.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|source| AgentError::State { path, source })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(AgentError::Running { state: settings.state.clone() }),
    }
}

/// Why an agent cannot be.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No identity.
    #[error("{} is not enrolled: run `muster-agent enroll` first, or give another --state", state.display())]
    NotEnrolled {
        /// Where.
        state: PathBuf,
    },
    /// Another process.
    #[error("another muster-agent runs with {}: end it first, or give another --state", state.display())]
    Running {
        /// Where.
        state: PathBuf,
    },
    /// The identity's files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What the identity's files hold.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What the operator CA's file holds.
    #[error(transparent)]
    Operators(#[from] SealError),
    /// What the host's owner wrote.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file or directory of the agent's own.
    #[error("cannot use {}: check its owner, its permissions and the disk", path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not give what every Linux has.
    #[error("the kernel refused what the agent needs")]
    Kernel(#[source] io::Error),
    /// The session's task is gone.
    #[error("the link's task ended unexpectedly: report this")]
    Link,
}
