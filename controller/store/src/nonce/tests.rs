//! All interleavings of copies of an agent that open, store, confirm and crash, against what the chain promises.

use super::{Chain, Claim, Keep, Verdict, nonce};
use muster_proto::id::AgentId;
use muster_proto::link::Nonce;
use proptest::prelude::*;
use std::collections::HashSet;

/// One machine with the agent's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Copy {
    stored: Option<u64>,
    /// The session it has, or thinks it has, with the nonce that it was given there.
    session: Option<u64>,
    /// It got a nonce confirmed from a session that it opened after they parted.
    confirmed: bool,
    /// It was told that it is not, or not surely, the agent.
    refused: Option<Verdict>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Open(usize),
    /// The controller opens the session, and its answer never arrives.
    OpenInVain(usize),
    Store(usize),
    Confirm(usize),
    /// Stored, and the word of it never arrives.
    Crash(usize),
}

/// The controller's view, and the machines.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct World {
    chain: Chain,
    copies: Vec<Copy>,
    /// Number of the newest session when the copies parted.
    parted: u64,
}

impl World {
    fn step(&mut self, step: Step) {
        match step {
            Step::Open(which) => {
                let verdict = self.open(which);
                let copy = &mut self.copies[which];
                match verdict {
                    Verdict::Agent | Verdict::RolledBack { .. } => copy.session = Some(self.chain.last),
                    refused => (copy.session, copy.refused) = (None, Some(refused)),
                }
            }
            Step::OpenInVain(which) => {
                self.open(which);
                self.copies[which].session = None;
            }
            Step::Store(which) => {
                let copy = &mut self.copies[which];
                copy.stored = copy.session.or(copy.stored);
            }
            Step::Confirm(which) => {
                let copy = &mut self.copies[which];
                if let Some(number) = copy.session.filter(|number| copy.stored == Some(*number)) {
                    let held = self.chain.confirm(number);
                    copy.confirmed |= held && number > self.parted;
                }
            }
            Step::Crash(which) => self.copies[which].session = None,
        }
    }

    fn open(&mut self, which: usize) -> Verdict {
        self.chain.open(self.copies[which].stored.map_or(Claim::Nothing, Claim::Ours))
    }

    /// The machine is copied: disk only, or with its memory and the session that it believes it has.
    fn part(&mut self, with_memory: bool) {
        let Copy { stored, session, .. } = self.copies[0];
        self.copies[0] = Copy { stored, session, ..Copy::default() };
        self.copies.push(Copy { stored, session: session.filter(|_| with_memory), ..Copy::default() });
        self.parted = self.chain.last;
    }
}

fn steps_of(copies: usize) -> impl Iterator<Item = Step> {
    let kinds = [Step::Open, Step::OpenInVain, Step::Store, Step::Confirm, Step::Crash];
    (0..copies).flat_map(move |which| kinds.map(|kind| kind(which)))
}

/// Every state that so many steps can lead to.
fn explore(begin: Vec<World>, depth: usize, check: impl Fn(&World)) -> HashSet<World> {
    let mut seen: HashSet<World> = begin.iter().cloned().collect();
    let mut edge = begin;
    for _ in 0..depth {
        let mut next = Vec::new();
        for world in edge {
            for step in steps_of(world.copies.len()) {
                let mut after = world.clone();
                after.step(step);
                check(&after);
                if seen.insert(after.clone()) {
                    next.push(after);
                }
            }
        }
        edge = next;
    }
    seen
}

fn alone() -> Vec<World> {
    vec![World { copies: vec![Copy::default()], ..World::default() }]
}

/// Two copies, parted at every moment of an agent's first steps.
fn parted() -> Vec<World> {
    let lives = explore(alone(), 6, |_| {});
    let part = |world: &World| {
        [false, true].map(|with_memory| {
            let mut world = world.clone();
            world.part(with_memory);
            world
        })
    };
    lives.iter().flat_map(part).collect()
}

#[test]
fn one_alone_is_never_taken_for_two() {
    let seen = explore(alone(), 16, |world| {
        assert_eq!(world.chain.fork, None, "{world:?}");
        assert_eq!(world.copies[0].refused, None, "{world:?}");
    });
    assert!(seen.len() > 500, "{} states are not all", seen.len());
}

#[test]
fn of_two_at_most_one_confirms_and_the_other_is_seen_when_it_comes() {
    explore(parted(), 7, |world| {
        let [a, b] = [world.copies[0], world.copies[1]];
        assert!(!(a.confirmed && b.confirmed), "{world:?}");
        for (one, other) in [(0, 1), (1, 0)] {
            if world.copies[one].confirmed {
                let mut later = world.clone();
                later.step(Step::Open(other));
                assert!(later.copies[other].refused.is_some(), "{later:?}");
            }
        }
    });
}

#[test]
fn an_operator_s_decision_holds_and_a_copy_of_the_kept_one_is_a_new_fork() {
    let mut decided = 0;
    let forks = explore(parted(), 6, |_| {}).into_iter().filter(|world| world.chain.fork.is_some());
    for world in forks {
        for keep in [Keep::First, Keep::Second] {
            let is_kept =
                |copy: &Copy| world.chain.party(copy.stored.map_or(Claim::Nothing, Claim::Ours)) == Some(keep);
            let Some(kept) = world.copies.iter().position(is_kept) else { continue };
            let lost = 1 - kept;
            if world.copies[lost].stored == world.copies[kept].stored {
                continue;
            }
            decided += 1;
            let mut world = world.clone();
            assert!(world.chain.resolve(keep));
            world.copies.iter_mut().for_each(|copy| (copy.session, copy.refused) = (None, None));
            for _ in 0..2 {
                world.step(Step::Open(lost));
                assert_eq!(world.copies[lost].refused, Some(Verdict::Outcast), "{world:?}");
                world.step(Step::Open(kept));
                assert_eq!(world.copies[kept].refused, None, "{world:?}");
                world.step(Step::Store(kept));
                world.step(Step::Confirm(kept));
                assert!(world.copies[kept].confirmed && world.chain.fork.is_none());
            }
            let copied = world.copies[kept];
            world.copies.push(Copy { session: None, ..copied });
            for step in [Step::Open(kept), Step::Store(kept), Step::Confirm(kept), Step::Open(2)] {
                world.step(step);
            }
            assert_eq!(world.copies[2].refused, Some(Verdict::Fork), "{world:?}");
        }
    }
    assert!(decided > 100, "{decided} forks are not all");
}

#[test]
fn a_store_that_was_set_back_goes_on_above_what_the_agent_knows() {
    let mut chain = Chain { last: 7, held: Some(6), issued: Some(7), ..Chain::default() };
    assert_eq!(chain.open(Claim::Ours(20)), Verdict::RolledBack { known: 7 });
    assert_eq!((chain.last, chain.held, chain.issued), (21, Some(20), Some(21)));
    assert_eq!(chain.open(Claim::Ours(6)), Verdict::Fork, "a copy from the time of the backup");
}

#[test]
fn who_never_had_a_nonce_of_ours_cannot_be_kept() {
    let mut fresh = Chain::default();
    assert_eq!(fresh.open(Claim::Foreign(3)), Verdict::Outcast, "there is nobody to be taken for");
    let mut chain = Chain { last: 4, held: Some(4), ..Chain::default() };
    assert_eq!(chain.open(Claim::Foreign(4)), Verdict::Fork);
    assert!(!chain.clone().resolve(Keep::Second) && chain.resolve(Keep::First));
    assert_eq!(chain.open(Claim::Foreign(4)), Verdict::Outcast);
    assert_eq!(chain.open(Claim::Ours(4)), Verdict::Agent);
}

proptest! {
    #[test]
    fn a_nonce_is_worth_something_to_its_agent_and_session_alone(
        secret: [u8; 32], other: [u8; 32], id: [u8; 16], stranger: [u8; 16], epoch: u64, bit in 0..128_usize,
    ) {
        let agent = AgentId::from_bytes(id);
        let made = nonce(&secret, agent, epoch);
        prop_assert_eq!(Claim::of(&secret, agent, Some(made)), Claim::Ours(epoch));
        prop_assert_eq!(Claim::of(&secret, agent, None), Claim::Nothing);
        let mut altered = made;
        altered.mac[bit / 8] ^= 1 << (bit % 8);
        let later = Nonce { epoch: epoch.wrapping_add(1), ..made };
        for (secret, agent, shown) in [
            (secret, agent, altered),
            (secret, agent, later),
            (other, agent, made),
            (secret, AgentId::from_bytes(stranger), made),
        ] {
            prop_assert_eq!(Claim::of(&secret, agent, Some(shown)), Claim::Foreign(shown.epoch));
        }
    }
}
