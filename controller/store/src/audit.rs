//! Who did what: an append-only log in which every record's hash covers the one before it.
//!
//! An entry is written in the transaction of the change it tells of. The chain shows a record that was altered, added
//! or removed in the middle; it cannot show that the newest records were cut off, for which the last hash must be kept
//! elsewhere.

use crate::{Store, StoreError};
use muster_proto::time::Timestamp;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection};

/// Records read at a time when the chain is verified.
const VERIFY_ROWS: u32 = 1_000;

/// What somebody did, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who: an operator's name, an agent's id, or what the controller calls itself.
    pub actor: String,
    /// What, in a word or two: "job.submit", "token.create".
    pub action: String,
    /// To what, and how: one line.
    pub detail: String,
}

/// An entry in its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// From 1, without holes.
    pub seq: u64,
    /// What was done.
    pub entry: AuditEntry,
    /// SHA-256 over the hash before it and this record.
    pub hash: [u8; 32],
}

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
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let rows = sqlx::query(sql).bind(after).bind(limit).fetch_all(&self.inner.readers).await?;
        rows.iter().map(record_of).collect()
    }

    /// Follows the chain from the first record to the last and says how many there are.
    pub async fn verify_audit(&self) -> Result<u64, AuditError> {
        let (mut seq, mut hash) = (0, [0; 32]);
        loop {
            let records = self.audit(seq, VERIFY_ROWS).await?;
            if records.is_empty() {
                return Ok(seq);
            }
            for record in records {
                seq += 1;
                hash = chained(&hash, seq, &record.entry);
                if record.seq != seq || record.hash != hash {
                    return Err(AuditError::Altered { seq });
                }
            }
        }
    }
}

/// Writes the entry at the end of the chain, within the caller's transaction.
pub(crate) async fn write(db: &mut SqliteConnection, entry: &AuditEntry) -> Result<(), StoreError> {
    let last = sqlx::query("SELECT seq, time, actor, action, detail, hash FROM audit ORDER BY seq DESC LIMIT 1");
    let (last_seq, last_hash) = match last.fetch_optional(&mut *db).await? {
        Some(row) => record_of(&row).map(|record| (record.seq, record.hash))?,
        None => (0, [0; 32]),
    };
    let seq = last_seq + 1;
    sqlx::query("INSERT INTO audit (seq, time, actor, action, detail, hash) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(i64::try_from(seq).unwrap_or(i64::MAX))
        .bind(entry.at.as_millis())
        .bind(&entry.actor)
        .bind(&entry.action)
        .bind(&entry.detail)
        .bind(&chained(&last_hash, seq, entry)[..])
        .execute(db)
        .await?;
    Ok(())
}

/// The hash before, the numbers as 8 bytes each, the texts with their lengths: no two records give the same bytes.
fn chained(previous: &[u8; 32], seq: u64, entry: &AuditEntry) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(previous);
    hash.update(seq.to_be_bytes());
    hash.update(entry.at.as_millis().to_be_bytes());
    for text in [&entry.actor, &entry.action, &entry.detail] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.finalize().into()
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
