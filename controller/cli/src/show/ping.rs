//! Pings as people and programs read them: one format, one file; [`View`] is the one that was asked for.

mod blocks;
pub mod changes;
pub mod csv;
pub mod hosts;
pub mod json;
pub mod matrix;
pub mod prometheus;
pub mod table;
pub mod text;
mod unseen;
mod view;

pub use view::{Probes, Style, View};

use crate::show::summary;
use muster_proto::outcome::Outcome;
use std::borrow::Cow;
use std::time::Duration;

/// Why there is no answer, in words that need no state before them.
pub fn why(outcome: &Outcome) -> Cow<'_, str> {
    outcome.reason.as_deref().map_or_else(|| summary::end(outcome).into(), Cow::Borrowed)
}

/// Milliseconds in few digits, as fping has them: `0.123`, `1.23`, `12.3`, `123`.
pub fn millis(span: Duration) -> String {
    let millis = span.as_secs_f64() * 1_000.0;
    // The limits are where fewer digits would round up to the next form.
    if millis < 0.9995 {
        format!("{millis:.3}")
    } else if millis < 9.995 {
        format!("{millis:.2}")
    } else if millis < 99.95 {
        format!("{millis:.1}")
    } else {
        format!("{millis:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_have_three_digits() {
        for (micros, text) in [
            (0, "0.000"),
            (12, "0.012"),
            (999, "0.999"),
            (1_234, "1.23"),
            (9_996, "10.0"),
            (12_345, "12.3"),
            (99_960, "100"),
            (1_234_567, "1235"),
        ] {
            assert_eq!(millis(Duration::from_micros(micros)), text);
        }
        assert_eq!(millis(Duration::from_nanos(999_600)), "1.00");
    }
}
