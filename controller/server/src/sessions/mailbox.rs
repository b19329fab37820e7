//! What waits for one agent, and the end of its session.
//!
//! ```text
//! Silent ──open──▶ Welcomed ──confirm──▶ Confirmed
//!                  all but offers        offers as well
//! ```
//!
//! Nothing is taken before the welcome. Offers wait until the nonce of the session is confirmed: two copies of an agent
//! may both have a session for a while, but only one of them is ever given work. Memory is held while something waits,
//! and no longer.
//!
//! That an end is durable is not urgent: it waits for company, until somebody [rings](Mailbox::ring).

use crate::sessions::Outgoing;
use crate::stats::Closed;
use muster_proto::link::ToAgent;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Messages that may wait for one agent: those of its running and waiting tasks, with room.
const QUEUE_LEN: usize = 4_096;
/// With so many even the patient go.
const PATIENT_LEN: usize = 64;

/// The queue towards an agent, in order. Whoever finds it full ends the session.
#[derive(Debug, Default)]
pub struct Mailbox {
    waiting: Mutex<Waiting>,
    bell: Notify,
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct Waiting {
    stage: Stage,
    messages: VecDeque<Outgoing>,
    offers: VecDeque<Outgoing>,
    end: Option<(Closed, Option<ToAgent>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Stage {
    #[default]
    Silent,
    Welcomed,
    Confirmed,
}

impl Mailbox {
    // No code that can panic runs under the lock, so that a poisoned one holds whole values.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message. Whether there was room; without, the session is over.
    pub fn push(&self, message: Outgoing) -> bool {
        let mut waiting = self.waiting();
        let room = waiting.messages.len() + waiting.offers.len() < QUEUE_LEN;
        if !room {
            drop(waiting);
            self.end(Closed::Slow, None);
        } else if matches!(message, Outgoing::Offer { .. }) && waiting.stage != Stage::Confirmed {
            waiting.offers.push_back(message);
        } else {
            let urgent = !message.is_patient() || waiting.messages.len() >= PATIENT_LEN;
            waiting.messages.push_back(message);
            drop(waiting);
            if urgent {
                self.ring();
            }
        }
        room
    }

    /// Lets what waits go now, patient or not.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Lets messages go, these first.
    pub fn open(&self, first: Vec<ToAgent>) {
        let mut waiting = self.waiting();
        waiting.stage = waiting.stage.max(Stage::Welcomed);
        let behind = std::mem::replace(&mut waiting.messages, first.into_iter().map(Outgoing::Message).collect());
        waiting.messages.extend(behind);
        drop(waiting);
        self.ring();
    }

    /// Lets offers go as well.
    pub fn confirm(&self) {
        let mut waiting = self.waiting();
        waiting.stage = Stage::Confirmed;
        let offers = std::mem::take(&mut waiting.offers);
        waiting.messages.extend(offers);
        drop(waiting);
        self.ring();
    }

    /// All that may go, once there is something. For one reader.
    pub async fn take(&self) -> VecDeque<Outgoing> {
        loop {
            {
                let mut waiting = self.waiting();
                if waiting.stage != Stage::Silent && !waiting.messages.is_empty() {
                    return std::mem::take(&mut waiting.messages);
                }
            }
            self.bell.notified().await;
        }
    }

    /// Ends the session; what waits is dropped, and `farewell` is the last that is said. The first end counts: it is
    /// returned.
    pub fn end(&self, why: Closed, farewell: Option<ToAgent>) -> Closed {
        let mut waiting = self.waiting();
        (waiting.messages, waiting.offers) = (VecDeque::new(), VecDeque::new());
        let why = waiting.end.get_or_insert((why, farewell)).0;
        drop(waiting);
        self.ended.cancel();
        why
    }

    /// Waits for the end.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// The last to be said, once.
    pub fn farewell(&self) -> Option<ToAgent> {
        self.waiting().end.as_mut()?.1.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::OfferedJob;
    use muster_proto::id::{JobId, TaskId};
    use muster_proto::job::SignedJob;
    use muster_proto::merkle::Tree;
    use std::sync::Arc;
    use tokio::time::Instant;

    const TASK: TaskId =
        TaskId { job: JobId::from_bytes([1; 16]), target: 0, attempt: muster_proto::id::Attempt::FIRST };

    fn message() -> Outgoing {
        Outgoing::Message(ToAgent::Committed(TASK))
    }

    fn offer() -> Outgoing {
        let signed =
            SignedJob { payload: Default::default(), signature: Default::default(), certificate: Default::default() };
        let tree = Tree::new(vec![[0; 32]]).expect("a tree");
        let job = Arc::new(OfferedJob { signed, tree, blobs: Vec::new() });
        Outgoing::Offer { job, task: TASK, until: Instant::now() }
    }

    fn taken(mailbox: &Mailbox) -> Option<Vec<&'static str>> {
        let mut take = Box::pin(mailbox.take());
        let waker = std::task::Waker::noop();
        match take.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
            std::task::Poll::Pending => None,
            std::task::Poll::Ready(all) => Some(all.iter().map(word).collect()),
        }
    }

    fn word(outgoing: &Outgoing) -> &'static str {
        match outgoing {
            Outgoing::Offer { .. } => "offer",
            Outgoing::Message(ToAgent::Drain(_)) => "drain",
            Outgoing::Message(_) => "message",
        }
    }

    #[test]
    fn the_welcome_is_first_and_offers_wait_for_the_confirmation() {
        let mailbox = Mailbox::default();
        assert!(mailbox.push(offer()) && mailbox.push(message()));
        assert_eq!(taken(&mailbox), None, "nothing before the welcome");
        mailbox.open(vec![ToAgent::Drain(Default::default())]);
        assert_eq!(taken(&mailbox), Some(vec!["drain", "message"]));
        assert_eq!(taken(&mailbox), None, "no work for somebody who may be a copy");
        mailbox.confirm();
        assert_eq!(taken(&mailbox), Some(vec!["offer"]));
        assert!(mailbox.push(offer()));
        assert_eq!(taken(&mailbox), Some(vec!["offer"]));
    }

    #[test]
    fn a_full_queue_ends_the_session_and_the_first_end_counts() {
        let mailbox = Mailbox::default();
        assert!((0..QUEUE_LEN).all(|_| mailbox.push(message())));
        assert!(!mailbox.push(message()), "an agent that takes nothing delays only itself");
        assert_eq!(mailbox.end(Closed::Drained, Some(ToAgent::Drain(Default::default()))), Closed::Slow);
        assert_eq!(mailbox.farewell(), None);
    }
}
