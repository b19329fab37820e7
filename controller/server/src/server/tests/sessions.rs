//! Sessions of agents, spoken word by word: who is taken for the agent, and how sessions end.

use super::*;
use muster_proto::fleet::Quarantine;
use muster_proto::id::{AgentId, BootId, StartId};
use muster_proto::link::{FromAgent, Hello, Nonce, ToAgent, Welcome};
use muster_proto::tls::Identity;
use muster_proto::wire;
use muster_proto::wire::agent_link_client::AgentLinkClient;
use std::collections::VecDeque;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Longer than anything here takes; only a failing test waits for it.
const LIMIT: Duration = Duration::from_secs(30);

/// A machine with an agent's certificate.
pub(super) struct Machine {
    pub(super) id: AgentId,
    key: KeyPair,
    certificate: Vec<u8>,
    boot: u8,
}

/// One session, as the agent sees it.
pub(super) struct Talk {
    outbound: mpsc::Sender<wire::FromAgent>,
    inbound: Streaming<wire::ToAgent>,
    heard: VecDeque<ToAgent>,
    /// Keeps the connection.
    _channel: Channel,
}

impl Machine {
    /// Every agent of a controller, enrolled with one token.
    pub(super) async fn enrolled(controller: &Controller, name: &str) -> Self {
        controller.token([7; 32], 1_000, HOUR).await;
        Self::next(controller, name).await
    }

    async fn next(controller: &Controller, name: &str) -> Self {
        let key = key();
        let identity = issued(controller.enrol(name, &[7; 32], &key).await.expect("enrolled"));
        let id = AgentId::try_from(&identity.agent[..]).expect("an id");
        Self { id, key, certificate: identity.certificate.to_vec(), boot: 1 }
    }

    /// The same disk in another machine.
    fn copy(&self) -> Self {
        let key = KeyPair::from_pem(&self.key.serialize_pem()).expect("a key");
        Self { id: self.id, key, certificate: self.certificate.clone(), boot: self.boot + 1 }
    }

    async fn dial(&self, controller: &Controller) -> Channel {
        let identity = Identity::from_pem(&tls::certificate_to_pem(&self.certificate), &self.key.serialize_pem());
        let config = tls::client_config(identity.expect("an identity"), controller.issuers.controller_ca());
        controller.channel(config.expect("a configuration"), controller.addresses.agents).await
    }

    async fn talk(&self, controller: &Controller, nonce: Option<Nonce>) -> Result<Talk, Status> {
        self.talk_on(self.dial(controller).await, nonce).await
    }

    async fn talk_on(&self, channel: Channel, nonce: Option<Nonce>) -> Result<Talk, Status> {
        let (outbound, queue) = mpsc::channel(8);
        let hello = FromAgent::Hello(Hello {
            protocol: (1, 1),
            boot: BootId::from_bytes([self.boot; 16]),
            start: StartId::from_bytes([3; 16]),
            facts_digest: bytes::Bytes::new(),
            clock: clock::now() + Duration::from_secs(600),
            unfinished: Vec::new(),
            nonce,
            machine: format!("machine-{}", self.boot),
        });
        outbound.send(wire::FromAgent { messages: vec![hello.into()] }).await.expect("room");
        let session = AgentLinkClient::new(channel.clone()).session(ReceiverStream::new(queue)).await?;
        Ok(Talk { outbound, inbound: session.into_inner(), heard: VecDeque::new(), _channel: channel })
    }

    /// A session from hello to the confirmed nonce.
    pub(super) async fn session(&self, controller: &Controller, nonce: Option<Nonce>) -> (Talk, Nonce) {
        let mut talk = self.talk(controller, nonce).await.expect("a session");
        let nonce = talk.welcome().await.nonce;
        talk.say(FromAgent::NonceStored(nonce.epoch)).await;
        (talk, nonce)
    }
}

impl Talk {
    pub(super) async fn say(&self, message: FromAgent) {
        // A session that was closed meanwhile is what some tests wait for.
        let _ = self.outbound.send(wire::FromAgent { messages: vec![message.into()] }).await;
    }

    /// The next message; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<ToAgent> {
        while self.heard.is_empty() {
            let batch = tokio::time::timeout(LIMIT, self.inbound.message()).await.expect("an answer");
            self.heard.extend(batch.ok().flatten()?.messages.into_iter().map(|it| it.try_into().expect("a message")));
        }
        self.heard.pop_front()
    }

    async fn welcome(&mut self) -> Welcome {
        match self.next().await {
            Some(ToAgent::Welcome(welcome)) => welcome,
            other => panic!("no welcome: {other:?}"),
        }
    }

    /// The reason of the last message of a session that was refused.
    async fn refused(&mut self) -> String {
        match (self.next().await, self.next().await) {
            (Some(ToAgent::Refused { reason, .. }), None) => reason,
            other => panic!("not refused: {other:?}"),
        }
    }
}

async fn quarantine_of(controller: &Controller) -> Option<Quarantine> {
    controller.store.agents().await.expect("agents").remove(0).quarantine
}

#[tokio::test]
async fn two_machines_with_one_identity_are_both_refused_by_name() {
    let controller = Controller::start().await;
    let machine = Machine::enrolled(&controller, "web01").await;
    let (first, nonce) = machine.session(&controller, None).await;
    drop(first);
    let copy = machine.copy();
    let (second, newer) = machine.session(&controller, Some(nonce)).await;
    drop(second);
    // Who shows a nonce has stored it: from here on the first one is of the past.
    let (mut live, newest) = machine.session(&controller, Some(newer)).await;

    let mut second = copy.talk(&controller, Some(nonce)).await.expect("a stream");
    for talk in [&mut second, &mut live] {
        let reason = talk.refused().await;
        assert!(reason.contains("two machines use the identity of web01"), "{reason}");
        assert!(reason.contains("muster agents resolve web01 --keep WHICH"), "{reason}");
    }
    let quarantine = quarantine_of(&controller).await.expect("it is quarantined");
    assert_eq!(quarantine.parties.map(|party| party.machine), ["machine-1", "machine-2"]);
    let mut again = machine.talk(&controller, Some(newest)).await.expect("a stream");
    assert!(again.refused().await.contains("two machines"), "neither is let in until somebody decides");
}

#[tokio::test]
async fn a_session_whose_nonce_is_never_confirmed_ends_and_no_other() {
    let controller = Controller::start().await;
    let machine = Machine::enrolled(&controller, "web01").await;
    let (mut confirmed, _) = machine.session(&controller, None).await;
    let mut deaf = Machine::next(&controller, "web02").await.talk(&controller, None).await.expect("a session");
    deaf.welcome().await;
    // What was said is heard before the clock goes on.
    confirmed.say(FromAgent::Renew(request_of(&key()))).await;
    assert!(matches!(confirmed.next().await, Some(ToAgent::Renewed(_))));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    assert_eq!(deaf.next().await, None, "it could not be given work, and would not know");
    controller.shutdown.cancel();
    assert!(matches!(confirmed.next().await, Some(ToAgent::Drain(_))), "who confirmed is still there");
}

#[tokio::test]
async fn a_new_key_gets_a_certificate_and_its_first_use_ends_the_old_one() {
    let controller = Controller::start().await;
    let machine = Machine::enrolled(&controller, "web01").await;
    let (mut talk, nonce) = machine.session(&controller, None).await;
    let fresh = key();
    talk.say(FromAgent::Renew(request_of(&fresh))).await;
    let Some(ToAgent::Renewed(certificate)) = talk.next().await else { panic!("not renewed") };
    let name = tls::peer_name(&certificate.to_vec().into()).expect("a name");
    assert_eq!(name.peer, Peer::Agent(machine.id), "it is the same agent");

    // The old key counts until the new one is used.
    let (mut old, nonce) = machine.session(&controller, Some(nonce)).await;
    let renewed = Machine { key: fresh, certificate: certificate.to_vec(), ..machine.copy() };
    let (_new, nonce) = renewed.session(&controller, Some(nonce)).await;
    assert_eq!(old.next().await, None, "the stream of the old key ends");
    let mut late = machine.talk(&controller, Some(nonce)).await.expect("a stream");
    assert!(late.refused().await.contains("replaced by a newer one"));
}

#[tokio::test]
async fn who_has_not_stored_its_nonce_gets_no_certificate() {
    let controller = Controller::start().await;
    let machine = Machine::enrolled(&controller, "web01").await;
    let mut talk = machine.talk(&controller, None).await.expect("a session");
    let nonce = talk.welcome().await.nonce;
    talk.say(FromAgent::Renew(request_of(&key()))).await;
    talk.say(FromAgent::NonceStored(nonce.epoch)).await;
    let second = key();
    talk.say(FromAgent::Renew(request_of(&second))).await;
    let Some(ToAgent::Renewed(certificate)) = talk.next().await else { panic!("not renewed") };
    // It fits the second key only if the first request had no answer.
    let renewed = Machine { key: second, certificate: certificate.to_vec(), ..machine.copy() };
    renewed.session(&controller, Some(nonce)).await;
}

#[tokio::test]
async fn one_certificate_a_minute_and_none_without_proof() {
    let controller = Controller::start().await;
    let machine = Machine::enrolled(&controller, "web01").await;
    let (mut talk, nonce) = machine.session(&controller, None).await;
    for _ in 0..50 {
        talk.say(FromAgent::Renew(request_of(&key()))).await;
    }
    assert!(matches!(talk.next().await, Some(ToAgent::Renewed(_))));
    talk.say(FromAgent::Renew(vec![1; 100].into())).await;
    talk.say(FromAgent::Hello(hello_again())).await;
    assert_eq!(talk.next().await, None, "there is one answer to all of them");
    let (mut talk, _) = machine.session(&controller, Some(nonce)).await;
    talk.say(FromAgent::Renew(vec![1; 100].into())).await;
    assert_eq!(talk.next().await, None, "what proves nothing ends the session");
}

fn hello_again() -> Hello {
    Hello {
        protocol: (1, 1),
        boot: BootId::from_bytes([1; 16]),
        start: StartId::from_bytes([1; 16]),
        facts_digest: bytes::Bytes::new(),
        clock: clock::now(),
        unfinished: Vec::new(),
        nonce: None,
        machine: String::new(),
    }
}

#[tokio::test]
async fn a_certificate_that_expires_ends_its_stream_and_opens_no_other() {
    let short = Duration::from_secs(2);
    let controller = Controller::start_with(|settings| Settings { agent_validity: short, ..settings }).await;
    let machine = Machine::enrolled(&controller, "web01").await;
    let channel = machine.dial(&controller).await;
    let mut talk = machine.talk_on(channel.clone(), None).await.expect("a session");
    let nonce = talk.welcome().await.nonce;
    assert_eq!(talk.next().await, None, "the stream ends with the certificate");
    let refused = machine.talk_on(channel, Some(nonce)).await.err().expect("refused");
    assert_eq!(refused.code(), Code::Unauthenticated, "on the same connection as well: {refused}");
}

#[tokio::test]
async fn a_stop_asks_everybody_to_come_back_spread_over_time() {
    const AGENTS: usize = 200;
    let controller = Controller::start().await;
    let first = Machine::enrolled(&controller, "web-0").await;
    let mut talks = vec![first.session(&controller, None).await.0];
    for number in 1..AGENTS {
        let machine = Machine::next(&controller, &format!("web-{number}")).await;
        talks.push(machine.session(&controller, None).await.0);
    }
    controller.shutdown.cancel();
    let mut pauses = Vec::new();
    for talk in &mut talks {
        match (talk.next().await, talk.next().await) {
            (Some(ToAgent::Drain(pause)), None) => pauses.push(pause),
            other => panic!("not asked to come back: {other:?}"),
        }
    }
    let ended = tokio::time::timeout(Duration::from_secs(15), controller.running).await.expect("it ends in time");
    ended.expect("no panic").expect("no error");
    pauses.sort_unstable();
    pauses.dedup();
    assert_eq!(pauses.len(), AGENTS, "each has a time of its own");
    assert!(pauses.last().is_some_and(|last| *last < Duration::from_secs(1)), "200 a second: {pauses:?}");
}

#[test]
fn the_spread_grows_with_the_fleet() {
    let seconds = [0, 10, 1_000, 4_000, 10_000, 1_000_000].map(|agents| spread(agents).as_secs());
    assert_eq!(seconds, [1, 1, 5, 20, 30, 30]);
}
