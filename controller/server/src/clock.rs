//! The one place that reads the clock.

use muster_proto::time::Timestamp;
use std::time::SystemTime;

/// The wall clock.
pub fn now() -> Timestamp {
    SystemTime::now().into()
}
