//! Sessions through the store: nonces that survive it, forks that two machines see, keys that replace each other.

use crate::common::{Failure, agent_id, at, entry, good, open, party};
use muster_proto::fleet::{Labels, Party, Quarantine};
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

fn parted(opened: Opened) -> Result<(Quarantine, u64), Failure> {
    match opened {
        Opened::Fork { quarantine, found } => Ok((quarantine, found)),
        other => Err(format!("{other:?}").into()),
    }
}

/// A session that is given work.
async fn held(store: &Store, open: OpenSession) -> Result<Nonce, Failure> {
    let nonce = given(store.open_session(open).await?)?;
    assert_eq!(store.confirm_nonce(agent_id(1), nonce.epoch).await?, Confirmed::Held);
    Ok(nonce)
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
    let (fork, found) = parted(store.open_session(open(1, Some(first), party("clone", 3))).await?)?;
    assert_eq!((fork.since, &fork.parties), (at(3), &[party("old", 2), party("clone", 3)]));
    assert_eq!(store.confirm_nonce(agent_id(1), second.epoch).await?, Confirmed::Stale, "nobody is the agent now");
    store.close().await;

    let store = Store::open(dir.path()).await?;
    let (fork, again) = parted(store.open_session(open(1, Some(second), party("old", 4))).await?)?;
    assert_eq!((again, store.agents().await?[0].last_epoch), (found, found), "it is the same quarantine");
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
    let nonce = held(&store, with_key(1, None)).await?;
    for lost in [8, 9] {
        assert_eq!(store.set_next_key(agent_id(1), nonce.epoch, [lost; 32], at(5)).await?, Confirmed::Held);
    }
    let nonce = given(store.open_session(with_key(1, Some(nonce))).await?)?;
    assert_eq!(store.open_session(with_key(8, Some(nonce))).await?, Opened::Superseded, "its answer was lost");
    let nonce = given(store.open_session(with_key(9, Some(nonce))).await?)?;
    assert_eq!(store.open_session(with_key(1, Some(nonce))).await?, Opened::Superseded);
    given(store.open_session(with_key(9, Some(nonce))).await?)?;
    assert_eq!(store.agents().await?[0].renewed_at, Some(at(5)));
    Ok(())
}

/// Agent 1 with this key.
fn with_key(key: u8, presented: Option<Nonce>, party: Party) -> OpenSession {
    OpenSession { key: [key; 32], ..open(1, presented, party) }
}

/// Agent 1 was copied; the thief came first, with key 1, renewed to key 2 and came again with that. Answers the nonce
/// of the owner, who has key 1, and that of the thief.
async fn robbed(store: &Store) -> Result<(Nonce, Nonce), Failure> {
    let owner = held(store, with_key(1, None, party("owner", 1))).await?;
    let thief = held(store, with_key(1, Some(owner), party("thief", 2))).await?;
    assert_eq!(store.set_next_key(agent_id(1), thief.epoch, [2; 32], at(3)).await?, Confirmed::Held);
    let thief = held(store, with_key(2, Some(thief), party("thief", 4))).await?;
    Ok((owner, thief))
}

#[tokio::test]
async fn a_thief_who_renews_first_is_found_and_whoever_is_kept_has_its_own_key() -> Result<(), Failure> {
    for keep in [Keep::First, Keep::Second] {
        let dir = tempfile::tempdir()?;
        let store = with_agent(dir.path()).await?;
        let (owner, thief) = robbed(&store).await?;
        let (fork, found) = parted(store.open_session(with_key(1, Some(owner), party("owner", 5))).await?)?;
        assert_eq!(fork.parties, [party("thief", 4), party("owner", 5)]);
        assert_eq!(actions(&store, "agent.quarantined").await?, 1);
        for epoch in [owner.epoch, thief.epoch] {
            assert_eq!(store.set_next_key(agent_id(1), epoch, [3; 32], at(6)).await?, Confirmed::Stale);
        }
        store.resolve(agent_id(1), keep, entry("agent.resolve")).await?;
        let (owner, thief) = (with_key(1, Some(owner), party("owner", 7)), with_key(2, Some(thief), party("thief", 7)));
        let (kept, lost) = if keep == Keep::Second { (owner, thief) } else { (thief, owner) };
        assert_eq!(store.open_session(lost.clone()).await?, Opened::Outcast);
        let nonce = held(&store, kept.clone()).await?;
        assert_eq!(store.open_session(lost).await?, Opened::Outcast);
        let again = |name, at| OpenSession { presented: Some(nonce), party: party(name, at), ..kept.clone() };

        // The clock was set back meanwhile: the next one is a later one all the same.
        held(&store, again("kept", 8)).await?;
        let (_, later) = parted(store.open_session(again("third", 0)).await?)?;
        assert!(later > found, "{later} after {found}");
    }
    Ok(())
}

#[tokio::test]
async fn only_the_session_whose_nonce_is_held_renews() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = with_agent(dir.path()).await?;
    let first = held(&store, with_key(1, None, party("m", 1))).await?;
    let second = given(store.open_session(with_key(1, Some(first), party("m", 2))).await?)?;
    for epoch in [first.epoch, second.epoch, 0, 99] {
        assert_eq!(store.set_next_key(agent_id(1), epoch, [2; 32], at(3)).await?, Confirmed::Stale, "{epoch}");
    }
    assert_eq!(store.agents().await?[0].renewed_at, None);
    assert_eq!(store.open_session(with_key(2, Some(first), party("m", 3))).await?, Opened::Superseded);
    Ok(())
}

#[tokio::test]
async fn a_renewal_that_was_not_used_outlasts_a_quarantine_and_one_of_the_copy_does_not() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = with_agent(dir.path()).await?;
    let past = held(&store, with_key(1, None, party("m", 1))).await?;
    let newest = held(&store, with_key(1, Some(past), party("m", 2))).await?;
    store.set_next_key(agent_id(1), newest.epoch, [2; 32], at(2)).await?;
    parted(store.open_session(with_key(1, Some(past), party("clone", 3))).await?)?;
    parted(store.open_session(with_key(9, Some(newest), party("key of the past", 4))).await?)?;
    let (fork, _) = parted(store.open_session(with_key(2, Some(newest), party("m", 5))).await?)?;
    assert_eq!(fork.parties, [party("m", 5), party("clone", 3)], "who has no key that counts takes no place");
    store.resolve(agent_id(1), Keep::First, entry("agent.resolve")).await?;
    let newest = held(&store, with_key(2, Some(newest), party("m", 6))).await?;

    store.set_next_key(agent_id(1), newest.epoch, [3; 32], at(7)).await?;
    let fourth = held(&store, with_key(2, Some(newest), party("thief", 7))).await?;
    parted(store.open_session(with_key(3, Some(newest), party("m", 8))).await?)?;
    store.resolve(agent_id(1), Keep::First, entry("agent.resolve")).await?;
    assert_eq!(store.open_session(with_key(3, Some(fourth), party("m", 9))).await?, Opened::Superseded);
    given(store.open_session(with_key(2, Some(fourth), party("thief", 9))).await?)?;
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
    store.confirm_nonce(agent_id(1), nonce.epoch).await?;
    store.set_next_key(agent_id(1), nonce.epoch, [5; 32], at(1)).await?;
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
