//! Patterns of names: `*` is any text, `?` any one character.

/// As long as the longest name.
const PATTERN_CHARS_MAX: usize = 253;
/// Steps of a turn, where [`super::regex::Finder::finds`] takes one for each byte and state.
const TURN_STEPS: u64 = 8;

/// A pattern without anything special but `*` and `?`, which is one byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob(Box<str>);

/// The pattern is longer than any name.
#[derive(Debug, thiserror::Error)]
#[error("a pattern has at most {PATTERN_CHARS_MAX} characters")]
pub(super) struct PatternTooLong;

impl Glob {
    pub fn new(pattern: &str) -> Result<Self, PatternTooLong> {
        if pattern.len() > PATTERN_CHARS_MAX { Err(PatternTooLong) } else { Ok(Self(pattern.into())) }
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// It has nothing but wildcards.
    pub fn is_bare(&self) -> bool {
        self.0.bytes().all(|byte| matches!(byte, b'*' | b'?'))
    }

    /// Goes back to the last `*` only: at most pattern times text turns, whatever either holds. Adds to `steps` what
    /// it took.
    pub fn matches(&self, text: &str, steps: &mut u64) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        let mut last_star = None;
        while t < text.len() {
            *steps += TURN_STEPS;
            match pattern.get(p) {
                Some(b'*') => {
                    last_star = Some((p, t));
                    p += 1;
                }
                Some(&character) if character == b'?' || character == text[t] => (p, t) = (p + 1, t + 1),
                _ => match last_star {
                    Some((star, taken)) => {
                        last_star = Some((star, taken + 1));
                        (p, t) = (star + 1, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|&rest| rest == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, as slow as it is plain.
    fn defined(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                defined(rest, text) || text.split_first().is_some_and(|(_, text)| defined(pattern, text))
            }
            (Some((b'?', rest)), Some((_, text))) => defined(rest, text),
            (Some((x, rest)), Some((y, text))) => x == y && defined(rest, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matches_as_defined(pattern in "[ab*?]{0,6}", text in "[ab]{0,8}") {
            let glob = Glob::new(&pattern).expect("short");
            let mut steps = 0;
            prop_assert_eq!(glob.matches(&text, &mut steps), defined(pattern.as_bytes(), text.as_bytes()));
            prop_assert!(steps <= TURN_STEPS * ((pattern.len() + 1) * (text.len() + 1)) as u64);
        }
    }
}
