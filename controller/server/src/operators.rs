//! The operators' door: each call is identified, parsed, and handed to the file of its noun.
//!
//! Who calls is known from the certificate and checked against the store at every call, so that a disabled operator
//! is out at once. Everything an operator may do to what is in here is listed in this one file.

mod audit;
mod find;
mod fleet;
mod follow;
mod groups;
mod jobs;
mod pace;
mod people;
mod ping;
mod schedules;
mod status;
mod why;

use crate::clock;
use crate::danger::Danger;
use crate::engine::Engine;
use crate::groups::Resolver;
use crate::issuers::Issuers;
use crate::listen::{Gate, PeerInfo};
use crate::reply::Reply as _;
use crate::roster::Roster;
use crate::schedules::Schedules;
use crate::sessions::Sessions;
use crate::stats::Limit;
use muster_proto::limits;
use muster_proto::name::OperatorName;
use muster_proto::seal::{OperatorTrust, SealError};
use muster_proto::wire::{self, operator_server::OperatorServer};
use muster_store::{AuditEntry, Store};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

/// The service that operators call.
#[derive(Clone)]
pub struct OperatorDoor {
    engine: Engine,
    schedules: Schedules,
    sessions: Sessions,
    roster: Roster,
    resolver: Resolver,
    danger: Danger,
    store: Store,
    issuers: Arc<Issuers>,
    trust: OperatorTrust,
    /// Every listener, for what it has counted.
    listeners: Arc<[(&'static str, Arc<Gate>)]>,
    /// Port of the enrolment listener, for login codes.
    enrolment_port: u16,
    stop: CancellationToken,
    /// Ends the streams of each operator who has, or had, one.
    streams: Arc<Mutex<HashMap<OperatorName, CancellationToken>>>,
}

/// What is behind the door.
pub struct Behind {
    /// Jobs.
    pub engine: Engine,
    /// Pings that are repeated.
    pub schedules: Schedules,
    /// Agents, and who is meant by what.
    pub resolver: Resolver,
    /// What has to be confirmed.
    pub danger: Danger,
    /// Who is an operator.
    pub issuers: Arc<Issuers>,
    /// Every listener, for what it has counted.
    pub listeners: Arc<[(&'static str, Arc<Gate>)]>,
    /// Port of the enrolment listener, for login codes.
    pub enrolment_port: u16,
    /// Ends all streams.
    pub stop: CancellationToken,
}

impl OperatorDoor {
    /// A door into these jobs and agents.
    pub fn new(behind: Behind) -> Result<Self, SealError> {
        let Behind { engine, schedules, resolver, danger, issuers, listeners, enrolment_port, stop } = behind;
        let trust = OperatorTrust::new(issuers.cluster(), issuers.operator_ca().clone())?;
        let (roster, store) = (resolver.roster().clone(), engine.store().clone());
        Ok(Self {
            engine,
            schedules,
            sessions: roster.sessions().clone(),
            roster,
            resolver,
            danger,
            store,
            issuers,
            trust,
            listeners,
            enrolment_port,
            stop,
            streams: Arc::default(),
        })
    }

    /// The service with its limits, and beside it gRPC health and reflection: on no other listener.
    pub fn routes(self) -> Result<Routes, tonic_reflection::server::Error> {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(wire::DESCRIPTOR)
            .build_v1()?;
        let (_, health) = tonic_health::server::health_reporter();
        let service = OperatorServer::new(self)
            .max_decoding_message_size(limits::OPERATOR_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(limits::REPLY_MESSAGE_BYTES_MAX);
        Ok(Routes::new(service).add_service(health).add_service(reflection))
    }

    /// Who calls. The certificate was verified at the handshake; whether it still counts, clock and store say.
    async fn caller<T>(&self, request: &Request<T>) -> Result<OperatorName, Status> {
        if self.stop.is_cancelled() {
            return Err(Status::unavailable("the controller is stopping: ask again once it is back"));
        }
        let peer = request.extensions().get::<PeerInfo>();
        let name = peer.and_then(PeerInfo::operator).ok_or_else(|| Status::unauthenticated("no operator"))?;
        if peer.and_then(|peer| peer.not_after).is_some_and(|end| end <= clock::now()) {
            return Err(expired());
        }
        match self.store.operator_key(name).await.map_err(|error| error.reply())? {
            Some(key) if peer.and_then(|peer| peer.key) == Some(key) => Ok(name.clone()),
            Some(_) => Err(Status::permission_denied(format!(
                "the operator {name} has logged in with a newer key: if that was not you, have the name disabled at once"
            ))),
            None => Err(Status::permission_denied(format!(
                "the operator {name} is disabled: another operator can add a new one"
            ))),
        }
    }

    /// Ends with the controller, or when the operator is dismissed.
    fn stream_of(&self, operator: &OperatorName) -> CancellationToken {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.entry(operator.clone()).or_insert_with(|| self.stop.child_token()).child_token()
    }

    /// Ends all streams of an operator who was disabled.
    fn dismiss(&self, operator: &OperatorName) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = streams.remove(operator) {
            token.cancel();
        }
    }
}

fn expired() -> Status {
    Status::unauthenticated("your certificate has expired: log in again with a code from `muster operator add`")
}

/// The record of what an operator does now.
fn audit(operator: &OperatorName, action: &str, detail: impl Into<String>) -> AuditEntry {
    AuditEntry {
        at: clock::now(),
        actor: format!("operator/{operator}"),
        action: action.to_owned(),
        detail: detail.into(),
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl wire::operator_server::Operator for OperatorDoor {
    type FollowStream = follow::Events;
    type ReadAuditStream = audit::Records;

    async fn who_am_i(&self, request: Request<wire::WhoAmIRequest>) -> Answer<wire::WhoAmIReply> {
        let operator = self.caller(&request).await?;
        people::who_am_i(self, &operator).map(Response::new)
    }

    async fn plan_ping(&self, request: Request<wire::PlanPingRequest>) -> Answer<wire::PlanPingReply> {
        self.caller(&request).await?;
        ping::plan(self, request.into_inner()).await.map(Response::new)
    }

    async fn plan(&self, request: Request<wire::PlanRequest>) -> Answer<wire::PlanReply> {
        self.caller(&request).await?;
        jobs::plan(self, request.into_inner()).await.map(Response::new)
    }

    async fn submit(&self, request: Request<Streaming<wire::SubmitPart>>) -> Answer<wire::SubmitReply> {
        let operator = self.caller(&request).await?;
        let submitted = jobs::submit(self, &operator, request.into_inner()).await;
        submitted.inspect_err(|_| self.engine.stats().limits.add(Limit::Submission)).map(Response::new)
    }

    async fn follow(&self, request: Request<wire::FollowRequest>) -> Answer<Self::FollowStream> {
        let operator = self.caller(&request).await?;
        let not_after = request.extensions().get::<PeerInfo>().and_then(|peer| peer.not_after);
        let stop = self.stream_of(&operator);
        // Asked once more: whoever disables the operator from here on ends the stream.
        self.caller(&request).await?;
        follow::follow(self, stop, not_after, request.into_inner()).await.map(Response::new)
    }

    async fn cancel(&self, request: Request<wire::CancelRequest>) -> Answer<wire::CancelReply> {
        let operator = self.caller(&request).await?;
        pace::cancel(self, operator, request.into_inner()).await.map(Response::new)
    }

    async fn pause(&self, request: Request<wire::PauseRequest>) -> Answer<wire::PauseReply> {
        let operator = self.caller(&request).await?;
        pace::pause(self, operator, request.into_inner()).await.map(Response::new)
    }

    async fn resume(&self, request: Request<wire::ResumeRequest>) -> Answer<wire::ResumeReply> {
        let operator = self.caller(&request).await?;
        pace::resume(self, operator, request.into_inner()).await.map(Response::new)
    }

    async fn list_queue(&self, request: Request<wire::ListQueueRequest>) -> Answer<wire::ListQueueReply> {
        self.caller(&request).await?;
        Ok(Response::new(pace::queue(self).await))
    }

    async fn set_group(&self, request: Request<wire::SetGroupRequest>) -> Answer<wire::SetGroupReply> {
        let operator = self.caller(&request).await?;
        groups::set(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn remove_group(&self, request: Request<wire::RemoveGroupRequest>) -> Answer<wire::RemoveGroupReply> {
        let operator = self.caller(&request).await?;
        groups::remove(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn list_groups(&self, request: Request<wire::ListGroupsRequest>) -> Answer<wire::ListGroupsReply> {
        self.caller(&request).await?;
        groups::list(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_jobs(&self, request: Request<wire::ListJobsRequest>) -> Answer<wire::ListJobsReply> {
        self.caller(&request).await?;
        jobs::list(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_job(&self, request: Request<wire::GetJobRequest>) -> Answer<wire::GetJobReply> {
        self.caller(&request).await?;
        jobs::get(self, request.into_inner()).await.map(Response::new)
    }

    async fn list_agents(&self, request: Request<wire::ListAgentsRequest>) -> Answer<wire::ListAgentsReply> {
        self.caller(&request).await?;
        fleet::list(self, request.into_inner()).await.map(Response::new)
    }

    async fn label_agents(&self, request: Request<wire::LabelAgentsRequest>) -> Answer<wire::LabelAgentsReply> {
        let operator = self.caller(&request).await?;
        fleet::label(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn revoke_agent(&self, request: Request<wire::RevokeAgentRequest>) -> Answer<wire::RevokeAgentReply> {
        let operator = self.caller(&request).await?;
        fleet::revoke(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn resolve_agent(&self, request: Request<wire::ResolveAgentRequest>) -> Answer<wire::ResolveAgentReply> {
        let operator = self.caller(&request).await?;
        fleet::resolve(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn list_pending(&self, request: Request<wire::ListPendingRequest>) -> Answer<wire::ListPendingReply> {
        self.caller(&request).await?;
        fleet::pending(self).await.map(Response::new)
    }

    async fn approve_agent(&self, request: Request<wire::ApproveAgentRequest>) -> Answer<wire::ApproveAgentReply> {
        let operator = self.caller(&request).await?;
        fleet::approve(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn create_token(&self, request: Request<wire::CreateTokenRequest>) -> Answer<wire::CreateTokenReply> {
        let operator = self.caller(&request).await?;
        people::create_token(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn add_operator(&self, request: Request<wire::AddOperatorRequest>) -> Answer<wire::AddOperatorReply> {
        let operator = self.caller(&request).await?;
        people::add_operator(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn list_operators(&self, request: Request<wire::ListOperatorsRequest>) -> Answer<wire::ListOperatorsReply> {
        self.caller(&request).await?;
        people::list_operators(self).await.map(Response::new)
    }

    async fn disable_operator(
        &self,
        request: Request<wire::DisableOperatorRequest>,
    ) -> Answer<wire::DisableOperatorReply> {
        let operator = self.caller(&request).await?;
        people::disable_operator(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn find_job(&self, request: Request<wire::FindJobRequest>) -> Answer<wire::FindJobReply> {
        let operator = self.caller(&request).await?;
        find::find(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn why(&self, request: Request<wire::WhyRequest>) -> Answer<wire::WhyReply> {
        self.caller(&request).await?;
        why::why(self, request.into_inner()).await.map(|why| Response::new(why.into()))
    }

    async fn status(&self, request: Request<wire::StatusRequest>) -> Answer<wire::StatusReply> {
        self.caller(&request).await?;
        status::status(self).await.map(|status| Response::new(status.into()))
    }

    async fn read_audit(&self, request: Request<wire::ReadAuditRequest>) -> Answer<Self::ReadAuditStream> {
        let operator = self.caller(&request).await?;
        let stop = self.stream_of(&operator);
        // As for `follow`.
        self.caller(&request).await?;
        Ok(Response::new(audit::read(self, stop, request.into_inner())))
    }

    async fn schedule_ping(&self, request: Request<wire::SchedulePingRequest>) -> Answer<wire::SchedulePingReply> {
        let operator = self.caller(&request).await?;
        schedules::make(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn list_schedules(&self, request: Request<wire::ListSchedulesRequest>) -> Answer<wire::ListSchedulesReply> {
        self.caller(&request).await?;
        schedules::list(self).await.map(Response::new)
    }

    async fn remove_schedule(
        &self,
        request: Request<wire::RemoveScheduleRequest>,
    ) -> Answer<wire::RemoveScheduleReply> {
        let operator = self.caller(&request).await?;
        schedules::remove(self, &operator, request.into_inner()).await.map(Response::new)
    }

    async fn ping_status(&self, request: Request<wire::PingStatusRequest>) -> Answer<wire::PingStatusReply> {
        self.caller(&request).await?;
        schedules::status(self, request.into_inner()).await.map(Response::new)
    }
}
