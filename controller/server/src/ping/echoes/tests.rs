//! Links with a clock of their own.

use super::*;
use proptest::prelude::*;
use std::num::NonZeroU32;

const N1: AgentId = AgentId::from_bytes([1; 16]);
const N2: AgentId = AgentId::from_bytes([2; 16]);
const MS: Duration = Duration::from_millis(1);

fn probes(count: u32, retries: u32) -> Probes {
    Probes { count: NonZeroU32::new(count), period: 20 * MS, timeout: 50 * MS, retries, ..Probes::default() }
}

/// Links with what they have said, and whether their agents are connected.
struct Fixture {
    echoes: Echoes,
    now: Instant,
    here: Option<Epoch>,
    said: Vec<(u32, Word)>,
    sent: Vec<Sending>,
}

impl Fixture {
    fn new(probes: Probes, agents: &[AgentId]) -> Self {
        let now = Instant::now();
        let mut echoes = Echoes::new(probes, Detail::Each, 7 << 32);
        for (slot, agent) in (0..).zip(agents) {
            echoes.add(slot, *agent, Duration::ZERO, now);
        }
        Self { echoes, now, here: Some(Epoch(1)), said: Vec::new(), sent: Vec::new() }
    }

    /// Lets this much time go by, and has what is due done when it is.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let sent = self.echoes.poll(self.now, |_| self.here, |slot, word| self.said.push((slot, word)));
            self.sent.extend(sent);
            match self.echoes.wake_at() {
                Some(at) if at <= end => self.now = at.max(self.now),
                _ => break,
            }
        }
        self.now = end;
    }

    fn answer(&mut self, (agent, epoch, token): Sending) {
        self.echoes.echoed(agent, epoch, token, self.now, |slot, word| self.said.push((slot, word)));
    }

    fn stop(&mut self) {
        self.echoes.stop(|slot, word| self.said.push((slot, word)));
    }

    fn end(&self, slot: u32) -> Option<&Verdict> {
        self.said.iter().find_map(|(of, word)| match word {
            Word::End(verdict) if *of == slot => Some(verdict),
            _ => None,
        })
    }
}

#[test]
fn the_answer_that_comes_is_that_to_the_first_try_in_the_session() {
    let mut links = Fixture::new(probes(1, 2), &[N1]);
    links.pass(60 * MS);
    assert_eq!(links.sent.len(), 2, "tried again");
    assert_eq!(links.sent[0], links.sent[1], "under the same number");
    links.answer(links.sent[1]);
    let rtt = links.end(0).and_then(|verdict| verdict.tally?.rtt).expect("an answer");
    assert_eq!(rtt.max, 60 * MS);

    let mut links = Fixture::new(probes(1, 2), &[N1]);
    links.pass(40 * MS);
    links.here = Some(Epoch(2));
    links.pass(15 * MS);
    links.answer(links.sent[0]);
    assert_eq!(links.end(0), None, "an older session counts for nothing");
    links.answer(links.sent[1]);
    let rtt = links.end(0).and_then(|verdict| verdict.tally?.rtt).expect("an answer");
    assert_eq!(rtt.max, 5 * MS);
}

#[test]
fn silence_and_absence_are_told_apart_and_answers_that_are_late_are_counted() {
    let mut links = Fixture::new(probes(3, 0), &[N1]);
    links.pass(55 * MS);
    assert!(
        matches!(&links.said[..], [(0, Word::Sample(sample))] if sample.answer == Err(FailureKind::AgentSilent.into()))
    );
    links.answer(links.sent[0]);
    links.here = None;
    links.pass(50 * MS);
    let verdict = links.end(0).expect("three probes are over");
    let tally = verdict.tally.expect("they were sent");
    assert_eq!((tally.sent, tally.received, tally.late), (3, 0, 1));
    assert_eq!(verdict.failure, Some(FailureKind::AgentAway.into()));
}

#[test]
fn an_agent_that_comes_back_before_the_last_try_is_there() {
    let mut links = Fixture::new(probes(1, 1), &[N1]);
    links.here = None;
    links.pass(40 * MS);
    assert_eq!((links.sent.len(), links.said.len()), (0, 0), "it is waited for");
    links.here = Some(Epoch(2));
    links.pass(15 * MS);
    links.answer(links.sent[0]);
    let tally = links.end(0).and_then(|verdict| verdict.tally).expect("an end");
    assert_eq!((tally.received, tally.rtt.map(|rtt| rtt.max)), (1, Some(5 * MS)));

    let mut links = Fixture::new(probes(1, 1), &[N1]);
    links.here = None;
    links.pass(60 * MS);
    links.here = Some(Epoch(2));
    links.pass(40 * MS);
    let failure = links.end(0).and_then(|verdict| verdict.failure);
    assert_eq!(failure, Some(FailureKind::AgentAway.into()), "it was never asked, so it cannot be silent");
}

#[test]
fn the_first_probe_waits_for_an_agent_that_is_expected() {
    for comes in [true, false] {
        let mut links = Fixture::new(probes(2, 0), &[]);
        links.echoes.add(0, N1, 3_000 * MS, links.now);
        links.here = None;
        links.pass(2_999 * MS);
        assert_eq!((links.sent.len(), links.said.len()), (0, 0));
        links.here = comes.then_some(Epoch(1));
        links.pass(71 * MS);
        assert_eq!(links.sent.len(), if comes { 2 } else { 0 });
        let kind = if comes { FailureKind::AgentSilent } else { FailureKind::AgentAway };
        assert_eq!(links.end(0).and_then(|verdict| verdict.failure), Some(kind.into()));
    }
}

#[test]
fn nobody_answers_for_another() {
    let mut links = Fixture::new(probes(1, 0), &[N1]);
    links.pass(MS);
    let (agent, epoch, token) = links.sent[0];
    for wrong in [(N2, epoch, token), (agent, Epoch(2), token), (agent, epoch, token + 1)] {
        links.answer(wrong);
        assert!(links.said.is_empty(), "{wrong:?}");
    }
    links.answer((agent, epoch, token));
    assert!(links.end(0).is_some());
}

#[test]
fn many_links_are_asked_at_a_pace() {
    let mut links = Fixture::new(probes(1, 0), &[N1; 1_000]);
    links.pass(Duration::ZERO);
    assert_eq!(links.sent.len(), BURST as usize + 1);
    links.pass(50 * MS);
    assert!(
        (BURST + 490..=BURST + 510).contains(&u32::try_from(links.sent.len()).expect("few")),
        "{}",
        links.sent.len()
    );
    links.pass(50 * MS);
    assert_eq!(links.sent.len(), 1_000);
}

proptest! {
    #[test]
    fn every_link_has_one_last_word_and_every_probe_one_sample(
        count in 0_u32..4,
        retries in 0_u32..3,
        steps in prop::collection::vec((0_u8..6, 0_usize..40), 0..60),
    ) {
        let mut links = Fixture::new(probes(count, retries), &[N1, N2, N1]);
        for (step, number) in steps {
            match step {
                0 => links.here = None,
                1 => links.here = Some(Epoch(number as u64)),
                2 if number == 0 => links.stop(),
                3 | 4 if !links.sent.is_empty() => links.answer(links.sent[number % links.sent.len()]),
                _ => links.pass(MS * u32::try_from(number).expect("small")),
            }
        }
        links.stop();
        links.pass(200 * MS);
        prop_assert_eq!(links.echoes.wake_at(), None, "nothing is left to do");
        prop_assert!(links.echoes.under_way.is_empty());
        for slot in 0..3 {
            let words: Vec<_> = links.said.iter().filter(|(of, _)| *of == slot).map(|(_, word)| word).collect();
            let (last, samples) = words.split_last().expect("a last word");
            let mut answered = [0, 0];
            for sample in samples {
                let Word::Sample(sample) = sample else { return Err(TestCaseError::fail("a word after the last")) };
                answered[usize::from(sample.answer.is_ok())] += 1;
            }
            match last {
                Word::End(Verdict { tally: Some(tally), failure }) => {
                    prop_assert_eq!([tally.sent - tally.received, tally.received], answered);
                    prop_assert_eq!(failure.is_some(), tally.sent > tally.received);
                    prop_assert!(count == 0 || tally.sent <= count);
                }
                other => prop_assert!(**other == Word::Unlooked && samples.is_empty(), "{other:?}"),
            }
        }
    }
}
