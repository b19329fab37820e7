//! The agents' door: gRPC on one side, sessions and jobs on the other.
//!
//! ```text
//! Hello ──▶ session opened (durable epoch) ──▶ jobs greeted ──▶ Welcome ──▶ live
//! ```
//!
//! Whatever jobs queue for the agent meanwhile waits in its queue until the welcome has been sent. The stream ends
//! when the peer goes, when its certificate expires, when a newer session takes its place, or when it lies.

mod outbox;

use crate::clock;
use crate::engine::Engine;
use crate::listen::PeerInfo;
use crate::reply::Reply as _;
use crate::roster::Roster;
use crate::sessions::{Epoch, QUEUE_LEN, Session, Sessions};
use bytes::Bytes;
use muster_proto::fleet::Facts;
use muster_proto::id::AgentId;
use muster_proto::limits;
use muster_proto::link::{FromAgent, Hello, ToAgent, Welcome};
use muster_proto::wire;
use muster_store::Store;
use outbox::{Outbox, OutboxStream};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

/// A peer that has a certificate and says nothing is gone after this long.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// The service that agents dial.
#[derive(Clone)]
pub struct AgentDoor {
    engine: Engine,
    sessions: Sessions,
    roster: Roster,
    store: Store,
}

/// What the session's first message is made of, once the agent has said hello.
type Opening = Vec<ToAgent>;

impl AgentDoor {
    /// A door into these jobs.
    pub fn new(engine: Engine, sessions: Sessions, roster: Roster, store: Store) -> Self {
        Self { engine, sessions, roster, store }
    }

    /// The service with its limits.
    pub fn service(self) -> wire::agent_link_server::AgentLinkServer<Self> {
        wire::agent_link_server::AgentLinkServer::new(self)
            .max_decoding_message_size(limits::AGENT_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::CONTROLLER_MESSAGE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl wire::agent_link_server::AgentLink for AgentDoor {
    type SessionStream = OutboxStream;

    async fn session(
        &self,
        request: Request<Streaming<wire::FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let peer = peer.ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let agent = peer.agent().ok_or_else(|| Status::unauthenticated("not an agent's certificate"))?;
        if self.roster.admits(agent).is_none() {
            info!(%agent, address = %peer.address, "an agent that is not enrolled here, or was revoked, was turned away");
            return Err(Status::permission_denied("this agent is not enrolled here, or was revoked: enrol it again"));
        }
        let (queue, waiting) = mpsc::channel(QUEUE_LEN);
        let (welcome, opening) = oneshot::channel();
        let close = CancellationToken::new();
        let outbox = Outbox::new(self.store.clone(), opening, waiting, close.clone());
        let visit = Visit { door: self.clone(), agent, peer, close };
        tokio::spawn(visit.run(request.into_inner(), queue, welcome));
        Ok(Response::new(outbox.into_stream()))
    }
}

/// One connection of one agent.
struct Visit {
    door: AgentDoor,
    agent: AgentId,
    peer: PeerInfo,
    close: CancellationToken,
}

impl Visit {
    async fn run(
        self,
        mut inbound: Streaming<wire::FromAgent>,
        queue: mpsc::Sender<crate::sessions::Outgoing>,
        welcome: oneshot::Sender<Opening>,
    ) {
        // Whatever ends the visit also ends the stream towards the agent.
        let _close = self.close.clone().drop_guard();
        let first = tokio::time::timeout(HELLO_WITHIN, inbound.message()).await;
        let Ok(Ok(Some(first))) = first else { return };
        let Some((hello, rest)) = split_hello(first) else {
            warn!(agent = %self.agent, "the first message was no hello, session closed");
            return;
        };
        if hello.protocol.0 > *limits::PROTOCOL.end() || hello.protocol.1 < *limits::PROTOCOL.start() {
            warn!(agent = %self.agent, protocol = ?hello.protocol, "the agent speaks another protocol: upgrade it");
            return;
        }
        let epoch = match self.door.store.open_session(self.agent, clock::now()).await {
            Ok(epoch) => Epoch(epoch),
            Err(error) => return warn!(agent = %self.agent, %error, "no session could be opened"),
        };
        let session = Session::new(epoch, self.peer.address, queue, self.close.clone());
        if !self.door.sessions.begin(self.agent, session) {
            return;
        }
        debug!(agent = %self.agent, address = %self.peer.address, "connected");
        self.live(epoch, hello, rest, inbound, welcome).await;
        if self.door.sessions.end(self.agent, epoch) {
            self.door.roster.left(self.agent, clock::now());
        }
        self.door.engine.gone(self.agent, epoch).await;
        debug!(agent = %self.agent, "disconnected");
    }

    async fn live(
        &self,
        epoch: Epoch,
        hello: Hello,
        rest: Vec<FromAgent>,
        mut inbound: Streaming<wire::FromAgent>,
        welcome: oneshot::Sender<Opening>,
    ) {
        let resumption = match self.door.engine.hello(self.agent, epoch, &hello.unfinished).await {
            Ok(resumption) => resumption,
            Err(error) => return warn!(agent = %self.agent, %error, "the session could not be resumed"),
        };
        // Asked after the session has begun: a revocation from here on finds it and closes it.
        let Some(known) = self.door.roster.admits(self.agent) else { return };
        let mut opening = vec![ToAgent::Welcome(Welcome {
            protocol: hello.protocol.1.min(*limits::PROTOCOL.end()),
            epoch: epoch.0,
            clock: clock::now(),
            want_facts: known != hello.facts_digest,
            resume: resumption.resume,
            outstanding: resumption.outstanding,
        })];
        opening.extend(resumption.then);
        let mut digest = Some(hello.facts_digest);
        if welcome.send(opening).is_err() || self.take(epoch, rest, &mut digest).await.is_err() {
            return;
        }
        let expiry = self.peer.not_after.map_or(Duration::MAX, |end| clock::now().until(end));
        let expired = tokio::time::sleep(expiry.min(Duration::from_hours(24 * 365)));
        tokio::pin!(expired);
        loop {
            let message = tokio::select! {
                message = inbound.message() => message,
                () = self.close.cancelled() => return,
                () = &mut expired => return info!(agent = %self.agent, "the agent's certificate expired, session closed"),
            };
            let Ok(Some(message)) = message else { return };
            let messages = match convert(message) {
                Ok(messages) => messages,
                Err(error) => return warn!(agent = %self.agent, %error, "message refused, session closed"),
            };
            if let Err(error) = self.take(epoch, messages, &mut digest).await {
                return warn!(agent = %self.agent, %error, "session closed");
            }
        }
    }

    async fn take(&self, epoch: Epoch, messages: Vec<FromAgent>, digest: &mut Option<Bytes>) -> Result<(), Status> {
        let mut reports = Vec::with_capacity(messages.len());
        for message in messages {
            match message {
                FromAgent::Task(task, report) => reports.push((task, report)),
                FromAgent::Facts(facts) => self.facts(facts, digest.take()).await?,
                FromAgent::Hello(_) => return Err(Status::invalid_argument("a second hello")),
            }
        }
        self.door.engine.report(self.agent, epoch, reports).await.map_err(crate::reply::Reply::reply)
    }

    /// Facts are taken once a session: an agent cannot keep the store busy with them.
    async fn facts(&self, facts: Facts, digest: Option<Bytes>) -> Result<(), Status> {
        let Some(digest) = digest else { return Err(Status::invalid_argument("facts come once a session")) };
        self.door.store.set_facts(self.agent, digest.clone(), facts.clone()).await.map_err(|error| error.reply())?;
        self.door.roster.set_facts(self.agent, digest, facts);
        Ok(())
    }
}

fn convert(message: wire::FromAgent) -> Result<Vec<FromAgent>, wire::WireError> {
    if message.messages.len() > limits::MESSAGES_PER_BATCH_MAX {
        return Err(wire::WireError::Field("messages"));
    }
    message.messages.into_iter().map(TryInto::try_into).collect()
}

fn split_hello(message: wire::FromAgent) -> Option<(Hello, Vec<FromAgent>)> {
    let mut messages = convert(message).ok()?.into_iter();
    match messages.next() {
        Some(FromAgent::Hello(hello)) => Some((hello, messages.collect())),
        _ => None,
    }
}
