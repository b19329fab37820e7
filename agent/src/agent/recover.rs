//! What an earlier start of the agent left: its tasks are taken up where spool and journal say they are. A directory that
//! cannot be used costs its own task and no other.

use super::Agent;
use super::bury::lost;
use super::work::{Fate, Leave, Stage, Task, abandon_output};
use crate::clock::{Reading, Window};
use crate::journal::{Known, Record, State};
use crate::spool::{OutReader, TaskDir};
use muster_proto::id::TaskId;
use muster_proto::job::JobSpec;
use muster_proto::link::RejectKind;
use muster_proto::time::Timestamp;
use std::io;
use tracing::{error, warn};

/// What a directory in the spool is.
enum Found {
    /// Nobody waits for it.
    Remains,
    /// It waited for its turn.
    Waiting(Window),
    /// Its turn had come, and the agent ended before it had a supervisor.
    NotBegun(Window),
    /// It was started, or may have been.
    Began(Fate),
}

impl Agent {
    /// Takes up what an earlier start left in the spool.
    pub(super) fn recover(&mut self) -> io::Result<()> {
        let now = self.clock.read();
        for id in self.spool.tasks()? {
            let dir = self.spool.dir(id);
            let taken = match self.find(id, &dir, now) {
                Ok(Found::Remains) => dir.remove().or_else(|error| {
                    error!(%error, dir = %dir.path().display(), "cannot remove a task's directory: remove it by hand");
                    Ok(())
                }),
                Ok(Found::Waiting(window)) => {
                    self.wait(id, &dir, window);
                    Ok(())
                }
                Ok(Found::NotBegun(window)) => match self.journal.append(&[Record::NotBegun(id)], now.wall) {
                    Ok(()) => {
                        self.wait(id, &dir, window);
                        Ok(())
                    }
                    // Without a journal it cannot start: then it is lost as if it had begun.
                    Err(_) => self.adopt(id, dir.clone(), Fate::Reported),
                },
                Ok(Found::Began(fate)) => self.adopt(id, dir.clone(), fate),
                Err(damage) => Err(damage),
            };
            if let Err(damage) = taken {
                self.set_aside(id, dir, &damage);
            }
        }
        let missing = |(id, known): (TaskId, &Known)| {
            let held = known.committed || self.tasks.contains_key(&id);
            (!held && !matches!(known.state, State::Refused { .. })).then(|| (id, known.clone()))
        };
        let missing: Vec<_> = self.journal.tasks().filter_map(missing).collect();
        for (id, known) in missing {
            self.account_for(id, &known);
        }
        Ok(())
    }

    fn wait(&mut self, id: TaskId, dir: &TaskDir, window: Window) {
        self.tasks.insert(id, Task::new(dir.clone(), Stage::Waiting(window, Leave::AfterWelcome)));
        self.waiting.push_back(id);
    }

    fn find(&self, id: TaskId, dir: &TaskDir, now: Reading) -> io::Result<Found> {
        let known = self.journal.get(id).map(|known| (&known.state, known.committed, known.start_before));
        let aside = dir.is_set_aside();
        Ok(match known {
            Some((State::Intent | State::Received, false, _)) if aside => {
                return Err(io::Error::other("it was set aside at an earlier start"));
            }
            Some((State::Intent, false, start_before)) if dir.never_began()? => {
                Found::NotBegun(window(dir, start_before, now)?)
            }
            Some((State::Intent, false, _)) => Found::Began(Fate::Reported),
            // Of what is committed nobody hears, so its damage is nobody's concern.
            Some((State::Intent, true, _)) if matches!((dir.exit(), dir.supervisor_alive()), (Ok(None), Ok(true))) => {
                Found::Began(Fate::Forgotten)
            }
            Some((State::Received, false, start_before)) => Found::Waiting(window(dir, start_before, now)?),
            // A journal that was replaced: what ran is still worth reporting.
            None if !aside && (dir.started()? || dir.exit()?.is_some() || dir.supervisor_alive()?) => {
                Found::Began(Fate::Reported)
            }
            _ => Found::Remains,
        })
    }

    fn adopt(&mut self, id: TaskId, dir: TaskDir, fate: Fate) -> io::Result<()> {
        self.doorbell.watch(id, &dir)?;
        let mut task = Task::new(dir, Stage::Working { started: false, produced: 0, fate, burial: false });
        task.look()?;
        if fate == Fate::Forgotten {
            abandon_output(&task.dir);
        }
        let alive = match &mut task.stage {
            Stage::Working { produced, .. } => {
                let mut reader = OutReader::open(&task.dir)?;
                if let Err(error) = reader.exhaust() {
                    warn!(task = %id, %error, "what comes behind is lost");
                }
                *produced = reader.next_frame();
                // Asked after the bell watches: a death from here on rings.
                task.dir.supervisor_alive()?
            }
            Stage::Waiting(..) | Stage::Over { .. } => false,
        };
        self.tasks.insert(id, task);
        if !alive {
            self.bury(id);
        }
        Ok(())
    }

    /// The journal knows a task whose spool is gone.
    fn account_for(&mut self, id: TaskId, known: &Known) {
        let reason = "the agent's spool was removed";
        if known.state == State::Received {
            self.refuse_for_good(&[(id, known.start_before)], RejectKind::Refused, reason);
        } else {
            let exit = lost(reason.to_owned(), 0);
            self.tasks.insert(id, Task::new(self.spool.dir(id), Stage::Over { started: true, exit }));
        }
    }
}

/// Of a task that waited when the agent ended. How much of it is left is reckoned from the time of its order, and is never
/// more than was signed, wherever the clock was set meanwhile.
fn window(dir: &TaskDir, start_before: Timestamp, now: Reading) -> io::Result<Window> {
    let (spec, _) = dir.spec()?;
    let spec = JobSpec::decode(&spec.payload).map_err(io::Error::other)?;
    let came: Timestamp = dir.path().join("spec").metadata()?.modified()?.into();
    Ok(Window::open(now.wall.until(came + spec.deliver).min(spec.deliver), start_before, now))
}
