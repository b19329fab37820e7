//! The agent's certificate is renewed in time, and whatever happens meanwhile one identity is left that works.

use super::fixture::{CLUSTER, Ca, Controller, PATIENCE, Running, Session, World, eventually, welcome};
use super::{end_of, sh};
use muster_agent::clock::Clock;
use muster_agent::facts;
use muster_agent::process::Containment;
use muster_agent::session::{Event, Link};
use muster_proto::id::{AgentId, BootId, StartId};
use muster_proto::link::{FromAgent, Hello, TaskReport, ToAgent, Welcome};
use muster_proto::name::{Peer, PeerName};
use muster_proto::outcome::EndKind;
use muster_proto::tls;
use rcgen::{CertificateParams, SanType, date_time_ymd};
use std::fs;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

fn hello() -> Hello {
    Hello {
        protocol: (1, 1),
        boot: BootId::from_bytes([1; 16]),
        start: StartId::from_bytes([2; 16]),
        facts_digest: Default::default(),
        clock: Clock::default().now(),
        unfinished: Vec::new(),
        nonce: None,
        machine: String::new(),
    }
}

/// What an agent with this certificate is told.
async fn refusal(world: &World, controller: &Controller, (certificate, key): (String, String)) -> String {
    let own = tls::Identity::from_pem(&certificate, &key).expect("PEM");
    let link = Link {
        controller: controller.address.clone(),
        cluster: CLUSTER,
        tls: Arc::new(tls::client_config(own, world.controllers.certificate.der()).expect("a pair")),
        facts: facts::collect(&Containment::ProcessGroup),
    };
    let (sender, mut events) = mpsc::channel(1);
    let link = tokio::spawn(link.keep(sender));
    loop {
        match timeout(PATIENCE, events.recv()).await.expect("an answer").expect("the link goes on") {
            Event::Messages(messages) => {
                let [ToAgent::Refused { reason, retry_after }] = &messages[..] else { panic!("{messages:?}") };
                assert!(*retry_after >= Duration::from_secs(30), "it does not spin");
                link.abort();
                break reason.clone();
            }
            Event::Dialed(answer) => answer.send(hello()).expect("it asked"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_expired_certificate_is_called_that_and_a_foreign_one_is_not() {
    let world = World::new();
    let controller = Controller::new(&world).await;
    let expired = refusal(&world, &controller, world.agents.issue_until(1971, 2001)).await;
    assert!(expired.contains("because of its dates: it expired before it could be renewed"), "{expired}");
    assert!(expired.contains("enrol again with a fresh --state"), "{expired}");
    let foreign = refusal(&world, &controller, Ca::new().issue_until(1971, 2060)).await;
    assert!(foreign.contains("refuses this agent's identity") && foreign.contains("it was revoked"), "{foreign}");
}

/// An enrolled agent whose certificate's half life is over, its first session, and the request that came in it.
async fn due(world: &World, controller: &mut Controller) -> (Running, Session, Vec<u8>) {
    world.enrol(controller, world.agents.issue_until(1971, 2060));
    let agent = Running::start(world.agent(controller));
    let (_, mut session) = controller.live().await;
    let FromAgent::Renew(request) = session.next().await else { panic!("its half life is over") };
    assert_eq!(session.stored, [1], "the nonce comes first");
    (agent, session, request.to_vec())
}

fn file(world: &World, name: &str) -> Option<String> {
    fs::read_to_string(world.state().join("identity").join(name)).ok()
}

async fn promoted(world: &World, certificate: &[u8]) {
    let new = tls::certificate_to_pem(certificate);
    let done = || file(world, "agent.crt").as_ref() == Some(&new) && file(world, "next.key").is_none();
    eventually("the new certificate is the agent's", done).await;
    assert!(file(world, "next.crt").is_none());
    let key = file(world, "key.pem").expect("a key");
    let own = tls::Identity::from_pem(&new, &key).expect("PEM");
    tls::client_config(own, world.controllers.certificate.der()).expect("the key is the certificate's");
}

#[tokio::test]
async fn a_certificate_is_renewed_while_a_task_runs() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let (agent, mut session, request) = due(&world, &mut controller).await;
    let go = world.root.path().join("go");
    let line = format!("echo one; while [ ! -e {go} ]; do sleep 0.01; done; exit 7", go = go.display());
    let offer = world.offer(sh(&line));
    session.send([ToAgent::Offer(offer.clone())]).await;
    while !matches!(session.report().await, (_, TaskReport::Frame(_))) {}

    let certificate = world.agents.certify(&request);
    let old = file(&world, "agent.crt");
    session.send([ToAgent::Renewed(certificate.clone().into())]).await;
    let (hello, mut session) = controller.session().await;
    assert_eq!(hello.unfinished.iter().map(|held| held.task).collect::<Vec<_>>(), [offer.task]);
    assert_eq!(file(&world, "agent.crt"), old, "nobody has said yet that the new one works");
    session.send([ToAgent::Welcome(Welcome { resume: vec![(offer.task, 1)], ..welcome() })]).await;
    promoted(&world, &certificate).await;
    fs::write(go, "").expect("written");
    let (reports, _) = session.finish(offer.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(7));
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_ends_before_the_new_certificate_is_proved_finds_it_again() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let (agent, session, request) = due(&world, &mut controller).await;
    let certificate = world.agents.certify(&request);
    session.send([ToAgent::Renewed(certificate.clone().into())]).await;
    let (_, session) = controller.session().await;
    agent.stop().await;
    drop(session);
    assert!(file(&world, "next.crt").is_some());
    let agent = Running::start(world.agent(&controller));
    let _session = controller.live().await;
    promoted(&world, &certificate).await;
    agent.stop().await;
}

#[tokio::test]
async fn when_the_new_certificate_is_refused_the_old_one_goes_on() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let (agent, session, request) = due(&world, &mut controller).await;
    let old = (file(&world, "agent.crt"), file(&world, "key.pem"));
    session.send([ToAgent::Renewed(world.agents.certify(&request).into())]).await;
    let (_, session) = controller.session().await;
    // So long would an agent wait that has nothing else to try.
    let retry_after = Duration::from_hours(1);
    session.send([ToAgent::Refused { reason: "not known".to_owned(), retry_after }]).await;
    let _session = controller.live().await;
    eventually("the new one is gone", || file(&world, "next.crt").or(file(&world, "next.key")).is_none()).await;
    assert_eq!((file(&world, "agent.crt"), file(&world, "key.pem")), old);
    agent.stop().await;
}

#[tokio::test]
async fn a_certificate_for_another_key_changes_nothing() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let (agent, mut session, _) = due(&world, &mut controller).await;
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let request = CertificateParams::default().serialize_request(&other).expect("a request");
    session.send([ToAgent::Renewed(world.agents.certify(request.der()).into())]).await;
    let offer = world.offer(sh("exit 9"));
    session.send([ToAgent::Offer(offer.clone())]).await;
    let (reports, _) = session.finish(offer.task).await;
    assert_eq!(end_of(&reports), &EndKind::Exit(9), "the session goes on");
    assert!(file(&world, "next.crt").is_none());
    agent.stop().await;
}

/// It ends before it begins.
fn turned_round(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2060, 1, 1), date_time_ymd(1971, 1, 1));
}

fn expired(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(1971, 1, 1), date_time_ymd(2001, 1, 1));
}

fn of_another_agent(params: &mut CertificateParams) {
    let name = PeerName { cluster: CLUSTER, peer: Peer::Agent(AgentId::from_bytes([3; 16])) };
    params.subject_alt_names = vec![SanType::URI(name.to_string().try_into().expect("ASCII"))];
}

fn nameless(params: &mut CertificateParams) {
    params.subject_alt_names.clear();
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_not_kept() {
    for alter in [turned_round, expired, of_another_agent, nameless] {
        let world = World::new();
        let mut controller = Controller::new(&world).await;
        let (agent, mut session, request) = due(&world, &mut controller).await;
        session.send([ToAgent::Renewed(world.agents.certify_altered(&request, alter).into())]).await;
        let offer = world.offer(sh("exit 9"));
        session.send([ToAgent::Offer(offer.clone())]).await;
        let (reports, _) = session.finish(offer.task).await;
        assert_eq!(end_of(&reports), &EndKind::Exit(9), "the session goes on");
        assert!(file(&world, "next.crt").is_none());
        agent.stop().await;
    }
}

#[tokio::test]
async fn an_unusable_certificate_on_disk_does_not_keep_an_agent_from_starting() {
    let world = World::new();
    let mut controller = Controller::new(&world).await;
    let (agent, session, request) = due(&world, &mut controller).await;
    agent.stop().await;
    drop(session);
    let old = file(&world, "agent.crt");
    let certificate = tls::certificate_to_pem(&world.agents.certify_altered(&request, turned_round));
    fs::write(world.state().join("identity/next.crt"), certificate).expect("written");
    let agent = Running::start(world.agent(&controller));
    let _session = controller.live().await;
    eventually("it is gone", || file(&world, "next.crt").is_none()).await;
    assert_eq!(file(&world, "agent.crt"), old);
    agent.stop().await;
}
