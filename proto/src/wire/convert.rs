//! Between the wire and the vocabulary. What is hostile becomes valid here or is refused with the field's name.

mod event;
mod fleet;
mod job;
mod link;
mod ops;
mod ping;
mod rollout;
mod schedule;
mod selection;

pub use fleet::{labels_of, labels_to_wire};

use crate::command::CommandError;
use crate::id::Id;
use crate::job::JobError;
use std::time::Duration;

/// A message does not mean anything we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field is missing or has a value it may not have.
    #[error("the message's field {0:?} is missing or invalid")]
    Field(&'static str),
    /// The bytes are no message, or carry fields that this version does not know.
    #[error("the signed payload is not in a form this version knows: use the same version on both sides")]
    Payload,
    /// The command or the job around it.
    #[error(transparent)]
    Job(#[from] JobError),
}

impl From<CommandError> for WireError {
    fn from(error: CommandError) -> Self {
        Self::Job(error.into())
    }
}

/// An id from its 16 bytes.
pub fn id_of<K>(bytes: &[u8], field: &'static str) -> Result<Id<K>, WireError> {
    bytes.try_into().map_err(|_| WireError::Field(field))
}

/// An id, or none from no bytes.
fn some_id_of<K>(bytes: &[u8], field: &'static str) -> Result<Option<Id<K>>, WireError> {
    if bytes.is_empty() { Ok(None) } else { id_of(bytes, field).map(Some) }
}

/// A SHA-256 from its 32 bytes.
pub fn digest_of(bytes: &[u8], field: &'static str) -> Result<[u8; 32], WireError> {
    bytes.try_into().map_err(|_| WireError::Field(field))
}

fn present<T>(value: Option<T>, field: &'static str) -> Result<T, WireError> {
    value.ok_or(WireError::Field(field))
}

fn parsed<T: std::str::FromStr>(text: &str, field: &'static str) -> Result<T, WireError> {
    text.parse().map_err(|_| WireError::Field(field))
}

/// Durations on the wire are milliseconds; what does not fit saturates.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What does not fit saturates.
fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn bytes_of(bytes: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(bytes)
}
