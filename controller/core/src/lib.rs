//! What Muster decides: facts and the time go in, what should happen comes out.
//!
//! No IO, no clock, no randomness and no async in here, so that a decision can be tested in microseconds and replayed.
//! The heart is [`job::Job`] with its [`task::Task`]s; who is meant by an expression is [`target`]'s business, over
//! the [`fleet`].

pub mod fleet;
pub mod job;
pub mod sweep;
pub mod target;
pub mod task;
pub mod watch;
