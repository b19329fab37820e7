//! Tasks that are lost: their supervisor died before them, or their directory cannot be used.
//!
//! Killing what a supervisor left may take seconds. Each burial is done by a thread of its own, so that nobody else's task
//! waits for it; the agent hears of it in its loop.

use super::Agent;
use super::work::{Fate, Stage, Task};
use crate::journal::State;
use crate::spool::{Exit, TaskDir};
use muster_proto::id::TaskId;
use muster_proto::link::RejectKind;
use muster_proto::outcome::{End, EndKind};
use std::io;
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::error;

/// Burials that are done and not heard of. When they are that many, the threads wait.
const DONE: usize = 16;

/// The burials under way: at most one a working task.
pub(super) struct Burials {
    done: mpsc::Sender<(TaskId, io::Result<Exit>)>,
    heard: mpsc::Receiver<(TaskId, io::Result<Exit>)>,
}

impl Burials {
    /// None yet.
    pub(super) fn new() -> Self {
        let (done, heard) = mpsc::channel(DONE);
        Self { done, heard }
    }

    fn begin(&self, id: TaskId, dir: TaskDir) -> io::Result<()> {
        let done = self.done.clone();
        let burial = move || {
            // If the agent is gone, its next start finds what was written.
            let _ = done.blocking_send((id, dir.bury()));
        };
        thread::Builder::new().name("burial".to_owned()).spawn(burial).map(drop)
    }

    /// The next one that is done.
    pub(super) async fn next(&mut self) -> (TaskId, io::Result<Exit>) {
        self.heard.recv().await.expect("the other end is beside this one")
    }
}

impl Agent {
    /// Ends a task whose supervisor is gone without having written its end.
    pub(super) fn bury(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Stage::Working { burial, .. } = &mut task.stage else { return };
        if std::mem::replace(burial, true) {
            return;
        }
        let dir = task.dir.clone();
        if self.burials.begin(id, dir.clone()).is_err() {
            // No thread to be had: then everybody waits.
            self.on_burial(id, dir.bury());
        }
    }

    /// A burial is done.
    pub(super) fn on_burial(&mut self, id: TaskId, result: io::Result<Exit>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Stage::Working { started, produced, fate, burial } = &mut task.stage else { return };
        *burial = false;
        match result {
            Ok(_) => self.look(id),
            // Somebody held the lock: only for a moment, to see whether a supervisor lives, or it is one, which will ring.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => self.doubt(id),
            Err(error) => {
                error!(task = %id, %error, "cannot write the task's end");
                if *fate == Fate::Forgotten {
                    self.forget(id);
                    return;
                }
                task.stage = Stage::Over { started: *started, exit: lost(damaged(&error), *produced) };
                self.enqueue(id);
            }
        }
    }

    /// Takes a task out of the spool whose directory cannot be used, and reports it. People can look at the directory
    /// until the controller has that.
    pub(super) fn set_aside(&mut self, id: TaskId, dir: TaskDir, damage: &io::Error) {
        error!(task = %id, error = %damage, dir = %dir.path().display(), "a task's directory is damaged: it is set aside");
        if let Err(error) = dir.set_aside() {
            error!(task = %id, %error, "cannot rename a task's directory");
        }
        self.doorbell.unwatch(id);
        let exit = lost(damaged(damage), 0);
        self.tasks.insert(id, Task::new(dir, Stage::Over { started: true, exit }));
        let received = self.journal.get(id).filter(|known| known.state == State::Received);
        if let Some(start_before) = received.map(|known| known.start_before) {
            self.refuse_for_good(&[(id, start_before)], RejectKind::Refused, &damaged(damage));
        }
    }
}

fn damaged(error: &io::Error) -> String {
    format!("its spool is damaged: {error}")
}

/// An end that says that no end is known.
pub(super) fn lost(reason: String, frames: u64) -> Exit {
    Exit { frames, end: End { kind: EndKind::Lost(reason), duration: Duration::ZERO }, left_behind: false }
}
