//! Sessions through the store: nonces that survive it, forks that two machines see, keys that replace each other.

use crate::common::{Failure, agent_id, at, entry, good, open, party};
use muster_proto::fleet::Labels;
use muster_proto::link::Nonce;
use muster_store::{
    Confirmed, EnrolBy, Keep, NewAgent, NewToken, OpenSession, Opened, ResolveError, RolledBack, Store,
};
use std::fs;
use std::path::Path;

/// A store with agent 1, whose key is `[1; 32]`.
async fn with_agent(dir: &Path) -> Result<Store, Failure> {
    let store = Store::open(dir).await?;
    let (hash, operator) = ([7; 32], good("ann"));
    let token = NewToken { hash, labels: Labels::new(), uses: 1, expires_at: at(60), operator, audit: entry("token") };
    store.create_token(token).await?;
    let agent = NewAgent {
        id: agent_id(1),
        name: good("web1"),
        key_fingerprint: [1; 32],
        at: at(0),
        by: EnrolBy::Token { hash },
        address: String::new(),
    };
    store.enrol_agent(agent).await?;
    Ok(store)
}

fn given(opened: Opened) -> Result<Nonce, Failure> {
    match opened {
        Opened::Session { nonce, .. } => Ok(nonce),
        refused => Err(format!("{refused:?}").into()),
    }
}

async fn actions(store: &Store, action: &str) -> Result<usize, Failure> {
    Ok(store.audit(0, 1_000).await?.iter().filter(|record| record.entry.action == action).count())
}

#[tokio::test]
async fn a_clone_is_seen_and_an_operator_decides() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = with_agent(dir.path()).await?;
    let first = given(store.open_session(open(1, None, party("old", 1))).await?)?;
    assert_eq!(store.confirm_nonce(agent_id(1), first.epoch).await?, Confirmed::Held);
    let second = given(store.open_session(open(1, Some(first), party("old", 2))).await?)?;
    assert_eq!(store.confirm_nonce(agent_id(1), first.epoch).await?, Confirmed::Stale);
    assert_eq!(store.confirm_nonce(agent_id(1), second.epoch).await?, Confirmed::Held);

    let no_fork = store.resolve(agent_id(1), Keep::First, entry("agent.resolve")).await;
    assert!(matches!(no_fork, Err(ResolveError::NotQuarantined(_))));
    let Opened::Fork(fork) = store.open_session(open(1, Some(first), party("clone", 3))).await? else {
        return Err("a nonce of the past opens no session".into());
    };
    assert_eq!((fork.since, &fork.parties), (at(3), &[party("old", 2), party("clone", 3)]));
    assert_eq!(store.confirm_nonce(agent_id(1), second.epoch).await?, Confirmed::Stale, "nobody is the agent now");
    store.close().await;

    let store = Store::open(dir.path()).await?;
    let Opened::Fork(fork) = store.open_session(open(1, Some(second), party("old", 4))).await? else {
        return Err("the agent is quarantined as well".into());
    };
    assert_eq!(fork.parties, [party("old", 4), party("clone", 3)], "each is shown as it was last seen");
    assert_eq!(store.agents().await?[0].quarantine, Some(fork));
    assert_eq!(actions(&store, "agent.quarantined").await?, 1, "a fork is one record, however often they come");

    assert_eq!(store.resolve(agent_id(1), Keep::Second, entry("agent.resolve")).await?, party("clone", 3));
    assert_eq!(store.agents().await?[0].quarantine, None);
    assert_eq!(store.open_session(open(1, Some(second), party("old", 5))).await?, Opened::Outcast);
    let third = given(store.open_session(open(1, Some(first), party("clone", 6))).await?)?;
    assert_eq!(store.confirm_nonce(agent_id(1), third.epoch).await?, Confirmed::Held);
    assert_eq!(store.open_session(open(1, Some(first), party("old", 7))).await?, Opened::Outcast);
    assert_eq!(store.open_session(open(1, None, party("old", 7))).await?, Opened::Outcast);
    Ok(())
}

#[tokio::test]
async fn a_key_counts_until_the_next_one_is_used() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = with_agent(dir.path()).await?;
    let with_key = |key, presented| OpenSession { key: [key; 32], ..open(1, presented, party("m", 1)) };
    assert_eq!(store.open_session(with_key(9, None)).await?, Opened::Superseded);
    for lost in [8, 9] {
        store.set_next_key(agent_id(1), [lost; 32], at(5)).await?;
    }
    let nonce = given(store.open_session(with_key(1, None)).await?)?;
    assert_eq!(store.open_session(with_key(8, Some(nonce))).await?, Opened::Superseded, "its answer was lost");
    let nonce = given(store.open_session(with_key(9, Some(nonce))).await?)?;
    assert_eq!(store.open_session(with_key(1, Some(nonce))).await?, Opened::Superseded);
    given(store.open_session(with_key(9, Some(nonce))).await?)?;
    assert_eq!(store.agents().await?[0].renewed_at, Some(at(5)));
    Ok(())
}

#[tokio::test]
async fn a_store_that_was_set_back_takes_its_agents_up_again() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let (state, backup) = (dir.path().join("state"), dir.path().join("backup"));
    let store = with_agent(&state).await?;
    let mut nonce = given(store.open_session(open(1, None, party("m", 1))).await?)?;
    store.close().await;
    fs::create_dir(&backup)?;
    fs::copy(state.join("muster.db"), backup.join("muster.db"))?;

    let store = Store::open(&state).await?;
    store.set_next_key(agent_id(1), [5; 32], at(1)).await?;
    for _ in 0..3 {
        let again = OpenSession { key: [5; 32], ..open(1, Some(nonce), party("m", 2)) };
        nonce = given(store.open_session(again).await?)?;
        store.confirm_nonce(agent_id(1), nonce.epoch).await?;
    }
    store.close().await;

    let store = Store::open(&backup).await?;
    let renewed = OpenSession { key: [5; 32], ..open(1, Some(nonce), party("m", 3)) };
    let Opened::Session { nonce: next, rolled_back } = store.open_session(renewed.clone()).await? else {
        return Err("the agent did nothing wrong".into());
    };
    assert_eq!(rolled_back, Some(RolledBack { presented: 4, known: 1 }));
    assert_eq!(next.epoch, 5, "epochs rise for ever");
    assert_eq!(actions(&store, "store.rolled-back").await?, 1);
    let again = OpenSession { presented: Some(next), ..renewed };
    assert!(matches!(store.open_session(again).await?, Opened::Session { rolled_back: None, .. }));
    assert_eq!(store.verify_audit().await?, 3);
    Ok(())
}
