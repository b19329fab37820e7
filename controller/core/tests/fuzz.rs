//! The body of the fuzz target, over its seeds and over seeds that were damaged at random.

#[path = "../fuzz/body.rs"]
mod body;

use proptest::prelude::*;

const SEEDS: &str = include_str!("../fuzz/seeds.txt");

#[test]
fn every_seed_holds() {
    SEEDS.lines().for_each(body::expression);
    body::expression(SEEDS);
}

proptest! {
    #[test]
    fn every_damaged_seed_holds(
        seeds in prop::collection::vec(prop::sample::select(SEEDS.lines().collect::<Vec<_>>()), 1..4),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), "[-a-z0-9,!&^@()'\"=~<>/:. *?\\[\\]é]{0,2}"), 0..4)
    ) {
        let mut text: Vec<char> = seeds.join(",").chars().collect();
        for (place, instead) in cuts {
            if !text.is_empty() {
                let place = place.index(text.len());
                text.splice(place..=place, instead.chars());
            }
        }
        body::expression(&text.into_iter().collect::<String>());
    }
}
