//! One task's way to the controller: started, frames from where the controller is, the end. A window of bytes that are
//! not acknowledged keeps one flood from filling everybody's buffers. Where all output is kept, the supervisor is told
//! what was acknowledged.

use super::Agent;
use crate::spool::{Acked, Exit, Mark, OutReader, TaskDir};
use muster_proto::id::TaskId;
use muster_proto::link::{Frame, FrameBody, FromAgent, TaskReport};
use muster_proto::outcome::{End, EndKind};
use std::collections::VecDeque;
use std::io;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::error;

/// Bytes of one task that may be under way without being acknowledged.
const WINDOW_BYTES: usize = 4 << 20;
/// Frames of one task that may be, however small.
const WINDOW_FRAMES: usize = 1024;

/// The supervisor is told of what was acknowledged in steps of so many bytes: far less than what makes it block.
const STEP_BYTES: u64 = 1 << 20;

/// What this session has told of one task.
#[derive(Debug)]
pub(super) struct Shipment {
    next: u64,
    reader: Option<OutReader>,
    /// Places behind frames that are not acknowledged, and the frames' bytes.
    in_flight: VecDeque<(Mark, usize)>,
    in_flight_bytes: usize,
    /// How far the supervisor knows of it: a place in the file.
    known: u64,
    told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Started,
    End,
}

impl Shipment {
    /// Begins with this frame.
    pub(super) fn resume(next: u64) -> Self {
        let in_flight = VecDeque::new();
        Self { next, reader: None, in_flight, in_flight_bytes: 0, known: 0, told: Told::Nothing }
    }

    /// Number of the frame that comes next.
    pub(super) const fn next_frame(&self) -> u64 {
        self.next
    }

    /// All frames before this one are durable at the controller.
    pub(super) fn ack(&mut self, dir: &TaskDir, next_frame: u64) {
        let mut acked = None;
        while let Some(&(mark, bytes)) = self.in_flight.front().filter(|(mark, _)| mark.frame <= next_frame) {
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
            acked = Some(mark);
        }
        if let Some(before) = acked.filter(|mark| mark.position - self.known >= STEP_BYTES) {
            self.give_back(dir, before);
        }
    }

    /// Tells the supervisor that the controller has all before this place.
    fn give_back(&mut self, dir: &TaskDir, before: Mark) {
        match dir.acknowledge(Acked { before, abandoned: false }) {
            Ok(()) => self.known = before.position,
            Err(error) => error!(%error, dir = %dir.path().display(), "cannot tell a supervisor to go on"),
        }
    }

    /// What is to be told next; `None` until there is news or an acknowledgement. `started` is what the spool says; on a
    /// full disk it may not say so of a program that ran: its output and its end do.
    pub(super) fn next(&mut self, dir: &TaskDir, started: bool, exit: Option<&Exit>) -> Option<TaskReport> {
        match self.told {
            Told::End => return None,
            Told::Nothing if started || exit.is_some_and(ran) || dir.has_output() => {
                self.told = Told::Started;
                return Some(TaskReport::Started);
            }
            Told::Nothing | Told::Started => {}
        }
        if self.in_flight_bytes >= WINDOW_BYTES || self.in_flight.len() >= WINDOW_FRAMES {
            return None;
        }
        // The end is written after the last frame: what cannot be read once it is known will never come.
        match (self.frame(dir, exit), exit) {
            (Ok(Some(frame)), _) => Some(TaskReport::Frame(frame)),
            (Ok(None), None) => None,
            (Ok(None), Some(exit)) if self.next == exit.frames => Some(self.end(exit.end.clone())),
            (Ok(None), Some(exit)) => {
                let reason = format!("output was lost on the host after frame {} of {}", self.next, exit.frames);
                Some(self.lost(exit, reason))
            }
            (Err(error), exit) => {
                error!(%error, dir = %dir.path().display(), "cannot read output");
                Some(self.lost(exit?, format!("output cannot be read on the host: {error}")))
            }
        }
    }

    fn frame(&mut self, dir: &TaskDir, exit: Option<&Exit>) -> io::Result<Option<Frame>> {
        if exit.is_some_and(|exit| self.next >= exit.frames) {
            return Ok(None);
        }
        let reader = match &mut self.reader {
            Some(reader) => reader,
            empty => {
                let mut reader = OutReader::open(dir)?;
                reader.seek(self.next)?;
                let mark = reader.mark();
                *empty = Some(reader);
                // It may have waited for an acknowledgement that was lost with an earlier session.
                if exit.is_none() {
                    self.give_back(dir, mark);
                }
                self.reader.as_mut().expect("it was put there")
            }
        };
        let frame = reader.next()?;
        if let Some(frame) = &frame {
            let bytes = match &frame.body {
                FrameBody::Data { data, .. } => data.len(),
                FrameBody::Truncated { .. } => 0,
            };
            self.in_flight.push_back((reader.mark(), bytes));
            self.in_flight_bytes += bytes;
            self.next = frame.number + 1;
        }
        Ok(frame)
    }

    /// Tells an end whose output is not whole. What is lost for another reason stays so.
    fn lost(&mut self, exit: &Exit, reason: String) -> TaskReport {
        let kind = match &exit.end.kind {
            lost @ EndKind::Lost(_) => lost.clone(),
            _ => EndKind::Lost(reason),
        };
        self.end(End { kind, duration: exit.end.duration })
    }

    fn end(&mut self, end: End) -> TaskReport {
        self.told = Told::End;
        self.reader = None;
        TaskReport::Exited { frames: self.next, end }
    }
}

/// The program was executed, whatever came of it.
const fn ran(exit: &Exit) -> bool {
    match exit.end.kind {
        EndKind::Exit(_) | EndKind::Signal(_) | EndKind::TimedOut | EndKind::Cancelled => true,
        EndKind::StartFailed(_) | EndKind::Lost(_) => exit.frames > 0,
    }
}

impl Agent {
    /// Queues an answer, if anybody is there to hear it: who comes later asks.
    pub(super) fn say(&mut self, task: TaskId, report: TaskReport) {
        if self.link.is_some() {
            self.outbox.push_back(FromAgent::Task(task, report));
        }
    }

    /// The task may have something to report.
    pub(super) fn enqueue(&mut self, id: TaskId) {
        if self.link.is_some()
            && let Some(task) = self.tasks.get_mut(&id)
            && task.queue()
        {
            self.ready.push_back(id);
        }
    }

    pub(super) fn on_ack(&mut self, id: TaskId, next_frame: u64) {
        if let Some(task) = self.tasks.get_mut(&id)
            && let Some(shipment) = &mut task.shipment
        {
            shipment.ack(&task.dir, next_frame);
            self.enqueue(id);
        }
    }

    /// Hands the session as much as it takes: answers first, then findings, whose number the rate of probes bounds, then
    /// one report a task in turn. Returns the channel to wait for if there is more than it took.
    pub(super) fn pump(&mut self) -> Option<mpsc::Sender<FromAgent>> {
        let link = self.link.clone()?;
        let now = Instant::now();
        while !(self.outbox.is_empty() && self.ready.is_empty()) || self.sweeps.is_due(now) {
            let permit = match link.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => return self.link.clone(),
                // The session is over and about to say so.
                Err(mpsc::error::TrySendError::Closed(())) => {
                    self.on_down();
                    return None;
                }
            };
            if let Some(message) = self.outbox.pop_front().or_else(|| self.sweeps.next(now)) {
                permit.send(message);
            } else if let Some(id) = self.ready.pop_front()
                && let Some(report) = self.tasks.get_mut(&id).and_then(super::work::Task::report)
            {
                permit.send(FromAgent::Task(id, report));
                self.enqueue(id);
            }
        }
        None
    }
}

/// Waits until the session takes something again, or is over.
pub(super) async fn reserve(link: Option<&mpsc::Sender<FromAgent>>) {
    if let Some(link) = link {
        // Both ways there is something to look at.
        let _ = link.reserve().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    /// A task's directory with this `out` and nothing else.
    fn task(out: &[u8]) -> (tempfile::TempDir, TaskDir) {
        let temp = tempfile::tempdir().expect("a directory");
        fs::write(temp.path().join("out"), out).expect("written");
        let dir = TaskDir::at(temp.path());
        (temp, dir)
    }

    fn exit(frames: u64, kind: EndKind) -> Exit {
        Exit { frames, end: End { kind, duration: Duration::ZERO }, left_behind: false }
    }

    fn tell(dir: &TaskDir, exit: Option<&Exit>) -> Vec<TaskReport> {
        let mut shipment = Shipment::resume(0);
        std::iter::from_fn(|| shipment.next(dir, false, exit)).collect()
    }

    #[test]
    fn what_ran_started_whatever_the_full_disk_says() {
        let (_temp, dir) = task(b"\x01\x01\0\0\0x");
        let reports = tell(&dir, None);
        assert!(matches!(reports[..], [TaskReport::Started, TaskReport::Frame(_)]), "{reports:?}");
        let (_temp, dir) = task(b"");
        assert_eq!(tell(&dir, None), []);
        for kind in [EndKind::Exit(0), EndKind::Signal(9), EndKind::TimedOut, EndKind::Cancelled] {
            let reports = tell(&dir, Some(&exit(0, kind)));
            assert!(matches!(reports[..], [TaskReport::Started, TaskReport::Exited { .. }]), "{reports:?}");
        }
        let reports = tell(&dir, Some(&exit(0, EndKind::StartFailed("no such user".to_owned()))));
        assert!(matches!(reports[..], [TaskReport::Exited { .. }]), "{reports:?}");
    }

    #[test]
    fn what_was_lost_says_why_first_of_all() {
        let (_temp, dir) = task(b"");
        let mut shipment = Shipment::resume(7);
        let damaged = EndKind::Lost("its spool is damaged".to_owned());
        let report = shipment.next(&dir, false, Some(&exit(0, damaged.clone())));
        assert!(matches!(report, Some(TaskReport::Exited { frames: 7, end }) if end.kind == damaged));
        let reports = tell(&dir, Some(&exit(3, EndKind::Exit(0))));
        let Some(TaskReport::Exited { frames: 0, end: End { kind: EndKind::Lost(reason), .. } }) = reports.last()
        else {
            panic!("{reports:?}");
        };
        assert_eq!(reason, "output was lost on the host after frame 0 of 3");
    }
}
