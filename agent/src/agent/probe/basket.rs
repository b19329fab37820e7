//! What an engine found and the agent has not taken. It takes every end, of which there are no more than places under
//! way, and so many samples; of those that come while it is full it keeps the newest of each place, so that whoever
//! counts changes is right about the last.

use muster_proto::ping::{Finding, Sample};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Samples of a sweep that wait for room on the link, besides the newest of each place.
const SAMPLES_MAX: usize = 2048;

/// What an engine found and the agent has not taken.
#[derive(Default)]
pub(super) struct Basket(Mutex<Content>);

#[derive(Default)]
struct Content {
    findings: VecDeque<Finding>,
    /// Those of them that are ends.
    ends: usize,
    /// Newer than all samples among `findings`, by place.
    newest: BTreeMap<u32, Sample>,
    dropped: u64,
}

impl Basket {
    /// Called on an engine's thread. Never waits for the link.
    pub(super) fn put(&self, findings: Vec<Finding>) {
        let mut content = self.lock();
        for finding in findings {
            content.put(finding);
        }
    }

    /// The next findings, this many at most.
    pub(super) fn take(&self, most: usize) -> Vec<Finding> {
        let mut content = self.lock();
        let from_queue = most.min(content.findings.len());
        let mut taken: Vec<Finding> = content.findings.drain(..from_queue).collect();
        content.ends -= taken.iter().filter(|finding| matches!(finding, Finding::End { .. })).count();
        while taken.len() < most
            && let Some((place, sample)) = content.newest.pop_first()
        {
            taken.push(Finding::Sample { place, sample });
        }
        taken
    }

    /// There is nothing to take.
    pub(super) fn is_empty(&self) -> bool {
        let content = self.lock();
        content.findings.is_empty() && content.newest.is_empty()
    }

    /// Ends that were not taken.
    pub(super) fn ends(&self) -> usize {
        self.lock().ends
    }

    /// Samples that nobody will hear of.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn put(&mut self, finding: Finding) {
        match finding {
            Finding::Sample { place, sample } => {
                if self.newest.is_empty() && self.findings.len() - self.ends < SAMPLES_MAX {
                    self.findings.push_back(finding);
                } else if self.newest.insert(place, sample).is_some() {
                    self.dropped += 1;
                }
            }
            Finding::End { place, .. } => {
                let last = self.newest.remove(&place).map(|sample| Finding::Sample { place, sample });
                self.findings.extend(last);
                self.findings.push_back(finding);
                self.ends += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::ping::{Failure, Tally};

    fn most() -> u32 {
        u32::try_from(SAMPLES_MAX).expect("small")
    }

    fn sample(place: u32, number: u32) -> Finding {
        Finding::Sample { place, sample: Sample { number, answer: Err(Failure::NO_REPLY) } }
    }

    fn end(place: u32) -> Finding {
        Finding::End { place, tally: Tally::default(), failure: None }
    }

    fn take_all(basket: &Basket) -> Vec<Finding> {
        let taken: Vec<_> = std::iter::repeat_with(|| basket.take(500)).take_while(|taken| !taken.is_empty()).collect();
        assert!(taken.iter().all(|taken| taken.len() <= 500) && basket.is_empty() && basket.ends() == 0);
        taken.concat()
    }

    #[test]
    fn a_full_basket_keeps_the_newest_sample_of_each_place() {
        let (basket, most) = (Basket::default(), most());
        for number in 0..2 * most {
            basket.put(vec![sample(0, 2 * number), sample(1, 2 * number + 1)]);
        }
        let taken = take_all(&basket);
        let expected = (0..most).map(|number| sample(number % 2, number));
        let expected: Vec<_> = expected.chain([sample(0, 4 * most - 2), sample(1, 4 * most - 1)]).collect();
        assert!(taken == expected, "{:?}", taken.last());
        assert_eq!(basket.dropped(), u64::from(3 * most - 2));
        basket.put(vec![sample(7, 0)]);
        assert_eq!(basket.take(500), [sample(7, 0)], "there is room again");
    }

    #[test]
    fn no_end_is_dropped_and_nothing_follows_it() {
        let basket = Basket::default();
        for place in 0..2 * most() {
            basket.put(vec![sample(place, 0), sample(place, 1), end(place)]);
        }
        let mut ended = 0;
        for finding in take_all(&basket) {
            match finding {
                Finding::Sample { place, .. } => assert_eq!(place, ended),
                Finding::End { place, .. } => {
                    assert_eq!(place, ended);
                    ended += 1;
                }
            }
        }
        assert_eq!(ended, 2 * most());
    }
}
