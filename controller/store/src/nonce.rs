//! Which of several holders of one identity is the agent: a chain of nonces, one a session.
//!
//! Every session hands out a nonce; the agent stores it, confirms that, and shows it when it comes again. Two copies of
//! an agent (a cloned machine, a disk that was set back, a stolen key) begin with the same nonce, and then each learns of
//! its own sessions alone: whoever comes second shows a nonce of the past. The controller cannot know which of them is
//! the agent, so neither is until an operator says so.
//!
//! ```text
//!              open: issued = ++last            confirm: held = issued
//!   held ──────────────────────────▶ held, issued ──────────────────▶ held
//!              shows held: an unconfirmed one is abandoned, the agent crashed before it stored it
//!              shows issued: stored, and only the word of it was lost
//!              shows any other: a fork
//! ```
//!
//! Pure: numbers in, a verdict out. Two things hold, and the tests try all interleavings of them. An agent that is
//! alone is never taken for two, however it crashes. And of two copies at most one ever *confirms* a nonce of a session
//! that was opened after they parted; so work must be given only in sessions whose nonce is confirmed.

use muster_proto::id::AgentId;
use muster_proto::link::Nonce;
use sha2::{Digest as _, Sha256};

/// How far an agent's chain of nonces has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Chain {
    /// Number of the newest session; 0 before the first.
    pub last: u64,
    /// The nonce that the agent confirmed.
    pub held: Option<u64>,
    /// The one that was handed out since and is not confirmed.
    pub issued: Option<u64>,
    /// Up to here nonces may belong to a copy that an operator decided against.
    pub outcast: Option<u64>,
    /// While there are two: what the second of them showed.
    pub fork: Option<Claim>,
}

/// What somebody shows who wants to open a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Claim {
    /// No nonce.
    Nothing,
    /// One that this controller made.
    Ours(u64),
    /// One that it did not make, with this number.
    Foreign(u64),
}

/// What becomes of somebody who wants to open a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// The agent. Its new session has the number [`Chain::last`].
    Agent,
    /// The agent, with a nonce from a future that the store does not know: it was set back to a backup.
    RolledBack {
        /// The number of the newest session that the store knew of.
        known: u64,
    },
    /// There are two, since now or from before.
    Fork,
    /// The one of two that an operator decided against, or somebody who never was the agent.
    Outcast,
}

/// Which of two parties is the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The one that was known.
    First,
    /// The one that came with a nonce of the past.
    Second,
}

impl Chain {
    /// Somebody wants to open a session.
    pub(crate) fn open(&mut self, claim: Claim) -> Verdict {
        if self.fork.is_some() {
            return Verdict::Fork;
        }
        let known = self.last;
        let mut verdict = Verdict::Agent;
        match claim {
            // Before its first nonce was confirmed it may have crashed before it stored it.
            Claim::Nothing if self.held.is_none() => {}
            Claim::Ours(number) if self.held == Some(number) => {}
            Claim::Ours(number) if self.issued == Some(number) => self.held = Some(number),
            Claim::Ours(number) if number > known => {
                (self.held, self.last) = (Some(number), number);
                verdict = Verdict::RolledBack { known };
            }
            Claim::Foreign(_) if known == 0 => return Verdict::Outcast,
            other if self.outcast.is_some_and(|last| other.number() <= last) => return Verdict::Outcast,
            other => {
                self.fork = Some(other);
                return Verdict::Fork;
            }
        }
        self.last += 1;
        self.issued = Some(self.last);
        verdict
    }

    /// Somebody has stored this nonce. Whether it is the newest one, and there is one agent.
    pub(crate) fn confirm(&mut self, number: u64) -> bool {
        if self.fork.is_some() {
            return false;
        }
        if self.issued == Some(number) {
            (self.held, self.issued) = (Some(number), None);
        }
        self.holds(number)
    }

    /// Whether this nonce is stored and the newest one, and there is one agent.
    pub(crate) fn holds(&self, number: u64) -> bool {
        self.fork.is_none() && self.held == Some(number) && self.issued.is_none()
    }

    /// An operator decides which of two is the agent; `false` if that one never had a nonce of ours, or there are no two.
    /// That takes a number of its own: while there are two [`Chain::last`] stands still, and the next time it is higher.
    pub(crate) fn resolve(&mut self, keep: Keep) -> bool {
        match (keep, self.fork) {
            (_, None) | (Keep::Second, Some(Claim::Foreign(_))) => return false,
            // It may have stored the newest nonce or not: both count, as ever.
            (Keep::First, Some(_)) => {}
            (Keep::Second, Some(Claim::Nothing)) => (self.held, self.issued) = (None, None),
            (Keep::Second, Some(Claim::Ours(number))) => (self.held, self.issued) = (Some(number), None),
        }
        self.last += 1;
        (self.outcast, self.fork) = (Some(self.last), None);
        true
    }

    /// Which of the two parties it is that shows this, if it is one of them.
    pub(crate) fn party(&self, claim: Claim) -> Option<Keep> {
        match claim {
            claim if self.fork == Some(claim) => Some(Keep::Second),
            Claim::Ours(number) if [self.held, self.issued].contains(&Some(number)) => Some(Keep::First),
            Claim::Nothing if self.held.is_none() => Some(Keep::First),
            _ => None,
        }
    }
}

impl Claim {
    /// What a nonce is worth: only who knows the secret can make one.
    pub(crate) fn of(secret: &[u8; 32], agent: AgentId, presented: Option<Nonce>) -> Self {
        let Some(Nonce { epoch, mac }) = presented else { return Self::Nothing };
        let differences = mac.iter().zip(nonce(secret, agent, epoch).mac).fold(0, |all, (a, b)| all | (a ^ b));
        if differences == 0 { Self::Ours(epoch) } else { Self::Foreign(epoch) }
    }

    /// 0 for none: real ones count from 1.
    fn number(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Ours(number) | Self::Foreign(number) => number,
        }
    }
}

/// The nonce of an agent's session. The three parts have fixed lengths, and the hash is cut: neither can be mixed up.
pub(crate) fn nonce(secret: &[u8; 32], agent: AgentId, epoch: u64) -> Nonce {
    let mut hash = Sha256::new();
    hash.update(secret);
    hash.update(agent.as_bytes());
    hash.update(epoch.to_be_bytes());
    let mut mac = [0; 16];
    mac.copy_from_slice(&hash.finalize()[..16]);
    Nonce { epoch, mac }
}

#[cfg(test)]
mod tests;
