//! Jobs: planned, submitted, cancelled, listed, looked at.

use super::{OperatorDoor, audit, find, ping};
use crate::clock;
use crate::engine::{Cancelled, EngineError};
use crate::reply::Reply as _;
use muster_core::target::{Selection, guard};
use muster_proto::command::BlobRef;
use muster_proto::id::{AgentId, JobId};
use muster_proto::job::{JobHost, JobList, JobSpec, SignedJob, Target, TargetList, Work, target_tree};
use muster_proto::limits;
use muster_proto::name::OperatorName;
use muster_proto::outcome::State;
use muster_proto::wire::{self, submit_part};
use std::collections::{HashMap, HashSet};
use tonic::{Status, Streaming};

/// Jobs in a list unless the caller says how many.
const LIST_LEN: u32 = 50;

pub(super) fn selection(selection: Option<wire::Selection>) -> Selection {
    let wire::Selection { targets, exclude, names } = selection.unwrap_or_default();
    Selection { targets, exclude, names }
}

pub(super) fn plan(door: &OperatorDoor, request: wire::PlanRequest) -> Result<wire::PlanReply, Status> {
    let (targets, fleet) = door.roster.resolve(&selection(request.selection)).map_err(|error| error.reply())?;
    let reason = guard(targets.len(), fleet);
    let connected = door.sessions.contacts(targets.iter().map(|target| target.agent));
    let targets = targets.into_iter().zip(connected).map(|(target, contact)| wire::PlannedTarget {
        agent: target.agent.as_bytes().to_vec().into(),
        name: target.name.to_string(),
        connected: contact.is_here(),
    });
    Ok(wire::PlanReply {
        cluster: door.issuers.cluster().as_bytes().to_vec().into(),
        targets: targets.collect(),
        confirm: reason.is_some(),
        confirm_reason: reason.unwrap_or_default(),
    })
}

pub(super) async fn submit(
    door: &OperatorDoor,
    operator: &OperatorName,
    mut parts: Streaming<wire::SubmitPart>,
) -> Result<wire::SubmitReply, Status> {
    let first = parts.message().await?.and_then(|part| part.kind);
    let Some(submit_part::Kind::Job(first)) = first else {
        return Err(Status::invalid_argument("a submission begins with the signed job"));
    };
    let signed = first.job.ok_or_else(|| Status::invalid_argument("the signed job is missing"))?;
    let signed = SignedJob::try_from(signed).map_err(|error| error.reply())?;
    let spec = door.trust.open(&signed).map_err(|error| error.reply())?;
    check_signer_and_time(&spec, operator)?;
    let targets = match (&spec.work, first.pings) {
        (Work::Command(_), None) => TargetList::Agents(frozen_list(door, &spec, &first.agents)?.into()),
        (Work::Ping(_), Some(list)) => TargetList::Pings(ping::frozen_list(door, &spec, list)?.into()),
        _ => return Err(Status::invalid_argument("the target list is not of the kind that was signed")),
    };
    receive_blobs(door, &spec, parts).await?;

    let job = spec.job;
    let detail = format!("{job} on {} targets: {}", targets.count(), spec.work.title());
    let record = audit(operator, "job.accept", detail);
    door.engine.submit(spec, signed, targets, record).await.map_err(|error| error.reply())?;
    // Who was disabled while this was accepted had no such job at work then.
    door.engine.stop_if_disabled(operator).await.map_err(|error| error.reply())?;
    Ok(wire::SubmitReply { job: job.as_bytes().to_vec().into() })
}

fn check_signer_and_time(spec: &JobSpec, operator: &OperatorName) -> Result<(), Status> {
    if spec.operator != *operator {
        return Err(Status::permission_denied("the job is signed by another operator than the one who submits it"));
    }
    let now = clock::now();
    let skew = now.until(spec.created_at).max(spec.created_at.until(now));
    if spec.created_at > now + limits::CLOCK_SKEW_MAX {
        return Err(Status::failed_precondition(format!(
            "the job was signed {} s in the future: set the clock of one of the two machines",
            skew.as_secs()
        )));
    }
    if spec.start_before <= now {
        return Err(Status::failed_precondition("the job's deadline has passed: sign it again, or set the clock"));
    }
    Ok(())
}

/// The list that the operator saw and signed, rebuilt from what this controller knows. What differs is refused.
fn frozen_list(door: &OperatorDoor, spec: &JobSpec, agents: &[u8]) -> Result<Vec<Target>, Status> {
    let changed = || Status::failed_precondition("the fleet changed since the plan was made: run the command again");
    let (ids, rest) = agents.as_chunks::<16>();
    let ids: Vec<AgentId> = ids.iter().map(|id| AgentId::from_bytes(*id)).collect();
    if !rest.is_empty() || ids.len() != spec.targets.count as usize {
        return Err(Status::invalid_argument("the target list is not the one that was signed"));
    }
    if ids.iter().collect::<HashSet<_>>().len() != ids.len() {
        return Err(Status::invalid_argument("a target is named twice"));
    }
    let targets = door.roster.targets(&ids).map_err(|_| changed())?;
    match target_tree(&targets) {
        Some(tree) if tree.root() == spec.targets.root => Ok(targets),
        _ => Err(changed()),
    }
}

/// What the job names and the store does not have yet, in the order of the parts.
async fn receive_blobs(
    door: &OperatorDoor,
    spec: &JobSpec,
    mut parts: Streaming<wire::SubmitPart>,
) -> Result<(), Status> {
    let mut wanted: Vec<BlobRef> = Vec::new();
    for blob in spec.work.blobs() {
        if !wanted.contains(&blob) && door.store.blob(blob.digest).await.map_err(|error| error.reply())?.is_none() {
            wanted.push(blob);
        }
    }
    let mut writer = None;
    while let Some(part) = parts.message().await? {
        let Some(submit_part::Kind::Blob(chunk)) = part.kind else {
            return Err(Status::invalid_argument("after the signed job come its blobs alone"));
        };
        let Some(place) = wanted.iter().position(|blob| chunk.digest == blob.digest[..]) else { continue };
        let blob = wanted[place];
        let (mut open, written) = match writer.take() {
            Some((open_for, open, written)) if open_for == blob => (open, written),
            Some(_) => return Err(Status::invalid_argument("a blob ended too early")),
            None => (door.store.blob_writer(blob).await.map_err(|error| error.reply())?, 0),
        };
        if chunk.offset != written {
            return Err(Status::invalid_argument("a piece of a blob is missing"));
        }
        open.write(&chunk.data).await.map_err(|error| error.reply())?;
        let written = written + chunk.data.len() as u64;
        if written >= blob.size {
            open.finish().await.map_err(|error| error.reply())?;
            wanted.remove(place);
        } else {
            writer = Some((blob, open, written));
        }
    }
    match wanted.first() {
        None => Ok(()),
        Some(_) => {
            Err(Status::failed_precondition("stdin or the script of the job is not here: submit it with the job"))
        }
    }
}

pub(super) async fn cancel(
    door: &OperatorDoor,
    operator: OperatorName,
    request: wire::CancelRequest,
) -> Result<wire::CancelReply, Status> {
    let job = job_id(&request.job)?;
    let cancelled = match door.engine.cancel(job, operator).await {
        Err(EngineError::NoSuchJob(job)) => return Err(find::missing(&door.store, job).await),
        cancelled => cancelled.map_err(|error| error.reply())?,
    };
    Ok(wire::CancelReply { already_done: cancelled == Cancelled::AlreadyDone })
}

pub(super) async fn list(door: &OperatorDoor, request: wire::ListJobsRequest) -> Result<wire::ListJobsReply, Status> {
    let limit = if request.limit == 0 { LIST_LEN } else { request.limit.min(limits::JOBS_LISTED_MAX) };
    let which = if request.unfinished { JobList::Unfinished } else { JobList::All };
    let jobs = door.store.jobs(which, limit).await.map_err(|error| error.reply())?;
    Ok(wire::ListJobsReply { jobs: jobs.into_iter().map(Into::into).collect() })
}

pub(super) async fn get(door: &OperatorDoor, request: wire::GetJobRequest) -> Result<wire::GetJobReply, Status> {
    let job = job_id(&request.job)?;
    let stored = find::stored(&door.store, job).await?;
    let tasks = door.engine.tasks(job, &stored.spec).await.map_err(|error| error.reply())?;
    let names = stored.targets.names();
    let contact = |agent: Option<AgentId>| agent.is_some_and(|agent| door.sessions.contact(agent).is_here());
    let late = door.store.late_evidence_of(job).await.map_err(|error| error.reply())?;
    let mut late: HashMap<_, _> = late.into_iter().map(|late| (late.task.target, late.text)).collect();
    let hosts = (0..).zip(names).zip(tasks).map(|((place, (name, agent)), (phase, outcome))| {
        // Of a state that is known nothing can come too late: an agent that tells it again only missed our answer.
        let unknown = outcome.as_ref().is_some_and(|outcome| outcome.state == State::Indeterminate);
        let late = late.remove(&place).filter(|_| unknown);
        JobHost { name, agent, phase, outcome, connected: contact(agent), late }.into()
    });
    Ok(wire::GetJobReply {
        hosts: hosts.collect(),
        summary: Some(stored.summary.into()),
        signed: Some(stored.signed.into()),
    })
}

pub(super) fn job_id(bytes: &[u8]) -> Result<JobId, Status> {
    wire::id_of(bytes, "job").map_err(|error| error.reply())
}
