//! The events of one job without holes or repeats, over as many connections as it takes.
//!
//! A task of its own reads; it goes on at the next sequence number when the link breaks, for half a minute. The
//! channel is small: when its reader is slow the controller is simply not read from, and it drops us to catching up
//! from its store. No agent ever waits for us.

use crate::client::{Client, ClientError, Follow};
use muster_proto::event::{Event, EventKind};
use muster_proto::id::JobId;
use muster_proto::job::JobState;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// How long a broken link is mended before we give up.
const MEND_MAX: Duration = Duration::from_secs(30);
/// Between two tries to mend it: at first, and at most.
const PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];
/// Batches of events that wait to be shown.
const BATCHES_WAITING: usize = 8;

/// What there is to read.
#[derive(Debug)]
pub enum Item {
    /// Events, in order.
    Events(Vec<Event>),
    /// The link broke and is being mended. The reason is told where that fails.
    Broken,
}

/// The reading end.
pub struct Feed {
    items: mpsc::Receiver<Result<Item, ClientError>>,
}

impl Feed {
    /// Follows a job from behind this sequence number; 0 is from the beginning.
    pub fn open(client: &Client, job: JobId, after_seq: u64, follow: Follow) -> Self {
        let (sender, items) = mpsc::channel(BATCHES_WAITING);
        let mut pump = Pump { client: client.clone(), job, follow, seq: after_seq, done: false, sender };
        tokio::spawn(async move {
            let sender = pump.sender.clone();
            tokio::select! {
                () = sender.closed() => {}
                result = pump.run() => if let Err(error) = result {
                    // A reader that has gone does not want to know.
                    let _ = sender.send(Err(error)).await;
                },
            }
        });
        Self { items }
    }

    /// What comes next; `None` when the job is done, or all that is stored was read. Loses nothing when dropped.
    pub async fn next(&mut self) -> Result<Option<Item>, ClientError> {
        self.items.recv().await.transpose()
    }
}

struct Pump {
    client: Client,
    job: JobId,
    follow: Follow,
    seq: u64,
    done: bool,
    sender: mpsc::Sender<Result<Item, ClientError>>,
}

impl Pump {
    async fn run(&mut self) -> Result<(), ClientError> {
        let mut broken_since = None;
        let mut pause = PAUSE[0];
        loop {
            let seq = self.seq;
            let error = match self.read().await {
                Ok(()) if self.done || self.follow.stored_only || self.is_over(seq).await? => return Ok(()),
                Ok(()) => ClientError::Lost("the controller ended the stream".to_owned()),
                Err(error @ (ClientError::Lost(_) | ClientError::Unavailable(_))) => error,
                Err(error) => return Err(error),
            };
            if self.seq > seq {
                (broken_since, pause) = (None, PAUSE[0]);
            }
            if broken_since.is_none() {
                self.send(Item::Broken).await;
            }
            if broken_since.get_or_insert_with(Instant::now).elapsed() > MEND_MAX {
                return Err(ClientError::Lost(error.to_string()));
            }
            sleep(pause).await;
            pause = PAUSE[1].min(pause * 2);
        }
    }

    /// Reads one stream to its end.
    async fn read(&mut self) -> Result<(), ClientError> {
        let mut stream = self.client.follow(self.job, self.seq, self.follow.clone()).await?;
        while let Some(mut events) = stream.next().await? {
            events.retain(|event| event.seq > self.seq);
            if let Some(last) = events.last() {
                self.seq = last.seq;
                self.done |= matches!(last.kind, EventKind::Done { .. });
                self.send(Item::Events(events)).await;
            }
        }
        Ok(())
    }

    /// A stream that ended without a word is all right where the job was over before it began.
    async fn is_over(&self, seq_before: u64) -> Result<bool, ClientError> {
        if self.seq > seq_before {
            return Ok(false);
        }
        match self.client.job(self.job).await {
            Ok(job) => Ok(job.summary.state == JobState::Done),
            Err(ClientError::Unavailable(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn send(&self, item: Item) {
        // The task is ended with its reader: see `Feed::open`.
        let _ = self.sender.send(Ok(item)).await;
    }
}
