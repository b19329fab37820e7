//! What is acknowledged is there, and nothing else is, when some are refused and when the disk is full.

use super::{Change, Writer};
use crate::StoreError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};
use std::path::Path;
use std::sync::Arc;

/// Whatever ends a test.
type Failure = Box<dyn std::error::Error>;

/// Writes two rows: one before it may be refused, one that may be large.
struct Put {
    number: i64,
    bytes: usize,
}

impl Change for Put {
    type Answer = ();
    type Error = StoreError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        let sql = "INSERT INTO things (number, part, body) VALUES ($1, $2, $3)";
        sqlx::query(sql).bind(self.number).bind(1).bind(&b"first"[..]).execute(&mut *db).await?;
        if self.number % 7 == 0 {
            return Err(StoreError::Closed);
        }
        sqlx::query(sql).bind(self.number).bind(2).bind(vec![7; self.bytes]).execute(db).await?;
        Ok(())
    }
}

/// Makes room.
struct Clear;

impl Change for Clear {
    type Answer = ();
    type Error = StoreError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM things").execute(db).await?;
        Ok(())
    }
}

/// A database that may have so many pages of 4 KiB: what is beyond is a full disk.
async fn database(dir: &Path, pages: u32) -> Result<SqliteConnectOptions, Failure> {
    let options = SqliteConnectOptions::new().filename(dir.join("test.db")).create_if_missing(true);
    let options = options.journal_mode(SqliteJournalMode::Wal).pragma("max_page_count", pages.to_string());
    let mut db = options.connect().await?;
    sqlx::query("CREATE TABLE things (number, part, body, PRIMARY KEY (number, part))").execute(&mut db).await?;
    db.close().await?;
    Ok(options)
}

async fn there(options: &SqliteConnectOptions) -> Result<Vec<i64>, Failure> {
    let mut db = options.connect().await?;
    let rows = sqlx::query("SELECT number, COUNT(*) AS parts FROM things GROUP BY number").fetch_all(&mut db).await?;
    assert!(rows.iter().all(|row| row.get::<i64, _>("parts") == 2), "half of a change is there");
    Ok(rows.iter().map(|row| row.get("number")).collect())
}

/// All at once; the numbers of those that were acknowledged, in order.
async fn put(writer: &Arc<Writer>, numbers: std::ops::Range<i64>, bytes: impl Fn(i64) -> usize) -> Vec<i64> {
    let mut waiting = tokio::task::JoinSet::new();
    for number in numbers {
        let (writer, change) = (Arc::clone(writer), Put { number, bytes: bytes(number) });
        waiting.spawn(async move { writer.write(change).await.is_ok().then_some(number) });
    }
    let mut done: Vec<_> = waiting.join_all().await.into_iter().flatten().collect();
    done.sort_unstable();
    done
}

#[tokio::test]
async fn one_that_is_refused_spoils_no_other_and_leaves_no_half() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let options = database(dir.path(), 10_000).await?;
    let writer = Arc::new(Writer::start(options.clone()));
    let done = put(&writer, 0..300, |_| 10).await;
    assert_eq!(done, (0..300).filter(|number| number % 7 != 0).collect::<Vec<_>>());
    assert_eq!(there(&options).await?, done);
    Ok(())
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_acknowledged_and_is_survived() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let options = database(dir.path(), 60).await?;
    let writer = Arc::new(Writer::start(options.clone()));
    let mut done = Vec::new();
    for round in 0..12 {
        done.extend(
            put(&writer, round * 7..(round + 1) * 7, |number| if number % 10 == 3 { 50_000 } else { 2_000 }).await,
        );
        assert_eq!(there(&options).await?, done);
    }
    assert!(done.len() > 10 && done.len() < 60, "{} of 84 were written", done.len());
    let refused = writer.write(Put { number: 1_000, bytes: 300_000 }).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");

    writer.write(Clear).await?;
    writer.write(Put { number: 1_000, bytes: 100_000 }).await?;
    assert_eq!(there(&options).await?, [1_000]);
    Ok(())
}
