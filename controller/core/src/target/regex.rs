//! Regular expressions over names, labels and facts, bounded in size so that no expression of one can hold anybody up.

use super::lexer::Written;
use regex::bytes::{Regex, RegexBuilder};

/// Bytes of a regular expression.
const PATTERN_BYTES_MAX: usize = 1024;
/// Bytes that it may have once compiled: a repetition such as `(a{99}){99}` is short to write only.
const COMPILED_BYTES_MAX: usize = 16 << 10;
/// The smallest size that is told from others.
const COMPILED_BYTES_MIN: usize = 512;
/// Bytes of states that are kept while it runs.
const STATES_BYTES_MAX: usize = 128 << 10;
/// Brackets within brackets.
const NESTING_MAX: u32 = 32;

/// A regular expression that is found anywhere in a text. Bytes, not Unicode: `\w` and the like are ASCII.
#[derive(Debug, Clone)]
pub(super) struct Finder {
    pub written: Written,
    regex: Regex,
    /// Bytes that it has once compiled, at most.
    bytes: usize,
}

impl Finder {
    /// One that is well-formed and small enough; otherwise what is wrong with it.
    pub fn new(written: Written) -> Result<Self, String> {
        if written.text.len() > PATTERN_BYTES_MAX {
            return Err(format!("a regular expression has at most {PATTERN_BYTES_MAX} bytes"));
        }
        // A compiled expression does not tell its size: it is the first limit that lets it pass.
        let mut bytes = COMPILED_BYTES_MIN;
        let built = loop {
            match build(&written.text, bytes) {
                Err(regex::Error::CompiledTooBig(_)) if bytes < COMPILED_BYTES_MAX => bytes *= 2,
                built => break built,
            }
        };
        let regex = built.map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => {
                "the regular expression is too big once it is written out: repeat less in it".to_owned()
            }
            // Of its several lines the last says what is wrong; the others draw where.
            error => {
                let text = error.to_string();
                let last = text.lines().next_back().unwrap_or_default();
                format!("the regular expression is malformed: {}", last.trim_start_matches("error: "))
            }
        })?;
        Ok(Self { written, regex, bytes })
    }

    /// Adds to `steps` what looking at a text takes at worst: each byte may meet every state.
    pub fn finds(&self, text: &str, steps: &mut u64) -> bool {
        *steps += (text.len() as u64 + 1) * self.bytes as u64;
        self.regex.is_match(text.as_bytes())
    }
}

fn build(pattern: &str, bytes: usize) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(bytes)
        .dfa_size_limit(STATES_BYTES_MAX)
        .nest_limit(NESTING_MAX)
        .build()
}

impl PartialEq for Finder {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}
