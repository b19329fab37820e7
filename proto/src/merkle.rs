//! The frozen target list as a Merkle tree, so that a target can be shown its own membership with a few hashes.
//!
//! The tree is that of RFC 6962 (section 2.1): leaves and nodes are domain-separated, and the shape follows from the
//! number of leaves alone. A leaf is SHA-256(0 | agent id | name), that of a ping SHA-256(2 | who looks | host); a node
//! is SHA-256(1 | left | right).

use crate::id::AgentId;
use crate::name::HostName;
use sha2::{Digest as _, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// The hash of one target. The agent's id has a fixed length, so the name needs no separator.
pub fn leaf(agent: AgentId, name: &HostName) -> Hash {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(agent.as_bytes());
    hash.update(name.as_str());
    hash.finalize().into()
}

/// The hash of one pair of a ping: who looks, if it is not the controller, and at what. Ids and lengths have a fixed
/// size, so no two pairs are written alike.
pub fn pair_leaf(from: Option<(AgentId, &HostName)>, agent: Option<AgentId>, host: &str) -> Hash {
    let mut hash = Sha256::new();
    hash.update([2, u8::from(from.is_some()), u8::from(agent.is_some())]);
    if let Some((agent, name)) = from {
        hash.update(agent.as_bytes());
        // A name has at most 253 bytes.
        hash.update([u8::try_from(name.as_str().len()).unwrap_or(u8::MAX)]);
        hash.update(name.as_str());
    }
    if let Some(agent) = agent {
        hash.update(agent.as_bytes());
    }
    hash.update(host);
    hash.finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

/// A whole tree, kept by levels: level 0 has the leaves, the last has the root.
#[derive(Debug, Clone)]
pub struct Tree {
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// Builds the tree in one pass; an empty list has no tree.
    pub fn new(leaves: Vec<Hash>) -> Option<Self> {
        if leaves.is_empty() {
            return None;
        }
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let above = below
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => node(left, right),
                    // A node without a sibling moves up unchanged: the shape of RFC 6962.
                    rest => rest[0],
                })
                .collect();
            levels.push(above);
        }
        Some(Self { levels })
    }

    /// The hash that stands for the list, its order and its length.
    pub fn root(&self) -> Hash {
        self.levels[self.levels.len() - 1][0]
    }

    /// The siblings from a leaf up to the root; `None` if there is no such leaf.
    pub fn proof(&self, index: usize) -> Option<Vec<Hash>> {
        let (_, inner) = self.levels.split_last()?;
        if index >= self.levels[0].len() {
            return None;
        }
        let siblings = inner.iter().enumerate().filter_map(|(height, level)| level.get((index >> height) ^ 1));
        Some(siblings.copied().collect())
    }
}

/// Whether `leaf` stands at `index` in the list of `count` leaves with this root.
pub fn verify(root: &Hash, count: u32, index: u32, leaf: Hash, proof: &[Hash]) -> bool {
    if index >= count {
        return false;
    }
    let (mut hash, mut index, mut last) = (leaf, index, count - 1);
    let mut siblings = proof.iter();
    while last > 0 {
        if index % 2 == 1 {
            let Some(left) = siblings.next() else { return false };
            hash = node(left, &hash);
        } else if index < last {
            let Some(right) = siblings.next() else { return false };
            hash = node(&hash, right);
        }
        index /= 2;
        last /= 2;
    }
    siblings.next().is_none() && hash == *root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u8) -> Vec<Hash> {
        (0..count).map(|n| leaf(AgentId::from_bytes([n; 16]), &"n1".parse().expect("a name"))).collect()
    }

    #[test]
    fn every_leaf_proves_itself_and_nothing_else() {
        for count in 1..=33_u8 {
            let leaves = leaves(count);
            let tree = Tree::new(leaves.clone()).expect("leaves");
            for (index, &mine) in leaves.iter().enumerate() {
                let proof = tree.proof(index).expect("a proof");
                for claimed in 0..u32::from(count) + 2 {
                    let right = claimed as usize == index;
                    assert_eq!(verify(&tree.root(), count.into(), claimed, mine, &proof), right, "{count} {index}");
                }
                let mut longer = proof.clone();
                longer.push([0; 32]);
                assert!(!verify(&tree.root(), count.into(), u32::try_from(index).expect("small"), mine, &longer));
            }
        }
    }

    #[test]
    fn a_node_is_no_leaf() {
        let tree = Tree::new(leaves(4)).expect("leaves");
        let inner = tree.levels[1][0];
        assert!(!verify(&tree.root(), 4, 0, inner, &[tree.levels[1][1]]));
    }

    #[test]
    fn no_leaves_no_tree() {
        assert!(Tree::new(Vec::new()).is_none());
        assert!(!verify(&[0; 32], 0, 0, [0; 32], &[]));
    }
}
