//! Operators: added with a one-use code, known by the key that they made with it, active until disabled.
//!
//! A name belongs to one person for good: a new code for it is a new key for that person, never another person.

use crate::audit;
use crate::writer::{Change, database_errors};
use crate::{Store, StoreError};
use muster_proto::audit::AuditEntry;
use muster_proto::fleet::OperatorInfo;
use muster_proto::name::OperatorName;
use muster_proto::time::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

/// An operator who is to log in: a new one, or one who needs another key or certificate.
#[derive(Debug, Clone)]
pub struct NewOperator {
    /// The name.
    pub name: OperatorName,
    /// SHA-256 of the code's secret.
    pub code_hash: [u8; 32],
    /// When the code stops to count.
    pub expires_at: Timestamp,
    /// Now.
    pub at: Timestamp,
    /// Who gives the code, for the audit log.
    pub actor: String,
}

/// Why an operator was not added or changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OperatorError {
    /// Names are not given twice: somebody has it, or had it and is disabled.
    #[error("the name {0} belongs to an operator, or did until that one was disabled: choose another")]
    NameTaken(OperatorName),
    /// Nobody with this name, or disabled before.
    #[error("no active operator has the name {0}: see `muster operator list`")]
    Unknown(OperatorName),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a login is refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoginError {
    /// Unknown, expired or used: one answer, so that nobody learns which.
    #[error("the login code is not valid: ask for another, made with `muster operator add`")]
    CodeInvalid,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

database_errors!(OperatorError, LoginError);

impl Store {
    /// Adds an operator, or gives one who is not disabled a new code, which replaces any that was not used. Writes the
    /// audit record itself: `operator.add`, or `operator.renew` for one who has logged in before.
    ///
    /// Until that login nothing else changes. Afterwards [`Store::operator_key`] is the new key: the controller takes no
    /// other, and whoever still has the old one is told.
    pub async fn add_operator(&self, operator: NewOperator) -> Result<(), OperatorError> {
        self.inner.writer.write(operator).await
    }

    /// Uses up a code, for the key whose SHA-256 is given, and says whose it was. The key replaces the one before it.
    /// Writes the audit record itself. Whoever did not get the answer can be given another code.
    pub async fn login(
        &self,
        code_hash: [u8; 32],
        key_fingerprint: [u8; 32],
        at: Timestamp,
    ) -> Result<OperatorName, LoginError> {
        self.inner.writer.write(Login { code_hash, key_fingerprint, at }).await
    }

    /// Adds an operator who has a key already: the first one, made by `init`. Writes the audit record itself.
    pub async fn register_operator(
        &self,
        name: OperatorName,
        key_fingerprint: [u8; 32],
        at: Timestamp,
    ) -> Result<(), OperatorError> {
        self.inner.writer.write(Register { name, key_fingerprint, at }).await
    }

    /// All operators there ever were, by name.
    pub async fn operators(&self) -> Result<Vec<OperatorInfo>, StoreError> {
        let rows = sqlx::query("SELECT name, added_at, login_at, disabled_at FROM operators ORDER BY name");
        rows.fetch_all(&self.inner.readers).await?.iter().map(operator_of).collect()
    }

    /// Disables an operator for good. The caller closes the streams.
    pub async fn disable_operator(
        &self,
        name: OperatorName,
        at: Timestamp,
        audit: AuditEntry,
    ) -> Result<(), OperatorError> {
        self.inner.writer.write(Disable { name, at, audit }).await
    }

    /// SHA-256 of the key with which the operator logged in last; `None` for one who never did, or is disabled.
    pub async fn operator_key(&self, name: &OperatorName) -> Result<Option<[u8; 32]>, StoreError> {
        let sql = "SELECT key_fingerprint FROM operators \
                   WHERE name = $1 AND login_at IS NOT NULL AND disabled_at IS NULL";
        let row = sqlx::query(sql).bind(name.as_str()).fetch_optional(&self.inner.readers).await?;
        let Some(row) = row else { return Ok(None) };
        let key: Vec<u8> = row.try_get("key_fingerprint")?;
        key.try_into().map(Some).map_err(|_| StoreError::Damaged(format!("the operator {name}")))
    }
}

impl Change for NewOperator {
    type Answer = ();
    type Error = OperatorError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), OperatorError> {
        let sql = "INSERT INTO operators (name, code_hash, code_expires_at, added_at) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (name) DO UPDATE \
                   SET code_hash = excluded.code_hash, code_expires_at = excluded.code_expires_at \
                   WHERE operators.disabled_at IS NULL RETURNING login_at";
        let row = sqlx::query(sql)
            .bind(self.name.as_str())
            .bind(&self.code_hash[..])
            .bind(self.expires_at.as_millis())
            .bind(self.at.as_millis())
            .fetch_optional(&mut *db)
            .await?
            .ok_or_else(|| OperatorError::NameTaken(self.name.clone()))?;
        let known = row.try_get::<Option<i64>, _>("login_at")?.is_some();
        let action = if known { "operator.renew" } else { "operator.add" };
        let (actor, detail) = (self.actor.clone(), self.name.to_string());
        Ok(audit::write(db, &AuditEntry { at: self.at, actor, action: action.into(), detail }).await?)
    }
}

struct Login {
    code_hash: [u8; 32],
    key_fingerprint: [u8; 32],
    at: Timestamp,
}

impl Change for Login {
    type Answer = OperatorName;
    type Error = LoginError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<OperatorName, LoginError> {
        let sql = "UPDATE operators SET code_hash = NULL, code_expires_at = NULL, key_fingerprint = $1, login_at = $2 \
                   WHERE code_hash = $3 AND code_expires_at > $2 AND disabled_at IS NULL RETURNING name";
        let query = sqlx::query(sql).bind(&self.key_fingerprint[..]).bind(self.at.as_millis());
        let row = query.bind(&self.code_hash[..]).fetch_optional(&mut *db).await?.ok_or(LoginError::CodeInvalid)?;
        let name = name_of(&row)?;
        audit::write(db, &entry(&name, "operator.login", "used a login code", self.at)).await?;
        Ok(name)
    }
}

struct Register {
    name: OperatorName,
    key_fingerprint: [u8; 32],
    at: Timestamp,
}

impl Change for Register {
    type Answer = ();
    type Error = OperatorError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), OperatorError> {
        let sql = "INSERT INTO operators (name, key_fingerprint, added_at, login_at) VALUES ($1, $2, $3, $3) \
                   ON CONFLICT (name) DO NOTHING";
        let query = sqlx::query(sql).bind(self.name.as_str()).bind(&self.key_fingerprint[..]);
        if query.bind(self.at.as_millis()).execute(&mut *db).await?.rows_affected() == 0 {
            return Err(OperatorError::NameTaken(self.name.clone()));
        }
        Ok(audit::write(db, &entry(&self.name, "operator.register", "made with the installation", self.at)).await?)
    }
}

struct Disable {
    name: OperatorName,
    at: Timestamp,
    audit: AuditEntry,
}

impl Change for Disable {
    type Answer = ();
    type Error = OperatorError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), OperatorError> {
        let sql = "UPDATE operators SET disabled_at = $1, code_hash = NULL WHERE name = $2 AND disabled_at IS NULL";
        let query = sqlx::query(sql).bind(self.at.as_millis()).bind(self.name.as_str());
        if query.execute(&mut *db).await?.rows_affected() == 0 {
            return Err(OperatorError::Unknown(self.name.clone()));
        }
        Ok(audit::write(db, &self.audit).await?)
    }
}

fn entry(actor: &OperatorName, action: &str, detail: &str, at: Timestamp) -> AuditEntry {
    AuditEntry { at, actor: actor.to_string(), action: action.into(), detail: detail.into() }
}

fn operator_of(row: &SqliteRow) -> Result<OperatorInfo, StoreError> {
    let time = |column| row.try_get::<Option<i64>, _>(column).map(|millis| millis.map(Timestamp::from_millis));
    Ok(OperatorInfo {
        name: name_of(row)?,
        added_at: Timestamp::from_millis(row.try_get("added_at")?),
        login_at: time("login_at")?,
        disabled_at: time("disabled_at")?,
    })
}

fn name_of(row: &SqliteRow) -> Result<OperatorName, StoreError> {
    let name: &str = row.try_get("name")?;
    name.parse().map_err(|_| StoreError::Damaged("an operator's name".into()))
}
