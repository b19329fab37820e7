//! The one writer: it owns the only connection that changes anything.
//!
//! Changes wait in a bounded queue; whoever finds it full waits, and so slows down only himself. The writer takes all
//! that wait, applies them in one transaction, commits, and answers everybody. If one is refused, which is rare, all are
//! applied anew, each in a savepoint, so that it does not spoil the others. Under load many changes share one fsync; a
//! change that comes alone is committed at once. Output is on disk before a change that refers to it comes here.
//!
//! Where the disk is full SQLite gives up the whole transaction: nobody in it is told that anything was done, all of them
//! may try again, and it works again once there is room.

use crate::StoreError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use std::pin::Pin;
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

    /// Does it. What it did before an error is undone; without one it may be undone and done again all the same.
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
    if !together(db, batch).await? {
        apart(db, batch).await?;
    }
    Ok(())
}

/// Without savepoints, each of which costs as much as a change; `false` if nothing was done since one of several was
/// refused.
async fn together(db: &mut SqliteConnection, batch: &mut [Box<dyn Waiting>]) -> Result<bool, StoreError> {
    let mut transaction = db.begin_with("BEGIN IMMEDIATE").await?;
    for change in batch.iter_mut() {
        if let Applied::Refused = change.apply(&mut transaction).await {
            transaction.rollback().await?;
            return Ok(batch.len() == 1);
        }
    }
    transaction.commit().await?;
    Ok(true)
}

/// Each in a savepoint of its own.
async fn apart(db: &mut SqliteConnection, batch: &mut [Box<dyn Waiting>]) -> Result<(), StoreError> {
    let mut transaction = db.begin_with("BEGIN IMMEDIATE").await?;
    for change in batch {
        let mut savepoint = transaction.begin().await?;
        match change.apply(&mut savepoint).await {
            Applied::Done => savepoint.commit().await?,
            Applied::Refused => savepoint.rollback().await?,
        }
    }
    Ok(transaction.commit().await?)
}

/// A change with the one who waits for it, whatever its types.
trait Waiting: Send {
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

#[cfg(test)]
mod tests;
