//! The store as its users see it, in one binary: a story, faults, and events of every kind.

mod common;
mod events;
mod faults;
mod story;
