//! What two Muster processes must agree on.
//!
//! The vocabulary (ids, names, commands, jobs, outcomes, events) stands alone and is all that the pure core needs.
//! Behind features come [`wire`] (generated messages and the only translation into the vocabulary), [`seal`] (signed
//! jobs) and [`tls`] (identities and rustls configurations).
//!
//! This crate deliberately knows no clock, no file, no socket and no runtime. Start reading at [`job::JobSpec`], then
//! [`link`] for what agent and controller say to each other, then [`event::Event`] for what everybody is told.

pub mod audit;
pub mod command;
#[cfg(feature = "context")]
pub mod context;
pub mod event;
pub mod fleet;
pub mod id;
pub mod job;
pub mod limits;
pub mod link;
pub mod merkle;
pub mod name;
pub mod names;
pub mod network;
pub mod outcome;
pub mod ping;
pub mod rollout;
#[cfg(feature = "seal")]
pub mod seal;
pub mod selection;
pub mod status;
pub mod text;
pub mod time;
#[cfg(feature = "tls")]
pub mod tls;
pub mod token;
pub mod why;
#[cfg(feature = "wire")]
pub mod wire;
