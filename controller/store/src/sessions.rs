//! Sessions of agents: who may open one, which of two copies it is, and with which key.
//!
//! What is decided about an agent is decided in one transaction on its row; how, says [`crate::nonce`].

use crate::agents::{AgentError, optional};
use crate::audit;
use crate::jobs::signed;
use crate::nonce::{Chain, Claim, Keep, Verdict, nonce};
use crate::record::Parted;
use crate::writer::{Change, database_errors};
use crate::{Store, StoreError, record};
use muster_proto::audit::AuditEntry;
use muster_proto::fleet::{Party, Quarantine};
use muster_proto::id::AgentId;
use muster_proto::link::Nonce;
use muster_proto::time::Timestamp;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

/// Somebody with an agent's certificate who wants to open a session.
#[derive(Debug, Clone)]
pub struct OpenSession {
    /// The agent that the certificate names.
    pub agent: AgentId,
    /// Fingerprint of the certificate's key.
    pub key: [u8; 32],
    /// The nonce that it shows.
    pub presented: Option<Nonce>,
    /// The machine that asks, seen now.
    pub party: Party,
}

/// What comes of it. Everything but a session stays as it is until an operator acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It is the agent.
    Session {
        /// For the agent to store. Its epoch is that of the session: higher than any before it, for ever.
        nonce: Nonce,
        /// The agent knows of sessions that the store does not.
        rolled_back: Option<RolledBack>,
    },
    /// Two machines use the identity; neither is the agent until [`Store::resolve`].
    Fork {
        /// Who they are.
        quarantine: Quarantine,
        /// Which of the agent's quarantines it is: the same number for one as long as it lasts, a higher one for a later
        /// one, whatever clocks say.
        found: u64,
    },
    /// The one of two that an operator decided against: it has to enrol anew.
    Outcast,
    /// Its key was replaced by a renewal, and nothing that it shows says that there are two.
    Superseded,
}

/// The store was set back to a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolledBack {
    /// Number of the session that the agent's nonce comes from.
    pub presented: u64,
    /// Number of the newest session that the store knew of.
    pub known: u64,
}

/// What a confirmation of a nonce was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmed {
    /// It is the newest: the session may be given work.
    Held,
    /// Another session was opened since, or there are two agents: this one is over.
    Stale,
}

/// Why an operator's decision between two machines has no effect.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ResolveError {
    /// Never enrolled, or revoked.
    #[error("no agent has the id {0}, or it is revoked: see `muster agents`")]
    Unknown(AgentId),
    /// One machine uses it.
    #[error("agent {0} is not quarantined: there is nothing to decide")]
    NotQuarantined(AgentId),
    /// The machine showed a nonce that nobody can have got here.
    #[error("that machine never had a session as this agent: keep the other one, and enrol this one anew")]
    Foreign,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

database_errors!(ResolveError);

impl Store {
    /// Decides who it is that asks. A fork is on record, and in the audit log, when this returns.
    pub async fn open_session(&self, open: OpenSession) -> Result<Opened, AgentError> {
        let claim = Claim::of(&self.inner.secret, open.agent, open.presented);
        self.inner.writer.write(Opening { open, claim, secret: self.inner.secret }).await
    }

    /// The agent has stored the nonce of this session. Give it no work before that: of two copies at most one ever gets
    /// [`Confirmed::Held`] for a session that was opened after they parted.
    pub async fn confirm_nonce(&self, agent: AgentId, epoch: u64) -> Result<Confirmed, AgentError> {
        self.inner.writer.write(Confirm { agent, epoch }).await
    }

    /// Says which of the two machines of a quarantine is the agent, and answers it. The other one is
    /// [`Opened::Outcast`] from now on.
    pub async fn resolve(&self, agent: AgentId, keep: Keep, audit: AuditEntry) -> Result<Party, ResolveError> {
        self.inner.writer.write(Resolve { agent, keep, audit }).await
    }

    /// Lets the agent come with this key as well, which replaces the one that counts when it is first used. Only the
    /// session whose nonce is held may ask: a copy that has not proved itself changes no key. There is no audit record:
    /// every agent does this twice a day.
    pub async fn set_next_key(
        &self,
        agent: AgentId,
        epoch: u64,
        key: [u8; 32],
        at: Timestamp,
    ) -> Result<Confirmed, AgentError> {
        self.inner.writer.write(NextKey { agent, epoch, key, at }).await
    }
}

struct Opening {
    open: OpenSession,
    claim: Claim,
    secret: [u8; 32],
}

impl Change for Opening {
    type Answer = Opened;
    type Error = AgentError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<Opened, AgentError> {
        let OpenSession { agent, key, party, .. } = &self.open;
        let mut state = Standing::read(db, *agent).await?.ok_or(AgentError::Unknown(*agent))?;
        let before = state.chain;
        let verdict = state.chain.open(self.claim);
        let is_known = state.knows(key);
        let rolled_back = match verdict {
            Verdict::Outcast => return Ok(Opened::Outcast),
            // Whatever its key: a copy that renewed before the agent came again must not pass for the agent. The key is
            // one that was the agent's once, or there would be no certificate for it.
            Verdict::Fork if is_known || !matches!(self.claim, Claim::Foreign(_)) => {
                let found = state.chain.last;
                let quarantine = self.quarantine(db, state, before.fork.is_none()).await?;
                return Ok(Opened::Fork { quarantine, found });
            }
            // After a restore the store does not know of renewals since the backup, but such a nonce proves one.
            Verdict::RolledBack { known } => Some(self.rolled_back(db, known).await?),
            Verdict::Agent if is_known => None,
            Verdict::Agent | Verdict::Fork => return Ok(Opened::Superseded),
        };
        if state.key != key[..] {
            (state.key, state.next_key) = (key.to_vec(), None);
        }
        state.party = Some(party.clone());
        state.write(db, *agent).await?;
        Ok(Opened::Session { nonce: nonce(&self.secret, *agent, state.chain.last), rolled_back })
    }
}

impl Opening {
    /// Keeps who the two are. Of the one that is here now the newest is kept, whichever it is.
    async fn quarantine(
        &self,
        db: &mut SqliteConnection,
        mut state: Standing,
        is_new: bool,
    ) -> Result<Quarantine, AgentError> {
        let (agent, party, key) = (self.open.agent, &self.open.party, self.open.key);
        let parted = match state.parted.take() {
            Some(mut known) => {
                match state.chain.party(self.claim) {
                    Some(Keep::First) if state.knows(&key) => known.quarantine.parties[0] = party.clone(),
                    Some(Keep::Second) => (known.quarantine.parties[1], known.key) = (party.clone(), key),
                    _ => {}
                }
                known
            }
            None => {
                // Whoever was given a nonce before this left its name.
                let first = state.party.clone().ok_or_else(|| damaged(agent))?;
                let quarantine = Quarantine { since: party.seen_at, parties: [first, party.clone()] };
                Parted { quarantine, shown: self.claim, key }
            }
        };
        let quarantine = parted.quarantine.clone();
        if is_new {
            let detail = format!(
                "{} and {}: two machines use one identity",
                described(&quarantine.parties[0]),
                described(&quarantine.parties[1])
            );
            audit::write(db, &self.entry("agent.quarantined", detail)).await?;
        }
        state.parted = Some(parted);
        state.write(db, agent).await?;
        Ok(quarantine)
    }

    async fn rolled_back(&self, db: &mut SqliteConnection, known: u64) -> Result<RolledBack, AgentError> {
        let presented = self.open.presented.map_or(0, |nonce| nonce.epoch);
        let detail =
            format!("the agent had {presented} sessions, the store knew of {known}: it was set back to a backup");
        audit::write(db, &self.entry("store.rolled-back", detail)).await?;
        Ok(RolledBack { presented, known })
    }

    fn entry(&self, action: &str, detail: String) -> AuditEntry {
        AuditEntry { at: self.open.party.seen_at, actor: self.open.agent.to_string(), action: action.into(), detail }
    }
}

/// One line: the door lets nothing else in.
fn described(party: &Party) -> String {
    format!("{} (machine {}, boot {})", party.address, party.machine, party.boot)
}

struct Confirm {
    agent: AgentId,
    epoch: u64,
}

impl Change for Confirm {
    type Answer = Confirmed;
    type Error = AgentError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<Confirmed, AgentError> {
        let mut state = Standing::read(db, self.agent).await?.ok_or(AgentError::Unknown(self.agent))?;
        if !state.chain.confirm(self.epoch) {
            return Ok(Confirmed::Stale);
        }
        state.write(db, self.agent).await?;
        Ok(Confirmed::Held)
    }
}

struct Resolve {
    agent: AgentId,
    keep: Keep,
    audit: AuditEntry,
}

impl Change for Resolve {
    type Answer = Party;
    type Error = ResolveError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<Party, ResolveError> {
        let mut state = Standing::read(db, self.agent).await?.ok_or(ResolveError::Unknown(self.agent))?;
        let Parted { quarantine, key, .. } = state.parted.take().ok_or(ResolveError::NotQuarantined(self.agent))?;
        if !state.chain.resolve(self.keep) {
            return Err(ResolveError::Foreign);
        }
        let [first, second] = quarantine.parties;
        let kept = match self.keep {
            // It may have a renewed certificate that it did not come with yet: that stays good.
            Keep::First => {
                state.next_key.take_if(|next| *next == key[..]);
                first
            }
            // A renewal that is under way is the other one's.
            Keep::Second => {
                (state.key, state.next_key) = (key.to_vec(), None);
                second
            }
        };
        state.party = Some(kept.clone());
        state.write(db, self.agent).await?;
        audit::write(db, &self.audit).await?;
        Ok(kept)
    }
}

struct NextKey {
    agent: AgentId,
    epoch: u64,
    key: [u8; 32],
    at: Timestamp,
}

impl Change for NextKey {
    type Answer = Confirmed;
    type Error = AgentError;

    async fn apply(&self, db: &mut SqliteConnection) -> Result<Confirmed, AgentError> {
        let state = Standing::read(db, self.agent).await?.ok_or(AgentError::Unknown(self.agent))?;
        if !state.chain.holds(self.epoch) {
            return Ok(Confirmed::Stale);
        }
        let sql = "UPDATE agents SET next_key = $1, renewed_at = $2 WHERE id = $3";
        let query = sqlx::query(sql).bind(&self.key[..]).bind(self.at.as_millis()).bind(&self.agent.as_bytes()[..]);
        query.execute(db).await?;
        Ok(Confirmed::Held)
    }
}

/// Where an agent stands: the part of its row that sessions change.
struct Standing {
    key: Vec<u8>,
    next_key: Option<Vec<u8>>,
    chain: Chain,
    party: Option<Party>,
    parted: Option<Parted>,
}

impl Standing {
    /// Whether it may come with this key.
    fn knows(&self, key: &[u8; 32]) -> bool {
        self.key == key[..] || self.next_key.as_deref() == Some(&key[..])
    }

    /// `None` for one that is unknown or revoked.
    async fn read(db: &mut SqliteConnection, agent: AgentId) -> Result<Option<Self>, StoreError> {
        let sql = "SELECT key, next_key, last_epoch, held, issued, outcast, party, quarantine FROM agents \
                   WHERE id = $1 AND revoked_at IS NULL";
        let Some(row) = sqlx::query(sql).bind(&agent.as_bytes()[..]).fetch_optional(db).await? else {
            return Ok(None);
        };
        let parted = optional(&row, "quarantine", record::quarantine_of, || damaged(agent))?;
        let number = |column| number(&row, column, agent);
        let chain = Chain {
            last: number("last_epoch")?.unwrap_or(0),
            held: number("held")?,
            issued: number("issued")?,
            outcast: number("outcast")?,
            fork: parted.as_ref().map(|parted| parted.shown),
        };
        Ok(Some(Self {
            key: row.try_get("key")?,
            next_key: row.try_get("next_key")?,
            chain,
            party: optional(&row, "party", record::party_of, || damaged(agent))?,
            parted,
        }))
    }

    async fn write(&self, db: &mut SqliteConnection, agent: AgentId) -> Result<(), StoreError> {
        let sql = "UPDATE agents SET key = $1, next_key = $2, last_epoch = $3, held = $4, issued = $5, outcast = $6, \
                   party = $7, quarantine = $8 WHERE id = $9";
        sqlx::query(sql)
            .bind(&self.key[..])
            .bind(self.next_key.as_deref())
            .bind(signed(self.chain.last))
            .bind(self.chain.held.map(signed))
            .bind(self.chain.issued.map(signed))
            .bind(self.chain.outcast.map(signed))
            .bind(self.party.as_ref().map(record::party_to_bytes))
            .bind(self.parted.as_ref().map(record::quarantine_to_bytes))
            .bind(&agent.as_bytes()[..])
            .execute(db)
            .await?;
        Ok(())
    }
}

fn number(row: &SqliteRow, column: &str, agent: AgentId) -> Result<Option<u64>, StoreError> {
    let number = row.try_get::<Option<i64>, _>(column)?;
    number.map(|number| u64::try_from(number).map_err(|_| damaged(agent))).transpose()
}

fn damaged(agent: AgentId) -> StoreError {
    StoreError::Damaged(format!("agent {agent}"))
}
