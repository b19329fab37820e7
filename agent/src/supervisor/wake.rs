//! What a supervisor waits for besides its program's pipes: children, a cancel, and a moment.

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
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

/// How often to look for a cancel where the host has no inotify instance left (128 a user by default).
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Time since the host was started; goes on while it is suspended.
pub(super) fn now() -> Duration {
    clock_gettime(ClockId::Boottime).try_into().expect("the clock began at 0")
}

/// The descriptors that a supervisor polls.
pub(super) struct Wake {
    children: SignalFd,
    cancel: Option<OwnedFd>,
    timer: OwnedFd,
    set_to: Option<Duration>,
}

impl Wake {
    /// From here on no cancel and no child's end is missed.
    pub(super) fn new(dir: &TaskDir) -> io::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let children = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let watch = || -> Result<OwnedFd, Errno> {
            let cancel = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&cancel, dir.path(), inotify::WatchFlags::CREATE)?;
            Ok(cancel)
        };
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { children, cancel: watch().ok(), timer, set_to: None })
    }

    /// A cancel no longer means anything.
    pub(super) fn forget_cancel(&mut self) {
        self.cancel = None;
    }

    /// Waits until something happened, at most until `moment`. Says which of `files` can be read or were closed.
    pub(super) fn wait<const N: usize>(
        &mut self,
        files: [Option<&File>; N],
        moment: Duration,
        look_for_cancel: bool,
    ) -> io::Result<[bool; N]> {
        let look = look_for_cancel && self.cancel.is_none();
        self.set(if look { moment.min(now() + LOOK_INTERVAL) } else { moment })?;
        let own = [Some(self.children.as_fd()), Some(self.timer.as_fd()), self.cancel.as_ref().map(|fd| fd.as_fd())];
        let all = files.iter().map(|file| file.map(|file| file.as_fd())).chain(own);
        let mut polled: Vec<PollFd<'_>> = all.flatten().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut results = polled.iter().map(|fd| !fd.revents().is_empty());
        let ready = files.map(|file| file.is_some() && results.next().unwrap_or(false));
        // The rest only wakes: whoever is called looks at the facts themselves.
        for fd in
            [self.children.as_fd(), self.timer.as_fd()].into_iter().chain(self.cancel.as_ref().map(|fd| fd.as_fd()))
        {
            let mut buffer = [0; 1024];
            while rustix::io::read(fd, &mut buffer).is_ok_and(|count| count > 0) {}
        }
        Ok(ready)
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
