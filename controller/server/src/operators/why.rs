//! Why a host, or its part in a job, is as it is: from stored events and live state, with one conclusion in words.
//!
//! Here it is gathered; `words` concludes, and is pure.

mod words;

use super::find::stored;
use super::jobs::job_id;
use super::{OperatorDoor, find};
use crate::clock;
use crate::engine::Look;
use crate::reply::Reply as _;
use muster_proto::event::{Event, EventKind, GateStep, Stream};
use muster_proto::id::{AgentId, Attempt, JobId};
use muster_proto::job::{JobList, JobState, Phase, Target};
use muster_proto::selection::Selection;
use muster_proto::why::{AttemptEnd, LastSession, TaskLine, TaskStory, Why};
use muster_proto::{text, wire};
use muster_store::{LateEvidence, StoredJob};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;
use words::{Host, Seen};

/// Unfinished tasks in a list.
const UNFINISHED_MAX: usize = 20;
/// Ended tasks in a list.
const FINISHED_MAX: usize = 5;
/// Lists have what was found in this time.
const LISTS_WITHIN: Duration = Duration::from_secs(2);
/// The record of one job is read in this time, or not at all: half of it would lead to a wrong conclusion.
const STORY_WITHIN: Duration = Duration::from_secs(10);
/// The newest jobs in which they are looked for.
const LOOKED_THROUGH: u32 = 100;

pub(super) async fn why(door: &OperatorDoor, request: wire::WhyRequest) -> Result<Why, Status> {
    let job = match request.job.is_empty() {
        true => None,
        false => Some(stored(&door.store, job_id(&request.job)?).await?),
    };
    let (agent, place) = match &job {
        Some(job) => {
            let place = place_in(job, &request.host)?;
            (place.1, Some(place.0))
        }
        None => (agent_of(door, &request.host).await?, None),
    };
    let now = clock::now();
    let record = door.roster.record(agent);
    let (Some(info), Some(record)) = (door.roster.info(agent), record) else {
        return Err(Status::not_found("the agent is not known any more: `muster agents` lists those there are"));
    };
    let session = door.sessions.get(agent);
    let left = door.engine.stats().left(agent).filter(|_| session.is_none());
    let left = left.map(|left| LastSession { at: left.at, reason: left.why.to_string() });
    let by = Instant::now() + LISTS_WITHIN;
    let open = door.engine.open_tasks(agent).await;
    let unfinished = found_by(by, async |lines| unfinished(door, &open, lines).await).await?;
    let running = open.iter().filter(|(_, look)| look.is_running()).count();
    let host = Host { info: &info, left: left.as_ref(), waiting: open.len(), running, now };
    let task = match (&job, place) {
        (Some(job), Some(place)) => {
            Some(timeout(STORY_WITHIN, whole_story(door, job, place)).await.map_err(|_| too_long(job))??)
        }
        _ => None,
    };
    let conclusion = match (&task, &job) {
        (Some(task), Some(job)) => {
            let look = door.engine.look(task.job, agent).await;
            words::about_task(&host, &Seen { task, spec: &job.spec, look: look.as_ref() })
        }
        _ => words::about_host(&host),
    };
    let finished = match &job {
        None => found_by(by, async |lines| finished(door, agent, lines).await).await?,
        Some(_) => Vec::new(),
    };
    Ok(Why {
        epoch: session.as_ref().map(|session| session.epoch.0),
        certificate_until: session.as_ref().and_then(|session| session.not_after),
        renewed_at: record.renewed_at,
        finished,
        agent: info,
        left,
        unfinished,
        task,
        conclusion,
    })
}

async fn agent_of(door: &OperatorDoor, host: &str) -> Result<AgentId, Status> {
    if let Some(target) = door.roster.find(host) {
        return Ok(target.agent);
    }
    // Asked for its error: it names the agent that was meant.
    let selection = Selection { targets: host.to_owned(), ..Selection::default() };
    match door.resolver.resolve(selection).await.map_err(|error| error.reply())?.0.targets[..] {
        [Target { agent, .. }] => Ok(agent),
        _ => Err(Status::invalid_argument(format!("{} means several hosts: name one of them", text::line(host)))),
    }
}

fn place_in(job: &StoredJob, host: &str) -> Result<(u32, AgentId), Status> {
    let Some(targets) = job.targets.agents() else {
        let job = job.spec.job;
        let text = format!("job {job} is a ping: `muster job {job}` says how each host answered, and why not");
        return Err(Status::invalid_argument(text));
    };
    let id = host.parse().ok();
    let found = (0..).zip(targets.iter()).find(|(_, target)| target.name.as_str() == host || Some(target.agent) == id);
    found.map(|(place, target)| (place, target.agent)).ok_or_else(|| {
        let (host, job) = (text::line(host), job.spec.job);
        Status::not_found(format!("{host} is no target of job {job}: `muster job {job}` lists those that are"))
    })
}

fn too_long(job: &StoredJob) -> Status {
    let job = job.spec.job;
    Status::deadline_exceeded(format!(
        "the record of job {job} is too long to be looked through in {} s: `muster logs {job}` reads it",
        STORY_WITHIN.as_secs()
    ))
}

/// The lines that are there when time is up, or the search is over.
async fn found_by(
    by: Instant,
    search: impl AsyncFnOnce(&mut Vec<TaskLine>) -> Result<(), Status>,
) -> Result<Vec<TaskLine>, Status> {
    let mut lines = Vec::new();
    if let Ok(searched) = timeout_at(by, search(&mut lines)).await {
        searched?;
    }
    Ok(lines)
}

/// The oldest of the open tasks.
async fn unfinished(door: &OperatorDoor, open: &[(JobId, Look)], lines: &mut Vec<TaskLine>) -> Result<(), Status> {
    for (job, look) in open.iter().take(UNFINISHED_MAX) {
        if let Some(job) = door.store.job(*job).await.map_err(|error| error.reply())? {
            lines.push(line(story(door, &job, look.target).await?));
        }
    }
    Ok(())
}

/// The last ended tasks, the newest first.
async fn finished(door: &OperatorDoor, agent: AgentId, lines: &mut Vec<TaskLine>) -> Result<(), Status> {
    for summary in door.store.jobs(JobList::All, LOOKED_THROUGH).await.map_err(|error| error.reply())? {
        if lines.len() == FINISHED_MAX {
            break;
        }
        if summary.state == JobState::Done
            && let Some((job, place)) = part_in(door, summary.job, agent).await?
        {
            lines.push(line(story(door, &job, place).await?));
        }
    }
    Ok(())
}

async fn part_in(door: &OperatorDoor, job: JobId, agent: AgentId) -> Result<Option<(StoredJob, u32)>, Status> {
    let stored = door.store.job(job).await.map_err(|error| error.reply())?;
    Ok(stored.and_then(|stored| {
        let place = stored.targets.agents()?.iter().position(|target| target.agent == agent)?;
        Some((stored, u32::try_from(place).ok()?))
    }))
}

fn line(story: TaskStory) -> TaskLine {
    let last = [story.finished_at, story.started_at, story.accepted_at, story.offered_at.last().copied()];
    let since = last.into_iter().flatten().next().unwrap_or(story.planned_at);
    TaskLine { job: story.job, title: story.title, phase: story.phase, outcome: story.outcome, since }
}

/// What is stored of a task, with what came too late.
async fn whole_story(door: &OperatorDoor, job: &StoredJob, place: u32) -> Result<TaskStory, Status> {
    let mut story = story(door, job, place).await?;
    let late = door.store.late_evidence_of(job.spec.job).await.map_err(|error| error.reply())?;
    let its = |late: &LateEvidence| late.task.target == place && late.task.attempt == story.attempt;
    story.late = late.into_iter().find(its).map(|late| late.text);
    Ok(story)
}

/// What the events tell of a task.
async fn story(door: &OperatorDoor, job: &StoredJob, place: u32) -> Result<TaskStory, Status> {
    let id = job.spec.job;
    let events = door.store.story(id, place).await.map_err(|error| error.reply())?;
    if events.is_empty() {
        return Err(find::missing(&door.store, id).await);
    }
    Ok(told(job, events))
}

/// A story in which nothing has happened yet.
fn untold(job: &StoredJob) -> TaskStory {
    TaskStory {
        job: job.spec.job,
        title: job.summary.title.clone(),
        phase: Phase::Planned,
        outcome: None,
        planned_at: job.spec.created_at,
        start_before: job.spec.start_before,
        offered_at: Vec::new(),
        accepted_at: None,
        started_at: None,
        output_at: None,
        bytes: [0; 2],
        truncated: 0,
        finished_at: None,
        cancelled: None,
        late: None,
        attempt: Attempt::FIRST,
        earlier: Vec::new(),
        next_at: None,
        queued: None,
        gate: None,
    }
}

fn told(job: &StoredJob, events: Vec<(Event, u64)>) -> TaskStory {
    let mut story = untold(job);
    for (Event { time, kind, .. }, bytes) in events {
        match kind {
            EventKind::Planned { .. } => story.planned_at = time,
            EventKind::Queued { until, .. } => story.queued = Some((time, until)),
            EventKind::Offered { .. } => {
                story.offered_at.push(time);
                story.phase = Phase::Offered;
                (story.next_at, story.queued) = (None, None);
            }
            EventKind::Accepted { .. } => (story.accepted_at, story.phase) = (Some(time), Phase::Accepted),
            EventKind::Started { .. } => (story.started_at, story.phase) = (Some(time), Phase::Started),
            EventKind::Output { stream, .. } => {
                let first = story.output_at.map_or(time, |(first, _)| first);
                story.output_at = Some((first, time));
                story.bytes[usize::from(stream == Stream::Stderr)] += bytes;
            }
            EventKind::Truncated { bytes, .. } => story.truncated = story.truncated.saturating_add(bytes),
            EventKind::Finished { outcome, .. } => {
                (story.outcome, story.finished_at) = (Some(outcome), Some(time));
                (story.next_at, story.queued) = (None, None);
            }
            // What follows is about the next attempt.
            EventKind::Retrying { attempt, outcome, at, .. } => {
                story.earlier.push(AttemptEnd { outcome, at: time });
                let TaskStory { planned_at, earlier, cancelled, .. } = story;
                let next_at = Some(at);
                story = TaskStory { planned_at, earlier, cancelled, attempt, next_at, ..untold(job) };
            }
            EventKind::Gate { step: GateStep::Finished { outcome }, .. } => {
                story.gate = Some(AttemptEnd { outcome, at: time });
            }
            EventKind::Cancelling { operator } => story.cancelled = Some((time, operator)),
            _ => {}
        }
    }
    story
}
