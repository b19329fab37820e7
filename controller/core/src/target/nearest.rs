//! "Did you mean ...?": the known name that takes the fewest edits to make from a misspelt one.

/// The nearest name within half as many edits as it has letters, at least one and at most three. Of equally near ones
/// one of the same length, then one with the same first letter, then the first.
pub(super) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.as_bytes();
    let mut best = None;
    let mut limit = (wanted.len() / 2).clamp(1, 3);
    for name in known {
        let letters = name.as_bytes();
        if let Some(edits) = edits_within(wanted, letters, limit) {
            limit = edits;
            let rank = (edits, letters.len() != wanted.len(), letters.first() != wanted.first());
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, name));
            }
        }
    }
    best.map(|(_, name)| name)
}

/// The optimal string alignment distance if it is at most `limit`: Levenshtein's, but a swap of two neighbours is one
/// edit, being the commonest slip of all. Gives up as soon as it cannot be.
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
    let (mut above, mut above_that) = (row.clone(), row.clone());
    for (i, x) in a.iter().enumerate() {
        // `above` becomes the row that was just made, and the oldest is written over.
        std::mem::swap(&mut above_that, &mut above);
        std::mem::swap(&mut above, &mut row);
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = above[j] + usize::from(x != y);
            row[j + 1] = replaced.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                row[j + 1] = row[j + 1].min(above_that[j - 1] + 1);
            }
        }
        // A swap reaches two rows back and costs one; the row between is at most one more, so nothing is missed.
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
        let known = ["db", "db01", "web01", "web02", "cache-a.example.org"];
        for (wanted, found) in [
            ("web1", Some("web01")),
            ("wbe02", Some("web02")),
            ("web03", Some("web01")),
            ("dba", Some("db")),
            ("wbe01", Some("web01")),
            ("cache-b.example.org", Some("cache-a.example.org")),
            ("mail", None),
            ("x", None),
        ] {
            assert_eq!(nearest(wanted, known.into_iter()), found, "{wanted}");
        }
    }

    #[test]
    fn of_equally_near_names_the_likelier_wins() {
        let mut known = vec!["web01", "xeb1", "wec1"];
        for best in ["wec1", "xeb1", "web01"] {
            assert_eq!(nearest("web1", known.iter().copied()), Some(best));
            known.retain(|name| *name != best);
        }
    }

    #[test]
    fn counts_edits() {
        for (a, b, edits) in [("", "", 0), ("abc", "abc", 0), ("abc", "abd", 1), ("abc", "bc", 1), ("ab", "ba", 1)] {
            assert_eq!(edits_within(a.as_bytes(), b.as_bytes(), 3), Some(edits), "{a} {b}");
        }
        assert_eq!(edits_within(b"abcd", b"badc", 3), Some(2));
        assert_eq!(edits_within(b"ca", b"abc", 3), Some(3), "what was swapped is not edited again");
        assert_eq!(edits_within(b"kitten", b"sitting", 3), Some(3));
        assert_eq!(edits_within(b"kitten", b"sitting", 2), None);
    }
}
