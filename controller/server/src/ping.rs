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
use muster_proto::id::AgentId;
use muster_proto::outcome::Outcome;
use muster_proto::ping::{Finding, PingList, PingSpec, Sample};
use resolve::Resolver;
use state::{Plan, State};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use work::{Shared, Worker};

/// Looks that are over and whose agents may still speak of them.
const REMEMBERED_LEN: usize = 1_024;

/// Looks at hosts. Clones share the looks at work.
#[derive(Clone)]
pub struct Prober {
    sessions: Sessions,
    resolver: Resolver,
    stats: Arc<Stats>,
    looks: Arc<Mutex<Looks>>,
}

/// The number of a look is that of its sweeps at agents, and the upper half of the numbers of its echoes.
#[derive(Default)]
struct Looks {
    at_work: HashMap<u64, Arc<Shared>>,
    /// Numbers of those that are over, the newest last.
    over: VecDeque<u64>,
}

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
        Self { sessions, resolver, stats, looks: Arc::default() }
    }

    /// Looks at these targets of the list until each has ended. `deliver` is how long an agent that is to look may be away.
    pub fn look(&self, list: Arc<PingList>, spec: PingSpec, targets: Vec<u32>, deliver: Duration) -> Look {
        let here = list.vantages().iter().map(|vantage| self.resolver.is_here(vantage.agent)).collect();
        let id = RandomState::new().hash_one(0) & !u64::from(u32::MAX);
        let plan = Plan { id, list, spec, targets, deliver, here };
        let shared = Arc::new(Shared::new(State::new(plan, Arc::clone(&self.stats), Instant::now())));
        self.looks().at_work.insert(id, Arc::clone(&shared));
        let worker = Worker {
            shared: Arc::clone(&shared),
            resolver: self.resolver.clone(),
            sessions: self.sessions.clone(),
            stats: Arc::clone(&self.stats),
            sweep: None,
        };
        let prober = self.clone();
        prober.stats.looks.enter();
        tokio::spawn(async move {
            worker.run().await;
            prober.forget(id);
            prober.stats.looks.leave();
        });
        Look { shared, sessions: self.sessions.clone() }
    }

    // No code that can panic runs under the lock, so that a poisoned one holds whole values.
    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_work(&self) -> Vec<Arc<Shared>> {
        self.looks().at_work.values().cloned().collect()
    }

    fn forget(&self, id: u64) {
        let mut looks = self.looks();
        looks.at_work.remove(&id);
        looks.over.push_back(id);
        if looks.over.len() > REMEMBERED_LEN {
            looks.over.pop_front();
        }
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
        let look = self.looks().at_work.get(&(token & !u64::from(u32::MAX))).cloned();
        if let Some(look) = look
            && look.with(|state| {
                state.echoed(agent, epoch, token, at);
                state.is_over()
            })
        {
            look.bell.notify_one();
        }
    }

    /// An agent says what it saw. After a lie its session is to be closed; what it said before that counts.
    pub fn probed(&self, agent: AgentId, epoch: Epoch, sweep: u64, findings: &[Finding]) -> Result<(), Lie> {
        let look = {
            let looks = self.looks();
            match looks.at_work.get(&sweep) {
                Some(look) => Arc::clone(look),
                // The last of it crossed with what we sent.
                None if looks.over.contains(&sweep) => return Ok(()),
                None => return Err(Lie::NotAsked),
            }
        };
        let (said, over) = look.with(|state| (state.probed(agent, epoch, findings, Instant::now()), state.is_over()));
        if over {
            look.bell.notify_one();
        }
        said
    }
}

impl Look {
    /// What came since; `None` when all targets have ended, or were never looked at before [`Look::stop`].
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
