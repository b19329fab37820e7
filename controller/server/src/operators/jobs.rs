//! Jobs: planned, submitted, listed, looked at.

use super::{OperatorDoor, audit, find, ping};
use crate::clock;
use crate::engine::TaskView;
use crate::reply::Reply as _;
use bytes::Bytes;
use muster_core::target::{Resolved, guard};
use muster_proto::command::{BlobRef, Command, Program};
use muster_proto::id::{AgentId, JobId};
use muster_proto::job::{JobHost, JobList, JobSpec, SignedJob, Target, TargetList, Work, target_tree};
use muster_proto::limits;
use muster_proto::name::OperatorName;
use muster_proto::outcome::State;
use muster_proto::wire::{self, submit_part};
use std::collections::{HashMap, HashSet};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::task::spawn_blocking;
use tonic::{Status, Streaming};

/// Jobs in a list unless the caller says how many.
const LIST_LEN: u32 = 50;

pub(super) async fn plan(door: &OperatorDoor, request: wire::PlanRequest) -> Result<wire::PlanReply, Status> {
    let selection = request.selection.unwrap_or_default().into();
    let (Resolved { targets, notes }, fleet) = door.resolver.resolve(selection).await.map_err(|error| error.reply())?;
    let read =
        |command: Option<wire::Command>| command.map(Command::try_from).transpose().map_err(|error| error.reply());
    let (command, gate) = (read(request.command)?, read(request.gate)?);
    let mut script = request.script;
    script.truncate(limits::SCRIPT_LOOKED_AT_BYTES);
    // Whoever repeats a job does not have its script at hand.
    if let (true, Some(Program::Script { content, .. })) = (script.is_empty(), command.as_ref().map(|it| &it.program)) {
        script = beginning_of(door, content).await.unwrap_or_default();
    }
    let commands = [command, gate].into_iter().flatten().collect();
    let reason = to_confirm(door, targets.len(), fleet, commands, script).await?;
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
        notes,
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
    check_parent(door, &spec).await?;
    let confirmed = check_confirmed(door, &spec, first.confirmed).await?;

    let job = spec.job;
    let detail = format!("{job} on {} targets{confirmed}: {}", targets.count(), spec.work.title());
    let record = audit(operator, "job.accept", detail);
    door.engine.submit(spec, signed, targets, record).await.map_err(|error| error.reply())?;
    // Who was disabled while this was accepted had no such job at work then.
    door.engine.stop_if_disabled(operator).await.map_err(|error| error.reply())?;
    Ok(wire::SubmitReply { job: job.as_bytes().to_vec().into() })
}

/// Why the operator has to type the count of these hosts; `None` if there is no need.
async fn to_confirm(
    door: &OperatorDoor,
    targets: usize,
    fleet: usize,
    commands: Vec<Command>,
    script: Bytes,
) -> Result<Option<String>, Status> {
    let danger = door.danger.clone();
    // A long script takes a while to look through.
    let danger = spawn_blocking(move || commands.iter().find_map(|command| danger.reason(command, &script)));
    let danger = danger.await.map_err(|_| Status::internal("the command could not be looked through: try again"))?;
    let reasons: Vec<String> = guard(targets, fleet).into_iter().chain(danger).collect();
    Ok(if reasons.is_empty() { None } else { Some(reasons.join("; ")) })
}

/// Refuses a job that had to be confirmed and was not, whatever its plan has said. Else what the audit log says of it.
async fn check_confirmed(door: &OperatorDoor, spec: &JobSpec, confirmed: u32) -> Result<String, Status> {
    let Work::Command(command) = &spec.work else { return Ok(String::new()) };
    let script = match &command.program {
        Program::Script { content, .. } => beginning_of(door, content).await?,
        Program::Argv(_) | Program::Shell(_) => Bytes::new(),
    };
    let commands = [command].into_iter().chain(&spec.rollout.gate).cloned().collect();
    let count = spec.targets.count;
    match to_confirm(door, count as usize, door.roster.fleet().len(), commands, script).await? {
        None => Ok(String::new()),
        Some(_) if confirmed == count => Ok(format!(", confirmed {confirmed}")),
        Some(reason) => Err(Status::failed_precondition(format!(
            "{reason}: the number of hosts was not confirmed: say --yes={count}"
        ))),
    }
}

/// As much of a script as is looked through.
async fn beginning_of(door: &OperatorDoor, script: &BlobRef) -> Result<Bytes, Status> {
    let gone = || Status::failed_precondition("the script of the job is not here: submit it with the job");
    let file = door.store.blob(script.digest).await.map_err(|error| error.reply())?.ok_or_else(gone)?;
    let mut beginning = Vec::new();
    File::from_std(file)
        .take(limits::SCRIPT_LOOKED_AT_BYTES as u64)
        .read_to_end(&mut beginning)
        .await
        .map_err(|_| gone())?;
    Ok(beginning.into())
}

/// What is repeated has to be a command that was here.
async fn check_parent(door: &OperatorDoor, spec: &JobSpec) -> Result<(), Status> {
    let Some(parent) = spec.rerun_of else { return Ok(()) };
    match door.store.job(parent).await.map_err(|error| error.reply())? {
        Some(stored) if matches!((&stored.spec.work, &spec.work), (Work::Command(_), Work::Command(_))) => Ok(()),
        Some(_) => Err(Status::invalid_argument("only commands are repeated: ping again instead")),
        // Whoever repeats it had it in time.
        None if door.store.was_pruned(parent).await.map_err(|error| error.reply())? => Ok(()),
        None => Err(find::missing(&door.store, parent).await),
    }
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
    for blob in spec.blobs() {
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
    // Any target sees where the job stands.
    let look = match names.iter().find_map(|(_, agent)| *agent) {
        Some(agent) => door.engine.look(job, agent).await,
        None => None,
    };
    let paused = look.as_ref().and_then(|look| look.paused.clone());
    let contact = |agent: Option<AgentId>| agent.is_some_and(|agent| door.sessions.contact(agent).is_here());
    let late = door.store.late_evidence_of(job).await.map_err(|error| error.reply())?;
    let mut late: HashMap<_, _> =
        late.into_iter().map(|late| ((late.task.target, late.task.attempt), late.text)).collect();
    let hosts = (0..).zip(names).zip(tasks).map(|((place, (name, agent)), task)| {
        let TaskView { phase, attempt, queued_until, outcome } = task;
        // Of a state that is known nothing can come too late: an agent that tells it again only missed our answer.
        let unknown = outcome.as_ref().is_some_and(|outcome| outcome.state == State::Indeterminate);
        let late = late.remove(&(place, attempt)).filter(|_| unknown);
        JobHost { name, agent, phase, attempt, queued_until, outcome, connected: contact(agent), late }.into()
    });
    Ok(wire::GetJobReply {
        hosts: hosts.collect(),
        summary: Some(stored.summary.into()),
        signed: Some(stored.signed.into()),
        lineage: door.store.family(job).await.map_err(|error| error.reply())?.into_iter().map(Into::into).collect(),
        wave: look.map_or(0, |look| look.wave.number),
        paused_since_ms: paused.as_ref().map_or(0, |pause| pause.since.as_millis()),
        paused: paused.map(|pause| wire::PausedEvent {
            operator: pause.operator.map_or_else(String::new, |operator| operator.to_string()),
            reason: pause.reason,
        }),
    })
}

pub(super) fn job_id(bytes: &[u8]) -> Result<JobId, Status> {
    wire::id_of(bytes, "job").map_err(|error| error.reply())
}
