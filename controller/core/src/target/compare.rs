//! Order of values: versions as `sort -V` has them, sizes, and labels, which say by their look what they are.

use std::cmp::Ordering;

/// What is asked of a value against another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

impl Order {
    pub fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Equal => ordering.is_eq(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Greater => ordering.is_gt(),
        }
    }

    pub fn symbol(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Equal => "=",
            Self::GreaterOrEqual => ">=",
            Self::Greater => ">",
        }
    }
}

/// Whole numbers by value, versions as [`versions`], everything else as text; both must be of the kind.
pub(super) fn labels(a: &str, b: &str) -> Ordering {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_version = |text: &str| text.strip_prefix('v').unwrap_or(text).starts_with(|c: char| c.is_ascii_digit());
    match (a, b) {
        _ if is_number(a) && is_number(b) => digits(a, b),
        _ if is_version(a) && is_version(b) => versions(a, b),
        _ => a.cmp(b),
    }
}

/// Digits by value, the rest by letters before signs: `1.4` < `1.10`, and `~`, or `-` before a word for what is not
/// yet finished, comes before the end: `1.4~rc1` = `1.4-rc1` < `1.4` < `1.4-1`.
pub(super) fn versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.strip_prefix('v').unwrap_or(a), b.strip_prefix('v').unwrap_or(b));
    loop {
        match (rank(a), rank(b)) {
            (END, END) => return Ordering::Equal,
            (DIGIT | END, DIGIT | END) => {
                let order = digits(take_digits(&mut a), take_digits(&mut b));
                if order.is_ne() {
                    return order;
                }
                if rank(a) == END || rank(b) == END {
                    return rank(a).cmp(&rank(b));
                }
            }
            (own, other) if own == other => {
                let step = |text: &str| text.chars().next().map_or(0, char::len_utf8);
                (a, b) = (&a[step(a)..], &b[step(b)..]);
            }
            (own, other) => return own.cmp(&other),
        }
    }
}

const UNFINISHED: u32 = 0;
const END: u32 = 1;
const DIGIT: u32 = 2;
/// Words that follow a `-` in versions that come before the one they name.
const UNFINISHED_WORDS: [&str; 6] = ["alpha", "beta", "dev", "pre", "rc", "snapshot"];

/// The place of a text's first character among what can follow in a version.
fn rank(text: &str) -> u32 {
    match text.chars().next() {
        None => END,
        Some('~') => UNFINISHED,
        Some('-') if UNFINISHED_WORDS.iter().any(|word| text[1..].starts_with(word)) => UNFINISHED,
        Some(c) if c.is_ascii_digit() => DIGIT,
        Some(c) if c.is_ascii_alphabetic() => u32::from(c),
        Some(c) => 0x100 + u32::from(c),
    }
}

fn take_digits<'a>(text: &mut &'a str) -> &'a str {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(length);
    *text = rest;
    digits
}

fn digits(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then(a.cmp(b))
}

/// Bytes, of `512`, `16G` or `1.5TiB`: units are powers of 1,024.
pub(super) fn size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit {
        "" | "B" => 0,
        "K" | "k" | "KB" | "KiB" => 10,
        "M" | "MB" | "MiB" => 20,
        "G" | "GB" | "GiB" => 30,
        "T" | "TB" | "TiB" => 40,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let part = (part.len() <= 6).then_some(part)?;
    let scale = 10_u64.pow(u32::try_from(part.len()).ok()?);
    let whole = whole.parse::<u64>().ok()?.checked_mul(1 << unit)?;
    whole.checked_add(part.parse::<u64>().ok()?.checked_mul(1 << unit)? / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_stand_as_people_count() {
        let sorted = [
            "0.9", "1.4~~", "1.4~rc1", "1.4-rc2", "1.4", "1.4a", "1.4-1", "1.4-10", "1.4.1", "1.4.1a", "1.4.10",
            "1.10", "2",
        ];
        for (place, a) in sorted.iter().enumerate() {
            for (other, b) in sorted.iter().enumerate() {
                assert_eq!(versions(a, b), place.cmp(&other), "{a} {b}");
            }
        }
        for (a, b) in [("1.04", "1.4"), ("v1.4", "1.4"), ("1.4~rc1", "1.4-rc1"), ("", "")] {
            assert!(versions(a, b).is_eq(), "{a} {b}");
        }
    }

    #[test]
    fn labels_are_compared_as_what_both_are() {
        for (less, more) in [("9", "10"), ("1.9", "1.10"), ("v9", "v10"), ("10", "a"), ("a10", "a9"), ("1.10", "x")] {
            assert!(labels(less, more).is_lt() && labels(more, less).is_gt(), "{less} {more}");
        }
    }

    #[test]
    fn sizes_are_in_powers_of_1024() {
        for (text, bytes) in [
            ("512", Some(512)),
            ("16G", Some(16 << 30)),
            ("1.5KiB", Some(1536)),
            ("0.25T", Some(1 << 38)),
            ("", None),
            ("G", None),
            ("1.5.5G", None),
            ("-1G", None),
            ("16X", None),
            ("99999999T", None),
            ("1.0000000G", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    proptest! {
        #[test]
        fn versions_have_a_total_order(
            a in "v?[0-2]{0,2}([.~-][0-2rca]{0,3}){0,2}", b in "v?[0-2]{0,2}([.~-][0-2rca]{0,3}){0,2}",
            c in "v?[0-2]{0,2}([.~-][0-2rca]{0,3}){0,2}"
        ) {
            prop_assert_eq!(versions(&a, &b), versions(&b, &a).reverse());
            if versions(&a, &b).is_le() && versions(&b, &c).is_le() {
                prop_assert!(versions(&a, &c).is_le(), "{} {} {}", a, b, c);
            }
        }
    }
}
