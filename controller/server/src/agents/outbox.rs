//! What waits for an agent, as the stream its connection pulls: nothing is made before there is room to send it.

use super::Opening;
use crate::sessions::{OfferedJob, Outgoing};
use futures_util::Stream;
use futures_util::stream;
use muster_proto::command::BlobRef;
use muster_proto::id::TaskId;
use muster_proto::limits;
use muster_proto::link::{BlobChunk, Offer, ToAgent};
use muster_proto::wire;
use muster_store::Store;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::error;

/// The stream of one session.
pub type OutboxStream = Pin<Box<dyn Stream<Item = Result<wire::ToAgent, Status>> + Send>>;

/// Bytes of payloads after which a batch is sent as it is.
const BATCH_BYTES_FULL: usize = 1 << 20;

/// One session's messages in order: the opening, then whatever is queued.
pub struct Outbox {
    store: Store,
    opening: Option<oneshot::Receiver<Opening>>,
    queue: mpsc::Receiver<Outgoing>,
    /// Taken from the queue, not yet sent.
    steps: VecDeque<Step>,
    /// The blob that is first in `steps`, once it is open.
    blob: Option<OpenBlob>,
    close: CancellationToken,
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
    /// A session's stream. Nothing of the queue is sent before the opening.
    pub fn new(
        store: Store,
        opening: oneshot::Receiver<Opening>,
        queue: mpsc::Receiver<Outgoing>,
        close: CancellationToken,
    ) -> Self {
        Self { store, opening: Some(opening), queue, steps: VecDeque::new(), blob: None, close }
    }

    /// The stream. It ends when the session is closed.
    pub fn into_stream(self) -> OutboxStream {
        Box::pin(stream::unfold(self, |mut outbox| async move {
            let close = outbox.close.clone();
            let batch = tokio::select! {
                batch = outbox.next() => batch?,
                () = close.cancelled() => return None,
            };
            Some((Ok(wire::ToAgent { messages: batch.into_iter().map(Into::into).collect() }), outbox))
        }))
    }

    /// What is ready to be sent; `None` when the session must end.
    async fn next(&mut self) -> Option<Vec<ToAgent>> {
        if let Some(opening) = self.opening.take() {
            return opening.await.ok();
        }
        loop {
            match self.steps.front() {
                None => self.refill().await?,
                Some(&Step::Blob(blob)) => match self.chunk(blob).await? {
                    Some(chunk) => return Some(vec![chunk]),
                    None => _ = self.steps.pop_front(),
                },
                Some(Step::Message(_) | Step::Offer { .. }) => return Some(self.batch()),
            }
        }
    }

    async fn refill(&mut self) -> Option<()> {
        let mut taken = Vec::new();
        if self.queue.recv_many(&mut taken, limits::MESSAGES_PER_BATCH_MAX).await == 0 {
            return None;
        }
        for outgoing in taken {
            match outgoing {
                Outgoing::Message(message) => self.steps.push_back(Step::Message(message)),
                Outgoing::Offer { job, task, until } => {
                    self.steps.extend(job.blobs.iter().copied().map(Step::Blob));
                    self.steps.push_back(Step::Offer { job, task, until });
                }
            }
        }
        Some(())
    }

    /// As much as is there and fits, up to a blob that has to go first.
    fn batch(&mut self) -> Vec<ToAgent> {
        let mut batch = Vec::with_capacity(self.steps.len());
        let mut bytes = 0;
        while bytes < BATCH_BYTES_FULL && !matches!(self.steps.front(), None | Some(Step::Blob(_))) {
            match self.steps.pop_front() {
                Some(Step::Message(message)) => batch.push(message),
                Some(Step::Offer { job, task, until }) => {
                    bytes += job.signed.payload.len();
                    batch.extend(offer(&job, task, until));
                }
                Some(Step::Blob(_)) | None => {}
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

/// What is left of the window is reckoned when the offer leaves. With nothing left the agent answers that it expired.
fn offer(job: &OfferedJob, task: TaskId, until: Instant) -> Option<ToAgent> {
    let proof = job.tree.proof(task.target as usize)?;
    let ttl = until.saturating_duration_since(Instant::now());
    Some(ToAgent::Offer(Offer { task, job: job.signed.clone(), proof, ttl }))
}
