//! Enrolled agents: what operators and they themselves say of them.
//!
//! An id is never used again. A name is borne by one agent at a time: revoking frees it.

use crate::audit;
use crate::writer::{Change, database_errors};
use crate::{Store, StoreError, record};
use bytes::Bytes;
use muster_proto::audit::AuditEntry;
use muster_proto::fleet::{Facts, Labels, Party, Quarantine};
use muster_proto::id::AgentId;
use muster_proto::name::HostName;
use muster_proto::time::Timestamp;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Row as _, Sqlite, query::Query};
use std::sync::Arc;

/// An agent as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRecord {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: HostName,
    /// What operators say of it.
    pub labels: Labels,
    /// What it says of itself, once it has.
    pub facts: Option<Arc<Facts>>,
    /// The digest that it gave with its facts.
    pub facts_digest: Option<Bytes>,
    /// When it got its name.
    pub enrolled_at: Timestamp,
    /// When it lost it.
    pub revoked_at: Option<Timestamp>,
    /// When it last got a certificate for a new key; `None` since enrolment.
    pub renewed_at: Option<Timestamp>,
    /// When it last opened a session.
    pub last_seen: Option<Timestamp>,
    /// The machine that did.
    pub party: Option<Party>,
    /// Two machines use its identity.
    pub quarantine: Option<Quarantine>,
    /// Number of its newest session, 0 before the first. While it is quarantined: [`crate::Opened::Fork`]'s `found`.
    pub last_epoch: u64,
}

impl AgentRecord {
    /// An agent that was enrolled just now.
    pub fn enrolled(id: AgentId, name: HostName, labels: Labels, at: Timestamp) -> Self {
        Self {
            id,
            name,
            labels,
            facts: None,
            facts_digest: None,
            enrolled_at: at,
            revoked_at: None,
            renewed_at: None,
            last_seen: None,
            party: None,
            quarantine: None,
            last_epoch: 0,
        }
    }
}

/// Why nothing was changed for an agent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AgentError {
    /// Never enrolled, or revoked.
    #[error("no agent has the id {0}, or it is revoked: see `muster agents`")]
    Unknown(AgentId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

database_errors!(AgentError);

impl Store {
    /// All agents there ever were, revoked ones too, by name.
    pub async fn agents(&self) -> Result<Vec<AgentRecord>, StoreError> {
        let sql = "SELECT id, name, labels, facts, facts_digest, enrolled_at, revoked_at, renewed_at, party, quarantine, \
                   last_epoch FROM agents ORDER BY name, enrolled_at";
        let rows = sqlx::query(sql).fetch_all(&self.inner.readers).await?;
        rows.iter().map(agent_of).collect()
    }

    /// Replaces the labels of these agents: all of them, or none if one is unknown.
    pub async fn set_labels(&self, labels: Vec<(AgentId, Labels)>, audit: AuditEntry) -> Result<(), AgentError> {
        self.inner.writer.write(SetLabels { labels, audit }).await
    }

    /// Ends an agent's identity for good. The caller closes its session.
    pub async fn revoke_agent(&self, id: AgentId, at: Timestamp, audit: AuditEntry) -> Result<(), AgentError> {
        self.inner.writer.write(Revoke { id, at, audit }).await
    }

    /// Keeps what an agent says of itself, with the digest that it gave.
    pub async fn set_facts(&self, id: AgentId, digest: Bytes, facts: Facts) -> Result<(), AgentError> {
        self.inner.writer.write(SetFacts { id, digest, facts }).await
    }
}

struct SetLabels {
    labels: Vec<(AgentId, Labels)>,
    audit: AuditEntry,
}

impl Change for SetLabels {
    type Answer = ();
    type Error = AgentError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), AgentError> {
        for (id, labels) in &self.labels {
            let sql = "UPDATE agents SET labels = $1 WHERE id = $2 AND revoked_at IS NULL";
            let query = sqlx::query(sql).bind(record::labels_to_bytes(labels)).bind(&id.as_bytes()[..]);
            update_one(db, query, *id).await?;
        }
        Ok(audit::write(db, &self.audit).await?)
    }
}

struct Revoke {
    id: AgentId,
    at: Timestamp,
    audit: AuditEntry,
}

impl Change for Revoke {
    type Answer = ();
    type Error = AgentError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), AgentError> {
        let sql = "UPDATE agents SET revoked_at = $1, quarantine = NULL WHERE id = $2 AND revoked_at IS NULL";
        let query = sqlx::query(sql).bind(self.at.as_millis()).bind(&self.id.as_bytes()[..]);
        update_one(db, query, self.id).await?;
        Ok(audit::write(db, &self.audit).await?)
    }
}

struct SetFacts {
    id: AgentId,
    digest: Bytes,
    facts: Facts,
}

impl Change for SetFacts {
    type Answer = ();
    type Error = AgentError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), AgentError> {
        let sql = "UPDATE agents SET facts = $1, facts_digest = $2 WHERE id = $3 AND revoked_at IS NULL";
        let facts = record::facts_to_bytes(&self.facts);
        update_one(db, sqlx::query(sql).bind(facts).bind(&self.digest[..]).bind(&self.id.as_bytes()[..]), self.id).await
    }
}

/// Changes one agent's row.
pub(crate) async fn update_one(
    db: &mut SqliteConnection,
    query: Query<'_, Sqlite, sqlx::sqlite::SqliteArguments>,
    id: AgentId,
) -> Result<(), AgentError> {
    match query.execute(db).await?.rows_affected() {
        0 => Err(AgentError::Unknown(id)),
        _ => Ok(()),
    }
}

fn agent_of(row: &SqliteRow) -> Result<AgentRecord, StoreError> {
    let name: &str = row.try_get("name")?;
    let damaged = || StoreError::Damaged(format!("agent {name}"));
    let time = |column| row.try_get::<Option<i64>, _>(column).map(|millis| millis.map(Timestamp::from_millis));
    let facts = optional(row, "facts", record::facts_of, damaged)?.map(Arc::new);
    let party = optional(row, "party", record::party_of, damaged)?;
    let quarantine = optional(row, "quarantine", record::quarantine_of, damaged)?;
    Ok(AgentRecord {
        id: row.try_get::<&[u8], _>("id")?.try_into().map_err(|_| damaged())?,
        name: name.parse().map_err(|_| damaged())?,
        labels: record::labels_of(row.try_get("labels")?).ok_or_else(damaged)?,
        facts,
        facts_digest: row.try_get::<Option<Vec<u8>>, _>("facts_digest")?.map(Bytes::from),
        enrolled_at: Timestamp::from_millis(row.try_get("enrolled_at")?),
        revoked_at: time("revoked_at")?,
        renewed_at: time("renewed_at")?,
        last_seen: party.as_ref().map(|party| party.seen_at),
        party,
        quarantine: quarantine.map(|parted| parted.quarantine),
        last_epoch: row.try_get::<i64, _>("last_epoch")?.try_into().map_err(|_| damaged())?,
    })
}

/// A record that may be there, in its column.
pub(crate) fn optional<T>(
    row: &SqliteRow,
    column: &str,
    read: fn(&[u8]) -> Option<T>,
    damaged: impl Fn() -> StoreError,
) -> Result<Option<T>, StoreError> {
    let bytes = row.try_get::<Option<&[u8]>, _>(column)?;
    bytes.map(|bytes| read(bytes).ok_or_else(damaged)).transpose()
}
