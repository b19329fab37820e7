//! What waits for an agent, as the stream its connection pulls: nothing is made before there is room to send it.

use crate::sessions::{Mailbox, OfferedJob, Outgoing};
use futures_util::Stream;
use futures_util::stream;
use muster_proto::command::BlobRef;
use muster_proto::id::{Attempt, TaskId};
use muster_proto::limits;
use muster_proto::link::{BlobChunk, Offer, ToAgent};
use muster_proto::wire;
use muster_store::Store;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;
use tonic::Status;
use tracing::error;

/// The stream of one session.
pub type OutboxStream = Pin<Box<dyn Stream<Item = Result<wire::ToAgent, Status>> + Send>>;

/// Bytes of payloads after which a batch is sent as it is.
const BATCH_BYTES_FULL: usize = 1 << 20;
/// An IPv6 address with its zone, on the wire.
const AIM_BYTES: usize = 40;

/// One session's messages in order.
pub struct Outbox {
    store: Store,
    mailbox: Arc<Mailbox>,
    /// Taken from the mailbox, not yet sent.
    steps: VecDeque<Step>,
    /// The blob that is first in `steps`, once it is open.
    blob: Option<OpenBlob>,
}

enum Step {
    Message(ToAgent),
    Blob(BlobRef),
    Offer { job: Arc<OfferedJob>, task: TaskId, until: Instant },
}

struct OpenBlob {
    file: File,
    offset: u64,
    /// An empty blob is one empty chunk.
    begun: bool,
}

impl Outbox {
    /// A session's stream.
    pub fn new(store: Store, mailbox: Arc<Mailbox>) -> Self {
        Self { store, mailbox, steps: VecDeque::new(), blob: None }
    }

    /// The stream. It ends when the session is closed, with the last that is to be said.
    pub fn into_stream(self) -> OutboxStream {
        Box::pin(stream::unfold(Some(self), |outbox| async move {
            let mut outbox = outbox?;
            let mailbox = Arc::clone(&outbox.mailbox);
            let (batch, rest) = tokio::select! {
                biased;
                () = mailbox.ended() => (vec![mailbox.farewell()?], None),
                batch = outbox.next() => (batch?, Some(outbox)),
            };
            Some((Ok(wire::ToAgent { messages: batch.into_iter().map(Into::into).collect() }), rest))
        }))
    }

    /// What is ready to be sent; `None` when the session must end.
    async fn next(&mut self) -> Option<Vec<ToAgent>> {
        loop {
            match self.steps.front() {
                None => self.refill().await,
                Some(&Step::Blob(blob)) => match self.chunk(blob).await? {
                    Some(chunk) => return Some(vec![chunk]),
                    None => _ = self.steps.pop_front(),
                },
                Some(Step::Message(_) | Step::Offer { .. }) => return Some(self.batch()),
            }
        }
    }

    async fn refill(&mut self) {
        // Nothing is held while nothing waits: there are as many of these as agents.
        self.steps = VecDeque::new();
        for outgoing in self.mailbox.take().await {
            match outgoing {
                Outgoing::Message(message) => self.steps.push_back(Step::Message(message)),
                Outgoing::Offer { job, task, until } => {
                    if task.attempt != Attempt::GATE {
                        self.steps.extend(job.blobs.iter().copied().map(Step::Blob));
                    }
                    self.steps.push_back(Step::Offer { job, task, until });
                }
            }
        }
    }

    /// As much as is there and fits, up to a blob that has to go first.
    fn batch(&mut self) -> Vec<ToAgent> {
        let mut batch = Vec::with_capacity(self.steps.len().min(limits::MESSAGES_PER_BATCH_MAX));
        let mut bytes = 0;
        while bytes < BATCH_BYTES_FULL && batch.len() < limits::MESSAGES_PER_BATCH_MAX {
            match self.steps.pop_front() {
                Some(Step::Message(message)) => {
                    bytes += weight(&message);
                    batch.push(message);
                }
                Some(Step::Offer { job, task, until }) => {
                    bytes += job.signed.payload.len();
                    batch.extend(offer(&job, task, until));
                }
                Some(blob @ Step::Blob(_)) => {
                    self.steps.push_front(blob);
                    break;
                }
                None => break,
            }
        }
        batch
    }

    /// The next piece of a blob, or that there is none; `None` outside when the blob cannot be read.
    async fn chunk(&mut self, blob: BlobRef) -> Option<Option<ToAgent>> {
        if self.blob.is_none() {
            let file = match self.store.blob(blob.digest).await {
                Ok(Some(file)) => File::from_std(file),
                missing => {
                    error!(?missing, "a blob of a job cannot be read; the agent's session ends");
                    return None;
                }
            };
            self.blob = Some(OpenBlob { file, offset: 0, begun: false });
        }
        let open = self.blob.as_mut()?;
        let mut data = Vec::with_capacity(limits::BLOB_CHUNK_BYTES);
        (&mut open.file).take(limits::BLOB_CHUNK_BYTES as u64).read_to_end(&mut data).await.ok()?;
        if data.is_empty() && open.begun {
            self.blob = None;
            return Some(None);
        }
        let chunk = BlobChunk { digest: blob.digest, offset: open.offset, data: data.into() };
        open.offset += chunk.data.len() as u64;
        open.begun = true;
        Some(Some(ToAgent::Blob(chunk)))
    }
}

/// About how many bytes a message takes: most take a few, an order to look a thousand addresses.
fn weight(message: &ToAgent) -> usize {
    if let ToAgent::Probe(order) = message { order.aims.len() * AIM_BYTES } else { 0 }
}

/// What is left of the window is reckoned when the offer leaves. With nothing left the agent answers that it expired.
fn offer(job: &OfferedJob, task: TaskId, until: Instant) -> Option<ToAgent> {
    let proof = job.tree.proof(task.target as usize)?;
    let ttl = until.saturating_duration_since(Instant::now());
    Some(ToAgent::Offer(Offer { task, job: job.signed.clone(), proof, ttl }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;
    use muster_proto::link::{ProbeAim, ProbeOrder};
    use muster_proto::ping::{Detail, Probes};

    #[tokio::test]
    async fn orders_to_look_are_not_crowded_into_one_message() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).await.expect("a store");
        let mailbox = Arc::new(Mailbox::default());
        let aim = ProbeAim { address: "fe80::1".parse().expect("an address"), zone: "enp0s31f6".to_owned() };
        let aims = vec![aim; limits::PROBES_PER_MESSAGE_MAX];
        let order = ProbeOrder { sweep: 1, probes: Probes::default(), detail: Detail::Ends, aims, last: false };
        for _ in 0..limits::MESSAGES_PER_BATCH_MAX {
            mailbox.push(Outgoing::Message(ToAgent::Probe(order.clone())));
        }
        mailbox.open(Vec::new());
        let mut stream = Outbox::new(store, mailbox).into_stream();
        let batch = stream.next().await.expect("a batch").expect("no error");
        let most = limits::CONTROLLER_MESSAGE_BYTES_MAX / (limits::PROBES_PER_MESSAGE_MAX * AIM_BYTES);
        assert!((1..most).contains(&batch.messages.len()), "{}", batch.messages.len());
    }
}
