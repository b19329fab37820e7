//! Who is meant, for every door: selections are resolved over the fleet as it is, with the groups that they name.
//!
//! Groups are the controller's own, from the store, or those of outside sources ([`source`]). They are read when they are
//! needed, those that others name in rounds. What takes its time with texts has threads of its own: who serves is never
//! held up.

mod program;
mod source;

use crate::roster::Roster;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use muster_core::fleet::Fleet;
use muster_core::target::{
    self, Groups, Needed, ParseError, PingPlanError, PlannedPings, ResolveError, Resolved, SelectionError, Selector,
};
use muster_proto::job::Target;
use muster_proto::name::LabelText;
use muster_proto::ping::PingSelection;
use muster_proto::selection::{Group, GroupName, GroupSource, Missing, Selection};
use muster_store::{AuditEntry, GroupError, Store, StoreError};
use source::Reading;
pub use source::{SourceError, Sources};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// All outside groups of one selection have to be there by then.
const LOAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Outside groups of one selection that are asked for at a time; the others wait.
const LOADED_AT_ONCE: usize = 8;
/// Groups that are told to name one that is to be removed.
const USERS_TOLD: usize = 5;

/// Resolves selections. Clones share it.
#[derive(Clone)]
pub struct Resolver {
    roster: Roster,
    store: Store,
    sources: Sources,
    /// Held while a group is set or removed, so that none is removed that another has begun to name.
    changing: Arc<tokio::sync::Mutex<()>>,
}

/// It cannot be said who is meant.
#[derive(Debug, thiserror::Error)]
pub enum WhoError {
    /// The selection itself.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The selection of a ping.
    #[error(transparent)]
    Ping(#[from] PingPlanError),
    /// An expression alone.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// An expression alone, over hosts that it does not fit.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// An outside source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Outside sources together.
    #[error("the groups of outside sources were not there within {} s: ask for fewer at once", LOAD_TIME_MAX.as_secs())]
    Slow,
    /// Only where the controller ends, or has an error.
    #[error("the targets could not be resolved: try again")]
    Interrupted,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A group is not set or removed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// What it would mean.
    #[error("{0}")]
    Meaning(WhoError),
    /// It names groups that are not there.
    #[error("{0} is no group: set it first, or see `muster group list`")]
    Unknown(GroupName),
    /// Others name it.
    #[error("the group {name} is named by {users}: change them first")]
    Used {
        /// The group.
        name: LabelText,
        /// Names of some, with commas.
        users: String,
    },
    /// The store.
    #[error(transparent)]
    Group(#[from] GroupError),
}

impl Resolver {
    /// Over this roster, with the groups of this store and of these sources.
    pub fn new(roster: Roster, store: Store, sources: Sources) -> Self {
        Self { roster, store, sources, changing: Arc::default() }
    }

    /// The agents that there are.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The hosts that a selection means, and of how many there are.
    pub async fn resolve(&self, selection: Selection) -> Result<(Resolved, usize), WhoError> {
        let (groups, _) = self.load(&[&selection.targets, &selection.exclude], Groups::default()).await?;
        let fleet = self.roster.fleet();
        let length = fleet.len();
        let resolved = apart(move || target::resolve(&selection, &fleet, &groups)).await??;
        Ok((resolved, length))
    }

    /// Who is pinged from where.
    pub async fn pings(&self, selection: PingSelection) -> Result<PlannedPings, WhoError> {
        let from = selection.from.as_deref().unwrap_or_default();
        let (groups, _) = self.load(&[&selection.targets, &selection.exclude, from], Groups::default()).await?;
        let fleet = self.roster.fleet();
        Ok(apart(move || target::pings(&selection, &fleet, &groups)).await??)
    }

    /// The hosts of a fleet of the caller's own that an expression means. A group may mean others too.
    pub async fn among(&self, expression: &str, fleet: Fleet) -> Result<Vec<Target>, WhoError> {
        let selector = Selector::parse(expression)?;
        let (groups, _) = self.load(&[expression], Groups::default()).await?;
        Ok(apart(move || selector.resolve(&fleet, &groups)).await??)
    }

    /// All groups of the controller's own, by name, and all outside sources.
    pub async fn list(&self) -> Result<(Vec<Group>, Vec<GroupSource>), StoreError> {
        Ok((self.store.groups().await?, self.sources.list().await))
    }

    /// Sets a group; how many hosts it means now, were it none.
    pub async fn set(&self, group: Group, audit: AuditEntry) -> Result<usize, ChangeError> {
        let _changing = self.changing.lock().await;
        let name = GroupName { source: None, name: group.name.clone() };
        let meaning = |error: ParseError| ChangeError::Meaning(error.into());
        Selector::parse(&group.expression).map_err(meaning)?;
        let mut groups = Groups::default();
        groups.insert(name.clone(), group.expression.clone());
        let text = name.to_string();
        let (groups, missing) = self.load(&[&text], groups).await.map_err(ChangeError::Meaning)?;
        if let Some(missing) = missing.into_iter().next() {
            return Err(ChangeError::Unknown(missing));
        }
        // What it says has to be sound; whether anybody bears the names in it is another matter, and may change.
        let selection = Selection { targets: text, missing: Missing::LeftOut, ..Selection::default() };
        let fleet = self.roster.fleet();
        let resolved = apart(move || target::resolve(&selection, &fleet, &groups)).await;
        let hosts = match resolved.map_err(ChangeError::Meaning)? {
            Ok(resolved) => resolved.targets.len(),
            Err(SelectionError::Nobody(_) | SelectionError::Resolve(ResolveError::NoAgents)) => 0,
            Err(error) => return Err(ChangeError::Meaning(error.into())),
        };
        self.store.set_group(group, audit).await?;
        Ok(hosts)
    }

    /// Removes a group that no other names.
    pub async fn remove(&self, name: LabelText, audit: AuditEntry) -> Result<(), ChangeError> {
        let _changing = self.changing.lock().await;
        let wanted = GroupName { source: None, name: name.clone() };
        let groups = self.store.groups().await.map_err(GroupError::from)?;
        let users = apart(move || {
            let written = wanted.to_string();
            let names = |group: &Group| {
                // Few are read: an expression may stand for very many names.
                let named = group.expression.contains(&written).then(|| Needed::default().by(&group.expression, None));
                named.is_some_and(|named| named.is_ok_and(|named| named.contains(&wanted)))
            };
            let users = groups.iter().filter(|group| group.name != wanted.name && names(group));
            users.map(|group| group.name.as_str()).take(USERS_TOLD).collect::<Vec<_>>().join(", ")
        });
        let users = users.await.map_err(ChangeError::Meaning)?;
        if !users.is_empty() {
            return Err(ChangeError::Used { name, users });
        }
        Ok(self.store.remove_group(name, audit).await?)
    }

    /// The groups that expressions name, and those that these name, and so on, beside those that are given; and which of
    /// them are not there.
    async fn load(&self, texts: &[&str], mut groups: Groups) -> Result<(Groups, BTreeSet<GroupName>), WhoError> {
        let load = async {
            let (reading, mut needed, mut missing) = (self.sources.reading(), Needed::default(), BTreeSet::new());
            let mut new: Vec<(Option<GroupName>, String)> =
                texts.iter().map(|text| (None, (*text).to_owned())).collect();
            while !new.is_empty() {
                let named;
                (needed, groups, named) = apart(move || {
                    let mut named = Vec::new();
                    for (within, text) in new {
                        named.extend(needed.by(&text, within.as_ref())?);
                        if let Some(group) = within {
                            groups.insert(group, text);
                        }
                    }
                    Ok::<_, ResolveError>((needed, groups, named))
                })
                .await??;
                let read = named.into_iter().map(|name| self.read(&reading, &groups, name));
                let read: Vec<_> = stream::iter(read).buffered(LOADED_AT_ONCE).try_collect().await?;
                new = Vec::new();
                for (name, text) in read {
                    match text {
                        Some(text) => new.push((Some(name), text)),
                        None => _ = missing.insert(name),
                    }
                }
            }
            if missing.iter().any(|name| name.source.is_none()) {
                // So that the one that was meant can be named.
                for group in self.store.groups().await? {
                    groups.insert(GroupName { source: None, name: group.name }, group.expression);
                }
            }
            Ok((groups, missing))
        };
        tokio::time::timeout(LOAD_TIME_MAX, load).await.unwrap_or(Err(WhoError::Slow))
    }

    async fn read(
        &self,
        reading: &Reading<'_>,
        given: &Groups,
        group: GroupName,
    ) -> Result<(GroupName, Option<String>), WhoError> {
        let text = match (given.get(&group), &group.source) {
            (Some(text), _) => Some(text.to_owned()),
            (None, Some(source)) => reading.read(source, &group.name).await?,
            (None, None) => self.store.group(&group.name).await?.map(|group| group.expression),
        };
        Ok((group, text))
    }
}

/// Does what may take a while on a thread of its own.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, WhoError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| WhoError::Interrupted)
}
