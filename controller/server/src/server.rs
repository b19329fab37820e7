//! The process put together: state, store, issuers, three gates, and what is behind each.

use crate::agents::AgentDoor;
use crate::clock;
use crate::danger::{self, Danger, DangerError};
use crate::engine::Engine;
use crate::enrol::{Enrolment, OnEnrolled, Terms};
use crate::files::Staged;
use crate::groups::{Resolver, SourceError, Sources};
use crate::issuers::{IssueError, Issuers, IssuersError, Validity};
use crate::listen::{Gate, Listener, Role};
use crate::operators::{Behind, OperatorDoor};
use crate::ping::Prober;
use crate::retention;
use crate::roster::Roster;
use crate::schedules::Schedules;
use crate::sessions::Sessions;
use crate::settings::{Settings, StateDir};
use crate::stats::Stats;
use muster_proto::context::Addresses;
use muster_proto::id::ClusterId;
use muster_proto::limits;
use muster_proto::seal::SealError;
use muster_proto::tls::TlsError;
use muster_store::{OpenError, Store, StoreError};
use rustix::process::{Resource, getrlimit};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// Headers of ours are a few hundred bytes.
const HEADER_LIST_BYTES: u32 = 8 << 10;
/// A peer has one stream for its session and a few calls beside it.
const STREAMS_MAX: u32 = 8;
/// Streams that a peer opens and resets before we have looked at them; then its connection ends.
const PENDING_RESETS_MAX: usize = 20;
/// Streams that we had to reset for a peer's errors; then its connection ends.
const ERROR_RESETS_MAX: usize = 64;
/// With this window an agent's output is limited by the network, not by round trips.
const WINDOW_BYTES: u32 = 1 << 20;
/// So many agents a second come back after a stop: a handshake costs a few milliseconds of CPU on both sides.
const RETURNS_PER_SECOND: u32 = 200;
/// Agents come back over at least and at most this long.
const DRAIN_SPREAD: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// How often our certificates are looked at, and what was turned away is logged.
const UPKEEP: Duration = Duration::from_mins(1);

/// A stranger who is served may stay this long.
const ENROLMENT_AGE_MAX: Duration = Duration::from_mins(1);

/// A controller that is bound and does not serve yet.
pub struct Server {
    settings: Settings,
    store: Store,
    issuers: Arc<Issuers>,
    sessions: Sessions,
    roster: Roster,
    resolver: Resolver,
    danger: Danger,
    prober: Prober,
    engine: Engine,
    schedules: Schedules,
    stats: Arc<Stats>,
    doors: Vec<Door>,
    addresses: Addresses,
    /// Held as long as the state directory is ours.
    lock: File,
}

struct Door {
    name: &'static str,
    gate: Arc<Gate>,
    listener: Listener,
}

impl Server {
    /// Opens the state, takes it for this process, and binds all listeners. `addresses.toml` is there afterwards.
    pub async fn build(settings: Settings) -> Result<Self, BuildError> {
        let state = &settings.state;
        let cluster = read_cluster(state)?;
        let lock = take(state)?;
        let issuers = Arc::new(Issuers::load(&state.ca(), cluster)?);
        let roles = [
            ("agents", settings.agents, Role::Agents(issuers.agent_ca().clone())),
            ("operators", settings.operators, Role::Operators(issuers.operator_ca().clone())),
            ("enrolment", settings.enrolment, Role::Anybody),
        ];
        let valid = Validity { from: clock::now(), span: settings.controller_validity };
        let mut doors = Vec::with_capacity(roles.len());
        let mut bound = Vec::with_capacity(roles.len());
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let [many, few] = settings.limits.within(descriptors);
        for ((name, address, role), limits) in roles.into_iter().zip([many, few, few]) {
            let gate = Gate::new(role, cluster, issuers.issue_controller(valid)?, limits)?;
            let failed = |source| BuildError::Bind { name, address, source };
            let listener = Listener::bind(address).map_err(failed)?;
            bound.push(listener.local_addr().map_err(failed)?);
            doors.push(Door { name, gate, listener });
        }
        let addresses = Addresses { agents: bound[0], operators: bound[1], enrolment: bound[2] };
        let store = Store::open(state.path()).await?;
        let sessions = Sessions::default();
        let roster = Roster::load(&store, sessions.clone()).await?;
        // Jobs that go on are there before the first agent comes back.
        let stats = Arc::new(Stats::default());
        let prober = Prober::new(sessions.clone(), roster.clone(), Arc::clone(&stats));
        let engine = Engine::start(store.clone(), sessions.clone(), prober.clone(), Arc::clone(&stats)).await?;
        let sources = settings.groups.as_deref().map(Sources::open).transpose()?.unwrap_or_default();
        let resolver = Resolver::new(roster.clone(), store.clone(), sources);
        let danger = Danger::load(
            settings.danger.clone().map_or_else(|| danger::Source::Default(state.danger()), danger::Source::File),
        )?;
        let schedules = Schedules::start(store.clone(), resolver.clone(), prober.clone(), Arc::clone(&stats)).await?;
        write_addresses(&state.addresses(), &addresses)?;
        Ok(Self {
            settings,
            store,
            issuers,
            sessions,
            roster,
            resolver,
            danger,
            prober,
            engine,
            schedules,
            stats,
            doors,
            addresses,
            lock,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves until `shutdown`, then lets those who are connected finish for as long as the settings say.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let routes = self.services(&shutdown)?;
        let gates = self.doors.iter().map(|door| (door.name, Arc::clone(&door.gate))).collect();
        let upkeep = tokio::spawn(upkeep(Arc::clone(&self.issuers), gates, self.settings.controller_validity));
        let state = self.settings.state.path().to_owned();
        let keeping = tokio::spawn(retention::run(self.engine.clone(), self.settings.keep, state));
        let mut serving = JoinSet::new();
        for (Door { name, gate, listener }, routes) in self.doors.into_iter().zip(routes) {
            let incoming = listener.serve(gate, shutdown.clone());
            let stop = shutdown.clone().cancelled_owned();
            let served = http2(name).add_routes(routes).serve_with_incoming_shutdown(incoming, stop);
            serving.spawn(async move { (name, served.await) });
        }
        let result = tokio::select! {
            // Listeners end at a shutdown as well: that is no failure of theirs.
            biased;
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = serving.join_next() => Err(RunError::Listener(format!("{ended:?}"))),
        };
        shutdown.cancel();
        tracing::info!(agents = self.sessions.len(), "ending: agents are asked to come back later");
        self.sessions.drain(spread(self.sessions.len()));
        let drained = async { while serving.join_next().await.is_some() {} };
        if tokio::time::timeout(self.settings.drain, drained).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        self.engine.stop();
        self.schedules.stop().await;
        upkeep.abort();
        keeping.abort();
        self.store.close().await;
        // Whoever reads it would dial nobody. If it cannot be removed, the next start replaces it.
        let _ = fs::remove_file(self.settings.state.addresses());
        drop(self.lock);
        result
    }

    /// What is behind each door, in their order: agents, operators, enrolment.
    fn services(&self, stop: &CancellationToken) -> Result<[Routes; 3], RunError> {
        let agents = AgentDoor {
            engine: self.engine.clone(),
            prober: self.prober.clone(),
            sessions: self.sessions.clone(),
            roster: self.roster.clone(),
            store: self.store.clone(),
            issuers: Arc::clone(&self.issuers),
            validity: self.settings.agent_validity,
            stop: stop.clone(),
        };
        let operators = OperatorDoor::new(Behind {
            engine: self.engine.clone(),
            schedules: self.schedules.clone(),
            resolver: self.resolver.clone(),
            danger: self.danger.clone(),
            issuers: Arc::clone(&self.issuers),
            listeners: self.doors.iter().map(|door| (door.name, Arc::clone(&door.gate))).collect(),
            enrolment_port: self.addresses.enrolment.port(),
            stop: stop.clone(),
        })?;
        let terms = Terms {
            agent_validity: self.settings.agent_validity,
            operator_validity: self.settings.operator_validity,
            agent_port: self.addresses.agents.port(),
            operator_port: self.addresses.operators.port(),
            rate: self.settings.enrolment_rate,
        };
        let roster = self.roster.clone();
        let on_enrolled: OnEnrolled = Arc::new(move |agent| roster.add(agent));
        let enrolment =
            Enrolment::new(self.store.clone(), Arc::clone(&self.issuers), terms, Arc::clone(&self.stats), on_enrolled);
        let operators = operators.routes().map_err(|error| RunError::Reflection(error.to_string()))?;
        Ok([Routes::new(agents.service()), operators, Routes::new(enrolment.service())])
    }
}

fn http2(door: &str) -> tonic::transport::Server {
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    match door {
        "enrolment" => server.max_connection_age(ENROLMENT_AGE_MAX).max_connection_age_grace(ENROLMENT_AGE_MAX),
        _ => server,
    }
}

/// How long so many agents take to come back.
fn spread(agents: usize) -> Duration {
    let [least, most] = DRAIN_SPREAD;
    let agents = u32::try_from(agents).unwrap_or(u32::MAX);
    (Duration::from_secs(1) * agents / RETURNS_PER_SECOND).clamp(least, most)
}

/// Renews our certificates at half of their life, and says what the gates have turned away.
async fn upkeep(issuers: Arc<Issuers>, gates: Vec<(&'static str, Arc<Gate>)>, span: Duration) {
    let mut ticks = tokio::time::interval(UPKEEP.min(span / 4));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut made = clock::now();
    let mut reported = vec![0; gates.len()];
    loop {
        ticks.tick().await;
        let now = clock::now();
        // A clock that was set back would keep us from ever renewing.
        if made.until(now) >= span / 2 || now < made {
            match renew(&issuers, &gates, Validity { from: now, span }) {
                Ok(()) => {
                    made = now;
                    tracing::info!("the controller's certificates were renewed");
                }
                Err(error) => tracing::error!(%error, "the controller's certificates cannot be renewed"),
            }
        }
        for ((door, gate), reported) in gates.iter().zip(&mut reported) {
            let stats = gate.stats();
            if stats.rejected() != *reported {
                *reported = stats.rejected();
                let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
                tracing::info!(
                    door,
                    failed = count(&stats.failed),
                    strangers = count(&stats.strangers),
                    silent = count(&stats.silent),
                    full = count(&stats.full),
                    often = count(&stats.often),
                    accept_errors = count(&stats.accept_errors),
                    "connections turned away since the start"
                );
            }
        }
    }
}

fn renew(issuers: &Issuers, gates: &[(&'static str, Arc<Gate>)], valid: Validity) -> Result<(), IssueError> {
    gates.iter().try_for_each(|(_, gate)| Ok(gate.renew(issuers.issue_controller(valid)?)?))
}

/// Whose state this is.
pub(crate) fn read_cluster(state: &StateDir) -> Result<ClusterId, BuildError> {
    let path = state.cluster();
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| BuildError::Cluster(path)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(BuildError::NotInitialised(state.path().to_owned()))
        }
        Err(source) => Err(BuildError::State { path, source }),
    }
}

/// Takes the state for this process, until the file is dropped.
pub(crate) fn take(state: &StateDir) -> Result<File, BuildError> {
    let path = state.lock();
    let failed = |source| BuildError::State { path: path.clone(), source };
    let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(BuildError::Running(state.path().to_owned())),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn write_addresses(path: &Path, addresses: &Addresses) -> Result<(), BuildError> {
    let failed = |source| BuildError::State { path: path.to_owned(), source };
    let text = addresses.to_toml().map_err(|error| failed(io::Error::other(error)))?;
    Staged::write(path, text.as_bytes(), 0o644).and_then(Staged::put).map_err(failed)
}

/// The controller cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Nobody has made a cluster here.
    #[error(
        "{path} is not initialised: run `muster-controller init --state {path}`, or name another directory with --state",
        path = .0.display()
    )]
    NotInitialised(PathBuf),
    /// The state cannot be read or written.
    #[error("cannot use {}: run the controller as the user who owns it", path.display())]
    State {
        /// What of it.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The cluster's id is no id.
    #[error("{} is damaged: restore it from a backup", .0.display())]
    Cluster(PathBuf),
    /// Two controllers would assign the same sequence numbers.
    #[error("a controller runs on {} already: end it first, or use another --state", .0.display())]
    Running(PathBuf),
    /// A port is in use or privileged, or the address is not ours.
    #[error("cannot listen for {name} on {address}: choose another address with --{name}")]
    Bind {
        /// Which listener; its option has the same name.
        name: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Outside sources of groups.
    #[error(transparent)]
    Groups(#[from] SourceError),
    /// Patterns of dangerous commands.
    #[error(transparent)]
    Danger(#[from] DangerError),
    /// The issuers.
    #[error(transparent)]
    Issuers(#[from] IssuersError),
    /// Our own certificate.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Our own TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The controller ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A listener stopped; that is a bug.
    #[error("a listener ended by itself ({0}): start the controller again, and report this")]
    Listener(String),
    /// The operator CA's certificate.
    #[error(transparent)]
    Trust(#[from] SealError),
    /// The descriptors of our own services; that is a bug.
    #[error("the services cannot be described ({0}): report this")]
    Reflection(String),
}

#[cfg(test)]
mod tests;
