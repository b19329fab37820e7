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
use tokio::time::Instant;
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
        /// When the target's window closes, wherever the offer is then.
        until: Instant,
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

    /// Queues a message; a session whose queue is full is closed.
    pub fn send(&self, message: Outgoing) {
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

    /// The agent's session from now on. An older one is closed: its connection is half open, or it is a copy. If a newer
    /// one is there already, it is this one that is closed; false then.
    pub fn begin(&self, agent: AgentId, session: Session) -> bool {
        let mut map = self.map();
        let newer = map.get(&agent).is_some_and(|held| held.epoch > session.epoch);
        if newer {
            session.close();
        } else if let Some(older) = map.insert(agent, session) {
            older.close();
        }
        !newer
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

#[cfg(test)]
mod tests {
    use super::*;

    fn session(epoch: u64) -> (Session, CancellationToken) {
        let (queue, _) = mpsc::channel(1);
        let close = CancellationToken::new();
        (Session::new(Epoch(epoch), ([127, 0, 0, 1], 1).into(), queue, close.clone()), close)
    }

    #[test]
    fn the_newest_session_stays_in_whatever_order_they_begin() {
        let agent = AgentId::from_bytes([1; 16]);
        let sessions = Sessions::default();
        let ((old, old_close), (new, new_close), (late, late_close)) = (session(1), session(3), session(2));
        assert!(sessions.begin(agent, old));
        assert!(sessions.begin(agent, new));
        assert!(!sessions.begin(agent, late), "a newer one is there");
        assert!(old_close.is_cancelled() && late_close.is_cancelled() && !new_close.is_cancelled());
        assert!(!sessions.end(agent, Epoch(1)), "it is no longer the agent's own");
        assert!(sessions.end(agent, Epoch(3)));
    }

    #[test]
    fn messages_are_for_the_session_they_were_made_for_and_a_full_queue_closes_it() {
        let agent = AgentId::from_bytes([1; 16]);
        let sessions = Sessions::default();
        let (queue, mut waiting) = mpsc::channel(1);
        let close = CancellationToken::new();
        sessions.begin(agent, Session::new(Epoch(2), ([127, 0, 0, 1], 1).into(), queue, close.clone()));
        let drain = || Outgoing::Message(ToAgent::Drain(Duration::ZERO));
        sessions.send([(agent, Epoch(1), drain())]);
        assert!(waiting.try_recv().is_err());
        sessions.send([(agent, Epoch(2), drain())]);
        assert!(!close.is_cancelled());
        sessions.send([(agent, Epoch(2), drain())]);
        assert!(close.is_cancelled(), "an agent that takes nothing delays only itself");
        assert!(waiting.try_recv().is_ok());
    }
}
