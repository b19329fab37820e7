//! The one writer: it owns the only connection that changes anything.
//!
//! Changes wait in a bounded queue; whoever finds it full waits, and so slows down only himself. The writer takes all
//! that wait, applies them in one transaction (each in a savepoint, so that one which is refused does not spoil the
//! others), brings the output they refer to to disk, commits, and answers everybody. Under load many changes share one
//! fsync; a change that comes alone is committed at once.

use crate::StoreError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Changes that wait; each holds at most a few hundred KiB.
const QUEUE_LEN: usize = 1_024;
/// Changes in one transaction: bounds how long the first of them waits for the last.
const BATCH_LEN: usize = 512;

/// Something to do within a transaction, and what its sender gets for it.
pub(crate) trait Change: Send + Sync + 'static {
    /// What there is to say when it is done.
    type Answer: Send + 'static;
    /// Why it may be refused.
    type Error: From<StoreError> + Send + 'static;

    /// A file that must be on disk before the transaction is.
    fn file(&self) -> Option<&Arc<File>> {
        None
    }

    /// Does it. What it did before an error is undone.
    fn apply(&self, db: &mut SqliteConnection) -> impl Future<Output = Result<Self::Answer, Self::Error>> + Send;
}

/// The sending side of the queue.
pub(crate) struct Writer {
    queue: mpsc::Sender<Message>,
}

enum Message {
    Change(Box<dyn Waiting>),
    Close(oneshot::Sender<()>),
}

impl Writer {
    /// Starts the writer; it ends when the last handle is gone or after [`Writer::close`].
    pub(crate) fn start(options: SqliteConnectOptions) -> Self {
        let (queue, messages) = mpsc::channel(QUEUE_LEN);
        tokio::spawn(run(options, messages));
        Self { queue }
    }

    /// Has the change made, and comes back once it is durable. It is made even if the caller does not wait for it.
    pub(crate) async fn write<C: Change>(&self, change: C) -> Result<C::Answer, C::Error> {
        let (reply, answer) = oneshot::channel();
        let waiting = Message::Change(Box::new(Sent { change, result: None, reply }));
        self.queue.send(waiting).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Comes back when all that was sent before is durable and the connection is closed.
    pub(crate) async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.queue.send(Message::Close(reply)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

async fn run(options: SqliteConnectOptions, mut messages: mpsc::Receiver<Message>) {
    let mut connection = None;
    let mut closing = Vec::new();
    loop {
        let mut received = Vec::new();
        if messages.recv_many(&mut received, BATCH_LEN).await == 0 {
            break;
        }
        let mut batch = Vec::with_capacity(received.len());
        for message in received {
            match message {
                Message::Change(change) => batch.push(change),
                Message::Close(reply) => {
                    messages.close();
                    closing.push(reply);
                }
            }
        }
        let result = commit(&options, &mut connection, &mut batch).await;
        if let Err(error) = &result {
            tracing::error!(%error, source = ?std::error::Error::source(error), changes = batch.len(), "transaction failed");
            // SQLite may have ended the transaction on its own: only a new connection is in a state that we know.
            connection = None;
        }
        for change in batch {
            change.answer(result.clone());
        }
    }
    if let Some(connection) = connection
        && let Err(error) = connection.close().await
    {
        tracing::warn!(%error, "the database was not closed cleanly; nothing is lost");
    }
    for reply in closing {
        let _ = reply.send(());
    }
}

/// All of the batch that is not refused, in one transaction.
async fn commit(
    options: &SqliteConnectOptions,
    connection: &mut Option<SqliteConnection>,
    batch: &mut [Box<dyn Waiting>],
) -> Result<(), StoreError> {
    if batch.is_empty() {
        return Ok(());
    }
    let db = match connection {
        Some(open) => open,
        None => connection.insert(options.connect().await?),
    };
    let mut transaction = db.begin_with("BEGIN IMMEDIATE").await?;
    let mut files: Vec<Arc<File>> = Vec::new();
    for change in batch {
        let mut savepoint = transaction.begin().await?;
        match change.apply(&mut savepoint).await {
            Applied::Done => {
                savepoint.commit().await?;
                files.extend(change.file().cloned());
            }
            Applied::Refused => savepoint.rollback().await?,
        }
    }
    sync(files).await?;
    Ok(transaction.commit().await?)
}

async fn sync(files: Vec<Arc<File>>) -> Result<(), StoreError> {
    if files.is_empty() {
        return Ok(());
    }
    let synced = tokio::task::spawn_blocking(move || files.iter().try_for_each(|file| file.sync_data()));
    Ok(synced.await.map_err(std::io::Error::other)??)
}

/// A change with the one who waits for it, whatever its types.
trait Waiting: Send {
    fn file(&self) -> Option<&Arc<File>>;
    fn apply<'a>(&'a mut self, db: &'a mut SqliteConnection) -> Pin<Box<dyn Future<Output = Applied> + Send + 'a>>;
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

enum Applied {
    Done,
    Refused,
}

struct Sent<C: Change> {
    change: C,
    result: Option<Result<C::Answer, C::Error>>,
    reply: oneshot::Sender<Result<C::Answer, C::Error>>,
}

impl<C: Change> Waiting for Sent<C>
where
    Self: Send,
{
    fn file(&self) -> Option<&Arc<File>> {
        self.change.file()
    }

    fn apply<'a>(&'a mut self, db: &'a mut SqliteConnection) -> Pin<Box<dyn Future<Output = Applied> + Send + 'a>> {
        Box::pin(async move {
            let result = self.change.apply(db).await;
            let applied = if result.is_ok() { Applied::Done } else { Applied::Refused };
            self.result = Some(result);
            applied
        })
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let result = match (committed, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(StoreError::Closed.into()),
            (Err(error), _) => Err(error.into()),
        };
        // Whoever does not wait any more does not need the answer.
        let _ = self.reply.send(result);
    }
}

/// Lets `?` take a database error where an operation has errors of its own around [`StoreError`].
macro_rules! database_errors {
    ($($error:ty),+) => {$(
        impl From<sqlx::Error> for $error {
            fn from(error: sqlx::Error) -> Self {
                Self::Store(error.into())
            }
        }
    )+};
}
pub(crate) use database_errors;
