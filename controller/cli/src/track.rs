//! What a follower knows of a job, from its events alone: who ended how, who runs, and who comes next.
//!
//! Pure: no time, no terminal, no network.

use muster_proto::event::{Event, EventKind, GateStep};
use muster_proto::job::{JobHost, Phase};
use muster_proto::outcome::{Counts, Outcome, State};
use muster_proto::ping::TargetName;
use muster_proto::time::Timestamp;
use std::borrow::Cow;
use std::rc::Rc;

/// What a target is called, without a copy where none is needed.
pub fn called(name: &TargetName) -> Cow<'_, str> {
    match name.from {
        None => Cow::Borrowed(name.host.as_str()),
        Some(_) => Cow::Owned(name.to_string()),
    }
}

/// When a follower has seen enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wait {
    /// All hosts ended
    All,
    /// One host ended
    First,
    /// One host did not succeed, or all ended
    FirstFailure,
    /// The job was accepted
    None,
}

/// In which order hosts are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// As they end, with their output as it comes
    Completion,
    /// As they stand in the target list, each at its end
    Target,
}

/// Which hosts are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Show {
    /// Those that did not succeed
    Failed,
    /// Those that succeeded
    Ok,
    /// All
    All,
}

impl Show {
    /// Whether a host that ended so is shown.
    pub fn includes(self, state: State) -> bool {
        match self {
            Self::Failed => state != State::Succeeded,
            Self::Ok => state == State::Succeeded,
            Self::All => true,
        }
    }
}

/// The hosts of a job in the order of its frozen list, with how far they are.
#[derive(Debug)]
pub struct Track {
    names: Rc<[TargetName]>,
    hosts: Vec<Host>,
    counts: Counts,
    running: usize,
    /// Hosts to which something was handed that has not ended: the command, or a gate.
    at_work: usize,
    queued: usize,
    wave: Option<u32>,
    paused: bool,
    done: bool,
    /// Hosts before this place had their turn (in the order of the list).
    turn: usize,
}

#[derive(Debug, Clone, Default)]
struct Host {
    /// Of the event before its program ran: none of its output is stored before that.
    start_seq: u64,
    at_work: bool,
    started: bool,
    queued_until: Option<Timestamp>,
    outcome: Option<Outcome>,
}

/// Why nothing happens by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// The job is paused.
    Paused,
    /// All hosts that are left are away, and queued.
    Queued,
}

impl Track {
    /// A job whose hosts have all yet to start.
    pub fn new(names: Rc<[TargetName]>) -> Self {
        Self {
            hosts: vec![Host::default(); names.len()],
            names,
            counts: Counts::default(),
            running: 0,
            at_work: 0,
            queued: 0,
            wave: None,
            paused: false,
            done: false,
            turn: 0,
        }
    }

    /// Takes an event into account; the same one twice is the same as once.
    pub fn apply(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Offered { target } => {
                if let Some(host) = self.hosts.get_mut(*target as usize).filter(|host| host.start_seq == 0) {
                    host.start_seq = event.seq;
                }
                self.offer(*target as usize);
            }
            EventKind::Started { target } => self.start(*target as usize),
            EventKind::Finished { target, outcome } => self.finish(*target as usize, outcome),
            EventKind::Retrying { target, .. } => self.idle(*target as usize),
            EventKind::Queued { target, until } => self.queue(*target as usize, Some(*until)),
            EventKind::Gate { target, step: GateStep::Finished { .. } } => self.work(*target as usize, false),
            EventKind::Gate { target, .. } => self.work(*target as usize, true),
            EventKind::Wave { number, .. } => self.wave = Some(*number),
            EventKind::Paused { .. } => self.paused = true,
            EventKind::Resumed { .. } | EventKind::Stopping { .. } | EventKind::Cancelling { .. } => {
                self.paused = false;
            }
            EventKind::Done { .. } => self.done = true,
            EventKind::Planned { .. }
            | EventKind::Accepted { .. }
            | EventKind::Output { .. }
            | EventKind::Truncated { .. }
            | EventKind::Probed { .. } => {}
        }
    }

    /// Takes over what the controller knows by now, for a follower who did not see all events.
    pub fn catch_up(&mut self, hosts: &[JobHost]) {
        for (place, host) in hosts.iter().enumerate() {
            match &host.outcome {
                Some(outcome) => self.finish(place, outcome),
                None if host.phase == Phase::Started => self.start(place),
                None if host.phase >= Phase::Offered => self.offer(place),
                None => self.queue(place, host.queued_until),
            }
        }
    }

    /// The job was paused before the first event that we see.
    pub const fn hold(&mut self) {
        self.paused = true;
    }

    fn offer(&mut self, place: usize) {
        if self.outcome(place).is_none() {
            self.queue(place, None);
            self.work(place, true);
        }
    }

    /// Something of a host is at work, or not any more; once it has ended that is its gate.
    fn work(&mut self, place: usize, at_work: bool) {
        if let Some(host) = self.hosts.get_mut(place).filter(|host| host.at_work != at_work) {
            host.at_work = at_work;
            self.at_work = if at_work { self.at_work + 1 } else { self.at_work - 1 };
        }
    }

    fn start(&mut self, place: usize) {
        if let Some(host) = self.hosts.get_mut(place).filter(|host| !host.started && host.outcome.is_none()) {
            host.started = true;
            self.running += 1;
            self.offer(place);
        }
    }

    /// Nothing of a host is at work any more, and it is not queued.
    fn idle(&mut self, place: usize) {
        if let Some(host) = self.hosts.get_mut(place) {
            self.running -= usize::from(std::mem::take(&mut host.started));
        }
        self.queue(place, None);
        self.work(place, false);
    }

    fn queue(&mut self, place: usize, until: Option<Timestamp>) {
        if let Some(host) = self.hosts.get_mut(place).filter(|host| host.outcome.is_none()) {
            self.queued -= usize::from(host.queued_until.is_some());
            self.queued += usize::from(until.is_some());
            host.queued_until = until;
        }
    }

    fn finish(&mut self, place: usize, outcome: &Outcome) {
        // A terminal state never changes.
        if self.hosts.get(place).is_some_and(|host| host.outcome.is_none()) {
            self.idle(place);
            self.hosts[place].outcome = Some(outcome.clone());
            self.counts.add(outcome.state);
        }
    }

    /// The names, in the order of the list.
    pub fn names(&self) -> &Rc<[TargetName]> {
        &self.names
    }

    /// How a host ended, once it has.
    pub fn outcome(&self, place: usize) -> Option<&Outcome> {
        self.hosts.get(place)?.outcome.as_ref()
    }

    /// The sequence number behind which all the output of a host is; 0 where nothing is known.
    pub fn start_seq(&self, place: usize) -> u64 {
        self.hosts.get(place).map_or(0, |host| host.start_seq)
    }

    /// Hosts that ended, by state.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Hosts whose program runs.
    pub const fn running(&self) -> usize {
        self.running
    }

    /// Hosts that are away, and for which nobody waits.
    pub const fn queued(&self) -> usize {
        self.queued
    }

    /// The wave that has begun, from 1; `None` where there are none.
    pub const fn wave(&self) -> Option<u32> {
        self.wave
    }

    /// The job offers nothing until it is resumed.
    pub const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Nothing was handed to any host that has not ended.
    pub const fn is_idle(&self) -> bool {
        self.at_work == 0
    }

    /// Why nothing more happens by itself, but for what is at work; `None` while something will.
    pub fn rest(&self) -> Option<Rest> {
        let pending = self.hosts.len() - self.counts.total() as usize;
        if self.done || self.running > 0 {
            None
        } else if self.paused {
            Some(Rest::Paused)
        } else if pending > 0 && pending == self.queued && self.at_work == 0 {
            Some(Rest::Queued)
        } else {
            None
        }
    }

    /// All hosts with how they ended; `None` is not done.
    pub fn ends(&self) -> impl Iterator<Item = (&TargetName, Option<State>)> {
        let states = self.hosts.iter().map(|host| host.outcome.as_ref().map(|outcome| outcome.state));
        self.names.iter().zip(states)
    }

    /// Names of the hosts that have yet to end.
    pub fn pending(&self) -> Vec<Cow<'_, str>> {
        self.ends().filter(|(_, state)| state.is_none()).map(|(name, _)| called(name)).collect()
    }

    /// Nothing more will happen.
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// The follower has seen what it waits for.
    pub fn is_enough(&self, wait: Wait) -> bool {
        let ended = self.counts.total();
        self.done
            || match wait {
                Wait::All => false,
                Wait::First => ended > 0,
                Wait::FirstFailure => ended > self.counts.get(State::Succeeded),
                Wait::None => true,
            }
    }

    /// The hosts whose turn has come since the last call, in the order of the list: all before them have ended, too.
    pub fn take_turns(&mut self) -> std::ops::Range<usize> {
        let ended = self.hosts[self.turn..].iter().take_while(|host| host.outcome.is_some()).count();
        let turns = self.turn..self.turn + ended;
        self.turn = turns.end;
        turns
    }

    /// The hosts that ended although others before them have not, once nobody waits any more.
    pub fn take_rest(&mut self) -> Vec<usize> {
        let rest = (self.turn..self.hosts.len()).filter(|place| self.hosts[*place].outcome.is_some()).collect();
        self.turn = self.hosts.len();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::Attempt;
    use muster_proto::name::HostName;

    fn track(count: usize) -> Track {
        Track::new((0..count).map(|n| TargetName::from(format!("n{n}").parse::<HostName>().expect("a name"))).collect())
    }

    fn apply(track: &mut Track, kind: EventKind) {
        track.apply(&Event { seq: 1, time: Timestamp::default(), kind });
    }

    fn finish(track: &mut Track, target: u32, state: State) {
        apply(track, EventKind::Finished { target, outcome: Outcome::without_run(state, "") });
    }

    #[test]
    fn hosts_are_counted_once() {
        let mut track = track(3);
        apply(&mut track, EventKind::Started { target: 1 });
        apply(&mut track, EventKind::Started { target: 1 });
        assert_eq!(track.running(), 1);
        for _ in 0..2 {
            finish(&mut track, 1, State::Succeeded);
            finish(&mut track, 1, State::Failed);
        }
        // A place that is not in the list is nobody's.
        finish(&mut track, 9, State::Failed);
        assert_eq!((track.running(), track.counts().total()), (0, 1));
        assert_eq!(track.counts().get(State::Succeeded), 1);
        assert_eq!(track.pending(), ["n0", "n2"]);
    }

    #[test]
    fn waiting_ends_when_it_should() {
        let mut track = track(3);
        let waits = [Wait::All, Wait::First, Wait::FirstFailure];
        let enough = |track: &Track| waits.map(|wait| track.is_enough(wait));
        assert_eq!(enough(&track), [false, false, false]);
        finish(&mut track, 2, State::Succeeded);
        assert_eq!(enough(&track), [false, true, false]);
        finish(&mut track, 0, State::Unreachable);
        assert_eq!(enough(&track), [false, true, true]);
        apply(&mut track, EventKind::Done { counts: Counts::default() });
        assert_eq!(enough(&track), [true, true, true]);
    }

    fn queued(target: u32) -> EventKind {
        EventKind::Queued { target, until: Timestamp::from_millis(1) }
    }

    #[test]
    fn a_paused_job_rests_once_nothing_runs() {
        let mut track = track(2);
        apply(&mut track, EventKind::Started { target: 0 });
        apply(&mut track, EventKind::Paused { operator: None, reason: "the gate failed".into() });
        assert_eq!(track.rest(), None);
        let outcome = Outcome::without_run(State::Failed, "");
        apply(&mut track, EventKind::Retrying { target: 0, attempt: Attempt(2), outcome, at: Timestamp::default() });
        assert_eq!((track.rest(), track.is_idle(), track.running()), (Some(Rest::Paused), true, 0));
        apply(&mut track, EventKind::Gate { target: 1, step: GateStep::Offered });
        assert!(!track.is_idle());
        let operator = "ada".parse().expect("a name");
        for over in [EventKind::Resumed { operator }, EventKind::Stopping { reason: "2 hosts failed".into() }] {
            apply(&mut track, EventKind::Paused { operator: None, reason: "the gate failed".into() });
            assert_eq!(track.rest(), Some(Rest::Paused));
            apply(&mut track, over);
            assert_eq!((track.rest(), track.is_paused()), (None, false));
        }
    }

    #[test]
    fn a_job_rests_when_all_that_are_left_are_queued() {
        let mut track = track(3);
        apply(&mut track, queued(0));
        apply(&mut track, queued(0));
        apply(&mut track, queued(2));
        assert_eq!((track.rest(), track.queued()), (None, 2));
        finish(&mut track, 1, State::Succeeded);
        assert_eq!(track.rest(), Some(Rest::Queued));
        apply(&mut track, EventKind::Offered { target: 0 });
        assert_eq!((track.rest(), track.queued()), (None, 1));
        finish(&mut track, 0, State::Succeeded);
        finish(&mut track, 2, State::Unreachable);
        assert_eq!((track.rest(), track.queued(), track.is_idle()), (None, 0, true));
    }

    #[test]
    fn turns_come_in_the_order_of_the_list() {
        let mut track = track(4);
        finish(&mut track, 1, State::Succeeded);
        assert_eq!(track.take_turns(), 0..0);
        finish(&mut track, 0, State::Succeeded);
        assert_eq!(track.take_turns(), 0..2);
        assert_eq!(track.take_turns(), 2..2);
        finish(&mut track, 3, State::Succeeded);
        assert_eq!(track.take_turns(), 2..2);
        assert_eq!(track.take_rest(), [3]);
        assert!(track.take_rest().is_empty());
    }
}
