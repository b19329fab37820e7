//! What never starts here: cancelled before its turn, or too late. It is remembered before it is said, so that no copy of
//! its offer starts afterwards.

use super::Agent;
use super::work::Stage;
use crate::clock::{Reading, Window};
use crate::journal::Record;
use muster_proto::id::TaskId;
use muster_proto::limits;
use muster_proto::link::{RejectKind, TaskReport};
use muster_proto::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{error, warn};

/// Cancelled tasks that never came and are remembered all the same, for the eight days that the journal remembers. One
/// comes about when a cancel overtakes its offer; a controller that sends more wants to fill this host's memory.
const STRANGERS_MAX: usize = 4096;

/// How often to look at windows: the runtime's clock stands still while the host is suspended.
const LOOK: Duration = Duration::from_secs(5);

impl Agent {
    /// Ends tasks, or makes sure that they never start. Cancels that came together cost one sync.
    pub(super) fn cancel(&mut self, tasks: &[TaskId]) {
        let now = self.clock.now();
        let latest = now + limits::START_BEFORE_MAX + limits::CLOCK_SKEW_MAX;
        let (mut never, mut strangers) = (BTreeMap::new(), BTreeSet::new());
        for &id in tasks {
            let known = self.journal.get(id).map(|known| known.start_before);
            match (self.tasks.get(&id).map(|task| (&task.stage, &task.dir)), known) {
                (Some((Stage::Working { .. }, dir)), _) => {
                    if let Err(error) = dir.request_cancel() {
                        error!(task = %id, %error, "cannot cancel");
                    }
                }
                (Some((Stage::Over { .. }, _)), _) => {}
                (Some((Stage::Waiting(..), _)), known) => _ = never.insert(id, known.unwrap_or(latest)),
                (None, Some(_)) => self.answer(id),
                (None, None) => _ = strangers.insert(id),
            }
        }
        if !strangers.is_empty() {
            let room = STRANGERS_MAX.saturating_sub(self.journal.strangers(now));
            if strangers.len() > room && !std::mem::replace(&mut self.warned_of_strangers, true) {
                warn!(
                    most = STRANGERS_MAX,
                    "the controller cancels too many tasks that never came: they get no answer"
                );
            }
            never.extend(strangers.into_iter().take(room).map(|id| (id, latest)));
        }
        let never: Vec<_> = never.into_iter().collect();
        self.refuse_for_good(&never, RejectKind::Cancelled, "cancelled before it started");
    }

    /// It was started, and has not ended.
    pub(super) fn is_working(&self, id: TaskId) -> bool {
        self.tasks.get(&id).is_some_and(|task| matches!(task.stage, Stage::Working { .. }))
    }

    /// Drops waiting tasks whose window has closed.
    pub(super) fn expire(&mut self, now: Reading) {
        let late: Vec<_> = self
            .waiting
            .iter()
            .filter(|id| self.window(id).is_none_or(|window| window.left(now).is_zero()))
            .map(|id| (*id, self.journal.get(*id).map_or(now.wall, |known| known.start_before)))
            .collect();
        let reason = "its window closed while it waited on the host: raise -t (and --job-timeout), or lower -f";
        self.refuse_for_good(&late, RejectKind::Expired, reason);
    }

    /// When to look at the windows again; `None` while nothing waits.
    pub(super) fn next_expiry(&self, now: Reading) -> Option<Instant> {
        let left = self.waiting.iter().filter_map(|id| self.window(id)).map(|window| window.left(now)).min()?;
        Some(Instant::now() + left.min(LOOK))
    }

    fn window(&self, id: &TaskId) -> Option<Window> {
        match self.tasks.get(id)?.stage {
            Stage::Waiting(window, _) => Some(window),
            Stage::Working { .. } | Stage::Over { .. } => None,
        }
    }

    /// Remembers that these never start, then says so. What cannot be remembered is said of tasks that were held: without
    /// a journal they cannot start, and they are held no longer. Of others it would not stay true.
    pub(super) fn refuse_for_good(&mut self, tasks: &[(TaskId, Timestamp)], kind: RejectKind, reason: &str) {
        if tasks.is_empty() {
            return;
        }
        let records: Vec<_> = tasks.iter().map(|&of| refusal(of, kind, reason)).collect();
        let remembered = self.journal.append(&records, self.clock.now());
        if let Err(error) = &remembered {
            error!(%error, tasks = tasks.len(), "cannot refuse for good");
        }
        for &(task, _) in tasks {
            let held = self.forget(task);
            if held || remembered.is_ok() {
                self.say(task, TaskReport::Rejected { kind, reason: reason.to_owned() });
            }
        }
    }
}

/// The record that a task with this deadline never starts.
pub(super) fn refusal((task, start_before): (TaskId, Timestamp), kind: RejectKind, reason: &str) -> Record {
    Record::Refused { task, kind, reason: reason.to_owned(), start_before }
}
