//! Probes of a simulated agent: no packet leaves, every target answers or is silent at once. Pure.

use super::Answers;
use super::random::Random;
use muster_proto::limits::PROBES_PER_MESSAGE_MAX;
use muster_proto::link::{FromAgent, ProbeOrder};
use muster_proto::ping::{Detail, Failure, Finding, Probes, Rtts, Sample, Tally};
use std::collections::BTreeMap;
use std::time::Duration;

/// The shortest round trip: nothing answers in no time.
const RTT_MIN: Duration = Duration::from_micros(50);

/// Sweeps of a session that have not ended.
#[derive(Default)]
pub(super) struct Sweeps(BTreeMap<u64, Sweep>);

struct Sweep {
    probes: Probes,
    detail: Detail,
    /// What the first probe of each target came to; of an endless sweep alone.
    open: Vec<Option<Duration>>,
    /// Targets that were ordered.
    ordered: u32,
}

impl Sweeps {
    /// Takes an order. Counted probes end at once, endless ones when they are told to.
    pub(super) fn order(&mut self, answers: &Answers, order: &ProbeOrder, random: &mut Random) -> Vec<FromAgent> {
        let fresh = || Sweep { probes: order.probes, detail: order.detail, open: Vec::new(), ordered: 0 };
        let sweep = self.0.entry(order.sweep).or_insert_with(fresh);
        let mut findings = Vec::new();
        for _ in &order.aims {
            let rtt = (answers.delay + answers.jitter.mul_f64(random.unit())).max(RTT_MIN);
            let rtt = (rtt <= sweep.probes.timeout && random.unit() >= answers.fail_rate).then_some(rtt);
            let place = sweep.ordered;
            sweep.ordered += 1;
            if sweep.detail != Detail::Ends {
                let sample = Sample { number: 0, answer: rtt.ok_or(Failure::NO_REPLY) };
                findings.push(Finding::Sample { place, sample });
            }
            match sweep.probes.count {
                Some(count) => findings.push(end(place, rtt, count.get())),
                None => sweep.open.push(rtt),
            }
        }
        if order.last && sweep.probes.count.is_some() {
            self.0.remove(&order.sweep);
        }
        messages(order.sweep, &findings)
    }

    /// What a controller hears of endless sweeps, so that it does not take the agent for silent.
    pub(super) fn at_work(&self) -> Vec<FromAgent> {
        let open = self.0.iter().filter(|(_, sweep)| !sweep.open.is_empty());
        open.map(|(sweep, _)| FromAgent::Probed { sweep: *sweep, findings: Vec::new() }).collect()
    }

    /// Ends an endless sweep, with one probe a target.
    pub(super) fn stop(&mut self, sweep: u64) -> Vec<FromAgent> {
        let open = self.0.remove(&sweep).map(|sweep| sweep.open).unwrap_or_default();
        let ends: Vec<_> = (0..).zip(open).map(|(place, rtt)| end(place, rtt, 1)).collect();
        messages(sweep, &ends)
    }
}

fn end(place: u32, rtt: Option<Duration>, sent: u32) -> Finding {
    let mut rtts = Rtts::default();
    rtt.into_iter().for_each(|rtt| rtts.add(rtt));
    let received = rtt.map_or(0, |_| sent);
    let failure = if rtt.is_none() { Some(Failure::NO_REPLY) } else { None };
    Finding::End { place, tally: Tally { sent, received, rtt: rtts.summary(), ..Tally::default() }, failure }
}

fn messages(sweep: u64, findings: &[Finding]) -> Vec<FromAgent> {
    // As a real agent: a message stays as small as a full frame of output.
    let batches = findings.chunks(PROBES_PER_MESSAGE_MAX / 2);
    batches.map(|batch| FromAgent::Probed { sweep, findings: batch.to_vec() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::link::ProbeAim;

    fn order(probes: Probes, detail: Detail, aims: usize, last: bool) -> ProbeOrder {
        let aim = ProbeAim { address: [10, 0, 0, 1].into(), zone: String::new() };
        ProbeOrder { sweep: 3, probes, detail, aims: vec![aim; aims], last }
    }

    fn findings(messages: Vec<FromAgent>) -> Vec<Finding> {
        let of = |message| match message {
            FromAgent::Probed { sweep: 3, findings } if findings.len() <= 512 => findings,
            other => panic!("{other:?}"),
        };
        messages.into_iter().flat_map(of).collect()
    }

    #[test]
    fn every_target_ends_once_and_some_as_they_should_fail() {
        let (delay, jitter) = (Duration::from_millis(3), Duration::ZERO);
        let answers = Answers { output: 0, delay, jitter, fail_rate: 0.5, gate_fail_rate: 0.0 };
        let mut random = Random::new(1, 1);
        let mut sweeps = Sweeps::default();
        let mut told = Vec::new();
        for last in [false, true] {
            told.extend(sweeps.order(&answers, &order(Probes::default(), Detail::Ends, 1000, last), &mut random));
        }
        let (mut places, mut silent) = (Vec::new(), 0);
        for finding in findings(told) {
            let Finding::End { place, tally, failure } = finding else { panic!("{finding:?}") };
            assert_eq!((tally.sent, tally.received), (1, u32::from(failure.is_none())));
            assert_eq!(tally.rtt.map(|rtt| rtt.median), failure.is_none().then_some(answers.delay));
            places.push(place);
            silent += u32::from(failure.is_some());
        }
        assert_eq!(places, (0..2000).collect::<Vec<_>>());
        assert!((900..1100).contains(&silent), "{silent}");
        assert!(sweeps.0.is_empty());

        let endless = Probes { count: None, ..Probes::default() };
        // The first order says what is probed and how.
        let orders = [order(endless, Detail::Each, 4, false), order(Probes::default(), Detail::Ends, 1, true)];
        for order in orders {
            let samples = findings(sweeps.order(&answers, &order, &mut random));
            assert_eq!(samples.len(), order.aims.len());
            assert!(samples.iter().all(|finding| matches!(finding, Finding::Sample { .. })));
        }
        assert_eq!(sweeps.at_work(), [FromAgent::Probed { sweep: 3, findings: vec![] }]);
        assert_eq!(findings(sweeps.stop(3)).len(), 5);
        assert!(sweeps.stop(3).is_empty() && sweeps.at_work().is_empty());
    }
}
