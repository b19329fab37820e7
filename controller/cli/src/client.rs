//! The controller as the command line sees it: the only file that knows gRPC.
//!
//! Everything in and out is vocabulary of `muster_proto`. One [`Client`] is one HTTP/2 connection, dialled again by
//! itself when it is lost; clones share it. Errors are sorted by what the caller does next, see [`ClientError`].

mod dial;
pub mod groups;
pub mod pace;
pub mod schedules;

use bytes::Bytes;
use muster_proto::audit::AuditRecord;
use muster_proto::command::{BlobRef, Command};
use muster_proto::context::Context;
use muster_proto::event::Event;
use muster_proto::fleet::{AgentInfo, Labels, OperatorInfo, Party, PendingAgent};
use muster_proto::id::{ClusterId, JobId};
use muster_proto::job::{JobHost, JobList, JobSummary, SignedJob, Target, TargetList};
use muster_proto::limits;
use muster_proto::name::{HostName, LabelText, OperatorName};
use muster_proto::ping::{PingList, PingSelection};
use muster_proto::selection::Selection;
use muster_proto::status;
use muster_proto::text;
use muster_proto::time::Timestamp;
use muster_proto::tls;
use muster_proto::token::Token;
use muster_proto::why::Why;
use muster_proto::wire::enrolment_client::EnrolmentClient;
use muster_proto::wire::operator_client::OperatorClient;
use muster_proto::wire::{self, WireError, id_of};
use pace::Pause;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// A connection to the operator listener of a controller.
#[derive(Clone)]
pub struct Client {
    service: OperatorClient<Channel>,
    peer: dial::Peer,
}

/// Who the controller is, and who we are to it.
#[derive(Debug)]
pub struct WhoAmI {
    /// Agents connected now.
    pub connected: u32,
}

/// A resolved and frozen target list. Nothing of it is kept on the controller.
#[derive(Debug)]
pub struct Plan {
    /// The installation it is for.
    pub cluster: ClusterId,
    /// The list in its order, each with whether its agent is connected now.
    pub targets: Vec<(Target, bool)>,
    /// Why the operator has to type the count before this is signed; `None` below the guard.
    pub confirm: Option<String>,
    /// What was left out, and why: a line each.
    pub notes: Vec<String>,
}

/// The same of a ping.
#[derive(Debug)]
pub struct PingPlan {
    /// The installation it is for.
    pub cluster: ClusterId,
    /// Who looks at what.
    pub list: PingList,
    /// What was left out, and why: a line each.
    pub notes: Vec<String>,
}

/// All that there is to know of a job, but for its events.
#[derive(Debug, Clone)]
pub struct JobDetails {
    /// What a list shows of it.
    pub summary: JobSummary,
    /// What was signed, not verified.
    pub signed: SignedJob,
    /// Its hosts, in the order of the frozen list.
    pub hosts: Vec<JobHost>,
    /// The first job of its family, those that repeat it, and so on, as they were accepted; at most 100.
    pub lineage: Vec<JobSummary>,
    /// The wave that is under way, from 1.
    pub wave: Option<u32>,
    /// Why it is paused, if it is.
    pub paused: Option<Pause>,
}

/// What a follower of a job wants to see.
#[derive(Debug, Clone, Default)]
pub struct Follow {
    /// End when what is stored was sent, do not wait for more.
    pub stored_only: bool,
    /// Expression over the job's own targets; empty is all.
    pub targets: String,
}

/// Which records of the audit log are wanted; by default all.
#[derive(Debug, Clone, Default)]
pub struct AuditSelection {
    /// Of this actor; empty is everybody.
    pub actor: String,
    /// Whose action begins so; empty is every action.
    pub action: String,
    /// Not before this moment.
    pub since: Option<Timestamp>,
    /// Only the newest so many.
    pub newest: Option<u32>,
}

/// A secret in one printable word.
pub struct Issued {
    /// The join token or login code.
    pub word: String,
    /// When it is worth nothing any more.
    pub expires_at: Timestamp,
}

/// What a login brings.
pub struct LoginGrant {
    /// The installation.
    pub cluster: ClusterId,
    /// The name the code was made for.
    pub operator: OperatorName,
    /// The operator's certificate, DER.
    pub certificate: Bytes,
    /// The CA of the controllers, DER: has the code's pin.
    pub controller_ca: Bytes,
    /// The CA of the operators, DER.
    pub operator_ca: Bytes,
    /// Port of the operator listener, on the host where login was asked for.
    pub operator_port: u16,
}

/// Why the controller did not do what it was asked to, by what the caller does next. Each text is one line for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Not reachable, not trusted, or gone: see to the connection, then try again.
    #[error("{0}")]
    Unavailable(String),
    /// It is there and does not want to: see to the permission.
    #[error("{0}")]
    Refused(String),
    /// The request itself is wrong: correct it.
    #[error("{0}")]
    Usage(String),
    /// The stream of events broke while it was followed: follow again from the last sequence number.
    #[error("{0}")]
    Lost(String),
}

impl Client {
    /// Dials the controller of a context. Certificate problems of our own show only at the first request (TLS 1.3).
    pub async fn connect(context: &Context) -> Result<Self, ClientError> {
        let (channel, peer) = dial::operators(context).await?;
        let service = OperatorClient::new(channel)
            .max_encoding_message_size(limits::OPERATOR_MESSAGE_BYTES_MAX)
            .max_decoding_message_size(limits::REPLY_MESSAGE_BYTES_MAX);
        Ok(Self { service, peer })
    }

    /// Asks who is there; the cheapest request.
    pub async fn whoami(&self) -> Result<WhoAmI, ClientError> {
        let reply = self.reply(self.service.clone().who_am_i(wire::WhoAmIRequest {}).await)?;
        Ok(WhoAmI { connected: reply.connected })
    }

    /// Resolves and freezes a target list.
    pub async fn plan(&self, selection: &Selection) -> Result<Plan, ClientError> {
        self.planned(wire::PlanRequest { selection: Some(selection.into()), ..wire::PlanRequest::default() }).await
    }

    /// The same for programs to run, in which the controller looks for danger: the command with the beginning of the
    /// script that it carries along, and the gate.
    pub async fn plan_run(
        &self,
        selection: &Selection,
        command: &Command,
        script: Bytes,
        gate: Option<&Command>,
    ) -> Result<Plan, ClientError> {
        let (command, gate) = (Some(command.into()), gate.map(Into::into));
        self.planned(wire::PlanRequest { selection: Some(selection.into()), command, script, gate }).await
    }

    async fn planned(&self, request: wire::PlanRequest) -> Result<Plan, ClientError> {
        check_size(&request)?;
        let reply = self.reply(self.service.clone().plan(request).await)?;
        Ok(Plan {
            cluster: self.read(id_of(&reply.cluster, "cluster"))?,
            targets: self.read_all(reply.targets)?,
            confirm: reply.confirm.then(|| text::line(&reply.confirm_reason)),
            notes: reply.notes.iter().map(|note| text::line(note)).collect(),
        })
    }

    /// Resolves and freezes who looks at which hosts.
    pub async fn plan_ping(&self, selection: PingSelection) -> Result<PingPlan, ClientError> {
        let request = wire::PlanPingRequest { selection: Some(selection.into()) };
        check_size(&request)?;
        let reply = self.reply(self.service.clone().plan_ping(request).await)?;
        let list = reply.list.ok_or(WireError::Field("list")).and_then(TryInto::try_into);
        Ok(PingPlan {
            cluster: self.read(id_of(&reply.cluster, "cluster"))?,
            list: self.read(list)?,
            notes: reply.notes.iter().map(|note| text::line(note)).collect(),
        })
    }

    /// Hands over a signed job with its frozen list, the blobs it names (those that the controller has already may be
    /// left out), and the count if the operator has typed it. Returns once all of it is durable.
    pub async fn submit(
        &self,
        job: SignedJob,
        targets: &TargetList,
        blobs: Vec<(BlobRef, Bytes)>,
        confirmed: Option<u32>,
    ) -> Result<JobId, ClientError> {
        let (agents, pings) = match targets {
            TargetList::Agents(targets) => (targets.iter().flat_map(|target| *target.agent.as_bytes()).collect(), None),
            TargetList::Pings(list) => (Vec::new(), Some((&**list).into())),
        };
        let job =
            wire::SubmitJob { job: Some(job.into()), agents: agents.into(), pings, confirmed: confirmed.unwrap_or(0) };
        check_size(&job)?;
        let first = wire::submit_part::Kind::Job(job);
        // The iterator is drained only as fast as HTTP/2 flow control lets it: nothing piles up.
        let pieces = blobs.into_iter().flat_map(|(blob, data)| chunks(blob, data)).map(wire::submit_part::Kind::Blob);
        let parts = std::iter::once(first).chain(pieces).map(|kind| wire::SubmitPart { kind: Some(kind) });
        let reply = self.reply(self.service.clone().submit(tokio_stream::iter(parts)).await)?;
        self.read(id_of(&reply.job, "job"))
    }

    /// Events of a job after a sequence number (0 is all), until it is done.
    pub async fn follow(&self, job: JobId, after_seq: u64, follow: Follow) -> Result<EventStream, ClientError> {
        let request = wire::FollowRequest {
            job: bytes_of(job.as_bytes()),
            after_seq,
            stored_only: follow.stored_only,
            targets: follow.targets,
        };
        let blocks = self.reply(self.service.clone().follow(request).await)?;
        Ok(EventStream { client: self.clone(), blocks })
    }

    /// The newest of these jobs first, at most `limit`, and at most [`limits::JOBS_LISTED_MAX`].
    pub async fn jobs(&self, which: JobList, limit: u32) -> Result<Vec<JobSummary>, ClientError> {
        let request = wire::ListJobsRequest { limit, unfinished: which == JobList::Unfinished };
        let reply = self.reply(self.service.clone().list_jobs(request).await)?;
        self.read_all(reply.jobs)
    }

    /// A job with all its hosts.
    pub async fn job(&self, job: JobId) -> Result<JobDetails, ClientError> {
        let request = wire::GetJobRequest { job: bytes_of(job.as_bytes()) };
        let reply = self.reply(self.service.clone().get_job(request).await)?;
        let summary = reply.summary.ok_or(WireError::Field("summary")).and_then(TryInto::try_into);
        let signed = reply.signed.ok_or(WireError::Field("signed")).and_then(TryInto::try_into);
        Ok(JobDetails {
            summary: self.read(summary)?,
            signed: self.read(signed)?,
            hosts: self.read_all(reply.hosts)?,
            lineage: self.read_all(reply.lineage)?,
            wave: Some(reply.wave).filter(|wave| *wave > 0),
            paused: reply.paused.map(|paused| Pause::read(&paused, reply.paused_since_ms)),
        })
    }

    /// The one job whose id begins so, or the newest of our own for "last".
    pub async fn find_job(&self, word: &str) -> Result<JobId, ClientError> {
        let request = wire::FindJobRequest { text: word.to_owned() };
        let reply = self.reply(self.service.clone().find_job(request).await)?;
        self.read(id_of(&reply.job, "job"))
    }

    /// Why a host, or its part in a job, is as it is.
    pub async fn why(&self, host: &str, job: Option<JobId>) -> Result<Why, ClientError> {
        let job = job.map(|job| bytes_of(job.as_bytes())).unwrap_or_default();
        let reply = self.reply(self.service.clone().why(wire::WhyRequest { host: host.to_owned(), job }).await)?;
        self.read(reply.try_into())
    }

    /// How the controller is.
    pub async fn status(&self) -> Result<status::Status, ClientError> {
        let reply = self.reply(self.service.clone().status(wire::StatusRequest {}).await)?;
        self.read(reply.try_into())
    }

    /// Records of the audit log, oldest first.
    pub async fn audit(&self, which: AuditSelection) -> Result<AuditStream, ClientError> {
        let request = wire::ReadAuditRequest {
            actor: which.actor,
            action: which.action,
            since_ms: which.since.map_or(0, Timestamp::as_millis),
            newest: which.newest.unwrap_or(0),
        };
        let blocks = self.reply(self.service.clone().read_audit(request).await)?;
        Ok(AuditStream { client: self.clone(), blocks })
    }

    /// Agents that a selection means; an empty one means all.
    pub async fn agents(&self, selection: &Selection) -> Result<Vec<AgentInfo>, ClientError> {
        let request = wire::ListAgentsRequest { selection: Some(selection.into()) };
        let reply = self.reply(self.service.clone().list_agents(request).await)?;
        self.read_all(reply.agents)
    }

    /// Sets and removes labels; returns the names of the agents that were meant.
    pub async fn label(
        &self,
        selection: &Selection,
        set: &Labels,
        remove: &[LabelText],
    ) -> Result<Vec<HostName>, ClientError> {
        let request = wire::LabelAgentsRequest {
            selection: Some(selection.into()),
            set: wire::labels_to_wire(set),
            remove: remove.iter().map(ToString::to_string).collect(),
        };
        let reply = self.reply(self.service.clone().label_agents(request).await)?;
        reply.names.iter().map(|name| self.host_name(name)).collect()
    }

    /// Takes an agent's identity away for good, by name or id.
    pub async fn revoke(&self, agent: &str) -> Result<HostName, ClientError> {
        let request = wire::RevokeAgentRequest { agent: agent.to_owned() };
        let reply = self.reply(self.service.clone().revoke_agent(request).await)?;
        self.host_name(&reply.name)
    }

    /// Says which of two machines with the identity of an agent, by name or id, is the agent.
    pub async fn resolve(&self, agent: &str, keep: &str) -> Result<(HostName, Party), ClientError> {
        let request = wire::ResolveAgentRequest { agent: agent.to_owned(), keep: keep.to_owned() };
        let reply = self.reply(self.service.clone().resolve_agent(request).await)?;
        let kept = reply.kept.ok_or(WireError::Field("kept")).and_then(TryInto::try_into);
        Ok((self.host_name(&reply.name)?, self.read(kept)?))
    }

    /// Machines that ask for approval.
    pub async fn pending(&self) -> Result<Vec<PendingAgent>, ClientError> {
        let reply = self.reply(self.service.clone().list_pending(wire::ListPendingRequest {}).await)?;
        self.read_all(reply.pending)
    }

    /// Lets the machine with this key in.
    pub async fn approve(&self, fingerprint: [u8; 32], labels: &Labels) -> Result<HostName, ClientError> {
        let request =
            wire::ApproveAgentRequest { fingerprint: bytes_of(&fingerprint), labels: wire::labels_to_wire(labels) };
        let reply = self.reply(self.service.clone().approve_agent(request).await)?;
        self.host_name(&reply.name)
    }

    /// A token with which `uses` machines may enrol.
    pub async fn create_token(&self, labels: &Labels, ttl: Duration, uses: u32) -> Result<Issued, ClientError> {
        let request = wire::CreateTokenRequest { labels: wire::labels_to_wire(labels), ttl_ms: millis(ttl), uses };
        let reply = self.reply(self.service.clone().create_token(request).await)?;
        Ok(Issued { word: reply.token, expires_at: Timestamp::from_millis(reply.expires_at_ms) })
    }

    /// A code with which a person may log in once.
    pub async fn add_operator(&self, name: &OperatorName, ttl: Duration) -> Result<Issued, ClientError> {
        let request = wire::AddOperatorRequest { name: name.to_string(), ttl_ms: millis(ttl) };
        let reply = self.reply(self.service.clone().add_operator(request).await)?;
        Ok(Issued { word: reply.code, expires_at: Timestamp::from_millis(reply.expires_at_ms) })
    }

    /// Everybody who was ever added.
    pub async fn operators(&self) -> Result<Vec<OperatorInfo>, ClientError> {
        let reply = self.reply(self.service.clone().list_operators(wire::ListOperatorsRequest {}).await)?;
        self.read_all(reply.operators)
    }

    /// Lets an operator in no more.
    pub async fn disable_operator(&self, name: &OperatorName) -> Result<(), ClientError> {
        let request = wire::DisableOperatorRequest { name: name.to_string() };
        self.reply(self.service.clone().disable_operator(request).await)?;
        Ok(())
    }

    fn reply<T>(&self, reply: Result<tonic::Response<T>, Status>) -> Result<T, ClientError> {
        reply.map(tonic::Response::into_inner).map_err(|status| self.peer.sort(&status))
    }

    fn read<T>(&self, read: Result<T, WireError>) -> Result<T, ClientError> {
        read.map_err(|error| self.peer.not_understood(&error))
    }

    fn read_all<W, T: TryFrom<W, Error = WireError>>(&self, list: Vec<W>) -> Result<Vec<T>, ClientError> {
        self.read(list.into_iter().map(TryInto::try_into).collect())
    }

    fn host_name(&self, name: &str) -> Result<HostName, ClientError> {
        self.read(name.parse().map_err(|_| WireError::Field("name")))
    }
}

/// Events of one job as they arrive.
pub struct EventStream {
    client: Client,
    blocks: Streaming<wire::EventBlock>,
}

impl EventStream {
    /// The next events, never none; `None` at the end of the job, or of what is stored. A broken stream is
    /// [`ClientError::Lost`].
    pub async fn next(&mut self) -> Result<Option<Vec<Event>>, ClientError> {
        loop {
            match self.blocks.message().await {
                Ok(Some(block)) if block.events.is_empty() => {}
                Ok(Some(block)) => return self.client.read_all(block.events).map(Some),
                Ok(None) => return Ok(None),
                Err(status) => {
                    return Err(match self.client.peer.sort(&status) {
                        ClientError::Unavailable(text) => ClientError::Lost(text),
                        other => other,
                    });
                }
            }
        }
    }
}

/// Records of the audit log as they arrive.
pub struct AuditStream {
    client: Client,
    blocks: Streaming<wire::AuditBlock>,
}

impl AuditStream {
    /// The next records; `None` at the end of the log. Their texts are as they were hashed, not cleaned.
    pub async fn next(&mut self) -> Result<Option<Vec<AuditRecord>>, ClientError> {
        let block = self.blocks.message().await.map_err(|status| self.client.peer.sort(&status))?;
        block.map(|block| self.client.read_all(block.records)).transpose()
    }
}

/// Changes a login code and a certificate request (PKCS#10, DER) for an identity. Whoever answers has to hold the
/// pinned CA.
pub async fn log_in(code: &Token, csr: &[u8]) -> Result<LoginGrant, ClientError> {
    let (channel, peer) = dial::enrolment(code).await?;
    let request = wire::LoginRequest { csr: Bytes::copy_from_slice(csr), code: Bytes::copy_from_slice(&code.secret) };
    let reply = EnrolmentClient::new(channel).login(request).await.map_err(|status| peer.sort(&status))?;
    grant(code, reply.into_inner()).map_err(|error| peer.not_understood(&error))
}

fn grant(code: &Token, reply: wire::LoginReply) -> Result<LoginGrant, WireError> {
    if tls::pin_of(&reply.controller_ca) != code.pin {
        return Err(WireError::Field("controller_ca"));
    }
    if id_of(&reply.cluster, "cluster")? != code.cluster {
        return Err(WireError::Field("cluster"));
    }
    Ok(LoginGrant {
        cluster: code.cluster,
        operator: reply.operator.parse().map_err(|_| WireError::Field("operator"))?,
        certificate: reply.certificate,
        controller_ca: reply.controller_ca,
        operator_ca: reply.operator_ca,
        operator_port: reply.operator_port.try_into().map_err(|_| WireError::Field("operator_port"))?,
    })
}

/// An empty blob is one empty piece.
fn chunks(blob: BlobRef, data: Bytes) -> impl Iterator<Item = wire::BlobChunk> {
    let digest = Bytes::copy_from_slice(&blob.digest);
    (0..data.len().max(1)).step_by(limits::BLOB_CHUNK_BYTES).map(move |offset| wire::BlobChunk {
        digest: digest.clone(),
        offset: offset as u64,
        data: data.slice(offset..data.len().min(offset + limits::BLOB_CHUNK_BYTES)),
    })
}

fn bytes_of(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// The controller takes no larger message; without this its refusal would look like a lost connection.
fn check_size(message: &impl wire::Message) -> Result<(), ClientError> {
    // Tag and length of the message that carries it.
    let bytes = message.encoded_len() + 16;
    if bytes <= limits::OPERATOR_MESSAGE_BYTES_MAX {
        return Ok(());
    }
    let (mib, max) = (bytes.div_ceil(1 << 20), limits::OPERATOR_MESSAGE_BYTES_MAX >> 20);
    Err(ClientError::Usage(format!("this takes {mib} MiB to say, and {max} MiB are the most: split the list of hosts")))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
