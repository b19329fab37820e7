//! What becomes of the pairs of a schedule, round by round: up or down, since when, and how well.
//!
//! A pair is up when a round had an answer from it and down when a round had none. A round that can say neither (the
//! agent that was to look was away, replies were dropped here) makes it unknown, and unknown time is not known time: it
//! counts neither for nor against a host. Each round speaks for the time until the next, so that a gap counts for
//! nothing either. All changes are counted, but few are kept of each pair, so that one that flaps, or an agent that lies,
//! cannot fill the store; those that are kept alternate.
//!
//! ```text
//! rounds ──fold──▶ changes (at once)  +  sums of 10 minutes (an interval)  ──add──▶ standings
//! ```

use muster_proto::name::OperatorName;
use muster_proto::outcome::{Outcome, State};
use muster_proto::ping::{Change, Found, Interval, Known, PairInterval, PingList, Standing, TargetName};
use muster_proto::time::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Changes of a pair that are kept in the time of an interval. A state that lasts is told in the next.
const CHANGES_KEPT: u8 = 4;

/// The pairs of a schedule, as its rounds so far have it. A clone is cheap enough for every round.
#[derive(Debug, Clone)]
pub struct Watch {
    schedule: OperatorName,
    every: Duration,
    /// The list of the last round; `None` after a restart.
    list: Option<Arc<PingList>>,
    /// The pairs that are watched, in the order of the list; behind them those that left the list in this interval.
    names: Arc<[TargetName]>,
    watched: usize,
    seats: Vec<Seat>,
    /// Of the interval that the sums are of. It never goes back, whatever the clock does: what is stored stays.
    start: Timestamp,
    /// Of the interval that the clock was in at the last round.
    clock: Timestamp,
}

/// Where a pair stands.
#[derive(Debug, Clone, Default)]
struct Seat {
    found: Found,
    known: Option<Known>,
    /// The newest change that is kept says that it is down.
    told_down: bool,
    /// Changes kept since the clock came to its interval.
    kept: u8,
    /// The last round could not say: since when this is so, and why.
    blind: Option<(Timestamp, Option<String>)>,
}

/// What there is to make durable after a round.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Folded {
    /// Who went up or down, as far as that is kept.
    pub changes: Vec<Change>,
    /// The interval that is over by now; and the new one with every change in it, and where pairs are known that never
    /// were before, so that a crash leaves nothing that contradicts itself.
    pub intervals: Vec<Interval>,
}

/// When a pair of a round ended, and how; `None` if it did not.
pub type Ended = Option<(Timestamp, Outcome)>;

impl Watch {
    /// A schedule without a round.
    pub fn new(schedule: OperatorName, every: Duration, now: Timestamp) -> Self {
        let (names, start) = (Arc::default(), Interval::of(now));
        Self { schedule, every, list: None, names, watched: 0, seats: Vec::new(), start, clock: start }
    }

    /// A schedule as it was stored: its newest interval.
    pub fn restore(self, newest: Interval) -> Self {
        let start = newest.start.max(self.start);
        let goes_on = newest.start == start;
        let (names, seats): (Vec<_>, Vec<_>) = { newest.pairs }
            .into_iter()
            .map(|PairInterval { name, found, known, told_down }| {
                let found = if goes_on { found } else { Found::default() };
                (name, Seat { found, known, told_down, ..Seat::default() })
            })
            .unzip();
        Self { watched: names.len(), names: names.into(), seats, start, ..self }
    }

    /// The same with another time from one round to the next.
    pub fn every(self, every: Duration) -> Self {
        Self { every, ..self }
    }

    /// Takes a round over, which looked at this list; `ended` has its pairs in the list's order.
    pub fn fold(&mut self, list: &Arc<PingList>, ended: &[Ended], now: Timestamp) -> Folded {
        let mut intervals = Vec::from_iter(self.turn(now));
        self.take_list(list);
        let known = |seats: &[Seat]| seats.iter().filter(|seat| seat.known.is_some()).count();
        let (before, mut changes) = (known(&self.seats), Vec::new());
        for ((seat, name), ended) in self.seats.iter_mut().zip(self.names.iter()).zip(ended) {
            if let Some((at, outcome)) = ended {
                seat.take(*at, outcome, self.every);
            }
            if let Some(Known { up, since, reason }) = seat.tell() {
                let TargetName { from, host } = name.clone();
                changes.push(Change { schedule: self.schedule.clone(), from, host, at: since, up, reason });
            }
        }
        if !changes.is_empty() || known(&self.seats) > before {
            intervals.extend(self.interval());
        }
        Folded { changes, intervals }
    }

    /// Begins a new interval if it is time.
    fn turn(&mut self, now: Timestamp) -> Option<Interval> {
        let start = Interval::of(now);
        if start != self.clock {
            self.clock = start;
            self.seats.iter_mut().for_each(|seat| seat.kept = 0);
        }
        if start <= self.start {
            return None;
        }
        let over = self.interval();
        self.start = start;
        self.seats.truncate(self.watched);
        self.names = self.names[..self.watched].into();
        self.seats.iter_mut().for_each(|seat| seat.found = Found::default());
        over
    }

    /// The interval so far; `None` if there is nothing in it.
    pub fn interval(&self) -> Option<Interval> {
        let pair = |(name, seat): (&TargetName, &Seat)| PairInterval {
            name: name.clone(),
            found: seat.found,
            known: seat.known.clone(),
            told_down: seat.told_down,
        };
        let empty = self.seats.iter().all(|seat| seat.found == Found::default() && seat.kept == 0);
        let pairs = || self.names.iter().zip(&self.seats).map(pair).collect();
        (!empty).then(|| Interval { start: self.start, pairs: pairs() })
    }

    /// Pairs stay where they were; new ones begin, and those that are no longer in the list go behind the others.
    fn take_list(&mut self, list: &Arc<PingList>) {
        if self.list.as_ref() == Some(list) {
            return;
        }
        let mut seats: HashMap<TargetName, Seat> = self.names.iter().cloned().zip(self.seats.drain(..)).collect();
        let mut names: Vec<_> = list.pairs().iter().map(|pair| list.name(*pair)).collect();
        self.watched = names.len();
        self.seats = names.iter().map(|name| seats.remove(name).unwrap_or_default()).collect();
        for name in self.names.iter() {
            if let Some(left) = seats.remove(name) {
                names.push(name.clone());
                self.seats.push(left);
            }
        }
        self.names = names.into();
        self.list = Some(Arc::clone(list));
    }

    /// The clock was set back: rounds are added to the newest interval until it comes there again.
    pub fn is_ahead(&self, now: Timestamp) -> bool {
        Interval::of(now) < self.start
    }

    /// How many pairs are up, down, and unknown.
    pub fn counts(&self) -> [u64; 3] {
        let mut counts = [0; 3];
        for seat in &self.seats[..self.watched] {
            counts[match seat.up() {
                Some(true) => 0,
                Some(false) => 1,
                None => 2,
            }] += 1;
        }
        counts
    }

    /// Pairs that are watched.
    pub const fn len(&self) -> usize {
        self.watched
    }

    /// There is none, since there was no round.
    pub const fn is_empty(&self) -> bool {
        self.watched == 0
    }
}

impl Seat {
    fn up(&self) -> Option<bool> {
        if self.blind.is_some() { None } else { self.known.as_ref().map(|known| known.up) }
    }

    /// Takes what one round says. That a host answers when it is first looked at is no change.
    fn take(&mut self, at: Timestamp, outcome: &Outcome, every: Duration) {
        self.count(outcome);
        let up = match outcome.state {
            State::Succeeded => true,
            State::Failed => false,
            _ => {
                let since = self.blind.as_ref().map_or(at, |(since, _)| *since);
                self.blind = Some((since, outcome.reason.clone()));
                return;
            }
        };
        self.blind = None;
        self.found.known_time += every;
        self.found.up_time += if up { every } else { Duration::ZERO };
        let was = self.known.as_ref().map(|known| known.up);
        if was != Some(up) {
            self.known = Some(Known { up, since: at, reason: outcome.reason.clone().filter(|_| !up) });
        }
        if was.unwrap_or(true) != up {
            self.found.flaps = self.found.flaps.saturating_add(1);
        }
    }

    /// How the pair is, if the newest change that is kept says otherwise and one more may be kept.
    fn tell(&mut self) -> Option<Known> {
        let known = self.known.as_ref().filter(|known| known.up == self.told_down && self.kept < CHANGES_KEPT)?;
        self.told_down = !known.up;
        self.kept += 1;
        Some(known.clone())
    }

    /// Of two ways the one that was answered counts; by ICMP, if both or none were.
    fn count(&mut self, outcome: &Outcome) {
        let Some(report) = &outcome.ping else { return };
        let answered = [report.icmp, report.link].into_iter().flatten().find(|tally| tally.received > 0);
        let Some(tally) = answered.or(report.icmp).or(report.link) else { return };
        self.found.sent += u64::from(tally.sent);
        self.found.received += u64::from(tally.received.min(tally.sent));
        if let Some(rtt) = tally.rtt {
            self.found.rtt_sum = self.found.rtt_sum.saturating_add(rtt.mean.saturating_mul(tally.received));
            self.found.rtt_max = self.found.rtt_max.max(rtt.max);
        }
    }
}

/// Intervals of a schedule added up, for its standings.
pub struct History {
    watch: Arc<Watch>,
    totals: Vec<Total>,
}

#[derive(Clone, Default)]
struct Total {
    found: Found,
    worst_loss_permille: u32,
}

impl Total {
    fn add(&mut self, found: &Found) {
        let total = &mut self.found;
        total.sent = total.sent.saturating_add(found.sent);
        total.received = total.received.saturating_add(found.received);
        total.rtt_sum = total.rtt_sum.saturating_add(found.rtt_sum);
        total.rtt_max = total.rtt_max.max(found.rtt_max);
        total.up_time = total.up_time.saturating_add(found.up_time);
        total.known_time = total.known_time.saturating_add(found.known_time);
        total.flaps = total.flaps.saturating_add(found.flaps);
        let lost = found.sent.saturating_sub(found.received).saturating_mul(1_000);
        let permille = lost.checked_div(found.sent).unwrap_or(0);
        self.worst_loss_permille = self.worst_loss_permille.max(u32::try_from(permille).unwrap_or(1_000));
    }
}

impl History {
    /// Begins with what is not stored as it is now, the interval that is not over, unless all of it was before `since`.
    pub fn new(watch: Arc<Watch>, since: Timestamp) -> Self {
        let mut totals = vec![Total::default(); watch.watched];
        if watch.start + Interval::SPAN > since {
            totals.iter_mut().zip(&watch.seats).for_each(|(total, seat)| total.add(&seat.found));
        }
        Self { watch, totals }
    }

    /// Adds intervals that are stored, each once. What is stored of the one that is not over is left out.
    pub fn add(&mut self, intervals: &[Interval]) {
        let names = &self.watch.names[..self.watch.watched];
        // Made when it is first needed: most often all intervals have the same pairs.
        let mut places: Option<HashMap<&TargetName, usize>> = None;
        for interval in intervals.iter().filter(|interval| interval.start != self.watch.start) {
            for (place, pair) in interval.pairs.iter().enumerate() {
                let place = if names.get(place) == Some(&pair.name) {
                    Some(place)
                } else {
                    places.get_or_insert_with(|| names.iter().zip(0..).collect()).get(&pair.name).copied()
                };
                if let Some(place) = place {
                    self.totals[place].add(&pair.found);
                }
            }
        }
    }

    /// How the pairs were, in the order of the list.
    pub fn standings(self) -> Vec<Standing> {
        let Self { watch, totals } = self;
        let pairs = watch.names.iter().zip(&watch.seats).zip(totals);
        let standing = |((name, seat), Total { found, worst_loss_permille }): ((&TargetName, &Seat), Total)| {
            let (since, reason) = match (&seat.blind, &seat.known) {
                (Some((since, reason)), _) => (*since, reason.clone()),
                (None, Some(known)) => (known.since, known.reason.clone()),
                (None, None) => (watch.start, None),
            };
            let mean = found.rtt_sum.as_nanos().checked_div(u128::from(found.received));
            let mean = mean.map(|nanos| Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
            Standing {
                schedule: watch.schedule.clone(),
                from: name.from.clone(),
                host: name.host.clone(),
                up: seat.up(),
                since,
                reason,
                sent: found.sent,
                received: found.received,
                worst_loss_permille,
                flaps: found.flaps,
                up_time: found.up_time,
                known_time: found.known_time,
                rtt: mean.map(|mean| (mean, found.rtt_max)),
            }
        };
        pairs.map(standing).collect()
    }
}

#[cfg(test)]
mod tests;
