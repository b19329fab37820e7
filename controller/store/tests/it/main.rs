//! The store as its users see it, in one binary: a story, faults, sessions, and events of every kind.

mod check;
mod common;
mod events;
mod faults;
mod groups;
mod retention;
mod schedules;
mod sessions;
mod story;
