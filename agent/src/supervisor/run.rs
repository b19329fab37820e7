//! A program from its start to its end, seen from its supervisor.

use super::output::{Flow, Output};
use super::wake::{Wake, Woken, now};
use crate::process::{Children, Family, Launched};
use crate::spool::{Exit, Started, TaskDir};
use muster_proto::command::Command;
use muster_proto::event::Stream;
use muster_proto::limits;
use muster_proto::outcome::{End, EndKind};
use nix::sys::signal::Signal;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use std::fs::File;
use std::io::{self, Read as _};
use std::time::Duration;

/// After KILL even a process in the kernel should be gone; one that hangs in a dead file system may never be.
const KILL_PATIENCE: Duration = Duration::from_secs(30);
/// A daemon that the task left behind may write so long before its output breaks.
const DISCARD_MAX: Duration = Duration::from_hours(24);

/// Where the task stands.
enum Phase {
    /// The leader is alive, as far as we know, and may go on.
    Running,
    /// It was told to end.
    Ending { why: EndKind, since: Duration },
    /// It is over; its output is read until all have closed it, or until this moment.
    Lingering { kind: EndKind, until: Duration },
}

/// One program at work.
pub(super) struct Run<'a> {
    dir: &'a TaskDir,
    command: &'a Command,
    family: &'a Family,
    wake: Wake,
    /// Taken when the end is written; output is discarded from then on.
    output: Option<Output>,
    stdout: Option<File>,
    stderr: Option<File>,
    report: Option<File>,
    leader: Pid,
    leader_end: Option<EndKind>,
    /// Why it was never executed.
    failure: String,
    children: Children,
    began: Duration,
    ended: Duration,
    phase: Phase,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        dir: &'a TaskDir,
        command: &'a Command,
        family: &'a Family,
        launched: Launched,
        output: Output,
        wake: Wake,
    ) -> Self {
        let began = now();
        Self {
            dir,
            command,
            family,
            wake,
            output: Some(output),
            stdout: Some(launched.stdout),
            stderr: Some(launched.stderr),
            report: Some(launched.report),
            leader: launched.leader,
            leader_end: None,
            failure: String::new(),
            children: Children::Some,
            began,
            ended: began,
            phase: Phase::Running,
        }
    }

    /// Follows the program to its end, and its pipes to theirs.
    pub(super) fn run(mut self) -> io::Result<()> {
        while let Some(moment) = self.decide(now()) {
            self.wait(moment)?;
        }
        self.conclude()?;
        self.wake.forget_agent();
        let until = now() + DISCARD_MAX;
        while self.is_heard() && now() < until {
            self.wait(until)?;
        }
        self.family.dissolve();
        Ok(())
    }

    /// Does what is due and says how long nothing else will be; `None` once the task is over.
    fn decide(&mut self, now: Duration) -> Option<Duration> {
        let deadline = self.began + self.command.timeout;
        match &self.phase {
            Phase::Running => {
                if let Some(kind) = self.leader_end.take() {
                    // What was there before a cancel or a timeout counts.
                    return self.linger(kind, now);
                }
                if self.dir.is_cancelled() {
                    return self.end(EndKind::Cancelled, now);
                }
                if now >= deadline {
                    return self.end(EndKind::TimedOut, now);
                }
                Some(deadline)
            }
            Phase::Ending { why, since } => {
                if self.family.is_over(self.children) {
                    return self.linger(why.clone(), now);
                }
                let killing_since = *since + self.command.grace;
                if now < killing_since {
                    let age = now.saturating_sub(*since);
                    return Some(next_look(now, age).min(killing_since));
                }
                let age = now.saturating_sub(killing_since);
                if age >= KILL_PATIENCE {
                    let seconds = KILL_PATIENCE.as_secs();
                    let reason = format!("SIGKILL did not end all of its processes within {seconds} s");
                    return self.linger(EndKind::Lost(reason), now);
                }
                self.family.signal(Signal::SIGKILL);
                Some(next_look(now, age))
            }
            Phase::Lingering { until, .. } => (self.is_heard() && now < *until).then_some(*until),
        }
    }

    fn end(&mut self, why: EndKind, now: Duration) -> Option<Duration> {
        self.family.signal(Signal::SIGTERM);
        // One that is stopped acts on TERM only once it goes on.
        self.family.signal(Signal::SIGCONT);
        self.phase = Phase::Ending { why, since: now };
        self.decide(now)
    }

    fn linger(&mut self, kind: EndKind, now: Duration) -> Option<Duration> {
        self.read_report();
        self.hear_out(now);
        let kind = match std::mem::take(&mut self.failure) {
            none if none.is_empty() => kind,
            reason => EndKind::StartFailed(reason),
        };
        self.phase = Phase::Lingering { kind, until: now + limits::LINGER };
        self.decide(now)
    }

    /// Reads what the program had written by its end, even where it would have to wait if it still wrote. What comes
    /// behind that waits for its turn.
    fn hear_out(&mut self, now: Duration) {
        let Some(output) = &mut self.output else { return };
        output.hurry();
        for (pipe, stream) in [(&mut self.stdout, Stream::Stdout), (&mut self.stderr, Stream::Stderr)] {
            let Some(file) = pipe.as_ref() else { continue };
            // What is gathered already leaves the first frame less room.
            let frame = limits::OUTPUT_FRAME_BYTES_MAX as u64;
            let frames = 1 + rustix::io::ioctl_fionread(file).unwrap_or(0).div_ceil(frame);
            if (0..frames).any(|_| output.pump(stream, file, now) == Flow::Closed) {
                *pipe = None;
            }
        }
    }

    const fn is_heard(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    fn wait(&mut self, moment: Duration) -> io::Result<()> {
        let blocked = self.output.as_ref().is_some_and(Output::is_blocked);
        let [stdout, stderr] = [&self.stdout, &self.stderr].map(|pipe| pipe.as_ref().filter(|_| !blocked));
        let files = [stdout, stderr, self.report.as_ref()];
        let due = self.output.as_ref().and_then(Output::due);
        let moment = due.map_or(moment, |due| due.min(moment));
        let Woken { ready: [stdout, stderr, report], rang } = self.wake.wait(files, moment)?;
        let now = now();
        self.reap();
        // One that is written just now rings again.
        if let (true, Some(output), Ok(Some(acked))) = (rang, &mut self.output, self.dir.acked()) {
            output.acknowledge(acked);
        }
        if report {
            self.read_report();
        }
        for (ready, stream) in [(stdout, Stream::Stdout), (stderr, Stream::Stderr)] {
            let pipe = match stream {
                Stream::Stdout => &mut self.stdout,
                Stream::Stderr => &mut self.stderr,
            };
            if let (true, Some(file)) = (ready, pipe.as_ref()) {
                let flow = self.output.as_mut().map_or_else(|| discard(file), |output| output.pump(stream, file, now));
                if flow == Flow::Closed {
                    *pipe = None;
                }
            }
        }
        if let Some(output) = &mut self.output {
            output.write_due(now);
        }
        Ok(())
    }

    /// Takes the ends of all children: of the leader, and of orphans that came to us.
    fn reap(&mut self) {
        self.children = loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.leader => {
                    self.ended = now();
                    self.leader_end = Some(kind_of(status));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break Children::Some,
                Err(_) => break Children::None,
            }
        };
    }

    /// Hears from the child before it became the program: nothing if it did.
    fn read_report(&mut self) {
        let Some(report) = &mut self.report else {
            return;
        };
        match report.read_to_string(&mut self.failure) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            _ => self.report = None,
        }
        if self.failure.is_empty() {
            // On a full disk the start is told by the end.
            let _ = self.dir.write_started(Started { pid: self.leader.as_raw_nonzero().get().unsigned_abs() });
        }
    }

    /// Writes `exit`. The lock on `out` is held until it is there, or the agent would bury the task.
    fn conclude(&mut self) -> io::Result<()> {
        let kind = match std::mem::replace(&mut self.phase, Phase::Running) {
            Phase::Lingering { kind, .. } => kind,
            Phase::Running | Phase::Ending { .. } => EndKind::Lost("its supervisor lost track of it".to_owned()),
        };
        let Some(output) = self.output.take() else {
            return Ok(());
        };
        let (frames, _lock) = output.finish(|| self.dir.release_reserve());
        let duration = match kind {
            EndKind::StartFailed(_) => Duration::ZERO,
            _ => self.ended.saturating_sub(self.began),
        };
        let left_behind = self.children == Children::Some;
        let exit = Exit { frames, end: End { kind, duration }, left_behind };
        self.dir.write_exit(&exit).or_else(|_| {
            self.dir.release_reserve();
            self.dir.write_exit(&exit)
        })
    }
}

/// Soon at first, then less often.
fn next_look(now: Duration, age: Duration) -> Duration {
    now + (Duration::from_millis(10) + age / 8).min(Duration::from_secs(1))
}

fn kind_of(status: WaitStatus) -> EndKind {
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => EndKind::Exit(byte(code)),
        (None, signal) => EndKind::Signal(byte(signal.unwrap_or(0))),
    }
}

/// Reads and forgets, so that a daemon is not killed by SIGPIPE.
fn discard(mut pipe: &File) -> Flow {
    let mut buffer = [0; 4096];
    match pipe.read(&mut buffer) {
        Ok(0) => Flow::Closed,
        Ok(_) => Flow::Open,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Flow::Open,
        Err(_) => Flow::Closed,
    }
}
