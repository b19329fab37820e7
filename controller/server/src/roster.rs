//! Every enrolled agent: what the store knows of it, kept at hand, and whether it is connected.

use crate::sessions::Sessions;
use bytes::Bytes;
use muster_core::fleet::{Fleet, Member};
use muster_proto::fleet::{AgentInfo, ClockOffset, Facts, Labels, Party};
use muster_proto::id::AgentId;
use muster_proto::job::Target;
use muster_proto::name::HostName;
use muster_proto::names::natural_cmp;
use muster_proto::time::Timestamp;
use muster_store::{AgentRecord, Store, StoreError};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tracing::warn;

/// All agents. Clones share it.
#[derive(Clone)]
pub struct Roster {
    sessions: Sessions,
    inner: Arc<RwLock<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// Those that can be targets; copied on the first change after somebody has taken it to look at.
    fleet: Arc<Fleet>,
    /// All of them, revoked ones too.
    records: HashMap<AgentId, AgentRecord>,
    /// The clock of each against ours, as it last said hello.
    clocks: HashMap<AgentId, ClockOffset>,
}

impl Roster {
    /// Reads the store.
    pub async fn load(store: &Store, sessions: Sessions) -> Result<Self, StoreError> {
        let roster = Self { sessions, inner: Arc::default() };
        let mut records = store.agents().await?;
        // Who comes in this order is added at the end.
        records.sort_unstable_by(|a, b| natural_cmp(a.name.as_str(), b.name.as_str()));
        for record in records {
            if let Some(quarantine) = &record.quarantine {
                let refused = crate::agents::refused_as_copy(&record.name, quarantine);
                roster.sessions.quarantine(record.id, record.last_epoch, quarantine.clone(), &refused);
            }
            roster.add(record);
        }
        Ok(roster)
    }

    /// The sessions of its agents.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    // No code that can panic runs under the lock, so that a poisoned one holds whole values.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent that is in the store.
    pub fn add(&self, record: AgentRecord) {
        let mut inner = self.write();
        if record.revoked_at.is_none() {
            let (name, labels, facts) = (record.name.clone(), record.labels.clone(), record.facts.clone());
            let member = Member { id: record.id, name, labels, facts };
            if let Err(error) = Arc::make_mut(&mut inner.fleet).insert(member) {
                warn!(agent = %record.id, %error, "the agent cannot be a target");
            }
        }
        inner.records.insert(record.id, record);
    }

    /// Labels that are in the store.
    pub fn set_labels(&self, agent: AgentId, labels: Labels) {
        let mut inner = self.write();
        Arc::make_mut(&mut inner.fleet).update(agent, Some(labels.clone()), None);
        if let Some(record) = inner.records.get_mut(&agent) {
            record.labels = labels;
        }
    }

    /// Facts that are in the store.
    pub fn set_facts(&self, agent: AgentId, digest: Bytes, facts: Facts) {
        let facts = Arc::new(facts);
        let mut inner = self.write();
        Arc::make_mut(&mut inner.fleet).update(agent, None, Some(Arc::clone(&facts)));
        if let Some(record) = inner.records.get_mut(&agent) {
            record.facts = Some(facts);
            record.facts_digest = Some(digest);
        }
    }

    /// A revocation that is in the store: no target any more.
    pub fn revoke(&self, agent: AgentId, at: Timestamp) {
        let mut inner = self.write();
        Arc::make_mut(&mut inner.fleet).remove(agent);
        if let Some(record) = inner.records.get_mut(&agent) {
            record.revoked_at = Some(at);
        }
    }

    /// The agent has a session, from this machine.
    pub fn came(&self, agent: AgentId, party: Party, clock: ClockOffset) {
        let mut inner = self.write();
        inner.clocks.insert(agent, clock);
        if let Some(record) = inner.records.get_mut(&agent) {
            (record.last_seen, record.party) = (Some(party.seen_at), Some(party));
        }
    }

    /// The agent had a session until now.
    pub fn left(&self, agent: AgentId, at: Timestamp) {
        if let Some(record) = self.write().records.get_mut(&agent) {
            record.last_seen = Some(at);
        }
    }

    /// The agent got a certificate for a new key.
    pub fn renewed(&self, agent: AgentId, at: Timestamp) {
        if let Some(record) = self.write().records.get_mut(&agent) {
            record.renewed_at = Some(at);
        }
    }

    /// The digest of the facts that are known of an agent, empty if none are; `None` if it may not have a session.
    pub fn admits(&self, agent: AgentId) -> Option<Bytes> {
        let inner = self.read();
        let record = inner.records.get(&agent).filter(|record| record.revoked_at.is_none())?;
        Some(record.facts_digest.clone().unwrap_or_default())
    }

    /// The agent of this name, or of this id in text form.
    pub fn find(&self, text: &str) -> Option<Target> {
        let inner = self.read();
        let named = text.parse::<HostName>().ok().and_then(|name| inner.fleet.by_name(&name));
        let member = named.or_else(|| inner.fleet.by_id(text.parse().ok()?))?;
        Some(Target { agent: member.id, name: member.name.clone() })
    }

    /// The targets with these ids, in this order; the first unknown id otherwise.
    pub fn targets(&self, agents: &[AgentId]) -> Result<Vec<Target>, AgentId> {
        let inner = self.read();
        let target = |id: &AgentId| match inner.fleet.by_id(*id) {
            Some(member) => Ok(Target { agent: member.id, name: member.name.clone() }),
            None => Err(*id),
        };
        agents.iter().map(target).collect()
    }

    /// The agents that can be targets, as they are now: what looks at all of them does so without holding anybody up.
    pub fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.read().fleet)
    }

    /// Whether each of these agents can be a target and has the name that stands with it.
    pub fn bear_these_names<'a>(&self, agents: impl Iterator<Item = (AgentId, &'a str)>) -> bool {
        let inner = self.read();
        { agents }.all(|(id, name)| inner.fleet.by_id(id).is_some_and(|member| member.name.as_str() == name))
    }

    /// All agents that can be targets, in natural order.
    pub fn everybody(&self) -> Vec<Target> {
        let inner = self.read();
        inner.fleet.iter().map(|member| Target { agent: member.id, name: member.name.clone() }).collect()
    }

    /// Labels of an agent.
    pub fn labels(&self, agent: AgentId) -> Labels {
        self.read().records.get(&agent).map(|record| record.labels.clone()).unwrap_or_default()
    }

    /// What is stored of an agent, and what changed since the controller began.
    pub fn record(&self, agent: AgentId) -> Option<AgentRecord> {
        self.read().records.get(&agent).cloned()
    }

    /// An agent with its connection; `None` for an unknown one.
    pub fn info(&self, agent: AgentId) -> Option<AgentInfo> {
        let (session, quarantine) = (self.sessions.get(agent), self.sessions.quarantined(agent));
        let inner = self.read();
        let record = inner.records.get(&agent)?;
        Some(AgentInfo {
            id: agent,
            name: record.name.clone(),
            connected: session.is_some(),
            since: session.as_ref().map(|session| session.since).or(record.last_seen),
            address: session.as_ref().map(|session| session.address.to_string()),
            labels: record.labels.clone(),
            facts: record.facts.as_deref().cloned(),
            enrolled_at: record.enrolled_at,
            revoked_at: record.revoked_at,
            clock: inner.clocks.get(&agent).copied(),
            quarantine,
            heard_at: session.map(|session| session.heard_at()),
        })
    }
}
