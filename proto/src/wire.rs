//! The messages as they travel, and the only translation between them and the vocabulary.
//!
//! Only the doors know this module: the agent's session, the controller's three services, the CLI's client. What has
//! passed a conversion is valid: ids have their length, names their letters, lines are clean, sizes are bounded.

mod codec;
mod convert;
#[rustfmt::skip]
#[allow(clippy::allow_attributes, clippy::allow_attributes_without_reason)]
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications)]
mod generated;

pub use convert::{WireError, digest_of, id_of, labels_of, labels_to_wire};
pub use generated::*;
pub use prost::Message;

/// The descriptors of all services, for gRPC reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!("wire/descriptor.bin");
