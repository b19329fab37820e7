//! What the whole simulation counts, and its witness: every start of a task, remembered apart from the agents' own
//! memories, so that a second one is seen whoever is to blame.

use muster_proto::id::TaskId;
use std::collections::HashSet;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Counts since the start of the process.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) started: Count,
    /// Reached their end here; whether the controller has it is another question.
    pub(super) ended: Count,
    /// Ended, and the controller said that it is durable.
    pub(super) committed: Count,
    pub(super) rejected: Count,
    /// Offered again though the agent knew them.
    pub(super) again: Count,
    pub(super) frames: Count,
    /// Times that the controller refused an agent's identity.
    pub(super) refused: Count,
    /// Sessions after an agent's first.
    pub(super) reconnects: Count,
    /// Agents that had a session.
    pub(super) arrived: watch::Sender<u32>,
    /// Agents with a session now.
    pub(super) connected: watch::Sender<u32>,
    /// The first task that started twice.
    pub(super) double: watch::Sender<Option<TaskId>>,
    starts: Mutex<HashSet<TaskId>>,
}

/// A number that only rises.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// A task starts.
    pub(super) fn start(&self, task: TaskId) {
        self.started.add();
        // Nobody panics while holding it.
        let new = self.starts.lock().is_ok_and(|mut starts| starts.insert(task));
        if !new {
            self.double.send_if_modified(|first| first.replace(task).is_none());
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let starts = self.starts.lock().map_or(0, |starts| starts.len() as u64);
        write!(
            f,
            "started={} ended={} committed={} rejected={} doubles={} again={} frames={} reconnects={} refused={}",
            self.started.get(),
            self.ended.get(),
            self.committed.get(),
            self.rejected.get(),
            self.started.get() - starts,
            self.again.get(),
            self.frames.get(),
            self.reconnects.get(),
            self.refused.get(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::JobId;

    #[test]
    fn a_second_start_is_seen_and_named() {
        let tally = Tally::default();
        let task =
            |target| TaskId { job: JobId::from_bytes([1; 16]), target, attempt: muster_proto::id::Attempt::FIRST };
        (0..3).for_each(|target| tally.start(task(target)));
        assert_eq!(*tally.double.borrow(), None);
        tally.start(task(1));
        assert_eq!(*tally.double.borrow(), Some(task(1)));
        assert!(tally.to_string().starts_with("started=4 ended=0 committed=0 rejected=0 doubles=1 "), "{tally}");
    }
}
