//! What a follower knows of a job, from its events alone: who ended how, who runs, and who comes next.
//!
//! Pure: no time, no terminal, no network.

use muster_proto::event::{Event, EventKind};
use muster_proto::job::{JobHost, Phase};
use muster_proto::outcome::{Counts, Outcome, State};
use muster_proto::ping::TargetName;
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
    done: bool,
    /// Hosts before this place had their turn (in the order of the list).
    turn: usize,
}

#[derive(Debug, Clone, Default)]
struct Host {
    /// Of the event before its program ran: none of its output is stored before that.
    start_seq: u64,
    started: bool,
    outcome: Option<Outcome>,
}

impl Track {
    /// A job whose hosts have all yet to start.
    pub fn new(names: Rc<[TargetName]>) -> Self {
        let hosts = vec![Host::default(); names.len()];
        Self { names, hosts, counts: Counts::default(), running: 0, done: false, turn: 0 }
    }

    /// Takes an event into account; the same one twice is the same as once.
    pub fn apply(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Offered { target } => {
                if let Some(host) = self.hosts.get_mut(*target as usize).filter(|host| host.start_seq == 0) {
                    host.start_seq = event.seq;
                }
            }
            EventKind::Started { target } => self.start(*target as usize),
            EventKind::Finished { target, outcome } => self.finish(*target as usize, outcome),
            EventKind::Done { .. } => self.done = true,
            EventKind::Planned { .. }
            | EventKind::Accepted { .. }
            | EventKind::Output { .. }
            | EventKind::Truncated { .. }
            | EventKind::Probed { .. }
            | EventKind::Cancelling { .. } => {}
        }
    }

    /// Takes over what the controller knows by now, for a follower who did not see all events.
    pub fn catch_up(&mut self, hosts: &[JobHost]) {
        for (place, host) in hosts.iter().enumerate() {
            if host.phase == Phase::Started {
                self.start(place);
            }
            if let Some(outcome) = &host.outcome {
                self.finish(place, outcome);
            }
        }
    }

    fn start(&mut self, place: usize) {
        if let Some(host) = self.hosts.get_mut(place).filter(|host| !host.started && host.outcome.is_none()) {
            host.started = true;
            self.running += 1;
        }
    }

    fn finish(&mut self, place: usize, outcome: &Outcome) {
        // A terminal state never changes.
        if let Some(host) = self.hosts.get_mut(place).filter(|host| host.outcome.is_none()) {
            self.running -= usize::from(host.started);
            host.outcome = Some(outcome.clone());
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
    use muster_proto::name::HostName;
    use muster_proto::time::Timestamp;

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
