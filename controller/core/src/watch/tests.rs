//! Any rounds, with restarts and changing lists: changes alternate, sums add up, and unknown time is not known.

use super::*;
use muster_proto::ping::{Contact, Failure, FailureKind, PingHost, PingReport, Summary, Tally};
use proptest::prelude::*;

const EVERY: Duration = Duration::from_secs(30);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1_000)
}

fn schedule() -> OperatorName {
    "core".parse().expect("a name")
}

fn list(hosts: &[u8]) -> Arc<PingList> {
    let host = |host: &u8| PingHost { name: format!("h{host}").parse().expect("a name"), agent: None };
    Arc::new(PingList::from_controller(hosts.iter().map(host).collect()).expect("a list"))
}

fn answered(received: u32, millis: u64) -> Outcome {
    let [min, mean, max, median, p95, p99, jitter] = [Duration::from_millis(millis); 7];
    let rtt = (received > 0).then_some(Summary { min, mean, max, median, p95, p99, jitter });
    let tally = Tally { sent: 2, received, rtt, ..Tally::default() };
    PingReport { icmp: Some(tally), ..PingReport::default() }.outcome(Some(Failure::NO_REPLY), Duration::ZERO)
}

fn unknown() -> Outcome {
    PingReport::default().outcome(Some(FailureKind::ProberAway.into()), Duration::ZERO)
}

fn watch() -> Watch {
    Watch::new(schedule(), EVERY, at(0))
}

#[test]
fn a_host_that_answers_at_first_is_no_news_and_one_that_does_not_is() {
    let (mut watch, list) = (watch(), list(&[1, 2]));
    let folded = watch.fold(&list, &[Some((at(1), answered(2, 5))), Some((at(2), answered(0, 0)))], at(3));
    let [down] = &folded.changes[..] else { panic!("{folded:?}") };
    assert_eq!((down.host.as_str(), down.at, down.up, down.reason.as_deref()), ("h2", at(2), false, Some("no reply")));
    assert_eq!(watch.counts(), [1, 1, 0]);

    let folded = watch.fold(&list, &[None, Some((at(33), answered(1, 7)))], at(34));
    let [up] = &folded.changes[..] else { panic!("{folded:?}") };
    assert_eq!((up.host.as_str(), up.at, up.up, &up.reason), ("h2", at(33), true, &None));
    let standings = History::new(watch.into(), at(0)).standings();
    assert_eq!((standings[0].up, standings[0].since, standings[0].known_time), (Some(true), at(1), EVERY));
    assert_eq!((standings[1].up_time, standings[1].known_time), (EVERY, EVERY * 2));
    assert_eq!((standings[1].sent, standings[1].received, standings[1].worst_loss_permille), (4, 1, 750));
    assert_eq!(standings[1].rtt, Some((Duration::from_millis(7), Duration::from_millis(7))));
}

#[test]
fn what_no_round_could_say_counts_neither_way_and_shows_as_unknown() {
    let (mut watch, list) = (watch(), list(&[1]));
    watch.fold(&list, &[Some((at(0), answered(2, 1)))], at(1));
    for seconds in [30, 60] {
        let folded = watch.fold(&list, &[Some((at(seconds), unknown()))], at(seconds + 1));
        assert_eq!(folded, Folded::default());
    }
    let standing = History::new(watch.clone().into(), at(0)).standings().remove(0);
    assert_eq!((standing.up, standing.since, standing.known_time), (None, at(30), EVERY));
    assert!(standing.reason.is_some_and(|reason| reason.contains("not connected")));
    let folded = watch.fold(&list, &[Some((at(90), answered(2, 1)))], at(91));
    assert_eq!(folded.changes, [], "it was up before and is up now");
    let standing = History::new(watch.into(), at(0)).standings().remove(0);
    assert_eq!((standing.up, standing.since), (Some(true), at(0)));
}

#[test]
fn a_host_that_its_agent_s_link_finds_is_up_with_that_link_s_numbers() {
    let (mut watch, list) = (watch(), list(&[1]));
    let outcome = answered(2, 3);
    let icmp = Some(Tally { sent: 2, ..Tally::default() });
    let link = outcome.ping.and_then(|report| report.icmp);
    let both = PingReport { icmp, link, agent: Some(Contact::Connected), ..PingReport::default() };
    watch.fold(&list, &[Some((at(0), both.outcome(Some(Failure::NO_REPLY), Duration::ZERO)))], at(1));
    let standing = History::new(watch.into(), at(0)).standings().remove(0);
    assert_eq!((standing.up, standing.received, standing.worst_loss_permille), (Some(true), 2, 0));
}

#[test]
fn a_clock_that_is_set_back_does_not_open_an_interval_again() {
    let (mut watch, list) = (watch(), list(&[1]));
    let round = |watch: &mut Watch, seconds| watch.fold(&list, &[Some((at(seconds), answered(2, 1)))], at(seconds));
    let mut starts = |seconds| round(&mut watch, seconds).intervals.iter().map(|it| it.start).collect::<Vec<_>>();
    assert_eq!(starts(598), [at(0)], "its host is known for the first time");
    assert_eq!(starts(599), []);
    assert_eq!(starts(600), [at(0)]);
    assert_eq!(starts(599), []);
    assert_eq!(starts(-4_000), [], "what is stored of that time stays as it is");
    assert!(watch.is_ahead(at(-4_000)) && !watch.is_ahead(at(1_199)));
    let newest = watch.interval().expect("there were rounds");
    assert_eq!((newest.start, newest.pairs[0].found.known_time), (at(600), EVERY * 3));
    let mut restored = Watch::new(schedule(), EVERY, at(-3_000)).restore(newest);
    restored.fold(&list, &[Some((at(-3_000), answered(2, 1)))], at(-3_000));
    let newest = restored.interval().expect("there were rounds");
    assert_eq!((newest.start, newest.pairs[0].found.known_time), (at(600), EVERY * 4), "nor does a restart");
}

#[test]
fn of_a_host_that_flaps_few_changes_are_kept_and_all_are_counted() {
    let (mut watch, list, mut stored) = (watch(), list(&[1]), Stored::default());
    // 120 rounds in an interval, then it stays down.
    for round in 0..360_i64 {
        let outcome = answered(u32::from(round < 240 && round % 2 == 0), 1);
        stored.take(watch.fold(&list, &[Some((at(round * 5), outcome))], at(round * 5)), None);
    }
    let told: Vec<_> = stored.changes.iter().map(|change| (change.at, change.up)).collect();
    let expected =
        [(5, false), (10, true), (15, false), (20, true), (605, false), (610, true), (615, false), (620, true)];
    let expected = expected.map(|(seconds, up)| (at(seconds), up));
    assert_eq!(told[..8], expected, "{told:?}");
    assert_eq!(told[8..], [(at(1_195), false)], "a state that lasts is told when more may be kept");
    let mut history = History::new(watch.into(), at(0));
    history.add(&stored.intervals.into_values().collect::<Vec<_>>());
    let standing = history.standings().remove(0);
    assert_eq!((standing.up, standing.since, standing.flaps), (Some(false), at(1_195), 239));
}

#[test]
fn where_nobody_can_look_a_host_is_unknown_and_not_down() {
    let (mut watch, list) = (watch(), list(&[1]));
    for (round, kind) in (0_i64..).zip(FailureKind::ALL.into_iter().filter(|kind| kind.state() != State::Failed)) {
        let outcome = PingReport::default().outcome(Some(kind.into()), Duration::ZERO);
        let folded = watch.fold(&list, &[Some((at(round), outcome))], at(round));
        assert_eq!((folded.changes, watch.counts()), (Vec::new(), [0, 0, 1]), "{kind:?}");
    }
}

/// A round: the time since the one before, and each host of the list with what it found.
type Round = (i64, Vec<(u8, u8)>);

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let host = (0_u8..5, 0_u8..4);
    let hosts = prop::collection::vec(host, 1..5).prop_map(|mut hosts| {
        hosts.sort_unstable();
        hosts.dedup_by_key(|(host, _)| *host);
        hosts
    });
    // So seldom that every change is kept: how many were is not stored.
    prop::collection::vec((150_i64..900, hosts), 1..30)
}

fn ended(kind: u8, now: Timestamp) -> Ended {
    match kind {
        0 => Some((now, answered(2, 1))),
        1 => Some((now, answered(0, 0))),
        2 => Some((now, unknown())),
        _ => None,
    }
}

/// What is stored, as a store would have it.
#[derive(Default)]
struct Stored {
    intervals: HashMap<i64, Interval>,
    changes: Vec<Change>,
}

impl Stored {
    /// `now` is the interval that is not over, if that was due.
    fn take(&mut self, folded: Folded, now: Option<Interval>) {
        self.changes.extend(folded.changes);
        for interval in folded.intervals.into_iter().chain(now) {
            self.intervals.insert(interval.start.as_millis(), interval);
        }
    }

    fn restored(&self, now: Timestamp) -> Watch {
        let watch = Watch::new(schedule(), EVERY, now);
        match self.intervals.values().max_by_key(|interval| interval.start) {
            Some(newest) => watch.restore(newest.clone()),
            None => watch,
        }
    }
}

proptest! {
    #[test]
    fn sums_add_up_and_a_restart_changes_nothing(rounds in rounds()) {
        let (mut lived, mut stored, mut now) = (watch(), Stored::default(), at(0));
        let mut left = Vec::new();
        // By host: rounds that knew, rounds with an answer.
        let mut truth: HashMap<u8, (u32, u32)> = HashMap::new();
        for (pause, hosts) in &rounds {
            now = now + Duration::from_secs(pause.unsigned_abs());
            let list = list(&hosts.iter().map(|(host, _)| *host).collect::<Vec<_>>());
            let ended: Vec<_> = hosts.iter().map(|(_, kind)| ended(*kind, now)).collect();
            let mut again = stored.restored(now);
            // Who left the list is forgotten when the interval is over, or at a restart one later.
            let now_watched: Vec<_> = list.hosts().iter().map(|host| host.name.clone()).collect();
            left.extend(lived.names.iter().map(|name| name.host.clone()).filter(|host| !now_watched.contains(host)));
            let of_those = |folded: &Folded| -> Vec<_> {
                folded.changes.iter().filter(|change| !left.contains(&change.host)).cloned().collect()
            };
            let folded = lived.fold(&list, &ended, now);
            let refolded = again.fold(&list, &ended, now);
            prop_assert_eq!(of_those(&refolded), of_those(&folded));
            stored.take(folded, lived.interval());
            for (host, kind) in hosts {
                let (known, up) = truth.entry(*host).or_default();
                *known += u32::from(*kind < 2);
                *up += u32::from(*kind == 0);
            }
        }
        let mut history = History::new(lived.clone().into(), at(0));
        history.add(&stored.intervals.values().cloned().collect::<Vec<_>>());
        let standings = history.standings();
        prop_assert_eq!(standings.len(), lived.len());
        prop_assert_eq!(lived.counts().iter().sum::<u64>(), lived.len() as u64);
        for standing in standings {
            let host: u8 = standing.host.as_str()[1..].parse().expect("a number");
            let (known, up) = truth[&host];
            prop_assert_eq!((standing.known_time, standing.up_time), (EVERY * known, EVERY * up));
            prop_assert!(standing.up_time <= standing.known_time && standing.received <= standing.sent);
            prop_assert!(standing.worst_loss_permille <= 1_000);
            prop_assert_eq!(standing.rtt.is_some(), up > 0);
        }
    }

    #[test]
    fn changes_of_a_host_that_stays_alternate_and_begin_with_down(
        rounds in prop::collection::vec((1_i64..200, 0_u8..4, prop::bool::weighted(0.2)), 1..60)
    ) {
        let (mut stored, mut now, list) = (Stored::default(), at(0), list(&[1]));
        let mut lived = watch();
        for (pause, kind, crash) in rounds {
            now = now + Duration::from_secs(pause.unsigned_abs());
            if crash {
                // Only what has to be durable is.
                lived = stored.restored(now);
            }
            let folded = lived.fold(&list, &[ended(kind, now)], now);
            stored.take(folded, None);
        }
        for (place, change) in stored.changes.iter().enumerate() {
            prop_assert_eq!(change.up, place % 2 == 1);
            prop_assert_eq!(change.reason.is_some(), !change.up);
        }
        let times: Vec<_> = stored.changes.iter().map(|change| change.at).collect();
        prop_assert!(times.is_sorted());
    }
}
