//! What a supervisor waits for besides its program's pipes: children, the agent's word, and a moment.

use crate::spool::TaskDir;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

/// How often to look for the agent's word where the host has no inotify instance left (128 a user by default).
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Time since the host was started; goes on while it is suspended.
pub(super) fn now() -> Duration {
    clock_gettime(ClockId::Boottime).try_into().expect("the clock began at 0")
}

/// The descriptors that a supervisor polls.
pub(super) struct Wake {
    children: SignalFd,
    bell: Bell,
    timer: OwnedFd,
    set_to: Option<Duration>,
}

/// How it is known that the agent wrote `cancel` or `acked`.
enum Bell {
    Inotify(OwnedFd),
    /// By looking again and again.
    None,
    /// Nothing that the agent could say means anything any more.
    Over,
}

/// What there is to do.
pub(super) struct Woken<const N: usize> {
    /// Which files can be read or were closed.
    pub(super) ready: [bool; N],
    /// The agent may have said something.
    pub(super) rang: bool,
}

impl Wake {
    /// From here on no word of the agent and no child's end is missed.
    pub(super) fn new(dir: &TaskDir) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let children = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let watch = || -> Result<OwnedFd, Errno> {
            let bell = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&bell, dir.path(), inotify::WatchFlags::CREATE)?;
            match inotify::add_watch(&bell, dir.path().join("acked"), inotify::WatchFlags::MODIFY) {
                Ok(_) | Err(Errno::NOENT) => Ok(bell),
                Err(error) => Err(error),
            }
        };
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { children, bell: watch().map_or(Bell::None, Bell::Inotify), timer, set_to: None })
    }

    /// The agent's word no longer means anything.
    pub(super) fn forget_agent(&mut self) {
        self.bell = Bell::Over;
    }

    /// Waits until something happened, at most until `moment`.
    pub(super) fn wait<const N: usize>(&mut self, files: [Option<&File>; N], moment: Duration) -> io::Result<Woken<N>> {
        let look = matches!(self.bell, Bell::None);
        self.set(if look { moment.min(now() + LOOK_INTERVAL) } else { moment })?;
        let bell = match &self.bell {
            Bell::Inotify(bell) => Some(bell.as_fd()),
            Bell::None | Bell::Over => None,
        };
        let own = [Some(self.children.as_fd()), Some(self.timer.as_fd()), bell];
        let all = files.iter().map(|file| file.map(|file| file.as_fd())).chain(own);
        let mut polled: Vec<PollFd<'_>> = all.flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut results = polled.iter().map(|fd| !fd.revents().is_empty());
        let ready = files.map(|file| file.is_some() && results.next().unwrap_or(false));
        let mut rang = look;
        // These only wake: whoever is called looks at the facts themselves.
        for (fd, _) in own.into_iter().flatten().zip(results).filter(|(_, ready)| *ready) {
            rang |= bell.is_some_and(|bell| bell.as_raw_fd() == fd.as_raw_fd());
            let mut buffer = [0; 1024];
            while rustix::io::read(fd, &mut buffer).is_ok_and(|count| count > 0) {}
        }
        Ok(Woken { ready, rang })
    }

    fn set(&mut self, moment: Duration) -> io::Result<()> {
        if self.set_to != Some(moment) {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let value = Timespec::try_from(moment).map_err(io::Error::other)?;
            let spec = Itimerspec { it_interval: zero, it_value: value };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)?;
            self.set_to = Some(moment);
        }
        Ok(())
    }
}
