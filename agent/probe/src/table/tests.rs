//! Each probe ends exactly once and each target says one last word, whatever the network does. Time is a number here.

use super::*;
use muster_proto::ping::{Detail, Probes, Sample, Tally};
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::num::NonZeroU32;

const MS: u64 = 1_000_000;
const FIRST: u64 = (1 << 24) - 3;

fn settings(count: u32, retries: u32) -> Settings {
    let probes =
        Probes { count: NonZeroU32::new(count), retries, period: Duration::from_millis(200), ..Probes::default() };
    Settings { probes, detail: Detail::Each }
}

fn settings_with_period(count: u32, ms: u64) -> Settings {
    let settings = settings(count, 0);
    Settings { probes: Probes { period: Duration::from_millis(ms), ..settings.probes }, ..settings }
}

fn address(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

fn stamp(ms: u64) -> Stamp {
    Stamp { at: Moment(ms * MS), wall: ms * MS }
}

fn table(settings: Settings, targets: u8) -> Table {
    let mut table = Table::new(settings, FIRST);
    table.add(&(0..targets).map(|n| address(n).into()).collect::<Vec<Aim>>());
    table.close();
    table
}

/// Sends what is due, and says which numbers.
fn send(table: &mut Table, ms: u64) -> Vec<u64> {
    let mut sent = Vec::new();
    while let Some(order) = table.next(Moment(ms * MS)) {
        table.sent(order, stamp(ms));
        sent.push(order.number);
    }
    sent
}

fn reply(table: &mut Table, number: u64, from: u8, ms: u64) {
    table.reply(Mark::of(number, 24), (address(from), 0), |_| true, None, stamp(ms));
}

fn error(table: &mut Table, number: u64, to: u8, kind: FailureKind) {
    table.error(Mark::of(number, 24), address(to), |_| true, Failure { kind, from: Some(address(9)) });
}

/// The last word on the first target, and the words before.
fn last_word(table: &mut Table) -> (Vec<Sample>, Tally, Option<FailureKind>) {
    let mut samples = Vec::new();
    for finding in table.findings() {
        match finding {
            Finding::Sample { place: 0, sample } => samples.push(sample),
            Finding::End { place: 0, tally, failure } => return (samples, tally, failure.map(|failure| failure.kind)),
            _ => {}
        }
    }
    panic!("no last word");
}

#[test]
fn silence_is_given_up_after_the_retries() {
    let mut table = table(settings(1, 2), 1);
    for (ms, sent) in [(0, 1), (499, 0), (500, 1), (999, 0), (1_000, 1), (1_499, 0)] {
        table.run_out(Moment(ms * MS));
        assert_eq!(send(&mut table, ms).len(), sent, "{ms}");
        assert!(!table.is_done());
    }
    assert_eq!(table.next_event(Moment(1_400 * MS)), Some(Moment(1_500 * MS)));
    table.run_out(Moment(1_500 * MS));
    assert!(table.is_done());
    let (samples, tally, failure) = last_word(&mut table);
    assert_eq!((samples.len(), tally.sent, tally.received, failure), (1, 1, 0, Some(FailureKind::NoReply)));
}

#[test]
fn an_answer_to_an_earlier_try_counts_with_its_own_round_trip() {
    let mut table = table(settings(1, 1), 1);
    let first = send(&mut table, 0)[0];
    table.run_out(Moment(500 * MS));
    let second = send(&mut table, 500)[0];
    reply(&mut table, first, 0, 620);
    reply(&mut table, second, 0, 630);
    let (samples, tally, failure) = last_word(&mut table);
    assert_eq!(samples[0].answer, Ok(Duration::from_millis(620)));
    assert_eq!((tally.received, failure), (1, None));
    assert_eq!((table.totals.received, table.totals.duplicates), (1, 1));
}

#[test]
fn an_answer_between_running_out_and_the_repetition_saves_the_repetition() {
    let mut table = table(settings(1, 1), 1);
    let first = send(&mut table, 0)[0];
    table.run_out(Moment(500 * MS));
    reply(&mut table, first, 0, 501);
    assert_eq!(send(&mut table, 502), []);
    assert!(table.is_done());
}

#[test]
fn probes_follow_in_their_period_without_waiting_for_answers() {
    let mut table = table(settings(3, 0), 1);
    let a = send(&mut table, 0)[0];
    assert_eq!(table.next_event(Moment(0)), Some(Moment(200 * MS)));
    assert_eq!(table.next_event(Moment(300 * MS)), Some(Moment(500 * MS)), "what is due only waits for its turn");
    let b = send(&mut table, 200)[0];
    let c = send(&mut table, 400)[0];
    reply(&mut table, c, 0, 410);
    reply(&mut table, b, 0, 420);
    reply(&mut table, b, 0, 421);
    table.run_out(Moment(500 * MS));
    let (samples, tally, failure) = last_word(&mut table);
    assert_eq!(samples.iter().map(|sample| sample.number).collect::<Vec<_>>(), [2, 1, 0]);
    assert_eq!((tally.sent, tally.received, tally.duplicates, failure), (3, 2, 1, Some(FailureKind::NoReply)));
    reply(&mut table, a, 0, 502);
    assert_eq!((table.totals.late, table.findings()), (1, Vec::new()));
}

#[test]
fn strangers_and_wrong_payloads_are_no_answers() {
    let mut table = table(settings(1, 0), 2);
    let sent = send(&mut table, 0);
    reply(&mut table, sent[0], 1, 1);
    reply(&mut table, sent[0] + 2, 0, 1);
    error(&mut table, sent[0], 1, FailureKind::HostUnreachable);
    table.error(Mark::of(sent[0], 24), address(0), |_| false, FailureKind::HostUnreachable.into());
    assert_eq!((table.totals.foreign, table.findings()), (4, Vec::new()));
    table.reply(Mark::of(sent[0], 24), (address(0), 0), |_| false, None, stamp(2));
    table.run_out(Moment(500 * MS));
    let (_, tally, failure) = last_word(&mut table);
    assert_eq!((tally.damaged, failure), (1, Some(FailureKind::Damaged)));
}

#[test]
fn an_error_ends_a_try_and_an_answer_still_counts() {
    let mut with_retry = table(settings(1, 1), 1);
    let first = send(&mut with_retry, 0)[0];
    error(&mut with_retry, first, 0, FailureKind::HostUnreachable);
    with_retry.run_out(Moment(500 * MS));
    let second = send(&mut with_retry, 500)[0];
    reply(&mut with_retry, second, 0, 501);
    assert_eq!(last_word(&mut with_retry).1.received, 1);

    let mut last = table(settings(1, 0), 1);
    let only = send(&mut last, 0)[0];
    error(&mut last, only, 0, FailureKind::TtlExceeded);
    assert_eq!(last_word(&mut last).2, Some(FailureKind::TtlExceeded), "at once");

    let mut silent = table(settings(1, 1), 1);
    let first = send(&mut silent, 0)[0];
    error(&mut silent, first, 0, FailureKind::HostUnreachable);
    silent.run_out(Moment(500 * MS));
    send(&mut silent, 500);
    silent.run_out(Moment(1_000 * MS));
    assert_eq!(last_word(&mut silent).2, Some(FailureKind::HostUnreachable), "what was said outweighs silence");
}

#[test]
fn what_the_kernel_may_have_dropped_is_asked_again_and_never_silence() {
    let mut table = table(settings(1, 0), 1);
    for (round, ms) in [(0, 0), (1, 500), (2, 1_000), (3, 1_500)] {
        table.run_out(Moment(ms * MS));
        assert_eq!(send(&mut table, ms).len(), 1, "{round}");
        table.dropped(Moment((ms + 10) * MS));
    }
    table.run_out(Moment(2_000 * MS));
    assert_eq!(last_word(&mut table).2, Some(FailureKind::Overflow));

    let mut quiet = self::table(settings(1, 0), 1);
    send(&mut quiet, 0);
    quiet.dropped(Moment(MS));
    quiet.run_out(Moment(500 * MS));
    send(&mut quiet, 500);
    quiet.run_out(Moment(1_000 * MS));
    assert_eq!(last_word(&mut quiet).2, Some(FailureKind::NoReply), "nothing was dropped the second time");
}

#[test]
fn overflow_outlasts_silence_where_nothing_was_answered() {
    // The first probe and all its tries run into drops; what becomes of the second is told.
    let second = |fate: fn(&mut Table, u64)| {
        let mut table = table(settings_with_period(2, 10_000), 1);
        for ms in [0, 500, 1_000, 1_500] {
            table.run_out(Moment(ms * MS));
            send(&mut table, ms);
            table.dropped(Moment((ms + 10) * MS));
        }
        table.run_out(Moment(2_000 * MS));
        let number = send(&mut table, 10_000)[0];
        fate(&mut table, number);
        table.run_out(Moment(10_500 * MS));
        last_word(&mut table).2
    };
    assert_eq!(second(|_, _| {}), Some(FailureKind::Overflow));
    let unreachable = |table: &mut Table, number| error(table, number, 0, FailureKind::HostUnreachable);
    assert_eq!(second(unreachable), Some(FailureKind::HostUnreachable), "what a router says is not silence");

    let mut answered = table(settings_with_period(3, 10_000), 1);
    let first = send(&mut answered, 0)[0];
    reply(&mut answered, first, 0, 1);
    answered.dropped(Moment(10_001 * MS));
    for ms in (10_000..).step_by(500).take(30) {
        answered.run_out(Moment(ms * MS));
        let sent = send(&mut answered, ms);
        if ms < 12_000 && !sent.is_empty() {
            answered.dropped(Moment((ms + 10) * MS));
        }
    }
    assert_eq!(last_word(&mut answered).2, Some(FailureKind::NoReply), "who answered once is not unknown");
}

#[test]
fn a_target_that_has_ended_is_never_sent_to_again() {
    let mut table = table(settings(4, 1), 1);
    let sent = [send(&mut table, 0), send(&mut table, 200), send(&mut table, 400)].concat();
    assert_eq!(sent.len(), 3);
    // One more is due, and two are to be repeated.
    table.run_out(Moment(700 * MS));
    let again = table.next(Moment(710 * MS)).expect("a repetition");
    table.refused(again, FailureKind::NoZone.into());
    assert_eq!(last_word(&mut table).2, Some(FailureKind::NoZone));
    assert_eq!((send(&mut table, 710), send(&mut table, 5_000)), (vec![], vec![]));
    assert!(table.is_done());
    table.run_out(Moment(5_000 * MS));
    assert_eq!((table.next_event(Moment(5_000 * MS)), table.findings()), (None, vec![]));
}

#[test]
fn what_cannot_be_sent_fails_and_what_never_could_ends() {
    let mut table = table(settings(2, 0), 2);
    let order = table.next(Moment(0)).expect("the first");
    table.refused(order, FailureKind::Broadcast.into());
    let (_, tally, failure) = last_word(&mut table);
    assert_eq!((tally.sent, failure), (0, Some(FailureKind::Broadcast)));
    for ms in [0, 200] {
        let order = table.next(Moment(ms * MS)).expect("the second");
        table.failed(order, stamp(ms), FailureKind::Discarded.into());
    }
    assert!(table.is_done());
    assert_eq!((table.totals.sent, table.findings().len()), (0, 3));
}

#[test]
fn stop_waits_for_what_is_under_way_and_sends_nothing() {
    let mut table = table(settings(9, 3), 2);
    let order = table.next(Moment(0)).expect("the first");
    table.sent(order, stamp(0));
    table.stop();
    assert_eq!(send(&mut table, 300), []);
    assert!(matches!(table.findings()[..], [Finding::End { place: 1, tally: Tally { sent: 0, .. }, failure: None }]));
    reply(&mut table, order.number, 0, 400);
    let (_, tally, failure) = last_word(&mut table);
    assert_eq!((tally.sent, tally.received, failure, table.is_done()), (1, 1, None, true));
}

#[test]
fn what_ends_while_its_repetition_is_sent_ends_once() {
    let mut table = table(settings(2, 0), 1);
    let first = send(&mut table, 0)[0];
    table.dropped(Moment(MS));
    table.run_out(Moment(500 * MS));
    let again = table.next(Moment(100 * MS)).expect("a repetition");
    error(&mut table, first, 0, FailureKind::HostUnreachable);
    table.sent(again, stamp(500));
    reply(&mut table, again.number, 0, 501);
    send(&mut table, 502);
    table.run_out(Moment(1_100 * MS));
    let (samples, tally, failure) = last_word(&mut table);
    assert_eq!((samples.len(), tally.sent, tally.received, tally.late), (2, 2, 0, 1));
    assert_eq!(failure, Some(FailureKind::NoReply));
}

#[test]
fn being_late_does_not_add_up_and_a_long_pause_is_not_made_up_for() {
    let mut table = table(settings(9, 0), 1);
    for (now, next) in [(0, 200), (203, 400), (401, 600), (1_700, 1_900), (1_901, 2_100)] {
        assert_eq!(send(&mut table, now).len(), 1, "{now}");
        table.run_out(Moment(now * MS));
        let due = table.periodic.front().map(|(due, _)| *due);
        assert_eq!(due, Some(Moment(next * MS)), "{now}");
    }
}

#[test]
fn changes_are_told_and_repetitions_are_not() {
    let mut table = table(Settings { detail: Detail::Changes, ..settings(5, 0) }, 1);
    let mut told = Vec::new();
    for (n, answered) in [true, true, false, false, true].into_iter().enumerate() {
        let ms = 1_000 * n as u64;
        let number = send(&mut table, ms)[0];
        if answered {
            reply(&mut table, number, 0, ms + 1);
        }
        table.run_out(Moment((ms + 500) * MS));
        told.push(table.findings().len());
    }
    assert_eq!(told, [1, 0, 1, 0, 2]);
}

#[test]
fn hours_with_thousands_of_targets_take_no_more_memory_than_seconds() {
    let probes = Probes { count: None, timeout: Duration::from_millis(100), ..settings(1, 1).probes };
    let mut table = Table::new(Settings { probes, detail: Detail::Ends }, FIRST);
    table.add(&vec![address(1).into(); 1_000]);
    let mut largest = [0, 0];
    for round in 0..400_u64 {
        for ms in [round * 200, round * 200 + 100] {
            table.run_out(Moment(ms * MS));
            for number in send(&mut table, ms).into_iter().filter(|number| number % 3 > 0) {
                reply(&mut table, number, 1, ms + 1);
            }
        }
        let largest = &mut largest[usize::from(round >= 200)];
        *largest = table.flight.packets().max(*largest);
    }
    assert!(largest[1] <= largest[0] && largest[1] < 60_000, "{largest:?}");
    assert!(table.totals.sent > 400_000);
}

#[test]
fn sixteen_bits_tell_all_packets_apart_that_are_under_way() {
    let mut table = Table::new(settings(1, 1), FIRST);
    table.narrow();
    table.add(&vec![address(1).into(); 100_000]);
    table.close();
    let first = send(&mut table, 0);
    assert_eq!(first.len(), 60_000);
    table.run_out(Moment(500 * MS));
    let second = send(&mut table, 500);
    assert_eq!(second.len(), 60_000, "each is repeated, and takes the place of what it repeats");
    for number in second {
        table.reply(Mark::of(number, 16), (address(1), 0), |of| of == number, None, stamp(501));
    }
    assert_eq!((table.totals.received, table.totals.damaged), (60_000, 0));
    table.run_out(Moment(502 * MS));
    assert_eq!(send(&mut table, 502).len(), 40_000);
}

/// What the network makes of a packet.
#[derive(Debug, Clone, Copy)]
enum Luck {
    Answered(u16),
    Twice(u16),
    Lost,
    Dropped,
    Damaged(u16),
    Refused(u16),
    NotSent,
    Impossible,
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        4 => (0_u16..1_700).prop_map(Luck::Answered),
        1 => (0_u16..900).prop_map(Luck::Twice),
        3 => Just(Luck::Lost),
        1 => Just(Luck::Dropped),
        1 => (0_u16..900).prop_map(Luck::Damaged),
        1 => (0_u16..900).prop_map(Luck::Refused),
        1 => Just(Luck::NotSent),
        1 => Just(Luck::Impossible),
    ]
}

/// A sweep through such a network.
struct World<L> {
    table: Table,
    lucks: L,
    ms: u64,
    sent: u32,
    /// When what arrives, of which packet.
    events: BinaryHeap<Reverse<(u64, u64, What)>>,
    /// How often each probe of each place was tried.
    tries: BTreeMap<(u32, u32), u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Answer,
    Damaged,
    Error,
}

impl<L: Iterator<Item = Luck>> World<L> {
    fn run(&mut self, stop: Option<u64>) -> Vec<Finding> {
        let mut findings = Vec::new();
        while !self.table.is_done() {
            assert!(self.ms < 60_000, "it does not end");
            let stopped = stop.is_some_and(|stop| self.ms >= stop);
            if stopped {
                self.table.stop();
            }
            while let Some(order) = self.table.next(Moment(self.ms * MS)) {
                assert!(!stopped);
                self.send(order);
            }
            self.arrive();
            self.table.run_out(Moment(self.ms * MS));
            findings.extend(self.table.findings());
            self.ms += 1;
        }
        findings
    }

    fn send(&mut self, order: Order) {
        let probe = match order.cause {
            Cause::Repeat { probe, .. } => probe,
            _ => self.table.targets[order.place as usize].sent,
        };
        *self.tries.entry((order.place, probe)).or_default() += 1;
        self.sent += 1;
        assert!(!self.table.targets[order.place as usize].ended, "sent to after its end");
        let luck = self.lucks.next().expect("endless");
        match luck {
            Luck::NotSent => self.table.failed(order, stamp(self.ms), FailureKind::Forbidden.into()),
            // Now and then: it would end everything.
            Luck::Impossible if self.sent.is_multiple_of(5) => self.table.refused(order, FailureKind::Broadcast.into()),
            _ => self.table.sent(order, stamp(self.ms)),
        }
        let mut arrives = |after: u16, what| {
            self.events.push(Reverse((self.ms + u64::from(after), order.number, what)));
        };
        match luck {
            Luck::Answered(after) => arrives(after, What::Answer),
            Luck::Twice(after) => [after, after + 3].into_iter().for_each(|after| arrives(after, What::Answer)),
            Luck::Damaged(after) => arrives(after, What::Damaged),
            Luck::Refused(after) => arrives(after, What::Error),
            Luck::Dropped => self.table.dropped(Moment(self.ms * MS)),
            Luck::Lost | Luck::NotSent | Luck::Impossible => {}
        }
    }

    fn arrive(&mut self) {
        while let Some(&Reverse((due, number, what))) = self.events.peek()
            && due <= self.ms
        {
            self.events.pop();
            let Some(packet) = self.table.flight.get(number) else { continue };
            let from = self.table.targets[packet.place as usize].aim.address;
            let mark = Mark::of(number, 24);
            match what {
                What::Error => self.table.error(mark, from, |_| true, FailureKind::HostUnreachable.into()),
                _ => self.table.reply(mark, (from, 0), |_| what == What::Answer, None, stamp(due)),
            }
        }
    }
}

proptest! {
    #[test]
    fn each_probe_ends_once(
        count in 1_u32..5, retries in 0_u32..4, targets in 1_u8..6,
        lucks in prop::collection::vec(luck(), 1..60), stop in prop::option::of(0_u64..3_000),
    ) {
        let (table, lucks) = (table(settings(count, retries), targets), lucks.into_iter().cycle());
        let (events, tries) = (BinaryHeap::new(), BTreeMap::new());
        let mut world = World { table, lucks, ms: 0, sent: 0, events, tries };
        let (mut told, mut ended) = (BTreeSet::new(), BTreeMap::new());
        for finding in world.run(stop) {
            match finding {
                Finding::Sample { place, sample } => {
                    prop_assert!(!ended.contains_key(&place), "a word after the last");
                    prop_assert!(told.insert((place, sample.number)), "a probe that ends twice");
                }
                Finding::End { place, tally, failure } => {
                    let samples = told.range((place, 0)..(place + 1, 0)).count();
                    let broken = failure == Some(FailureKind::Broadcast.into());
                    prop_assert!(samples == tally.sent as usize || broken, "{samples} {tally:?}");
                    prop_assert!(tally.sent == count || stop.is_some() || broken);
                    prop_assert_eq!(failure.is_some(), tally.received < tally.sent || broken);
                    prop_assert_eq!(ended.insert(place, tally), None);
                }
            }
        }
        prop_assert_eq!(ended.len(), usize::from(targets));
        prop_assert!(world.tries.values().all(|tries| *tries <= 1 + retries + EXTRA_TRIES));
    }
}
