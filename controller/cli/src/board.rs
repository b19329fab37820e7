//! What a follower of a ping knows, from its events alone: how every target answers, who is worst, and what all looks
//! at one host mean together.
//!
//! Pure: no time, no terminal, no network.

use crate::track::Track;
use muster_proto::event::{Event, EventKind};
use muster_proto::job::JobHost;
use muster_proto::outcome::{Outcome, State};
use muster_proto::ping::{
    Diagnosis, Failure, FailureKind, PingName, PingReport, Rtts, Sample, Sight, Summary, Tally, TargetName, diagnose,
};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

/// The targets of a ping with how they answer.
#[derive(Debug)]
pub struct Board {
    track: Track,
    /// One a target, from the first probe that was told on.
    probed: Vec<Probed>,
}

/// The probes of one target that were told one by one.
#[derive(Debug, Clone, Default)]
pub struct Probed {
    /// How many.
    pub sent: u32,
    /// How many were answered.
    pub received: u32,
    /// All round trips together.
    pub total: Duration,
    /// The newest.
    pub last: Option<Result<Duration, Failure>>,
    rtts: Rtts,
}

impl Probed {
    /// Takes one more.
    pub fn add(&mut self, sample: &Sample) {
        self.sent = self.sent.saturating_add(1);
        self.last = Some(sample.answer);
        if let Ok(rtt) = sample.answer {
            self.received = self.received.saturating_add(1);
            self.total += rtt;
            self.rtts.add(rtt);
        }
    }

    /// The mean round trip.
    pub fn mean(&self) -> Option<Duration> {
        self.total.checked_div(self.received)
    }
}

/// How a target is, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// It does not answer.
    Down,
    /// Nothing is known of it, and nothing will be.
    Unknown,
    /// Some probes are not answered.
    Lossy,
    /// All are.
    Up,
    /// Nothing was told of it yet.
    Waiting,
}

/// How a target stands, for one line of a table.
#[derive(Debug)]
pub struct Look<'a> {
    /// In one word.
    pub condition: Condition,
    /// Probes, and how many were answered.
    pub probes: (u32, u32),
    /// The newest round trip.
    pub last: Option<Duration>,
    /// All round trips.
    pub rtt: Option<Summary>,
    /// Why the newest probe has no answer.
    pub failure: Option<Failure>,
    /// How it ended.
    pub outcome: Option<&'a Outcome>,
}

/// What decides in which order targets are shown: the worst is the least.
type Rank = (Condition, Reverse<u32>, Reverse<Duration>);

impl Board {
    /// A ping of which nothing is known yet.
    pub const fn new(track: Track) -> Self {
        Self { track, probed: Vec::new() }
    }

    /// A ping as the controller knows it by now.
    pub fn of(hosts: &[JobHost]) -> Self {
        let mut track = Track::new(hosts.iter().map(|host| host.name.clone()).collect());
        track.catch_up(hosts);
        Self::new(track)
    }

    /// Takes an event into account.
    pub fn apply(&mut self, event: &Event) {
        self.track.apply(event);
        if let EventKind::Probed { target, sample } = &event.kind {
            if self.probed.is_empty() {
                self.probed.resize_with(self.track.names().len(), Probed::default);
            }
            if let Some(probed) = self.probed.get_mut(*target as usize) {
                probed.add(sample);
            }
        }
    }

    /// Who ended how.
    pub const fn track(&self) -> &Track {
        &self.track
    }

    /// The same, to be told of turns.
    pub const fn track_mut(&mut self) -> &mut Track {
        &mut self.track
    }

    /// What the targets are called.
    pub fn names(&self) -> &Rc<[TargetName]> {
        self.track.names()
    }

    /// The probes of a target that were told.
    pub fn probed(&self, place: usize) -> Option<&Probed> {
        self.probed.get(place)
    }

    /// How a target stands.
    pub fn look(&self, place: usize) -> Look<'_> {
        let (condition, ..) = self.rank(place);
        let probed = self.probed.get(place);
        let last = probed.and_then(|probed| probed.last);
        let outcome = self.track.outcome(place);
        let tally = outcome.and_then(tally);
        let probes = match (tally, probed) {
            (Some(tally), _) => (tally.sent, tally.received),
            (None, Some(probed)) => (probed.sent, probed.received),
            (None, None) => (0, 0),
        };
        Look {
            condition,
            probes,
            last: last.and_then(Result::ok),
            rtt: tally.map_or_else(|| probed?.rtts.summary(), |tally| tally.rtt),
            failure: last.and_then(Result::err),
            outcome,
        }
    }

    fn rank(&self, place: usize) -> Rank {
        let rank = |condition, sent: u32, received: u32, mean: Option<Duration>| {
            let lost = u64::from(sent.saturating_sub(received)) * 1_000;
            let permille = lost.checked_div(sent.into()).and_then(|lost| u32::try_from(lost).ok()).unwrap_or(0);
            let condition = if condition == Condition::Up && permille > 0 { Condition::Lossy } else { condition };
            (condition, Reverse(permille), Reverse(mean.unwrap_or_default()))
        };
        if let Some(outcome) = self.track.outcome(place) {
            let (sent, received, mean) = tally(outcome)
                .map_or((0, 0, None), |tally| (tally.sent, tally.received, tally.rtt.map(|rtt| rtt.mean)));
            return rank(sighting(outcome).into(), sent, received, mean);
        }
        match self.probed.get(place) {
            Some(probed @ Probed { last: Some(last), .. }) => {
                rank(glimpse(last).into(), probed.sent, probed.received, probed.mean())
            }
            _ => rank(Condition::Waiting, 0, 0, None),
        }
    }

    /// The places of the worst so many targets, the worst first.
    pub fn worst(&self, count: usize) -> Vec<usize> {
        let mut ranks: Vec<(Rank, usize)> = (0..self.names().len()).map(|place| (self.rank(place), place)).collect();
        if count < ranks.len() {
            ranks.select_nth_unstable(count);
            ranks.truncate(count);
        }
        ranks.sort_unstable();
        ranks.into_iter().map(|(_, place)| place).collect()
    }

    /// How many targets are in each condition, in the order of [`Condition`].
    pub fn conditions(&self) -> [usize; 5] {
        let mut counts = [0; 5];
        (0..self.names().len()).for_each(|place| counts[self.rank(place).0 as usize] += 1);
        counts
    }

    /// All targets with how they ended.
    pub fn ends(&self) -> impl Iterator<Item = (&TargetName, Option<&Outcome>)> {
        self.names().iter().enumerate().map(|(place, name)| (name, self.track.outcome(place)))
    }

    /// Hosts that answered, to whomever.
    pub fn alive(&self) -> usize {
        let answered = self.ends().filter(|(_, end)| end.is_some_and(|end| end.state == State::Succeeded));
        answered.map(|(name, _)| &name.host).collect::<HashSet<_>>().len()
    }
}

impl From<Sighting> for Condition {
    fn from(sighting: Sighting) -> Self {
        match sighting {
            Sighting::Alive => Self::Up,
            Sighting::Dead => Self::Down,
            Sighting::Nameless | Sighting::None => Self::Unknown,
        }
    }
}

/// What one look says of its host; what counts most is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sighting {
    /// Nothing: nobody looked, or what was seen is not known.
    None,
    /// Nobody looked, since its name stands for no address.
    Nameless,
    /// It does not answer.
    Dead,
    /// It answers.
    Alive,
}

/// What a look that ended so says of its host.
pub fn sighting(outcome: &Outcome) -> Sighting {
    let unresolved = || outcome.reason.as_deref() == Some(FailureKind::Unresolved.as_str());
    match outcome.state {
        State::Succeeded => Sighting::Alive,
        State::Failed => Sighting::Dead,
        State::StartFailed if unresolved() => Sighting::Nameless,
        _ => Sighting::None,
    }
}

/// What one probe that went so says of its host: whoever could not send, or lost the answer, has seen nothing.
pub fn glimpse(answer: &Result<Duration, Failure>) -> Sighting {
    match answer {
        Ok(_) => Sighting::Alive,
        Err(failure) if failure.kind.state() == State::Failed => Sighting::Dead,
        Err(_) => Sighting::None,
    }
}

/// The probes that count for a line: those by ICMP, unless only the agent's link answered.
pub fn tally(outcome: &Outcome) -> Option<&Tally> {
    let PingReport { icmp, link, .. } = outcome.ping.as_deref()?;
    let answered = |tally: &Option<Tally>| tally.is_some_and(|tally| tally.received > 0);
    if answered(icmp) || !answered(link) { icmp.as_ref().or(link.as_ref()) } else { link.as_ref() }
}

/// What all looks at each host mean together, where they do not agree; in the order of the list.
pub fn diagnoses<'a>(
    ends: impl Iterator<Item = (&'a TargetName, Option<&'a Outcome>)>,
) -> Vec<(&'a PingName, Diagnosis)> {
    let mut hosts: Vec<(&PingName, Vec<Sight<'_>>)> = Vec::new();
    let mut places: HashMap<&PingName, usize> = HashMap::new();
    for (name, outcome) in ends {
        let Some(outcome) = outcome else { continue };
        let place = *places.entry(&name.host).or_insert(hosts.len());
        if place == hosts.len() {
            hosts.push((&name.host, Vec::new()));
        }
        hosts[place].1.push(Sight { from: name.from.as_ref(), outcome });
    }
    hosts.iter().filter_map(|(host, sights)| Some((*host, diagnose(sights)?))).collect()
}

#[cfg(test)]
pub mod tests {
    //! Pings that can be made up in a line.

    use super::*;
    use muster_proto::ping::Contact;
    use muster_proto::time::Timestamp;

    /// A target by its name, as "web01" or "n1>web01".
    pub fn name(text: &str) -> TargetName {
        let (from, host) = text.split_once('>').map_or((None, text), |(from, host)| (Some(from), host));
        TargetName { from: from.map(|from| from.parse().expect("a name")), host: host.parse().expect("a name") }
    }

    /// A ping of these targets.
    pub fn board(names: &[&str]) -> Board {
        Board::new(Track::new(names.iter().map(|text| name(text)).collect()))
    }

    /// Something that happened at 10:00:00 UTC on 22 November 2026, and so many milliseconds.
    pub fn event(millis: i64, kind: EventKind) -> Event {
        Event { seq: 1, time: Timestamp::from_millis(1_795_341_600_000 + millis), kind }
    }

    /// One probe: a round trip in microseconds, or none.
    pub fn probed(target: u32, number: u32, micros: Option<u64>) -> EventKind {
        let answer = micros.map(Duration::from_micros).ok_or(Failure::NO_REPLY);
        EventKind::Probed { target, sample: Sample { number, answer } }
    }

    /// Probes with these round trips in microseconds.
    pub fn tally_of(sent: u32, micros: &[u64]) -> Tally {
        let mut rtts = Rtts::default();
        micros.iter().for_each(|micros| rtts.add(Duration::from_micros(*micros)));
        Tally { sent, received: rtts.count(), rtt: rtts.summary(), ..Tally::default() }
    }

    /// The end of a target by ICMP alone.
    pub fn ended(target: u32, sent: u32, micros: &[u64]) -> EventKind {
        let address = Some([10, 0, 0, u8::try_from(target + 1).expect("few")].into());
        finished(target, PingReport { address, icmp: Some(tally_of(sent, micros)), ..PingReport::default() })
    }

    /// Any end of a target.
    pub fn finished(target: u32, report: PingReport) -> EventKind {
        EventKind::Finished { target, outcome: report.outcome(None, Duration::from_millis(3)) }
    }

    /// The board after all of this.
    pub fn after(names: &[&str], kinds: impl IntoIterator<Item = EventKind>) -> Board {
        let mut board = board(names);
        kinds.into_iter().for_each(|kind| board.apply(&event(0, kind)));
        board
    }

    #[test]
    fn the_worst_come_first() {
        let board = after(
            &["fine", "dead", "lossy", "slow", "waiting", "lost-last"],
            [
                ended(0, 2, &[100, 100]),
                ended(1, 2, &[]),
                probed(2, 0, None),
                probed(2, 1, Some(90)),
                ended(3, 2, &[9_000, 9_000]),
                probed(5, 0, Some(100)),
                probed(5, 1, None),
            ],
        );
        assert_eq!(board.worst(9), [1, 5, 2, 3, 0, 4]);
        assert_eq!(board.worst(2), [1, 5]);
        assert_eq!(board.worst(0), [0; 0]);
        assert_eq!(board.conditions(), [2, 0, 1, 2, 1]);
    }

    #[test]
    fn who_could_not_look_calls_nobody_down() {
        let failed = |kind: FailureKind| {
            let sample = Sample { number: 0, answer: Err(kind.into()) };
            let outcome = PingReport::default().outcome(Some(kind.into()), Duration::ZERO);
            [EventKind::Probed { target: 0, sample }, EventKind::Finished { target: 0, outcome }]
        };
        for kind in FailureKind::ALL {
            let expected = if kind.state() == State::Failed { Condition::Down } else { Condition::Unknown };
            for kind in failed(kind) {
                assert_eq!(after(&["a"], [kind.clone()]).look(0).condition, expected, "{kind:?}");
            }
        }
    }

    #[test]
    fn a_look_has_what_was_told_and_at_last_what_was_measured() {
        let mut board = after(&["a"], [probed(0, 0, Some(100)), probed(0, 1, None)]);
        let look = board.look(0);
        assert_eq!((look.probes, look.last, look.failure), ((2, 1), None, Some(Failure::NO_REPLY)));
        assert_eq!(look.rtt.map(|rtt| rtt.max), Some(Duration::from_micros(100)));
        board.apply(&event(0, ended(0, 5, &[50, 60, 70])));
        let look = board.look(0);
        assert_eq!((look.probes, look.condition), ((5, 3), Condition::Lossy));
        assert_eq!(look.rtt.map(|rtt| rtt.max), Some(Duration::from_micros(70)));
    }

    #[test]
    fn a_host_that_only_its_agent_answers_for_is_alive_and_diagnosed() {
        let report = PingReport {
            icmp: Some(tally_of(1, &[])),
            link: Some(tally_of(1, &[300])),
            agent: Some(Contact::Connected),
            ..PingReport::default()
        };
        let board = after(&["web1", "web2", "n1>web2"], [finished(0, report), ended(1, 1, &[]), ended(2, 1, &[80])]);
        assert_eq!(board.look(0).rtt.map(|rtt| rtt.mean), Some(Duration::from_micros(300)));
        assert_eq!(board.alive(), 2);
        let found: Vec<String> = diagnoses(board.ends()).iter().map(|(host, what)| format!("{host}: {what}")).collect();
        assert_eq!(found, ["web1: agent ok, no ping", "web2: dead from the controller, alive from n1"]);
    }
}
