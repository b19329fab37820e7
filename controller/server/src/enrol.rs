//! The door for those who have no name yet: machines with a join token or an operator's approval, and operators with
//! a login code. It has no other powers; the store decides who may, the issuers sign what we say.
//!
//! Whoever knocks learns nothing: an unknown, an expired and a used secret get the same answer.

use crate::clock;
use crate::issuers::{IssueError, Issuers, PublicKey, Validity};
use crate::limiter::{Limiter, Rate};
use crate::listen::PeerInfo;
use crate::reply::Reply;
use crate::stats::{Limit, Stats};
use muster_proto::fleet::PendingAgent;
use muster_proto::id::AgentId;
use muster_proto::name::HostName;
use muster_proto::time::Timestamp;
use muster_proto::token::Token;
use muster_proto::wire::{self, enrolment_server};
use muster_store::{AgentRecord, EnrolBy, EnrolError, NewAgent, Store};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// A request of ours has less than 1 KiB; this is the largest message that is read at all.
const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// What the service needs beside store and issuers.
#[derive(Debug, Clone)]
pub struct Terms {
    /// How long an agent's certificate counts.
    pub agent_validity: Duration,
    /// How long an operator's certificate counts.
    pub operator_validity: Duration,
    /// Port of the agents' listener.
    pub agent_port: u16,
    /// Port of the operators' listener.
    pub operator_port: u16,
    /// How often one address may ask.
    pub rate: Rate,
}

/// Called with each agent that has just got its name.
pub type OnEnrolled = Arc<dyn Fn(AgentRecord) + Send + Sync>;

/// The gRPC service.
pub struct Enrolment {
    store: Store,
    issuers: Arc<Issuers>,
    terms: Terms,
    limiter: Limiter,
    stats: Arc<Stats>,
    on_enrolled: OnEnrolled,
}

impl Enrolment {
    /// The service over this store and these issuers.
    pub fn new(store: Store, issuers: Arc<Issuers>, terms: Terms, stats: Arc<Stats>, on_enrolled: OnEnrolled) -> Self {
        let limiter = Limiter::new(terms.rate);
        Self { store, issuers, terms, limiter, stats, on_enrolled }
    }

    /// The service with its limits.
    pub fn service(self) -> enrolment_server::EnrolmentServer<Self> {
        enrolment_server::EnrolmentServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<PeerInfo, Status> {
        let peer = request.extensions().get::<PeerInfo>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("the connection has no address"))?;
        if self.limiter.allows(peer.ip(), tokio::time::Instant::now()) {
            Ok(peer)
        } else {
            self.stats.limits.add(Limit::EnrolmentRate);
            tracing::warn!(address = %peer.ip(), "too many enrolment requests");
            Err(Status::resource_exhausted("too many requests from this address: try again in a few seconds"))
        }
    }

    async fn enrol(&self, request: Request<wire::EnrolAgentRequest>) -> Result<wire::EnrolAgentReply, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let key = PublicKey::from_request(&request.csr).map_err(Reply::reply)?;
        let name: HostName =
            request.name.parse().map_err(|error| Status::invalid_argument(format!("{error}; give it with --name")))?;
        let fingerprint = key.fingerprint();
        let by = match request.token.len() {
            0 => EnrolBy::Approval,
            32 => EnrolBy::Token { hash: Token::hash(&request.token) },
            _ => return Err(Status::invalid_argument("the token is not whole: copy all of it")),
        };
        let id = AgentId::from_bytes(uuid::Uuid::new_v4().into_bytes());
        let now = clock::now();
        // Signed before the store commits: whatever fails, no token is spent and no name taken for nothing. A
        // certificate that nobody gets harms nobody.
        let valid = Validity { from: now, span: self.terms.agent_validity };
        let certificate = self.issuers.issue_agent(&key, id, valid).map_err(Reply::reply)?;
        let address = caller.ip().to_string();
        let agent = NewAgent { id, name: name.clone(), key_fingerprint: fingerprint, at: now, by, address };
        let enrolled = match self.store.enrol_agent(agent).await {
            Ok(enrolled) => enrolled,
            Err(EnrolError::NotApproved) => return self.ask(fingerprint, name, &caller, now).await,
            Err(error) => {
                tracing::warn!(host = %name, address = %caller.ip(), reason = %error, "enrolment refused");
                return Err(error.reply());
            }
        };
        tracing::info!(host = %name, agent = %id, address = %caller.ip(), "agent enrolled");
        (self.on_enrolled)(AgentRecord::enrolled(id, name.clone(), enrolled.labels, now));
        let identity = wire::AgentIdentity {
            cluster: self.issuers.cluster().as_bytes().to_vec().into(),
            agent: id.as_bytes().to_vec().into(),
            name: name.to_string(),
            certificate: certificate.into(),
            agent_ca: self.issuers.agent_ca().to_vec().into(),
            controller_ca: self.issuers.controller_ca().to_vec().into(),
            operator_ca: self.issuers.operator_ca().to_vec().into(),
            agent_port: self.terms.agent_port.into(),
        };
        Ok(wire::EnrolAgentReply { result: Some(wire::enrol_agent_reply::Result::Issued(identity)) })
    }

    async fn ask(
        &self,
        fingerprint: [u8; 32],
        name: HostName,
        caller: &PeerInfo,
        now: Timestamp,
    ) -> Result<wire::EnrolAgentReply, Status> {
        let pending = PendingAgent { fingerprint, name, address: caller.ip().to_string(), asked_at: now };
        self.store.add_pending(pending).await.map_err(Reply::reply)?;
        let pending = wire::Pending { fingerprint: fingerprint.to_vec().into() };
        Ok(wire::EnrolAgentReply { result: Some(wire::enrol_agent_reply::Result::Pending(pending)) })
    }

    async fn log_in(&self, request: Request<wire::LoginRequest>) -> Result<wire::LoginReply, Status> {
        let caller = self.caller(&request)?;
        let request = request.into_inner();
        let key = PublicKey::from_request(&request.csr).map_err(Reply::reply)?;
        if !key.signs_jobs() {
            return Err(Status::invalid_argument(IssueError::NotEd25519.to_string()));
        }
        if request.code.len() != 32 {
            return Err(Status::invalid_argument("the code is not whole: copy all of it"));
        }
        let now = clock::now();
        let login = self.store.login(Token::hash(&request.code), key.fingerprint(), now).await;
        let operator = login.map_err(|error| {
            tracing::warn!(address = %caller.ip(), reason = %error, "login refused");
            error.reply()
        })?;
        let valid = Validity { from: now, span: self.terms.operator_validity };
        let certificate = self.issuers.issue_operator(&key, operator.clone(), valid).map_err(Reply::reply)?;
        tracing::info!(%operator, address = %caller.ip(), "operator logged in");
        Ok(wire::LoginReply {
            cluster: self.issuers.cluster().as_bytes().to_vec().into(),
            operator: operator.to_string(),
            certificate: certificate.into(),
            controller_ca: self.issuers.controller_ca().to_vec().into(),
            operator_ca: self.issuers.operator_ca().to_vec().into(),
            operator_port: self.terms.operator_port.into(),
        })
    }
}

#[tonic::async_trait]
impl enrolment_server::Enrolment for Enrolment {
    async fn enrol_agent(
        &self,
        request: Request<wire::EnrolAgentRequest>,
    ) -> Result<Response<wire::EnrolAgentReply>, Status> {
        self.enrol(request).await.map(Response::new)
    }

    async fn login(&self, request: Request<wire::LoginRequest>) -> Result<Response<wire::LoginReply>, Status> {
        self.log_in(request).await.map(Response::new)
    }
}
