//! The audit log in the database: append-only, and chained as [`muster_proto::audit`] says.
//!
//! An entry is written in the transaction of the change it tells of.

use crate::jobs::signed;
use crate::{Store, StoreError};
use muster_proto::audit::{AuditEntry, AuditHead, AuditRecord};
use muster_proto::time::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqliteExecutor};

/// Records read at a time when the chain is verified.
const VERIFY_ROWS: u32 = 1_000;

/// The log is not what was written, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The first record that does not fit.
    #[error("the audit log was altered at record {seq}: compare it with a backup")]
    Altered {
        /// Its number.
        seq: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Up to `limit` records after number `after`, oldest first.
    pub async fn audit(&self, after: u64, limit: u32) -> Result<Vec<AuditRecord>, StoreError> {
        let sql = "SELECT seq, time, actor, action, detail, hash FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2";
        let rows = sqlx::query(sql).bind(signed(after)).bind(limit).fetch_all(&self.inner.readers).await?;
        rows.iter().map(record_of).collect()
    }

    /// The last record, if there is any.
    pub async fn audit_newest(&self) -> Result<Option<AuditRecord>, StoreError> {
        newest(&self.inner.readers).await
    }

    /// Follows the chain from the first record to the last and says how many there are.
    pub async fn verify_audit(&self) -> Result<u64, AuditError> {
        let mut head = AuditHead::default();
        loop {
            let records = self.audit(head.seq, VERIFY_ROWS).await?;
            if records.is_empty() {
                return Ok(head.seq);
            }
            for record in &records {
                head = head.admits(record).ok_or(AuditError::Altered { seq: head.seq + 1 })?;
            }
        }
    }
}

async fn newest(db: impl SqliteExecutor<'_>) -> Result<Option<AuditRecord>, StoreError> {
    let last = sqlx::query("SELECT seq, time, actor, action, detail, hash FROM audit ORDER BY seq DESC LIMIT 1");
    last.fetch_optional(db).await?.as_ref().map(record_of).transpose()
}

/// Writes the entry at the end of the chain, within the caller's transaction.
pub(crate) async fn write(db: &mut SqliteConnection, entry: &AuditEntry) -> Result<(), StoreError> {
    let last = newest(&mut *db).await?.map(|record| AuditHead { seq: record.seq, hash: record.hash });
    let record = last.unwrap_or_default().next(entry.clone());
    sqlx::query("INSERT INTO audit (seq, time, actor, action, detail, hash) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(signed(record.seq))
        .bind(entry.at.as_millis())
        .bind(&entry.actor)
        .bind(&entry.action)
        .bind(&entry.detail)
        .bind(&record.hash[..])
        .execute(db)
        .await?;
    Ok(())
}

fn record_of(row: &SqliteRow) -> Result<AuditRecord, StoreError> {
    let seq = row.try_get::<i64, _>("seq")?;
    let damaged = || StoreError::Damaged(format!("audit record {seq}"));
    Ok(AuditRecord {
        seq: u64::try_from(seq).map_err(|_| damaged())?,
        entry: AuditEntry {
            at: Timestamp::from_millis(row.try_get("time")?),
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            detail: row.try_get("detail")?,
        },
        hash: row.try_get::<&[u8], _>("hash")?.try_into().map_err(|_| damaged())?,
    })
}
