//! The doing of a look: one task that resolves, sends and keeps time, one sweep for what the controller looks at itself,
//! and the state that both, the agents' door and the reader share.

use super::resolve::{NAMES_AT_ONCE, Resolver, Whereabouts};
use super::state::{SAMPLES_MAX, State};
use crate::sessions::Sessions;
use crate::stats::Stats;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use muster_probe::{Aim, Settings, Sweep};
use muster_proto::ping::{FailureKind, Finding};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::error;

/// Targets that are taken up before others have their turn.
const BATCH_LEN: usize = 4_096;
/// How long the task sleeps with nothing to wait for but a bell.
const NAP_MAX: Duration = Duration::from_hours(1);

/// A look as its task, the sweep's thread, the agents' door and the reader see it.
pub(super) struct Shared {
    state: Mutex<State>,
    found: Mutex<Found>,
    /// For the task.
    pub(super) bell: Notify,
    /// For the reader.
    pub(super) told: Notify,
}

/// What the sweep from here has said and nobody has taken: ends, as many as targets, and samples up to a bound.
#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
    /// Samples that were dropped since they were taken.
    dropped: u64,
    /// Nothing more will come.
    over: bool,
    abandoned: bool,
}

impl Shared {
    pub(super) fn new(state: State) -> Self {
        let (state, found) = (Mutex::new(state), Mutex::default());
        Self { state, found, bell: Notify::new(), told: Notify::new() }
    }

    // Code that panics under the lock is a bug whose look is lost; others go on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the state a fact, and lets those know whom it may concern.
    pub(super) fn with<T>(&self, fact: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let result = fact(&mut state);
        let (news, over) = (state.has_news(), state.is_over());
        drop(state);
        if news || over {
            self.told.notify_one();
        }
        result
    }
}

/// The end of the sweep's thread at which its findings come out. Rings when it is dropped, for whatever reason.
struct Sink(Arc<Shared>);

impl Sink {
    fn take(&self, findings: Vec<Finding>) -> ControlFlow<()> {
        let mut found = self.0.found();
        if found.abandoned {
            return ControlFlow::Break(());
        }
        let waiting = found.findings.len();
        let room = SAMPLES_MAX.saturating_sub(waiting);
        if findings.len() <= room {
            found.findings.extend(findings);
        } else {
            let all = findings.len();
            found.findings.extend(findings.into_iter().filter(|finding| matches!(finding, Finding::End { .. })));
            found.dropped += (all - (found.findings.len() - waiting)) as u64;
        }
        drop(found);
        self.0.bell.notify_one();
        ControlFlow::Continue(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.0.found().over = true;
        self.0.bell.notify_one();
    }
}

/// The task of one look.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) resolver: Resolver,
    pub(super) sessions: Sessions,
    pub(super) stats: Arc<Stats>,
    pub(super) sweep: Option<Sweep>,
}

impl Worker {
    /// Looks until every target has ended, or nobody listens any more.
    pub(super) async fn run(mut self) {
        let (mut names, mut resolving, mut stopping) = (self.begin().await, true, false);
        while let Some(wake_at) = self.turn() {
            tokio::select! {
                answers = names.next(), if resolving => match answers {
                    Some(answers) => self.aim(answers.into_iter().flatten()),
                    None => {
                        resolving = false;
                        self.close();
                    }
                },
                () = self.shared.bell.notified() => if !stopping && self.shared.state().is_stopping() {
                    (resolving, stopping) = (false, true);
                    names = stream::empty().boxed();
                    self.sweep.as_ref().inspect(|sweep| sweep.stop());
                },
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
        self.end();
    }

    /// Takes up what is known at once, and asks for the rest.
    async fn begin(&mut self) -> BoxStream<'static, Vec<Vec<(u32, Whereabouts)>>> {
        let (list, family, unresolved) =
            self.shared.with(|state| (Arc::clone(&state.list), state.spec.family, state.unresolved()));
        let (mut known, mut names) = (Vec::new(), Vec::new());
        for slots in unresolved.chunk_by(|(host, _), (other, _)| host == other) {
            let host = &list.hosts()[slots[0].0 as usize];
            let slots = slots.iter().map(|(_, slot)| *slot);
            match self.resolver.known(host, family) {
                Some(at) => known.extend(slots.map(|slot| (slot, at))),
                None => names.push((host.name.clone(), Vec::from_iter(slots))),
            }
            if known.len() >= BATCH_LEN {
                self.aim(known.drain(..));
                self.turn();
                tokio::task::yield_now().await;
            }
        }
        self.aim(known.into_iter());
        if names.is_empty() {
            self.close();
        }
        let resolver = self.resolver.clone();
        let answers = stream::iter(names).map(move |(name, slots)| {
            let resolver = resolver.clone();
            async move {
                let at = match name.is_number() {
                    true => FailureKind::Unresolved.into(),
                    false => resolver.ask(name.as_str(), family).await,
                };
                Vec::from_iter(slots.into_iter().map(|slot| (slot, at)))
            }
        });
        answers.buffer_unordered(NAMES_AT_ONCE).ready_chunks(NAMES_AT_ONCE).boxed()
    }

    /// It is known where these are.
    fn aim(&mut self, answers: impl Iterator<Item = (u32, Whereabouts)>) {
        let now = Instant::now();
        let (aims, settings) = self.shared.with(|state| {
            let aims: Vec<Aim> = answers.filter_map(|(slot, at)| state.resolved(slot, &at, now)).collect();
            (aims, Settings { probes: state.spec.probes, detail: state.spec.detail })
        });
        if aims.is_empty() {
            return;
        }
        if self.sweep.is_none() {
            self.shared.found().over = false;
            let sink = Sink(Arc::clone(&self.shared));
            match muster_probe::start(settings, move |findings| sink.take(findings)) {
                Ok(sweep) => self.sweep = Some(sweep),
                // The sink is gone: its targets end.
                Err(error) => error!(%error, "no hosts can be pinged from here"),
            }
        }
        self.sweep.as_ref().inspect(|sweep| sweep.add(aims));
    }

    /// All that can be looked at is known.
    fn close(&self) {
        self.shared.with(State::all_resolved);
        self.sweep.as_ref().inspect(|sweep| sweep.close());
    }

    /// Takes what was found and sends what is due. When to come again; `None` when all is over.
    fn turn(&self) -> Option<Instant> {
        let (findings, dropped, over) = {
            let mut found = self.shared.found();
            (std::mem::take(&mut found.findings), std::mem::take(&mut found.dropped), found.over)
        };
        let now = Instant::now();
        let (sendings, wake_at) = self.shared.with(|state| {
            state.found(findings, now);
            state.dropped(dropped);
            if over {
                state.swept(now);
            }
            let sendings = state.poll(now, &self.sessions);
            let latest = now + NAP_MAX;
            let wake_at = state.wake_at().map_or(latest, |at| at.min(latest));
            (sendings, (!state.is_over() && !state.abandoned).then_some(wake_at))
        });
        self.sessions.send(sendings);
        wake_at
    }

    /// Tells those who may still look that nobody wants to know, and counts what the sweep did.
    fn end(mut self) {
        let now = Instant::now();
        let (sendings, abandoned) = self.shared.with(|state| {
            state.stop(now);
            state.log();
            (state.poll(now, &self.sessions), state.abandoned)
        });
        self.sessions.send(sendings);
        self.shared.found().abandoned = abandoned;
        let Some(sweep) = self.sweep.take().filter(|_| !abandoned) else { return };
        sweep.close();
        let stats = self.stats;
        // It has said its last word, and ends at once.
        tokio::task::spawn_blocking(move || stats.replies_dropped.add(sweep.join().kernel_drops.unwrap_or(0)));
    }
}
