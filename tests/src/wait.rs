//! Waiting for a condition, with a limit and with a word on what was waited for.

use std::time::{Duration, Instant};

/// Waits until the condition holds; fails with `what` when it does not within the limit.
///
/// # Panics
/// When the limit passes.
pub fn until(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "after {limit:?} it is still not so that {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
