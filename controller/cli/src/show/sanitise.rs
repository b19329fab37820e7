//! Output of programs made harmless for a terminal.
//!
//! A program on a host must not move our cursor, change the terminal's state, or make text read as it is not written:
//! all control bytes but newline and tab, lone carriage returns, direction and zero-width characters are shown as
//! escapes, and bytes that are no UTF-8 as `\xNN`. State is kept from chunk to chunk, so that nothing slips through
//! cut in two: what comes out does not depend on where the chunks were cut.

use muster_proto::text::is_deceptive;
use std::fmt::Write as _;

/// One stream of one program.
#[derive(Debug, Default)]
pub struct Sanitiser {
    /// The beginning of a character whose rest has not come yet (at most 3 bytes), or nothing.
    partial: Vec<u8>,
    /// The last character was a carriage return: its meaning depends on the next.
    carriage_return: bool,
}

impl Sanitiser {
    /// Appends what can be shown of `data`; up to 4 bytes wait for what follows.
    pub fn push(&mut self, data: &[u8], clean: &mut String) {
        let joined;
        let mut rest = data;
        if !self.partial.is_empty() {
            joined = [&std::mem::take(&mut self.partial)[..], data].concat();
            rest = &joined;
        }
        loop {
            let (valid, error) = match std::str::from_utf8(rest) {
                Ok(_) => (rest.len(), None),
                Err(error) => (error.valid_up_to(), Some(error)),
            };
            let (text, invalid) = rest.split_at(valid);
            self.push_text(std::str::from_utf8(text).unwrap_or_default(), clean);
            match error.map(|error| error.error_len()) {
                None => return,
                Some(None) => {
                    self.partial = invalid.to_vec();
                    return;
                }
                Some(Some(length)) => {
                    self.push_bytes(&invalid[..length], clean);
                    rest = &invalid[length..];
                }
            }
        }
    }

    /// The stream is at its end, or has a hole here: what waited is shown as it is.
    pub fn finish(&mut self, clean: &mut String) {
        let partial = std::mem::take(&mut self.partial);
        self.push_bytes(&partial, clean);
        self.settle(clean);
    }

    fn push_text(&mut self, text: &str, clean: &mut String) {
        for character in text.chars() {
            if character == '\n' {
                // "\r\n" is a newline.
                self.carriage_return = false;
                clean.push('\n');
                continue;
            }
            self.settle(clean);
            match character {
                '\t' => clean.push(character),
                '\r' => self.carriage_return = true,
                '\0'..='\x1f' | '\x7f' => push_byte(character as u8, clean),
                _ if is_deceptive(character) => clean.extend(character.escape_unicode()),
                _ => clean.push(character),
            }
        }
    }

    fn push_bytes(&mut self, bytes: &[u8], clean: &mut String) {
        if !bytes.is_empty() {
            self.settle(clean);
        }
        bytes.iter().for_each(|byte| push_byte(*byte, clean));
    }

    fn settle(&mut self, clean: &mut String) {
        if std::mem::take(&mut self.carriage_return) {
            clean.push_str("\\r");
        }
    }
}

fn push_byte(byte: u8, clean: &mut String) {
    // Writing to a String cannot fail.
    let _ = write!(clean, "\\x{byte:02x}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn clean(chunks: &[&[u8]]) -> String {
        let (mut sanitiser, mut text) = (Sanitiser::default(), String::new());
        chunks.iter().for_each(|chunk| sanitiser.push(chunk, &mut text));
        sanitiser.finish(&mut text);
        text
    }

    #[test]
    fn what_deceives_is_shown_and_what_does_not_is_kept() {
        for (raw, shown) in [
            (&b"plain\ttext\n"[..], "plain\ttext\n"),
            ("grüße, 你好 🦀\n".as_bytes(), "grüße, 你好 🦀\n"),
            (b"\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
            (b"50%\r100%\r\n", "50%\\r100%\n"),
            (b"a\r\r\nb\r", "a\\r\nb\\r"),
            (b"\x00\x7f\x08", "\\x00\\x7f\\x08"),
            (b"\x9b31m", "\\x9b31m"),
            ("\u{9b}31m\u{202e}\u{200b}".as_bytes(), "\\u{9b}31m\\u{202e}\\u{200b}"),
            (b"\xff\xe2\x82", "\\xff\\xe2\\x82"),
        ] {
            assert_eq!(clean(&[raw]), shown);
        }
    }

    #[test]
    fn a_character_cut_in_two_is_whole_again() {
        assert_eq!(clean(&[b"\xe2", b"\x82", b"\xac"]), "€");
        assert_eq!(clean(&[b"\xc2", b"\x9b"]), "\\u{9b}");
        assert_eq!(clean(&[b"\xe2\x82", b"x"]), "\\xe2\\x82x");
        assert_eq!(clean(&[b"a\r", b"\n", b"b\r", b"c"]), "a\nb\\rc");
    }

    /// Bytes that are likely to be trouble, and any others.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let troubling = prop::sample::select(b"\r\n\x1b\x9b\xe2\x80\xae\xc2\xf0\x9f\xa6\x80 a".to_vec());
        prop::collection::vec(prop_oneof![troubling, any::<u8>()], 0..60)
    }

    proptest! {
        #[test]
        fn nothing_deceptive_comes_out(raw in bytes()) {
            let shown = clean(&[&raw]);
            prop_assert!(!shown.chars().any(|c| is_deceptive(c) && c != '\n' && c != '\t'), "{shown:?}");
        }

        #[test]
        fn the_cuts_do_not_matter(raw in bytes(), size in 1_usize..7) {
            let chunks: Vec<&[u8]> = raw.chunks(size).collect();
            prop_assert_eq!(clean(&chunks), clean(&[&raw]));
        }

        #[test]
        fn plain_text_is_not_touched(text in "[ -~\n\tà-ÿ一-十]{0,80}") {
            prop_assert_eq!(clean(&[text.as_bytes()]), text);
        }
    }
}
