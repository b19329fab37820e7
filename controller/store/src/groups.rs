//! Groups: names for expressions. What an expression means, and whether it means anything, is not known here.

use crate::audit;
use crate::writer::{Change, database_errors};
use crate::{Store, StoreError};
use muster_proto::audit::AuditEntry;
use muster_proto::limits;
use muster_proto::name::LabelText;
use muster_proto::selection::Group;
use muster_proto::time::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

/// Why a group is not set or removed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GroupError {
    /// There is none.
    #[error("there is no group {0}: see `muster group list`")]
    Unknown(LabelText),
    /// There are enough.
    #[error(
        "there are {} groups, and more are not possible: remove one with `muster group remove`",
        limits::GROUPS_MAX
    )]
    TooMany,
    /// All of them have to fit into one answer.
    #[error(
        "all groups together would have more than {} MiB: say this one in other words, or remove one",
        limits::GROUPS_BYTES_MAX >> 20
    )]
    TooLarge,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

database_errors!(GroupError);

impl Store {
    /// Sets a group, in the place of one of its name.
    pub async fn set_group(&self, group: Group, audit: AuditEntry) -> Result<(), GroupError> {
        self.inner.writer.write(Set { group, audit }).await
    }

    /// Removes a group.
    pub async fn remove_group(&self, name: LabelText, audit: AuditEntry) -> Result<(), GroupError> {
        self.inner.writer.write(Remove { name, audit }).await
    }

    /// One group.
    pub async fn group(&self, name: &LabelText) -> Result<Option<Group>, StoreError> {
        let query = sqlx::query("SELECT name, expression, operator, changed_at FROM groups WHERE name = $1");
        query.bind(name.as_str()).fetch_optional(&self.inner.readers).await?.as_ref().map(group_of).transpose()
    }

    /// All groups, by name.
    pub async fn groups(&self) -> Result<Vec<Group>, StoreError> {
        let rows = sqlx::query("SELECT name, expression, operator, changed_at FROM groups ORDER BY name");
        rows.fetch_all(&self.inner.readers).await?.iter().map(group_of).collect()
    }
}

struct Set {
    group: Group,
    audit: AuditEntry,
}

impl Change for Set {
    type Answer = ();
    type Error = GroupError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), GroupError> {
        let Group { name, expression, operator, changed_at } = &self.group;
        let sql = "INSERT INTO groups (name, expression, operator, changed_at) VALUES ($1, $2, $3, $4) \
                   ON CONFLICT (name) DO UPDATE SET expression = excluded.expression, operator = excluded.operator, \
                   changed_at = excluded.changed_at";
        let query = sqlx::query(sql).bind(name.as_str()).bind(expression).bind(operator.as_str());
        query.bind(changed_at.as_millis()).execute(&mut *db).await?;
        let counted =
            "SELECT COUNT(*) AS count, COALESCE(SUM(LENGTH(CAST(expression AS BLOB))), 0) AS bytes FROM groups";
        let row = sqlx::query(counted).fetch_one(&mut *db).await?;
        let [count, bytes] = [row.try_get::<i64, _>("count")?, row.try_get("bytes")?].map(i64::unsigned_abs);
        // Afterwards, since one that is replaced does not count twice.
        if count > limits::GROUPS_MAX as u64 {
            return Err(GroupError::TooMany);
        }
        if bytes > limits::GROUPS_BYTES_MAX as u64 {
            return Err(GroupError::TooLarge);
        }
        Ok(audit::write(db, &self.audit).await?)
    }
}

struct Remove {
    name: LabelText,
    audit: AuditEntry,
}

impl Change for Remove {
    type Answer = ();
    type Error = GroupError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), GroupError> {
        let gone = sqlx::query("DELETE FROM groups WHERE name = $1").bind(self.name.as_str());
        if gone.execute(&mut *db).await?.rows_affected() == 0 {
            return Err(GroupError::Unknown(self.name.clone()));
        }
        Ok(audit::write(db, &self.audit).await?)
    }
}

fn group_of(row: &SqliteRow) -> Result<Group, StoreError> {
    let name: &str = row.try_get("name")?;
    let damaged = || StoreError::Damaged(format!("the group {name}"));
    Ok(Group {
        name: name.parse().map_err(|_| damaged())?,
        expression: row.try_get("expression")?,
        operator: row.try_get::<&str, _>("operator")?.parse().map_err(|_| damaged())?,
        changed_at: Timestamp::from_millis(row.try_get("changed_at")?),
    })
}
