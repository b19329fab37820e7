//! Identifiers: 16 bytes each, one type a kind, one text form.
//!
//! The text form is 26 characters of Crockford's base 32 in lower case (<https://www.crockford.com/base32.html>). It
//! sorts as the bytes do, so job ids (UUIDv7, RFC 9562) sort by time, and it is safe as a file name.

use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// An identifier of one kind. Ids of different kinds do not mix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id<K> {
    bytes: [u8; 16],
    kind: PhantomData<K>,
}

/// The kinds of identifiers; never values.
pub mod kind {
    /// A Muster installation with its own issuers.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Cluster {}
    /// An enrolled agent; never used again for another.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Agent {}
    /// A job.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Job {}
    /// One boot of a host's kernel.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Boot {}
    /// One start of an agent's process.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum Start {}
}

/// Names a cluster.
pub type ClusterId = Id<kind::Cluster>;
/// Names an agent.
pub type AgentId = Id<kind::Agent>;
/// Names a job; a UUIDv7 made where the job is signed.
pub type JobId = Id<kind::Job>;
/// Names a boot of a host.
pub type BootId = Id<kind::Boot>;
/// Names a start of an agent.
pub type StartId = Id<kind::Start>;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TEXT_LEN: usize = 26;

impl<K> Id<K> {
    /// Takes the bytes as they are.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self { bytes, kind: PhantomData }
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.bytes
    }
}

impl<K> TryFrom<&[u8]> for Id<K> {
    type Error = ParseIdError;

    fn try_from(bytes: &[u8]) -> Result<Self, ParseIdError> {
        bytes.try_into().map(Self::from_bytes).map_err(|_| ParseIdError)
    }
}

impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from_be_bytes(self.bytes);
        let mut text = [0; TEXT_LEN];
        for (place, slot) in text.iter_mut().enumerate() {
            *slot = ALPHABET[(value >> (5 * (TEXT_LEN - 1 - place))) as usize & 31];
        }
        f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<K> FromStr for Id<K> {
    type Err = ParseIdError;

    /// Takes either case; nothing else that reads alike.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != TEXT_LEN {
            return Err(ParseIdError);
        }
        let mut value: u128 = 0;
        for (place, character) in text.bytes().enumerate() {
            let digit =
                ALPHABET.iter().position(|&known| known == character.to_ascii_lowercase()).ok_or(ParseIdError)?;
            // 26 characters hold 130 bits: the first may use only its lower three.
            if place == 0 && digit > 7 {
                return Err(ParseIdError);
            }
            value = value << 5 | digit as u128;
        }
        Ok(Self::from_bytes(value.to_be_bytes()))
    }
}

/// The text or bytes are no identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id has 26 characters (digits and letters without i, l, o, u) or 16 bytes")]
pub struct ParseIdError;

/// One job on one target, tried once. A task starts at most once, ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The job.
    pub job: JobId,
    /// Place in the job's frozen target list, from 0.
    pub target: u32,
    /// Which try, or the gate.
    pub attempt: Attempt,
}

/// Which try of a target it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u32);

impl Attempt {
    /// Not a try of the command, but the gate of the target's wave: it has a task of its own.
    pub const GATE: Self = Self(0);
    /// The first try of the command.
    pub const FIRST: Self = Self(1);

    /// The try after this one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Which try of the command it is, from 1; `None` of the gate.
    pub const fn number(self) -> Option<u32> {
        if self.0 == 0 { None } else { Some(self.0) }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TaskId {
    /// Where the tasks of a job stand among all.
    pub const fn all_of(job: JobId) -> RangeInclusive<Self> {
        let first = Self { job, target: 0, attempt: Attempt(0) };
        RangeInclusive::new(first, Self { job, target: u32::MAX, attempt: Attempt(u32::MAX) })
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.job, self.target, self.attempt)
    }
}

impl FromStr for TaskId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let mut parts = text.split('.');
        let (Some(job), Some(target), Some(attempt), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseIdError);
        };
        let task = Self {
            job: job.parse()?,
            target: target.parse().map_err(|_| ParseIdError)?,
            attempt: Attempt(attempt.parse().map_err(|_| ParseIdError)?),
        };
        // One text for one task: "+1" and "01" parse as numbers and are no ids.
        if task.to_string() == text { Ok(task) } else { Err(ParseIdError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips_and_sorts_as_bytes(a: [u8; 16], b: [u8; 16]) {
            let (a, b) = (JobId::from_bytes(a), JobId::from_bytes(b));
            prop_assert_eq!(a.to_string().parse::<JobId>(), Ok(a));
            prop_assert_eq!(a.to_string().to_uppercase().parse::<JobId>(), Ok(a));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn any_text_is_an_id_or_an_error(text in ".{0,40}") {
            let _ = text.parse::<JobId>();
            let _ = text.parse::<TaskId>();
        }
    }

    #[test]
    fn overflow_and_look_alikes_are_refused() {
        assert!("zzzzzzzzzzzzzzzzzzzzzzzzzz".parse::<JobId>().is_err());
        assert!("7zzzzzzzzzzzzzzzzzzzzzzzzz".parse::<JobId>().is_ok());
        assert!("0000000000000000000000000o".parse::<JobId>().is_err());
        assert!("00000000000000000000000000.+1.1".parse::<TaskId>().is_err());
        assert!("00000000000000000000000000.01.1".parse::<TaskId>().is_err());
    }
}
