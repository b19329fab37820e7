//! The Muster agent: runs what an operator signed and tells what happened.
//!
//! [`agent::Agent`] owns all state; [`session`] is its line to the controller, [`admit`] the one door for offers,
//! [`journal`] its memory, [`spool`] what it shares with each task's [`supervisor`]. It knows the contract
//! (`muster_proto`) and nothing of the controller.

pub mod admit;
pub mod agent;
pub mod clock;
pub mod enrol;
pub mod facts;
pub mod identity;
pub mod journal;
pub mod policy;
pub mod process;
pub mod session;
pub mod settings;
pub mod spool;
pub mod supervisor;
pub mod telemetry;
