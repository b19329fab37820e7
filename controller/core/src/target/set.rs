//! Sets of places: a bit each, so that set operators over a whole fleet cost next to nothing.

/// Places from 0; what lies behind its last word is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set(Vec<u64>);

impl Set {
    /// All places below `count`.
    pub fn full(count: usize) -> Self {
        let mut words = vec![u64::MAX; count / 64];
        if !count.is_multiple_of(64) {
            words.push((1 << (count % 64)) - 1);
        }
        Self(words)
    }

    pub fn insert(&mut self, place: usize) {
        let word = place / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (place % 64);
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        let bits = |word: u64| (0..64).filter(move |bit| word >> bit & 1 == 1);
        self.0.iter().enumerate().flat_map(move |(place, &word)| bits(word).map(move |bit| place * 64 + bit))
    }

    /// What is in either.
    pub fn join(&mut self, other: &Self) {
        self.each(other, |own, other| own | other);
    }

    /// What is in both.
    pub fn meet(&mut self, other: &Self) {
        self.each(other, |own, other| own & other);
    }

    /// What is in this one alone.
    pub fn subtract(&mut self, other: &Self) {
        self.each(other, |own, other| own & !other);
    }

    /// What is in one of both, not in both.
    pub fn differ(&mut self, other: &Self) {
        self.each(other, |own, other| own ^ other);
    }

    fn each(&mut self, other: &Self, combine: impl Fn(u64, u64) -> u64) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (place, word) in self.0.iter_mut().enumerate() {
            *word = combine(*word, other.0.get(place).copied().unwrap_or(0));
        }
    }
}

impl FromIterator<usize> for Set {
    fn from_iter<I: IntoIterator<Item = usize>>(places: I) -> Self {
        let mut set = Self::default();
        places.into_iter().for_each(|place| set.insert(place));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn operators_are_those_of_sets(
            a in prop::collection::btree_set(0..200_usize, 0..60), b in prop::collection::btree_set(0..400_usize, 0..60)
        ) {
            let (one, two): (Set, Set) = (a.iter().copied().collect(), b.iter().copied().collect());
            let list = |set: &Set| set.iter().collect::<BTreeSet<_>>();
            let with = |operator: fn(&mut Set, &Set)| { let mut set = one.clone(); operator(&mut set, &two); list(&set) };
            prop_assert_eq!(with(Set::join), &a | &b);
            prop_assert_eq!(with(Set::meet), &a & &b);
            prop_assert_eq!(with(Set::subtract), &a - &b);
            prop_assert_eq!(with(Set::differ), &a ^ &b);
            prop_assert_eq!(one.is_empty(), a.is_empty());
        }

        #[test]
        fn a_full_set_has_every_place(count in 0..300_usize) {
            prop_assert_eq!(Set::full(count).iter().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        }
    }
}
