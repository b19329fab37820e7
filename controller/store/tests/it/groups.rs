//! Groups, and the lineage of jobs that repeat others: told again after a restart, bounded, audited, and checked.

use crate::common::{Failure, append, at, entry, event, good, job_id, new_job};
use crate::faults::tamper;
use muster_proto::event::EventKind;
use muster_proto::id::JobId;
use muster_proto::job::JobState;
use muster_proto::limits;
use muster_proto::outcome::Counts;
use muster_proto::selection::Group;
use muster_store::{Append, GroupError, NewJob, Retention, Store, check};
use std::time::Duration;

/// What a group may have.
const LONG: usize = 64 << 10;

fn group(name: &str, expression: &str) -> Group {
    Group { name: good(name), expression: expression.into(), operator: good("ann"), changed_at: at(1) }
}

#[tokio::test]
async fn groups_are_there_after_a_restart_and_audited() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    store.set_group(group("web", "role=web"), entry("group.set")).await?;
    store.set_group(group("all-web", "@web,@edge"), entry("group.set")).await?;
    store.set_group(group("web", "role=web and env=prod"), entry("group.set")).await?;
    store.set_group(group("old", "all"), entry("group.set")).await?;
    store.remove_group(good("old"), entry("group.remove")).await?;
    let gone = store.remove_group(good("old"), entry("group.remove")).await;
    assert!(matches!(gone, Err(GroupError::Unknown(_))));
    store.close().await;

    let store = Store::open(dir.path()).await?;
    let expected = [group("all-web", "@web,@edge"), group("web", "role=web and env=prod")];
    assert_eq!(store.groups().await?, expected);
    assert_eq!(store.group(&good("web")).await?.as_ref(), expected.last());
    assert_eq!(store.group(&good("old")).await?, None);
    let actions: Vec<_> = store.audit(0, 10).await?.into_iter().map(|record| record.entry.action).collect();
    assert_eq!(actions, ["group.set", "group.set", "group.set", "group.set", "group.remove"]);
    Ok(())
}

#[tokio::test]
async fn there_are_at_most_so_many_groups_of_such_a_size() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    for number in 0..limits::GROUPS_MAX {
        store.set_group(group(&format!("g{number}"), "all"), entry("group.set")).await?;
    }
    let more = store.set_group(group("more", "all"), entry("group.set")).await;
    assert!(matches!(more, Err(GroupError::TooMany)));
    store.set_group(group("g7", "db1"), entry("group.set")).await?;
    // In bytes: there are half as many characters.
    let long = "é".repeat(LONG / 2);
    for number in 0..limits::GROUPS_BYTES_MAX / LONG - 1 {
        store.set_group(group(&format!("g{number}"), &long), entry("group.set")).await?;
    }
    let more = store.set_group(group("g999", &long), entry("group.set")).await;
    assert!(matches!(more, Err(GroupError::TooLarge)));
    assert_eq!(store.groups().await?.len(), limits::GROUPS_MAX);
    Ok(())
}

#[tokio::test]
async fn a_check_finds_damage_in_groups() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    store.set_group(group("web", "role=web"), entry("group.set")).await?;
    store.close().await;
    assert_eq!(check(dir.path()).await?.findings, [""; 0]);
    tamper(dir.path(), "UPDATE groups SET operator = '?'").await?;
    let findings = check(dir.path()).await?.findings;
    assert!(findings.len() == 1 && findings[0].contains("the group web"), "{findings:?}");
    Ok(())
}

fn rerun(job: u128, of: Option<u128>, seconds: i64) -> NewJob {
    let mut new = new_job(job_id(job));
    new.spec.rerun_of = of.map(job_id);
    new.signed.payload = new.spec.encode();
    new.audit.at = at(seconds);
    new
}

async fn family(store: &Store, job: u128) -> Result<Vec<JobId>, Failure> {
    Ok(store.family(job_id(job)).await?.into_iter().map(|summary| summary.job).collect())
}

#[tokio::test]
async fn a_job_and_all_that_repeat_it_are_one_family() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    // Ids say nothing of the order.
    for (job, of, seconds) in [(5, None, 1), (9, None, 2), (3, Some(5), 3), (4, Some(3), 4), (2, Some(5), 5)] {
        store.accept(rerun(job, of, seconds)).await?;
    }
    let expected = [5, 3, 4, 2].map(job_id);
    for member in [5, 3, 4, 2] {
        assert_eq!(family(&store, member).await?, expected, "of {member}");
    }
    assert_eq!(family(&store, 9).await?, [job_id(9)]);
    assert_eq!(family(&store, 77).await?, []);
    let parents: Vec<_> = store.family(job_id(5)).await?.into_iter().map(|summary| summary.rerun_of).collect();
    assert_eq!(parents, [None, Some(job_id(5)), Some(job_id(3)), Some(job_id(5))]);

    // Of more than are told the first is there, and the newest.
    for number in 100..250 {
        store.accept(rerun(number, Some(4), 10 + i64::try_from(number)?)).await?;
    }
    let many = family(&store, 2).await?;
    assert_eq!(many.len(), limits::LINEAGE_MAX as usize);
    assert_eq!((many.first(), many.last()), (Some(&job_id(5)), Some(&job_id(249))));
    assert_eq!(many[1], job_id(151));
    Ok(())
}

#[tokio::test]
async fn a_family_outlives_its_first_job_and_a_rerun_of_a_removed_job_begins_its_own() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(dir.path()).await?;
    store.accept(rerun(1, None, 1)).await?;
    store.accept(rerun(2, Some(1), 2)).await?;
    let done = event(2, EventKind::Done { counts: Counts::default() });
    store.append(Append { state: JobState::Done, done_at: Some(at(3)), ..append(job_id(1), vec![done]) }).await?;
    store.prune(Retention { age: Some(Duration::from_secs(1)), ..Retention::default() }, at(100)).await?;
    store.accept(rerun(3, Some(2), 101)).await?;
    store.accept(rerun(4, Some(1), 102)).await?;
    store.accept(rerun(5, Some(4), 103)).await?;
    assert_eq!(family(&store, 2).await?, [job_id(2), job_id(3)]);
    assert_eq!(family(&store, 5).await?, [job_id(4), job_id(5)]);
    Ok(())
}
