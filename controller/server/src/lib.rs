//! The Muster controller: it hands signed tasks to agents and keeps what they answer.
//!
//! [`Server`] is the whole process but for its flags: it opens the state directory, binds three listeners that each
//! serve one role, and runs until it is told to end. A connection passes [`listen`] (TLS, limits, who it is) before
//! anything else sees it; what is behind the doors is put together in one place, [`server`].

pub mod agents;
pub mod check;
pub mod clock;
pub mod danger;
pub mod engine;
pub mod enrol;
mod files;
pub mod groups;
pub mod init;
pub mod issuers;
pub mod limiter;
pub mod listen;
pub mod operator_code;
pub mod operators;
mod ping;
mod reply;
mod retention;
pub mod roster;
mod schedules;
pub mod server;
pub mod sessions;
pub mod settings;
pub mod stats;
pub mod telemetry;

pub use server::Server;
