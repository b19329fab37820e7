//! Wall-clock moments as they are signed, stored and shown.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unix time in milliseconds. Arithmetic saturates, so that hostile numbers cannot overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Unix time in milliseconds.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Unix time in milliseconds.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// From this moment to a later one; zero if it is not later.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(millis(after)),
            Err(before) => Self(-millis(before.duration())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_span_is_negative_and_none_overflows(a in any::<i64>(), b in any::<i64>(), span in any::<u64>()) {
            let (a, b) = (Timestamp::from_millis(a), Timestamp::from_millis(b));
            prop_assert!(a.until(b).is_zero() == (b <= a));
            prop_assert!(a <= b || b.until(a) > Duration::ZERO);
            prop_assert!(a + Duration::from_millis(span) >= a);
            if a < b && b.as_millis().checked_sub(a.as_millis()).is_some() {
                prop_assert_eq!(a + a.until(b), b);
            }
        }
    }
}
