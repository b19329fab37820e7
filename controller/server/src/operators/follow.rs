//! The event stream of a job, from any point on.
//!
//! A follower reads the store, and waits for the job's doorbell when it has read everything. So what it sees is
//! durable, nobody waits for it, and however slow it is, it misses nothing.

use super::jobs::job_id;
use super::{OperatorDoor, find};
use crate::clock;
use crate::engine::{self, Engine, Progress};
use crate::reply::Reply as _;
use futures_util::{Stream, stream};
use muster_core::fleet::{Fleet, Member};
use muster_proto::event::{Event, EventKind};
use muster_proto::id::{AgentId, JobId};
use muster_proto::job::TargetList;
use muster_proto::ping::PingName;
use muster_proto::time::Timestamp;
use muster_proto::wire;
use muster_store::StoredJob;
use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The stream of one follower.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<wire::EventBlock, Status>> + Send>>;

/// Events read at a time: what a slow follower may have waiting for it.
const READ_BYTES: usize = 1 << 20;

struct Follower {
    engine: Engine,
    job: JobId,
    seq: u64,
    /// Rings when more is stored; `None` once nothing follows.
    progress: Option<watch::Receiver<Progress>>,
    /// Places in the list whose events are wanted; `None` is all.
    only: Option<HashSet<u32>>,
    /// The controller stops, or the operator is disabled.
    stop: CancellationToken,
    /// TLS looks at a certificate once; a stream must not outlive it.
    expires: Instant,
    done: bool,
}

/// A certificate without an end that we could read ends the stream after a day.
const LIFE_MAX: Duration = Duration::from_hours(24);

pub(super) async fn follow(
    door: &OperatorDoor,
    stop: CancellationToken,
    not_after: Option<Timestamp>,
    request: wire::FollowRequest,
) -> Result<Events, Status> {
    let job = job_id(&request.job)?;
    // Before the job is looked up: whatever is stored after that rings.
    let progress = door.engine.progress(job).filter(|_| !request.stored_only);
    let stored = find::stored(&door.store, job).await?;
    let only = match request.targets.as_str() {
        "" => None,
        targets => Some(places(door, &stored, targets).await?),
    };
    let life = not_after.map_or(LIFE_MAX, |end| clock::now().until(end)).min(LIFE_MAX * 365);
    let follower = Follower {
        engine: door.engine.clone(),
        job,
        seq: request.after_seq,
        progress,
        only,
        stop,
        expires: Instant::now() + life,
        done: false,
    };
    follower.engine.stats().followers.enter();
    Ok(Box::pin(stream::unfold(follower, |mut follower| async move {
        Some((follower.next().await.transpose()?, follower))
    })))
}

/// The places that an expression over the job's own targets stands for.
async fn places(door: &OperatorDoor, stored: &StoredJob, expression: &str) -> Result<HashSet<u32>, Status> {
    // An address may have characters that no expression takes.
    if let (TargetList::Pings(_), Ok(host)) = (&stored.targets, expression.parse::<PingName>()) {
        let named: HashSet<u32> = (0..)
            .zip(stored.targets.names())
            .filter(|(_, (name, _))| name.host == host)
            .map(|(place, _)| place)
            .collect();
        if !named.is_empty() {
            return Ok(named);
        }
    }
    let (mut fleet, known) = (Fleet::default(), door.roster.fleet());
    let mut places: HashMap<AgentId, Vec<u32>> = HashMap::new();
    for (place, (name, agent)) in (0..).zip(stored.targets.names()) {
        // What bears no agent's name is chosen by its own; what could be no host's name is not chosen at all.
        let Some(name) = name.host.host_name() else { continue };
        let labels = agent.map(|agent| door.roster.labels(agent)).unwrap_or_default();
        let facts = agent.and_then(|agent| known.by_id(agent)?.facts.clone());
        // A host that several look at stands in the list several times.
        let id = fleet.by_name(&name).map_or_else(|| AgentId::from_bytes(u128::to_be_bytes(place.into())), |it| it.id);
        let _ = fleet.insert(Member { id, name, labels, facts });
        places.entry(id).or_default().push(place);
    }
    let chosen = door.resolver.among(expression, fleet).await.map_err(|error| error.reply())?;
    Ok(chosen.into_iter().filter_map(|target| places.remove(&target.agent)).flatten().collect())
}

impl Follower {
    async fn next(&mut self) -> Result<Option<wire::EventBlock>, Status> {
        while !self.done {
            if self.stop.is_cancelled() || self.expires <= Instant::now() {
                return Err(match self.stop.is_cancelled() {
                    true => Status::unavailable("the controller ended the stream: follow again after this event"),
                    false => super::expired(),
                });
            }
            let events = match self.engine.store().events(self.job, self.seq, READ_BYTES).await {
                Ok(events) => events,
                Err(error) => return Err(self.removed().await?.unwrap_or_else(|| error.reply())),
            };
            if let Some(last) = events.last() {
                self.seq = last.seq;
                self.done = matches!(last.kind, EventKind::Done { .. });
                let wanted: Vec<_> = events.into_iter().filter(|event| self.wants(event)).map(Into::into).collect();
                if !wanted.is_empty() {
                    return Ok(Some(wire::EventBlock { events: wanted }));
                }
                continue;
            }
            let Some(progress) = &mut self.progress else {
                return self.removed().await?.map_or(Ok(None), Err);
            };
            match timeout_at(self.expires, engine::more(progress, self.seq, &self.stop)).await {
                Ok(true) => {}
                Ok(false) if !self.stop.is_cancelled() => return Ok(None),
                Ok(false) | Err(_) => {}
            }
        }
        Ok(None)
    }

    /// What to say where the job's record was removed while it was read.
    async fn removed(&self) -> Result<Option<Status>, Status> {
        let was_pruned = self.engine.store().was_pruned(self.job).await.map_err(|error| error.reply())?;
        Ok(was_pruned.then(|| find::removed(self.job)))
    }

    fn wants(&self, event: &Event) -> bool {
        match (&self.only, event.kind.target()) {
            (Some(only), Some(target)) => only.contains(&target),
            _ => true,
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.engine.stats().followers.leave();
    }
}
