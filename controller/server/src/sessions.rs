//! Who is connected: an agent's id leads to its one live session.
//!
//! A session has a bounded queue towards its agent. An agent that does not take what is queued for it delays only
//! itself: when the queue is full the session is closed, and the agent resumes when it comes back.

use crate::clock;
use muster_proto::command::BlobRef;
use muster_proto::id::{AgentId, TaskId};
use muster_proto::job::SignedJob;
use muster_proto::link::ToAgent;
use muster_proto::merkle::Tree;
use muster_proto::time::Timestamp;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Messages that may wait for one agent: those of its running and waiting tasks, with room.
pub const QUEUE_LEN: usize = 4_096;

/// Rises with each session of an agent; fences what an older one left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);

/// What is queued for an agent.
#[derive(Debug)]
pub enum Outgoing {
    /// As it is.
    Message(ToAgent),
    /// An offer; proof and blobs are made when its turn comes.
    Offer {
        /// What all targets of the job share.
        job: Arc<OfferedJob>,
        /// Which task.
        task: TaskId,
        /// What is left of the target's window.
        ttl: Duration,
    },
}

/// What the offers of one job have in common.
#[derive(Debug)]
pub struct OfferedJob {
    /// What the operator signed.
    pub signed: SignedJob,
    /// Over the frozen list.
    pub tree: Tree,
    /// What has to be there before it starts.
    pub blobs: Vec<BlobRef>,
}

/// An agent's session as others see it.
#[derive(Debug, Clone)]
pub struct Session {
    /// Which of the agent's sessions it is.
    pub epoch: Epoch,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Since when.
    pub since: Timestamp,
    queue: mpsc::Sender<Outgoing>,
    close: CancellationToken,
}

impl Session {
    /// A session that begins now. Cancelling `close` ends it.
    pub fn new(epoch: Epoch, address: SocketAddr, queue: mpsc::Sender<Outgoing>, close: CancellationToken) -> Self {
        Self { epoch, address, since: clock::now(), queue, close }
    }

    /// Ends the stream; the agent may come back unless it was revoked.
    pub fn close(&self) {
        self.close.cancel();
    }

    fn send(&self, message: Outgoing) {
        if self.queue.try_send(message).is_err() {
            self.close.cancel();
        }
    }
}

/// All live sessions.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Mutex<HashMap<AgentId, Session>>>);

impl Sessions {
    // No code that can panic runs under the lock, so that a poisoned one holds a whole map.
    fn map(&self) -> MutexGuard<'_, HashMap<AgentId, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent's session from now on. An older one is closed: its connection is half open, or it is a copy.
    pub fn begin(&self, agent: AgentId, session: Session) {
        if let Some(older) = self.map().insert(agent, session) {
            older.close();
        }
    }

    /// The session is over. Whether it still was the agent's own.
    pub fn end(&self, agent: AgentId, epoch: Epoch) -> bool {
        let mut map = self.map();
        let current = map.get(&agent).is_some_and(|session| session.epoch == epoch);
        if current {
            map.remove(&agent);
        }
        current
    }

    /// The agent's session, if it has one.
    pub fn get(&self, agent: AgentId) -> Option<Session> {
        self.map().get(&agent).cloned()
    }

    /// The epoch of each of these agents that is connected.
    pub fn epochs(&self, agents: impl Iterator<Item = AgentId>) -> Vec<Option<Epoch>> {
        let map = self.map();
        agents.map(|agent| map.get(&agent).map(|session| session.epoch)).collect()
    }

    /// Agents connected now.
    pub fn len(&self) -> usize {
        self.map().len()
    }

    /// Nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.map().is_empty()
    }

    /// Queues messages, each if the session it is meant for is still its agent's; a newer one is told when it begins. So an
    /// agent that is asked for an offer of an earlier session can answer for good that it never came.
    pub fn send(&self, messages: impl IntoIterator<Item = (AgentId, Epoch, Outgoing)>) {
        let map = self.map();
        for (agent, epoch, message) in messages {
            if let Some(session) = map.get(&agent).filter(|session| session.epoch == epoch) {
                session.send(message);
            }
        }
    }

    /// Ends all streams.
    pub fn close_all(&self) {
        self.map().values().for_each(Session::close);
    }

    /// Asks every agent to come back after a time of its own within `spread`.
    pub fn drain(&self, spread: Duration) {
        let map = self.map();
        let count = u32::try_from(map.len()).unwrap_or(u32::MAX).max(1);
        for (place, session) in (0_u32..).zip(map.values()) {
            session.send(Outgoing::Message(ToAgent::Drain(spread / count * place)));
        }
    }
}
