//! Times for people and for programs.

use muster_proto::time::Timestamp;
use std::time::{Duration, SystemTime};

/// RFC 3339 in UTC with milliseconds; the contract of every JSON form.
pub fn rfc3339(time: Timestamp) -> String {
    // A moment that no calendar has (hostile numbers) is shown as the nearest one that it has.
    let nearest = if time.as_millis() < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    let time = jiff::Timestamp::from_millisecond(time.as_millis()).unwrap_or(nearest);
    format!("{time:.3}")
}

/// The same to the second, for columns.
pub fn to_second(time: Timestamp) -> String {
    let text = rfc3339(time);
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

/// How long ago it was, in the largest unit that says enough: `42 s`, `17 min`, `5 h`, `12 d`.
pub fn ago(time: Timestamp) -> String {
    let seconds = time.until(SystemTime::now().into()).as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A span that was measured: `12 ms`, `4.1 s`, `3 min 20 s`, `2 h 05 min`.
pub fn span(span: Duration) -> String {
    let (seconds, tenths) = (span.as_secs(), span.subsec_millis() / 100);
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{seconds}.{tenths} s"),
        60..3_600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// A span that was asked for, as options take it: `90s`, `10m`, `24h`.
pub fn exact(span: Duration) -> String {
    match (span.as_secs(), span.subsec_millis()) {
        (seconds @ 1.., 0) if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        (seconds @ 1.., 0) if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        (seconds, 0) => format!("{seconds}s"),
        _ => format!("{}ms", span.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_milliseconds_and_a_zone() {
        assert_eq!(rfc3339(Timestamp::from_millis(1_795_341_600_123)), "2026-11-22T10:00:00.123Z");
        assert_eq!(rfc3339(Timestamp::from_millis(0)), "1970-01-01T00:00:00.000Z");
        for wild in [i64::MIN, i64::MAX] {
            assert!(rfc3339(Timestamp::from_millis(wild)).ends_with('Z'));
        }
    }

    #[test]
    fn spans_are_short() {
        let texts = [(0, "0 ms"), (999, "999 ms"), (4_190, "4.1 s"), (59_999, "59.9 s"), (200_000, "3 min 20 s")];
        for (millis, text) in texts {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
        assert_eq!(span(Duration::from_secs(7_500)), "2 h 05 min");
    }

    #[test]
    fn what_was_asked_for_is_exact() {
        for (millis, text) in [(0, "0s"), (90_000, "90s"), (600_000, "10m"), (86_400_000, "24h"), (1_500, "1500ms")] {
            assert_eq!(exact(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn the_unit_says_enough() {
        let before = |seconds| ago(Timestamp::from(SystemTime::now() - Duration::from_secs(seconds)));
        assert_eq!([before(300), before(7_300), before(400_000)], ["5 min", "2 h", "4 d"]);
        assert_eq!(ago(Timestamp::from_millis(i64::MAX)), "0 s");
    }
}
