//! How the agent learns that a supervisor did something: inotify on the directories of its tasks.
//!
//! A supervisor holds `out` open for writing as long as it works, so the kernel tells of its death, too. Where a user
//! has no inotify instance left (128 by default, and every supervisor would like one), a timer makes the agent look.

use super::TaskDir;
use muster_proto::id::TaskId;
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Time between two looks where there is no inotify: 200 ms.
const LOOK_NANOSECONDS: i64 = 200_000_000;

/// Rings (its descriptor becomes readable) when one of the watched tasks has news.
#[derive(Debug)]
pub struct Doorbell {
    source: Source,
    watched: HashMap<TaskId, (i32, TaskDir)>,
    tasks: HashMap<i32, TaskId>,
}

#[derive(Debug)]
enum Source {
    Inotify(OwnedFd),
    Timer(OwnedFd),
}

/// What is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    /// `started`, `out` or `exit` may have changed.
    Changed,
    /// `out` was closed, and its lock is still held: look again a little later. The kernel tells of a close before it gives
    /// up the lock; and a task that runs as root may have opened and closed the file, which is no end.
    Doubtful,
    /// The supervisor no longer works on the task: there is an `exit`, or the task has to be buried
    /// ([`TaskDir::bury`]).
    Ended,
}

impl Source {
    fn timer() -> io::Result<Self> {
        Ok(Self::Timer(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?))
    }
}

impl Doorbell {
    /// Watches nothing yet. The descriptor does not block.
    pub fn new() -> io::Result<Self> {
        let source = match inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK) {
            Ok(inotify) => Source::Inotify(inotify),
            Err(_) => Source::timer()?,
        };
        Ok(Self { source, watched: HashMap::new(), tasks: HashMap::new() })
    }

    /// Rings for this task from now on. Look at the task once after this: what happened before does not ring.
    pub fn watch(&mut self, task: TaskId, dir: &TaskDir) -> io::Result<()> {
        let watch = match &self.source {
            Source::Inotify(inotify) => {
                let flags =
                    inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE;
                inotify::add_watch(inotify, dir.path(), flags)?
            }
            Source::Timer(_) => 0,
        };
        self.watched.insert(task, (watch, dir.clone()));
        self.tasks.insert(watch, task);
        // One that runs goes on: set anew by each of many tasks, it would never ring.
        if self.watched.len() == 1 { self.set_timer() } else { Ok(()) }
    }

    /// Rings no more for this task. Before [`TaskDir::remove`], so that nothing is remembered of it.
    pub fn unwatch(&mut self, task: TaskId) {
        let Some((watch, _)) = self.watched.remove(&task) else {
            return;
        };
        self.tasks.remove(&watch);
        if let Source::Inotify(inotify) = &self.source {
            let _ = inotify::remove_watch(inotify, watch);
        }
        if self.watched.is_empty() {
            // A timer that rings for nobody is a nuisance, no more.
            let _ = self.set_timer();
        }
    }

    /// The tasks that have news, each once; empty if the bell did not ring.
    pub fn drain(&mut self) -> io::Result<Vec<(TaskId, News)>> {
        let mut news: BTreeMap<TaskId, News> = BTreeMap::new();
        let look_at_all = match &self.source {
            Source::Timer(timer) => rustix::io::read(timer, &mut [0_u8; 8]).is_ok(),
            Source::Inotify(inotify) => read_events(inotify, |event| {
                // The agent's own word to the supervisor.
                let own = event.file_name().is_some_and(|name| name == c"acked");
                if let Some(task) = self.tasks.get(&event.wd()).filter(|_| !own) {
                    let gone = event.events().contains(inotify::ReadFlags::CLOSE_WRITE)
                        && event.file_name().is_some_and(|name| name == c"out");
                    let new = if gone { News::Ended } else { News::Changed };
                    let known = news.entry(*task).or_insert(new);
                    *known = new.max(*known);
                }
            })?,
        };
        for (task, new) in &mut news {
            if let (News::Ended, Some((_, dir))) = (&new, self.watched.get(task))
                && !matches!(dir.supervisor_alive(), Ok(false))
            {
                *new = News::Doubtful;
            }
        }
        if look_at_all {
            for (task, (_, dir)) in &self.watched {
                let gone = !dir.supervisor_alive().unwrap_or(false);
                news.insert(*task, if gone { News::Ended } else { News::Changed });
            }
        }
        Ok(news.into_iter().collect())
    }

    fn set_timer(&self) -> io::Result<()> {
        if let Source::Timer(timer) = &self.source {
            let nanoseconds = if self.watched.is_empty() { 0 } else { LOOK_NANOSECONDS };
            let interval = Timespec { tv_sec: 0, tv_nsec: nanoseconds };
            let spec = Itimerspec { it_interval: interval, it_value: interval };
            timerfd_settime(timer, TimerfdTimerFlags::empty(), &spec)?;
        }
        Ok(())
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Inotify(fd) | Source::Timer(fd) => fd.as_fd(),
        }
    }
}

/// Hands on all events there are. True if the kernel had to drop some.
fn read_events(inotify: &OwnedFd, mut hear: impl FnMut(&inotify::Event<'_>)) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    let mut overflow = false;
    loop {
        match reader.next() {
            Ok(event) => {
                overflow |= event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW);
                hear(&event);
            }
            Err(Errno::AGAIN) => return Ok(overflow),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::{Attempt, JobId};
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::fs::{FlockOperation, flock};
    use std::fs::{self, File};
    use std::io::Write as _;

    const TASK: TaskId = TaskId { job: JobId::from_bytes([0; 16]), target: 0, attempt: Attempt::FIRST };

    fn ring(bell: &mut Doorbell) -> Vec<(TaskId, News)> {
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&limit)).expect("it can wait");
        bell.drain().expect("it can be read")
    }

    #[test]
    fn both_kinds_ring_for_output_and_for_the_end() {
        let inotify = Doorbell::new().expect("a bell");
        let timer = Doorbell { source: Source::timer().expect("a timer"), ..Doorbell::new().expect("a bell") };
        for mut bell in [inotify, timer] {
            let temp = tempfile::tempdir().expect("a directory");
            let dir = TaskDir::at(temp.path());
            let mut out = File::create(temp.path().join("out")).expect("a file");
            flock(&out, FlockOperation::LockExclusive).expect("nobody has it");
            bell.watch(TASK, &dir).expect("it can be watched");
            assert_eq!(bell.drain().expect("it can be read"), []);
            out.write_all(b"x").expect("it can be written");
            assert_eq!(ring(&mut bell), [(TASK, News::Changed)]);
            out.write_all(b"x").expect("it can be written");
            drop(out);
            assert!(matches!(ring(&mut bell)[..], [(TASK, News::Ended | News::Doubtful)]));
            assert!(!dir.supervisor_alive().expect("it can be asked"));
            bell.unwatch(TASK);
            fs::write(temp.path().join("out"), b"y").expect("it can be written");
            assert_eq!(bell.drain().expect("it can be read"), []);
        }
    }

    /// The kernel drops events that are more than its queue holds: then every task is looked at.
    #[test]
    fn an_end_is_heard_of_though_the_kernel_dropped_it() {
        let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("Linux has it");
        let most: u32 = most.trim().parse().expect("a number");
        let mut bell = Doorbell::new().expect("a bell");
        let tasks: Vec<_> = (0..2)
            .map(|target| {
                let temp = tempfile::tempdir().expect("a directory");
                let out = File::create(temp.path().join("out")).expect("a file");
                flock(&out, FlockOperation::LockExclusive).expect("nobody has it");
                let task = TaskId { target, ..TASK };
                bell.watch(task, &TaskDir::at(temp.path())).expect("it can be watched");
                (task, temp, out)
            })
            .collect();
        // The kernel merges an event with one that is the same: so they take turns.
        for _ in 0..=most / 2 {
            for (.., out) in &tasks {
                (&*out).write_all(b"x").expect("it can be written");
            }
        }
        let [(first, _one, out), (second, _two, _held)] = <[_; 2]>::try_from(tasks).expect("two");
        drop(out);
        assert_eq!(ring(&mut bell), [(first, News::Ended), (second, News::Changed)]);
    }
}
