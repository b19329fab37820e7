//! What an earlier start of the agent left: its tasks are taken up where spool and journal say they are.

use super::clock::Window;
use super::work::{Fate, Leave, Stage, Task};
use super::{Agent, clock};
use crate::journal::{Known, State};
use crate::spool::{Exit, OutReader, TaskDir};
use muster_proto::id::TaskId;
use muster_proto::job::JobSpec;
use muster_proto::link::RejectKind;
use muster_proto::outcome::{End, EndKind};
use muster_proto::time::Timestamp;
use std::io;
use std::time::Duration;

impl Agent {
    /// Takes up what an earlier start left in the spool.
    pub(super) fn recover(&mut self) -> io::Result<()> {
        for id in self.spool.tasks()? {
            let dir = self.spool.dir(id);
            let known = self.journal.get(id).map(|known| (&known.state, known.committed, known.start_before));
            match known {
                Some((State::Intent, false, _)) => self.adopt(id, dir, Fate::Reported)?,
                Some((State::Intent, true, _)) if dir.exit()?.is_none() && dir.supervisor_alive()? => {
                    self.adopt(id, dir, Fate::Forgotten)?;
                }
                Some((State::Received, false, start_before)) => self.wait_again(id, dir, start_before)?,
                // A journal that was replaced: what ran is still worth reporting.
                None if dir.started()?.is_some() || dir.exit()?.is_some() || dir.supervisor_alive()? => {
                    self.adopt(id, dir, Fate::Reported)?;
                }
                _ => dir.remove()?,
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

    fn adopt(&mut self, id: TaskId, dir: TaskDir, fate: Fate) -> io::Result<()> {
        self.doorbell.watch(id, &dir)?;
        let mut task = Task::new(dir, Stage::Working { started: false, produced: 0, fate });
        task.look()?;
        if let Stage::Working { produced, .. } = &mut task.stage {
            let mut reader = OutReader::open(&task.dir)?;
            while reader.next()?.is_some() {}
            *produced = reader.next_frame();
        }
        // Asked after the bell watches: a death from here on rings.
        let alive = task.dir.supervisor_alive()?;
        self.tasks.insert(id, task);
        if !alive {
            self.bury(id);
        }
        Ok(())
    }

    /// A task that waited when the agent ended. How much of its window is left is reckoned from the time of its directory.
    fn wait_again(&mut self, id: TaskId, dir: TaskDir, start_before: Timestamp) -> io::Result<()> {
        let spec = dir.spec().and_then(|(spec, _)| JobSpec::decode(&spec.payload).map_err(io::Error::other))?;
        let came: Timestamp = dir.path().metadata()?.modified()?.into();
        let window = Window::open(clock::now().until(came + spec.deliver), start_before);
        self.tasks.insert(id, Task::new(dir, Stage::Waiting(window, Leave::AfterWelcome)));
        self.waiting.push_back(id);
        Ok(())
    }

    /// The journal knows a task whose spool is gone.
    fn account_for(&mut self, id: TaskId, known: &Known) {
        let reason = "the agent's spool was removed".to_owned();
        if known.state == State::Received {
            self.refuse_for_good(&[(id, known.start_before)], RejectKind::Refused, &reason);
        } else {
            let end = End { kind: EndKind::Lost(reason), duration: Duration::ZERO };
            let exit = Exit { frames: 0, end, left_behind: false };
            self.tasks.insert(id, Task::new(self.spool.dir(id), Stage::Over { started: true, exit }));
        }
    }
}
