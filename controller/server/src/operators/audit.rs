//! The audit log as a stream of records, so that whoever asks can verify the chain without trusting us.

use super::OperatorDoor;
use crate::reply::Reply as _;
use futures_util::{Stream, stream};
use muster_proto::audit::AuditRecord;
use muster_proto::wire;
use muster_store::Store;
use std::collections::VecDeque;
use std::pin::Pin;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The stream of one reader.
pub(super) type Records = Pin<Box<dyn Stream<Item = Result<wire::AuditBlock, Status>> + Send>>;

/// Records read and sent at a time.
const BLOCK_LEN: u32 = 500;
/// "The newest" are held here until the end of the log is found: so many at most.
const NEWEST_MAX: usize = 10_000;

/// Reads the log once through, as fast as the reader takes it.
struct Reader {
    store: Store,
    request: wire::ReadAuditRequest,
    after: u64,
    /// The controller stops, or the operator is disabled.
    stop: CancellationToken,
    done: bool,
}

pub(super) fn read(door: &OperatorDoor, stop: CancellationToken, request: wire::ReadAuditRequest) -> Records {
    let reader = Reader { store: door.store.clone(), request, after: 0, stop, done: false };
    Box::pin(stream::unfold(reader, |mut reader| async move { Some((reader.next().await.transpose()?, reader)) }))
}

impl Reader {
    async fn next(&mut self) -> Result<Option<wire::AuditBlock>, Status> {
        let newest = usize::try_from(self.request.newest).unwrap_or(NEWEST_MAX).min(NEWEST_MAX);
        let mut held = VecDeque::new();
        while !self.done {
            let records = self.page().await?;
            if newest == 0 && !records.is_empty() {
                return Ok(Some(block(records)));
            }
            held.extend(records);
            held.drain(..held.len().saturating_sub(newest));
        }
        Ok((!held.is_empty()).then(|| block(held.into())))
    }

    /// Those of the next page that are wanted.
    async fn page(&mut self) -> Result<Vec<AuditRecord>, Status> {
        if self.stop.is_cancelled() {
            return Err(Status::unavailable("the controller ended the stream: ask again"));
        }
        let mut records = self.store.audit(self.after, BLOCK_LEN).await.map_err(|error| error.reply())?;
        match records.last() {
            Some(last) => self.after = last.seq,
            None => self.done = true,
        }
        records.retain(|record| wants(&self.request, record));
        Ok(records)
    }
}

fn block(records: Vec<AuditRecord>) -> wire::AuditBlock {
    wire::AuditBlock { records: records.into_iter().map(Into::into).collect() }
}

/// An actor is meant by its whole word, or by the name behind the slash: `operator/ada` by `ada` too.
fn wants(request: &wire::ReadAuditRequest, record: &AuditRecord) -> bool {
    let entry = &record.entry;
    let name = entry.actor.rsplit('/').next().unwrap_or_default();
    (request.actor.is_empty() || entry.actor == request.actor || name == request.actor)
        && entry.action.starts_with(&request.action)
        && entry.at.as_millis() >= request.since_ms
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::audit::{AuditEntry, AuditHead};
    use muster_proto::time::Timestamp;

    #[test]
    fn records_are_chosen_by_actor_action_and_time() {
        let record = AuditHead::default().next(AuditEntry {
            at: Timestamp::from_millis(10),
            actor: "operator/ada".into(),
            action: "job.accept".into(),
            detail: String::new(),
        });
        let wanted = |actor: &str, action: &str, since_ms| {
            let request = wire::ReadAuditRequest { actor: actor.into(), action: action.into(), since_ms, newest: 0 };
            wants(&request, &record)
        };
        assert!(wanted("", "", 0) && wanted("ada", "job", 10) && wanted("operator/ada", "job.accept", 0));
        assert!(!wanted("ad", "", 0) && !wanted("", "token", 0) && !wanted("", "", 11));
    }
}
