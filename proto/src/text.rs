//! Text that came from another machine, made safe to keep and to show as one line.

use crate::limits::REASON_CHARS_MAX;

/// Makes one short line of anything: control and direction characters are escaped, the length is bounded.
///
/// For reasons, facts and names of files. Output of programs is not passed through here: it is kept as bytes.
pub fn line(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(REASON_CHARS_MAX));
    for (count, character) in text.trim().chars().enumerate() {
        if count == REASON_CHARS_MAX {
            clean.push('…');
            break;
        }
        push(&mut clean, character);
    }
    clean
}

/// The same without a bound on its length: for text that is worth nothing unless it is whole.
pub fn whole_line(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    text.trim().chars().for_each(|character| push(&mut clean, character));
    clean
}

fn push(clean: &mut String, character: char) {
    if is_deceptive(character) {
        clean.extend(character.escape_unicode());
    } else {
        clean.push(character);
    }
}

/// Characters that move a cursor, change a terminal's state, or make text read as it is not written: C0, DEL, C1,
/// bidirectional controls (U+200E/F, U+202A to E, U+2066 to 9), zero-width characters and line separators.
pub const fn is_deceptive(character: char) -> bool {
    matches!(character,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_line_is_short_and_harmless(text in any::<String>()) {
            let clean = line(&text);
            prop_assert!(!clean.chars().any(is_deceptive));
            prop_assert!(clean.chars().count() <= REASON_CHARS_MAX * 10 + 1);
        }
    }

    #[test]
    fn escapes_are_visible() {
        assert_eq!(line("a\x1b[2Jb\nc\u{202e}"), "a\\u{1b}[2Jb\\u{a}c\\u{202e}");
    }
}
