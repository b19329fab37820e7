//! Books with a clock of their own.

use super::*;
use muster_proto::ping::{Failure, Sample, Summary};
use proptest::prelude::*;
use std::num::NonZeroU32;

const N1: AgentId = AgentId::from_bytes([1; 16]);
const N2: AgentId = AgentId::from_bytes([2; 16]);
const SWEEP: u64 = 9 << 32;
const DELIVER: Duration = Duration::from_secs(30);

struct Fixture {
    orders: Orders,
    now: Instant,
    here: HashMap<AgentId, Epoch>,
    said: Vec<(u32, Word)>,
}

impl Fixture {
    fn new(count: u32, detail: Detail, targets: impl IntoIterator<Item = (AgentId, u32)>) -> Self {
        let now = Instant::now();
        let probes = Probes { count: NonZeroU32::new(count), ..Probes::default() };
        let mut orders = Orders::new(SWEEP, probes, detail, DELIVER);
        targets.into_iter().for_each(|(agent, slot)| orders.add(agent, slot, now));
        Self { orders, now, here: HashMap::new(), said: Vec::new() }
    }

    fn comes(&mut self, agent: AgentId, epoch: u64) {
        self.here.insert(agent, Epoch(epoch));
        self.orders.connected(agent);
    }

    fn goes(&mut self, agent: AgentId) {
        if let Some(epoch) = self.here.remove(&agent) {
            self.orders.gone(agent, epoch, self.now, |slot, word| self.said.push((slot, word)));
        }
    }

    /// What is sent now: the slots of each order, which the address stands for, and whether it is the last.
    fn sent(&mut self) -> Vec<(AgentId, Vec<u32>, bool)> {
        let aim = |slot: u32| ProbeAim { address: slot.to_be_bytes().into(), zone: String::new() };
        let contact = |agent| self.here.get(&agent).copied();
        let sent = self.orders.poll(self.now, contact, aim, |slot, word| self.said.push((slot, word)));
        let slot = |aim: &ProbeAim| match aim.address {
            std::net::IpAddr::V4(address) => u32::from(address),
            std::net::IpAddr::V6(_) => unreachable!("all are of the other kind"),
        };
        let orders = sent.into_iter().filter_map(|(agent, _, message)| match message {
            ToAgent::Probe(order) => Some((agent, order.aims.iter().map(slot).collect(), order.last)),
            _ => None,
        });
        orders.collect()
    }

    fn says(&mut self, agent: AgentId, epoch: u64, findings: &[Finding]) -> Result<(), Lie> {
        self.orders.report(agent, Epoch(epoch), findings, self.now, |slot, word| self.said.push((slot, word)))
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.sent();
    }

    /// Lets time go by in which the agent gives signs of life, and nothing else.
    fn live(&mut self, agent: AgentId, epoch: u64, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.pass(Duration::from_secs(5));
            assert_eq!(self.says(agent, epoch, &[]), Ok(()));
        }
    }
}

fn end(place: u32, sent: u32, received: u32) -> Finding {
    let ms = Duration::from_millis(1);
    let rtt = Summary { min: ms, mean: ms, max: ms, median: ms, p95: ms, p99: ms, jitter: Duration::ZERO };
    let tally = Tally { sent, received, rtt: (received > 0).then_some(rtt), ..Tally::default() };
    Finding::End { place, tally, failure: (received < sent).then_some(Failure::NO_REPLY) }
}

fn sample(place: u32, number: u32) -> Finding {
    Finding::Sample { place, sample: Sample { number, answer: Err(Failure::NO_REPLY) } }
}

#[test]
fn an_order_comes_in_parts_and_the_last_of_them_says_so() {
    let count = u32::try_from(limits::PROBES_PER_MESSAGE_MAX).expect("small") + 5;
    let mut books = Fixture::new(1, Detail::Ends, (0..count).map(|slot| (N1, slot)));
    assert_eq!(books.sent(), [], "it is not there");
    books.comes(N1, 1);
    let sizes = |sent: Vec<(AgentId, Vec<u32>, bool)>| sent.into_iter().map(|(_, slots, last)| (slots.len(), last));
    assert!(sizes(books.sent()).eq([(1_024, false), (5, false)]));
    books.orders.add(N1, count, books.now);
    assert!(sizes(books.sent()).eq([(1, false)]), "a name that resolved late");
    books.orders.close();
    assert!(sizes(books.sent()).eq([(0, true)]));
    books.orders.close();
    assert!(sizes(books.sent()).eq([]), "once");
    assert_eq!(books.says(N1, 1, &[end(count, 1, 1)]), Ok(()));
    assert!(matches!(books.said[..], [(slot, Word::End(_))] if slot == count), "places go on over all parts");
}

#[test]
fn what_cannot_be_is_a_lie_and_what_was_said_before_it_counts() {
    for (findings, lie) in [
        (vec![end(1, 3, 3)], Lie::NoSuchTarget),
        (vec![end(0, 3, 3), end(0, 3, 3)], Lie::NoSuchTarget),
        (vec![end(0, 3, 0), sample(0, 2)], Lie::NoSuchTarget),
        (vec![end(0, 4, 4)], Lie::Counts),
        (vec![end(0, 2, 3)], Lie::Counts),
        (vec![end(0, 0, 0)], Lie::Counts),
        (vec![sample(0, 3)], Lie::Samples),
        (vec![sample(0, 0), sample(0, 1), sample(0, 2), sample(0, 2)], Lie::Samples),
    ] {
        let mut books = Fixture::new(3, Detail::Each, [(N1, 0)]);
        books.comes(N1, 1);
        books.sent();
        assert_eq!(books.says(N1, 1, &findings), Err(lie), "{findings:?}");
        assert_eq!(books.said.len(), findings.len() - 1);
        assert_eq!(books.says(N2, 1, &findings), Err(Lie::NotAsked), "another agent");
        assert_eq!(books.says(N1, 2, &findings), Err(Lie::NotAsked), "a session in which it was not asked");
        assert_eq!(books.says(N1, 0, &findings), Ok(()), "an older session counts for nothing");
    }
    let mut books = Fixture::new(1, Detail::Ends, [(N1, 0)]);
    books.comes(N1, 1);
    books.sent();
    assert_eq!(books.says(N1, 1, &[sample(0, 0)]), Err(Lie::Samples), "none are wanted");
    let Finding::End { tally, failure, .. } = end(0, 1, 1) else { unreachable!("it is one") };
    let unexplained = Finding::End { place: 0, tally: Tally { received: 0, rtt: None, ..tally }, failure };
    let rtt = tally.rtt.map(|rtt| Summary { mean: rtt.max * 2, ..rtt });
    for odd in [unexplained, Finding::End { place: 0, tally: Tally { rtt, ..tally }, failure }] {
        assert_eq!(books.says(N1, 1, &[odd]), Err(Lie::Counts), "{odd:?}");
    }
}

#[test]
fn endless_samples_are_bounded_by_the_clock() {
    let mut books = Fixture::new(0, Detail::Each, [(N1, 0)]);
    books.comes(N1, 1);
    books.sent();
    books.live(N1, 1, Duration::from_secs(100));
    let honest: Vec<_> = (0..=100).map(|number| sample(0, number)).collect();
    assert_eq!(books.says(N1, 1, &honest), Ok(()));
    let flood: Vec<_> = (101..200).map(|number| sample(0, number)).collect();
    assert_eq!(books.says(N1, 1, &flood), Err(Lie::Samples));
}

#[test]
fn who_never_comes_and_who_never_speaks_end_differently_and_the_endless_go_on() {
    let mut books = Fixture::new(1, Detail::Ends, [(N1, 0), (N2, 1)]);
    books.orders.close();
    books.comes(N1, 1);
    books.sent();
    books.pass(limits::PROBING_SILENCE_MAX.max(DELIVER));
    assert_eq!(books.said, [(0, FailureKind::ProberSilent.into()), (1, FailureKind::ProberAway.into())]);
    assert_eq!(books.says(N1, 1, &[end(0, 1, 1)]), Ok(()), "late, and no lie");
    assert_eq!(books.said.len(), 2);

    let mut books = Fixture::new(0, Detail::Ends, [(N1, 0)]);
    books.comes(N1, 1);
    books.sent();
    books.live(N1, 1, Duration::from_hours(24));
    assert_eq!(books.said, [], "it looks until it is told to end");
    books.orders.stop(books.now, |_, _| unreachable!("it is under way"));
    books.live(N1, 1, Duration::from_secs(10));
    assert_eq!(books.said, [(0, FailureKind::ProberSilent.into())], "however lively it is");
}

#[test]
fn an_agent_that_keeps_its_owners_rate_is_not_given_up() {
    // A packet a second: nothing to tell of 5 targets and 100 probes for 500 s.
    let mut books = Fixture::new(100, Detail::Ends, (0..5).map(|slot| (N1, slot)));
    books.orders.close();
    books.comes(N1, 1);
    books.sent();
    books.live(N1, 1, Duration::from_secs(495));
    assert_eq!(books.said, []);
    books.pass(limits::PROBING_SILENCE_MAX);
    assert_eq!(books.said.len(), 5);
}

#[test]
fn neither_coming_back_nor_a_trickle_of_ends_puts_off_the_end_of_all() {
    let mut books = Fixture::new(1, Detail::Ends, [(N1, 0)]);
    books.orders.close();
    let (began, bound) = (books.now, longest(&books.orders.probes, 1).expect("a bound") + DELIVER);
    for epoch in 1.. {
        books.comes(N1, epoch);
        books.sent();
        books.pass(Duration::from_secs(5));
        books.goes(N1);
        books.pass(Duration::from_secs(1));
        if !books.said.is_empty() {
            break;
        }
        assert!(books.now <= began + bound, "coming back for ever");
    }

    let mut books = Fixture::new(1, Detail::Ends, (0..1_000).map(|slot| (N1, slot)));
    books.orders.close();
    books.comes(N1, 1);
    books.sent();
    let (began, bound) = (books.now, longest(&books.orders.probes, 1_000).expect("a bound") + DELIVER);
    for place in 0..1_000 {
        books.pass(Duration::from_secs(11));
        assert_eq!(books.says(N1, 1, &[end(place, 1, 1)]), Ok(()));
        if books.now >= began + bound {
            break;
        }
    }
    books.sent();
    assert_eq!(books.said.len(), 1_000);
    assert!(books.said.iter().any(|(_, word)| *word == FailureKind::ProberSilent.into()));
}

#[test]
fn a_name_that_resolves_after_the_time_of_an_agent_that_is_away_has_an_end() {
    let mut books = Fixture::new(1, Detail::Ends, [(N1, 0)]);
    books.sent();
    books.pass(DELIVER);
    assert_eq!(books.said, [(0, FailureKind::ProberAway.into())]);
    books.orders.add(N1, 1, books.now);
    books.pass(DELIVER / 2);
    assert_eq!(books.said.len(), 1, "it is waited for anew");
    books.pass(DELIVER / 2);
    assert_eq!(books.said[1..], [(1, FailureKind::ProberAway.into())]);
    books.orders.add(N1, 2, books.now);
    books.orders.close();
    books.comes(N1, 1);
    assert_eq!(books.sent(), [(N1, vec![2], true)]);
}

#[test]
fn an_agent_has_no_more_targets_at_a_time_than_it_takes() {
    let most = u32::try_from(limits::AGENT_PROBES_MAX).expect("small");
    let mut books = Fixture::new(1, Detail::Ends, (0..most + 5).map(|slot| (N1, slot)));
    books.orders.close();
    books.comes(N1, 1);
    let given = |sent: Vec<(AgentId, Vec<u32>, bool)>| {
        let last = sent.last().is_some_and(|(_, _, last)| *last);
        (sent.iter().map(|(_, slots, _)| slots.len()).sum::<usize>(), last)
    };
    assert_eq!(given(books.sent()), (most as usize, false));
    let ends = |places: std::ops::Range<u32>| places.map(|place| end(place, 1, 1)).collect::<Vec<_>>();
    assert_eq!(books.says(N1, 1, &ends(0..10)), Ok(()));
    assert!(!books.orders.is_stirred(), "few are left for one message");
    assert_eq!(books.says(N1, 1, &ends(10..1_024)), Ok(()));
    assert!(books.orders.is_stirred());
    assert_eq!(given(books.sent()), (5, true));
    assert_eq!(books.says(N1, 1, &ends(1_024..most + 5)), Ok(()));
    assert_eq!(books.said.len(), most as usize + 5);
    assert_eq!(books.sent(), []);
}

proptest! {
    #[test]
    fn every_target_has_one_last_word(steps in prop::collection::vec((0_u8..8, 0_u32..4, any::<bool>()), 0..60)) {
        let mut books = Fixture::new(1, Detail::Ends, (0..4).map(|slot| (if slot < 3 { N1 } else { N2 }, slot)));
        let mut epoch = 0;
        for (step, number, first) in steps {
            let agent = if first { N1 } else { N2 };
            match step {
                0 => {
                    epoch += 1;
                    books.comes(agent, epoch);
                }
                1 => books.goes(agent),
                2 => books.orders.close(),
                3 if number == 0 => books.orders.stop(books.now, |slot, word| books.said.push((slot, word))),
                4 | 5 => {
                    if let Some(epoch) = books.here.get(&agent).copied() {
                        // An honest agent or not: a lie ends its session.
                        if books.says(agent, epoch.0, &[end(number, 1, number % 2)]).is_err() {
                            books.goes(agent);
                        }
                    }
                }
                6 => books.pass(Duration::from_secs(u64::from(number) * 5)),
                _ => drop(books.sent()),
            }
        }
        books.orders.close();
        books.orders.stop(books.now, |slot, word| books.said.push((slot, word)));
        books.pass(Duration::from_secs(100));
        let mut slots: Vec<u32> = books.said.iter().map(|(slot, _)| *slot).collect();
        slots.sort_unstable();
        prop_assert_eq!(slots, [0, 1, 2, 3]);
    }
}
