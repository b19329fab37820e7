//! "Did you mean ...?": the known name that takes the fewest edits to make from a misspelt one.

use muster_proto::name::HostName;

/// The nearest name within half as many edits as it has letters, at least one and at most three; of equals the first.
pub(super) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a HostName>) -> Option<&'a HostName> {
    let mut best = None;
    let mut limit = (wanted.len() / 2).clamp(1, 3);
    for name in known {
        if let Some(edits) = edits_within(wanted.as_bytes(), name.as_str().as_bytes(), limit) {
            best = Some(name);
            if edits <= 1 {
                break;
            }
            limit = edits - 1;
        }
    }
    best
}

/// Levenshtein's distance if it is at most `limit`; gives up as soon as it cannot be.
fn edits_within(a: &[u8], b: &[u8], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    // Fleets share most of their names' letters: what is equal at either end needs no look.
    let front = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[front..], &b[front..]);
    let back = a.iter().rev().zip(b.iter().rev()).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[..a.len() - back], &b[..b.len() - back]);

    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (place, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(diagonal + 1).min(row[place] + 1);
        }
        if row.iter().all(|&edits| edits > limit) {
            return None;
        }
    }
    row.last().copied().filter(|&edits| edits <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known: Vec<HostName> =
            ["db", "web01", "web02", "cache-a.example.org"].map(|name| name.parse().expect("a name")).into();
        for (wanted, found) in [
            ("web1", Some("web01")),
            ("wbe02", Some("web02")),
            ("web03", Some("web01")),
            ("dba", Some("db")),
            ("cache-b.example.org", Some("cache-a.example.org")),
            ("mail", None),
            ("x", None),
        ] {
            assert_eq!(nearest(wanted, known.iter()).map(HostName::as_str), found, "{wanted}");
        }
    }

    #[test]
    fn counts_edits() {
        for (a, b, edits) in [("", "", 0), ("abc", "abc", 0), ("abc", "abd", 1), ("abc", "bc", 1), ("ab", "ba", 2)] {
            assert_eq!(edits_within(a.as_bytes(), b.as_bytes(), 3), Some(edits), "{a} {b}");
        }
        assert_eq!(edits_within(b"kitten", b"sitting", 3), Some(3));
        assert_eq!(edits_within(b"kitten", b"sitting", 2), None);
    }
}
