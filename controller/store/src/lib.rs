//! What a controller must not forget: jobs with their events and output, identities, and the audit log.
//!
//! ```text
//! Store (cheap clone) ── changes ──▶ writer: drains its queue, one transaction a batch, fsync, then answers
//!       └───────────── reads ──────▶ pool of read-only connections
//! ```
//!
//! Whoever gets `Ok` from a change may rely on it across a power cut. Events are kept in blocks, not a row an event;
//! larger output lies in a file for each job that the events refer to. SQL is found in this crate alone, and stored
//! records in `record.rs` alone. The SQL texts are those that PostgreSQL takes as well; only the tables' types differ.

mod agents;
mod audit;
mod blobs;
mod check;
mod enrolment;
mod events;
mod find;
mod groups;
mod jobs;
mod nonce;
mod operators;
mod output;
mod record;
mod retention;
mod schedules;
mod sessions;
mod writer;

pub use agents::{AgentError, AgentRecord};
pub use audit::AuditError;
pub use blobs::{BlobError, BlobWriter};
pub use check::{Report, check};
pub use enrolment::{ApproveError, EnrolBy, EnrolError, Enrolled, NewAgent, NewToken, PendingError};
pub use events::{Append, LateEvidence};
pub use groups::GroupError;
pub use jobs::{AcceptError, NewJob, StoredJob};
pub use muster_proto::audit::AuditEntry;
pub use nonce::Keep;
pub use operators::{LoginError, NewOperator, OperatorError};
pub use retention::{Pruned, Retention, Size};
pub use schedules::{NewSchedule, Replace, Round, ScheduleError};
pub use sessions::{Confirmed, OpenSession, Opened, ResolveError, RolledBack};

use blobs::Blobs;
use jobs::Recent;
use output::Outputs;
use sqlx::SqlitePool;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqlSafeStr as _};
use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use writer::Writer;

/// Connections that read. Each is a thread; a read takes well under a millisecond.
const READERS: u32 = 4;

/// The schema's steps, oldest first. A step that was released never changes.
const MIGRATIONS: [(i64, &str, &str); 1] = [(1, "first", include_str!("../migrations/sqlite/0001_first.sql"))];

/// A handle on the store; clones share it. Dropping the last one stops the writer without waiting for it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    readers: SqlitePool,
    writer: Writer,
    outputs: Outputs,
    blobs: Blobs,
    recent: Recent,
    /// Proves which nonces are ours; never shown to anybody.
    secret: [u8; 32],
}

impl Store {
    /// Opens the store in `dir` (`muster.db`, `output/`, `blobs/`) and makes what is not there, for the owner's eyes
    /// only. One process may have it open. Must be called within a tokio runtime.
    pub async fn open(dir: &Path) -> Result<Self, OpenError> {
        let directory = |path: &Path| {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|source| OpenError::Directory { path: path.to_owned(), source })
        };
        let (database, output, blobs) = (dir.join("muster.db"), dir.join("output"), dir.join("blobs"));
        directory(dir)?;
        // The directories are made after the database: where they are and it is not, it was lost. SQLite itself
        // would take a missing or empty file for a new store and forget everything.
        if output.exists() && !fs::metadata(&database).is_ok_and(|file| file.len() > 0) {
            return Err(OpenError::Damaged { path: database, detail: "it is missing or empty".into() });
        }
        let options = SqliteConnectOptions::new()
            .filename(&database)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5))
            .disable_statement_logging();
        let (secret, length) = migrate(&options).await.map_err(|error| OpenError::of(&database, error))?;
        let bytes = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        // Unless somebody else reads it, nothing is left in SQLite's log now: all pages are in the file.
        if bytes(&dir.join("muster.db-wal")) == 0 && bytes(&database) < length {
            return Err(OpenError::Damaged { path: database, detail: "it was cut short".into() });
        }
        directory(&output)?;
        directory(&blobs)?;
        fs::File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| OpenError::Directory { path: dir.to_owned(), source })?;
        let blobs = Blobs::open(blobs.clone()).map_err(|source| OpenError::Directory { path: blobs, source })?;
        let readers =
            SqlitePoolOptions::new().max_connections(READERS).connect_lazy_with(options.clone().read_only(true));
        let inner = Inner {
            readers,
            writer: Writer::start(options),
            outputs: Outputs::new(output),
            blobs,
            recent: Recent::default(),
            secret,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Finishes the changes that were handed in before, then stops. Later ones fail with [`StoreError::Closed`].
    pub async fn close(&self) {
        // The last connection to go merges SQLite's log into the database, and only one that writes can do it.
        self.inner.readers.close().await;
        self.inner.writer.close().await;
    }
}

/// Tables that are small, and without which nothing works: looked at whenever a store is opened. The large ones are
/// [`check`]'s, or found damaged when they are read.
const ESSENTIAL: [&str; 4] = ["jobs", "agents", "operators", "meta"];

/// Brings the schema up to date, looks at what is essential, and answers the secret of the nonces, which is made at the
/// first time, and how long the file must be.
async fn migrate(options: &SqliteConnectOptions) -> Result<([u8; 32], u64), MigrateError> {
    // Counts for a new database alone: `retention.rs` gives free pages back.
    let options = options.clone().auto_vacuum(SqliteAutoVacuum::Incremental);
    let mut connection = options.connect().await?;
    let steps = MIGRATIONS.map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(steps.into()).run(&mut connection).await?;
    for table in ESSENTIAL {
        let looked = sqlx::query("SELECT quick_check AS result FROM pragma_quick_check($1)").bind(table);
        let result: String = looked.fetch_one(&mut connection).await?.try_get("result")?;
        if result != "ok" {
            return Err(MigrateError::Execute(sqlx::Error::Protocol(format!("table {table}: {result}"))));
        }
    }
    let mut fresh = [0; 32];
    getrandom::fill(&mut fresh).map_err(|error| MigrateError::Source(error.into()))?;
    let made = sqlx::query("INSERT INTO meta (name, value) VALUES ('nonce', $1) ON CONFLICT (name) DO NOTHING");
    made.bind(&fresh[..]).execute(&mut connection).await?;
    let sql = "SELECT value, page_count * page_size AS length FROM meta, pragma_page_count(), pragma_page_size() \
               WHERE name = 'nonce'";
    let kept = sqlx::query(sql).fetch_one(&mut connection).await?;
    let secret = kept.try_get::<&[u8], _>("value")?.try_into();
    let secret = secret.map_err(|_| sqlx::Error::Protocol("the secret of the nonces".into()))?;
    let length = kept.try_get::<i64, _>("length")?.unsigned_abs();
    connection.close().await?;
    Ok((secret, length))
}

/// Why the store cannot be opened, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory or file beside the database.
    #[error("cannot make or read {}: check its owner and its disk", path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a database, cut short, or gone.
    #[error(
        "the store {} is damaged ({detail}): restore the whole state directory from a backup, or move it away and run `muster-controller init`",
        path.display()
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Its schema is not one that this version knows.
    #[error(
        "the store {} was written by another version of muster-controller (schema {version}, this one knows up to {}): install the newer version again",
        path.display(),
        MIGRATIONS.len()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The step of its schema that is not known.
        version: i64,
    },
    /// Anything else the database engine says.
    #[error("cannot open the store {}: check its owner, the space on its disk, and that no other controller uses it", path.display())]
    Unavailable {
        /// The database.
        path: PathBuf,
        /// What the engine said.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl OpenError {
    fn of(path: &Path, error: MigrateError) -> Self {
        let path = path.to_owned();
        match error {
            MigrateError::VersionMissing(version) | MigrateError::VersionMismatch(version) => {
                Self::Newer { path, version }
            }
            MigrateError::Execute(sqlx::Error::Protocol(detail)) => Self::Damaged { path, detail },
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) if is_damage(&error) => {
                Self::Damaged { path, detail: error.to_string() }
            }
            error => Self::Unavailable { path, source: error.into() },
        }
    }
}

/// SQLITE_CORRUPT and SQLITE_NOTADB, extended codes included.
fn is_damage(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 11 | 26))
}

/// Why the store did not do as it was asked. A change that failed left no trace; only where the disk failed in the
/// middle of a commit may it turn out to be done after a restart.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The events do not continue where the job stands, or the job is done or unknown. Another writer has it.
    #[error("these events do not continue job {0} where it stands: report this as a bug")]
    Conflict(muster_proto::id::JobId),
    /// A record does not read back.
    #[error("the store's record of {0} cannot be read: restore the state directory from a backup")]
    Damaged(String),
    /// The disk or the database engine.
    #[error("the store cannot read or write: check the space and the health of the disk with the state directory")]
    Unavailable(#[source] Arc<dyn Error + Send + Sync>),
    /// After [`Store::close`].
    #[error("the store is closed: the controller is stopping")]
    Closed,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolClosed => Self::Closed,
            error if is_damage(&error) => Self::Damaged(error.to_string()),
            error => Self::Unavailable(Arc::new(error)),
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}
