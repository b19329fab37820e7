//! One story through the whole store, told again after it was closed and opened.

use crate::common::{Failure, agent_id, append, at, entry, event, good, job_id, new_job, open, party, targets};
use muster_proto::command::BlobRef;
use muster_proto::event::{Event, EventKind, Stream};
use muster_proto::fleet::{Facts, Labels, PendingAgent};
use muster_proto::id::TaskId;
use muster_proto::job::{JobList, JobState, TargetList, Work};
use muster_proto::outcome::{Counts, End, EndKind, State};
use muster_proto::ping::{Detail, Family, Pair, PingHost, PingList, PingSpec, Probes, Way};
use muster_proto::token::Token;
use muster_store::{
    AcceptError, AgentError, AgentRecord, Append, ApproveError, BlobError, EnrolBy, EnrolError, LateEvidence,
    LoginError, NewAgent, NewOperator, NewToken, Opened, OperatorError, Store, StoreError,
};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

#[tokio::test]
async fn what_the_store_was_told_it_tells_again() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("state")).await?;
    operators(&store).await?;
    agents_by_token(&store).await?;
    agents_by_approval(&store).await?;
    let told = job(&store).await?;
    blobs(&store).await?;
    assert_eq!(fs::read_dir(dir.path().join("state/blobs"))?.count(), 1, "an unfinished blob leaves nothing behind");
    for made in ["state", "state/output", "state/blobs"] {
        assert_eq!(fs::metadata(dir.path().join(made))?.permissions().mode() & 0o777, 0o700, "{made}");
    }
    let (agents, audit, jobs) =
        (store.agents().await?, store.audit(0, 100).await?, store.jobs(JobList::All, 10).await?);
    let actions: Vec<_> = audit.iter().map(|record| record.entry.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "operator.register",
            "operator.add",
            "operator.add",
            "operator.login",
            "operator.renew",
            "operator.login",
            "operator.renew",
            "operator.disable",
            "token.create",
            "agent.enrol",
            "agent.label",
            "agent.revoke",
            "agent.enrol",
            "agent.approve",
            "agent.enrol",
            "job.submit",
            "job.cancel",
        ]
    );
    store.close().await;
    assert!(matches!(store.append(append(job_id(9), vec![])).await, Err(StoreError::Closed)));
    assert!(matches!(store.agents().await, Err(StoreError::Closed)));

    let store = Store::open(&dir.path().join("state")).await?;
    assert_eq!(store.agents().await?, agents);
    assert_eq!(store.jobs(JobList::All, 10).await?, jobs);
    assert_eq!(store.events(job_id(9), 0, usize::MAX).await?, told);
    assert_eq!(store.audit(0, 100).await?, audit);
    assert_eq!(store.verify_audit().await?, audit.len() as u64);
    Ok(())
}

async fn operators(store: &Store) -> Result<(), Failure> {
    store.register_operator(good("ann"), [1; 32], at(0)).await?;
    let bob = |code| NewOperator {
        name: good("bob"),
        code_hash: Token::hash(code),
        expires_at: at(100),
        at: at(1),
        actor: "operator/ann".into(),
    };
    store.add_operator(bob(b"first")).await?;
    assert!(store.operator_key(&good("bob")).await?.is_none());
    store.add_operator(bob(b"second")).await?;
    let login = |code, seconds| store.login(Token::hash(code), [2; 32], at(seconds));
    assert!(matches!(login(b"first", 2).await, Err(LoginError::CodeInvalid)));
    assert!(matches!(login(b"second", 100).await, Err(LoginError::CodeInvalid)));
    assert_eq!(login(b"second", 99).await?, good("bob"));
    assert!(matches!(login(b"second", 99).await, Err(LoginError::CodeInvalid)));
    assert!(store.operator_key(&good("bob")).await?.is_some());

    // The answer may have been lost, or the certificate has expired: another code for the same person.
    store.add_operator(bob(b"third")).await?;
    assert!(store.operator_key(&good("bob")).await?.is_some(), "a code that nobody has used yet changes nothing");
    assert_eq!(login(b"third", 99).await?, good("bob"));
    let last = store.audit(0, 100).await?.into_iter().rev().nth(1).ok_or("the renewal is on record")?.entry;
    assert_eq!((&last.actor[..], &last.action[..], &last.detail[..]), ("operator/ann", "operator.renew", "bob"));
    store.add_operator(bob(b"fourth")).await?;

    store.disable_operator(good("bob"), at(100), entry("operator.disable")).await?;
    let again = store.disable_operator(good("bob"), at(101), entry("operator.disable")).await;
    assert!(matches!(again, Err(OperatorError::Unknown(_))));
    assert!(matches!(login(b"fourth", 99).await, Err(LoginError::CodeInvalid)));
    assert!(matches!(store.add_operator(bob(b"fifth")).await, Err(OperatorError::NameTaken(_))));
    assert!(store.operator_key(&good("bob")).await?.is_none());
    assert!(store.operator_key(&good("eve")).await?.is_none());
    let bob = store.operators().await?.remove(1);
    assert_eq!((bob.login_at, bob.disabled_at), (Some(at(99)), Some(at(100))));
    Ok(())
}

fn agent(number: u8, name: &str, by: EnrolBy) -> NewAgent {
    let id = agent_id(u128::from(number));
    NewAgent { id, name: good(name), key_fingerprint: [number; 32], at: at(5), by, address: "192.0.2.1:999".into() }
}

async fn agents_by_token(store: &Store) -> Result<(), Failure> {
    let (hash, web) = (Token::hash(b"join"), Labels::from([(good("role"), good("web"))]));
    let audit = entry("token.create");
    let token = NewToken { hash, labels: web.clone(), uses: 2, expires_at: at(60), operator: good("ann"), audit };
    store.create_token(token).await?;
    let by = EnrolBy::Token { hash };
    assert_eq!(store.enrol_agent(agent(1, "web1", by.clone())).await?.labels, web);
    // A refused name uses nothing up: the second use is still there afterwards.
    assert!(matches!(store.enrol_agent(agent(2, "web1", by.clone())).await, Err(EnrolError::NameTaken)));
    let unknown = EnrolBy::Token { hash: [0; 32] };
    assert!(matches!(store.enrol_agent(agent(2, "web2", unknown)).await, Err(EnrolError::TokenInvalid)));

    let facts =
        Facts { os: "debian".into(), cpus: 8, addresses: vec!["192.0.2.1".into()], root: true, ..Facts::default() };
    store.set_facts(agent_id(1), vec![9; 32].into(), facts.clone()).await?;
    let env = Labels::from([(good("env"), good("prod"))]);
    let some_unknown = vec![(agent_id(1), Labels::new()), (agent_id(8), Labels::new())];
    assert!(matches!(store.set_labels(some_unknown, entry("agent.label")).await, Err(AgentError::Unknown(_))));
    assert_eq!(store.agents().await?[0].labels, web);
    store.set_labels(vec![(agent_id(1), env.clone())], entry("agent.label")).await?;
    for seconds in [6, 7] {
        let opened = store.open_session(open(1, None, party("m1", seconds))).await?;
        assert!(matches!(opened, Opened::Session { nonce, .. } if nonce.epoch == seconds.unsigned_abs() - 5));
    }

    store.revoke_agent(agent_id(1), at(8), entry("agent.revoke")).await?;
    let revoked = store.open_session(open(1, None, party("m1", 9))).await;
    assert!(matches!(revoked, Err(AgentError::Unknown(_))));
    store.enrol_agent(agent(2, "web1", by.clone())).await?;
    assert!(matches!(store.enrol_agent(agent(3, "web3", by)).await, Err(EnrolError::TokenInvalid)));
    let record = AgentRecord {
        facts: Some(facts.into()),
        facts_digest: Some(vec![9; 32].into()),
        revoked_at: Some(at(8)),
        last_seen: Some(at(7)),
        party: Some(party("m1", 7)),
        last_epoch: 2,
        ..AgentRecord::enrolled(agent_id(1), good("web1"), env, at(5))
    };
    assert_eq!(store.agents().await?[0], record);
    Ok(())
}

async fn agents_by_approval(store: &Store) -> Result<(), Failure> {
    let pending = |number: u8, name: &str, seconds| PendingAgent {
        fingerprint: [number; 32],
        name: good(name),
        address: "192.0.2.4:1".into(),
        asked_at: at(seconds),
    };
    store.add_pending(pending(4, "db1", 1)).await?;
    store.add_pending(pending(4, "db2", 2)).await?;
    store.add_pending(pending(5, "web1", 3)).await?;
    assert_eq!(store.pending(at(5)).await?, [pending(4, "db1", 1), pending(5, "web1", 3)]);
    assert_eq!(store.pending(at(24 * 3_600 + 2)).await?, [pending(5, "web1", 3)]);

    let approve = |number: u8| store.approve([number; 32], Labels::new(), at(5), entry("agent.approve"));
    let by_approval = |name| store.enrol_agent(agent(4, name, EnrolBy::Approval));
    assert!(matches!(by_approval("db1").await, Err(EnrolError::NotApproved)));
    assert!(matches!(approve(6).await, Err(ApproveError::Unknown)));
    assert!(matches!(approve(5).await, Err(ApproveError::NameTaken(_))));
    assert_eq!(approve(4).await?, good("db1"));
    assert!(matches!(by_approval("db2").await, Err(EnrolError::NotApproved)));
    by_approval("db1").await?;
    assert!(matches!(by_approval("db1").await, Err(EnrolError::NotApproved)));
    Ok(())
}

async fn job(store: &Store) -> Result<Vec<Event>, Failure> {
    let (id, new) = (job_id(9), new_job(job_id(9)));
    store.accept(new.clone()).await?;
    assert!(matches!(store.accept(new.clone()).await, Err(AcceptError::Duplicate)));
    assert_eq!(store.unfinished_jobs().await?, [id]);

    let output = |seq, data: Vec<u8>| {
        event(seq, EventKind::Output { target: 0, stream: Stream::Stdout, offset: 0, data: data.into() })
    };
    let mut counts = Counts::default();
    counts.add(State::Succeeded);
    let ended = End { kind: EndKind::Exit(0), duration: Duration::from_millis(12) };
    let first =
        vec![event(2, EventKind::Started { target: 0 }), output(3, b"up".into()), output(4, vec![b'x'; 65_536])];
    let last = vec![
        event(5, EventKind::Finished { target: 0, outcome: ended.into() }),
        event(6, EventKind::Cancelling { operator: good("ann") }),
        event(7, EventKind::Done { counts }),
    ];
    assert_eq!(store.jobs(JobList::Unfinished, 10).await?.len(), 1);
    let late = |target, text: &str| LateEvidence {
        task: TaskId { job: id, target, attempt: muster_proto::id::Attempt::FIRST },
        text: text.into(),
        at: at(30),
    };
    let with_late = Append { late: vec![late(0, "first"), late(0, "second")], ..append(id, first.clone()) };
    store.append(with_late).await?;
    let done = Append {
        state: JobState::Done,
        counts,
        done_at: Some(at(20)),
        audit: vec![entry("job.cancel")],
        ..append(id, last.clone())
    };
    store.append(done).await?;
    for text in ["it ran after all", "once more"] {
        store.late_evidence(late(1, text)).await?;
        store.late_evidence(late(0, text)).await?;
    }
    assert_eq!(store.late_evidence_of(id).await?, [late(0, "first"), late(1, "it ran after all")]);

    let stored = store.job(id).await?.ok_or("the job is stored")?;
    assert_eq!((&stored.spec, &stored.signed, &stored.targets), (&new.spec, &new.signed, &targets()));
    assert_eq!((stored.last_seq, stored.summary.state, stored.summary.counts), (7, JobState::Done, counts));
    assert_eq!((&stored.summary.operator, &stored.summary.title[..]), (&good("ann"), "uptime"));
    assert_eq!(stored.summary.argv, ["/bin/sh", "-c", "uptime"]);
    assert_eq!(stored.summary.targets, new.spec.targets);
    assert_eq!(store.jobs(JobList::All, 10).await?, [stored.summary]);
    assert!(store.jobs(JobList::Unfinished, 10).await?.is_empty());
    assert!(store.unfinished_jobs().await?.is_empty());
    assert!(store.job(job_id(10)).await?.is_none());
    Ok([new.events, first, last].concat())
}

async fn blobs(store: &Store) -> Result<(), Failure> {
    let blob = BlobRef { digest: Token::hash(b"some bytes"), size: 10 };
    let mut writer = store.blob_writer(blob).await?;
    assert!(store.blob(blob.digest).await?.is_none());
    writer.write(b"some ").await?;
    writer.write(b"bytes").await?;
    writer.finish().await?;
    let mut text = String::new();
    store.blob(blob.digest).await?.ok_or("the blob is stored")?.read_to_string(&mut text)?;
    assert_eq!(text, "some bytes");

    let other = BlobRef { digest: [3; 32], size: 10 };
    let mut writer = store.blob_writer(other).await?;
    writer.write(b"some bytes").await?;
    assert!(matches!(writer.finish().await, Err(BlobError::DigestMismatch)));
    let mut writer = store.blob_writer(blob).await?;
    assert!(matches!(writer.write(b"some bytes and more").await, Err(BlobError::TooLarge)));
    let huge = BlobRef { size: u64::MAX, ..blob };
    assert!(matches!(store.blob_writer(huge).await, Err(BlobError::TooLarge)));
    assert!(store.blob(other.digest).await?.is_none());
    Ok(())
}

#[tokio::test]
async fn the_list_of_a_ping_is_kept_pair_by_pair() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(&dir.path().join("state")).await?;
    let TargetList::Agents(agents) = targets() else { panic!("agents") };
    let host = |name: &str, agent| PingHost { name: good(name), agent };
    let hosts = vec![host("web9", None), host("fe80::1%eth0", None), host("web1", Some(agent_id(1)))];
    let pair = |from, to| Pair { from, to };
    let pairs = vec![pair(None, 2), pair(Some(1), 0), pair(Some(0), 1), pair(None, 0)];
    let mesh = PingList::new(agents.to_vec(), hosts.clone(), pairs)?;
    for (number, list) in [(1, mesh), (2, PingList::from_controller(hosts)?)] {
        let mut new = new_job(job_id(number));
        new.targets = TargetList::Pings(list.into());
        let spec = PingSpec { way: Way::Both, family: Family::Any, detail: Detail::Ends, probes: Probes::default() };
        new.spec.work = Work::Ping(spec);
        new.signed.payload = new.spec.encode();
        store.accept(new.clone()).await?;
        let stored = store.job(job_id(number)).await?.ok_or("it is there")?;
        assert_eq!((stored.targets, stored.spec), (new.targets, new.spec));
        assert_eq!(stored.summary.title, "ping");
    }
    Ok(())
}
