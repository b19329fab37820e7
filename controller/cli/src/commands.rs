//! One verb, one file. A verb takes its own `Args` and the settings, and returns how `muster` exits.

pub mod agents;
pub mod attach;
pub mod audit;
pub mod cancel;
pub mod dev;
pub mod family;
pub mod follow;
pub mod group;
pub mod job;
pub mod jobs;
pub mod launch;
pub mod login;
pub mod logs;
pub mod names;
pub mod operator;
pub mod pace;
pub mod ping;
pub mod rerun;
pub mod run;
pub mod status;
pub mod targets;
pub mod token;
pub mod why;
