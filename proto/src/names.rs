//! Many names in few characters: host ranges such as `web[01-20,30]`, for everyone who prints or reads names.
//!
//! [`expand`] turns a range into names, [`fold`] is its inverse, [`natural_cmp`] the order in which people read names.
//! Padding is part of a name: `n1` and `n01` are two hosts, and `[01-20]` has two digits throughout. `[01-20/2]` takes
//! every second number from the first.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;

/// Digits of a number that is counted; longer runs (serial numbers, addresses) are text like any other.
const DIGITS_MAX: usize = 18;
/// Numbers of a name that are folded, from the last: enough for `ip-10-0-3-7`, and a bound on the work.
const DIMENSIONS_MAX: usize = 4;
/// The longest [`crate::name::HostName`].
const HOST_NAME_CHARS_MAX: usize = 253;

/// A range that names nothing, with the place of the fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct ExpandError {
    /// Where in the pattern, in characters from 1.
    pub column: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// All names of one pattern, such as `web[01-20,30]`, `n[1-9/2]` or `rack[1-4]node[01-16]`, in the order written; the
/// last range varies fastest.
///
/// A name without range is its own expansion. Characters that no host name has are an error, and so are more than
/// `max` names; nothing is allocated for them.
pub fn expand(pattern: &str, max: usize) -> Result<Vec<String>, ExpandError> {
    Reader { text: pattern, at: 0, wildcards: "" }.names(max)
}

/// As [`expand`], but `*` and `?` are taken too, so that what comes out are patterns of names.
pub fn expand_globs(pattern: &str, max: usize) -> Result<Vec<String>, ExpandError> {
    Reader { text: pattern, at: 0, wildcards: "*?" }.names(max)
}

/// The shortest usual text for a set of host names: `db1,n[007,009,011],web[01-20]`, in natural order, each name once.
///
/// Expanding each of its patterns gives the names again and no others.
pub fn fold<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut entries: Vec<Entry<'a>> =
        names.into_iter().map(|name| Entry { first: name, text: name.into(), open: name.len() }).collect();
    for _ in 0..DIMENSIONS_MAX {
        if entries.len() > 1 {
            entries = fold_last_number(&entries);
        }
    }
    entries.sort_unstable_by(|a, b| natural_cmp(a.first, b.first));
    entries.dedup_by(|a, b| a.text == b.text);
    entries.iter().map(|entry| entry.text.as_ref()).collect::<Vec<_>>().join(",")
}

/// The order in which people read names: numbers by value, then by padding; everything else by its bytes.
///
/// A total order; equal only if the texts are.
pub fn natural_cmp(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    let mut padding = Ordering::Equal;
    loop {
        let (Some(&x), Some(&y)) = (left.first(), right.first()) else {
            return left.len().cmp(&right.len()).then(padding);
        };
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (number, number_padded) = take_number(&mut left);
            let (other, other_padded) = take_number(&mut right);
            padding = padding.then(number_padded.cmp(&other_padded));
            number.len().cmp(&other.len()).then(number.cmp(other))
        } else {
            (left, right) = (&left[1..], &right[1..]);
            x.cmp(&y)
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Takes the digits at the front: those that count, and how many there were with leading zeros.
fn take_number<'a>(text: &mut &'a [u8]) -> (&'a [u8], usize) {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(length);
    *text = rest;
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    (&digits[zeros..], length)
}

/// A part of a pattern.
enum Piece<'a> {
    Text(&'a str),
    Numbers(Vec<Range>),
}

impl Piece<'_> {
    fn count(&self) -> u64 {
        match self {
            Self::Text(_) => 1,
            Self::Numbers(ranges) => ranges.iter().map(Range::count).fold(0, u64::saturating_add),
        }
    }

    fn length_max(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Numbers(ranges) => ranges.iter().map(|range| range.length_max).max().unwrap_or(0),
        }
    }
}

/// Numbers from `first` to `last`, both included, those that are a multiple of `step` after the first.
struct Range {
    first: u64,
    last: u64,
    step: u64,
    /// Fewer digits are filled up with zeros.
    width: usize,
    /// Digits of the last.
    length_max: usize,
}

impl Range {
    fn count(&self) -> u64 {
        (self.last - self.first) / self.step + 1
    }

    fn numbers(&self) -> impl Iterator<Item = String> {
        let &Self { first, step, width, .. } = self;
        (0..self.count()).map(move |turn| format!("{:0width$}", first + turn * step))
    }
}

/// Reads a pattern from left to right.
struct Reader<'a> {
    text: &'a str,
    /// In bytes.
    at: usize,
    /// Characters that are taken beside those of names.
    wildcards: &'static str,
}

impl<'a> Reader<'a> {
    fn names(self, max: usize) -> Result<Vec<String>, ExpandError> {
        let pattern = self.text;
        let pieces = self.pieces()?;
        let fail = |message| Err(ExpandError { column: 1, message });
        let count = pieces.iter().map(Piece::count).fold(1_u64, u64::saturating_mul);
        if count > max as u64 {
            return fail(format!(
                "{pattern:.80} stands for {count} names, at most {max} are taken: write less at a time"
            ));
        }
        let length: usize = pieces.iter().map(Piece::length_max).sum();
        if length > HOST_NAME_CHARS_MAX {
            return fail(format!("its names have {length} characters, a host name at most {HOST_NAME_CHARS_MAX}"));
        }
        let mut names = vec![String::new()];
        for piece in &pieces {
            match piece {
                Piece::Text(text) => names.iter_mut().for_each(|name| name.push_str(text)),
                Piece::Numbers(ranges) => {
                    let numbers: Vec<String> = ranges.iter().flat_map(Range::numbers).collect();
                    let all = |name| numbers.iter().map(move |number| [name, number.as_str()].concat());
                    names = names.iter().flat_map(|name| all(name.as_str())).collect();
                }
            }
        }
        Ok(names)
    }

    fn pieces(mut self) -> Result<Vec<Piece<'a>>, ExpandError> {
        if self.text.is_empty() {
            return Err(self.fault("a name is missing"));
        }
        let mut pieces = Vec::new();
        while let Some(next) = self.peek() {
            if next == '[' {
                pieces.push(Piece::Numbers(self.ranges()?));
            } else {
                pieces.push(Piece::Text(self.plain()?));
            }
        }
        Ok(pieces)
    }

    fn plain(&mut self) -> Result<&'a str, ExpandError> {
        let start = self.at;
        while let Some(next) = self.peek().filter(|&next| next != '[') {
            match next {
                'a'..='z' | '0'..='9' | '.' | '_' | '-' => self.at += 1,
                wildcard if self.wildcards.contains(wildcard) => self.at += 1,
                'A'..='Z' => {
                    return Err(self
                        .fault(format!("host names are lower case: write {} for {next}", next.to_ascii_lowercase())));
                }
                ']' => return Err(self.fault("']' without a '[' before it")),
                _ => return Err(self.fault(format!("{next:?} stands in no host name"))),
            }
        }
        Ok(&self.text[start..self.at])
    }

    fn ranges(&mut self) -> Result<Vec<Range>, ExpandError> {
        let mut ranges = Vec::new();
        // The opening bracket at first, then the commas.
        loop {
            self.at += 1;
            ranges.push(self.range()?);
            match self.peek() {
                Some(',') => {}
                Some(']') => {
                    self.at += 1;
                    return Ok(ranges);
                }
                None => return Err(self.fault("the range has no end: write ']'")),
                Some(other) => {
                    return Err(self.fault(format!("{other:?} in a range: it takes numbers, as in [01-20,30]")));
                }
            }
        }
    }

    fn range(&mut self) -> Result<Range, ExpandError> {
        let (first_text, first) = self.number()?;
        let width = if first_text.starts_with('0') { first_text.len() } else { 0 };
        if self.peek() != Some('-') {
            return Ok(Range { first, last: first, step: 1, width, length_max: first_text.len() });
        }
        self.at += 1;
        let start = self.at;
        let (last_text, last) = self.number()?;
        let message = if last < first {
            format!("{last_text} is less than {first_text}: write the smaller number first")
        } else if format!("{last:0width$}") != last_text {
            format!("{last_text} is not padded as {first_text} is: write both with as many digits")
        } else {
            return Ok(Range { first, last, step: self.step()?, width, length_max: last_text.len() });
        };
        self.at = start;
        Err(self.fault(message))
    }

    /// What follows a `/`; 1 if there is none.
    fn step(&mut self) -> Result<u64, ExpandError> {
        if self.peek() != Some('/') {
            return Ok(1);
        }
        self.at += 1;
        let start = self.at;
        match self.number()? {
            (_, 0) => {
                self.at = start;
                Err(self.fault("the step is 0: write 1 for every number, 2 for every second"))
            }
            (_, step) => Ok(step),
        }
    }

    fn number(&mut self) -> Result<(&'a str, u64), ExpandError> {
        let rest = &self.text[self.at..];
        let digits = &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()];
        let number = digits.parse().ok().filter(|_| digits.len() <= DIGITS_MAX);
        match number {
            Some(number) => {
                self.at += digits.len();
                Ok((digits, number))
            }
            None if digits.is_empty() => Err(self.fault("a number is missing, as in [01-20,30]")),
            None => Err(self.fault(format!("a number in a range has at most {DIGITS_MAX} digits"))),
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn fault(&self, message: impl Into<String>) -> ExpandError {
        ExpandError { column: self.text[..self.at].chars().count() + 1, message: message.into() }
    }
}

/// Names on their way to one pattern.
struct Entry<'a> {
    /// The first of them, for the order.
    first: &'a str,
    text: Cow<'a, str>,
    /// Up to here `text` is as it was; numbers from here on are done.
    open: usize,
}

impl<'a> Entry<'a> {
    /// The open part split at its last number: before it, the number, and all that follows.
    fn split(&self) -> Option<(&str, &str, &str)> {
        let bytes = self.text.as_bytes();
        let mut end = self.open;
        loop {
            end = bytes[..end].iter().rposition(u8::is_ascii_digit)? + 1;
            let start = bytes[..end].iter().rposition(|byte| !byte.is_ascii_digit()).map_or(0, |place| place + 1);
            if end - start <= DIGITS_MAX {
                return Some((&self.text[..start], &self.text[start..end], &self.text[end..]));
            }
            end = start;
        }
    }
}

/// Joins the entries that differ in nothing but their last open number, and closes that number.
fn fold_last_number<'a>(entries: &[Entry<'a>]) -> Vec<Entry<'a>> {
    let mut folded = Vec::new();
    let mut groups: HashMap<(&str, &str), Vec<(&str, &Entry<'a>)>> = HashMap::new();
    for entry in entries {
        match entry.split() {
            Some((before, number, after)) => groups.entry((before, after)).or_default().push((number, entry)),
            None => folded.push(Entry { first: entry.first, text: entry.text.clone(), open: 0 }),
        }
    }
    for ((before, after), mut members) in groups {
        members.sort_unstable_by_key(|&(number, _)| (number.len(), number));
        members.dedup_by_key(|&mut (number, _)| number);
        let text = match members.as_slice() {
            [(_, only)] => only.text.clone(),
            several => format!("{before}[{}]{after}", ranges_of(several.iter().map(|&(number, _)| number))).into(),
        };
        let first = members.first().map_or("", |&(_, entry)| entry.first);
        folded.push(Entry { first, text, open: before.len() });
    }
    folded
}

/// `01-20,30` for numbers that are sorted by length, then by text.
fn ranges_of<'a>(numbers: impl Iterator<Item = &'a str>) -> String {
    let mut ranges: Vec<(&str, &str)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if follows(last, number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let text_of =
        |&(first, last): &(&str, &str)| if first == last { first.to_owned() } else { format!("{first}-{last}") };
    ranges.iter().map(text_of).collect::<Vec<_>>().join(",")
}

/// A range that has reached `last` writes `next` just so: `09` before `10`, `99` before `100`, but not `9` before `010`.
fn follows(last: &str, next: &str) -> bool {
    let value = |digits: &str| digits.parse::<u64>().ok();
    value(last).map(|value| value + 1) == value(next)
        && (next.len() == last.len() || (next.len() == last.len() + 1 && !next.starts_with('0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Splits at the commas between patterns, those in brackets left alone.
    fn patterns(folded: &str) -> Vec<&str> {
        let mut inside = false;
        folded
            .split(|c| {
                inside = (inside || c == '[') && c != ']';
                c == ',' && !inside
            })
            .collect()
    }

    fn expand_all(folded: &str) -> Vec<String> {
        patterns(folded).into_iter().flat_map(|pattern| expand(pattern, 1_000_000).expect(pattern)).collect()
    }

    #[test]
    fn ranges_expand_as_they_read() {
        for (pattern, names) in [
            ("db", "db"),
            ("web[01-03,30]", "web01 web02 web03 web30"),
            ("n[8-11]", "n8 n9 n10 n11"),
            ("n[098-101].x", "n098.x n099.x n100.x n101.x"),
            ("n[09-100]", &(9..=100).map(|n| format!("n{n:02}")).collect::<Vec<_>>().join(" ")),
            ("r[1-2]n[01-02]", "r1n01 r1n02 r2n01 r2n02"),
            ("[0-1]", "0 1"),
            ("n[01-10/3]", "n01 n04 n07 n10"),
            ("n[1-2/9,4-8/2]", "n1 n4 n6 n8"),
        ] {
            assert_eq!(expand(pattern, 1_000).expect(pattern).join(" "), names, "{pattern}");
        }
    }

    #[test]
    fn faults_name_their_column() {
        for (pattern, column, word) in [
            ("", 1, "missing"),
            ("web[", 5, "missing"),
            ("web[01", 7, "no end"),
            ("web[]", 5, "missing"),
            ("web[1,]", 7, "missing"),
            ("web[1-]", 7, "missing"),
            ("web[3-1]", 7, "smaller"),
            ("web[1-010]", 7, "padded"),
            ("web[08-010]", 8, "padded"),
            ("web[0-9a]", 8, "'a'"),
            ("web[0-9/0]", 9, "step is 0"),
            ("web[0-9/]", 9, "missing"),
            ("web[7/2]", 6, "'/'"),
            ("web*", 4, "'*'"),
            ("web]", 4, "without"),
            ("we b", 3, "' '"),
            ("wéb", 2, "'é'"),
            ("Web", 1, "lower case: w"),
            ("n[1-9999999999999999999]", 5, "18 digits"),
            ("n[1-1001]", 1, "1001 names"),
            ("n[1-40]x[1-40]", 1, "1600 names"),
            ("[0-999999999999999999][0-999999999999999999][0-999999999999999999]", 1, "at most 1000"),
        ] {
            let error = expand(pattern, 1_000).expect_err(pattern);
            assert!(error.column == column && error.message.contains(word), "{pattern}: {error}");
        }
        assert!(expand(&format!("{}[1-9]", "a".repeat(253)), 1_000).is_err());
    }

    #[test]
    fn folds_as_people_write() {
        for (names, folded) in [
            ("", ""),
            ("db", "db"),
            ("n003", "n003"),
            ("n007 n011 n009 n009", "n[007,009,011]"),
            ("n004 n005", "n[004-005]"),
            ("web02 db1 web01 web03", "db1,web[01-03]"),
            ("n1 n01 n2 n02", "n[1-2,01-02]"),
            ("n8 n9 n10 n11", "n[8-11]"),
            ("n98 n99 n100", "n[98-100]"),
            ("n9 n010", "n[9,010]"),
            ("web01.dc1 web02.dc1", "web[01-02].dc1"),
            ("r1n1 r1n2 r2n1 r2n2 r3n1", "r[1-2]n[1-2],r3n1"),
            ("n5 n n7a", "n,n5,n7a"),
            ("a a", "a"),
            ("n99999999999999999998 n99999999999999999999", "n99999999999999999998,n99999999999999999999"),
        ] {
            assert_eq!(fold(names.split_whitespace()), folded, "{names}");
        }
    }

    #[test]
    fn people_read_numbers_by_value() {
        let sorted = ["db1", "n", "n1", "n01", "n1a", "n2", "n10", "n010a", "n10b", "web1.x", "web1.y"];
        let mut names = sorted;
        names.reverse();
        names.sort_by(|a, b| natural_cmp(a, b));
        assert_eq!(names, sorted);
    }

    #[test]
    fn a_hundred_thousand_names_fold_into_one_pattern_and_back() {
        let names: Vec<String> = (0..100_000).map(|n| format!("rack{}node{:03}", n / 200, n % 200)).collect();
        let folded = fold(names.iter().map(String::as_str));
        assert_eq!(folded, "rack[0-499]node[000-199]");
        assert_eq!(expand_all(&folded), names);
    }

    proptest! {
        #[test]
        fn folding_inverts_expanding(names in prop::collection::btree_set("[ab]?[.-]?0{0,2}[0-9]{1,2}([an]?[0-3]{1,2}){0,2}[a-c]{0,1}", 0..60)) {
            let folded = fold(names.iter().map(String::as_str));
            let back = if folded.is_empty() { Vec::new() } else { expand_all(&folded) };
            prop_assert_eq!(back.len(), names.len(), "{}", folded);
            prop_assert_eq!(back.into_iter().collect::<BTreeSet<_>>(), names);
        }

        #[test]
        fn names_of_one_width_come_back_sorted(numbers in prop::collection::btree_set(0..2_000_u32, 1..200)) {
            for width in [0, 4, 6] {
                let names: Vec<String> = numbers.iter().map(|n| format!("n{n:0width$}")).collect();
                prop_assert_eq!(expand_all(&fold(names.iter().rev().map(String::as_str))), names);
            }
        }

        #[test]
        fn any_text_expands_or_is_refused(text in "[a-c0-9,/\\[\\]é-]{0,20}") {
            match expand(&text, 10_000) {
                Ok(names) => prop_assert!(!names.is_empty() && names.len() <= 10_000),
                Err(error) => prop_assert!(error.column >= 1 && error.column <= text.chars().count() + 1),
            }
        }

        #[test]
        fn the_natural_order_is_total(a in "[ab0-2.]{0,6}", b in "[ab0-2.]{0,6}", c in "[ab0-2.]{0,6}") {
            prop_assert_eq!(natural_cmp(&a, &b), natural_cmp(&b, &a).reverse());
            prop_assert_eq!(natural_cmp(&a, &b).is_eq(), a == b);
            if natural_cmp(&a, &b).is_le() && natural_cmp(&b, &c).is_le() {
                prop_assert!(natural_cmp(&a, &c).is_le());
            }
        }
    }
}
