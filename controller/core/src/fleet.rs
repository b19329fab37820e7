//! What the controller knows of agents for selecting them: id, name, labels.
//!
//! Only agents that may get work are in it: a revoked agent is removed, and so its name is no longer known. Who is
//! connected is no matter of selecting and is not kept here.

use muster_proto::fleet::Labels;
use muster_proto::id::AgentId;
use muster_proto::name::HostName;
use muster_proto::names::natural_cmp;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

/// An agent as the target language sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id, never used again for another.
    pub id: AgentId,
    /// Its name, borne by no other member.
    pub name: HostName,
    /// What operators say of it.
    pub labels: Labels,
}

/// All agents that can be targets.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    members: BTreeMap<Natural, Member>,
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
        self.names.insert(member.id, member.name.clone());
        self.members.insert(Natural(member.name.clone()), member);
        Ok(())
    }

    /// Takes a member out, as when it is revoked; `None` if there is none of this id.
    pub fn remove(&mut self, id: AgentId) -> Option<Member> {
        let name = self.names.remove(&id)?;
        self.members.remove(&Natural(name))
    }

    /// Replaces a member's labels and returns those it had; `None` if there is none of this id.
    pub fn set_labels(&mut self, id: AgentId, labels: Labels) -> Option<Labels> {
        let member = self.members.get_mut(&Natural(self.names.get(&id)?.clone()))?;
        Some(std::mem::replace(&mut member.labels, labels))
    }

    /// The member of this name.
    pub fn by_name(&self, name: &HostName) -> Option<&Member> {
        self.members.get(&Natural(name.clone()))
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
        self.members.values()
    }
}

/// A name in natural order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Natural(HostName);

impl Ord for Natural {
    fn cmp(&self, other: &Self) -> Ordering {
        natural_cmp(self.0.as_str(), other.0.as_str())
    }
}

impl PartialOrd for Natural {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u8, name: &str) -> Member {
        Member { id: AgentId::from_bytes([id; 16]), name: name.parse().expect("a name"), labels: Labels::new() }
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

        assert_eq!(fleet.remove(web9.id), Some(web9.clone()));
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
    fn labels_are_replaced() {
        let mut fleet = Fleet::default();
        fleet.insert(member(1, "web1")).expect("free name");
        let labels = Labels::from([("role".parse().expect("a key"), "web".parse().expect("a value"))]);
        assert_eq!(fleet.set_labels(AgentId::from_bytes([1; 16]), labels.clone()), Some(Labels::new()));
        assert_eq!(fleet.by_id(AgentId::from_bytes([1; 16])).map(|member| &member.labels), Some(&labels));
        assert_eq!(fleet.set_labels(AgentId::from_bytes([9; 16]), labels), None);
    }
}
