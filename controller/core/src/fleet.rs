//! What the controller knows of agents for selecting them: id, name, labels, facts.
//!
//! Only agents that may get work are in it: a revoked agent is removed, and so its name is no longer known. Who is
//! connected is no matter of selecting and is not kept here.

use muster_proto::fleet::{Facts, Labels};
use muster_proto::id::AgentId;
use muster_proto::name::HostName;
use muster_proto::names::natural_cmp;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// An agent as the target language sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id, never used again for another.
    pub id: AgentId,
    /// Its name, borne by no other member.
    pub name: HostName,
    /// What operators say of it.
    pub labels: Labels,
    /// What it says of itself, once it has.
    pub facts: Option<Arc<Facts>>,
}

/// All agents that can be targets.
///
/// Cheap to clone: members are shared until one of them changes.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// In natural order of their names. A place is found by halving, and adding in that order moves nobody.
    members: Vec<Arc<Member>>,
    names: HashMap<AgentId, HostName>,
}

/// Another agent bears the name; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name {name} belongs to agent {holder}: revoke that one first or choose another name")]
pub struct NameTaken {
    name: HostName,
    holder: AgentId,
}

impl Fleet {
    /// Adds a member, or replaces the one of this id.
    pub fn insert(&mut self, member: Member) -> Result<(), NameTaken> {
        if let Some(holder) = self.by_name(&member.name).filter(|holder| holder.id != member.id) {
            return Err(NameTaken { name: member.name, holder: holder.id });
        }
        self.remove(member.id);
        if let Err(place) = self.place(member.name.as_str()) {
            self.names.insert(member.id, member.name.clone());
            self.members.insert(place, Arc::new(member));
        }
        Ok(())
    }

    /// Takes a member out, as when it is revoked; `None` if there is none of this id.
    pub fn remove(&mut self, id: AgentId) -> Option<Arc<Member>> {
        let name = self.names.remove(&id)?;
        let place = self.place(name.as_str()).ok()?;
        Some(self.members.remove(place))
    }

    /// Changes a member's labels or facts; nothing if there is none of this id. Its id and name are not to be changed.
    pub fn update(&mut self, id: AgentId, labels: Option<Labels>, facts: Option<Arc<Facts>>) {
        let found = self.names.get(&id).and_then(|name| self.place(name.as_str()).ok());
        let Some(member) = found.and_then(|place| self.members.get_mut(place)).map(Arc::make_mut) else { return };
        if let Some(labels) = labels {
            member.labels = labels;
        }
        member.facts = facts.or(member.facts.take());
    }

    /// The member of this name.
    pub fn by_name(&self, name: &HostName) -> Option<&Member> {
        self.place(name.as_str()).ok().map(|place| &*self.members[place])
    }

    /// The member of this id.
    pub fn by_id(&self, id: AgentId) -> Option<&Member> {
        self.by_name(self.names.get(&id)?)
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Nobody is there.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All members, sorted as people read names: web2 before web10.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.iter().map(|member| &**member)
    }

    /// The member at a place of [`Self::iter`].
    pub(crate) fn at(&self, place: usize) -> Option<&Member> {
        self.members.get(place).map(|member| &**member)
    }

    /// Where a name stands, or where it would.
    pub(crate) fn place(&self, name: &str) -> Result<usize, usize> {
        let last = self.members.last().map(|last| natural_cmp(last.name.as_str(), name));
        match last {
            Some(Ordering::Less) => Err(self.members.len()),
            _ => self.members.binary_search_by(|member| natural_cmp(member.name.as_str(), name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u8, name: &str) -> Member {
        Member {
            id: AgentId::from_bytes([id; 16]),
            name: name.parse().expect("a name"),
            labels: Labels::new(),
            facts: None,
        }
    }

    fn names(fleet: &Fleet) -> Vec<&str> {
        fleet.iter().map(|member| member.name.as_str()).collect()
    }

    #[test]
    fn members_are_found_by_either_key_and_listed_naturally() {
        let mut fleet = Fleet::default();
        for (id, name) in [(1, "web10"), (2, "web9"), (3, "db")] {
            fleet.insert(member(id, name)).expect("free name");
        }
        assert_eq!(names(&fleet), ["db", "web9", "web10"]);
        let web9 = member(2, "web9");
        assert_eq!((fleet.by_name(&web9.name), fleet.by_id(web9.id)), (Some(&web9), Some(&web9)));

        assert_eq!(fleet.remove(web9.id), Some(Arc::new(web9.clone())));
        assert_eq!((fleet.by_name(&web9.name), fleet.by_id(web9.id), fleet.len()), (None, None, 2));
        assert_eq!(fleet.remove(web9.id), None);
    }

    #[test]
    fn a_name_has_one_bearer() {
        let mut fleet = Fleet::default();
        fleet.insert(member(1, "web1")).expect("free name");
        assert!(fleet.insert(member(2, "web1")).is_err());
        fleet.insert(member(1, "web2")).expect("its own new name");
        assert_eq!(names(&fleet), ["web2"]);
        fleet.insert(member(2, "web1")).expect("free again");
        assert_eq!(names(&fleet), ["web1", "web2"]);
    }

    #[test]
    fn labels_and_facts_change_alone_and_in_this_fleet_only() {
        let mut fleet = Fleet::default();
        fleet.insert(member(1, "web1")).expect("free name");
        let before = fleet.clone();
        let id = AgentId::from_bytes([1; 16]);
        let labels = Labels::from([("role".parse().expect("a key"), "web".parse().expect("a value"))]);
        let facts = Arc::new(Facts { cpus: 8, ..Facts::default() });
        fleet.update(id, Some(labels.clone()), None);
        fleet.update(id, None, Some(Arc::clone(&facts)));
        fleet.update(AgentId::from_bytes([9; 16]), Some(Labels::new()), None);
        let changed = fleet.by_id(id).expect("a member");
        assert_eq!((&changed.labels, changed.facts.as_ref()), (&labels, Some(&facts)));
        assert_eq!(before.by_id(id), Some(&member(1, "web1")));
    }
}
