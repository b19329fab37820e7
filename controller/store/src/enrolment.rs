//! How a machine becomes an agent: by a join token, or by an operator's approval of its key's fingerprint.
//!
//! Using up a token or an approval and making the agent are one transaction: a token with one use makes one agent,
//! whoever else tries at the same moment, and a refused enrolment uses nothing up.

use crate::audit;
use crate::writer::{Change, database_errors};
use crate::{Store, StoreError, record};
use muster_proto::audit::AuditEntry;
use muster_proto::fleet::{Labels, PendingAgent};
use muster_proto::id::AgentId;
use muster_proto::name::{HostName, OperatorName};
use muster_proto::time::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use std::time::Duration;

/// Machines that wait for approval: anybody who reaches the enrolment listener can be one.
const PENDING_MAX: i64 = 1_000;
/// How long one waits before it has to ask again.
const PENDING_AGE_MAX: Duration = Duration::from_hours(24);

/// A join token to remember.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// SHA-256 of its secret.
    pub hash: [u8; 32],
    /// What its agents are labelled with.
    pub labels: Labels,
    /// How many agents it makes.
    pub uses: u32,
    /// When it stops to count.
    pub expires_at: Timestamp,
    /// Who made it.
    pub operator: OperatorName,
    /// The record of it.
    pub audit: AuditEntry,
}

/// A machine that is to become an agent. Its proof of possession has been checked.
#[derive(Debug, Clone)]
pub struct NewAgent {
    /// A fresh id.
    pub id: AgentId,
    /// The name it wants.
    pub name: HostName,
    /// SHA-256 of its public key.
    pub key_fingerprint: [u8; 32],
    /// Now.
    pub at: Timestamp,
    /// By what right.
    pub by: EnrolBy,
    /// Where it asks from, for the audit log.
    pub address: String,
}

/// The right to become an agent.
#[derive(Debug, Clone)]
pub enum EnrolBy {
    /// A join token.
    Token {
        /// SHA-256 of its secret.
        hash: [u8; 32],
    },
    /// An operator approved the request that has [`NewAgent::key_fingerprint`].
    Approval,
}

/// What a new agent gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Its labels.
    pub labels: Labels,
}

/// Why a machine does not become an agent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EnrolError {
    /// Unknown, expired or used up: one answer, so that nobody learns which.
    #[error("the join token is not valid: make another with `muster token create`")]
    TokenInvalid,
    /// Another agent bears it.
    #[error("an agent has this name: choose another with --name, or revoke that one with `muster agents revoke`")]
    NameTaken,
    /// No operator approved this key under this name within 24 h.
    #[error("the request is not approved: `muster agents approve` with its fingerprint")]
    NotApproved,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a request for approval is not kept.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PendingError {
    /// So many wait that one more would help nobody.
    #[error("{PENDING_MAX} machines wait for approval: approve some of them, or use a join token")]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a request is not approved.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApproveError {
    /// Nobody asked within 24 h with this key, or it was approved before.
    #[error("no machine with this fingerprint waits for approval: `muster agents approve` lists those that do")]
    Unknown,
    /// Another agent bears it.
    #[error("an agent has the name {0}: revoke that one first with `muster agents revoke`")]
    NameTaken(HostName),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

database_errors!(EnrolError, PendingError, ApproveError);

impl Store {
    /// Remembers a join token.
    pub async fn create_token(&self, token: NewToken) -> Result<(), StoreError> {
        self.inner.writer.write(token).await
    }

    /// Makes an agent, using up what gave it the right to. Writes the audit record itself.
    pub async fn enrol_agent(&self, agent: NewAgent) -> Result<Enrolled, EnrolError> {
        self.inner.writer.write(agent).await
    }

    /// Keeps a machine's request for approval. One with the same key that is kept already stays as it is.
    pub async fn add_pending(&self, agent: PendingAgent) -> Result<(), PendingError> {
        self.inner.writer.write(agent).await
    }

    /// The machines that wait for approval, oldest first.
    pub async fn pending(&self, now: Timestamp) -> Result<Vec<PendingAgent>, StoreError> {
        let sql = "SELECT fingerprint, name, address, asked_at FROM pending_agents \
                   WHERE labels IS NULL AND asked_at > $1 ORDER BY asked_at, name";
        let rows = sqlx::query(sql).bind(oldest_pending(now)).fetch_all(&self.inner.readers).await?;
        rows.iter().map(pending_of).collect()
    }

    /// Lets the machine with this key enrol under the name it asked for, and says which that is.
    pub async fn approve(
        &self,
        fingerprint: [u8; 32],
        labels: Labels,
        at: Timestamp,
        audit: AuditEntry,
    ) -> Result<HostName, ApproveError> {
        self.inner.writer.write(Approve { fingerprint, labels, at, audit }).await
    }
}

impl Change for NewToken {
    type Answer = ();
    type Error = StoreError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO tokens (hash, labels, uses_left, expires_at, operator) VALUES ($1, $2, $3, $4, $5)")
            .bind(&self.hash[..])
            .bind(record::labels_to_bytes(&self.labels))
            .bind(self.uses)
            .bind(self.expires_at.as_millis())
            .bind(self.operator.as_str())
            .execute(&mut *db)
            .await?;
        audit::write(db, &self.audit).await
    }
}

impl Change for NewAgent {
    type Answer = Enrolled;
    type Error = EnrolError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<Enrolled, EnrolError> {
        let (labels, how) = match self.by {
            EnrolBy::Token { hash } => {
                let sql = "UPDATE tokens SET uses_left = uses_left - 1 \
                           WHERE hash = $1 AND uses_left > 0 AND expires_at > $2 RETURNING labels";
                let query = sqlx::query(sql).bind(hash.to_vec()).bind(self.at.as_millis());
                (query.fetch_optional(&mut *db).await?.ok_or(EnrolError::TokenInvalid)?, "a token")
            }
            EnrolBy::Approval => {
                let sql = "DELETE FROM pending_agents WHERE fingerprint = $1 AND name = $2 AND asked_at > $3 \
                           AND labels IS NOT NULL RETURNING labels";
                let query = sqlx::query(sql).bind(&self.key_fingerprint[..]).bind(self.name.as_str());
                let query = query.bind(oldest_pending(self.at));
                (query.fetch_optional(&mut *db).await?.ok_or(EnrolError::NotApproved)?, "an approval")
            }
        };
        let labels: Vec<u8> = labels.try_get("labels")?;
        let sql = "INSERT INTO agents (id, name, key, labels, enrolled_at) VALUES ($1, $2, $3, $4, $5) \
                   ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING";
        let inserted = sqlx::query(sql)
            .bind(&self.id.as_bytes()[..])
            .bind(self.name.as_str())
            .bind(&self.key_fingerprint[..])
            .bind(&labels[..])
            .bind(self.at.as_millis())
            .execute(&mut *db)
            .await?;
        if inserted.rows_affected() == 0 {
            return Err(EnrolError::NameTaken);
        }
        let entry = AuditEntry {
            at: self.at,
            actor: self.id.to_string(),
            action: "agent.enrol".into(),
            detail: format!("{} from {} by {how}", self.name, self.address),
        };
        audit::write(db, &entry).await?;
        let damaged = || StoreError::Damaged(format!("labels for {}", self.name));
        Ok(Enrolled { labels: record::labels_of(&labels).ok_or_else(damaged)? })
    }
}

impl Change for PendingAgent {
    type Answer = ();
    type Error = PendingError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), PendingError> {
        let old = sqlx::query("DELETE FROM pending_agents WHERE asked_at <= $1").bind(oldest_pending(self.asked_at));
        old.execute(&mut *db).await?;
        let sql = "INSERT INTO pending_agents (fingerprint, name, address, asked_at) SELECT $1, $2, $3, $4 \
                   WHERE (SELECT COUNT(*) FROM pending_agents WHERE fingerprint <> $1) < $5 \
                   ON CONFLICT (fingerprint) DO UPDATE SET address = pending_agents.address";
        let inserted = sqlx::query(sql)
            .bind(&self.fingerprint[..])
            .bind(self.name.as_str())
            .bind(&self.address)
            .bind(self.asked_at.as_millis())
            .bind(PENDING_MAX)
            .execute(db)
            .await?;
        if inserted.rows_affected() == 0 { Err(PendingError::Full) } else { Ok(()) }
    }
}

struct Approve {
    fingerprint: [u8; 32],
    labels: Labels,
    at: Timestamp,
    audit: AuditEntry,
}

impl Change for Approve {
    type Answer = HostName;
    type Error = ApproveError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<HostName, ApproveError> {
        let sql = "UPDATE pending_agents SET labels = $1 WHERE fingerprint = $2 AND asked_at > $3 AND labels IS NULL \
                   RETURNING name";
        let query = sqlx::query(sql).bind(record::labels_to_bytes(&self.labels)).bind(&self.fingerprint[..]);
        let row = query.bind(oldest_pending(self.at)).fetch_optional(&mut *db).await?.ok_or(ApproveError::Unknown)?;
        let name: HostName = row.try_get::<String, _>("name")?.parse().map_err(|_| pending_damaged())?;
        let taken = sqlx::query("SELECT 1 FROM agents WHERE name = $1 AND revoked_at IS NULL").bind(name.as_str());
        if taken.fetch_optional(&mut *db).await?.is_some() {
            return Err(ApproveError::NameTaken(name));
        }
        audit::write(db, &self.audit).await?;
        Ok(name)
    }
}

/// Requests up to this moment are too old.
fn oldest_pending(now: Timestamp) -> i64 {
    let age = i64::try_from(PENDING_AGE_MAX.as_millis()).unwrap_or(i64::MAX);
    now.as_millis().saturating_sub(age)
}

fn pending_of(row: &SqliteRow) -> Result<PendingAgent, StoreError> {
    Ok(PendingAgent {
        fingerprint: row.try_get::<&[u8], _>("fingerprint")?.try_into().map_err(|_| pending_damaged())?,
        name: row.try_get::<&str, _>("name")?.parse().map_err(|_| pending_damaged())?,
        address: row.try_get("address")?,
        asked_at: Timestamp::from_millis(row.try_get("asked_at")?),
    })
}

fn pending_damaged() -> StoreError {
    StoreError::Damaged("a request for approval".into())
}
