//! The agents' door: gRPC on one side, sessions and jobs on the other.
//!
//! ```text
//! Hello ──▶ who is it (durable) ──▶ jobs greeted ──▶ Welcome ──▶ NonceStored ──▶ offers
//! ```
//!
//! Whatever jobs queue for the agent meanwhile waits in its mailbox. The stream ends when the peer goes, when its
//! certificate expires, when a newer session takes its place, when another machine comes as the same agent, or when it
//! lies; whoever is refused hears why as the last message.

mod outbox;

use crate::clock;
use crate::engine::Engine;
use crate::issuers::{Issuers, PublicKey, Validity};
use crate::listen::PeerInfo;
use crate::ping::Prober;
use crate::roster::Roster;
use crate::sessions::{Begun, Epoch, Mailbox, Outgoing, Session, Sessions};
use crate::stats::{Closed, Limit, Report};
use bytes::Bytes;
use muster_proto::fleet::{ClockOffset, Facts, Party, Quarantine};
use muster_proto::id::AgentId;
use muster_proto::limits;
use muster_proto::link::{FromAgent, Hello, Nonce, ToAgent, Welcome};
use muster_proto::name::HostName;
use muster_proto::ping::Finding;
use muster_proto::time::Timestamp;
use muster_proto::wire;
use muster_store::{AgentError, Confirmed, OpenSession, Opened, Store};
use outbox::{Outbox, OutboxStream};
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{debug, error, info, warn};

/// A peer that has a certificate and says nothing is gone after this long.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// A session gets no work before its nonce is confirmed; one that never confirms it only seems to be there. An agent that
/// could not write meanwhile gets a new nonce when it comes again.
const CONFIRM_WITHIN: Duration = Duration::from_secs(30);
/// Who is one of two machines asks again after this long: an operator may have decided.
const QUARANTINED_RETRY: Duration = Duration::from_secs(10);
/// Who is no agent any more asks again after this long, in case it was enrolled anew.
const REFUSED_RETRY: Duration = Duration::from_mins(1);
/// A session gets one certificate in this time: making one costs a signature and a write to the disk.
const RENEWAL_PAUSE: Duration = Duration::from_mins(1);

/// The service that agents dial, and what it needs.
#[derive(Clone)]
pub struct AgentDoor {
    /// The jobs.
    pub engine: Engine,
    /// Who looks at hosts.
    pub prober: Prober,
    /// Who is connected.
    pub sessions: Sessions,
    /// Who is enrolled.
    pub roster: Roster,
    /// Who may have a session.
    pub store: Store,
    /// Who makes certificates.
    pub issuers: Arc<Issuers>,
    /// How long a renewed certificate counts.
    pub validity: Duration,
    /// The controller is stopping: no session begins any more.
    pub stop: CancellationToken,
}

impl AgentDoor {
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
        if self.stop.is_cancelled() {
            return Err(Status::unavailable("the controller is stopping"));
        }
        // The handshake may have been long ago.
        if peer.not_after.is_some_and(|end| end <= clock::now()) {
            self.engine.stats().session_closed(agent, Closed::Expired);
            return Err(Status::unauthenticated("the certificate has expired: enrol this agent again"));
        }
        if self.roster.admits(agent).is_none() {
            info!(%agent, address = %peer.address, "an agent that is not enrolled here, or was revoked, was turned away");
            self.engine.stats().session_closed(agent, Closed::Unknown);
            return Err(Status::permission_denied("this agent is not enrolled here, or was revoked: enrol it again"));
        }
        let mailbox = Arc::new(Mailbox::default());
        let outbox = Outbox::new(self.store.clone(), Arc::clone(&mailbox));
        let visit = Visit { door: self.clone(), agent, peer, mailbox };
        tokio::spawn(visit.run(request.into_inner()));
        Ok(Response::new(outbox.into_stream()))
    }
}

/// The last message to one of two machines with the same identity.
pub(crate) fn refused_as_copy(name: &HostName, quarantine: &Quarantine) -> ToAgent {
    let [first, second] = quarantine.parties.each_ref().map(|party| party.address.as_str());
    let reason = format!(
        "two machines use the identity of {name}, the first at {first}, the second at {second}: \
         `muster agents resolve {name} --keep WHICH` decides which of them is {name}"
    );
    ToAgent::Refused { reason, retry_after: QUARANTINED_RETRY }
}

/// The last message to somebody who has to enrol to come back.
pub(crate) fn refused_for_good(reason: impl Into<String>) -> ToAgent {
    ToAgent::Refused { reason: reason.into(), retry_after: REFUSED_RETRY }
}

/// One connection of one agent.
struct Visit {
    door: AgentDoor,
    agent: AgentId,
    peer: PeerInfo,
    mailbox: Arc<Mailbox>,
}

/// What an agent may say once a session.
struct Once {
    /// The digest of the facts it announced; none once they came.
    facts: Option<Bytes>,
    nonce_stored: bool,
    renewed: Option<Instant>,
}

impl Visit {
    async fn run(self, mut inbound: Streaming<wire::FromAgent>) {
        let first = tokio::time::timeout(HELLO_WITHIN, inbound.message()).await;
        let why = match first.map_err(|_| Closed::NoHello).and_then(|first| self.understood(first)) {
            Ok(messages) => self.visit(messages, inbound).await,
            Err(why) => why,
        };
        // Whoever ended it before had the better reason.
        let why = self.mailbox.end(why, None);
        if why == Closed::Slow {
            warn!(agent = %self.agent, "the agent did not take what waited for it, session closed");
            self.door.engine.stats().limits.add(Limit::AgentQueue);
        }
        self.door.engine.stats().session_closed(self.agent, why);
    }

    /// A stream message as its messages; why the session is over otherwise.
    fn understood(&self, message: Result<Option<wire::FromAgent>, Status>) -> Result<Vec<FromAgent>, Closed> {
        match message.map(|message| message.map(convert)) {
            Ok(Some(Ok(messages))) => Ok(messages),
            Ok(Some(Err(error))) => {
                warn!(agent = %self.agent, %error, "message refused, session closed");
                Err(Closed::Invalid)
            }
            Err(status) if status.code() == Code::OutOfRange => {
                warn!(agent = %self.agent, "message too large, session closed");
                self.door.engine.stats().limits.add(Limit::AgentMessage);
                Err(Closed::Oversize)
            }
            // Bytes that are no message. What the transport says comes with its source.
            Err(status) if status.code() == Code::Internal && status.source().is_none() => {
                warn!(agent = %self.agent, error = status.message(), "message refused, session closed");
                Err(Closed::Invalid)
            }
            Ok(None) | Err(_) => Err(Closed::Lost),
        }
    }

    async fn visit(&self, first: Vec<FromAgent>, inbound: Streaming<wire::FromAgent>) -> Closed {
        let mut messages = first.into_iter();
        let Some(FromAgent::Hello(hello)) = messages.next() else {
            warn!(agent = %self.agent, "the first message was no hello, session closed");
            return Closed::NoHello;
        };
        if hello.protocol.0 > *limits::PROTOCOL.end() || hello.protocol.1 < *limits::PROTOCOL.start() {
            warn!(agent = %self.agent, protocol = ?hello.protocol, "the agent speaks another protocol: upgrade it");
            return Closed::Protocol;
        }
        // What greets an agent takes room for a moment, what listens to it for days: hence the boxes.
        let nonce = match Box::pin(self.open(&hello)).await {
            Ok(nonce) => nonce,
            Err(why) => return why,
        };
        let epoch = Epoch(nonce.epoch);
        debug!(agent = %self.agent, address = %self.peer.address, "connected");
        let mut once = Once { facts: Some(hello.facts_digest.clone()), nonce_stored: false, renewed: None };
        let why = match Box::pin(self.greet(nonce, hello, messages.collect(), &mut once)).await {
            Ok(()) => self.listen(epoch, inbound, once).await,
            Err(why) => why,
        };
        if self.door.sessions.end(self.agent, epoch) {
            self.door.roster.left(self.agent, clock::now());
        }
        self.door.prober.gone(self.agent, epoch);
        self.door.engine.gone(self.agent, epoch).await;
        debug!(agent = %self.agent, "disconnected");
        why
    }

    /// Finds out who it is. With a nonce the session is the agent's own, and others see it.
    async fn open(&self, hello: &Hello) -> Result<Nonce, Closed> {
        let (agent, door, now) = (self.agent, &self.door, clock::now());
        let Some(key) = self.peer.key else { return Err(Closed::Unknown) };
        let party = Party {
            address: self.peer.address.to_string(),
            machine: hello.machine.clone(),
            boot: hello.boot,
            start: hello.start,
            seen_at: now,
        };
        let open = OpenSession { agent, key, presented: hello.nonce, party: party.clone() };
        let nonce = match door.store.open_session(open).await {
            Ok(Opened::Session { nonce, rolled_back }) => {
                if let Some(back) = rolled_back {
                    let (had, known) = (back.presented, back.known);
                    warn!(%agent, had, known, "the agent had more sessions than are known: the state was set back");
                }
                nonce
            }
            Ok(Opened::Fork { quarantine, found }) => return Err(self.fork(found, quarantine).await),
            Ok(Opened::Outcast) => return Err(self.outcast()),
            Ok(Opened::Superseded) => {
                let refused = refused_for_good("this key was replaced by a newer one: enrol this agent again");
                return Err(self.mailbox.end(Closed::Superseded, Some(refused)));
            }
            Err(AgentError::Unknown(_)) => return Err(self.mailbox.end(Closed::Revoked, Some(refused_as_revoked()))),
            Err(AgentError::Store(error)) => {
                error!(%agent, %error, "no session could be opened");
                return Err(Closed::Store);
            }
        };
        let clock = ClockOffset::of(hello.clock, now);
        if clock.is_skewed() {
            warn!(%agent, address = %self.peer.address, ahead = %clock, "the agent's clock is wrong: it refuses tasks");
        }
        let session = Session::new(Epoch(nonce.epoch), &self.peer, Arc::clone(&self.mailbox));
        match door.sessions.begin(agent, session) {
            Begun::Live => {}
            Begun::Older => return Err(Closed::Replaced),
            Begun::Quarantined => {
                let refused = door.sessions.quarantined(agent).and_then(|quarantine| self.as_copy(&quarantine));
                return Err(self.mailbox.end(Closed::Quarantined, refused));
            }
        }
        door.roster.came(agent, party, clock);
        door.engine.stats().sessions_opened.add_one();
        Ok(nonce)
    }

    fn as_copy(&self, quarantine: &Quarantine) -> Option<ToAgent> {
        Some(refused_as_copy(&self.door.roster.record(self.agent)?.name, quarantine))
    }

    /// Neither of the two gets anything until an operator has said which one is the agent.
    async fn fork(&self, found: u64, quarantine: Quarantine) -> Closed {
        let Some(refused) = self.as_copy(&quarantine) else { return Closed::Unknown };
        let [first, second] = quarantine.parties.each_ref().map(|party| party.address.clone());
        if self.door.sessions.quarantine(self.agent, found, quarantine, &refused) {
            warn!(agent = %self.agent, %first, %second, "two machines use one identity: both are quarantined");
            self.door.engine.recognition_changed(self.agent).await;
        }
        self.mailbox.end(Closed::Quarantined, Some(refused))
    }

    fn outcast(&self) -> Closed {
        let name = self.door.roster.record(self.agent).map(|record| record.name.to_string()).unwrap_or_default();
        let reason = format!("another machine was kept as {name}: enrol this one again, with a name of its own");
        self.mailbox.end(Closed::Outcast, Some(refused_for_good(reason)))
    }

    /// Tells the jobs that the agent is there, and the agent what they say.
    async fn greet(&self, nonce: Nonce, hello: Hello, rest: Vec<FromAgent>, once: &mut Once) -> Result<(), Closed> {
        let epoch = Epoch(nonce.epoch);
        let resumed = self.door.engine.hello(self.agent, epoch, &hello.unfinished).await;
        let resumption = resumed.map_err(|error| {
            error!(agent = %self.agent, %error, "the session could not be resumed");
            Closed::Store
        })?;
        // Asked after the session has begun: a revocation from here on finds it and closes it.
        let known = self.door.roster.admits(self.agent).ok_or(Closed::Revoked)?;
        let mut opening = vec![ToAgent::Welcome(Welcome {
            protocol: hello.protocol.1.min(*limits::PROTOCOL.end()),
            nonce,
            clock: clock::now(),
            want_facts: known != hello.facts_digest,
            resume: resumption.resume,
            outstanding: resumption.outstanding,
        })];
        opening.extend(resumption.then);
        self.mailbox.open(opening);
        self.door.prober.connected(self.agent);
        self.take(epoch, rest, once).await
    }

    async fn listen(&self, epoch: Epoch, mut inbound: Streaming<wire::FromAgent>, mut once: Once) -> Closed {
        let now = Instant::now();
        let expiry = self.peer.not_after.map_or(Duration::MAX, |end| clock::now().until(end));
        let (expires, confirm_by) = (now + expiry.min(Duration::from_hours(24 * 365)), now + CONFIRM_WITHIN);
        // One timer for both: there are as many of these as agents.
        let due = tokio::time::sleep_until(expires.min(confirm_by));
        tokio::pin!(due);
        loop {
            let message = tokio::select! {
                message = inbound.message() => message,
                () = self.mailbox.ended() => return Closed::Lost,
                () = &mut due => {
                    if Instant::now() >= expires {
                        info!(agent = %self.agent, "the agent's certificate expired, session closed");
                        return Closed::Expired;
                    }
                    if !once.nonce_stored {
                        warn!(agent = %self.agent, "the agent could not store what proves who it is, session closed");
                        return Closed::Unconfirmed;
                    }
                    due.as_mut().reset(expires);
                    continue;
                }
            };
            let taken = match self.understood(message) {
                Ok(messages) => Box::pin(self.take(epoch, messages, &mut once)).await,
                Err(why) => return why,
            };
            if let Err(why) = taken {
                return why;
            }
        }
    }

    async fn take(&self, epoch: Epoch, messages: Vec<FromAgent>, once: &mut Once) -> Result<(), Closed> {
        let now = Instant::now();
        let mut reports = Vec::with_capacity(messages.len());
        for message in messages {
            match message {
                FromAgent::Task(task, report) => reports.push((task, report)),
                FromAgent::Facts(facts) => self.facts(facts, once.facts.take()).await?,
                FromAgent::NonceStored(stored) if stored == epoch.0 => self.nonce_stored(epoch, once),
                FromAgent::NonceStored(_) => {}
                FromAgent::Echo(token) => self.door.prober.echoed(self.agent, epoch, token, now),
                FromAgent::Probed { sweep, findings } => self.probed(epoch, sweep, &findings)?,
                FromAgent::Renew(request) => self.renew(epoch, &request, once).await?,
                FromAgent::Hello(_) => {
                    warn!(agent = %self.agent, "a second hello, session closed");
                    return Err(Closed::Invalid);
                }
            }
        }
        self.door.engine.report(self.agent, epoch, reports).await.map_err(|error| self.store_failed(&error))
    }

    fn probed(&self, epoch: Epoch, sweep: u64, findings: &[Finding]) -> Result<(), Closed> {
        self.door.prober.probed(self.agent, epoch, sweep, findings).map_err(|lie| {
            warn!(agent = %self.agent, %lie, "what the agent says of a ping cannot be, session closed");
            self.door.engine.stats().reports.add(Report::Probe);
            Closed::Invalid
        })
    }

    fn store_failed(&self, error: &dyn std::fmt::Display) -> Closed {
        error!(agent = %self.agent, %error, "what the agent says cannot be kept, session closed");
        Closed::Store
    }

    /// From now on the session may be given work, if it is still the newest. The session does not wait for that.
    fn nonce_stored(&self, epoch: Epoch, once: &mut Once) {
        if std::mem::replace(&mut once.nonce_stored, true) {
            return;
        }
        let (agent, store, mailbox) = (self.agent, self.door.store.clone(), Arc::clone(&self.mailbox));
        tokio::spawn(async move {
            match store.confirm_nonce(agent, epoch.0).await {
                Ok(Confirmed::Held) => mailbox.confirm(),
                Ok(Confirmed::Stale) => _ = mailbox.end(Closed::Replaced, None),
                Err(error) => {
                    error!(%agent, %error, "a session could not be confirmed");
                    mailbox.end(Closed::Store, None);
                }
            }
        });
    }

    /// Facts are taken once a session: an agent cannot keep the store busy with them.
    async fn facts(&self, facts: Facts, digest: Option<Bytes>) -> Result<(), Closed> {
        let Some(digest) = digest else {
            warn!(agent = %self.agent, "facts come once a session, session closed");
            return Err(Closed::Invalid);
        };
        let stored = self.door.store.set_facts(self.agent, digest.clone(), facts.clone()).await;
        stored.map_err(|error| self.store_failed(&error))?;
        self.door.roster.set_facts(self.agent, digest, facts);
        Ok(())
    }

    /// A certificate for the same agent and a new key. The old one counts until the new one is used.
    async fn renew(&self, epoch: Epoch, request: &[u8], once: &mut Once) -> Result<(), Closed> {
        if !once.nonce_stored {
            debug!(agent = %self.agent, "a certificate was asked for before the nonce was stored");
            return Ok(());
        }
        if once.renewed.is_some_and(|at| at.elapsed() < RENEWAL_PAUSE) {
            debug!(agent = %self.agent, "a certificate was asked for again within a minute");
            return Ok(());
        }
        once.renewed = Some(Instant::now());
        let key = PublicKey::from_request(request).map_err(|error| {
            warn!(agent = %self.agent, %error, "certificate refused, session closed");
            Closed::Invalid
        })?;
        let now = clock::now();
        let issued = self.door.issuers.issue_agent(&key, self.agent, Validity { from: now, span: self.door.validity });
        let certificate = match issued {
            Ok(certificate) => certificate,
            Err(error) => {
                error!(agent = %self.agent, %error, "a certificate could not be issued");
                return Ok(());
            }
        };
        match self.set_next_key(epoch, &key, now).await {
            Ok(Confirmed::Held) => {}
            Ok(Confirmed::Stale) => return Err(self.mailbox.end(Closed::Replaced, None)),
            Err(AgentError::Unknown(_)) => return Err(self.mailbox.end(Closed::Revoked, Some(refused_as_revoked()))),
            Err(AgentError::Store(error)) => return Err(self.store_failed(&error)),
        }
        self.door.roster.renewed(self.agent, now);
        self.door.engine.stats().renewed.add_one();
        self.mailbox.push(Outgoing::Message(ToAgent::Renewed(certificate.into())));
        Ok(())
    }

    async fn set_next_key(&self, epoch: Epoch, key: &PublicKey, now: Timestamp) -> Result<Confirmed, AgentError> {
        // The confirmation that the agent asked for may still be on its way to the store.
        self.door.store.confirm_nonce(self.agent, epoch.0).await?;
        self.door.store.set_next_key(self.agent, epoch.0, key.fingerprint(), now).await
    }
}

/// The last message to an agent that was revoked.
pub(crate) fn refused_as_revoked() -> ToAgent {
    refused_for_good("it was revoked: enrol this machine again")
}

fn convert(message: wire::FromAgent) -> Result<Vec<FromAgent>, wire::WireError> {
    if message.messages.len() > limits::MESSAGES_PER_BATCH_MAX {
        return Err(wire::WireError::Field("messages"));
    }
    message.messages.into_iter().map(TryInto::try_into).collect()
}
