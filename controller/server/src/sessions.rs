//! Who is connected: an agent's id leads to its one live session, or to the reason why it may have none.
//!
//! A session has a bounded queue towards its agent. An agent that does not take what is queued for it delays only
//! itself: when the queue is full the session is closed, and the agent resumes when it comes back.

mod mailbox;

pub use mailbox::Mailbox;

use crate::clock;
use crate::listen::{Heard, PeerInfo};
use crate::stats::Closed;
use muster_proto::command::BlobRef;
use muster_proto::fleet::Quarantine;
use muster_proto::id::{AgentId, TaskId};
use muster_proto::job::SignedJob;
use muster_proto::link::ToAgent;
use muster_proto::merkle::Tree;
use muster_proto::time::Timestamp;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long the patient wait.
const PATIENCE: Duration = Duration::from_millis(100);

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

impl Outgoing {
    /// It may wait for something else to travel with: most of what an agent costs is the number of its messages.
    pub const fn is_patient(&self) -> bool {
        matches!(self, Self::Message(ToAgent::Committed(_)))
    }
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
    /// When its certificate ends, and the session with it.
    pub not_after: Option<Timestamp>,
    heard: Heard,
    mailbox: Arc<Mailbox>,
}

impl Session {
    /// A session that begins now.
    pub fn new(epoch: Epoch, peer: &PeerInfo, mailbox: Arc<Mailbox>) -> Self {
        let (address, not_after, heard) = (peer.address, peer.not_after, peer.heard.clone());
        Self { epoch, address, since: clock::now(), not_after, heard, mailbox }
    }

    /// Ends the stream; the agent may come back unless it was revoked.
    pub fn close(&self, why: Closed) {
        self.mailbox.end(why, None);
    }

    /// Ends the stream with a last message.
    pub fn dismiss(&self, why: Closed, farewell: ToAgent) {
        self.mailbox.end(why, Some(farewell));
    }

    /// Queues a message; a session whose queue is full is closed.
    fn send(&self, message: Outgoing) {
        self.mailbox.push(message);
    }

    /// When bytes last arrived on its connection.
    pub fn heard_at(&self) -> Timestamp {
        self.heard.at()
    }
}

/// How an agent can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// In this session.
    Here(Epoch),
    /// Not now.
    Away,
    /// Not before an operator has said which of two machines it is.
    Quarantined,
}

impl Contact {
    /// There is a session.
    pub const fn is_here(self) -> bool {
        matches!(self, Self::Here(_))
    }
}

/// What became of a session that was to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It is the agent's session.
    Live,
    /// A newer one is there: this one is over.
    Older,
    /// The agent is quarantined, since a moment ago.
    Quarantined,
}

/// All live sessions, and all quarantines.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    live: HashMap<AgentId, Session>,
    /// Each with the number it has in the store: a later one of the same agent has a higher one, whatever the clock.
    quarantines: HashMap<AgentId, (u64, Quarantine)>,
    /// The number of the last quarantine that was resolved: late news of it change nothing.
    resolved: HashMap<AgentId, u64>,
}

impl Inner {
    fn contact(&self, agent: AgentId) -> Contact {
        match self.live.get(&agent) {
            _ if self.quarantines.contains_key(&agent) => Contact::Quarantined,
            Some(session) => Contact::Here(session.epoch),
            None => Contact::Away,
        }
    }
}

impl Sessions {
    // No code that can panic runs under the lock, so that a poisoned one holds a whole map.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent's session from now on. An older one is closed: its connection is half open, or its key was replaced.
    pub fn begin(&self, agent: AgentId, session: Session) -> Begun {
        let mut inner = self.inner();
        if inner.quarantines.contains_key(&agent) {
            return Begun::Quarantined;
        }
        if inner.live.get(&agent).is_some_and(|held| held.epoch > session.epoch) {
            session.close(Closed::Replaced);
            return Begun::Older;
        }
        if let Some(older) = inner.live.insert(agent, session) {
            older.close(Closed::Replaced);
        }
        Begun::Live
    }

    /// The session is over. Whether it still was the agent's own.
    pub fn end(&self, agent: AgentId, epoch: Epoch) -> bool {
        let mut inner = self.inner();
        let current = inner.live.get(&agent).is_some_and(|session| session.epoch == epoch);
        if current {
            inner.live.remove(&agent);
        }
        current
    }

    /// What was said in a session cannot be true: if it is still the agent's own, it is over.
    pub fn close(&self, agent: AgentId, epoch: Epoch) {
        if let Some(session) = self.inner().live.get(&agent).filter(|session| session.epoch == epoch) {
            session.close(Closed::Invalid);
        }
    }

    /// Two machines use the agent's identity: it has no session until [`Sessions::resolved`]. The live one is told why.
    /// `found` is the number of the quarantine. Whether this is news; false also where it was resolved meanwhile.
    pub fn quarantine(&self, agent: AgentId, found: u64, quarantine: Quarantine, farewell: &ToAgent) -> bool {
        let mut inner = self.inner();
        if inner.resolved.get(&agent).is_some_and(|resolved| *resolved >= found) {
            return false;
        }
        if let Some(session) = inner.live.get(&agent) {
            session.dismiss(Closed::Quarantined, farewell.clone());
        }
        inner.quarantines.insert(agent, (found, quarantine)).is_none()
    }

    /// An operator has decided.
    pub fn resolved(&self, agent: AgentId) {
        let mut inner = self.inner();
        if let Some((found, _)) = inner.quarantines.remove(&agent) {
            inner.resolved.insert(agent, found);
        }
    }

    /// The agent's quarantine, if it is in one.
    pub fn quarantined(&self, agent: AgentId) -> Option<Quarantine> {
        self.inner().quarantines.get(&agent).map(|(_, quarantine)| quarantine.clone())
    }

    /// The agent's session, if it has one.
    pub fn get(&self, agent: AgentId) -> Option<Session> {
        self.inner().live.get(&agent).cloned()
    }

    /// How the agent can be reached.
    pub fn contact(&self, agent: AgentId) -> Contact {
        self.inner().contact(agent)
    }

    /// How each of these agents can be reached.
    pub fn contacts(&self, agents: impl Iterator<Item = AgentId>) -> Vec<Contact> {
        let inner = self.inner();
        agents.map(|agent| inner.contact(agent)).collect()
    }

    /// Agents connected now.
    pub fn len(&self) -> usize {
        self.inner().live.len()
    }

    /// Nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.inner().live.is_empty()
    }

    /// Queues messages, each if the session it is meant for is still its agent's; a newer one is told when it begins. So an
    /// agent that is asked for an offer of an earlier session can answer for good that it never came.
    pub fn send(&self, messages: impl IntoIterator<Item = (AgentId, Epoch, Outgoing)>) {
        let mut patient = Vec::new();
        let inner = self.inner();
        for (agent, epoch, message) in messages {
            if let Some(session) = inner.live.get(&agent).filter(|session| session.epoch == epoch) {
                if message.is_patient() {
                    patient.push(Arc::clone(&session.mailbox));
                }
                session.send(message);
            }
        }
        drop(inner);
        if !patient.is_empty() {
            tokio::spawn(async move {
                tokio::time::sleep(PATIENCE).await;
                patient.iter().for_each(|mailbox| mailbox.ring());
            });
        }
    }

    /// Ends all sessions, and asks every agent to come back after a time of its own within `spread`.
    pub fn drain(&self, spread: Duration) {
        let inner = self.inner();
        let count = u32::try_from(inner.live.len()).unwrap_or(u32::MAX).max(1);
        for (place, session) in (0_u32..).zip(inner.live.values()) {
            session.dismiss(Closed::Drained, ToAgent::Drain(spread * place / count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::fleet::Party;
    use muster_proto::id::{BootId, StartId};

    const AGENT: AgentId = AgentId::from_bytes([1; 16]);

    fn session(epoch: u64) -> (Session, Arc<Mailbox>) {
        let mailbox = Arc::new(Mailbox::default());
        let peer = PeerInfo::stranger(([127, 0, 0, 1], 1).into());
        (Session::new(Epoch(epoch), &peer, Arc::clone(&mailbox)), mailbox)
    }

    fn ended(mailbox: &Mailbox) -> Closed {
        mailbox.end(Closed::Lost, None)
    }

    fn quarantine() -> Quarantine {
        let seen_at = Timestamp::from_millis(5);
        let (boot, start) = (BootId::from_bytes([2; 16]), StartId::from_bytes([3; 16]));
        let party = Party { address: "192.0.2.1:1".into(), machine: String::new(), boot, start, seen_at };
        Quarantine { since: seen_at, parties: [party.clone(), party] }
    }

    #[test]
    fn the_newest_session_stays_in_whatever_order_they_begin() {
        let sessions = Sessions::default();
        let ((old, old_end), (new, new_end), (late, late_end)) = (session(1), session(3), session(2));
        assert_eq!(sessions.begin(AGENT, old), Begun::Live);
        assert_eq!(sessions.begin(AGENT, new), Begun::Live);
        assert_eq!(sessions.begin(AGENT, late), Begun::Older);
        assert_eq!([&old_end, &late_end].map(|end| ended(end)), [Closed::Replaced; 2]);
        assert!(!sessions.end(AGENT, Epoch(1)), "it is no longer the agent's own");
        assert!(sessions.end(AGENT, Epoch(3)));
        assert_eq!(ended(&new_end), Closed::Lost, "nobody else had ended it");
    }

    #[test]
    fn messages_are_for_the_session_they_were_made_for() {
        let sessions = Sessions::default();
        let (session, mailbox) = session(2);
        sessions.begin(AGENT, session);
        mailbox.open(Vec::new());
        let message = || Outgoing::Message(ToAgent::Drain(Duration::ZERO));
        sessions.send([(AGENT, Epoch(1), message()), (AGENT, Epoch(2), message()), (AGENT, Epoch(2), message())]);
        let mut take = Box::pin(mailbox.take());
        let waker = std::task::Waker::noop();
        let taken = take.as_mut().poll(&mut std::task::Context::from_waker(waker));
        assert!(matches!(taken, std::task::Poll::Ready(all) if all.len() == 2));
    }

    #[test]
    fn a_quarantined_agent_has_no_session_until_it_is_resolved() {
        let sessions = Sessions::default();
        let ((first, first_end), (second, _)) = (session(1), session(2));
        sessions.begin(AGENT, first);
        let words = ToAgent::Refused { reason: "two".into(), retry_after: Duration::ZERO };
        assert!(sessions.quarantine(AGENT, 5, quarantine(), &words), "it is news");
        assert_eq!((ended(&first_end), first_end.farewell()), (Closed::Quarantined, Some(words.clone())));
        assert_eq!(sessions.begin(AGENT, second.clone()), Begun::Quarantined);
        assert_eq!(sessions.contacts([AGENT].into_iter()), [Contact::Quarantined]);
        assert!(!sessions.quarantine(AGENT, 5, quarantine(), &words));
        sessions.resolved(AGENT);
        assert!(!sessions.quarantine(AGENT, 5, quarantine(), &words), "news of before the decision");
        assert_eq!(sessions.begin(AGENT, second), Begun::Live);
        assert!(sessions.quarantine(AGENT, 6, quarantine(), &words), "another one, though the clock says the same");
    }

    #[test]
    fn who_is_asked_to_come_back_does_so_spread_over_time() {
        let sessions = Sessions::default();
        let mailboxes: Vec<_> = (1..=4_u8)
            .map(|number| {
                let (session, mailbox) = session(1);
                sessions.begin(AgentId::from_bytes([number; 16]), session);
                mailbox
            })
            .collect();
        sessions.drain(Duration::from_secs(8));
        let mut times: Vec<_> = mailboxes.iter().filter_map(|mailbox| mailbox.farewell()).collect();
        times.sort_by_key(|farewell| format!("{farewell:?}"));
        assert_eq!(times, [0, 2, 4, 6].map(|second| ToAgent::Drain(Duration::from_secs(second))));
    }
}
