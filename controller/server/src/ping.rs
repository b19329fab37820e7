//! Looks at hosts: by ICMP, over the links of agents, and through agents that look.
//!
//! ```text
//!            ┌─▶ addresses ─▶ a sweep (a thread with sockets) ─┐
//! look ──────┼─▶ echoes over links ───────── agents' door ─────┼──▶ state ──▶ news
//!            └─▶ orders to agents that look ─ agents' door ────┘
//! ```
//!
//! Each look is one task ([`work`]) around one [`state`] that takes every fact and gives each target one end; what is due
//! over links and what agents may say are books of their own ([`echoes`], [`orders`]). Nothing here is stored: a probe
//! executes nothing and can be sent again.

mod echoes;
mod legs;
mod orders;
mod resolve;
mod state;
mod work;

use crate::roster::Roster;
use crate::sessions::{Epoch, Sessions};
use crate::stats::Stats;
use futures_util::FutureExt as _;
use muster_proto::id::AgentId;
use muster_proto::outcome::Outcome;
use muster_proto::ping::{Finding, PingList, PingSpec, Sample};
use resolve::Resolver;
use state::{Plan, State};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tracing::error;
use work::{Shared, Worker};

/// After its start a controller gives agents so long to come back before it says that one is away.
pub(crate) const AGENTS_BACK: Duration = Duration::from_mins(1);

/// Looks at hosts. Clones share the looks at work.
#[derive(Clone)]
pub struct Prober {
    sessions: Sessions,
    resolver: Resolver,
    stats: Arc<Stats>,
    looks: Arc<Mutex<Looks>>,
    began: Instant,
}

/// Those at work. The number of a look is that of its sweeps at agents, and the upper half of the numbers of its echoes.
type Looks = HashMap<u64, Arc<Shared>>;

/// What an agent says of a ping cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// It was not asked to look.
    #[error("it was not asked to look")]
    NotAsked,
    /// The target does not exist, or had its end.
    #[error("it speaks of a target that it was not given, or that has ended")]
    NoSuchTarget,
    /// More samples than there can be, or any where none are wanted.
    #[error("it tells of probes that it cannot have sent")]
    Samples,
    /// Figures that contradict each other or what was asked.
    #[error("its figures contradict each other, or what was asked")]
    Counts,
}

/// What a look has to tell.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// What became of one probe.
    Probed {
        /// The target, by its place in the list.
        target: u32,
        /// The probe.
        sample: Sample,
    },
    /// The last word on a target.
    Ended {
        /// The target, by its place in the list.
        target: u32,
        /// What became of it.
        outcome: Outcome,
    },
}

/// A look at work. To drop it is to abandon it: agents are told to stop, and nothing more is sent.
pub struct Look {
    shared: Arc<Shared>,
    sessions: Sessions,
}

impl Prober {
    /// One for the whole process.
    pub fn new(sessions: Sessions, roster: Roster, stats: Arc<Stats>) -> Self {
        let resolver = Resolver::new(sessions.clone(), roster);
        Self { sessions, resolver, stats, looks: Arc::default(), began: Instant::now() }
    }

    /// Looks at these targets of the list until each has ended. `deliver` is how long an agent that is to look may be away;
    /// when the controller has just begun also one that is to echo.
    pub fn look(&self, list: Arc<PingList>, spec: PingSpec, targets: Vec<u32>, deliver: Duration) -> Look {
        let here = list.vantages().iter().map(|vantage| self.resolver.is_here(vantage.agent)).collect();
        let id = RandomState::new().hash_one(0) & !u64::from(u32::MAX);
        let patience = if self.began.elapsed() < AGENTS_BACK { deliver } else { Duration::ZERO };
        let plan = Plan { id, list, spec, targets, deliver, patience, here };
        let shared = Arc::new(Shared::new(State::new(plan, Arc::clone(&self.stats), Instant::now())));
        let worker = Worker {
            shared: Arc::clone(&shared),
            resolver: self.resolver.clone(),
            sessions: self.sessions.clone(),
            stats: Arc::clone(&self.stats),
            sweep: None,
        };
        self.begin(id, Arc::clone(&shared), worker.run());
        Look { shared, sessions: self.sessions.clone() }
    }

    /// Has the work of a look done. Should it panic, its look is over all the same.
    fn begin(&self, id: u64, shared: Arc<Shared>, work: impl Future<Output = ()> + Send + 'static) {
        self.looks().insert(id, Arc::clone(&shared));
        self.stats.looks.enter();
        let prober = self.clone();
        tokio::spawn(async move {
            let done = AssertUnwindSafe(work).catch_unwind().await;
            prober.looks().remove(&id);
            prober.stats.looks.leave();
            if done.is_err() {
                error!("the work of a ping panicked: what it has not found is not known");
                shared.with(|state| state.broken = true);
            }
        });
    }

    // No code that can panic runs under the lock, so that a poisoned one holds whole values.
    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_work(&self) -> Vec<Arc<Shared>> {
        self.looks().values().cloned().collect()
    }

    /// An agent has a session and can be asked to look.
    pub fn connected(&self, agent: AgentId) {
        for look in self.at_work() {
            look.with(|state| state.connected(agent));
            look.bell.notify_one();
        }
    }

    /// A session is over.
    pub fn gone(&self, agent: AgentId, epoch: Epoch) {
        for look in self.at_work() {
            look.with(|state| state.gone(agent, epoch, Instant::now()));
            look.bell.notify_one();
        }
    }

    /// An agent answered an echo, at this time. One that nobody waits for counts for nothing.
    pub fn echoed(&self, agent: AgentId, epoch: Epoch, token: u64, at: Instant) {
        let look = self.looks().get(&(token & !u64::from(u32::MAX))).cloned();
        if let Some(look) = look
            && look.with(|state| {
                state.echoed(agent, epoch, token, at);
                state.is_over()
            })
        {
            look.bell.notify_one();
        }
    }

    /// An agent says what it saw. After a lie its session is to be closed; what it said before that counts. What it says
    /// of a look that is not at work is ignored: it may be late.
    pub fn probed(&self, agent: AgentId, epoch: Epoch, sweep: u64, findings: &[Finding]) -> Result<(), Lie> {
        let Some(look) = self.looks().get(&sweep).cloned() else {
            self.stats.findings_ignored.add(findings.len() as u64);
            return Ok(());
        };
        let (said, due) = look.with(|state| (state.probed(agent, epoch, findings, Instant::now()), state.is_stirred()));
        if due {
            look.bell.notify_one();
        }
        said
    }
}

impl Look {
    /// What came since; `None` when all targets have ended, or never will: after [`Look::stop`], or when the work broke.
    pub async fn news(&mut self) -> Option<Vec<News>> {
        loop {
            let (news, over) =
                self.shared.with(|state| (state.take_news(&self.sessions), state.is_over() && !state.has_news()));
            if !news.is_empty() {
                return Some(news);
            }
            if over {
                return None;
            }
            self.shared.told.notified().await;
        }
    }

    /// Ends it: what is under way says what it has seen, and targets that nobody has looked at yet get no end.
    pub fn stop(&self) {
        self.shared.with(|state| state.stop(Instant::now()));
        self.shared.bell.notify_one();
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.shared.with(|state| state.abandoned = true);
        self.shared.bell.notify_one();
    }
}

#[cfg(test)]
mod tests;
