//! The part of TOML that a policy is written in: one table, strings, lists of strings, numbers, comments. Pure.

use super::{Network, Policy, ProbePolicy, RATE_MAX};
use std::fmt;
use std::iter::Peekable;

/// The first thing in a policy that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}

/// Reads a policy.
pub(super) fn read(text: &str) -> Result<Policy, Mistake> {
    let tokens = tokens(text)?;
    let end = text.lines().count().max(1);
    Reader { tokens: tokens.into_iter().peekable(), line: end, end }.policy()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A key or a number.
    Word(String),
    Text(String),
    /// One of `[ ] = ,`.
    Mark(char),
    LineEnd,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "`{}`", muster_proto::text::line(word)),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Mark(mark) => write!(f, "`{mark}`"),
            Self::LineEnd => f.write_str("the end of the line"),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Mistake> {
    let mut tokens = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let wrong = |reason: String| Mistake { line, reason };
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let behind = &rest[first.len_utf8()..];
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            rest = match first {
                ' ' | '\t' => behind,
                '#' => break,
                '[' | ']' | '=' | ',' => {
                    tokens.push((line, Token::Mark(first)));
                    behind
                }
                '"' | '\'' => {
                    let closed = behind.split_once(first);
                    let (content, behind) =
                        closed.ok_or_else(|| wrong(format!("a text begins and no {first} ends it")))?;
                    if content.contains('\\') || content.chars().any(char::is_control) {
                        return Err(wrong(
                            "a text with \\ or control characters is not understood: leave them out".into(),
                        ));
                    }
                    tokens.push((line, Token::Text(content.to_owned())));
                    behind
                }
                first if word(first) => {
                    let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
                    tokens.push((line, Token::Word(rest[..end].to_owned())));
                    &rest[end..]
                }
                other => {
                    return Err(wrong(format!("{other:?} is not understood: see the guide for what a policy has")));
                }
            };
        }
        tokens.push((line, Token::LineEnd));
    }
    Ok(tokens)
}

struct Reader<I: Iterator<Item = (usize, Token)>> {
    tokens: Peekable<I>,
    /// Where the last token stood.
    line: usize,
    /// The last line of all.
    end: usize,
}

impl<I: Iterator<Item = (usize, Token)>> Reader<I> {
    fn policy(mut self) -> Result<Policy, Mistake> {
        let (mut probe, mut allow, mut deny, mut rate) = (false, None, None, None);
        while let Some(token) = self.next() {
            match token {
                Token::LineEnd => continue,
                Token::Mark('[') => {
                    let name = self.next();
                    if name != Some(Token::Word("probe".to_owned())) {
                        return Err(self.wrong("there is one table, [probe]"));
                    }
                    self.expect(&Token::Mark(']'))?;
                    if std::mem::replace(&mut probe, true) {
                        return Err(self.wrong("there is a [probe] above: put both together"));
                    }
                }
                Token::Word(key) if probe => {
                    self.expect(&Token::Mark('='))?;
                    let again = match key.as_str() {
                        "allow" => allow.replace(self.networks()?).is_some(),
                        "deny" => deny.replace(self.networks()?).is_some(),
                        "rate" => rate.replace(self.rate()?).is_some(),
                        _ => return Err(self.wrong(&format!("[probe] has no {key}: use allow, deny or rate"))),
                    };
                    if again {
                        return Err(self.wrong(&format!("there is a {key} above: put both together")));
                    }
                }
                Token::Word(_) => return Err(self.wrong("put [probe] above it")),
                other => return Err(self.wrong(&format!("{other} has no place here: use [probe] or KEY = VALUE"))),
            }
            self.expect(&Token::LineEnd)?;
        }
        let usual = ProbePolicy::default();
        let (allow, deny) = (allow.unwrap_or(usual.allow), deny.unwrap_or_default());
        Ok(Policy { probe: ProbePolicy { allow, deny, rate: rate.unwrap_or(usual.rate) } })
    }

    /// `["10.0.0.0/8", ...]`, on one line or more.
    fn networks(&mut self) -> Result<Vec<Network>, Mistake> {
        const FORM: &str = "use a list of networks, as [\"10.0.0.0/8\", \"192.0.2.7\"]";
        if self.next() != Some(Token::Mark('[')) {
            return Err(self.wrong(FORM));
        }
        let mut networks = Vec::new();
        loop {
            match self.next_in_list() {
                Some(Token::Mark(']')) => return Ok(networks),
                Some(Token::Text(text)) => {
                    let network = text.parse().map_err(|error| self.wrong(&format!("{text:?}: {error}")))?;
                    networks.push(network);
                }
                _ => return Err(self.wrong(FORM)),
            }
            match self.next_in_list() {
                Some(Token::Mark(',')) => {}
                Some(Token::Mark(']')) => return Ok(networks),
                _ => return Err(self.wrong("a list goes on with `,` or ends with `]`")),
            }
        }
    }

    fn rate(&mut self) -> Result<u32, Mistake> {
        let number = match self.next() {
            // What TOML writes in another way is not understood, and a leading zero is none of its numbers.
            Some(Token::Word(word)) if word == "0" || !word.starts_with('0') => word.parse().ok(),
            _ => None,
        };
        let number = number.filter(|rate| *rate <= RATE_MAX);
        number.ok_or_else(|| self.wrong(&format!("rate is a number of packets a second, from 0 (none) to {RATE_MAX}")))
    }

    fn next(&mut self) -> Option<Token> {
        let next = self.tokens.next();
        self.line = next.as_ref().map_or(self.end, |(line, _)| *line);
        next.map(|(_, token)| token)
    }

    fn next_in_list(&mut self) -> Option<Token> {
        while self.tokens.next_if(|(_, token)| *token == Token::LineEnd).is_some() {}
        self.next()
    }

    fn expect(&mut self, expected: &Token) -> Result<(), Mistake> {
        match self.next() {
            Some(token) if token == *expected => Ok(()),
            Some(token) => Err(self.wrong(&format!("{expected} is missing before {token}"))),
            None => Err(self.wrong(&format!("{expected} is missing"))),
        }
    }

    fn wrong(&self, reason: &str) -> Mistake {
        Mistake { line: self.line, reason: reason.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_policy_is_read_as_it_is_written() {
        let text = "# Probes of this host\r\n\n[probe] # the only table\n\
                    allow = [\n  \"10.0.0.0/8\", # office\n  '2001:db8::/32',\n]\n\
                    deny=[\"10.9.0.0/16\"]\n\trate = 50 # a second\n";
        let policy = read(text).expect("good").probe;
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a network")).collect::<Vec<_>>();
        assert_eq!(policy.allow, networks(&["10.0.0.0/8", "2001:db8::/32"]));
        assert_eq!((policy.deny, policy.rate), (networks(&["10.9.0.0/16"]), 50));
        for empty in ["", "\n", "# nothing", "[probe]", "[probe]\ndeny = [ ]"] {
            assert_eq!(read(empty), Ok(Policy::default()), "{empty:?}");
        }
    }

    #[test]
    fn what_is_not_understood_names_its_line_and_a_remedy() {
        for (text, line, part) in [
            ("rate = 5", 1, "[probe]"),
            ("[probes]", 1, "there is one table, [probe]"),
            ("[[probe]]", 1, "there is one table"),
            ("[probe", 1, "`]` is missing before the end of the line"),
            ("[probe] rate = 5", 1, "the end of the line is missing before `rate`"),
            ("[probe]\n\n[probe]", 3, "put both together"),
            ("[probe]\nalow = []", 2, "has no alow: use allow, deny or rate"),
            ("[probe]\nrate = 5\nrate = 6", 3, "put both together"),
            ("[probe]\nrate 5", 2, "`=` is missing before `5`"),
            ("[probe]\nrate =", 2, "rate is a number"),
            ("[probe]\nrate = -1", 2, "rate is a number"),
            ("[probe]\nrate = 1_000", 2, "rate is a number"),
            ("[probe]\nrate = 010", 2, "rate is a number"),
            ("[probe]\nrate = \"5\"", 2, "rate is a number"),
            ("[probe]\nrate = 5000000", 2, "rate is a number"),
            ("[probe]\nrate = 5 6", 2, "the end of the line is missing before `6`"),
            ("[probe]\nallow = \"10.0.0.0/8\"", 2, "use a list"),
            ("[probe]\nallow = [10.0.0.0/8]", 2, "'.' is not understood"),
            ("[probe]\nallow = [\n\"10.0.0.1/8\"\n]", 3, "first address"),
            ("[probe]\nallow = [\"10.0.0.0/8\" \"11.0.0.0/8\"]", 2, "goes on with `,`"),
            ("[probe]\nallow = [\"10.0.0.0/8\",,]", 2, "use a list"),
            ("[probe]\nallow = [\"10.0.0.0/8\",\n# no end\n", 3, "use a list"),
            ("[probe]\nallow = [\"10.0.0.0/8", 2, "no \" ends it"),
            ("[probe]\nallow = [\"10.0.0.0\\u002f8\"]", 2, "\\ or control characters"),
            ("[probe]\nallow = [\"\"]", 2, "or an address"),
            ("[probe]\nprobe.rate = 5", 2, "'.' is not understood"),
            ("\u{feff}[probe]", 1, "is not understood"),
        ] {
            let Err(mistake) = read(text) else { panic!("{text:?} was taken") };
            assert!(mistake.line == line && mistake.reason.contains(part), "{text:?}: {mistake}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(\\[probe\\]\n)?([\\[\\]=,\"'# \n\r0-9a-z./:é]|allow|deny|rate){0,60}") {
            let lines = text.lines().count().max(1);
            if let Err(mistake) = read(&text) {
                prop_assert!((1..=lines).contains(&mistake.line));
                prop_assert!(!mistake.reason.contains('\n'));
            }
        }

        #[test]
        fn what_is_cut_off_never_allows_more(cut in 0_usize..100) {
            // All of it or an error, but for cuts at the end of a line of the table.
            let text = "[probe]\nallow = [\"10.0.0.0/8\",\n \"192.168.0.0/16\"]\ndeny = [\"10.9.0.0/16\"]\nrate = 50\n";
            let cut = cut.min(text.len());
            let ends = |ends: &str| text[..cut].trim_end().ends_with(ends);
            if read(&text[..cut]).is_ok() {
                prop_assert!(cut == 0 || ends("]") || ends("50") || ends("5"), "{:?}", &text[..cut]);
            }
        }
    }
}
