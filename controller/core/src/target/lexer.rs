//! The characters of an expression: a place in it, what can be read from there, and faults with their column.

use super::ParseError;

/// Reads an expression from left to right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    /// In bytes, between two characters.
    at: usize,
}

/// Text that stands for itself, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// Without quotation marks.
    pub text: Box<str>,
    /// `"` or `'`, if it was in those.
    pub quote: Option<char>,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Where it stands, for [`Self::fault`].
    pub fn place(&self) -> usize {
        self.at
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Goes past white space; whether there was any.
    pub fn skip_space(&mut self) -> bool {
        !self.take_while(char::is_whitespace).is_empty()
    }

    /// Goes past this text if it is next.
    pub fn eat(&mut self, text: &str) -> bool {
        let is_next = self.rest().starts_with(text);
        self.at += if is_next { text.len() } else { 0 };
        is_next
    }

    /// The characters from here that are of a kind.
    pub fn take_while(&mut self, of_kind: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !of_kind(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// Letters, digits and `.` `_` `-`, those of `more`, and brackets with whatever is in them.
    pub fn word(&mut self, more: &str) -> &'a str {
        let start = self.at;
        loop {
            self.take_while(|c| is_of_name(c) || more.contains(c));
            if self.peek() != Some('[') {
                return &self.text[start..self.at];
            }
            self.take_while(|c| c != ']');
            self.eat("]");
        }
    }

    /// The word of letters from here, which is not read.
    pub fn keyword(&self) -> &'a str {
        let mut ahead = *self;
        ahead.take_while(|c| is_of_name(c) || matches!(c, '*' | '?' | '['))
    }

    /// What is in quotation marks, if it begins here.
    pub fn quoted(&mut self) -> Result<Option<Written>, ParseError> {
        let start = self.at;
        let Some(quote @ ('"' | '\'')) = self.peek() else { return Ok(None) };
        self.at += 1;
        let text = self.take_while(|c| c != quote).into();
        if self.at == self.text.len() {
            return Err(self.fault(start, format!("the quotation has no end: write {quote} behind it")));
        }
        self.at += 1;
        Ok(Some(Written { text, quote: Some(quote) }))
    }

    /// A fault at a place in bytes.
    pub fn fault(&self, place: usize, message: impl Into<String>) -> ParseError {
        ParseError { column: self.text[..place].chars().count() + 1, message: message.into() }
    }

    /// A fault some characters behind a place.
    pub fn fault_behind(&self, place: usize, characters: usize, message: impl Into<String>) -> ParseError {
        let fault = self.fault(place, message);
        ParseError { column: fault.column + characters, ..fault }
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}
