//! Schedules, and what their rounds found: told again after a restart, forgotten in time, and checked.

use crate::common::{Failure, at, entry, good};
use crate::faults::tamper;
use muster_proto::limits;
use muster_proto::ping::{
    Change, Detail, Family, Found, Interval, Known, PairInterval, PingSelection, PingSpec, Probes, Schedule,
    TargetName, Way,
};
use muster_proto::time::Timestamp;
use muster_store::{NewSchedule, Replace, Retention, Round, ScheduleError, Store, check};
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(30);

fn schedule(name: &str, targets: &str) -> Schedule {
    Schedule {
        name: good(name),
        selection: PingSelection { targets: targets.into(), ..PingSelection::default() },
        spec: PingSpec { way: Way::Icmp, family: Family::Any, detail: Detail::Ends, probes: Probes::default() },
        every: EVERY,
        operator: good("ann"),
        created_at: at(1),
        ran_at: None,
        targets: 0,
        problem: None,
    }
}

fn new(schedule: Schedule, replace: Replace) -> NewSchedule {
    NewSchedule { schedule, replace, actor: "operator/ann".into(), detail: "in a test".into() }
}

fn target(name: &str) -> TargetName {
    match name.split_once('>') {
        Some((from, host)) => TargetName { from: Some(good(from)), host: good(host) },
        None => TargetName { from: None, host: good(name) },
    }
}

/// The interval that this second is in, with a pair of its own.
fn interval(seconds: i64, name: &str) -> Interval {
    let found = Found { sent: 20, received: 19, up_time: EVERY, known_time: EVERY, ..Found::default() };
    let known = Some(Known { up: true, since: at(seconds), reason: None });
    let pair = PairInterval { name: target(name), found, known, told_down: false };
    Interval { start: Interval::of(at(seconds)), pairs: vec![pair] }
}

fn change(schedule: &str, name: &str, seconds: i64, up: bool) -> Change {
    let TargetName { from, host } = target(name);
    let reason = (!up).then(|| "no reply".to_owned());
    Change { schedule: good(schedule), from, host, at: at(seconds), up, reason }
}

async fn record(store: &Store, name: &str, seconds: &[i64], changes: Vec<Change>) -> Result<(), Failure> {
    let intervals = seconds.iter().map(|seconds| interval(*seconds, "web1")).collect();
    Ok(store.record_round(good(name), Round { intervals, changes }).await?)
}

#[tokio::test]
async fn schedules_and_what_they_found_are_there_after_a_restart() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    store.put_schedule(new(schedule("core", "all"), Replace::No)).await?;
    store.put_schedule(new(schedule("edge", "all"), Replace::Yes)).await?;
    let again = store.put_schedule(new(schedule("core", "web"), Replace::No)).await;
    assert!(matches!(again, Err(ScheduleError::Exists(_))));
    assert_eq!(store.newest_interval(&good("core")).await?, None);
    let changes = vec![change("core", "web1", 1_300, false), change("core", "db1>web1", 1_300, false)];
    record(&store, "core", &[0, 700, 1_300], changes.clone()).await?;
    let later = vec![change("core", "web1", 1_330, true)];
    record(&store, "core", &[1_330], later.clone()).await?;
    record(&store, "edge", &[5_000], vec![change("edge", "web2", 5_000, false)]).await?;
    store.put_schedule(new(schedule("core", "web"), Replace::Yes)).await?;
    store.close().await;

    let store = Store::open(dir.path()).await?;
    assert_eq!(store.schedules().await?, [schedule("core", "web"), schedule("edge", "all")]);
    let newest = store.newest_interval(&good("core")).await?;
    assert_eq!(newest, Some(interval(1_330, "web1")), "what was stored of an interval is replaced");
    let since = store.ping_changes(Some(&good("core")), at(1_300)).await?;
    assert_eq!(since, [changes[0].clone(), changes[1].clone(), later[0].clone()]);
    let starts = |intervals: Vec<Interval>| intervals.iter().map(|interval| interval.start).collect::<Vec<_>>();
    let all = starts(store.intervals(&good("core"), Timestamp::default()).await?);
    assert_eq!(all, [0, 700, 1_300].map(|seconds| Interval::of(at(seconds))));
    assert_eq!(starts(store.intervals(&good("core"), all[0]).await?), all[1..]);
    assert_eq!(store.ping_changes(None, at(0)).await?.len(), 4);
    assert_eq!(store.ping_changes(Some(&good("edge")), at(0)).await?, [change("edge", "web2", 5_000, false)]);

    // What another of the same name finds is its own.
    store.remove_schedule(good("core"), entry("schedule.remove")).await?;
    let gone = store.remove_schedule(good("core"), entry("schedule.remove")).await;
    assert!(matches!(gone, Err(ScheduleError::Unknown(_))));
    record(&store, "core", &[0], changes).await?;
    store.put_schedule(new(schedule("core", "all"), Replace::No)).await?;
    assert_eq!(store.newest_interval(&good("core")).await?, None);
    assert_eq!(store.ping_changes(None, at(0)).await?.len(), 1);
    let audit = store.audit(0, 10).await?;
    let actions: Vec<_> = audit.iter().map(|record| record.entry.action.as_str()).collect();
    let [make, replace, remove] = ["schedule.make", "schedule.replace", "schedule.remove"];
    assert_eq!(actions, [make, make, replace, remove, make]);
    Ok(())
}

#[tokio::test]
async fn there_are_at_most_so_many_schedules() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    for number in 0..limits::SCHEDULES_MAX {
        store.put_schedule(new(schedule(&format!("s{number}"), "all"), Replace::No)).await?;
    }
    let more = store.put_schedule(new(schedule("more", "all"), Replace::Yes)).await;
    assert!(matches!(more, Err(ScheduleError::TooMany)));
    store.put_schedule(new(schedule("s7", "web"), Replace::Yes)).await?;
    Ok(())
}

#[tokio::test]
async fn what_was_found_goes_with_its_age() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    store.put_schedule(new(schedule("core", "all"), Replace::No)).await?;
    // More than go in one step.
    let seconds: Vec<_> = (0..100).map(|number| number * 600).collect();
    let changes = seconds.iter().map(|seconds| change("core", "web1", *seconds, seconds % 1_200 > 0)).collect();
    record(&store, "core", &seconds, changes).await?;
    store.prune(Retention::default(), at(1 << 30)).await?;
    assert_eq!(store.ping_changes(None, at(0)).await?.len(), 100, "everything is kept");

    let keep = Retention { age: Some(Duration::from_secs(6_000)), ..Retention::default() };
    store.prune(keep, at(59_400)).await?;
    assert_eq!(store.ping_changes(None, at(0)).await?.first().map(|change| change.at), Some(at(53_400)));
    let oldest = store.intervals(&good("core"), Timestamp::default()).await?.first().map(|interval| interval.start);
    assert!(oldest.is_some_and(|oldest| oldest <= at(53_400) && at(52_200) < oldest), "{oldest:?}");
    Ok(())
}

#[tokio::test]
async fn a_check_finds_damage_in_what_schedules_have() -> Result<(), Failure> {
    for (damage, found) in [
        ("UPDATE ping_intervals SET body = zeroblob(90)", "the schedule core at"),
        ("UPDATE schedules SET body = x'ff'", "the schedule core"),
        ("UPDATE ping_changes SET host = '?'", "a change of a schedule's host"),
    ] {
        let dir = tempfile::tempdir()?;
        let store = Store::open(dir.path()).await?;
        store.put_schedule(new(schedule("core", "all"), Replace::No)).await?;
        record(&store, "core", &[0], vec![change("core", "web1", 0, false)]).await?;
        store.close().await;
        assert_eq!(check(dir.path()).await?.findings, [""; 0]);
        tamper(dir.path(), damage).await?;
        let findings = check(dir.path()).await?.findings;
        assert!(findings.len() == 1 && findings[0].contains(found), "{damage}: {findings:?}");
    }
    Ok(())
}
