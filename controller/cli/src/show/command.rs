//! What a job does as one line for people: what was typed, as near as it can be shown.

use muster_proto::command::{Command, Program};
use muster_proto::job::Work;
use muster_proto::text;

/// One clean line: words are quoted where a shell would need it, bytes that are no UTF-8 are shown as `\xNN`.
pub fn line(work: &Work) -> String {
    match work {
        Work::Command(command) => of_command(command),
        Work::Ping(spec) => spec.words().join(" "),
    }
}

/// The same of a program.
pub fn of_command(command: &Command) -> String {
    let words = |words: &[Vec<u8>]| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let line = match &command.program {
        Program::Argv(argv) => words(argv),
        Program::Shell(line) => shown(line),
        Program::Script { content, args } => {
            let digest: String = content.digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("script {digest}… {}", words(args))
        }
    };
    text::line(&line)
}

fn quoted(word: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(byte) || !byte.is_ascii();
    let text = shown(word);
    if !word.is_empty() && word.iter().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_as_they_were_typed() {
        let argv = |words: &[&[u8]]| {
            of_command(&Command::new(Program::Argv(words.iter().map(|word| word.to_vec()).collect())))
        };
        assert_eq!(argv(&[b"uname", b"-sr"]), "uname -sr");
        assert_eq!(argv(&[b"echo", b"it's", b"", b"a b"]), r"echo 'it'\''s' '' 'a b'");
        assert_eq!(argv(&[b"cat", b"\xff\xc3\xa9"]), r"cat \xffé");
        assert_eq!(argv(&[b"printf", b"a\x1b[2J"]), r"printf 'a\u{1b}[2J'");
        assert_eq!(of_command(&Command::new(Program::Shell(b"a | b".to_vec()))), "a | b");
    }
}
