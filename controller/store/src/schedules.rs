//! Pings that the controller repeats: what they ask, and what they found.
//!
//! What was found is kept as intervals, one packed record for all pairs of a schedule and 10 minutes, and as changes, a
//! row each. What a removed schedule leaves is swept a few rows at a time, as is what is too old, so that nobody who
//! writes waits long.

use crate::audit;
use crate::events::blocking;
use crate::jobs::signed;
use crate::record;
use crate::writer::{Change as Write, database_errors};
use crate::{Store, StoreError};
use muster_proto::audit::AuditEntry;
use muster_proto::limits;
use muster_proto::name::OperatorName;
use muster_proto::ping::{Change, Interval, Schedule, TargetName};
use muster_proto::time::Timestamp;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Row as _};
use std::time::Duration;

/// Intervals and changes that go in one transaction.
const STEP_INTERVALS: i64 = 32;
const STEP_CHANGES: i64 = 4_096;
/// Intervals read at a time: of the largest schedule a few MiB.
const READ_INTERVALS: i64 = 24;
/// Changes written by one statement.
const INSERT_CHANGES: usize = 100;

/// A schedule to keep.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    /// What is asked; what rounds found of it is not part of this.
    pub schedule: Schedule,
    /// Whether one of the same name gives way. What it found stays, under the same name.
    pub replace: Replace,
    /// Who makes it, for the audit log.
    pub actor: String,
    /// What is said of it there.
    pub detail: String,
}

/// Whether a schedule of the same name gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// It does.
    Yes,
    /// It does not: the new one is refused.
    No,
}

/// What a round made known.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// Intervals as they are by now; each replaces what was stored of it.
    pub intervals: Vec<Interval>,
    /// Who went up or down.
    pub changes: Vec<Change>,
}

/// Why a schedule is not made or removed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScheduleError {
    /// The name is taken.
    #[error("there is a schedule {0} already: choose another name, or say --replace")]
    Exists(OperatorName),
    /// There is none.
    #[error("there is no schedule {0}: see `muster ping schedules`")]
    Unknown(OperatorName),
    /// There are enough.
    #[error(
        "there are {} schedules, and more are not possible: remove one with `muster ping unschedule`",
        limits::SCHEDULES_MAX
    )]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

database_errors!(ScheduleError);

impl Store {
    /// Keeps a schedule. Writes the audit record itself: `schedule.make` or `schedule.replace`.
    pub async fn put_schedule(&self, new: NewSchedule) -> Result<(), ScheduleError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| StoreError::from(std::io::Error::other(error)))?;
        self.inner.writer.write(Put { new, id }).await
    }

    /// Removes a schedule. What it found is nobody's from now on, and goes with the next prune.
    pub async fn remove_schedule(&self, name: OperatorName, audit: AuditEntry) -> Result<(), ScheduleError> {
        self.inner.writer.write(Remove { name, audit }).await
    }

    /// All schedules, by name, without what their rounds found.
    pub async fn schedules(&self) -> Result<Vec<Schedule>, StoreError> {
        let rows = sqlx::query("SELECT name, operator, every_ms, created_at, body FROM schedules ORDER BY name");
        rows.fetch_all(&self.inner.readers).await?.iter().map(schedule_of).collect()
    }

    /// Makes durable what a round found. Without effect on a schedule that was removed.
    pub async fn record_round(&self, schedule: OperatorName, round: Round) -> Result<(), StoreError> {
        let Round { intervals, changes } = round;
        let packed = blocking(move || {
            let pack = |interval: &Interval| Ok((interval.start, record::interval_to_bytes(interval)?));
            intervals.iter().map(pack).collect()
        });
        self.inner.writer.write(Recorded { schedule, intervals: packed.await?, changes }).await
    }

    /// The newest interval of a schedule.
    pub async fn newest_interval(&self, schedule: &OperatorName) -> Result<Option<Interval>, StoreError> {
        let sql = "SELECT start, body FROM ping_intervals \
                   WHERE schedule = (SELECT id FROM schedules WHERE name = $1) ORDER BY start DESC LIMIT 1";
        let row = sqlx::query(sql).bind(schedule.as_str()).fetch_optional(&self.inner.readers).await?;
        row.map(|row| interval_of(&row, schedule)).transpose()
    }

    /// Some of a schedule's intervals that begin after `after`, the oldest first; none if there are no more.
    pub async fn intervals(&self, schedule: &OperatorName, after: Timestamp) -> Result<Vec<Interval>, StoreError> {
        let sql = "SELECT start, body FROM ping_intervals \
                   WHERE schedule = (SELECT id FROM schedules WHERE name = $1) AND start > $2 ORDER BY start LIMIT $3";
        let query = sqlx::query(sql).bind(schedule.as_str()).bind(after.as_millis()).bind(READ_INTERVALS);
        let (rows, schedule) = (query.fetch_all(&self.inner.readers).await?, schedule.clone());
        let read = blocking(move || Ok(rows.iter().map(|row| interval_of(row, &schedule)).collect()));
        read.await?
    }

    /// Changes of one schedule or of all since a moment, the oldest first; of more than 10,000 the newest.
    pub async fn ping_changes(
        &self,
        schedule: Option<&OperatorName>,
        since: Timestamp,
    ) -> Result<Vec<Change>, StoreError> {
        let sql = "SELECT s.name AS name, c.at AS at, c.vantage AS vantage, c.host AS host, c.up AS up, c.reason AS reason \
                   FROM schedules s JOIN ping_changes c ON c.schedule = s.id \
                   WHERE (s.name = $1 OR $1 = '') AND c.at >= $2 \
                   ORDER BY c.at DESC, s.name DESC, c.vantage DESC, c.host DESC LIMIT $3";
        let query = sqlx::query(sql).bind(schedule.map_or("", OperatorName::as_str)).bind(since.as_millis());
        let rows = query.bind(limits::PING_CHANGES_TOLD_MAX).fetch_all(&self.inner.readers).await?;
        rows.iter().rev().map(change_of).collect()
    }

    /// Removes what was found before this moment, and what schedules left that were removed.
    pub(crate) async fn sweep_pings(&self, before: Option<i64>) -> Result<(), StoreError> {
        while self.inner.writer.write(SweepPings { before: before.unwrap_or(i64::MIN) }).await? {
            // Whoever waits to write is next.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Reads all that schedules have, for what is damaged, a line each.
    pub(crate) async fn look_at_schedules(&self) -> Result<Vec<String>, StoreError> {
        let mut findings = Vec::new();
        let names = sqlx::query("SELECT name FROM schedules ORDER BY name").fetch_all(&self.inner.readers).await?;
        findings.extend(self.schedules().await.err().map(|error| error.to_string()));
        for row in names {
            let Ok(name) = row.try_get::<&str, _>("name")?.parse::<OperatorName>() else { continue };
            let starts = "SELECT start FROM ping_intervals \
                          WHERE schedule = (SELECT id FROM schedules WHERE name = $1) ORDER BY start";
            for row in sqlx::query(starts).bind(name.as_str()).fetch_all(&self.inner.readers).await? {
                let start: i64 = row.try_get("start")?;
                let body = "SELECT start, body FROM ping_intervals \
                            WHERE schedule = (SELECT id FROM schedules WHERE name = $1) AND start = $2";
                let row = sqlx::query(body).bind(name.as_str()).bind(start).fetch_one(&self.inner.readers).await?;
                findings.extend(interval_of(&row, &name).err().map(|error| error.to_string()));
            }
        }
        let changes = "SELECT s.name AS name, c.at AS at, c.vantage AS vantage, c.host AS host, c.up AS up, c.reason AS reason \
                       FROM schedules s JOIN ping_changes c ON c.schedule = s.id";
        for row in sqlx::query(changes).fetch_all(&self.inner.readers).await? {
            findings.extend(change_of(&row).err().map(|error| error.to_string()));
        }
        Ok(findings)
    }
}

struct Put {
    new: NewSchedule,
    id: [u8; 16],
}

impl Write for Put {
    type Answer = ();
    type Error = ScheduleError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), ScheduleError> {
        let NewSchedule { schedule, replace, actor, detail } = &self.new;
        let known = "SELECT (SELECT COUNT(*) FROM schedules) AS count, \
                     (SELECT COUNT(*) FROM schedules WHERE name = $1) AS same";
        let row = sqlx::query(known).bind(schedule.name.as_str()).fetch_one(&mut *db).await?;
        let exists = row.try_get::<i64, _>("same")? > 0;
        if exists && *replace == Replace::No {
            return Err(ScheduleError::Exists(schedule.name.clone()));
        }
        if !exists && row.try_get::<i64, _>("count")?.unsigned_abs() >= limits::SCHEDULES_MAX as u64 {
            return Err(ScheduleError::TooMany);
        }
        let sql = "INSERT INTO schedules (name, id, operator, every_ms, created_at, body) VALUES ($1, $2, $3, $4, $5, $6) \
                   ON CONFLICT (name) DO UPDATE SET operator = excluded.operator, every_ms = excluded.every_ms, \
                   created_at = excluded.created_at, body = excluded.body";
        sqlx::query(sql)
            .bind(schedule.name.as_str())
            .bind(&self.id[..])
            .bind(schedule.operator.as_str())
            .bind(signed(u64::try_from(schedule.every.as_millis()).unwrap_or(u64::MAX)))
            .bind(schedule.created_at.as_millis())
            .bind(record::schedule_to_bytes(&schedule.selection, &schedule.spec))
            .execute(&mut *db)
            .await?;
        let action = if exists { "schedule.replace" } else { "schedule.make" };
        let (actor, detail) = (actor.clone(), detail.clone());
        Ok(audit::write(db, &AuditEntry { at: schedule.created_at, actor, action: action.into(), detail }).await?)
    }
}

struct Remove {
    name: OperatorName,
    audit: AuditEntry,
}

impl Write for Remove {
    type Answer = ();
    type Error = ScheduleError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), ScheduleError> {
        let gone = sqlx::query("DELETE FROM schedules WHERE name = $1").bind(self.name.as_str());
        if gone.execute(&mut *db).await?.rows_affected() == 0 {
            return Err(ScheduleError::Unknown(self.name.clone()));
        }
        Ok(audit::write(db, &self.audit).await?)
    }
}

struct Recorded {
    schedule: OperatorName,
    intervals: Vec<(Timestamp, Vec<u8>)>,
    changes: Vec<Change>,
}

impl Write for Recorded {
    type Answer = ();
    type Error = StoreError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        let row = sqlx::query("SELECT id FROM schedules WHERE name = $1").bind(self.schedule.as_str());
        let Some(row) = row.fetch_optional(&mut *db).await? else { return Ok(()) };
        let id: Vec<u8> = row.try_get("id")?;
        for (start, body) in &self.intervals {
            let sql = "INSERT INTO ping_intervals (schedule, start, body) VALUES ($1, $2, $3) \
                       ON CONFLICT (schedule, start) DO UPDATE SET body = excluded.body";
            sqlx::query(sql).bind(&id[..]).bind(start.as_millis()).bind(&body[..]).execute(&mut *db).await?;
        }
        for some in self.changes.chunks(INSERT_CHANGES) {
            let mut sql = QueryBuilder::new("INSERT INTO ping_changes (schedule, at, vantage, host, up, reason) ");
            sql.push_values(some, |mut row, change| {
                row.push_bind(&id[..])
                    .push_bind(change.at.as_millis())
                    .push_bind(change.from.as_ref().map_or("", |from| from.as_str()))
                    .push_bind(change.host.as_str())
                    .push_bind(i64::from(change.up))
                    .push_bind(change.reason.as_deref());
            });
            // A clock that was set back may bring the same moment twice.
            sql.push(
                " ON CONFLICT (schedule, at, vantage, host) DO UPDATE SET up = excluded.up, reason = excluded.reason",
            );
            sql.build().execute(&mut *db).await?;
        }
        Ok(())
    }
}

/// Some rows go that were found too early, or whose schedule is gone. Whether there may be more.
struct SweepPings {
    before: i64,
}

impl Write for SweepPings {
    type Answer = bool;
    type Error = StoreError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<bool, StoreError> {
        let intervals = "DELETE FROM ping_intervals WHERE (schedule, start) IN (SELECT schedule, start FROM ping_intervals \
                         WHERE start < $1 OR schedule NOT IN (SELECT id FROM schedules) LIMIT $2)";
        // An interval is over when its last moment is too early.
        let start = self.before.saturating_sub(signed(u64::try_from(Interval::SPAN.as_millis()).unwrap_or(u64::MAX)));
        let gone = sqlx::query(intervals).bind(start).bind(STEP_INTERVALS).execute(&mut *db).await?.rows_affected();
        let changes = "DELETE FROM ping_changes WHERE (schedule, at, vantage, host) IN \
                       (SELECT schedule, at, vantage, host FROM ping_changes \
                       WHERE at < $1 OR schedule NOT IN (SELECT id FROM schedules) LIMIT $2)";
        let also = sqlx::query(changes).bind(self.before).bind(STEP_CHANGES).execute(db).await?.rows_affected();
        Ok(gone + also > 0)
    }
}

fn schedule_of(row: &SqliteRow) -> Result<Schedule, StoreError> {
    let name: &str = row.try_get("name")?;
    let damaged = || StoreError::Damaged(format!("the schedule {name}"));
    let (selection, spec) = record::schedule_of(row.try_get("body")?).ok_or_else(damaged)?;
    Ok(Schedule {
        name: name.parse().map_err(|_| damaged())?,
        selection,
        spec,
        every: Duration::from_millis(row.try_get::<i64, _>("every_ms")?.unsigned_abs()),
        operator: row.try_get::<&str, _>("operator")?.parse().map_err(|_| damaged())?,
        created_at: Timestamp::from_millis(row.try_get("created_at")?),
        ran_at: None,
        targets: 0,
        problem: None,
    })
}

fn interval_of(row: &SqliteRow, schedule: &OperatorName) -> Result<Interval, StoreError> {
    let start = Timestamp::from_millis(row.try_get("start")?);
    let damaged = || StoreError::Damaged(format!("the schedule {schedule} at {}", start.as_millis()));
    record::interval_of(start, row.try_get("body")?).ok_or_else(damaged)
}

fn target_of(row: &SqliteRow) -> Result<TargetName, StoreError> {
    let damaged = || StoreError::Damaged("a change of a schedule's host".into());
    let vantage: &str = row.try_get("vantage")?;
    let from = if vantage.is_empty() { None } else { Some(vantage.parse().map_err(|_| damaged())?) };
    Ok(TargetName { from, host: row.try_get::<&str, _>("host")?.parse().map_err(|_| damaged())? })
}

fn change_of(row: &SqliteRow) -> Result<Change, StoreError> {
    let name: &str = row.try_get("name")?;
    let TargetName { from, host } = target_of(row)?;
    Ok(Change {
        schedule: name.parse().map_err(|_| StoreError::Damaged(format!("the schedule {name}")))?,
        from,
        host,
        at: Timestamp::from_millis(row.try_get("at")?),
        up: row.try_get::<i64, _>("up")? == 1,
        reason: row.try_get("reason")?,
    })
}
